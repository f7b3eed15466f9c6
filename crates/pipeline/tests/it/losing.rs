//! What cannot be kept: only that is lost, and it is told.

use pipeline::{ENTRY_BYTES_MAX, Loss, NotAccepted, NotDurable, QUEUE_BYTES_MAX};
use prometheus_client::registry::Registry;

use crate::fake::{Line, entry, heavy, id, ids, ms, noon, pass};

const MIB: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_one_gap_tells_of_it_when_there_is_room() {
    let line = Line::start();
    line.store.kept().away = true;
    line.recorder.record(heavy(0, MIB)).unwrap();
    pass(ms(60_000)).await;
    let answers: Vec<_> = (1..40).map(|n| line.recorder.record(heavy(n, MIB))).collect();
    let accepted = 1 + answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, QUEUE_BYTES_MAX / MIB - 1, "what surrounds the details counts, and what is being written");
    assert!(answers[accepted - 1..].iter().all(|answer| *answer == Err(NotAccepted::QueueFull)));
    pass(ms(60_000)).await;
    assert_eq!(line.recorder.record(heavy(40, MIB)), Err(NotAccepted::QueueFull), "still");

    line.store.kept().away = false;
    pass(ms(5_001)).await;
    assert_eq!(line.store.ids(), ids(0..accepted as u64));
    let gaps = line.store.gaps();
    assert_eq!(gaps, [(41 - accepted as u64, "the queue was full while the database was behind".to_owned())]);
    assert_eq!(line.recorder.record(heavy(41, MIB)), Ok(()), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn an_entry_heavier_than_any_batch_is_refused() {
    let line = Line::start();
    assert_eq!(line.recorder.record(heavy(0, ENTRY_BYTES_MAX)), Err(NotAccepted::QueueFull));
    assert_eq!(line.recorder.record(heavy(1, ENTRY_BYTES_MAX - 1_024)), Ok(()));
    pass(ms(501)).await;
    assert_eq!((line.store.ids(), line.store.gaps().len()), (vec![id(1)], 1));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_store_refuses_loses_only_itself() {
    let line = Line::start();
    line.store.kept().poison.extend([id(17), id(80)]);
    line.record(0..50);
    let refused = line.recorder.record_durably(entry(80), ms(1_500));
    let stored = line.recorder.record_durably(entry(90), ms(1_500));
    assert_eq!(tokio::join!(refused, stored), (Err(NotDurable::Refused), Ok(())));
    pass(ms(501)).await;

    assert_eq!(line.store.ids(), ids((0..50).filter(|n| *n != 17).chain([90])));
    assert_eq!(line.store.gaps(), [(2, "the database refused to store it".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_the_store_refuses_is_not_told_for_ever() {
    let line = Line::start();
    line.store.kept().refuses_gaps = true;
    line.recorder.note_lost(noon(), Loss::Panicked);
    pass(ms(60_000)).await;
    assert_eq!(line.store.tries(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_others_lost_becomes_a_gap_too() {
    let line = Line::start();
    for _ in 0..3 {
        line.recorder.note_lost(noon(), Loss::Panicked);
    }
    pass(ms(501)).await;
    assert_eq!(line.store.gaps(), [(3, "handling the request failed".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn the_numbers_tell_what_happened() {
    let line = Line::start();
    let mut registry = Registry::with_prefix("kubevision_audit");
    line.recorder.metrics().register(&mut registry);
    line.store.kept().faults.push_back(crate::fake::Fault::Away);
    line.store.kept().poison.insert(id(3));
    line.record(0..4);
    let scraped = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    assert!(scraped().contains("kubevision_audit_pipeline_queue_entries 4\n"), "{}", scraped());
    pass(ms(5_000)).await;
    for line in [
        "kubevision_audit_pipeline_accepted_total 4",
        "kubevision_audit_pipeline_stored_total 4",
        r#"kubevision_audit_pipeline_lost_total{reason="refused"} 1"#,
        r#"kubevision_audit_pipeline_lost_total{reason="queue_full"} 0"#,
        "kubevision_audit_pipeline_queue_entries 0",
        "kubevision_audit_pipeline_queue_bytes 0",
        "kubevision_audit_pipeline_retries_total 1",
        "kubevision_audit_pipeline_batch_entries_count 2",
    ] {
        assert!(scraped().contains(&format!("{line}\n")), "{line} is not in\n{}", scraped());
    }
}

//! When entries are written, and together with which others.

use pipeline::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, NotDurable};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fake::{Fault, Line, entry, heavy, id, ids, ms, pass};

#[tokio::test(start_paused = true)]
async fn entries_are_written_together_when_the_first_has_waited_for_the_interval() {
    let line = Line::start();
    line.record(0..2);
    pass(ms(300)).await;
    line.record(2..3);
    pass(ms(199)).await;
    assert_eq!(line.store.tries(), 0, "not yet");
    pass(ms(2)).await;
    assert_eq!((line.store.ids(), line.store.batches()), (ids(0..3), vec![3]));

    pass(ms(5_000)).await;
    line.record(3..4);
    pass(ms(499)).await;
    assert_eq!(line.store.batches(), [3], "the interval starts anew with the next entry");
    pass(ms(2)).await;
    assert_eq!(line.store.batches(), [3, 1]);
}

#[tokio::test(start_paused = true)]
async fn enough_entries_are_written_without_waiting() {
    let line = Line::start();
    line.record(0..99);
    pass(ms(1)).await;
    assert_eq!(line.store.tries(), 0);
    line.record(99..100);
    pass(ms(1)).await;
    assert_eq!(line.store.batches(), [100]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_behind_takes_all_that_waits() {
    let line = Line::start();
    line.store.kept().takes = ms(2_000);
    line.record(0..100);
    pass(ms(1)).await;
    line.record(100..1_700);
    pass(ms(10_000)).await;
    assert_eq!((line.store.ids(), line.store.batches()), (ids(0..1_700), vec![100, 1_600]));
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_a_bound_in_entries_and_in_bytes() {
    let line = Line::start();
    line.record(0..12_000);
    pass(ms(1)).await;
    assert_eq!(line.store.batches(), [BATCH_ENTRIES_MAX, BATCH_ENTRIES_MAX, 2_000]);
    assert_eq!(line.store.ids(), ids(0..12_000));

    let line = Line::start();
    let third = BATCH_BYTES_MAX / 3;
    for n in 0..7 {
        line.recorder.record(heavy(n, third)).unwrap();
    }
    pass(ms(501)).await;
    assert_eq!(line.store.batches(), [2, 2, 2, 1], "three of them and what surrounds them are too much");
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_share_one_commit() {
    let line = Line::start();
    line.store.kept().takes = ms(20);
    line.record([0]);
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for n in 1..=50 {
        let recorder = line.recorder.clone();
        requests.spawn(async move { recorder.record_durably(entry(n), ms(1_500)).await });
    }
    let answers = requests.join_all().await;
    assert_eq!(answers, [Ok(()); 50]);
    assert_eq!(start.elapsed(), ms(20), "nobody waited for the interval, nor for another's commit");
    assert_eq!(line.store.batches(), [51]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_a_batch_is_written_is_in_the_next() {
    let line = Line::start();
    line.store.kept().takes = ms(20);
    let first = line.recorder.record_durably(entry(0), ms(1_500));
    let second = async {
        pass(ms(5)).await;
        let others = (2..9).map(|n| line.recorder.record(entry(n)));
        assert!(others.into_iter().all(|accepted| accepted.is_ok()));
        line.recorder.record_durably(entry(1), ms(1_500)).await
    };
    assert_eq!(tokio::join!(first, second), (Ok(()), Ok(())));
    assert_eq!(line.store.batches(), [1, 8]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_not_durable_in_time_stays_queued() {
    let line = Line::start();
    line.store.kept().away = true;
    let answer = line.recorder.record_durably(entry(0), ms(1_500)).await;
    assert_eq!(answer, Err(NotDurable::NotYet { within: ms(1_500) }));
    line.store.kept().away = false;
    pass(ms(5_001)).await;
    assert_eq!(line.store.ids(), [id(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_ever_less_often_and_gets_everything_in_order() {
    let line = Line::start();
    line.store.kept().away = true;
    for minute in 0..10 {
        line.record(minute * 100..(minute + 1) * 100);
        pass(ms(60_000)).await;
    }
    let tries = line.store.tries();
    assert!((120..=130).contains(&tries), "every 5 s after a short start, not {tries} times");
    line.store.kept().away = false;
    pass(ms(5_001)).await;
    assert_eq!((line.store.ids(), line.store.batches()), (ids(0..1_000), vec![100, 900]));
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_reply_was_lost_is_stored_once() {
    let line = Line::start();
    line.store.kept().faults.extend([Fault::ReplyLost, Fault::Away, Fault::ReplyLost]);
    line.record(0..10);
    pass(ms(2_000)).await;
    assert_eq!(line.store.ids(), ids(0..10));
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_given_up_and_tried_again_in_halves() {
    let line = Line::start();
    line.store.kept().faults.extend([Fault::Silent, Fault::Silent]);
    line.record(0..100);
    pass(pipeline::WRITE_MAX * 2 + ms(1_000)).await;
    assert_eq!((line.store.ids(), line.store.batches()), (ids(0..100), vec![25, 25, 50]));
}

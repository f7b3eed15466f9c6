//! What audit events tell: taken whole or not at all, and joined after what they belong to is written.

use pipeline::{ENTRY_BYTES_MAX, Flushed, NotAccepted, Progress, QUEUE_BYTES_MAX, TOLD_BYTES_MAX};

use crate::fake::{Fault, Line, entry, heavy, id, ids, ms, pass};

#[tokio::test(start_paused = true)]
async fn outcomes_are_joined_after_the_entries_of_their_batch() {
    let mut line = Line::start();
    line.recorder.tell(vec![entry(1)], vec![entry(2), entry(3)]).unwrap();
    line.recorder.join(vec![entry(4)]).unwrap();
    line.record([4]);
    pass(ms(501)).await;
    assert_eq!((line.store.ids(), line.store.batches()), (ids([4, 1]), vec![2]));
    assert_eq!(line.store.kept().joined, ids([2, 3, 4]));
    assert_eq!(line.recorder.progress(), Progress { accepted: 4, settled: 4 });
    line.recorder.join(vec![entry(5)]).unwrap();
    assert_eq!(line.stopped().await, Ok(Flushed { stored: 2 }));
    assert_eq!(line.store.kept().joined, ids([2, 3, 4, 5]), "a stop joins what waits");
    assert_eq!(line.store.batches(), [2], "where nothing is to be written nothing is");
    assert_eq!(line.recorder.join(vec![entry(6)]), Err(NotAccepted::Stopped));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_as_a_whole_is_not_taken_in_part_and_is_no_loss() {
    let line = Line::start();
    line.store.kept().away = true;
    let mib = 1024 * 1024;
    let list = |from: u64, count: usize| (from..from + count as u64).map(|n| heavy(n, mib)).collect::<Vec<_>>();
    line.recorder.tell(list(0, 5), list(10, 5)).unwrap();
    let room = TOLD_BYTES_MAX / mib - 10;
    assert_eq!(line.recorder.tell(list(100, room), list(200, 1)), Err(NotAccepted::QueueFull));
    assert_eq!(line.recorder.tell(vec![heavy(300, ENTRY_BYTES_MAX)], vec![]), Err(NotAccepted::TooHeavy));
    assert_eq!(line.recorder.tell(list(300, TOLD_BYTES_MAX / mib), vec![]), Err(NotAccepted::TooHeavy));
    line.recorder.tell(list(400, 1), list(401, 1)).unwrap();
    line.store.kept().away = false;
    pass(ms(20_000)).await;
    assert_eq!((line.store.ids().len(), line.store.kept().joined.len()), (6, 6));
    assert_eq!(line.store.gaps(), [], "whoever told them tells them again");
}

#[tokio::test(start_paused = true)]
async fn a_join_that_fails_is_tried_again_and_one_that_is_refused_loses_only_itself() {
    let line = Line::start();
    line.store.kept().poison.insert(id(7));
    line.store.kept().faults.extend([Fault::Away, Fault::ReplyLost, Fault::Silent]);
    line.recorder.join((0..20).map(entry).collect()).unwrap();
    pass(pipeline::WRITE_MAX * 2).await;
    let expected: Vec<_> = ids((0..20).filter(|n| *n != 7));
    assert_eq!(line.store.kept().joined, expected);
    pass(ms(501)).await;
    assert_eq!(line.store.gaps(), [(1, "the database refused to store it".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_events_tell_takes_no_room_from_reviews_and_lets_them_pass() {
    let line = Line::start();
    line.store.kept().away = true;
    let mib = 1024 * 1024;
    let told = (0..1_000).find(|n| line.recorder.tell(vec![heavy(1_000 + n, mib)], vec![]).is_err()).unwrap();
    assert!(told as usize >= TOLD_BYTES_MAX / mib - 1);
    let recorded = (0..1_000).find(|n| line.recorder.record(heavy(*n, mib)).is_err()).unwrap();
    assert!(recorded as usize >= QUEUE_BYTES_MAX / mib - 1, "all of it is for reviews");
    line.store.kept().away = false;
    pass(ms(20_000)).await;
    let stored = line.store.ids();
    let place = |wanted| stored.iter().position(|stored| *stored == id(wanted)).unwrap();
    assert!(place(recorded - 1) < place(1_000 + told - 1), "reviews pass what was told before them");
    assert_eq!(stored.len() as u64, recorded + told);
}

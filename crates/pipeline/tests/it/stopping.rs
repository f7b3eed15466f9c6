//! The end of a pipeline: nothing that was accepted is left behind, or it says how much.

use std::sync::Arc;

use pipeline::{Flushed, LostAtShutdown, NotAccepted, NotDurable, SHUTDOWN_MAX, Settings, pipeline};
use tokio::time::Instant;

use crate::fake::{FakeStore, Fault, Line, clock, entropy, entry, ids, ms, pass};

#[tokio::test(start_paused = true)]
async fn a_stop_writes_what_waits_at_once_and_refuses_what_comes_later() {
    let mut line = Line::start();
    line.store.kept().takes = ms(20);
    line.record(0..7_000);
    let start = Instant::now();
    assert_eq!(line.stopped().await, Ok(Flushed { stored: 7_000 }));
    assert_eq!((line.store.ids(), start.elapsed()), (ids(0..7_000), ms(40)));
    assert_eq!(line.recorder.record(entry(9_000)), Err(NotAccepted::Stopped));
    let late = line.recorder.record_durably(entry(9_001), ms(1_500)).await;
    assert_eq!(late, Err(NotDurable::NotAccepted(NotAccepted::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn what_is_accepted_while_stopping_is_stored_too() {
    let mut line = Line::start();
    line.store.kept().takes = ms(100);
    line.record(0..10);
    line.stop.cancel();
    pass(ms(50)).await;
    line.record(10..20);
    assert_eq!(line.stopped().await, Ok(Flushed { stored: 20 }));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_sit_out_a_pause_between_tries() {
    let mut line = Line::start();
    line.store.kept().away = true;
    line.record(0..10);
    pass(ms(60_000)).await;
    line.store.kept().away = false;
    let start = Instant::now();
    assert_eq!(line.stopped().await, Ok(Flushed { stored: 10 }));
    assert_eq!(start.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_while_stopping_is_found_in_time() {
    let mut line = Line::start();
    line.store.kept().away = true;
    line.record(0..10);
    pass(ms(60_000)).await;
    let store = Arc::clone(&line.store);
    let comes_back = async {
        pass(ms(5_000)).await;
        store.kept().away = false;
    };
    let (end, ()) = tokio::join!(line.stopped(), comes_back);
    assert_eq!(end, Ok(Flushed { stored: 10 }));
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_a_store_ends_in_time_and_says_how_much_is_lost() {
    for fault in [Fault::Away, Fault::Silent] {
        let mut line = Line::start();
        line.store.kept().faults.extend([fault; 1_000]);
        line.record(0..150);
        let recorder = line.recorder.clone();
        let waits = recorder.record_durably(entry(150), ms(60_000));
        let stops = async {
            pass(ms(1_000)).await;
            line.record(200..250);
            let start = Instant::now();
            (line.stopped().await, start.elapsed())
        };
        let (answer, (end, took)) = tokio::join!(waits, stops);
        assert_eq!((end, took), (Err(LostAtShutdown { entries: 201 }), SHUTDOWN_MAX), "{fault:?}");
        assert_eq!(answer, Err(NotDurable::Ended), "{fault:?}");
        assert_eq!(recorder.record(entry(300)), Err(NotAccepted::Stopped), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batcher_that_never_ran_leaves_no_recorder_that_believes_in_it() {
    let (recorder, batcher) = pipeline(Settings::default(), Arc::<FakeStore>::default(), clock(), entropy());
    drop(batcher);
    assert_eq!(recorder.record(entry(0)), Err(NotAccepted::Stopped));
}

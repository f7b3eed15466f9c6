//! Writes that are refused because they could not be recorded: the log says so of each that it holds all the same.

use pipeline::{Flushed, NotDurable, REFUSED_WITH};
use store::Retry;

use crate::fake::{Fault, Line, entry, id, ids, ms, pass};

const WITHIN: std::time::Duration = ms(1_500);

#[tokio::test(start_paused = true)]
async fn a_write_that_is_recorded_in_time_is_not_refused() {
    let line = Line::start();
    assert_eq!(line.recorder.record_or_refuse(entry(1), WITHIN).await, Ok(()));
    pass(ms(60_000)).await;
    assert_eq!((line.store.ids(), line.store.rejected()), (ids([1]), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_that_is_stored_later_is_rejected_and_others_are_not() {
    let line = Line::start();
    line.store.kept().away = true;
    line.record([1]);
    let late = NotDurable::NotYet { within: WITHIN };
    let refused = line.recorder.record_or_refuse(entry(2), WITHIN);
    let admitted = line.recorder.record_durably(entry(3), WITHIN);
    let again = line.recorder.record_or_refuse(entry(4), WITHIN);
    assert_eq!(tokio::join!(refused, admitted, again), (Err(late), Err(late), Err(late)));
    line.record([5]);
    assert_eq!(line.store.rejected(), []);
    line.store.kept().away = false;
    pass(ms(60_000)).await;
    assert_eq!(line.store.ids(), ids(1..=5));
    assert_eq!(line.store.kept().rejected, [(id(2), REFUSED_WITH), (id(4), REFUSED_WITH)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_caller_went_away_is_rejected() {
    let line = Line::start();
    line.store.kept().takes = ms(200);
    let gave_up = tokio::time::timeout(ms(100), line.recorder.record_or_refuse(entry(1), WITHIN)).await;
    assert!(gave_up.is_err());
    pass(ms(5_000)).await;
    assert_eq!((line.store.ids(), line.store.rejected()), (ids([1]), ids([1])));
}

#[tokio::test(start_paused = true)]
async fn a_write_is_admitted_or_rejected_and_never_both_nor_neither() {
    for takes in [1_498, 1_499, 1_500, 1_501, 1_502] {
        let line = Line::start();
        line.store.kept().takes = ms(takes);
        let admitted = line.recorder.record_or_refuse(entry(1), WITHIN).await.is_ok();
        pass(ms(60_000)).await;
        assert_eq!(line.store.ids(), ids([1]));
        assert_ne!(admitted, line.store.rejected() == ids([1]), "{takes} ms, admitted: {admitted}");
    }
}

#[tokio::test]
async fn a_write_is_admitted_or_rejected_also_where_both_happen_at_once() {
    for _ in 0..500 {
        let mut line = Line::start();
        let admitted = line.recorder.record_or_refuse(entry(1), std::time::Duration::ZERO).await.is_ok();
        line.stopped().await.unwrap();
        assert_ne!(admitted, line.store.rejected() == ids([1]), "admitted: {admitted}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_is_not_there_to_be_rejected() {
    let line = Line::start();
    line.store.kept().poison.insert(id(1));
    assert_eq!(line.recorder.record_or_refuse(entry(1), WITHIN).await, Err(NotDurable::Refused));
    line.store.kept().takes = ms(5_000);
    let late = line.recorder.record_or_refuse(entry(2), WITHIN).await;
    assert_eq!(late, Err(NotDurable::NotYet { within: WITHIN }));
    line.store.kept().poison.insert(id(2));
    pass(ms(60_000)).await;
    assert_eq!((line.store.ids(), line.store.kept().reject_tries), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_fails_for_now_is_tried_again_and_one_that_fails_for_good_is_not() {
    for (faults, rejected, tries) in
        [(vec![Retry::Later; 3], ids([1]), 4), (vec![Retry::Later, Retry::Never], vec![], 2)]
    {
        let line = Line::start();
        line.store.kept().faults.push_back(Fault::ReplyLost);
        line.store.kept().reject_faults.extend(faults);
        drop(tokio::time::timeout(ms(1), line.recorder.record_or_refuse(entry(1), ms(10))).await);
        pass(ms(60_000)).await;
        line.record([2]);
        pass(ms(1_000)).await;
        assert_eq!(line.store.ids(), ids([1, 2]), "what comes later is written");
        assert_eq!((line.store.rejected(), line.store.kept().reject_tries), (rejected, tries));
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_ends_before_it_could_reject_has_lost_no_entry() {
    let mut line = Line::start();
    line.store.kept().takes = ms(20);
    line.store.kept().reject_faults.extend([Retry::Later; 10_000]);
    drop(tokio::time::timeout(ms(1), line.recorder.record_or_refuse(entry(1), ms(10))).await);
    pass(ms(1_000)).await;
    assert_eq!(line.stopped().await, Ok(Flushed { stored: 1 }));
    assert_eq!((line.store.ids(), line.store.rejected()), (ids([1]), vec![]));
}

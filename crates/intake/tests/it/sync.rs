//! `audit.sync: true`: the answer waits for the entry to be durable, but not for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use intake::admission::WAIT_MAX;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::door::{Door, called_again, fixture};

#[tokio::test(start_paused = true)]
async fn the_answer_comes_when_the_entry_is_durable_and_concurrent_ones_share_a_commit() {
    let door = Arc::new(Door::sync());
    door.store.takes.store(20, Ordering::Relaxed);
    let start = Instant::now();
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let door = Arc::clone(&door);
        requests.spawn(async move {
            let entry = door.post(called_again(&fixture("update-deployment-image"))).await.entry().unwrap();
            let stored = door.store.entries();
            assert!(stored.iter().any(|kept| kept.id.to_string() == entry), "it is there when the answer comes");
        });
    }
    requests.join_all().await;
    assert!(start.elapsed().as_millis() <= 40, "one commit under way and one for the rest: {:?}", start.elapsed());
    door.assert_counted("recorded", 50);
}

#[tokio::test(start_paused = true)]
async fn without_a_store_the_answer_comes_in_time_and_the_entry_later() {
    let mut door = Door::sync();
    door.store.away.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let entry = door.post(fixture("create-secret")).await.entry();
    assert_eq!(start.elapsed(), WAIT_MAX);
    door.assert_counted("recorded_late", 1);
    door.store.away.store(false, Ordering::Relaxed);
    let stored: Vec<_> = door.entries().await.iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(stored, [entry.unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn without_sync_nobody_waits_for_a_store() {
    let door = Door::open();
    door.store.away.store(true, Ordering::Relaxed);
    let start = Instant::now();
    assert!(door.post(fixture("create-secret")).await.entry().is_some());
    assert_eq!(start.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_review_that_comes_again_is_not_allowed_before_its_entry_is_durable() {
    let mut door = Door::denying();
    door.store.away.store(true, Ordering::Relaxed);
    let review = fixture("create-secret");
    // The first call breaks off halfway; the second comes while the third still waits.
    let broken = tokio::time::timeout(WAIT_MAX / 5, door.post(review.clone())).await;
    assert!(broken.is_err());
    let (again, meanwhile) = tokio::join!(door.post(review.clone()), async {
        tokio::time::sleep(WAIT_MAX / 2).await;
        door.post(review.clone()).await
    });
    for answer in [&again, &meanwhile] {
        assert_eq!(answer.body["response"]["allowed"], false, "{answer:?}");
    }
    door.store.away.store(false, Ordering::Relaxed);
    let made = door.post(review.clone()).await.entry().unwrap();
    assert_eq!(door.post(review).await.entry().as_ref(), Some(&made), "durable by now, so it is the same one");
    let stored: Vec<_> = door.entries().await.iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(stored.iter().filter(|id| **id == made).count(), 1);
    assert!(!door.store.rejected().contains(&made), "and nobody says that it was refused");
    assert_eq!(door.store.rejected().len(), stored.len() - 1);
}

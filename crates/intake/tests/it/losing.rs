//! What cannot be recorded is allowed all the same, and told as a gap.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use domain::clock::Entropy;

use crate::door::{Door, called_again, config_map, fixture};

struct Broken;

impl Entropy for Broken {
    fn bits(&self) -> u64 {
        panic!("a bug in handling a review, of which the answer must know nothing");
    }
}

#[tokio::test]
async fn a_panic_is_no_answer_and_counted_as_a_gap() {
    let heavy = config_map("CREATE", None, Some(&format!(r#"{{"a":"{}"}}"#, "x".repeat(100_000))));
    for review in [fixture("create-deployment"), heavy] {
        let mut door = Door::with(false, Arc::new(Broken));
        let answer = door.post(review.clone()).await;
        assert_eq!(answer.status, 500, "what is neither allowed nor refused, the API server decides by the webhook");
        assert_eq!((door.entries().await.len(), door.store.gaps()), (1, 1));
        door.assert_counted("panicked", 1);
    }
}

#[tokio::test]
async fn a_full_queue_stops_no_write_and_the_gap_says_how_many() {
    let mut door = Door::open();
    door.store.away.store(true, Ordering::Relaxed);
    let review = config_map("CREATE", None, Some(&format!(r#"{{"a":"{}"}}"#, "x".repeat(900_000))));
    let (mut named, mut lost) = (Vec::new(), 0);
    for _ in 0..40 {
        match door.post(called_again(&review)).await.entry() {
            Some(entry) => named.push(entry),
            None => lost += 1,
        }
    }
    assert!(lost > 0, "the queue is bounded");
    door.assert_counted("lost", lost);
    door.store.away.store(false, Ordering::Relaxed);
    let kept: Vec<_> = door.entries().await.iter().map(|entry| entry.id.to_string()).collect();
    assert!(named.iter().all(|entry| kept.contains(entry)), "what was named is there");
    assert_eq!(door.store.gaps(), lost);
}

#[tokio::test]
async fn a_review_that_its_caller_gave_up_is_told_in_a_gap() {
    let mut door = Door::open();
    let never_ends = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request =
        Request::post("/admission").header(header::CONTENT_TYPE, "application/json").body(never_ends).unwrap();
    // The API server hangs up: its call, and with it the handler, is dropped where it waits.
    assert!(tokio::time::timeout(Duration::from_millis(20), door.send(request)).await.is_err());
    assert_eq!((door.entries().await.len(), door.store.gaps()), (1, 1));
}

#[tokio::test]
async fn two_deliveries_at_once_are_one_entry() {
    let mut door = Door::sync();
    door.store.takes.store(50, Ordering::Relaxed);
    let review = config_map("CREATE", None, Some(r#"{"a":"1"}"#));
    let (one, other) = tokio::join!(door.post(review.clone()), door.post(review.clone()));
    assert_eq!(one.response(), other.response());
    assert_eq!(door.entries().await.len(), 1);
}

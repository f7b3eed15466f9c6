//! Who may do what must not be done twice.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::Store;

const LONG: Duration = Duration::from_secs(600);

async fn epoch(store: &dyn Store, holder: &str, for_: Duration) -> Option<i64> {
    let fence = store.hold("work", holder, for_).await.unwrap()?;
    assert_eq!((fence.name.as_str(), fence.holder.as_str()), ("work", holder));
    Some(fence.epoch)
}

pub(super) async fn a_lease_is_held_by_one_and_its_epoch_tells_changes_of_hands(store: Arc<dyn Store>) {
    let store = &*store;
    assert_eq!(epoch(store, "a", LONG).await, Some(1));
    assert_eq!(epoch(store, "b", LONG).await, None, "it is taken");
    assert_eq!(epoch(store, "a", LONG).await, Some(1), "kept, and a renewal is no change of hands");
    assert!(store.hold("other", "b", LONG).await.unwrap().is_some(), "another work is another lease");
    assert_eq!(epoch(store, "a", Duration::ZERO).await, Some(1));
    assert_eq!(epoch(store, "a", Duration::ZERO).await, Some(1), "its time is over and nobody came");
    assert_eq!(epoch(store, "b", Duration::ZERO).await, Some(2));
    assert_eq!(epoch(store, "a", LONG).await, Some(3), "the same holder again, and not as before");
}

pub(super) async fn a_lease_that_is_released_is_taken_at_once_and_its_fence_is_worth_nothing(store: Arc<dyn Store>) {
    let first = store.hold("work", "a", LONG).await.unwrap().unwrap();
    store.release(&first).await.unwrap();
    store.release(&first).await.unwrap();
    let second = store.hold("work", "a", LONG).await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
    store.release(&first).await.unwrap();
    assert_eq!(store.hold("work", "b", LONG).await.unwrap(), None, "an old fence releases nothing");
    store.release(&second).await.unwrap();
    let third = store.hold("work", "b", LONG).await.unwrap().unwrap();
    assert!(third.epoch > second.epoch);
}

pub(super) async fn of_many_who_ask_at_once_one_gets_the_lease(store: Arc<dyn Store>) {
    let names: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for _ in 0..3 {
        let held = join_all(names.iter().map(|name| store.hold("work", name, LONG))).await;
        let held: Vec<_> = held.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(held.len(), 1, "{held:?}");
        store.release(&held[0]).await.unwrap();
    }
}

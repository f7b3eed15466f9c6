//! What goes, what stays, and what is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::finding::Finding;
use domain::query::Filter;
use domain::retention::Cutoffs;
use domain::{Action, EntryId, Evidence, RedactedEntry, Source};

use super::{all, ids, newest_first, noon, plain, sample};
use crate::{Fence, LastPurge, PolicyCount, Purged, Store, StoreError};

const LEASE: &str = "purge";

pub(super) fn before(cutoff: EntryId) -> Cutoffs {
    Cutoffs { default: Some(cutoff), by_policy: BTreeMap::new() }
}

async fn fence(store: &dyn Store) -> Fence {
    store.hold(LEASE, "us", Duration::from_secs(60)).await.unwrap().expect("nobody else holds it")
}

async fn outlived(store: &dyn Store, cutoffs: &Cutoffs) -> u64 {
    store.count_outlived(cutoffs).await.unwrap().values().sum()
}

/// The portions, too.
async fn purge_by(store: &dyn Store, cutoffs: &Cutoffs) -> (Purged, u64) {
    let fence = fence(store).await;
    let mut total = Purged::default();
    let mut portions = 0;
    while !total.done {
        assert!(portions < 1_000, "the purge never ends");
        total.add(store.purge_some(cutoffs, &fence).await.unwrap());
        portions += 1;
    }
    (total, portions)
}

pub(super) async fn purge(store: &dyn Store, cutoffs: &Cutoffs) -> Purged {
    purge_by(store, cutoffs).await.0
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(policy, entries)| (policy.to_owned(), entries)).into()
}

/// So many days old.
fn aged(days: i64, policy: &str, random: u64) -> RedactedEntry {
    sample(|e| (e.id, e.policy) = (EntryId::at(noon() - TimeDelta::days(days), random), policy.into()))
}

pub(super) async fn a_purge_takes_all_before_the_cutoff_and_nothing_else(store: Arc<dyn Store>) {
    // A hundred days, three entries each, and the moments around the cutoff.
    let now = noon();
    let days = (0..100).flat_map(|day| (0..3).map(move |n| (TimeDelta::days(day) + TimeDelta::hours(n * 5), n)));
    let mut entries: Vec<_> =
        days.map(|(age, n)| sample(|e| e.id = EntryId::at(now - age, 100 + n.unsigned_abs()))).collect();
    let cut = now - TimeDelta::days(90);
    let around = [(-1_000, u64::MAX), (-1, u64::MAX), (0, 0), (0, u64::MAX), (999, 1), (1_000, 0)];
    for (micros, random) in around {
        entries.push(sample(|e| e.id = EntryId::at(cut + TimeDelta::microseconds(micros), random)));
    }
    store.write(&entries).await.unwrap();
    let cutoffs = before(EntryId::not_before(cut));
    let (gone, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.id.timestamp() < cut);
    assert!(gone.len() > 25 && kept.len() > 270);

    let early = EntryId::not_before(now - TimeDelta::days(1_000));
    assert_eq!(outlived(&*store, &before(early)).await, 0);
    assert_eq!(purge(&*store, &before(early)).await.entries(), 0, "nothing is that old");

    assert_eq!(outlived(&*store, &cutoffs).await, gone.len() as u64);
    assert_eq!(purge(&*store, &cutoffs).await.entries(), gone.len() as u64);
    assert_eq!(outlived(&*store, &cutoffs).await, 0);
    assert_eq!(ids(&all(&*store, &Filter::default()).await), newest_first(&kept));
    let nothing = Purged { done: true, ..Purged::default() };
    assert_eq!(purge(&*store, &cutoffs).await, nothing, "twice does nothing");
}

pub(super) async fn each_policy_keeps_its_entries_as_long_as_it_says(store: Arc<dyn Store>) {
    let policies = ["", "built-in", "for-ever", "long", "short"];
    let mut entries = Vec::new();
    for age in 0..60 {
        entries.extend(policies.iter().zip(0..).map(|(policy, n)| aged(age, policy, n)));
    }
    // Days of one policy alone.
    entries.extend((60..70).flat_map(|age| [aged(age, "short", 0), aged(age, "built-in", 1)]));
    entries.extend((70..80).map(|age| aged(age, "for-ever", 0)));
    store.write(&entries).await.unwrap();
    let cut = |days| Some(EntryId::floor(noon() - TimeDelta::days(days) + TimeDelta::hours(1)));
    let by_policy = [("for-ever", None), ("long", cut(40)), ("short", cut(5)), ("absent", cut(1))];
    let by_policy = by_policy.map(|(policy, cutoff)| (policy.to_owned(), cutoff)).into();
    let cutoffs = Cutoffs { default: cut(20), by_policy };
    let (gone, kept): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| cutoffs.of(&entry.policy).is_some_and(|cutoff| entry.id < cutoff));
    let expected = counts([("", 40), ("built-in", 50), ("long", 20), ("short", 65)]);
    assert_eq!(gone.len(), 175);
    assert_eq!(store.count_outlived(&cutoffs).await.unwrap(), expected);
    let purged = purge(&*store, &cutoffs).await;
    assert_eq!((purged.by_policy, purged.done), (expected, true));
    assert_eq!(ids(&all(&*store, &Filter::default()).await), newest_first(&kept));
    assert_eq!(store.count_outlived(&cutoffs).await.unwrap(), counts([]));
    let nothing = Purged { done: true, ..Purged::default() };
    assert_eq!(purge(&*store, &cutoffs).await.by_policy, nothing.by_policy, "twice does nothing");
    assert_eq!(purge(&*store, &Cutoffs::default()).await, nothing, "for ever");
}

pub(super) async fn a_long_purge_goes_in_portions_that_are_counted_by_policy(store: Arc<dyn Store>) {
    const EACH: u64 = 6_000;
    for (policy, hour) in [("a", 0), ("b", 1)] {
        let of = |n: u64| {
            let time = noon() + TimeDelta::hours(hour) + TimeDelta::milliseconds(n.cast_signed());
            sample(|e| (e.id, e.policy) = (EntryId::at(time, n), policy.into()))
        };
        store.write(&(0..EACH).map(of).collect::<Vec<_>>()).await.unwrap();
    }
    let kept = sample(|e| (e.id, e.policy) = (EntryId::at(noon(), 1 << 50), "kept".into()));
    store.write(std::slice::from_ref(&kept)).await.unwrap();
    let by_policy = BTreeMap::from([("kept".to_owned(), None)]);
    let cutoffs = Cutoffs { default: Some(EntryId::floor(noon() + TimeDelta::days(2))), by_policy };
    let (purged, portions) = purge_by(&*store, &cutoffs).await;
    assert_eq!(purged.by_policy, counts([("a", EACH), ("b", EACH)]));
    assert!(portions > 2, "{portions} portions: a batch is bounded");
    assert_eq!(ids(&all(&*store, &Filter::default()).await), [kept.id]);
}

pub(super) async fn a_purged_day_takes_entries_again(store: Arc<dyn Store>) {
    let batch = plain(3);
    store.write(&batch).await.unwrap();
    let cutoffs = before(EntryId::floor(noon() + TimeDelta::days(3)));
    assert_eq!(purge(&*store, &cutoffs).await.entries(), 3);
    store.write(&batch).await.unwrap();
    assert_eq!(ids(&all(&*store, &Filter::default()).await), newest_first(&batch));
}

pub(super) async fn a_purge_is_remembered_and_told_together(store: Arc<dyn Store>) {
    assert_eq!(store.last_purge().await.unwrap(), None);
    let fence = fence(&*store).await;
    let told = |n: u64| sample(|e| (e.id, e.action) = (EntryId::at(noon() + TimeDelta::days(9), n), Action::Purge));
    let (interrupted, finished) = (told(1), told(2));
    store.interrupt_purge(&fence, &interrupted).await.unwrap();
    assert_eq!(store.last_purge().await.unwrap(), None, "it is still due");
    for (later, by_policy, record) in [
        (TimeDelta::zero(), counts([]), None),
        (TimeDelta::milliseconds(1), counts([("", 1), ("péci\"", u64::from(u32::MAX))]), Some(&finished)),
    ] {
        store.finish_purge(&fence, noon() + later, &by_policy, record).await.unwrap();
        let last = LastPurge { at: noon() + later, by_policy };
        assert_eq!(store.last_purge().await.unwrap(), Some(last));
    }
    let there = all(&*store, &Filter::default()).await;
    assert_eq!(ids(&there), [finished.id, interrupted.id]);
    assert!(there[0].position > there[1].position);
}

/// As a process that was frozen and wakes after another has taken over.
pub(super) async fn who_is_fenced_out_removes_nothing_and_records_nothing(store: Arc<dyn Store>) {
    let batch: Vec<_> = (0..3).map(|age| aged(age, "built-in", 0)).collect();
    store.write(&batch).await.unwrap();
    let cutoffs = before(EntryId::floor(noon() + TimeDelta::days(2)));
    let frozen = store.hold(LEASE, "frozen", Duration::ZERO).await.unwrap().unwrap();
    let other = fence(&*store).await;
    let record = sample(|e| (e.id, e.action) = (EntryId::at(noon(), 7), Action::Purge));
    for refused in [
        store.purge_some(&cutoffs, &frozen).await.map(drop),
        store.finish_purge(&frozen, noon(), &counts([]), Some(&record)).await,
        store.finish_purge(&frozen, noon(), &counts([]), None).await,
        store.interrupt_purge(&frozen, &record).await,
        store.purge_some(&cutoffs, &Fence { epoch: other.epoch + 1, ..other.clone() }).await.map(drop),
        store.purge_some(&cutoffs, &Fence { name: "seal".into(), ..other.clone() }).await.map(drop),
    ] {
        assert!(matches!(&refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    }
    assert_eq!(ids(&all(&*store, &Filter::default()).await), newest_first(&batch));
    assert_eq!(store.last_purge().await.unwrap(), None);
    let mut purged = Purged::default();
    while !purged.done {
        purged.add(store.purge_some(&cutoffs, &other).await.unwrap());
    }
    assert_eq!(purged.entries(), 3, "whoever follows finishes");
}

pub(super) async fn policies_are_counted_by_name(store: Arc<dyn Store>) {
    let since = EntryId::floor(noon() - TimeDelta::days(1));
    assert_eq!(store.policy_counts(since).await.unwrap(), []);
    let batch = [aged(0, "pci", 1), aged(1, "pci", 2), aged(2, "pci", 3), aged(4, "", 4), aged(3, "Built-in", 5)];
    store.write(&batch).await.unwrap();
    let count = |policy: &str, entries, newest: &RedactedEntry| PolicyCount {
        policy: policy.to_owned(),
        entries,
        newest: newest.id,
        heard: if entries == 0 { Vec::new() } else { vec![(Source::Admission, newest.id)] },
    };
    let expected = [count("", 0, &batch[3]), count("Built-in", 0, &batch[4]), count("pci", 2, &batch[0])];
    assert_eq!(store.policy_counts(since).await.unwrap(), expected);
    let findings = [(0, Evidence::Probe), (1, Evidence::Audit)].map(|(n, by)| Finding::confirmed(batch[n].id, by));
    store.settle(&findings).await.unwrap();
    let counts = store.policy_counts(since).await.unwrap();
    let pci = counts.last().unwrap();
    let expected = [(Source::Admission, 0), (Source::Audit, 1), (Source::Chain, 0)].map(|(s, n)| (s, batch[n].id));
    assert_eq!(pci.heard, expected);
}

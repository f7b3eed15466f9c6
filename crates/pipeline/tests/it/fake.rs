//! A store that remembers what was asked of it and fails on demand, and a pipeline before it.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::{Clock, Entropy};
use domain::finding::Finding;
use domain::{Action, DetailJson, Entry, EntryId, RedactedEntry};
use pipeline::{Flushed, LostAtShutdown, Recorder, Settings, pipeline};
use store::{Book, EntryWriter, Late, Outcomes, Retry, StoreError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a store may answer instead of doing what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Away,
    /// Stored, but nobody hears of it.
    ReplyLost,
    /// No answer, ever.
    Silent,
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// In the order in which they were first stored.
    pub(crate) entries: Vec<RedactedEntry>,
    /// The size of each write that succeeded.
    pub(crate) batches: Vec<usize>,
    pub(crate) tries: usize,
    /// With which code, in their order.
    pub(crate) rejected: Vec<(EntryId, u16)>,
    pub(crate) reject_tries: usize,
    /// What was joined, in its order.
    pub(crate) joined: Vec<EntryId>,
    /// What the next rejections come to.
    pub(crate) reject_faults: VecDeque<Retry>,
    /// For the writes to come, before it does what it is asked.
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) away: bool,
    pub(crate) poison: HashSet<EntryId>,
    pub(crate) refuses_gaps: bool,
    /// How long a write takes.
    pub(crate) takes: Duration,
    known: HashSet<EntryId>,
    acknowledged: HashSet<EntryId>,
    writing: bool,
}

impl Kept {
    fn ids(&self) -> Vec<EntryId> {
        self.entries.iter().filter(|entry| entry.action != Action::Gap).map(|entry| entry.id).collect()
    }

    /// What the gaps tell: how many were lost, each with its reason.
    fn gaps(&self) -> Vec<(u64, String)> {
        let gaps = self.entries.iter().filter(|entry| entry.action == Action::Gap);
        gaps.map(|gap| {
            let told = gap.detail.read().unwrap().system.unwrap();
            (told["lost"].as_u64().unwrap(), told["reason"].as_str().unwrap().to_owned())
        })
        .collect()
    }

    fn store(&mut self, batch: &[RedactedEntry]) {
        for entry in batch {
            assert!(!self.acknowledged.contains(&entry.id), "{:?} is written again after it was stored", entry.id);
            if self.known.insert(entry.id) {
                self.entries.push(entry.clone());
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeStore(Mutex<Kept>);

impl FakeStore {
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    pub(crate) fn ids(&self) -> Vec<EntryId> {
        self.kept().ids()
    }

    pub(crate) fn gaps(&self) -> Vec<(u64, String)> {
        self.kept().gaps()
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        self.kept().batches.clone()
    }

    pub(crate) fn tries(&self) -> usize {
        self.kept().tries
    }

    pub(crate) fn rejected(&self) -> Vec<EntryId> {
        self.kept().rejected.iter().map(|(id, _)| *id).collect()
    }

    fn begin(&self) -> (Option<Fault>, Duration) {
        let mut kept = self.kept();
        assert!(!kept.writing, "one write at a time");
        kept.writing = true;
        kept.tries += 1;
        let fault = kept.faults.pop_front().or(kept.away.then_some(Fault::Away));
        (fault, kept.takes)
    }
}

/// Also where a write is given up halfway.
struct Writing<'a>(&'a FakeStore);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.kept().writing = false;
    }
}

#[async_trait]
impl EntryWriter for FakeStore {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        let (fault, takes) = self.begin();
        let _writing = Writing(self);
        tokio::time::sleep(takes).await;
        let fails = |retry| Err(StoreError::Write { entries: batch.len(), retry, source: "on demand".into() });
        match fault {
            Some(Fault::Away) => return fails(Retry::Later),
            Some(Fault::Silent) => return std::future::pending().await,
            Some(Fault::ReplyLost) | None => {}
        }
        let mut kept = self.kept();
        let refused = |entry: &RedactedEntry| {
            kept.poison.contains(&entry.id) || (kept.refuses_gaps && entry.action == Action::Gap)
        };
        if batch.iter().any(refused) {
            return fails(Retry::Never);
        }
        kept.store(batch);
        if fault == Some(Fault::ReplyLost) {
            return fails(Retry::Later);
        }
        kept.acknowledged.extend(batch.iter().map(|entry| entry.id));
        kept.batches.push(batch.len());
        Ok(())
    }

    async fn reject(&self, ids: &[EntryId], status_code: u16) -> Result<(), StoreError> {
        let mut kept = self.kept();
        kept.reject_tries += 1;
        if let Some(retry) = kept.reject_faults.pop_front() {
            return Err(StoreError::Failed { operation: "rejecting entries", retry, source: "on demand".into() });
        }
        for id in ids {
            assert!(kept.acknowledged.contains(id), "{id:?} is rejected before it is stored");
            kept.rejected.push((*id, status_code));
        }
        Ok(())
    }
}

#[async_trait]
impl Outcomes for FakeStore {
    async fn settle(&self, _: &[Finding]) -> Result<(), StoreError> {
        panic!("no pipeline asks for it")
    }

    async fn join(&self, told: &[RedactedEntry]) -> Result<(), StoreError> {
        let (fault, takes) = self.begin();
        let _writing = Writing(self);
        tokio::time::sleep(takes).await;
        let fails = |retry| Err(StoreError::Failed { operation: "joining", retry, source: "on demand".into() });
        match fault {
            Some(Fault::Away) => return fails(Retry::Later),
            Some(Fault::Silent) => return std::future::pending().await,
            Some(Fault::ReplyLost) | None => {}
        }
        let mut kept = self.kept();
        if told.iter().any(|entry| kept.poison.contains(&entry.id)) {
            return fails(Retry::Never);
        }
        for entry in told {
            if !kept.joined.contains(&entry.id) {
                kept.joined.push(entry.id);
            }
        }
        if fault == Some(Fault::ReplyLost) { fails(Retry::Later) } else { Ok(()) }
    }

    async fn join_late(&self, _: DateTime<Utc>) -> Result<Late, StoreError> {
        panic!("no pipeline asks for it")
    }

    async fn unconfirmed(&self, _: EntryId, _: EntryId) -> Result<u64, StoreError> {
        panic!("no pipeline asks for it")
    }
}

/// A pipeline whose batcher runs.
pub(crate) struct Line {
    pub(crate) recorder: Recorder,
    pub(crate) store: Arc<FakeStore>,
    pub(crate) stop: CancellationToken,
    batcher: JoinSet<Result<Flushed, LostAtShutdown>>,
}

impl Line {
    pub(crate) fn start() -> Self {
        let store = Arc::<FakeStore>::default();
        let (recorder, batcher) =
            pipeline(Settings::default(), Arc::clone(&store) as Arc<dyn Book>, clock(), entropy());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(batcher.run(stop.clone()));
        Self { recorder, store, stop, batcher: tasks }
    }

    pub(crate) async fn stopped(&mut self) -> Result<Flushed, LostAtShutdown> {
        self.stop.cancel();
        self.batcher.join_next().await.unwrap().unwrap()
    }

    pub(crate) fn record(&self, entries: impl IntoIterator<Item = u64>) {
        for n in entries {
            self.recorder.record(entry(n)).unwrap();
        }
    }
}

/// Lets that much time pass, at once.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn noon() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn id(n: u64) -> EntryId {
    EntryId::at(noon() + TimeDelta::milliseconds(n as i64), n)
}

pub(crate) fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<EntryId> {
    numbers.into_iter().map(id).collect()
}

pub(crate) fn entry(n: u64) -> RedactedEntry {
    heavy(n, 0)
}

/// An entry with so many bytes of detail.
pub(crate) fn heavy(n: u64, bytes: usize) -> RedactedEntry {
    let detail = DetailJson::parse(format!(r#"{{"summary":"{}"}}"#, "x".repeat(bytes))).unwrap();
    RedactedEntry::sample(Entry { detail, ..Entry::sample(id(n)) })
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(Noon)
}

pub(crate) fn entropy() -> Arc<dyn Entropy> {
    Arc::new(Counter::default())
}

struct Noon;

impl Clock for Noon {
    fn now(&self) -> DateTime<Utc> {
        noon()
    }
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn bits(&self) -> u64 {
        // Far from the numbers that entries are made of.
        (1 << 40) + self.0.fetch_add(1, Ordering::Relaxed)
    }
}

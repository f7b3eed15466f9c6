//! Finds out what came of the writes that the log holds, where nobody tells: by the states of their objects.
//!
//! Two loops over one memory. The first follows the log by its positions, has [`domain::chain`] infer what can be told, and
//! settles it in batches; any replica may do so, as a finding that is known already changes nothing. The second looks at
//! objects whose last write nothing has followed, a few at a time, newest first: one replica does, which holds a lease, and
//! which also tells of writes that went unseen.
//!
//! It decides nothing itself, and needs nothing: without a database, an API server or the rights to look it falls behind and
//! catches up, and what it cannot find out stays unconfirmed.

mod memory;
mod metrics;
mod probing;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::attempt::Operation;
use domain::chain::{self, Grounds, Unseen};
use domain::clock::Clock;
use domain::finding::{Finding, Link};
use domain::kinds::Kinds;
use domain::redact::Redactor;
use domain::text::with_causes;
use domain::{EntryId, RedactedEntry};
use policy::{Rules, Sort};
use store::{EntryWriter, Leases, Links, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::policies;

use self::memory::{Key, Memory};
pub use self::metrics::Metrics;
pub use self::probing::{Answer, Looks};

/// Between two looks at the log, where there is nothing new: a query by an index.
const PERIOD: Duration = Duration::from_secs(1);
/// After a store that failed.
const RETRY: Duration = Duration::from_secs(5);
/// What is older when the program starts is not taken up: nobody waits for it any more.
const TAKEN_UP: TimeDelta = TimeDelta::hours(1);
/// Read at once; an entry as a link weighs half a KiB.
const LINKS_AT_ONCE: usize = 1_000;
/// Objects whose earlier links are read for one portion of links: a query each. The others begin with what they have.
const OBJECTS_AT_ONCE: usize = 200;
const EARLIER_LINKS: usize = 256;

const LEASE: &str = "outcomes";
const LEASE_FOR: TimeDelta = TimeDelta::seconds(30);
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// An unseen write is told once nobody can still bring an entry of it: a replica's queue is written within seconds.
const TOLD_AFTER: TimeDelta = TimeDelta::seconds(30);
/// Where the API server's audit events come in: they come within 30 s, and tell more of it.
const TOLD_AFTER_EVENTS: TimeDelta = TimeDelta::seconds(60);
/// Policies that are not in force any more may have left out what is noticed now.
const FORMER_FOR: TimeDelta = TimeDelta::hours(1);
const FORMER_MAX: usize = 32;

const COUNTED_EVERY: Duration = Duration::from_secs(15);
/// Of which ages an entry that is still unconfirmed is counted: younger ones may yet be settled, of older ones nobody waits.
const COUNTED_FROM: TimeDelta = TimeDelta::hours(1);
const COUNTED_TO: TimeDelta = TimeDelta::minutes(2);

const _: () = assert!(2 * RENEW_AFTER.as_secs() < LEASE_FOR.num_seconds() as u64);

/// What of a store this works on.
pub trait Books: Links + store::Outcomes + Leases + EntryWriter {}

impl<T: Links + store::Outcomes + Leases + EntryWriter + ?Sized> Books for T {}

/// What an [`Outcomes`] works with.
pub struct Parts<S: ?Sized, L> {
    pub store: Arc<S>,
    pub cluster: L,
    pub clock: Arc<dyn Clock>,
    pub settings: Settings,
    /// The policies in force, and whether it is known which there are: before, nothing is told of unseen writes.
    pub rules: watch::Receiver<Arc<Rules>>,
    pub policies: watch::Receiver<policies::Status>,
    pub kinds: watch::Receiver<Arc<Kinds>>,
    /// None while there is no key: nothing is looked at.
    pub redactor: watch::Receiver<Option<Redactor>>,
    pub metrics: Metrics,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Of which cluster: what its entries bear.
    pub cluster: String,
    /// A name that no other process has.
    pub holder: String,
    /// Whether the API server's audit events are to come in.
    pub expects_events: bool,
}

pub struct Outcomes<S: ?Sized, L> {
    parts: Parts<S, L>,
    memory: Mutex<Memory>,
    /// Whether this process holds the lease.
    holds: watch::Sender<bool>,
    spoke: watch::Sender<Option<DateTime<Utc>>>,
}

/// Where in the log the first loop is, and what it has to come back to.
struct Reading {
    position: i64,
    since: EntryId,
    /// Objects of which more can be told in a while.
    awaited: HashSet<Key>,
    held_at: Option<Instant>,
    counted_at: Option<Instant>,
    /// Policies that were in force until then.
    former: Vec<(DateTime<Utc>, Arc<Rules>)>,
    current: Arc<Rules>,
    /// Entries that the store did not take yet.
    untold: Vec<RedactedEntry>,
}

impl<S: Books + ?Sized, L: Looks> Outcomes<S, L> {
    pub fn new(parts: Parts<S, L>) -> Self {
        Self { parts, memory: Mutex::default(), holds: watch::Sender::new(false), spoke: watch::Sender::default() }
    }

    /// When the log was last gone through to its end.
    pub fn spoke(&self) -> watch::Receiver<Option<DateTime<Utc>>> {
        self.spoke.subscribe()
    }

    /// Goes on until `stop`. To be run once the schema is there.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
            () = self.probe() => {}
        }
        if *self.holds.borrow()
            && let Ok(Some(fence)) = self.hold().await
            && let Err(error) = self.parts.store.release(&fence).await
        {
            debug!(error = &error as &dyn std::error::Error, "could not release the lease of outcomes");
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What a panic left is still a memory: at worst something is not told.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hold(&self) -> Result<Option<store::Fence>, StoreError> {
        let for_ = LEASE_FOR.to_std().unwrap_or_default();
        self.parts.store.hold(LEASE, &self.parts.settings.holder, for_).await
    }

    async fn follow(&self) {
        let start = self.parts.clock.now();
        let mut reading = Reading {
            position: 0,
            since: EntryId::not_before(start - TAKEN_UP),
            awaited: HashSet::new(),
            held_at: None,
            counted_at: None,
            former: Vec::new(),
            current: self.parts.rules.borrow().clone(),
            untold: Vec::new(),
        };
        let mut silent = false;
        loop {
            match self.turn(&mut reading).await {
                Ok(()) => {
                    silent = false;
                    self.spoke.send_replace(Some(self.parts.clock.now()));
                    sleep(PERIOD).await;
                }
                Err(error) => {
                    if silent {
                        debug!(error = with_causes(&error), "outcomes could not be followed");
                    } else {
                        warn!(error = with_causes(&error), "outcomes could not be followed; trying again");
                    }
                    silent = true;
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Goes through what is new to its end, and through what more can be told of now.
    async fn turn(&self, reading: &mut Reading) -> Result<(), StoreError> {
        self.keep_lease(reading).await?;
        self.take_up_rules(reading);
        loop {
            let cluster = &self.parts.settings.cluster;
            let links = self.parts.store.links(cluster, reading.position, reading.since, LINKS_AT_ONCE).await?;
            let is_all = links.len() < LINKS_AT_ONCE;
            let position = links.iter().map(|link| link.position).max();
            let touched = self.learn(links).await?;
            reading.awaited.extend(touched);
            reading.position = position.unwrap_or(reading.position).max(reading.position);
            if is_all {
                break;
            }
        }
        reading.awaited.extend(self.memory().take_looked());
        self.tell(reading).await?;
        self.count(reading).await
    }

    async fn keep_lease(&self, reading: &mut Reading) -> Result<(), StoreError> {
        if reading.held_at.is_some_and(|at| at.elapsed() < RENEW_AFTER) {
            return Ok(());
        }
        let held = self.hold().await;
        let holds = matches!(held, Ok(Some(_)));
        self.holds.send_if_modified(|held| std::mem::replace(held, holds) != holds);
        reading.held_at = Some(Instant::now());
        held.map(drop)
    }

    fn take_up_rules(&self, reading: &mut Reading) {
        let now = self.parts.clock.now();
        let current = self.parts.rules.borrow().clone();
        if !Arc::ptr_eq(&current, &reading.current) {
            reading.former.push((now, std::mem::replace(&mut reading.current, current)));
        }
        reading.former.retain(|(until, _)| now - *until < FORMER_FOR);
        let too_many = reading.former.len().saturating_sub(FORMER_MAX);
        reading.former.drain(..too_many);
    }

    /// Takes links up, with what went before them where their object is not remembered. Tells of which objects.
    async fn learn(&self, links: Vec<Link>) -> Result<HashSet<Key>, StoreError> {
        let mut touched = HashSet::new();
        let mut read = 0;
        for link in links.into_iter().filter(chain::is_of_a_chain) {
            let key = Key::of(&link);
            let state = self.memory().knows(&key, &link);
            match state {
                memory::Known::Fully => {}
                // Nothing follows from it, or nothing that was not told by whoever settled it.
                memory::Known::Settled => continue,
                memory::Known::Not if read < OBJECTS_AT_ONCE => {
                    read += 1;
                    let object = key.object(&self.parts.settings.cluster);
                    let earlier = self.parts.store.links_of(&object, link.id, EARLIER_LINKS).await?;
                    let is_all = earlier.len() < EARLIER_LINKS;
                    self.memory().begin(&key, earlier, is_all);
                }
                memory::Known::Not => self.memory().begin(&key, Vec::new(), false),
            }
            self.memory().learn(&key, link);
            touched.insert(key);
        }
        Ok(touched)
    }

    async fn tell(&self, reading: &mut Reading) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        let tells_unseen = *self.holds.borrow() && self.parts.policies.borrow().known;
        let wait = if self.parts.settings.expects_events { TOLD_AFTER_EVENTS } else { TOLD_AFTER };
        let mut findings: Vec<(Key, Finding)> = Vec::new();
        let mut unseen = Vec::new();
        {
            let mut memory = self.memory();
            let memory = &mut *memory;
            let (lead, objects) = (memory.lead(), &mut memory.objects);
            reading.awaited.retain(|key| {
                let Some(held) = objects.get_mut(key) else { return false };
                let age = now - held.changed;
                if age <= chain::SETTLED_AFTER * 2 || !held.inferred {
                    findings.extend(held.chain.infer(now, lead).into_iter().map(|finding| (key.clone(), finding)));
                    held.inferred = age > chain::SETTLED_AFTER;
                }
                if age <= wait + chain::SETTLED_AFTER {
                    return true;
                }
                if tells_unseen {
                    let found = held.chain.unseen(now, wait, lead);
                    unseen.extend(found.into_iter().filter_map(|unseen| {
                        let link = held.chain.link(unseen.found_by)?.clone();
                        Some((unseen, link))
                    }));
                }
                !held.inferred
            });
        }
        self.settle(findings).await?;
        let told = unseen.iter().filter(|(unseen, link)| self.is_told(reading, unseen, link));
        let told: Vec<_> = told.map(|(unseen, link)| unseen.entry(link, &self.parts.settings.cluster)).collect();
        self.parts.metrics.unseen(told.len(), unseen.len() - told.len());
        reading.untold.extend(told);
        if !reading.untold.is_empty() {
            self.parts.store.write(&reading.untold).await?;
            reading.untold.clear();
        }
        Ok(())
    }

    async fn settle(&self, found: Vec<(Key, Finding)>) -> Result<(), StoreError> {
        if found.is_empty() {
            return Ok(());
        }
        let findings: Vec<_> = found.iter().map(|(_, finding)| *finding).collect();
        let settled = self.parts.store.settle(&findings).await;
        let mut memory = self.memory();
        for (key, finding) in &found {
            match &settled {
                Ok(()) => memory.settled(key, finding),
                Err(_) => memory.is_to_be_inferred_again(key, self.parts.clock.now()),
            }
        }
        if settled.is_ok() {
            self.parts.metrics.settled(&findings);
        }
        settled
    }

    /// Whether it is sure, and should have been seen by what is and was in force.
    fn is_told(&self, reading: &Reading, unseen: &Unseen, link: &Link) -> bool {
        let kind = link.resource.kind();
        let kinds = self.parts.kinds.borrow().clone();
        let sort = Sort {
            operation: Operation::Update,
            api_group: &link.api_group,
            resource: kinds.plural(&link.api_group, kind),
            subresource: link.resource.subresource(),
            namespace: &link.namespace,
        };
        let all = reading.former.iter().map(|(_, rules)| rules).chain([&reading.current]);
        unseen.grounds == Grounds::Said
            && !is_excluded(&link.api_group, kind)
            && !all.into_iter().any(|rules| rules.may_skip(&sort))
    }

    async fn count(&self, reading: &mut Reading) -> Result<(), StoreError> {
        if reading.counted_at.is_some_and(|at| at.elapsed() < COUNTED_EVERY) {
            return Ok(());
        }
        let now = self.parts.clock.now();
        let (from, to) = (EntryId::not_before(now - COUNTED_FROM), EntryId::not_before(now - COUNTED_TO));
        self.parts.metrics.unconfirmed(self.parts.store.unconfirmed(from, to).await?);
        reading.counted_at = Some(Instant::now());
        Ok(())
    }
}

/// What the API server shows us only of some writers, whatever the policies say: see [`crate::registration::EXCLUSIONS`].
fn is_excluded(api_group: &str, kind: &str) -> bool {
    matches!(
        (api_group, kind),
        ("", "Endpoints" | "Event")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("events.k8s.io", "Event")
            | ("coordination.k8s.io", "Lease")
    )
}

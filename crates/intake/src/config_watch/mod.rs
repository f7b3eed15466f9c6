//! What no webhook is asked about, seen by watching: the configurations of webhooks and admission policies, and what the
//! program itself is made of.
//!
//! Every replica follows and remembers what it saw last; a change is the difference to that. One, by a lease, records:
//! after a moment, in which a webhook from the API server's own disk may have told of it with its user. What a replica saw
//! and did not record it keeps for a minute, so nothing is lost between two holders of the lease.
//!
//! Who begins to look compares what is there with the last entry of each object: what differs was changed while nobody
//! looked, and what is gone was deleted. What was never recorded is taken as it is.
//!
//! Who made a change is not known here. The API server's audit event knows, and is joined to the entry by the object and
//! its state (`store::Outcomes::join_late`).

mod known;
mod memory;
mod waiting;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cluster::{Cluster, Collection, Heard};
use domain::attempt::{Decision, Unredacted};
use domain::clock::{Clock, Entropy};
use domain::entry::ObjectHash;
use domain::finding::Link;
use domain::id::Minter;
use domain::kinds::Kinds;
use domain::query::{EntryQuery, Filter, ResourceFilter, Scope};
use domain::redact::Redactor;
use domain::{Action, EntryId, Outcome, RedactedEntry, Seen, Sighting, Terms};
use futures::future::join_all;
use pipeline::Recorder;
use policy::{Facts, Rule, Rules};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{EntryReader, Fence, Leases, Links, ObjectRef, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::known::{Verdict, compare, told_by};
use self::memory::{Difference, Key, Memory, Remembered};
use self::waiting::{Change, Waiting};
use self::watched::{WATCHED, Watched, collections};

/// Who records: one of all replicas.
const LEASE_NAME: &str = "config-watch";
const LEASE: Duration = Duration::from_secs(15);
const HOLD_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at what waits.
const TICK: Duration = Duration::from_secs(1);
/// Until it is taken in, what is heard waits with the API server.
const HEARD_MAX: usize = 64;
/// Of one object: more than its writes within the minutes in which one may be told twice.
const LINKS_MAX: usize = 50;
/// The registration's kind.
const REGISTRATION: &str = "ValidatingWebhookConfiguration";
/// To let the lease go; it runs out by itself.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Of one kind, newest first, in which what is gone is looked for.
const GONE_AMONG: &str = "500";

const _: () = assert!(HOLD_EVERY.as_secs() * 2 < LEASE.as_secs());

#[derive(Clone, Debug)]
pub struct Settings {
    /// Stamped on the entries.
    pub cluster: String,
    /// The program's own.
    pub namespace: String,
    /// The registration, whose keeper records what is done to it: a ValidatingWebhookConfiguration.
    pub registration: &'static str,
    /// No other process's.
    pub holder: String,
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Of what is not served nothing is asked.
    pub kinds: watch::Receiver<Arc<Kinds>>,
}

/// How the watch goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The kinds of which nothing is heard at the moment, with the reason.
    pub failing: BTreeMap<&'static str, String>,
    /// The kinds of which all objects have been seen.
    pub listed: BTreeSet<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub struct Metrics {
    recorded: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let help = "Entries recorded of changes that no webhook is asked about";
        registry.register("config_watch_entries", help, self.recorded.clone());
    }
}

/// What a [`ConfigWatch`] works with.
pub struct Parts {
    pub cluster: Cluster,
    pub entries: Arc<dyn EntryReader>,
    pub links: Arc<dyn Links>,
    pub leases: Arc<dyn Leases>,
    pub recorder: Recorder,
    pub redactor: Redactor,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// A listing or a change. It may be silent for long, and all the same well.
    pub heard: crate::Heard,
    pub metrics: Metrics,
}

pub struct ConfigWatch {
    parts: Parts,
    settings: Settings,
    status: watch::Sender<Status>,
    minter: Minter,
    memory: Memory,
    waiting: Waiting,
    /// By their numbers, as they are followed.
    versions: BTreeMap<usize, String>,
    turn: Turn,
}

/// Whose turn it is to record.
#[derive(Default)]
struct Turn {
    /// The lease, and until when it is certainly ours.
    held: Option<(Fence, Instant)>,
    /// It was asked for then.
    asked: Option<Instant>,
    /// Somebody else has it, for sure.
    others: bool,
    /// The collections that were compared with the log since it is ours.
    compared: BTreeSet<usize>,
}

impl ConfigWatch {
    /// Tells into `status` how it goes.
    pub fn new(settings: Settings, parts: Parts, status: watch::Sender<Status>) -> Self {
        let (minter, memory, waiting) = (Minter::default(), Memory::default(), Waiting::default());
        Self { parts, settings, status, minter, memory, waiting, versions: BTreeMap::new(), turn: Turn::default() }
    }

    /// Watches until `stop`. To be run once the policies are known, and the schema is there.
    pub async fn run(mut self, stop: CancellationToken) {
        let (tell, mut heard) = mpsc::channel(HEARD_MAX);
        let (cluster, namespace) = (self.parts.cluster.clone(), self.settings.namespace.clone());
        let mut kinds = self.settings.kinds.clone();
        while !stop.is_cancelled() {
            let followed = collections(&kinds.borrow_and_update(), &namespace);
            self.versions = followed.iter().map(|(number, of)| (*number, of.version.clone())).collect();
            let follow = async {
                join_all(followed.iter().map(|(number, of)| cluster.follow_objects(*number, of, &tell))).await;
                std::future::pending::<()>().await;
            };
            let mut follow = std::pin::pin!(follow);
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = others(&mut kinds, &followed, &namespace) => break,
                    Some((number, what)) = heard.recv() => self.hear(number, what),
                    _ = tick.tick() => self.look().await,
                    () = &mut follow => {}
                }
            }
        }
        self.leave().await;
    }

    fn hear(&mut self, number: usize, mut heard: Heard) {
        let Some(watched) = WATCHED.get(number) else { return };
        self.tell(watched, &heard);
        let ours = |name: &str| watched.kind == REGISTRATION && name == self.settings.registration;
        match &mut heard {
            Heard::All(objects) => objects.retain(|object| !ours(&object.name)),
            Heard::Applied(object) | Heard::Deleted(object) if ours(&object.name) => return,
            Heard::Applied(_) | Heard::Deleted(_) | Heard::Failed(_) => {}
        }
        let redactor = &self.parts.redactor;
        let differences = self.memory.hear(number, heard, |object| domain::state(Unredacted(object), redactor));
        for Difference { key, before, after } in differences {
            let whole = before.as_ref().and_then(|before| before.json.as_deref()).map(Unredacted);
            let seen = match (&before, whole, after.as_deref().map(Unredacted)) {
                (None, _, Some(after)) => Seen::Created(after),
                (Some(_), Some(before), Some(after)) => Seen::Changed { before, after },
                // Too large to be remembered.
                (Some(Remembered { hash: Some(before), .. }), None, Some(after)) => {
                    Seen::FoundOther { before: *before, after }
                }
                (Some(_), None, Some(after)) => Seen::Created(after),
                (Some(_), Some(before), None) => Seen::Deleted(before),
                (Some(before), None, None) => Seen::FoundGone { before: before.hash, uid: &before.uid },
                (None, _, None) => continue,
            };
            if let Some(entry) = self.entry(&key, seen) {
                self.waiting.push(key, entry, Instant::now());
            }
        }
        while let Some(change) = self.waiting.surplus() {
            if !self.turn.others {
                self.record(change.entry);
            }
        }
    }

    /// None where the policies record nothing of it, or where nothing but noise changed.
    fn entry(&self, (number, namespace, name): &Key, seen: Seen<'_>) -> Option<RedactedEntry> {
        let watched = WATCHED.get(*number)?;
        let kinds = self.settings.kinds.borrow().clone();
        let sighting = Sighting {
            id: self.minter.mint(self.parts.clock.now(), self.parts.entropy.bits()),
            api_group: watched.group,
            version: self.versions.get(number).map_or("", String::as_str),
            kind: watched.kind,
            resource: kinds.served(watched.group, watched.kind).map_or("", |served| &served.plural),
            namespace,
            name,
            seen,
            unknown_user: watched.place.unknown_user(),
        };
        let rules = Arc::clone(&self.settings.rules.borrow());
        let Rule { policy, level, redact, .. } = rules.decide(&sighting.attempt(), &Asked(&sighting)).rule;
        let terms = Terms { cluster: &self.settings.cluster, policy, level: (*level)?, redact };
        match domain::decide_seen(&sighting, &self.parts.redactor, &terms) {
            Ok(Decision::Record(entry)) => Some(*entry),
            Ok(Decision::Skip(_)) => None,
            // What was just serialized is no bad JSON.
            Err(error) => {
                debug!(%error, kind = watched.kind, "a change is not recorded");
                None
            }
        }
    }

    async fn look(&mut self) {
        self.hold().await;
        if self.turn.others {
            self.waiting.drop_old(Instant::now());
        }
        if !self.may_record() {
            return;
        }
        if let Err(error) = self.catch_up().await {
            debug!(%error, "what is recorded already is not known; it is asked for again");
        }
    }

    async fn hold(&mut self) {
        let now = Instant::now();
        if self.turn.asked.is_some_and(|asked| now.duration_since(asked) < HOLD_EVERY) {
            return;
        }
        self.turn.asked = Some(now);
        match self.parts.leases.hold(LEASE_NAME, &self.settings.holder, LEASE).await {
            Ok(Some(fence)) => {
                // Somebody else had it in between, or we never did.
                if self.turn.held.as_ref().is_none_or(|(held, _)| *held != fence) {
                    self.turn.compared.clear();
                }
                (self.turn.held, self.turn.others) = (Some((fence, now + LEASE)), false);
            }
            Ok(None) => (self.turn.held, self.turn.others) = (None, true),
            Err(error) => debug!(%error, "the lease is not known to be ours"),
        }
    }

    fn may_record(&self) -> bool {
        self.turn.held.as_ref().is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// Compares what was not compared yet, then records what has waited for long enough.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        for number in 0..WATCHED.len() {
            if self.memory.has_listed(number) && !self.turn.compared.contains(&number) {
                self.compare(number).await?;
                self.turn.compared.insert(number);
            }
        }
        while let Some(change) = self.waiting.due(Instant::now()).filter(|_| self.may_record()) {
            let links = self.links(&change.key).await?;
            let told = told_by(&links, &change.entry, |id| self.waiting.is_accounted(id));
            let Some(change) = self.waiting.pop() else { break };
            match told {
                Some(id) => self.waiting.account(id),
                None => self.record(change.entry),
            }
        }
        Ok(())
    }

    /// What happened while nobody looked: by what is there, and by what the log has as there.
    async fn compare(&mut self, number: usize) -> Result<(), StoreError> {
        let there: Vec<(Key, Remembered)> =
            self.memory.of(number).map(|(key, object)| (key.clone(), object.clone())).collect();
        let version = self.versions.get(&number).cloned().unwrap_or_default();
        for (key, object) in &there {
            if self.waiting.has(key) {
                continue;
            }
            let links = self.links(key).await?;
            let Some(json) = object.json.as_deref().map(Unredacted) else { continue };
            let seen = match compare(&links, &object.uid, &version, object.hash) {
                Verdict::AsKnown => continue,
                Verdict::Changed { before } => Seen::FoundOther { before, after: json },
                Verdict::Created => Seen::Created(json),
                Verdict::Replaced { before, uid } => {
                    self.record_seen(key, Seen::FoundGone { before, uid: &uid });
                    Seen::Created(json)
                }
            };
            self.record_seen(key, seen);
        }
        for (key, Gone { before, uid }) in self.gone(number).await? {
            self.record_seen(&key, Seen::FoundGone { before, uid: &uid });
        }
        Ok(())
    }

    /// Of one kind what the log has as there, and is not.
    async fn gone(&self, number: usize) -> Result<Vec<(Key, Gone)>, StoreError> {
        let Some(watched) = WATCHED.get(number) else { return Ok(Vec::new()) };
        let resource =
            ResourceFilter { kind: watched.kind.to_owned(), group: Some(watched.group.to_owned()), subresource: None };
        let filter = Filter {
            resource: Some(resource),
            cluster: Some(self.settings.cluster.clone()),
            namespace: (watched.place == watched::Place::Own).then(|| self.settings.namespace.clone()),
            outcome: Some(Outcome::Confirmed),
            ..Filter::default()
        };
        let query = EntryQuery { filter, limit: GONE_AMONG.parse().unwrap_or_default(), cursor: None };
        let page = self.parts.entries.page(&Scope::Everything, &query).await?;
        let mut last = BTreeMap::new();
        for entry in page.entries.iter().filter(|entry| entry.resource.subresource().is_empty()) {
            let key = (number, entry.namespace.clone(), entry.resource_name.clone());
            last.entry(key).or_insert(entry);
        }
        let there: BTreeSet<&Key> = self.memory.of(number).map(|(key, _)| key).collect();
        let ours = |name: &str| watched.kind == REGISTRATION && name == self.settings.registration;
        let gone = last.into_iter().filter(|(key, entry)| {
            entry.action != Action::Delete && !there.contains(key) && !self.waiting.has(key) && !ours(&key.2)
        });
        Ok(gone.map(|(key, entry)| (key, Gone { before: entry.after_hash, uid: entry.object_uid.clone() })).collect())
    }

    async fn links(&self, (number, namespace, name): &Key) -> Result<Vec<Link>, StoreError> {
        let Some(watched) = WATCHED.get(*number) else { return Ok(Vec::new()) };
        let (cluster, api_group, kind) = (&self.settings.cluster, watched.group, watched.kind);
        let object = ObjectRef { cluster, api_group, kind, namespace, name };
        self.parts.links.links_of(&object, EntryId::not_before(DateTime::<Utc>::MAX_UTC), LINKS_MAX).await
    }

    fn record_seen(&mut self, key: &Key, seen: Seen<'_>) {
        if let Some(entry) = self.entry(key, seen) {
            self.record(entry);
        }
    }

    fn record(&mut self, entry: RedactedEntry) {
        self.waiting.account(entry.id);
        // What is not accepted is counted as lost by the recorder, and a gap tells of it.
        if self.parts.recorder.record(entry).is_ok() {
            self.parts.metrics.recorded.inc();
        }
    }

    fn tell(&self, watched: &Watched, heard: &Heard) {
        if !matches!(heard, Heard::Failed(_)) {
            self.parts.heard.spoke(self.parts.clock.now());
        }
        self.status.send_modify(|status| match heard {
            Heard::Failed(error) => {
                if status.failing.insert(watched.kind, error.clone()).is_none() {
                    warn!(
                        kind = watched.kind,
                        error, "nothing is heard of a kind that only a watch tells of; trying again"
                    );
                }
            }
            _ => {
                status.failing.remove(watched.kind);
                status.listed.insert(watched.kind);
            }
        });
    }

    /// What still waits is recorded, as far as it is ours to do so, and the next one has the lease at once.
    async fn leave(&mut self) {
        if !self.may_record() {
            return;
        }
        while let Some(Change { entry, .. }) = self.waiting.pop() {
            self.record(entry);
        }
        if let Some((fence, _)) = self.turn.held.take() {
            // Else it runs out by itself.
            let _released = tokio::time::timeout(LEAVE_MAX, self.parts.leases.release(&fence)).await;
        }
    }
}

struct Gone {
    before: Option<ObjectHash>,
    uid: String,
}

/// Comes back when something else is to be followed.
async fn others(kinds: &mut watch::Receiver<Arc<Kinds>>, followed: &[(usize, Collection)], namespace: &str) {
    if kinds.wait_for(|kinds| collections(kinds, namespace) != followed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What an expression of a policy can ask for, as far as it is known.
struct Asked<'s>(&'s Sighting<'s>);

impl Facts for Asked<'_> {
    fn request(&self) -> Option<Value> {
        let Sighting { api_group, version, kind, resource, namespace, name, .. } = self.0;
        let operation = self.0.attempt().operation.as_str();
        let mut request = json!({
            "operation": operation, "name": name,
            "kind": {"group": api_group, "version": version, "kind": kind},
            "resource": {"group": api_group, "version": version, "resource": resource},
            "userInfo": {"username": "", "groups": []},
        });
        if !namespace.is_empty() {
            request["namespace"] = json!(namespace);
        }
        Some(request)
    }

    fn object(&self) -> Option<Value> {
        value(self.0.attempt().object)
    }

    fn old_object(&self) -> Option<Value> {
        value(self.0.attempt().old_object)
    }
}

/// None where it cannot be read, which is another thing than that there is none.
fn value(object: Option<Unredacted<'_>>) -> Option<Value> {
    object.map_or(Some(Value::Null), |Unredacted(raw)| serde_json::from_str(RawValue::get(raw)).ok())
}

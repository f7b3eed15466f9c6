//! The API server's audit events, by which it becomes known what came of a write: posted by it to `POST /audit-events`
//! ([`router`]), read from the file that it logs to ([`LogFile`]), or given to be imported.
//!
//! What an event is worth is the domain's to say; here it is read, held against the policies in force, and counted. A list
//! is taken as a whole or not at all, and an event that is told again comes to nothing new, so who is told to wait loses
//! nothing.

mod callers;
mod door;
mod list;
mod log_file;
mod metrics;
mod place;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use domain::attempt::Attempt;
use domain::event::{AuditEvent, Came, Covered, Judge, Judgement, Scene, tell};
use domain::kinds::Kinds;
use domain::redact::Redactor;
use policy::{Facts, Rules};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

pub use callers::{Callers, CallersError};
pub use door::{BODY_BYTES_MAX, Door, EVENTS_MAX, router};
pub use list::{Unread, read};
pub use log_file::{LINE_BYTES_MAX, LogFile, place_of};
pub use metrics::Metrics;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Stamped on the entries.
    pub cluster: String,
    /// The program's own, of which nothing is recorded.
    pub namespace: String,
    pub rules: watch::Receiver<Arc<Rules>>,
    pub kinds: watch::Receiver<Arc<Kinds>>,
    /// Has the kinds asked for anew.
    pub ask: Arc<Notify>,
}

/// Makes entries of events, by what is in force at the moment.
#[derive(Clone)]
pub struct Teller {
    settings: Settings,
    redactor: Redactor,
    /// Plurals that were asked for in vain, by group.
    vain: Arc<Mutex<HashSet<(String, String)>>>,
    since: Option<Since>,
}

/// Since when our webhook was seen to be registered; None while it is not.
pub type Since = watch::Receiver<Option<DateTime<Utc>>>;

/// How long an event waits for the kind of a plural that is not known: a definition may be as new as its first object.
const KIND_KNOWN_WITHIN: Duration = Duration::from_secs(4);
/// Anybody may name plurals that there are not; past so many nothing is asked for.
const VAIN_MAX: usize = 256;

/// What a list of events comes to.
#[derive(Debug, Default)]
pub struct Lot {
    pub write: Vec<RedactedEntry>,
    pub join: Vec<RedactedEntry>,
    pub came: Vec<Came>,
}

impl Lot {
    pub fn add(&mut self, told: domain::event::Told) {
        self.write.extend(told.write);
        self.join.extend(told.join);
        self.came.push(told.came);
    }
}

impl Teller {
    pub fn new(settings: Settings, redactor: Redactor) -> Self {
        Self { settings, redactor, vain: Arc::default(), since: None }
    }

    /// Groups and plurals whose kind is not known and was not asked for yet.
    fn unknown(&self, events: &[AuditEvent<'_>]) -> Vec<(String, String)> {
        let kinds = self.settings.kinds.borrow().clone();
        let written = events.iter().filter_map(AuditEvent::written);
        let unknown = written.filter(|(group, plural)| kinds.kind(group, plural).is_none());
        let unknown: HashSet<_> = unknown.map(|(group, plural)| (group.to_owned(), plural.to_owned())).collect();
        let vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        if vain.len() >= VAIN_MAX { Vec::new() } else { unknown.difference(&vain).cloned().collect() }
    }

    /// Asks for them, and waits for a moment.
    async fn ask_for(&self, plurals: Vec<(String, String)>) {
        let mut kinds = self.settings.kinds.clone();
        self.settings.ask.notify_one();
        let known = kinds.wait_for(|kinds| plurals.iter().all(|(group, plural)| kinds.kind(group, plural).is_some()));
        if !matches!(timeout(KIND_KNOWN_WITHIN, known).await, Ok(Ok(_))) {
            self.vain.lock().unwrap_or_else(PoisonError::into_inner).extend(plurals);
        }
    }

    /// Of a write before that nobody can say whether our webhook should have seen it. A log reaches back further than what
    /// is posted.
    #[must_use]
    pub fn covered_since(self, since: Since) -> Self {
        Self { since: Some(since), ..self }
    }

    pub fn tell(&self, events: &[AuditEvent<'_>]) -> Lot {
        let (rules, kinds) = (self.settings.rules.borrow().clone(), self.settings.kinds.borrow().clone());
        // Where it does not matter, since ever.
        let since = match &self.since {
            None => Some(DateTime::UNIX_EPOCH),
            Some(since) => *since.borrow(),
        };
        let judge = InForce { rules: &rules, namespace: &self.settings.namespace, since };
        let scene = Scene { cluster: &self.settings.cluster, kinds: &kinds, redactor: Some(&self.redactor) };
        let mut lot = Lot::default();
        for event in events {
            lot.add(tell(event, &judge, &scene));
        }
        lot
    }
}

struct InForce<'r> {
    rules: &'r Rules,
    namespace: &'r str,
    since: Option<DateTime<Utc>>,
}

/// An event has no objects, so what an expression asks for cannot be told.
struct NoFacts;

impl Facts for NoFacts {
    fn request(&self) -> Option<serde_json::Value> {
        None
    }

    fn object(&self) -> Option<serde_json::Value> {
        None
    }

    fn old_object(&self) -> Option<serde_json::Value> {
        None
    }
}

impl Judge for InForce<'_> {
    fn excludes(&self, request: &Attempt<'_>) -> bool {
        is_left_out(request, self.namespace)
    }

    fn judge(&self, request: &Attempt<'_>) -> Judgement<'_> {
        let decided = self.rules.decide(request, &NoFacts);
        let is_covered = self.since.is_some_and(|since| request.id.timestamp() >= since);
        let covered = match (policy::is_invisible(request.api_group, request.resource), is_covered) {
            (true, _) => Covered::ByNone,
            (false, true) => Covered::ByWebhook,
            (false, false) => Covered::Before,
        };
        Judgement {
            policy: &decided.rule.policy,
            wanted: decided.rule.level.is_some(),
            certain: decided.failed == 0,
            // Another rule may be the one, with something to hide.
            redacts: decided.failed > 0 || !decided.rule.redact.is_empty(),
            covered,
        }
    }

    fn built_in(&self) -> &str {
        &self.rules.built_in().policy
    }
}

/// By the registration, whatever the policies say: what nobody looks for, and the program's own namespace.
pub fn is_left_out(request: &Attempt<'_>, namespace: &str) -> bool {
    let is_own = request.namespace == namespace
        || (request.api_group.is_empty() && request.resource == "namespaces" && request.name == namespace);
    policy::is_excluded(request) || (is_own && !namespace.is_empty())
}

//! Which entries an event is worth, decided by nothing but its arguments.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::annotations::{Attempt as Annotated, Attempted, DENYING_WEBHOOK, WEBHOOK};
use super::message::{bounded, without_values};
use super::session::Session;
use super::{AuditEvent, ObjectReference, Stage};
use crate::attempt::{Attempt, Operation};
use crate::entry::{
    Action, Detail, Entry, Evidence, ObjectHash, Outcome, RedactedEntry, RequestFacts, Resource, Source,
};
use crate::finding::REJECTED_UNSEEN;
use crate::id::EntryId;
use crate::json::{Budget, Node, Noise, Tree};
use crate::kinds::Kinds;
use crate::redact::Redactor;
use crate::text::storable;

const USER_AGENT_CHARS_MAX: usize = 512;
/// Of what names somebody or something: Kubernetes allows a quarter of it. One event's texts are told by many entries.
const NAME_CHARS_MAX: usize = 1_024;
/// Of what a client may choose: an audit id, a path, a reason.
const WORD_CHARS_MAX: usize = 256;
/// What a 401 is of: who it was is what nobody knows.
const AUTHENTICATION: &str = "User";

/// What an entry says that the event does not.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub cluster: &'a str,
    pub kinds: &'a Kinds,
    /// None: objects are not hashed, and what a watch saw of the same change is not looked for.
    pub redactor: Option<&'a Redactor>,
}

/// What the policies in force say, of a request without its objects.
pub trait Judge {
    /// Whether it is one of those that nobody looks for, which the registration leaves out.
    fn excludes(&self, request: &Attempt<'_>) -> bool;

    fn judge(&self, request: &Attempt<'_>) -> Judgement<'_>;

    /// The policy of what no AuditPolicy is about: who was not let in.
    fn built_in(&self) -> &str;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement<'p> {
    pub policy: &'p str,
    /// False: the policy records nothing.
    pub wanted: bool,
    /// False: it takes the object to decide, so it may be another policy's.
    pub certain: bool,
    /// What it refuses to show may be in a message about it.
    pub redacts: bool,
    pub covered: Covered,
}

/// Whether our webhook should have been asked about a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    ByWebhook,
    /// The API server shows it to no webhook.
    ByNone,
    /// Nobody can say: it is from another time.
    Unknown,
    /// Nobody can say, and so it is not told: it is from before the registration was seen in place.
    Before,
}

/// What is to be done with an event.
#[derive(Debug)]
pub struct Told {
    /// Entries of their own.
    pub write: Vec<RedactedEntry>,
    /// What is said of entries that others have made.
    pub join: Vec<RedactedEntry>,
    pub came: Came,
}

/// What came of an event, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Came {
    /// It tells the outcome of entries.
    Joined,
    /// A write that no webhook can see, a session's end.
    Recorded,
    /// A write that our webhook should have seen and has not.
    Unseen,
    Refused,
    Unauthenticated,
    /// What has not come to anything yet, or was said by another of its stages.
    Early,
    /// Nothing was to be written, and no policy asks for reads.
    Read,
    DryRun,
    /// It changed nothing, or only entries of other attempts are worse for it.
    Unchanged,
    /// Left out by the registration.
    Excluded,
    /// The policies want nothing of it.
    Unwanted,
    /// Whether the policies want it, or whether it was a dry run, only its object could tell; or whether our webhook should
    /// have been asked, only somebody who was there.
    Undecided,
    /// It ended in a way that leaves open what was stored: the entries wait for the chain.
    Unproven,
}

impl Came {
    pub const ALL: [Self; 13] = [
        Self::Joined,
        Self::Recorded,
        Self::Unseen,
        Self::Refused,
        Self::Unauthenticated,
        Self::Early,
        Self::Read,
        Self::DryRun,
        Self::Unchanged,
        Self::Excluded,
        Self::Unwanted,
        Self::Undecided,
        Self::Unproven,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Recorded => "recorded",
            Self::Unseen => "unseen",
            Self::Refused => "refused",
            Self::Unauthenticated => "unauthenticated",
            Self::Early => "early",
            Self::Read => "read",
            Self::DryRun => "dry_run",
            Self::Unchanged => "unchanged",
            Self::Excluded => "excluded",
            Self::Unwanted => "unwanted",
            Self::Undecided => "undecided",
            Self::Unproven => "unproven",
        }
    }
}

impl Told {
    fn nothing(came: Came) -> Self {
        Self { write: Vec::new(), join: Vec::new(), came }
    }
}

pub fn tell(event: &AuditEvent<'_>, judge: &dyn Judge, scene: &Scene<'_>) -> Told {
    let nowhere = ObjectReference::default();
    let object = event.object_ref.as_ref().unwrap_or(&nowhere);
    let code = event.code();
    let operation = operation(event, object, code);
    let attempts = &event.annotations.attempts;
    let kind = scene.kinds.kind(&object.api_group, &object.resource).unwrap_or(&object.resource);
    // A backend's 401 is of somebody who is known.
    let is_nobody = code == Some(401) && attempts.is_empty() && event.user.username.is_empty();
    let request = request(event, object, kind, operation.unwrap_or(Operation::Connect));
    if let (Some(operation), Some(code)) = (operation, code)
        && let Some(came) = dry_run(event, operation, code)
        && !is_nobody
    {
        return Told::nothing(came);
    }
    let teller = Teller { event, object, kind, judge, judged: OnceCell::new(), scene, request: &request };
    match (event.stage, code, operation) {
        (Stage::RequestReceived, ..) | (_, None, _) => Told::nothing(Came::Early),
        _ if is_nobody => teller.unauthenticated(),
        (_, Some(_), None) => Told::nothing(Came::Read),
        (Stage::ResponseStarted, Some(101), Some(Operation::Connect)) => teller.outcome(Operation::Connect, 101),
        // A watch goes on for long.
        (Stage::ResponseStarted, Some(200), Some(Operation::Watch)) => teller.read(Operation::Watch, 200),
        (Stage::ResponseStarted, ..) => Told::nothing(Came::Early),
        (_, Some(code), Some(operation)) if !operation.is_write() => teller.read(operation, code),
        (_, Some(code), Some(operation)) => teller.ended(operation, code),
    }
}

/// None for what is about no object.
fn operation(event: &AuditEvent<'_>, object: &ObjectReference<'_>, code: Option<u16>) -> Option<Operation> {
    let connects = object.api_group.is_empty()
        && matches!(&*object.subresource, "exec" | "attach" | "portforward" | "proxy")
        && matches!(&*object.resource, "pods" | "services" | "nodes");
    match &*event.verb {
        // By whatever method.
        _ if connects => Some(Operation::Connect),
        _ if object.resource.is_empty() => None,
        "create" => Some(Operation::Create),
        // An apply, and a replacement of what is not there, where the resource allows that.
        "update" | "patch" if code == Some(201) => Some(Operation::Create),
        "update" | "patch" => Some(Operation::Update),
        "delete" | "deletecollection" => Some(Operation::Delete),
        "get" => Some(Operation::Get),
        "list" => Some(Operation::List),
        "watch" => Some(Operation::Watch),
        _ => None,
    }
}

/// What our webhook has seen is believed before all. The query counts for what has no other options: a connection ignores
/// it, and so does a deletion that has a body, which an event shows only at a higher level than is needed.
fn dry_run(event: &AuditEvent<'_>, operation: Operation, code: u16) -> Option<Came> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Options<'a> {
        #[serde(borrow, default)]
        dry_run: Option<Vec<Cow<'a, str>>>,
    }
    let saw = |what| event.annotations.attempts.iter().any(|attempt| attempt.what == what);
    if saw(Attempted::Recorded) {
        return None;
    }
    if saw(Attempted::DryRun) {
        return Some(Came::DryRun);
    }
    let (_, query) = event.uri();
    let is_asked = query.split('&').any(|pair| pair == "dryRun=All");
    let body = event.request_object.filter(|_| event.verb.starts_with("delete"));
    let options = body.map(|body| serde_json::from_str::<Options<'_>>(body.get()).unwrap_or_default());
    let is_in_body = options.map(|options| options.dry_run.unwrap_or_default().iter().any(|word| word == "All"));
    match (operation, is_in_body) {
        (Operation::Create | Operation::Update, _) => is_asked.then_some(Came::DryRun),
        (Operation::Delete, Some(is_in_body)) => is_in_body.then_some(Came::DryRun),
        (Operation::Delete, None) if is_asked && code < 400 && event.annotations.attempts.is_empty() => {
            Some(Came::Undecided)
        }
        _ => None,
    }
}

fn request<'r>(
    event: &'r AuditEvent<'_>,
    object: &'r ObjectReference<'_>,
    kind: &'r str,
    operation: Operation,
) -> Attempt<'r> {
    let acting = event.acting();
    Attempt {
        id: EntryId::at(event.request_received_timestamp, 0),
        operation,
        api_group: &object.api_group,
        kind,
        resource: &object.resource,
        subresource: &object.subresource,
        name: &object.name,
        namespace: &object.namespace,
        user: &acting.username,
        groups: acting.groups.as_deref().unwrap_or_default(),
        object: None,
        old_object: None,
        request: RequestFacts {
            verb: word(&event.verb),
            version: word(&object.api_version),
            ..RequestFacts::default()
        },
    }
}

struct Teller<'t> {
    event: &'t AuditEvent<'t>,
    object: &'t ObjectReference<'t>,
    kind: &'t str,
    judge: &'t dyn Judge,
    /// Asked once.
    judged: OnceCell<Judgement<'t>>,
    scene: &'t Scene<'t>,
    request: &'t Attempt<'t>,
}

/// An object, as far as it names itself.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    metadata: Named<'a>,
}

#[derive(Default, Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
}

/// What is said of one entry.
struct Said {
    id: EntryId,
    action: Action,
    outcome: Outcome,
    code: u16,
    policy: String,
    detail: Detail,
}

impl Teller<'_> {
    fn judgement(&self) -> Judgement<'_> {
        *self.judged.get_or_init(|| self.judge.judge(self.request))
    }

    /// Whatever it was about, but for the one thing that every client that lost its credentials asks for each second.
    fn unauthenticated(&self) -> Told {
        if self.object.resource == "leases" {
            return Told::nothing(Came::Excluded);
        }
        let (path, _) = self.event.uri();
        let summary = format!("not authenticated: {} {}", word(&self.event.verb), word(path));
        let said = self.said("authenticate", Action::Authenticate, 401, self.judge.built_in(), summary, Map::new());
        let entry = Entry {
            user: String::new(),
            real_user: String::new(),
            resource: Resource::new(AUTHENTICATION, ""),
            resource_name: String::new(),
            namespace: String::new(),
            api_group: String::new(),
            object_uid: String::new(),
            ..self.entry(said)
        };
        Told { write: vec![RedactedEntry::vouch_for(entry)], ..Told::nothing(Came::Unauthenticated) }
    }

    /// Only where a policy asks for it.
    fn read(&self, operation: Operation, code: u16) -> Told {
        let judged = self.judgement();
        match (judged.wanted && !self.judge.excludes(self.request), judged.certain) {
            (false, true) => return Told::nothing(Came::Read),
            (_, false) => return Told::nothing(Came::Undecided),
            (true, true) => {}
        }
        let action = operation.action();
        let (summary, system) = match code {
            400.. => self.refusal(action, code, judged.redacts),
            _ => (done(action).to_owned(), Map::new()),
        };
        let said = self.said("read", action, code, judged.policy, summary, system);
        let came = if code < 400 { Came::Recorded } else { Came::Refused };
        Told { write: vec![RedactedEntry::vouch_for(self.entry(said))], ..Told::nothing(came) }
    }

    fn ended(&self, operation: Operation, code: u16) -> Told {
        let session = Session::of(&self.object.subresource).filter(|_| operation == Operation::Connect);
        let (Some(session), true) = (session, code < 400) else { return self.outcome(operation, code) };
        // Of its beginning it says what the stage before it said.
        let mut told = self.outcome(operation, 101);
        let judged = self.judgement();
        let is_told = told.came == Came::Joined || (judged.wanted && judged.certain);
        // A log that tells of no stages tells of no end.
        let has_lasted = self.event.stage_timestamp > self.event.request_received_timestamp;
        if is_told && has_lasted && !self.judge.excludes(self.request) {
            told.write.push(self.end(session, code, judged.policy));
        }
        told
    }

    fn end(&self, session: Session, code: u16, policy: &str) -> RedactedEntry {
        let lasted = self.event.stage_timestamp - self.event.request_received_timestamp;
        let seconds = lasted.num_milliseconds().max(0) as f64 / 1_000.0;
        let (what, facts) = session.describe(self.event.uri().1);
        let mut system = members(facts);
        system.insert("durationSeconds".to_owned(), json!(seconds));
        let summary = format!("{what} ended after {seconds:.1} s");
        let mut said = self.said("end", Action::End, code, policy, summary, system);
        said.id = derived(self.event.stage_timestamp, &self.event.audit_id, "end");
        RedactedEntry::vouch_for(self.entry(said))
    }

    /// A failure behind admission may come after the write: a time limit, a panic, a store that does not answer in time.
    fn is_unproven(&self, code: u16) -> bool {
        let message = self.event.response_status.as_ref().map_or("", |status| &status.message);
        let refused = |webhook| message.starts_with(&format!("admission webhook {webhook:?} denied the request"));
        let is_ours = code == 503 && (refused(WEBHOOK) || refused(DENYING_WEBHOOK));
        self.event.stage == Stage::Panic || (code >= 500 && !is_ours)
    }

    fn outcome(&self, operation: Operation, code: u16) -> Told {
        let annotations = &self.event.annotations;
        if self.is_unproven(code) && annotations.attempts.iter().any(|attempt| attempt.what == Attempted::Recorded) {
            return Told::nothing(Came::Unproven);
        }
        let is_collection = self.event.verb == "deletecollection";
        let mut told = match (is_collection, code < 400) {
            (true, true) => self.collection(code),
            (true, false) => Told::nothing(Came::Unchanged),
            // One of its attempts was not seen, and none of the others can be told to be the last.
            (false, true) if annotations.failed_open => Told::nothing(Came::Unchanged),
            (false, _) => self.attempts(operation, code),
        };
        let lost = match is_collection {
            true => annotations.attempts.iter().any(|attempt| attempt.what == Attempted::Lost),
            false => self.last(operation, code).is_some_and(|last| last.what == Attempted::Lost),
        };
        let unseen = annotations.failed_open || annotations.attempts.is_empty() || lost;
        let is_told = told.join.iter().any(|entry| entry.outcome == Outcome::Rejected);
        let untold = if code < 400 { unseen } else { !is_told && told.came != Came::Unwanted };
        if untold {
            let own = self.own(operation, code, lost);
            told.write.extend(own.write);
            told.join.extend(own.join);
            told.came = if told.came == Came::Joined { Came::Joined } else { own.came };
        }
        told
    }

    /// Each object's last attempt; what became of the ones before it, if they were any, the chain tells.
    fn collection(&self, code: u16) -> Told {
        let mut last: BTreeMap<&str, &Annotated<'_>> = BTreeMap::new();
        let attempts = &self.event.annotations.attempts;
        for attempt in attempts.iter().filter(|attempt| !attempt.uid.is_empty()) {
            let known = last.entry(&attempt.uid).or_insert(attempt);
            if known.order(attempt).is_lt() {
                *known = attempt;
            }
        }
        let is_last = |attempt: &&Annotated<'_>| last.get(&*attempt.uid).is_none_or(|last| last.id == attempt.id);
        let recorded = attempts.iter().filter(|attempt| attempt.what == Attempted::Recorded).filter(is_last);
        let join: Vec<_> = recorded.map(|attempt| self.joined(attempt, Outcome::Confirmed, code)).collect();
        let came = if join.is_empty() { Came::Unchanged } else { Came::Joined };
        Told { join, ..Told::nothing(came) }
    }

    /// The attempt that came to what the request came to.
    fn last(&self, operation: Operation, code: u16) -> Option<&Annotated<'_>> {
        let attempts = &self.event.annotations.attempts;
        // Where what was created was looked for first, an attempt to change it was none that came about; and the reverse.
        let created =
            |attempt: &&Annotated<'_>| (attempt.action == Some(Action::Create)) == (operation == Operation::Create);
        let fitting = attempts.iter().filter(created).max_by(|a, b| a.order(b));
        fitting.filter(|_| code < 400).or_else(|| attempts.iter().max_by(|a, b| a.order(b)))
    }

    /// One of them was the last, and its outcome is the request's.
    fn attempts(&self, operation: Operation, code: u16) -> Told {
        let attempts = &self.event.annotations.attempts;
        let last = self.last(operation, code);
        let recorded = attempts.iter().filter(|attempt| attempt.what == Attempted::Recorded);
        let outcome = |attempt: &Annotated<'_>| match last {
            Some(last) if last.id != attempt.id => (Outcome::Superseded, REJECTED_UNSEEN),
            _ if code >= 400 => (Outcome::Rejected, code),
            _ => (Outcome::Confirmed, code),
        };
        let join: Vec<_> = recorded
            .map(|attempt| {
                let (outcome, code) = outcome(attempt);
                self.joined(attempt, outcome, code)
            })
            .collect();
        let came = match last.map(|last| last.what) {
            Some(Attempted::Unwanted) => Came::Unwanted,
            _ if join.is_empty() => Came::Unchanged,
            _ => Came::Joined,
        };
        Told { join, ..Told::nothing(came) }
    }

    /// Under the id of an attempt. Its texts are shown only where the entry that it belongs to is lost.
    fn joined(&self, attempt: &Annotated<'_>, outcome: Outcome, code: u16) -> RedactedEntry {
        let action = attempt.action.unwrap_or_else(|| self.request.operation.action());
        let judged = self.judgement();
        let (summary, system) = match outcome {
            Outcome::Rejected => self.refusal(action, code, judged.redacts),
            _ => (done(action).to_owned(), Map::new()),
        };
        let mut said = self.said("", action, code, judged.policy, summary, system);
        said.detail.omitted = Some("what the webhook saw of it was lost: only the audit event tells of it".to_owned());
        let mut entry = self.entry(Said { id: attempt.id, outcome, ..said });
        if self.event.verb == "deletecollection" {
            entry.resource_name = String::new();
        }
        RedactedEntry::vouch_for(entry)
    }

    /// What the event alone tells of.
    fn own(&self, operation: Operation, code: u16, lost: bool) -> Told {
        if self.judge.excludes(self.request) {
            return Told::nothing(Came::Excluded);
        }
        let judged = self.judgement();
        let failed_open = self.event.annotations.failed_open;
        match (judged.wanted, judged.certain) {
            (false, true) => return Told::nothing(Came::Unwanted),
            // A call that failed open was one that the policies asked for; a refusal is no object's business.
            (_, false) if code < 400 && !failed_open && !lost => return Told::nothing(Came::Undecided),
            _ if code < 400 && judged.covered == Covered::Before && !failed_open && !lost => {
                return Told::nothing(Came::Undecided);
            }
            _ => {}
        }
        let action = operation.action();
        if code >= 400 {
            let (summary, system) = self.refusal(action, code, judged.redacts);
            let said = self.said("write", action, code, judged.policy, summary, system);
            return Told { write: vec![RedactedEntry::vouch_for(self.entry(said))], ..Told::nothing(Came::Refused) };
        }
        let is_collection = self.event.verb == "deletecollection";
        let items = if is_collection { self.items() } else { None };
        if items.as_ref().is_some_and(Vec::is_empty) {
            return Told::nothing(Came::Unchanged);
        }
        // What of it was unseen nobody can say where something was seen.
        let items = items.filter(|_| self.event.annotations.attempts.is_empty());
        let (came, note) = match judged.covered {
            _ if failed_open => (Came::Unseen, "the webhook was called and did not answer"),
            _ if lost => (Came::Unseen, "the webhook had no room for it"),
            Covered::ByWebhook if !is_collection || items.is_some() => (Came::Unseen, "the webhook was not called"),
            Covered::ByWebhook | Covered::Unknown | Covered::ByNone | Covered::Before => (Came::Recorded, ""),
        };
        let is_whole = is_collection && items.is_none();
        let mut summary = if is_whole { "collection deleted".to_owned() } else { self.done(action) };
        let mut system = Map::new();
        if came == Came::Unseen {
            summary = format!("{summary}, unseen: {note}");
            system.insert("seen".to_owned(), json!(false));
            system.insert("failedOpen".to_owned(), json!(failed_open));
        }
        if let Some(items) = items {
            let one = |Item { metadata }: Item<'_>| {
                let purpose = format!("write {}", metadata.name);
                let said = self.said(&purpose, action, code, judged.policy, summary.clone(), system.clone());
                let (resource_name, object_uid) = (text(&metadata.name), text(&metadata.uid));
                RedactedEntry::vouch_for(Entry { resource_name, object_uid, ..self.entry(said) })
            };
            return Told { write: items.into_iter().map(one).collect(), ..Told::nothing(came) };
        }
        let said = self.said("write", action, code, judged.policy, summary, system);
        let mut entry = self.entry(said);
        if operation == Operation::Create && entry.resource_name.is_empty() {
            // A generated one, which the answer has, where the audit policy asks for it.
            let created = self.event.response_object.and_then(|raw| serde_json::from_str::<Item<'_>>(raw.get()).ok());
            let named = created.map(|created| created.metadata).unwrap_or_default();
            (entry.resource_name, entry.object_uid) = (text(&named.name), text(&named.uid));
        }
        match (judged.covered, self.scene.redactor) {
            (Covered::ByNone, Some(redactor)) if !is_collection => {
                let (uid, hash) = self.after(redactor, operation);
                if !uid.is_empty() {
                    entry.object_uid = uid;
                }
                entry.after_hash = hash;
                Told { join: vec![RedactedEntry::vouch_for(entry)], ..Told::nothing(came) }
            }
            _ => Told { write: vec![RedactedEntry::vouch_for(entry)], ..Told::nothing(came) },
        }
    }

    /// What a collection held that was deleted; None where the audit policy does not ask for the answer.
    fn items(&self) -> Option<Vec<Item<'_>>> {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            items: Option<Vec<Item<'a>>>,
        }
        let list: List<'_> = serde_json::from_str(self.event.response_object?.get()).ok()?;
        Some(list.items.unwrap_or_default())
    }

    /// Of the object as it was answered: its uid, and the hash of its state; of what is deleted there is none.
    fn after(&self, redactor: &Redactor, operation: Operation) -> (String, Option<ObjectHash>) {
        let Some(raw) = self.event.response_object else { return Default::default() };
        let Ok(tree) = Tree::read(raw, Noise::Status, &Budget::default()) else { return Default::default() };
        let text = |keys: &[&str]| tree.root.at(keys).and_then(Node::as_str).unwrap_or_default().to_owned();
        // A delete is answered with a Status, or with the object where it has finalizers.
        if text(&["kind"]) == "Status" {
            return (text(&["details", "uid"]), None);
        }
        let hash = (operation != Operation::Delete).then(|| redactor.hash(&tree));
        (text(&["metadata", "uid"]), hash)
    }

    fn refusal(&self, action: Action, code: u16, redacts: bool) -> (String, Map<String, Value>) {
        let status = self.event.response_status.as_ref();
        let reason = status.map(|status| word(&status.reason)).unwrap_or_default();
        let may_be_told = !redacts && !self.is_secret();
        let message = status.filter(|status| may_be_told && !status.message.is_empty());
        let message = message.and_then(|status| without_values(code, &status.message));
        let mut system = Map::new();
        system.insert("reason".to_owned(), json!(reason));
        let why = if reason.is_empty() { code.to_string() } else { format!("{code} {reason}") };
        let summary = format!("{action} refused: {why}");
        if let Some(message) = message {
            system.insert("message".to_owned(), json!(message));
        }
        (summary, system)
    }

    /// Whose faults may quote what nobody is to see.
    fn is_secret(&self) -> bool {
        let ObjectReference { resource, subresource, api_group, .. } = self.object;
        api_group.is_empty() && (resource == "secrets" || (resource == "serviceaccounts" && subresource == "token"))
    }

    fn done(&self, action: Action) -> String {
        match Session::of(&self.object.subresource) {
            Some(session) => session.describe(self.event.uri().1).0,
            None => done(action).to_owned(),
        }
    }

    fn said(
        &self,
        purpose: &str,
        action: Action,
        code: u16,
        policy: &str,
        summary: String,
        mut system: Map<String, Value>,
    ) -> Said {
        if let Some(session) = Session::of(&self.object.subresource)
            && action == Action::Start
        {
            system.extend(members(session.describe(self.event.uri().1).1));
        }
        let system = (!system.is_empty()).then_some(Value::Object(system));
        let request = Some(self.request.request.clone());
        Said {
            id: derived(self.event.request_received_timestamp, &self.event.audit_id, purpose),
            action,
            outcome: if code < 400 { Outcome::Confirmed } else { Outcome::Rejected },
            code,
            policy: text(policy),
            detail: Detail { summary, request, system, ..Detail::default() },
        }
    }

    fn entry(&self, said: Said) -> Entry {
        let (event, object) = (self.event, self.object);
        let is_namespace = object.resource == "namespaces" && object.api_group.is_empty();
        let resource = Session::of(&object.subresource).filter(|_| self.request.operation == Operation::Connect);
        Entry {
            id: said.id,
            user: name(&event.acting().username),
            action: said.action,
            resource: resource.map_or_else(|| Resource::new(self.kind, &object.subresource), Session::resource),
            resource_name: name(&object.name),
            cluster: text(self.scene.cluster),
            namespace: if is_namespace { String::new() } else { name(&object.namespace) },
            status_code: said.code,
            detail: said.detail.to_json(),
            ip: word(event.ip()),
            outcome: said.outcome,
            evidence: Evidence::Audit,
            source: Source::Audit,
            audit_id: word(&event.audit_id),
            real_user: event.impersonated_user.as_ref().map(|_| name(&event.user.username)).unwrap_or_default(),
            user_agent: bounded(&event.user_agent, USER_AGENT_CHARS_MAX),
            api_group: name(&object.api_group),
            object_uid: name(&object.uid),
            before_hash: None,
            after_hash: None,
            policy: said.policy,
        }
    }
}

fn done(action: Action) -> &'static str {
    match action {
        Action::Create => "created",
        Action::Update => "changed",
        Action::Delete => "deleted",
        Action::Get | Action::List | Action::Watch => "read",
        _ => "connected",
    }
}

/// The same for the same event, however often it is told: its time, and 64 bits of what names it.
fn derived(time: DateTime<Utc>, audit_id: &str, purpose: &str) -> EntryId {
    EntryId::derived(time, &[purpose.as_bytes(), &[0], audit_id.as_bytes()])
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn text(text: &str) -> String {
    storable(text).into_owned()
}

fn name(text: &str) -> String {
    bounded(text, NAME_CHARS_MAX)
}

fn word(text: &str) -> String {
    bounded(text, WORD_CHARS_MAX)
}

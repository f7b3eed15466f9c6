//! The API server's own audit log, read by nobody's code but this test's: what each request came to, which writes changed
//! something, and what each object was after each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testkit::control_plane::ControlPlane;
use testkit::eventually;

use super::workload::{AllSent, MARK};

/// An event is logged a moment after its request was answered.
const LOGGED_WITHIN: Duration = Duration::from_secs(30);
const FAILED_OPEN: &str = "failed-open.validating.webhook.admission.k8s.io/";
/// The webhooks of ours, and how they name what they recorded, and what they had no reason to.
const WEBHOOKS: [&str; 2] = ["admission.audit.kubevision.io/", "deny.audit.kubevision.io/"];
const ENTRY: &str = "entry.";
const UNCHANGED: &str = "unchanged.";

/// A request as the API server tells of it.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub audit_id: String,
    pub verb: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    /// Empty where nobody knows: of what was made up and then refused.
    pub name: String,
    pub code: u16,
    pub user: String,
    pub real_user: String,
    pub ip: String,
    pub dry_run: bool,
    pub failed_open: bool,
    pub attempts: Vec<Attempt>,
    /// The object as it was answered with; null where it was refused.
    pub response: Value,
}

/// A call of our webhook, as its annotation tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub id: String,
    /// It changed something, so there is an entry.
    pub recorded: bool,
    /// The version that it would have replaced.
    pub version: Option<u64>,
}

/// What a row of the log has to say of a write. What is left open is not known to the API server's log either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub audit_id: String,
    /// One of these; an apply that was refused does not tell what it would have been.
    pub actions: &'static [&'static str],
    pub resource: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub code: u16,
    pub user: String,
    pub real_user: String,
    pub ip: String,
}

/// So many rows are to be there, each of which fits one of the keys.
#[derive(Clone, Debug)]
pub struct Claim {
    pub keys: Vec<Key>,
    pub rows: RangeInclusive<usize>,
    /// Why it is not simply one.
    pub why: &'static str,
}

/// All that was logged of the workload, in the log's order.
pub struct Book {
    pub events: Vec<Event>,
    /// What each object was, by its uid and version.
    versions: BTreeMap<String, BTreeMap<u64, Value>>,
    /// The first of them.
    created: BTreeSet<(String, u64)>,
}

impl Book {
    /// Once each request that was sent is told of.
    pub async fn read(control_plane: &ControlPlane, sent: &AllSent) -> anyhow::Result<Self> {
        let book = eventually(LOGGED_WITHIN, || async {
            let path = control_plane.audit_log();
            let log = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let book = Self::of_lines(log.lines())?;
            let told: BTreeSet<_> = book.events.iter().map(|event| &event.audit_id).collect();
            let missing: Vec<_> = sent.keys().filter(|id| !told.contains(id)).collect();
            ensure!(missing.is_empty(), "{} requests are not logged, as {:?}", missing.len(), missing.first());
            Ok(book)
        })
        .await?;
        ensure!(book.events.len() == sent.len(), "{} events of {} requests", book.events.len(), sent.len());
        for event in &book.events {
            let answered = sent.get(&event.audit_id).map(|sent| sent.code);
            ensure!(
                answered == Some(event.code),
                "{}: {answered:?} was answered, logged is {}",
                event.audit_id,
                event.code
            );
        }
        Ok(book)
    }

    fn of_lines<'a>(lines: impl Iterator<Item = &'a str>) -> anyhow::Result<Self> {
        let mut events = Vec::new();
        for line in lines.filter(|line| line.contains(MARK)) {
            // The last line may be written just now.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if text(&event, "/auditID").starts_with(MARK) && is_final(&event) {
                events.push(Event::read(&event));
            }
        }
        let versions = versions(&events);
        let creations = events.iter().filter(|event| event.code == 201 && !event.dry_run);
        let created = creations.filter_map(Event::version).collect();
        Ok(Self { events, versions, created })
    }

    /// What a perfect log of the writes holds.
    pub fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        // Of all that were answered with the same object of the same version at most one has made it.
        let mut rivals: BTreeMap<(String, u64, String), Vec<&Event>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.is_a_write()) {
            if event.verb == "deletecollection" && event.succeeded() {
                claims.extend(event.items().map(|name| Claim::one(event.key(Some(name)))));
            } else if let Some((uid, version)) = event.version().filter(|_| event.changes()) {
                let content = self.content(event, &uid, version).map(|content| content.to_string()).unwrap_or_default();
                rivals.entry((uid, version, content)).or_default().push(event);
            } else {
                claims.push(event.claim());
            }
        }
        for ((uid, version, content), events) in rivals {
            let keys = || events.iter().map(|event| event.key(None)).collect();
            claims.push(if self.was_there(&uid, version, &content) {
                Claim { keys: keys(), rows: 0..=0, why: "nothing changed" }
            } else if let [event] = events[..] {
                event.claim()
            } else {
                Claim { keys: keys(), rows: 1..=1, why: "one of these made this version, the others changed nothing" }
            });
        }
        claims
    }

    pub fn event(&self, audit_id: &str) -> Option<&Event> {
        self.events.iter().find(|event| event.audit_id == audit_id)
    }

    /// The objects of which a write went unseen, by uid; true where a later write that was seen found another state than the
    /// one before left, and nothing but writes to the object itself lies between: its chain is broken for all to see.
    pub fn gaps(&self) -> BTreeMap<String, bool> {
        let mut histories: BTreeMap<String, Vec<(u64, &Event)>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.succeeded() && !event.dry_run) {
            if let Some((uid, version)) = event.version() {
                histories.entry(uid).or_default().push((version, event));
            }
        }
        let mut gaps = BTreeMap::new();
        for (uid, mut history) in histories {
            history.sort_by_key(|(version, _)| *version);
            if !history.iter().any(|(_, event)| event.failed_open) {
                continue;
            }
            let certain = self.is_broken(&uid, &history);
            gaps.insert(uid, certain);
        }
        gaps
    }

    fn is_broken(&self, uid: &str, history: &[(u64, &Event)]) -> bool {
        if !history.iter().all(|(_, event)| event.is_of_the_object()) {
            return false;
        }
        // The last state that was seen, and whether something went unseen since.
        let (mut seen, mut unseen) = (None, false);
        let content = |version: &u64| self.versions.get(uid).and_then(|versions| versions.get(version));
        for (at, (version, event)) in history.iter().enumerate() {
            if event.failed_open {
                unseen = true;
                continue;
            }
            let before = at.checked_sub(1).and_then(|at| content(&history[at].0));
            if unseen && seen.is_some() && before != seen && content(version) != before {
                return true;
            }
            (seen, unseen) = (content(version), false);
        }
        false
    }

    /// The object that the event was answered with, as it is without noise; none of a scale or a deletion.
    pub fn shown(event: &Event) -> Option<Value> {
        event.is_of_the_object().then(|| without_noise(&event.response))
    }

    /// What the object was after it. Of a scale, that is what the next one was answered with, or is made up of what was before.
    fn content(&self, event: &Event, uid: &str, version: u64) -> Option<Value> {
        Self::shown(event).or_else(|| self.versions.get(uid)?.get(&version).cloned())
    }

    /// Whether that version differs from the one before in nothing but noise, or was made by a creation.
    fn was_there(&self, uid: &str, version: u64, content: &str) -> bool {
        let Some(versions) = self.versions.get(uid) else { return false };
        match versions.range(..version).next_back() {
            Some((_, before)) => {
                let before = before.to_string();
                before == content
            }
            None => self.created.contains(&(uid.to_owned(), version)),
        }
    }
}

impl Event {
    fn read(event: &Value) -> Self {
        let own = |path: &str| text(event, path).to_owned();
        let impersonated = text(event, "/impersonatedUser/username");
        let (user, real_user) = match (text(event, "/user/username"), impersonated) {
            (user, "") => (user, ""),
            (user, impersonated) => (impersonated, user),
        };
        let response = event["responseObject"].clone();
        let verb = own("/verb");
        let generated = if verb == "create" { text(&response, "/metadata/name") } else { "" };
        let name = match text(event, "/objectRef/name") {
            "" => generated,
            name => name,
        };
        // Of a deletion with a body nothing else is read.
        let asked = match &event["requestObject"] {
            options if verb.starts_with("delete") && options.is_object() => !options["dryRun"].is_null(),
            _ => text(event, "/requestURI").contains("dryRun=All"),
        };
        let annotations = event["annotations"].as_object();
        let annotations = || annotations.into_iter().flatten();
        Self {
            audit_id: own("/auditID"),
            resource: own("/objectRef/resource"),
            subresource: own("/objectRef/subresource"),
            namespace: own("/objectRef/namespace"),
            name: name.to_owned(),
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default() as u16,
            user: user.to_owned(),
            real_user: real_user.to_owned(),
            ip: event["sourceIPs"].as_array().and_then(|ips| ips.last()?.as_str()).unwrap_or_default().to_owned(),
            dry_run: asked,
            failed_open: annotations().any(|(key, _)| key.starts_with(FAILED_OPEN)),
            attempts: annotations().filter_map(|(key, value)| Attempt::read(key, value.as_str()?)).collect(),
            response: if response["kind"] == "Status" { Value::Null } else { response },
            verb,
        }
    }

    /// One that belongs into the log.
    pub fn is_a_write(&self) -> bool {
        let writes = matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        let left_out = self.resource == "leases" || self.subresource == "status";
        writes && !self.dry_run && !left_out
    }

    pub fn succeeded(&self) -> bool {
        self.code < 400
    }

    /// Changes an object that was there, if it does.
    fn changes(&self) -> bool {
        self.succeeded() && self.action() == ["update"]
    }

    /// Of the object that it was answered with: its uid and version.
    pub fn version(&self) -> Option<(String, u64)> {
        let version = text(&self.response, "/metadata/resourceVersion").parse().ok()?;
        Some((text(&self.response, "/metadata/uid").to_owned(), version))
    }

    fn is_of_the_object(&self) -> bool {
        self.subresource.is_empty() && matches!(self.verb.as_str(), "create" | "update" | "patch") && self.succeeded()
    }

    fn items(&self) -> impl Iterator<Item = &str> {
        self.response["items"].as_array().into_iter().flatten().map(|item| text(item, "/metadata/name"))
    }

    fn action(&self) -> &'static [&'static str] {
        match (self.verb.as_str(), self.code) {
            (_, 401) => &["authenticate"],
            ("create", _) | (_, 201) => &["create"],
            ("delete" | "deletecollection", _) => &["delete"],
            ("patch", 400..) => &["update", "create"],
            _ => &["update"],
        }
    }

    fn key(&self, name: Option<&str>) -> Key {
        let stranger = self.code == 401;
        let name = name.unwrap_or(&self.name);
        let unknown = stranger || name.is_empty() && self.code >= 400;
        Key {
            audit_id: self.audit_id.clone(),
            actions: self.action(),
            resource: (!stranger).then(|| self.kind()),
            namespace: (!stranger).then(|| self.namespace.clone()),
            name: (!unknown).then(|| name.to_owned()),
            code: self.code,
            user: self.user.clone(),
            real_user: self.real_user.clone(),
            ip: self.ip.clone(),
        }
    }

    fn claim(&self) -> Claim {
        let mut claim = Claim::one(self.key(None));
        if self.failed_open && !self.attempts.is_empty() {
            // The event tells of both kinds of attempts, and not in which order they were made.
            (claim.rows, claim.why) = (1..=2, "one attempt was seen, another was not");
        }
        claim
    }

    fn kind(&self) -> String {
        let kind = match self.resource.as_str() {
            "configmaps" => "ConfigMap",
            "secrets" => "Secret",
            "deployments" => "Deployment",
            "widgets" => "Widget",
            other => other,
        };
        if self.subresource.is_empty() { kind.to_owned() } else { format!("{kind}/{}", self.subresource) }
    }
}

impl Claim {
    fn one(key: Key) -> Self {
        Self { keys: vec![key], rows: 1..=1, why: "" }
    }
}

impl Attempt {
    fn read(key: &str, value: &str) -> Option<Self> {
        let key = WEBHOOKS.iter().find_map(|webhook| key.strip_prefix(webhook))?;
        let (id, recorded) = match key.strip_prefix(ENTRY) {
            Some(id) => (id, true),
            None => (key.strip_prefix(UNCHANGED)?, false),
        };
        let version = value.split(' ').nth(1).and_then(|version| version.parse().ok());
        Some(Self { id: id.to_owned(), recorded, version })
    }
}

/// Of the two or three events that a request has, the one that tells what came of it.
fn is_final(event: &Value) -> bool {
    let refused_at_once = event["stage"] == "ResponseStarted" && event["responseStatus"]["code"] == 401;
    event["stage"] == "ResponseComplete" || event["stage"] == "Panic" || refused_at_once
}

fn versions(events: &[Event]) -> BTreeMap<String, BTreeMap<u64, Value>> {
    let mut versions: BTreeMap<String, BTreeMap<u64, Value>> = BTreeMap::new();
    let mut scales = Vec::new();
    for event in events.iter().filter(|event| event.succeeded() && !event.dry_run) {
        let Some((uid, version)) = event.version() else { continue };
        if event.subresource == "scale" {
            scales.push((version, uid, event.response["spec"]["replicas"].as_i64().unwrap_or(0)));
        } else {
            versions.entry(uid).or_default().entry(version).or_insert_with(|| without_noise(&event.response));
        }
    }
    // What a scale leaves behind is the object before it, with so many replicas.
    scales.sort();
    for (version, uid, replicas) in scales {
        let versions = versions.entry(uid).or_default();
        let Some((_, before)) = versions.range(..version).next_back() else { continue };
        let mut after = before.clone();
        after["spec"]["replicas"] = replicas.into();
        versions.entry(version).or_insert(after);
    }
    versions
}

/// An object without what the API server keeps count of in it.
pub fn without_noise(object: &Value) -> Value {
    let mut object = object.clone();
    let members = object.as_object_mut();
    if let Some(members) = members {
        members.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for noise in
            ["managedFields", "resourceVersion", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"]
        {
            metadata.remove(noise);
        }
    }
    object
}

fn text<'v>(value: &'v Value, at: &str) -> &'v str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request on a ConfigMap, answered with an object.
    fn event(id: &str, verb: &str, version: u64, value: &str) -> String {
        let object = json!({"kind": "ConfigMap", "metadata": {"name": "a", "uid": "u", "resourceVersion": version.to_string()},
            "data": {"value": value}});
        json!({"auditID": format!("{MARK}{id}"), "stage": "ResponseComplete", "verb": verb,
            "user": {"username": "alice"}, "sourceIPs": ["203.0.113.7", "127.0.0.1"],
            "objectRef": {"resource": "configmaps", "namespace": "oracle-a", "name": "a"},
            "responseStatus": {"code": if verb == "create" { 201 } else { 200 }}, "responseObject": object})
        .to_string()
    }

    fn claims(lines: &[String]) -> Vec<(usize, RangeInclusive<usize>)> {
        let book = Book::of_lines(lines.iter().map(String::as_str)).unwrap();
        book.claims().into_iter().map(|claim| (claim.keys.len(), claim.rows)).collect()
    }

    #[test]
    fn a_write_is_claimed_once_and_what_changed_nothing_is_not() {
        let created = event("1", "create", 5, "x");
        let changed = event("2", "patch", 6, "y");
        let nothing = event("3", "patch", 6, "y");
        let noise = event("4", "update", 7, "y");
        assert_eq!(claims(&[created.clone(), changed.clone()]), [(1, 1..=1), (1, 1..=1)]);
        assert_eq!(claims(&[created.clone(), changed.clone(), nothing]), [(1, 1..=1), (2, 1..=1)]);
        assert_eq!(claims(&[created.clone(), changed, noise]), [(1, 1..=1), (1, 1..=1), (1, 0..=0)]);
        // As it was created; and as an object that goes with its last finalizer, whose version stays.
        assert_eq!(claims(&[created.clone(), event("5", "patch", 5, "x")]), [(1, 1..=1), (1, 0..=0)]);
        let gone = [created, event("6", "patch", 6, "y"), event("7", "patch", 6, "z")];
        assert_eq!(claims(&gone), [(1, 1..=1), (1, 1..=1), (1, 1..=1)]);
    }

    #[test]
    fn the_last_address_counts_and_the_impersonator_stands_behind_the_impersonated() {
        let mut read: Value = serde_json::from_str(&event("1", "create", 5, "x")).unwrap();
        read["impersonatedUser"] = json!({"username": "bob"});
        read["annotations"] = json!({
            "admission.audit.kubevision.io/entry.i1": "update 41",
            "admission.audit.kubevision.io/unchanged.i2": "update 42",
            "failed-open.validating.webhook.admission.k8s.io/round_0_index_0": "admission.audit.kubevision.io",
        });
        let event = Event::read(&read);
        assert_eq!((event.user.as_str(), event.real_user.as_str(), event.ip.as_str()), ("bob", "alice", "127.0.0.1"));
        let attempt = |id: &str, recorded, version| Attempt { id: id.to_owned(), recorded, version: Some(version) };
        assert_eq!(event.attempts, [attempt("i1", true, 41), attempt("i2", false, 42)]);
        assert_eq!(event.claim().rows, 1..=2);
    }

    #[test]
    fn a_scale_changes_the_object_that_it_scales() {
        let mut scale: Value = serde_json::from_str(&event("2", "patch", 6, "")).unwrap();
        scale["objectRef"]["subresource"] = json!("scale");
        scale["responseObject"]["spec"] = json!({"replicas": 2});
        let same = event("3", "patch", 7, "x");
        let mut scaled: Value = serde_json::from_str(&event("4", "patch", 8, "x")).unwrap();
        scaled["responseObject"]["spec"] = json!({"replicas": 2});
        let lines = [event("1", "create", 5, "x"), scale.to_string(), same, scaled.to_string()];
        // The third takes the replicas back, the fourth puts them there again.
        assert_eq!(claims(&lines), [(1, 1..=1), (1, 1..=1), (1, 1..=1), (1, 1..=1)]);
    }
}

//! Changes that are seen by looking at objects, where no webhook is asked: what came of them is known, and who made them
//! is not.

use serde_json::json;

use super::{Sides, Terms, Unreadable, entry, is_namespace};
use crate::attempt::{Attempt, Decision, Operation, Skip, Unredacted};
use crate::entry::{Detail, Evidence, Level, ObjectHash, Outcome, RedactedEntry, RequestFacts, Source};
use crate::id::EntryId;
use crate::json::{Budget, Noise, Tree};
use crate::redact::Redactor;
use crate::resource;
use crate::text::storable;

/// A change of one object, as it was seen.
#[derive(Debug)]
pub struct Sighting<'a> {
    pub id: EntryId,
    pub api_group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// The plural.
    pub resource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub seen: Seen<'a>,
    /// Why it is not known who made it, in a clause.
    pub unknown_user: &'a str,
}

/// The two sides of the change.
#[derive(Debug)]
pub enum Seen<'a> {
    Created(Unredacted<'a>),
    Changed {
        before: Unredacted<'a>,
        after: Unredacted<'a>,
    },
    Deleted(Unredacted<'a>),
    /// While nobody looked: of what was before no more is left than its hash.
    FoundOther {
        before: ObjectHash,
        after: Unredacted<'a>,
    },
    /// While nobody looked.
    FoundGone {
        before: Option<ObjectHash>,
        uid: &'a str,
    },
}

impl<'a> Sighting<'a> {
    /// What would have been asked of a webhook, for the rules.
    pub fn attempt(&self) -> Attempt<'a> {
        let (operation, old_object, object) = match self.seen {
            Seen::Created(after) => (Operation::Create, None, Some(after)),
            Seen::Changed { before, after } => (Operation::Update, Some(before), Some(after)),
            Seen::Deleted(before) => (Operation::Delete, Some(before), None),
            Seen::FoundOther { after, .. } => (Operation::Update, None, Some(after)),
            Seen::FoundGone { .. } => (Operation::Delete, None, None),
        };
        let version = self.version.to_owned();
        Attempt {
            id: self.id,
            operation,
            api_group: self.api_group,
            kind: self.kind,
            resource: self.resource,
            subresource: "",
            name: self.name,
            namespace: self.namespace,
            user: "",
            groups: &[],
            object,
            old_object,
            request: RequestFacts { version, ..RequestFacts::default() },
        }
    }
}

/// # Errors
/// Where an object is malformed.
pub fn decide_seen(sighting: &Sighting<'_>, redactor: &Redactor, terms: &Terms<'_>) -> Result<Decision, Unreadable> {
    let attempt = sighting.attempt();
    let sides = Sides::read(&attempt, redactor, terms.redact)?;
    if attempt.operation == Operation::Update && sides.nothing_changed() {
        return Ok(Decision::Skip(Skip::NothingChanged));
    }
    let mut detail = sides.told_at(terms.level, &attempt);
    if matches!(sighting.seen, Seen::FoundOther { .. } | Seen::FoundGone { .. }) {
        detail.summary = format!("{} while nobody looked", resource::verb(&attempt));
        detail.omitted =
            (terms.level != Level::Metadata).then(|| "what it was before is not known any more".to_owned());
    }
    // No request was seen, but its hashes are those of a version.
    detail.request = Some(RequestFacts { version: storable(sighting.version).into_owned(), ..RequestFacts::default() });
    let mut system = json!({ "user": format!("not known: {}", sighting.unknown_user) });
    if let Some(after) = &sides.after {
        let last = after.trace.read();
        (system["manager"], system["written"]) = (json!(last.manager), json!(last.written));
    }
    let mut entry = entry(&attempt, terms, &sides, &Detail { system: Some(system), ..detail });
    (entry.source, entry.outcome, entry.evidence) = (Source::Watch, Outcome::Confirmed, Evidence::Probe);
    match sighting.seen {
        Seen::FoundOther { before, .. } => entry.before_hash = Some(before),
        Seen::FoundGone { before, uid } => {
            (entry.before_hash, entry.object_uid) = (before, storable(uid).into_owned());
        }
        Seen::Created(_) | Seen::Changed { .. } | Seen::Deleted(_) => {}
    }
    debug_assert!(!is_namespace(&attempt), "webhooks see namespaces");
    Ok(Decision::Record(Box::new(RedactedEntry::vouch_for(entry))))
}

/// The hash of an object as entries of its own writes have it; None where it cannot be walked.
pub fn state(object: Unredacted<'_>, redactor: &Redactor) -> Option<ObjectHash> {
    let tree = Tree::read(object.0, Noise::Status, &Budget::default()).ok()?;
    Some(redactor.hash(&tree))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use serde_json::{Value, to_value};

    use super::*;
    use crate::entry::{Action, Entry};
    use crate::redact::RedactionKey;

    fn redactor() -> Redactor {
        Redactor::new(RedactionKey::new([7; 32]))
    }

    fn raw(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    fn secret(value: &str, generation: u32) -> Box<RawValue> {
        let applied = json!([{"manager": "kubectl-edit", "time": "2026-03-01T12:00:00Z"}]);
        raw(&json!({"kind": "Secret", "data": {"a": value}, "metadata": {
            "name": "keys", "uid": "u-1", "generation": generation, "managedFields": applied}}))
    }

    fn sighting(seen: Seen<'_>) -> Sighting<'_> {
        Sighting {
            id: EntryId::at(chrono::DateTime::UNIX_EPOCH, 0),
            api_group: "",
            version: "v1",
            kind: "Secret",
            resource: "secrets",
            namespace: "audit",
            name: "keys",
            seen,
            unknown_user: "nobody is asked",
        }
    }

    fn told(seen: Seen<'_>) -> Option<Entry> {
        let terms = Terms { cluster: "local", policy: "built-in", level: Level::Diff, redact: &[] };
        match decide_seen(&sighting(seen), &redactor(), &terms).unwrap() {
            Decision::Record(entry) => Some((**entry).clone()),
            Decision::Skip(_) => None,
        }
    }

    #[test]
    fn a_change_is_told_with_its_states_without_its_values_and_says_why_there_is_no_user() {
        let (old, new) = (secret("b2xkLWNhbmFyeQ==", 1), secret("bmV3LWNhbmFyeQ==", 2));
        let entry = told(Seen::Changed { before: Unredacted(&old), after: Unredacted(&new) }).unwrap();
        assert_eq!((entry.user.as_str(), entry.action, entry.resource_name.as_str()), ("", Action::Update, "keys"));
        assert_eq!((entry.source, entry.outcome, entry.evidence), (Source::Watch, Outcome::Confirmed, Evidence::Probe));
        assert_eq!(entry.before_hash, state(Unredacted(&old), &redactor()));
        assert_eq!(entry.after_hash, state(Unredacted(&new), &redactor()));
        assert_eq!(entry.object_uid, "u-1");
        let detail = entry.detail.read().unwrap();
        let system =
            json!({"user": "not known: nobody is asked", "manager": "kubectl-edit", "written": "2026-03-01T12:00:00Z"});
        assert_eq!(detail.system.unwrap(), system);
        assert_eq!(detail.changes.unwrap()[0].path, "/data/a");
        assert!(!entry.detail.as_str().contains("Y2FuYXJ5") && !entry.detail.as_str().contains("LWNhb"));
    }

    #[test]
    fn noise_alone_is_no_change() {
        let (old, new) = (secret("YQ==", 1), secret("YQ==", 2));
        assert!(told(Seen::Changed { before: Unredacted(&old), after: Unredacted(&new) }).is_none());
    }

    #[test]
    fn what_happened_while_nobody_looked_keeps_the_chain_and_says_that_no_diff_is_left() {
        let (now, before) = (secret("YQ==", 1), ObjectHash(7));
        let entry = told(Seen::FoundOther { before, after: Unredacted(&now) }).unwrap();
        assert_eq!((entry.action, entry.before_hash), (Action::Update, Some(before)));
        let detail = entry.detail.read().unwrap();
        assert_eq!(detail.summary, "changed while nobody looked");
        assert!(detail.omitted.is_some() && detail.changes.is_none());
        let entry = told(Seen::FoundGone { before: Some(before), uid: "u-1" }).unwrap();
        assert_eq!((entry.action, entry.before_hash, entry.after_hash), (Action::Delete, Some(before), None));
        assert_eq!((entry.object_uid.as_str(), entry.resource_name.as_str()), ("u-1", "keys"));
        let detail = to_value(entry.detail.read().unwrap()).unwrap();
        assert_eq!(detail["summary"], "deleted while nobody looked");
    }
}

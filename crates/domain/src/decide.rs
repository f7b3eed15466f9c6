//! From an attempt to an entry: the one place where it is decided what an entry says.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};

use crate::attempt::{Attempt, Decision, Operation, Skip, Unredacted};
use crate::diff::{self, Diff, Found, Value, quoted};
use crate::entry::{Change, ChangeOp, Detail, Entry, Level, ObjectHash, Prior, RedactedEntry, RequestFacts, Truncated};
use crate::json::{Budget, Node, ReadError, Tree};
use crate::prior::Trace;
use crate::redact::{JsonPath, LAST_APPLIED, Redacted, Redactor};
use crate::resource;
use crate::text::storable;

mod seen;

pub use seen::{Seen, Sighting, decide_seen, state};

/// What one entry's detail may weigh, in bytes of JSON: etcd's own bound for a request is 1.5 MiB, so nearly every
/// object fits whole.
pub const DETAIL_BYTES_MAX: usize = 1024 * 1024;

/// What an entry says that the attempt does not.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The name of the cluster that asks.
    pub cluster: &'a str,
    /// The policy by which this is recorded.
    pub policy: &'a str,
    /// How much of it.
    pub level: Level,
    /// What is secret by that policy.
    pub redact: &'a [JsonPath],
}

/// An object of the review is no JSON that could be an object. The text of it is not repeated: it may hold secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{object} is not valid JSON (line {line}, column {column})")]
pub struct Unreadable {
    /// `object` or `oldObject`.
    pub object: &'static str,
    pub line: usize,
    pub column: usize,
}

/// # Errors
/// Where an object of the review is malformed. One that is only too much to walk is recorded without its diff.
pub fn decide(attempt: &Attempt<'_>, redactor: &Redactor, terms: &Terms<'_>) -> Result<Decision, Unreadable> {
    if attempt.request.dry_run {
        return Ok(Decision::Skip(Skip::DryRun));
    }
    let sides = Sides::read(attempt, redactor, terms.redact)?;
    if attempt.operation == Operation::Update && sides.nothing_changed() {
        return Ok(Decision::Skip(Skip::NothingChanged));
    }
    let mut detail = sides.told_at(terms.level, attempt);
    let text = |text: &str| storable(text).into_owned();
    let RequestFacts { verb, field_manager, dry_run, version, .. } = &attempt.request;
    detail.request = Some(RequestFacts {
        verb: text(verb),
        field_manager: text(field_manager),
        dry_run: *dry_run,
        version: text(version),
        prior: sides.prior(),
    });
    Ok(Decision::Record(Box::new(RedactedEntry::vouch_for(entry(attempt, terms, &sides, &detail)))))
}

/// As admission knows it.
fn entry(attempt: &Attempt<'_>, terms: &Terms<'_>, sides: &Sides<'_>, detail: &Detail) -> Entry {
    let text = |text: &str| storable(text).into_owned();
    let has_states = resource::has_states(attempt);
    let hash_of = |side: &Option<Side<'_>>| side.as_ref().and_then(|side| side.hash).filter(|_| has_states);
    Entry {
        user: text(attempt.user),
        resource_name: text(if attempt.name.is_empty() { sides.name() } else { attempt.name }),
        cluster: text(terms.cluster),
        // A Namespace is cluster-scoped, though its requests carry its own name here.
        namespace: if is_namespace(attempt) { String::new() } else { text(attempt.namespace) },
        status_code: status_code(attempt.operation),
        api_group: text(attempt.api_group),
        object_uid: text(sides.uid()),
        before_hash: hash_of(&sides.before),
        after_hash: hash_of(&sides.after),
        policy: text(terms.policy),
        ..Entry::bare(attempt.id, attempt.operation.action(), resource::of(attempt), detail)
    }
}

fn is_namespace(attempt: &Attempt<'_>) -> bool {
    attempt.resource == "namespaces" && attempt.api_group.is_empty()
}

/// What the operation returns when it succeeds.
fn status_code(operation: Operation) -> u16 {
    match operation {
        Operation::Create => 201,
        Operation::Update | Operation::Delete | Operation::Get | Operation::List | Operation::Watch => 200,
        Operation::Connect => 101,
    }
}

/// The object before and after, as far as there is one and it can be walked.
struct Sides<'a> {
    before: Option<Side<'a>>,
    after: Option<Side<'a>>,
    /// Why an object was not walked.
    omitted: Option<String>,
}

struct Side<'a> {
    name: Cow<'a, str>,
    uid: Cow<'a, str>,
    /// None for an object that could not be walked, as for what follows.
    hash: Option<ObjectHash>,
    trace: Trace<'a>,
    object: Option<Redacted<'a>>,
}

impl<'a> Sides<'a> {
    fn read(attempt: &Attempt<'a>, redactor: &Redactor, paths: &[JsonPath]) -> Result<Self, Unreadable> {
        let budget = Budget::default();
        let noise = resource::noise(attempt.subresource);
        let mut omitted = None;
        let mut side = |object: Option<Unredacted<'a>>, name: &'static str| -> Result<Option<Side<'a>>, Unreadable> {
            let Some(Unredacted(raw)) = object else { return Ok(None) };
            let tree = match Tree::read(raw, noise, &budget) {
                Ok(tree) => tree,
                Err(ReadError::Malformed { line, column }) => return Err(Unreadable { object: name, line, column }),
                Err(ReadError::Unwalkable(why)) => {
                    omitted = Some(why.to_string());
                    return Ok(Some(Side::unwalked(raw)));
                }
            };
            let text = |keys: &[&str]| match tree.root.at(keys) {
                Some(Node::String(text)) => text.clone(),
                _ => Cow::Borrowed(""),
            };
            let (name, uid) = (text(&["metadata", "name"]), text(&["metadata", "uid"]));
            let trace = Trace::of(&tree);
            let hash = Some(redactor.hash(&tree));
            let object = redactor.redact(attempt.kind, tree, paths);
            let object = object.inspect_err(|why| omitted = Some(why.to_string())).ok();
            Ok(Some(Side { name, uid, hash, trace, object }))
        };
        let before = side(attempt.old_object, "oldObject")?;
        let after = side(attempt.object, "object")?;
        Ok(Self { before, after, omitted })
    }

    fn name(&self) -> &str {
        self.after.iter().chain(&self.before).map(|side| side.name.as_ref()).find(|name| !name.is_empty()).unwrap_or("")
    }

    fn uid(&self) -> &str {
        self.before.iter().chain(&self.after).map(|side| side.uid.as_ref()).find(|uid| !uid.is_empty()).unwrap_or("")
    }

    fn prior(&self) -> Option<Prior> {
        self.before.as_ref().map(|side| side.trace.read()).filter(|prior| *prior != Prior::default())
    }

    /// Neither by the hash nor by what is shown. Both are asked: the hash takes `{}` for absent, which in a selector it
    /// is not, and what is shown leaves out the copy that apply keeps.
    fn nothing_changed(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return false };
        match (&before.object, &after.object) {
            (Some(old), Some(new)) => before.hash == after.hash && old.root == new.root,
            _ => false,
        }
    }

    fn told_at(&self, level: Level, attempt: &Attempt<'_>) -> Detail {
        match level {
            Level::Metadata => Detail { summary: resource::verb(attempt).to_owned(), ..Detail::default() },
            Level::Diff => self.told(attempt),
            Level::Full => self.told_in_full(attempt),
        }
    }

    fn told(&self, attempt: &Attempt<'_>) -> Detail {
        let before = self.before.as_ref().and_then(|side| side.object.as_ref());
        let after = self.after.as_ref().and_then(|side| side.object.as_ref());
        let mut detail = match (attempt.operation, before, after) {
            (Operation::Update, Some(old), Some(new)) => match diff::diff(old, new) {
                Ok(diff) => told_update(&diff, old, new),
                Err(too_much) => Detail {
                    summary: quoted(&format!("{} changed", resource::of(attempt))),
                    omitted: Some(too_much.to_string()),
                    ..Detail::default()
                },
            },
            (Operation::Delete, Some(old), _) => told_object(old, |detail, object| detail.before = object),
            (Operation::Update | Operation::Delete, ..) => Detail::default(),
            (_, _, Some(new)) => told_object(new, |detail, object| detail.after = object),
            (_, _, None) => Detail::default(),
        };
        if detail.summary.is_empty() {
            detail.summary = resource::summary(attempt, after.or(before));
        }
        if let Some(why) = &self.omitted {
            detail.omitted = Some(why.clone());
        }
        detail
    }
}

impl Sides<'_> {
    /// What changed, and the objects beside it as far as there is room.
    fn told_in_full(&self, attempt: &Attempt<'_>) -> Detail {
        let mut detail = self.told(attempt);
        if attempt.operation != Operation::Update {
            return detail;
        }
        let object = |side: &Option<Side<'_>>| json(side.as_ref()?.object.as_ref()?);
        let fits = |text: &RawValue| text.get().len() <= DETAIL_BYTES_MAX;
        let (before, after) = (object(&self.before), object(&self.after));
        if before.as_deref().is_some_and(fits) && after.as_deref().is_some_and(fits) {
            (detail.before, detail.after) = (before, after);
        } else if detail.omitted.is_none() {
            detail.omitted =
                Some(format!("an object weighs more than the {} KiB that an entry holds", DETAIL_BYTES_MAX / 1024));
        }
        detail
    }
}

impl<'a> Side<'a> {
    /// Only what names it: the rest is skipped without recursion, however deep it is.
    fn unwalked(raw: &'a RawValue) -> Self {
        #[derive(Default, serde::Deserialize)]
        struct Named<'a> {
            #[serde(borrow, default)]
            metadata: Metadata<'a>,
        }
        #[derive(Default, serde::Deserialize)]
        struct Metadata<'a> {
            #[serde(borrow, default)]
            name: Cow<'a, str>,
            #[serde(borrow, default)]
            uid: Cow<'a, str>,
        }
        let Named { metadata } = serde_json::from_str(raw.get()).unwrap_or_default();
        Self { name: metadata.name, uid: metadata.uid, hash: None, trace: Trace::default(), object: None }
    }
}

fn told_update(diff: &Diff<'_>, old: &Redacted<'_>, new: &Redacted<'_>) -> Detail {
    let mirrored = mirrored_only(diff, old, new);
    let summary = match &mirrored {
        Some(_) => "last-applied-configuration changed, and nothing else".to_owned(),
        None => diff::of_changes(&diff.changes),
    };
    let all = mirrored.into_iter().chain(diff.changes.iter().filter_map(owned));
    let (changes, truncated) = kept(all);
    Detail { summary, changes: Some(changes), truncated, ..Detail::default() }
}

/// The annotation in which `kubectl apply` repeats the object is a change of its own only where it is the only one.
fn mirrored_only(diff: &Diff<'_>, old: &Redacted<'_>, new: &Redacted<'_>) -> Option<Change> {
    if !diff.is_empty() || old.last_applied == new.last_applied {
        return None;
    }
    let value = |placeholder: &Option<String>| placeholder.as_ref().and_then(json);
    let op = match (&old.last_applied, &new.last_applied) {
        (None, _) => ChangeOp::Add,
        (_, None) => ChangeOp::Remove,
        _ => ChangeOp::Replace,
    };
    Some(Change {
        op,
        path: format!("/metadata/annotations/{}", LAST_APPLIED.replace('/', "~1")),
        index: None,
        old: value(&old.last_applied),
        new: value(&new.last_applied),
    })
}

/// As many whole changes as fit, and what was left out.
fn kept(all: impl Iterator<Item = Change>) -> (Vec<Change>, Option<Truncated>) {
    let mut kept = Vec::new();
    let mut room = DETAIL_BYTES_MAX;
    let (mut count, mut full) = (0, false);
    let mut digest = Sha256::new();
    digest.update(b"[");
    for change in all {
        let text = json(&change);
        let text = text.as_ref().map_or("", |text| text.get());
        if count > 0 {
            digest.update(b",");
        }
        digest.update(text.as_bytes());
        count += 1;
        full |= text.len() > room;
        if !full {
            room -= text.len();
            kept.push(change);
        }
    }
    digest.update(b"]");
    let truncated = full.then(|| Truncated { changes: count, kept: kept.len(), sha256: hex(&digest.finalize()) });
    (kept, truncated)
}

/// The whole object, or that it weighs too much.
fn told_object(object: &Redacted<'_>, place: impl FnOnce(&mut Detail, Option<Box<RawValue>>)) -> Detail {
    let mut detail = Detail::default();
    let Some(text) = json(object) else { return detail };
    if text.get().len() <= DETAIL_BYTES_MAX {
        place(&mut detail, Some(text));
        return detail;
    }
    let sha256 = hex(&Sha256::digest(text.get().as_bytes()));
    detail.truncated = Some(Truncated { changes: 1, kept: 0, sha256 });
    detail.omitted = Some(format!(
        "the object weighs {} KiB of JSON, and an entry holds {} KiB",
        text.get().len() / 1024,
        DETAIL_BYTES_MAX / 1024
    ));
    detail
}

fn owned(found: &Found<'_>) -> Option<Change> {
    let value = |value: &Value<'_>| match value {
        Value::Nothing => None,
        Value::Node(node) => json(node),
        Value::Order(keys) => json(keys),
    };
    Some(Change {
        op: found.op,
        path: found.path.clone(),
        index: found.index,
        old: value(&found.old),
        new: value(&found.new),
    })
}

/// Of values that are strings, numbers, lists and maps with text keys, which always serialize.
fn json(value: &(impl Serialize + ?Sized)) -> Option<Box<RawValue>> {
    to_raw_value(value).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;

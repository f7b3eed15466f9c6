//! The annotations of an event that are ours: which attempts its request made, and whether a call of ours failed open.
//!
//! A patch runs admission again and again inside one request, and of one key the API server keeps only the first value. So
//! each attempt has a key of its own: `<webhook>/entry.<uuid>` where an entry was made of it, `unchanged.<uuid>` where it
//! changed nothing, `dry-run.<uuid>` where it was none, `unwanted.<uuid>` where no policy wants it, `lost.<uuid>` where its
//! entry is. The value is the action, the resourceVersion that was to be replaced, where there was one, and of a deletion
//! the object's uid: a collection's attempts are about many objects.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::entry::Action;
use crate::id::EntryId;

/// The webhook that fails open. Kept for good, since recorded events are read by it.
pub const WEBHOOK: &str = "admission.audit.kubevision.io";
/// The one that fails closed.
pub const DENYING_WEBHOOK: &str = "deny.audit.kubevision.io";

/// What the API server notes of a call that it let pass without an answer; then which of them, and the webhook's name.
const FAILED_OPEN: &str = "failed-open.validating.webhook.admission.k8s.io/";
/// More attempts than that in one request are not looked at, or an event of some megabytes would become entries of many
/// more: the API server itself gives up a patch after five, and of a collection the chain learns the rest.
const ATTEMPTS_MAX: usize = 256;
/// In the place of a resourceVersion that is followed by something.
const NO_VERSION: &str = "-";

/// What became of an attempt when our webhook was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// It is an entry, or will be one.
    Recorded,
    Unchanged,
    DryRun,
    /// By the policies in force.
    Unwanted,
    /// It was to be an entry, and there was no room for it.
    Lost,
}

impl Attempted {
    const ALL: [Self; 5] = [Self::Recorded, Self::Unchanged, Self::DryRun, Self::Unwanted, Self::Lost];

    fn word(self) -> &'static str {
        match self {
            Self::Recorded => "entry",
            Self::Unchanged => "unchanged",
            Self::DryRun => "dry-run",
            Self::Unwanted => "unwanted",
            Self::Lost => "lost",
        }
    }

    /// Without the webhook's name, which the API server puts before it.
    pub fn key(self, id: EntryId) -> String {
        format!("{}.{id}", self.word())
    }

    /// `replaced`: the resourceVersion, `uid`: the object's; empty where there is none.
    pub fn value(action: Action, replaced: &str, uid: &str) -> String {
        match (replaced, uid) {
            (replaced, uid) if action == Action::Delete && !uid.is_empty() => {
                let version = if replaced.is_empty() { NO_VERSION } else { replaced };
                format!("{action} {version} {uid}")
            }
            ("", _) => action.as_str().to_owned(),
            (version, _) => format!("{action} {version}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt<'a> {
    pub(super) what: Attempted,
    pub(super) id: EntryId,
    pub(super) action: Option<Action>,
    /// Which the attempt would have replaced; empty where there was none.
    version: Cow<'a, str>,
    /// Of the object that was to be deleted; empty where nobody said.
    pub(super) uid: Cow<'a, str>,
}

impl Attempt<'_> {
    /// Who replaced the highest version came last, by the store's own count: replicas' clocks may differ.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let version = |attempt: &Self| attempt.version.parse::<u64>().ok();
        version(self).cmp(&version(other)).then(self.id.cmp(&other.id))
    }
}

#[derive(Debug, Default)]
pub(super) struct Annotations<'a> {
    pub(super) attempts: Vec<Attempt<'a>>,
    pub(super) failed_open: bool,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(deserializer.deserialize_option(Ours)?.unwrap_or_default())
    }
}

struct Ours;

impl<'de> Visitor<'de> for Ours {
    type Value = Option<Annotations<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of texts")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut annotations = Annotations::default();
        while let Some(Text(key)) = map.next_key()? {
            if let Some((what, id)) = attempt(&key)
                && annotations.attempts.len() < ATTEMPTS_MAX
            {
                let Text(value) = map.next_value()?;
                let (action, version, uid) = match value {
                    Cow::Borrowed(value) => {
                        let (action, version, uid) = parts(value);
                        (action, Cow::Borrowed(version), Cow::Borrowed(uid))
                    }
                    Cow::Owned(value) => {
                        let (action, version, uid) = parts(&value);
                        (action, Cow::Owned(version.to_owned()), Cow::Owned(uid.to_owned()))
                    }
                };
                annotations.attempts.push(Attempt { what, id, action, version, uid });
            } else if key.starts_with(FAILED_OPEN) {
                let Text(webhook) = map.next_value()?;
                annotations.failed_open |= webhook == WEBHOOK || webhook == DENYING_WEBHOOK;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Some(annotations))
    }
}

fn attempt(key: &str) -> Option<(Attempted, EntryId)> {
    let (webhook, key) = key.split_once('/')?;
    let ours = webhook == WEBHOOK || webhook == DENYING_WEBHOOK;
    let (word, id) = key.split_once('.').filter(|_| ours)?;
    let what = Attempted::ALL.into_iter().find(|what| what.word() == word)?;
    Some((what, id.parse().ok()?))
}

fn parts(value: &str) -> (Option<Action>, &str, &str) {
    let (action, rest) = value.split_once(' ').unwrap_or((value, ""));
    let (version, uid) = rest.split_once(' ').unwrap_or((rest, ""));
    (action.parse().ok(), version, uid)
}

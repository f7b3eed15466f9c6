//! An audit entry: the row that everything else produces, stores, pages through and shows.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::EntryId;

/// A word of a closed vocabulary, written in one place: as stored, as shown, as accepted in a filter.
macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// The words, as an error message lists them.
            pub const ACCEPTED: &str = vocabulary!(@list $($word),+);

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(s: &str) -> Result<Self, UnknownWord> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { given: s.to_owned(), accepted: Self::ACCEPTED }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
    (@list $first:literal $(, $rest:literal)*) => { concat!($first $(, ", ", $rest)*) };
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?}: accepted is one of {accepted}")]
pub struct UnknownWord {
    pub given: String,
    pub accepted: &'static str,
}

vocabulary! {
    /// What was done to the resource.
    Action {
        Create = "create", Update = "update", Delete = "delete",
        Start = "start", End = "end",
        Login = "login", Logout = "logout", Authenticate = "authenticate",
        Enable = "enable", Disable = "disable", Revoke = "revoke",
        Add = "add", Remove = "remove",
        Purge = "purge", Gap = "gap", Export = "export",
        Get = "get", List = "list", Watch = "watch",
    }
}

vocabulary! {
    /// How much an entry says of a write; see the AuditPolicy.
    Level {
        /// Who, what, when.
        Metadata = "Metadata",
        /// And what changed.
        Diff = "Diff",
        /// And the whole object before and after.
        Full = "Full",
    }
}

vocabulary! {
    /// What came of it. Moves one way, once: from unconfirmed to one of the others.
    Outcome { Confirmed = "confirmed", Rejected = "rejected", Superseded = "superseded", Unconfirmed = "unconfirmed" }
}

vocabulary! {
    /// How the outcome is known.
    Evidence { Audit = "audit", Successor = "successor", Probe = "probe", Itself = "self", Nothing = "none" }
}

impl Evidence {
    /// How much it weighs: what is known by one that weighs more is never overruled by one that weighs less or the same.
    /// So in whatever order evidence comes, and how often, it comes to the same.
    pub const fn weight(self) -> u8 {
        match self {
            Self::Nothing => 0,
            // Inferred from states of the object.
            Self::Successor | Self::Probe => 1,
            // We refused it ourselves.
            Self::Itself => 2,
            // The API server says so.
            Self::Audit => 3,
        }
    }
}

vocabulary! {
    /// Who told of it.
    Source { Admission = "admission", Audit = "audit", Watch = "watch", Chain = "chain", Panel = "panel", Ingest = "ingest" }
}

/// A kind, with the subresource where one was written: `Deployment`, `Deployment/scale`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource(String);

impl Resource {
    pub fn new(kind: &str, subresource: &str) -> Self {
        Self(if subresource.is_empty() { kind.to_owned() } else { format!("{kind}/{subresource}") })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(kind, _)| kind)
    }

    /// Empty where the object itself was written.
    pub fn subresource(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, subresource)| subresource)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A keyed 64-bit hash of an object without its noise; see [`crate::hash`]. Stored as a signed 64-bit integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectHash(pub i64);

/// One row of `audit_entries`, but for its position. Text that is not known is empty.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: EntryId,
    /// Who, as the API server authenticated them (the impersonated identity, where there is one).
    pub user: String,
    pub action: Action,
    pub resource: Resource,
    pub resource_name: String,
    /// Empty for system actions.
    pub cluster: String,
    /// Empty for cluster-scoped resources.
    pub namespace: String,
    /// The HTTP status of the operation; while the outcome is unconfirmed, the one it returns when it succeeds.
    pub status_code: u16,
    pub detail: DetailJson,
    /// The client's address.
    pub ip: String,
    pub outcome: Outcome,
    pub evidence: Evidence,
    pub source: Source,
    /// The API server's audit ID of the request.
    pub audit_id: String,
    /// The impersonator.
    pub real_user: String,
    pub user_agent: String,
    pub api_group: String,
    pub object_uid: String,
    pub before_hash: Option<ObjectHash>,
    pub after_hash: Option<ObjectHash>,
    /// The policy that asked for this entry.
    pub policy: String,
}

impl Entry {
    /// What is not said of it is empty: a request that would succeed with 200, of which nobody knows what came.
    pub(crate) fn bare(id: EntryId, action: Action, resource: Resource, detail: &Detail) -> Self {
        Self {
            id,
            user: String::new(),
            action,
            resource,
            resource_name: String::new(),
            cluster: String::new(),
            namespace: String::new(),
            status_code: 200,
            detail: detail.to_json(),
            ip: String::new(),
            outcome: Outcome::Unconfirmed,
            evidence: Evidence::Nothing,
            source: Source::Admission,
            audit_id: String::new(),
            real_user: String::new(),
            user_agent: String::new(),
            api_group: String::new(),
            object_uid: String::new(),
            before_hash: None,
            after_hash: None,
            policy: String::new(),
        }
    }

    /// What the entry weighs in memory, in bytes: its texts and the structure around them.
    pub fn weight(&self) -> usize {
        let texts = [
            &self.user,
            &self.resource.0,
            &self.resource_name,
            &self.cluster,
            &self.namespace,
            &self.ip,
            &self.audit_id,
            &self.real_user,
            &self.user_agent,
            &self.api_group,
            &self.object_uid,
            &self.policy,
        ];
        size_of::<Self>() + self.detail.as_str().len() + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

#[cfg(feature = "samples")]
impl Entry {
    /// For tests and benches: alice changed something, and nothing more is known than admission tells.
    pub fn sample(id: EntryId) -> Self {
        let text = str::to_owned;
        Self {
            user: text("alice"),
            resource_name: text("settings"),
            cluster: text("local"),
            namespace: text("shop"),
            ..Self::bare(id, Action::Update, Resource::new("ConfigMap", ""), &Detail::default())
        }
    }
}

/// An entry as it was read back.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    pub entry: Entry,
    /// The order of arrival and change, which is not the order of events: see the store's contract.
    pub position: i64,
}

impl Deref for StoredEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

/// An entry that holds no secret: the only kind that a queue or a store takes. Nothing outside this crate can make one
/// from an object that was not redacted.
#[derive(Clone, Debug)]
pub struct RedactedEntry(Entry);

impl RedactedEntry {
    /// Only for what [`crate::decide`] has redacted and for what the program says of itself.
    pub(crate) fn vouch_for(entry: Entry) -> Self {
        Self(entry)
    }

    /// For tests and benches, which make up their entries.
    #[cfg(feature = "samples")]
    pub fn sample(entry: Entry) -> Self {
        Self(entry)
    }
}

impl Deref for RedactedEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0
    }
}

/// The `detail` column as it is stored: JSON text, an object, without NUL.
#[derive(Clone, Debug)]
pub struct DetailJson(Box<RawValue>);

impl DetailJson {
    /// Takes JSON text as it was read from a store.
    ///
    /// # Errors
    /// Where it is no JSON.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// # Errors
    /// Where the text is JSON of another shape: written by hand, or by a later version.
    pub fn read(&self) -> Result<Detail, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }
}

impl Serialize for DetailJson {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// The `detail` column by its parts. An update carries `changes`, a create `after`, a delete `before`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Detail {
    /// One line that a person reads first.
    #[serde(default)]
    pub summary: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestFacts>,
    /// Present where not all changes fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
    /// Why there is no diff, in a sentence, where there is none and one would be expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<String>,
    /// Counts and times of a purge or a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<serde_json::Value>,
}

impl Detail {
    /// The text that is stored. A serializer of these parts cannot fail; should it ever, the summary stays.
    pub fn to_json(&self) -> DetailJson {
        let fallback = || serde_json::value::to_raw_value(&self.summary).unwrap_or_else(|_| RawValue::NULL.to_owned());
        DetailJson(serde_json::value::to_raw_value(self).unwrap_or_else(|_| fallback()))
    }
}

/// One change to an object: see [`crate::diff`] for paths and for what `index` means.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    pub op: ChangeOp,
    pub path: String,
    /// Where in its list an element was added (in the new list) or removed (in the old one), from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Box<RawValue>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeOp {
    Add,
    Remove,
    Replace,
    /// The same elements in another order; old and new are the keys in their order.
    Reorder,
}

/// What the request said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestFacts {
    pub verb: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field_manager: String,
    #[serde(default)]
    pub dry_run: bool,
    /// The version of the API that the object is written in (`v1`): its hashes compare only with others of the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The object as it was found; none for what is created, and for what carries no object of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Prior>,
}

/// What the API server kept count of in an object before the request. Text that is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prior {
    /// Of the version that the request would replace: of all attempts with the same one at most one can succeed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// When the object was created, in RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// It was being deleted already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// Who wrote it last (but for its status), by the name that its client gave itself; nothing that proves anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manager: String,
    /// When that was, in RFC 3339, to the second.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub written: String,
}

/// How much of a diff was left out, and the digest of the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    pub changes: usize,
    pub kept: usize,
    /// SHA-256 of the JSON text of all changes, in hex.
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_back_as_itself_and_another_is_refused_with_what_is_accepted() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(*action));
        }
        let refused = "deleted".parse::<Outcome>().unwrap_err();
        assert_eq!(
            refused.to_string(),
            r#""deleted": accepted is one of confirmed, rejected, superseded, unconfirmed"#
        );
    }

    #[test]
    fn a_resource_tells_its_kind_and_its_subresource() {
        let scale = Resource::new("Deployment", "scale");
        assert_eq!((scale.as_str(), scale.kind(), scale.subresource()), ("Deployment/scale", "Deployment", "scale"));
        assert_eq!((Resource::new("Pod", "").as_str(), Resource::new("Pod", "").subresource()), ("Pod", ""));
    }

    #[test]
    fn a_detail_reads_back_and_leaves_out_what_it_lacks() {
        let detail = Detail { summary: "image a:1 → a:2".into(), ..Detail::default() };
        assert_eq!(detail.to_json().as_str(), r#"{"summary":"image a:1 → a:2"}"#);
        assert_eq!(detail.to_json().read().unwrap().summary, detail.summary);
    }
}

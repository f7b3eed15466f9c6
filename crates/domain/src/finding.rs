//! What becomes known of an entry after it was made, by the states of its object; see [`crate::entry::Evidence`].

use crate::entry::{Action, Evidence, ObjectHash, Outcome, Prior, Resource, Source};
use crate::id::EntryId;

/// What stands for the status code of a write that did not come about, where nobody has seen it: HTTP's "conflict".
pub const REJECTED_UNSEEN: u16 = 409;

/// What came of one entry's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub id: EntryId,
    /// Never [`Outcome::Unconfirmed`].
    pub outcome: Outcome,
    /// Never [`Evidence::Nothing`].
    pub evidence: Evidence,
    /// In place of what the entry was made with; what is rejected has one.
    pub status_code: Option<u16>,
}

impl Finding {
    pub fn confirmed(id: EntryId, evidence: Evidence) -> Self {
        Self { id, outcome: Outcome::Confirmed, evidence, status_code: None }
    }

    pub fn rejected(id: EntryId, evidence: Evidence, status_code: u16) -> Self {
        Self { id, outcome: Outcome::Rejected, evidence, status_code: Some(status_code) }
    }
}

/// An entry as a link of the chain of its object's states: all that outcomes are inferred from, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub id: EntryId,
    /// The order of arrival and change.
    pub position: i64,
    pub action: Action,
    pub resource: Resource,
    pub api_group: String,
    pub namespace: String,
    pub resource_name: String,
    /// Empty where only an audit event tells of it.
    pub object_uid: String,
    pub before: Option<ObjectHash>,
    pub after: Option<ObjectHash>,
    pub outcome: Outcome,
    pub evidence: Evidence,
    pub source: Source,
    pub policy: String,
    /// Of `detail.request`; empty where it does not say.
    pub version: String,
    /// Of `detail.request`.
    pub prior: Option<Prior>,
}

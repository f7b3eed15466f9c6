//! An attempt to write, as an admission review tells it, and the decision what to record of it.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::entry::{RedactedEntry, RequestFacts};
use crate::id::EntryId;

/// A request that the API server is about to carry out. What came of it is not known yet.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub id: EntryId,
    pub operation: Operation,
    /// The group of the resource that was written to, which for a subresource may be another one than its kind's.
    pub api_group: &'a str,
    /// The kind that the request carries: for a subresource often another one than its object's (`Scale`).
    pub kind: &'a str,
    /// The plural that was written to: `deployments`.
    pub resource: &'a str,
    /// Empty where the object itself was written.
    pub subresource: &'a str,
    /// As the request names it; empty for generated names, which the object has.
    pub name: &'a str,
    pub namespace: &'a str,
    pub user: &'a str,
    /// Of the user, as the API server authenticated them.
    pub groups: &'a [Cow<'a, str>],
    pub object: Option<Unredacted<'a>>,
    pub old_object: Option<Unredacted<'a>>,
    pub request: RequestFacts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
    /// These three no admission review tells of, only an audit event.
    Get,
    List,
    Watch,
}

impl Operation {
    /// As an admission request spells it, or would.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Watch => "WATCH",
        }
    }

    /// Whether it changes or connects to something: what a policy is for that names no operations.
    pub fn is_write(self) -> bool {
        match self {
            Self::Create | Self::Update | Self::Delete | Self::Connect => true,
            Self::Get | Self::List | Self::Watch => false,
        }
    }
}

/// An object as the API server sent it; it may hold secrets. No `Serialize`; `Debug` tells only a size.
#[derive(Clone, Copy)]
pub struct Unredacted<'a>(pub &'a RawValue);

impl fmt::Debug for Unredacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unredacted({} bytes)", self.0.get().len())
    }
}

/// What to do about an attempt.
#[derive(Debug)]
pub enum Decision {
    Record(Box<RedactedEntry>),
    Skip(Skip),
}

/// Why there is nothing to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// It will never be persisted.
    DryRun,
    /// Without its noise the object is what it was.
    NothingChanged,
}

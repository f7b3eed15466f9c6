//! What a store of entries promises, whoever keeps it. No SQL here, and no IO.

#[cfg(feature = "conformance")]
pub mod conformance;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::finding::{Finding, Link};
use domain::query::{CursorKey, EntryQuery, Filter, Page, Scope};
use domain::retention::Cutoffs;
use domain::{EntryId, RedactedEntry, Source, StoredEntry};
use futures::stream::BoxStream;

pub type BoxError = Box<dyn Error + Send + Sync>;

#[async_trait]
pub trait EntryWriter: Send + Sync {
    /// Durable once this is `Ok`. An entry that is there already is `Ok` too, and stays as it is.
    ///
    /// Gives each new entry its `position`: higher than that of every entry that any reader has seen, so that who has
    /// seen all up to N never misses one that commits later.
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError>;

    /// Says of entries that their writes were refused, with that code, by us who know it: `rejected`, by evidence `self`,
    /// where nothing that weighs as much says otherwise. Each gets a new `position`. Others stay as they are, so doing it
    /// twice does nothing.
    async fn reject(&self, ids: &[EntryId], status_code: u16) -> Result<(), StoreError>;
}

/// What becomes known of entries later. A finding holds where it weighs more than what is known already (see
/// [`domain::Evidence::weight`]), so doing any of this twice, or in another order, comes to the same. Each entry that
/// changes gets a new `position`.
#[async_trait]
pub trait Outcomes: Send + Sync {
    /// What the states of their objects tell of entries. One that is not there is passed over: it was read from here.
    async fn settle(&self, findings: &[Finding]) -> Result<(), StoreError>;

    /// Entries as the API server's audit events tell them, each under the id of the attempt that its event names. The entry
    /// of that id learns its outcome, status code, address, audit id, user agent and impersonator. Where it is not there,
    /// which may be because another replica still holds it, what is told is kept until it comes: see
    /// [`Outcomes::join_late`].
    async fn join(&self, told: &[RedactedEntry]) -> Result<(), StoreError>;

    /// Joins what was kept with the entries that have come since, and with what a watch has seen of the same change (same
    /// object, same state after it, no audit event yet). What was kept since before `adopt`, by the store's clock, becomes
    /// an entry by itself: what it belonged to was lost.
    ///
    /// A bounded portion, so there may be more to do where it did something.
    async fn join_late(&self, adopt: DateTime<Utc>) -> Result<Late, StoreError>;

    /// How many entries from between the two are unconfirmed: not before the first, before the second. Looks at each of
    /// them, so it is for now and then.
    async fn unconfirmed(&self, from: EntryId, to: EntryId) -> Result<u64, StoreError>;
}

/// What [`Outcomes::join_late`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Late {
    pub joined: u64,
    pub adopted: u64,
    /// Still kept.
    pub waiting: u64,
}

/// Entries as links of their objects' chains. What they tell is for nobody's eyes, so they are read without a scope.
#[async_trait]
pub trait Links: Send + Sync {
    /// Of one cluster, what has come or changed after a position, in the order of positions; of no entry older than `since`.
    async fn links(&self, cluster: &str, after: i64, since: EntryId, limit: usize) -> Result<Vec<Link>, StoreError>;

    /// Of one object, by its kind, namespace and name, whatever its uid, newest first.
    async fn links_of(&self, object: &ObjectRef<'_>, before: EntryId, limit: usize) -> Result<Vec<Link>, StoreError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRef<'a> {
    pub cluster: &'a str,
    pub api_group: &'a str,
    /// Without a subresource; links of all its subresources are among the answer.
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

#[async_trait]
pub trait EntryReader: Send + Sync {
    /// Newest first by id. Nobody reads without saying what they may see.
    ///
    /// Fewer entries than the limit where they are so heavy that a reader could not hold them all; never none where there
    /// is one. Whether there are more is told by the page's cursors, not by its length.
    async fn page(&self, scope: &Scope, query: &EntryQuery) -> Result<Page, StoreError>;

    async fn entry(&self, scope: &Scope, id: EntryId) -> Result<Option<StoredEntry>, StoreError>;

    /// All that match, newest first, in bounded memory. Entries written meanwhile may or may not be among them.
    fn stream<'a>(&'a self, scope: &'a Scope, filter: &'a Filter) -> BoxStream<'a, Result<StoredEntry, StoreError>>;

    /// Signs this database's cursors; the same for every replica.
    async fn cursor_key(&self) -> Result<CursorKey, StoreError>;

    /// Of each policy that has entries, by name. Tells of no entry, so it is for nobody's eyes in particular.
    async fn policy_counts(&self, since: EntryId) -> Result<Vec<PolicyCount>, StoreError>;
}

/// How much there is of a policy's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyCount {
    pub policy: String,
    /// Since the id that was asked for.
    pub entries: u64,
    /// Of all there are.
    pub newest: EntryId,
    /// Of its newest [`HEARD_ENTRIES`] since the id that was asked for: the newest that each source made, or told the
    /// outcome of. Each of [`PolicyCount::SOURCES`] at most once, in their order.
    pub heard: Vec<(Source, EntryId)>,
}

impl PolicyCount {
    /// Those that tell of what is written to clusters.
    pub const SOURCES: [Source; 4] = [Source::Admission, Source::Audit, Source::Watch, Source::Chain];
}

/// Few enough to be looked at each minute, for each policy.
pub const HEARD_ENTRIES: usize = 1_000;

/// Who may do work that must not be done twice. The store's clock decides, not that of whoever asks.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease, or keeps it for that much longer; None while another holds it.
    ///
    /// The epoch stays while the holder does and rises with every change of hands. A holder whose time is over and whom
    /// nobody has followed still holds it.
    async fn hold(&self, name: &str, holder: &str, for_: Duration) -> Result<Option<Fence>, StoreError>;

    /// Lets the next one have it at once; this fence lets nobody through any more. Does nothing where it has not for long.
    async fn release(&self, fence: &Fence) -> Result<(), StoreError>;
}

/// A lease as it was given. It is compared in the transaction that does the work: whoever was frozen and followed by another
/// can't act when it wakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub name: String,
    pub holder: String,
    pub epoch: i64,
}

/// Each method that takes a [`Fence`] is refused, with [`StoreError::Fenced`] and no effect, once another holds the lease.
#[async_trait]
pub trait Retain: Send + Sync {
    /// Removes one bounded portion of the entries that have outlived their policies' retention: a whole day where the
    /// store can, else a batch. To be called until it tells `done`.
    async fn purge_some(&self, cutoffs: &Cutoffs, fence: &Fence) -> Result<Purged, StoreError>;

    /// How many entries of each policy have outlived their retention; none is zero.
    async fn count_outlived(&self, cutoffs: &Cutoffs) -> Result<BTreeMap<String, u64>, StoreError>;

    /// The last purge that finished.
    async fn last_purge(&self) -> Result<Option<LastPurge>, StoreError>;

    /// Remembers the purge that was begun at `at`, and writes the entry that tells of it: both or neither.
    async fn finish_purge(
        &self,
        fence: &Fence,
        at: DateTime<Utc>,
        by_policy: &BTreeMap<String, u64>,
        record: Option<&RedactedEntry>,
    ) -> Result<(), StoreError>;

    /// Writes the entry that tells of a purge which was not the whole of the night's: that one stays due.
    async fn interrupt_purge(&self, fence: &Fence, record: &RedactedEntry) -> Result<(), StoreError>;
}

/// What one call of [`Retain::purge_some`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// None is zero.
    pub by_policy: BTreeMap<String, u64>,
    /// Days that went as a whole, with the entries in them counted above.
    pub days: u32,
    /// Nothing that has outlived its retention is left.
    pub done: bool,
}

impl Purged {
    pub fn entries(&self) -> u64 {
        self.by_policy.values().sum()
    }

    /// Takes up what another portion removed; whether all is done, the last one knows.
    pub fn add(&mut self, portion: Self) {
        for (policy, entries) in portion.by_policy {
            *self.by_policy.entry(policy).or_default() += entries;
        }
        self.days += portion.days;
        self.done = portion.done;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPurge {
    /// When it was begun: what it removed is what had outlived its retention then.
    pub at: DateTime<Utc>,
    pub by_policy: BTreeMap<String, u64>,
}

#[async_trait]
pub trait Migrate: Send + Sync {
    /// Brings the schema up to date, under a lock that is tried again and again and never waited for: a migrator that
    /// waits is a transaction that CREATE INDEX CONCURRENTLY waits for in turn. Doing it twice does nothing.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Prepares room for entries from `now` on: partitions ahead of their day, where the store has them.
    async fn prepare(&self, now: DateTime<Utc>) -> Result<(), StoreError>;

    /// Answers, with the schema that this program was built for.
    async fn check(&self) -> Result<(), StoreError>;
}

/// Where entries and what becomes known of them are written.
pub trait Book: EntryWriter + Outcomes {}

impl<T: EntryWriter + Outcomes> Book for T {}

/// All that the program asks of its database, behind one handle.
pub trait Store: Book + Links + EntryReader + Leases + Retain + Migrate {}

impl<T: Book + Links + EntryReader + Leases + Retain + Migrate> Store for T {}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The store is away, busy or full for now.
    Later,
    /// The store refuses this very input.
    Never,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("writing a batch of {entries} entries")]
    Write {
        entries: usize,
        retry: Retry,
        #[source]
        source: BoxError,
    },

    /// Another operation than a write failed.
    #[error("{operation}")]
    Failed {
        operation: &'static str,
        retry: Retry,
        #[source]
        source: BoxError,
    },

    /// The row is there and cannot be read: a bug or a hand-edited table, never "not found".
    #[error("audit_entries row {id}: column {column} does not parse")]
    Corrupt { id: String, column: &'static str },

    /// The schema is not the one that this program was built for.
    #[error("the schema is at version {found}, this program needs {needed}: run `kubevision-audit migrate`")]
    Schema { found: i64, needed: i64 },

    /// What was asked for is the work of whoever holds the lease.
    #[error("another holds the lease {name:?} now")]
    Fenced { name: String },
}

impl StoreError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::Write { retry, .. } | Self::Failed { retry, .. } => *retry,
            Self::Corrupt { .. } | Self::Fenced { .. } => Retry::Never,
            Self::Schema { .. } => Retry::Later,
        }
    }
}

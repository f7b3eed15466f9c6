//! What a store of entries promises, whoever keeps it. No SQL here, and no IO.

#[cfg(feature = "conformance")]
pub mod conformance;

use std::error::Error;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::query::{CursorKey, EntryQuery, Filter, Page, Scope};
use domain::{EntryId, RedactedEntry, StoredEntry};
use futures::stream::BoxStream;

pub type BoxError = Box<dyn Error + Send + Sync>;

#[async_trait]
pub trait EntryWriter: Send + Sync {
    /// Durable once this is `Ok`. An entry that is there already is `Ok` too, and stays as it is.
    ///
    /// Gives each new entry its `position`: higher than that of every entry that any reader has seen, so that who has
    /// seen all up to N never misses one that commits later.
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError>;
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
}

#[async_trait]
pub trait Retain: Send + Sync {
    /// Removes one bounded portion of the entries before `cutoff`: a whole day where the store can, else a batch.
    /// To be called until it tells `done`.
    async fn purge_some(&self, cutoff: EntryId) -> Result<Purged, StoreError>;

    /// How many entries lie before `cutoff`.
    async fn count_before(&self, cutoff: EntryId) -> Result<u64, StoreError>;

    /// When the nightly purge last finished.
    async fn last_purge(&self) -> Result<Option<DateTime<Utc>>, StoreError>;

    async fn set_last_purge(&self, at: DateTime<Utc>) -> Result<(), StoreError>;
}

/// What one call of [`Retain::purge_some`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub entries: u64,
    /// Days that went as a whole, with the entries in them counted above.
    pub days: u32,
    /// Nothing before the cutoff is left.
    pub done: bool,
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

/// All that the program asks of its database, behind one handle.
pub trait Store: EntryWriter + EntryReader + Retain + Migrate {}

impl<T: EntryWriter + EntryReader + Retain + Migrate> Store for T {}

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
}

impl StoreError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::Write { retry, .. } | Self::Failed { retry, .. } => *retry,
            Self::Corrupt { .. } => Retry::Never,
            Self::Schema { .. } => Retry::Later,
        }
    }
}

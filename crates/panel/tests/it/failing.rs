//! A store that fails as told, around a real one.

use std::sync::Arc;

use async_trait::async_trait;
use domain::query::{CursorKey, EntryQuery, Filter, Page, Scope};
use domain::{EntryId, StoredEntry};
use futures::StreamExt;
use futures::stream::{BoxStream, once, pending};
use store::{EntryReader, PolicyCount, Retry, StoreError};

/// What its errors carry and nobody outside may see.
pub(crate) const INSIDE: &str = "password authentication failed for user audit";

pub(crate) struct Failing {
    pub(crate) store: Arc<dyn EntryReader>,
    pub(crate) retry: Retry,
    /// How many entries a stream tells before it fails.
    pub(crate) after: usize,
}

impl Failing {
    fn error(&self) -> StoreError {
        StoreError::Failed { operation: "reading entries", retry: self.retry, source: INSIDE.into() }
    }
}

#[async_trait]
impl EntryReader for Failing {
    async fn page(&self, _: &Scope, _: &EntryQuery) -> Result<Page, StoreError> {
        Err(self.error())
    }

    async fn entry(&self, _: &Scope, _: EntryId) -> Result<Option<StoredEntry>, StoreError> {
        Err(self.error())
    }

    fn stream<'a>(&'a self, scope: &'a Scope, filter: &'a Filter) -> BoxStream<'a, Result<StoredEntry, StoreError>> {
        let told = self.store.stream(scope, filter).take(self.after);
        let failure = async {
            // As a real store does, it lets go first: what was told is on its way.
            tokio::task::yield_now().await;
            Err(self.error())
        };
        told.chain(once(failure)).chain(pending()).boxed()
    }

    async fn cursor_key(&self) -> Result<CursorKey, StoreError> {
        self.store.cursor_key().await
    }

    async fn policy_counts(&self, since: EntryId) -> Result<Vec<PolicyCount>, StoreError> {
        self.store.policy_counts(since).await
    }
}

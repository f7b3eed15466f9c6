//! The outside world behind the house's small traits: the wall clock, the system's randomness, and a store that may not
//! be there yet.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::clock::{Clock, Entropy};
use domain::finding::Finding;
use domain::{EntryId, RedactedEntry};
use store::{Book, EntryWriter, Late, Outcomes, Retry, StoreError};
use tokio::sync::watch;

pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else takes as an argument")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// The operating system's generator, by way of uuid: 64 of a version 4 UUID's random bits.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the chance that everything else takes as an argument")]
    fn bits(&self) -> u64 {
        let uuid = uuid::Uuid::new_v4().as_u128();
        // The version's four bits lie in the upper half, the variant's two at the top of the lower: fold one over the other.
        ((uuid >> 64) ^ uuid) as u64
    }
}

/// What this process calls itself where only one may work. No other has the name, nor this one's next start: a container's
/// process often has the same number again.
pub fn holder() -> String {
    format!("{:016x}-{}", SystemEntropy.bits(), std::process::id())
}

/// Refuses batches, for now, until the schema is there: the store could not tell a table that is not made yet from one
/// that somebody has dropped.
pub struct OnceMigrated {
    pub store: Arc<dyn Book>,
    pub migrated: watch::Receiver<bool>,
}

const NOT_MIGRATED: &str = "the schema has not been brought up to date yet";

#[async_trait]
impl EntryWriter for OnceMigrated {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        if *self.migrated.borrow() {
            return self.store.write(batch).await;
        }
        Err(StoreError::Write { entries: batch.len(), retry: Retry::Later, source: NOT_MIGRATED.into() })
    }

    async fn reject(&self, ids: &[EntryId], status_code: u16) -> Result<(), StoreError> {
        if *self.migrated.borrow() {
            return self.store.reject(ids, status_code).await;
        }
        not_yet("rejecting entries")
    }
}

#[async_trait]
impl Outcomes for OnceMigrated {
    async fn settle(&self, findings: &[Finding]) -> Result<(), StoreError> {
        if *self.migrated.borrow() { self.store.settle(findings).await } else { not_yet("settling outcomes") }
    }

    async fn join(&self, told: &[RedactedEntry]) -> Result<(), StoreError> {
        if *self.migrated.borrow() { self.store.join(told).await } else { not_yet("joining audit events") }
    }

    async fn join_late(&self, adopt: DateTime<Utc>) -> Result<Late, StoreError> {
        if *self.migrated.borrow() { self.store.join_late(adopt).await } else { not_yet("joining audit events") }
    }

    async fn unconfirmed(&self, from: EntryId, to: EntryId) -> Result<u64, StoreError> {
        if *self.migrated.borrow() { self.store.unconfirmed(from, to).await } else { not_yet("counting entries") }
    }
}

fn not_yet<T>(operation: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Failed { operation, retry: Retry::Later, source: NOT_MIGRATED.into() })
}

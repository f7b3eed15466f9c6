//! The purge: bounded batches by policy, oldest first, so that writers get their turn in between.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use domain::retention::Cutoffs;
use sqlx::{Sqlite, Transaction};
use store::{Fence, LastPurge, Purged, Retain, StoreError};

use super::{fixed_width, lease, write};
use crate::SqlStore;
use crate::failure::{failed, never};
use crate::policies::{self, present};

/// Some 30 ms of the only writer, for which a batch waits.
const BATCH_ENTRIES: u64 = 1_000;

#[async_trait::async_trait]
impl Retain for SqlStore<Sqlite> {
    async fn purge_some(&self, cutoffs: &Cutoffs, fence: &Fence) -> Result<Purged, StoreError> {
        const OPERATION: &str = "purging entries";
        let mut transaction = self.fenced(fence, OPERATION).await?;
        let policies: Vec<String> = present::<Sqlite>("audit_entries")
            .build_query_scalar()
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed(OPERATION))?;
        let mut purged = Purged::default();
        let mut room = BATCH_ENTRIES;
        for policy in policies {
            let Some(cutoff) = cutoffs.of(&policy) else { continue };
            let delete = "DELETE FROM audit_entries WHERE id IN ( \
                          SELECT id FROM audit_entries WHERE policy = ? AND id < ? ORDER BY id LIMIT ?)";
            let delete = sqlx::query(delete).bind(&policy).bind(cutoff.to_string()).bind(room.cast_signed());
            let deleted = delete.execute(&mut *transaction).await.map_err(failed(OPERATION))?.rows_affected();
            if deleted > 0 {
                purged.by_policy.insert(policy, deleted);
            }
            room = room.saturating_sub(deleted);
            if room == 0 {
                break;
            }
        }
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(Purged { done: room > 0, ..purged })
    }

    async fn count_outlived(&self, cutoffs: &Cutoffs) -> Result<BTreeMap<String, u64>, StoreError> {
        const OPERATION: &str = "counting entries";
        let pool = &self.reads.pool;
        let policies: Vec<String> =
            present::<Sqlite>("audit_entries").build_query_scalar().fetch_all(pool).await.map_err(failed(OPERATION))?;
        let mut counts = BTreeMap::new();
        for policy in policies {
            let Some(cutoff) = cutoffs.of(&policy) else { continue };
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_entries WHERE policy = ? AND id < ?")
                .bind(&policy)
                .bind(cutoff.to_string())
                .fetch_one(pool)
                .await
                .map_err(failed(OPERATION))?;
            if count > 0 {
                counts.insert(policy, count.unsigned_abs());
            }
        }
        Ok(counts)
    }

    async fn last_purge(&self) -> Result<Option<LastPurge>, StoreError> {
        const OPERATION: &str = "reading when the last purge finished";
        let row: Option<(String, String)> =
            sqlx::query_as("SELECT finished_at, removed FROM job_runs WHERE job = 'purge'")
                .fetch_optional(&self.reads.pool)
                .await
                .map_err(failed(OPERATION))?;
        let Some((at, removed)) = row else { return Ok(None) };
        let at = at.parse().map_err(|error: chrono::ParseError| never(OPERATION, error))?;
        Ok(Some(LastPurge { at, by_policy: policies::removed(&removed)? }))
    }

    async fn finish_purge(
        &self,
        fence: &Fence,
        at: DateTime<Utc>,
        by_policy: &BTreeMap<String, u64>,
        record: Option<&RedactedEntry>,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "noting that the purge finished";
        let mut transaction = self.fenced(fence, OPERATION).await?;
        let upsert = "INSERT INTO job_runs (job, finished_at, removed) VALUES ('purge', ?, ?) \
                      ON CONFLICT (job) DO UPDATE SET finished_at = excluded.finished_at, removed = excluded.removed";
        let upsert = sqlx::query(upsert).bind(fixed_width(at)).bind(policies::removed_text(by_policy)?);
        upsert.execute(&mut *transaction).await.map_err(failed(OPERATION))?;
        if let Some(record) = record {
            write::insert(&mut transaction, std::slice::from_ref(record)).await.map_err(failed(OPERATION))?;
        }
        transaction.commit().await.map_err(failed(OPERATION))
    }

    async fn interrupt_purge(&self, fence: &Fence, record: &RedactedEntry) -> Result<(), StoreError> {
        const OPERATION: &str = "noting that the purge was interrupted";
        let mut transaction = self.fenced(fence, OPERATION).await?;
        write::insert(&mut transaction, std::slice::from_ref(record)).await.map_err(failed(OPERATION))?;
        transaction.commit().await.map_err(failed(OPERATION))
    }
}

impl SqlStore<Sqlite> {
    async fn fenced(&self, fence: &Fence, operation: &'static str) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut transaction = self.writes.begin_with("BEGIN IMMEDIATE").await.map_err(failed(operation))?;
        lease::compare(&mut transaction, fence).await?;
        Ok(transaction)
    }
}

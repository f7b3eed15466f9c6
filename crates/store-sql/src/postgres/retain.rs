//! The purge: days of which every entry has outlived its retention go as partitions, the rest in bounded batches.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use domain::retention::Cutoffs;
use sqlx::{Postgres, Transaction};
use store::{Fence, LastPurge, Purged, Retain, StoreError};

use super::{lease, partitions, schema_lock, write};
use crate::SqlStore;
use crate::failure::failed;
use crate::policies::{self, present};

/// A transaction short enough that nobody waits for it.
const BATCH_ENTRIES: u64 = 5_000;

#[async_trait::async_trait]
impl Retain for SqlStore<Postgres> {
    async fn purge_some(&self, cutoffs: &Cutoffs, fence: &Fence) -> Result<Purged, StoreError> {
        let mut lock = schema_lock::take(&self.writes).await?;
        let day = partitions::purge_one(&mut lock, cutoffs, fence).await;
        // Of the two, what went wrong first is told.
        let released = schema_lock::release(lock).await;
        let day = day?;
        released?;
        match day {
            Some(by_policy) => Ok(Purged { by_policy, days: 1, done: false }),
            None => self.delete_some(cutoffs, fence).await,
        }
    }

    async fn count_outlived(&self, cutoffs: &Cutoffs) -> Result<BTreeMap<String, u64>, StoreError> {
        const OPERATION: &str = "counting entries";
        let pool = &self.reads.pool;
        let policies: Vec<String> = present::<Postgres>("audit_entries")
            .build_query_scalar()
            .fetch_all(pool)
            .await
            .map_err(failed(OPERATION))?;
        let mut counts = BTreeMap::new();
        for policy in policies {
            let Some(cutoff) = cutoffs.of(&policy) else { continue };
            let count =
                sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_entries WHERE policy = $1 AND id < $2")
                    .bind(&policy)
                    .bind(cutoff.as_uuid())
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
        let row: Option<(DateTime<Utc>, String)> =
            sqlx::query_as("SELECT finished_at, removed FROM job_runs WHERE job = 'purge'")
                .fetch_optional(&self.reads.pool)
                .await
                .map_err(failed("reading when the last purge finished"))?;
        row.map(|(at, removed)| Ok(LastPurge { at, by_policy: policies::removed(&removed)? })).transpose()
    }

    async fn finish_purge(
        &self,
        fence: &Fence,
        at: DateTime<Utc>,
        by_policy: &BTreeMap<String, u64>,
        record: Option<&RedactedEntry>,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "noting that the purge finished";
        if let Some(record) = record {
            self.make_room_for(record).await?;
        }
        let mut transaction = self.fenced(fence, OPERATION).await?;
        let upsert = "INSERT INTO job_runs (job, finished_at, removed) \
                      VALUES ('purge', date_trunc('milliseconds', $1::timestamptz), $2) \
                      ON CONFLICT (job) DO UPDATE SET finished_at = excluded.finished_at, removed = excluded.removed";
        let upsert = sqlx::query(upsert).bind(at).bind(policies::removed_text(by_policy)?);
        upsert.execute(&mut *transaction).await.map_err(failed(OPERATION))?;
        if let Some(record) = record {
            write::insert_one(&mut transaction, record).await.map_err(failed(OPERATION))?;
        }
        transaction.commit().await.map_err(failed(OPERATION))
    }

    async fn interrupt_purge(&self, fence: &Fence, record: &RedactedEntry) -> Result<(), StoreError> {
        const OPERATION: &str = "noting that the purge was interrupted";
        self.make_room_for(record).await?;
        let mut transaction = self.fenced(fence, OPERATION).await?;
        write::insert_one(&mut transaction, record).await.map_err(failed(OPERATION))?;
        transaction.commit().await.map_err(failed(OPERATION))
    }
}

impl SqlStore<Postgres> {
    async fn delete_some(&self, cutoffs: &Cutoffs, fence: &Fence) -> Result<Purged, StoreError> {
        const OPERATION: &str = "purging entries";
        let mut transaction = self.fenced(fence, OPERATION).await?;
        let policies: Vec<String> = present::<Postgres>("audit_entries")
            .build_query_scalar()
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed(OPERATION))?;
        let mut purged = Purged::default();
        let mut room = BATCH_ENTRIES;
        for policy in policies {
            let Some(cutoff) = cutoffs.of(&policy) else { continue };
            // The ids first, in an array: with a subquery the planner would walk every partition for each.
            let delete = "DELETE FROM audit_entries WHERE id < $2 AND id = ANY (ARRAY( \
                          SELECT id FROM audit_entries WHERE policy = $1 AND id < $2 ORDER BY id LIMIT $3))";
            let delete = sqlx::query(delete).bind(&policy).bind(cutoff.as_uuid()).bind(room.cast_signed());
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

    /// Outside the fenced transaction: a statement that finds a partition missing ends the transaction that it is in.
    async fn make_room_for(&self, record: &RedactedEntry) -> Result<(), StoreError> {
        let day = record.id.timestamp().date_naive();
        partitions::ensure(&self.writes, &BTreeSet::from([day])).await
    }

    async fn fenced(
        &self,
        fence: &Fence,
        operation: &'static str,
    ) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.writes.begin().await.map_err(failed(operation))?;
        lease::compare(&mut transaction, fence).await?;
        Ok(transaction)
    }
}

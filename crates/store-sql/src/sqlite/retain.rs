//! The purge: bounded batches, oldest first, so that writers get their turn in between.

use chrono::{DateTime, Utc};
use domain::EntryId;
use sqlx::Sqlite;
use store::{Purged, Retain, StoreError};

use super::fixed_width;
use crate::SqlStore;
use crate::failure::{failed, never};

/// Some 30 ms of the only writer, for which a batch waits.
const BATCH_ENTRIES: u32 = 1_000;

#[async_trait::async_trait]
impl Retain for SqlStore<Sqlite> {
    async fn purge_some(&self, cutoff: EntryId) -> Result<Purged, StoreError> {
        let delete =
            "DELETE FROM audit_entries WHERE id IN (SELECT id FROM audit_entries WHERE id < ? ORDER BY id LIMIT ?)";
        let deleted = sqlx::query(delete).bind(cutoff.to_string()).bind(BATCH_ENTRIES).execute(&self.writes).await;
        let entries = deleted.map_err(failed("purging entries"))?.rows_affected();
        Ok(Purged { entries, days: 0, done: entries < u64::from(BATCH_ENTRIES) })
    }

    async fn count_before(&self, cutoff: EntryId) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_entries WHERE id < ?")
            .bind(cutoff.to_string())
            .fetch_one(&self.reads.pool)
            .await;
        Ok(count.map_err(failed("counting entries"))?.unsigned_abs())
    }

    async fn last_purge(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        const OPERATION: &str = "reading when the last purge finished";
        let finished = sqlx::query_scalar::<_, String>("SELECT finished_at FROM job_runs WHERE job = 'purge'")
            .fetch_optional(&self.reads.pool)
            .await
            .map_err(failed(OPERATION))?;
        finished.map(|text| text.parse().map_err(|error: chrono::ParseError| never(OPERATION, error))).transpose()
    }

    async fn set_last_purge(&self, at: DateTime<Utc>) -> Result<(), StoreError> {
        let upsert = "INSERT INTO job_runs (job, finished_at) VALUES ('purge', ?) \
                      ON CONFLICT (job) DO UPDATE SET finished_at = excluded.finished_at";
        let set = sqlx::query(upsert).bind(fixed_width(at)).execute(&self.writes).await;
        set.map(drop).map_err(failed("noting when the purge finished"))
    }
}

//! The purge: days that lie before the cutoff as a whole go as partitions, the rest in bounded batches.

use chrono::{DateTime, Days, NaiveDate, Utc};
use domain::EntryId;
use sqlx::Postgres;
use store::{Purged, Retain, StoreError};

use super::partitions::{self, State};
use super::schema_lock;
use crate::SqlStore;
use crate::failure::failed;

/// A transaction short enough that nobody waits for it.
const BATCH_ENTRIES: i64 = 5_000;

#[async_trait::async_trait]
impl Retain for SqlStore<Postgres> {
    async fn purge_some(&self, cutoff: EntryId) -> Result<Purged, StoreError> {
        let mut lock = schema_lock::take(&self.writes).await?;
        let states = partitions::states(&mut lock).await?;
        let whole = states.into_iter().find(|(day, state)| *state != State::Alone && ends_before(*day, cutoff));
        let removed = match whole {
            Some((day, state)) => {
                let entries = partitions::remove(&mut lock, day, state).await.map_err(failed("purging a day"))?;
                Some(Purged { entries, days: 1, done: false })
            }
            None => None,
        };
        schema_lock::release(lock).await?;
        match removed {
            Some(removed) => Ok(removed),
            None => self.delete_some(cutoff).await,
        }
    }

    async fn count_before(&self, cutoff: EntryId) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_entries WHERE id < $1")
            .bind(cutoff.as_uuid())
            .fetch_one(&self.reads.pool)
            .await;
        Ok(count.map_err(failed("counting entries"))?.unsigned_abs())
    }

    async fn last_purge(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let finished = sqlx::query_scalar("SELECT finished_at FROM job_runs WHERE job = 'purge'")
            .fetch_optional(&self.reads.pool)
            .await;
        finished.map_err(failed("reading when the last purge finished"))
    }

    async fn set_last_purge(&self, at: DateTime<Utc>) -> Result<(), StoreError> {
        let upsert = "INSERT INTO job_runs (job, finished_at) VALUES ('purge', date_trunc('milliseconds', $1::timestamptz)) \
                      ON CONFLICT (job) DO UPDATE SET finished_at = excluded.finished_at";
        let set = sqlx::query(upsert).bind(at).execute(&self.writes).await;
        set.map(drop).map_err(failed("noting when the purge finished"))
    }
}

impl SqlStore<Postgres> {
    async fn delete_some(&self, cutoff: EntryId) -> Result<Purged, StoreError> {
        // The ids first, in an array: with a subquery the planner would walk every partition for each.
        let delete = "DELETE FROM audit_entries WHERE id < $1 AND id = ANY (ARRAY( \
                      SELECT id FROM audit_entries WHERE id < $1 ORDER BY id LIMIT $2))";
        let deleted = sqlx::query(delete).bind(cutoff.as_uuid()).bind(BATCH_ENTRIES).execute(&self.writes).await;
        let entries = deleted.map_err(failed("purging entries"))?.rows_affected();
        Ok(Purged { entries, days: 0, done: entries < BATCH_ENTRIES.unsigned_abs() })
    }
}

fn ends_before(day: NaiveDate, cutoff: EntryId) -> bool {
    let next = day.checked_add_days(Days::new(1));
    next.is_some_and(|next| EntryId::floor(partitions::start_of(next)) <= cutoff)
}

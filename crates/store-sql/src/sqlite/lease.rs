//! Leases by this machine's clock, which is that of every program that has the file open.

use std::time::Duration;

use sqlx::{Sqlite, SqliteConnection};
use store::{Fence, Leases, StoreError};

use crate::SqlStore;
use crate::failure::failed;

#[async_trait::async_trait]
impl Leases for SqlStore<Sqlite> {
    async fn hold(&self, name: &str, holder: &str, for_: Duration) -> Result<Option<Fence>, StoreError> {
        let take = "INSERT INTO leases (name, holder, epoch, until) \
                    VALUES (?1, ?2, 1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)) \
                    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until, \
                    epoch = leases.epoch + (leases.holder <> excluded.holder) \
                    WHERE leases.holder = excluded.holder OR leases.until <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
                    RETURNING epoch";
        // To the end of the rows, which is where it commits.
        let epochs: Vec<i64> = sqlx::query_scalar(take)
            .bind(name)
            .bind(holder)
            .bind(format!("+{:.3} seconds", for_.as_secs_f64()))
            .fetch_all(&self.writes)
            .await
            .map_err(failed("taking a lease"))?;
        let fence = |&epoch: &i64| Fence { name: name.to_owned(), holder: holder.to_owned(), epoch };
        Ok(epochs.first().map(fence))
    }

    async fn release(&self, fence: &Fence) -> Result<(), StoreError> {
        let release = "UPDATE leases SET epoch = epoch + 1, until = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
                       WHERE name = ? AND holder = ? AND epoch = ?";
        let fence = sqlx::query(release).bind(&fence.name).bind(&fence.holder).bind(fence.epoch);
        fence.execute(&self.writes).await.map(drop).map_err(failed("releasing a lease"))
    }
}

/// Inside the transaction that is fenced, which is the only one that writes.
pub(super) async fn compare(transaction: &mut SqliteConnection, fence: &Fence) -> Result<(), StoreError> {
    let held = "SELECT 1 FROM leases WHERE name = ? AND holder = ? AND epoch = ?";
    let held: Option<i64> = sqlx::query_scalar(held)
        .bind(&fence.name)
        .bind(&fence.holder)
        .bind(fence.epoch)
        .fetch_optional(transaction)
        .await
        .map_err(failed("comparing a lease"))?;
    held.map(drop).ok_or_else(|| StoreError::Fenced { name: fence.name.clone() })
}

//! Leases by the server's clock.

use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::PgConnection;
use store::{Fence, Leases, StoreError};

use crate::SqlStore;
use crate::failure::failed;

#[async_trait::async_trait]
impl Leases for SqlStore<Postgres> {
    async fn hold(&self, name: &str, holder: &str, for_: Duration) -> Result<Option<Fence>, StoreError> {
        let take = "INSERT INTO leases AS held (name, holder, epoch, until) \
                    VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3)) \
                    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until, \
                    epoch = held.epoch + (held.holder <> excluded.holder)::integer \
                    WHERE held.holder = excluded.holder OR held.until <= clock_timestamp() \
                    RETURNING epoch";
        let epoch: Option<i64> = sqlx::query_scalar(take)
            .bind(name)
            .bind(holder)
            .bind(for_.as_secs_f64())
            .fetch_optional(&self.writes)
            .await
            .map_err(failed("taking a lease"))?;
        Ok(epoch.map(|epoch| Fence { name: name.to_owned(), holder: holder.to_owned(), epoch }))
    }

    async fn release(&self, fence: &Fence) -> Result<(), StoreError> {
        let release = "UPDATE leases SET epoch = epoch + 1, until = clock_timestamp() \
                       WHERE name = $1 AND holder = $2 AND epoch = $3";
        let fence = sqlx::query(release).bind(&fence.name).bind(&fence.holder).bind(fence.epoch);
        fence.execute(&self.writes).await.map(drop).map_err(failed("releasing a lease"))
    }
}

/// Inside the transaction that is fenced: FOR SHARE has whoever would take the lease wait for that one's end.
pub(super) async fn compare(transaction: &mut PgConnection, fence: &Fence) -> Result<(), StoreError> {
    let held = "SELECT 1 FROM leases WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE";
    let held: Option<i32> = sqlx::query_scalar(held)
        .bind(&fence.name)
        .bind(&fence.holder)
        .bind(fence.epoch)
        .fetch_optional(transaction)
        .await
        .map_err(failed("comparing a lease"))?;
    held.map(drop).ok_or_else(|| StoreError::Fenced { name: fence.name.clone() })
}

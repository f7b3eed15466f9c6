//! Whoever changes the table's shape (migration, partitions, the purge of a day) holds this lock. It is tried again and
//! again and never waited for: one that waits is a transaction that DETACH CONCURRENTLY waits for in turn.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockGuard, PgAdvisoryLockKey, PgPool};
use sqlx::{Either, Postgres};
use store::StoreError;
use tokio::time::{Instant, sleep};

use crate::failure::{failed, later};

/// Of this program, in the database's one space of lock numbers; the other is `write`'s.
const KEY: PgAdvisoryLockKey = PgAdvisoryLockKey::BigInt(0x6b76_6100_0000_0001);

/// A day's detachment by another replica is bounded by its statement timeout.
const WAIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);

/// The connection that holds the lock. A dropped guard gives the lock back with the connection.
pub(super) type SchemaLock = PgAdvisoryLockGuard<PoolConnection<Postgres>>;

pub(super) async fn take(pool: &PgPool) -> Result<SchemaLock, StoreError> {
    const OPERATION: &str = "taking the lock on the schema";
    let lock = PgAdvisoryLock::with_key(KEY);
    let deadline = Instant::now() + WAIT;
    loop {
        // Given back in between, or those who wait for the lock would leave no connection to those who write.
        let connection = pool.acquire().await.map_err(failed(OPERATION))?;
        if let Either::Left(guard) = lock.try_acquire(connection).await.map_err(failed(OPERATION))? {
            return Ok(guard);
        }
        if Instant::now() >= deadline {
            return Err(later(OPERATION, format!("another program has held it for {WAIT:?}")));
        }
        sleep(PAUSE).await;
    }
}

/// At once, and not only when the connection is next used.
pub(super) async fn release(guard: SchemaLock) -> Result<(), StoreError> {
    guard.release_now().await.map(drop).map_err(failed("releasing the lock on the schema"))
}

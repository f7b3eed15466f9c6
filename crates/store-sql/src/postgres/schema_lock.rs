//! Whoever changes the table's shape (migration, partitions, the purge of a day) holds this lock. It is tried again and
//! again and never waited for: one that waits is a transaction that DETACH CONCURRENTLY waits for in turn.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgAdvisoryLock, PgAdvisoryLockGuard, PgAdvisoryLockKey, PgPool};
use sqlx::{Either, Executor as _, Postgres};
use store::StoreError;
use tokio::time::{Instant, sleep};

use crate::failure::{failed, later};

/// Of this program, in the database's one space of lock numbers; the other is `write`'s.
const KEY: PgAdvisoryLockKey = PgAdvisoryLockKey::BigInt(0x6b76_6100_0000_0001);

/// A day's detachment by another replica is bounded by its statement timeout.
const WAIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);

/// Whoever holds the lock and says nothing for so long is frozen, and the server takes it back: within [`WAIT`], so that
/// nobody gives up for it. Nothing where the server has no such setting (before version 14, which `migrate` refuses).
const WATCH: &str = "SELECT set_config(name, '30s', false) FROM pg_settings WHERE name = 'idle_session_timeout'";
/// A connection in the pool may be idle. One that comes back unreleased is closed by the server sooner than others.
const UNWATCH: &str = "SELECT set_config(name, reset_val, false) FROM pg_settings WHERE name = 'idle_session_timeout'";

/// The connection that holds the lock. A dropped guard gives the lock back with the connection.
pub(super) type SchemaLock = PgAdvisoryLockGuard<PoolConnection<Postgres>>;

pub(super) async fn take(pool: &PgPool) -> Result<SchemaLock, StoreError> {
    const OPERATION: &str = "taking the lock on the schema";
    let lock = PgAdvisoryLock::with_key(KEY);
    let deadline = Instant::now() + WAIT;
    loop {
        // Given back in between, or those who wait for the lock would leave no connection to those who write.
        let connection = pool.acquire().await.map_err(failed(OPERATION))?;
        if let Either::Left(mut guard) = lock.try_acquire(connection).await.map_err(failed(OPERATION))? {
            guard.execute(WATCH).await.map_err(failed(OPERATION))?;
            return Ok(guard);
        }
        if Instant::now() >= deadline {
            return Err(later(OPERATION, format!("another program has held it for {WAIT:?}")));
        }
        sleep(PAUSE).await;
    }
}

/// At once, and not only when the connection is next used.
pub(super) async fn release(mut guard: SchemaLock) -> Result<(), StoreError> {
    const OPERATION: &str = "releasing the lock on the schema";
    guard.execute(UNWATCH).await.map_err(failed(OPERATION))?;
    guard.release_now().await.map(drop).map_err(failed(OPERATION))
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn who_holds_the_lock_and_falls_silent_loses_it_and_a_connection_of_the_pool_may_idle() {
        let url = testkit::postgres::shared().await.create_database().await.unwrap();
        let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        let asked = "SELECT pg_backend_pid(), current_setting('idle_session_timeout')";
        let mut lock = take(&pool).await.unwrap();
        let (holder, watched): (i32, String) = sqlx::query_as(asked).fetch_one(&mut *lock).await.unwrap();
        assert_eq!(watched, "30s");
        release(lock).await.unwrap();
        let idle: (i32, String) = sqlx::query_as(asked).fetch_one(&pool).await.unwrap();
        assert_eq!(idle, (holder, "0".to_owned()));
    }
}

//! The schema, and room for the days to come.

use std::collections::BTreeSet;

use chrono::{DateTime, Days, Utc};
use sqlx::Postgres;
use store::{Migrate, StoreError};

use super::{partitions, schema_lock};
use crate::failure::{failed, never};
use crate::{SqlStore, migrations};

/// Today and a week: a program that runs at all prepares them again long before.
const DAYS_AHEAD: u64 = 8;

/// `DETACH PARTITION CONCURRENTLY`, without which a purge would stop the writers, is of version 14.
const SERVER_VERSION_MIN: i32 = 140_000;

#[async_trait::async_trait]
impl Migrate for SqlStore<Postgres> {
    async fn migrate(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "migrating the schema";
        let mut lock = schema_lock::take(&self.writes).await?;
        let (version, encoding): (i32, String) =
            sqlx::query_as("SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')")
                .fetch_one(&mut *lock)
                .await
                .map_err(failed(OPERATION))?;
        if version < SERVER_VERSION_MIN {
            return Err(never(
                OPERATION,
                format!("PostgreSQL is {version}, accepted is {SERVER_VERSION_MIN} or newer"),
            ));
        }
        if encoding != "UTF8" {
            return Err(never(OPERATION, format!("the database is encoded in {encoding}, accepted is UTF8")));
        }
        migrations::postgres(&mut lock).await?;
        schema_lock::release(lock).await
    }

    async fn prepare(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let today = now.date_naive();
        let days: BTreeSet<_> = (0..DAYS_AHEAD).filter_map(|ahead| today.checked_add_days(Days::new(ahead))).collect();
        partitions::ensure(&self.writes, &days).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "checking the schema";
        let pool = &self.reads.pool;
        let table = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('audit_entries') IS NOT NULL";
        let migrated: bool = sqlx::query_scalar(table).fetch_one(pool).await.map_err(failed(OPERATION))?;
        if !migrated {
            return migrations::check(None);
        }
        let applied = sqlx::query_scalar(migrations::APPLIED).fetch_one(pool).await;
        migrations::check(applied.map_err(failed(OPERATION))?)
    }
}

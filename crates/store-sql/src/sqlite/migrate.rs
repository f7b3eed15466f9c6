//! The file and its schema.

use std::io;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Sqlite;
use store::{Migrate, StoreError};
use tokio::fs::OpenOptions;

use crate::failure::{failed, later};
use crate::{SqlStore, migrations};

/// Who may read the audit log: the program's own user.
const FILE_MODE: u32 = 0o600;

/// How long to try for the lock that every writer of the file takes: other programs' migrations, and their batches.
const LOCK_TRIES: u32 = 6;
const LOCK_PAUSE: Duration = Duration::from_millis(200);

#[async_trait::async_trait]
impl Migrate for SqlStore<Sqlite> {
    async fn migrate(&self) -> Result<(), StoreError> {
        create(self.writes.connect_options().get_filename())
            .await
            .map_err(|error| later("creating the database file", error))?;
        let mut all = self.begin().await?;
        // Each migration is a savepoint inside this transaction, so that two programs never apply the same one.
        migrations::sqlite(&mut all).await?;
        all.commit().await.map_err(failed("migrating the schema"))
    }

    /// There is nothing to prepare: one table holds all days.
    async fn prepare(&self, _: DateTime<Utc>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn check(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "checking the schema";
        let table = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
        let tables: i64 = sqlx::query_scalar(table).fetch_one(&self.reads.pool).await.map_err(failed(OPERATION))?;
        if tables == 0 {
            return migrations::check(None);
        }
        let applied = sqlx::query_scalar(migrations::APPLIED).fetch_one(&self.reads.pool).await;
        migrations::check(applied.map_err(failed(OPERATION))?)
    }
}

impl SqlStore<Sqlite> {
    async fn begin(&self) -> Result<sqlx::Transaction<'static, Sqlite>, StoreError> {
        let mut tries = 1;
        loop {
            match self.writes.begin_with("BEGIN IMMEDIATE").await {
                Err(error) if tries < LOCK_TRIES && is_busy(&error) => {
                    tries += 1;
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                begun => return begun.map_err(failed("taking the database's lock to migrate")),
            }
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    const BUSY: &str = "5";
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == BUSY)
}

/// SQLite would make it readable by all. Its `-wal` and `-shm` take its mode.
async fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    options.mode(FILE_MODE);
    let said = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    options.open(path).await.map(drop).map_err(said)
}

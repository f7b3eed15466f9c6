//! Entries in one SQLite file: one connection that writes, a few that read beside it.

mod lease;
mod migrate;
mod outcomes;
mod retain;
mod write;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Sqlite};

use crate::SqlStore;
use crate::reader::Reader;

const READERS: u32 = 4;
/// SQLite has one writer, and one that waits in our pool waits in order.
const WRITERS: u32 = 1;
/// How long to wait for another process that writes, such as the `purge` command.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a connection of ours.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// What the thread that reads a file reads ahead. Rows weigh up to a megabyte.
const ROWS_AHEAD: usize = 4;
/// What the log of writes is cut back to once it is merged.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The file is made by `migrate`, and only there: a file that vanished is an error, not an empty audit log.
pub(crate) fn store(path: &Path) -> SqlStore<Sqlite> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // Durable once a write is `Ok`: in WAL mode, NORMAL would lose commits with the power.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROWS_AHEAD)
        .pragma("journal_size_limit", WAL_BYTES_MAX.to_string())
        .disable_statement_logging();
    let pool = |connections| {
        // A closed last connection would merge and remove the log of writes, each time.
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
    };
    SqlStore {
        reads: Reader::new(pool(READERS).connect_lazy_with(options.clone().pragma("query_only", "on"))),
        writes: pool(WRITERS).connect_lazy_with(options),
    }
}

/// A time as this database holds it: of fixed width, so that text compares as time does.
fn fixed_width(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use store::Migrate as _;

    use super::*;

    #[tokio::test]
    async fn a_commit_is_logged_ahead_and_synced_and_readers_cannot_write() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = store(&folder.path().join("audit.db"));
        store.migrate().await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&store.writes).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&store.writes).await.unwrap();
        const FULL: i64 = 2;
        assert_eq!((journal.as_str(), synchronous), ("wal", FULL));
        assert!(sqlx::query("DELETE FROM settings").execute(&store.reads.pool).await.is_err());
    }
}

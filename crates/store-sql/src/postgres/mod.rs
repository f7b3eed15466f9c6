//! Entries in PostgreSQL, in a partition a day.

mod lease;
mod migrate;
mod outcomes;
mod partitions;
mod retain;
mod schema_lock;
mod write;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Executor as _, Postgres};

use crate::SqlStore;
use crate::reader::Reader;

/// Pages and exports of one replica. PostgreSQL gives out 100 connections to all.
const READERS: u32 = 8;
/// Batches commit one after another anyway; the others serve partitions, purge and migration.
const WRITERS: u32 = 4;
/// A probe that asks whether the database is there wants to know soon.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A search that takes longer would be given up by its reader, and holds up a purge.
const READ_TIMEOUT: &str = "30s";
/// A batch waits for those of other replicas.
const WRITE_TIMEOUT: &str = "60s";
/// Between two statements of a transaction nothing is waited for. A process that is frozen there holds up whoever takes
/// over its work no longer than this.
const IDLE_IN_TRANSACTION: &str = "30s";

pub(crate) fn store(options: PgConnectOptions) -> SqlStore<Postgres> {
    let options = named(options).disable_statement_logging();
    let reads = options.clone().options([
        ("statement_timeout", READ_TIMEOUT),
        ("default_transaction_read_only", "on"),
        // To plan over 100 partitions takes longer than to read a page of them, so a plan is made once a connection.
        ("plan_cache_mode", "force_generic_plan"),
        // Compiling such a plan takes longer still.
        ("jit", "off"),
    ]);
    let writes = options.options([
        ("statement_timeout", WRITE_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        // ON CONFLICT DO NOTHING fails in a stricter one, where the other row is newer than the snapshot.
        ("default_transaction_isolation", "read committed"),
        ("jit", "off"),
    ]);
    SqlStore {
        reads: Reader::new(pool(READERS).connect_lazy_with(reads)),
        writes: pool(WRITERS)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(DURABLE).await.map(drop) }))
            .connect_lazy_with(writes),
    }
}

/// Where an administrator made commits of this server asynchronous, ours are not: a write that is `Ok` is durable. A
/// stricter setting stays.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') = 'off'";

fn pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT)
}

fn named(options: PgConnectOptions) -> PgConnectOptions {
    if options.get_application_name().is_some() { options } else { options.application_name("kubevision-audit") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commit_is_durable_on_a_server_where_others_are_not_and_readers_cannot_write() {
        let server = testkit::postgres::shared().await;
        let url = server.create_database().await.unwrap();
        let database = url.rsplit('/').next().unwrap();
        for (theirs, ours) in [("off", "on"), ("remote_apply", "remote_apply")] {
            let set = format!("ALTER DATABASE {database} SET synchronous_commit = {theirs}");
            server.sql("postgres", &set).await.unwrap();
            let store = store(url.parse().unwrap());
            let commit: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&store.writes).await.unwrap();
            assert_eq!(commit, ours);
            let refused = sqlx::query("CREATE TABLE t ()").execute(&store.reads.pool).await.unwrap_err();
            assert!(refused.to_string().contains("read-only"), "{refused}");
        }
    }
}

//! The schema's history: the same numbers and names for both databases, append-only, part of the program.

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{PgConnection, SqlStr, SqliteConnection};
use store::StoreError;

use crate::failure::migrating;

/// What `migrations/DIALECT/NUMBER_NAME.sql` holds.
struct Step {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

const SQLITE: &[Step] = &[
    Step { version: 1, name: "audit_entries", sql: include_str!("../../../migrations/sqlite/0001_audit_entries.sql") },
    Step { version: 2, name: "leases", sql: include_str!("../../../migrations/sqlite/0002_leases.sql") },
    Step { version: 3, name: "outcomes", sql: include_str!("../../../migrations/sqlite/0003_outcomes.sql") },
];

const POSTGRES: &[Step] = &[
    Step {
        version: 1,
        name: "audit_entries",
        sql: include_str!("../../../migrations/postgres/0001_audit_entries.sql"),
    },
    Step { version: 2, name: "leases", sql: include_str!("../../../migrations/postgres/0002_leases.sql") },
    Step { version: 3, name: "outcomes", sql: include_str!("../../../migrations/postgres/0003_outcomes.sql") },
];

const _: () = assert!(SQLITE.len() == POSTGRES.len(), "both databases have the same migrations");

/// The schema that this program was built for.
const NEEDED: i64 = SQLITE[SQLITE.len() - 1].version;

/// For both databases. sqlx makes the table at the first migration.
pub(crate) const APPLIED: &str = "SELECT max(version) FROM _sqlx_migrations WHERE success";

pub(crate) async fn sqlite(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    apply(SQLITE, connection).await
}

pub(crate) async fn postgres(connection: &mut PgConnection) -> Result<(), StoreError> {
    apply(POSTGRES, connection).await
}

/// A later program's schema does for this one too: migrations expand before they contract, so that replicas are replaced
/// one by one.
pub(crate) fn check(applied: Option<i64>) -> Result<(), StoreError> {
    match applied.unwrap_or(0) {
        found if found < NEEDED => Err(StoreError::Schema { found, needed: NEEDED }),
        _ => Ok(()),
    }
}

/// Under the caller's lock.
async fn apply<C: Migrate>(steps: &'static [Step], connection: &mut C) -> Result<(), StoreError> {
    let step = |step: &Step| {
        let sql = SqlStr::from_static(step.sql);
        Migration::new(step.version, step.name.into(), MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations(steps.iter().map(step).collect());
    // sqlx would wait for its lock; ours is tried.
    migrator.set_locking(false).set_ignore_missing(true);
    // `run` is this with a bound that no future that is `Send` can meet.
    migrator.run_direct(None, connection, false).await.map_err(migrating)
}

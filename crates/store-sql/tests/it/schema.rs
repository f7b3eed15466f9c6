//! The migrations are never edited, and what they add up to is a text that people review.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use testkit::golden;

fn migrations() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations")
}

/// `NUMBER_NAME.sql` of a database, in order.
fn files(dialect: &str) -> Vec<String> {
    let names = fs::read_dir(migrations().join(dialect)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).filter(|name| name != "schema.sql").collect();
    names.sort();
    names
}

#[test]
fn a_migration_is_never_edited() {
    let mut text = String::new();
    for dialect in ["postgres", "sqlite"] {
        for file in files(dialect) {
            let digest = Sha256::digest(fs::read(migrations().join(dialect).join(&file)).unwrap());
            let hex = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            writeln!(text, "{hex}  {dialect}/{file}").unwrap();
        }
    }
    golden(migrations().join("migrations.sha256"), &text);
}

/// The migrations of a database up to a version, as a program of that time applied them.
pub(crate) async fn until(dialect: &str, version: i64) -> Migrator {
    let all = Migrator::new(migrations().join(dialect)).await.unwrap();
    Migrator::with_migrations(all.iter().filter(|step| step.version <= version).cloned().collect())
}

#[test]
fn both_databases_have_the_same_migrations() {
    assert_eq!(files("postgres"), files("sqlite"));
    assert!(!files("sqlite").is_empty());
}

#[tokio::test]
async fn the_sqlite_schema_is_what_was_reviewed() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}/audit.db", folder.path().display());
    let store = store_sql::open(&url).unwrap();
    store.migrate().await.unwrap();
    let objects: Vec<String> = sqlx::query_scalar(
        "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name NOT LIKE '\\_sqlx%' ESCAPE '\\' \
         ORDER BY type DESC, name",
    )
    .fetch_all(&mut SqliteConnection::connect(&url).await.unwrap())
    .await
    .unwrap();
    golden(migrations().join("sqlite/schema.sql"), &format!("{}\n", objects.join("\n\n")));
}

#[tokio::test]
async fn the_postgresql_schema_is_what_was_reviewed() {
    let url = testkit::postgres::shared().await.create_database().await.unwrap();
    let store = store_sql::open(&url).unwrap();
    store.migrate().await.unwrap();
    store.prepare("2026-03-01T12:00:00Z".parse().unwrap()).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut text = String::new();
    // One partition stands for all: they are made like the table, whose indexes they must have.
    for table in ["audit_entries", "audit_entries_20260301", "awaited_entries", "settings", "job_runs", "leases"] {
        text.push_str(&table_of(&mut connection, table).await);
    }
    let sequences: Vec<String> = sqlx::query_scalar(
        "SELECT format('CREATE SEQUENCE %s AS %s START %s INCREMENT %s CACHE %s', \
         seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqcache) FROM pg_sequence ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    writeln!(text, "{};", sequences.join(";\n")).unwrap();
    golden(migrations().join("postgres/schema.sql"), &text);
}

/// A table as the server's own catalogue tells it.
async fn table_of(connection: &mut PgConnection, table: &str) -> String {
    let body: Vec<String> = sqlx::query_scalar(
        r#"(SELECT format('    %I %s%s%s', attname, format_type(atttypid, atttypmod),
                          CASE WHEN attcollation = 0 THEN '' ELSE format(' COLLATE %I', collname) END,
                          CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END)
            FROM pg_attribute LEFT JOIN pg_collation c ON c.oid = attcollation
            WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
           UNION ALL
           (SELECT format('    CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE conrelid = $1::regclass ORDER BY conname)"#,
    )
    .bind(table)
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let end: String = sqlx::query_scalar(
        "SELECT concat(' PARTITION BY ' || pg_get_partkeydef(oid), ' PARTITION OF audit_entries ' || \
         pg_get_expr(relpartbound, oid)) FROM pg_class WHERE oid = $1::regclass",
    )
    .bind(table)
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    let indexes: Vec<String> =
        sqlx::query_scalar("SELECT indexdef || E';\\n' FROM pg_indexes WHERE tablename = $1 ORDER BY indexname")
            .bind(table)
            .fetch_all(connection)
            .await
            .unwrap();
    format!("CREATE TABLE {table} (\n{}\n){end};\n{}\n", body.join(",\n"), indexes.concat())
}

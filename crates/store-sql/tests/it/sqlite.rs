use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::query::{EntryQuery, Scope};
use domain::{Action, Entry, RedactedEntry};
use futures::FutureExt as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, SqliteConnection};
use store::{Retry, Store, StoreError, conformance};
use tempfile::TempDir;

use crate::{all, entries, schema};

struct Database {
    folder: TempDir,
}

impl Database {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.db")
    }

    fn open(&self) -> Arc<dyn Store> {
        store_sql::open(&format!("sqlite://{}", self.path().display())).unwrap()
    }

    async fn migrated(&self) -> Arc<dyn Store> {
        let store = self.open();
        store.migrate().await.unwrap();
        store
    }

    /// Another program's connection.
    async fn connect(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.path()).connect().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_keeps_the_contract() {
    for (name, case) in conformance::CASES {
        let database = Database::new();
        let store = database.migrated().await;
        let passed = std::panic::AssertUnwindSafe(case(store)).catch_unwind().await;
        assert!(passed.is_ok(), "{name}: see above");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_share_a_sqlite_file_keep_the_contract() {
    for (name, case) in conformance::SHARED_CASES {
        let database = Database::new();
        let stores = [database.migrated().await, database.open()];
        let passed = std::panic::AssertUnwindSafe(case(stores)).catch_unwind().await;
        assert!(passed.is_ok(), "{name}: see above");
    }
}

#[tokio::test]
async fn opening_does_nothing_and_only_migrating_makes_the_file() {
    let database = Database::new();
    let store = database.open();
    assert!(!database.path().exists());
    let early = store.write(&entries(1)).await.unwrap_err();
    assert_eq!(early.retry(), Retry::Later, "{early:?}");
    assert!(!database.path().exists());
    store.migrate().await.unwrap();
    store.write(&entries(1)).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for suffix in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{suffix}", database.path().display()));
        assert_eq!(mode(&path), 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_folder_that_is_missing_is_told_by_name_and_can_come() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("later/audit.db");
    let store = store_sql::open(&format!("sqlite://{}", path.display())).unwrap();
    let missing = store.migrate().await.unwrap_err();
    let source = std::error::Error::source(&missing).unwrap().to_string();
    assert!(source.contains(&path.display().to_string()), "{source}");
    assert_eq!(missing.retry(), Retry::Later);
    std::fs::create_dir(folder.path().join("later")).unwrap();
    store.migrate().await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_not_there_yet_is_told_by_its_version() {
    let database = Database::new();
    std::fs::File::create(database.path()).unwrap();
    let store = database.open();
    let refused = store.check().await.unwrap_err();
    assert!(matches!(refused, StoreError::Schema { found: 0, needed: 3 }), "{refused:?}");
    store.migrate().await.unwrap();
    store.check().await.unwrap();
}

/// The text of the schema is changed in place, beneath a program that has the file open.
#[tokio::test]
async fn what_an_earlier_version_wrote_stays_and_what_is_new_is_taken() {
    let database = Database::new();
    let options = SqliteConnectOptions::new().filename(database.path()).create_if_missing(true);
    schema::until("sqlite", 2).await.run(&mut options.connect().await.unwrap()).await.unwrap();
    let (open, store) = (database.open(), database.open());
    open.write(&entries(3)).await.unwrap();
    store.migrate().await.unwrap();
    let read = |n: u64| {
        let entry = entries(n + 1).pop().unwrap();
        RedactedEntry::sample(Entry { action: Action::Get, ..(*entry).clone() })
    };
    store.write(&[read(7)]).await.unwrap();
    open.write(&[read(8)]).await.unwrap();
    assert_eq!(all(&open).await.len(), 5);
    let sound: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(sound, "ok");
    let mut by_hand = database.connect().await;
    let erased = by_hand.execute("UPDATE audit_entries SET action = 'erase'").await.unwrap_err();
    assert!(erased.to_string().contains("action_is_known"), "{erased}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_start_together_migrate_once() {
    let database = Database::new();
    let programs: Vec<_> = (0..4).map(|_| database.open()).collect();
    for done in futures::future::join_all(programs.iter().map(|store| store.migrate())).await {
        done.unwrap();
    }
    let applied: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(applied, 3);
}

#[tokio::test]
async fn what_was_written_is_there_after_the_program_ended() {
    let database = Database::new();
    database.migrated().await.write(&entries(3)).await.unwrap();
    let again = database.open();
    assert_eq!(all(&again).await.len(), 3);
    again.write(&entries(4)).await.unwrap();
    let positions: Vec<_> = all(&again).await.iter().map(|entry| entry.position).collect();
    assert!(positions.is_sorted_by(|a, b| a > b), "positions go on where they were: {positions:?}");
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_corrupt_and_never_missing() {
    let database = Database::new();
    let store = database.migrated().await;
    let batch = entries(1);
    store.write(&batch).await.unwrap();
    let mut by_hand = database.connect().await;
    by_hand.execute("PRAGMA ignore_check_constraints = on").await.unwrap();
    for (update, column) in [
        ("UPDATE audit_entries SET action = 'erase'", "action"),
        ("UPDATE audit_entries SET action = 'update', status_code = 70000", "status_code"),
        ("UPDATE audit_entries SET status_code = 200, detail = '{'", "detail"),
        ("UPDATE audit_entries SET id = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'", "id"),
    ] {
        by_hand.execute(update).await.unwrap();
        let refused = store.page(&Scope::Everything, &EntryQuery::default()).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Corrupt { column: c, .. } if *c == column), "{refused:?}");
        assert_eq!(refused.retry(), Retry::Never);
    }
}

#[tokio::test]
async fn dashboards_read_the_columns_by_name() {
    let database = Database::new();
    database.migrated().await.write(&entries(1)).await.unwrap();
    let row: (String, String, String, String, i64) = sqlx::query_as(
        r#"SELECT "user", resource, json_extract(detail, '$.summary'), "timestamp", status_code FROM audit_entries"#,
    )
    .fetch_one(&mut database.connect().await)
    .await
    .unwrap();
    let expected = ("alice", "Deployment/scale", "replicas 1 → 3", "2026-03-01T12:00:00.000Z", 200);
    assert_eq!((row.0.as_str(), row.1.as_str(), row.2.as_str(), row.3.as_str(), row.4), expected);
}

//! The first page beside page 1,000, at a million entries over 90 days, as REST answers them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use domain::EntryId;
use domain::clock::Clock as _;
use domain::query::{Cursor, Direction};
use listener::Bound;
use panel::PanelState;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use store::Store;
use testkit::http;
use testkit::postgres::Postgres;
use tokio_util::sync::CancellationToken;

use crate::given::{Now, entry};
use crate::report::{Goal, Report, percentile};

const DAYS: i64 = 90;
const ENTRIES: i64 = 1_000_000;
const STEP_MILLIS: i64 = DAYS * 24 * 3_600_000 / ENTRIES;
const PAGE: usize = 50;
/// On the pages before page 1,000.
const BEFORE: usize = 999 * PAGE;
const WARM: usize = 50;
/// Some seconds, so that a moment of the machine is not what is measured.
const TURNS: usize = 3_000;

/// All columns in the table's order: those that differ from one entry to the next, and those of a pattern.
const COLUMNS: &str = r#"id, "user", action, resource, resource_name, cluster, namespace, status_code, detail, ip, "timestamp", outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy, position"#;
const VALUES: &str = r"'user-' || i % 50, p.action, p.resource, 'web-' || i % 2000, p.cluster, 'shop-' || i % 40, CASE WHEN i % 100 = 0 THEN 403 ELSE 200 END, p.detail, p.ip";
const OF_PATTERN: &str = "p.outcome, p.evidence, p.source, p.audit_id, p.real_user, p.user_agent, p.api_group, p.object_uid, p.before_hash, p.after_hash, p.policy, i";
const PATTERN: &str = "CREATE TEMP TABLE pattern AS SELECT * FROM audit_entries LIMIT 1";

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        of_sqlite(report).await?;
        of_postgres(report).await
    })
}

async fn of_sqlite(report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("audit.db").display());
    let store = store_sql::open(&url)?;
    store.migrate().await?;
    let filling = Instant::now();
    let start = start_millis();
    store.write(&[entry(EntryId::at(Now.now() - TimeDelta::days(DAYS + 1), 0), 0)]).await?;
    let mut connection = SqliteConnection::connect(&url).await?;
    let indexes = "SELECT name, sql FROM sqlite_schema \
                   WHERE tbl_name = 'audit_entries' AND type = 'index' AND sql IS NOT NULL";
    let indexes: Vec<(String, String)> = sqlx::query_as(indexes).fetch_all(&mut connection).await?;
    let fill = format!(
        "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {ENTRIES}), \
         times AS (SELECT i, {start} + i * {STEP_MILLIS} AS ms FROM numbers) \
         INSERT INTO audit_entries ({COLUMNS}) \
         SELECT printf('%08x-%04x-7%03x-8%03x-%012x', ms >> 16, ms & 65535, i & 4095, i & 4095, i), {VALUES}, \
         strftime('%Y-%m-%dT%H:%M:%fZ', ms / 1000.0, 'unixepoch'), {OF_PATTERN} FROM times CROSS JOIN pattern AS p"
    );
    let settings = ["PRAGMA synchronous = OFF".to_owned(), PATTERN.to_owned()];
    for sql in settings.into_iter().chain(around(&indexes, fill)).chain(["ANALYZE".to_owned()]) {
        connection.execute(trusted(sql)).await?;
    }
    connection.close().await?;
    report.note(&format!("{ENTRIES} entries are in SQLite after {} s", filling.elapsed().as_secs()));
    measure("SQLite", store, report).await
}

async fn of_postgres(report: &mut Report) -> anyhow::Result<()> {
    // Nothing is written while pages are read, so its disk has no say.
    let server = Postgres::start().await?;
    let url = server.create_database().await?;
    let store = store_sql::open(&url)?;
    store.migrate().await?;
    let filling = Instant::now();
    let start = start_millis();
    // One of each day makes its partition.
    let days = (0..=DAYS + 1).map(|day| entry(EntryId::at(Now.now() - TimeDelta::days(day), 0), 0));
    store.write(&days.collect::<Vec<_>>()).await?;
    store.prepare(Now.now()).await?;
    let mut connection = PgConnection::connect(&url).await?;
    let indexes = "SELECT indexname::text, replace(indexdef, ' ON ONLY ', ' ON ') FROM pg_indexes \
                   WHERE tablename = 'audit_entries' AND indexname <> 'audit_entries_pkey'";
    let indexes: Vec<(String, String)> = sqlx::query_as(indexes).fetch_all(&mut connection).await?;
    let fill = format!(
        "INSERT INTO audit_entries ({COLUMNS}) \
         SELECT (lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(i & 4095), 3, '0') || '8' || lpad(to_hex(i), 15, '0'))::uuid, \
         {VALUES}, to_timestamp(ms / 1000.0), {OF_PATTERN} \
         FROM (SELECT i, {start} + i * {STEP_MILLIS} AS ms FROM generate_series(1, {ENTRIES}::bigint) AS i) AS times, pattern AS p"
    );
    for sql in [PATTERN.to_owned()].into_iter().chain(around(&indexes, fill)).chain(["VACUUM ANALYZE".to_owned()]) {
        connection.execute(trusted(sql)).await?;
    }
    connection.close().await?;
    report.note(&format!("{ENTRIES} entries are in PostgreSQL after {} s", filling.elapsed().as_secs()));
    measure("PostgreSQL", store, report).await?;
    server.stop().await
}

fn start_millis() -> i64 {
    (Now.now() - TimeDelta::days(DAYS)).timestamp_millis()
}

/// The rows first and the indexes then: the same in the end, and sooner.
fn around(indexes: &[(String, String)], fill: String) -> impl Iterator<Item = String> {
    let dropped = indexes.iter().map(|(name, _)| format!("DROP INDEX {name}"));
    dropped.chain([fill]).chain(indexes.iter().map(|(_, sql)| sql.clone()))
}

#[expect(clippy::disallowed_methods, reason = "made of this file's constants and of what the schema says of itself")]
fn trusted(sql: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql)
}

async fn measure(database: &str, store: Arc<dyn Store>, report: &mut Report) -> anyhow::Result<()> {
    let bound = Bound::bind("panel", (Ipv4Addr::LOCALHOST, 0).into())?;
    let address = bound.local_addr();
    let router = panel::router(PanelState { entries: store.clone(), clock: Arc::new(Now) });
    let stop = CancellationToken::new();
    let turns = async {
        let measured = turns(address, &*store).await;
        stop.cancel();
        measured
    };
    let (served, measured) = tokio::join!(bound.serve(router, stop.clone()), turns);
    served?;
    let [mut first, mut deep] = measured?;
    let [first_p50, deep_p50] = [&mut first, &mut deep].map(|took| percentile(took, 50));
    let [first_p99, deep_p99] = [&mut first, &mut deep].map(|took| percentile(took, 99));
    report.ratio(&format!("page 1,000 of {database}"), "µs", deep_p50, ("page 1", first_p50), Goal::AtMost(1.3));
    report.figure(&format!("slower of the two in {database}"), "ms", first_p50.max(deep_p50) / 1e3, Goal::AtMost(10.0));
    report.note(&format!("p99 in {database}: page 1 {first_p99:.0} µs, page 1,000 {deep_p99:.0} µs"));
    Ok(())
}

/// By turns, so that what else the machine does befalls both; in microseconds.
async fn turns(address: SocketAddr, store: &dyn Store) -> anyhow::Result<[Vec<f64>; 2]> {
    let first = format!("/api/v1/audit-logs?limit={PAGE}");
    let deep = format!("{first}&cursor={}", cursor(address, store).await?);
    let mut took = [Vec::new(), Vec::new()];
    for turn in 0..WARM + TURNS {
        for (path, took) in [&first, &deep].into_iter().zip(&mut took) {
            let start = Instant::now();
            let response = http::get(address, path).await?;
            let elapsed = start.elapsed();
            ensure!(response.status == 200, "{path} answers {}: {}", response.status, response.body);
            ensure!(response.body.matches(r#""resource_name":"#).count() == PAGE, "a page is not full");
            if turn >= WARM {
                took.push(elapsed.as_secs_f64() * 1e6);
            }
        }
    }
    Ok(took)
}

/// What leads to page 1,000, found by walking there in larger steps.
async fn cursor(address: SocketAddr, store: &dyn Store) -> anyhow::Result<String> {
    const STEP: usize = 450;
    const { assert!(BEFORE.is_multiple_of(STEP)) };
    let mut cursor = String::new();
    for _ in 0..BEFORE / STEP {
        let response = http::get(address, &format!("/api/v1/audit-logs?limit={STEP}{cursor}")).await?;
        let page: serde_json::Value = serde_json::from_str(&response.body)?;
        let last = page["items"].as_array().and_then(|items| items.last()).context("an empty page")?;
        let id = last["id"].as_str().context("an item without id")?.parse()?;
        cursor = format!("&cursor={}", Cursor { direction: Direction::Older, id }.seal(&store.cursor_key().await?));
    }
    Ok(cursor.split_off("&cursor=".len()))
}

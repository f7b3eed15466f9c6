//! Batches into PostgreSQL by the store, beside `COPY` of the same rows into the same tables of another database.
//!
//! `COPY` skips nothing, numbers nothing and finds its rows written out already: it is what PostgreSQL can do. Both commit
//! once a batch, to a disk. They take turns at being first, so that what else the machine does befalls both.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{SecondsFormat, TimeDelta};
use domain::clock::Clock as _;
use domain::{EntryId, RedactedEntry};
use sqlx::postgres::PgPoolCopyExt as _;
use sqlx::{Connection as _, PgConnection, PgPool};
use testkit::postgres::{Durability, Postgres};

use crate::given::{Now, entry};
use crate::report::{Goal, Report};

/// A batch of a writer that is behind.
const BATCH: u64 = 1_000;
const WARM_BATCHES: u64 = 4;
const BATCHES: u64 = 300;

const COPY: &str = r#"COPY audit_entries (id, "user", action, resource, resource_name, cluster, namespace, status_code, detail, ip, "timestamp", outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy, position) FROM STDIN"#;

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(report))
}

async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let server = Postgres::start_with(Durability::Fsync).await?;
    let [ours, theirs] = [server.create_database().await?, server.create_database().await?];
    let store = store_sql::open(&ours)?;
    for url in [&ours, &theirs] {
        let store = store_sql::open(url)?;
        store.migrate().await?;
        store.prepare(Now.now()).await?;
    }
    let copier = PgPool::connect(&theirs).await?;
    let (mut by_store, mut by_copy) = (Duration::ZERO, Duration::ZERO);
    for batch in 0..WARM_BATCHES + BATCHES {
        let entries = entries(batch);
        let rows = rows(&entries, batch);
        let write = || timed(async { Ok(store.write(&entries).await?) });
        let copy = || timed(copy(&copier, &rows));
        let (written, copied) = if batch % 2 == 0 {
            let written = write().await?;
            (written, copy().await?)
        } else {
            let copied = copy().await?;
            (write().await?, copied)
        };
        if batch >= WARM_BATCHES {
            by_store += written;
            by_copy += copied;
        }
    }
    let total = ((WARM_BATCHES + BATCHES) * BATCH) as i64;
    for url in [&ours, &theirs] {
        let mut connection = PgConnection::connect(url).await?;
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_entries").fetch_one(&mut connection).await?;
        ensure!(stored == total, "{stored} of {total} rows in {url}");
    }
    let [ours, theirs] = [by_store, by_copy].map(|took| (BATCHES * BATCH) as f64 / took.as_secs_f64());
    report.ratio("ingest into PostgreSQL", "rows/s", ours, ("COPY", theirs), Goal::AtLeast(0.8));
    server.stop().await
}

async fn copy(pool: &PgPool, rows: &str) -> anyhow::Result<()> {
    let mut copy = pool.copy_in_raw(COPY).await?;
    copy.send(rows.as_bytes()).await?;
    copy.finish().await?;
    Ok(())
}

async fn timed(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}

fn entries(batch: u64) -> Vec<RedactedEntry> {
    let start = Now.now();
    let of = |n: u64| {
        let number = batch * BATCH + n;
        entry(EntryId::at(start + TimeDelta::microseconds(n as i64 * 10), number), number)
    };
    (0..BATCH).map(of).collect()
}

/// As `COPY` reads text: tabs between the columns, of which none holds any.
fn rows(entries: &[RedactedEntry], batch: u64) -> String {
    let mut rows = String::new();
    for (entry, position) in entries.iter().zip(batch * BATCH + 1..) {
        let hash = |hash: Option<domain::entry::ObjectHash>| hash.map_or("\\N".to_owned(), |hash| hash.0.to_string());
        let detail = entry.detail.as_str().replace('\\', "\\\\");
        let time = entry.id.timestamp().to_rfc3339_opts(SecondsFormat::Millis, true);
        let (before, after) = (hash(entry.before_hash), hash(entry.after_hash));
        let _ = writeln!(
            rows,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{detail}\t{}\t{time}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{before}\t{after}\t{}\t{position}",
            entry.id,
            entry.user,
            entry.action,
            entry.resource,
            entry.resource_name,
            entry.cluster,
            entry.namespace,
            entry.status_code,
            entry.ip,
            entry.outcome,
            entry.evidence,
            entry.source,
            entry.audit_id,
            entry.real_user,
            entry.user_agent,
            entry.api_group,
            entry.object_uid,
            entry.policy,
        );
    }
    rows
}

//! Batches into PostgreSQL by the store, beside `COPY` of the same rows into the same tables of another database.
//!
//! `COPY` skips nothing, numbers nothing and finds its rows written out already: it is what PostgreSQL can do. Both commit
//! once a batch, to a disk. And batches while the audit events of the batch before come in, an event an entry, beside batches
//! alone: each in a database of its own too, and in the same run.
//!
//! They take turns at being first, so that what else the machine does befalls both.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use chrono::{SecondsFormat, TimeDelta};
use domain::clock::Clock as _;
use domain::{Detail, Entry, EntryId, Evidence, Outcome, RedactedEntry, Source};
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
    let [ours, theirs, told] =
        [server.create_database().await?, server.create_database().await?, server.create_database().await?];
    let (store, joiner) = (store_sql::open(&ours)?, store_sql::open(&told)?);
    for url in [&ours, &theirs, &told] {
        let store = store_sql::open(url)?;
        store.migrate().await?;
        store.prepare(Now.now()).await?;
    }
    let copier = PgPool::connect(&theirs).await?;
    let (mut by_store, mut by_copy, mut with_events) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut events = Vec::new();
    for batch in 0..WARM_BATCHES + BATCHES {
        let entries = entries(batch);
        let rows = rows(&entries, batch);
        let write = || timed(async { Ok(store.write(&entries).await?) });
        let copy = || timed(copy(&copier, &rows));
        // As events do, behind their entries and by another door.
        let join = || {
            timed(async {
                let (written, joined) = tokio::join!(joiner.write(&entries), joiner.join(&events));
                Ok(written.and(joined)?)
            })
        };
        let (written, copied, joined) = if batch % 2 == 0 {
            (write().await?, copy().await?, join().await?)
        } else {
            let joined = join().await?;
            let copied = copy().await?;
            (write().await?, copied, joined)
        };
        if batch >= WARM_BATCHES {
            by_store += written;
            by_copy += copied;
            with_events += joined;
        }
        events = entries.iter().map(event).collect();
    }
    with_events += timed(async { Ok(joiner.join(&events).await?) }).await?;
    let total = ((WARM_BATCHES + BATCHES) * BATCH) as i64;
    let told_of: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_entries WHERE evidence = 'audit'")
        .fetch_one(&mut PgConnection::connect(&told).await?)
        .await?;
    ensure!(told_of == total, "{told_of} of {total} entries know their events");
    for url in [&ours, &theirs, &told] {
        let mut connection = PgConnection::connect(url).await?;
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_entries").fetch_one(&mut connection).await?;
        ensure!(stored == total, "{stored} of {total} rows in {url}");
    }
    let [ours, theirs, told] =
        [by_store, by_copy, with_events].map(|took| (BATCHES * BATCH) as f64 / took.as_secs_f64());
    report.ratio("ingest into PostgreSQL", "rows/s", ours, ("COPY", theirs), Goal::AtLeast(0.8));
    report.ratio("ingest with one event per entry", "rows/s", told, ("ingest", ours), Goal::AtLeast(0.5));
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

/// What the API server tells of it.
fn event(entry: &RedactedEntry) -> RedactedEntry {
    RedactedEntry::sample(Entry {
        detail: Detail { omitted: Some("its diff was lost".to_owned()), ..Detail::default() }.to_json(),
        ip: "192.0.2.17".to_owned(),
        outcome: Outcome::Confirmed,
        evidence: Evidence::Audit,
        source: Source::Audit,
        audit_id: entry.id.to_string(),
        user_agent: "kubectl/v1.37.2 (linux/amd64) kubernetes/4a1b2c3".to_owned(),
        before_hash: None,
        after_hash: None,
        policy: String::new(),
        ..(**entry).clone()
    })
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

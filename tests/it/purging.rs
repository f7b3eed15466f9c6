//! What has outlived its retention goes, by command and by night, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::Clock as _;
use domain::{Action, Entry, EntryId, RedactedEntry};
use serde_json::{Value, json};
use testkit::eventually;
use testkit::program::Program;
use tokio::time::interval;

use crate::house::{BOTH, Database};
use crate::made_up::{self, Random};
use crate::stock::{Now, Stock};

/// How old the oldest entry is, and for how long entries are kept.
const DAYS: i64 = 100;
const RETENTION_DAYS: i64 = 90;
const RETENTION: &str = "audit: {retention_days: 90}";
/// Entries of each day. At each age in whole days one is a minute younger and one a minute older, so that the cutoff falls
/// between two that nearly touch it.
const EACH_DAY: usize = 20;
const PURGED_WITHIN: Duration = Duration::from_secs(60);

/// A name, which is how the two kinds of entries are told apart in SQL.
const OLD: &str = "past its retention";
const KEPT: &str = "kept";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_takes_what_is_past_its_retention_and_records_that() -> anyhow::Result<()> {
    for database in BOTH {
        let now = Now.now();
        let stock = Stock::holding(database, &entries(now)).await?;
        let old = stock.ids_where(&named(OLD)).await?;
        let kept = stock.ids_where(&named(KEPT)).await?;
        let days = Days::of(&stock, database).await?;

        let told = stock.command(RETENTION, &["purge", "--dry-run"]).await?;
        assert!(told.starts_with(&format!("{} entries from before ", old.len())), "{told}");
        assert_eq!(stock.ids_where(&named(OLD)).await?, old, "a dry run takes nothing");
        assert_eq!(stock.ids_where("action = 'purge'").await?, Vec::<String>::new(), "and records nothing");

        let told = stock.command(RETENTION, &["purge"]).await?;
        assert!(told.starts_with(&format!("{} entries from before ", old.len())), "{told}");
        assert_eq!(stock.ids_where(&named(OLD)).await?, Vec::<String>::new());
        assert_eq!(stock.ids_where(&named(KEPT)).await?, kept);
        let whole_days = days.that_end_before(now - TimeDelta::days(RETENTION_DAYS));
        Days::of(&stock, database).await?.are_without(&days, &whole_days);
        println!("{database:?}: {} entries went, {} days of them as partitions", old.len(), whole_days.len());

        let recorded = purge_recorded(&stock).await?;
        assert_eq!(
            (&recorded["entries"], &recorded["days"], &recorded["trigger"]),
            (&json!(old.len()), &json!(whole_days.len()), &json!("command"))
        );
        let told = stock.command(RETENTION, &["purge"]).await?;
        assert!(told.starts_with("0 entries "), "a second time there is nothing to do: {told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_of_zero_days_keeps_everything_for_ever() -> anyhow::Result<()> {
    for database in BOTH {
        let stock = Stock::holding(database, &entries(Now.now())).await?;
        let all = stock.ids_where("true").await?;
        for args in [&["purge", "--dry-run"][..], &["purge"]] {
            let told = stock.command("audit: {retention_days: 0}", args).await?;
            assert_eq!(told, "audit.retention_days is 0: everything is kept for ever\n");
        }
        let mut program = stock.serve("audit: {retention_days: 0}").await?;
        assert!(program.sigterm_and_wait().await?.success());
        assert_eq!(stock.ids_where("true").await?, all);
    }
    Ok(())
}

/// Entries of the days that go are written meanwhile, and of those that stay: each of the latter is there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_missed_night_is_caught_up_at_start_and_loses_nothing_that_is_written_meanwhile() -> anyhow::Result<()> {
    for database in BOTH {
        let now = Now.now();
        let stock = Stock::holding(database, &entries(now)).await?;
        let fence = stock.store.hold("purge", "this test", Duration::ZERO).await?.context("held by another")?;
        stock.store.finish_purge(&fence, now - TimeDelta::days(2), &BTreeMap::new(), None).await?;
        let old = stock.ids_where(&named(OLD)).await?.len();
        let days = Days::of(&stock, database).await?;

        let purged = AtomicBool::new(false);
        let purging = async {
            let program = stock.serve(RETENTION).await?;
            let recorded = purge_read(&program).await?;
            purged.store(true, Relaxed);
            Ok::<_, anyhow::Error>((program, recorded))
        };
        let ((mut program, recorded), acknowledged) = tokio::try_join!(purging, write_until(&purged, &stock, now))?;
        let kept: BTreeSet<_> = stock.ids_where(&named(KEPT)).await?.into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "{database:?}: {lost:?} of {} were acknowledged and are gone", acknowledged.len());
        let there_before = kept.len() - acknowledged.len();
        assert!(there_before >= RETENTION_DAYS as usize * EACH_DAY, "only {there_before} of what was there before");
        assert_eq!(recorded["trigger"], "nightly");
        let entries = recorded["entries"].as_u64().context("no number of entries")? as usize;
        assert!(entries >= old, "{entries} of {old}");
        let gone = days.that_end_before(now - TimeDelta::days(RETENTION_DAYS));
        assert!(recorded["days"].as_u64() >= Some(gone.len() as u64), "{recorded}");
        assert!(program.sigterm_and_wait().await?.success());
        println!("{database:?}: {entries} entries went while {} that stay were written", acknowledged.len());

        // What was written to days that had gone already goes by the next purge.
        stock.command(RETENTION, &["purge"]).await?;
        assert_eq!(stock.ids_where(&named(OLD)).await?, Vec::<String>::new());
        let kept_now: BTreeSet<_> = stock.ids_where(&named(KEPT)).await?.into_iter().collect();
        assert_eq!(kept_now, kept);
        Days::of(&stock, database).await?.are_without(&days, &gone);
    }
    Ok(())
}

/// What was acknowledged of what stays. Never abandons a write: an abandoned one may be there later, acknowledged or not.
async fn write_until(done: &AtomicBool, stock: &Stock, now: DateTime<Utc>) -> anyhow::Result<BTreeSet<String>> {
    let mut turns = interval(Duration::from_millis(5));
    let mut random = Random::from(7);
    let mut acknowledged = BTreeSet::new();
    while !done.load(Relaxed) {
        turns.tick().await;
        let ages = [0, 1, RETENTION_DAYS - 1, RETENTION_DAYS + 1, DAYS - 2];
        let batch: Vec<_> = ages.iter().map(|days| aged(&mut random, now, TimeDelta::days(*days))).collect();
        stock.store.write(&batch).await?;
        let kept = batch.iter().filter(|entry| entry.resource_name == KEPT);
        acknowledged.extend(kept.map(|entry| entry.id.to_string()));
    }
    Ok(acknowledged)
}

/// Up to [`DAYS`] days old, some of every day.
fn entries(now: DateTime<Utc>) -> Vec<RedactedEntry> {
    let mut random = Random::from(3);
    let minute = TimeDelta::minutes(1);
    let ages = (0..=DAYS).map(TimeDelta::days).flat_map(|age| {
        let within = move |n: usize| age + TimeDelta::minutes(n as i64 * 60);
        [age + minute, age - minute].into_iter().chain((1..EACH_DAY - 1).map(within))
    });
    ages.map(|age| aged(&mut random, now, age)).collect()
}

/// Named by what is to become of it. None is within seconds of the cutoff.
fn aged(random: &mut Random, now: DateTime<Utc>, age: TimeDelta) -> RedactedEntry {
    let id = EntryId::at(now - age, random.bits());
    let old = age > TimeDelta::days(RETENTION_DAYS);
    let resource_name = if old { OLD } else { KEPT }.to_owned();
    RedactedEntry::sample(Entry { resource_name, action: Action::Update, ..made_up::at(random, id) })
}

fn named(name: &str) -> String {
    format!("resource_name = '{name}'")
}

/// What the one entry says of the purge.
async fn purge_recorded(stock: &Stock) -> anyhow::Result<Value> {
    let details = "SELECT CAST(detail AS text) FROM audit_entries \
                   WHERE action = 'purge' AND resource = 'AuditLog' AND \"user\" = 'system:kubevision-audit'";
    let details = stock.column(details).await?;
    ensure!(details.len() == 1, "{details:?}");
    Ok(serde_json::from_str::<Value>(&details[0])?["system"].take())
}

async fn purge_read(program: &Program) -> anyhow::Result<Value> {
    eventually(PURGED_WITHIN, || async {
        let mut list = program.json("/api/v1/audit-logs?resource=AuditLog&action=purge").await?;
        ensure!(list["items"].as_array().is_some_and(|items| items.len() == 1), "not purged: {list}");
        Ok(list["items"][0]["detail"]["system"].take())
    })
    .await
}

/// The partitions; of SQLite, which has none, none.
#[derive(Debug)]
struct Days(BTreeSet<String>);

impl Days {
    async fn of(stock: &Stock, database: Database) -> anyhow::Result<Self> {
        if database == Database::Sqlite {
            return Ok(Self(BTreeSet::new()));
        }
        let attached = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_entries'::regclass";
        let attached: BTreeSet<_> = stock.column(attached).await?.into_iter().collect();
        let tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^audit_entries_[0-9]+$'";
        let tables: BTreeSet<_> = stock.column(tables).await?.into_iter().collect();
        ensure!(attached == tables, "tables that are no partitions: {:?}", tables.difference(&attached));
        Ok(Self(tables))
    }

    fn that_end_before(&self, cutoff: DateTime<Utc>) -> BTreeSet<String> {
        let day_of_cutoff = cutoff.format("audit_entries_%Y%m%d").to_string();
        self.0.iter().filter(|name| **name < day_of_cutoff).cloned().collect()
    }

    /// Those that were there before but for these. The program makes some ahead, which don't count.
    #[track_caller]
    fn are_without(&self, before: &Self, gone: &BTreeSet<String>) {
        let left: BTreeSet<_> = before.0.intersection(&self.0).cloned().collect();
        let wanted: BTreeSet<_> = before.0.difference(gone).cloned().collect();
        assert_eq!(left, wanted);
    }
}

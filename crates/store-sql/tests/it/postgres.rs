use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::retention::Cutoffs;
use domain::{Action, Entry, EntryId, RedactedEntry};
use futures::FutureExt as _;
use futures::future::{join, join_all};
use sqlx::{Connection as _, Executor as _, PgConnection};
use store::{Fence, Purged, Retry, Store, StoreError, conformance};
use testkit::postgres::{self, Postgres};

use crate::{all, entries, entry, noon, schema, told};

struct Database {
    url: String,
}

impl Database {
    async fn new() -> Self {
        Self { url: postgres::shared().await.create_database().await.unwrap() }
    }

    fn open(&self) -> Arc<dyn Store> {
        store_sql::open(&self.url).unwrap()
    }

    async fn migrated(&self) -> Arc<dyn Store> {
        let store = self.open();
        store.migrate().await.unwrap();
        store
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// The days that are partitions.
    async fn days(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT right(inhrelid::regclass::text, 8) FROM pg_inherits \
             WHERE inhparent = 'audit_entries'::regclass ORDER BY 1",
        )
        .fetch_all(&mut self.connect().await)
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_server_keeps_the_contract() {
    for (name, case) in conformance::CASES {
        let store = Database::new().await.migrated().await;
        let passed = AssertUnwindSafe(case(store)).catch_unwind().await;
        assert!(passed.is_ok(), "{name}: see above");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_postgresql_server_keep_the_contract() {
    for (name, case) in conformance::SHARED_CASES {
        let database = Database::new().await;
        let passed = AssertUnwindSafe(case([database.migrated().await, database.open()])).catch_unwind().await;
        assert!(passed.is_ok(), "{name}: see above");
    }
}

#[tokio::test]
async fn a_schema_that_is_not_there_yet_is_told_by_its_version() {
    let database = Database::new().await;
    let store = database.open();
    let refused = store.check().await.unwrap_err();
    assert!(matches!(refused, StoreError::Schema { found: 0, needed: 3 }), "{refused:?}");
    let early = store.write(&entries(1)).await.unwrap_err();
    assert_eq!(early.retry(), Retry::Later, "{early:?}");
    store.migrate().await.unwrap();
    store.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_migrate_and_prepare_once() {
    let database = Database::new().await;
    let replicas: Vec<_> = (0..4).map(|_| database.open()).collect();
    let start = |store: Arc<dyn Store>| async move {
        store.migrate().await?;
        store.prepare(noon()).await?;
        store.write(&entries(20)).await
    };
    for started in join_all(replicas.into_iter().map(start)).await {
        started.unwrap();
    }
    let days = database.days().await;
    assert_eq!(days.len(), 8, "today and a week: {days:?}");
    assert_eq!((days[0].as_str(), days[7].as_str()), ("20260301", "20260308"));
    assert_eq!(all(&database.open()).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_meet_an_old_event_make_its_day_once() {
    let database = Database::new().await;
    let store = database.migrated().await;
    store.prepare(noon()).await.unwrap();
    let replicas: Vec<_> = (0..4).map(|_| database.open()).collect();
    let write = |(n, store): (u64, Arc<dyn Store>)| async move {
        let days = (0..10).map(|day| entry(noon() - TimeDelta::days(30 + day), n));
        store.write(&days.collect::<Vec<_>>()).await
    };
    for written in join_all((0..).zip(replicas).map(write)).await {
        written.unwrap();
    }
    assert_eq!(database.days().await.len(), 18);
    assert_eq!(all(&store).await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_is_new_since_a_position_never_misses_a_row() {
    const WRITERS: u64 = 8;
    const BATCHES: u64 = 40;
    const EACH: u64 = 25;
    let database = Database::new().await;
    database.migrated().await;
    let writer = |writer: u64| {
        let store = database.open();
        async move {
            for batch in 0..BATCHES {
                let of = |n: u64| (writer * BATCHES + batch) * EACH + n;
                let time = |n: u64| noon() + TimeDelta::seconds((of(n) * 7_919 % 200_000) as i64);
                let portion: Vec<_> = (0..EACH).map(|n| entry(time(n), of(n))).collect();
                store.write(&portion).await.unwrap();
            }
        }
    };
    let total = (WRITERS * BATCHES * EACH) as usize;
    let reader = async {
        let mut connection = database.connect().await;
        let mut positions: Vec<i64> = Vec::new();
        while positions.len() < total {
            let since = positions.last().copied().unwrap_or(0);
            let new: Vec<i64> =
                sqlx::query_scalar("SELECT position FROM audit_entries WHERE position > $1 ORDER BY position")
                    .bind(since)
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
            positions.extend(new);
            let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_entries WHERE position <= $1")
                .bind(positions.last().copied().unwrap_or(0))
                .fetch_one(&mut connection)
                .await
                .unwrap();
            assert_eq!(stored as usize, positions.len(), "a row appeared behind the reader");
        }
    };
    join(join_all((0..WRITERS).map(writer)), reader).await;
}

#[tokio::test]
async fn the_lock_is_held_before_a_position_is_drawn() {
    let database = Database::new().await;
    let store = database.migrated().await;
    store.prepare(noon()).await.unwrap();
    let batch = entries(100);
    let (first, rest) = batch.split_at(1);
    store.write(first).await.unwrap();
    let mut other = database.connect().await;
    let mut held = other.begin().await.unwrap();
    // The number that the store's statement shows in pg_locks.
    held.execute("SELECT pg_advisory_xact_lock(x'6b76610000000002'::bigint)").await.unwrap();
    let rejecting = [first[0].id];
    let told = [told(&first[0])];
    let writing = async { futures::try_join!(store.write(rest), store.reject(&rejecting, 503), store.join(&told)) };
    let looking = async {
        testkit::eventually(Duration::from_secs(20), || async {
            let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut database.connect().await).await?;
            anyhow::ensure!(waiting == 3, "not all wait yet");
            Ok(())
        })
        .await
        .unwrap();
        let drawn: i64 = sqlx::query_scalar("SELECT last_value FROM audit_entries_position")
            .fetch_one(&mut database.connect().await)
            .await
            .unwrap();
        assert_eq!(drawn, 1, "a position was drawn before its turn");
        held.commit().await.unwrap();
    };
    let (written, ()) = join(writing, looking).await;
    written.unwrap();
}

fn before(cutoff: EntryId) -> Cutoffs {
    Cutoffs { default: Some(cutoff), by_policy: BTreeMap::new() }
}

async fn held_by(store: &dyn Store, holder: &str, for_: Duration) -> Fence {
    store.hold("purge", holder, for_).await.unwrap().unwrap()
}

async fn purge(store: &dyn Store, cutoffs: &Cutoffs) -> (u64, u32) {
    let fence = held_by(store, "us", Duration::from_secs(60)).await;
    let mut total = Purged::default();
    while !total.done {
        total.add(store.purge_some(cutoffs, &fence).await.unwrap());
    }
    (total.entries(), total.days)
}

#[tokio::test]
async fn whole_days_go_as_partitions_and_the_rest_in_batches() {
    let database = Database::new().await;
    let store = database.migrated().await;
    let batch: Vec<_> = (0..10_u64).map(|age| entry(noon() - TimeDelta::days(age as i64), age)).collect();
    store.write(&batch).await.unwrap();
    let cutoff = EntryId::floor(noon() - TimeDelta::days(4) + TimeDelta::hours(1));
    assert_eq!(purge(&*store, &before(cutoff)).await, (6, 5));
    assert_eq!(database.days().await, ["20260225", "20260226", "20260227", "20260228", "20260301"]);
    assert_eq!(all(&store).await.len(), 4);
}

#[tokio::test]
async fn a_purge_that_was_cut_off_is_finished_and_counted() {
    let database = Database::new().await;
    let store = database.migrated().await;
    let batch: Vec<_> = (0..4_u64).map(|age| entry(noon() - TimeDelta::days(age as i64), age)).collect();
    store.write(&batch).await.unwrap();
    let mut by_hand = database.connect().await;
    // Detached and not dropped; kept by an administrator; cut off in the middle.
    by_hand.execute("COMMENT ON TABLE audit_entries_20260226 IS 'purged by kubevision-audit'").await.unwrap();
    by_hand.execute("ALTER TABLE audit_entries DETACH PARTITION audit_entries_20260226").await.unwrap();
    by_hand.execute("ALTER TABLE audit_entries DETACH PARTITION audit_entries_20260227").await.unwrap();
    cut_off_detachment(&database, "audit_entries_20260228").await;

    assert_eq!(purge(&*store, &before(EntryId::floor(noon()))).await, (2, 2));
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^audit_entries_[0-9]' ORDER BY 1",
    )
    .fetch_all(&mut by_hand)
    .await
    .unwrap();
    assert_eq!(left, ["audit_entries_20260227", "audit_entries_20260301"], "what an administrator keeps, stays");
}

#[tokio::test]
async fn a_day_takes_entries_whatever_state_its_table_was_left_in() {
    let database = Database::new().await;
    let store = database.migrated().await;
    let batch: Vec<_> = (0..4_u64).map(|age| entry(noon() - TimeDelta::days(age as i64), age)).collect();
    store.write(&batch).await.unwrap();
    let mut by_hand = database.connect().await;
    by_hand.execute("COMMENT ON TABLE audit_entries_20260226 IS 'purged by kubevision-audit'").await.unwrap();
    by_hand.execute("ALTER TABLE audit_entries DETACH PARTITION audit_entries_20260226").await.unwrap();
    by_hand.execute("ALTER TABLE audit_entries DETACH PARTITION audit_entries_20260227").await.unwrap();
    cut_off_detachment(&database, "audit_entries_20260228").await;

    let late: Vec<_> = (0..4_u64).map(|age| entry(noon() - TimeDelta::days(age as i64), 100 + age)).collect();
    store.write(&late).await.unwrap();
    let mut found: Vec<_> = all(&store).await.iter().map(|entry| entry.id).collect();
    found.reverse();
    // A writer destroys nothing: what a purge began to take away is there again, until the next one.
    let all_there: Vec<_> = (0..4).rev().flat_map(|age| [batch[age].id, late[age].id]).collect();
    assert_eq!(found, all_there);
    let marked: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_description WHERE description LIKE 'purged by %'")
        .fetch_one(&mut by_hand)
        .await
        .unwrap();
    assert_eq!(marked, 0);
}

fn read(time: DateTime<Utc>, random: u64) -> RedactedEntry {
    RedactedEntry::sample(Entry { action: Action::Get, ..(*entry(time, random)).clone() })
}

#[tokio::test]
async fn what_an_earlier_version_wrote_stays_and_its_days_take_what_is_new() {
    let database = Database::new().await;
    schema::until("postgres", 2).await.run(&mut database.connect().await).await.unwrap();
    let store = database.open();
    let days = |random| (0..3_u64).map(move |age| (noon() - TimeDelta::days(age as i64), random + age));
    store.write(&days(0).map(|(time, n)| entry(time, n)).collect::<Vec<_>>()).await.unwrap();
    cut_off_detachment(&database, "audit_entries_20260227").await;
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    store.write(&days(10).map(|(time, n)| read(time, n)).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(all(&store).await.len(), 6);
}

/// As one that a purge by an earlier version began to take away.
#[tokio::test]
async fn a_day_that_was_on_its_own_while_the_schema_was_migrated_takes_entries_again() {
    let database = Database::new().await;
    let store = database.migrated().await;
    store.write(&[entry(noon() - TimeDelta::days(1), 1)]).await.unwrap();
    let mut by_hand = database.connect().await;
    by_hand.execute("ALTER TABLE audit_entries DETACH PARTITION audit_entries_20260228").await.unwrap();
    by_hand
        .execute(
            "ALTER TABLE audit_entries_20260228 DROP CONSTRAINT source_is_known, DROP CONSTRAINT action_is_known, \
             ADD CONSTRAINT action_is_known CHECK (action IN ('create', 'update', 'delete'))",
        )
        .await
        .unwrap();
    store.write(&[read(noon() - TimeDelta::days(1), 2)]).await.unwrap();
    assert_eq!(all(&store).await.len(), 2);
}

fn of_policy(age: i64, policy: &str, random: u64) -> RedactedEntry {
    let entry = entry(noon() - TimeDelta::days(age), random);
    RedactedEntry::sample(Entry { policy: policy.into(), ..(*entry).clone() })
}

fn keeping(policy: &str, cutoff: EntryId) -> Cutoffs {
    Cutoffs { default: Some(cutoff), by_policy: BTreeMap::from([(policy.to_owned(), None)]) }
}

#[tokio::test]
async fn a_day_goes_as_a_whole_only_where_no_policy_keeps_any_of_it() {
    let database = Database::new().await;
    let store = database.migrated().await;
    let batch = [of_policy(1, "a", 1), of_policy(1, "b", 2), of_policy(2, "a", 3), of_policy(3, "kept", 4)];
    store.write(&batch).await.unwrap();
    store.write(&[of_policy(2, "b", 5), of_policy(2, "kept", 6)]).await.unwrap();
    let cutoffs = keeping("kept", EntryId::floor(noon() - TimeDelta::hours(12)));
    assert_eq!(purge(&*store, &cutoffs).await, (4, 1));
    assert_eq!(database.days().await, ["20260226", "20260227"]);
    assert_eq!(all(&store).await.len(), 2);
}

#[tokio::test]
async fn a_day_that_was_left_behind_comes_back_where_a_policy_keeps_some_of_it() {
    let database = Database::new().await;
    let store = database.migrated().await;
    store.write(&[of_policy(1, "a", 1), of_policy(1, "kept", 2), of_policy(2, "a", 3)]).await.unwrap();
    let mut by_hand = database.connect().await;
    for day in ["audit_entries_20260227", "audit_entries_20260228"] {
        let mut mark = sqlx::QueryBuilder::<sqlx::Postgres>::new("COMMENT ON TABLE ");
        by_hand.execute(mark.push(day).push(" IS 'purged by kubevision-audit'").build()).await.unwrap();
        let mut detach = sqlx::QueryBuilder::<sqlx::Postgres>::new("ALTER TABLE audit_entries DETACH PARTITION ");
        by_hand.execute(detach.push(day).build()).await.unwrap();
    }
    let cutoffs = keeping("kept", EntryId::floor(noon() - TimeDelta::hours(12)));
    assert_eq!(purge(&*store, &cutoffs).await, (2, 1));
    let left: Vec<_> = all(&store).await.iter().map(|entry| entry.policy.clone()).collect();
    assert_eq!(left, ["kept"]);
    assert_eq!(database.days().await, ["20260228"]);
}

/// PostgreSQL shows nobody what is in a partition whose detachment has begun.
#[tokio::test]
async fn a_day_whose_detachment_was_cut_off_is_seen_again_where_a_policy_keeps_it_by_now() {
    let database = Database::new().await;
    let store = database.migrated().await;
    store.write(&[of_policy(1, "a", 1), of_policy(1, "kept", 2)]).await.unwrap();
    cut_off_detachment(&database, "audit_entries_20260228").await;
    assert_eq!(all(&store).await.len(), 0);
    let cutoffs = keeping("kept", EntryId::floor(noon() - TimeDelta::hours(12)));
    assert_eq!(purge(&*store, &cutoffs).await, (1, 0));
    let left: Vec<_> = all(&store).await.iter().map(|entry| entry.policy.clone()).collect();
    assert_eq!(left, ["kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_frozen_while_it_took_a_day_away_drops_nothing() {
    let database = Database::new().await;
    let (store, other) = (database.migrated().await, database.open());
    store.write(&[of_policy(1, "a", 1), of_policy(2, "a", 2)]).await.unwrap();
    let cutoffs = before(EntryId::floor(noon()));
    let frozen = held_by(&*store, "frozen", Duration::ZERO).await;
    // Its detachment waits for whoever reads, which is where it is frozen.
    let mut reader = database.connect().await;
    let mut reading = reader.begin().await.unwrap();
    reading.execute("SELECT count(*) FROM audit_entries").await.unwrap();
    let purging = store.purge_some(&cutoffs, &frozen);
    let taking_over = async {
        testkit::eventually(Duration::from_secs(20), || async {
            let detaching = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
            let detaching: i64 = sqlx::query_scalar(detaching).fetch_one(&mut database.connect().await).await?;
            anyhow::ensure!(detaching == 1, "not there yet");
            Ok(())
        })
        .await
        .unwrap();
        let follower = held_by(&*other, "other", Duration::from_secs(60)).await;
        reading.rollback().await.unwrap();
        follower
    };
    let (purged, follower) = join(purging, taking_over).await;
    assert!(matches!(purged, Err(StoreError::Fenced { .. })), "{purged:?}");
    let recorded = store.finish_purge(&frozen, noon(), &BTreeMap::new(), Some(&entry(noon(), 9))).await;
    assert!(matches!(recorded, Err(StoreError::Fenced { .. })), "{recorded:?}");
    let rows: Vec<i64> = sqlx::query_scalar(
        "SELECT count(*) FROM audit_entries_20260227 UNION ALL SELECT count(*) FROM audit_entries_20260228",
    )
    .fetch_all(&mut database.connect().await)
    .await
    .unwrap();
    assert_eq!(rows, [1, 1], "nothing is gone");
    let mut gone = Purged::default();
    while !gone.done {
        gone.add(other.purge_some(&cutoffs, &follower).await.unwrap());
    }
    assert_eq!((gone.entries(), gone.days), (2, 2), "whoever follows finishes what was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_waits_for_the_transaction_that_is_fenced() {
    let database = Database::new().await;
    let store = database.migrated().await;
    held_by(&*store, "first", Duration::ZERO).await;
    let mut first = database.connect().await;
    let mut working = first.begin().await.unwrap();
    working.execute("SELECT 1 FROM leases WHERE name = 'purge' FOR SHARE").await.unwrap();
    let taking_over = async {
        let fence = held_by(&*store, "second", Duration::from_secs(60)).await;
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM settings WHERE name = 'done'")
            .fetch_one(&mut database.connect().await)
            .await
            .unwrap();
        (fence.epoch, done)
    };
    let finishing = async {
        testkit::eventually(Duration::from_secs(20), || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                           AND datname = current_database()";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut database.connect().await).await?;
            anyhow::ensure!(waiting == 1, "nobody waits yet");
            Ok(())
        })
        .await
        .unwrap();
        working.execute("INSERT INTO settings (name, value) VALUES ('done', '')").await.unwrap();
        working.commit().await.unwrap();
    };
    let (taken, ()) = join(taking_over, finishing).await;
    assert_eq!(taken, (2, 1), "all that the first did is done before the second begins");
}

/// Leaves a partition half detached, as a replica does that dies while it waits for a reader.
async fn cut_off_detachment(database: &Database, table: &str) {
    let mut reader = database.connect().await;
    let mut reading = reader.begin().await.unwrap();
    reading.execute("SELECT count(*) FROM audit_entries").await.unwrap();
    let mut cut = database.connect().await;
    cut.execute("SET statement_timeout = '200ms'").await.unwrap();
    let mut detach = sqlx::QueryBuilder::<sqlx::Postgres>::new("ALTER TABLE audit_entries DETACH PARTITION ");
    let refused = cut.execute(detach.push(table).push(" CONCURRENTLY").build()).await.unwrap_err();
    assert!(refused.to_string().contains("statement timeout"), "{refused}");
    reading.rollback().await.unwrap();
    let pending: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")
        .fetch_one(&mut cut)
        .await
        .unwrap();
    assert_eq!(pending, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_under_writers_of_the_same_days_loses_no_write_after_it() {
    let database = Database::new().await;
    let store = database.migrated().await;
    let cutoffs = before(EntryId::floor(noon()));
    let fence = held_by(&*store, "us", Duration::from_secs(60)).await;
    let writers = (0..3_u64).map(|writer| {
        let store = database.open();
        async move {
            for n in 0..20_u64 {
                let days = (1..5_i64).map(|day| entry(noon() - TimeDelta::days(day), writer * 1_000 + n));
                store.write(&days.collect::<Vec<_>>()).await.unwrap();
            }
        }
    });
    let purging = async {
        let mut gone = 0;
        for _ in 0..15 {
            gone += store.purge_some(&cutoffs, &fence).await.unwrap().entries();
        }
        gone
    };
    let (_, gone) = join(join_all(writers), purging).await;
    let left = all(&store).await.len() as u64;
    assert_eq!(gone + left, 3 * 20 * 4, "each is either counted as purged or there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_server_is_away_says_later_and_works_again() {
    let server = Postgres::start().await.unwrap();
    let store = store_sql::open(&server.create_database().await.unwrap()).unwrap();
    store.migrate().await.unwrap();
    store.write(&entries(1)).await.unwrap();
    server.crash().await.unwrap();
    let batch = entries(2);
    let (written, checked, read) = futures::join!(store.write(&batch), store.check(), store.cursor_key());
    assert_eq!(written.unwrap_err().retry(), Retry::Later);
    assert_eq!(checked.unwrap_err().retry(), Retry::Later);
    assert_eq!(read.unwrap_err().retry(), Retry::Later);
    server.start_again().await.unwrap();
    store.write(&batch).await.unwrap();
    assert_eq!(all(&store).await.len(), 2, "what was written before the crash is there");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_program_starts_while_its_database_is_down() {
    let port = testkit::ports::free().unwrap();
    let store = store_sql::open(&format!("postgres://u:hunter2@127.0.0.1:{port}/audit")).unwrap();
    let down = store.check().await.unwrap_err();
    assert_eq!(down.retry(), Retry::Later);
    assert!(!format!("{down:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_corrupt_and_never_missing() {
    let database = Database::new().await;
    let store = database.migrated().await;
    store.write(&entries(1)).await.unwrap();
    let mut by_hand = database.connect().await;
    by_hand.execute("ALTER TABLE audit_entries DROP CONSTRAINT action_is_known").await.unwrap();
    by_hand.execute("UPDATE audit_entries SET action = 'erase'").await.unwrap();
    let refused = store.entry(&domain::query::Scope::Everything, entries(1)[0].id).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { column: "action", .. }), "{refused:?}");
}

#[tokio::test]
async fn dashboards_read_the_columns_by_name() {
    let database = Database::new().await;
    database.migrated().await.write(&entries(1)).await.unwrap();
    let row: (String, String, NaiveDate) = sqlx::query_as(
        r#"SELECT "user", detail->>'summary', ("timestamp" AT TIME ZONE 'UTC')::date FROM audit_entries
           WHERE "timestamp" = '2026-03-01T12:00:00Z'"#,
    )
    .fetch_one(&mut database.connect().await)
    .await
    .unwrap();
    assert_eq!((row.0.as_str(), row.1.as_str(), row.2), ("alice", "replicas 1 → 3", noon().date_naive()));
}

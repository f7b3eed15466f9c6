//! Days as partitions of `audit_entries`: made ahead, made on demand, taken away as a whole.
//!
//! Every change is made under the schema lock, and looks first at what is there: another replica, or a run that was cut
//! off, may have left any of the states of [`State`].

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use domain::EntryId;
use domain::retention::Cutoffs;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection as _, Executor as _, Postgres, QueryBuilder};
use store::{Fence, StoreError};
use uuid::Uuid;

use super::{lease, schema_lock};
use crate::failure::failed;
use crate::policies::present;

/// How a day's table stands to `audit_entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Attached,
    /// A detachment was cut off: no longer read, not yet on its own.
    Detaching,
    /// On its own, and marked as what a purge took away.
    Purged,
    /// On its own, by another hand.
    Alone,
}

const PURGING: &str = "purging a day";
const PREFIX: &str = "audit_entries_";
/// Tells a table that a purge took away from one that an administrator keeps.
const MARK: &str = "purged by kubevision-audit";

/// Sees to it that each of these days takes entries. Does nothing, and takes no lock, where all do.
pub(super) async fn ensure(pool: &PgPool, days: &BTreeSet<NaiveDate>) -> Result<(), StoreError> {
    const OPERATION: &str = "making partitions";
    let lacking =
        |states: &BTreeMap<NaiveDate, State>| days.iter().any(|day| states.get(day) != Some(&State::Attached));
    let mut connection = pool.acquire().await.map_err(failed(OPERATION))?;
    if !lacking(&states(&mut connection).await?) {
        return Ok(());
    }
    drop(connection);
    let mut lock = schema_lock::take(pool).await?;
    let states = states(&mut lock).await?;
    for day in days {
        add(&mut lock, *day, states.get(day).copied()).await.map_err(failed(OPERATION))?;
    }
    schema_lock::release(lock).await
}

/// The tables of days, by day.
async fn states(connection: &mut PgConnection) -> Result<BTreeMap<NaiveDate, State>, StoreError> {
    let tables: Vec<(String, Option<bool>, bool)> = sqlx::query_as(
        "SELECT c.relname::text, i.inhdetachpending, coalesce(obj_description(c.oid, 'pg_class') = $1, false) \
         FROM pg_class c \
         LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'audit_entries'::regclass \
         WHERE c.relkind = 'r' AND starts_with(c.relname::text, $2) \
         AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'audit_entries'::regclass)",
    )
    .bind(MARK)
    .bind(PREFIX)
    .fetch_all(connection)
    .await
    .map_err(failed("listing partitions"))?;
    let state = |(name, detaching, marked): (String, Option<bool>, bool)| {
        let state = match (detaching, marked) {
            (Some(false), _) => State::Attached,
            (Some(true), _) => State::Detaching,
            (None, true) => State::Purged,
            (None, false) => State::Alone,
        };
        Some((day_of(&name)?, state))
    };
    Ok(tables.into_iter().filter_map(state).collect())
}

/// Makes a day take entries, from whatever state it is in. Destroys nothing: what a purge began to take away comes back,
/// and goes with the next one.
async fn add(connection: &mut PgConnection, day: NaiveDate, state: Option<State>) -> Result<(), sqlx::Error> {
    if state == Some(State::Attached) {
        return Ok(());
    }
    if state == Some(State::Detaching) {
        finalize(connection, day).await?;
    }
    let mut transaction = connection.begin().await?;
    if state.is_none() {
        // Made alone and attached then: PARTITION OF would stop the writers for as long as it takes.
        let mut create = QueryBuilder::<Postgres>::new("CREATE TABLE ");
        create.push(name_of(day)).push(" (LIKE audit_entries INCLUDING ALL)");
        create.build().execute(&mut *transaction).await?;
    }
    attach(&mut transaction, day).await?;
    if matches!(state, Some(State::Detaching | State::Purged)) {
        unmark(&mut transaction, day).await?;
    }
    transaction.commit().await
}

/// Takes away the first day of which every entry has outlived its retention, and answers how many entries of each policy
/// it held; None where there is no such day.
///
/// What destroys is one transaction with the fence's comparison. Detaching, which can be in none, destroys nothing: a day
/// that was left behind by whoever came before is settled here, by what is to go now.
pub(super) async fn purge_one(
    connection: &mut PgConnection,
    cutoffs: &Cutoffs,
    fence: &Fence,
) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
    for (day, state) in states(connection).await? {
        match state {
            State::Alone => continue,
            State::Purged => {}
            State::Attached => {
                if !is_over(connection, day, cutoffs).await? {
                    continue;
                }
                mark(connection, day, fence).await?;
                detach(connection, day).await.map_err(failed(PURGING))?;
            }
            // Also where it is to be kept by now: until then nobody sees what is in it.
            State::Detaching => {
                mark(connection, day, fence).await?;
                finalize(connection, day).await.map_err(failed(PURGING))?;
            }
        }
        if let Some(gone) = settle(connection, day, cutoffs, fence).await? {
            return Ok(Some(gone));
        }
    }
    Ok(None)
}

/// Whether every policy that is present in the day keeps nothing of it.
async fn is_over(connection: &mut PgConnection, day: NaiveDate, cutoffs: &Cutoffs) -> Result<bool, StoreError> {
    if !ends_before(day, cutoffs.latest()) {
        return Ok(false);
    }
    let mut present = present::<Postgres>(&name_of(day));
    let policies: Vec<String> = present.build_query_scalar().fetch_all(connection).await.map_err(failed(PURGING))?;
    Ok(policies.iter().all(|policy| ends_before(day, cutoffs.of(policy))))
}

/// Drops a day that is on its own, or gives it back where it holds what is to be kept: somebody may have written to it
/// until it was detached, or keep entries for longer than when that was begun. Only now can it not grow any more.
async fn settle(
    connection: &mut PgConnection,
    day: NaiveDate,
    cutoffs: &Cutoffs,
    fence: &Fence,
) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
    let mut transaction = connection.begin().await.map_err(failed(PURGING))?;
    lease::compare(&mut transaction, fence).await?;
    let settle = async {
        let mut count = QueryBuilder::<Postgres>::new("SELECT policy, count(*) FROM ");
        count.push(name_of(day)).push(" GROUP BY policy");
        let counts: Vec<(String, i64)> = count.build_query_as().fetch_all(&mut *transaction).await?;
        let is_over = counts.iter().all(|(policy, _)| ends_before(day, cutoffs.of(policy)));
        if is_over {
            drop_table(&mut transaction, day).await?;
        } else {
            attach(&mut transaction, day).await?;
            unmark(&mut transaction, day).await?;
        }
        transaction.commit().await?;
        let counts = counts.into_iter().map(|(policy, entries)| (policy, entries.unsigned_abs()));
        Ok(is_over.then(|| counts.collect()))
    };
    settle.await.map_err(failed(PURGING))
}

fn ends_before(day: NaiveDate, cutoff: Option<EntryId>) -> bool {
    let next = day.checked_add_days(Days::new(1));
    next.zip(cutoff).is_some_and(|(next, cutoff)| EntryId::floor(start_of(next)) <= cutoff)
}

async fn mark(connection: &mut PgConnection, day: NaiveDate, fence: &Fence) -> Result<(), StoreError> {
    let mut transaction = connection.begin().await.map_err(failed(PURGING))?;
    lease::compare(&mut transaction, fence).await?;
    let mut sql = QueryBuilder::<Postgres>::new("COMMENT ON TABLE ");
    sql.push(name_of(day)).push(" IS '").push(MARK).push("'");
    transaction.execute(sql.build()).await.map_err(failed(PURGING))?;
    transaction.commit().await.map_err(failed(PURGING))
}

async fn unmark(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("COMMENT ON TABLE ");
    connection.execute(sql.push(name_of(day)).push(" IS NULL").build()).await.map(drop)
}

async fn attach(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    conform(connection, day).await?;
    let (from, to) = bounds(day);
    let mut sql = QueryBuilder::<Postgres>::new("ALTER TABLE audit_entries ATTACH PARTITION ");
    sql.push(name_of(day)).push(" FOR VALUES FROM ('").push(from).push("') TO ('").push(to).push("')");
    connection.execute(sql.build()).await.map(drop)
}

/// A day that was on its own while the schema was migrated has its checks as they were, with which it could not come back.
async fn conform(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let changed: Vec<(String, String)> = sqlx::query_as(
        "SELECT quote_ident(ours.conname), pg_get_expr(ours.conbin, ours.conrelid) FROM pg_constraint ours \
         LEFT JOIN pg_constraint its ON its.conrelid = $1::text::regclass AND its.conname = ours.conname \
         WHERE ours.conrelid = 'audit_entries'::regclass AND ours.contype = 'c' AND \
         pg_get_expr(its.conbin, its.conrelid) IS DISTINCT FROM pg_get_expr(ours.conbin, ours.conrelid)",
    )
    .bind(name_of(day))
    .fetch_all(&mut *connection)
    .await?;
    for (name, check) in changed {
        let mut sql = QueryBuilder::<Postgres>::new("ALTER TABLE ");
        sql.push(name_of(day)).push(" DROP CONSTRAINT IF EXISTS ").push(&name);
        sql.push(", ADD CONSTRAINT ").push(&name).push(" CHECK (").push(check).push(")");
        connection.execute(sql.build()).await?;
    }
    Ok(())
}

/// Waits for whoever reads the table, bounded by the statement timeout, and stops nobody meanwhile.
async fn detach(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("ALTER TABLE audit_entries DETACH PARTITION ");
    sql.push(name_of(day)).push(" CONCURRENTLY");
    connection.execute(sql.build()).await.map(drop)
}

async fn finalize(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("ALTER TABLE audit_entries DETACH PARTITION ");
    sql.push(name_of(day)).push(" FINALIZE");
    connection.execute(sql.build()).await.map(drop)
}

async fn drop_table(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("DROP TABLE ");
    connection.execute(sql.push(name_of(day)).build()).await.map(drop)
}

/// `audit_entries_20261124`.
fn name_of(day: NaiveDate) -> String {
    use chrono::Datelike as _;
    format!("{PREFIX}{:04}{:02}{:02}", day.year(), day.month(), day.day())
}

fn day_of(name: &str) -> Option<NaiveDate> {
    let digits = name.strip_prefix(PREFIX)?;
    let number: u32 = digits.parse().ok()?;
    let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
    let date = NaiveDate::from_ymd_opt(year.try_into().ok()?, month, day)?;
    // Only names that we would give: not `_020261124`.
    (name_of(date) == name).then_some(date)
}

/// The ids of a day: from the first, to the first of the next.
fn bounds(day: NaiveDate) -> (Uuid, Uuid) {
    let from = start_of(day).timestamp_millis();
    const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;
    (first_id(from), first_id(from + DAY_MILLIS))
}

/// The smallest UUID, of any version, whose upper 48 bits are these milliseconds.
fn first_id(millis: i64) -> Uuid {
    Uuid::from_u128(u128::from(millis.unsigned_abs()) << 80)
}

fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn a_table_is_named_by_its_day_and_no_other_name_is_taken_for_one() {
        for (date, name) in [("2026-11-04", "audit_entries_20261104"), ("+10889-08-02", "audit_entries_108890802")] {
            assert_eq!(name_of(day(date)), name);
            assert_eq!(day_of(name), Some(day(date)));
        }
        for other in ["audit_entries_position", "audit_entries_20261304", "audit_entries_020261104", "audit_entries_"] {
            assert_eq!(day_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_day_holds_its_first_and_its_last_id_and_none_beside() {
        let (from, to) = bounds(day("2026-11-24"));
        let midnight = start_of(day("2026-11-24"));
        let first = EntryId::floor(midnight).as_uuid();
        let last = EntryId::at(midnight + TimeDelta::days(1) - TimeDelta::nanoseconds(1), u64::MAX).as_uuid();
        assert!(from <= first && last < to);
        assert!(EntryId::at(midnight - TimeDelta::nanoseconds(1), u64::MAX).as_uuid() < from);
        assert!(EntryId::floor(midnight + TimeDelta::days(1)).as_uuid() >= to);
    }
}

//! Days as partitions of `audit_entries`: made ahead, made on demand, taken away as a whole.
//!
//! Every change is made under the schema lock, and looks first at what is there: another replica, or a run that was cut
//! off, may have left any of the states of [`State`].

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection as _, Executor as _, Postgres, QueryBuilder};
use store::StoreError;
use uuid::Uuid;

use super::schema_lock;
use crate::failure::failed;

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
pub(super) async fn states(connection: &mut PgConnection) -> Result<BTreeMap<NaiveDate, State>, StoreError> {
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

/// Makes a day take entries, from whatever state it is in.
async fn add(connection: &mut PgConnection, day: NaiveDate, state: Option<State>) -> Result<(), sqlx::Error> {
    match state {
        Some(State::Attached) => return Ok(()),
        // What a purge began to take away goes; what another hand put aside comes back, since dropping it loses entries.
        Some(State::Detaching) => {
            finalize(connection, day).await?;
            drop_table(connection, day).await?;
        }
        Some(State::Purged) => drop_table(connection, day).await?,
        Some(State::Alone) | None => {}
    }
    let table = name_of(day);
    let (from, to) = bounds(day);
    let mut transaction = connection.begin().await?;
    if state != Some(State::Alone) {
        // Made alone and attached then: PARTITION OF would stop the writers for as long as it takes.
        let mut create = QueryBuilder::<Postgres>::new("CREATE TABLE ");
        create.push(&table).push(" (LIKE audit_entries INCLUDING ALL)");
        create.build().execute(&mut *transaction).await?;
    }
    let mut attach = QueryBuilder::<Postgres>::new("ALTER TABLE audit_entries ATTACH PARTITION ");
    attach.push(&table).push(" FOR VALUES FROM ('").push(from).push("') TO ('").push(to).push("')");
    attach.build().execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Takes a day away and answers how many entries it held. Counted once it is on its own: until then it can grow.
pub(super) async fn remove(connection: &mut PgConnection, day: NaiveDate, state: State) -> Result<u64, sqlx::Error> {
    match state {
        State::Attached => {
            mark(connection, day).await?;
            detach(connection, day).await?;
        }
        State::Detaching => finalize(connection, day).await?,
        State::Purged => {}
        State::Alone => return Ok(0),
    }
    let mut count = QueryBuilder::<Postgres>::new("SELECT count(*) FROM ");
    let entries: i64 = count.push(name_of(day)).build_query_scalar().fetch_one(&mut *connection).await?;
    drop_table(connection, day).await?;
    Ok(entries.unsigned_abs())
}

async fn mark(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let mut sql = QueryBuilder::<Postgres>::new("COMMENT ON TABLE ");
    sql.push(name_of(day)).push(" IS '").push(MARK).push("'");
    connection.execute(sql.build()).await.map(drop)
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

pub(super) fn start_of(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use domain::EntryId;

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

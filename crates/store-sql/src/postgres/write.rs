//! The batch insert: one statement, which is one transaction.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;

use chrono::NaiveDate;
use domain::finding::Finding;
use domain::text::storable;
use domain::{Entry, EntryId, Evidence, RedactedEntry};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection, PgDatabaseError, PgPool};
use sqlx::query::Query;
use store::{EntryWriter, Retry, StoreError};

use super::{outcomes, partitions};
use crate::SqlStore;
use crate::failure::writing;
use crate::outcomes::columns;

/// What one statement carries at most, whichever comes first. It holds the lock on positions for some 20 ms, for which
/// other replicas' batches wait; and the server holds it in memory, more than once.
const STATEMENT_ENTRIES: usize = 1_000;
const STATEMENT_BYTES: usize = 16 * 1024 * 1024;

/// One finds a partition missing, one that a purge took it meanwhile, one that something of the batch is there already.
const ATTEMPTS: usize = 4;

/// Of this program, in the database's one space of lock numbers; the other is `schema_lock`'s. Whoever draws positions
/// holds it until the commit.
pub(super) const POSITION_LOCK: i64 = 0x6b76_6100_0000_0002;

/// A batch's rows, from the arrays that [`bind`] binds. Each `unnest` is in the select list, where its rows are made one by
/// one; in FROM, PostgreSQL would write all of them down first. They are made from the lock, so none is there before it is
/// held; MATERIALIZED, which whoever uses this says of `turn`, keeps the planner from moving it.
macro_rules! told {
    () => {
        r#"SELECT unnest($2::uuid[]) AS id, unnest($3::text[]) AS "user", unnest($4::text[]) AS action, unnest($5::text[]) AS resource, unnest($6::text[]) AS resource_name, unnest($7::text[]) AS cluster, unnest($8::text[]) AS namespace, unnest($9::integer[]) AS status_code, unnest($10::text[]) AS detail, unnest($11::text[]) AS ip, unnest($12::timestamptz[]) AS "timestamp", unnest($13::text[]) AS outcome, unnest($14::text[]) AS evidence, unnest($15::text[]) AS source, unnest($16::text[]) AS audit_id, unnest($17::text[]) AS real_user, unnest($18::text[]) AS user_agent, unnest($19::text[]) AS api_group, unnest($20::text[]) AS object_uid, unnest($21::bigint[]) AS before_hash, unnest($22::bigint[]) AS after_hash, unnest($23::text[]) AS policy FROM turn"#
    };
}
pub(super) use told;

macro_rules! insert {
    ($end:literal) => {
        concat!(
            "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)) INSERT INTO audit_entries (",
            columns!(),
            r#", position) SELECT e.id, e."user", e.action, e.resource, e.resource_name, e.cluster, e.namespace, e.status_code, e.detail::jsonb, e.ip, e."timestamp", e.outcome, e.evidence, e.source, e.audit_id, e.real_user, e.user_agent, e.api_group, e.object_uid, e.before_hash, e.after_hash, e.policy, nextval('audit_entries_position') FROM ("#,
            told!(),
            ") AS e",
            $end
        )
    };
}

/// No position is drawn before the lock is held. The statement's snapshot is older than that, which only a reader of the
/// table would notice.
const INSERT: &str = insert!("");
/// Skips what is there, which makes every row dearer by a fifth. So it is for batches of which something is.
const INSERT_REST: &str = insert!(" ON CONFLICT (id) DO NOTHING");

#[async_trait::async_trait]
impl EntryWriter for SqlStore<Postgres> {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        for portion in portions(batch) {
            insert(&self.writes, portion, batch.len()).await?;
        }
        Ok(())
    }

    async fn reject(&self, ids: &[EntryId], status_code: u16) -> Result<(), StoreError> {
        let rejected = |id: &EntryId| Finding::rejected(*id, Evidence::Itself, status_code);
        let findings: Vec<_> = ids.iter().map(rejected).collect();
        outcomes::settle(&self.writes, &findings, "rejecting entries").await
    }
}

async fn insert(pool: &PgPool, portion: &[RedactedEntry], entries: usize) -> Result<(), StoreError> {
    let mut statement = INSERT;
    for _ in 1..ATTEMPTS {
        match bind(statement, portion).execute(pool).await {
            Err(error) if is_missing_partition(&error) => {
                partitions::ensure(pool, &days(portion)).await.map_err(|error| no_room(error, entries))?;
            }
            Err(error) if is_there_already(&error) => statement = INSERT_REST,
            done => return done.map(drop).map_err(writing(entries)),
        }
    }
    bind(statement, portion).execute(pool).await.map(drop).map_err(writing(entries))
}

/// In a transaction of the caller's; the day's partition has been seen to.
pub(super) async fn insert_one(transaction: &mut PgConnection, entry: &RedactedEntry) -> Result<(), sqlx::Error> {
    bind(INSERT_REST, std::slice::from_ref(entry)).execute(transaction).await.map(drop)
}

/// Whatever keeps a day's partition from being made, an administrator can mend it: no reason to give up an entry.
fn no_room(error: StoreError, entries: usize) -> StoreError {
    StoreError::Write { entries, retry: Retry::Later, source: error.into() }
}

pub(super) fn bind<E: Borrow<RedactedEntry>>(
    statement: &'static str,
    portion: &[E],
) -> Query<'static, Postgres, PgArguments> {
    fn each<'a, E: Borrow<RedactedEntry>, T>(portion: &'a [E], of: impl Fn(&'a Entry) -> T) -> Vec<T> {
        portion.iter().map(|entry| of(entry.borrow())).collect()
    }
    let text = |of: fn(&Entry) -> &str| -> Vec<Cow<'_, str>> { each(portion, |entry| storable(of(entry))) };
    sqlx::query(statement)
        .bind(POSITION_LOCK)
        .bind(each(portion, |e| e.id.as_uuid()))
        .bind(text(|e| &e.user))
        .bind(each(portion, |e| e.action.as_str()))
        .bind(text(|e| e.resource.as_str()))
        .bind(text(|e| &e.resource_name))
        .bind(text(|e| &e.cluster))
        .bind(text(|e| &e.namespace))
        .bind(each(portion, |e| i32::from(e.status_code)))
        .bind(each(portion, |e| e.detail.as_str()))
        .bind(text(|e| &e.ip))
        .bind(each(portion, |e| e.id.timestamp()))
        .bind(each(portion, |e| e.outcome.as_str()))
        .bind(each(portion, |e| e.evidence.as_str()))
        .bind(each(portion, |e| e.source.as_str()))
        .bind(text(|e| &e.audit_id))
        .bind(text(|e| &e.real_user))
        .bind(text(|e| &e.user_agent))
        .bind(text(|e| &e.api_group))
        .bind(text(|e| &e.object_uid))
        .bind(each(portion, |e| e.before_hash.map(|hash| hash.0)))
        .bind(each(portion, |e| e.after_hash.map(|hash| hash.0)))
        .bind(text(|e| &e.policy))
}

/// Parts a batch at the bounds of a statement. An entry that is heavier than the bound goes alone.
pub(super) fn portions<E: Borrow<RedactedEntry>>(batch: &[E]) -> impl Iterator<Item = &[E]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(STATEMENT_ENTRIES).take_while(|entry| {
            bytes += (*entry).borrow().weight();
            bytes <= STATEMENT_BYTES
        });
        let (portion, after) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = after;
        (!portion.is_empty()).then_some(portion)
    })
}

fn days(portion: &[RedactedEntry]) -> BTreeSet<NaiveDate> {
    portion.iter().map(|entry| entry.id.timestamp().date_naive()).collect()
}

/// The server says it as a violated CHECK that has a table and no name; the text depends on its language.
fn is_missing_partition(error: &sqlx::Error) -> bool {
    const CHECK_VIOLATION: &str = "23514";
    of_server(error).is_some_and(|error| {
        error.code() == CHECK_VIOLATION && error.constraint().is_none() && error.table() == Some("audit_entries")
    })
}

/// Or twice in the batch. The table has no unique index but that of the id.
fn is_there_already(error: &sqlx::Error) -> bool {
    const UNIQUE_VIOLATION: &str = "23505";
    of_server(error).is_some_and(|error| error.code() == UNIQUE_VIOLATION)
}

fn of_server(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

//! The batch insert: one statement, which is one transaction.

use std::borrow::Cow;
use std::collections::BTreeSet;

use chrono::NaiveDate;
use domain::text::storable;
use domain::{Entry, RedactedEntry};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgDatabaseError, PgPool};
use sqlx::query::Query;
use store::{EntryWriter, StoreError};

use super::partitions;
use crate::SqlStore;
use crate::failure::writing;

/// What one statement carries at most, whichever comes first: the server holds it in memory, more than once.
const STATEMENT_ENTRIES: usize = 5_000;
const STATEMENT_BYTES: usize = 16 * 1024 * 1024;

/// How often a partition may be missing: the first time it is made, the second time a purge took it in between.
const ATTEMPTS: usize = 4;

/// Of this program, in the database's one space of lock numbers; the other is `schema_lock`'s. Whoever draws positions
/// holds it until the commit.
const POSITION_LOCK: i64 = 0x6b76_6100_0000_0002;

/// The lock is the first input of a join whose rows draw the positions, so no position is drawn before it is held. The
/// statement's snapshot is older than that, which only a reader of the table would notice: ON CONFLICT looks at the index
/// as it is. MATERIALIZED keeps the planner from moving the lock.
const INSERT: &str = r#"
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock($1))
INSERT INTO audit_entries (id, "user", action, resource, resource_name, cluster, namespace, status_code, detail, ip, "timestamp", outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy, position)
SELECT e.id, e."user", e.action, e.resource, e.resource_name, e.cluster, e.namespace, e.status_code, e.detail::jsonb, e.ip, e."timestamp", e.outcome, e.evidence, e.source, e.audit_id, e.real_user, e.user_agent, e.api_group, e.object_uid, e.before_hash, e.after_hash, e.policy, nextval('audit_entries_position')
FROM turn CROSS JOIN unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::integer[], $10::text[], $11::text[], $12::timestamptz[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::bigint[], $22::bigint[], $23::text[])
AS e (id, "user", action, resource, resource_name, cluster, namespace, status_code, detail, ip, "timestamp", outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy)
ON CONFLICT (id) DO NOTHING"#;

#[async_trait::async_trait]
impl EntryWriter for SqlStore<Postgres> {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        for portion in portions(batch) {
            insert(&self.writes, portion, batch.len()).await?;
        }
        Ok(())
    }
}

async fn insert(pool: &PgPool, portion: &[RedactedEntry], entries: usize) -> Result<(), StoreError> {
    for _ in 1..ATTEMPTS {
        match bind(portion).execute(pool).await {
            Err(error) if is_missing_partition(&error) => partitions::ensure(pool, &days(portion)).await?,
            done => return done.map(drop).map_err(writing(entries)),
        }
    }
    bind(portion).execute(pool).await.map(drop).map_err(writing(entries))
}

fn bind(portion: &[RedactedEntry]) -> Query<'static, Postgres, PgArguments> {
    fn each<'a, T>(portion: &'a [RedactedEntry], of: impl Fn(&'a Entry) -> T) -> Vec<T> {
        portion.iter().map(|entry| of(entry)).collect()
    }
    let text = |of: fn(&Entry) -> &str| -> Vec<Cow<'_, str>> { each(portion, |entry| storable(of(entry))) };
    sqlx::query(INSERT)
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
fn portions(batch: &[RedactedEntry]) -> impl Iterator<Item = &[RedactedEntry]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(STATEMENT_ENTRIES).take_while(|entry| {
            bytes += entry.weight();
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
    let Some(error) = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>()) else {
        return false;
    };
    error.code() == CHECK_VIOLATION && error.constraint().is_none() && error.table() == Some("audit_entries")
}

//! The batch insert: one transaction a batch, a statement for every so many rows of it.

use std::borrow::Cow;
use std::ops::RangeFrom;

use domain::finding::Finding;
use domain::text::storable;
use domain::{EntryId, Evidence, RedactedEntry};
use sqlx::query_builder::Separated;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use store::{EntryWriter, StoreError};

use super::fixed_width;
use crate::SqlStore;
use crate::failure::writing;
use crate::outcomes::columns;

/// More rows in a statement save little: what a row costs is its indexes.
const STATEMENT_ROWS: usize = 100;
const COLUMNS: usize = 23;
/// SQLITE_MAX_VARIABLE_NUMBER's default.
const VARIABLES_MAX: usize = 32_766;

const _: () = assert!(STATEMENT_ROWS * COLUMNS <= VARIABLES_MAX);

const INSERT: &str = concat!("INSERT INTO audit_entries (", columns!(), ", position) ");

#[async_trait::async_trait]
impl EntryWriter for SqlStore<Sqlite> {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        // IMMEDIATE: a transaction that reads first and writes later can be refused in the middle.
        let write = async {
            let mut transaction = self.writes.begin_with("BEGIN IMMEDIATE").await?;
            insert(&mut transaction, batch).await?;
            transaction.commit().await
        };
        write.await.map_err(writing(batch.len()))
    }

    async fn reject(&self, ids: &[EntryId], status_code: u16) -> Result<(), StoreError> {
        let rejected = |id: &EntryId| Finding::rejected(*id, Evidence::Itself, status_code);
        let findings: Vec<_> = ids.iter().map(rejected).collect();
        self.settle_as(&findings, "rejecting entries").await
    }
}

pub(super) async fn insert(transaction: &mut SqliteConnection, batch: &[RedactedEntry]) -> Result<(), sqlx::Error> {
    let mut positions = positions(transaction, batch.len()).await?;
    for rows in batch.chunks(STATEMENT_ROWS) {
        let mut sql = QueryBuilder::new(INSERT);
        sql.push_values(rows.iter().zip(&mut positions), |mut row, (entry, position)| {
            bind(&mut row, entry);
            row.push_bind(position);
        });
        sql.push(" ON CONFLICT (id) DO NOTHING");
        // A statement of another length than the usual one is not worth keeping.
        let usual = rows.len() == STATEMENT_ROWS;
        sql.build().persistent(usual).execute(&mut *transaction).await?;
    }
    Ok(())
}

/// So many. Those for entries that turn out to be there already, or settled, stay unused.
pub(super) async fn positions(transaction: &mut SqliteConnection, count: usize) -> Result<RangeFrom<i64>, sqlx::Error> {
    let taken = i64::try_from(count).unwrap_or(i64::MAX);
    let last: i64 = sqlx::query_scalar("UPDATE positions SET last = last + ? RETURNING last")
        .bind(taken)
        .fetch_one(transaction)
        .await?;
    Ok(last - taken + 1..)
}

/// As [`columns`] names them.
pub(super) fn bind(row: &mut Separated<'_, Sqlite, &'static str>, entry: &RedactedEntry) {
    row.push_bind(entry.id.to_string())
        .push_bind(text(&entry.user))
        .push_bind(entry.action.as_str())
        .push_bind(text(entry.resource.as_str()))
        .push_bind(text(&entry.resource_name))
        .push_bind(text(&entry.cluster))
        .push_bind(text(&entry.namespace))
        .push_bind(i32::from(entry.status_code))
        .push_bind(entry.detail.as_str())
        .push_bind(text(&entry.ip))
        .push_bind(fixed_width(entry.id.timestamp()))
        .push_bind(entry.outcome.as_str())
        .push_bind(entry.evidence.as_str())
        .push_bind(entry.source.as_str())
        .push_bind(text(&entry.audit_id))
        .push_bind(text(&entry.real_user))
        .push_bind(text(&entry.user_agent))
        .push_bind(text(&entry.api_group))
        .push_bind(text(&entry.object_uid))
        .push_bind(entry.before_hash.map(|hash| hash.0))
        .push_bind(entry.after_hash.map(|hash| hash.0))
        .push_bind(text(&entry.policy));
}

/// As both databases hold it: PostgreSQL has no NUL, and the two must agree.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    storable(text)
}

//! What becomes known of entries later: one transaction a batch, a statement for each row of it.

use chrono::{DateTime, Utc};
use domain::finding::Finding;
use domain::{EntryId, RedactedEntry};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqliteExecutor};
use store::{Late, Outcomes, StoreError};

use super::fixed_width;
use super::write::{bind, positions, text};
use crate::SqlStore;
use crate::failure::failed;
use crate::links;
use crate::outcomes::{
    ANY_WAITING, LATE_LOOKED_UP, LATE_ROWS, WAITING, WATCH_WITHIN, columns, learned, same_change, seen_by_watch, weight,
};

const JOINING_LATE: &str = "joining what was kept";

const SETTLE: &str = concat!(
    "UPDATE audit_entries AS e SET outcome = w.outcome, evidence = w.evidence, \
     status_code = coalesce(w.status_code, e.status_code), position = $5 \
     FROM (SELECT $1 AS id, $2 AS outcome, $3 AS evidence, $4 AS status_code) AS w WHERE e.id = w.id AND ",
    weight!("w"),
    " > ",
    weight!("e")
);

const JOIN: &str = concat!(
    "UPDATE audit_entries AS e SET ",
    learned!(),
    ", position = $10 FROM (SELECT $1 AS id, $2 AS outcome, $3 AS evidence, $4 AS status_code, $5 AS ip, \
     $6 AS audit_id, $7 AS user_agent, $8 AS real_user, $9 AS \"user\") AS w WHERE e.id = w.id AND ",
    weight!("w"),
    " > ",
    weight!("e")
);

const THERE: &str = "SELECT EXISTS (SELECT 1 FROM audit_entries WHERE id = $1)";

const COME: &str = "SELECT id FROM (SELECT id FROM awaited_entries ORDER BY since DESC LIMIT $1) AS w \
                    WHERE EXISTS (SELECT 1 FROM audit_entries AS e WHERE e.id = w.id) LIMIT $2";

const DUE: &str = "SELECT id FROM awaited_entries WHERE since < $1 ORDER BY since LIMIT $2";

/// In the order of [`DUE`], so that none is adopted that was not looked up. By id then: of two that tell of the same
/// state, the earlier one chooses first.
const WATCHED: &str = concat!(
    "SELECT id FROM (SELECT w.id FROM awaited_entries AS w WHERE ",
    seen_by_watch!(),
    " ORDER BY w.since LIMIT $1) ORDER BY id"
);

/// The entry by which a watch told of the same change, and whether this very event has been joined with it already.
const SEEN: &str = concat!(
    "SELECT e.id, e.audit_id = w.audit_id FROM awaited_entries AS w JOIN audit_entries AS e ON ",
    same_change!(),
    " WHERE w.id = $1 AND e.id >= $2 AND e.id <= $3 AND (e.audit_id = w.audit_id OR ",
    weight!("w"),
    " > ",
    weight!("e"),
    r#") ORDER BY e.audit_id = w.audit_id DESC, abs(julianday(e."timestamp") - julianday(w."timestamp")) LIMIT 1"#
);

/// The entry may have another id than what is told of it.
const FILL: &str = concat!(
    "UPDATE audit_entries AS e SET ",
    learned!(),
    ", position = $3 FROM awaited_entries AS w WHERE w.id = $1 AND e.id = $2 AND ",
    weight!("w"),
    " > ",
    weight!("e")
);

const ADOPT: &str = concat!(
    "INSERT INTO audit_entries (",
    columns!(),
    ", position) SELECT ",
    columns!(),
    ", $2 FROM awaited_entries WHERE id = $1"
);

#[async_trait::async_trait]
impl Outcomes for SqlStore<Sqlite> {
    async fn settle(&self, findings: &[Finding]) -> Result<(), StoreError> {
        self.settle_as(findings, "settling outcomes").await
    }

    async fn join(&self, told: &[RedactedEntry]) -> Result<(), StoreError> {
        if told.is_empty() {
            return Ok(());
        }
        let join = async {
            let mut transaction = self.writes.begin_with("BEGIN IMMEDIATE").await?;
            let positions = positions(&mut transaction, told.len()).await?;
            for (told, position) in told.iter().zip(positions) {
                if !join(&mut transaction, told, position).await? {
                    keep(&mut transaction, told).await?;
                }
            }
            transaction.commit().await
        };
        join.await.map_err(failed("joining audit events with their entries"))
    }

    async fn join_late(&self, adopt: DateTime<Utc>) -> Result<Late, StoreError> {
        let mut late = Late::default();
        if self.count(QueryBuilder::new(ANY_WAITING), JOINING_LATE).await? == 0 {
            return Ok(late);
        }
        let does = async {
            let work = Work::find(&self.reads.pool, adopt).await?;
            if work.is_nothing() {
                return Ok(Late::default());
            }
            let mut transaction = self.writes.begin_with("BEGIN IMMEDIATE").await?;
            let done = work.act(&mut transaction).await?;
            transaction.commit().await.map(|()| done)
        };
        late = does.await.map_err(failed(JOINING_LATE))?;
        Ok(Late { waiting: self.count(QueryBuilder::new(WAITING), JOINING_LATE).await?, ..late })
    }

    async fn unconfirmed(&self, from: EntryId, to: EntryId) -> Result<u64, StoreError> {
        self.count(links::unconfirmed(from, to), "counting unconfirmed entries").await
    }
}

impl SqlStore<Sqlite> {
    pub(super) async fn settle_as(&self, findings: &[Finding], operation: &'static str) -> Result<(), StoreError> {
        if findings.is_empty() {
            return Ok(());
        }
        let settle = async {
            let mut transaction = self.writes.begin_with("BEGIN IMMEDIATE").await?;
            let positions = positions(&mut transaction, findings.len()).await?;
            for (finding, position) in findings.iter().zip(positions) {
                let settle = sqlx::query(SETTLE)
                    .bind(finding.id.to_string())
                    .bind(finding.outcome.as_str())
                    .bind(finding.evidence.as_str())
                    .bind(finding.status_code.map(i32::from))
                    .bind(position);
                settle.execute(&mut *transaction).await?;
            }
            transaction.commit().await
        };
        settle.await.map_err(failed(operation))
    }
}

/// False where the entry is not there.
async fn join(transaction: &mut SqliteConnection, told: &RedactedEntry, position: i64) -> Result<bool, sqlx::Error> {
    let id = told.id.to_string();
    let join = sqlx::query(JOIN)
        .bind(&id)
        .bind(told.outcome.as_str())
        .bind(told.evidence.as_str())
        .bind(i32::from(told.status_code))
        .bind(text(&told.ip))
        .bind(text(&told.audit_id))
        .bind(text(&told.user_agent))
        .bind(text(&told.real_user))
        .bind(text(&told.user))
        .bind(position);
    if join.execute(&mut *transaction).await?.rows_affected() > 0 {
        return Ok(true);
    }
    sqlx::query_scalar(THERE).bind(&id).fetch_one(transaction).await
}

async fn keep(transaction: &mut SqliteConnection, told: &RedactedEntry) -> Result<(), sqlx::Error> {
    let mut sql = QueryBuilder::new(concat!("INSERT INTO awaited_entries (", columns!(), ", since) "));
    sql.push_values([told], |mut row, told| {
        bind(&mut row, told);
        row.push("strftime('%Y-%m-%dT%H:%M:%fZ', 'now')");
    });
    sql.push(" ON CONFLICT (id) DO NOTHING");
    sql.build().execute(transaction).await.map(drop)
}

/// What there is to do with what was kept: found beside the writer, and looked at again in its turn.
struct Work {
    /// Whose entries have come.
    come: Vec<String>,
    /// Who has waited too long.
    due: Vec<String>,
    /// What a watch has seen too.
    seen: Vec<String>,
}

impl Work {
    async fn find(pool: &sqlx::SqlitePool, adopt: DateTime<Utc>) -> Result<Self, sqlx::Error> {
        let come = sqlx::query_scalar(COME).bind(bound(LATE_LOOKED_UP)).bind(bound(LATE_ROWS)).fetch_all(pool).await?;
        let due = sqlx::query_scalar(DUE).bind(fixed_width(adopt)).bind(bound(LATE_ROWS)).fetch_all(pool).await?;
        let mut seen = Vec::new();
        let watched: Vec<String> = sqlx::query_scalar(WATCHED).bind(bound(LATE_ROWS)).fetch_all(pool).await?;
        for told in watched {
            if self::seen(pool, &told).await?.is_some() {
                seen.push(told);
            }
        }
        Ok(Self { come, due, seen })
    }

    fn is_nothing(&self) -> bool {
        self.come.is_empty() && self.due.is_empty() && self.seen.is_empty()
    }

    async fn act(&self, transaction: &mut SqliteConnection) -> Result<Late, sqlx::Error> {
        let mut late = Late::default();
        let count = self.come.len() + self.due.len() + self.seen.len();
        let mut positions = positions(transaction, count).await?;
        for told in &self.seen {
            let Some((entry, already)) = seen(&mut *transaction, told).await? else { continue };
            if !already {
                late.joined += fill(transaction, told, &entry, positions.next()).await?;
            }
            forget(transaction, told).await?;
        }
        let (come, due) = (self.come.iter().map(|told| (told, false)), self.due.iter().map(|told| (told, true)));
        // One that is in both is settled as the one that has come.
        for (told, is_due) in come.chain(due) {
            let is_there: bool = sqlx::query_scalar(THERE).bind(told).fetch_one(&mut *transaction).await?;
            if is_there {
                late.joined += fill(transaction, told, told, positions.next()).await?;
            } else if is_due {
                let adopt = sqlx::query(ADOPT).bind(told).bind(positions.next());
                late.adopted += adopt.execute(&mut *transaction).await?.rows_affected();
            } else {
                continue;
            }
            forget(transaction, told).await?;
        }
        Ok(late)
    }
}

async fn fill(
    transaction: &mut SqliteConnection,
    told: &str,
    entry: &str,
    position: Option<i64>,
) -> Result<u64, sqlx::Error> {
    let fill = sqlx::query(FILL).bind(told).bind(entry).bind(position);
    fill.execute(transaction).await.map(|done| done.rows_affected())
}

async fn forget(transaction: &mut SqliteConnection, told: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM awaited_entries WHERE id = $1").bind(told).execute(transaction).await.map(drop)
}

async fn seen<'c>(executor: impl SqliteExecutor<'c>, told: &str) -> Result<Option<(String, bool)>, sqlx::Error> {
    let Ok(id) = told.parse::<EntryId>() else { return Ok(None) };
    let (from, to) = (id.timestamp() - WATCH_WITHIN, id.timestamp() + WATCH_WITHIN);
    sqlx::query_as(SEEN)
        .bind(told)
        .bind(EntryId::floor(from).to_string())
        .bind(EntryId::floor(to).to_string())
        .fetch_optional(executor)
        .await
}

fn bound(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

//! What becomes known of entries later: one statement a batch, under the lock of positions.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use domain::finding::Finding;
use domain::text::storable;
use domain::{Entry, EntryId, RedactedEntry};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Postgres, QueryBuilder};
use store::{Late, Outcomes, StoreError};
use uuid::Uuid;

use super::partitions;
use super::write::{self, POSITION_LOCK, bind, portions};
use crate::SqlStore;
use crate::failure::failed;
use crate::links;
use crate::outcomes::{
    ANY_WAITING, LATE_LOOKED_UP, LATE_ROWS, WAITING, WATCH_WITHIN, columns, heaviest, learned, same_change,
    seen_by_watch, weight,
};

/// As many findings as one statement carries.
const FINDINGS: usize = 1_000;

const JOINING_LATE: &str = "joining what was kept";

/// As with the rows of an insert: what is told is made from the lock, and no row is joined with it, nor draws its
/// position, before the lock is held. Where another changes a row meanwhile, the condition is asked again of what it left.
///
/// The batch comes with the lock, so that the planner expects little of it whatever it is told, and looks each up in its
/// day. By the smallest of them the days before are left out at once, also in a plan that is made for any batch; were the
/// largest told too, the planner would take what lies between for little, and read it.
const SETTLE: &str = concat!(
    "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock($1), $2::uuid[] AS ids, $3::text[] AS outcomes, \
     $4::text[] AS evidences, $5::integer[] AS codes), \
     w AS MATERIALIZED (SELECT unnest(ids) AS id, unnest(outcomes) AS outcome, unnest(evidences) AS evidence, \
     unnest(codes) AS status_code FROM turn) \
     UPDATE audit_entries e SET outcome = w.outcome, evidence = w.evidence, \
     status_code = coalesce(w.status_code, e.status_code), position = nextval('audit_entries_position') \
     FROM w WHERE e.id = w.id AND e.id >= $6 AND ",
    weight!("w"),
    " > ",
    weight!("e")
);

/// Answers with those that changed nothing, and whether they are there. One that is not may come while the statement waits
/// for the lock: `join_late` finds it then.
const JOIN: &str = concat!(
    r#"WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock($1), $2::uuid[] AS ids, $3::text[] AS outcomes, $4::text[] AS evidences, $5::integer[] AS codes, $6::text[] AS ips, $7::text[] AS audit_ids, $8::text[] AS user_agents, $9::text[] AS real_users, $10::text[] AS users), w AS MATERIALIZED (SELECT unnest(ids) AS id, unnest(outcomes) AS outcome, unnest(evidences) AS evidence, unnest(codes) AS status_code, unnest(ips) AS ip, unnest(audit_ids) AS audit_id, unnest(user_agents) AS user_agent, unnest(real_users) AS real_user, unnest(users) AS "user" FROM turn), joined AS (UPDATE audit_entries e SET "#,
    learned!(),
    ", position = nextval('audit_entries_position') FROM w WHERE e.id = w.id AND e.id >= $11 AND ",
    weight!("w"),
    " > ",
    weight!("e"),
    " RETURNING e.id) SELECT w.id, (SELECT true FROM audit_entries e WHERE e.id = w.id AND e.id >= $11 LIMIT 1) \
     FROM w WHERE NOT EXISTS (SELECT FROM joined WHERE joined.id = w.id)"
);

/// For what is not there, apart: seldom is anything. Needs no lock, since nothing of it has a position.
const KEEP: &str = concat!(
    "WITH turn AS (SELECT $1::bigint) INSERT INTO awaited_entries (",
    columns!(),
    r#") SELECT w.id, w."user", w.action, w.resource, w.resource_name, w.cluster, w.namespace, w.status_code, w.detail::jsonb, w.ip, w."timestamp", w.outcome, w.evidence, w.source, w.audit_id, w.real_user, w.user_agent, w.api_group, w.object_uid, w.before_hash, w.after_hash, w.policy FROM ("#,
    write::told!(),
    ") AS w ON CONFLICT (id) DO NOTHING"
);

/// Of those that came last, whose entries are there. LIMIT keeps the planner from reading all entries for it.
const COME: &str = "SELECT w.id FROM (SELECT id FROM awaited_entries ORDER BY since DESC LIMIT $1) w \
                               CROSS JOIN LATERAL (SELECT FROM audit_entries e WHERE e.id = w.id LIMIT 1) e LIMIT $2";

const DUE: &str = "SELECT id FROM awaited_entries WHERE since < $1 ORDER BY since LIMIT $2";

/// In the order of [`DUE`], so that none is adopted that was not looked up. By id then: of two that tell of the same
/// state, the earlier one chooses first.
const WATCHED: &str = concat!(
    "SELECT id FROM (SELECT w.id FROM awaited_entries w WHERE ",
    seen_by_watch!(),
    " ORDER BY w.since LIMIT $1) w ORDER BY id"
);

/// The entry by which a watch told of the same change, and whether this very event has been joined with it already.
const SEEN: &str = concat!(
    "SELECT e.id, e.told FROM awaited_entries w CROSS JOIN LATERAL (\
     SELECT e.id, e.audit_id = w.audit_id AS told FROM audit_entries e \
     WHERE e.id >= $2 AND e.id <= $3 AND left(e.resource_name, 256) = left(w.resource_name, 256) AND ",
    same_change!(),
    " AND (e.audit_id = w.audit_id OR ",
    weight!("w"),
    " > ",
    weight!("e"),
    r#") ORDER BY (e.audit_id = w.audit_id) DESC, abs(extract(epoch FROM e."timestamp" - w."timestamp")) LIMIT 1) e WHERE w.id = $1"#
);

const FILL: &str = concat!(
    "UPDATE audit_entries e SET ",
    learned!(),
    ", position = nextval('audit_entries_position') FROM awaited_entries w WHERE w.id = $1 AND e.id = $2 AND ",
    weight!("w"),
    " > ",
    weight!("e")
);

const TAKE_UP: &str = concat!(
    "WITH w AS MATERIALIZED (SELECT kept.* FROM unnest((SELECT $1::uuid[])) AS those (id) \
     JOIN awaited_entries kept ON kept.id = those.id) UPDATE audit_entries e SET ",
    learned!(),
    ", position = nextval('audit_entries_position') FROM w WHERE e.id = w.id AND e.id >= $2 AND ",
    weight!("w"),
    " > ",
    weight!("e")
);

const DROP_USED: &str = "WITH used AS MATERIALIZED (SELECT those.id FROM unnest((SELECT $1::uuid[])) AS those (id) \
                         CROSS JOIN LATERAL (SELECT FROM audit_entries e WHERE e.id = those.id \
                         AND e.id >= $2 LIMIT 1) e) \
                         DELETE FROM awaited_entries w USING used WHERE w.id = used.id";

const ADOPT: &str = concat!(
    "WITH adopted AS (DELETE FROM awaited_entries WHERE id = ANY ($1) RETURNING *) INSERT INTO audit_entries (",
    columns!(),
    ", position) SELECT ",
    columns!(),
    ", nextval('audit_entries_position') FROM adopted"
);

#[async_trait::async_trait]
impl Outcomes for SqlStore<Postgres> {
    async fn settle(&self, findings: &[Finding]) -> Result<(), StoreError> {
        settle(&self.writes, findings, "settling outcomes").await
    }

    async fn join(&self, told: &[RedactedEntry]) -> Result<(), StoreError> {
        let told: Vec<_> = heaviest(told, |told| (told.id, told.evidence.weight()));
        for portion in portions(&told) {
            join(&self.writes, portion).await.map_err(failed("joining audit events with their entries"))?;
        }
        Ok(())
    }

    async fn join_late(&self, adopt: DateTime<Utc>) -> Result<Late, StoreError> {
        let mut late = Late::default();
        if self.count(QueryBuilder::new(ANY_WAITING), JOINING_LATE).await? == 0 {
            return Ok(late);
        }
        let work = Work::find(&self.reads.pool, adopt).await.map_err(failed(JOINING_LATE))?;
        if !work.is_nothing() {
            partitions::ensure(&self.writes, &work.days()).await?;
            let does = async {
                let mut transaction = self.writes.begin().await?;
                let done = work.act(&mut transaction).await?;
                transaction.commit().await.map(|()| done)
            };
            late = does.await.map_err(failed(JOINING_LATE))?;
        }
        Ok(Late { waiting: self.waiting().await?, ..late })
    }

    async fn unconfirmed(&self, from: EntryId, to: EntryId) -> Result<u64, StoreError> {
        self.count(links::unconfirmed(from, to), "counting unconfirmed entries").await
    }
}

impl SqlStore<Postgres> {
    async fn waiting(&self) -> Result<u64, StoreError> {
        self.count(QueryBuilder::new(WAITING), JOINING_LATE).await
    }
}

pub(super) async fn settle(pool: &PgPool, findings: &[Finding], operation: &'static str) -> Result<(), StoreError> {
    let findings = heaviest(findings, |finding| (finding.id, finding.evidence.weight()));
    for portion in findings.chunks(FINDINGS) {
        let ids = each(portion, |finding| finding.id.as_uuid());
        let Some(from) = ids.iter().min().copied() else { continue };
        let settle = sqlx::query(SETTLE)
            .bind(POSITION_LOCK)
            .bind(ids)
            .bind(each(portion, |finding| finding.outcome.as_str()))
            .bind(each(portion, |finding| finding.evidence.as_str()))
            .bind(each(portion, |finding| finding.status_code.map(i32::from)))
            .bind(from);
        settle.execute(pool).await.map_err(failed(operation))?;
    }
    Ok(())
}

async fn join(pool: &PgPool, told: &[&RedactedEntry]) -> Result<(), sqlx::Error> {
    let ids = each(told, |told| told.id.as_uuid());
    let Some(from) = ids.iter().min().copied() else { return Ok(()) };
    let text = |of: fn(&Entry) -> &str| -> Vec<Cow<'_, str>> { each(told, |told| storable(of(told))) };
    let left: Vec<(Uuid, Option<bool>)> = sqlx::query_as(JOIN)
        .bind(POSITION_LOCK)
        .bind(ids)
        .bind(each(told, |told| told.outcome.as_str()))
        .bind(each(told, |told| told.evidence.as_str()))
        .bind(each(told, |told| i32::from(told.status_code)))
        .bind(text(|told| &told.ip))
        .bind(text(|told| &told.audit_id))
        .bind(text(|told| &told.user_agent))
        .bind(text(|told| &told.real_user))
        .bind(text(|told| &told.user))
        .bind(from)
        .fetch_all(pool)
        .await?;
    let absent: HashSet<Uuid> = left.into_iter().filter(|(_, is_there)| is_there.is_none()).map(|(id, _)| id).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let kept: Vec<_> = told.iter().copied().filter(|told| absent.contains(&told.id.as_uuid())).collect();
    bind(KEEP, &kept).execute(pool).await.map(drop)
}

fn each<'a, T, V>(portion: &[&'a T], of: impl Fn(&'a T) -> V) -> Vec<V> {
    portion.iter().map(|one| of(one)).collect()
}

/// What there is to do with what was kept: found without the lock, and looked at again under it.
struct Work {
    /// Whose entries have come.
    come: Vec<Uuid>,
    /// Who has waited too long.
    due: Vec<Uuid>,
    /// What a watch has seen too.
    seen: Vec<Uuid>,
}

impl Work {
    async fn find(pool: &PgPool, adopt: DateTime<Utc>) -> Result<Self, sqlx::Error> {
        let come = sqlx::query_scalar(COME).bind(bound(LATE_LOOKED_UP)).bind(bound(LATE_ROWS)).fetch_all(pool).await?;
        let due = sqlx::query_scalar(DUE).bind(adopt).bind(bound(LATE_ROWS)).fetch_all(pool).await?;
        let mut seen = Vec::new();
        let watched: Vec<Uuid> = sqlx::query_scalar(WATCHED).bind(bound(LATE_ROWS)).fetch_all(pool).await?;
        for told in watched {
            if self::seen(pool, told).await?.is_some() {
                seen.push(told);
            }
        }
        Ok(Self { come, due, seen })
    }

    fn is_nothing(&self) -> bool {
        self.come.is_empty() && self.due.is_empty() && self.seen.is_empty()
    }

    /// Those that something is adopted into.
    fn days(&self) -> BTreeSet<NaiveDate> {
        let ids = self.due.iter().filter_map(|id| EntryId::try_from(*id).ok());
        ids.map(|id| id.timestamp().date_naive()).collect()
    }

    /// The lock first, so that each statement after it sees all that was written before.
    async fn act(&self, transaction: &mut PgConnection) -> Result<Late, sqlx::Error> {
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(POSITION_LOCK).execute(&mut *transaction).await?;
        let mut joined = 0;
        for told in &self.seen {
            let Some((entry, already)) = seen(&mut *transaction, *told).await? else { continue };
            if !already {
                joined += sqlx::query(FILL).bind(told).bind(entry).execute(&mut *transaction).await?.rows_affected();
            }
            let used = sqlx::query("DELETE FROM awaited_entries WHERE id = $1").bind(told);
            used.execute(&mut *transaction).await?;
        }
        let ids: Vec<Uuid> = self.come.iter().chain(&self.due).copied().collect();
        if let Some(from) = ids.iter().min().copied() {
            let take_up = sqlx::query(TAKE_UP).bind(&ids).bind(from);
            joined += take_up.execute(&mut *transaction).await?.rows_affected();
            sqlx::query(DROP_USED).bind(&ids).bind(from).execute(&mut *transaction).await?;
        }
        let adopted = sqlx::query(ADOPT).bind(&self.due).execute(&mut *transaction).await?.rows_affected();
        Ok(Late { joined, adopted, waiting: 0 })
    }
}

async fn seen<'c>(executor: impl sqlx::PgExecutor<'c>, told: Uuid) -> Result<Option<(Uuid, bool)>, sqlx::Error> {
    let Ok(id) = EntryId::try_from(told) else { return Ok(None) };
    let (from, to) = (id.timestamp() - WATCH_WITHIN, id.timestamp() + WATCH_WITHIN);
    sqlx::query_as(SEEN)
        .bind(told)
        .bind(EntryId::floor(from).as_uuid())
        .bind(EntryId::floor(to).as_uuid())
        .fetch_optional(executor)
        .await
}

fn bound(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use store::ObjectRef;

    use super::*;
    use crate::filter::tests::{PLANS_OF, filled};

    const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");

    /// One of those that [`filled`] has written.
    fn id(day: u64, n: u64) -> String {
        let hex = format!("{:012x}70008000{n:012}", 1_772_323_200_000 + day * 86_400_000 + n * 4_000);
        Uuid::parse_str(&hex).unwrap().to_string()
    }

    /// So many of the first day.
    fn ids(count: u64) -> String {
        let ids: Vec<_> = (1..=count).map(|n| id(0, n * 7)).collect();
        format!("'{{{}}}'", ids.join(","))
    }

    /// What PostgreSQL makes of a batch of a thousand: it looks at its day alone, by the id.
    #[tokio::test]
    async fn the_plan_of_every_statement_about_outcomes_is_reviewed() {
        const BATCH: u64 = 1_000;
        let server = testkit::postgres::shared().await;
        let database = filled(server).await;
        let text = |value: &str| format!("array_fill('{value}'::text, ARRAY[{BATCH}])");
        let codes = format!("array_fill(409, ARRAY[{BATCH}])");
        let from = format!("'{}'", id(0, 7));
        let settle = format!("1, {}, {}, {}, {codes}, {from}", ids(BATCH), text("rejected"), text("probe"));
        let texts = vec![text(""); 5].join(", ");
        let join = format!("1, {}, {}, {}, {codes}, {texts}, {from}", ids(BATCH), text("confirmed"), text("audit"));
        let late = format!("{}, {from}", ids(BATCH));
        let object =
            ObjectRef { cluster: "local", api_group: "apps", kind: "Kind7", namespace: "ns-7", name: "name-7" };
        let noon = EntryId::floor("2026-03-02T12:00:00Z".parse().unwrap());
        let links = links::after::<Postgres>("local", 0, noon, 500).into_string();
        let links_of = links::of_object::<Postgres>(&object, noon, 100).into_string();
        let unconfirmed = links::unconfirmed::<Postgres>(noon, noon).into_string();
        let (day, end) = (format!("'{}'", id(1, 1)), format!("'{}'", id(1, 900)));
        let cases = [
            ("settle", "auto", SETTLE, settle.clone()),
            ("settle, by a plan for any batch", "force_generic_plan", SETTLE, settle),
            ("join", "auto", JOIN, join.clone()),
            ("join, by a plan for any batch", "force_generic_plan", JOIN, join),
            ("late: whose entries have come", "force_generic_plan", COME, "10000, 1000".to_owned()),
            ("late: taken up", "auto", TAKE_UP, late.clone()),
            ("late: dropped", "force_generic_plan", DROP_USED, late),
            ("late: seen by a watch", "force_generic_plan", SEEN, format!("{day}, {day}, {end}")),
            ("links", "force_generic_plan", &links, format!("'{noon}', 30000, 'local'")),
            (
                "links of an object",
                "force_generic_plan",
                &links_of,
                format!("'name-7', '{noon}', 'ns-7', 'Kind7', 'apps', 'local'"),
            ),
            ("unconfirmed", "force_generic_plan", &unconfirmed, format!("{day}, {end}")),
        ];
        let mut plans = String::new();
        for (name, mode, statement, values) in cases {
            let explain = format!(
                "SET plan_cache_mode = {mode}; PREPARE it AS {statement}; EXPLAIN (COSTS OFF) EXECUTE it({values})"
            );
            let plan = server.sql(&database, &explain).await.unwrap();
            // The batch's ids, as they are written there.
            let plan = plan.replace(ids(BATCH).trim_matches('\''), "…");
            writeln!(plans, "-- {name}\n{plan}\n").unwrap();
            assert!(!plan.contains("Seq Scan on audit_entries"), "{name}\n{plan}");
        }
        if server.sql(&database, "SHOW server_version_num").await.unwrap().starts_with(&PLANS_OF.to_string()) {
            testkit::golden(format!("{GOLDENS}/outcomes-{PLANS_OF}.txt"), &plans);
        }
    }
}

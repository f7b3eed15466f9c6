//! Which policies have entries, and how many of each: what is kept by policy is asked and told by policy.

use std::collections::BTreeMap;

use domain::EntryId;
use sqlx::{Database, QueryBuilder};
use store::{HEARD_ENTRIES, PolicyCount, StoreError};

use crate::dialect::{Bind, Dialect};
use crate::failure::never;

/// The policies that have entries in a table, smallest first, as `present (policy)`. Goes from one to the next by the
/// index on policies, where DISTINCT would read every entry.
fn push_present<D: Database>(sql: &mut QueryBuilder<D>, table: &str) {
    sql.push("WITH RECURSIVE present (policy) AS (SELECT min(policy) FROM ").push(table);
    sql.push(" UNION ALL SELECT (SELECT min(e.policy) FROM ").push(table);
    sql.push(" e WHERE e.policy > present.policy) FROM present WHERE present.policy IS NOT NULL) ");
}

pub(crate) fn present<D: Database>(table: &str) -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new("");
    push_present(&mut sql, table);
    sql.push("SELECT policy FROM present WHERE policy IS NOT NULL ORDER BY policy");
    sql
}

/// What tells that it made an entry, or told the outcome of one.
const HEARD: [&str; 4] = [
    "source = 'admission'",
    "source = 'audit' OR evidence = 'audit'",
    "source = 'watch'",
    "source = 'chain' OR evidence IN ('successor', 'probe')",
];
const _: () = assert!(HEARD.len() == PolicyCount::SOURCES.len());

/// Name, entries since the id, newest id of each; then the newest that each of [`PolicyCount::SOURCES`] told of.
pub(crate) fn counts<D: Dialect>(since: EntryId) -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new("");
    push_present(&mut sql, "audit_entries");
    sql.push("SELECT policy, (SELECT count(*) FROM audit_entries e WHERE e.policy = present.policy AND e.id >= ");
    D::push(&mut sql, Bind::Id(since));
    sql.push("), (SELECT CAST(e.id AS text) FROM audit_entries e WHERE e.policy = present.policy ORDER BY e.id DESC LIMIT 1)");
    for heard in HEARD {
        sql.push(", (SELECT max(CAST(newest.id AS text)) FROM (SELECT id, source, evidence FROM audit_entries e");
        sql.push(" WHERE e.policy = present.policy AND e.id >= ");
        D::push(&mut sql, Bind::Id(since));
        sql.push(format_args!(" ORDER BY e.id DESC LIMIT {HEARD_ENTRIES}) newest WHERE {heard})"));
    }
    sql.push(" FROM present WHERE policy IS NOT NULL ORDER BY policy");
    sql
}

/// As `job_runs.removed` holds it.
pub(crate) fn removed_text(by_policy: &BTreeMap<String, u64>) -> Result<String, StoreError> {
    serde_json::to_string(by_policy).map_err(|error| never("noting what a purge removed", error))
}

pub(crate) fn removed(text: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    serde_json::from_str(text).map_err(|error| never("reading what the last purge removed", error))
}

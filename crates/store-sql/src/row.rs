//! The columns of `audit_entries`, and a row of them read back. The timestamp is not among those read: it is in the id.

use domain::entry::{ObjectHash, Prior};
use domain::finding::Link;
use domain::{DetailJson, Entry, EntryId, Resource, StoredEntry};
use sqlx::{ColumnIndex, Decode, Row, Type};
use store::{PolicyCount, StoreError};

use crate::failure::failed;

/// For both databases. The id is renamed, or `ORDER BY id` would mean the text and no index would serve it.
pub(crate) const SELECT: &str = r#"SELECT CAST(id AS text) AS entry_id, "user", action, resource, resource_name, cluster, namespace, status_code, CAST(detail AS text), ip, outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy, position FROM audit_entries WHERE true"#;

/// A row as [`SELECT`] gives it.
pub(crate) fn entry<R>(row: &R) -> Result<StoredEntry, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i32: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Option<i64>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    let id: String = row.try_get(0).map_err(|_| corrupt("unreadable", "id"))?;
    let text = |index: usize, column| row.try_get::<String, _>(index).map_err(|_| corrupt(&id, column));
    let hash = |index: usize, column| {
        let hash = row.try_get::<Option<i64>, _>(index).map_err(|_| corrupt(&id, column))?;
        Ok::<_, StoreError>(hash.map(ObjectHash))
    };
    let entry = Entry {
        id: parsed::<EntryId>(&id, &id, "id")?,
        user: text(1, "user")?,
        action: parsed(&id, &text(2, "action")?, "action")?,
        resource: resource(&text(3, "resource")?),
        resource_name: text(4, "resource_name")?,
        cluster: text(5, "cluster")?,
        namespace: text(6, "namespace")?,
        status_code: status_code(row.try_get::<i32, _>(7).ok()).ok_or_else(|| corrupt(&id, "status_code"))?,
        detail: DetailJson::parse(text(8, "detail")?).map_err(|_| corrupt(&id, "detail"))?,
        ip: text(9, "ip")?,
        outcome: parsed(&id, &text(10, "outcome")?, "outcome")?,
        evidence: parsed(&id, &text(11, "evidence")?, "evidence")?,
        source: parsed(&id, &text(12, "source")?, "source")?,
        audit_id: text(13, "audit_id")?,
        real_user: text(14, "real_user")?,
        user_agent: text(15, "user_agent")?,
        api_group: text(16, "api_group")?,
        object_uid: text(17, "object_uid")?,
        before_hash: hash(18, "before_hash")?,
        after_hash: hash(19, "after_hash")?,
        policy: text(20, "policy")?,
    };
    let position = row.try_get(21).map_err(|_| corrupt(&id, "position"))?;
    Ok(StoredEntry { entry, position })
}

/// A row as [`links`](crate::links) select it. A prior that does not parse, by another hand or of a later version, is
/// none: of one row less is known, which is no reason to know nothing of all.
pub(crate) fn link<R>(row: &R) -> Result<Link, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Option<i64>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    let id: String = row.try_get(0).map_err(|_| corrupt("unreadable", "id"))?;
    let text = |index: usize, column| row.try_get::<String, _>(index).map_err(|_| corrupt(&id, column));
    let fact = |index: usize| row.try_get::<Option<String>, _>(index).map_err(|_| corrupt(&id, "detail"));
    let hash = |index: usize, column| {
        let hash = row.try_get::<Option<i64>, _>(index).map_err(|_| corrupt(&id, column))?;
        Ok::<_, StoreError>(hash.map(ObjectHash))
    };
    let prior = fact(15)?.and_then(|prior| serde_json::from_str::<Prior>(&prior).ok());
    Ok(Link {
        id: parsed::<EntryId>(&id, &id, "id")?,
        position: row.try_get(1).map_err(|_| corrupt(&id, "position"))?,
        action: parsed(&id, &text(2, "action")?, "action")?,
        resource: resource(&text(3, "resource")?),
        api_group: text(4, "api_group")?,
        namespace: text(5, "namespace")?,
        resource_name: text(6, "resource_name")?,
        object_uid: text(7, "object_uid")?,
        before: hash(8, "before_hash")?,
        after: hash(9, "after_hash")?,
        outcome: parsed(&id, &text(10, "outcome")?, "outcome")?,
        evidence: parsed(&id, &text(11, "evidence")?, "evidence")?,
        source: parsed(&id, &text(12, "source")?, "source")?,
        policy: text(13, "policy")?,
        version: fact(14)?.unwrap_or_default(),
        prior,
    })
}

/// A row as [`policies::counts`](crate::policies::counts) gives it.
pub(crate) fn policy_count<R>(row: &R) -> Result<PolicyCount, StoreError>
where
    R: Row,
    usize: ColumnIndex<R>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    const OPERATION: &str = "reading how many entries policies have";
    let entries: i64 = row.try_get(1).map_err(failed(OPERATION))?;
    let newest: String = row.try_get(2).map_err(failed(OPERATION))?;
    let heard = PolicyCount::SOURCES.into_iter().enumerate().filter_map(|(at, source)| {
        let id = row.try_get::<Option<String>, _>(3 + at).map_err(failed(OPERATION)).transpose()?;
        Some(id.and_then(|id| Ok((source, parsed(&id, &id, "id")?))))
    });
    Ok(PolicyCount {
        heard: heard.collect::<Result<_, StoreError>>()?,
        policy: row.try_get(0).map_err(failed(OPERATION))?,
        entries: entries.unsigned_abs(),
        newest: parsed(&newest, &newest, "id")?,
    })
}

fn parsed<T: std::str::FromStr>(id: &str, text: &str, column: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| corrupt(id, column))
}

fn status_code(code: Option<i32>) -> Option<u16> {
    code.and_then(|code| u16::try_from(code).ok())
}

fn resource(text: &str) -> Resource {
    let (kind, subresource) = text.split_once('/').unwrap_or((text, ""));
    Resource::new(kind, subresource)
}

fn corrupt(id: &str, column: &'static str) -> StoreError {
    StoreError::Corrupt { id: id.to_owned(), column }
}

//! Entries as links of their objects' chains, the same for both databases: few columns, and of the detail two facts.

use domain::EntryId;
use domain::finding::Link;
use futures::TryStreamExt as _;
use sqlx::QueryBuilder;
use store::{Links, ObjectRef, StoreError};

use crate::SqlStore;
use crate::dialect::{Bind, Dialect};
use crate::failure::failed;
use crate::filter::{push_equal, push_id, push_keyed};

/// What was written, as somebody saw it happen or as a chain lacks it. What is told by others, or of connections, is no
/// state of an object.
const LINKS: &str = " AND action IN ('create', 'update', 'delete') AND source IN ('admission', 'audit', 'chain')";
/// What a watch sees belongs to no chain, which begins and ends with reviews, but to its object.
const LINKS_OF: &str = " AND action IN ('create', 'update', 'delete') \
                        AND source IN ('admission', 'audit', 'chain', 'watch')";

fn select<D: Dialect>() -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new(
        "SELECT CAST(id AS text) AS entry_id, position, action, resource, api_group, namespace, resource_name, \
         object_uid, before_hash, after_hash, outcome, evidence, source, policy, ",
    );
    sql.push(D::VERSION).push(", ").push(D::PRIOR).push(" FROM audit_entries WHERE true");
    sql
}

/// The position is compared within the days that `since` leaves, and walked by its index in each of them.
pub(crate) fn after<D: Dialect>(cluster: &str, after: i64, since: EntryId, limit: usize) -> QueryBuilder<D> {
    let mut sql = select();
    push_id(&mut sql, ">=", since);
    sql.push(" AND position > ");
    D::push(&mut sql, Bind::Number(after));
    push_equal(&mut sql, "cluster", Some(cluster));
    sql.push(LINKS).push(" ORDER BY position LIMIT ").push(limit);
    sql
}

pub(crate) fn of_object<D: Dialect>(object: &ObjectRef<'_>, before: EntryId, limit: usize) -> QueryBuilder<D> {
    let mut sql = select();
    push_keyed(&mut sql, D::NAME_KEY, "resource_name", Some(object.name));
    push_id(&mut sql, "<", before);
    push_equal(&mut sql, "namespace", Some(object.namespace));
    push_equal(&mut sql, D::KIND, Some(object.kind));
    push_equal(&mut sql, "api_group", Some(object.api_group));
    push_equal(&mut sql, "cluster", Some(object.cluster));
    sql.push(LINKS_OF).push(" ORDER BY id DESC LIMIT ").push(limit);
    sql
}

/// How many are unconfirmed.
pub(crate) fn unconfirmed<D: Dialect>(from: EntryId, to: EntryId) -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new("SELECT count(*) FROM audit_entries WHERE outcome = 'unconfirmed'");
    push_id(&mut sql, ">=", from);
    push_id(&mut sql, "<", to);
    sql
}

impl<D: Dialect> SqlStore<D> {
    async fn read_links(&self, mut sql: QueryBuilder<D>, operation: &'static str) -> Result<Vec<Link>, StoreError> {
        let mut rows = D::rows(&self.reads.pool, &mut sql);
        let mut links = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(failed(operation))? {
            links.push(D::link(&row)?);
        }
        Ok(links)
    }

    pub(crate) async fn count(&self, mut sql: QueryBuilder<D>, operation: &'static str) -> Result<u64, StoreError> {
        let row = D::rows(&self.reads.pool, &mut sql).try_next().await.map_err(failed(operation))?;
        let count = row.as_ref().map(D::number).transpose().map_err(failed(operation))?;
        Ok(count.unwrap_or_default().unsigned_abs())
    }
}

#[async_trait::async_trait]
impl<D: Dialect> Links for SqlStore<D> {
    async fn links(&self, cluster: &str, position: i64, since: EntryId, limit: usize) -> Result<Vec<Link>, StoreError> {
        self.read_links(after(cluster, position, since, limit), "reading what is new as links").await
    }

    async fn links_of(&self, object: &ObjectRef<'_>, before: EntryId, limit: usize) -> Result<Vec<Link>, StoreError> {
        self.read_links(of_object(object, before, limit), "reading the links of an object").await
    }
}

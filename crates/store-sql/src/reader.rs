//! Reading, the same for both databases: pages by the id, one entry, all that match in pages of its own.

use domain::query::{Cursor, CursorKey, Direction, EntryQuery, Filter, Page, Scope};
use domain::{EntryId, StoredEntry};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::{Pool, QueryBuilder};
use store::{EntryReader, StoreError};
use tokio::sync::OnceCell;

use crate::SqlStore;
use crate::dialect::Dialect;
use crate::failure::{failed, never};
use crate::filter::{push_conditions, push_id, push_scope};
use crate::row::SELECT;

/// What a stream holds at a time: each portion is a statement of its own, so that a slow reader keeps no snapshot open.
const STREAM_ENTRIES: usize = 500;

pub(crate) struct Reader<D: Dialect> {
    pub(crate) pool: Pool<D>,
    /// Made at migration and never changed.
    cursor_key: OnceCell<CursorKey>,
}

impl<D: Dialect> Reader<D> {
    pub(crate) fn new(pool: Pool<D>) -> Self {
        Self { pool, cursor_key: OnceCell::new() }
    }

    async fn walk(
        &self,
        scope: &Scope,
        filter: &Filter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, StoreError> {
        let mut sql = walk(scope, filter, cursor, limit);
        let rows = D::fetch(&self.pool, &mut sql).await.map_err(failed("reading entries"))?;
        rows.iter().map(D::entry).collect()
    }

    async fn one(&self, scope: &Scope, id: EntryId) -> Result<Option<StoredEntry>, StoreError> {
        let mut sql = one(scope, id);
        let rows = D::fetch(&self.pool, &mut sql).await.map_err(failed("reading an entry"))?;
        rows.first().map(D::entry).transpose()
    }

    async fn read_cursor_key(&self) -> Result<CursorKey, StoreError> {
        const OPERATION: &str = "reading the cursor key";
        let mut sql = QueryBuilder::new("SELECT value FROM settings WHERE name = 'cursor_key'");
        let rows = D::fetch(&self.pool, &mut sql).await.map_err(failed(OPERATION))?;
        let bytes = rows.first().map(D::bytes).transpose().map_err(failed(OPERATION))?.unwrap_or_default();
        let key = bytes.try_into().map_err(|_| never(OPERATION, "settings holds no cursor_key of 32 bytes"))?;
        Ok(CursorKey::new(key))
    }
}

/// The statement of a page: in walking order from the cursor, or from the newest.
///
/// The limit is part of the text: PostgreSQL plans for a tenth of the table where it does not know it.
pub(crate) fn walk<D: Dialect>(
    scope: &Scope,
    filter: &Filter,
    cursor: Option<Cursor>,
    limit: usize,
) -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new(SELECT);
    push_conditions(&mut sql, scope, filter);
    let order = match cursor {
        None => "DESC",
        Some(Cursor { direction: Direction::Older, id }) => {
            push_id(&mut sql, "<", id);
            "DESC"
        }
        Some(Cursor { direction: Direction::Newer, id }) => {
            push_id(&mut sql, ">", id);
            "ASC"
        }
    };
    sql.push(" ORDER BY id ").push(order).push(" LIMIT ").push(limit);
    sql
}

/// By its id an entry is found whatever its outcome.
fn one<D: Dialect>(scope: &Scope, id: EntryId) -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new(SELECT);
    push_scope(&mut sql, scope);
    push_id(&mut sql, "=", id);
    sql
}

#[async_trait::async_trait]
impl<D: Dialect> EntryReader for SqlStore<D> {
    async fn page(&self, scope: &Scope, query: &EntryQuery) -> Result<Page, StoreError> {
        let walked = self.reads.walk(scope, &query.filter, query.cursor, query.limit.get() + 1).await?;
        Ok(Page::from_walk(query, walked))
    }

    async fn entry(&self, scope: &Scope, id: EntryId) -> Result<Option<StoredEntry>, StoreError> {
        self.reads.one(scope, id).await
    }

    fn stream<'a>(&'a self, scope: &'a Scope, filter: &'a Filter) -> BoxStream<'a, Result<StoredEntry, StoreError>> {
        let portions = stream::try_unfold(Some(None), move |from: Option<Option<Cursor>>| async move {
            let Some(cursor) = from else { return Ok::<_, StoreError>(None) };
            let entries = self.reads.walk(scope, filter, cursor, STREAM_ENTRIES).await?;
            let more = entries.len() == STREAM_ENTRIES;
            let last = entries.last().filter(|_| more).map(|entry| entry.id);
            let next = last.map(|id| Some(Cursor { direction: Direction::Older, id }));
            Ok(Some((entries, next)))
        });
        portions.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn cursor_key(&self) -> Result<CursorKey, StoreError> {
        self.reads.cursor_key.get_or_try_init(|| self.reads.read_cursor_key()).await.cloned()
    }
}

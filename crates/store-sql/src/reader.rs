//! Reading, the same for both databases: pages by the id, one entry, all that match in portions of its own.
//!
//! What a reader holds is bounded in bytes ([`PORTION_BYTES`]), since entries differ in weight by four orders of
//! magnitude. A stream asks for as many as were light enough so far; a statement that finds heavier ones is given up.

use domain::query::{Cursor, CursorKey, Direction, EntryQuery, Filter, Page, Scope};
use domain::{EntryId, StoredEntry};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::{Pool, QueryBuilder};
use store::{EntryReader, PolicyCount, StoreError};
use tokio::sync::OnceCell;

use crate::SqlStore;
use crate::dialect::Dialect;
use crate::failure::{failed, never};
use crate::filter::{push_conditions, push_id, push_scope};
use crate::policies;
use crate::row::SELECT;

/// What a page or a stream holds at a time; the first entry of them may be heavier. A page of 500 entries has room for 16
/// KiB each. Each portion of a stream is a statement of its own, so that a slow reader keeps no snapshot open.
const PORTION_BYTES: usize = 8 * 1024 * 1024;
const PORTION_ENTRIES: usize = 512;
/// Before anything is known of their weight: not much to give up.
const FIRST_ENTRIES: usize = 64;

pub(crate) struct Reader<D: Dialect> {
    pub(crate) pool: Pool<D>,
    /// Made at migration and never changed.
    cursor_key: OnceCell<CursorKey>,
}

impl<D: Dialect> Reader<D> {
    pub(crate) fn new(pool: Pool<D>) -> Self {
        Self { pool, cursor_key: OnceCell::new() }
    }

    /// What lies behind the cursor: at most `limit` entries, as far as they fit.
    async fn walk(
        &self,
        scope: &Scope,
        filter: &Filter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Portion, StoreError> {
        let mut sql = walk(scope, filter, cursor, limit);
        let mut rows = D::rows(&self.pool, &mut sql);
        let mut portion = Portion::default();
        while let Some(row) = rows.try_next().await.map_err(failed("reading entries"))? {
            if !portion.takes(D::entry(&row)?) {
                break;
            }
        }
        Ok(portion)
    }

    async fn one(&self, scope: &Scope, id: EntryId) -> Result<Option<StoredEntry>, StoreError> {
        let mut sql = one(scope, id);
        let row = D::rows(&self.pool, &mut sql).try_next().await.map_err(failed("reading an entry"))?;
        row.as_ref().map(D::entry).transpose()
    }

    async fn read_cursor_key(&self) -> Result<CursorKey, StoreError> {
        const OPERATION: &str = "reading the cursor key";
        let mut sql = QueryBuilder::new("SELECT value FROM settings WHERE name = 'cursor_key'");
        let row = D::rows(&self.pool, &mut sql).try_next().await.map_err(failed(OPERATION))?;
        let bytes = row.as_ref().map(D::bytes).transpose().map_err(failed(OPERATION))?.unwrap_or_default();
        let key = bytes.try_into().map_err(|_| never(OPERATION, "settings holds no cursor_key of 32 bytes"))?;
        Ok(CursorKey::new(key))
    }
}

/// Entries in walking order, as many as one reader may hold.
#[derive(Default)]
struct Portion {
    entries: Vec<StoredEntry>,
    bytes: usize,
    /// There are more, for which there is no room.
    is_full: bool,
}

impl Portion {
    /// False where there is no room for it; for the first there always is.
    fn takes(&mut self, entry: StoredEntry) -> bool {
        let bytes = self.bytes + entry.weight();
        self.is_full = bytes > PORTION_BYTES && !self.entries.is_empty();
        if !self.is_full {
            self.bytes = bytes;
            self.entries.push(entry);
        }
        !self.is_full
    }

    /// How many like these fit into one. Powers of two, so that a connection has few statements to plan.
    fn of_these(&self) -> usize {
        let fit = match self.bytes.checked_div(self.entries.len()) {
            None => FIRST_ENTRIES,
            Some(each) => (PORTION_BYTES / each.max(1)).clamp(1, PORTION_ENTRIES),
        };
        1 << fit.ilog2()
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
        // One statement, so that a page is of one moment.
        let page = self.reads.walk(scope, &query.filter, query.cursor, query.limit.get() + 1).await?;
        Ok(Page::from_walk(query, page.entries, page.is_full))
    }

    async fn entry(&self, scope: &Scope, id: EntryId) -> Result<Option<StoredEntry>, StoreError> {
        self.reads.one(scope, id).await
    }

    fn stream<'a>(&'a self, scope: &'a Scope, filter: &'a Filter) -> BoxStream<'a, Result<StoredEntry, StoreError>> {
        let start = Some((None, FIRST_ENTRIES));
        let portions = stream::try_unfold(start, move |from: Option<(Option<Cursor>, usize)>| async move {
            let Some((cursor, limit)) = from else { return Ok::<_, StoreError>(None) };
            let portion = self.reads.walk(scope, filter, cursor, limit).await?;
            let more = portion.is_full || portion.entries.len() == limit;
            let last = portion.entries.last().filter(|_| more).map(|entry| entry.id);
            let next = last.map(|id| (Some(Cursor { direction: Direction::Older, id }), portion.of_these()));
            Ok(Some((portion.entries, next)))
        });
        portions.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn cursor_key(&self) -> Result<CursorKey, StoreError> {
        self.reads.cursor_key.get_or_try_init(|| self.reads.read_cursor_key()).await.cloned()
    }

    async fn policy_counts(&self, since: EntryId) -> Result<Vec<PolicyCount>, StoreError> {
        let mut sql = policies::counts(since);
        let mut rows = D::rows(&self.reads.pool, &mut sql);
        let mut counts = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(failed("counting entries by policy"))? {
            counts.push(D::policy_count(&row)?);
        }
        Ok(counts)
    }
}

//! The vocabulary of reading: what is asked for, by whom, and where a page begins.

mod cursor;
mod filter;

pub use cursor::{Cursor, CursorError, CursorKey, Direction};
pub use filter::{Filter, FilterError, Limit, ResourceFilter, Status};

use crate::entry::StoredEntry;

/// Who may see what. There is no way to read without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The local administrator's: every entry. The only one until accounts exist.
    Everything,
}

/// One page: newest first, whichever way the cursor walks.
#[derive(Clone, Debug, Default)]
pub struct EntryQuery {
    pub filter: Filter,
    pub limit: Limit,
    /// None: the newest page.
    pub cursor: Option<Cursor>,
}

#[derive(Clone, Debug)]
pub struct Page {
    /// Newest first.
    pub entries: Vec<StoredEntry>,
    /// Towards older entries; None on the last page.
    pub next: Option<Cursor>,
    /// Towards newer entries; None on the first page.
    pub prev: Option<Cursor>,
}

impl Page {
    /// Builds the page from what a store found in walking order, asked for one entry more than the limit: the extra one
    /// only tells that the walk goes on. So does `cut`: there were more than the store could hold.
    pub fn from_walk(query: &EntryQuery, mut walked: Vec<StoredEntry>, cut: bool) -> Self {
        let more = cut || walked.len() > query.limit.get();
        walked.truncate(query.limit.get());
        let direction = query.cursor.map_or(Direction::Older, |cursor| cursor.direction);
        if direction == Direction::Newer {
            walked.reverse();
        }
        // What the walk did not see lies where it came from: there is something there whenever it came from a cursor.
        let (older, newer) = match direction {
            Direction::Older => (more, query.cursor.is_some()),
            Direction::Newer => (query.cursor.is_some(), more),
        };
        // An empty page, of entries that were purged meanwhile, leads nowhere: a way back from where its cursor stood would
        // leave out the entry that stood there.
        let newest = walked.first().map(|entry| entry.id);
        let oldest = walked.last().map(|entry| entry.id);
        Self {
            next: oldest.filter(|_| older).map(|id| Cursor { direction: Direction::Older, id }),
            prev: newest.filter(|_| newer).map(|id| Cursor { direction: Direction::Newer, id }),
            entries: walked,
        }
    }
}

//! One page of entries, asked of the store: what the REST list and the page of the log have in common.

use domain::StoredEntry;
use domain::query::{Cursor, EntryQuery};

use crate::PanelState;
use crate::params::Params;
use crate::refusal::Refusal;
use crate::viewer::Viewer;

pub(crate) struct Listing {
    /// Newest first.
    pub(crate) entries: Vec<StoredEntry>,
    /// Towards older entries, sealed.
    pub(crate) next: Option<String>,
    /// Towards newer entries, sealed.
    pub(crate) prev: Option<String>,
}

/// # Errors
/// Where the cursor is not one of this store's, or the store fails.
pub(crate) async fn listing(state: &PanelState, viewer: &Viewer, params: &Params) -> Result<Listing, Refusal> {
    let key = state.entries.cursor_key().await?;
    let cursor = match &params.cursor {
        Some(text) => Some(Cursor::open(text, &key).map_err(|error| Refusal::cursor(&error))?),
        None => None,
    };
    let query = EntryQuery { filter: params.filter.clone(), limit: params.limit, cursor };
    let page = state.entries.page(&viewer.scope, &query).await?;
    let seal = |cursor: Cursor| cursor.seal(&key);
    Ok(Listing { entries: page.entries, next: page.next.map(seal), prev: page.prev.map(seal) })
}

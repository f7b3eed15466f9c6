//! The log as JSON.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use domain::{EntryId, StoredEntry};

use crate::PanelState;
use crate::body::{EntryBody, ListBody};
use crate::listing::listing;
use crate::params::Params;
use crate::refusal::{Problem, Refusal};
use crate::viewer::Viewer;

/// `GET /api/v1/audit-logs`
pub(crate) async fn list(
    State(state): State<PanelState>,
    viewer: Viewer,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = Params::of_list(query.as_deref()).sound().map_err(Refusal::from)?;
    let listing = listing(&state, &viewer, &params).await?;
    Ok(Json(ListBody::from(&listing)).into_response())
}

/// `GET /api/v1/audit-logs/{id}`
pub(crate) async fn entry(
    State(state): State<PanelState>,
    viewer: Viewer,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::of_nothing(query.as_deref()).sound().map_err(Refusal::from)?;
    let entry = find(&state, &viewer, &id).await?;
    Ok(Json(EntryBody::from(&entry)).into_response())
}

/// The entry of an address's last part.
pub(crate) async fn find(state: &PanelState, viewer: &Viewer, id: &str) -> Result<StoredEntry, Refusal> {
    let id: EntryId = id.parse().map_err(|error| Refusal::id(&error))?;
    state.entries.entry(&viewer.scope, id).await?.ok_or(Refusal::NoSuchEntry(id))
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem(Refusal::Method)
}

//! The panel: pages for people and REST for programs over the entries of a store.
//!
//! Everything here reads. A request passes the door ([`guard`]: only GET and HEAD, only for a loopback name, with the
//! headers that keep a browser from doing more than showing text), is parsed ([`params`]), asked of the store in the
//! name of a [`viewer`], and told as JSON ([`rest`]), as a file ([`export`]) or as a page ([`pages`]).
//!
//! This crate never writes, never opens a socket, never reads the clock itself, and never lets a text that came from
//! outside reach a page as anything but text ([`shown`]).

mod body;
mod export;
mod guard;
mod links;
mod listing;
mod pages;
mod params;
mod refusal;
mod rest;
mod shown;
mod viewer;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, map_response};
use axum::routing::get;
use domain::clock::Clock;
use store::EntryReader;

/// What the panel stands on.
#[derive(Clone)]
pub struct PanelState {
    pub entries: Arc<dyn EntryReader>,
    /// Tells "5 minutes ago" from "yesterday"; nothing that is answered to programs depends on it.
    pub clock: Arc<dyn Clock>,
}

/// All of the panel's routes. It has no accounts yet, so it must be served on a loopback address only.
pub fn router(state: PanelState) -> Router {
    let api = Router::new()
        .route("/api/v1/audit-logs", get(rest::list))
        .route("/api/v1/audit-logs/{id}", get(rest::entry))
        .route("/api/v1/audit-logs.csv", get(export::csv))
        .route("/api/v1/audit-logs.ndjson", get(export::ndjson))
        .method_not_allowed_fallback(rest::method_not_allowed);
    let pages = Router::new()
        .route("/", get(pages::home))
        .route(links::LIST_PAGE, get(pages::list))
        .route("/settings/audit-logs/{id}", get(pages::entry))
        .method_not_allowed_fallback(pages::method_not_allowed);
    api.merge(pages)
        .layer(map_response(guard::no_store))
        .route("/assets/panel.css", get(pages::assets::css))
        .route("/assets/panel.svg", get(pages::assets::icon))
        .fallback(pages::not_found)
        .layer(from_fn(guard::loopback_only))
        .layer(map_response(guard::headers))
        .with_state(state)
}

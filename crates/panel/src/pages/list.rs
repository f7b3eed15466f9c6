//! The log: filters, entries day by day, and the way to older and newer ones.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::StoredEntry;

use super::entry::{OutcomeBadge, StatusBadge};
use super::form::{Form, Kind};
use super::time::Instant;
use super::{ErrorPage, rendered};
use crate::PanelState;
use crate::links::{self, Href};
use crate::listing::{Listing, listing};
use crate::params::{Given, Params};
use crate::refusal::Refusal;
use crate::shown::Shown;
use crate::viewer::Viewer;

/// `GET /settings/audit-logs`
pub(crate) async fn list(
    State(state): State<PanelState>,
    viewer: Viewer,
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorPage> {
    let mut params = Params::of_list(query.as_deref());
    let now = state.clock.now();
    if params.faults.is_empty() {
        match listing(&state, &viewer, &params).await {
            Ok(listing) => return rendered(StatusCode::OK, &ListPage::new(&params, Some(&listing), now)),
            Err(Refusal::Parameter(fault)) => params.faults.push(fault),
            Err(other) => return Err(other.into()),
        }
    }
    rendered(StatusCode::BAD_REQUEST, &ListPage::new(&params, None, now))
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage {
    list_page: &'static str,
    form: Form,
    csv: Href,
    /// None where the filters can't be applied.
    days: Option<Vec<Day>>,
    shown: usize,
    newest: Option<Href>,
    newer: Option<Href>,
    older: Option<Href>,
    /// `from` lies after `to`: nothing can match.
    impossible: bool,
}

/// Entries of one day, which the table names once.
struct Day {
    name: String,
    rows: Vec<Row>,
}

struct Row {
    href: Href,
    time: Instant,
    user: Shown,
    user_href: Href,
    real_user: Shown,
    action: &'static str,
    resource: Shown,
    name: Shown,
    namespace: Shown,
    status: StatusBadge,
    outcome: OutcomeBadge,
    summary: Shown,
}

impl ListPage {
    fn new(params: &Params, listing: Option<&Listing>, now: DateTime<Utc>) -> Self {
        let at = |cursor: &Option<String>| cursor.as_deref().map(|cursor| place(&params.given, cursor));
        let entries = listing.map(|listing| listing.entries.as_slice());
        Self {
            list_page: links::LIST_PAGE,
            form: Form::new(params),
            csv: links::csv(params.given.filters()),
            days: entries.map(|entries| days(entries, &params.given, now)),
            shown: entries.map_or(0, <[StoredEntry]>::len),
            newest: params.cursor.as_ref().map(|_| place(&params.given, "")),
            newer: listing.and_then(|listing| at(&listing.prev)),
            older: listing.and_then(|listing| at(&listing.next)),
            impossible: params.filter.from.zip(params.filter.to).is_some_and(|(from, to)| from >= to),
        }
    }
}

/// The list with the same filters, elsewhere in it.
fn place(given: &Given, cursor: &str) -> Href {
    links::list(given.iter().filter(|(name, _)| *name != "cursor").chain([("cursor", cursor)]))
}

fn days(entries: &[StoredEntry], given: &Given, now: DateTime<Utc>) -> Vec<Day> {
    let mut days: Vec<Day> = Vec::new();
    for entry in entries {
        let row = Row::new(entry, given, now);
        match days.last_mut() {
            Some(day) if day.name == row.time.day => day.rows.push(row),
            _ => days.push(Day { name: row.time.day.clone(), rows: vec![row] }),
        }
    }
    days
}

impl Row {
    fn new(entry: &StoredEntry, given: &Given, now: DateTime<Utc>) -> Self {
        let summary = match entry.detail.read() {
            Ok(detail) => detail.summary,
            Err(_) => "(its detail is not in a form that this version reads)".to_owned(),
        };
        let same_but_user = given.iter().filter(|(name, _)| !matches!(*name, "user" | "cursor"));
        Self {
            href: links::entry(entry.id, given.iter()),
            time: Instant::new(entry.id.timestamp(), now),
            user: Shown::line(&entry.user),
            user_href: links::list([("user", entry.user.as_str())].into_iter().chain(same_but_user)),
            real_user: Shown::line(&entry.real_user),
            action: entry.action.as_str(),
            resource: Shown::line(entry.resource.as_str()),
            name: Shown::line(&entry.resource_name),
            namespace: Shown::line(&entry.namespace),
            status: StatusBadge::new(entry),
            outcome: OutcomeBadge::new(entry),
            summary: Shown::line(&summary),
        }
    }
}

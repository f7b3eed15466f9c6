//! One entry: what is known of it, how well it is known, and what it changed.

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::entry::{Change, ChangeOp, Truncated};
use domain::{Detail, Entry, Evidence, Outcome, Source, StoredEntry};

use super::time::Instant;
use super::value::{Block, Budget, Line, Value, compared};
use super::{ErrorPage, rendered};
use crate::PanelState;
use crate::links::{self, Href};
use crate::params::Params;
use crate::refusal::Refusal;
use crate::rest::find;
use crate::shown::Shown;
use crate::viewer::Viewer;

/// `GET /settings/audit-logs/{id}`, with the parameters of the list to go back to.
pub(crate) async fn entry(
    State(state): State<PanelState>,
    viewer: Viewer,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorPage> {
    let params = Params::of_list(query.as_deref()).sound().map_err(Refusal::from)?;
    let entry = find(&state, &viewer, &id).await?;
    rendered(StatusCode::OK, &EntryPage::new(&entry, &params, state.clock.now()))
}

#[derive(Template)]
#[template(path = "entry.html")]
struct EntryPage {
    back: Href,
    json: Href,
    /// Everything on this object, everything by this user.
    object: Href,
    by_user: Option<Href>,
    action: &'static str,
    resource: Shown,
    name: Shown,
    namespace: Shown,
    user: Shown,
    real_user: Shown,
    summary: Shown,
    time: Instant,
    status: StatusBadge,
    outcome: OutcomeBadge,
    /// What came of it and how that is known.
    explained: String,
    facts: Vec<Fact>,
    story: Story,
}

pub(crate) struct Fact {
    label: &'static str,
    value: Shown,
    /// An id, a hash, an address.
    mono: bool,
}

/// The detail column, as far as it can be read.
#[derive(Default)]
struct Story {
    changes: Vec<ChangeView>,
    /// An update was compared, whether or not it left changes to show.
    compared: bool,
    before: Option<Block>,
    after: Option<Block>,
    system: Option<Block>,
    truncated: Option<Truncated>,
    omitted: Option<Shown>,
    redacted: bool,
    /// The column as it is, where it has another form than this version reads.
    unread: Option<Block>,
}

struct ChangeView {
    class: &'static str,
    sign: char,
    label: &'static str,
    path: Shown,
    index: Option<usize>,
    old: Option<Value>,
    new: Option<Value>,
    lines: Option<Vec<Line>>,
}

impl EntryPage {
    fn new(entry: &StoredEntry, params: &Params, now: DateTime<Utc>) -> Self {
        let time = Instant::new(entry.id.timestamp(), now);
        let (summary, request, story) = match entry.detail.read() {
            Ok(mut detail) => (std::mem::take(&mut detail.summary), detail.request.take(), Story::new(&detail)),
            Err(_) => {
                let unread = Some(Block::json(entry.detail.as_str()));
                (String::new(), None, Story { unread, ..Story::default() })
            }
        };
        let request = request.unwrap_or_default();
        Self {
            back: links::list(params.given.iter()),
            json: links::entry_api(entry.id),
            object: links::object(entry),
            by_user: (!entry.user.is_empty()).then(|| links::user(entry)),
            action: entry.action.as_str(),
            resource: Shown::line(entry.resource.as_str()),
            name: Shown::line(&entry.resource_name),
            namespace: Shown::line(&entry.namespace),
            user: Shown::line(&entry.user),
            real_user: Shown::line(&entry.real_user),
            summary: Shown::line(&summary),
            time,
            status: StatusBadge::new(entry),
            outcome: OutcomeBadge::new(entry),
            explained: explained(entry),
            facts: facts(entry, &request.verb, &request.field_manager),
            story,
        }
    }
}

/// All the columns that the head of the page does not tell; what is not known is left out.
fn facts(entry: &StoredEntry, verb: &str, field_manager: &str) -> Vec<Fact> {
    let hash = |hash: Option<domain::entry::ObjectHash>| hash.map(|hash| hash.0.to_string()).unwrap_or_default();
    let text = |label, value: &str| (label, value.to_owned(), false);
    let mono = |label, value: &str| (label, value.to_owned(), true);
    [
        text("User", &entry.user),
        text("Impersonated by", &entry.real_user),
        mono("Address", &entry.ip),
        mono("User agent", &entry.user_agent),
        text("Cluster", &entry.cluster),
        text("Namespace", &entry.namespace),
        text("API group", &entry.api_group),
        text("Resource", entry.resource.as_str()),
        text("Name", &entry.resource_name),
        mono("Object UID", &entry.object_uid),
        text("Verb", verb),
        text("Field manager", field_manager),
        text("Policy", &entry.policy),
        text("Told by", told_by(entry.source)),
        text("Evidence", entry.evidence.as_str()),
        mono("Entry ID", &entry.id.to_string()),
        mono("Audit ID", &entry.audit_id),
        mono("Hash before", &hash(entry.before_hash)),
        mono("Hash after", &hash(entry.after_hash)),
        mono("Position", &entry.position.to_string()),
    ]
    .into_iter()
    .filter(|(_, value, _)| !value.is_empty())
    .map(|(label, value, mono)| Fact { label, value: Shown::line(&value), mono })
    .collect()
}

fn told_by(source: Source) -> &'static str {
    match source {
        Source::Admission => "the admission webhook",
        Source::Audit => "an audit event of the API server",
        Source::Watch => "a watch of the cluster",
        Source::Chain => "a break in the chain of object states",
        Source::Panel => "this program",
        Source::Ingest => "another application",
    }
}

impl Story {
    fn new(detail: &Detail) -> Self {
        let changes = detail.changes.as_deref();
        let mut budget = Budget::default();
        let mut view = |change| ChangeView::new(change, &mut budget);
        Self {
            changes: changes.unwrap_or_default().iter().map(&mut view).collect(),
            compared: changes.is_some(),
            before: detail.before.as_ref().map(|json| Block::json(json.get())),
            after: detail.after.as_ref().map(|json| Block::json(json.get())),
            system: detail.system.as_ref().map(|json| Block::json(&json.to_string())),
            truncated: detail.truncated.clone(),
            omitted: detail.omitted.as_deref().map(Shown::line),
            redacted: holds_redacted(detail),
            unread: None,
        }
    }
}

fn holds_redacted(detail: &Detail) -> bool {
    let changed = detail.changes.iter().flatten().flat_map(|change| [&change.old, &change.new]);
    let values = changed.chain([&detail.before, &detail.after]);
    values.flatten().any(|json| json.get().contains("<redacted hmac:"))
}

impl ChangeView {
    fn new(change: &Change, budget: &mut Budget) -> Self {
        let (class, sign, label) = match change.op {
            ChangeOp::Add => ("added", '+', "Added"),
            ChangeOp::Remove => ("removed", '−', "Removed"),
            ChangeOp::Replace => ("replaced", '~', "Changed"),
            ChangeOp::Reorder => ("reordered", '↕', "Reordered"),
        };
        let lines = change.old.as_ref().zip(change.new.as_ref()).and_then(|(old, new)| compared(old, new, budget));
        let told = |json: &Option<Box<_>>| json.as_deref().map(Value::new);
        let (old, new) = if lines.is_some() { (None, None) } else { (told(&change.old), told(&change.new)) };
        Self { class, sign, label, path: Shown::line(&change.path), index: change.index, old, new, lines }
    }

    /// Both sides fit on one line.
    fn is_short(&self) -> bool {
        let short = |value: &Option<Value>| !matches!(value, Some(Value::Block(_)));
        self.lines.is_none() && short(&self.old) && short(&self.new)
    }
}

/// The code, and whether anybody saw it.
pub(crate) struct StatusBadge {
    pub(crate) code: u16,
    pub(crate) class: &'static str,
    pub(crate) title: String,
}

impl StatusBadge {
    pub(crate) fn new(entry: &Entry) -> Self {
        let code = entry.status_code;
        let reason = axum::http::StatusCode::from_u16(code).ok().and_then(|status| status.canonical_reason());
        let reason = reason.unwrap_or("unknown");
        let (class, title) = match entry.outcome {
            Outcome::Unconfirmed => ("expected", format!("{reason}: what it returns when it succeeds; nobody saw it")),
            _ if code >= 400 => ("failure", reason.to_owned()),
            _ => ("success", reason.to_owned()),
        };
        Self { code, class, title }
    }
}

pub(crate) struct OutcomeBadge {
    pub(crate) word: &'static str,
    pub(crate) title: &'static str,
    /// How it is known; empty where it is not.
    pub(crate) evidence: &'static str,
    pub(crate) evidence_title: &'static str,
}

impl OutcomeBadge {
    pub(crate) fn new(entry: &Entry) -> Self {
        let title = match entry.outcome {
            Outcome::Confirmed => "what came of it is known",
            Outcome::Rejected => "admitted, then refused: nothing was stored",
            Outcome::Superseded => "an attempt that was not the one stored",
            Outcome::Unconfirmed => "nobody saw what came of it",
        };
        let evidence = if entry.evidence == Evidence::Nothing { "" } else { entry.evidence.as_str() };
        Self { word: entry.outcome.as_str(), title, evidence, evidence_title: known_by(entry.evidence) }
    }
}

fn known_by(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Audit => "The API server’s own audit event says so.",
        Evidence::Successor => "Later writes to the same object show in which state they found it.",
        Evidence::Probe => "The object was read back and compared with what this write would leave.",
        Evidence::Itself => "The program that recorded it is the one that did it.",
        Evidence::Nothing => "No evidence was kept.",
    }
}

fn explained(entry: &Entry) -> String {
    let code = entry.status_code;
    let known = known_by(entry.evidence);
    match entry.outcome {
        Outcome::Confirmed if code < 400 => format!("It went through, with status {code}. {known}"),
        Outcome::Confirmed => format!("It was refused, with status {code}. {known}"),
        Outcome::Rejected if matches!(entry.evidence, Evidence::Successor | Evidence::Probe) => {
            format!("The webhook saw it, and it was not stored. {known} With which status it was refused nobody saw.")
        }
        Outcome::Rejected => {
            format!("The webhook saw it, then it was refused with status {code}: nothing was stored. {known}")
        }
        Outcome::Superseded => format!(
            "The API server tried this request more than once; what was stored came from another attempt. {known}"
        ),
        Outcome::Unconfirmed => format!(
            "The request was seen, and nobody saw what came of it. {code} is what such a request returns when it \
             succeeds; a quota, another webhook or a conflict may still have refused it."
        ),
    }
}

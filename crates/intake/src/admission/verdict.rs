//! The answer to a review: allowed, but for a write that a policy wants recorded or not made.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::event::Attempted;
use domain::{Action, EntryId};
use pipeline::{NotDurable, REFUSED_WITH};
use serde::Serialize;

/// `response` of an AdmissionReview.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    /// The **key** names the entry: a patch runs admission several times inside one request, and of a key's values the
    /// API server keeps only the first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, String>,
}

/// Why it was refused, as far as the API server passes it on to its client.
#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// What an audit event is to tell of an attempt.
#[derive(Clone, Debug)]
pub(super) struct Note {
    what: Attempted,
    id: EntryId,
    value: String,
}

impl Note {
    /// `replaced` is the resourceVersion of the object that the request would replace, `uid` is the object's.
    pub(super) fn new(what: Attempted, id: EntryId, action: Action, replaced: &str, uid: &str) -> Self {
        Self { what, id, value: Attempted::value(action, replaced, uid) }
    }

    /// It was to be an entry, and will be none.
    pub(super) fn lost(self) -> Self {
        Self { what: Attempted::Lost, ..self }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: &'a Verdict,
}

impl Verdict {
    /// Of what there is no entry.
    pub(super) fn allowed(uid: String) -> Self {
        Self { uid, allowed: true, status: None, audit_annotations: BTreeMap::new() }
    }

    /// Tells the audit event what became of the attempt.
    pub(super) fn noted(self, note: Note) -> Self {
        Self { audit_annotations: BTreeMap::from([(note.what.key(note.id), note.value)]), ..self }
    }

    /// Says who refuses, why, and what can be done.
    pub(super) fn denied(uid: String, policy: &str, why: &NotDurable) -> Self {
        let message = format!(
            "the write was not made: AuditPolicy {policy:?} lets nothing happen that is not recorded, and {why}. \
             Try again; if that does not help, look at the audit log's /readyz?verbose, or let writes pass unrecorded \
             with `kubectl patch auditpolicy {policy} --type=merge -p '{{\"spec\":{{\"onWriteFailure\":\"Allow\"}}}}'`"
        );
        let status = Status { code: REFUSED_WITH, reason: "ServiceUnavailable", message };
        Self { uid, allowed: false, status: Some(status), audit_annotations: BTreeMap::new() }
    }
}

impl IntoResponse for Verdict {
    fn into_response(self) -> Response {
        let review = AdmissionReview { api_version: "admission.k8s.io/v1", kind: "AdmissionReview", response: &self };
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match serde_json::to_vec(&review) {
            Ok(body) => ([json], body).into_response(),
            // Texts under text keys always serialize.
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

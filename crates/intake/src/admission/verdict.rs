//! The answer to a review: always allowed.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::{Action, EntryId};
use serde::Serialize;

/// `response` of an AdmissionReview.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    uid: String,
    allowed: bool,
    /// The **key** names the entry: a patch runs admission several times inside one request, and of a key's values the
    /// API server keeps only the first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, &'static str>,
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
        Self { uid, allowed: true, audit_annotations: BTreeMap::new() }
    }

    pub(super) fn recorded(uid: String, id: EntryId, action: Action) -> Self {
        let audit_annotations = BTreeMap::from([(format!("entry.{id}"), action.as_str())]);
        Self { uid, allowed: true, audit_annotations }
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

//! What somebody is told who sent something that is no review: which fault, and what is accepted instead.
//!
//! Never a part of an object. What is repeated of a request is a header or a word of the envelope, shortened.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::text;
use pipeline::Loss;
use serde::Serialize;

use crate::admission::body::REVIEW_BYTES_MAX;
use crate::admission::metrics::Ended;

/// How much is repeated of a word that was given.
const GIVEN_CHARS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: Cow<'static, str>,
    /// Of the request, where it could be read.
    uid: Option<String>,
    ended: Ended,
    /// Why there will be no entry of what may well have been a write. None for what was no review.
    loss: Option<Loss>,
}

/// `application/problem+json`, RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), uid: None, ended: Ended::Refused, loss: None }
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "accepted is POST with an AdmissionReview")
    }

    pub(super) fn content_type(given: &str) -> Self {
        let given = told(given);
        let detail = format!("the Content-Type is {given}: accepted is \"application/json\"");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    pub(super) fn encoding() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body has a Content-Encoding: accepted is none")
    }

    pub(super) fn too_large() -> Self {
        let detail = format!("the body is too large: accepted are {REVIEW_BYTES_MAX} bytes");
        Self { loss: Some(Loss::Unreadable), ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail) }
    }

    pub(super) fn cut_short() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "the body ended before its announced length")
    }

    pub(super) fn too_slow() -> Self {
        let detail = "the body did not arrive in the time that a review has";
        Self { loss: Some(Loss::Unreadable), ..Self::new(StatusCode::REQUEST_TIMEOUT, detail) }
    }

    pub(super) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// A word of the envelope that is none of those that are known.
    pub(super) fn unknown(what: &str, given: &str, accepted: &str) -> Self {
        Self::malformed(format!("{what} is {}: accepted is {accepted}", told(given)))
    }

    /// The write goes on without having been seen.
    pub(super) fn overloaded() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let refusal = Self::new(status, "there is no room for another review at the moment");
        Self { ended: Ended::Lost, loss: Some(Loss::Overloaded), ..refusal }
    }

    pub(super) fn panicked() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { ended: Ended::Panicked, ..Self::new(status, "handling this review failed") }
    }

    pub(super) fn of(self, uid: &str) -> Self {
        Self { uid: Some(told_plain(uid)).filter(|uid| !uid.is_empty()), ..self }
    }

    pub(super) fn ended(&self) -> Ended {
        self.ended
    }

    pub(super) fn loss(&self) -> Option<Loss> {
        self.loss
    }
}

fn told_plain(given: &str) -> String {
    text::shortened(given, GIVEN_CHARS_MAX).into_owned()
}

/// In quotes, with anything that is not plain text escaped.
fn told(given: &str) -> String {
    format!("{:?}", text::shortened(given, GIVEN_CHARS_MAX))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            detail: &self.detail,
            uid: self.uid.as_deref(),
        };
        // A struct of texts and a number always serializes.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (self.status, [json], body).into_response();
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

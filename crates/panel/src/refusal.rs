//! Why a request is not answered with entries, and what its client may know of it.
//!
//! The chain of sources of a store's error is logged, here and once, and told to nobody.

use std::error::Error;

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::EntryId;
use domain::id::IdError;
use domain::query::CursorError;
use serde::Serialize;
use store::{Retry, StoreError};

use crate::params::Fault;
use crate::shown::Shown;

#[derive(Debug)]
pub(crate) enum Refusal {
    Parameter(Fault),
    NoSuchEntry(EntryId),
    NoSuchPage,
    Method,
    ForeignHost(String),
    Store(StoreError),
    Template(askama::Error),
}

/// RFC 9457, with the parameter at fault where there is one.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Told {
    r#type: &'static str,
    pub(crate) title: &'static str,
    pub(crate) status: u16,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
}

impl Refusal {
    /// A bad cursor is told by the parameter that carried it.
    pub(crate) fn cursor(error: &CursorError) -> Self {
        Self::Parameter(Fault { parameter: "cursor".to_owned(), told: format!("cursor: {error}") })
    }

    pub(crate) fn id(error: &IdError) -> Self {
        let given = domain::text::shortened(&error.given, 80).into_owned();
        Self::Parameter(Fault { parameter: "id".to_owned(), told: format!("id: {}", IdError { given }) })
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Parameter(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchEntry(_) | Self::NoSuchPage => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ForeignHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Store(error) if error.retry() == Retry::Later => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(_) | Self::Template(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn told(&self) -> Told {
        let detail = match self {
            Self::Parameter(fault) => fault.told.clone(),
            Self::NoSuchEntry(id) => format!("there is no entry {id}: it may have been purged"),
            Self::NoSuchPage => "there is nothing at this address".to_owned(),
            Self::Method => "the audit log is only read here: accepted are GET and HEAD".to_owned(),
            Self::ForeignHost(host) => {
                format!("{host:?} is not this machine's own name: accepted are localhost, 127.0.0.1 and [::1]")
            }
            Self::Store(error) if error.retry() == Retry::Later => {
                "the audit log's database does not answer at the moment: try again".to_owned()
            }
            Self::Store(_) => "the audit log could not be read: the server's log says why".to_owned(),
            Self::Template(_) => "the page could not be drawn: the server's log says why".to_owned(),
        };
        let status = self.status();
        let parameter = match self {
            Self::Parameter(fault) => Some(fault.parameter.clone()),
            _ => None,
        };
        // No meaning beyond the status: RFC 9457, section 4.2.1.
        let title = status.canonical_reason().unwrap_or("Error");
        Told { r#type: "about:blank", title, status: status.as_u16(), detail, parameter }
    }

    /// Once, by whoever answers. Only what is the server's fault is worth a line.
    pub(crate) fn log(&self) {
        match self {
            Self::Store(error) => log_store_error(error),
            Self::Template(error) => tracing::error!(error = %error, "a page could not be drawn"),
            _ => {}
        }
    }
}

/// The whole chain, each link escaped: a database may quote what it was given.
pub(crate) fn log_store_error(error: &StoreError) {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    match error.retry() {
        Retry::Later => tracing::warn!(error = %Shown::line(&chain), "reading the audit log"),
        Retry::Never => tracing::error!(error = %Shown::line(&chain), "reading the audit log"),
    }
}

/// A refusal as REST tells it.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) Refusal);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.0.log();
        let media_type = [(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        (self.0.status(), media_type, Json(self.0.told())).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Parameter(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_error_says_whether_to_try_again_and_nothing_of_its_source() {
        for (retry, status) in [(Retry::Later, 503), (Retry::Never, 500)] {
            let source = "connection to postgres://audit:hunter2@db refused".into();
            let told = Refusal::Store(StoreError::Failed { operation: "reading a page", retry, source }).told();
            assert_eq!(told.status, status);
            assert!(!told.detail.contains("hunter2") && !told.detail.contains("postgres"), "{}", told.detail);
        }
    }
}

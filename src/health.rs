//! `/healthz`, `/readyz` and `/metrics`: whether the process lives, whether it can do its work, and how that goes.
//!
//! Ready is who has a store that answers with its schema, a key to redact with, a certificate that is good, knows the
//! AuditPolicies or that there are none to be had, and has a webhook that the API server calls. `/readyz?verbose` names
//! each of these; `/readyz?exclude=store` asks after all but one, as of kube-apiserver.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::clock::Clock;
use operator::certificates;
use prometheus_client::registry::Registry;
use store::Migrate;
use tokio::sync::watch;
use tokio::time::timeout;

/// A probe of Kubernetes waits for a second by default.
const STORE_ANSWER_MAX: Duration = Duration::from_millis(800);

#[derive(Clone)]
pub struct Health {
    pub store: Arc<dyn Migrate>,
    pub signs: watch::Receiver<Signs>,
    pub registry: Arc<Registry>,
    pub clock: Arc<dyn Clock>,
}

/// What the tasks tell of themselves. An empty text is a good sign; else it is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    pub migrations: String,
    pub key: String,
    /// None while there is none.
    pub certificate: Option<certificates::Status>,
    pub webhook: String,
    pub policies: String,
    pub stopping: bool,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            migrations: "not done yet".to_owned(),
            key: "not there yet".to_owned(),
            certificate: None,
            webhook: "not registered yet".to_owned(),
            policies: "not known yet".to_owned(),
            stopping: false,
        }
    }
}

pub fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    let signs = health.signs.borrow().clone();
    let store = match timeout(STORE_ANSWER_MAX, health.store.check()).await {
        Ok(Ok(())) => String::new(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} ms", STORE_ANSWER_MAX.as_millis()),
    };
    let stopping = if signs.stopping { "the process is stopping" } else { "" };
    let (certificate, remark) = certificate(signs.certificate.as_ref(), health.clock.now());
    let checks: [(&str, &str); 7] = [
        ("store", &store),
        ("migrations", &signs.migrations),
        ("redaction-key", &signs.key),
        ("certificate", &certificate),
        ("webhook", &signs.webhook),
        ("policies", &signs.policies),
        ("shutdown", stopping),
    ];
    let query = query.unwrap_or_default();
    let verbose = query.split('&').any(|part| part == "verbose" || part == "verbose=true");
    let excluded: Vec<_> = query.split('&').filter_map(|part| part.strip_prefix("exclude=")).collect();
    // A probe that is misspelt would be one of something else.
    if let Some(unknown) = excluded.iter().find(|name| !checks.iter().any(|(check, _)| check == *name)) {
        let accepted = checks.map(|(check, _)| check).join(", ");
        return (StatusCode::BAD_REQUEST, format!("exclude: {unknown:?} is no check: accepted is {accepted}\n"))
            .into_response();
    }
    let counts = |name: &str| !excluded.contains(&name);
    let ready = checks.iter().all(|(name, reason)| reason.is_empty() || !counts(name));
    let shown: String = checks
        .iter()
        .filter(|(name, reason)| verbose || (!reason.is_empty() && counts(name)))
        .map(|(name, reason)| match *reason {
            _ if !counts(name) => format!("[ ]{name} excluded{}\n", if reason.is_empty() { ": ok" } else { "" }),
            "" if *name == "certificate" && !remark.is_empty() => format!("[+]{name} ok, but {remark}\n"),
            "" => format!("[+]{name} ok\n"),
            reason => format!("[-]{name} failed: {reason}\n"),
        })
        .collect();
    let verdict = if ready { "ok\n" } else { "not ready\n" };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{shown}{verdict}")).into_response()
}

/// Why the API server would refuse it, and what went wrong without that.
fn certificate(status: Option<&certificates::Status>, now: DateTime<Utc>) -> (String, String) {
    let Some(status) = status else { return ("none yet".to_owned(), String::new()) };
    let remark = status.last_error.clone().unwrap_or_default();
    if now <= status.expires {
        return (String::new(), remark);
    }
    let expired = format!("expired at {}", status.expires.to_rfc3339_opts(SecondsFormat::Secs, true));
    (if remark.is_empty() { expired } else { format!("{expired}; {remark}") }, String::new())
}

async fn metrics(State(health): State<Health>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n").into_response(),
    }
}

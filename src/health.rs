//! `/healthz`, `/readyz` and `/metrics`: whether the process lives, whether it can do its work, and how that goes.
//!
//! Ready is who has a store that answers with its schema, a key to redact with, a certificate that is good, knows the
//! AuditPolicies or that there are none to be had, and has a webhook that the API server calls. `/readyz?verbose` names
//! each of these.

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
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
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
    pub passed: Passed,
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

/// What `/readyz` says, for alerts: asked anew for each look at `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Passed(Family<PassedLabels, Gauge>);

/// The checks' names: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassedLabels {
    check: &'static str,
}

impl Passed {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("check_passed", "Checks of /readyz, by name: 1 where it is passed", self.0.clone());
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
    let (checks, remark) = health.checks().await;
    let ready = checks.iter().all(|(_, reason)| reason.is_empty());
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part == "verbose=true"));
    let shown: String = checks
        .iter()
        .filter(|(_, reason)| verbose || !reason.is_empty())
        .map(|(name, reason)| match reason.as_str() {
            "" if *name == "certificate" && !remark.is_empty() => format!("[+]{name} ok, but {remark}\n"),
            "" => format!("[+]{name} ok\n"),
            reason => format!("[-]{name} failed: {reason}\n"),
        })
        .collect();
    let verdict = if ready { "ok\n" } else { "not ready\n" };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{shown}{verdict}")).into_response()
}

/// Each check's name, and why it is not passed; empty where it is.
type Checks = [(&'static str, String); 7];

impl Health {
    /// And what went wrong with the certificate without keeping it from being good.
    async fn checks(&self) -> (Checks, String) {
        let signs = self.signs.borrow().clone();
        let store = match timeout(STORE_ANSWER_MAX, self.store.check()).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", STORE_ANSWER_MAX.as_millis()),
        };
        let stopping = if signs.stopping { "the process is stopping" } else { "" };
        let (certificate, remark) = certificate(signs.certificate.as_ref(), self.clock.now());
        let checks = [
            ("store", store),
            ("migrations", signs.migrations),
            ("redaction-key", signs.key),
            ("certificate", certificate),
            ("webhook", signs.webhook),
            ("policies", signs.policies),
            ("shutdown", stopping.to_owned()),
        ];
        (checks, remark)
    }
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
    for (check, reason) in health.checks().await.0 {
        health.passed.0.get_or_create(&PassedLabels { check }).set(reason.is_empty().into());
    }
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n").into_response(),
    }
}

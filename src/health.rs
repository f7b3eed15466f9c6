//! `/healthz`, `/readyz` and `/metrics`: whether the process lives, whether it can do its work, and how that goes.
//!
//! Ready is who has a store that answers with its schema, a key to redact with, a certificate that is good, knows the
//! AuditPolicies or that there are none to be had, and has a webhook that the API server calls. `/readyz?verbose` names
//! each of these, and what is amiss though they are good: a policy that is not in force, say. `/readyz?exclude=store` asks after
//! all but one, as of kube-apiserver.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::clock::Clock;
use intake::Heard;
use operator::{certificates, policies};
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
    pub sources: Sources,
    pub passed: Passed,
    pub clock: Arc<dyn Clock>,
}

/// How many policies that are not ready are named, and how much of each one's reason is told: a line that is read at a
/// glance, whose rest `kubectl describe auditpolicy` tells.
const POLICIES_NAMED_MAX: usize = 5;
const REASON_CHARS_MAX: usize = 160;

/// What the tasks tell of themselves. An empty text is a good sign; else it is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    pub migrations: String,
    pub key: String,
    /// None while there is none.
    pub certificate: Option<certificates::Status>,
    pub webhook: String,
    pub policies: policies::Status,
    pub stopping: bool,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            migrations: "not done yet".to_owned(),
            key: "not there yet".to_owned(),
            certificate: None,
            webhook: "not registered yet".to_owned(),
            policies: policies::Status::default(),
            stopping: false,
        }
    }
}

/// What `/readyz` says, for alerts: asked anew for each look at `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Passed(Family<PassedLabels, Gauge>);

/// When each source of entries last spoke. That one is silent is no fault of itself, so it is shown and not checked.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    heard: Arc<[(&'static str, Heard)]>,
    last_spoke: Family<SourceLabels, Gauge>,
}

/// The sources' names: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

impl Sources {
    pub fn new(heard: Vec<(&'static str, Heard)>) -> Self {
        Self { heard: heard.into(), last_spoke: Family::default() }
    }

    pub fn register(&self, registry: &mut Registry) {
        let help = "When each source of entries last spoke, 0 where it never has since the start";
        registry.register("source_last_spoke_timestamp_seconds", help, self.last_spoke.clone());
    }

    fn told(&self) -> String {
        let last = |heard: &Heard| match heard.last() {
            Some(last) => format!("last spoke at {}", last.to_rfc3339_opts(SecondsFormat::Secs, true)),
            None => "has not spoken yet".to_owned(),
        };
        self.heard.iter().map(|(name, heard)| format!("[ ]source {name} {}\n", last(heard))).collect()
    }

    fn measure(&self) {
        for (source, heard) in self.heard.iter() {
            let seconds = heard.last().map_or(0, |last| last.timestamp());
            self.last_spoke.get_or_create(&SourceLabels { source }).set(seconds);
        }
    }
}

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
    let checks = health.checks().await;
    let query = query.unwrap_or_default();
    let verbose = query.split('&').any(|part| part == "verbose" || part == "verbose=true");
    let excluded: Vec<_> = query.split('&').filter_map(|part| part.strip_prefix("exclude=")).collect();
    // A probe that is misspelt would be one of something else.
    if let Some(unknown) = excluded.iter().find(|name| !checks.iter().any(|check| check.name == **name)) {
        let accepted = checks.map(|check| check.name).join(", ");
        return (StatusCode::BAD_REQUEST, format!("exclude: {unknown:?} is no check: accepted is {accepted}\n"))
            .into_response();
    }
    let counts = |check: &Check| !excluded.contains(&check.name);
    let ready = checks.iter().all(|check| check.failed.is_empty() || !counts(check));
    let shown: String = checks
        .iter()
        .filter(|check| verbose || (!check.failed.is_empty() && counts(check)))
        .map(|check @ Check { name, failed, remark }| match (failed.as_str(), remark.as_str()) {
            (failed, _) if !counts(check) => {
                format!("[ ]{name} excluded{}\n", if failed.is_empty() { ": ok" } else { "" })
            }
            ("", "") => format!("[+]{name} ok\n"),
            ("", remark) => format!("[+]{name} ok, but {remark}\n"),
            (reason, _) => format!("[-]{name} failed: {reason}\n"),
        })
        .collect();
    let sources = if verbose { health.sources.told() } else { String::new() };
    let verdict = if ready { "ok\n" } else { "not ready\n" };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{shown}{sources}{verdict}")).into_response()
}

/// One line of `/readyz?verbose`.
struct Check {
    name: &'static str,
    /// Why it is not passed; empty where it is.
    failed: String,
    /// What is amiss though it is passed.
    remark: String,
}

impl Health {
    async fn checks(&self) -> [Check; 7] {
        let signs = self.signs.borrow().clone();
        let store = match timeout(STORE_ANSWER_MAX, self.store.check()).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", STORE_ANSWER_MAX.as_millis()),
        };
        let stopping = if signs.stopping { "the process is stopping" } else { "" };
        let (certificate, remark) = certificate(signs.certificate.as_ref(), self.clock.now());
        let unknown = unknown(&signs.policies);
        let amiss = policies(&signs.policies);
        let check = |name, failed, remark| Check { name, failed, remark };
        [
            check("store", store, String::new()),
            check("migrations", signs.migrations, String::new()),
            check("redaction-key", signs.key, String::new()),
            check("certificate", certificate, remark),
            check("webhook", signs.webhook, String::new()),
            check("policies", unknown, amiss),
            check("shutdown", stopping.to_owned(), String::new()),
        ]
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

/// Why it is not known which policies there are.
fn unknown(status: &policies::Status) -> String {
    match (status.known, &status.last_error) {
        (true, _) => String::new(),
        (false, None) => "not known yet".to_owned(),
        (false, Some(error)) => format!("not known yet: {}", first_line(error)),
    }
}

/// What is amiss with the policies, while what is known of them is in force.
fn policies(status: &policies::Status) -> String {
    let unheard = status.last_error.as_deref().map(|error| format!("nothing is heard of them: {}", first_line(error)));
    let named = status.not_ready.iter().take(POLICIES_NAMED_MAX);
    let named = named.map(|policy| format!("{} ({})", policy.name, first_line(&policy.reason)));
    let more = status.not_ready.len().saturating_sub(POLICIES_NAMED_MAX);
    let named: Vec<_> = named.chain((more > 0).then(|| format!("and {more} more"))).collect();
    let not_ready = (!named.is_empty()).then(|| format!("not ready: {}", named.join(", ")));
    unheard.into_iter().chain(not_ready).collect::<Vec<_>>().join("; ")
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let whole = line.chars().count() <= REASON_CHARS_MAX && line.len() == text.trim_end().len();
    let shown: String = line.chars().take(REASON_CHARS_MAX).collect();
    if whole { shown } else { format!("{shown}…") }
}

async fn metrics(State(health): State<Health>) -> Response {
    health.sources.measure();
    for check in health.checks().await {
        health.passed.0.get_or_create(&PassedLabels { check: check.name }).set(check.failed.is_empty().into());
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

#[cfg(test)]
mod tests {
    use operator::policies::{NotReady, Status};

    use super::*;

    fn told(last_error: Option<&str>, faulty: &[(&str, &str)]) -> String {
        let not_ready =
            faulty.iter().map(|(name, reason)| NotReady { name: (*name).to_owned(), reason: (*reason).to_owned() });
        let last_error = last_error.map(str::to_owned);
        policies(&Status { known: true, last_error, not_ready: not_ready.collect() })
    }

    #[test]
    fn policies_that_are_not_ready_are_named_with_the_first_line_of_why() {
        assert_eq!(told(None, &[]), "");
        let faulty = [("team-a", "no such field: o\n  object.o\n         ^"), ("team-b", "redact: [0] is no path")];
        assert_eq!(told(None, &faulty), "not ready: team-a (no such field: o…), team-b (redact: [0] is no path)");
        assert_eq!(told(Some("refused\nby RBAC"), &[]), "nothing is heard of them: refused…");
        assert_eq!(told(Some("refused"), &[("a", "b")]), "nothing is heard of them: refused; not ready: a (b)");
    }

    #[test]
    fn of_many_policies_that_are_not_ready_five_are_named_and_the_rest_counted() {
        let long = "x".repeat(10_000);
        let faulty = [("p", long.as_str()); 500];
        let told = told(Some(&long), &faulty);
        assert_eq!(told.matches("p (x").count(), POLICIES_NAMED_MAX);
        assert!(told.ends_with(", and 495 more"), "{told}");
        assert!(told.len() < 2_000, "{} bytes", told.len());
    }
}

//! A webhook before a pipeline before a store that keeps what it gets.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use chrono::{DateTime, Utc};
use domain::clock::{Clock, Entropy};
use domain::finding::Finding;
use domain::redact::{RedactionKey, Redactor};
use domain::{Action, EntryId, RedactedEntry};
use intake::admission::{Admission, Metrics, Settings, router};
use pipeline::pipeline;
use policy::{Rule, Rules};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use store::{Book, EntryWriter, Late, Outcomes, Retry, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub(crate) struct Door {
    router: Router,
    pub(crate) store: Arc<Kept>,
    registry: Registry,
    stop: CancellationToken,
    batcher: JoinSet<()>,
}

/// What the API server is told.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) content_type: String,
}

impl Answer {
    pub(crate) fn response(&self) -> &Value {
        assert_eq!((self.status, self.content_type.as_str()), (StatusCode::OK, "application/json"), "{self:?}");
        assert_eq!(self.body["kind"], "AdmissionReview");
        assert_eq!(self.body["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(self.body["response"]["allowed"], true);
        &self.body["response"]
    }

    /// The entry that the annotation names.
    pub(crate) fn entry(&self) -> Option<String> {
        self.response();
        let (what, id, _) = self.noted()?;
        (what == "entry").then_some(id)
    }

    /// What the audit event is to tell: of what, its id, and the value.
    pub(crate) fn noted(&self) -> Option<(String, String, String)> {
        let annotations = self.body["response"].get("auditAnnotations")?.as_object().unwrap();
        assert_eq!(annotations.len(), 1);
        let (key, value) = annotations.iter().next().unwrap();
        let (what, id) = key.split_once('.').unwrap();
        Some((what.to_owned(), id.to_owned(), value.as_str().unwrap().to_owned()))
    }
}

impl Door {
    pub(crate) fn open() -> Self {
        Self::with(false, Arc::new(Chance::default()))
    }

    pub(crate) fn sync() -> Self {
        Self::with(true, Arc::new(Chance::default()))
    }

    /// By a policy that lets nothing happen that is not recorded.
    pub(crate) fn denying() -> Self {
        let rule = Rule { policy: "vault".to_owned(), deny: true, ..Rule::built_in("built-in", true) };
        Self::by(rule, Arc::new(Chance::default()))
    }

    pub(crate) fn with(sync: bool, entropy: Arc<dyn Entropy>) -> Self {
        Self::by(Rule::built_in("built-in", sync), entropy)
    }

    fn by(rule: Rule, entropy: Arc<dyn Entropy>) -> Self {
        let store = Arc::<Kept>::default();
        let writer = Arc::clone(&store) as Arc<dyn Book>;
        let clock = Arc::new(Noon);
        let (recorder, batcher) =
            pipeline(pipeline::Settings::default(), writer, clock.clone(), Arc::new(Chance::default()));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone();
        tasks.spawn(async move { batcher.run(stopped).await.map(drop).expect("flushed") });
        let rules = Rules::only(rule);
        let settings = Settings {
            cluster: "local".into(),
            rules: watch::Sender::new(Arc::new(rules)).subscribe(),
            kinds: watch::Sender::new(Arc::default()).subscribe(),
        };
        let redactor = Redactor::new(RedactionKey::new([7; 32]));
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let admission = Admission::new(settings, recorder, redactor, clock, entropy).with_metrics(metrics);
        Self { router: router(Arc::new(admission)), store, registry, stop, batcher: tasks }
    }

    pub(crate) async fn post(&self, review: impl Into<Body>) -> Answer {
        let request = Request::post("/admission").header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(review.into()).unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let is_get = request.method() == Method::GET;
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        if is_get {
            assert_eq!(response.headers()[header::ALLOW], "POST");
        }
        let content_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        Answer { status, body: serde_json::from_slice(&body).unwrap(), content_type }
    }

    /// Ends the pipeline, and tells what was stored.
    pub(crate) async fn entries(&mut self) -> Vec<RedactedEntry> {
        self.stop.cancel();
        while let Some(ended) = self.batcher.join_next().await {
            ended.unwrap();
        }
        self.store.entries()
    }

    /// A review was counted so, so many times.
    pub(crate) fn assert_counted(&self, result: &str, times: u64) {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = format!("admission_reviews_total{{result=\"{result}\"}} {times}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

pub(crate) fn fixture(name: &str) -> String {
    let path = format!("{}/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The same review of another call: the API server gives each a uid of its own.
pub(crate) fn called_again(review: &str) -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut review: Value = serde_json::from_str(review).unwrap();
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    review["request"]["uid"] = json!(format!("00000000-0000-4000-8000-{call:012x}"));
    review.to_string()
}

/// A review of a ConfigMap with that data, as text.
pub(crate) fn config_map(operation: &str, old: Option<&str>, new: Option<&str>) -> String {
    let object = |data: Option<&str>| match data {
        Some(data) => format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"settings","namespace":"shop"}},"data":{data}}}"#
        ),
        None => "null".to_owned(),
    };
    let mut request = json!({
        "uid": "0b4c5a26-98bf-4b1c-8a6e-0dd6c4e4a3f1",
        "kind": { "group": "", "version": "v1", "kind": "ConfigMap" },
        "resource": { "group": "", "version": "v1", "resource": "configmaps" },
        "name": "settings", "namespace": "shop", "operation": operation,
        "userInfo": { "username": "alice@example.com" },
    })
    .to_string();
    request.pop();
    format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{request},"object":{},"oldObject":{}}}}}"#,
        object(new),
        object(old)
    )
}

#[derive(Default)]
pub(crate) struct Kept {
    entries: Mutex<Vec<RedactedEntry>>,
    rejected: Mutex<Vec<String>>,
    joined: Mutex<Vec<RedactedEntry>>,
    pub(crate) away: AtomicBool,
    /// How long a write takes, in ms.
    pub(crate) takes: AtomicU64,
}

impl Kept {
    pub(crate) fn entries(&self) -> Vec<RedactedEntry> {
        self.entries.lock().unwrap().clone()
    }

    /// Ids of entries whose writes were said to have been refused.
    pub(crate) fn rejected(&self) -> Vec<String> {
        self.rejected.lock().unwrap().clone()
    }

    pub(crate) fn joined(&self) -> Vec<RedactedEntry> {
        self.joined.lock().unwrap().clone()
    }

    pub(crate) fn gaps(&self) -> u64 {
        let entries = self.entries();
        let gaps = entries.iter().filter(|entry| entry.action == Action::Gap);
        gaps.map(|gap| gap.detail.read().unwrap().system.unwrap()["lost"].as_u64().unwrap()).sum()
    }
}

#[async_trait]
impl EntryWriter for Kept {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) {
            let source = "on demand".into();
            return Err(StoreError::Write { entries: batch.len(), retry: Retry::Later, source });
        }
        tokio::time::sleep(Duration::from_millis(self.takes.load(Ordering::Relaxed))).await;
        self.entries.lock().unwrap().extend_from_slice(batch);
        Ok(())
    }

    async fn reject(&self, ids: &[EntryId], _: u16) -> Result<(), StoreError> {
        self.rejected.lock().unwrap().extend(ids.iter().map(ToString::to_string));
        Ok(())
    }
}

#[async_trait]
impl Outcomes for Kept {
    async fn settle(&self, _: &[Finding]) -> Result<(), StoreError> {
        panic!("no door asks for it")
    }

    async fn join(&self, told: &[RedactedEntry]) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) {
            let source = "on demand".into();
            return Err(StoreError::Failed { operation: "joining", retry: Retry::Later, source });
        }
        self.joined.lock().unwrap().extend_from_slice(told);
        Ok(())
    }

    async fn join_late(&self, _: DateTime<Utc>) -> Result<Late, StoreError> {
        panic!("no door asks for it")
    }

    async fn unconfirmed(&self, _: EntryId, _: EntryId) -> Result<u64, StoreError> {
        panic!("no door asks for it")
    }
}

pub(crate) struct Noon;

impl Clock for Noon {
    fn now(&self) -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }
}

#[derive(Default)]
pub(crate) struct Chance(AtomicU64);

impl Entropy for Chance {
    fn bits(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

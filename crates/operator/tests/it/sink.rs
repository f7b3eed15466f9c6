//! A webhook that allows everything and remembers what it was asked, behind the program's own listener.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use listener::{Bound, Tls};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Ends when it is dropped.
pub(crate) struct Sink {
    reviewed: Arc<Mutex<Vec<Value>>>,
    _server: JoinSet<()>,
}

impl Sink {
    pub(crate) fn start(bound: Bound, tls: Arc<Tls>) -> Self {
        let reviewed = Arc::default();
        let router = Router::new().route("/admission", post(review)).with_state(Arc::clone(&reviewed));
        let mut server = JoinSet::new();
        let serving = bound.serve_tls(router, tls, CancellationToken::new());
        server.spawn(async move { drop(serving.await) });
        Self { reviewed, _server: server }
    }

    /// What it was asked since it was asked this last, each as `CREATE apps/deployments/scale`.
    pub(crate) fn take(&self) -> Vec<String> {
        let reviewed = self.reviewed.lock().map(|mut reviewed| std::mem::take(&mut *reviewed)).unwrap_or_default();
        reviewed.iter().map(told).collect()
    }
}

async fn review(State(reviewed): State<Arc<Mutex<Vec<Value>>>>, Json(mut review): Json<Value>) -> Json<Value> {
    let request = review["request"].take();
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                        "response": {"uid": request["uid"], "allowed": true}});
    if let Ok(mut reviewed) = reviewed.lock() {
        reviewed.push(request);
    }
    Json(answer)
}

fn told(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = &request["resource"];
    let parts = [text(&resource["group"]), text(&resource["resource"]), text(&request["subResource"])];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let dry_run = if request["dryRun"] == true { " (dry run)" } else { "" };
    format!("{} {}{dry_run}", text(&request["operation"]), parts.join("/"))
}

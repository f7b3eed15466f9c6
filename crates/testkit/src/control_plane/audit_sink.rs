//! Where the API server posts its audit events when no test gives it another address.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;

use crate::background;

/// The last so many are kept.
const EVENTS_MAX: usize = 20_000;
/// The API server posts up to 400 events at once.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The audit events that the API server posted.
#[derive(Clone, Default)]
pub struct AuditSink(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    events: VecDeque<Value>,
    count: u64,
}

impl AuditSink {
    /// Starts one; answers it with its URL.
    pub(super) fn start() -> anyhow::Result<(Self, String)> {
        let sink = Self::default();
        let router = Router::new()
            .route("/audit-events", post(receive))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(sink.clone());
        let address = background::serve("audit-sink", |listener| async { axum::serve(listener, router).await })?;
        Ok((sink, format!("http://{address}/audit-events")))
    }

    /// How many came in so far.
    pub fn count(&self) -> u64 {
        self.received(|received| received.count)
    }

    /// Those that `wanted` picks, oldest first, among the last 20,000.
    pub fn find(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.received(|received| received.events.iter().filter(|event| wanted(event)).cloned().collect())
    }

    fn received<T>(&self, look: impl FnOnce(&mut Received) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn receive(State(sink): State<AuditSink>, Json(mut list): Json<Value>) -> StatusCode {
    let Some(Value::Array(events)) = list.get_mut("items").map(Value::take) else {
        return StatusCode::BAD_REQUEST;
    };
    sink.received(|received| {
        received.count += events.len() as u64;
        received.events.extend(events);
        let surplus = received.events.len().saturating_sub(EVENTS_MAX);
        received.events.drain(..surplus);
    });
    StatusCode::OK
}

//! `POST /admission`: the validating webhook.
//!
//! Always answers *allowed*, whatever becomes of the entry: an audit log that can stop a deployment has no place in a
//! cluster. An entry that was taken is named by an audit annotation of the answer, by which the API server's audit event
//! finds it again.

mod body;
mod delivered;
mod metrics;
mod refusal;
mod review;
mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use domain::attempt::{Decision, Skip};
use domain::clock::{Clock, Entropy};
use domain::id::Minter;
use domain::redact::Redactor;
use domain::{Action, EntryId, RedactedEntry, Terms};
use pipeline::{Loss, NotDurable, Recorder};
use tokio::time::Instant;

pub use body::{IN_FLIGHT_BYTES_MAX, REVIEW_BYTES_MAX};
pub use metrics::Metrics;

use crate::admission::body::{Gate, Held};
use crate::admission::delivered::Delivered;
use crate::admission::metrics::Ended;
use crate::admission::refusal::Refusal;
use crate::admission::review::Review;
use crate::admission::verdict::Verdict;

/// What the API server waits for an answer, as this webhook is registered.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// From a request's arrival: by then its body is here, and whoever waits for durability has waited enough.
pub const WAIT_MAX: Duration = Duration::from_millis(1_500);

// What is left is for the walk through the object and the way back.
const _: () = assert!(WAIT_MAX.as_millis() + 500 <= WEBHOOK_TIMEOUT.as_millis());

/// A review heavier than this is walked on the blocking pool: it takes longer than the hop there, and meanwhile the small
/// ones, which are nearly all, are answered. How many walk there at once is bounded by [`IN_FLIGHT_BYTES_MAX`].
const HEAVY_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Stamped on the entries.
    pub cluster: String,
    /// The policy by which they are recorded.
    pub policy: String,
    /// Whether to answer only after the entry is durable, or [`WAIT_MAX`] is over.
    pub sync: bool,
}

/// What the handler works with; one for the process.
pub struct Admission {
    recorder: Recorder,
    redactor: Redactor,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    minter: Minter,
    settings: Settings,
    gate: Gate,
    delivered: Delivered,
    metrics: Metrics,
}

impl Admission {
    pub fn new(
        settings: Settings,
        recorder: Recorder,
        redactor: Redactor,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let (minter, gate, delivered) = (Minter::default(), Gate::new(), Delivered::default());
        let metrics = Metrics::default();
        Self { recorder, redactor, clock, entropy, minter, settings, gate, delivered, metrics }
    }

    /// Counts into these, which may be registered before there is anything to count.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }
}

pub fn router(admission: Arc<Admission>) -> Router {
    Router::new().route("/admission", post(review).fallback(only_post)).with_state(admission)
}

async fn review(State(admission): State<Arc<Admission>>, request: Request) -> Response {
    let start = Instant::now();
    let (ended, response) = match admission.answer(request, start + WAIT_MAX).await {
        Ok((ended, verdict)) => (ended, verdict.into_response()),
        Err(refusal) => (refusal.ended(), refusal.into_response()),
    };
    admission.metrics.ended(ended, start.elapsed());
    tracing::debug!(result = ended.as_str(), micros = start.elapsed().as_micros(), "review");
    response
}

async fn only_post() -> Refusal {
    Refusal::method()
}

impl Admission {
    async fn answer(self: &Arc<Self>, request: Request, deadline: Instant) -> Result<(Ended, Verdict), Refusal> {
        let received = self.clock.now();
        let held = self.gate.read(request, deadline).await.inspect_err(|refusal| {
            if refusal.ended() == Ended::Lost {
                self.recorder.note_lost(received, Loss::Overloaded);
            }
        })?;
        let examined = self.examine(&held).await;
        // Before waiting for anything: the next review needs the room.
        let body = held.release();
        match examined {
            Ok(Examined { uid, decision: Decision::Skip(skip) }) => Ok((skipped(skip), Verdict::allowed(uid))),
            Ok(Examined { uid, decision: Decision::Record(entry) }) => {
                drop(body);
                Ok(self.record(uid, *entry, deadline).await)
            }
            Err(NotExamined::Refused(refusal)) => Err(refusal),
            Err(NotExamined::Panicked) => {
                self.recorder.note_lost(received, Loss::Panicked);
                let uid = review::readable_uid(&body).ok_or_else(Refusal::panicked)?;
                Ok((Ended::Panicked, Verdict::allowed(uid)))
            }
        }
    }

    /// Walks the objects, here or on the blocking pool, and survives a panic on either.
    async fn examine(self: &Arc<Self>, held: &Held<'_>) -> Result<Examined, NotExamined> {
        let caught = if held.body.len() <= HEAVY_BYTES {
            self.examine_caught(&held.body)
        } else {
            let (admission, body) = (Arc::clone(self), held.body.clone());
            let walk = tokio::task::spawn_blocking(move || admission.examine_caught(&body));
            walk.await.unwrap_or(Err(NotExamined::Panicked))
        };
        if matches!(caught, Err(NotExamined::Panicked)) {
            tracing::error!(bytes = held.body.len(), "handling a review panicked; it is admitted and counted as lost");
        }
        caught
    }

    fn examine_caught(&self, body: &Bytes) -> Result<Examined, NotExamined> {
        // Nothing of ours is left halfway: what is shared is atomic or behind its own lock.
        match catch_unwind(AssertUnwindSafe(|| self.examine_body(body))) {
            Ok(examined) => examined.map_err(NotExamined::Refused),
            Err(_) => Err(NotExamined::Panicked),
        }
    }

    fn examine_body(&self, body: &[u8]) -> Result<Examined, Refusal> {
        let review = Review::parse(body)?;
        let id = self.minter.mint(self.clock.now(), self.entropy.bits());
        let attempt = review.attempt(id)?;
        let terms = Terms { cluster: &self.settings.cluster, policy: &self.settings.policy };
        let decision = domain::decide(&attempt, &self.redactor, &terms)
            .map_err(|unreadable| Refusal::malformed(unreadable.to_string()).of(review.uid()))?;
        Ok(Examined { uid: review.uid().to_owned(), decision })
    }

    async fn record(&self, uid: String, entry: RedactedEntry, deadline: Instant) -> (Ended, Verdict) {
        if let Some((id, action)) = self.delivered.get(&uid) {
            return (Ended::Repeated, Verdict::recorded(uid, id, action));
        }
        let (id, action) = (entry.id, entry.action);
        let taken = if self.settings.sync {
            let within = deadline.saturating_duration_since(Instant::now());
            self.recorder.record_durably(entry, within).await
        } else {
            self.recorder.record(entry).map_err(NotDurable::NotAccepted)
        };
        match taken {
            Ok(()) => (Ended::Recorded, self.recorded(uid, id, action)),
            // Queued: it will be there when somebody follows the annotation.
            Err(NotDurable::NotYet { .. }) => (Ended::RecordedLate, self.recorded(uid, id, action)),
            Err(NotDurable::NotAccepted(_) | NotDurable::Refused | NotDurable::Ended) => {
                (Ended::Lost, Verdict::allowed(uid))
            }
        }
    }
}

impl Admission {
    fn recorded(&self, uid: String, id: EntryId, action: Action) -> Verdict {
        self.delivered.remember(&uid, id, action);
        Verdict::recorded(uid, id, action)
    }
}

struct Examined {
    uid: String,
    decision: Decision,
}

enum NotExamined {
    Refused(Refusal),
    Panicked,
}

fn skipped(skip: Skip) -> Ended {
    match skip {
        Skip::DryRun => Ended::DryRun,
        Skip::NothingChanged => Ended::Unchanged,
    }
}

//! `POST /admission`: the validating webhook.
//!
//! Answers *allowed*, whatever becomes of the entry: an audit log that can stop a deployment has no place in a cluster.
//! Only where a policy says `onWriteFailure: Deny` is a write refused whose entry did not become durable in time. An entry
//! that was taken is named by an audit annotation of the answer, by which the API server's audit event finds it again.

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
use chrono::{DateTime, Utc};
use domain::attempt::{Decision, Skip};
use domain::clock::{Clock, Entropy};
use domain::event::Attempted;
use domain::id::Minter;
use domain::kinds::Kinds;
use domain::redact::Redactor;
use domain::{RedactedEntry, Terms};
use pipeline::{Loss, NotDurable, Recorder};
use policy::{Rule, Rules};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use body::{IN_FLIGHT_BYTES_MAX, REVIEW_BYTES_MAX};
pub use metrics::Metrics;

use crate::admission::body::{Gate, Held, SMALL_BYTES_MAX};
use crate::admission::delivered::Delivered;
use crate::admission::metrics::Ended;
use crate::admission::refusal::Refusal;
use crate::admission::review::Review;
use crate::admission::verdict::{Note, Verdict};

/// What the API server waits for an answer, as this webhook is registered.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// From a request's arrival: by then its body is here, and whoever waits for durability has waited enough.
pub const WAIT_MAX: Duration = Duration::from_millis(1_500);

// What is left is for the walk through the object and the way back.
const _: () = assert!(WAIT_MAX.as_millis() + 500 <= WEBHOOK_TIMEOUT.as_millis());

#[derive(Clone, Debug)]
pub struct Settings {
    /// Stamped on the entries.
    pub cluster: String,
    /// What is recorded, and whose answer waits for it.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// By which the scale of a custom resource is known as its own.
    pub kinds: watch::Receiver<Arc<Kinds>>,
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
        let mut fate = Fate { recorder: &self.recorder, received: self.clock.now(), loss: Some(Loss::Abandoned) };
        let held = self.gate.read(request, deadline).await.inspect_err(|refusal| fate.loss = refusal.loss())?;
        match self.examine(held).await {
            Ok(Examined::Unwanted { uid, note }) => {
                fate.loss = None;
                Ok((Ended::Unwanted, Verdict::allowed(uid).noted(note)))
            }
            Ok(Examined::Skipped { uid, skip, note }) => {
                fate.loss = None;
                Ok((skipped(skip), Verdict::allowed(uid).noted(note)))
            }
            Ok(Examined::Recorded { uid, entry, wait, note }) => {
                // From here on it is the recorder that counts what it does not keep, and it has the entry at once.
                fate.loss = None;
                Ok(self.record(uid, *entry, wait, note, deadline).await)
            }
            Err(NotExamined::Refused(refusal)) => {
                fate.loss = refusal.loss();
                Err(refusal)
            }
            // No answer at all: of the webhook that fails open the API server notes that it did, and the one of `Deny`
            // policies refuses the write.
            Err(NotExamined::Panicked) => {
                fate.loss = Some(Loss::Panicked);
                Err(Refusal::panicked())
            }
        }
    }

    /// Walks the objects and survives a panic. A large review is walked on the blocking pool: it takes longer than the hop
    /// there, and meanwhile the small ones, which are nearly all, are answered.
    async fn examine(self: &Arc<Self>, held: Held) -> Result<Examined, NotExamined> {
        if held.body.len() <= SMALL_BYTES_MAX {
            return self.examine_caught(held);
        }
        let admission = Arc::clone(self);
        let walk = tokio::task::spawn_blocking(move || admission.examine_caught(held));
        walk.await.unwrap_or(Err(NotExamined::Panicked))
    }

    /// Keeps the room for as long as it works, whether somebody still waits for it or not.
    fn examine_caught(&self, held: Held) -> Result<Examined, NotExamined> {
        // Nothing of ours is left halfway: what is shared is atomic or behind its own lock.
        match catch_unwind(AssertUnwindSafe(|| self.examine_body(&held.body))) {
            Ok(examined) => examined.map_err(NotExamined::Refused),
            Err(_) => {
                let bytes = held.body.len();
                tracing::error!(bytes, "handling a review panicked; it is not answered, and counted as lost");
                Err(NotExamined::Panicked)
            }
        }
    }

    fn examine_body(&self, body: &[u8]) -> Result<Examined, Refusal> {
        let review = Review::parse(body)?;
        let id = self.minter.mint(self.clock.now(), self.entropy.bits());
        let kinds = Arc::clone(&self.settings.kinds.borrow());
        let attempt = review.attempt(id, &kinds)?;
        let rules = Arc::clone(&self.settings.rules.borrow());
        let decided = rules.decide(&attempt, &review);
        self.metrics.expressions_failed(decided.failed);
        let Rule { policy, level, sync, deny, redact } = decided.rule;
        let uid = review.uid().to_owned();
        let note = |what| {
            let (version, uid) = review.replaced();
            Note::new(what, id, attempt.operation.action(), &version, &uid)
        };
        let Some(level) = *level else { return Ok(Examined::Unwanted { uid, note: note(Attempted::Unwanted) }) };
        let terms = Terms { cluster: &self.settings.cluster, policy, level, redact };
        let decision = domain::decide(&attempt, &self.redactor, &terms)
            .map_err(|unreadable| Refusal::malformed(unreadable.to_string()).of(review.uid()))?;
        Ok(match decision {
            Decision::Skip(skip) => {
                let what = match skip {
                    Skip::DryRun => Attempted::DryRun,
                    Skip::NothingChanged => Attempted::Unchanged,
                };
                Examined::Skipped { uid, skip, note: note(what) }
            }
            Decision::Record(entry) => {
                let deny = *deny && !policy::is_spared(&attempt);
                let wait = match (deny, *sync) {
                    (true, _) => Wait::OrRefuse { policy: policy.clone() },
                    (false, true) => Wait::ForDurability,
                    (false, false) => Wait::No,
                };
                Examined::Recorded { uid, entry, wait, note: note(Attempted::Recorded) }
            }
        })
    }

    async fn record(
        &self,
        uid: String,
        entry: RedactedEntry,
        wait: Wait,
        note: Note,
        deadline: Instant,
    ) -> (Ended, Verdict) {
        let claim = loop {
            match (self.delivered.claim(&uid, &note), &wait) {
                (Ok(claim), _) => break claim,
                (Err(earlier), Wait::OrRefuse { policy }) => {
                    let note = earlier.note.clone();
                    match timeout_at(deadline, earlier.kept()).await {
                        Ok(true) => return (Ended::Repeated, Verdict::allowed(uid).noted(note)),
                        // Nobody waits for that one any more: this is another attempt.
                        Ok(false) => {}
                        Err(_) => {
                            let verdict = Verdict::denied(uid, policy, &NotDurable::NotYet { within: WAIT_MAX });
                            return (Ended::Denied, verdict.noted(note));
                        }
                    }
                }
                // Whoever sends it again has lost the first answer, and with it the wait for durability.
                (Err(earlier), _) => return (Ended::Repeated, Verdict::allowed(uid).noted(earlier.note)),
            }
        };
        let within = deadline.saturating_duration_since(Instant::now());
        let taken = match &wait {
            Wait::OrRefuse { .. } => self.recorder.record_or_refuse(entry, within).await,
            Wait::ForDurability => {
                // It stays queued also where this handler ends halfway.
                claim.keep();
                self.recorder.record_durably(entry, within).await
            }
            Wait::No => self.recorder.record(entry).map_err(NotDurable::NotAccepted),
        };
        match taken {
            Err(why) if let Wait::OrRefuse { policy } = &wait => {
                let denied = Verdict::denied(uid, policy, &why);
                // It may be stored later, and then the audit event tells that the write was refused.
                let is_queued = matches!(why, NotDurable::NotYet { .. } | NotDurable::Ended);
                (Ended::Denied, if is_queued { denied.noted(note) } else { denied })
            }
            Ok(()) => {
                claim.keep();
                (Ended::Recorded, Verdict::allowed(uid).noted(note))
            }
            // Queued: it will be there when somebody follows the annotation.
            Err(NotDurable::NotYet { .. }) => (Ended::RecordedLate, Verdict::allowed(uid).noted(note)),
            Err(NotDurable::NotAccepted(_) | NotDurable::Refused | NotDurable::Ended) => {
                claim.give_up();
                // It may be the attempt that comes about, and then none before it has.
                (Ended::Lost, Verdict::allowed(uid).noted(note.lost()))
            }
        }
    }
}

/// What becomes of a review where nothing else is said: a handler ends wherever it is when its caller goes away, and the
/// API server, which waits no longer than the webhook's timeout, then lets the write pass.
struct Fate<'r> {
    recorder: &'r Recorder,
    received: DateTime<Utc>,
    loss: Option<Loss>,
}

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        if let Some(loss) = self.loss {
            self.recorder.note_lost(self.received, loss);
        }
    }
}

enum Examined {
    /// By the policies in force.
    Unwanted {
        uid: String,
        note: Note,
    },
    Skipped {
        uid: String,
        skip: Skip,
        note: Note,
    },
    Recorded {
        uid: String,
        entry: Box<RedactedEntry>,
        wait: Wait,
        note: Note,
    },
}

/// For what the answer waits.
enum Wait {
    No,
    ForDurability,
    /// And where that takes too long, the write is refused, by this policy.
    OrRefuse {
        policy: String,
    },
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

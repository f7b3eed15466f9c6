//! `POST /audit-events`: where the API server's webhook backend posts to.
//!
//! It answers at once: taken whole, or 429 and nothing of it. The API server keeps what is not taken, and whatever waits
//! there takes its memory.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use domain::clock::Clock;
use domain::text::{shortened, with_causes};
use listener::ClientCertificate;
use pipeline::{NotAccepted, Recorder, TOLD_BYTES_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::Heard;
use crate::audit_events::callers::{Caller, Callers};
use crate::audit_events::metrics::Posted;
use crate::audit_events::{Metrics, Teller, read};

/// The API server posts at most 400 events at once, of some kilobytes each; of webhook configurations alone it tells whole
/// objects. Where it truncates, it posts at most 10 MiB.
pub const BODY_BYTES_MAX: usize = 12 * 1024 * 1024;
/// More than that it never sends, and what they become would not fit the queue.
pub const EVENTS_MAX: usize = 2_500;
/// All bodies together, while they are read.
const IN_FLIGHT_BYTES_MAX: usize = 2 * BODY_BYTES_MAX;
/// A body that comes more slowly is given up.
const READ_MAX: Duration = Duration::from_secs(10);
/// When to come again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

const _: () = assert!(BODY_BYTES_MAX <= IN_FLIGHT_BYTES_MAX);
// An entry's own structure is heavier than the least that an event can weigh; its texts are the event's.
const _: () = assert!(EVENTS_MAX * 1_536 + BODY_BYTES_MAX <= TOLD_BYTES_MAX);

/// What the handler works with; one for the process.
pub struct Door {
    pub teller: Teller,
    pub recorder: Recorder,
    pub callers: Callers,
    pub clock: Arc<dyn Clock>,
    pub heard: Heard,
    pub metrics: Metrics,
}

struct Shared {
    door: Door,
    room: Arc<Semaphore>,
}

pub fn router(door: Door) -> Router {
    let shared = Shared { door, room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)) };
    Router::new().route("/audit-events", post(take).fallback(only_post)).with_state(Arc::new(shared))
}

async fn take(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (posted, response) = match shared.answer(request).await {
        Ok(()) => (Posted::Taken, StatusCode::OK.into_response()),
        Err(refusal) => (refusal.posted, refusal.into_response()),
    };
    shared.door.metrics.posted(posted);
    response
}

async fn only_post() -> Response {
    let refusal = Refusal::new(Posted::Malformed, StatusCode::METHOD_NOT_ALLOWED, "accepted is POST with an EventList");
    let mut response = refusal.into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

impl Shared {
    async fn answer(self: &Arc<Self>, request: Request) -> Result<(), Refusal> {
        let (headers, certificate) = (request.headers().clone(), ClientCertificate::of(request.extensions()));
        self.admit(&headers, &certificate).await?;
        check_type(&request)?;
        let (body, room) = self.body(request).await?;
        let _room = room;
        if let Some(unknown) = self.try_take(&body, true).await? {
            self.door.teller.ask_for(unknown).await;
            self.try_take(&body, false).await?;
        }
        Ok(())
    }

    /// Answers plurals that are not known, where those are to be asked for first.
    async fn try_take(self: &Arc<Self>, body: &Bytes, asks: bool) -> Result<Option<Vec<(String, String)>>, Refusal> {
        let (shared, body) = (Arc::clone(self), body.clone());
        let taken = tokio::task::spawn_blocking(move || shared.take(&body, asks));
        let failed = || Refusal::new(Posted::Busy, StatusCode::INTERNAL_SERVER_ERROR, "handling these events failed");
        taken.await.unwrap_or_else(|_| Err(failed()))
    }

    async fn admit(&self, headers: &HeaderMap, certificate: &ClientCertificate) -> Result<(), Refusal> {
        let refused = |status, detail| Err(Refusal::new(Posted::Unauthorized, status, detail));
        match self.door.callers.judge(headers, certificate, self.door.clock.now()).await {
            Ok(Caller::Known) => Ok(()),
            Ok(Caller::Unknown) => {
                refused(StatusCode::UNAUTHORIZED, "accepted is a client's certificate or a bearer token")
            }
            Ok(Caller::Refused) => refused(StatusCode::FORBIDDEN, "the certificate or the token is not accepted"),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "audit events are refused: their sender cannot be known");
                refused(StatusCode::SERVICE_UNAVAILABLE, "who may post here cannot be known at the moment")
            }
        }
    }

    async fn body(&self, request: Request) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let most = announced.unwrap_or(BODY_BYTES_MAX);
        if most > BODY_BYTES_MAX {
            return Err(Refusal::too_large());
        }
        let room = Arc::clone(&self.room).try_acquire_many_owned(most as u32).map_err(|_| Refusal::busy())?;
        let read = timeout(READ_MAX, to_bytes(request.into_body(), most)).await;
        let slow = Refusal::new(Posted::Malformed, StatusCode::REQUEST_TIMEOUT, "the body comes too slowly");
        match read.map_err(|_| slow)? {
            Ok(body) => Ok((body, room)),
            Err(_) if announced.is_none() => Err(Refusal::too_large()),
            Err(_) => Err(Refusal::malformed("the body ended before its announced length")),
        }
    }

    fn take(&self, body: &[u8], asks: bool) -> Result<Option<Vec<(String, String)>>, Refusal> {
        let events = read(body).map_err(|unread| Refusal::malformed(unread.to_string()))?;
        if events.len() > EVENTS_MAX {
            return Err(Refusal::too_large());
        }
        let unknown = if asks { self.door.teller.unknown(&events) } else { Vec::new() };
        if !unknown.is_empty() {
            return Ok(Some(unknown));
        }
        let lot = self.door.teller.tell(&events);
        self.door.recorder.tell(lot.write, lot.join).map_err(|not| match not {
            NotAccepted::TooHeavy => Refusal::too_large(),
            NotAccepted::QueueFull | NotAccepted::Stopped => Refusal::busy(),
        })?;
        self.door.metrics.told(&lot.came);
        self.door.heard.spoke(self.door.clock.now());
        Ok(None)
    }
}

fn check_type(request: &Request) -> Result<(), Refusal> {
    let given = request.headers().get(header::CONTENT_TYPE).map_or("", |given| given.to_str().unwrap_or("unreadable"));
    if given.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = format!("the Content-Type is {:?}: accepted is \"application/json\"", shortened(given, 64));
    Err(Refusal::new(Posted::Malformed, StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// Why nothing of it is taken.
#[derive(Debug)]
struct Refusal {
    posted: Posted,
    status: StatusCode,
    detail: Cow<'static, str>,
}

impl Refusal {
    fn new(posted: Posted, status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { posted, status, detail: detail.into() }
    }

    fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Posted::Malformed, StatusCode::BAD_REQUEST, detail)
    }

    fn too_large() -> Self {
        let detail = format!("it is too large: accepted are {BODY_BYTES_MAX} bytes and {EVENTS_MAX} events");
        Self::new(Posted::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    fn busy() -> Self {
        Self::new(
            Posted::Busy,
            StatusCode::TOO_MANY_REQUESTS,
            "there is no room at the moment: nothing of it was taken",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Refused");
        let problem = serde_json::json!({"title": title, "status": self.status.as_u16(), "detail": self.detail});
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (self.status, [json], problem.to_string()).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

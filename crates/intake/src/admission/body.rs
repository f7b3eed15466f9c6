//! Reads a review's bytes: no more of them than a review can have, no more reviews at once than there is memory for, and
//! no longer than somebody waits for the answer.

use std::sync::Arc;

use axum::body::BodyDataStream;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::admission::refusal::Refusal;

/// What kube-apiserver accepts as one request body, so what one object weighs as it was sent. It is sent on in Go's JSON,
/// where `<`, `>` and `&` take six bytes each: an object of those alone can pass the bound, and is told as lost.
const OBJECT_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Who asks, and the names of things.
const ENVELOPE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A review carries the object twice, before and after, inside its envelope.
pub const REVIEW_BYTES_MAX: usize = 2 * OBJECT_BYTES_MAX + ENVELOPE_BYTES_MAX;
/// All bodies together, from before they are read until they have been walked. A walk takes a few times a body's weight
/// on top.
pub const IN_FLIGHT_BYTES_MAX: usize = 4 * REVIEW_BYTES_MAX;

/// A review up to this is small: it is walked where it is read, and lies behind no larger one.
pub(super) const SMALL_BYTES_MAX: usize = 64 * 1024;
/// All small bodies together; a room of their own, which no number of large ones can take from them.
const SMALL_IN_FLIGHT_BYTES_MAX: usize = 128 * SMALL_BYTES_MAX;

/// So much of what is too large is still read, and dropped: a client that is cut off while it sends may never see why.
const DISCARDED_BYTES_MAX: usize = 4 * REVIEW_BYTES_MAX;

// The heaviest review fits an empty house, and a semaphore counts what it asks for in 32 bits.
const _: () = assert!(REVIEW_BYTES_MAX <= IN_FLIGHT_BYTES_MAX);
const _: () = assert!(REVIEW_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(IN_FLIGHT_BYTES_MAX <= Semaphore::MAX_PERMITS);

/// Lets in as many bytes as there is room for.
#[derive(Debug)]
pub(super) struct Gate {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

/// A body, and the room that it takes for as long as somebody holds it, whether its caller still waits or not.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            large: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            small: Arc::new(Semaphore::new(SMALL_IN_FLIGHT_BYTES_MAX)),
        }
    }

    pub(super) async fn read(&self, request: Request, deadline: Instant) -> Result<Held, Refusal> {
        check_type(request.headers())?;
        let announced = announced(request.headers())?;
        let mut pieces = request.into_body().into_data_stream();
        if announced.is_some_and(|bytes| bytes > REVIEW_BYTES_MAX as u64) {
            discard(&mut pieces, deadline).await;
            return Err(Refusal::too_large());
        }
        let most = announced.map_or(REVIEW_BYTES_MAX, |bytes| bytes as usize);
        let room = if most <= SMALL_BYTES_MAX { &self.small } else { &self.large };
        let room = timeout_at(deadline, Arc::clone(room).acquire_many_owned(most as u32)).await;
        // Nobody closes the semaphore, but if somebody did there would be no room either.
        let room = room.map_err(|_| Refusal::overloaded())?.map_err(|_| Refusal::overloaded())?;
        let collected = timeout_at(deadline, collect(&mut pieces, most)).await.map_err(|_| Refusal::too_slow())?;
        match collected {
            Ok(body) if body.is_empty() => Err(Refusal::malformed("the body is empty: accepted is an AdmissionReview")),
            Ok(body) => Ok(Held { body, _room: room }),
            Err(NotCollected::CutShort) => Err(Refusal::cut_short()),
            Err(NotCollected::TooLarge) => {
                drop(room);
                discard(&mut pieces, deadline).await;
                Err(Refusal::too_large())
            }
        }
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("unreadable"));
    let essence = given.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::content_type(given));
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(Refusal::encoding()),
        _ => Ok(()),
    }
}

/// None where the length shows only at the end.
fn announced(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length.map(Some).ok_or_else(|| Refusal::malformed("the Content-Length is no number"))
}

enum NotCollected {
    TooLarge,
    CutShort,
}

/// A body that comes in one piece, as small ones do, is not copied.
async fn collect(pieces: &mut BodyDataStream, most: usize) -> Result<Bytes, NotCollected> {
    let mut whole = match pieces.next().await {
        None => return Ok(Bytes::new()),
        Some(first) => first.map_err(|_| NotCollected::CutShort)?,
    };
    let mut rest = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| NotCollected::CutShort)?;
        if rest.is_empty() {
            // The sum of what was announced, which has been let in; more than that ends below.
            rest.reserve(most.max(whole.len()));
            rest.extend_from_slice(&whole);
            whole = Bytes::new();
        }
        if rest.len() + piece.len() > most {
            return Err(NotCollected::TooLarge);
        }
        rest.extend_from_slice(&piece);
    }
    let whole = if rest.is_empty() { whole } else { rest.freeze() };
    if whole.len() > most { Err(NotCollected::TooLarge) } else { Ok(whole) }
}

/// Reads on without keeping anything, to the body's end or to what there is patience for.
async fn discard(pieces: &mut BodyDataStream, deadline: Instant) {
    let mut left = DISCARDED_BYTES_MAX;
    while let Ok(Some(Ok(piece))) = timeout_at(deadline, pieces.next()).await {
        match left.checked_sub(piece.len()) {
            Some(less) => left = less,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::StatusCode;

    use super::*;
    use crate::admission::metrics::Ended;

    /// Of the largest length, by what it says.
    fn large() -> Request {
        Request::post("/admission")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, REVIEW_BYTES_MAX)
            .body(Body::from("{}"))
            .unwrap()
    }

    fn small() -> Request {
        Request::post("/admission")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, 2)
            .body(Body::from("{}"))
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_for_so_many_bytes_and_who_finds_none_in_time_is_told() {
        let gate = Gate::new();
        let soon = Instant::now() + Duration::from_millis(100);
        let mut held = Vec::new();
        for _ in 0..IN_FLIGHT_BYTES_MAX / REVIEW_BYTES_MAX {
            held.push(gate.read(large(), soon).await.unwrap());
        }
        let refusal = gate.read(large(), soon).await.unwrap_err();
        assert_eq!((refusal.ended(), Instant::now()), (Ended::Lost, soon));
        assert_eq!(axum::response::IntoResponse::into_response(refusal).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(gate.read(small(), soon).await.is_ok(), "a small one has a room of its own");

        held.pop();
        assert_eq!(gate.read(large(), soon).await.unwrap().body, "{}");
        assert!(gate.read(large(), soon).await.is_ok(), "released with it");
    }
}

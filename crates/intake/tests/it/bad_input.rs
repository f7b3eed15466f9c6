//! What nobody should send: told which fault, and nothing that was in it.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use futures::stream;
use intake::admission::REVIEW_BYTES_MAX;

use crate::door::{Door, config_map, fixture};

const CANARY: &str = "canary-0815";
const UID: &str = "0b4c5a26-98bf-4b1c-8a6e-0dd6c4e4a3f1";

fn post(content_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post("/admission").header(header::CONTENT_TYPE, content_type).body(body.into()).unwrap()
}

/// A good review, but for one thing.
fn spoilt(good: &str, bad: &str) -> String {
    let review = config_map("CREATE", None, Some(&format!(r#"{{"a":"{CANARY}"}}"#)));
    assert_eq!(review.matches(good).count(), 1, "{good} in {review}");
    review.replace(good, bad)
}

#[tokio::test]
async fn a_fault_is_named_and_the_uid_echoed_where_it_can_be_read() {
    let whole = config_map("CREATE", None, Some(&format!(r#"{{"a":"{CANARY}"}}"#)));
    let cut = whole[..whole.len() - 40].to_owned();
    let cases: [(&str, String, Option<&str>, &str); 20] = [
        ("empty", String::new(), None, "the body is empty"),
        ("no JSON", format!("secret={CANARY}"), None, "not valid JSON: expected value at line 1 column 1"),
        ("a list", "[]".into(), None, r#"kind is "": accepted is "AdmissionReview""#),
        (
            "another kind",
            spoilt(r#""AdmissionReview""#, r#""Pod""#),
            Some(UID),
            r#"kind is "Pod": accepted is "AdmissionReview""#,
        ),
        (
            "an old version",
            spoilt("admission.k8s.io/v1", "admission.k8s.io/v1beta1"),
            Some(UID),
            r#"apiVersion is "admission.k8s.io/v1beta1": accepted is "admission.k8s.io/v1""#,
        ),
        ("no version", r#"{"kind":"AdmissionReview"}"#.into(), None, r#"apiVersion is "": accepted is"#),
        (
            "no request",
            r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#.into(),
            None,
            "the review has no request",
        ),
        (
            "null for a request",
            r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":null}"#.into(),
            None,
            "the review has no request",
        ),
        ("a text for a request", format!(r#"{{"request":"{CANARY}"}}"#), None, "request: expected"),
        ("no uid", spoilt(&format!(r#","uid":"{UID}""#), ""), None, "request: missing field `uid`"),
        ("an empty uid", spoilt(UID, ""), None, "request.uid is empty"),
        (
            "a number for a name",
            spoilt(r#""name":"settings","namespace":"shop","operation""#, r#""name":4711,"operation""#),
            Some(UID),
            "request.name: expected a",
        ),
        (
            "a text for who asks",
            spoilt(r#"{"username":"alice@example.com"}"#, &format!(r#""{CANARY}, expected nothing""#)),
            Some(UID),
            "request.userInfo: expected struct UserInfo",
        ),
        (
            "another operation",
            spoilt("CREATE", "PATCH"),
            Some(UID),
            r#"request.operation is "PATCH": accepted is one of CREATE, UPDATE, DELETE, CONNECT"#,
        ),
        ("cut short", cut, Some(UID), "the JSON is cut short at line 1 column"),
        ("more after the end", format!("{whole}{{}}"), Some(UID), "there is more after the review"),
        (
            "half a character in an object",
            spoilt(CANARY, r"\ud800"),
            Some(UID),
            "object is not valid JSON (line 1, column",
        ),
        ("half a character in a name", spoilt("alice", r"\ud800alice"), Some(UID), "not valid JSON: "),
        ("an object that is none", spoilt(&format!(r#"{{"a":"{CANARY}"}}"#), CANARY), Some(UID), "not valid JSON: "),
        (
            "options that are none",
            spoilt(r#""operation""#, &format!(r#""options":"{CANARY}","operation""#)),
            Some(UID),
            "request.options is no options object",
        ),
    ];
    for (name, body, uid, fault) in cases {
        let mut door = Door::open();
        let answer = door.post(body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}: {answer:?}");
        assert_eq!(answer.content_type, "application/problem+json", "{name}");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(fault), "{name}: {detail}");
        assert_eq!(answer.body["uid"].as_str(), uid, "{name}");
        assert_eq!((answer.body["status"].as_u64(), answer.body["title"].as_str()), (Some(400), Some("Bad Request")));
        assert!(!answer.body.to_string().contains(CANARY), "{name}: {answer:?}");
        assert_eq!(door.entries().await.len(), 0, "{name}: nothing is recorded, and nothing was lost");
        door.assert_counted("refused", 1);
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_told_by_their_place() {
    let mut review = fixture("create-secret").into_bytes();
    review[100] = 0xff;
    let answer = Door::open().post(review).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.body["detail"], "the body is not UTF-8 from byte 100");
}

#[tokio::test]
async fn another_type_encoding_or_method_is_refused_before_anything_is_read() {
    let review = || fixture("create-pod");
    let compressed = Request::post("/admission")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_ENCODING, "gzip")
        .body(review().into())
        .unwrap();
    let untyped = Request::post("/admission").body(review().into()).unwrap();
    let got = Request::get("/admission").body(Body::empty()).unwrap();
    let cases = [
        (post("text/plain", review()), 415, r#"the Content-Type is "text/plain": accepted is "application/json""#),
        (post("application/vnd.kubernetes.protobuf", review()), 415, "accepted is \"application/json\""),
        (untyped, 415, r#"the Content-Type is "": accepted is"#),
        (compressed, 415, "the body has a Content-Encoding: accepted is none"),
        (got, 405, "accepted is POST"),
    ];
    for (request, status, fault) in cases {
        let answer = Door::open().send(request).await;
        assert_eq!(answer.status, status, "{fault}");
        assert!(answer.body["detail"].as_str().unwrap().contains(fault), "{answer:?}");
    }
    let with_charset = post("Application/JSON; charset=utf-8", review());
    assert!(Door::open().send(with_charset).await.entry().is_some());
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_whether_it_says_so_or_not() {
    let pieces =
        |count: usize| stream::iter((0..count).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]))));
    let announced = Request::post("/admission")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, REVIEW_BYTES_MAX + 1)
        .body(Body::empty())
        .unwrap();
    for request in [announced, post("application/json", Body::from_stream(pieces(9)))] {
        let answer = Door::open().send(request).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.body["detail"], "the body is too large: accepted are 8388608 bytes");
    }
    let answer = Door::open().send(post("application/json", Body::from_stream(pieces(8)))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "eight are read, and are no review");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_told_so() {
    let broken = stream::iter([Ok(Bytes::from(fixture("create-pod"))), Err(std::io::Error::other("gone"))]);
    let answer = Door::open().send(post("application/json", Body::from_stream(broken))).await;
    assert_eq!(
        (answer.status, answer.body["detail"].as_str()),
        (StatusCode::BAD_REQUEST, Some("the body ended before its announced length"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_not_waited_for() {
    let start = tokio::time::Instant::now();
    let never = stream::pending::<Result<Bytes, std::io::Error>>();
    let answer = Door::open().send(post("application/json", Body::from_stream(never))).await;
    assert_eq!((answer.status, start.elapsed()), (StatusCode::REQUEST_TIMEOUT, intake::admission::WAIT_MAX));
}

#[tokio::test]
async fn a_review_in_pieces_and_of_unknown_length_is_a_review() {
    let review = Bytes::from(fixture("create-deployment"));
    let pieces: Vec<_> =
        review.chunks(100).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    let answer = Door::open().send(post("application/json", Body::from_stream(stream::iter(pieces)))).await;
    assert!(answer.entry().is_some());
}

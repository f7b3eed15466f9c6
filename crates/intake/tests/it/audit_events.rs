//! `POST /audit-events` and the log file, with events that a real API server told (`domain/fixtures/events`).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use domain::kinds::Kinds;
use domain::redact::{RedactionKey, Redactor};
use intake::Heard;
use intake::audit_events::{BODY_BYTES_MAX, Callers, Door, EVENTS_MAX, LogFile, Metrics, Settings, Teller, router};
use pipeline::{Recorder, pipeline};
use policy::{Rule, Rules};
use prometheus_client::registry::Registry;
use store::Book;
use testkit::{eventually, guard};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::door::{Chance, Kept, Noon};

const WITHIN: Duration = Duration::from_secs(20);

struct House {
    store: Arc<Kept>,
    recorder: Recorder,
    heard: Heard,
    metrics: Metrics,
    registry: Registry,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl House {
    fn open() -> Self {
        let store = Arc::<Kept>::default();
        let chance = Arc::new(Chance::default());
        let settings = pipeline::Settings { interval: Duration::from_millis(5), ..pipeline::Settings::default() };
        let (recorder, batcher) = pipeline(settings, Arc::clone(&store) as Arc<dyn Book>, Arc::new(Noon), chance);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone();
        tasks.spawn(async move { batcher.run(stopped).await.map(drop).expect("flushed") });
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        Self { store, recorder, heard: Heard::default(), metrics, registry, stop, tasks }
    }

    fn teller() -> Teller {
        let rules = Arc::new(Rules::only(Rule::built_in("built-in", false)));
        let settings = Settings {
            cluster: "local".to_owned(),
            namespace: "kubevision-audit".to_owned(),
            rules: watch::Sender::new(rules).subscribe(),
            kinds: watch::Sender::new(Arc::new(Kinds::default())).subscribe(),
            ask: Arc::default(),
        };
        Teller::new(settings, Redactor::new(RedactionKey::new([7; 32])))
    }

    fn door(&self, callers: Callers) -> Router {
        let (recorder, heard, metrics) = (self.recorder.clone(), self.heard.clone(), self.metrics.clone());
        router(Door { teller: Self::teller(), recorder, callers, clock: Arc::new(Noon), heard, metrics })
    }

    /// Follows a log until the house's end.
    fn follow(&mut self, path: &Path, stop: CancellationToken) {
        let log = LogFile {
            path: path.to_owned(),
            place: place(path),
            teller: Self::teller(),
            recorder: self.recorder.clone(),
            clock: Arc::new(Noon),
            heard: self.heard.clone(),
            metrics: self.metrics.clone(),
        };
        self.tasks.spawn(log.run(stop));
    }

    async fn told(&self, writes: usize, joins: usize) {
        eventually(WITHIN, || async {
            let (written, joined) = (self.store.entries().len(), self.store.joined().len());
            anyhow::ensure!((written, joined) == (writes, joins), "{written} written, {joined} joined");
            Ok(())
        })
        .await
        .unwrap();
    }

    fn assert_counted(&self, sample: &str) {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        assert!(text.contains(&format!("audit_events_{sample}\n")), "{sample} is not in\n{text}");
    }
}

fn place(log: &Path) -> PathBuf {
    intake::audit_events::place_of(log, None)
}

fn fixture(name: &str) -> String {
    let path = format!("{}/../domain/fixtures/events/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list(lines: &str) -> String {
    let items: Vec<&str> = lines.lines().collect();
    format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{{}},"items":[{}]}}"#, items.join(","))
}

async fn post(door: &Router, body: impl Into<Body>, token: Option<&str>) -> StatusCode {
    let mut request = Request::post("/audit-events").header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    door.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn a_list_is_taken_at_once_and_an_event_alone_too() {
    let house = House::open();
    let door = house.door(Callers::default());
    assert_eq!(house.heard.last(), None);
    let both = fixture("create") + &fixture("forbidden");
    assert_eq!(post(&door, list(&both), None).await, StatusCode::OK);
    house.told(1, 1).await;
    let event = fixture("exec").lines().next_back().unwrap().to_owned();
    assert_eq!(post(&door, event, None).await, StatusCode::OK);
    house.told(2, 2).await;
    assert!(house.heard.last().is_some());
    house.assert_counted("told_total{result=\"joined\"} 2");
    house.assert_counted("told_total{result=\"refused\"} 1");
    house.assert_counted("posts_total{result=\"taken\"} 2");
}

#[tokio::test]
async fn what_does_not_parse_is_never_taken_for_good() {
    let house = House::open();
    let door = house.door(Callers::default());
    let old = list(&fixture("create")).replace("audit.k8s.io/v1\",\"metadata", "audit.k8s.io/v1beta1\",\"metadata");
    for body in ["", "{", "[]", "nonsense", &old, &list("{}")] {
        assert_eq!(post(&door, body.to_owned(), None).await, StatusCode::BAD_REQUEST, "{body}");
    }
    let large = vec![b' '; BODY_BYTES_MAX + 1];
    assert_eq!(post(&door, large, None).await, StatusCode::PAYLOAD_TOO_LARGE);
    let event = fixture("create").lines().next().unwrap().to_owned() + "\n";
    assert_eq!(post(&door, list(&event.repeat(EVENTS_MAX + 1)), None).await, StatusCode::PAYLOAD_TOO_LARGE);
    let get = Request::get("/audit-events").body(Body::empty()).unwrap();
    assert_eq!(door.clone().oneshot(get).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let untyped = Request::post("/audit-events").body(Body::from(list(&event))).unwrap();
    assert_eq!(door.clone().oneshot(untyped).await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    house.assert_counted("posts_total{result=\"malformed\"} 7");
    assert_eq!(house.heard.last(), None);
    house.told(0, 0).await;
}

#[tokio::test]
async fn where_there_is_no_room_nothing_is_taken_and_the_sender_comes_again() {
    let house = House::open();
    house.store.away.store(true, std::sync::atomic::Ordering::Relaxed);
    let door = house.door(Callers::default());
    let many = list(&(fixture("forbidden").lines().next_back().unwrap().to_owned() + "\n").repeat(2_000));
    let mut taken = 0;
    while post(&door, many.clone(), None).await == StatusCode::OK {
        taken += 1;
        assert!(taken < 100, "the queue has no bound");
    }
    assert_eq!(post(&door, many, None).await, StatusCode::TOO_MANY_REQUESTS);
    house.store.away.store(false, std::sync::atomic::Ordering::Relaxed);
    house.told(taken * 2_000, 0).await;
}

#[tokio::test]
async fn who_does_not_say_the_token_is_refused_and_a_new_token_counts_at_once() {
    let house = House::open();
    let file = guard::folder("token").unwrap().join("token");
    let callers = Callers { bearer_token_file: Some(file.clone()), client_ca_file: None };
    assert!(callers.check().await.is_err(), "the file is not there");
    fs::write(&file, "one\n").unwrap();
    callers.check().await.unwrap();
    let door = house.door(callers);
    let event = list(&fixture("create"));
    assert_eq!(post(&door, event.clone(), None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(post(&door, event.clone(), Some("two")).await, StatusCode::FORBIDDEN);
    assert_eq!(post(&door, event.clone(), Some("one")).await, StatusCode::OK);
    fs::write(&file, "two").unwrap();
    assert_eq!(post(&door, event.clone(), Some("one")).await, StatusCode::FORBIDDEN);
    assert_eq!(post(&door, event.clone(), Some("two")).await, StatusCode::OK);
    fs::remove_file(&file).unwrap();
    assert_eq!(post(&door, event, Some("two")).await, StatusCode::SERVICE_UNAVAILABLE);
    house.told(0, 2).await;
    house.assert_counted("posts_total{result=\"unauthorized\"} 4");
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn a_log_is_followed_through_torn_lines_rotations_and_restarts() {
    let mut house = House::open();
    let log = guard::folder("audit-log").unwrap().join("audit.log");
    let lines = ["create", "scale", "forbidden", "node", "pod", "deployment"].map(fixture);
    let stop = CancellationToken::new();
    house.follow(&log, stop.clone());
    append(&log, &lines[0]);
    house.told(0, 1).await;
    let (torn, rest) = lines[1].split_at(lines[1].len() - 40);
    append(&log, torn);
    append(&log, rest);
    append(&log, "nonsense\n\n");
    house.told(0, 2).await;
    fs::rename(&log, log.with_file_name("audit-1.log")).unwrap();
    append(&log.with_file_name("audit-1.log"), &lines[2]);
    append(&log, &lines[3]);
    house.told(1, 3).await;
    fs::copy(&log, log.with_file_name("audit-2.log")).unwrap();
    fs::write(&log, &lines[4]).unwrap();
    house.told(1, 4).await;
    house.assert_counted("lines_skipped_total{reason=\"malformed\"} 1");
    let length = fs::metadata(&log).unwrap().len();
    eventually(WITHIN, || async {
        let place: serde_json::Value = serde_json::from_slice(&fs::read(place(&log))?)?;
        anyhow::ensure!(place["offset"] == length, "{place}");
        Ok(())
    })
    .await
    .unwrap();

    stop.cancel();
    fs::rename(&log, log.with_file_name("audit-3.log")).unwrap();
    append(&log.with_file_name("audit-3.log"), &lines[5]);
    append(&log, &lines[2]);
    house.follow(&log, house.stop.clone());
    house.told(2, 5).await;
}

#[tokio::test]
async fn how_far_a_log_was_read_is_not_kept_before_it_is_stored() {
    let mut house = House::open();
    house.store.away.store(true, std::sync::atomic::Ordering::Relaxed);
    let log = guard::folder("audit-log").unwrap().join("audit.log");
    append(&log, &fixture("create"));
    house.follow(&log, house.stop.clone());
    eventually(WITHIN, || async {
        anyhow::ensure!(house.heard.last().is_some(), "not read yet");
        Ok(())
    })
    .await
    .unwrap();
    assert!(!place(&log).exists());
    house.store.away.store(false, std::sync::atomic::Ordering::Relaxed);
    eventually(WITHIN, || async {
        anyhow::ensure!(place(&log).exists(), "not kept yet");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(house.store.joined().len(), 1);
}

#[tokio::test]
async fn several_rotations_while_nobody_reads_leave_no_file_out_and_a_file_that_is_gone_is_counted() {
    let mut house = House::open();
    let log = guard::folder("audit-log").unwrap().join("audit.log");
    let aside = |name: &str| fs::rename(&log, log.with_file_name(name)).unwrap();
    let lines = ["create", "scale", "node", "pod"].map(fixture);
    let stop = CancellationToken::new();
    append(&log, &lines[0]);
    house.follow(&log, stop.clone());
    house.told(0, 1).await;
    eventually(WITHIN, || async {
        anyhow::ensure!(place(&log).exists(), "not kept yet");
        Ok(())
    })
    .await
    .unwrap();
    stop.cancel();
    for (at, (lines, name)) in lines[1..].iter().zip(["audit-1.log", "audit.log.1", ""]).enumerate() {
        append(&log, lines);
        let time = fs::metadata(&log).unwrap().modified().unwrap() + Duration::from_secs(at as u64);
        fs::File::options().write(true).open(&log).unwrap().set_modified(time).unwrap();
        if !name.is_empty() {
            aside(name);
        }
    }
    let stop = CancellationToken::new();
    house.follow(&log, stop.clone());
    house.told(0, 4).await;
    let length = fs::metadata(&log).unwrap().len();
    eventually(WITHIN, || async {
        let place: serde_json::Value = serde_json::from_slice(&fs::read(place(&log))?)?;
        anyhow::ensure!(place["offset"] == length, "{place}");
        Ok(())
    })
    .await
    .unwrap();
    stop.cancel();
    house.assert_counted("lines_skipped_total{reason=\"gone\"} 0");

    for name in ["audit-1.log", "audit.log.1", "audit.log"] {
        fs::remove_file(log.with_file_name(name)).unwrap();
    }
    append(&log, &fixture("deployment"));
    house.follow(&log, house.stop.clone());
    house.told(0, 5).await;
    house.assert_counted("lines_skipped_total{reason=\"gone\"} 1");
}

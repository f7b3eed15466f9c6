//! The panel over a real SQLite store in a folder of its own, asked without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use domain::clock::Clock;
use panel::PanelState;
use store::{EntryReader, Store};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::samples;

const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(crate) struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        samples::now()
    }
}

pub(crate) struct Panel {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) router: Router,
    _folder: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Panel {
    pub(crate) async fn with(entries: &[RedactedEntry]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store_sql::open(&format!("sqlite://{}", folder.path().join("audit.db").display())).unwrap();
        store.migrate().await.unwrap();
        store.prepare(samples::now()).await.unwrap();
        for batch in entries.chunks(500) {
            store.write(batch).await.unwrap();
        }
        let router = over(store.clone());
        Self { store, router, _folder: folder }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        get(&self.router, path).await
    }
}

pub(crate) fn over(entries: Arc<dyn EntryReader>) -> Router {
    panel::router(PanelState { entries, clock: Arc::new(Stopped) })
}

pub(crate) async fn get(router: &Router, path: &str) -> Answer {
    ask(router, Method::GET, path, &[(header::HOST, "localhost:8080")]).await
}

pub(crate) async fn ask(router: &Router, method: Method, path: &str, headers: &[(header::HeaderName, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

//! The panel over made-up entries, to look at while working on its pages: `cargo run -p panel --example preview [ADDRESS]`.
#![allow(clippy::unwrap_used, reason = "samples are right or the preview is of no use")]
#![allow(dead_code, reason = "the tests use more of the samples")]

#[path = "../tests/it/samples.rs"]
mod samples;

use std::io::Write;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::clock::Clock;

/// The instant that the samples are made around.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        samples::now()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let folder = tempfile::tempdir()?;
    let store = store_sql::open(&format!("sqlite://{}", folder.path().join("preview.db").display()))?;
    store.migrate().await?;
    store.write(&samples::showcase()).await?;
    store.write(&samples::plain(4_000)[3_800..]).await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "http://{}/settings/audit-logs", listener.local_addr()?)?;
    let state = panel::PanelState { entries: store, clock: Arc::new(Stopped) };
    Ok(axum::serve(listener, panel::router(state)).await?)
}

//! Fifty writes a second through the API server, each with its time, whatever becomes of the others.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::node::{Listening, Node};

const ASKED_PER_SECOND: u32 = 50;
/// Under less it says little that no write suffers.
pub const PER_SECOND_MIN: u32 = ASKED_PER_SECOND / 2;
/// Of one write, so that one that hangs is told and does not hang the test.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// Goes on until it is told to stop.
pub struct Load {
    stop: CancellationToken,
    writes: JoinSet<anyhow::Result<Written>>,
    _proxy: Listening,
}

/// All of a load, and how long it took until the last was answered.
pub struct Written {
    pub writes: Vec<Write>,
    pub took: Duration,
}

impl Written {
    pub fn per_second(&self) -> f64 {
        self.writes.len() as f64 / self.took.as_secs_f64()
    }
}

/// A ConfigMap that was created, or why it was not.
#[derive(Clone, Debug)]
pub struct Write {
    pub name: String,
    pub took: Duration,
    pub refused: Option<String>,
}

impl Load {
    pub async fn start(node: &Node, namespace: &str) -> anyhow::Result<Self> {
        let proxy = node.listening(&["proxy", "--port=0"]).await?;
        let url = format!("http://{}/api/v1/namespaces/{namespace}/configmaps", proxy.address);
        let stop = CancellationToken::new();
        let mut writes = JoinSet::new();
        writes.spawn(keep_writing(url, stop.clone()));
        Ok(Self { stop, writes, _proxy: proxy })
    }

    pub async fn finish(mut self) -> anyhow::Result<Written> {
        self.stop.cancel();
        self.writes.join_next().await.context("nothing was written")??
    }
}

async fn keep_writing(url: String, stop: CancellationToken) -> anyhow::Result<Written> {
    // An error means that somebody was first with the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(GIVEN_UP_AFTER).build()?;
    let mut ticks = interval(Duration::from_secs(1) / ASKED_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writes = JoinSet::new();
    let start = Instant::now();
    for number in 0_u32.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        writes.spawn(write(client.clone(), url.clone(), format!("load-{number}")));
    }
    Ok(Written { writes: writes.join_all().await, took: start.elapsed() })
}

async fn write(client: reqwest::Client, url: String, name: String) -> Write {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": name}});
    let start = Instant::now();
    let refused = match client.post(url).json(&object).send().await {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default())),
        Err(error) => Some(error.to_string()),
    };
    Write { name, took: start.elapsed(), refused }
}

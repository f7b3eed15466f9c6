//! Brings the API server's events as badly as anything may that keeps its promise to bring each at least once: late, twice,
//! three times, in another order, now to one replica and now to another, from before a restart after it.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use testkit::eventually;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::ground::Ground;
use crate::api::tls_client;
use crate::made_up::Random;

const TURN: Duration = Duration::from_millis(100);
const BROUGHT_WITHIN: Duration = Duration::from_secs(60);
/// Events of one post.
const TOGETHER_MAX: usize = 40;

/// Reads the log as it grows, on a task of its own.
pub struct Deliveries {
    task: JoinSet<anyhow::Result<usize>>,
    stop: watch::Sender<bool>,
}

struct Carrier {
    log: PathBuf,
    read: usize,
    client: Client,
    replicas: Vec<SocketAddr>,
    random: Random,
    /// To be brought, each as often as it stands here.
    waiting: VecDeque<Value>,
    brought: usize,
}

impl Deliveries {
    pub fn start(ground: &Ground, replicas: Vec<SocketAddr>, seed: u64) -> anyhow::Result<Self> {
        let mut carrier = Carrier {
            log: ground.control_plane.audit_log(),
            read: 0,
            client: tls_client(&ground.authority)?.build()?,
            replicas,
            random: Random::from(seed),
            waiting: VecDeque::new(),
            brought: 0,
        };
        let (stop, mut stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut turns = interval(TURN);
            while !*stopped.borrow_and_update() {
                turns.tick().await;
                carrier.turn().await?;
            }
            carrier.rest().await
        });
        Ok(Self { task, stop })
    }

    /// Brings what is left. Answers how many deliveries there were.
    pub async fn finish(mut self) -> anyhow::Result<usize> {
        self.stop.send_replace(true);
        self.task.join_next().await.context("nobody brings events")??
    }
}

impl Carrier {
    async fn turn(&mut self) -> anyhow::Result<()> {
        self.collect()?;
        for _ in 0..self.random.below(4) {
            let together = self.random.below(TOGETHER_MAX) + 1;
            let picked: Vec<_> = (0..together.min(self.waiting.len())).filter_map(|_| self.pick()).collect();
            // What is not taken is brought again.
            if let Err(refused) = self.post(&picked).await {
                self.waiting.extend(picked.iter().cloned());
                println!("not taken: {refused:#}");
                return Ok(());
            }
            self.brought += picked.len();
        }
        Ok(())
    }

    async fn rest(mut self) -> anyhow::Result<usize> {
        self.collect()?;
        while !self.waiting.is_empty() {
            let picked: Vec<_> = (0..TOGETHER_MAX.min(self.waiting.len())).filter_map(|_| self.pick()).collect();
            let at = self.random.below(self.replicas.len());
            eventually(BROUGHT_WITHIN, || self.post_to(self.replicas[at], &picked)).await?;
            self.brought += picked.len();
        }
        Ok(self.brought)
    }

    /// What was logged since; whole lines only.
    fn collect(&mut self) -> anyhow::Result<()> {
        let log = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        let new = &log[self.read..];
        let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in new[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Value = serde_json::from_slice(line)?;
            for _ in 0..=self.random.below(3) {
                self.waiting.push_back(event.clone());
            }
        }
        self.read += whole;
        Ok(())
    }

    fn pick(&mut self) -> Option<Value> {
        let at = self.random.below(self.waiting.len());
        self.waiting.swap_remove_back(at)
    }

    async fn post(&mut self, events: &[Value]) -> anyhow::Result<()> {
        let at = self.random.below(self.replicas.len());
        self.post_to(self.replicas[at], events).await
    }

    async fn post_to(&self, replica: SocketAddr, events: &[Value]) -> anyhow::Result<()> {
        let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events});
        let request = self.client.post(format!("https://{replica}/audit-events"));
        let response = request.header("content-type", "application/json").body(list.to_string()).send().await?;
        let status = response.status();
        ensure!(status == 200, "{status}: {}", response.text().await?);
        Ok(())
    }
}

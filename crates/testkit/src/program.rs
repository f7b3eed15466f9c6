//! The program itself, as its users run it: a process with a config file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{self, Response};
use crate::server::{Launch, Server};
use crate::{eventually, guard, ports};

const READY_WITHIN: Duration = Duration::from_secs(60);
const RECORDS_WITHIN: Duration = Duration::from_secs(60);
/// Four of the batch's usual intervals.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);
/// What Kubernetes gives a pod between SIGTERM and SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// In tests: `env!("CARGO_BIN_EXE_kubevision-audit")`.
    pub binary: PathBuf,
    pub kubeconfig: PathBuf,
    /// None: SQLite in the program's own folder.
    pub database_url: Option<String>,
    /// Where the API server reaches this machine; None: on the loopback.
    pub webhook_host: Option<String>,
    /// What the API server calls, where that is not the program itself.
    pub webhook_url: Option<String>,
    /// Further sections of config.yaml, but for `cluster`, `listen`, `kubernetes` and `database`.
    pub config: String,
    pub env: Vec<(String, String)>,
}

impl Options {
    pub fn new(binary: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            kubeconfig: kubeconfig.into(),
            database_url: None,
            webhook_host: None,
            webhook_url: None,
            config: String::new(),
            env: Vec::new(),
        }
    }
}

/// A `kubevision-audit serve` with ports of its own; dropping it kills it.
pub struct Program {
    binary: PathBuf,
    env: Vec<(String, String)>,
    folder: PathBuf,
    database_url: String,
    webhook: SocketAddr,
    panel: SocketAddr,
    metrics: SocketAddr,
    server: Server,
}

impl Program {
    /// Comes back when it is ready.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let mut program = Self::spawn(options)?;
        program.ready().await?;
        Ok(program)
    }

    /// Comes back when the process is there, whatever becomes of it.
    pub fn spawn(options: Options) -> anyhow::Result<Self> {
        Self::spawn_in(&guard::folder("program")?, options)
    }

    /// As [`Self::spawn`], with config, database and log in a folder that stays.
    pub fn spawn_in(folder: &Path, options: Options) -> anyhow::Result<Self> {
        let sqlite = || format!("sqlite://{}", folder.join("audit.db").display());
        let database_url = options.database_url.clone().unwrap_or_else(sqlite);
        let [mut webhook, panel, metrics] = [free_address()?, free_address()?, free_address()?];
        let webhook_url = match &options.webhook_host {
            None => format!("https://{webhook}"),
            Some(host) => {
                webhook.set_ip(Ipv4Addr::UNSPECIFIED.into());
                format!("https://{host}:{}", webhook.port())
            }
        };
        let webhook_url = options.webhook_url.as_ref().unwrap_or(&webhook_url);
        let listen = json!({"webhook": webhook, "panel": panel, "metrics": metrics});
        let path = folder.join("config.yaml");
        fs::write(&path, config(&options, &listen, webhook_url, &database_url)).context("writing config.yaml")?;
        let server = launch(&options.binary, &options.env).start(folder)?;
        let Options { binary, env, .. } = options;
        Ok(Self { binary, env, folder: folder.to_owned(), database_url, webhook, panel, metrics, server })
    }

    /// Starts it again after its end: same config, same ports, same files.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.server.ended()?.is_some(), "the program still runs");
        self.server = launch(&self.binary, &self.env).start(&self.folder)?;
        Ok(())
    }

    /// Until `/readyz` says yes; fails, with its log, when the program ends or time is over.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let metrics = self.metrics;
        eventually(READY_WITHIN, || {
            let alive = self.server.still_runs();
            async move {
                // One that ended won't become ready: that answer is final.
                if let Err(ended) = alive {
                    return Ok(Err(ended));
                }
                let Response { status, body } = http::get(metrics, "/readyz").await?;
                ensure!(status == 200, "/readyz answers {status}: {body}");
                Ok(Ok(()))
            }
        })
        .await
        .with_context(|| format!("the program is not ready; its log ends with\n{}", self.server.log_tail()))?
    }

    /// Until a write is recorded: an API server takes a moment to notice a webhook that was registered.
    ///
    /// `write` makes an object of the name it is given; it may be asked more than once.
    pub async fn until_it_records(&self, write: impl AsyncFn(String) -> anyhow::Result<()>) -> anyhow::Result<()> {
        static PROBES: AtomicU32 = AtomicU32::new(0);
        eventually(RECORDS_WITHIN, || async {
            // Of no earlier run: an entry that is there already would prove nothing.
            let name = format!("probe-{}-{}", process::id(), PROBES.fetch_add(1, Ordering::Relaxed));
            write(name.clone()).await?;
            eventually(RECORDED_WITHIN, || async {
                let found = self.json(&format!("/api/v1/audit-logs?name={name}")).await?;
                ensure!(found["items"].as_array().is_some_and(|items| !items.is_empty()), "{name} is not recorded");
                Ok(())
            })
            .await
        })
        .await
    }

    /// Holds config.yaml, the log, and the SQLite database if it is one.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    pub fn webhook(&self) -> SocketAddr {
        self.webhook
    }

    pub fn panel(&self) -> SocketAddr {
        self.panel
    }

    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    pub fn log_path(&self) -> &Path {
        self.server.log()
    }

    pub fn log(&self) -> anyhow::Result<String> {
        let path = self.log_path();
        fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    }

    /// From the panel's port; `path` with its query, encoded.
    pub async fn get(&self, path: &str) -> anyhow::Result<Response> {
        http::get(self.panel, path).await
    }

    /// As [`Self::get`]; fails on all but 200 and JSON.
    pub async fn json(&self, path: &str) -> anyhow::Result<Value> {
        let Response { status, body } = self.get(path).await?;
        ensure!(status == 200, "GET {path} answers {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("GET {path} answers no JSON: {body}"))
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// What it keeps in memory, as the kernel counts it.
    pub fn rss_bytes(&self) -> anyhow::Result<u64> {
        self.server.rss_bytes()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.server.ended()
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.server.wait(within).await
    }

    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.server.signal(signal)
    }

    /// As Kubernetes ends a pod; fails if it takes longer than that gives it.
    pub async fn sigterm_and_wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.server.stop(Signal::TERM, STOP_WITHIN).await
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.server.kill()
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, ports::free()?).into())
}

fn launch(binary: &Path, env: &[(String, String)]) -> Launch {
    let launch = Launch::new(binary).args(["serve", "--config", "config.yaml"]);
    env.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
}

/// A JSON value is a YAML value.
fn config(options: &Options, listen: &Value, webhook_url: &str, database_url: &str) -> String {
    let kubernetes = json!({"kubeconfig": options.kubeconfig, "webhook_url": webhook_url});
    let database = json!({"url": database_url});
    format!("cluster: local\nlisten: {listen}\nkubernetes: {kubernetes}\ndatabase: {database}\n{}", options.config)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// In the program's place: tells how it was called, and stays or ends.
    fn script(end: &str) -> Options {
        let path = guard::folder("script").unwrap().join("script");
        fs::write(&path, format!("#!/bin/sh\necho \"called with $* $MOOD\"; cat config.yaml; {end}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut options = Options::new(path, "/kube/config");
        options.config = "audit: {sync: true}\n".to_owned();
        options.env = vec![("MOOD".to_owned(), "cheerful".to_owned())];
        options
    }

    #[tokio::test]
    async fn the_program_gets_its_config_and_one_that_ends_is_told_with_its_log() {
        let said = format!("{:#}", Program::start(script("exit 7")).await.err().unwrap());
        for part in ["exit status: 7", "called with serve --config config.yaml cheerful", "audit: {sync: true}"] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }

    async fn logged(program: &Program, panel: &SocketAddr, starts: usize) {
        let told = format!("\"panel\":\"{panel}\"");
        eventually(READY_WITHIN, || async {
            let log = program.log()?;
            ensure!(log.matches(&told).count() == starts, "{log}");
            Ok(())
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_program_is_started_again_with_the_same_files_and_ports() {
        let mut program = Program::spawn(script("exec sleep 1000")).unwrap();
        let panel = program.panel();
        assert!(program.start_again().is_err(), "it still runs");
        logged(&program, &panel, 1).await;
        program.kill().unwrap();
        program.start_again().unwrap();
        logged(&program, &panel, 2).await;
        assert!(program.rss_bytes().unwrap() > 0);
        assert!(!program.sigterm_and_wait().await.unwrap().success());
    }
}

//! The real `kubectl`, as a person would use it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// No command of a test takes longer; one that hangs must not hang the test for ever.
const WITHIN: Duration = Duration::from_secs(120);

/// One call of `kubectl`; made by [`ControlPlane::kubectl`](super::ControlPlane::kubectl).
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
    args: Vec<OsString>,
    stdin: Option<String>,
}

/// What a call came to.
#[derive(Clone, Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Kubectl {
    /// `cache` holds what it learns of the cluster's API, which is not to mix with the user's own.
    pub fn new(program: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Self {
        let (program, kubeconfig, cache) = (program.into(), kubeconfig.into(), cache.into());
        Self { program, kubeconfig, cache, args: Vec::new(), stdin: None }
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What `-f -` reads.
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// With another identity than the administrator's; see
    /// [`ControlPlane::kubeconfig_for`](super::ControlPlane::kubeconfig_for).
    pub fn kubeconfig(mut self, kubeconfig: impl Into<PathBuf>) -> Self {
        self.kubeconfig = kubeconfig.into();
        self
    }

    /// Runs it to its end; that it failed is an answer too.
    pub async fn run(self) -> anyhow::Result<Output> {
        let told = self.told();
        let finished = timeout(WITHIN, self.finish()).await;
        finished.with_context(|| format!("{told} hangs"))?.with_context(|| format!("running {told}"))
    }

    /// Answers its output; fails, with what it said, if it failed.
    pub async fn ok(self) -> anyhow::Result<String> {
        let told = self.told();
        let output = self.run().await?;
        ensure!(output.status.success(), "{told}: {}", output.stderr.trim());
        Ok(output.stdout)
    }

    /// Answers what it complained of; fails if it succeeded.
    pub async fn refused(self) -> anyhow::Result<String> {
        let told = self.told();
        let output = self.run().await?;
        ensure!(!output.status.success(), "{told} succeeded: {}", output.stdout.trim());
        Ok(output.stderr)
    }

    /// As [`Self::ok`], of a call with `-o json`.
    pub async fn json(self) -> anyhow::Result<Value> {
        let told = self.told();
        let stdout = self.ok().await?;
        serde_json::from_str(&stdout).with_context(|| format!("the output of {told} is not JSON: {stdout}"))
    }

    /// Starts it without waiting, for sessions (`exec`, `port-forward`, `get --watch`); dropping the child ends it.
    pub fn spawn(&self) -> anyhow::Result<Child> {
        self.command().spawn().with_context(|| format!("starting {}", self.told()))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(&self.args)
            .env_remove("KUBECONFIG")
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn finish(self) -> anyhow::Result<Output> {
        let mut child = self.command().spawn()?;
        let pipe = child.stdin.take();
        let feed = async {
            match (pipe, &self.stdin) {
                (Some(mut pipe), Some(text)) => pipe.write_all(text.as_bytes()).await,
                _ => Ok(()),
            }
        };
        let (fed, output) = tokio::join!(feed, child.wait_with_output());
        let output = output?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if let Err(error) = fed
            && output.status.success()
        {
            bail!("it did not read its input: {error}");
        }
        Ok(Output { status: output.status, stdout: String::from_utf8(output.stdout)?, stderr })
    }

    fn told(&self) -> String {
        let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        format!("kubectl {}", args.join(" "))
    }
}

//! The node that `make cluster` brought up, for one test at a time.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::control_plane::Kubectl;
use testkit::tools::{self, HELM, KUBECTL};
use testkit::{eventually, guard};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Mutex, MutexGuard};

/// A pod starts within two seconds; a machine may be busy.
pub const STARTED_WITHIN: Duration = Duration::from_secs(90);
/// Where namespaces, pods and volumes are cleared away by controllers.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// Where the machine is reached from the node and its pods.
pub const MACHINE: &str = "10.98.0.1";

pub struct Node {
    kubeconfig: PathBuf,
    cache: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// A kubectl that listens until this is dropped. It tells of each connection, and dies where nobody reads that.
pub struct Listening {
    pub address: SocketAddr,
    _child: Child,
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Node {
    /// Fails where no node is up: this is never skipped.
    pub async fn alone() -> anyhow::Result<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let kubeconfig = std::env::var_os("KUBECONFIG").context("KUBECONFIG is not set: run `make test-cluster`")?;
        Ok(Self { kubeconfig: kubeconfig.into(), cache: guard::folder("kubectl-cache")?, _turn: turn })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn kubectl<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> anyhow::Result<Kubectl> {
        Ok(Kubectl::new(tools::find(KUBECTL)?, &self.kubeconfig, &self.cache).args(args))
    }

    /// kubectl as it forwards or proxies, and the address that it says it listens at.
    pub async fn listening(&self, args: &[&str]) -> anyhow::Result<Listening> {
        let mut child = self.kubectl(args)?.spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("kubectl has no output")?).lines();
        let line = tokio::time::timeout(STARTED_WITHIN, lines.next_line()).await??;
        let line = line.with_context(|| format!("kubectl {} ended", args.join(" ")))?;
        let address = line.split_whitespace().find_map(|word| word.parse::<SocketAddr>().ok());
        let address = address.with_context(|| format!("kubectl {} says {line:?}", args.join(" ")))?;
        Ok(Listening { address, _child: child, _lines: lines })
    }

    /// kubectl as somebody else, with an administrator's rights.
    pub fn kubectl_as(&self, user: &str, args: &[&str]) -> anyhow::Result<Kubectl> {
        let who = ["--as", user, "--as-group", "system:masters"];
        self.kubectl(who.iter().chain(args))
    }

    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        self.kubectl(args)?.ok().await
    }

    pub async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        self.kubectl(["apply", "-f", "-"])?.stdin(object.to_string()).ok().await.map(drop)
    }

    pub async fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        self.kubectl(args.iter().chain(&["-o", "json"]))?.json().await
    }

    /// Answers its output; fails with what it said.
    pub async fn helm(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(tools::find(HELM)?);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().await.with_context(|| format!("running helm {}", args.join(" ")))?;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "helm {}: {}{}", args.join(" "), stdout.trim(), stderr.trim());
        Ok(stdout.into_owned())
    }

    /// A namespace whose pods have to be of the restricted kind.
    pub async fn restricted_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        }}))
        .await
    }

    /// With all that is in it. That a namespace can be deleted is itself worth knowing: a webhook or an APIService left
    /// behind would stop it.
    pub async fn without_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.run(&["delete", "namespace", name, "--ignore-not-found", "--wait=false"]).await?;
        eventually(GONE_WITHIN, || async {
            let found = self.run(&["get", "namespace", name, "--ignore-not-found", "-o", "name"]).await?;
            ensure!(found.is_empty(), "the namespace {name} is still there");
            Ok(())
        })
        .await
    }
}

/// A chore of the node itself.
pub async fn cluster(args: &[&str]) -> anyhow::Result<()> {
    let xtask = std::env::var_os("KUBEVISION_AUDIT_XTASK").context("run `make test-cluster`")?;
    let status = Command::new(xtask).arg("cluster").args(args).status().await?;
    ensure!(status.success(), "cluster {args:?}: {status}");
    Ok(())
}

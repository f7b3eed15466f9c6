//! The chart, installed as a user would, and what the program in it tells.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::tools::{self, PAUSE, Tool};
use testkit::{eventually, http};

use crate::node::Node;

pub const NAME: &str = "kubevision-audit";
pub const NAMESPACE: &str = "kubevision-audit";
pub const CHART: &str = "charts/kubevision-audit";
pub const REGISTRATION: &str = "validatingwebhookconfiguration/kubevision-audit";
/// Half a second until it is flushed, and a busy machine.
pub const RECORDED_WITHIN: Duration = Duration::from_secs(30);

pub struct Release<'a> {
    node: &'a Node,
    /// From `helm install` until it came back with all pods ready.
    pub ready_after: Duration,
}

impl<'a> Release<'a> {
    /// With `--set` of each; comes back when its pods are ready.
    pub async fn install(node: &'a Node, values: &[&str]) -> anyhow::Result<Self> {
        node.restricted_namespace(NAMESPACE).await?;
        let start = Instant::now();
        let mut args = vec!["install", NAME, CHART, "-n", NAMESPACE, "--wait", "--timeout", "90s"];
        args.extend(values.iter().flat_map(|value| ["--set", value]));
        if let Err(error) = node.helm(&args).await {
            let told = Self { node, ready_after: start.elapsed() }.told().await;
            return Err(error.context(told));
        }
        Ok(Self { node, ready_after: start.elapsed() })
    }

    /// What a person would look at first when it does not work.
    async fn told(&self) -> String {
        let pods = self.node.run(&["describe", "pods", "-n", NAMESPACE]).await.unwrap_or_default();
        let logs = ["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=kubevision-audit", "--tail=30", "--prefix"];
        let logs = self.node.run(&logs).await.unwrap_or_default();
        format!("{pods}\n{logs}")
    }

    /// Through `helm uninstall` and its hook; comes back when the pods are gone too.
    pub async fn uninstall(self) -> anyhow::Result<()> {
        self.node.helm(&["uninstall", NAME, "-n", NAMESPACE, "--wait", "--timeout", "120s"]).await.map(drop)
    }

    /// From a port of one of its pods, which nothing outside the pod reaches but by port-forward.
    pub async fn get(&self, port: u16, path: &str) -> anyhow::Result<http::Response> {
        let args = ["port-forward", "-n", NAMESPACE, "deployment/kubevision-audit", &format!(":{port}")];
        let forward = self.node.listening(&args).await?;
        http::get(forward.address, path).await
    }

    pub async fn entries(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/v1/audit-logs?limit=500&{query}");
        let answer = self.get(8080, &path).await?;
        ensure!(answer.status == 200, "GET {path} answers {}: {}", answer.status, answer.body);
        let page: Value = serde_json::from_str(&answer.body)?;
        ensure!(page["next"].is_null(), "more than one page matches {query}");
        Ok(page["items"].as_array().context("items is no list")?.clone())
    }

    /// The entries that match, once there are any.
    pub async fn recorded(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        eventually(RECORDED_WITHIN, || async {
            let found = self.entries(query).await?;
            ensure!(!found.is_empty(), "nothing is recorded of {query}");
            Ok(found)
        })
        .await
    }

    /// Writes until one is recorded: the first calls after a start may find that the Service's address does not lead
    /// there yet.
    pub async fn until_it_records(&self, namespace: &str) -> anyhow::Result<()> {
        static PROBES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        eventually(RECORDED_WITHIN, || async {
            let name = format!("probe-{}", PROBES.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            self.node.run(&["create", "configmap", &name, "-n", namespace]).await?;
            eventually(Duration::from_secs(2), || async {
                let found = self.entries(&format!("name={name}")).await?;
                ensure!(found.len() == 1, "{name} is not recorded: {found:?}");
                Ok(())
            })
            .await
        })
        .await
    }

    /// Its pods that serve.
    pub async fn pods(&self) -> anyhow::Result<Vec<String>> {
        let selector = "app.kubernetes.io/name=kubevision-audit";
        let pods = self.node.json(&["get", "pods", "-n", NAMESPACE, "-l", selector]).await?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let serving = pods.iter().filter(|pod| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.filter(|it| it["type"] == "Ready" && it["status"] == "True").count() == 1;
            ready && pod["metadata"]["deletionTimestamp"].is_null()
        });
        Ok(serving.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    pub async fn rolled_out(&self) -> anyhow::Result<()> {
        let args = ["rollout", "status", "deployment/kubevision-audit", "-n", NAMESPACE, "--timeout=90s"];
        self.node.run(&args).await.map(drop)
    }
}

/// Where a webhook was called and did not answer, by the API server's own count.
pub async fn failed_open(node: &Node) -> anyhow::Result<u64> {
    let metrics = node.run(&["get", "--raw", "/metrics"]).await?;
    let samples = metrics.lines().filter(|line| {
        line.starts_with("apiserver_admission_webhook_fail_open_count{") && line.contains("audit.kubevision.io")
    });
    let counts = samples.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?));
    counts.sum()
}

/// A Deployment that the restricted kind of namespace admits, of an image that is on the node.
pub fn deployment(name: &str, replicas: u32) -> Value {
    let labels = json!({"app": name});
    let locked = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65_532,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                {"name": "app", "image": pause(), "imagePullPolicy": "Never", "securityContext": locked},
            ]},
        }},
    })
}

/// The node's own image that does nothing.
fn pause() -> String {
    image(PAUSE)
}

/// One of the node's own images: its tag changes with what it is built from.
pub fn image(tool: Tool) -> String {
    let program = tools::cached(tool).expect("the cache is known");
    let tag = program.parent().and_then(|folder| folder.file_name()).expect("it lies in a folder");
    format!("kubevision.local/{}:{}", tool.name, tag.to_string_lossy())
}

//! A cluster of its own with the AuditPolicies' definition, and the program in it: as its own ServiceAccount, with the
//! rights of deploy/rbac.yaml and no others.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::program::Options as ProgramOptions;
use testkit::{Program, eventually, http};

use crate::account;

const BINARY: &str = env!("CARGO_BIN_EXE_kubevision-audit");
pub const CRD: &str = include_str!("../../crds/auditpolicies.audit.kubevision.io.yaml");
/// What is promised: from `kubectl apply` to another record.
pub const EFFECT_WITHIN: Duration = Duration::from_secs(2);
pub const WITHIN: Duration = Duration::from_secs(20);

/// A cluster of its own with the definition installed, and the program in it.
pub struct Cluster {
    pub control_plane: ControlPlane,
    pub program: Program,
    /// A test has taken a right from the program: it is refused what it needs.
    pub without_a_right: bool,
}

impl Cluster {
    pub async fn start(config: &str) -> anyhow::Result<Self> {
        Self::on(None, config).await
    }

    pub async fn on(database_url: Option<String>, config: &str) -> anyhow::Result<Self> {
        Self::of(Options::default(), database_url, config).await
    }

    pub async fn of(options: Options, database_url: Option<String>, config: &str) -> anyhow::Result<Self> {
        let control_plane = prepared(options).await?;
        let mut options = ProgramOptions::new(BINARY, account::kubeconfig(&control_plane).await?);
        options.config = config.to_owned();
        options.database_url = database_url;
        let program = Program::start(options).await?;
        program.until_it_records(async |name| write(&control_plane, &name).await).await?;
        Ok(Self { control_plane, program, without_a_right: false })
    }

    pub async fn apply(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        let policy = json!({
            "apiVersion": "audit.kubevision.io/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": name}, "spec": spec,
        });
        self.control_plane.kubectl(["apply", "-f", "-"]).stdin(policy.to_string()).ok().await.map(drop)
    }

    pub async fn policy(&self, name: &str) -> anyhow::Result<Value> {
        self.control_plane.kubectl(["get", "auditpolicy", name, "-o", "json"]).json().await
    }

    /// The Ready condition, once it speaks of the present generation.
    pub async fn ready(&self, name: &str) -> anyhow::Result<Value> {
        eventually(WITHIN, || async {
            let policy = self.policy(name).await?;
            let condition = policy["status"]["conditions"][0].clone();
            ensure!(condition["observedGeneration"] == policy["metadata"]["generation"], "{policy}");
            Ok(condition)
        })
        .await
    }

    /// Writes ConfigMaps until the entry of one is as expected; tells how long that took.
    pub async fn until(&self, what: &str, expected: impl Fn(&[Value]) -> bool) -> anyhow::Result<Duration> {
        static WRITES: AtomicU32 = AtomicU32::new(0);
        let start = Instant::now();
        eventually(WITHIN, || async {
            let name = format!("w-{}", WRITES.fetch_add(1, Ordering::Relaxed));
            let written = start.elapsed();
            write(&self.control_plane, &name).await?;
            eventually(Duration::from_millis(1_500), || async {
                let found = self.entries(&format!("name={name}")).await?;
                ensure!(expected(&found), "{what}: {found:?}");
                Ok(())
            })
            .await?;
            Ok(written)
        })
        .await
    }

    pub async fn entries(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let found = self.program.json(&format!("/api/v1/audit-logs?{query}")).await?;
        Ok(found["items"].as_array().cloned().unwrap_or_default())
    }

    pub async fn reviews(&self) -> anyhow::Result<u64> {
        let metrics = http::get(self.program.metrics(), "/metrics").await?.body;
        let reviews = metrics.lines().filter(|line| line.starts_with("kubevision_audit_admission_reviews_total{"));
        Ok(reviews.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.without_a_right {
            account::nothing_was_refused(&self.control_plane).unwrap();
        }
    }
}

/// With what an installation needs: the definition, and a namespace that others work in.
pub async fn prepared(options: Options) -> anyhow::Result<ControlPlane> {
    let control_plane = ControlPlane::start_with(options).await?;
    control_plane.kubectl(["create", "namespace", "shop"]).ok().await?;
    control_plane.kubectl(["apply", "-f", "-"]).stdin(CRD).ok().await?;
    let established = ["wait", "--for=condition=Established", "crd/auditpolicies.audit.kubevision.io"];
    control_plane.kubectl(established).ok().await?;
    Ok(control_plane)
}

pub async fn write(control_plane: &ControlPlane, name: &str) -> anyhow::Result<()> {
    control_plane.kubectl(["create", "configmap", name, "-n", "shop"]).ok().await.map(drop)
}

pub fn of_policy(found: &[Value], policy: &str) -> bool {
    found.len() == 1 && found[0]["policy"] == policy
}

//! From nothing to the first entry, and back to nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use testkit::eventually;

use crate::node::{Node, STARTED_WITHIN};
use crate::release::{CHART, NAME, NAMESPACE, REGISTRATION, Release, deployment};

/// What is promised of a machine that does nothing else.
const FIRST_ENTRY_GOAL: Duration = Duration::from_secs(20);
const FIRST_ENTRY_MAX: Duration = Duration::from_secs(60);
/// By the values: the policies and what was recorded. By Helm: the pod of the last `helm test`, with its log.
const KEPT: [&str; 3] = [
    "customresourcedefinition.apiextensions.k8s.io/auditpolicies.audit.kubevision.io",
    "persistentvolumeclaim/kubevision-audit",
    "pod/kubevision-audit-status",
];
/// What the kernel counts for its cgroup and can't give back, the pages of the program itself among it.
const RSS_IDLE_MAX_BYTES: u64 = 30 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_install_with_nothing_to_edit_records_who_did_what_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    node.restricted_namespace("shop").await?;
    let before = installed(&node).await?;

    let start = Instant::now();
    let release = Release::install(&node, &[]).await?;
    let create = node.kubectl_as("alice", &["apply", "-n", "shop", "-f", "-"])?;
    create.stdin(deployment("checkout", 2).to_string()).ok().await?;
    let created = release.recorded("resource=Deployment&name=checkout&action=create").await?;
    let first_entry = start.elapsed();
    println!(
        "ready {:.1?} after helm install, the first entry after {first_entry:.1?} (goal {FIRST_ENTRY_GOAL:?})",
        release.ready_after
    );
    assert!(first_entry < FIRST_ENTRY_MAX, "{first_entry:?}");
    assert_eq!(created[0]["user"], "alice", "{created:#?}");

    node.run(&["rollout", "status", "deployment/checkout", "-n", "shop", "--timeout=60s"]).await?;
    let scale = ["scale", "deployment/checkout", "-n", "shop", "--replicas=1"];
    node.kubectl_as("bob", &scale)?.ok().await?;
    let scaled = release.recorded("resource=Deployment&name=checkout&user=bob").await?;
    let changes = scaled[0]["detail"]["changes"].to_string();
    assert!(changes.contains("/spec/replicas") && changes.contains('2') && changes.contains('1'), "{scaled:#?}");

    controllers_and_the_kubelet_are_recorded(&release).await?;
    noise_is_not(&release).await?;
    rests_in_little_memory(&node).await?;

    println!("{}", node.helm(&["test", NAME, "-n", NAMESPACE, "--timeout", "60s"]).await?);
    release.uninstall().await?;
    eventually(STARTED_WITHIN, || async {
        let left: Vec<_> = installed(&node).await?.difference(&before).cloned().collect();
        let unmeant: Vec<_> = left.iter().filter(|name| !KEPT.contains(&name.as_str())).collect();
        ensure!(unmeant.is_empty(), "left behind: {unmeant:?}");
        Ok(())
    })
    .await?;
    node.run(&["create", "configmap", "afterwards", "-n", "shop"]).await?;
    node.without_namespace(NAMESPACE).await?;
    node.without_namespace("shop").await
}

/// Each write under the name of who made it, as nobody but a real cluster makes them.
async fn controllers_and_the_kubelet_are_recorded(release: &Release<'_>) -> anyhow::Result<()> {
    let account = |controller: &str| format!("system:serviceaccount:kube-system:{controller}");
    for (query, user) in [
        ("resource=ReplicaSet&action=create&namespace=shop", account("deployment-controller")),
        ("resource=Pod&action=create&namespace=shop", account("replicaset-controller")),
        ("resource=Pod/binding&namespace=shop", "system:kube-scheduler".to_owned()),
        // The replica that is one too many is marked by its controller and taken out by the node's agent.
        ("resource=Pod&action=delete&namespace=shop&user=system:node:", String::new()),
    ] {
        let query = query.replace("&user=system:node:", "");
        let found = release.recorded(&query).await?;
        let users: BTreeSet<_> = found.iter().filter_map(|entry| entry["user"].as_str()).collect();
        let known = if user.is_empty() {
            users.iter().any(|user| user.starts_with("system:node:"))
        } else {
            users.contains(user.as_str())
        };
        assert!(known, "{query} by {users:?}, not by {user:?}");
    }
    Ok(())
}

/// After a minute of a cluster's life with pods that came and went.
async fn noise_is_not(release: &Release<'_>) -> anyhow::Result<()> {
    let all: Vec<Value> = release.entries("").await?;
    let kinds: BTreeSet<_> = all.iter().filter_map(|entry| entry["resource"].as_str()).collect();
    println!("{} entries of {kinds:?}", all.len());
    for noise in ["Lease", "Event", "Node/status", "Pod/status", "EndpointSlice", "Endpoints", "TokenReview"] {
        assert!(!kinds.contains(noise), "{noise} is recorded");
    }
    Ok(())
}

async fn rests_in_little_memory(node: &Node) -> anyhow::Result<()> {
    let summary = node.run(&["get", "--raw", "/api/v1/nodes/kubevision/proxy/stats/summary"]).await?;
    let summary: Value = serde_json::from_str(&summary)?;
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let own = pods.iter().find(|pod| pod["podRef"]["namespace"] == NAMESPACE);
    let memory = own.map(|pod| pod["containers"][0]["memory"].clone()).unwrap_or_default();
    let bytes = |name: &str| memory[name].as_u64().context("the kubelet does not tell what the pod takes");
    let (anonymous, working_set) = (bytes("rssBytes")?, bytes("workingSetBytes")?);
    println!("idle: {} MiB of its own, {} MiB working set", anonymous >> 20, working_set >> 20);
    assert!(working_set <= RSS_IDLE_MAX_BYTES, "{working_set} bytes");
    Ok(())
}

/// Everything of ours that the cluster holds, by name.
async fn installed(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let kinds = "validatingwebhookconfigurations,clusterroles,clusterrolebindings,customresourcedefinitions,\
                 persistentvolumeclaims,roles,rolebindings,serviceaccounts,secrets,configmaps,services,deployments,\
                 poddisruptionbudgets,networkpolicies,jobs,pods";
    let found = node.run(&["get", kinds, "-A", "-o", "name"]).await?;
    let ours = found.lines().filter(|name| name.contains("kubevision") && !name.contains("kubevision-audit-cluster"));
    Ok(ours.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_install_into_kube_system() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    let refused = node.helm(&["install", NAME, CHART, "-n", "kube-system"]).await;
    let told = format!("{:#}", refused.expect_err("it was installed"));
    assert!(told.contains("kube-system"), "{told}");
    let found = node.run(&["get", REGISTRATION, "--ignore-not-found", "-o", "name"]).await?;
    assert_eq!(found, "");
    Ok(())
}

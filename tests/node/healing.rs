//! What breaks heals without hands.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use testkit::eventually;

use crate::node::{Node, STARTED_WITHIN, cluster};
use crate::release::{NAMESPACE, REGISTRATION, Release, deployment};

const ROTATED_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn certificates_the_api_server_and_the_node_are_replaced_and_it_goes_on() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    node.restricted_namespace("shop").await?;
    let release = Release::install(&node, &[]).await?;
    release.until_it_records("shop").await?;

    let before = trusted(&node).await?;
    let rotate = ["exec", "-n", NAMESPACE, "deployment/kubevision-audit", "--", "/kubevision-audit", "rotate-ca"];
    println!("{}", node.run(&rotate).await?);
    eventually(ROTATED_WITHIN, || async {
        let now = trusted(&node).await?;
        let (certificates, kept) = (now.matches("BEGIN CERTIFICATE").count(), now.contains(before.trim()));
        ensure!(certificates == 1 && !kept, "{certificates} certificates, the old one among them: {kept}");
        Ok(())
    })
    .await?;
    release.until_it_records("shop").await?;

    cluster(&["restart-apiserver"]).await?;
    release.until_it_records("shop").await?;
    let entries = release.entries("resource=ConfigMap&namespace=shop&action=create").await?.len();

    cluster(&["down"]).await?;
    cluster(&["up"]).await?;
    eventually(STARTED_WITHIN, || async {
        let serving = release.pods().await?;
        ensure!(serving.len() == 1, "{serving:?}");
        Ok(())
    })
    .await?;
    release.until_it_records("shop").await?;
    let now = release.entries("resource=ConfigMap&namespace=shop&action=create").await?.len();
    assert!(now > entries, "{entries} entries before the node's restart, {now} after it");
    release.uninstall().await?;
    node.without_namespace(NAMESPACE).await?;
    node.without_namespace("shop").await
}

/// PEM of what the API server trusts of the webhook.
async fn trusted(node: &Node) -> anyhow::Result<String> {
    use base64::Engine as _;
    let registration = node.json(&["get", REGISTRATION]).await?;
    let bundle = registration["webhooks"][0]["clientConfig"]["caBundle"].as_str().context("no caBundle")?.to_owned();
    Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(bundle)?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_gone_for_good_stops_nothing_but_what_a_deny_policy_covers() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    for namespace in ["shop", "vault"] {
        node.restricted_namespace(namespace).await?;
    }
    let release = Release::install(&node, &[]).await?;
    let policy = json!({"apiVersion": "audit.kubevision.io/v1alpha1", "kind": "AuditPolicy",
        "metadata": {"name": "vault"},
        "spec": {"level": "Full", "sync": true, "onWriteFailure": "Deny", "match": {"namespaces": ["vault"]}}});
    node.apply(&policy).await?;
    let ready = ["wait", "--for=condition=Ready", "auditpolicy/vault", "--timeout=30s"];
    node.run(&ready).await?;
    release.until_it_records("vault").await?;
    let scale = ["scale", "deployment/kubevision-audit", "-n", NAMESPACE, "--replicas=0"];
    node.run(&scale).await?;
    eventually(STARTED_WITHIN, || async {
        let told = node.kubectl(["create", "configmap", "denied", "-n", "vault"])?.refused().await?;
        ensure!(told.contains("deny.audit.kubevision.io"), "{told}");
        Ok(())
    })
    .await?;
    let web = deployment("web", 1);
    node.kubectl(["apply", "-n", "shop", "-f", "-"])?.stdin(web.to_string()).ok().await?;
    node.run(&["rollout", "status", "deployment/web", "-n", "shop", "--timeout=60s"]).await?;
    node.run(&["scale", "deployment/web", "-n", "shop", "--replicas=2"]).await?;
    node.run(&["delete", "deployment/web", "-n", "shop"]).await?;
    // Its hook takes the webhooks away, the one that refuses too, though no replica is there to do so.
    release.uninstall().await?;
    node.run(&["create", "configmap", "allowed", "-n", "vault"]).await?;
    node.run(&["delete", "auditpolicy", "vault"]).await?;
    for namespace in [NAMESPACE, "shop", "vault"] {
        node.without_namespace(namespace).await?;
    }
    Ok(())
}

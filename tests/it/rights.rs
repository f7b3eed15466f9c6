//! The program's rights in a cluster: each is needed, and none is missing.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::control_plane::Options;
use testkit::eventually;
use testkit::postgres::Postgres;

use crate::cluster::{Cluster, RBAC, WITHIN};

const OWN: &str = "system:serviceaccount:kubevision-audit:kubevision-audit";
/// Everything that the program asks of the API server, and nothing else.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
    {"level": "Metadata", "users": ["system:serviceaccount:kubevision-audit:kubevision-audit"]}, {"level": "None"}]}"#;

/// A verb on a resource: `patch auditpolicies/status`.
type Right = String;

/// What deploy/rbac.yaml grants.
fn granted() -> anyhow::Result<BTreeSet<Right>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(RBAC)?;
    let rules = objects.iter().filter_map(|object| object["rules"].as_array()).flatten();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let each = rules.flat_map(|rule| {
        let verbs = texts(&rule["verbs"]);
        let right = move |resource: String| verbs.clone().into_iter().map(move |verb| format!("{verb} {resource}"));
        texts(&rule["resources"]).into_iter().flat_map(right)
    });
    Ok(each.collect())
}

/// What the API server saw the program do, and what it refused it.
fn seen(cluster: &Cluster) -> anyhow::Result<(BTreeSet<Right>, Vec<Value>)> {
    let path = cluster.control_plane.audit_log();
    let log = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let own = || events.iter().filter(|event| event["user"]["username"] == OWN);
    let right = |event: &Value| {
        let reference = &event["objectRef"];
        let subresource = reference["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        let resource = reference["resource"].as_str().unwrap_or_default().to_owned() + &subresource;
        let verb = event["verb"].as_str().unwrap_or_default();
        format!("{verb} {resource}")
    };
    let refused = own().filter(|event| event["responseStatus"]["code"] == 403).cloned().collect();
    Ok((own().map(right).collect(), refused))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_right_that_is_granted_is_used_and_no_other_is_asked_for() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let options = Options { audit_policy: Some(AUDIT_POLICY.to_owned()), ..Options::default() };
    let cluster = Cluster::of(options, Some(postgres.create_database().await?), "").await?;
    cluster.apply("all", json!({"level": "Full", "match": {"namespaceSelector": {}}})).await?;
    cluster.ready("all").await?;
    // Somebody puts a webhook of their own beside ours, which only a replacement of the whole takes away.
    let another = json!([{"op": "add", "path": "/webhooks/-", "value": {
        "name": "another.example.org", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "rules": [],
    }}]);
    let patch = format!("--patch={another}");
    let edit = ["patch", "validatingwebhookconfiguration", "kubevision-audit", "--type=json", &patch];
    cluster.control_plane.kubectl(edit).ok().await?;

    let granted = granted()?;
    eventually(WITHIN, || async {
        let (used, _) = seen(&cluster)?;
        let unused: Vec<_> = granted.difference(&used).collect();
        ensure!(unused.is_empty(), "granted, and nothing needs it: {unused:?}; used: {used:?}");
        Ok(())
    })
    .await?;
    let (used, refused) = seen(&cluster)?;
    assert!(refused.is_empty(), "refused: {refused:?}");
    // What everybody may: the API server's version, and who they are.
    let beyond: Vec<_> = used.difference(&granted).collect();
    assert!(beyond.is_empty(), "done without a rule for it: {beyond:?}");
    Ok(())
}

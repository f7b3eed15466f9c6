//! The program's rights in a cluster: each is needed, and none is missing.

use std::collections::BTreeSet;

use anyhow::ensure;
use serde_json::{Value, json};
use testkit::control_plane::Options;
use testkit::eventually;
use testkit::postgres::Postgres;

use crate::account::{self, AUDIT_POLICY, RBAC};
use crate::cluster::{Cluster, WITHIN};

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

/// What the API server saw the program do.
fn used(cluster: &Cluster) -> anyhow::Result<BTreeSet<Right>> {
    let right = |event: &Value| {
        let reference = &event["objectRef"];
        let subresource = reference["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        let resource = reference["resource"].as_str().unwrap_or_default().to_owned() + &subresource;
        let verb = event["verb"].as_str().unwrap_or_default();
        format!("{verb} {resource}")
    };
    // What is served may be asked by whoever is authenticated: that is no right of ours.
    let of_resource = |event: &&Value| event["objectRef"].is_object();
    Ok(account::requests(&cluster.control_plane)?.iter().filter(of_resource).map(right).collect())
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
        let used = used(&cluster)?;
        // Objects are looked at where their last write is not followed by another: of each kind some day.
        let unused: Vec<_> = granted.difference(&used).filter(|right| !right.starts_with("get ")).collect();
        ensure!(unused.is_empty(), "granted, and nothing needs it: {unused:?}; used: {used:?}");
        Ok(())
    })
    .await?;
    account::nothing_was_refused(&cluster.control_plane)?;
    let used = used(&cluster)?;
    // Everybody may ask what they may.
    let asked = "create selfsubjectaccessreviews";
    let beyond: Vec<_> = used.difference(&granted).filter(|right| *right != asked).collect();
    assert!(beyond.is_empty(), "done without a rule for it: {beyond:?}");
    Ok(())
}

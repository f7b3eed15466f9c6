//! What no webhook is asked about, recorded by the whole program, in both databases.

use anyhow::ensure;
use serde_json::{Value, json};
use testkit::eventually;

use testkit::Program;
use testkit::control_plane::{ADMINISTRATORS, Options};
use testkit::program::Options as ProgramOptions;

use crate::account;
use crate::cluster::prepared;
use crate::house::{BOTH, House, RECORDED_WITHIN};

const BINARY: &str = env!("CARGO_BIN_EXE_kubevision-audit");
const NAMESPACE: &str = "kubevision-audit";
const AUDIT_POLICY: &str = include_str!("../../deploy/control-plane/audit-policy.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_webhooks_and_of_the_programs_own_namespace_are_recorded_without_a_user() -> anyhow::Result<()> {
    for database in BOTH {
        let mut house = House::on(database, "").await?;
        let (hook, secret) = (format!("hook-{database:?}").to_lowercase(), format!("keys-{database:?}").to_lowercase());
        let apply = async |house: &House, object: Value| {
            let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
            house.control_plane.kubectl(apply).stdin(object.to_string()).ok().await.map(drop)
        };
        let hook_object = |labels: Value| {
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                   "metadata": {"name": hook, "labels": labels}})
        };
        let secret_object = |value: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": NAMESPACE},
                   "stringData": {"password": value}})
        };
        apply(&house, hook_object(json!({}))).await?;
        apply(&house, secret_object("canary-70b1")).await?;
        apply(&house, secret_object("canary-70b2")).await?;
        let told = told(&house, &secret, &["create", "update"]).await?;
        assert!(told.iter().all(|entry| entry["user"] == "" && entry["outcome"] == "confirmed"), "{told:#?}");
        assert!(told.iter().all(|entry| entry["source"] == "watch" && entry["evidence"] == "probe"), "{told:#?}");
        let text = serde_json::to_string(&told)?;
        assert!(!text.contains("canary") && !text.contains("Y2FuYXJ5"), "{text}");
        assert_eq!(told[0]["detail"]["changes"][0]["path"], "/data/password", "{told:#?}");
        assert!(told[0]["detail"]["system"]["user"].as_str().is_some_and(|why| why.starts_with("not known: ")));
        self::told(&house, &hook, &["create"]).await?;

        // While nobody looks.
        house.program.sigterm_and_wait().await?;
        apply(&house, hook_object(json!({"team": "a"}))).await?;
        house.control_plane.kubectl(["delete", "secret", &secret, "-n", NAMESPACE]).ok().await?;
        house.program.start_again()?;
        house.program.ready().await?;
        let told = self::told(&house, &secret, &["create", "update", "delete"]).await?;
        assert_eq!(told[0]["detail"]["summary"], "deleted while nobody looked", "{told:#?}");
        let told = self::told(&house, &hook, &["create", "update"]).await?;
        assert_eq!(told[0]["detail"]["summary"], "changed while nobody looked", "{told:#?}");
        house.control_plane.kubectl(["delete", "mutatingwebhookconfiguration", &hook]).ok().await?;
        self::told(&house, &hook, &["create", "update", "delete"]).await?;
        house.program.sigterm_and_wait().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_event_tells_who_made_a_change_that_a_watch_has_seen() -> anyhow::Result<()> {
    let options = Options { audit_policy: Some(AUDIT_POLICY.to_owned()), ..Options::default() };
    let control_plane = prepared(options).await?;
    let mut options = ProgramOptions::new(BINARY, account::kubeconfig(&control_plane).await?);
    options.config = format!("audit: {{log_path: {}}}", control_plane.audit_log().display());
    let program = Program::start(options).await?;
    let watches = eventually(RECORDED_WITHIN, || async {
        control_plane.kubectl(["create", "configmap", &format!("w-{}", program.pid()), "-n", "shop"]).run().await?;
        let found = program.json("/api/v1/audit-logs?resource=ConfigMap&outcome=confirmed").await?;
        ensure!(found["items"].as_array().is_some_and(|items| !items.is_empty()), "{found}");
        Ok(())
    });
    watches.await?;
    let mallory = control_plane.kubeconfig_for("mallory", Some(ADMINISTRATORS)).await?;
    let as_mallory = async |args: &[&str], stdin: Value| {
        let kubectl = control_plane.kubectl(args.iter().copied()).kubeconfig(&mallory);
        kubectl.stdin(stdin.to_string()).ok().await.map(drop)
    };
    let hook = |policy: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "by-mallory"}, "webhooks": [{"name": "a.example.org", "admissionReviewVersions": ["v1"],
                "sideEffects": "None", "failurePolicy": policy, "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": []}]})
    };
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    as_mallory(&apply, hook("Ignore")).await?;
    as_mallory(&apply, hook("Fail")).await?;
    as_mallory(&["delete", "mutatingwebhookconfiguration", "by-mallory"], Value::Null).await?;
    eventually(RECORDED_WITHIN, || async {
        let found = program.json("/api/v1/audit-logs?name=by-mallory").await?;
        let found = found["items"].as_array().cloned().unwrap_or_default();
        let told: Vec<_> = found.iter().rev().filter_map(|entry| entry["action"].as_str()).collect();
        ensure!(told == ["create", "update", "delete"], "{found:#?}");
        for entry in &found {
            let known = (&entry["user"], &entry["source"], &entry["evidence"], &entry["ip"]);
            ensure!(known == (&json!("mallory"), &json!("watch"), &json!("audit"), &json!("127.0.0.1")), "{entry:#}");
        }
        ensure!(found[1]["detail"]["changes"][0]["old"] == "Ignore", "{found:#?}");
        Ok(())
    })
    .await
}

/// The entries of a name, newest first, once their actions are these.
async fn told(house: &House, name: &str, actions: &[&str]) -> anyhow::Result<Vec<Value>> {
    eventually(RECORDED_WITHIN, || async {
        let found = house.program.json(&format!("/api/v1/audit-logs?name={name}")).await?;
        let found = found["items"].as_array().cloned().unwrap_or_default();
        let told: Vec<_> = found.iter().rev().filter_map(|entry| entry["action"].as_str()).collect();
        ensure!(told == actions, "{found:#?}");
        Ok(found)
    })
    .await
}

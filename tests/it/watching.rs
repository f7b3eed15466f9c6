//! What no webhook is asked about, recorded by the whole program, in both databases.

use anyhow::ensure;
use serde_json::{Value, json};
use testkit::eventually;

use crate::house::{BOTH, House, RECORDED_WITHIN};

const NAMESPACE: &str = "kubevision-audit";

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

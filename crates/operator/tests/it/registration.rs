//! The configuration in a real cluster: created, kept, repaired.

use cluster::Retry;
use operator::registration::{CONFIGURATION, PERIOD, Registrar, Step, unregister};
use serde_json::{Value, json};
use testkit::control_plane::{self, ControlPlane};
use testkit::eventually;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{WITHIN, built_in, connected, settings};

const KIND: &str = "validatingwebhookconfiguration";

async fn live(control_plane: &ControlPlane) -> anyhow::Result<Value> {
    control_plane.kubectl(["get", KIND, CONFIGURATION, "-o", "json", "--show-managed-fields"]).json().await
}

/// As somebody who edits by hand.
async fn edit(control_plane: &ControlPlane, patch: Value) -> anyhow::Result<()> {
    let patch = format!("--patch={patch}");
    control_plane.kubectl(["patch", KIND, CONFIGURATION, "--type=json", &patch]).ok().await.map(drop)
}

#[tokio::test]
async fn what_somebody_changes_takes_away_or_adds_is_repaired_and_what_is_theirs_stays() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let (registrar, _) = Registrar::new(cluster.clone(), settings().unwrap(), built_in());

    assert_eq!(registrar.reconcile().await.unwrap(), Step::Create);
    assert_eq!(registrar.reconcile().await.unwrap(), Step::Keep, "what the API server adds is no drift");
    let created = live(&control_plane).await.unwrap();

    let mut another = created["webhooks"][0].clone();
    another["name"] = json!("another.example.org");
    let edits = [
        ("failurePolicy", json!({"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"})),
        ("rules", json!({"op": "replace", "path": "/webhooks/0/rules/0/resources", "value": ["configmaps"]})),
        ("rules", json!({"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["DELETE"]})),
        ("clientConfig", json!({"op": "add", "path": "/webhooks/0/clientConfig/url", "value": "https://127.0.0.1:2"})),
        ("timeoutSeconds", json!({"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 30})),
        ("matchConditions", json!({"op": "remove", "path": "/webhooks/0/matchConditions/0"})),
        // These three server-side apply alone would leave: they are an addition, of another owner.
        (
            "matchConditions",
            json!({"op": "add", "path": "/webhooks/0/matchConditions/-",
                                   "value": {"name": "never", "expression": "false"}}),
        ),
        ("webhooks", json!({"op": "add", "path": "/webhooks/-", "value": another})),
        ("objectSelector", json!({"op": "add", "path": "/webhooks/0/objectSelector/matchLabels", "value": {"a": "b"}})),
        ("namespaceSelector", json!({"op": "remove", "path": "/webhooks/0/namespaceSelector/matchExpressions"})),
        ("annotations", json!({"op": "remove", "path": "/metadata/annotations"})),
        ("labels", json!({"op": "remove", "path": "/metadata/labels/app.kubernetes.io~1name"})),
    ];
    for (field, patch) in edits {
        edit(&control_plane, json!([patch])).await.unwrap();
        assert_eq!(registrar.reconcile().await.unwrap(), Step::Repair(vec![field]), "{patch}");
        assert_eq!(registrar.reconcile().await.unwrap(), Step::Keep, "{patch}");
        assert_eq!(live(&control_plane).await.unwrap()["webhooks"], created["webhooks"], "{patch}");
    }

    control_plane.kubectl(["label", KIND, CONFIGURATION, "team=a"]).ok().await.unwrap();
    assert_eq!(registrar.reconcile().await.unwrap(), Step::Keep);
    edit(&control_plane, json!([{"op": "remove", "path": "/metadata/annotations"}])).await.unwrap();
    registrar.reconcile().await.unwrap();
    assert_eq!(live(&control_plane).await.unwrap()["metadata"]["labels"]["team"], "a");

    control_plane.kubectl(["delete", KIND, CONFIGURATION]).ok().await.unwrap();
    assert_eq!(registrar.reconcile().await.unwrap(), Step::Create);
    assert!(unregister(&cluster).await.unwrap());
    assert!(!unregister(&cluster).await.unwrap(), "there was nothing left");
}

#[tokio::test]
async fn replicas_that_register_at_once_agree() {
    const REPLICAS: usize = 4;
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    for _ in 0..3 {
        unregister(&cluster).await.unwrap();
        let mut replicas = JoinSet::new();
        for _ in 0..REPLICAS {
            let (registrar, _) = Registrar::new(cluster.clone(), settings().unwrap(), built_in());
            replicas.spawn(async move {
                registrar.reconcile().await.unwrap();
                registrar.reconcile().await.unwrap()
            });
        }
        while let Some(second_look) = replicas.join_next().await {
            assert_eq!(second_look.unwrap(), Step::Keep);
        }
        let live = live(&control_plane).await.unwrap();
        assert_eq!(live["metadata"]["generation"], 1, "applying the same changes nothing");
        let owners = live["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!((owners.len(), &owners[0]["manager"]), (1, &json!("kubevision-audit")));
    }
    unregister(&cluster).await.unwrap();
}

#[tokio::test]
async fn the_task_registers_repairs_survives_an_api_server_that_is_away_and_leaves_the_registration_at_its_stop() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let (registrar, mut status) = Registrar::new(cluster.clone(), settings().unwrap(), built_in());
    assert!(!status.borrow().registered);
    let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
    task.spawn(registrar.run(stop.clone()));

    tokio::time::timeout(WITHIN, status.wait_for(|status| status.registered)).await.unwrap().unwrap();
    control_plane.kubectl(["delete", KIND, CONFIGURATION]).ok().await.unwrap();
    eventually(PERIOD * 2, || live(&control_plane)).await.expect("repaired within the period, and some");

    control_plane.stop_api_server().await.unwrap();
    let failed = tokio::time::timeout(WITHIN, status.wait_for(|status| status.last_error.is_some())).await.unwrap();
    assert_eq!(
        failed.unwrap().last_error.as_deref(),
        Some("reading ValidatingWebhookConfiguration kubevision-audit: no answer")
    );
    assert!(status.borrow().registered, "an API server that is away calls nobody: nothing is missed");
    control_plane.start_api_server().await.unwrap();
    tokio::time::timeout(WITHIN, status.wait_for(|status| status.last_error.is_none())).await.unwrap().unwrap();

    stop.cancel();
    tokio::time::timeout(WITHIN, task.join_next()).await.expect("ends at once").unwrap().unwrap();
    live(&control_plane).await.expect("still registered");
    unregister(&cluster).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_with_what_was_refused() {
    let control_plane = control_plane::exclusive().await;
    let nobody = control_plane.kubeconfig_for("nobody", None).await.unwrap();
    let (registrar, _) = Registrar::new(connected(&nobody).await.unwrap(), settings().unwrap(), built_in());
    let error = registrar.reconcile().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "reading ValidatingWebhookConfiguration kubevision-audit: refused with 403 Forbidden"
    );
    assert_eq!(error.retry(), Retry::Never);
}

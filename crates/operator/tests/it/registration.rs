//! The configuration in a real cluster: created, kept, repaired.

use std::sync::Arc;

use anyhow::ensure;
use cluster::{Cluster, Retry};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use operator::Safe;
use operator::certificates::SETTLE;
use operator::registration::{CONFIGURATION, PERIOD, Settings, Step, Wanted, unregister, wanted};
use policy::{Policy, Rule, Rules, Spec};
use serde_json::{Value, json};
use testkit::control_plane::{self, ControlPlane};
use testkit::eventually;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::replica::{Replica, replica};
use crate::{WITHIN, connected, settings};

/// As an entry tells it.
const OF: &str = "ValidatingWebhookConfiguration kubevision-audit";
const KIND: &str = "validatingwebhookconfiguration";

async fn live(control_plane: &ControlPlane) -> anyhow::Result<Value> {
    control_plane.kubectl(["get", KIND, CONFIGURATION, "-o", "json", "--show-managed-fields"]).json().await
}

/// A replica that shares its certificates with those of the same folder.
async fn replica_at(folder: &tempfile::TempDir, control_plane: &ControlPlane, cluster: &Cluster) -> Replica {
    let safe = Safe::Files { beside: folder.path().join("audit.db") };
    replica(control_plane, cluster, &safe, settings().unwrap(), SETTLE).await.unwrap()
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
    let folder = tempfile::tempdir().unwrap();
    let mut replica = replica_at(&folder, &control_plane, &cluster).await;
    let registrar = &mut replica.registrar;

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
    let mut told = Vec::new();
    for (field, patch) in edits {
        edit(&control_plane, json!([patch])).await.unwrap();
        // The seal is of the webhooks alone.
        let step = if field == "labels" { Step::Update(vec![field]) } else { Step::Repair(vec![field]) };
        assert_eq!(registrar.reconcile().await.unwrap(), step, "{patch}");
        if field != "labels" {
            // Who only takes away leaves no name, but on a selector that is empty now.
            let by = if patch["op"] == "remove" && field != "namespaceSelector" { "" } else { " (kubectl-patch)" };
            told.push(format!("update {OF}: {field} changed by hand{by}; repaired"));
        }
        assert_eq!(registrar.reconcile().await.unwrap(), Step::Keep, "{patch}");
        assert_eq!(live(&control_plane).await.unwrap()["webhooks"], created["webhooks"], "{patch}");
    }

    control_plane.kubectl(["label", KIND, CONFIGURATION, "team=a"]).ok().await.unwrap();
    assert_eq!(registrar.reconcile().await.unwrap(), Step::Keep);
    edit(&control_plane, json!([{"op": "remove", "path": "/metadata/annotations"}])).await.unwrap();
    registrar.reconcile().await.unwrap();
    assert_eq!(live(&control_plane).await.unwrap()["metadata"]["labels"]["team"], "a");

    control_plane.kubectl(["delete", KIND, CONFIGURATION]).ok().await.unwrap();
    assert_eq!(registrar.reconcile().await.unwrap(), Step::Restore);
    assert!(unregister(&cluster).await.unwrap());
    assert!(!unregister(&cluster).await.unwrap(), "there was nothing left");

    told.push(format!("update {OF}: annotations changed by hand; repaired"));
    told.push(format!("delete {OF}: deleted by hand; registered again"));
    assert_eq!(replica.recorded().await, told);
}

#[tokio::test]
async fn replicas_that_register_at_once_agree() {
    const REPLICAS: usize = 4;
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        unregister(&cluster).await.unwrap();
        let mut replicas = JoinSet::new();
        for _ in 0..REPLICAS {
            let mut replica = replica_at(&folder, &control_plane, &cluster).await;
            replicas.spawn(async move {
                replica.registrar.reconcile().await.unwrap();
                assert_eq!(replica.registrar.reconcile().await.unwrap(), Step::Keep);
                replica
            });
        }
        let mut replicas = replicas.join_all().await;
        let live = live(&control_plane).await.unwrap();
        assert_eq!(live["metadata"]["generation"], 1, "applying the same changes nothing");
        let owners = live["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!((owners.len(), &owners[0]["manager"]), (1, &json!("kubevision-audit")));

        // Each change is repaired by all, and recorded by one.
        let patch = json!([{"op": "remove", "path": "/webhooks/0/matchConditions/0"},
            {"op": "add", "path": "/webhooks/0/matchConditions/-", "value": {"name": "never", "expression": "false"}}]);
        edit(&control_plane, patch).await.unwrap();
        all_look(&mut replicas).await;
        control_plane.kubectl(["delete", KIND, CONFIGURATION]).ok().await.unwrap();
        all_look(&mut replicas).await;
        let mut told = Vec::new();
        for replica in replicas {
            told.extend(replica.recorded().await);
        }
        told.sort();
        let changed = format!("update {OF}: matchConditions changed by hand (kubectl-patch); repaired");
        assert_eq!(told, [format!("delete {OF}: deleted by hand; registered again"), changed]);
    }
    unregister(&cluster).await.unwrap();
}

async fn all_look(replicas: &mut Vec<Replica>) {
    let mut looking = JoinSet::new();
    for mut replica in replicas.drain(..) {
        looking.spawn(async move {
            replica.registrar.reconcile().await.unwrap();
            replica
        });
    }
    replicas.extend(looking.join_all().await);
}

#[tokio::test]
async fn what_another_replica_left_is_taken_over_and_what_an_editor_left_while_none_ran_is_told() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut first = replica_at(&folders[0], &control_plane, &cluster).await;
    assert_eq!(first.registrar.reconcile().await.unwrap(), Step::Create);

    // Its CA is another, and its key the same.
    let mut other = replica_at(&folders[1], &control_plane, &cluster).await;
    let step = other.registrar.reconcile().await.unwrap();
    assert_eq!(step, Step::Update(vec!["annotations", "clientConfig"]));
    assert_eq!(other.recorded().await, Vec::<String>::new());

    // While no replica runs.
    let patch = json!([{"op": "remove", "path": "/webhooks/0/matchConditions/0"}]);
    edit(&control_plane, patch).await.unwrap();
    let mut restarted = replica_at(&folders[1], &control_plane, &cluster).await;
    assert_eq!(restarted.registrar.reconcile().await.unwrap(), Step::Repair(vec!["matchConditions"]));
    let told = format!("update {OF}: matchConditions not as this installation left them; repaired");
    assert_eq!(restarted.recorded().await, [told]);
    unregister(&cluster).await.unwrap();
}

#[tokio::test]
async fn what_a_replica_replaced_and_somebody_puts_back_with_its_seal_is_repaired_and_told() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut replica = replica_at(&folder, &control_plane, &cluster).await;
    replica.registrar.reconcile().await.unwrap();
    let earlier = live(&control_plane).await.unwrap();

    let elsewhere = Settings { webhook_url: Some("https://127.0.0.1:2".parse().unwrap()), ..settings().unwrap() };
    replica.settings.send_replace(elsewhere.into());
    let update = Step::Update(vec!["annotations", "clientConfig"]);
    assert_eq!(replica.registrar.reconcile().await.unwrap(), update);
    let put_back = async || {
        let field = |path: &str| json!({"op": "replace", "path": path, "value": earlier.pointer(path).unwrap()});
        edit(&control_plane, json!([field("/webhooks"), field("/metadata/annotations")])).await.unwrap();
    };
    for _ in 0..2 {
        put_back().await;
        let repair = Step::Repair(vec!["annotations", "clientConfig"]);
        assert_eq!(replica.registrar.reconcile().await.unwrap(), repair);
        assert_eq!(replica.registrar.reconcile().await.unwrap(), Step::Keep);
    }
    // What is wanted again is written with a seal of its own.
    replica.settings.send_replace(settings().unwrap().into());
    assert_eq!(replica.registrar.reconcile().await.unwrap(), update);
    assert_eq!(replica.registrar.reconcile().await.unwrap(), Step::Keep);
    assert_eq!(replica.recorded().await.len(), 2);
    unregister(&cluster).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_does_not_know_the_policies_leaves_the_registration_of_one_that_does() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut knowing = replica_at(&folder, &control_plane, &cluster).await;
    let mut unknowing = replica_at(&folder, &control_plane, &cluster).await;
    let unknown = Settings { policies_known: false, ..settings().unwrap() };
    unknowing.settings.send_replace(unknown.into());
    assert_eq!(unknowing.registrar.reconcile().await.unwrap(), Step::Create, "better than none at all");

    let deny = Spec { deny: true, sync: true, level: Some(domain::Level::Diff), ..Spec::default() };
    let deny = Arc::new(Policy::compile("deny", &deny).unwrap());
    let rules = Arc::new(Rules::new(vec![deny], Rule::built_in("built-in", false), Arc::default()));
    knowing.settings.send_replace(Settings { rules, ..settings().unwrap() }.into());
    knowing.registrar.reconcile().await.unwrap();
    let refusing = live(&control_plane).await.unwrap()["webhooks"].clone();
    assert_eq!(refusing.as_array().unwrap().len(), 2, "{refusing}");
    assert_eq!(unknowing.registrar.reconcile().await.unwrap(), Step::Keep);
    assert_eq!(live(&control_plane).await.unwrap()["webhooks"], refusing);

    unknowing.settings.send_replace(settings().unwrap().into());
    assert!(matches!(unknowing.registrar.reconcile().await.unwrap(), Step::Update(_)), "now it knows");
    unregister(&cluster).await.unwrap();
}

#[tokio::test]
async fn the_task_registers_repairs_survives_an_api_server_that_is_away_and_leaves_the_registration_at_its_stop() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let Replica { registrar, mut status, settings: wanted, .. } = replica_at(&folder, &control_plane, &cluster).await;
    assert!(!status.borrow().registered);
    let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
    task.spawn(registrar.run(stop.clone()));

    tokio::time::timeout(WITHIN, status.wait_for(|status| status.registered)).await.unwrap().unwrap();
    control_plane.kubectl(["delete", KIND, CONFIGURATION]).ok().await.unwrap();
    eventually(PERIOD * 2, || live(&control_plane)).await.expect("repaired within the period, and some");

    // At once: well within the pause between two looks.
    wanted.send_modify(|wanted| {
        *wanted = Settings { webhook_url: Some("https://127.0.0.1:2".parse().unwrap()), ..settings().unwrap() }.into();
    });
    eventually(PERIOD / 2, || async {
        let url = live(&control_plane).await?["webhooks"][0]["clientConfig"]["url"].clone();
        ensure!(url == "https://127.0.0.1:2/admission", "{url}");
        Ok(())
    })
    .await
    .unwrap();

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
    let folder = tempfile::tempdir().unwrap();
    let mut replica = replica_at(&folder, &control_plane, &connected(&nobody).await.unwrap()).await;
    let error = replica.registrar.reconcile().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "reading ValidatingWebhookConfiguration kubevision-audit: refused with 403 Forbidden"
    );
    assert_eq!(error.retry(), Retry::Later, "it may yet be granted");
}

/// As a replica does that stood still between its look and its apply.
#[tokio::test]
async fn what_was_looked_at_before_another_wrote_or_deleted_is_not_applied() {
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    unregister(&cluster).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut replica = replica_at(&folder, &control_plane, &cluster).await;
    replica.registrar.reconcile().await.unwrap();
    let mut stale = cluster.registration(CONFIGURATION).await.unwrap().unwrap();
    stale.metadata.managed_fields = None;
    control_plane.kubectl(["label", KIND, CONFIGURATION, "team=a"]).ok().await.unwrap();
    assert!(cluster.apply_registration(&stale).await.unwrap_err().is_conflict());
    assert!(cluster.create_registration(&wanted_now()).await.unwrap_err().is_conflict());
    unregister(&cluster).await.unwrap();
    assert!(cluster.apply_registration(&stale).await.unwrap_err().is_conflict());
    assert!(live(&control_plane).await.is_err(), "it is not made again");
}

fn wanted_now() -> ValidatingWebhookConfiguration {
    wanted(&Wanted { settings: &settings().unwrap(), ca_bundle: None })
}

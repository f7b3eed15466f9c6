//! What is kept in a Secret: one key and one CA for all replicas.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use cluster::SecretRef;
use operator::Safe;
use operator::certificates::{Keeper, Names, SETTLE, Source};
use operator::keys::redaction_key;
use testkit::control_plane;
use tokio::task::JoinSet;

use crate::connected;
use crate::replica::Counting;

#[tokio::test]
async fn replicas_that_start_at_once_in_a_new_cluster_share_a_key_and_a_certificate() {
    const REPLICAS: usize = 5;
    const NEW_NAMESPACE: &str = "operator-secrets";
    let control_plane = control_plane::exclusive().await;
    let cluster = connected(control_plane.kubeconfig()).await.unwrap();
    let secret = SecretRef { namespace: NEW_NAMESPACE.to_owned(), name: "kubevision-audit-keys".to_owned() };
    let safe = Safe::Secret { cluster, secret };
    let names = Names::of(None, "kubevision-audit", NEW_NAMESPACE).unwrap();
    let now: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
    let entropy = Arc::new(Counting);

    let mut replicas = JoinSet::new();
    for _ in 0..REPLICAS {
        let (safe, names, entropy) = (safe.clone(), names.clone(), entropy.clone());
        replicas.spawn(async move {
            let key = redaction_key(&safe, entropy.as_ref()).await.unwrap().into_bytes();
            Keeper::start(Source::SelfMade(safe.clone()), names, SETTLE, now).await.unwrap();
            (key, safe.read("certificates.pem").await.unwrap().unwrap())
        });
    }
    let given = replicas.join_all().await;
    assert!(given.iter().all(|one| *one == given[0]));

    let live = control_plane.kubectl(["get", "secret", "kubevision-audit-keys", "-n", NEW_NAMESPACE, "-o", "json"]);
    let live = live.json().await.unwrap();
    let values: Vec<&String> = live["data"].as_object().unwrap().keys().collect();
    assert_eq!(values, ["certificates.pem", "redaction.key"]);
    assert_eq!(live["type"], "Opaque");
}

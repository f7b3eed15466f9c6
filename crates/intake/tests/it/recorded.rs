//! What becomes of the writes that a real API server told of.

use std::collections::BTreeSet;

use domain::Action::{Create, Delete, Start, Update};
use domain::{Action, Outcome, Source};
use serde_json::Value;

use crate::door::{Door, called_again, config_map, fixture};

/// Fixture, action, resource, name, namespace, API group, verb, field manager.
type Told = (&'static str, Action, &'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const TOLD: [Told; 22] = [
    ("create-namespace", Create, "Namespace", "shop", "", "", "create", "kubectl-create"),
    ("create-serviceaccount", Create, "ServiceAccount", "default", "shop", "", "create", "kubectl-create"),
    ("create-deployment", Create, "Deployment", "web", "shop", "apps", "create", "kubectl-client-side-apply"),
    ("update-deployment-image", Update, "Deployment", "web", "shop", "apps", "update", "kubectl-set"),
    ("scale-deployment", Update, "Deployment/scale", "web", "shop", "apps", "update", ""),
    ("create-secret", Create, "Secret", "db", "shop", "", "create", "kubectl-create"),
    ("update-secret", Update, "Secret", "db", "shop", "", "update", "kubectl-patch"),
    ("create-generated-name", Create, "ConfigMap", "settings-", "shop", "", "create", "kubectl-create"),
    ("create-node", Create, "Node", "nowhere", "", "", "create", "kubectl-create"),
    ("create-pod", Create, "Pod", "shell", "shop", "", "create", "kubectl-create"),
    ("update-status", Update, "Pod/status", "shell", "shop", "", "update", "kubectl-patch"),
    ("resize", Update, "Pod/resize", "shell", "shop", "", "update", "kubectl-patch"),
    ("exec", Start, "Terminal", "shell", "shop", "", "connect", ""),
    ("attach", Start, "Terminal", "shell", "shop", "", "connect", ""),
    ("portforward", Start, "PortForward", "shell", "shop", "", "connect", ""),
    ("ephemeral-container", Update, "Pod/ephemeralcontainers", "shell", "shop", "", "update", ""),
    ("eviction", Create, "Pod/eviction", "shell", "shop", "", "create", ""),
    ("token", Create, "ServiceAccount/token", "default", "shop", "", "create", ""),
    ("create-csr", Create, "CertificateSigningRequest", "alice", "", "certificates.k8s.io", "create", "kubectl-create"),
    ("approval", Update, "CertificateSigningRequest/approval", "alice", "", "certificates.k8s.io", "update", ""),
    ("delete-deployment", Delete, "Deployment", "web", "shop", "apps", "delete", ""),
    ("delete-collection", Delete, "ConfigMap", "settings-", "shop", "", "delete", ""),
];
/// What is counted and not recorded. The apply only takes the fields over from another manager.
const SKIPPED: [(&str, &str); 3] =
    [("create-dry-run", "dry_run"), ("update-nothing", "unchanged"), ("server-side-apply", "unchanged")];
/// What the fixtures hold: the values of a Secret, as it carries them, and an argument of an exec.
const SECRETS: [&str; 3] = ["Y2FuYXJ5LTQ3MTE=", "Y2FuYXJ5LTQ3MTI=", "canary-4713"];

#[tokio::test]
async fn each_write_becomes_the_entry_that_its_answer_names() {
    for (name, action, resource, resource_name, namespace, api_group, verb, field_manager) in TOLD {
        let mut door = Door::open();
        let review = fixture(name);
        let answer = door.post(review.clone()).await;
        let sent: Value = serde_json::from_str(&review).unwrap();
        assert_eq!(answer.response()["uid"], sent["request"]["uid"], "{name}");

        let entries = door.entries().await;
        let [entry] = entries.as_slice() else { panic!("{name}: {entries:?}") };
        assert_eq!(answer.entry(), Some(entry.id.to_string()), "{name}");
        let told = (entry.action, entry.resource.as_str(), entry.namespace.as_str(), entry.api_group.as_str());
        assert_eq!(told, (action, resource, namespace, api_group), "{name}");
        assert!(entry.resource_name.starts_with(resource_name), "{name}: {}", entry.resource_name);
        assert_eq!((entry.user.as_str(), entry.cluster.as_str()), ("alice@example.com", "local"), "{name}");
        assert_eq!((entry.policy.as_str(), entry.source), ("built-in", Source::Admission), "{name}");
        assert_eq!(entry.outcome, Outcome::Unconfirmed, "{name}");
        assert_eq!(entry.id.timestamp().to_rfc3339(), "2026-03-01T12:00:00+00:00", "{name}");
        let request = entry.detail.read().unwrap().request.unwrap();
        let facts = (request.verb.as_str(), request.field_manager.as_str(), request.dry_run);
        assert_eq!(facts, (verb, field_manager, false), "{name}");
        door.assert_counted("recorded", 1);
    }
}

#[tokio::test]
async fn what_is_no_write_is_allowed_counted_and_not_recorded() {
    for (name, result) in SKIPPED {
        let mut door = Door::open();
        let answer = door.post(fixture(name)).await;
        assert_eq!(answer.entry(), None, "{name}");
        let (what, _, value) = answer.noted().unwrap();
        assert_eq!(what, if result == "dry_run" { "dry-run" } else { result }, "{name}");
        assert!(result == "dry_run" || value.starts_with("update "), "{name}: {value} names what it would replace");
        assert_eq!(door.entries().await.len(), 0, "{name}");
        door.assert_counted(result, 1);
    }
}

#[tokio::test]
async fn no_secret_of_a_review_is_in_its_entry_or_its_answer() {
    let mut door = Door::open();
    let mut answers = String::new();
    let mut sent = String::new();
    for (name, ..) in TOLD {
        let review = fixture(name);
        answers += &door.post(review.clone()).await.body.to_string();
        sent += &review;
    }
    let kept = format!("{:?}", door.entries().await);
    for secret in SECRETS {
        assert!(sent.contains(secret), "{secret} is what the fixtures hold");
        assert!(!kept.contains(secret) && !answers.contains(secret), "{secret}");
    }
    assert!(!kept.contains("canary") && !answers.contains("canary"), "nor plain");
}

#[tokio::test]
async fn several_attempts_of_one_request_have_ids_in_their_order() {
    let mut door = Door::open();
    let mut named = Vec::new();
    for _ in 0..20 {
        named.push(door.post(called_again(&fixture("update-deployment-image"))).await.entry().unwrap());
    }
    assert!(named.is_sorted(), "the newest is the one that was persisted");
    let kept: Vec<_> = door.entries().await.iter().map(|entry| entry.id.to_string()).collect();
    assert_eq!(kept, named);
}

#[tokio::test]
async fn a_review_that_is_delivered_twice_is_recorded_once_and_named_alike() {
    let mut door = Door::open();
    let review = config_map("CREATE", None, Some(r#"{"a":"1"}"#));
    let (first, again) = (door.post(review.clone()).await, door.post(review).await);
    assert_eq!(first.response(), again.response());
    assert_eq!(door.entries().await.len(), 1);
    door.assert_counted("repeated", 1);
}

#[test]
fn every_fixture_has_its_line_here() {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).unwrap();
    let there: BTreeSet<_> = folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let names = TOLD.iter().map(|told| told.0).chain(SKIPPED.iter().map(|skipped| skipped.0));
    assert_eq!(there, names.map(|name| format!("{name}.json")).collect());
}

//! Records what a real API server tells of its requests: `cargo run -p intake --example record_events` writes
//! `crates/domain/fixtures/events/*.jsonl`, the audit events of one command each, as it logged them.
//!
//! Its webhook answers as ours does: with an annotation for each attempt. There is no kubelet, but something that switches
//! protocols like one, so that a session can begin and end.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::routing::{any, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::event::WEBHOOK;
use listener::{Bound, Certificate, Tls};
use serde_json::{Value, json};
use testkit::control_plane::{ADMINISTRATORS, ControlPlane, Options};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [
    {"level": "RequestResponse", "verbs": ["create", "update", "patch", "delete"], "resources": [
        {"group": "admissionregistration.k8s.io"}]},
    {"level": "Metadata", "resources": [{"group": "", "resources": ["pods/exec", "pods/attach", "pods/portforward"]}]},
    {"level": "None", "verbs": ["get", "list", "watch"]},
    {"level": "None", "users": ["system:apiserver"]},
    {"level": "Metadata"}]}"#;

/// Name, user (`-`: who is not known; `bob`: without rights), command, standard input.
const COMMANDS: [(&str, &str, &str, &str); 27] = [
    ("namespace", "alice", "create namespace shop", ""),
    ("create", "alice", "create configmap settings -n shop --from-literal=colour=blue", ""),
    (
        "generated-name",
        "alice",
        "create -f -",
        "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: gen-, namespace: shop}}",
    ),
    (
        "applied",
        "alice",
        "apply --server-side -f -",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: applied, namespace: shop}}",
    ),
    ("impersonated", "alice", "create configmap borrowed -n shop --as=carol --as-group=system:masters", ""),
    ("unauthorized", "-", "create configmap never -n shop", ""),
    ("forbidden", "bob", "create configmap never -n shop", ""),
    ("not-found", "alice", "delete --raw /api/v1/namespaces/shop/configmaps/nowhere", ""),
    ("already-exists", "alice", "create configmap settings -n shop", ""),
    (
        "invalid-secret",
        "alice",
        "create -f -",
        "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: shop}, data: {'canary-4714/': Y2FuYXJ5}}",
    ),
    (
        "invalid",
        "alice",
        "create -f -",
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {type: Canary4715, ports: [{port: 80}]}}",
    ),
    ("denied-by-us", "alice", "create configmap no-thanks -n shop", ""),
    ("dry-run", "alice", "create configmap never -n shop --dry-run=server", ""),
    ("dry-run-delete", "alice", "delete configmap settings -n shop --dry-run=server", ""),
    ("deployment", "alice", "create deployment web -n shop --image=registry.example/app:1", ""),
    ("scale", "alice", "scale deployment/web --replicas=2 -n shop", ""),
    ("node", "alice", "create -f -", NODE),
    ("pod", "alice", "create -f -", POD),
    ("exec", "alice", "exec shell -n shop -c app -- sh -c canary-4713", ""),
    (
        "exec-forbidden",
        "bob",
        "create --raw /api/v1/namespaces/shop/pods/shell/exec?command=sh&command=-c&container=app&stdin=true&tty=true -f -",
        "{}",
    ),
    (
        "exec-not-found",
        "alice",
        "create --raw /api/v1/namespaces/shop/pods/nowhere/exec?command=sh&container=app -f -",
        "{}",
    ),
    ("portforward", "alice", "create --raw /api/v1/namespaces/shop/pods/shell/portforward?ports=80 -f -", "{}"),
    ("proxy", "alice", "create --raw /api/v1/namespaces/shop/pods/shell/proxy/ -f -", "{}"),
    ("token", "alice", "create token default -n shop", ""),
    ("webhook-create", "alice", "create -f -", OTHER_WEBHOOK),
    ("webhook-update", "alice", "label validatingwebhookconfiguration other a=b", ""),
    ("webhook-delete", "alice", "delete validatingwebhookconfiguration other", ""),
];
const NODE: &str = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "nowhere"}}"#;
const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell", "namespace": "shop"},
    "spec": {"nodeName": "nowhere", "containers": [{"name": "app", "image": "registry.example/app:1"}]}}"#;
const OTHER_WEBHOOK: &str = r#"{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "other"}}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options { audit_policy: Some(POLICY.to_owned()), ..Options::default() };
    let control_plane = ControlPlane::start_with(options).await?;
    let stop = CancellationToken::new();
    let socket = Bound::bind("recorder", ([127, 0, 0, 1], 0).into())?;
    let port = socket.local_addr().port();
    let identity = control_plane.authority().server(["127.0.0.1"])?;
    let tls = Tls::new(&Certificate::from_pem(identity.certificate.as_bytes(), identity.key.as_bytes())?)?;
    let router = Router::new().route("/admission", post(answer)).fallback(any(as_a_kubelet));
    let serve = socket.serve_tls(router, tls.into(), stop.clone());
    let record = async {
        let recorded = record(&control_plane, port).await;
        stop.cancel();
        recorded
    };
    let (served, recorded) = tokio::join!(serve, record);
    served?;
    recorded
}

async fn answer(Json(review): Json<Value>) -> Json<Value> {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let request = &review["request"];
    let number = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    let action = request["operation"].as_str().unwrap_or_default().to_lowercase().replace("connect", "start");
    let replaced = request["oldObject"]["metadata"]["resourceVersion"].as_str();
    let value = replaced.map_or(action.clone(), |version| format!("{action} {version}"));
    let key = if request["dryRun"] == true { "dry-run" } else { "entry" };
    let key = format!("{key}.0195505f-1680-7000-8000-{number:012x}");
    let allowed = request["name"] != "no-thanks";
    let mut response = json!({"uid": request["uid"], "allowed": allowed, "auditAnnotations": {key: value}});
    if !allowed {
        response["status"] = json!({"code": 503, "reason": "ServiceUnavailable", "message": "the write was not made"});
    }
    Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

async fn as_a_kubelet() -> Result<Response<Body>, StatusCode> {
    let switching = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io");
    switching.body(Body::empty()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn record(control_plane: &ControlPlane, port: u16) -> anyhow::Result<()> {
    register(control_plane, port).await?;
    wait_until_called(control_plane).await?;
    for (name, user, command, stdin) in COMMANDS {
        let before = log(control_plane)?.len();
        let kubeconfig = match user {
            "-" => unknown(control_plane)?,
            "bob" => control_plane.kubeconfig_for(user, None).await?,
            user => control_plane.kubeconfig_for(user, Some(ADMINISTRATORS)).await?,
        };
        let kubectl = control_plane.kubectl(command.split(' ')).kubeconfig(kubeconfig).stdin(stdin);
        let ran = kubectl.run().await?;
        eprintln!("{name}: {}{}", ran.stdout, ran.stderr);
        keep(control_plane, name, user, before, 1).await?;
        if name == "node" {
            let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
            let patch = ["patch", "node", "nowhere", "--subresource=status", "-p", &status.to_string()];
            control_plane.kubectl(patch).ok().await?;
        }
    }
    let before = log(control_plane)?.len();
    let mut patches = JoinSet::new();
    for n in 0..8 {
        let patch = format!(r#"{{"data":{{"n":"{n}"}}}}"#);
        let kubectl = control_plane.kubectl_as("alice", ["patch", "configmap", "settings", "-n", "shop", "-p", &patch]);
        patches.spawn(kubectl.await?.ok());
    }
    while let Some(patched) = patches.join_next().await {
        patched??;
    }
    keep(control_plane, "several-attempts", "alice", before, 8).await?;
    for (name, command) in [
        ("collection", "delete --raw /api/v1/namespaces/shop/configmaps"),
        ("empty-collection", "delete --raw /api/v1/namespaces/shop/configmaps?labelSelector=a%3Db"),
    ] {
        let before = log(control_plane)?.len();
        control_plane.kubectl_as("alice", command.split(' ')).await?.ok().await?;
        keep(control_plane, name, "alice", before, 1).await?;
    }
    // Nobody listens there.
    register(control_plane, 1).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = log(control_plane)?.len();
    control_plane.kubectl_as("alice", ["create", "configmap", "unseen", "-n", "shop"]).await?.ok().await?;
    keep(control_plane, "failed-open", "alice", before, 1).await?;
    control_plane.kubectl(["delete", "validatingwebhookconfiguration", "recorder"]).ok().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = log(control_plane)?.len();
    control_plane.kubectl_as("alice", ["create", "configmap", "unregistered", "-n", "shop"]).await?.ok().await?;
    keep(control_plane, "unregistered", "alice", before, 1).await
}

/// Writes what was logged since of that user, once so many requests are done.
async fn keep(
    control_plane: &ControlPlane,
    name: &str,
    user: &str,
    before: usize,
    requests: usize,
) -> anyhow::Result<()> {
    let told = testkit::eventually(Duration::from_secs(20), || async {
        let log = log(control_plane)?;
        let by = |line: &&str| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            let by = event["user"]["username"].as_str().unwrap_or_default();
            by == user || (user == "-" && event["responseStatus"]["code"] == 401)
        };
        let lines: Vec<_> = log.get(before..).unwrap_or_default().lines().filter(by).map(str::to_owned).collect();
        let last = if user == "-" { "ResponseStarted" } else { "ResponseComplete" };
        let done = lines.iter().filter(|line| line.contains(last)).count();
        ensure!(done >= requests, "{done} of {requests} requests of {name}");
        Ok(lines)
    })
    .await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../domain/fixtures/events");
    fs::write(folder.join(format!("{name}.jsonl")), told.join("\n") + "\n").with_context(|| format!("writing {name}"))
}

fn log(control_plane: &ControlPlane) -> anyhow::Result<String> {
    fs::read_to_string(control_plane.audit_log()).context("reading the audit log")
}

fn unknown(control_plane: &ControlPlane) -> anyhow::Result<std::path::PathBuf> {
    let ca = BASE64.encode(control_plane.authority().certificate());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": control_plane.url(), "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": "canary-4716"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    let path = testkit::guard::folder("nobody")?.join("kubeconfig");
    fs::write(&path, kubeconfig.to_string())?;
    Ok(path)
}

async fn register(control_plane: &ControlPlane, port: u16) -> anyhow::Result<()> {
    let every = json!({
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "operations": ["*"], "scope": "*",
    });
    let ca = BASE64.encode(control_plane.authority().certificate());
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "recorder" },
        "webhooks": [{
            "name": WEBHOOK,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "NoneOnDryRun",
            "failurePolicy": "Ignore",
            "clientConfig": { "url": format!("https://127.0.0.1:{port}/admission"), "caBundle": ca },
            "rules": [every],
        }],
    });
    control_plane.kubectl(["apply", "-f", "-"]).stdin(configuration.to_string()).ok().await.map(drop)
}

/// The API server takes a moment to notice a new webhook.
async fn wait_until_called(control_plane: &ControlPlane) -> anyhow::Result<()> {
    testkit::eventually(Duration::from_secs(30), || async {
        control_plane.kubectl(["create", "configmap", "knock", "--dry-run=server"]).ok().await?;
        ensure!(log(control_plane)?.contains(WEBHOOK), "the API server does not call the webhook");
        Ok(())
    })
    .await
}

//! Records what a real API server sends: `cargo run -p intake --example record` writes `crates/intake/fixtures/*.json`,
//! the admission reviews of one write each, as they came.
//!
//! To be run again with a new version of Kubernetes; what differs then is read in the diff.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use listener::{Bound, Certificate, Tls};
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use tokio_util::sync::CancellationToken;

const USER: &str = "alice@example.com";

type Seen = Arc<Mutex<Vec<Bytes>>>;

/// One write each, by name. What is fed to standard input, where there is something.
const WRITES: [(&str, &[&str], &str); 25] = [
    ("create-namespace", &["create", "namespace", "shop"], ""),
    ("create-serviceaccount", &["create", "serviceaccount", "default", "-n", "shop"], ""),
    ("create-deployment", &["apply", "-f", "-"], DEPLOYMENT),
    ("update-deployment-image", &["set", "image", "deployment/web", "app=registry.example/app:2", "-n", "shop"], ""),
    ("scale-deployment", &["scale", "deployment/web", "--replicas=3", "-n", "shop"], ""),
    ("update-nothing", &["patch", "deployment/web", "-n", "shop", "-p", r#"{"spec":{"replicas":3}}"#], ""),
    ("server-side-apply", &["apply", "--server-side", "--force-conflicts", "-f", "-"], DEPLOYMENT),
    ("create-secret", &["create", "secret", "generic", "db", "--from-literal=password=canary-4711", "-n", "shop"], ""),
    (
        "update-secret",
        &["patch", "secret", "db", "-n", "shop", "-p", r#"{"stringData":{"password":"canary-4712"}}"#],
        "",
    ),
    ("create-dry-run", &["create", "configmap", "never", "--dry-run=server", "-n", "shop"], ""),
    ("create-generated-name", &["create", "-f", "-"], GENERATED),
    ("create-node", &["create", "-f", "-"], NODE),
    ("create-pod", &["create", "-f", "-"], POD),
    ("update-status", &["patch", "pod", "shell", "-n", "shop", "--subresource=status", "-p", RUNNING], ""),
    ("resize", &["patch", "pod", "shell", "-n", "shop", "--subresource=resize", "-p", RESIZED], ""),
    ("exec", &["exec", "shell", "-n", "shop", "--", "sh", "-c", "echo canary-4713"], ""),
    ("attach", &["attach", "shell", "-n", "shop"], ""),
    ("portforward", &["port-forward", "pod/shell", ":80", "-n", "shop"], ""),
    (
        "ephemeral-container",
        &["debug", "shell", "-n", "shop", "--image=registry.example/debug:1", "--attach=false"],
        "",
    ),
    ("eviction", &["create", "--raw", "/api/v1/namespaces/shop/pods/shell/eviction", "-f", "-"], EVICTION),
    ("token", &["create", "token", "default", "-n", "shop"], ""),
    ("create-csr", &["create", "-f", "-"], ""),
    ("approval", &["certificate", "approve", "alice"], ""),
    ("delete-deployment", &["delete", "deployment", "web", "-n", "shop", "--wait=false"], ""),
    ("delete-collection", &["delete", "--raw", "/api/v1/namespaces/shop/configmaps"], ""),
];

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop, labels: { app: web } }
spec:
  replicas: 1
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
        - { name: app, image: 'registry.example/app:1', env: [{ name: MODE, value: fast }] }
        - { name: proxy, image: 'registry.example/proxy:1' }
";
const GENERATED: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { generateName: settings-, namespace: shop }
data: { colour: blue }
";
const NODE: &str = "
apiVersion: v1
kind: Node
metadata: { name: nowhere }
status: { capacity: { cpu: 1, pods: 10 }, allocatable: { cpu: 1, pods: 10 } }
";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: shell, namespace: shop }
spec: { nodeName: nowhere, containers: [{ name: app, image: 'registry.example/app:1', ports: [{ containerPort: 80 }], resources: { requests: { cpu: 10m }, limits: { cpu: 10m } } }] }
";
const RUNNING: &str = r#"{"status":{"phase":"Running"}}"#;
const RESIZED: &str =
    r#"{"spec":{"containers":[{"name":"app","resources":{"requests":{"cpu":"20m"},"limits":{"cpu":"20m"}}}]}}"#;
const EVICTION: &str = r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"shell","namespace":"shop"}}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let control_plane = ControlPlane::start().await?;
    let seen = Seen::default();
    let stop = CancellationToken::new();
    let socket = Bound::bind("recorder", ([127, 0, 0, 1], 0).into())?;
    let url = format!("https://{}/", socket.local_addr());
    let identity = control_plane.authority().server(["127.0.0.1"])?;
    let tls = Tls::new(&Certificate::from_pem(identity.certificate.as_bytes(), identity.key.as_bytes())?)?;
    let router = Router::new().route("/", post(keep)).with_state(Arc::clone(&seen));
    let serve = socket.serve_tls(router, Arc::new(tls), stop.clone());
    let record = async {
        let recorded = record(&control_plane, &url, &seen).await;
        stop.cancel();
        recorded
    };
    let (served, recorded) = tokio::join!(serve, record);
    served?;
    recorded
}

async fn keep(State(seen): State<Seen>, body: Bytes) -> Json<Value> {
    let uid = serde_json::from_slice::<Value>(&body).map(|review| review["request"]["uid"].clone());
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    let response = json!({ "uid": uid.unwrap_or_default(), "allowed": true });
    Json(json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }))
}

async fn record(control_plane: &ControlPlane, url: &str, seen: &Seen) -> anyhow::Result<()> {
    register(control_plane, url).await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    wait_until_called(control_plane, seen).await?;
    let mut missing = Vec::new();
    for (name, args, stdin) in WRITES {
        take(seen);
        let stdin = if name == "create-csr" { signing_request()? } else { stdin.to_owned() };
        let ran = control_plane.kubectl_as(USER, args.iter().copied()).await?.stdin(stdin).run().await;
        let ours: Vec<_> = take(seen).into_iter().filter(by_our_user).collect();
        let Some(body) = ours.last() else {
            missing.push(name);
            eprintln!("{name}: no review; {ran:?}");
            continue;
        };
        let review: Value = serde_json::from_slice(body)?;
        let request = &review["request"];
        fs::write(folder.join(format!("{name}.json")), body)?;
        let (operation, resource, subresource) =
            (&request["operation"], &request["resource"]["resource"], &request["subResource"]);
        eprintln!("{name}: {} reviews, {operation} {resource} {subresource} {}", ours.len(), request["options"]);
    }
    ensure!(missing.is_empty(), "no review came of {missing:?}");
    Ok(())
}

async fn register(control_plane: &ControlPlane, url: &str) -> anyhow::Result<()> {
    let every = json!({
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "operations": ["*"], "scope": "*",
    });
    let ca = BASE64.encode(control_plane.authority().certificate());
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "recorder" },
        "webhooks": [{
            "name": "recorder.audit.kubevision.io",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "clientConfig": { "url": url, "caBundle": ca },
            "rules": [every],
        }],
    });
    control_plane.kubectl(["create", "-f", "-"]).stdin(configuration.to_string()).ok().await.map(drop)
}

/// The API server takes a moment to notice a new webhook.
async fn wait_until_called(control_plane: &ControlPlane, seen: &Seen) -> anyhow::Result<()> {
    for _ in 0..60 {
        let knock = ["create", "configmap", "knock", "--dry-run=server"];
        control_plane.kubectl_as(USER, knock).await?.run().await?;
        if take(seen).iter().any(by_our_user) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    anyhow::bail!("the API server does not call the webhook")
}

fn take(seen: &Seen) -> Vec<Bytes> {
    std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
}

fn by_our_user(body: &Bytes) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|review| review["request"]["userInfo"]["username"] == USER)
}

fn signing_request() -> anyhow::Result<String> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "alice");
    let request = params.serialize_request(&rcgen::KeyPair::generate()?)?.pem()?;
    let spec = json!({
        "request": BASE64.encode(request),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
    });
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "name": "alice" },
        "spec": spec,
    });
    Ok(object.to_string())
}

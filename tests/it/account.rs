//! The program's own ServiceAccount, with the rights of deploy/rbac.yaml: no test runs the program as anybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use testkit::guard;
use tokio::sync::Mutex;

pub const RBAC: &str = include_str!("../../deploy/rbac.yaml");
/// Of a control plane whose audit log is to hold all that the program asks of it, in whatever namespace, and nothing else.
pub const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
    {"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]}"#;
/// Where deploy/rbac.yaml puts it.
const NAMESPACE: &str = "kubevision-audit";

/// A kubeconfig of it, made once for each control plane.
pub async fn kubeconfig(control_plane: &ControlPlane) -> anyhow::Result<PathBuf> {
    static MADE: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::const_new(BTreeMap::new());
    let mut made = MADE.lock().await;
    if let Some(path) = made.get(control_plane.kubeconfig()) {
        return Ok(path.clone());
    }
    let token = token(control_plane, NAMESPACE).await?;
    let path = kubeconfig_with(control_plane, &token)?;
    made.insert(control_plane.kubeconfig().to_owned(), path.clone());
    Ok(path)
}

/// A kubeconfig of another ServiceAccount in the same namespace.
pub async fn kubeconfig_of(control_plane: &ControlPlane, name: &str) -> anyhow::Result<PathBuf> {
    let token = control_plane.kubectl(["create", "token", name, "-n", NAMESPACE, "--duration=24h"]).ok().await?;
    kubeconfig_with(control_plane, token.trim())
}

fn kubeconfig_with(control_plane: &ControlPlane, token: &str) -> anyhow::Result<PathBuf> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "own",
        "clusters": [{"name": "own", "cluster": {
            "server": control_plane.url(),
            "certificate-authority-data": STANDARD.encode(control_plane.authority().certificate()),
        }}],
        "users": [{"name": "own", "user": {"token": token}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
    });
    let path = guard::folder("service-account")?.join("kubeconfig");
    fs::write(&path, kubeconfig.to_string()).context("writing the kubeconfig")?;
    Ok(path)
}

/// Makes the ServiceAccount in a namespace, and the namespace where it is missing; answers a token that outlasts every test.
pub async fn token(control_plane: &ControlPlane, namespace: &str) -> anyhow::Result<String> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    control_plane.kubectl(["apply", "-f", "-"]).stdin(object.to_string()).ok().await?;
    let rights = RBAC.replace(&format!("namespace: {NAMESPACE}"), &format!("namespace: {namespace}"));
    control_plane.kubectl(["apply", "-f", "-"]).stdin(rights).ok().await?;
    let token = ["create", "token", "kubevision-audit", "-n", namespace, "--duration=24h"];
    Ok(control_plane.kubectl(token).ok().await?.trim().to_owned())
}

/// What the API server saw the program do in this control plane, whichever test ran it.
pub fn requests(control_plane: &ControlPlane) -> anyhow::Result<Vec<Value>> {
    let path = control_plane.audit_log();
    let log = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let own = |line: &&str| line.contains("system:serviceaccount:");
    let events = log.lines().filter(own).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = |event: &Value| {
        let name = event["user"]["username"].as_str().unwrap_or_default();
        name.starts_with("system:serviceaccount:") && name.ends_with(":kubevision-audit")
    };
    Ok(events.filter(ours).collect())
}

/// What deploy/rbac.yaml does not grant, the program does not ask for.
pub fn nothing_was_refused(control_plane: &ControlPlane) -> anyhow::Result<()> {
    let requests = requests(control_plane)?;
    let (refused, answered): (Vec<_>, Vec<_>) =
        requests.iter().partition(|event| event["responseStatus"]["code"] == 403);
    let asked = |event: &Value| {
        let object = &event["objectRef"];
        ["resource", "subresource", "namespace", "name"].map(|part| object[part].to_string()).join(" ")
            + &event["verb"].to_string()
    };
    // An API server that starts refuses for a moment what it grants.
    let granted: BTreeSet<_> = answered.into_iter().map(asked).collect();
    let refused: Vec<_> = refused.into_iter().filter(|event| !granted.contains(&asked(event))).collect();
    let told: BTreeSet<_> = refused.iter().map(|event| format!("{} {}", event["verb"], event["requestURI"])).collect();
    ensure!(told.is_empty(), "the program asked for what deploy/rbac.yaml does not grant: {told:#?}");
    Ok(())
}

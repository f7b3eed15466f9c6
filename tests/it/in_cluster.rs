//! As in a pod: a mounted ServiceAccount and no kubeconfig, in a namespace of any name, called through a Service.
//!
//! Nothing here routes a Service's address, so the API server is told to call the Service's endpoints itself.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::program::Options as ProgramOptions;
use testkit::{Program, eventually, guard, postgres};

use crate::account;
use crate::cluster::WITHIN;

const NAMESPACE: &str = "watchers";
const SERVICE: &str = "recorder";
/// Where Kubernetes mounts it, in a mount namespace of the program's own: nobody else sees it there.
const IN_A_POD: &str = r#"#!/bin/sh
set -e
unshare --mount true || {
    echo "this test gives the program a mount namespace of its own: it needs unshare (util-linux) and root" >&2
    exit 1
}
grep -v '^kubernetes: ' config.yaml > in-cluster.yaml
echo 'kubernetes: {service: recorder}' >> in-cluster.yaml
exec unshare --mount sh -ec '
    mount -t tmpfs tmpfs "$(readlink -f /var/run)"
    mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
    mount --bind "$MOUNTED" /var/run/secrets/kubernetes.io/serviceaccount
    exec "$PROGRAM" serve --config in-cluster.yaml'
"#;

/// An address of this machine that Kubernetes accepts as an endpoint, which no loopback address is.
fn address() -> anyhow::Result<String> {
    // Nothing is sent: it only asks the routes which address would be ours.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("198.51.100.1:9").context("this machine has no route but to itself, and so no endpoint to offer")?;
    let address = socket.local_addr()?.ip();
    ensure!(!address.is_loopback(), "this machine has no address but {address}");
    Ok(address.to_string())
}

/// What a pod finds mounted.
fn mounted(folder: &Path, control_plane: &ControlPlane, token: &str) -> anyhow::Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join("token"), token)?;
    fs::write(folder.join("ca.crt"), control_plane.authority().certificate())?;
    Ok(fs::write(folder.join("namespace"), NAMESPACE)?)
}

/// The Service, and its endpoint where the program listens.
fn service(program: &Program, address: &str) -> String {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "webhook", "port": 8443, "targetPort": program.webhook().port()}]},
    });
    let labels = json!({"kubernetes.io/service-name": SERVICE});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE, "labels": labels},
        "ports": [{"name": "webhook", "port": program.webhook().port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    });
    format!("{service}\n---\n{slice}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_registers_its_service_and_keeps_what_it_keeps_in_its_own_namespace() -> anyhow::Result<()> {
    let options = Options {
        api_server_flags: vec!["--enable-aggregator-routing=true".to_owned()],
        audit_policy: Some(account::AUDIT_POLICY.to_owned()),
        ..Options::default()
    };
    let control_plane = ControlPlane::start_with(options).await?;
    let token = account::token(&control_plane, NAMESPACE).await?;
    let folder = guard::folder("pod")?;
    mounted(&folder.join("mounted"), &control_plane, &token)?;
    let pod = folder.join("pod");
    fs::write(&pod, IN_A_POD)?;
    fs::set_permissions(&pod, Permissions::from_mode(0o755))?;

    let address = address()?;
    let mut options = ProgramOptions::new(pod, "");
    options.database_url = Some(postgres::shared().await.create_database().await?);
    options.webhook_host = Some(address.clone());
    let api_server = control_plane.url();
    let (host, port) = api_server.trim_start_matches("https://").split_once(':').context("a URL without a port")?;
    let text = |path: &Path| path.display().to_string();
    options.env = [
        ("KUBERNETES_SERVICE_HOST", host.to_owned()),
        ("KUBERNETES_SERVICE_PORT", port.to_owned()),
        ("MOUNTED", text(&folder.join("mounted"))),
        ("PROGRAM", text(Path::new(env!("CARGO_BIN_EXE_kubevision-audit")))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut program = Program::spawn(options)?;
    control_plane.kubectl(["apply", "-f", "-"]).stdin(service(&program, &address)).ok().await?;
    program.ready().await?;

    let get = ["get", "validatingwebhookconfiguration", "kubevision-audit", "-o", "json"];
    let registration = control_plane.kubectl(get).json().await?;
    let webhook = &registration["webhooks"][0];
    let called = json!({"namespace": NAMESPACE, "name": SERVICE, "path": "/admission", "port": 8443});
    assert_eq!((&webhook["clientConfig"]["service"], &webhook["clientConfig"]["url"]), (&called, &Value::Null));
    let selected = &webhook["namespaceSelector"]["matchExpressions"];
    let all_but_its_own = json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE]}]);
    assert_eq!(selected, &all_but_its_own);
    control_plane.kubectl(["get", "secret", "kubevision-audit-keys", "-n", NAMESPACE]).ok().await?;

    // It answers the API server by the name of its Service, and what the API server sends it there is recorded.
    let create = async |namespace: &str, name: &str| {
        control_plane.kubectl(["create", "configmap", name, "-n", namespace]).ok().await.map(drop)
    };
    program.until_it_records(async |name| create("default", &name).await).await?;
    create(NAMESPACE, "its-own").await?;
    create("default", "anothers").await?;
    eventually(WITHIN, || async {
        let found = program.json("/api/v1/audit-logs?name=anothers").await?;
        ensure!(found["items"].as_array().is_some_and(|items| items.len() == 1), "{found}");
        Ok(())
    })
    .await?;
    let own = program.json(&format!("/api/v1/audit-logs?namespace={NAMESPACE}")).await?;
    assert_eq!(own["items"], json!([]), "{own}");
    assert!(account::requests(&control_plane)?.len() > 5, "its own account is whom it asks as");
    account::nothing_was_refused(&control_plane)
}

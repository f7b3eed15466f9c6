//! The files of deploy/control-plane, in the hands of the real API server.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::control_plane::{ADMINISTRATORS, ControlPlane, Options};
use testkit::eventually;

use crate::api::tls_client;
use crate::house::{Database, House};

const AUDIT_POLICY: &str = include_str!("../../deploy/control-plane/audit-policy.yaml");
const KUBECONFIG: &str = include_str!("../../deploy/control-plane/audit-webhook.kubeconfig");
const ADMISSION: &str = include_str!("../../deploy/control-plane/admission.yaml");
const MANIFEST: &str = include_str!("../../deploy/control-plane/manifest-webhook.yaml");
/// Where they say that they lie, and what they call.
const FOLDER: &str = "/etc/kubernetes/kubevision-audit";
const SERVICE: &str = "https://10.96.0.64:8443/audit-events";
const MANIFEST_URL: &str = "https://kubevision-audit.kubevision-audit.svc:8443/admission";
const WITHIN: Duration = Duration::from_secs(30);

/// What is to be adapted is, and nothing else.
fn adapted(text: &str, what: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut text = text.to_owned();
    for (given, ours) in what {
        ensure!(text.contains(given), "{given} is not in\n{text}");
        text = text.replace(given, ours);
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_starts_with_the_files_and_posts_what_is_asked_for_and_nothing_else() -> anyhow::Result<()> {
    let files = [(SERVICE, "{sink}"), (FOLDER, "{folder}")];
    let kubeconfig = adapted(KUBECONFIG, &files)?.replace("{folder}/token", "{folder}/ca.crt");
    let options = Options {
        audit_policy: Some(AUDIT_POLICY.to_owned()),
        audit_kubeconfig: Some(kubeconfig),
        ..Options::default()
    };
    let control_plane = ControlPlane::start_with(options).await?;
    let run = async |args: &[&str]| control_plane.kubectl(args.iter().copied()).ok().await;
    run(&["create", "configmap", "settings", "--from-literal=a=1"]).await?;
    run(&["get", "configmap", "settings"]).await?;
    run(&["create", "deployment", "web", "--image=nginx:1"]).await?;
    run(&[
        "patch",
        "deployment",
        "web",
        "--subresource=status",
        "--type=merge",
        "--patch={\"status\":{\"replicas\":1}}",
    ])
    .await?;
    run(&["auth", "whoami"]).await?;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "namespace": "default"}});
    control_plane.kubectl(["create", "-f", "-"]).stdin(lease.to_string()).ok().await?;
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                      "metadata": {"name": "hook"}});
    control_plane.kubectl(["apply", "--server-side", "-f", "-"]).stdin(hook.to_string()).ok().await?;
    // A pod that runs nowhere: the request for a terminal is refused, but it is one.
    let pod =
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
    control_plane.kubectl(["create", "-f", "-"]).stdin(pod).ok().await?;
    control_plane.kubectl(["exec", "p", "--", "true"]).refused().await?;
    let bob = control_plane.kubeconfig_for("bob", None).await?;
    control_plane.kubectl(["delete", "configmap", "settings"]).kubeconfig(&bob).refused().await?;
    control_plane.kubectl(["get", "secrets"]).kubeconfig(&bob).refused().await?;
    let client = tls_client(&control_plane.authority().certificate())?.build()?;
    for (method, token) in [(reqwest::Method::GET, Some("wrong")), (reqwest::Method::GET, None)] {
        let mut request =
            client.request(method, format!("{}/api/v1/namespaces/default/configmaps/bad", control_plane.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await?;
    }
    run(&["delete", "configmap", "settings"]).await?;

    let told = |event: &Value| {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let subresource = object["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        format!(
            "{} {} {}{subresource} {}",
            text(&event["user"]["username"]),
            text(&event["verb"]),
            text(&object["resource"]),
            event["responseStatus"]["code"]
        )
    };
    let sink = control_plane.audit_sink();
    let all = eventually(WITHIN, || async {
        let all: BTreeSet<_> = sink.find(|_| true).iter().map(told).collect();
        ensure!(all.contains("kubernetes-admin delete configmaps 200"), "{all:#?}");
        Ok(all)
    })
    .await?;
    for wanted in [
        "kubernetes-admin create configmaps 201",
        "kubernetes-admin create deployments 201",
        "kubernetes-admin patch mutatingwebhookconfigurations 201",
        "bob delete configmaps 403",
        " get configmaps 401",
    ] {
        assert!(all.contains(wanted), "{wanted} is not in {all:#?}");
    }
    assert!(all.iter().any(|event| event.contains(" pods/exec ")), "{all:#?}");
    let unwanted =
        ["leases", "/status", " secrets ", "selfsubjectreviews", "admin get c", " list ", " watch ", "anonymous"];
    let found: Vec<_> = all.iter().filter(|event| unwanted.iter().any(|word| event.contains(word))).collect();
    assert!(found.is_empty(), "{found:#?}");
    // Objects are asked for where no webhook is asked, and nowhere else.
    let with_objects = sink.find(|event| event.get("responseObject").is_some());
    assert!(!with_objects.is_empty());
    for event in with_objects {
        assert_eq!(event["objectRef"]["apiGroup"], "admissionregistration.k8s.io", "{event}");
        assert!(event["responseObject"]["metadata"].get("managedFields").is_none(), "{event}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_on_the_api_servers_disk_tells_who_changes_webhooks_and_is_told_once() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    let get = ["get", "validatingwebhookconfiguration", "kubevision-audit", "-o", "json"];
    let registration = house.control_plane.kubectl(get).json().await?;
    let config = &registration["webhooks"][0]["clientConfig"];
    let (url, bundle) = (config["url"].as_str().context("no url")?, config["caBundle"].as_str().context("no CA")?);
    ensure!(STANDARD.decode(bundle)?.starts_with(b"-----BEGIN"), "{bundle}");

    let folder = testkit::guard::folder("manifests")?;
    fs::create_dir(folder.join("manifests"))?;
    let manifest = adapted(MANIFEST, &[(MANIFEST_URL, url), ("caBundle: \"\"", &format!("caBundle: {bundle}"))])?;
    fs::write(folder.join("manifests/kubevision-audit.yaml"), manifest)?;
    let admission = adapted(ADMISSION, &[(FOLDER, &folder.to_string_lossy())])?;
    fs::write(folder.join("admission.yaml"), admission)?;
    let flag = format!("--admission-control-config-file={}", folder.join("admission.yaml").display());
    let options = Options { api_server_flags: vec![flag], ..Options::default() };
    let other = ControlPlane::start_with(options).await?;

    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                      "metadata": {"name": "by-mallory"}});
    let mallory = other.kubeconfig_for("mallory", Some(ADMINISTRATORS)).await?;
    other.kubectl(["create", "-f", "-"]).kubeconfig(&mallory).stdin(hook.to_string()).ok().await?;
    eventually(WITHIN, || async {
        let found =
            house.program.json("/api/v1/audit-logs?resource=MutatingWebhookConfiguration&name=by-mallory").await?;
        let items = found["items"].as_array().cloned().unwrap_or_default();
        ensure!(items.len() == 1 && items[0]["user"] == "mallory" && items[0]["source"] == "admission", "{items:?}");
        Ok(())
    })
    .await?;
    // It is not to be seen by the API, and not to be made by it.
    let found = other.kubectl(["get", "validatingwebhookconfigurations", "-o", "name"]).ok().await?;
    assert_eq!(found.trim(), "");
    Ok(())
}

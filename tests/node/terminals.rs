//! Terminals as a kubelet opens them: told while they are open, and with their end where audit events tell of it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::tools::{self, KUBECTL, PROBE};
use testkit::{eventually, http};
use tokio::process::{Child, Command};

use crate::node::{Node, STARTED_WITHIN, cluster};
use crate::release::{NAMESPACE, RECORDED_WITHIN, REGISTRATION, Release, image};

/// The node has a few volumes, and a terminal needs none.
const NO_VOLUME: &str = "persistence.enabled=false";
/// The address is where deploy/control-plane/audit-webhook.kubeconfig has the events posted.
const TAKES_EVENTS: [&str; 4] =
    [NO_VOLUME, "service.clusterIP=10.96.0.64", "auditEvents.enabled=true", "auditEvents.existingSecret=audit-events"];
const TOKEN: &str = "said-by-the-api-server";
const OPEN_FOR: Duration = Duration::from_secs(5);
/// The API server posts its events once a second.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_told_while_it_is_open_and_no_more_without_audit_events() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    node.restricted_namespace("shop").await?;
    let release = Release::install(&node, &[NO_VOLUME]).await?;
    release.until_it_records("shop").await?;
    pod(&node).await?;
    let mut session = terminal(&node, "alice", "open")?;
    let start = while_open(&release, &mut session, "alice").await?;
    assert_eq!((&start["outcome"], &start["ip"]), (&json!("unconfirmed"), &json!("")), "{start:#?}");
    session.wait().await?;
    refused(&node).await?;
    let told = release.entries("resource=Terminal&namespace=shop").await?;
    let bobs = told.iter().filter(|entry| entry["user"] == "bob").count();
    let ends = told.iter().filter(|entry| entry["action"] == "end").count();
    assert_eq!((bobs, ends), (0, 0), "nobody tells of a refusal, or of an end: {told:#?}");
    take_away(&node, release).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_audit_events_a_terminal_has_an_end_and_who_was_refused_one_is_told() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    node.restricted_namespace("shop").await?;
    node.restricted_namespace(NAMESPACE).await?;
    let token = format!("--from-literal=token={TOKEN}");
    node.run(&["create", "secret", "generic", "audit-events", "-n", NAMESPACE, &token]).await?;
    let release = Release::install(&node, &TAKES_EVENTS).await?;
    release.until_it_records("shop").await?;
    listen(&node).await?;
    release.until_it_records("shop").await?;
    pod(&node).await?;

    let mut session = terminal(&node, "alice", "open")?;
    let start = while_open(&release, &mut session, "alice").await?;
    assert_eq!(start["detail"]["summary"], "exec /probe in container app", "{start:#?}");
    session.wait().await?;
    let end = told(&release, "resource=Terminal&action=end&user=alice", |_| true).await?;
    let seconds = end["detail"]["system"]["durationSeconds"].as_f64().context("no duration")?;
    assert!((5.0..20.0).contains(&seconds), "{end:#?}");
    assert_eq!(end["resource_name"], "shell", "{end:#?}");
    let joined =
        told(&release, "resource=Terminal&action=start&user=alice", |entry| entry["outcome"] == "confirmed").await?;
    assert_eq!(joined["id"], start["id"], "it is the same one");
    assert!(joined["evidence"] == "audit" && joined["ip"] != "" && joined["status_code"] == 101, "{joined:#?}");
    assert_eq!(joined["real_user"], "kubernetes-admin", "{joined:#?}");

    refused(&node).await?;
    let bobs = told(&release, "resource=Terminal&user=bob", |_| true).await?;
    assert_eq!((&bobs["outcome"], &bobs["status_code"]), (&json!("rejected"), &json!(403)), "{bobs:#?}");

    // A program that is not there: the session is, and ends at once.
    node.kubectl_as("carol", &["exec", "-n", "shop", "shell", "--", "/nothing"])?.refused().await?;
    told(&release, "resource=Terminal&action=start&user=carol", |_| true).await?;
    told(&release, "resource=Terminal&action=end&user=carol", |_| true).await?;

    let attach = node.kubectl_as("dave", &["attach", "-n", "shop", "shell"])?.spawn()?;
    told(&release, "resource=Terminal&action=start&user=dave", |_| true).await?;
    drop(attach);
    told(&release, "resource=Terminal&action=end&user=dave", |_| true).await?;

    let forward = node
        .listening(&[
            "--as",
            "erin",
            "--as-group",
            "system:masters",
            "port-forward",
            "-n",
            "shop",
            "pod/shell",
            ":8080",
        ])
        .await?;
    http::get(forward.address, "/healthz").await?;
    told(&release, "resource=PortForward&action=start&user=erin", |_| true).await?;
    drop(forward);
    told(&release, "resource=PortForward&action=end&user=erin", |_| true).await?;
    take_away(&node, release).await
}

/// It serves, so that a port of it can be forwarded and it can be attached to.
async fn pod(node: &Node) -> anyhow::Result<()> {
    let locked = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65_532,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    node.apply(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell", "namespace": "shop"}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "app", "image": image(PROBE), "args": ["serve"],
                "imagePullPolicy": "Never", "securityContext": locked}],
        }}),
    )
    .await?;
    node.run(&["wait", "--for=condition=Ready", "pod/shell", "-n", "shop", "--timeout=60s"]).await.map(drop)
}

/// `kubectl exec -it`, in a terminal: `script` gives it one.
fn terminal(node: &Node, user: &str, what: &str) -> anyhow::Result<Child> {
    let kubectl = tools::find(KUBECTL)?;
    let seconds = OPEN_FOR.as_secs();
    let typed = format!(
        "{} --kubeconfig {} --as {user} --as-group system:masters exec -it -n shop shell -- /probe wait {seconds}s",
        kubectl.display(),
        node.kubeconfig().display()
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &typed, "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    script.spawn().with_context(|| format!("running script for a terminal that is {what}"))
}

/// Its start, found before it ended.
async fn while_open(release: &Release<'_>, session: &mut Child, user: &str) -> anyhow::Result<Value> {
    let start = told(release, &format!("resource=Terminal&action=start&user={user}"), |_| true).await?;
    ensure!(session.try_wait()?.is_none(), "it had ended when it was told: {start:#?}");
    Ok(start)
}

/// Bob may look at pods, as kubectl does first, and do nothing with them.
async fn refused(node: &Node) -> anyhow::Result<()> {
    for args in [
        ["create", "role", "looks", "-n", "shop", "--verb=get", "--resource=pods"],
        ["create", "rolebinding", "looks", "-n", "shop", "--role=looks", "--user=bob"],
    ] {
        node.run(&args).await?;
    }
    let exec = ["--as", "bob", "exec", "-n", "shop", "shell", "--", "/probe", "wait", "1s"];
    let said = node.kubectl(exec)?.refused().await?;
    ensure!(said.contains("pods/exec"), "{said}");
    Ok(())
}

async fn told(release: &Release<'_>, query: &str, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    eventually(TOLD_WITHIN.max(RECORDED_WITHIN), || async {
        let found = release.entries(&format!("namespace=shop&{query}")).await?;
        let it = found.iter().find(|entry| is_it(entry)).cloned();
        it.with_context(|| format!("{query}: {found:#?}"))
    })
    .await
}

/// As docs/install/control-plane.md says: the program's CA and the token go where the API server reads them, and that starts
/// again.
async fn listen(node: &Node) -> anyhow::Result<()> {
    let registration = node.json(&["get", REGISTRATION]).await?;
    let bundle = registration["webhooks"][0]["clientConfig"]["caBundle"].as_str().context("no caBundle")?.to_owned();
    let folder = std::env::var_os("KUBEVISION_AUDIT_CLUSTER").context("run `make test-cluster`")?;
    let source = PathBuf::from(folder).join("audit-source");
    for (name, content) in [("ca.crt", STANDARD.decode(bundle)?), ("token", TOKEN.into())] {
        std::fs::write(source.join(name), content).with_context(|| format!("writing {name}"))?;
    }
    cluster(&["restart-apiserver"]).await
}

async fn take_away(node: &Node, release: Release<'_>) -> anyhow::Result<()> {
    release.uninstall().await?;
    let gone = eventually(STARTED_WITHIN, || async {
        let found = node.run(&["get", REGISTRATION, "--ignore-not-found", "-o", "name"]).await?;
        ensure!(found.is_empty(), "{found}");
        Ok(())
    });
    gone.await?;
    node.without_namespace(NAMESPACE).await?;
    node.without_namespace("shop").await
}

//! What is asked of a running program, and how a cluster is rid of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use testkit::eventually;
use tokio::process::Command;

use crate::account;
use crate::chart;
use crate::house::{Database, House};

const WITHIN: Duration = Duration::from_secs(30);
const REGISTRATION: [&str; 4] = ["get", "validatingwebhookconfiguration", "kubevision-audit", "--ignore-not-found"];

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubevision-audit"));
    command.args(args).args(["--config", "config.yaml"]).current_dir(folder).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and standard output.
async fn said(folder: &Path, args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = command(folder, args).output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(text)?))
}

/// As the chart's Job does it before an uninstall, with the rights that it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_removed_for_good_while_its_replicas_are_ending() -> anyhow::Result<()> {
    let mut house = House::on(Database::Sqlite, "").await?;
    let folder = house.program.folder().to_owned();
    let kubectl = |args: &[&str]| house.control_plane.kubectl(args.iter().copied());
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubevision-audit"}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "kubevision-audit", "namespace": "kubevision-audit"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "log"}}, "template": {
                "metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "log", "image": "log"}]}}}}),
    ];
    for object in objects {
        kubectl(&["apply", "-f", "-"]).stdin(object.to_string()).ok().await?;
    }
    // All of the hook but its Job: there is no kubelet that would run it.
    let hook = chart::rendered_into("kubevision-audit", &["--show-only", "templates/unregister.yaml"])?;
    let rights: Vec<_> = hook.split("\n---\n").filter(|object| !object.contains("\nkind: Job\n")).collect();
    kubectl(&["apply", "-f", "-"]).stdin(rights.join("\n---\n")).ok().await?;
    let account = account::kubeconfig_of(&house.control_plane, "kubevision-audit-unregister").await?;
    let account = account.to_str().context("the kubeconfig's path is not UTF-8")?;

    let deployment = "kubevision-audit/kubevision-audit";
    let removing = command(&folder, &["unregister", "--deployment", deployment, "--kubeconfig", account]).spawn()?;
    eventually(WITHIN, || async {
        let live = kubectl(&["get", "deployment", "kubevision-audit", "-n", "kubevision-audit", "-o", "json"]);
        let replicas = live.json().await?["spec"]["replicas"].clone();
        ensure!(replicas == 0, "{replicas}");
        Ok(())
    })
    .await?;
    // As the kubelet does once the Deployment is scaled down.
    house.program.sigterm_and_wait().await?;
    let output = removing.wait_with_output().await?;
    let told = String::from_utf8([output.stdout, output.stderr].concat())?;
    assert!(output.status.success(), "{told}");
    assert!(told.starts_with("Deployment kubevision-audit/kubevision-audit is scaled to 0 replicas\n"), "{told}");
    assert!(told.contains("the webhook's registration is removed, and stays away"), "{told}");
    assert_eq!(kubectl(&REGISTRATION).ok().await?, "");

    kubectl(&["delete", "deployment", "kubevision-audit", "-n", "kubevision-audit"]).ok().await?;
    let again = said(&folder, &["unregister", "--deployment", deployment, "--kubeconfig", account]).await?;
    let nothing = "there is no Deployment kubevision-audit/kubevision-audit: nothing to stop\n\
                   no webhook was registered, and none has appeared\n";
    assert_eq!(again, (Some(0), nothing.to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_program_puts_its_registration_back_and_removing_it_says_so() -> anyhow::Result<()> {
    let house = House::on(Database::Sqlite, "").await?;
    // The program itself may not delete it.
    let administrator = house.control_plane.kubeconfig().to_str().context("the kubeconfig's path is not UTF-8")?;
    let (code, told) = said(house.program.folder(), &["unregister", "--kubeconfig", administrator]).await?;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("the webhook's registration is removed\n"), "{told}");
    assert!(told.contains("a kubevision-audit that runs registers again within 4 s"), "{told}");
    house.records().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_tells_how_it_is_and_one_that_is_away_is_told_by_its_address() -> anyhow::Result<()> {
    let mut house = House::on(Database::Sqlite, "").await?;
    let folder = house.program.folder().to_owned();
    let (code, told) = said(&folder, &["status"]).await?;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("[+]store ok\n") && told.ends_with("\nok\n"), "{told}");
    house.program.sigterm_and_wait().await?;
    let address = house.program.metrics().to_string();
    let (code, told) = said(&folder, &["status", "--address", &address]).await?;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("asking {address}: ")), "{told}");
    let (code, told) = said(&folder, &["unregister", "--deployment", "log"]).await?;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("accepted is NAMESPACE/NAME"), "{told}");
    Ok(())
}

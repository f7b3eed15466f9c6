//! `xtask demo --once`, as `make demo ARGS=--once` runs it: what a newcomer sees, and that nothing stays behind.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::ensure;
use testkit::control_plane::{ControlPlane, Options};
use testkit::eventually;
use testkit::tools::{KUBECTL, find};
use tokio::process::Command;

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_demo_tells_what_two_people_did_and_leaves_nothing_running() {
    let output = demo(&[]).await;
    let told = told(&output);
    shows_the_day(&told);
    let database = told.split_whitespace().find(|word| word.ends_with("audit.db")).unwrap();
    let folder = Path::new(database).parent().unwrap().parent().unwrap().to_owned();
    eventually(WITHIN, || async {
        ensure!(!folder.exists(), "{} is still there", folder.display());
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_cluster_that_is_given_is_used_and_left_as_it_was_found() {
    let options = Options { controller_manager: true, ..Options::default() };
    let cluster = ControlPlane::start_with(options).await.unwrap();
    let output = demo(&given(&cluster)).await;
    shows_the_day(&told(&output));
    eventually(WITHIN, || async {
        let left = ["get", "validatingwebhookconfigurations,namespaces", "-o", "name"];
        let left = cluster.kubectl(left).ok().await?;
        ensure!(!left.contains("kubevision"), "still there: {left}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_cluster_that_has_the_program_already_is_not_touched() {
    let cluster = ControlPlane::start().await.unwrap();
    cluster.kubectl(["create", "namespace", "kubevision-demo"]).ok().await.unwrap();
    let output = demo(&given(&cluster)).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("has namespace/kubevision-demo already"), "{said}");
    cluster.kubectl(["get", "namespace", "kubevision-demo"]).ok().await.unwrap();
}

async fn demo(env: &[(&str, OsString)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["demo", "--once", "--binary"]).arg(program()).env_remove("KUBECONFIG");
    command.envs(env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.unwrap()
}

/// The environment of somebody who has this cluster, and a kubectl in PATH.
fn given(cluster: &ControlPlane) -> [(&'static str, OsString); 2] {
    let kubectl = find(KUBECTL).unwrap();
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [kubectl.parent().unwrap().to_owned()].into_iter().chain(env::split_paths(&path));
    [("KUBECONFIG", cluster.kubeconfig().into()), ("PATH", env::join_paths(folders).unwrap())]
}

/// Cargo puts the workspace's programs side by side.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("kubevision-audit");
    assert!(program.is_file(), "{} is missing: run `cargo build -p kubevision-audit` first", program.display());
    program
}

#[track_caller]
fn told(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Each line's words; that the columns align is the table's own test.
#[track_caller]
fn shows_the_day(told: &str) {
    let lines: Vec<String> = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "alice create Deployment web unconfirmed",
        "bob update Deployment web unconfirmed container proxy added; image shop/web:1.0 → shop/web:1.1",
        "alice update Deployment/scale web unconfirmed replicas 2 → 5",
        "alice create Secret db unconfirmed",
        "bob update Secret db unconfirmed password changed",
        "alice create RoleBinding bob-edits unconfirmed",
        "bob create ConfigMap flags unconfirmed",
        "bob update ConfigMap flags unconfirmed",
        "bob create Secret second unconfirmed",
        "alice delete Deployment web unconfirmed",
    ];
    for entry in expected {
        assert_eq!(lines.iter().filter(|line| line.contains(entry)).count(), 1, "{entry:?} once in\n{told}");
    }
    let entries = lines.iter().filter(|line| line.contains(" unconfirmed")).count();
    assert_eq!(entries, expected.len(), "nothing else is recorded:\n{told}");
}

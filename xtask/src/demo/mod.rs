//! `make demo`: a real API server, the program beside it, a dozen writes by two people, and what was recorded of them.

mod cluster;
mod table;
mod tour;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::Value;
use testkit::program::{Options, Program};
use testkit::{eventually, guard};
use tokio::signal::unix::{SignalKind, signal};

use crate::tools;
use cluster::Cluster;

const NAMESPACE: &str = "kubevision-demo";
const RECORDED_WITHIN: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Demo {
    /// End by itself after the table, instead of staying up until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// With KUBECONFIG: the address under which that cluster's API server reaches this machine.
    #[arg(long, value_name = "HOST")]
    webhook_host: Option<String>,
    /// This program, instead of building it.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(demo: &Demo, root: &Path) -> anyhow::Result<()> {
    if !Cluster::is_given() {
        tools::for_tests()?;
    }
    let binary = match &demo.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => build(root)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(play(demo, binary))
}

/// Cargo shows its own progress.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    eprintln!("building kubevision-audit …");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "-p", "kubevision-audit", "--message-format=json-render-diagnostics"]);
    let output = cargo.current_dir(root).stderr(Stdio::inherit()).output().context("running cargo")?;
    ensure!(output.status.success(), "kubevision-audit does not build");
    let messages = String::from_utf8(output.stdout)?;
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executables: Vec<PathBuf> = built.filter_map(|message| Some(message["executable"].as_str()?.into())).collect();
    executables.into_iter().find(|path| path.ends_with("kubevision-audit")).context("cargo told of no executable")
}

/// Whatever ends it, a cluster that is not ours is left as it was found.
async fn play(demo: &Demo, binary: PathBuf) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let folder = guard::folder("demo")?;
    let cluster = tokio::select! {
        cluster = find_cluster(&folder) => cluster?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let mut program = None;
    let shown = tokio::select! {
        shown = show(demo, binary, &folder, &cluster, &mut program) => shown,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let stopped = match program {
        Some(mut program) => program.sigterm_and_wait().await.map(drop),
        None => Ok(()),
    };
    shown.and(stopped).and(cluster.tidy_up().await)
}

async fn find_cluster(folder: &Path) -> anyhow::Result<Cluster> {
    let which = if Cluster::is_given() { "looking at the cluster of KUBECONFIG" } else { "starting the control plane" };
    eprintln!("{which} …");
    Cluster::find(folder).await
}

/// Comes back after the table with `--once`, else never.
async fn show(
    demo: &Demo,
    binary: PathBuf,
    folder: &Path,
    cluster: &Cluster,
    running: &mut Option<Program>,
) -> anyhow::Result<()> {
    eprintln!("starting kubevision-audit …");
    let mut options = Options::new(binary, cluster.kubeconfig());
    options.webhook_host.clone_from(&demo.webhook_host);
    let program = running.insert(Program::spawn_in(folder, options)?);
    program.ready().await?;
    tour::prepare(cluster).await?;
    let probe = async |name: String| {
        cluster.kubectl(&["--namespace", NAMESPACE, "create", "configmap", &name]).ok().await.map(drop)
    };
    program.until_it_records(probe).await?;
    eprintln!("ready; {} and {} begin their day\n", tour::USERS[0], tour::USERS[1]);
    tour::walk(cluster).await?;
    println!("\n{}\n", recorded(program).await?);
    println!("{}", where_next(program, cluster));
    if demo.once {
        return Ok(());
    }
    println!("\nIt stays up until Ctrl-C.");
    let ended = loop {
        if let Some(ended) = program.ended()? {
            break ended;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    bail!("kubevision-audit ended ({ended}); its log: {}", program.log()?)
}

/// Oldest first: the order of the story.
async fn recorded(program: &Program) -> anyhow::Result<String> {
    eventually(RECORDED_WITHIN, || async {
        let list = program.json(&format!("/api/v1/audit-logs?namespace={NAMESPACE}&limit=100")).await?;
        let items = list["items"].as_array().context("the list has no items")?;
        let by_people = |entry: &&Value| tour::USERS.iter().any(|user| entry["user"] == *user);
        let entries: Vec<&Value> = items.iter().rev().filter(by_people).collect();
        let (action, resource) = tour::LAST;
        let complete = entries.iter().any(|entry| entry["action"] == action && entry["resource"] == resource);
        ensure!(complete, "the last write is not recorded yet; so far\n{}", table::table(&entries));
        Ok(table::table(&entries))
    })
    .await
}

fn where_next(program: &Program, cluster: &Cluster) -> String {
    let panel = format!("http://{}", program.panel());
    let database = program.database_url().trim_start_matches("sqlite://");
    [
        "Where to look next".to_owned(),
        format!("  page     {panel}/settings/audit-logs"),
        format!("  curl     curl '{panel}/api/v1/audit-logs?user=bob&action=update'"),
        format!("  CSV      curl -O {panel}/api/v1/audit-logs.csv"),
        format!(
            "  SQL      sqlite3 {database} 'select \"user\", action, resource, resource_name from audit_entries order by id'"
        ),
        format!("  kubectl  export KUBECONFIG={}   # your own writes appear within a second", cluster.kubeconfig().display()),
        format!("  log      {}", program.log_path().display()),
    ]
    .join("\n")
}

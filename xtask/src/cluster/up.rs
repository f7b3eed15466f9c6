//! Starts the node, and waits until pods can run on it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use testkit::eventually;
use testkit::tools::{self, COREDNS, HELM, KUBECTL};
use tokio::net::TcpStream;

use super::address::{self, CABLE, DNS, LINK, MACHINE, NODE, NODE_NAME, PODS, SERVICES};
use super::cgroups::Cgroups;
use super::init::CABLE_END;
use super::record::Record;
use super::state::{State, fill, make_folder, remove_folder};
use super::{certificates, configuration, down, images, machine, volumes};
use crate::root;

/// Six seconds on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(180);
const UNSHARED_WITHIN: Duration = Duration::from_secs(20);
const COREDNS_MANIFEST: &str = include_str!("manifests/coredns.yaml");
const STORAGE_MANIFEST: &str = include_str!("manifests/storage.yaml");

/// `start`: when the caller asked for it.
pub(super) async fn run(state: &State, image: bool, start: Instant) -> anyhow::Result<()> {
    let lock = state.lock()?;
    let running = Record::read(state)?.filter(|record| record.is_alive().unwrap_or(false));
    let was_up = running.is_some() && machine::has_link(LINK)?;
    let node = match running {
        Some(node) if was_up => node,
        // Not there, dead, or out of reach: somebody has removed its cable.
        _ => begin(state).await?,
    };
    drop(lock);
    ready(state, &node).await?;
    if image {
        load_made(&node)?;
    }
    let seconds = start.elapsed().as_secs_f32();
    let what = if was_up { "runs already".to_owned() } else { format!("is ready after {seconds:.1} s") };
    println!("the node {what}\n{}", how_to_use(state)?);
    Ok(())
}

/// Comes back when the node's first process runs and has its cable.
async fn begin(state: &State) -> anyhow::Result<Record> {
    eprintln!("starting the node …");
    down::end(state).await?;
    address::check_free()?;
    certificates::make(state)?;
    configuration::write_all(state)?;
    images::write_ours(state)?;
    remove_folder(&state.logs())?;
    make_folder(&state.logs())?;
    let cgroups = Cgroups::make()?;
    let node = match spawn(state, &cgroups) {
        Ok(node) => node,
        Err(error) => {
            cgroups.remove().await?;
            return Err(error);
        }
    };
    unshared(state, &node).await?;
    node.cgroups.settle()?;
    lay_cable(&node)?;
    Ok(node)
}

/// In a process group of its own: the terminal's Ctrl-C is not for it. Once it is there it is written down, so that it is
/// ended whatever becomes of us.
fn spawn(state: &State, cgroups: &Cgroups) -> anyhow::Result<Record> {
    let log = File::create(state.logs().join("init.log")).context("opening the node's log")?;
    let child = Command::new(std::env::current_exe()?)
        .args(["cluster", "enter"])
        .args(cgroups.folders())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting the node")?;
    let node = Record::new(i32::try_from(child.id())?, cgroups.clone())?;
    node.write(state)?;
    Ok(node)
}

async fn unshared(state: &State, node: &Record) -> anyhow::Result<()> {
    let ours = fs::read_link("/proc/self/ns/net").context("looking at our own network")?;
    until(state, node, UNSHARED_WITHIN, || async {
        let its = fs::read_link(node.path_of("ns/net")).context("looking at the node's network")?;
        ensure!(its != ours, "the node has no network of its own");
        Ok(())
    })
    .await
}

/// Link and routes go with the node's end of the cable.
fn lay_cable(node: &Record) -> anyhow::Result<()> {
    let ip = |args: &str| machine::output("ip", &args.split(' ').collect::<Vec<_>>());
    ip(&format!("link add {LINK} type veth peer name {CABLE_END} netns {}", node.pid()))?;
    ip(&format!("address add {MACHINE}/{} dev {LINK}", CABLE.bits()))?;
    ip(&format!("link set {LINK} up"))?;
    for network in [SERVICES, PODS] {
        ip(&format!("route add {network} via {NODE}"))?;
    }
    Ok(())
}

async fn ready(state: &State, node: &Record) -> anyhow::Result<()> {
    api_server_ready(state, node).await?;
    let coredns = images::name(COREDNS)?;
    let coredns = fill(COREDNS_MANIFEST, &[("coredns", coredns), ("dns", DNS.to_string())]);
    until(state, node, READY_WITHIN, || async {
        for manifest in [coredns.as_str(), STORAGE_MANIFEST] {
            state.kubectl(["apply", "--server-side", "-f", "-"])?.stdin(manifest).ok().await?;
        }
        volumes::renew(state).await
    })
    .await?;
    until(state, node, READY_WITHIN, || node_ready(state)).await?;
    until(state, node, READY_WITHIN, || names_resolve(state)).await
}

pub(super) async fn api_server_ready(state: &State, node: &Record) -> anyhow::Result<()> {
    until(state, node, READY_WITHIN, || async { state.kubectl(["get", "--raw", "/readyz"])?.ok().await.map(drop) })
        .await
}

/// The Node object may be what was left of the last start: kubelet itself is asked, too.
async fn node_ready(state: &State) -> anyhow::Result<()> {
    let healthz = format!("/api/v1/nodes/{NODE_NAME}/proxy/healthz");
    state.kubectl(["get", "--raw", &healthz])?.ok().await?;
    let node = state.kubectl(["get", "node", NODE_NAME, "-o", "json"])?.json().await?;
    let conditions = node["status"]["conditions"].as_array().context("the node has no conditions")?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").context("the node has no status")?;
    ensure!(ready["status"] == "True", "the node is not ready: {}", ready["message"]);
    state.kubectl(["get", "serviceaccount", "default"])?.ok().await.map(drop)
}

/// By the way that a pod's question goes: through kube-proxy's rules, to CoreDNS's pod.
async fn names_resolve(state: &State) -> anyhow::Result<()> {
    let connect = TcpStream::connect((DNS, 53));
    tokio::time::timeout(Duration::from_secs(1), connect).await.context("CoreDNS does not answer")??;
    let rollout = ["rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=30s"];
    state.kubectl(rollout)?.ok().await.map(drop)
}

/// Until it succeeds; fails at once, with its log, where the node has ended.
async fn until<T, A>(
    state: &State,
    node: &Record,
    within: Duration,
    mut attempt: impl FnMut() -> A,
) -> anyhow::Result<T>
where
    A: Future<Output = anyhow::Result<T>>,
{
    let waited = eventually(within, || {
        let alive = node.is_alive();
        let attempt = attempt();
        async move {
            if !alive? {
                // Final: what has ended won't become ready.
                return Ok(None);
            }
            attempt.await.map(Some)
        }
    });
    let logs = state.logs();
    match waited.await.with_context(|| format!("the node is not ready; its logs are in {}", logs.display()))? {
        Some(answer) => Ok(answer),
        None => bail!("the node has ended; its log ends with\n{}", state.log_tail("init")),
    }
}

/// What `make image` has left.
fn load_made(node: &Record) -> anyhow::Result<()> {
    let folder = root().join("target/image");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("reading {}: `make image` fills it", folder.display()))?;
    let tars: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_tar(path)).collect();
    ensure!(!tars.is_empty(), "{} holds no tar: `make image` makes one", folder.display());
    tars.iter().try_for_each(|tar| images::load(node, tar))
}

fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tar")
}

fn how_to_use(state: &State) -> anyhow::Result<String> {
    let mut lines = vec![
        format!("  export KUBECONFIG={}", state.kubeconfig().display()),
        format!("  kubectl   {}", tools::cached(KUBECTL)?.display()),
    ];
    let helm = tools::cached(HELM)?;
    if helm.exists() {
        lines.push(format!("  helm      {}", helm.display()));
    }
    lines.extend([
        "  images    cargo run -p xtask -- cluster load IMAGE.tar   # nothing is pulled".to_owned(),
        format!("  machine   {MACHINE} for its pods; Services and pods have a route from here"),
        format!("  logs      {}", state.logs().display()),
        format!("  audit     {}", state.audit_log().display()),
        format!("  events    to https://10.96.0.64:8443 with what is in {}", state.audit_source().display()),
        "  end       make cluster-down".to_owned(),
    ]);
    Ok(lines.join("\n"))
}

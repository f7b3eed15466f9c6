//! Shows that the node is one: a pod, its volume, its Service and its name. And, where it starts the node itself, that
//! nothing of it stays on the machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use testkit::tools::PROBE;
use testkit::{eventually, http};

use super::machine::Machine;
use super::record::Record;
use super::state::{State, fill};
use super::{down, images, up, volumes};

const WITHIN: Duration = Duration::from_secs(60);
const MANIFEST: &str = include_str!("manifests/prove.yaml");

pub(super) async fn run(state: &State) -> anyhow::Result<()> {
    let runs = Record::read(state)?.is_some_and(|record| record.is_alive().unwrap_or(false));
    if runs {
        return cluster(state).await;
    }
    down::end(state).await?;
    let before = Machine::look()?;
    up::run(state, false, Instant::now()).await?;
    let proved = cluster(state).await;
    down::run(state, false).await?;
    proved?;
    let differences = Machine::look()?.differences(&before);
    ensure!(differences.is_empty(), "the node left the machine changed:\n{}", differences.join("\n"));
    println!("ok  nothing of the node is left on the machine");
    Ok(())
}

async fn cluster(state: &State) -> anyhow::Result<()> {
    let start = Instant::now();
    let namespace = format!("kubevision-prove-{}", process::id());
    let shown = show(state, &namespace).await;
    // The claim goes once the pod has, and then its volume is anybody's again. The namespace takes some seconds more,
    // which nobody waits for: the next one has another name.
    let used =
        ["delete", "deployment/web", "persistentvolumeclaim/data", "--ignore-not-found", "--namespace", &namespace];
    state.kubectl(used)?.ok().await?;
    state.kubectl(["delete", "namespace", &namespace, "--ignore-not-found", "--wait=false"])?.ok().await?;
    shown?;
    volumes::renew(state).await?;
    println!("ok  in {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

async fn show(state: &State, namespace: &str) -> anyhow::Result<()> {
    let inside = |args: &[&str]| state.kubectl(["--namespace", namespace]).map(|kubectl| kubectl.args(args.to_vec()));
    let manifest = fill(MANIFEST, &[("namespace", namespace), ("probe", &images::name(PROBE)?)]);
    state.kubectl(["apply", "-f", "-"])?.stdin(manifest).ok().await?;
    inside(&["rollout", "status", "deployment/web", "--timeout=60s"])?.ok().await?;
    println!("ok  a pod without rights runs, its volume is bound");

    let service = inside(&["get", "service", "web", "-o", "json"])?.json().await?;
    let address: Ipv4Addr = service["spec"]["clusterIP"].as_str().context("the Service has no address")?.parse()?;
    let answer = eventually(WITHIN, || http::get(SocketAddr::from((address, 80)), "/from-the-machine")).await?;
    ensure!(answer.status == 200 && answer.body.starts_with("web-"), "the Service answers {answer:?}");
    println!("ok  this machine reaches a Service");

    let names = [format!("http://web.{namespace}.svc.cluster.local/by-name"), format!("http://{address}/by-address")];
    for url in &names {
        let get = || async { inside(&["exec", "deployment/web", "--", "/probe", "get", url])?.ok().await };
        let answer = eventually(WITHIN, get).await?;
        ensure!(answer.starts_with("web-"), "{url} answers {answer}");
    }
    println!("ok  a pod reaches a Service, by its name and by its address");

    let log = inside(&["logs", "deployment/web"])?.ok().await?;
    for path in ["/from-the-machine", "/by-name", "/by-address"] {
        ensure!(log.contains(&format!("GET {path}")), "the pod's log has no {path}: {log}");
    }
    println!("ok  what it logs is read");
    Ok(())
}

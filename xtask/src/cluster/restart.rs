//! A kube-apiserver that ends and comes back, as in an upgrade.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use testkit::eventually;
use testkit::tools::{API_SERVER, cached};

use super::record::Record;
use super::state::State;
use super::up;

/// Enough for the requests in flight. Then it would wait a minute for the watches that its clients keep open.
const DRAIN: Duration = Duration::from_secs(2);
const KILLED_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn run(state: &State) -> anyhow::Result<()> {
    let node = Record::running(state)?;
    let pid = api_server(&node)?.context("no API server runs on the node")?;
    kill_process(pid, Signal::TERM).context("asking the API server to end")?;
    let gone = || async {
        ensure!(test_kill_process(pid).is_err(), "the API server still runs");
        Ok(())
    };
    if eventually(DRAIN, gone).await.is_err() {
        kill_process(pid, Signal::KILL).context("ending the API server")?;
        eventually(KILLED_WITHIN, gone).await?;
    }
    up::api_server_ready(state, &node).await?;
    println!("the API server was started again");
    Ok(())
}

/// The one in the node's namespaces: tests run others, from the same file.
fn api_server(node: &Record) -> anyhow::Result<Option<Pid>> {
    let program = cached(API_SERVER)?;
    let network = fs::read_link(node.path_of("ns/net")).context("looking at the node's network")?;
    for process in fs::read_dir("/proc").context("listing the processes")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let link = |name: &str| fs::read_link(process.path().join(name)).unwrap_or_default();
        if link("exe") == program && link("ns/net") == network {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

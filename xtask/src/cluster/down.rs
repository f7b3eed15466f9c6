//! Ends the node, whether it runs or has died, and takes back what it was given of the machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use testkit::eventually;

use super::address::LINK;
use super::machine;
use super::record::Record;
use super::state::{State, remove_folder};

/// The kernel takes some hundred processes, their mounts and their links apart.
const GONE_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn run(state: &State, wipe: bool) -> anyhow::Result<()> {
    let _lock = state.lock()?;
    let ended = end(state).await?;
    let root = state.root().display();
    if wipe {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
        ensure!(!mounts.contains(&format!(" {root}")), "something is mounted below {root}, so it is not removed");
        remove_folder(state.root())?;
        println!("the node is down, and its data are removed");
    } else if ended {
        println!("the node is down; its data stay in {root}, until `make cluster-down ARGS=--wipe`");
    } else {
        println!("no node runs");
    }
    Ok(())
}

/// Answers whether there was one.
pub(super) async fn end(state: &State) -> anyhow::Result<bool> {
    let Some(record) = Record::read(state)? else { return Ok(false) };
    record.kill()?;
    eventually(GONE_WITHIN, || async {
        ensure!(!record.is_alive()?, "the node's first process is still there");
        Ok(())
    })
    .await?;
    record.cgroups.remove().await?;
    // It goes with the namespace of its other end, but that may stay for minutes: a connection that a killed process left
    // half closed keeps it.
    eventually(GONE_WITHIN, || async {
        if machine::has_link(LINK)? {
            machine::output("ip", &["link", "delete", LINK])?;
        }
        Ok(())
    })
    .await?;
    fs::remove_file(state.record()).context("removing the record of the node")?;
    Ok(true)
}

//! The machine around the node: its programs, and what of it the node must not have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::cgroups;
use crate::setup::SYSTEM_PATH;

/// Of those that kubelet, kube-proxy and the node's routing would change.
const SYSCTLS: [&str; 4] = ["kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward", "vm/overcommit_memory"];

/// What a system's program says; fails with its complaint.
pub(super) fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .env("PATH", SYSTEM_PATH)
        .args(args)
        .output()
        .with_context(|| format!("running {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), complaint.trim());
    String::from_utf8(output.stdout).with_context(|| format!("the output of {program} is not UTF-8"))
}

pub(super) fn has_link(name: &str) -> anyhow::Result<bool> {
    let links = output("ip", &["-j", "link"])?;
    let links: Vec<Value> = serde_json::from_str(&links).context("reading the links")?;
    Ok(links.iter().any(|link| link["ifname"] == name))
}

/// What a node could leave behind, by kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Machine(BTreeMap<&'static str, BTreeSet<String>>);

impl Machine {
    pub(super) fn look() -> anyhow::Result<Self> {
        let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>();
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
        Ok(Self(BTreeMap::from([
            ("link", lines(output("ip", &["-br", "link"])?)),
            ("route", lines(output("ip", &["route", "show", "table", "all"])?)),
            ("rule of nft", lines(output("nft", &["list", "ruleset"])?)),
            ("mount", lines(mounts)),
            ("sysctl", SYSCTLS.into_iter().filter_map(sysctl).collect()),
            ("cgroup", nodes_cgroups(Path::new(cgroups::ROOT))?),
        ])))
    }

    /// What is in `self` and was not in `before`, and the other way round; empty: nothing.
    pub(super) fn differences(&self, before: &Self) -> Vec<String> {
        let none = BTreeSet::new();
        let mut found = Vec::new();
        for (kind, now) in &self.0 {
            let then = before.0.get(kind).unwrap_or(&none);
            found.extend(now.difference(then).map(|line| format!("a new {kind}: {line}")));
            found.extend(then.difference(now).map(|line| format!("a lost {kind}: {line}")));
        }
        found
    }
}

/// None: this kernel has no such one.
fn sysctl(name: &str) -> Option<String> {
    let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(format!("{name} = {}", value.trim()))
}

/// Those below our name; others come and go with their own.
fn nodes_cgroups(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.file_name() == cgroups::NAME {
            found.insert(entry.path().display().to_string());
        }
        found.extend(nodes_cgroups(&entry.path())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_told_by_kind() {
        let machine = |links: &[&str]| {
            let links = links.iter().map(|&link| link.to_owned()).collect();
            Machine(BTreeMap::from([("link", links), ("mount", BTreeSet::new())]))
        };
        let (before, after) = (machine(&["lo", "eth0"]), machine(&["lo", "kvn0"]));
        assert_eq!(after.differences(&before), ["a new link: kvn0", "a lost link: eth0"]);
        assert_eq!(before.differences(&before), Vec::<String>::new());
    }
}

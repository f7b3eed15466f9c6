//! The node's cgroups: children of the caller's own, in which kubelet finds what looks like a machine's.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use testkit::eventually;

use super::state::write;

pub(super) const ROOT: &str = "/sys/fs/cgroup";
pub(super) const NAME: &str = "kubevision-node";
/// A killed process leaves its cgroup when the kernel has taken it apart.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);
/// What kubelet limits and counts by.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// What was made, to be removed again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cgroups {
    folders: Vec<PathBuf>,
    /// With version 2: what the machine's root did not hand down before.
    handed_down: Vec<String>,
}

impl Cgroups {
    pub(super) fn make() -> anyhow::Result<Self> {
        let hierarchies = hierarchies(&ours()?);
        if hierarchies.is_empty() {
            return make_unified();
        }
        // All are looked at before any is made.
        let parents: Vec<PathBuf> = hierarchies.iter().map(Hierarchy::parent).collect::<anyhow::Result<_>>()?;
        let made = Self { folders: parents.iter().map(|parent| parent.join(NAME)).collect(), handed_down: Vec::new() };
        for (parent, folder) in parents.iter().zip(&made.folders) {
            make_folder(folder)?;
            // A new one has none of these, and takes no process until it has.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read(parent.join(file)) {
                    write(&folder.join(file), all)?;
                }
            }
        }
        Ok(made)
    }

    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// With version 2 a cgroup has processes or hands controllers down, not both: the node's first processes, now that
    /// their namespace has its root here, go one further down.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        let Some(folder) = self.folders.iter().find(|folder| is_unified(folder)) else {
            return Ok(());
        };
        let first = folder.join("init");
        make_folder(&first)?;
        for pid in fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
            write(&first.join("cgroup.procs"), pid)?;
        }
        hand_down(folder).map(drop)
    }

    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        for folder in &self.folders {
            eventually(EMPTY_WITHIN, || async { remove_below(folder) }).await?;
        }
        for controller in &self.handed_down {
            // Where somebody else has come to need it, it stays.
            let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("-{controller}"));
        }
        Ok(())
    }
}

/// For the calling process.
pub(super) fn join(folders: &[PathBuf]) -> anyhow::Result<()> {
    folders.iter().try_for_each(|folder| write(&folder.join("cgroup.procs"), std::process::id().to_string()))
}

/// A hierarchy of version 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// As the kernel's option of `mount` says it: `cpu,cpuacct`, `none,name=systemd`.
    pub(super) option: String,
    /// As the folder is called where it is mounted.
    name: String,
    /// Where the process is in it.
    path: String,
}

impl Hierarchy {
    pub(super) fn mounted(&self) -> PathBuf {
        Path::new(ROOT).join(&self.name)
    }

    /// The caller's own cgroup, below which the node's is made.
    fn parent(&self) -> anyhow::Result<PathBuf> {
        let parent = self.mounted().join(self.path.trim_start_matches('/'));
        let there = parent.join("cgroup.procs").is_file();
        ensure!(there, "the cgroups of {} are not at {}: the node needs them", self.name, parent.display());
        Ok(parent)
    }
}

/// Where the calling process is.
pub(super) fn ours() -> anyhow::Result<String> {
    fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup: the node needs cgroups")
}

/// None: the machine has version 2 alone.
pub(super) fn hierarchies(proc_cgroup: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (option, name) = match controllers.strip_prefix("name=") {
            Some(name) => (format!("none,{controllers}"), name),
            None if controllers.is_empty() => return None,
            None => (controllers.to_owned(), controllers),
        };
        Some(Hierarchy { option, name: name.to_owned(), path: path.to_owned() })
    };
    proc_cgroup.lines().filter_map(parse).collect()
}

/// Below the root, the only one that may have processes and hand controllers down.
fn make_unified() -> anyhow::Result<Cgroups> {
    let root = Path::new(ROOT);
    ensure!(root.join("cgroup.controllers").is_file(), "there are no cgroups at {ROOT}: the node needs them");
    let handed_down = hand_down(root)?;
    let folder = root.join(NAME);
    make_folder(&folder)?;
    Ok(Cgroups { folders: vec![folder], handed_down })
}

/// Answers what was not handed down before.
fn hand_down(folder: &Path) -> anyhow::Result<Vec<String>> {
    let words = |file: &str| -> anyhow::Result<Vec<String>> {
        let text = fs::read_to_string(folder.join(file)).with_context(|| format!("reading {file} of the cgroups"))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let (there, mut missing) = (words("cgroup.subtree_control")?, words("cgroup.controllers")?);
    missing.retain(|controller| CONTROLLERS.contains(&controller.as_str()) && !there.contains(controller));
    for controller in &missing {
        write(&folder.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(missing)
}

fn is_unified(folder: &Path) -> bool {
    folder.join("cgroup.subtree_control").is_file()
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("making the cgroup {}: the node needs it", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Deepest first. What is in a cgroup are the kernel's files, which go with it.
fn remove_below(folder: &Path) -> anyhow::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => bail!("reading {}: {error}", folder.display()),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path())?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("removing the cgroup {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_version_1_are_found_by_their_controllers_and_names() {
        let text = "9:name=systemd:/user.slice\n4:cpu,cpuacct:/\n0::/user.slice\n";
        let found = hierarchies(text);
        let fields: Vec<_> = found.iter().map(|h| (h.option.as_str(), h.mounted(), h.path.as_str())).collect();
        let at = |name| Path::new(ROOT).join(name);
        assert_eq!(
            fields,
            [("none,name=systemd", at("systemd"), "/user.slice"), ("cpu,cpuacct", at("cpu,cpuacct"), "/")]
        );
        assert_eq!(hierarchies("0::/user.slice/session\n"), []);
    }
}

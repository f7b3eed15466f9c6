//! Which process is the node: written down by `up`, and looked at closely by those who would end it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::cgroups::Cgroups;
use super::state::{self, State};

/// The process that holds the node's namespaces. The kernel ends all that is in them when it ends.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pid: i32,
    /// A pid is soon another's: the time at which this one began, in the kernel's ticks, and of which boot.
    started: u64,
    boot: String,
    pub(super) cgroups: Cgroups,
}

impl Record {
    pub(super) fn new(pid: i32, cgroups: Cgroups) -> anyhow::Result<Self> {
        let started = started(pid)?.with_context(|| format!("the process {pid} ended at once"))?;
        Ok(Self { pid, started, boot: boot()?, cgroups })
    }

    /// None: there is no node, not even a dead one.
    pub(super) fn read(state: &State) -> anyhow::Result<Option<Self>> {
        let path = state.record();
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
        .with_context(|| format!("understanding {}", path.display()))
    }

    pub(super) fn write(&self, state: &State) -> anyhow::Result<()> {
        state::write(&state.record(), serde_json::to_string(self)?)
    }

    /// That of a node that runs; fails saying how to start one.
    pub(super) fn running(state: &State) -> anyhow::Result<Self> {
        let record = Self::read(state)?.context("no node runs: `make cluster` starts it")?;
        ensure!(record.is_alive()?, "the node has ended; its log ends with\n{}", state.log_tail("init"));
        Ok(record)
    }

    pub(super) fn is_alive(&self) -> anyhow::Result<bool> {
        Ok(boot()? == self.boot && started(self.pid)? == Some(self.started))
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// What the kernel tells of it.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// A path of the node's, from outside.
    pub(super) fn path_inside(&self, path: &str) -> PathBuf {
        self.path_of(&format!("root{path}"))
    }

    /// Ends it, unless the process is not that of the record.
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid).context("the record names no process")?;
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error).context("looking at the node's process"),
        };
        // Looked at after it was opened: from here on the number may change hands, the descriptor doesn't.
        if !self.is_alive()? {
            return Ok(());
        }
        match pidfd_send_signal(process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("ending the node"),
        }
    }
}

/// None: there is no such process, or one that has ended and nobody asked for its end.
fn started(pid: i32) -> anyhow::Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    match fs::read_to_string(&path) {
        Ok(stat) => parse_started(&stat).with_context(|| format!("understanding {path}")),
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("reading {path}")),
    }
}

/// The 22nd field; the second, a name in parentheses, may hold anything.
fn parse_started(stat: &str) -> anyhow::Result<Option<u64>> {
    let (_, fields) = stat.rsplit_once(") ").context("it has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return Ok(None);
    }
    Ok(Some(fields.get(19).context("it has no start time")?.parse()?))
}

fn boot() -> anyhow::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading which boot this is")?;
    Ok(boot.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_a_dead_one_is_none() {
        let stat = |state| format!("7 (a ) b) {state} 1 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4242 99 1");
        assert_eq!(parse_started(&stat('S')).unwrap(), Some(4242));
        assert_eq!(parse_started(&stat('Z')).unwrap(), None);
    }

    #[test]
    fn a_record_of_another_process_under_the_same_pid_ends_nothing() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut record = Record::new(pid, Cgroups::default()).unwrap();
        assert!(record.is_alive().unwrap());
        record.started += 1;
        assert!(!record.is_alive().unwrap());
        record.kill().unwrap();
    }
}

//! One server process: started under the guard, its output in a file, ended for sure.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, guard};

/// Waits for a word before it becomes the program: by then the guard knows its pid. Without the word (we died in
/// between) it ends.
const LAUNCHER: &str = r#"read -r go && exec "$@" </dev/null"#;
/// How much of a log an error shows.
const TAIL_LINES: usize = 25;

/// What to start, and how.
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    account: Option<Account>,
}

/// The user and group that a server runs as.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Launch {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), account: None }
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// None: as we run ourselves.
    pub fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    /// Starts it in `folder`, with its output added to a log file there. Its process group is its own, so that the
    /// terminal's Ctrl-C is ours to handle.
    pub fn start(self, folder: &Path) -> anyhow::Result<Server> {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let child = self.spawn(folder, &log).with_context(|| format!("starting {}", self.program.display()))?;
        Ok(Server { name, child, log, ended: None })
    }

    fn spawn(&self, folder: &Path, log: &Path) -> anyhow::Result<Child> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", LAUNCHER, "sh"])
            .arg(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn()?;
        guard::watch(child.id())?;
        child.stdin.take().context("no standard input")?.write_all(b"go\n")?;
        Ok(child)
    }
}

/// A running server, or what is left of it. Dropping it kills it.
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            self.ended = Some(status);
            guard::forget(self.pid())?;
        }
        Ok(self.ended)
    }

    /// Fails, with the end of its log, if it ended.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its log ends with\n{}", self.name, self.log_tail()),
        }
    }

    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// Sends `signal` and waits for the end; past `within` it is killed, and that is an error.
    pub async fn stop(&mut self, signal: Signal, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(signal)?;
        match self.wait(within).await {
            Ok(status) => Ok(status),
            Err(late) => {
                self.kill()?;
                Err(late)
            }
        }
    }

    /// Asks it to end with SIGTERM; past `within` it is killed, and that is all right.
    pub async fn stop_or_kill(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match self.wait(within).await {
            Ok(status) => Ok(status),
            Err(_late) => self.kill(),
        }
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        eventually(within, || {
            let ended = self.ended();
            let tail = || format!("{} still runs; its log ends with\n{}", self.name, self.log_tail());
            let answer = ended.and_then(|ended| ended.with_context(tail));
            async move { answer }
        })
        .await
    }

    /// Ends it on the spot, as a power cut would.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        guard::forget(self.pid())?;
        Ok(status)
    }

    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// What it keeps in memory, as the kernel counts it.
    pub fn rss_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let kib: u64 = kib.with_context(|| format!("{path} tells no VmRSS"))?.trim().parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The guard is still there for what fails here.
        let _ = self.kill();
    }
}

/// Whether a signal ended it, and which.
pub fn killed_by(status: ExitStatus) -> Option<i32> {
    status.signal()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_server_is_stopped_by_the_signal_that_was_asked_for() {
        let folder = guard::folder("server").unwrap();
        let mut server = Launch::new("sleep").args(["1000"]).start(&folder).unwrap();
        server.still_runs().unwrap();
        let status = server.stop(Signal::TERM, WITHIN).await.unwrap();
        assert_eq!(killed_by(status), Some(Signal::TERM.as_raw()));
    }

    #[tokio::test]
    async fn a_server_that_fails_at_start_is_told_with_its_log() {
        let folder = guard::folder("server").unwrap();
        let mut server = Launch::new("sh").args(["-c", "echo the disk is full; exit 3"]).start(&folder).unwrap();
        assert_eq!(server.wait(WITHIN).await.unwrap().code(), Some(3));
        let said = server.still_runs().unwrap_err().to_string();
        assert!(said.contains("exit status: 3") && said.contains("the disk is full"), "{said}");
    }

    #[tokio::test]
    async fn memory_is_told_of_the_program_not_of_its_launcher() {
        let folder = guard::folder("server").unwrap();
        let server = Launch::new("sleep").args(["1000"]).start(&folder).unwrap();
        eventually(WITHIN, || async {
            let name = fs::read_to_string(format!("/proc/{}/comm", server.pid()))?;
            anyhow::ensure!(name.trim() == "sleep", "it is still {name}");
            Ok(())
        })
        .await
        .unwrap();
        assert!(server.rss_bytes().unwrap() > 0);
    }
}

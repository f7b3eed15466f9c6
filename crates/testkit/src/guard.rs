//! Servers die with the process that started them, also when it panics, is interrupted or is killed.
//!
//! Statics are never dropped and a killed process runs no destructor, so nothing here relies on either. A small shell
//! script, a process of its own group, reads the pids to watch from a pipe that only this process writes to. When the
//! pipe closes it ends what it watches, and removes this process's temporary folder.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, anyhow};

const SCRIPT: &str = include_str!("guard.sh");

/// A fresh folder below this process's own one; it goes when the process ends.
pub fn folder(name: &str) -> anyhow::Result<PathBuf> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let folder = guard()?.folder.join(format!("{name}-{number}"));
    fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Ends the process group of `pid` when this process ends.
pub(crate) fn watch(pid: u32) -> anyhow::Result<()> {
    guard()?.tell("watch", pid)
}

/// To be called once `pid` is reaped: from then on its number may be another's.
pub(crate) fn forget(pid: u32) -> anyhow::Result<()> {
    guard()?.tell("forget", pid)
}

struct Guard {
    pipe: Mutex<ChildStdin>,
    folder: PathBuf,
}

fn guard() -> anyhow::Result<&'static Guard> {
    static GUARD: OnceLock<Result<Guard, String>> = OnceLock::new();
    GUARD.get_or_init(|| Guard::start().map_err(|e| format!("{e:#}"))).as_ref().map_err(|e| anyhow!("{e}"))
}

impl Guard {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("kubevision-testkit-")
            .permissions(Permissions::from_mode(0o755)) // PostgreSQL runs as another user and has to pass through
            .tempdir()
            .context("creating a temporary folder")?
            .keep();
        let pipe = spawn(&folder).context("starting the guard with `sh`")?;
        Ok(Self { pipe: Mutex::new(pipe), folder })
    }

    fn tell(&self, verb: &str, pid: u32) -> anyhow::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.write_all(format!("{verb} {pid}\n").as_bytes()).context("the guard of the test servers is gone")
    }
}

/// The guard holds none of our files but the pipe: a reader of our output must not wait for it.
fn spawn(folder: &Path) -> anyhow::Result<ChildStdin> {
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "guard"])
        .arg(folder)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    child.stdin.take().context("it has no standard input")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Child;
    use std::time::Duration;

    use anyhow::ensure;

    use super::*;
    use crate::eventually;
    use crate::server::Launch;

    const WITHIN: Duration = Duration::from_secs(15);

    /// Not a test of its own: the process that the others start and end.
    #[test]
    #[ignore = "the other tests start it"]
    fn holder() {
        let folder = folder("held").unwrap();
        let polite = Launch::new("sleep").args(["1000"]).start(&folder).unwrap();
        let stubborn =
            Launch::new("sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]).start(&folder).unwrap();
        let mut stopped = Launch::new("sleep").args(["1000"]).start(&folder).unwrap();
        stopped.kill().unwrap();
        println!("\nheld {} {} {}", polite.pid(), stubborn.pid(), folder.display());
        match std::io::stdin().read(&mut [0]).unwrap() {
            0 => std::process::abort(),
            _ => panic!("as asked"),
        }
    }

    struct Held {
        process: Child,
        pids: [u32; 2],
        folder: PathBuf,
    }

    fn hold() -> Held {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "guard::tests::holder", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told = lines.find_map(|line| line.strip_prefix("held ").map(str::to_owned)).unwrap();
        let mut words = told.splitn(3, ' ');
        let pids = [words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap()];
        Held { process, pids, folder: PathBuf::from(words.next().unwrap()) }
    }

    /// A zombie counts as gone: it runs no more, whoever forgot to reap it.
    fn is_running(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn all_gone(held: &Held) -> anyhow::Result<()> {
        eventually(WITHIN, || async {
            ensure!(!held.pids.iter().any(|&pid| is_running(pid)), "of {:?} some still run", held.pids);
            ensure!(!held.folder.exists(), "{} is still there", held.folder.display());
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn servers_and_folder_go_when_their_process_is_killed() {
        let mut held = hold();
        assert!(held.pids.iter().all(|&pid| is_running(pid)) && held.folder.exists());
        held.process.kill().unwrap();
        held.process.wait().unwrap();
        all_gone(&held).await.unwrap();
    }

    #[tokio::test]
    async fn servers_and_folder_go_when_their_process_panics_or_aborts() {
        for panics in [true, false] {
            let mut held = hold();
            let mut stdin = held.process.stdin.take().unwrap();
            if panics {
                stdin.write_all(b"!").unwrap();
            }
            drop(stdin);
            assert!(!held.process.wait().unwrap().success());
            all_gone(&held).await.unwrap();
        }
    }
}

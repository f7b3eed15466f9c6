//! The first process of the node: gives it a machine's look, starts its programs, and starts again what ends.
//!
//! It runs inside the namespaces, so all that it mounts and routes goes with them.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{WaitOptions, WaitStatus, setsid, wait};

use super::address::{CABLE, MACHINE, NODE, NODE_NAME};
use super::programs::{self, Program};
use super::state::{State, make_folder, write};
use super::{cgroups, images, machine};
use crate::setup::SYSTEM_PATH;

/// The node's end of the cable.
pub(super) const CABLE_END: &str = "eth0";
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// What kubelet demands of the machine. It is shown that, and the machine keeps what it has.
const SYSCTLS: [(&str, &str); 4] =
    [("vm/overcommit_memory", "1"), ("vm/panic_on_oom", "0"), ("kernel/panic", "10"), ("kernel/panic_on_oops", "1")];

/// Before the namespaces: a cgroup namespace has its root where the process is that makes it. Becomes `unshare`, so that
/// its pid is the one that the caller knows.
pub(super) fn enter(cgroups: &[PathBuf]) -> anyhow::Result<()> {
    cgroups::join(cgroups)?;
    let error = Command::new("unshare")
        .env("PATH", SYSTEM_PATH)
        .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--mount-proc", "--propagation=private"])
        .args(["--fork", "--kill-child=KILL"])
        .arg(std::env::current_exe()?)
        .args(["cluster", "init"])
        .exec();
    Err(error).context("running unshare")
}

/// Never comes back, unless something fails: then the node ends.
pub(super) fn run(state: &State) -> anyhow::Result<()> {
    ensure!(std::process::id() == 1, "this is the node's first process: `xtask cluster up` starts it");
    setsid().context("leaving the caller's session")?;
    mount_all(state)?;
    join_network()?;
    let mut running = Running { state, programs: Vec::new() };
    for program in programs::first(state)? {
        running.start(program)?;
    }
    running.until("containerd answers", images::answers)?;
    images::import_ours(state)?;
    running.until("the API server is ready", || ready(state))?;
    for program in programs::second(state)? {
        running.start(program)?;
    }
    running.keep()
}

fn mount_all(state: &State) -> anyhow::Result<()> {
    fresh("sysfs", "/sys", "")?;
    mount_cgroups()?;
    fresh("tmpfs", "/run", "mode=755")?;
    // The kernel lets a user namespace mount its own /proc only where it sees one that nothing is mounted over, and
    // ours has the sysctls below.
    let proc = state.inside("proc");
    make_folder(&proc)?;
    fresh("proc", &proc, "")?;
    for name in ["var/lib", "var/log"] {
        let ours = state.inside(name);
        make_folder(&ours)?;
        over(&ours, &Path::new("/").join(name))?;
    }
    for file in ["hosts", "resolv.conf"] {
        over(&state.configuration().join(file), &Path::new("/etc").join(file))?;
    }
    for (name, value) in SYSCTLS {
        let shown = state.inside(&name.replace('/', "."));
        write(&shown, format!("{value}\n"))?;
        over(&shown, &Path::new("/proc/sys").join(name))?;
    }
    // What is mounted for a pod has to be seen by those that share it.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).context("sharing the mounts")
}

/// As the machine has them, but with the node's own as their root.
fn mount_cgroups() -> anyhow::Result<()> {
    let hierarchies = cgroups::hierarchies(&cgroups::ours()?);
    if hierarchies.is_empty() {
        return fresh("cgroup2", cgroups::ROOT, "");
    }
    fresh("tmpfs", cgroups::ROOT, "mode=755")?;
    for hierarchy in hierarchies {
        make_folder(&hierarchy.mounted())?;
        fresh("cgroup", hierarchy.mounted(), &hierarchy.option)?;
    }
    Ok(())
}

fn fresh(kind: &str, target: impl AsRef<Path>, options: &str) -> anyhow::Result<()> {
    let (target, options) = (target.as_ref(), std::ffi::CString::new(options)?);
    mount(kind, target, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mounting {kind} at {}", target.display()))
}

fn over(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount_bind(source, target).with_context(|| format!("mounting {} over {}", source.display(), target.display()))
}

fn join_network() -> anyhow::Result<()> {
    write(Path::new("/proc/sys/kernel/hostname"), NODE_NAME)?;
    let cable = Path::new("/sys/class/net").join(CABLE_END);
    let deadline = Instant::now() + WITHIN;
    while !cable.exists() {
        ensure!(Instant::now() < deadline, "nobody gave the node its cable");
        thread::sleep(LOOK_EVERY);
    }
    let address = format!("{NODE}/{}", CABLE.bits());
    machine::output("ip", &["link", "set", "lo", "up"])?;
    machine::output("ip", &["address", "add", &address, "dev", CABLE_END])?;
    machine::output("ip", &["link", "set", CABLE_END, "up"])?;
    // Nothing is to be reached there; but without a route to it an address is refused before it is translated.
    machine::output("ip", &["route", "add", "default", "via", &MACHINE.to_string()])?;
    write(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")
}

fn ready(state: &State) -> anyhow::Result<()> {
    let kubectl = testkit::tools::cached(testkit::tools::KUBECTL)?;
    let mut command = Command::new(kubectl);
    command.env_clear().arg("--kubeconfig").arg(state.kubeconfig()).args([
        "--cache-dir=/run/kubectl",
        "get",
        "--raw",
        "/readyz",
    ]);
    let output = command.output().context("running kubectl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

struct Running<'a> {
    state: &'a State,
    programs: Vec<(Program, Child)>,
}

impl Running<'_> {
    fn start(&mut self, program: Program) -> anyhow::Result<()> {
        let child = spawn(self.state, &program)?;
        self.programs.push((program, child));
        Ok(())
    }

    /// Fails where a program ends meanwhile: whatever it said, it is not going to be true.
    fn until(&mut self, what: &str, attempt: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let Err(error) = attempt() else { return Ok(()) };
            for (Program { name, .. }, child) in &mut self.programs {
                if let Some(status) = child.try_wait()? {
                    bail!("{name} ended ({status}); its log ends with\n{}", self.state.log_tail(name));
                }
            }
            if Instant::now() >= deadline {
                return Err(error).with_context(|| format!("{what}: still not so after {WITHIN:?}"));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks for the end of every process, as a first process must; ours are started again.
    fn keep(mut self) -> anyhow::Result<()> {
        loop {
            let (pid, status) = match wait(WaitOptions::empty()) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("waiting for the node's programs"),
            };
            let ended = |child: &Child| i32::try_from(child.id()) == Ok(pid.as_raw_nonzero().get());
            if let Some((program, child)) = self.programs.iter_mut().find(|(_, child)| ended(child)) {
                eprintln!("{} ended ({}) and is started again", program.name, told(status));
                thread::sleep(RESTART_AFTER);
                *child = spawn(self.state, program)?;
            }
        }
    }
}

fn told(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "of itself".to_owned(),
    }
}

fn spawn(state: &State, program: &Program) -> anyhow::Result<Child> {
    let path = state.logs().join(format!("{}.log", program.name));
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("opening {}", path.display()))?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        // A proxy in the caller's would be asked for the way to a webhook.
        .env_clear()
        .env("PATH", SYSTEM_PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    command.spawn().with_context(|| format!("starting {}", program.path.display()))
}

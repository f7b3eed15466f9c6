//! What tests and node need from the system and neither Cargo nor Go can bring.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use testkit::tools::{self, RUNC};

use crate::progress;

/// Does nothing where all is there. Installs on Debian as root; elsewhere says what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    let postgres = testkit::postgres::programs();
    let curl = succeeds("curl", &["--version"]);
    let missing = [(postgres.is_err(), "postgresql"), (!curl, "curl")];
    let missing: Vec<&str> = missing.into_iter().filter_map(|(missing, package)| missing.then_some(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !can_install() {
        ensure!(curl, "curl is missing: the commands that the documentation tells are run by tests");
        return postgres.map(drop);
    }
    install(&missing)?;
    testkit::postgres::programs().map(drop).context("PostgreSQL was installed and is still not found")
}

/// A program of the node that is not built from Go, with Debian's package of it.
const NODE_PROGRAMS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("mount", "mount"), ("nft", "nftables"), ("unshare", "util-linux")];
/// What runc is built with.
const RUNC_PACKAGES: [&str; 4] = ["gcc", "libc6-dev", "libseccomp-dev", "pkg-config"];

/// As [`run`], of what the node needs.
pub(crate) fn for_node() -> anyhow::Result<()> {
    let missing = missing_for_node()?;
    if missing.is_empty() {
        return Ok(());
    }
    if !can_install() {
        bail!("the node needs what these packages of Debian hold: {}", missing.join(", "));
    }
    install(&missing)?;
    let missing = missing_for_node()?;
    ensure!(missing.is_empty(), "{} installed, and what the node needs of it is still not found", missing.join(", "));
    Ok(())
}

fn missing_for_node() -> anyhow::Result<Vec<&'static str>> {
    let is_there = |name: &&str| SYSTEM_PATH.split(':').any(|folder| Path::new(folder).join(name).is_file());
    let missing = NODE_PROGRAMS.into_iter().filter(|(program, _)| !is_there(program));
    let mut packages: Vec<&str> = missing.map(|(_, package)| package).collect();
    let builds_runc = !tools::cached(RUNC)?.is_file();
    let can_build = || succeeds("cc", &["--version"]) && succeeds("pkg-config", &["--exists", "libseccomp"]);
    if builds_runc && !can_build() {
        packages.extend(RUNC_PACKAGES);
    }
    Ok(packages)
}

/// Where the node looks for the system's programs; a caller's PATH may be without root's.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let mut update = apt_get();
    update.args(["-q", "update"]);
    progress::run("reading Debian's list of packages", update)?;
    let mut install = apt_get();
    install.args(["-q", "-y", "--no-install-recommends", "install"]).args(packages);
    progress::run(&format!("installing {}", packages.join(", ")), install)
}

fn can_install() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/etc/debian_version").exists()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Go builds the control plane; without it there is nothing that we could do.
pub(crate) fn need_go() -> anyhow::Result<()> {
    match Command::new("go").arg("version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!(
            "Go is missing: it builds the control plane that tests and demo run on. Install Go 1.26 or newer (https://go.dev/dl), \
             or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl"
        ),
    }
}

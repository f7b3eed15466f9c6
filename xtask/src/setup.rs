//! What the tests need from the system and Cargo can't bring: PostgreSQL.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::progress;

/// Does nothing where all is there. Installs on Debian as root; elsewhere says what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    let Err(missing) = testkit::postgres::programs() else {
        return Ok(());
    };
    if !can_install() {
        return Err(missing);
    }
    let mut update = apt_get();
    update.args(["-q", "update"]);
    progress::run("reading Debian's list of packages", update)?;
    let mut install = apt_get();
    install.args(["-q", "-y", "--no-install-recommends", "install", "postgresql"]);
    progress::run("installing PostgreSQL", install)?;
    testkit::postgres::programs().map(drop).context("PostgreSQL was installed and is still not found")
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

//! What the machine has to have, said before anything is built or changed.

use std::path::Path;

use anyhow::ensure;

use crate::setup;

/// Namespaces, mounts and cgroups are root's.
pub(super) fn root() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the node needs root: it mounts, routes, and has namespaces and cgroups of its own"
    );
    Ok(())
}

pub(super) fn node() -> anyhow::Result<()> {
    for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let path = Path::new("/proc/self/ns").join(namespace);
        ensure!(path.exists(), "this kernel has no {namespace} namespaces: the node needs them");
    }
    setup::for_node()
}

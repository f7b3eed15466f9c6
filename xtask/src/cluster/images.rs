//! The images that the node comes with, and how it learns of others. There is no registry: what was not imported is not
//! there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;
use testkit::tools::{self, COREDNS, CTR, PAUSE, PROBE, Tool};

use super::configuration::CONTAINERD_SOCKET;
use super::record::Record;
use super::state::{State, make_folder};
use crate::oci;

const OURS: [Tool; 3] = [PAUSE, COREDNS, PROBE];
/// Nobody: pods that have to run as not root can.
const USER: &str = "65532:65532";
/// Where kubelet looks for images.
const NAMESPACE: &str = "k8s.io";

/// An image of one program; the tag changes with all that the program is built from.
pub(super) fn name(tool: Tool) -> anyhow::Result<String> {
    Ok(format!("kubevision.local/{}:{}", tool.name, tag(tool)?))
}

fn tag(tool: Tool) -> anyhow::Result<String> {
    let folder = tools::cached(tool)?.with_file_name("");
    Ok(folder.file_name().context("the program lies in no folder")?.to_string_lossy().into_owned())
}

fn tar(state: &State, tool: Tool) -> anyhow::Result<PathBuf> {
    Ok(state.images().join(format!("{}-{}.tar", tool.name, tag(tool)?)))
}

/// Those that are not there yet; those of other versions go.
pub(super) fn write_ours(state: &State) -> anyhow::Result<()> {
    make_folder(&state.images())?;
    let tars: Vec<PathBuf> = OURS.into_iter().map(|tool| tar(state, tool)).collect::<anyhow::Result<_>>()?;
    for stale in fs::read_dir(state.images())?.flatten().map(|entry| entry.path()).filter(|path| !tars.contains(path)) {
        fs::remove_file(&stale).with_context(|| format!("removing {}", stale.display()))?;
    }
    for (tool, tar) in OURS.into_iter().zip(tars).filter(|(_, tar)| !tar.exists()) {
        let path = format!("/{}", tool.name);
        let config = json!({"Entrypoint": [path], "User": USER});
        oci::write(&tar, &name(tool)?, &config, &[(tools::cached(tool)?, path, 0o755)])?;
    }
    Ok(())
}

/// From inside the node.
pub(super) fn import_ours(state: &State) -> anyhow::Result<()> {
    let known = run(ctr(Path::new(CONTAINERD_SOCKET))?.args(["images", "list", "--quiet"]))?;
    for tool in OURS {
        let name = name(tool)?;
        if !known.lines().any(|image| image == name) {
            import(Path::new(CONTAINERD_SOCKET), &tar(state, tool)?)?;
        }
    }
    Ok(())
}

/// From outside: into the node that runs.
pub(super) fn load(node: &Record, tar: &Path) -> anyhow::Result<()> {
    ensure!(tar.is_file(), "{} is no file: an image is a tar", tar.display());
    import(&node.path_inside(CONTAINERD_SOCKET), tar)?;
    println!("the node has {}", tar.display());
    Ok(())
}

pub(super) fn answers() -> anyhow::Result<()> {
    run(ctr(Path::new(CONTAINERD_SOCKET))?.arg("version")).map(drop)
}

fn import(socket: &Path, tar: &Path) -> anyhow::Result<()> {
    run(ctr(socket)?.args(["images", "import"]).arg(tar))
        .map(drop)
        .with_context(|| format!("importing {}", tar.display()))
}

fn ctr(socket: &Path) -> anyhow::Result<Command> {
    let mut ctr = Command::new(tools::cached(CTR)?);
    ctr.arg("--address").arg(socket).args(["--namespace", NAMESPACE]);
    Ok(ctr)
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().context("running ctr")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! The chart and the image on a real node: brought up for this, filled, tested and taken away again.
//!
//! In a folder of its own, so that the node of `make cluster` keeps its data; only one of the two can run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use testkit::tools as programs;

use crate::{cluster, image, progress, tools};

/// By which the tests find the chore that ends and starts the node under them.
const XTASK_VARIABLE: &str = "KUBEVISION_AUDIT_XTASK";

pub(crate) fn run(root: &Path, only: Option<&str>) -> anyhow::Result<()> {
    tools::for_tests()?;
    image::run(root)?;
    let node = Node { xtask: env::current_exe()?, folder: programs::cache()?.join("cluster-of-tests") };
    node.chore("removing what an earlier run left", &["down", "--wipe"])?;
    node.chore("bringing up a node", &["up", "--image"])?;
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(root)
        .args(["test", "--locked", "-p", "kubevision-audit", "--test", "node", "--"])
        .args(["--nocapture", "--test-threads=1"])
        .args(only)
        .env("KUBECONFIG", node.folder.join("kubeconfig"))
        .env(cluster::FOLDER_VARIABLE, &node.folder)
        .env(XTASK_VARIABLE, &node.xtask);
    let tested = progress::run("testing on the node", cargo);
    let ended = node.chore("taking the node away", &["down", "--wipe"]);
    tested.and(ended)
}

struct Node {
    xtask: PathBuf,
    folder: PathBuf,
}

impl Node {
    fn chore(&self, what: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.xtask);
        command.arg("cluster").args(args).env(cluster::FOLDER_VARIABLE, &self.folder);
        progress::run(what, command).with_context(|| format!("cluster {}", args.join(" ")))
    }
}

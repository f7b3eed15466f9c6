//! What the Makefile's verbs do where they have an `if`: system needs, the control plane's programs, the demo, and the
//! rules of the house that neither rustc nor clippy holds.

#![expect(clippy::print_stdout, reason = "a tool that talks to a person at a terminal")]

mod cluster;
mod demo;
mod generate;
mod image;
mod lock;
mod oci;
mod progress;
mod setup;
mod test_cluster;
mod tidy;
mod tools;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

/// The chores of this repository; `make help` lists the verbs that use it.
#[derive(Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs what the tests need from the system, or says what to install.
    Setup,
    /// Builds what the tests run (etcd, kube-apiserver, kube-controller-manager, kubectl, helm, promtool) into the user's cache; once.
    Tools,
    /// Prints the folder of the control plane's programs, or the path of one program.
    ToolsPath { program: Option<String> },
    /// A real API server, a dozen writes, and what was recorded of them.
    Demo(demo::Demo),
    /// Writes what is made from other files: the chart's README and definitions, deploy/rbac.yaml, deploy/kustomize.
    Generate,
    /// Builds the container image into `target/image`, without a container engine.
    Image,
    /// The chart and the image, tested on a real node.
    TestCluster {
        /// Only tests of which the name holds this.
        only: Option<String>,
    },
    /// A real Kubernetes of one node on this machine.
    Cluster(cluster::Cluster),
    /// Holds the code against the rules of the house that neither rustc nor clippy knows.
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<()> {
    match chore {
        Chore::Setup => setup::run(),
        Chore::Tools => tools::for_tests(),
        Chore::ToolsPath { program } => tools::print_path(program.as_deref()),
        Chore::Demo(demo) => demo::run(&demo, &root()),
        Chore::Generate => generate::run(&root()),
        Chore::Image => image::run(&root()),
        Chore::TestCluster { only } => test_cluster::run(&root(), only.as_deref()),
        Chore::Cluster(cluster) => cluster::run(&cluster),
        Chore::Tidy => tidy::run(&root()),
    }
}

/// The repository, wherever the command was given.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// What a program says; fails with what it complains of.
fn output(root: &Path, program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(args).current_dir(root).output();
    let output = output.with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("the output of {program} is not UTF-8"))
}

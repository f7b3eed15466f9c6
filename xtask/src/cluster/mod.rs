//! A real Kubernetes of one node on this machine: `make cluster`, `make cluster-down`.
//!
//! Ordinary programs, built from Go modules, in namespaces of their own: no container engine, no registry, no virtual
//! machine. The machine gets a link and two routes, and cgroups below the caller's own; `down` leaves nothing of that.
//! What the cluster holds stays in one folder, until it is wiped.
//!
//! [`up`] prepares and waits; [`init`] is the first process inside; [`down`] ends it.

mod address;
mod certificates;
mod cgroups;
mod configuration;
mod down;
mod images;
mod init;
mod machine;
mod needs;
mod programs;
mod prove;
mod record;
mod restart;
mod state;
mod up;
mod volumes;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};

use crate::tools;
use record::Record;
pub(crate) use state::FOLDER_VARIABLE;
use state::State;

#[derive(Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Starts the node, or says that it runs; comes back when it is ready, and tells how to use it.
    Up {
        /// Load the image that `make image` has made, too.
        #[arg(long)]
        image: bool,
    },
    /// Ends the node. Its data stay.
    Down {
        /// Remove its data, too.
        #[arg(long)]
        wipe: bool,
    },
    /// Makes the images of these tars known to the node.
    Load {
        #[arg(required = true, value_name = "IMAGE.tar")]
        images: Vec<PathBuf>,
    },
    /// Ends kube-apiserver and waits for the next one.
    RestartApiserver,
    /// Shows that pods, volumes, Services and names work. Where no node runs it starts and ends one, and holds the
    /// machine's state before against that after.
    Prove,
    /// The last step outside of the node: joins its cgroups and unshares the rest.
    #[command(hide = true)]
    Enter { cgroups: Vec<PathBuf> },
    /// The first process of the node.
    #[command(hide = true)]
    Init,
}

pub(crate) fn run(cluster: &Cluster) -> anyhow::Result<()> {
    needs::root()?;
    let state = State::find()?;
    match &cluster.chore {
        Chore::Up { image } => {
            let start = Instant::now();
            needs::node()?;
            tools::for_node()?;
            in_runtime(up::run(&state, *image, start))
        }
        Chore::Down { wipe } => in_runtime(down::run(&state, *wipe)),
        Chore::Load { images } => images.iter().try_for_each(|image| images::load(&Record::running(&state)?, image)),
        Chore::RestartApiserver => in_runtime(restart::run(&state)),
        Chore::Prove => {
            needs::node()?;
            tools::for_node()?;
            in_runtime(prove::run(&state))
        }
        Chore::Enter { cgroups } => init::enter(cgroups),
        Chore::Init => init::run(&state),
    }
}

fn in_runtime(chore: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(chore)
}

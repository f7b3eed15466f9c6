//! `kubevision-audit`: an audit log for Kubernetes.
//!
//! The root of the house: it joins the crates to a program and is the only place that reads the environment, listens for
//! signals, spawns tasks and decides on exit codes.

#![expect(unreachable_pub, reason = "nothing reaches into a program; pub marks what a module offers")]

mod adapters;
mod app;
mod cli;
mod commands;
mod config;
mod health;
mod outcomes;
mod status;
mod tasks;
mod telemetry;
mod webhook;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::config::Sources;

/// The command line or the configuration is wrong: clap's own code for it, too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::start();
    let kubeconfig = match &cli.command {
        Command::Serve { kubeconfig } | Command::RotateCa { kubeconfig } | Command::Unregister { kubeconfig, .. } => {
            kubeconfig.clone()
        }
        _ => None,
    };
    let config = match Sources::new(cli.global.config, kubeconfig).load() {
        Ok(config) => config,
        Err(error) => return told(&error, USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return told(&error, 1),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Serve { .. } => app::serve(config).await,
            Command::Crd => commands::crd(),
            Command::Migrate => commands::migrate(&config).await,
            Command::Purge { dry_run } => commands::purge(&config, dry_run).await,
            Command::RotateCa { .. } => commands::rotate_ca(&config).await,
            Command::Status { address } => commands::status(&config, address.as_deref()).await,
            Command::Unregister { deployment, .. } => commands::unregister(&config, deployment.as_ref()).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => told(error.as_ref(), 1),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a program that failed")]
fn told(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("kubevision-audit: {}", domain::text::with_causes(error));
    ExitCode::from(code)
}

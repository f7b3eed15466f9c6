//! The real `helm`, without a cluster: what a chart comes to.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::tools::{self, HELM};

/// The program; fails saying how to get it.
pub fn helm() -> anyhow::Result<PathBuf> {
    tools::find(HELM)
}

/// Its output; fails, with what it said, if it failed.
pub fn run<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let told = || args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
    // No cluster is asked: not the user's own either.
    let output = Command::new(helm()?).args(&args).env_remove("KUBECONFIG").output();
    let output = output.with_context(|| format!("running helm {}", told()))?;
    ensure!(output.status.success(), "helm {}: {}", told(), String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("the output of helm {} is not UTF-8", told()))
}

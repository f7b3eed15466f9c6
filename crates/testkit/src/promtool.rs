//! Where promtool lies, which tests alerts, and how it is built from the Go module that `tools/promtool/go.mod` pins.
//!
//! A module of its own: what Prometheus requires is not what Kubernetes does. Building it is `xtask tools`.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

const GO_MOD: &str = include_str!("../../../tools/promtool/go.mod");
const GO_SUM: &str = include_str!("../../../tools/promtool/go.sum");
const PACKAGE: &str = "github.com/prometheus/prometheus/cmd/promtool";
/// Below the root of the repository.
pub const FOLDER: &str = "tools/promtool";
/// Without the clients of thirty clouds, which only discover what to scrape.
const FLAGS: [&str; 8] =
    ["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags", "remove_all_sd", "-ldflags", "-s -w"];

/// The arguments of `go` that build it into `target`.
pub fn build_args(target: &str) -> Vec<&str> {
    FLAGS.into_iter().chain(["-o", target, PACKAGE]).collect()
}

/// In the user's cache, by the hash of all that the build depends on.
pub fn path() -> anyhow::Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir().context("neither XDG_CACHE_HOME nor HOME is set")?.join(".cache"),
    };
    let mut hash = Sha256::new();
    for part in [GO_MOD, GO_SUM].into_iter().chain(FLAGS) {
        hash.update(part);
        hash.update([0]);
    }
    let fingerprint: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache.join("kubevision-audit").join("promtool").join(fingerprint).join("promtool"))
}

/// The program that is there; else fails saying how to get it.
pub fn find() -> anyhow::Result<PathBuf> {
    let path = path()?;
    ensure!(path.is_file(), "{} is missing: run `make tools`", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_tool_that_go_mod_names() {
        assert!(GO_MOD.lines().any(|line| line.trim_start_matches("tool ").trim() == PACKAGE), "{GO_MOD}");
        assert!(build_args("/there").ends_with(&["-o", "/there", PACKAGE]));
    }
}

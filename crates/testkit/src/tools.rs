//! Where the programs of the control plane lie, and how they are built from the Go modules that `tools/go.mod` pins.
//!
//! Building them is `xtask tools`; here is only what the builder and the users have to agree on.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

const GO_MOD: &str = include_str!("../../../tools/go.mod");
const GO_SUM: &str = include_str!("../../../tools/go.sum");
/// Set by those who have the programs already; the name is that of the Kubernetes projects' own test tools.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// A program that `tools/go.mod` names as a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    pub name: &'static str,
    pub package: &'static str,
}

impl Tool {
    /// As `tools/go.mod` requires its module: `v1.37.2`.
    pub fn version(self) -> &'static str {
        version_of(self.package, GO_MOD).unwrap_or("without a version")
    }
}

pub const ETCD: Tool = Tool { name: "etcd", package: "go.etcd.io/etcd/server/v3" };
pub const API_SERVER: Tool = Tool { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver" };
pub const CONTROLLER_MANAGER: Tool =
    Tool { name: "kube-controller-manager", package: "k8s.io/kubernetes/cmd/kube-controller-manager" };
pub const KUBECTL: Tool = Tool { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl" };

pub const HELM: Tool = Tool { name: "helm", package: "helm.sh/helm/v4/cmd/helm" };

pub const ALL: [Tool; 4] = [ETCD, API_SERVER, KUBECTL, CONTROLLER_MANAGER];
/// Given assets have to hold these; the usual archives have no controller-manager.
const GIVEN: [Tool; 3] = [ETCD, API_SERVER, KUBECTL];

/// Where the programs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// Named by the variable: ours to use, not to build.
    Given(PathBuf),
    /// In the user's cache, by the hash of all that the build depends on.
    Cache(PathBuf),
}

impl Folder {
    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Cache(path) => path,
        }
    }
}

/// Fails where given programs are not complete, naming the missing.
pub fn folder() -> anyhow::Result<Folder> {
    if let Some(given) = env::var_os(ASSETS_VARIABLE).filter(|given| !given.is_empty()) {
        return complete(PathBuf::from(given)).map(Folder::Given);
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir().context("neither XDG_CACHE_HOME nor HOME is set")?.join(".cache"),
    };
    Ok(Folder::Cache(cache.join("kubevision-audit").join("tools").join(fingerprint())))
}

/// A program that is there; else fails saying how to get it.
pub fn find(tool: Tool) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let path = folder.path().join(tool.name);
    match folder {
        _ if path.is_file() => Ok(path),
        Folder::Given(_) => bail!("{} is missing ({ASSETS_VARIABLE} is set)", path.display()),
        Folder::Cache(_) => bail!("{} is missing: run `make tools`", path.display()),
    }
}

/// The arguments of `go` that build `tool` into `target`, and its environment.
pub fn build_args(tool: Tool, target: &str) -> Vec<String> {
    let mut args: Vec<String> = FLAGS.map(str::to_owned).into();
    args.extend(["-ldflags".to_owned(), linker_flags(), "-o".to_owned(), target.to_owned(), tool.package.to_owned()]);
    args
}

pub const BUILD_ENV: [(&str, &str); 2] = [("CGO_ENABLED", "0"), ("GOWORK", "off")];
const FLAGS: [&str; 4] = ["build", "-trimpath", "-buildvcs=false", "-mod=readonly"];

/// Without a version the programs call themselves v0.0.0, which clients refuse or warn about.
fn linker_flags() -> String {
    let version = API_SERVER.version();
    let (major, minor) = major_and_minor(version);
    format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={version} -X k8s.io/component-base/version.gitMajor={major} \
         -X k8s.io/component-base/version.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={version}"
    )
}

/// A package belongs to the module that is its own name or a folder above it.
fn version_of<'a>(package: &str, go_mod: &'a str) -> Option<&'a str> {
    let required = go_mod.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|&word| word == "require");
        let (module, version) = (words.next()?, words.next()?);
        (version.starts_with('v')).then_some((module, version))
    });
    let mut owners = required.filter(|(module, _)| {
        package.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    owners.next().map(|(_, version)| version)
}

fn major_and_minor(version: &str) -> (&str, &str) {
    let mut numbers = version.trim_start_matches('v').split('.');
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

fn fingerprint() -> String {
    let mut hash = Sha256::new();
    for part in [GO_MOD, GO_SUM, &linker_flags()].into_iter().chain(FLAGS) {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn complete(folder: PathBuf) -> anyhow::Result<PathBuf> {
    let missing: Vec<_> = GIVEN.iter().map(|tool| tool.name).filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    bail!("{ASSETS_VARIABLE} is {}, which has no {}", folder.display(), missing.join(", no "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard;

    #[test]
    fn the_programs_carry_the_version_that_go_mod_requires() {
        let version = API_SERVER.version();
        assert!(version.starts_with("v1."), "{version:?}");
        let flags = linker_flags();
        assert!(flags.contains(&format!("component-base/version.gitVersion={version} ")), "{flags}");
        assert_eq!(major_and_minor("v1.37.2"), ("1", "37"));
    }

    #[test]
    fn a_version_is_read_from_blocks_and_single_lines_and_not_from_replacements() {
        let go_mod =
            "require a.io/x v1.2.3\nrequire (\n\ta.io/y v4.5.6 // indirect\n)\nreplace a.io/z => b.io/z v7.8.9\n";
        assert_eq!(version_of("a.io/x", go_mod), Some("v1.2.3"));
        assert_eq!(version_of("a.io/y/cmd/tool", go_mod), Some("v4.5.6"));
        assert_eq!(version_of("a.io/yy", go_mod), None);
        assert_eq!(version_of("a.io/z", go_mod), None);
    }

    #[test]
    fn every_tool_is_one_that_go_mod_names() {
        for tool in ALL {
            assert!(GO_MOD.lines().any(|line| line.trim() == tool.package), "{}", tool.package);
        }
    }

    #[test]
    fn given_programs_that_are_not_complete_are_refused_by_name() {
        let folder = guard::folder("assets").unwrap();
        std::fs::write(folder.join("kubectl"), "").unwrap();
        let said = complete(folder.clone()).unwrap_err().to_string();
        assert!(said.contains("no etcd, no kube-apiserver") && !said.contains("kubectl"), "{said}");
        for tool in GIVEN {
            std::fs::write(folder.join(tool.name), "").unwrap();
        }
        assert_eq!(complete(folder.clone()).unwrap(), folder);
    }
}

//! Where the programs lie that tests and the node run, and how they are built from the Go modules pinned below `tools/`.
//!
//! Building them is `xtask tools`; here is only what the builder and the users have to agree on.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// Set by those who have the control plane already; the name is that of the Kubernetes projects' own test tools.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// A Go module of ours that pins others, with all that its programs depend on.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    pub name: &'static str,
    /// From the root of the repository.
    pub folder: &'static str,
    go_mod: &'static str,
    /// What else a program depends on.
    sources: &'static [&'static str],
    tags: &'static str,
    /// Without a version programs call themselves v0.0.0 or `unknown`, which clients refuse or warn about.
    linker_flags: &'static str,
    /// Nothing of C, but where a program exists for it: such a one runs everywhere.
    cgo: bool,
}

/// `go.mod`, and beside it `go.sum`.
macro_rules! pinned {
    ($name:literal, $folder:literal) => {
        Module {
            name: $name,
            folder: $folder,
            go_mod: include_str!(concat!("../../../", $folder, "/go.mod")),
            sources: &[include_str!(concat!("../../../", $folder, "/go.sum"))],
            tags: "",
            linker_flags: "",
            cgo: false,
        }
    };
}

static KUBERNETES: Module = Module {
    linker_flags: "-X k8s.io/component-base/version.gitVersion={version} \
                   -X k8s.io/component-base/version.gitMajor={major} \
                   -X k8s.io/component-base/version.gitMinor={minor} \
                   -X k8s.io/client-go/pkg/version.gitVersion={version}",
    ..pinned!("kubernetes", "tools")
};
static HELM_MODULE: Module =
    Module { linker_flags: "-X helm.sh/helm/v4/internal/version.version={version}", ..pinned!("helm", "tools/helm") };
/// Without the clients of thirty clouds, which only discover what to scrape.
static PROMTOOL_MODULE: Module = Module { tags: "remove_all_sd", ..pinned!("promtool", "tools/promtool") };
/// Without the file systems that it could keep images on and that we don't use.
static CONTAINERD_MODULE: Module = Module {
    tags: "no_btrfs no_devmapper no_zfs no_aufs",
    linker_flags: "-X github.com/containerd/containerd/v2/version.Version={version}",
    ..pinned!("containerd", "tools/containerd")
};
/// Its first steps in a container are C, and so is the library that makes seccomp's filters.
static RUNC_MODULE: Module = Module {
    tags: "seccomp netgo osusergo",
    linker_flags: "-X main.version={number} -extldflags -static",
    cgo: true,
    ..pinned!("runc", "tools/runc")
};
static CNI_MODULE: Module = pinned!("cni", "tools/cni");
static COREDNS_MODULE: Module = pinned!("coredns", "tools/coredns");
/// Our own: what the node's pods run.
static POD_MODULE: Module = Module {
    name: "pod",
    folder: "tools/pod",
    go_mod: include_str!("../../../tools/pod/go.mod"),
    sources: &[include_str!("../../../tools/pod/pause/main.go"), include_str!("../../../tools/pod/probe/main.go")],
    tags: "",
    linker_flags: "",
    cgo: false,
};

/// A program that a module names as a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    pub name: &'static str,
    pub package: &'static str,
    pub module: &'static Module,
}

impl Tool {
    const fn new(name: &'static str, package: &'static str, module: &'static Module) -> Self {
        Self { name, package, module }
    }

    /// As its module requires the one that it is of: `v1.37.2`. None: it is our own.
    pub fn version(self) -> Option<&'static str> {
        version_of(self.package, self.module.go_mod)
    }
}

pub const ETCD: Tool = Tool::new("etcd", "go.etcd.io/etcd/server/v3", &KUBERNETES);
pub const API_SERVER: Tool = Tool::new("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", &KUBERNETES);
pub const CONTROLLER_MANAGER: Tool =
    Tool::new("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", &KUBERNETES);
pub const KUBECTL: Tool = Tool::new("kubectl", "k8s.io/kubernetes/cmd/kubectl", &KUBERNETES);
pub const HELM: Tool = Tool::new("helm", "helm.sh/helm/v4/cmd/helm", &HELM_MODULE);

pub const PROMTOOL: Tool = Tool::new("promtool", "github.com/prometheus/prometheus/cmd/promtool", &PROMTOOL_MODULE);

pub const KUBELET: Tool = Tool::new("kubelet", "k8s.io/kubernetes/cmd/kubelet", &KUBERNETES);
pub const SCHEDULER: Tool = Tool::new("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", &KUBERNETES);
pub const PROXY: Tool = Tool::new("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", &KUBERNETES);
pub const CONTAINERD: Tool =
    Tool::new("containerd", "github.com/containerd/containerd/v2/cmd/containerd", &CONTAINERD_MODULE);
pub const CONTAINERD_SHIM: Tool = Tool::new(
    "containerd-shim-runc-v2",
    "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    &CONTAINERD_MODULE,
);
pub const CTR: Tool = Tool::new("ctr", "github.com/containerd/containerd/v2/cmd/ctr", &CONTAINERD_MODULE);
pub const RUNC: Tool = Tool::new("runc", "github.com/opencontainers/runc", &RUNC_MODULE);
pub const BRIDGE: Tool = Tool::new("bridge", "github.com/containernetworking/plugins/plugins/main/bridge", &CNI_MODULE);
pub const LOOPBACK: Tool =
    Tool::new("loopback", "github.com/containernetworking/plugins/plugins/main/loopback", &CNI_MODULE);
pub const HOST_LOCAL: Tool =
    Tool::new("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", &CNI_MODULE);
pub const COREDNS: Tool = Tool::new("coredns", "github.com/coredns/coredns", &COREDNS_MODULE);
pub const PAUSE: Tool = Tool::new("pause", "kubevision.io/tools/pod/pause", &POD_MODULE);
pub const PROBE: Tool = Tool::new("probe", "kubevision.io/tools/pod/probe", &POD_MODULE);

/// What the tests run.
pub const FOR_TESTS: [Tool; 6] = [ETCD, API_SERVER, KUBECTL, CONTROLLER_MANAGER, HELM, PROMTOOL];
/// What a node needs: a control plane, and what runs pods. Those of a module stand together, the large ones first.
pub const FOR_NODE: [Tool; 17] = [
    ETCD,
    API_SERVER,
    KUBECTL,
    CONTROLLER_MANAGER,
    KUBELET,
    SCHEDULER,
    PROXY,
    CONTAINERD,
    CONTAINERD_SHIM,
    CTR,
    RUNC,
    BRIDGE,
    LOOPBACK,
    HOST_LOCAL,
    COREDNS,
    PAUSE,
    PROBE,
];
/// Taken from given assets, where they are given.
const GIVEN: [Tool; 4] = [ETCD, API_SERVER, KUBECTL, CONTROLLER_MANAGER];
/// Given assets have to hold these; the usual archives have no controller-manager.
const GIVEN_AT_LEAST: [Tool; 3] = [ETCD, API_SERVER, KUBECTL];

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the folder that the variable names: ours to use, not to build.
    Given(PathBuf),
    /// In the user's cache.
    Cache(PathBuf),
}

impl Place {
    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Cache(path) => path,
        }
    }
}

/// Fails where given programs are not complete, naming the missing.
pub fn place(tool: Tool) -> anyhow::Result<Place> {
    match env::var_os(ASSETS_VARIABLE).filter(|given| !given.is_empty()) {
        Some(given) if GIVEN.contains(&tool) => Ok(Place::Given(complete(PathBuf::from(given))?.join(tool.name))),
        _ => cached(tool).map(Place::Cache),
    }
}

/// Where it is built to, whatever is given: in a folder of its module, by the hash of all that the build depends on.
pub fn cached(tool: Tool) -> anyhow::Result<PathBuf> {
    let Module { name, .. } = tool.module;
    Ok(cache()?.join("tools").join(format!("{name}-{}", fingerprint(tool.module))).join(tool.name))
}

/// The user's cache of this project.
pub fn cache() -> anyhow::Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir().context("neither XDG_CACHE_HOME nor HOME is set")?.join(".cache"),
    };
    Ok(cache.join("kubevision-audit"))
}

/// A program that is there; else fails saying how to get it.
pub fn find(tool: Tool) -> anyhow::Result<PathBuf> {
    match place(tool)? {
        Place::Given(path) | Place::Cache(path) if path.is_file() => Ok(path),
        Place::Given(path) => bail!("{} is missing ({ASSETS_VARIABLE} is set)", path.display()),
        Place::Cache(path) => bail!("{} is missing: run `make tools`", path.display()),
    }
}

/// The arguments of `go` that build `tool` into `target`, in its module's folder.
pub fn build_args(tool: Tool, target: &str) -> Vec<String> {
    let mut args: Vec<String> = FLAGS.map(str::to_owned).into();
    let (tags, linker_flags) = (tool.module.tags.to_owned(), linker_flags(tool));
    args.extend(["-tags".to_owned(), tags, "-ldflags".to_owned(), linker_flags]);
    args.extend(["-o".to_owned(), target.to_owned(), tool.package.to_owned()]);
    args
}

/// The environment of that `go`.
pub fn build_env(tool: Tool) -> [(&'static str, &'static str); 2] {
    [("CGO_ENABLED", if tool.module.cgo { "1" } else { "0" }), ("GOWORK", "off")]
}

const FLAGS: [&str; 4] = ["build", "-trimpath", "-buildvcs=false", "-mod=readonly"];

fn linker_flags(tool: Tool) -> String {
    let version = tool.version().unwrap_or_default();
    let (major, minor) = major_and_minor(version);
    let values =
        [("{version}", version), ("{number}", version.trim_start_matches('v')), ("{major}", major), ("{minor}", minor)];
    let fill = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
    values.iter().fold(format!("-s -w {}", tool.module.linker_flags), fill)
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

fn fingerprint(module: &Module) -> String {
    let Module { name, folder, go_mod, sources, tags, linker_flags, cgo } = module;
    let cgo = if *cgo { "1" } else { "0" };
    let mut hash = Sha256::new();
    for part in [name, folder, go_mod, tags, linker_flags, cgo].into_iter().chain(sources.iter().copied()).chain(FLAGS)
    {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn complete(folder: PathBuf) -> anyhow::Result<PathBuf> {
    let names = GIVEN_AT_LEAST.iter().map(|tool| tool.name);
    let missing: Vec<_> = names.filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(folder);
    }
    bail!("{ASSETS_VARIABLE} is {}, which has no {}", folder.display(), missing.join(", no "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard;

    fn all() -> impl Iterator<Item = Tool> {
        FOR_TESTS.into_iter().chain(FOR_NODE)
    }

    #[test]
    fn the_programs_carry_the_version_that_go_mod_requires() {
        let version = API_SERVER.version().unwrap();
        assert!(version.starts_with("v1."), "{version:?}");
        let flags = linker_flags(API_SERVER);
        assert!(flags.contains(&format!("component-base/version.gitVersion={version} ")), "{flags}");
        assert_eq!(major_and_minor("v1.37.2"), ("1", "37"));
        for tool in all() {
            assert!(!linker_flags(tool).contains(['{', '}']), "{}", tool.name);
        }
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
    fn every_tool_is_one_that_its_go_mod_names() {
        for tool in all().filter(|tool| *tool.module != POD_MODULE) {
            let named = |line: &str| line.trim().trim_start_matches("tool ") == tool.package;
            assert!(tool.module.go_mod.lines().any(named), "{}", tool.package);
            assert!(tool.version().is_some(), "{}", tool.package);
        }
    }

    #[test]
    fn a_change_of_one_module_builds_no_other_anew() {
        let changed = Module { go_mod: "module changed", ..pinned!("helm", "tools/helm") };
        assert_ne!(fingerprint(&changed), fingerprint(HELM.module));
        let mut folders: Vec<_> = all().map(|tool| cached(tool).unwrap().parent().unwrap().to_owned()).collect();
        folders.sort();
        folders.dedup();
        assert_eq!(folders.len(), 8, "{folders:?}");
    }

    #[test]
    fn given_programs_that_are_not_complete_are_refused_by_name() {
        let folder = guard::folder("assets").unwrap();
        std::fs::write(folder.join("kubectl"), "").unwrap();
        let said = complete(folder.clone()).unwrap_err().to_string();
        assert!(said.contains("no etcd, no kube-apiserver") && !said.contains("kubectl"), "{said}");
        for tool in GIVEN_AT_LEAST {
            std::fs::write(folder.join(tool.name), "").unwrap();
        }
        assert_eq!(complete(folder.clone()).unwrap(), folder);
    }
}

//! Where all of the cluster lies: one folder in the user's cache.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use testkit::control_plane::Kubectl;
use testkit::tools::{self, KUBECTL};

use crate::lock;

/// Names another folder than the user's own cluster has; only one node can run at a time.
pub(crate) const FOLDER_VARIABLE: &str = "KUBEVISION_AUDIT_CLUSTER";
/// The node has folders of its own in these places, so what lies there cannot be seen from inside.
const HIDDEN: [&str; 4] = ["/run", "/sys", "/var/lib", "/var/log"];

#[derive(Clone, Debug)]
pub(super) struct State {
    root: PathBuf,
}

impl State {
    pub(super) fn find() -> anyhow::Result<Self> {
        let root = match env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => std::path::absolute(tools::cache()?)?.join("cluster"),
        };
        ensure!(
            !HIDDEN.iter().any(|hidden| root.starts_with(hidden)),
            "{} would not be seen from inside the node: set XDG_CACHE_HOME to a folder elsewhere",
            root.display()
        );
        Ok(Self { root })
    }

    #[cfg(test)]
    pub(super) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Keys and certificates, and what holds them.
    pub(super) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Written anew by each start.
    pub(super) fn configuration(&self) -> PathBuf {
        self.root.join("configuration")
    }

    /// What the node's programs say; each start begins anew.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The API server's.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.root.join("audit.log")
    }

    /// What the API server needs to post its audit events: whom to trust, and a token.
    pub(super) fn audit_source(&self) -> PathBuf {
        self.root.join("audit-source")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// What the node has in place of a folder of the machine.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.root.join("inside").join(name)
    }

    pub(super) fn record(&self) -> PathBuf {
        self.root.join("node.json")
    }

    /// Held by who starts or ends the node.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        make_folder(&self.root)?;
        lock::take(&self.root, "another run starts or ends the node")
    }

    /// The administrator's.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub(super) fn kubectl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Kubectl> {
        let kubectl = tools::cached(KUBECTL)?;
        Ok(Kubectl::new(kubectl, self.kubeconfig(), self.root.join("kubectl-cache")).args(args))
    }

    /// The last lines of a program's log, for an error.
    pub(super) fn log_tail(&self, program: &str) -> String {
        const LINES: usize = 15;
        let text = fs::read(self.logs().join(format!("{program}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

/// What is not there is removed already.
pub(super) fn remove_folder(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn make_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))
}

pub(super) fn write(path: &Path, text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// A template with its `{names}` filled in.
pub(super) fn fill<V: AsRef<str>>(template: &str, values: &[(&str, V)]) -> String {
    let fill = |text: String, (name, value): &(&str, V)| text.replace(&format!("{{{name}}}"), value.as_ref());
    values.iter().fold(template.to_owned(), fill)
}

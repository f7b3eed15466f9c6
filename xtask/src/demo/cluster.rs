//! The cluster that the demo writes to: one of its own, or the one that KUBECONFIG names.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use testkit::control_plane::{ADMINISTRATORS, ControlPlane, Kubectl};

use super::NAMESPACE;

pub(super) enum Cluster {
    Own(Box<ControlPlane>),
    Given { kubectl: PathBuf, kubeconfig: PathBuf, folder: PathBuf },
}

impl Cluster {
    /// Whether KUBECONFIG names one.
    pub(super) fn is_given() -> bool {
        env::var_os("KUBECONFIG").is_some_and(|given| !given.is_empty())
    }

    pub(super) async fn find(folder: &Path) -> anyhow::Result<Self> {
        if Self::is_given() {
            Self::given(folder).await
        } else {
            ControlPlane::start().await.map(Box::new).map(Self::Own)
        }
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        match self {
            Self::Own(control_plane) => control_plane.kubeconfig(),
            Self::Given { kubeconfig, .. } => kubeconfig,
        }
    }

    pub(super) fn kubectl(&self, args: &[&str]) -> Kubectl {
        match self {
            Self::Own(control_plane) => control_plane.kubectl(args),
            Self::Given { kubectl, kubeconfig, folder } => {
                Kubectl::new(kubectl, kubeconfig, folder.join("kubectl-cache")).args(args)
            }
        }
    }

    /// In our own cluster by their certificate; in another one by impersonation, since nobody has their keys.
    pub(super) async fn kubectl_as(&self, user: &str, args: &[&str]) -> anyhow::Result<Kubectl> {
        match self {
            Self::Own(control_plane) => control_plane.kubectl_as(user, args).await,
            Self::Given { .. } => Ok(self.kubectl(&["--as", user, "--as-group", ADMINISTRATORS]).args(args)),
        }
    }

    /// Our own cluster goes with its folder; another one is left as it was found.
    pub(super) async fn tidy_up(&self) -> anyhow::Result<()> {
        if let Self::Own(_) = self {
            return Ok(());
        }
        for (kind, name) in OURS {
            self.kubectl(&["delete", kind, name, "--ignore-not-found", "--wait=false"]).ok().await?;
        }
        Ok(())
    }

    async fn given(folder: &Path) -> anyhow::Result<Self> {
        let kubectl =
            in_path("kubectl").context("KUBECONFIG is set, and there is no kubectl in PATH to use it with")?;
        // Several files, a relative path, another context: here they become one file that means the same everywhere.
        let view = tokio::process::Command::new(&kubectl)
            .args(["config", "view", "--raw", "--flatten", "--minify"])
            .kill_on_drop(true)
            .output()
            .await
            .context("running kubectl config view")?;
        if !view.status.success() {
            bail!("KUBECONFIG does not name a cluster: {}", String::from_utf8_lossy(&view.stderr).trim());
        }
        let kubeconfig = folder.join("kubeconfig");
        fs::write(&kubeconfig, "")
            .and_then(|()| fs::set_permissions(&kubeconfig, fs::Permissions::from_mode(0o600)))?;
        fs::write(&kubeconfig, &view.stdout).context("writing the kubeconfig")?;
        let cluster = Self::Given { kubectl, kubeconfig, folder: folder.to_owned() };
        for (kind, name) in OURS {
            let found = cluster.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "name"]).ok().await?;
            if !found.trim().is_empty() {
                bail!(
                    "the cluster has {} already: the demo makes and removes it, so it won't touch yours",
                    found.trim()
                );
            }
        }
        Ok(cluster)
    }
}

/// What the demo makes in a cluster and removes at its end.
const OURS: [(&str, &str); 2] = [("validatingwebhookconfiguration", "kubevision-audit"), ("namespace", NAMESPACE)];

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

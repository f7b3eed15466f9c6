//! The one door to the Kubernetes API.
//!
//! Each operation that the program needs is a method of [`Cluster`], bounded by [`OPERATION_MAX`], whose error tells what
//! was done to which object and whether trying again can help. Everything that kube's client can do besides is not
//! reachable from outside, and so can't happen.
//!
//! This crate never decides what the cluster should look like: that is the operator's.

mod deployments;
mod discovery;
mod error;
mod follow;
mod looks;
mod objects;
mod policies;
mod registrations;
mod secrets;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::PostParams;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

pub use crate::deployments::{DeploymentRef, NotADeployment};
pub use crate::error::{ClusterError, Retry};
pub use crate::follow::{Followed, FoundPolicy};
pub use crate::looks::{LookAt, ObjectText};
pub use crate::objects::{Collection, FoundObject, Heard};
pub use crate::secrets::SecretRef;

/// As whom the program owns the fields that it applies.
pub const FIELD_MANAGER: &str = "kubevision-audit";

/// From the first attempt of an operation to its end, what the client retries by itself included.
pub const OPERATION_MAX: Duration = Duration::from_secs(10);
/// A server that is there answers a SYN at once; one that is not must leave time for another attempt.
const CONNECT_MAX: Duration = Duration::from_secs(3);

const _: () = assert!(CONNECT_MAX.as_secs() < OPERATION_MAX.as_secs());

/// Which cluster, as whom. Where nothing is said: the cluster whose ServiceAccount this process was given, else what
/// `KUBECONFIG` or `~/.kube/config` say.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// A kubeconfig file to use and nothing else.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than its current one; with it the ServiceAccount is not considered.
    pub context: Option<String>,
}

/// A cluster's API, as somebody. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    in_cluster_namespace: Option<Arc<str>>,
}

impl Cluster {
    /// Finds out where the API is and as whom to call it. Nothing is sent: whether the API server is up, the first
    /// operation tells. To be called within a Tokio runtime.
    ///
    /// # Errors
    /// Where no configuration is found, or one that does not parse; names the file.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ClusterError> {
        let Found { mut config, in_cluster_namespace } = found(options).await?;
        config.connect_timeout = Some(CONNECT_MAX);
        let client = Client::try_from(config).map_err(|source| ClusterError::Client { source: Box::new(source) })?;
        Ok(Self { client, in_cluster_namespace })
    }

    /// The namespace of this process's pod; None outside a cluster, and where a kubeconfig says which cluster it is: that
    /// may be another one.
    pub fn in_cluster_namespace(&self) -> Option<&str> {
        self.in_cluster_namespace.as_deref()
    }

    /// The API server's version, as `v1.37.2`.
    ///
    /// # Errors
    /// Where the API server cannot be asked.
    pub async fn version(&self) -> Result<String, ClusterError> {
        let version = self.client.apiserver_version();
        Ok(within("asking for the version of", || "the API server".to_owned(), version).await?.git_version)
    }
}

/// How an object is made or replaced.
fn writing() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// An operation on an object, ended at the bound, its failure told by name.
async fn within<T>(
    operation: &'static str,
    object: impl FnOnce() -> String,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(OPERATION_MAX, request).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(ClusterError::of(operation, object(), source)),
        Err(_) => Err(ClusterError::Timeout { operation, object: object(), after: OPERATION_MAX }),
    }
}

struct Found {
    config: Config,
    in_cluster_namespace: Option<Arc<str>>,
}

async fn found(options: &ConnectOptions) -> Result<Found, ClusterError> {
    let by_kubeconfig = |config| Found { config, in_cluster_namespace: None };
    let choice = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &options.kubeconfig {
        let failed = |source| ClusterError::Kubeconfig { path: path.clone(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
        return Config::from_custom_kubeconfig(kubeconfig, &choice).await.map(by_kubeconfig).map_err(failed);
    }
    if options.context.is_none()
        && let Ok(config) = Config::incluster()
    {
        // The token and the CA beside it are renewed: kube's client reads both files again each minute.
        let namespace = config.default_namespace.trim();
        let in_cluster_namespace = (!namespace.is_empty()).then(|| namespace.into());
        return Ok(Found { config, in_cluster_namespace });
    }
    let config = Config::from_kubeconfig(&choice).await;
    config.map(by_kubeconfig).map_err(|source| ClusterError::NoCluster { source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::net::TcpListener;

    use super::*;

    fn kubeconfig(server: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(
            file,
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: test, user: {{token: secret-token}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n"
        )
        .unwrap();
        file
    }

    async fn connected(server: &str) -> Cluster {
        let file = kubeconfig(server);
        let options = ConnectOptions { kubeconfig: Some(file.path().to_owned()), context: None };
        Cluster::connect(&options).await.unwrap()
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_is_named() {
        let missing = PathBuf::from("/nonexistent/kubeconfig");
        let garbled = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(garbled.path(), "clusters: 5\n").unwrap();
        for path in [missing, garbled.path().to_owned()] {
            let options = ConnectOptions { kubeconfig: Some(path.clone()), context: None };
            let Err(error) = Cluster::connect(&options).await else { panic!("{path:?} was taken") };
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert_eq!(error.retry(), Retry::Never);
        }
        let good = kubeconfig("https://127.0.0.1:1");
        let options =
            ConnectOptions { kubeconfig: Some(good.path().to_owned()), context: Some("elsewhere".to_owned()) };
        let Err(error) = Cluster::connect(&options).await else { panic!("an unknown context was taken") };
        assert!(error.to_string().contains(&good.path().display().to_string()), "{error}");
    }

    #[tokio::test]
    async fn an_api_server_that_is_down_is_found_out_by_the_operation_and_worth_another_try() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = connected(&format!("http://{free}")).await.version().await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(error.to_string(), "asking for the version of the API server: no answer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_given_up_at_the_bound() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = connected(&format!("http://{}", silent.local_addr().unwrap())).await;
        let error = cluster.version().await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(error.to_string(), "asking for the version of the API server: given up after 10s");
    }
}

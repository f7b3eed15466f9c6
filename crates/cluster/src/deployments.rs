//! Deployments: only that one can be stopped.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{Cluster, ClusterError, FIELD_MANAGER, within};

/// Written as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentRef {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted is NAMESPACE/NAME, such as kubevision-audit/kubevision-audit")]
pub struct NotADeployment;

impl fmt::Display for DeploymentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deployment {}/{}", self.namespace, self.name)
    }
}

impl FromStr for DeploymentRef {
    type Err = NotADeployment;

    fn from_str(text: &str) -> Result<Self, NotADeployment> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(NotADeployment),
        }
    }
}

impl Cluster {
    /// Tells whether there is such a Deployment. Its pods end a while later.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn scale_to_zero(&self, deployment: &DeploymentRef) -> Result<bool, ClusterError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &deployment.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let scaled = api.patch_scale(&deployment.name, &params, &none);
        match within("scaling to 0", || deployment.to_string(), scaled).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_named_with_its_namespace() {
        let named = DeploymentRef { namespace: "audit".to_owned(), name: "log".to_owned() };
        assert_eq!("audit/log".parse(), Ok(named));
        for other in ["log", "/log", "audit/", "audit/log/x", ""] {
            assert_eq!(other.parse::<DeploymentRef>(), Err(NotADeployment), "{other}");
        }
    }
}

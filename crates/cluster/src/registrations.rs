//! Validating webhook configurations: by which the API server knows whom to call.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};

use crate::{Cluster, ClusterError, FIELD_MANAGER, within, writing};

impl Cluster {
    /// # Errors
    /// Where the API server cannot be asked or refuses; that there is no such object is no error.
    pub async fn registration(&self, name: &str) -> Result<Option<ValidatingWebhookConfiguration>, ClusterError> {
        within("reading", || object(name), self.registrations().get_opt(name)).await
    }

    /// Makes the object. Of many who do so at once, one succeeds.
    ///
    /// # Errors
    /// As [`Self::apply_registration`]; a conflict where it is there already.
    pub async fn create_registration(
        &self,
        wanted: &ValidatingWebhookConfiguration,
    ) -> Result<ValidatingWebhookConfiguration, ClusterError> {
        let name = wanted.metadata.name.as_deref().unwrap_or_default();
        within("creating", || object(name), self.registrations().create(&writing(), wanted)).await
    }

    /// Applies the object by server-side apply, and takes from others the fields that it states. What others have added
    /// to it stays.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses; a conflict where a `resourceVersion` is given and the live object
    /// has another, or is gone.
    pub async fn apply_registration(
        &self,
        wanted: &ValidatingWebhookConfiguration,
    ) -> Result<ValidatingWebhookConfiguration, ClusterError> {
        let name = wanted.metadata.name.as_deref().unwrap_or_default();
        let (api, params) = (self.registrations(), PatchParams::apply(FIELD_MANAGER).force());
        within("applying", || object(name), api.patch(name, &params, &Patch::Apply(wanted))).await
    }

    /// Replaces the object as a whole, where it still has the `resourceVersion` given.
    ///
    /// # Errors
    /// As [`Self::apply_registration`]; a conflict where somebody else has changed the object.
    pub async fn replace_registration(
        &self,
        whole: &ValidatingWebhookConfiguration,
    ) -> Result<ValidatingWebhookConfiguration, ClusterError> {
        let name = whole.metadata.name.as_deref().unwrap_or_default();
        within("replacing", || object(name), self.registrations().replace(name, &writing(), whole)).await
    }

    /// Tells whether there was anything to delete.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn delete_registration(&self, name: &str) -> Result<bool, ClusterError> {
        let (api, params) = (self.registrations(), DeleteParams::default());
        match within("deleting", || object(name), api.delete(name, &params)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn registrations(&self) -> Api<ValidatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }
}

fn object(name: &str) -> String {
    format!("ValidatingWebhookConfiguration {name}")
}

//! AuditPolicies' status, and events about them.

use api::AuditPolicy;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{Cluster, ClusterError, FIELD_MANAGER, within, writing};

/// Events about objects that are in no namespace lie here, by Kubernetes' own convention.
const EVENTS_NAMESPACE: &str = "default";

impl Cluster {
    /// Applies a part of a policy's status by server-side apply, as the owner of that part: what the part no longer says
    /// goes, what other parts say stays.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn apply_policy_status(&self, name: &str, part: &str, status: &Value) -> Result<(), ClusterError> {
        // What comes back need not parse: it may be of a later version of the definition than this program's.
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<AuditPolicy>(&()));
        let params = PatchParams::apply(&format!("{FIELD_MANAGER}-{part}")).force();
        let body = json!({
            "apiVersion": "audit.kubevision.io/v1alpha1",
            "kind": "AuditPolicy",
            "metadata": {"name": name},
            "status": status,
        });
        let patch = Patch::Apply(&body);
        let object = || format!("AuditPolicy {name}, status");
        within("applying", object, api.patch_status(name, &params, &patch)).await.map(drop)
    }

    /// Tells an event, once: one of that name that is there already was told by another replica.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn tell_event(&self, event: &Event) -> Result<(), ClusterError> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), EVENTS_NAMESPACE);
        let object = || format!("Event {}", event.metadata.name.as_deref().unwrap_or_default());
        match within("creating", object, api.create(&writing(), event)).await {
            Err(error) if error.is_conflict() => Ok(()),
            told => told.map(drop),
        }
    }
}

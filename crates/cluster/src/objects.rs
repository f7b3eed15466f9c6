//! Objects of any kind, followed change by change.

use std::fmt;
use std::time::Duration;

use domain::text::with_causes;
use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::runtime::watcher::{Event, watcher as watch_objects};
use kube::{Api, ResourceExt};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::Cluster;
use crate::follow::config;

/// After a first failure; doubled with each further one, so that what is not granted costs the API server little.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All objects of a kind, or those in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    /// None: of the whole cluster.
    pub namespace: Option<String>,
}

/// An object as it lies in the cluster. It may hold secrets: no `Serialize`, and `Debug` tells only where it lies.
#[derive(Clone)]
pub struct FoundObject {
    /// Empty where it is in none.
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub json: Box<RawValue>,
}

impl fmt::Debug for FoundObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FoundObject({}/{}, {} bytes)", self.namespace, self.name, self.json.get().len())
    }
}

/// What is heard of a collection.
#[derive(Debug)]
pub enum Heard {
    /// All that there are, at the start and after each failure.
    All(Vec<FoundObject>),
    /// Made or changed.
    Applied(FoundObject),
    /// As it was last.
    Deleted(FoundObject),
    /// Nothing, at the moment, and why.
    Failed(String),
}

impl Cluster {
    /// Follows a collection until dropped, or until nobody listens. Each change is told, in its order; those between a
    /// failure and the listing after it come to one, which the listing shows.
    pub async fn follow_objects<T: Copy + Send>(
        &self,
        of: T,
        collection: &Collection,
        told: &mpsc::Sender<(T, Heard)>,
    ) {
        let kind = GroupVersionKind::gvk(&collection.group, &collection.version, &collection.kind);
        let kind = ApiResource::from_gvk_with_plural(&kind, &collection.plural);
        let api: Api<DynamicObject> = match &collection.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        };
        let mut retry = RETRY;
        loop {
            let mut listing = Vec::new();
            let mut events = std::pin::pin!(watch_objects(api.clone(), config()));
            while let Some(event) = events.next().await {
                let heard = match event {
                    Ok(Event::Init) => {
                        listing.clear();
                        continue;
                    }
                    Ok(Event::InitApply(object)) => {
                        listing.extend(found(object, &kind));
                        continue;
                    }
                    Ok(Event::InitDone) => {
                        retry = RETRY;
                        Some(Heard::All(std::mem::take(&mut listing)))
                    }
                    Ok(Event::Apply(object)) => found(object, &kind).map(Heard::Applied),
                    Ok(Event::Delete(object)) => found(object, &kind).map(Heard::Deleted),
                    Err(error) => Some(Heard::Failed(with_causes(&error))),
                };
                let failed = matches!(heard, Some(Heard::Failed(_)));
                if let Some(heard) = heard
                    && told.send((of, heard)).await.is_err()
                {
                    return;
                }
                if failed {
                    break;
                }
            }
            sleep(retry).await;
            retry = (2 * retry).min(RETRY_MAX);
        }
    }
}

/// As a request for it alone would show it: those of a listing do not name their kind.
fn found(mut object: DynamicObject, kind: &ApiResource) -> Option<FoundObject> {
    object.types = Some(TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() });
    // Plain data with texts for keys always has a JSON form.
    let json = to_raw_value(&object).ok()?;
    let uid = object.uid().unwrap_or_default();
    Some(FoundObject { namespace: object.namespace().unwrap_or_default(), name: object.name_any(), uid, json })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_object_of_a_listing_is_as_a_request_for_it_shows_it_and_its_values_are_not_in_a_log() {
        let whole = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "Y2FuYXJ5"}, "type": "Opaque", "metadata": {
            "name": "keys", "namespace": "audit", "uid": "u-1", "resourceVersion": "7",
            "creationTimestamp": "2026-03-01T12:00:00Z",
            "managedFields": [{"manager": "m", "time": "2026-03-01T12:00:00Z", "fieldsV1": {"f:data": {}}}]}});
        let mut listed = whole.clone();
        listed.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets");
        let found = found(serde_json::from_value(listed).unwrap(), &kind).unwrap();
        assert_eq!(serde_json::from_str::<Value>(found.json.get()).unwrap(), whole);
        assert_eq!((found.namespace.as_str(), found.name.as_str(), found.uid.as_str()), ("audit", "keys", "u-1"));
        let debug = format!("{found:?}");
        assert!(debug.starts_with("FoundObject(audit/keys, ") && !debug.contains("Y2FuYXJ5"), "{debug}");
    }
}

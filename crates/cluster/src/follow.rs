//! What the cluster holds of a kind, followed as it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use api::AuditPolicy;
use domain::text::with_causes;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher as watch_objects};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Cluster;

/// After a failure: an API server that comes back, or a definition that is installed, is noticed at once.
const RETRY: Duration = Duration::from_secs(1);

/// All objects of a kind, by name, as last heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed<T> {
    pub objects: BTreeMap<String, T>,
    /// Whether all that there are have been seen once.
    pub synced: bool,
    /// Why nothing is heard at the moment; what was heard last is kept.
    pub last_error: Option<String>,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), synced: false, last_error: None }
    }
}

/// An AuditPolicy as it lies in the cluster, or why what lies there is none.
pub type FoundPolicy = Result<AuditPolicy, String>;

impl Cluster {
    /// Follows the AuditPolicies until dropped, through restarts of the API server, and while their definition is not
    /// installed. One that does not parse is told by name and hides no other.
    pub async fn follow_policies(&self, policies: &watch::Sender<Followed<FoundPolicy>>) {
        let kind = ApiResource::erase::<AuditPolicy>(&());
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        let parse = |object: DynamicObject| object.try_parse::<AuditPolicy>().map_err(|error| error.to_string());
        follow(policies, watch_objects(api, watcher::Config::default()), parse).await;
    }

    /// Follows the labels of all namespaces until dropped.
    pub async fn follow_namespaces(&self, namespaces: &watch::Sender<Followed<BTreeMap<String, String>>>) {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let labels = |object: PartialObjectMeta<Namespace>| object.metadata.labels.unwrap_or_default();
        follow(namespaces, watch_objects(api, watcher::Config::default()), labels).await;
    }
}

async fn follow<K, T>(
    told: &watch::Sender<Followed<T>>,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    parse: impl Fn(K) -> T,
) where
    K: ResourceExt,
{
    // What a new listing has told so far; what it does not tell is gone when it ends.
    let mut listing = BTreeMap::new();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let failed = event.is_err();
        let change = |followed: &mut Followed<T>| {
            let before = followed.last_error.take();
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => {
                    listing.insert(object.name_any(), parse(object));
                }
                Ok(Event::InitDone) => {
                    followed.objects = std::mem::take(&mut listing);
                    followed.synced = true;
                    return true;
                }
                Ok(Event::Apply(object)) => {
                    followed.objects.insert(object.name_any(), parse(object));
                    return true;
                }
                Ok(Event::Delete(object)) => {
                    followed.objects.remove(&object.name_any());
                    return true;
                }
                Err(error) => followed.last_error = Some(with_causes(&error)),
            }
            before != followed.last_error
        };
        told.send_if_modified(change);
        if failed {
            // The stream goes on with another try.
            sleep(RETRY).await;
        }
    }
}

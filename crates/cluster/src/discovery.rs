//! What the API server serves: kinds, their plurals and their versions.

use std::sync::Arc;
use std::time::Duration;

use domain::kinds::{Kinds, Served};
use futures::future::try_join;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::{Cluster, ClusterError, within};

/// Definitions of custom resources come and go with what people install.
const EVERY: Duration = Duration::from_secs(300);
/// Whoever meets a plural that is not known asks, and there may be many such.
const AT_MOST_EVERY: Duration = Duration::from_secs(2);
/// After a failure, while nothing is known yet.
const RETRY: Duration = Duration::from_secs(1);

impl Cluster {
    /// All that the API server serves, in two requests.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses.
    pub async fn kinds(&self) -> Result<Kinds, ClusterError> {
        let groups =
            try_join(self.client.list_core_api_versions_aggregated(), self.client.list_api_groups_aggregated());
        let (core, others) = within("discovering", || "the kinds that are served".to_owned(), groups).await?;
        Ok(kinds_of([core, others]))
    }

    /// Keeps them until dropped: asks at the start, now and then, and soon after somebody has `asked`.
    pub async fn keep_kinds(&self, kinds: &watch::Sender<Arc<Kinds>>, asked: &Notify) {
        let mut known = false;
        loop {
            let start = Instant::now();
            if let Ok(served) = self.kinds().await {
                known = true;
                let served = served.after(&kinds.borrow());
                kinds.send_if_modified(|kinds| {
                    let news = **kinds != served;
                    if news {
                        *kinds = Arc::new(served);
                    }
                    news
                });
            }
            if !known {
                sleep_until(start + RETRY).await;
                continue;
            }
            tokio::select! {
                () = sleep_until(start + EVERY) => {}
                () = async { tokio::join!(sleep_until(start + AT_MOST_EVERY), asked.notified()); } => {}
            }
        }
    }
}

/// The versions of a group come in the order of the API server's preference.
fn kinds_of(lists: [APIGroupDiscoveryList; 2]) -> Kinds {
    let mut kinds = Kinds::default();
    for APIGroupDiscovery { metadata, versions } in lists.into_iter().flat_map(|list| list.items) {
        // The core group has no name.
        let group = metadata.and_then(|metadata| metadata.name).unwrap_or_default();
        for version in versions {
            let name = version.version.unwrap_or_default();
            for resource in version.resources {
                let kind = resource.response_kind.and_then(|kind| kind.kind).filter(|kind| !kind.is_empty());
                let (Some(kind), Some(plural)) = (kind, resource.resource) else { continue };
                let namespaced = resource.scope.as_deref() == Some("Namespaced");
                kinds.serve(&group, &kind, Served { version: name.clone(), plural, namespaced });
            }
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_several_versions_the_preferred_one_is_kept() {
        let resource = |plural: &str, kind: &str, scope: &str| json!({"resource": plural, "scope": scope, "responseKind": {"kind": kind}});
        let core = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("pods", "Pod", "Namespaced"), resource("namespaces", "Namespace", "Cluster"),
        ]}]}]});
        let others = json!({"items": [{"metadata": {"name": "example.com"}, "versions": [
            {"version": "v1", "resources": [resource("gizmos", "Gizmo", "Namespaced")]},
            {"version": "v1beta1", "resources": [
                resource("gizmos", "Gizmo", "Namespaced"), resource("widgets", "Widget", "Cluster"), {"resource": "odd"},
            ]},
        ]}]});
        let kinds = kinds_of([core, others].map(|list| serde_json::from_value(list).unwrap()));
        let served = |group: &str, kind: &str| {
            kinds.served(group, kind).map(|s| (s.version.as_str(), s.plural.as_str(), s.namespaced))
        };
        assert_eq!(served("", "Pod"), Some(("v1", "pods", true)));
        assert_eq!(served("", "Namespace"), Some(("v1", "namespaces", false)));
        assert_eq!(served("example.com", "Gizmo"), Some(("v1", "gizmos", true)));
        assert_eq!(served("example.com", "Widget"), Some(("v1beta1", "widgets", false)));
        assert_eq!(kinds.kind("example.com", "widgets"), Some("Widget"));
    }
}

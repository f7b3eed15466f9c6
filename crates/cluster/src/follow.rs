//! What the cluster holds of a kind, followed as it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{AuditPolicy, AuditPolicySpec, AuditPolicyStatus};
use domain::text::with_causes;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher as watch_objects};
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Cluster;

/// After a failure: an API server that comes back, or a definition that is installed, is noticed at once.
const RETRY: Duration = Duration::from_secs(1);
/// After which the API server ends a watch. One that says nothing for a little longer is taken for cut off.
const WATCH_SECONDS: u32 = 60;
const NOT_FOUND: u16 = 404;

/// All objects of a kind, by name, as last heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed<T> {
    pub objects: BTreeMap<String, T>,
    /// Whether all that there are have been seen once.
    pub synced: bool,
    /// The API server knows of no such kind: its definition is not installed, and so there are none.
    pub absent: bool,
    /// Why nothing is heard at the moment; what was heard last is kept.
    pub last_error: Option<String>,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), synced: false, absent: false, last_error: None }
    }
}

impl<T> Followed<T> {
    /// Whether it is known which objects there are. That the API server is away, busy or refuses tells nothing of that.
    pub fn known(&self) -> bool {
        self.synced || self.absent
    }
}

/// An AuditPolicy as it lies in the cluster. It may be one of a later version of the definition than this program's.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundPolicy {
    pub metadata: ObjectMeta,
    /// Or why it does not parse.
    pub spec: Result<AuditPolicySpec, String>,
    /// Its `retentionDays`, also where the rest of it does not parse.
    pub retention_days: Option<u32>,
    /// None where it does not parse.
    pub status: Option<AuditPolicyStatus>,
}

impl FoundPolicy {
    fn parse(DynamicObject { metadata, data, .. }: DynamicObject) -> Self {
        let part = |name: &str| data.get(name).cloned().unwrap_or(Value::Null);
        let spec = serde_json::from_value(part("spec")).map_err(|error| error.to_string());
        let days = data.pointer("/spec/retentionDays").and_then(Value::as_u64);
        let status = match part("status") {
            Value::Null => Some(AuditPolicyStatus::default()),
            status => serde_json::from_value(status).ok(),
        };
        Self { metadata, spec, retention_days: days.and_then(|days| u32::try_from(days).ok()), status }
    }
}

impl Cluster {
    /// Follows the AuditPolicies until dropped, through restarts of the API server, and while their definition is not
    /// installed. One that does not parse is told by name and hides no other.
    pub async fn follow_policies(&self, policies: &watch::Sender<Followed<FoundPolicy>>) {
        let kind = ApiResource::erase::<AuditPolicy>(&());
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
        follow(policies, || watch_objects(api.clone(), config()), FoundPolicy::parse).await;
    }

    /// Follows the labels of all namespaces until dropped.
    pub async fn follow_namespaces(&self, namespaces: &watch::Sender<Followed<BTreeMap<String, String>>>) {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let labels = |object: PartialObjectMeta<Namespace>| object.metadata.labels.unwrap_or_default();
        follow(namespaces, || watch_objects(api.clone(), config()), labels).await;
    }
}

pub(crate) fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// A failure is followed by a new listing: a watch that goes on after one is silent until something changes, and so would
/// not tell that all is well again.
async fn follow<K, T, S>(told: &watch::Sender<Followed<T>>, events: impl Fn() -> S, parse: impl Fn(K) -> T)
where
    K: ResourceExt,
    S: Stream<Item = Result<Event<K>, watcher::Error>> + Send,
{
    loop {
        let mut listing = BTreeMap::new();
        let mut events = std::pin::pin!(events());
        while let Some(event) = events.next().await {
            let failed = event.is_err();
            told.send_if_modified(|followed| change(followed, &mut listing, event, &parse));
            if failed {
                break;
            }
        }
        sleep(RETRY).await;
    }
}

/// Whether that is news. `listing` is what a new listing has told so far; what it does not tell is gone when it ends.
fn change<K: ResourceExt, T>(
    followed: &mut Followed<T>,
    listing: &mut BTreeMap<String, T>,
    event: Result<Event<K>, watcher::Error>,
    parse: impl Fn(K) -> T,
) -> bool {
    match event {
        Ok(Event::Init) => {
            listing.clear();
            return false;
        }
        Ok(Event::InitApply(object)) => {
            listing.insert(object.name_any(), parse(object));
            return false;
        }
        Ok(Event::InitDone) => {
            followed.objects = std::mem::take(listing);
            followed.synced = true;
            followed.absent = false;
        }
        Ok(Event::Apply(object)) => {
            followed.objects.insert(object.name_any(), parse(object));
        }
        Ok(Event::Delete(object)) => {
            followed.objects.remove(&object.name_any());
        }
        Err(error) => {
            let absent = is_absent(&error);
            if absent {
                followed.objects.clear();
            }
            let last_error = Some(with_causes(&error));
            let news = (absent && !followed.absent) || followed.last_error != last_error;
            followed.absent |= absent;
            followed.last_error = last_error;
            return news;
        }
    }
    followed.last_error = None;
    true
}

/// While it starts, an API server that does not know yet of what is installed answers 503.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == NOT_FOUND,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn refused(code: u16) -> Result<Event<DynamicObject>, watcher::Error> {
        let status = Status::failure("refused", "Refused").with_code(code);
        Err(watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status))))
    }

    fn policy(spec: &Value) -> DynamicObject {
        let object = json!({"apiVersion": "audit.kubevision.io/v1alpha1", "kind": "AuditPolicy",
            "metadata": {"name": "a", "generation": 3}, "spec": spec,
            "status": {"inForce": {"generation": 2, "spec": {"level": "Full"}}}});
        serde_json::from_value(object).unwrap()
    }

    fn after(
        followed: &mut Followed<FoundPolicy>,
        events: impl IntoIterator<Item = Result<Event<DynamicObject>, watcher::Error>>,
    ) -> Vec<bool> {
        let mut listing = BTreeMap::new();
        events.into_iter().map(|event| change(followed, &mut listing, event, FoundPolicy::parse)).collect()
    }

    #[test]
    fn only_a_kind_that_does_not_exist_tells_that_there_are_none() {
        for code in [401, 403, 429, 500, 503] {
            let mut followed = Followed::default();
            assert_eq!(after(&mut followed, [refused(code), refused(code)]), [true, false]);
            assert!(!followed.known() && followed.last_error.is_some(), "{code}");
        }
        let mut followed = Followed::default();
        assert_eq!(after(&mut followed, [refused(404), refused(404)]), [true, false]);
        assert!(followed.known() && followed.absent && !followed.synced);
    }

    #[test]
    fn what_was_heard_last_is_kept_through_a_failure_and_a_listing_ends_it() {
        let mut followed = Followed::default();
        let one = || Ok(Event::InitApply(policy(&json!({"level": "Diff"}))));
        assert_eq!(after(&mut followed, [Ok(Event::Init), one(), Ok(Event::InitDone)]), [false, false, true]);
        after(&mut followed, [refused(403), Ok(Event::Init)]);
        assert!(followed.synced && followed.objects.len() == 1 && followed.last_error.is_some());
        after(&mut followed, [Ok(Event::Init), one(), Ok(Event::InitDone)]);
        assert!(followed.last_error.is_none());
        // Its definition was removed, and installed again.
        after(&mut followed, [refused(404)]);
        assert!(followed.absent && followed.objects.is_empty());
        after(&mut followed, [Ok(Event::Init), Ok(Event::InitDone)]);
        assert!(!followed.absent && followed.known() && followed.last_error.is_none());
    }

    #[test]
    fn of_a_policy_that_does_not_parse_is_read_what_can_be() {
        let found = FoundPolicy::parse(policy(&json!({"level": "Everything", "retentionDays": 0, "later": 1})));
        assert!(found.spec.is_err());
        assert_eq!((found.retention_days, found.metadata.generation), (Some(0), Some(3)));
        assert_eq!(found.status.unwrap().in_force.unwrap().generation, 2);
        let parsed = FoundPolicy::parse(policy(&json!({"level": "Diff", "retentionDays": 7})));
        assert_eq!((parsed.spec.is_ok(), parsed.retention_days), (true, Some(7)));
        assert_eq!(FoundPolicy::parse(policy(&json!({"retentionDays": "7d"}))).retention_days, None);
    }
}

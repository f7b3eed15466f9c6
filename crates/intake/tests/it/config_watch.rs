//! What no webhook is asked about, changed in a real API server before one or two that watch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cluster::{Cluster, ConnectOptions};
use domain::clock::{Clock, Entropy};
use domain::entry::Evidence;
use domain::finding::Link;
use domain::query::{CursorKey, EntryQuery, Filter, Page, Scope};
use domain::redact::{RedactionKey, Redactor};
use domain::{EntryId, Outcome, Source, StoredEntry};
use futures::stream::BoxStream;
use intake::config_watch::{ConfigWatch, Metrics, Parts, Settings};
use pipeline::pipeline;
use policy::{Rule, Rules};
use serde_json::{Value, json};
use store::{Book, EntryReader, Fence, Leases, Links, ObjectRef, PolicyCount, StoreError};
use testkit::control_plane::{ControlPlane, exclusive};
use testkit::eventually;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::door::Kept;

const NAMESPACE: &str = "audit-itself";
const WITHIN: Duration = Duration::from_secs(30);

struct Now;

impl Clock for Now {
    #[expect(clippy::disallowed_methods, reason = "what happened before is told from what happens now by its time")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

struct Counted;

impl Entropy for Counted {
    fn bits(&self) -> u64 {
        static BITS: AtomicU64 = AtomicU64::new(0);
        BITS.fetch_add(1, Ordering::Relaxed)
    }
}

/// What all that watch share: a log in memory, and who of them may write.
#[derive(Default)]
struct Log {
    kept: Arc<Kept>,
    holder: Mutex<Option<Fence>>,
}

impl Log {
    fn newest_first(&self) -> Vec<StoredEntry> {
        let entries = self.kept.entries().into_iter().enumerate();
        let mut entries: Vec<_> =
            entries.map(|(n, entry)| StoredEntry { entry: (*entry).clone(), position: n as i64 }).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.id));
        entries
    }
}

#[async_trait]
impl Links for Log {
    async fn links(&self, _: &str, _: i64, _: EntryId, _: usize) -> Result<Vec<Link>, StoreError> {
        Ok(Vec::new())
    }

    async fn links_of(&self, object: &ObjectRef<'_>, _: EntryId, limit: usize) -> Result<Vec<Link>, StoreError> {
        let of_it = |entry: &StoredEntry| {
            entry.api_group == object.api_group
                && entry.resource.kind() == object.kind
                && entry.namespace == object.namespace
                && entry.resource_name == object.name
        };
        let link = |stored: StoredEntry| {
            let StoredEntry { entry, position } = stored;
            let version = entry.detail.read().ok().and_then(|detail| detail.request).unwrap_or_default().version;
            Link {
                id: entry.id,
                position,
                action: entry.action,
                resource: entry.resource,
                api_group: entry.api_group,
                namespace: entry.namespace,
                resource_name: entry.resource_name,
                object_uid: entry.object_uid,
                before: entry.before_hash,
                after: entry.after_hash,
                outcome: entry.outcome,
                evidence: entry.evidence,
                source: entry.source,
                policy: entry.policy,
                version,
                prior: None,
            }
        };
        Ok(self.newest_first().into_iter().filter(of_it).map(link).take(limit).collect())
    }
}

#[async_trait]
impl Leases for Log {
    async fn hold(&self, name: &str, holder: &str, _: Duration) -> Result<Option<Fence>, StoreError> {
        let mut held = self.holder.lock().unwrap();
        let fence = Fence { name: name.to_owned(), holder: holder.to_owned(), epoch: 1 };
        let fence = held.get_or_insert(fence);
        Ok((fence.holder == holder).then(|| fence.clone()))
    }

    async fn release(&self, _: &Fence) -> Result<(), StoreError> {
        *self.holder.lock().unwrap() = None;
        Ok(())
    }
}

#[async_trait]
impl EntryReader for Log {
    async fn page(&self, _: &Scope, query: &EntryQuery) -> Result<Page, StoreError> {
        let Filter { resource, namespace, .. } = &query.filter;
        let wanted = |entry: &StoredEntry| {
            resource.as_ref().is_some_and(|resource| resource.kind == entry.resource.kind())
                && namespace.as_ref().is_none_or(|namespace| *namespace == entry.namespace)
        };
        let entries = self.newest_first().into_iter().filter(wanted).collect();
        Ok(Page { entries, next: None, prev: None })
    }

    async fn entry(&self, _: &Scope, _: EntryId) -> Result<Option<StoredEntry>, StoreError> {
        Ok(None)
    }

    fn stream<'a>(&'a self, _: &'a Scope, _: &'a Filter) -> BoxStream<'a, Result<StoredEntry, StoreError>> {
        Box::pin(futures::stream::empty())
    }

    async fn cursor_key(&self) -> Result<CursorKey, StoreError> {
        Ok(CursorKey::new([0; 32]))
    }

    async fn policy_counts(&self, _: EntryId) -> Result<Vec<PolicyCount>, StoreError> {
        Ok(Vec::new())
    }
}

/// One replica, as far as it watches.
struct Watcher {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    status: watch::Receiver<intake::config_watch::Status>,
}

impl Watcher {
    async fn start(control_plane: &ControlPlane, log: &Arc<Log>, name: &str) -> anyhow::Result<Self> {
        let options = ConnectOptions { kubeconfig: Some(control_plane.kubeconfig().to_owned()), context: None };
        let cluster = Cluster::connect(&options).await?;
        let kinds = watch::Sender::new(Arc::new(cluster.kinds().await?));
        let writer = Arc::clone(&log.kept) as Arc<dyn Book>;
        let (recorder, batcher) = pipeline(pipeline::Settings::default(), writer, Arc::new(Now), Arc::new(Counted));
        let settings = Settings {
            cluster: "local".to_owned(),
            namespace: NAMESPACE.to_owned(),
            registration: "our-own",
            holder: name.to_owned(),
            rules: watch::Sender::new(Arc::new(Rules::only(Rule::built_in("built-in", false)))).subscribe(),
            kinds: kinds.subscribe(),
        };
        let (told, status) = watch::channel(intake::config_watch::Status::default());
        let watch = ConfigWatch::new(
            settings,
            Parts {
                cluster,
                entries: log.clone(),
                links: log.clone(),
                leases: log.clone(),
                recorder,
                redactor: Redactor::new(RedactionKey::new([7; 32])),
                clock: Arc::new(Now),
                entropy: Arc::new(Counted),
                heard: intake::Heard::default(),
                metrics: Metrics::default(),
            },
            told,
        );
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let stopped = stop.clone();
        tasks.spawn(async move {
            let flush = CancellationToken::new();
            let watched = async {
                watch.run(stopped).await;
                flush.cancel();
            };
            let (written, ()) = tokio::join!(batcher.run(flush.clone()), watched);
            written.map(drop).unwrap();
        });
        let mut watcher = Self { stop, tasks, status };
        let kinds = watcher.status.wait_for(|status| status.listed.len() >= 13);
        tokio::time::timeout(WITHIN, kinds).await??;
        Ok(watcher)
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// Each entry as `action kind name: summary`, oldest first, once there are so many.
async fn told(log: &Log, count: usize) -> anyhow::Result<Vec<String>> {
    eventually(WITHIN, || async {
        let mut told = log.newest_first();
        told.reverse();
        let told: Vec<_> = told
            .iter()
            .map(|entry| {
                let summary = entry.detail.read().unwrap().summary;
                format!("{} {} {}: {summary}", entry.action, entry.resource, entry.resource_name)
            })
            .collect();
        ensure!(told.len() >= count, "{told:#?}");
        Ok(told)
    })
    .await
}

async fn apply(control_plane: &ControlPlane, object: Value) -> anyhow::Result<()> {
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    control_plane.kubectl(apply).stdin(object.to_string()).ok().await.map(drop)
}

fn secret(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": NAMESPACE},
           "stringData": {"a": value}})
}

fn hook(name: &str, policy: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name}, "webhooks": [{"name": "a.example.org", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "failurePolicy": policy, "clientConfig": {"url": "https://127.0.0.1:1/"}}]})
}

async fn clear(control_plane: &ControlPlane) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(control_plane, namespace).await?;
    for kind in ["secret", "configmap"] {
        control_plane.kubectl(["delete", kind, "--all", "-n", NAMESPACE]).ok().await?;
    }
    control_plane.kubectl(["delete", "mutatingwebhookconfiguration", "--all"]).ok().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_webhook_is_asked_about_is_recorded_once_and_by_whoever_is_left() -> anyhow::Result<()> {
    let control_plane = exclusive().await;
    clear(&control_plane).await?;
    apply(&control_plane, hook("before", "Ignore")).await?;
    let log = Arc::<Log>::default();
    let first = Watcher::start(&control_plane, &log, "first").await?;
    let second = Watcher::start(&control_plane, &log, "second").await?;
    apply(&control_plane, secret("canary-5d01")).await?;
    apply(&control_plane, secret("canary-5d02")).await?;
    apply(&control_plane, hook("another", "Ignore")).await?;
    apply(&control_plane, hook("before", "Fail")).await?;
    // Noise, another namespace, and what another keeps.
    let label = ["patch", "secret", "keys", "-n", NAMESPACE, "--type=merge", "--patch={}"];
    control_plane.kubectl(label).ok().await?;
    control_plane.kubectl(["create", "configmap", "elsewhere", "-n", "default"]).ok().await?;
    control_plane.kubectl(["delete", "configmap", "elsewhere", "-n", "default"]).ok().await?;
    let ours = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                      "metadata": {"name": "our-own"}});
    apply(&control_plane, ours).await?;
    control_plane.kubectl(["delete", "validatingwebhookconfiguration", "our-own"]).ok().await?;
    control_plane.kubectl(["delete", "mutatingwebhookconfiguration", "another"]).ok().await?;
    let seen = told(&log, 5).await?;
    let expected = [
        "create Secret keys: created",
        "update Secret keys: data changed",
        "create MutatingWebhookConfiguration another: created",
        "update MutatingWebhookConfiguration before: failurePolicy",
        "delete MutatingWebhookConfiguration another: deleted",
    ];
    println!("{seen:#?}");
    let kinds = |lines: &[String]| -> Vec<String> {
        lines.iter().filter_map(|line| line.split(':').next().map(str::to_owned)).collect()
    };
    assert_eq!(kinds(&seen), kinds(&expected.map(str::to_owned)));
    let entries = log.newest_first();
    for entry in &entries {
        assert_eq!((entry.user.as_str(), entry.source, entry.outcome), ("", Source::Watch, Outcome::Confirmed));
        assert!(entry.evidence == Evidence::Probe && !entry.object_uid.is_empty(), "{entry:?}");
        let system = entry.detail.read().unwrap().system.unwrap();
        assert!(system["user"].as_str().unwrap().starts_with("not known: "), "{system}");
        assert!(!entry.detail.as_str().contains("canary") && !entry.detail.as_str().contains("Y2FuYXJ5"), "{entry:?}");
    }
    let states: Vec<_> = entries.iter().rev().take(2).map(|entry| (entry.before_hash, entry.after_hash)).collect();
    assert!(states[0].0.is_none() && states[0].1.is_some() && states[0].1 == states[1].0, "a chain: {states:?}");

    // The one that records goes in good order; the other has seen what comes right after, and tells it once.
    first.stop().await;
    apply(&control_plane, secret("canary-5d03")).await?;
    let seen = told(&log, 6).await?;
    assert!(seen[5].starts_with("update Secret keys") && !seen[5].contains("nobody"), "{seen:#?}");

    // Nobody looks.
    second.stop().await;
    apply(&control_plane, hook("before", "Ignore")).await?;
    control_plane.kubectl(["delete", "secret", "keys", "-n", NAMESPACE]).ok().await?;
    let third = Watcher::start(&control_plane, &log, "third").await?;
    let mut missed = told(&log, 8).await?.split_off(6);
    missed.sort();
    let expected = [
        "delete Secret keys: deleted while nobody looked",
        "update MutatingWebhookConfiguration before: changed while nobody looked",
    ];
    assert_eq!(missed, expected);
    third.stop().await;
    assert_eq!(log.newest_first().len(), 8, "and each once");
    Ok(())
}

//! A replica's registrar with all that it works with, and what it records.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cluster::Cluster;
use domain::clock::{Clock, Entropy};
use domain::finding::Finding;
use domain::redact::RedactionKey;
use domain::{EntryId, RedactedEntry};
use operator::certificates::{Keeper, Names, Source};
use operator::registration::{Ledger, Parts, Registrar, Settings, Status};
use operator::{Metrics, Safe};
use store::{EntryWriter, Late, Outcomes, StoreError};
use testkit::control_plane::ControlPlane;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Stands still, at a time that the API server takes for now.
pub(crate) struct Standing(DateTime<Utc>);

impl Standing {
    pub(crate) fn at_start_of(control_plane: &ControlPlane) -> anyhow::Result<Self> {
        Ok(Self(std::fs::metadata(control_plane.audit_log())?.modified()?.into()))
    }
}

impl Clock for Standing {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

/// No two replicas draw the same.
pub(crate) struct Counting;

impl Entropy for Counting {
    fn bits(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// What was recorded: user, action, name and summary of each.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl EntryWriter for Book {
    async fn write(&self, batch: &[RedactedEntry]) -> Result<(), StoreError> {
        let told = batch.iter().map(|entry| {
            let summary = entry.detail.read().map(|detail| detail.summary).unwrap_or_default();
            format!("{} {} {}: {summary}", entry.action, entry.resource, entry.resource_name)
        });
        if let Ok(mut all) = self.0.lock() {
            all.extend(told);
        }
        Ok(())
    }

    async fn reject(&self, _: &[EntryId], _: u16) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Nothing that a replica does tells of outcomes.
#[async_trait]
impl Outcomes for Book {
    async fn settle(&self, _: &[Finding]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn join(&self, _: &[RedactedEntry]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn join_late(&self, _: DateTime<Utc>) -> Result<Late, StoreError> {
        Ok(Late::default())
    }

    async fn unconfirmed(&self, _: EntryId, _: EntryId) -> Result<u64, StoreError> {
        Ok(0)
    }
}

impl Book {
    fn take(&self) -> Vec<String> {
        self.0.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default()
    }
}

pub(crate) struct Replica {
    pub(crate) registrar: Registrar,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) certificate: watch::Receiver<operator::certificates::Status>,
    pub(crate) tls: Arc<listener::Tls>,
    /// Lives as long as the replica does, so that the settings could change.
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    book: Book,
    batcher: pipeline::Batcher,
}

/// Replicas share a key and, where they share a safe, certificates.
pub(crate) async fn replica(
    control_plane: &ControlPlane,
    cluster: &Cluster,
    safe: &Safe,
    settings: Settings,
    settle: Duration,
) -> anyhow::Result<Replica> {
    let clock: Arc<dyn Clock> = Arc::new(Standing::at_start_of(control_plane)?);
    let entropy: Arc<dyn Entropy> = Arc::new(Counting);
    let names = Names::of(settings.webhook_url.as_ref(), &settings.service, &settings.namespace)?;
    let keeper = Keeper::start(Source::SelfMade(safe.clone()), names, settle, clock.now()).await?;
    let book = Book::default();
    let writer = Arc::new(book.clone());
    let (recorder, batcher) = pipeline::pipeline(pipeline::Settings::default(), writer, clock.clone(), entropy.clone());
    let seal = RedactionKey::new([7; 32]).seal_key();
    let ledger = Ledger { recorder, clock, entropy, cluster: "local".to_owned(), seal };
    let settings = watch::Sender::new(Arc::new(settings));
    let (tls, certificate, seen) = (keeper.tls(), keeper.status(), settings.subscribe());
    let metrics = Metrics::default();
    let (registrar, status) =
        Registrar::new(Parts { cluster: cluster.clone(), settings: seen, keeper, ledger, metrics });
    Ok(Replica { registrar, status, certificate, tls, settings, book, batcher })
}

impl Replica {
    /// All that it has recorded; it records nothing more.
    pub(crate) async fn recorded(self) -> Vec<String> {
        let stop = CancellationToken::new();
        stop.cancel();
        let flushed = self.batcher.run(stop).await.is_ok();
        let recorded = self.book.take();
        if flushed { recorded } else { Vec::new() }
    }
}

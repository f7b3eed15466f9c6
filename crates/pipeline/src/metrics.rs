//! What an operator sees of the pipeline. Every label is of a closed set.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::Loss;
use crate::queue::BATCH_ENTRIES_MAX;

/// Shared with the pipeline that counts: a clone registers the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    accepted: Counter,
    stored: Counter,
    joined: Counter,
    rejected: Counter,
    lost: Family<LostLabels, Counter>,
    queue_entries: Gauge,
    queue_bytes: Gauge,
    batch_entries: Histogram,
    write_seconds: Histogram,
    retries: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LostLabels {
    reason: Loss,
}

impl EncodeLabelValue for Loss {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            accepted: Counter::default(),
            stored: Counter::default(),
            joined: Counter::default(),
            rejected: Counter::default(),
            lost: Family::default(),
            queue_entries: Gauge::default(),
            queue_bytes: Gauge::default(),
            batch_entries: Histogram::new([1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, BATCH_ENTRIES_MAX as f64]),
            write_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            retries: Counter::default(),
        };
        // A loss that never happened is a zero, not an absence: an alert on its rate works from the start.
        for reason in Loss::ALL {
            drop(metrics.lost.get_or_create(&LostLabels { reason }));
        }
        metrics
    }
}

impl Metrics {
    /// Under the registry's own prefix: `…_pipeline_accepted_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("pipeline");
        registry.register("accepted", "Entries taken into the queue", self.accepted.clone());
        registry.register("stored", "Entries that the database has confirmed", self.stored.clone());
        let joined = self.joined.clone();
        registry.register("joined", "Outcomes, as audit events told them, that the database has confirmed", joined);
        registry.register("rejected", "Entries stored after their writes had been refused", self.rejected.clone());
        registry.register("lost", "Entries that are not stored, by why", self.lost.clone());
        registry.register("queue_entries", "Entries that wait to be written", self.queue_entries.clone());
        registry.register(
            "queue_bytes",
            "What the entries weigh that wait or are being written",
            self.queue_bytes.clone(),
        );
        registry.register("batch_entries", "Entries written together", self.batch_entries.clone());
        registry.register("write_seconds", "How long one try to write takes", self.write_seconds.clone());
        registry.register("retries", "Tries to write that failed and were repeated", self.retries.clone());
    }

    pub(crate) fn accepted(&self, entries: usize, depth: usize, bytes: usize) {
        self.accepted.inc_by(entries as u64);
        self.queue(depth, bytes);
    }

    pub(crate) fn queue(&self, depth: usize, bytes: usize) {
        self.queue_entries.set(i64::try_from(depth).unwrap_or(i64::MAX));
        self.queue_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn lost(&self, reason: Loss, entries: u64) {
        self.lost.get_or_create(&LostLabels { reason }).inc_by(entries);
    }

    pub(crate) fn stored(&self, entries: usize) {
        self.stored.inc_by(entries as u64);
    }

    pub(crate) fn joined(&self, entries: usize) {
        self.joined.inc_by(entries as u64);
    }

    pub(crate) fn rejected(&self, entries: usize) {
        self.rejected.inc_by(entries as u64);
    }

    pub(crate) fn batch(&self, entries: usize) {
        self.batch_entries.observe(entries as f64);
    }

    pub(crate) fn wrote(&self, took: Duration) {
        self.write_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }
}

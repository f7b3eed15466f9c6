//! What an operator sees of the purge. Every label is of a closed set.

use std::fmt;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    Finished,
    /// The program stopped, or another took over.
    Interrupted,
    Failed,
}

impl Ended {
    const ALL: [Self; 3] = [Self::Finished, Self::Interrupted, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl EncodeLabelValue for Ended {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    result: Ended,
}

/// Shared with the job that counts: a clone registers the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    runs: Family<RunLabels, Counter>,
    entries: Counter,
    last_success: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self { runs: Family::default(), entries: Counter::default(), last_success: Gauge::default() };
        // A failure that never happened is a zero, not an absence: an alert on its rate works from the start.
        for result in Ended::ALL {
            drop(metrics.runs.get_or_create(&RunLabels { result }));
        }
        metrics
    }
}

impl Metrics {
    /// Under the registry's own prefix: `…_purge_runs_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("purge");
        registry.register("runs", "Purges that this process ran, by how they ended", self.runs.clone());
        registry.register("entries", "Entries that this process purged", self.entries.clone());
        let last = "When the last purge that finished, of whichever process, was begun; 0 where none has";
        registry.register_with_unit("last_success_timestamp", last, Unit::Seconds, self.last_success.clone());
    }

    pub(crate) fn ran(&self, result: Ended) {
        self.runs.get_or_create(&RunLabels { result }).inc();
    }

    pub(crate) fn purged(&self, entries: u64) {
        self.entries.inc_by(entries);
    }

    pub(crate) fn last_success(&self, at: DateTime<Utc>) {
        self.last_success.set(at.timestamp());
    }
}

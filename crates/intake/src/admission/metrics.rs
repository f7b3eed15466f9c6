//! What an operator sees of the webhook. Every label is of a closed set.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    Recorded,
    /// Answered before the entry was durable, though that was asked for. It is queued.
    RecordedLate,
    /// The same review had been answered already.
    Repeated,
    DryRun,
    Unchanged,
    /// The policies in force want nothing of it.
    Unwanted,
    /// The write was refused, since its entry did not become durable.
    Denied,
    Lost,
    Refused,
    Panicked,
}

impl Ended {
    const ALL: [Self; 10] = [
        Self::Recorded,
        Self::RecordedLate,
        Self::Repeated,
        Self::DryRun,
        Self::Unchanged,
        Self::Unwanted,
        Self::Denied,
        Self::Lost,
        Self::Refused,
        Self::Panicked,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::RecordedLate => "recorded_late",
            Self::Repeated => "repeated",
            Self::DryRun => "dry_run",
            Self::Unchanged => "unchanged",
            Self::Unwanted => "unwanted",
            Self::Denied => "denied",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Panicked => "panicked",
        }
    }
}

impl EncodeLabelValue for Ended {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.as_str().encode(encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    result: Ended,
}

/// Shared with the handler that counts: a clone registers the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: Family<ReviewLabels, Counter>,
    seconds: Histogram,
    expressions_failed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let reviews = Family::<ReviewLabels, Counter>::default();
        // What never happened is a zero, not an absence: an alert on its rate works from the start.
        for result in Ended::ALL {
            drop(reviews.get_or_create(&ReviewLabels { result }));
        }
        let seconds = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        Self { reviews, seconds, expressions_failed: Counter::default() }
    }
}

impl Metrics {
    /// Under the registry's own prefix: `…_admission_reviews_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("admission");
        registry.register("reviews", "Admission reviews, by how they ended", self.reviews.clone());
        registry.register("review_seconds", "From a review's arrival to its answer", self.seconds.clone());
        let failed = self.expressions_failed.clone();
        registry.register("expressions_failed", "Expressions of policies that failed for a request", failed);
    }

    pub(super) fn expressions_failed(&self, failed: u32) {
        self.expressions_failed.inc_by(failed.into());
    }

    pub(super) fn ended(&self, result: Ended, took: Duration) {
        self.reviews.get_or_create(&ReviewLabels { result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

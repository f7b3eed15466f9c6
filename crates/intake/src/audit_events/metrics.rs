//! What an operator sees of audit events. Every label is of a closed set.

use std::fmt;

use domain::event::Came;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Shared with whoever counts: a clone registers the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    events: Family<EventLabels, Counter>,
    posts: Family<PostLabels, Counter>,
    lines_skipped: Family<SkippedLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word(Came);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    result: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PostLabels {
    result: Posted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkippedLabels {
    reason: Skipped,
}

/// What a post to `/audit-events` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Posted {
    Taken,
    /// Told to come again: there is no room at the moment.
    Busy,
    /// By whom nobody knows.
    Unauthorized,
    Malformed,
    TooLarge,
}

/// Why a line of the log file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Skipped {
    Malformed,
    TooLong,
    /// And so on, with its file.
    Gone,
}

impl Posted {
    const ALL: [Self; 5] = [Self::Taken, Self::Busy, Self::Unauthorized, Self::Malformed, Self::TooLarge];
}

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Posted {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let word = match self {
            Self::Taken => "taken",
            Self::Busy => "busy",
            Self::Unauthorized => "unauthorized",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
        };
        word.encode(encoder)
    }
}

impl EncodeLabelValue for Skipped {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Gone => "gone",
        }
        .encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self { events: Family::default(), posts: Family::default(), lines_skipped: Family::default() };
        // What never happened is a zero, not an absence: an alert on its rate works from the start.
        for came in Came::ALL {
            drop(metrics.events.get_or_create(&EventLabels { result: Word(came) }));
        }
        for result in Posted::ALL {
            drop(metrics.posts.get_or_create(&PostLabels { result }));
        }
        for reason in [Skipped::Malformed, Skipped::TooLong, Skipped::Gone] {
            drop(metrics.lines_skipped.get_or_create(&SkippedLabels { reason }));
        }
        metrics
    }
}

impl Metrics {
    /// Under the registry's own prefix: `…_audit_events_told_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("audit_events");
        registry.register("told", "Audit events, by what came of them", self.events.clone());
        registry.register("posts", "Posts of audit events, by what they came to", self.posts.clone());
        let skipped = self.lines_skipped.clone();
        registry.register(
            "lines_skipped",
            "Lines of the audit log that are no events, and files of it that went unread",
            skipped,
        );
    }

    pub(super) fn told(&self, came: &[Came]) {
        for came in came {
            self.events.get_or_create(&EventLabels { result: Word(*came) }).inc();
        }
    }

    pub(super) fn posted(&self, result: Posted) {
        self.posts.get_or_create(&PostLabels { result }).inc();
    }

    pub(super) fn skipped(&self, reason: Skipped) {
        self.lines_skipped.get_or_create(&SkippedLabels { reason }).inc();
    }
}

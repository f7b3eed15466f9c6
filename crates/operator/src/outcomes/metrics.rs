//! What an operator sees of what came of writes. Every label is of a closed set.

use domain::finding::Finding;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::probing::Ended;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabels {
    outcome: &'static str,
    evidence: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookLabels {
    result: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnseenLabels {
    recorded: &'static str,
}

/// Shared with the task that counts: a clone registers the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    findings: Family<FindingLabels, Counter>,
    looks: Family<LookLabels, Counter>,
    unseen: Family<UnseenLabels, Counter>,
    unconfirmed: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            findings: Family::default(),
            looks: Family::default(),
            unseen: Family::default(),
            unconfirmed: Gauge::default(),
        };
        // What never happened is a zero, not an absence: an alert on its rate works from the start.
        for (outcome, evidence) in
            [("confirmed", "successor"), ("confirmed", "probe"), ("rejected", "successor"), ("rejected", "probe")]
        {
            drop(metrics.findings.get_or_create(&FindingLabels { outcome, evidence }));
        }
        for recorded in ["yes", "no"] {
            drop(metrics.unseen.get_or_create(&UnseenLabels { recorded }));
        }
        for ended in [Ended::Object, Ended::Gone, Ended::Refused, Ended::Later] {
            drop(metrics.looks.get_or_create(&LookLabels { result: ended.as_str() }));
        }
        metrics
    }
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Later => "unanswered",
        }
    }
}

impl Metrics {
    /// Under the registry's own prefix.
    pub fn register(&self, registry: &mut Registry) {
        let findings = "Outcomes that this process inferred, by outcome and evidence";
        registry.register("outcomes_inferred", findings, self.findings.clone());
        let looks = "Looks of this process at objects whose last write nothing has followed, by how they ended";
        registry.register("outcome_probes", looks, self.looks.clone());
        let unseen = "Writes that no webhook was shown and later ones gave away; recorded as entries where that is sure and the \
                      policies in force would have recorded them";
        registry.register("unseen_writes", unseen, self.unseen.clone());
        let unconfirmed =
            "Entries older than two minutes and younger than an hour of which it is not known what came of them";
        registry.register("unconfirmed_entries", unconfirmed, self.unconfirmed.clone());
    }

    pub(super) fn settled(&self, findings: &[Finding]) {
        for finding in findings {
            let labels = FindingLabels { outcome: finding.outcome.as_str(), evidence: finding.evidence.as_str() };
            self.findings.get_or_create(&labels).inc();
        }
    }

    pub(super) fn probed(&self, ended: Ended) {
        self.looks.get_or_create(&LookLabels { result: ended.as_str() }).inc();
    }

    pub(super) fn unseen(&self, recorded: usize, counted: usize) {
        for (recorded, many) in [("yes", recorded), ("no", counted)] {
            self.unseen.get_or_create(&UnseenLabels { recorded }).inc_by(many as u64);
        }
    }

    pub(super) fn unconfirmed(&self, entries: u64) {
        self.unconfirmed.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

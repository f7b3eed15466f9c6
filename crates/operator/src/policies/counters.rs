//! What the policies' entries add up to, for their status: counted by one of several replicas, which holds a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use cluster::{Cluster, ClusterError};
use domain::clock::Clock;
use domain::text::with_causes;
use domain::{EntryId, Source};
use serde_json::{Value, json};
use store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Kept;

/// Between two counts where one is done in a moment, and between two words to the others that this process still counts.
const PERIOD: Duration = Duration::from_secs(20);
/// 24 hours of entries are walked for a count: it may have this part of the database's time.
const SHARE: u32 = 20;
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);
const LEASE: &str = "status";
const LEASE_FOR: Duration = Duration::from_secs(60);

const _: () = assert!(2 * PERIOD.as_secs() < LEASE_FOR.as_secs());

/// The counters' keeper.
pub struct Counters {
    pub cluster: Cluster,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    /// A name that no other process has.
    pub holder: String,
    /// Names all policies that have entries to keep.
    pub policies: watch::Receiver<Kept>,
}

#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl Counters {
    /// Counts until `stop`. To be run once the schema is there.
    pub async fn run(self, stop: CancellationToken) {
        // What was written last; a status that says the same is not written again.
        let mut told = BTreeMap::new();
        let mut silent = false;
        let mut due = Instant::now();
        loop {
            let start = Instant::now();
            let counted = tokio::select! {
                () = stop.cancelled() => return,
                counted = self.count(&mut told, due <= start) => counted,
            };
            match counted {
                Ok(true) => (silent, due) = (false, Instant::now() + pause(start.elapsed())),
                Ok(false) => silent = false,
                Err(error) if silent => debug!(error = with_causes(&error), "the policies' entries were not counted"),
                Err(error) => {
                    warn!(error = with_causes(&error), "the policies' entries were not counted; trying again");
                    silent = true;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(PERIOD) => {}
            }
        }
    }

    /// Whether it was counted: by the process that holds the lease, where it is due.
    async fn count(&self, told: &mut BTreeMap<String, Value>, due: bool) -> Result<bool, CountError> {
        let Kept::Days(policies) = self.policies.borrow().clone() else { return Ok(false) };
        if policies.is_empty() || !self.hold().await? {
            told.clear();
            return Ok(false);
        }
        if !due {
            return Ok(false);
        }
        let since = EntryId::not_before(self.clock.now() - TimeDelta::hours(24));
        let counts = tokio::select! {
            counts = self.store.policy_counts(since) => counts?,
            lost = self.hold_on() => return lost.map(|()| false),
        };
        let purge = self.store.last_purge().await?;
        for name in policies.keys() {
            let count = counts.iter().find(|count| count.policy == *name);
            let mut status = json!({ "matched24h": count.map_or(0, |count| count.entries) });
            if let Some(count) = count {
                status["lastFlushTime"] = seconds(count.newest.timestamp());
                status["sources"] = sources(&count.heard);
            }
            if let Some(purge) = &purge {
                status["lastPurgeTime"] = seconds(purge.at);
                status["lastPurged"] = json!(purge.by_policy.get(name).copied().unwrap_or(0));
            }
            if told.get(name) != Some(&status) {
                match self.cluster.apply_policy_status(name, "counters", &status).await {
                    // Deleted meanwhile.
                    Err(error) if error.is_not_found() => continue,
                    written => written?,
                }
                told.insert(name.clone(), status);
            }
        }
        let known: BTreeSet<_> = policies.keys().collect();
        told.retain(|name, _| known.contains(name));
        Ok(true)
    }

    async fn hold(&self) -> Result<bool, StoreError> {
        Ok(self.store.hold(LEASE, &self.holder, LEASE_FOR).await?.is_some())
    }

    /// Comes back when another process counts: this one's count took longer than its lease, and the word that it still
    /// counts did not arrive.
    async fn hold_on(&self) -> Result<(), CountError> {
        loop {
            sleep(PERIOD).await;
            if !self.hold().await? {
                return Ok(());
            }
        }
    }
}

/// After a count that took so long.
fn pause(took: Duration) -> Duration {
    took.saturating_mul(SHARE).clamp(PERIOD, PAUSE_MAX)
}

fn sources(heard: &[(Source, EntryId)]) -> Value {
    heard.iter().map(|(source, id)| json!({"name": source.as_str(), "lastTime": seconds(id.timestamp())})).collect()
}

fn seconds(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_to_count_is_counted_less_often() {
        let seconds = |took: f64| pause(Duration::from_secs_f64(took)).as_secs();
        assert_eq!([0.0, 0.5, 2.0, 30.0, 600.0].map(seconds), [20, 20, 40, 600, 600]);
        assert_eq!(pause(Duration::MAX), PAUSE_MAX);
    }
}

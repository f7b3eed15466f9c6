//! What the policies' entries add up to, for their status: counted by one of several replicas, which holds a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use cluster::{Cluster, ClusterError};
use domain::EntryId;
use domain::clock::Clock;
use domain::text::with_causes;
use serde_json::{Value, json};
use store::{Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Between two counts: 24 hours of entries are walked for one.
const PERIOD: Duration = Duration::from_secs(20);
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
    /// Of all policies: whose entries are kept for how many days.
    pub policies: watch::Receiver<Option<Arc<BTreeMap<String, u32>>>>,
}

#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl Counters {
    /// Counts until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // What was written last; a status that says the same is not written again.
        let mut told = BTreeMap::new();
        let mut silent = false;
        loop {
            match self.count(&mut told).await {
                Ok(()) => silent = false,
                Err(error) if silent => debug!(error = with_causes(&error), "the policies' entries were not counted"),
                Err(error) => {
                    warn!(error = with_causes(&error), "the policies' entries were not counted; trying again");
                    silent = true;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn count(&self, told: &mut BTreeMap<String, Value>) -> Result<(), CountError> {
        let Some(policies) = self.policies.borrow().clone() else { return Ok(()) };
        if policies.is_empty() || self.store.hold(LEASE, &self.holder, LEASE_FOR).await?.is_none() {
            told.clear();
            return Ok(());
        }
        let since = EntryId::not_before(self.clock.now() - TimeDelta::hours(24));
        let counts = self.store.policy_counts(since).await?;
        let purge = self.store.last_purge().await?;
        for name in policies.keys() {
            let count = counts.iter().find(|count| count.policy == *name);
            let mut status = json!({ "matched24h": count.map_or(0, |count| count.entries) });
            if let Some(count) = count {
                status["lastFlushTime"] = seconds(count.newest.timestamp());
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
        Ok(())
    }
}

fn seconds(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

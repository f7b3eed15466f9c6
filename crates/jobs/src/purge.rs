//! The nightly purge: entries that have outlived their retention go, and that they went is an entry.
//!
//! A night that was missed, because nothing ran or the database was away, is caught up as soon as it is noticed: what is
//! due is decided from the time of the last purge, which is kept in the database. Of several processes the one that holds
//! the lease purges; where it dies, another finishes once its lease has ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveTime, Utc};
use domain::clock::{Clock, Entropy};
use domain::retention::{Cutoffs, Retentions, last_due};
use domain::system::{self, Outlived};
use domain::{EntryId, RedactedEntry};
use store::{Fence, Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Metrics;
use crate::metrics::Ended;
use crate::steady::Steady;

/// How often is asked whether a purge is due; it is never later than this, but for a lease that has to end first.
const PERIOD: Duration = Duration::from_secs(20);
/// Between two portions, so that a long purge leaves the database to its writers.
const BREATH: Duration = Duration::from_millis(20);

const LEASE: &str = "purge";
/// How long the others wait for a process that died.
const LEASE_FOR: Duration = Duration::from_secs(30);
/// A write of its own, so not after every portion.
const RENEW_AFTER: Duration = Duration::from_secs(10);

const _: () = assert!(2 * RENEW_AFTER.as_secs() < LEASE_FOR.as_secs());

#[derive(Clone, Debug)]
pub struct PurgeSettings {
    pub retentions: watch::Receiver<Arc<Retentions>>,
    /// The time of day, in UTC.
    pub at: NaiveTime,
    /// A name that no other process has, nor this one's next run.
    pub holder: String,
}

pub struct Purge {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub settings: PurgeSettings,
    pub metrics: Metrics,
}

#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error("the purge stopped after {entries} entries; the rest goes with the next one")]
    Interrupted { entries: u64 },
    #[error("another process took the purge over after {entries} entries; the rest is its work")]
    Overtaken { entries: u64 },
    #[error("another process is purging this database right now")]
    Elsewhere,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a purge did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub cutoffs: Cutoffs,
    pub by_policy: BTreeMap<String, u64>,
    /// Days that went as whole partitions.
    pub days: u32,
}

impl Purged {
    pub fn entries(&self) -> u64 {
        self.by_policy.values().sum()
    }

    /// Entries before this went, but for policies that say otherwise. None where everything is kept for ever.
    pub fn before(&self) -> Option<DateTime<Utc>> {
        self.cutoffs.default.or(self.cutoffs.latest()).map(EntryId::timestamp)
    }
}

impl Purge {
    /// Purges each night, and at once where one was missed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut steady = Steady::new(self.clock.now(), Instant::now());
        loop {
            let trusted = steady.look(self.clock.now(), Instant::now());
            match self.due().await {
                Ok(false) => {}
                Ok(true) if !trusted => debug!("a purge is due by a clock that has jumped; waiting"),
                Ok(true) => match self.nightly(&stop).await {
                    Ok(Some(purged)) => info!(entries = purged.entries(), days = purged.days, "purged"),
                    Ok(None) => debug!("another process sees to the purge"),
                    Err(error) => warn!(error = &error as &dyn std::error::Error, "purge not finished"),
                },
                Err(error) => warn!(error = &error as &dyn std::error::Error, "could not tell whether a purge is due"),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// Purges, whether it is due or not, and records that.
    ///
    /// # Errors
    /// Where another process purges; where the store fails, or the program stops: what went is gone, the rest goes with
    /// the next purge.
    pub async fn now(&self, trigger: &'static str, stop: &CancellationToken) -> Result<Purged, PurgeError> {
        if self.settings.retentions.borrow().keep_everything() {
            return Ok(Purged::default());
        }
        let fence = self.hold().await?.ok_or(PurgeError::Elsewhere)?;
        let done = self.fenced(trigger, &fence, stop).await;
        self.release(&fence).await;
        done
    }

    /// None where it is another's work, or has been.
    async fn nightly(&self, stop: &CancellationToken) -> Result<Option<Purged>, PurgeError> {
        let Some(fence) = self.hold().await? else { return Ok(None) };
        // Another may have finished after it was asked whether a purge is due, and before the lease was had.
        let done = match self.due().await {
            Ok(true) => self.fenced("nightly", &fence, stop).await.map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error.into()),
        };
        self.release(&fence).await;
        done
    }

    async fn hold(&self) -> Result<Option<Fence>, StoreError> {
        self.store.hold(LEASE, &self.settings.holder, LEASE_FOR).await
    }

    /// Where this fails, the lease ends by itself.
    async fn release(&self, fence: &Fence) {
        if let Err(error) = self.store.release(fence).await {
            debug!(error = &error as &dyn std::error::Error, "could not release the lease of the purge");
        }
    }

    async fn fenced(
        &self,
        trigger: &'static str,
        fence: &Fence,
        stop: &CancellationToken,
    ) -> Result<Purged, PurgeError> {
        let started = self.clock.now();
        let cutoffs = self.settings.retentions.borrow().cutoffs(started);
        let mut gone = Purged { cutoffs, ..Purged::default() };
        let ended = match self.portions(&mut gone, fence, stop).await {
            Ok(()) => self.finish(&gone, trigger, fence, started).await,
            Err(error) => {
                self.interrupted(&gone, trigger, fence, &error).await;
                Err(error)
            }
        };
        let ended = ended.map_err(|error| match error {
            PurgeError::Store(StoreError::Fenced { .. }) => PurgeError::Overtaken { entries: gone.entries() },
            error => error,
        });
        self.metrics.ran(match &ended {
            Ok(()) => Ended::Finished,
            Err(PurgeError::Interrupted { .. } | PurgeError::Overtaken { .. } | PurgeError::Elsewhere) => {
                Ended::Interrupted
            }
            Err(PurgeError::Store(_)) => Ended::Failed,
        });
        ended.map(|()| gone)
    }

    async fn portions(&self, gone: &mut Purged, fence: &Fence, stop: &CancellationToken) -> Result<(), PurgeError> {
        // Beside the portions, since one may wait for long: a day is taken away only when its readers are through. Where
        // the lease is lost, what is under way ends by itself, at the fence.
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW_AFTER).await;
                if let Err(error) = self.hold().await {
                    debug!(error = &error as &dyn std::error::Error, "could not renew the lease of the purge");
                }
            }
        };
        let mut renewing = pin!(renewing);
        loop {
            let portion = tokio::select! {
                biased;
                portion = self.store.purge_some(&gone.cutoffs, fence) => portion?,
                () = &mut renewing => continue,
            };
            self.metrics.purged(portion.entries());
            for (policy, entries) in portion.by_policy {
                *gone.by_policy.entry(policy).or_default() += entries;
            }
            gone.days += portion.days;
            if portion.done {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Err(PurgeError::Interrupted { entries: gone.entries() }),
                () = tokio::time::sleep(BREATH) => {}
            }
        }
    }

    /// Of a log that has never been purged and had nothing to purge, nothing is told.
    async fn finish(
        &self,
        gone: &Purged,
        trigger: &'static str,
        fence: &Fence,
        started: DateTime<Utc>,
    ) -> Result<(), PurgeError> {
        let is_told = gone.entries() > 0 || self.store.last_purge().await?.is_some();
        let record = is_told.then(|| self.record(gone, trigger, true));
        if !self.settings.retentions.borrow().complete {
            // The night's purge stays due: of what policies recorded, this one knew nothing.
            if let Some(record) = record {
                self.store.interrupt_purge(fence, &record).await?;
            }
            return Ok(());
        }
        self.store.finish_purge(fence, started, &gone.by_policy, record.as_ref()).await?;
        self.metrics.last_success(started);
        Ok(())
    }

    /// What went is told however it ended, but by who was overtaken: that one may not write any more.
    async fn interrupted(&self, gone: &Purged, trigger: &'static str, fence: &Fence, error: &PurgeError) {
        let overtaken = matches!(error, PurgeError::Overtaken { .. } | PurgeError::Store(StoreError::Fenced { .. }));
        if gone.entries() == 0 || overtaken {
            return;
        }
        if let Err(error) = self.store.interrupt_purge(fence, &self.record(gone, trigger, false)).await {
            warn!(error = &error as &dyn std::error::Error, entries = gone.entries(), "a purge is not recorded");
        }
    }

    /// What a purge would remove now.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn preview(&self) -> Result<Purged, StoreError> {
        let cutoffs = self.settings.retentions.borrow().cutoffs(self.clock.now());
        let by_policy = self.store.count_outlived(&cutoffs).await?;
        Ok(Purged { cutoffs, by_policy, days: 0 })
    }

    async fn due(&self) -> Result<bool, StoreError> {
        {
            let retentions = self.settings.retentions.borrow();
            if retentions.keep_everything() || !retentions.complete {
                return Ok(false);
            }
        }
        let due = last_due(self.settings.at, self.clock.now());
        let Some(last) = self.store.last_purge().await? else { return Ok(true) };
        // Also of a purge that another process has done.
        self.metrics.last_success(last.at);
        Ok(last.at < due)
    }

    fn record(&self, gone: &Purged, trigger: &'static str, finished: bool) -> RedactedEntry {
        let outlived = |(policy, entries): (&String, &u64)| {
            let before = gone.cutoffs.of(policy)?.timestamp();
            Some((policy.clone(), Outlived { before, entries: *entries }))
        };
        let by_policy = gone.by_policy.iter().filter_map(outlived).collect();
        let purge = system::Purge { before: gone.before(), by_policy, days: gone.days, trigger, finished };
        system::purge(EntryId::at(self.clock.now(), self.entropy.bits()), &purge)
    }
}

#[cfg(test)]
mod tests;

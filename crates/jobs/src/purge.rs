//! The nightly purge: entries that have outlived their retention go, and that they went is an entry.
//!
//! A night that was missed, because nothing ran or the database was away, is caught up as soon as it is noticed: what is
//! due is decided from the time of the last purge, which is kept in the database.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveTime, Utc};
use domain::clock::{Clock, Entropy};
use domain::retention::{Retention, last_due};
use domain::{EntryId, system};
use store::{Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::steady::Steady;

/// How often is asked whether a purge is due; it is never later than this.
const PERIOD: Duration = Duration::from_secs(20);
/// Between two portions, so that a long purge leaves the database to its writers.
const BREATH: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
pub struct PurgeSettings {
    pub retention: Retention,
    /// The time of day, in UTC.
    pub at: NaiveTime,
}

pub struct Purge {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub settings: PurgeSettings,
}

#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error("the purge stopped after {entries} entries; the rest goes with the next one")]
    Interrupted { entries: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a purge did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// None where everything is kept for ever.
    pub before: Option<DateTime<Utc>>,
    pub entries: u64,
    /// Days that went as whole partitions.
    pub days: u32,
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
                Ok(true) => match self.now("nightly", &stop).await {
                    Ok(purged) => info!(entries = purged.entries, days = purged.days, "purged"),
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

    /// Purges, and records that.
    ///
    /// # Errors
    /// Where the store fails, or the program stops: what went is gone, the rest goes with the next purge.
    pub async fn now(&self, trigger: &'static str, stop: &CancellationToken) -> Result<Purged, PurgeError> {
        let started = self.clock.now();
        let Some(cutoff) = self.settings.retention.cutoff(started) else {
            return Ok(Purged { before: None, entries: 0, days: 0 });
        };
        let mut gone = Purged { before: Some(cutoff.timestamp()), entries: 0, days: 0 };
        let ended = self.portions(cutoff, &mut gone, stop).await;
        // What went is told however it ended. Of a log that has never been purged and had nothing to purge, nothing is.
        if gone.entries > 0 || (ended.is_ok() && self.store.last_purge().await?.is_some()) {
            self.record(cutoff, gone, trigger, ended.is_ok()).await?;
        }
        ended?;
        self.store.set_last_purge(started).await?;
        Ok(gone)
    }

    async fn portions(&self, cutoff: EntryId, gone: &mut Purged, stop: &CancellationToken) -> Result<(), PurgeError> {
        loop {
            let portion = self.store.purge_some(cutoff).await?;
            gone.entries += portion.entries;
            gone.days += portion.days;
            if portion.done {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Err(PurgeError::Interrupted { entries: gone.entries }),
                () = tokio::time::sleep(BREATH) => {}
            }
        }
    }

    /// What a purge would remove now.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn preview(&self) -> Result<Purged, StoreError> {
        match self.settings.retention.cutoff(self.clock.now()) {
            None => Ok(Purged { before: None, entries: 0, days: 0 }),
            Some(cutoff) => {
                let entries = self.store.count_before(cutoff).await?;
                Ok(Purged { before: Some(cutoff.timestamp()), entries, days: 0 })
            }
        }
    }

    async fn due(&self) -> Result<bool, StoreError> {
        if self.settings.retention == Retention::Forever {
            return Ok(false);
        }
        let due = last_due(self.settings.at, self.clock.now());
        Ok(self.store.last_purge().await?.is_none_or(|last| last < due))
    }

    async fn record(
        &self,
        cutoff: EntryId,
        gone: Purged,
        trigger: &'static str,
        finished: bool,
    ) -> Result<(), StoreError> {
        let id = EntryId::at(self.clock.now(), self.entropy.bits());
        let Purged { entries, days, .. } = gone;
        let purge = system::Purge { before: cutoff.timestamp(), entries, days, trigger, finished };
        self.store.write(&[system::purge(id, &purge)]).await
    }
}

#[cfg(test)]
mod tests;

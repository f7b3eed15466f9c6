//! The end of the pipeline that entries go into.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::queue::{QUEUE_BYTES_MAX, Settled, Shared};
use crate::{Loss, Metrics};

/// Records entries. Cheap to clone; all clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

/// The entry is not in the queue. It has been counted as lost, and a gap will tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    #[error("the queue of {QUEUE_BYTES_MAX} bytes has no room for this entry")]
    QueueFull,
    #[error("the pipeline has stopped")]
    Stopped,
}

/// The entry is not known to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    #[error(transparent)]
    NotAccepted(#[from] NotAccepted),
    /// It stays in the queue and will be stored.
    #[error("the entry was not stored within {} ms; it stays queued", within.as_millis())]
    NotYet { within: Duration },
    #[error("the database refused the entry")]
    Refused,
    #[error("the pipeline ended before the entry was stored")]
    Ended,
}

impl Recorder {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Never waits. `Ok` means that the entry will be stored as soon as the store takes it.
    ///
    /// # Errors
    /// Where there is no room; the loss is noted already.
    pub fn record(&self, entry: RedactedEntry) -> Result<(), NotAccepted> {
        self.shared.push(entry, None)
    }

    /// `Ok` means that the entry is stored. Has it written at once, together with all that waits.
    ///
    /// # Errors
    /// Where it is not stored within that time. But for [`NotDurable::NotAccepted`] and [`NotDurable::Refused`] it may
    /// be stored all the same, sooner or later.
    pub async fn record_durably(&self, entry: RedactedEntry, within: Duration) -> Result<(), NotDurable> {
        let (done, settled) = oneshot::channel();
        self.shared.push(entry, Some(done))?;
        match timeout(within, settled).await {
            Ok(Ok(Settled::Stored)) => Ok(()),
            Ok(Ok(Settled::Refused)) => Err(NotDurable::Refused),
            Ok(Err(_)) => Err(NotDurable::Ended),
            Err(_) => Err(NotDurable::NotYet { within }),
        }
    }

    /// Notes that something happened at that time of which there is no entry, and why.
    pub fn note_lost(&self, at: DateTime<Utc>, why: Loss) {
        self.shared.metrics.lost(why, 1);
        self.shared.lock().note(why, at);
        self.shared.changed.notify_one();
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

//! The end of the pipeline that entries go into.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::queue::{Progress, Settled, Shared, Waiter};
use crate::{Loss, Metrics};

/// HTTP's "service unavailable": what a write is refused with that could not be recorded.
pub const REFUSED_WITH: u16 = 503;

/// Records entries. Cheap to clone; all clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

/// The entry is not in the queue. It has been counted as lost, and a gap will tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    #[error("the queue has no room for it")]
    QueueFull,
    /// As a whole, or one of its entries; there never will be.
    #[error("no queue has room for it")]
    TooHeavy,
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
        self.durably(entry, within, false).await
    }

    /// As [`record_durably`](Self::record_durably), for a write that is refused with [`REFUSED_WITH`] where this is not
    /// `Ok`, or where nobody waits for the answer any more. An entry of such a write that is stored all the same is
    /// rejected then, so that the log says what came of it.
    ///
    /// # Errors
    /// Where it is not stored within that time. What is stored later is rejected, unless the program ends in between:
    /// then it stays unconfirmed.
    pub async fn record_or_refuse(&self, entry: RedactedEntry, within: Duration) -> Result<(), NotDurable> {
        self.durably(entry, within, true).await
    }

    async fn durably(&self, entry: RedactedEntry, within: Duration, refuses: bool) -> Result<(), NotDurable> {
        let (done, mut settled) = oneshot::channel();
        self.shared.push(entry, Some(Waiter { done, refuses }))?;
        let told = match timeout(within, &mut settled).await {
            Ok(told) => told.map_err(|_| NotDurable::Ended)?,
            Err(_) => {
                // Closed first: from here on the batcher knows that nobody waits. What it told before counts.
                settled.close();
                settled.try_recv().map_err(|_| NotDurable::NotYet { within })?
            }
        };
        match told {
            Settled::Stored => Ok(()),
            Settled::Refused => Err(NotDurable::Refused),
        }
    }

    /// What an audit event tells: entries to write, and outcomes to be joined with entries that others have made. All of it
    /// is taken, or nothing. Never waits.
    ///
    /// # Errors
    /// Where there is no room for all; nothing is lost then, since whoever has the event can tell it again, in smaller
    /// parts where it is [`NotAccepted::TooHeavy`].
    pub fn tell(&self, write: Vec<RedactedEntry>, join: Vec<RedactedEntry>) -> Result<(), NotAccepted> {
        self.shared.push_all(write, join)
    }

    /// Outcomes alone; see [`Self::tell`].
    ///
    /// # Errors
    /// As [`Self::tell`].
    pub fn join(&self, told: Vec<RedactedEntry>) -> Result<(), NotAccepted> {
        self.tell(Vec::new(), told)
    }

    /// Notes that something happened at that time of which there is no entry, and why.
    pub fn note_lost(&self, at: DateTime<Utc>, why: Loss) {
        self.shared.metrics.lost(why, 1);
        self.shared.lock().note(why, at);
        self.shared.changed.notify_one();
    }

    /// For who remembers by itself how far it has told, and must not forget what is not stored yet.
    pub fn progress(&self) -> Progress {
        self.shared.lock().progress()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

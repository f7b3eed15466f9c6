//! Takes entries from whoever saw a write and brings each of them into the store, once, whatever the store is up to.
//!
//! A [`Recorder`] puts entries into a queue that is bounded in bytes ([`queue`]); the [`Batcher`] takes what waits, writes
//! it as one batch and tries again until the store has it. Who needs an entry to be durable waits for the batch that holds
//! it, so concurrent requests share one commit. Who refuses a write for want of that has its entry rejected.
//! What audit events tell of entries goes the same way, and is joined with them after they are written. What cannot be kept is counted and becomes a `gap` entry ([`losses`]).
//!
//! This crate never looks into an entry, never logs one, and never blocks or slows whoever records without asking for
//! durability: where the queue is full it says so at once.

mod backoff;
mod batcher;
mod losses;
mod metrics;
mod queue;
mod recorder;

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Entropy};
use store::Book;

pub use batcher::{Batcher, Flushed, LostAtShutdown, SHUTDOWN_MAX, WRITE_MAX};
pub use losses::Loss;
pub use metrics::Metrics;
pub use queue::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_BYTES_MAX, Progress, QUEUE_BYTES_MAX, TOLD_BYTES_MAX};
pub use recorder::{NotAccepted, NotDurable, REFUSED_WITH, Recorder};

use crate::queue::Shared;

/// When a batch is written: whichever comes first. Neither says how large a batch gets; see [`BATCH_ENTRIES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many entries wait.
    pub max_entries: usize,
    /// The first of them has waited for so long.
    pub interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_entries: 100, interval: Duration::from_millis(500) }
    }
}

/// The two ends of the queue: any number of recorders, and the one batcher, whose [`Batcher::run`] is a task's body.
pub fn pipeline(
    settings: Settings,
    writer: Arc<dyn Book>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> (Recorder, Batcher) {
    let shared = Arc::new(Shared::new(settings));
    (Recorder::new(Arc::clone(&shared)), Batcher::new(shared, writer, clock, entropy))
}

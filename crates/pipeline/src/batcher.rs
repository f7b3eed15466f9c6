//! The end of the pipeline that writes: takes what waits, and does not let go before the store has it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Entropy};
use domain::{EntryId, RedactedEntry, system, text};
use store::{Book, Retry, StoreError};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::Loss;
use crate::backoff::Backoff;
use crate::queue::{Batch, Next, Settled, Shared, Waiter};
use crate::recorder::REFUSED_WITH;

/// How long the queue may take to empty once the program has to end: well inside the 30 s that Kubernetes grants.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// A write that takes longer is given up and tried again, in halves: a connection that went silent must not be the end,
/// and a store that is merely slow gets less at once. Writing is idempotent, so a commit that went unseen does no harm.
pub const WRITE_MAX: Duration = Duration::from_secs(30);
/// An error's text is the store's; what it says is bounded here.
const CAUSE_CHARS_MAX: usize = 300;

/// The one writer of a pipeline.
pub struct Batcher {
    shared: Arc<Shared>,
    writer: Arc<dyn Book>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    backoff: Backoff,
    stored: u64,
    /// Since when the store does not answer.
    away: Option<Instant>,
    /// All of the last batch is stored; what was refused meanwhile is yet to be told.
    rejecting: bool,
}

/// All that was accepted has been stored, or was refused and is told of in a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// In the whole life of the pipeline, gaps included.
    pub stored: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{entries} accepted entries were not known to be stored within {} s of the stop and are lost",
    SHUTDOWN_MAX.as_secs()
)]
pub struct LostAtShutdown {
    /// At most so many: of the last batch some may be stored.
    pub entries: u64,
}

impl Batcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        writer: Arc<dyn Book>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { shared, writer, clock, entropy, backoff: Backoff::new(), stored: 0, away: None, rejecting: false }
    }

    /// A task's body. Writes until `stop`, then empties the queue and refuses what comes later.
    ///
    /// # Errors
    /// Where the queue could not be emptied within [`SHUTDOWN_MAX`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<Flushed, LostAtShutdown> {
        let out_of_time = async {
            stop.cancelled().await;
            sleep(SHUTDOWN_MAX).await;
        };
        tokio::select! {
            biased;
            () = self.work(&stop) => Ok(Flushed { stored: self.stored }),
            () = out_of_time => {
                let is_flushed = self.rejecting && self.shared.lock().is_idle();
                let entries = self.give_up();
                if is_flushed { Ok(Flushed { stored: self.stored }) } else { Err(LostAtShutdown { entries }) }
            }
        }
    }

    async fn work(&mut self, stop: &CancellationToken) {
        loop {
            let next = self.shared.lock().next(&self.shared.settings, stop.is_cancelled(), Instant::now());
            match next {
                Next::Wait(until) => self.wait(until, stop).await,
                Next::Write(batch) => self.write(batch, stop).await,
                Next::Closed => return,
            }
        }
    }

    async fn wait(&self, until: Option<Instant>, stop: &CancellationToken) {
        let due = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = self.shared.changed.notified() => {}
            () = stop.cancelled() => {}
        }
    }

    /// Comes back when each entry is stored or known to be unstorable, however long that takes.
    async fn write(&mut self, batch: Batch, stop: &CancellationToken) {
        let Batch { mut entries, mut awaited, joins, gaps } = batch;
        let ours = entries.len();
        // Of now, not of the loss: an entry that was refused for its absurd time must not give its gap the same one.
        let now = self.clock.now();
        entries.extend(gaps.iter().map(|gap| system::gap(EntryId::at(now, self.entropy.bits()), gap)));
        self.shared.metrics.batch(entries.len());
        tracing::debug!(entries = entries.len(), gaps = gaps.len(), "writing a batch");

        let mut refused_writes = Vec::new();
        let mut todo: Vec<_> = Some(0..entries.len()).filter(|whole| !whole.is_empty()).into_iter().collect();
        while let Some(range) = todo.pop() {
            match self.attempt(&entries[range.clone()]).await {
                Ok(()) => {
                    let unheard = self.settle(&mut awaited, &range, ours, Settled::Stored);
                    refused_writes.extend(unheard.into_iter().map(|index| entries[index].id));
                }
                Err(Failed::ForEver(_)) if range.len() > 1 => todo.extend(halves(range)),
                Err(Failed::ForEver(cause)) => {
                    let first = awaited.front().filter(|(index, _)| *index == range.start);
                    let was_refused = first.is_some_and(|(_, waiter)| waiter.refuses);
                    self.refused(&entries[range.start], range.start < ours, was_refused, &cause);
                    self.settle(&mut awaited, &range, ours, Settled::Refused);
                }
                Err(failed) => {
                    self.pause(&failed, stop).await;
                    match failed {
                        Failed::TooSlow if range.len() > 1 => todo.extend(halves(range)),
                        _ => todo.push(range),
                    }
                }
            }
        }
        drop(entries);
        self.join(joins, stop).await;
        {
            let mut queue = self.shared.lock();
            queue.batch_settled();
            self.shared.metrics.queue(queue.depth(), queue.bytes());
        }
        self.rejecting = true;
        self.reject(&refused_writes, stop).await;
        self.rejecting = false;
    }

    /// Comes back when each outcome is stored or known to be unstorable. After the writes: what is there already need not be
    /// kept until it comes.
    async fn join(&mut self, joins: Vec<RedactedEntry>, stop: &CancellationToken) {
        if joins.is_empty() {
            return;
        }
        let whole = 0..joins.len();
        let mut todo = vec![whole];
        while let Some(range) = todo.pop() {
            match self.attempt_to_join(&joins[range.clone()]).await {
                Ok(()) => self.shared.lock().settled(range.len()),
                Err(Failed::ForEver(_)) if range.len() > 1 => todo.extend(halves(range)),
                Err(Failed::ForEver(cause)) => {
                    self.refused(&joins[range.start], true, false, &cause);
                    self.shared.lock().settled(1);
                }
                Err(failed) => {
                    self.pause(&failed, stop).await;
                    match failed {
                        Failed::TooSlow if range.len() > 1 => todo.extend(halves(range)),
                        _ => todo.push(range),
                    }
                }
            }
        }
    }

    async fn attempt_to_join(&mut self, told: &[RedactedEntry]) -> Result<(), Failed> {
        let start = Instant::now();
        let result = timeout(WRITE_MAX, self.writer.join(told)).await;
        self.shared.metrics.wrote(start.elapsed());
        self.came_to(result)?;
        self.shared.metrics.joined(told.len());
        Ok(())
    }

    /// Says of entries that are stored that their writes were refused, however long that takes. What is left where the
    /// program ends stays unconfirmed: nothing is said that is not so.
    async fn reject(&mut self, ids: &[EntryId], stop: &CancellationToken) {
        if ids.is_empty() {
            return;
        }
        loop {
            let failed = match timeout(WRITE_MAX, self.writer.reject(ids, REFUSED_WITH)).await {
                Ok(Ok(())) => {
                    self.shared.metrics.rejected(ids.len());
                    return self.is_back();
                }
                Ok(Err(error)) if error.retry() == Retry::Never => {
                    let cause = cause(&error);
                    tracing::error!(entries = ids.len(), cause, "refused writes stay unconfirmed in the log");
                    return self.is_back();
                }
                Ok(Err(error)) => Failed::ForNow(cause(&error)),
                Err(_) => Failed::TooSlow,
            };
            self.pause(&failed, stop).await;
        }
    }

    async fn attempt(&mut self, entries: &[RedactedEntry]) -> Result<(), Failed> {
        let start = Instant::now();
        let result = timeout(WRITE_MAX, self.writer.write(entries)).await;
        self.shared.metrics.wrote(start.elapsed());
        self.came_to(result)?;
        self.stored += entries.len() as u64;
        self.shared.metrics.stored(entries.len());
        Ok(())
    }

    fn came_to(&mut self, result: Result<Result<(), StoreError>, Elapsed>) -> Result<(), Failed> {
        match result {
            Ok(Ok(())) => {
                self.is_back();
                Ok(())
            }
            Ok(Err(error)) if error.retry() == Retry::Never => {
                self.is_back();
                Err(Failed::ForEver(cause(&error)))
            }
            Ok(Err(error)) => Err(Failed::ForNow(cause(&error))),
            Err(_) => Err(Failed::TooSlow),
        }
    }

    /// Told once as it begins, not for every try.
    async fn pause(&mut self, failed: &Failed, stop: &CancellationToken) {
        self.shared.metrics.retried();
        let wait = self.backoff.next_wait();
        if self.away.is_none() {
            self.away = Some(Instant::now());
            let cause = failed.cause();
            tracing::warn!(cause, "the database takes no entries; they are kept in memory and tried again");
        }
        if stop.is_cancelled() {
            sleep(wait).await;
        } else {
            // A stop is a reason to try at once, and soon again: there is not much time.
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => self.backoff.reset(),
            }
        }
    }

    /// It answered, if only to refuse.
    fn is_back(&mut self) {
        self.backoff.reset();
        if let Some(since) = self.away.take() {
            tracing::warn!(after_seconds = since.elapsed().as_secs(), "the database takes entries again");
        }
    }

    /// Loses this one entry and no other. A gap that is refused makes no further gap, or there would be no end to it; and
    /// where the write is refused with its entry, nothing happened unrecorded.
    fn refused(&self, entry: &RedactedEntry, tell: bool, write_too: bool, cause: &str) {
        if write_too {
            tracing::error!(id = %entry.id, cause, "the database refuses an entry, and so its write is refused");
            return;
        }
        tracing::error!(id = %entry.id, cause, "the database refuses an entry, which is lost");
        self.shared.metrics.lost(Loss::Refused, 1);
        if tell {
            self.shared.lock().note(Loss::Refused, entry.id.timestamp());
        }
    }

    /// Tells those who wait for the entries of this range, and answers of which the write has been refused meanwhile.
    /// Ranges come in ascending order; from `ours` on they are gaps.
    fn settle(
        &self,
        awaited: &mut VecDeque<(usize, Waiter)>,
        range: &Range<usize>,
        ours: usize,
        settled: Settled,
    ) -> Vec<usize> {
        self.shared.lock().settled(range.end.min(ours) - range.start.min(ours));
        let mut refused_writes = Vec::new();
        while awaited.front().is_some_and(|(index, _)| *index < range.end) {
            if let Some((index, waiter)) = awaited.pop_front()
                && !waiter.tell(settled)
            {
                refused_writes.push(index);
            }
        }
        refused_writes
    }

    fn give_up(&self) -> u64 {
        let lost = self.shared.lock().close() as u64;
        self.shared.metrics.lost(Loss::Stopped, lost);
        self.shared.metrics.queue(0, 0);
        lost
    }
}

/// A batcher that is gone, whether it ran or not, leaves no recorder that believes in it.
impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.lock().close();
    }
}

enum Failed {
    ForNow(String),
    ForEver(String),
    TooSlow,
}

impl Failed {
    fn cause(&self) -> &str {
        match self {
            Self::ForNow(cause) | Self::ForEver(cause) => cause,
            Self::TooSlow => "no answer in time",
        }
    }
}

/// The first half on top of the stack, so that entries are written in their order.
fn halves(range: Range<usize>) -> [Range<usize>; 2] {
    let middle = range.start + range.len() / 2;
    [middle..range.end, range.start..middle]
}

/// The whole chain in one line. It may quote a column's value, which is redacted: nothing else reaches a store.
fn cause(error: &StoreError) -> String {
    let whole = text::with_causes(error).escape_debug().to_string();
    text::shortened(&whole, CAUSE_CHARS_MAX).into_owned()
}

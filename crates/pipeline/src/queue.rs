//! What waits to be written: bounded in bytes, in the order of its arrival, and the decision when to write it.
//!
//! There are two lanes: what reviews record, which nobody can tell again, and what audit events tell, whose teller keeps
//! it. Each has a bound of its own, and the first goes first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::system::Gap;
use domain::{DETAIL_BYTES_MAX, RedactedEntry};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::losses::{Loss, Losses};
use crate::{Metrics, NotAccepted, Settings};

/// Bytes, not entries: entries differ in weight by four orders of magnitude. Counts what waits and what is being written,
/// but for what audit events tell.
pub const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The same of what audit events tell.
pub const TOLD_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// How much one transaction carries. Past some thousands of rows a larger batch gains nothing, and losing one costs more.
pub const BATCH_ENTRIES_MAX: usize = 5_000;
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Of these at most so many are what audit events tell: the reviews that come meanwhile wait for the whole batch.
const BATCH_TOLD_MAX: usize = BATCH_ENTRIES_MAX / 5;
/// The heaviest entry that is taken: a full detail and a good deal of names around it.
pub const ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX / 2;

// Changes, before and after, each at its bound.
const _: () = assert!(3 * DETAIL_BYTES_MAX < ENTRY_BYTES_MAX);
// The heaviest entry fits a batch; and while a full batch is being written another one can gather.
const _: () = assert!(ENTRY_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(2 * BATCH_BYTES_MAX <= QUEUE_BYTES_MAX);

/// What both ends of the pipeline hold.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// Something changed that the batcher may want to act upon.
    pub(crate) changed: Notify,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { queue: Mutex::default(), changed: Notify::new(), metrics: Metrics::default(), settings }
    }

    /// The lock is held for moments and nothing under it can panic halfway, so a poisoned one is as good.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of them, or none and notes nothing: whoever has them tells them again.
    pub(crate) fn push_all(&self, write: Vec<RedactedEntry>, join: Vec<RedactedEntry>) -> Result<(), NotAccepted> {
        let entries = write.len() + join.len();
        let (before, depth, bytes) = {
            let mut queue = self.lock();
            let before = queue.depth();
            queue.push_all(write, join)?;
            (before, queue.depth(), queue.bytes())
        };
        self.metrics.accepted(entries, depth, bytes);
        if before == 0 || (before < self.settings.max_entries && depth >= self.settings.max_entries) {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes the entry, or notes it as lost and says why.
    pub(crate) fn push(&self, entry: RedactedEntry, waiter: Option<Waiter>) -> Result<(), NotAccepted> {
        let urgent = waiter.is_some();
        // A write that is refused for it is none that went unrecorded.
        let lossless = waiter.as_ref().is_some_and(|waiter| waiter.refuses);
        let (taken, depth, bytes) = {
            let mut queue = self.lock();
            (queue.push(entry, waiter), queue.depth(), queue.bytes())
        };
        match taken {
            Ok(()) => {
                self.metrics.accepted(1, depth, bytes);
                if urgent || depth == 1 || depth == self.settings.max_entries {
                    self.changed.notify_one();
                }
            }
            Err(_) if lossless => {}
            Err(NotAccepted::QueueFull | NotAccepted::TooHeavy) => {
                self.metrics.lost(Loss::QueueFull, 1);
                self.changed.notify_one();
            }
            Err(NotAccepted::Stopped) => self.metrics.lost(Loss::Stopped, 1),
        }
        taken
    }
}

/// Told once what became of an entry.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) done: oneshot::Sender<Settled>,
    /// Refuses the write where it is not told in time.
    pub(crate) refuses: bool,
}

impl Waiter {
    /// False where an entry is stored whose write has been refused: who would have refused it no longer asks, and so has.
    pub(crate) fn tell(self, settled: Settled) -> bool {
        let heard = self.done.send(settled).is_ok();
        heard || !self.refuses || settled == Settled::Refused
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Stored,
    Refused,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    recorded: Lane,
    told: Lane,
    /// Taken by the batcher and not written yet.
    writing_entries: usize,
    progress: Progress,
    /// How many of those that wait have somebody who waits for them.
    awaited: usize,
    /// Since when the first of those that wait does, or the first loss not told.
    since: Option<Instant>,
    losses: Losses,
    closed: bool,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Queued>,
    waiting_bytes: usize,
    /// Of what is being written, what it was at first; its memory is freed with its batch.
    writing: usize,
    writing_bytes: usize,
}

impl Lane {
    fn bytes(&self) -> usize {
        self.waiting_bytes + self.writing_bytes
    }

    /// Moves the first of those that wait to what is being written: as many as fit, and one in any case where nothing else
    /// is in the batch.
    fn take(&mut self, entries_max: usize, bytes_max: usize, at_least: usize) -> VecDeque<Queued> {
        let (count, bytes) = self.portion(entries_max, bytes_max, at_least);
        self.waiting_bytes -= bytes;
        (self.writing, self.writing_bytes) = (count, bytes);
        if count == self.waiting.len() {
            // Leaves no capacity behind: a burst's memory goes with the burst.
            std::mem::take(&mut self.waiting)
        } else {
            self.waiting.drain(..count).collect()
        }
    }

    fn portion(&self, entries_max: usize, bytes_max: usize, at_least: usize) -> (usize, usize) {
        if self.waiting.len() <= entries_max && self.waiting_bytes <= bytes_max {
            return (self.waiting.len(), self.waiting_bytes);
        }
        let (mut count, mut bytes) = (0, 0);
        for weight in self.waiting.iter().take(entries_max).map(Queued::weight) {
            if count >= at_least && bytes + weight > bytes_max {
                break;
            }
            count += 1;
            bytes += weight;
        }
        (count, bytes)
    }
}

/// How much audit events have put into a queue and how much of that is done with, in whole batches: whoever put in the
/// first N sees that they are stored, or lost and told of, once N are settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub accepted: u64,
    pub settled: u64,
}

#[derive(Debug)]
struct Queued {
    entry: RedactedEntry,
    what: What,
}

/// What is to be done with an entry.
#[derive(Debug)]
enum What {
    Write(Option<Waiter>),
    /// It tells the outcome of another.
    Join,
}

impl Queued {
    fn weight(&self) -> usize {
        self.entry.weight() + size_of::<What>()
    }
}

/// What the batcher is to do.
#[derive(Debug)]
pub(crate) enum Next {
    Wait(Option<Instant>),
    Write(Batch),
    /// Nothing waits, and from now on nothing is taken.
    Closed,
}

/// What is written together. The gaps are to be made entries of, and come on top of the bounds.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<RedactedEntry>,
    /// Who waits for which of the entries, in their order.
    pub(crate) awaited: VecDeque<(usize, Waiter)>,
    /// What tells the outcome of entries, maybe of these.
    pub(crate) joins: Vec<RedactedEntry>,
    pub(crate) gaps: Vec<Gap>,
}

impl Queue {
    fn push(&mut self, entry: RedactedEntry, waiter: Option<Waiter>) -> Result<(), NotAccepted> {
        if self.closed {
            return Err(NotAccepted::Stopped);
        }
        let refuses = waiter.as_ref().is_some_and(|waiter| waiter.refuses);
        let awaited = usize::from(waiter.is_some());
        let queued = Queued { entry, what: What::Write(waiter) };
        let weight = queued.weight();
        if weight > ENTRY_BYTES_MAX || self.recorded.bytes() + weight > QUEUE_BYTES_MAX {
            if !refuses {
                self.note(Loss::QueueFull, queued.entry.id.timestamp());
            }
            return Err(NotAccepted::QueueFull);
        }
        self.recorded.waiting_bytes += weight;
        self.awaited += awaited;
        self.since.get_or_insert_with(Instant::now);
        self.recorded.waiting.push_back(queued);
        Ok(())
    }

    fn push_all(&mut self, write: Vec<RedactedEntry>, join: Vec<RedactedEntry>) -> Result<(), NotAccepted> {
        if self.closed {
            return Err(NotAccepted::Stopped);
        }
        let write = write.into_iter().map(|entry| Queued { entry, what: What::Write(None) });
        let queued: Vec<_> = write.chain(join.into_iter().map(|entry| Queued { entry, what: What::Join })).collect();
        let weight: usize = queued.iter().map(Queued::weight).sum();
        let heaviest = queued.iter().map(Queued::weight).max();
        if heaviest > Some(ENTRY_BYTES_MAX) || weight > TOLD_BYTES_MAX {
            return Err(NotAccepted::TooHeavy);
        }
        if self.told.bytes() + weight > TOLD_BYTES_MAX {
            return Err(NotAccepted::QueueFull);
        }
        if !queued.is_empty() {
            self.told.waiting_bytes += weight;
            self.since.get_or_insert_with(Instant::now);
            self.progress.accepted += queued.len() as u64;
            self.told.waiting.extend(queued);
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, loss: Loss, at: chrono::DateTime<chrono::Utc>) {
        if !self.closed {
            self.since.get_or_insert_with(Instant::now);
            self.losses.note(loss, at);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.recorded.bytes() + self.told.bytes()
    }

    pub(crate) fn depth(&self) -> usize {
        self.recorded.waiting.len() + self.told.waiting.len()
    }

    /// Accepted, and neither stored nor refused yet.
    pub(crate) fn unsettled(&self) -> usize {
        self.depth() + self.writing_entries
    }

    /// Nothing is left to be written, no loss to be told.
    pub(crate) fn is_idle(&self) -> bool {
        self.unsettled() == 0 && self.since.is_none()
    }

    /// Decides and does, under one lock: nothing can slip in between a last look and closing.
    pub(crate) fn next(&mut self, settings: &Settings, stopping: bool, now: Instant) -> Next {
        let waiting = Waiting { entries: self.depth(), awaited: self.awaited, since: self.since };
        match decide(waiting, settings, stopping, now) {
            Step::Wait(until) => Next::Wait(until),
            Step::Write => Next::Write(self.take_batch()),
            Step::Close => {
                self.close();
                Next::Closed
            }
        }
    }

    /// So many of the entries that are being written are stored or refused; their memory is freed with their batch.
    pub(crate) fn settled(&mut self, entries: usize) {
        self.writing_entries -= entries;
    }

    pub(crate) fn batch_settled(&mut self) {
        self.progress.settled += self.told.writing as u64;
        self.nothing_is_written();
    }

    fn nothing_is_written(&mut self) {
        self.writing_entries = 0;
        for lane in [&mut self.recorded, &mut self.told] {
            (lane.writing, lane.writing_bytes) = (0, 0);
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// Gives up whatever is left; those who wait for it are told by their channel's end.
    pub(crate) fn close(&mut self) -> usize {
        self.closed = true;
        let unsettled = self.unsettled();
        (self.recorded, self.told) = Default::default();
        (self.writing_entries, self.awaited, self.since) = (0, 0, None);
        unsettled
    }

    /// As many as the bounds allow, the first in any case; what can be told again fills what is left.
    fn take_batch(&mut self) -> Batch {
        let mut taken = self.recorded.take(BATCH_ENTRIES_MAX, BATCH_BYTES_MAX, 1);
        let (entries, bytes) = (BATCH_ENTRIES_MAX - taken.len(), BATCH_BYTES_MAX - self.recorded.writing_bytes);
        taken.extend(self.told.take(entries.min(BATCH_TOLD_MAX), bytes, usize::from(taken.is_empty())));
        if self.depth() == 0 {
            self.since = None;
        }
        // What stays waits no longer than it did: `since` keeps, and the next batch follows at once.
        self.writing_entries = taken.len();
        let batch = Batch::new(taken, self.losses.take());
        self.awaited -= batch.awaited.len();
        batch
    }
}

impl Batch {
    fn new(queued: VecDeque<Queued>, gaps: Vec<Gap>) -> Self {
        let entries = Vec::with_capacity(queued.len() + gaps.len());
        let mut batch = Self { entries, awaited: VecDeque::new(), joins: Vec::new(), gaps };
        for Queued { entry, what } in queued {
            match what {
                What::Write(waiter) => {
                    batch.awaited.extend(waiter.map(|waiter| (batch.entries.len(), waiter)));
                    batch.entries.push(entry);
                }
                What::Join => batch.joins.push(entry),
            }
        }
        batch
    }
}

/// What the decision is made of.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    entries: usize,
    awaited: usize,
    since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Until then, or until something changes.
    Wait(Option<Instant>),
    Write,
    Close,
}

/// Pure: every case is a row of the table below.
fn decide(waiting: Waiting, settings: &Settings, stopping: bool, now: Instant) -> Step {
    let Some(since) = waiting.since else {
        return if stopping { Step::Close } else { Step::Wait(None) };
    };
    let due = since + settings.interval;
    if stopping || waiting.awaited > 0 || waiting.entries >= settings.max_entries || due <= now {
        Step::Write
    } else {
        Step::Wait(Some(due))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_batch_is_written_when_it_is_due_large_awaited_or_the_last() {
        let settings = Settings { max_entries: 100, interval: Duration::from_millis(500) };
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let cases = [
            ("nothing waits", 0, 0, None, false, 0, Step::Wait(None)),
            ("nothing waits and it is the end", 0, 0, None, true, 0, Step::Close),
            ("one waits, not for long", 1, 0, Some(0), false, 499, Step::Wait(Some(after(500)))),
            ("the interval is over", 1, 0, Some(0), false, 500, Step::Write),
            ("one short of enough", 99, 0, Some(0), false, 1, Step::Wait(Some(after(500)))),
            ("enough", 100, 0, Some(0), false, 1, Step::Write),
            ("more than enough", 7_000, 0, Some(0), false, 1, Step::Write),
            ("somebody waits for one", 1, 1, Some(0), false, 1, Step::Write),
            ("one waits and it is the end", 1, 0, Some(0), true, 1, Step::Write),
            ("only a loss is to be told, not yet", 0, 0, Some(10), false, 20, Step::Wait(Some(after(510)))),
            ("only a loss is to be told, now", 0, 0, Some(10), false, 510, Step::Write),
            ("only a loss is to be told and it is the end", 0, 0, Some(10), true, 20, Step::Write),
        ];
        for (name, entries, awaited, since, stopping, now, expected) in cases {
            let waiting = Waiting { entries, awaited, since: since.map(after) };
            assert_eq!(decide(waiting, &settings, stopping, after(now)), expected, "{name}");
        }
    }
}

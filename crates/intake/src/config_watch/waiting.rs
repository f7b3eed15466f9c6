//! Changes that were seen and are not recorded yet: another may have told of them, or be about to.

use std::collections::VecDeque;
use std::time::Duration;

use domain::{EntryId, RedactedEntry};
use tokio::time::Instant;

use super::memory::Key;

/// A webhook on the API server's own disk is asked before the change is to be seen, and its entry is stored with the next
/// batch.
const SETTLE: Duration = Duration::from_secs(2);
/// For as long as a holder of the lease that has died is still believed to live, and longer.
const KEPT: Duration = Duration::from_secs(60);
/// While the database is away. Beyond that the oldest are recorded unasked: better twice than not at all.
const WAITING_MAX: usize = 1_000;
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Ids that have accounted for a change: of as many as are looked at for one object within minutes.
const ACCOUNTED_MAX: usize = 4_096;

const _: () = assert!(super::LEASE.as_secs() * 2 <= KEPT.as_secs());

#[derive(Default)]
pub(super) struct Waiting {
    changes: VecDeque<Change>,
    bytes: usize,
    accounted: VecDeque<EntryId>,
}

pub(super) struct Change {
    pub(super) key: Key,
    pub(super) entry: RedactedEntry,
    seen: Instant,
}

impl Waiting {
    pub(super) fn push(&mut self, key: Key, entry: RedactedEntry, seen: Instant) {
        self.bytes += entry.weight();
        self.changes.push_back(Change { key, entry, seen });
    }

    /// The oldest, once it has waited for long enough.
    pub(super) fn due(&self, now: Instant) -> Option<&Change> {
        self.changes.front().filter(|change| now.duration_since(change.seen) >= SETTLE)
    }

    pub(super) fn pop(&mut self) -> Option<Change> {
        let change = self.changes.pop_front()?;
        self.bytes -= change.entry.weight();
        Some(change)
    }

    /// What there is no room for any more.
    pub(super) fn surplus(&mut self) -> Option<Change> {
        let full = self.changes.len() > WAITING_MAX || self.bytes > BYTES_MAX;
        if full { self.pop() } else { None }
    }

    /// Another has told of these.
    pub(super) fn drop_old(&mut self, now: Instant) {
        while self.changes.front().is_some_and(|change| now.duration_since(change.seen) > KEPT) {
            self.pop();
        }
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.changes.iter().any(|change| change.key == *key)
    }

    pub(super) fn account(&mut self, id: EntryId) {
        self.accounted.push_back(id);
        if self.accounted.len() > ACCOUNTED_MAX {
            self.accounted.pop_front();
        }
    }

    pub(super) fn is_accounted(&self, id: EntryId) -> bool {
        self.accounted.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use domain::Entry;

    use super::*;

    fn push(waiting: &mut Waiting, seen: Instant) {
        let entry = RedactedEntry::sample(Entry::sample(EntryId::at(chrono::DateTime::UNIX_EPOCH, 0)));
        waiting.push((0, String::new(), "a".to_owned()), entry, seen);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_waits_for_who_else_tells_of_it_and_not_for_ever() {
        let (mut waiting, seen) = (Waiting::default(), Instant::now());
        push(&mut waiting, seen);
        assert!(waiting.due(seen).is_none() && waiting.due(seen + SETTLE).is_some());
        waiting.drop_old(seen + KEPT);
        assert!(waiting.has(&(0, String::new(), "a".to_owned())));
        waiting.drop_old(seen + 2 * KEPT);
        assert!(waiting.pop().is_none() && waiting.bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_the_oldest_is_not_waited_for() {
        let (mut waiting, seen) = (Waiting::default(), Instant::now());
        (0..=WAITING_MAX).for_each(|_| push(&mut waiting, seen));
        assert!(waiting.surplus().is_some() && waiting.surplus().is_none());
    }
}

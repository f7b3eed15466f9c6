//! Which reviews were answered lately, so that one that is delivered twice is recorded once.
//!
//! The API server gives each call a uid of its own, and a connection that breaks may have its client send a call again. This
//! is the memory of one process: a call that is sent again to another replica is recorded there, too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{Action, EntryId};

/// At a thousand writes a second those of four seconds, which is twice what the API server waits for an answer.
const KEPT_MAX: usize = 4_096;
/// A uid is a UUID's text. A longer one is not remembered, so that the memory is bounded in bytes too.
const UID_BYTES_MAX: usize = 64;

/// What was answered, by the review's uid.
#[derive(Default)]
pub(super) struct Delivered {
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    entries: HashMap<Box<str>, (EntryId, Action)>,
    oldest_first: VecDeque<Box<str>>,
}

impl Delivered {
    /// Takes the review for this entry, before anything is done about it. Of two deliveries, however close, one claims it
    /// and the other is told which entry it has become.
    pub(super) fn claim(&self, uid: &str, id: EntryId, action: Action) -> Result<(), (EntryId, Action)> {
        if uid.len() > UID_BYTES_MAX {
            return Ok(());
        }
        let mut recent = self.lock();
        if let Some(claimed) = recent.entries.get(uid) {
            return Err(*claimed);
        }
        recent.entries.insert(uid.into(), (id, action));
        recent.oldest_first.push_back(uid.into());
        if recent.oldest_first.len() > KEPT_MAX
            && let Some(oldest) = recent.oldest_first.pop_front()
        {
            recent.entries.remove(&oldest);
        }
        Ok(())
    }

    /// The entry was not kept, so another delivery may try again.
    pub(super) fn forget(&self, uid: &str) {
        let mut recent = self.lock();
        if recent.entries.remove(uid).is_some() {
            recent.oldest_first.retain(|known| **known != *uid);
        }
    }

    /// Nothing under it can stop halfway, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more_than_that() {
        let delivered = Delivered::default();
        let id = EntryId::at(chrono::DateTime::UNIX_EPOCH, 7);
        let claim = |uid: &str| delivered.claim(uid, id, Action::Create);
        for n in 0..=KEPT_MAX {
            assert_eq!(claim(&n.to_string()), Ok(()));
        }
        assert_eq!(claim("1"), Err((id, Action::Create)));
        assert_eq!(claim("0"), Ok(()), "the oldest was forgotten");
        assert_eq!(claim(&"x".repeat(UID_BYTES_MAX + 1)), Ok(()));
        assert_eq!(delivered.lock().entries.len(), KEPT_MAX);
    }

    #[test]
    fn what_was_not_kept_may_come_again() {
        let delivered = Delivered::default();
        let id = EntryId::at(chrono::DateTime::UNIX_EPOCH, 7);
        assert_eq!(delivered.claim("a", id, Action::Create), Ok(()));
        delivered.forget("a");
        assert_eq!(delivered.claim("a", id, Action::Create), Ok(()));
        assert_eq!(delivered.lock().oldest_first.len(), 1);
    }
}

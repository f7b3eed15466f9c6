//! Which reviews were answered lately, so that one that is delivered twice is recorded once.
//!
//! The API server gives each call a uid of its own, and a connection that breaks may have its client send a call again.

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
    pub(super) fn get(&self, uid: &str) -> Option<(EntryId, Action)> {
        self.lock().entries.get(uid).copied()
    }

    pub(super) fn remember(&self, uid: &str, id: EntryId, action: Action) {
        if uid.len() > UID_BYTES_MAX {
            return;
        }
        let mut recent = self.lock();
        if recent.entries.insert(uid.into(), (id, action)).is_none() {
            recent.oldest_first.push_back(uid.into());
        }
        if recent.oldest_first.len() > KEPT_MAX
            && let Some(oldest) = recent.oldest_first.pop_front()
        {
            recent.entries.remove(&oldest);
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
        for n in 0..=KEPT_MAX {
            delivered.remember(&n.to_string(), id, Action::Create);
        }
        assert_eq!(delivered.get("0"), None);
        assert_eq!(delivered.get("1"), Some((id, Action::Create)));
        delivered.remember(&"x".repeat(UID_BYTES_MAX + 1), id, Action::Create);
        assert_eq!(delivered.lock().entries.len(), KEPT_MAX);
    }
}

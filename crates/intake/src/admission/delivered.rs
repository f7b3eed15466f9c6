//! Which reviews were answered lately, so that one that is delivered twice is recorded once.
//!
//! The API server gives each call a uid of its own, and a connection that breaks may have its client send a call again. This
//! is the memory of one process: a call that is sent again to another replica is recorded there, too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::admission::verdict::Note;

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
    entries: HashMap<Box<str>, Earlier>,
    oldest_first: VecDeque<Box<str>>,
}

/// A review that came before, and the entry that it has become.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    pub(super) note: Note,
    /// Ends when the claim does.
    settled: watch::Receiver<bool>,
}

impl Earlier {
    /// Waits for what becomes of it: false where it was not kept, and is forgotten.
    pub(super) async fn kept(mut self) -> bool {
        self.settled.wait_for(|kept| *kept).await.is_ok()
    }
}

/// The right to answer a review. Dropped before it is kept, the review may come again, and is another attempt then.
pub(super) struct Claim<'d> {
    delivered: &'d Delivered,
    uid: Box<str>,
    settled: watch::Sender<bool>,
}

impl Claim<'_> {
    /// From here on a review that comes again is this one.
    pub(super) fn keep(&self) {
        self.settled.send_replace(true);
    }

    /// It was not kept after all.
    pub(super) fn give_up(&self) {
        self.settled.send_replace(false);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !*self.settled.borrow() {
            self.delivered.forget(&self.uid);
        }
    }
}

impl Delivered {
    /// Takes the review for this entry, before anything is done about it. Of two deliveries, however close, one claims it
    /// and the other is told which entry it has become.
    pub(super) fn claim(&self, uid: &str, note: &Note) -> Result<Claim<'_>, Earlier> {
        let mut recent = self.lock();
        if let Some(earlier) = recent.entries.get(uid) {
            return Err(earlier.clone());
        }
        let (settled, told) = watch::channel(false);
        if uid.len() <= UID_BYTES_MAX {
            recent.entries.insert(uid.into(), Earlier { note: note.clone(), settled: told });
            recent.oldest_first.push_back(uid.into());
        }
        if recent.oldest_first.len() > KEPT_MAX
            && let Some(oldest) = recent.oldest_first.pop_front()
        {
            recent.entries.remove(&oldest);
        }
        Ok(Claim { delivered: self, uid: uid.into(), settled })
    }

    fn forget(&self, uid: &str) {
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
    use domain::event::Attempted;
    use domain::{Action, EntryId};

    use super::*;

    fn note() -> Note {
        let id = EntryId::at(chrono::DateTime::UNIX_EPOCH, 7);
        Note::new(Attempted::Recorded, id, Action::Create, "", "")
    }

    #[test]
    fn the_latest_are_remembered_and_no_more_than_that() {
        let delivered = Delivered::default();
        let claim = |uid: &str| delivered.claim(uid, &note()).map(|claim| claim.keep()).is_ok();
        for n in 0..=KEPT_MAX {
            assert!(claim(&n.to_string()));
        }
        assert!(!claim("1"));
        assert!(claim("0"), "the oldest was forgotten");
        assert!(claim(&"x".repeat(UID_BYTES_MAX + 1)));
        assert_eq!(delivered.lock().entries.len(), KEPT_MAX);
    }

    #[tokio::test]
    async fn what_was_not_kept_may_come_again_and_who_came_meanwhile_is_told() {
        let delivered = Delivered::default();
        let first = delivered.claim("a", &note()).ok().unwrap();
        let meanwhile = delivered.claim("a", &note()).err().unwrap();
        drop(first);
        assert!(!meanwhile.kept().await);
        let again = delivered.claim("a", &note()).ok().unwrap();
        assert_eq!(delivered.lock().oldest_first.len(), 1);
        let meanwhile = delivered.claim("a", &note()).err().unwrap();
        again.keep();
        drop(again);
        assert!(meanwhile.kept().await);
        assert!(delivered.claim("a", &note()).is_err());
    }
}

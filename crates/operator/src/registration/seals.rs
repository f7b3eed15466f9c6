//! The seals of registrations that are no more: who kept one, with its seal, and puts it back, undoes what replaced it.

use std::collections::VecDeque;

/// A registration is replaced when a policy or a CA changes. Older ones are as good as any that this process never saw.
const REMEMBERED_MAX: usize = 256;

/// What this process has seen, or written. No replica writes a seal twice.
#[derive(Debug, Default)]
pub(super) struct Seals {
    present: Option<String>,
    replaced: VecDeque<String>,
}

impl Seals {
    /// To be told of the live registration's, where it fits, and of none where there is no registration. Whether it was
    /// replaced before.
    pub(super) fn see(&mut self, seal: Option<&str>) -> bool {
        if self.present.as_deref() == seal {
            return false;
        }
        if seal.is_some_and(|seal| self.replaced.iter().any(|replaced| replaced == seal)) {
            return true;
        }
        let before = std::mem::replace(&mut self.present, seal.map(str::to_owned));
        self.replaced.extend(before);
        while self.replaced.len() > REMEMBERED_MAX {
            self.replaced.pop_front();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_and_is_put_back_is_known_for_it() {
        let mut seals = Seals::default();
        for (seal, put_back) in [
            (Some("a"), false),
            (Some("a"), false),
            (Some("b"), false),
            (Some("a"), true),
            (Some("a"), true),
            (Some("b"), false),
            // Deleted.
            (None, false),
            (Some("b"), true),
            (Some("c"), false),
        ] {
            assert_eq!(seals.see(seal), put_back, "{seal:?}");
        }
    }

    #[test]
    fn it_remembers_so_many_and_no_more() {
        let mut seals = Seals::default();
        for n in 0..2 * REMEMBERED_MAX {
            assert!(!seals.see(Some(&n.to_string())));
        }
        assert_eq!(seals.replaced.len(), REMEMBERED_MAX);
        assert!(seals.see(Some(&REMEMBERED_MAX.to_string())));
    }
}

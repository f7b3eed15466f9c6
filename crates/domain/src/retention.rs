//! How long entries are kept, and when the nightly purge is due.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};

use crate::id::EntryId;

/// How long entries are kept. Zero days in the configuration is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Forever,
    Days(u32),
}

impl Retention {
    pub fn from_days(days: u32) -> Self {
        if days == 0 { Self::Forever } else { Self::Days(days) }
    }

    /// Entries before this id have outlived their retention; None where nothing ever does.
    pub fn cutoff(self, now: DateTime<Utc>) -> Option<EntryId> {
        match self {
            Self::Forever => None,
            Self::Days(days) => Some(EntryId::not_before(now - TimeDelta::days(i64::from(days)))),
        }
    }
}

/// How long the entries of each policy are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retentions {
    /// Of an entry whose policy is not listed: the built-in one's, a deleted policy's, what the program says of itself.
    pub default: Retention,
    pub by_policy: BTreeMap<String, Retention>,
    /// Whether it is known which policies there are. A purge that goes by less is not the night's purge.
    pub complete: bool,
}

impl Retentions {
    pub fn only(default: Retention) -> Self {
        Self { default, by_policy: BTreeMap::new(), complete: true }
    }

    pub fn cutoffs(&self, now: DateTime<Utc>) -> Cutoffs {
        let by_policy = self.by_policy.iter().map(|(policy, retention)| (policy.clone(), retention.cutoff(now)));
        Cutoffs { default: self.default.cutoff(now), by_policy: by_policy.collect() }
    }

    /// Nothing ever outlives them.
    pub fn keep_everything(&self) -> bool {
        self.by_policy.values().chain([&self.default]).all(|retention| *retention == Retention::Forever)
    }
}

/// [`Retentions`] at one moment. None where entries are kept for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cutoffs {
    pub default: Option<EntryId>,
    pub by_policy: BTreeMap<String, Option<EntryId>>,
}

impl Cutoffs {
    /// An entry of this policy before this id has outlived its retention.
    pub fn of(&self, policy: &str) -> Option<EntryId> {
        self.by_policy.get(policy).copied().unwrap_or(self.default)
    }

    /// Nothing at or after this id has outlived any retention; None where nothing has at all.
    pub fn latest(&self) -> Option<EntryId> {
        self.by_policy.values().copied().chain([self.default]).flatten().max()
    }
}

/// The last instant at or before `now` at which the clock of UTC read `at`: the purge that should have run by now.
pub fn last_due(at: NaiveTime, now: DateTime<Utc>) -> DateTime<Utc> {
    let today = now.date_naive().and_time(at).and_utc();
    if today <= now { today } else { today - TimeDelta::days(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn zero_days_keep_for_ever_and_others_cut_to_the_millisecond() {
        let now = utc("2026-03-31T02:00:00Z");
        assert_eq!(Retention::from_days(0).cutoff(now), None);
        let cutoff = Retention::from_days(90).cutoff(now).unwrap();
        assert_eq!(cutoff.timestamp(), utc("2025-12-31T02:00:00Z"));
        assert!(EntryId::at(utc("2025-12-31T02:00:00Z"), 0) >= cutoff, "exactly 90 days old is kept");
        assert!(EntryId::at(utc("2025-12-31T01:59:59.999Z"), u64::MAX) < cutoff);
    }

    #[test]
    fn a_policy_without_a_retention_of_its_own_has_the_default() {
        let now = utc("2026-03-31T02:00:00Z");
        let by_policy =
            [("short", 1), ("kept", 0)].map(|(policy, days)| (policy.to_owned(), Retention::from_days(days)));
        let retentions = Retentions { by_policy: by_policy.into(), ..Retentions::only(Retention::Days(90)) };
        let cutoffs = retentions.cutoffs(now);
        let short = Retention::Days(1).cutoff(now);
        assert_eq!((cutoffs.of("short"), cutoffs.of("kept")), (short, None));
        assert_eq!(cutoffs.of("deleted"), Retention::Days(90).cutoff(now));
        assert_eq!(cutoffs.latest(), short);
        assert!(!retentions.keep_everything());
        let kept = Retentions::only(Retention::Forever);
        assert_eq!((kept.keep_everything(), kept.cutoffs(now)), (true, Cutoffs::default()));
    }

    #[test]
    fn the_purge_of_a_night_is_due_from_its_minute_until_the_next() {
        let at = NaiveTime::from_hms_opt(2, 0, 0).unwrap();
        for (now, due) in [
            ("2026-03-31T02:00:00Z", "2026-03-31T02:00:00Z"),
            ("2026-03-31T23:59:59Z", "2026-03-31T02:00:00Z"),
            ("2026-03-31T01:59:59.999Z", "2026-03-30T02:00:00Z"),
        ] {
            assert_eq!(last_due(at, utc(now)), utc(due));
        }
    }
}

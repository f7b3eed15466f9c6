//! How long entries are kept, and when the nightly purge is due.

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

//! Whether the wall clock can be trusted with removing things for good.
//!
//! A clock that is set ahead by a year makes every entry look older than its retention. So a clock that has jumped is
//! believed only after a day at its new time: long enough for whoever has to set it right, and it heals by itself.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::warn;

/// Further than any slewing or leap second, less than any retention.
const JUMP_MIN: TimeDelta = TimeDelta::hours(1);
const DISTRUSTED_FOR: Duration = Duration::from_secs(24 * 3_600);

/// The wall clock beside one that only ever runs.
pub(crate) struct Steady {
    wall: DateTime<Utc>,
    steady: Instant,
    distrusted_until: Option<Instant>,
}

impl Steady {
    pub(crate) fn new(wall: DateTime<Utc>, steady: Instant) -> Self {
        Self { wall, steady, distrusted_until: None }
    }

    /// Whether the wall clock has run with the steady one since the last look, and long enough before.
    pub(crate) fn look(&mut self, wall: DateTime<Utc>, steady: Instant) -> bool {
        let went = wall - self.wall;
        let should = TimeDelta::from_std(steady - self.steady).unwrap_or(TimeDelta::MAX);
        if (went - should).abs() > JUMP_MIN {
            warn!(from = %self.wall, to = %wall, "the clock has jumped; nothing is purged by it for a day");
            self.distrusted_until = Some(steady + DISTRUSTED_FOR);
        }
        (self.wall, self.steady) = (wall, steady);
        self.distrusted_until.is_none_or(|until| steady >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_has_jumped_is_believed_after_a_day() {
        let noon: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
        let start = Instant::now();
        let minute = |n: u64| start + Duration::from_secs(60 * n);
        let mut clock = Steady::new(noon, start);
        assert!(clock.look(noon + TimeDelta::minutes(1), minute(1)));
        assert!(clock.look(noon + TimeDelta::minutes(30), minute(2)), "slewed");
        let ahead = noon + TimeDelta::days(100);
        assert!(!clock.look(ahead, minute(3)));
        assert!(!clock.look(ahead + TimeDelta::minutes(60), minute(63)));
        assert!(clock.look(ahead + TimeDelta::days(1), minute(3 + 24 * 60)));
        assert!(!clock.look(noon, minute(4 + 24 * 60)), "backwards too");
    }
}

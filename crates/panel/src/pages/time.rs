//! Instants as a person reads them: all in UTC, each also as a distance from now.

use chrono::{DateTime, Utc};

use crate::body::rfc3339;

pub(crate) struct Instant {
    /// RFC 3339, to the millisecond.
    pub(crate) exact: String,
    /// `14:05:09`
    pub(crate) clock: String,
    /// `Sunday, 1 March 2026`
    pub(crate) day: String,
    /// `5m ago`
    pub(crate) ago: String,
}

impl Instant {
    pub(crate) fn new(time: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            exact: rfc3339(time),
            clock: time.format("%H:%M:%S").to_string(),
            day: time.format("%A, %-d %B %Y").to_string(),
            ago: ago(time, now),
        }
    }
}

fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    const UNITS: [(i64, &str); 5] = [(365 * 86_400, "y"), (30 * 86_400, "mo"), (86_400, "d"), (3_600, "h"), (60, "m")];
    let seconds = (now - time).num_seconds();
    let apart = seconds.abs();
    let distance = UNITS
        .iter()
        .find(|(unit, _)| apart >= *unit)
        .map_or_else(|| format!("{apart}s"), |(unit, name)| format!("{}{name}", apart / unit));
    match seconds {
        // Two machines' clocks are never quite the same.
        -5..=5 => "just now".to_owned(),
        6.. => format!("{distance} ago"),
        _ => format!("in {distance}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_told_in_its_largest_whole_unit() {
        let now: DateTime<Utc> = "2026-03-01T14:05:00Z".parse().unwrap();
        for (time, told) in [
            ("2026-03-01T14:05:00Z", "just now"),
            ("2026-03-01T14:04:01Z", "59s ago"),
            ("2026-03-01T13:05:01Z", "59m ago"),
            ("2026-03-01T13:05:00Z", "1h ago"),
            ("2026-02-27T14:05:00Z", "2d ago"),
            ("2025-12-01T14:05:00Z", "3mo ago"),
            ("2024-02-01T14:05:00Z", "2y ago"),
            ("2026-03-01T14:07:00Z", "in 2m"),
        ] {
            assert_eq!(Instant::new(time.parse().unwrap(), now).ago, told);
        }
    }
}

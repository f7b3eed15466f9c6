//! The id of an entry, which is also its time.
//!
//! A UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, 12 bits of the fraction of a millisecond (the RFC's
//! method 3), 62 bits of noise. An entry's `timestamp` is the millisecond inside its id, so that a filter on time is a
//! range of ids and a page is ordered by one column.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Identifies an entry and says when it happened. Ordered by time, then by fraction, then by noise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(Uuid);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is not an entry id: accepted is a UUID of version 7")]
pub struct IdError {
    pub given: String,
}

/// Fractions that a millisecond is divided into.
const FRACTIONS: u64 = 1 << 12;
const RANDOM_BITS: u64 = (1 << 62) - 1;
/// The largest millisecond that fits: in the year 10889.
const MILLIS_MAX: u64 = (1 << 48) - 1;

impl EntryId {
    /// The id for an instant. `random` fills what the time leaves free; its upper two bits are not used.
    pub fn at(time: DateTime<Utc>, random: u64) -> Self {
        Self::from_tick(tick(time), random)
    }

    /// The same for the same instant and the same name, whoever makes it and however often: what the time leaves free is a
    /// digest of the name's parts.
    pub fn derived(time: DateTime<Utc>, name: &[&[u8]]) -> Self {
        let digest = name.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part)).finalize();
        Self::at(time, digest.iter().take(8).fold(0, |bits: u64, byte| bits << 8 | u64::from(*byte)))
    }

    /// The smallest id of the millisecond that holds `time`: the inclusive lower bound of what happened since.
    pub fn floor(time: DateTime<Utc>) -> Self {
        Self::from_tick(millis(time) * FRACTIONS, 0)
    }

    /// The smallest id whose timestamp is not before `time`, where `time` may lie between two milliseconds.
    pub fn not_before(time: DateTime<Utc>) -> Self {
        let whole = DateTime::from_timestamp_millis(time.timestamp_millis()).unwrap_or(time);
        let next = (millis(time) + 1).min(MILLIS_MAX);
        if whole < time { Self::from_tick(next * FRACTIONS, 0) } else { Self::floor(time) }
    }

    /// When it happened, to the millisecond.
    pub fn timestamp(self) -> DateTime<Utc> {
        let millis = (self.0.as_u128() >> 80) as i64;
        DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    fn from_tick(tick: u64, random: u64) -> Self {
        let (millis, fraction) = (tick / FRACTIONS, tick % FRACTIONS);
        let bits = u128::from(millis) << 80
            | 0x7 << 76
            | u128::from(fraction) << 64
            | 0b10 << 62
            | u128::from(random & RANDOM_BITS);
        Self(Uuid::from_u128(bits))
    }
}

/// Milliseconds since 1970; what lies before is 1970, what does not fit is the last that does.
fn millis(time: DateTime<Utc>) -> u64 {
    u64::try_from(time.timestamp_millis()).unwrap_or(0).min(MILLIS_MAX)
}

/// 4096ths of a millisecond since 1970: 60 bits.
fn tick(time: DateTime<Utc>) -> u64 {
    let within = u64::from(time.timestamp_subsec_nanos() % 1_000_000);
    millis(time) * FRACTIONS + within * FRACTIONS / 1_000_000
}

impl TryFrom<Uuid> for EntryId {
    type Error = IdError;

    fn try_from(uuid: Uuid) -> Result<Self, IdError> {
        match uuid.get_version_num() {
            7 => Ok(Self(uuid)),
            _ => Err(IdError { given: uuid.to_string() }),
        }
    }
}

impl FromStr for EntryId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        let uuid = Uuid::try_parse(s).map_err(|_| IdError { given: s.to_owned() })?;
        Self::try_from(uuid)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({self})")
    }
}

/// Mints ids that only ever go up, also within a millisecond and when the clock takes a small step back.
///
/// Of several attempts inside one request the newest id is the one that was persisted, so the order matters.
#[derive(Debug, Default)]
pub struct Minter {
    last: AtomicU64,
}

/// How far a clock may step back and the order still hold. Past that the clock was wrong before, and following it tells
/// the truth sooner.
const STEP_BACK_MAX: u64 = 10_000 * FRACTIONS;

impl Minter {
    pub fn mint(&self, now: DateTime<Utc>, random: u64) -> EntryId {
        let now = tick(now);
        let next = |last: u64| if now > last || last - now > STEP_BACK_MAX { now } else { last + 1 };
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        let (Ok(last) | Err(last)) = last;
        EntryId::from_tick(next(last), random)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{SubsecRound, TimeDelta};

    use super::*;

    fn noon() -> DateTime<Utc> {
        "2026-03-01T12:00:00.123456789Z".parse().unwrap()
    }

    #[test]
    fn an_id_is_a_uuid_of_version_7_and_tells_its_millisecond() {
        let id = EntryId::at(noon(), u64::MAX);
        assert_eq!(id.as_uuid().get_version_num(), 7);
        assert_eq!(id.as_uuid().get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id.timestamp(), noon().trunc_subsecs(3));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_text_that_is_no_version_7_is_refused_by_name() {
        for given in ["", "42", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"] {
            assert_eq!(given.parse::<EntryId>(), Err(IdError { given: given.to_owned() }));
        }
    }

    #[test]
    fn bounds_lie_around_what_happened() {
        let id = EntryId::at(noon(), 0);
        assert!(EntryId::floor(noon()) <= id);
        assert!(EntryId::not_before(noon()) > id, "its timestamp is the whole millisecond, which is earlier");
        assert!(EntryId::not_before(noon().trunc_subsecs(3)) <= id);
        assert!(EntryId::floor(noon() + TimeDelta::milliseconds(1)) > EntryId::at(noon(), u64::MAX));
        assert!(EntryId::not_before(DateTime::<Utc>::MAX_UTC) > EntryId::at(noon(), u64::MAX), "what is past the last");
    }

    #[test]
    fn minted_ids_go_up_within_an_instant_and_over_a_small_step_back() {
        let minter = Minter::default();
        let mut last = minter.mint(noon(), 0);
        for (back, random) in [(0, 7), (0, 3), (0, u64::MAX), (9_999, 0), (5_000, 1)] {
            let next = minter.mint(noon() - TimeDelta::milliseconds(back), random);
            assert!(next > last, "{back} ms back");
            last = next;
        }
    }

    #[test]
    fn a_clock_that_was_far_ahead_is_followed_when_it_is_set_right() {
        let minter = Minter::default();
        minter.mint(noon() + TimeDelta::days(1), 0);
        assert_eq!(minter.mint(noon(), 0).timestamp(), noon().trunc_subsecs(3));
    }
}

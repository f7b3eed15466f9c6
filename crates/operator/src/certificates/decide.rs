//! What to do about certificates of our own, decided from what is kept, the time, and what this replica has seen.
//!
//! A CA is followed by another in three steps, each done by one replica and seen by all at their next look: the next CA is
//! *introduced* to the API server beside the current one; once that is known everywhere, serving is *switched* to a
//! certificate of the next one, while the API server still trusts both; once every replica has followed, the previous one
//! is *retired*. So no replica that looks at least once a settle time serves what the API server does not trust. One that
//! stood still, or could not read what is kept, for longer than two of them may: the others have retired its CA meanwhile.
//! Its calls fail as its policies say, and at its next look it follows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;

use super::check::{check, validity};
use super::make::{Beside, Bundle};
use super::{Names, RENEW_BEFORE, SERVING_VALID};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Keep,
    /// Everything anew: there is nothing that anybody could trust.
    Make,
    /// Another certificate under the same CA: whoever trusts the one trusts the other.
    Reissue,
    /// A CA that is to follow this one.
    Introduce,
    Switch,
    Retire,
}

/// What this replica has seen, by its own watch: the clocks of others are no part of it.
pub(super) struct Seen {
    /// How long a state of things has to last before all replicas and the API server have it.
    pub(super) settle: Duration,
    /// For how long the live registration has carried a CA, without a look at which it did not.
    pub(super) trusted: Vec<(CertificateDer<'static>, Duration)>,
    /// For how long this very certificate has been the one to serve with.
    pub(super) serving: Duration,
}

impl Seen {
    fn trusts(&self, authority: &CertificateDer<'_>) -> bool {
        self.trusted.iter().any(|(seen, since)| seen == authority && *since >= self.settle)
    }
}

/// Pure: every case is a row of a table test.
pub(super) fn decide(bundle: Option<&Bundle>, names: &Names, now: DateTime<Utc>, seen: &Seen) -> Step {
    let Some(bundle) = bundle else { return Step::Make };
    let authority = bundle.authority();
    let Some(until) = valid_until(authority, now) else { return Step::Make };
    let chain = bundle.certificate().chain();
    let fit = check(chain, Some(std::slice::from_ref(authority)), names.all(), now).is_ok();
    // Its own time, and not its CA's: another certificate would not outlast the CA, either.
    let lasts = chain.first().and_then(|own| valid_until(own, now)).is_some_and(|until| until - now >= RENEW_BEFORE);
    if !fit || !lasts {
        return Step::Reissue;
    }
    match &bundle.beside {
        Beside::Nothing if until - now < RENEW_BEFORE + SERVING_VALID => Step::Introduce,
        Beside::Next(next) if valid_until(next.der(), now).is_none() => Step::Introduce,
        Beside::Next(next) if seen.trusts(authority) && seen.trusts(next.der()) => Step::Switch,
        Beside::Previous(_) if seen.serving >= seen.settle => Step::Retire,
        Beside::Nothing | Beside::Next(_) | Beside::Previous(_) => Step::Keep,
    }
}

fn valid_until(certificate: &CertificateDer<'_>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let (from, until) = validity(certificate)?;
    (from <= now && now <= until).then_some(until)
}

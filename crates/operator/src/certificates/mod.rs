//! What the webhook's listener serves with, and what the API server is told to trust.
//!
//! Either a certificate that somebody else issues and puts into files ([`GivenFiles`]), or one of our own: a CA for ten
//! years and a serving certificate for one, kept in the [`Safe`], so that after a restart, and before the registration is
//! looked at, calls already succeed. Both are checked as the API server will check them, so that a certificate it would
//! refuse, each refusal a write unseen, is found at start.
//!
//! A [`Keeper`] looks at them with every look at the registration, and swaps what is served while it is served: a
//! certificate that will expire within [`RENEW_BEFORE`] or lacks a name is replaced under its CA, and one CA follows another
//! without a call refused ([`decide`]).

mod check;
mod decide;
mod given;
mod keeper;
mod make;
mod names;
mod trust;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cluster::Retry;
use listener::Certificate;

use self::make::Bundle;
use crate::registration::PERIOD;
use crate::safe::{Safe, SafeError};

pub use self::check::Unfit;
pub use self::given::KEEP_FOR;
pub use self::keeper::Keeper;
pub use self::names::{NameError, Names};

const CERTIFICATES: &str = "certificates.pem";

const AUTHORITY_VALID: TimeDelta = TimeDelta::days(3650);
const SERVING_VALID: TimeDelta = TimeDelta::days(365);
/// A certificate that has less left is replaced.
pub const RENEW_BEFORE: TimeDelta = TimeDelta::days(60);
/// The clocks of this machine and of the API server's may differ.
const BACKDATED: TimeDelta = TimeDelta::hours(1);
/// How long what one replica has done has to last before it is built upon: by then every other one has looked twice, and
/// each API server knows what is registered.
pub const SETTLE: Duration = Duration::from_secs(12);
/// API servers watch the registrations; tried: well under a second.
const PROPAGATION: Duration = Duration::from_secs(3);
/// Each turn but the first is a step done, or lost to a replica that does one at the same time.
const TURNS_MAX: u32 = 5;

const _: () = assert!(SETTLE.as_millis() > 2 * PERIOD.as_millis() + PROPAGATION.as_millis());
const _: () = assert!(KEEP_FOR.as_millis() > 2 * 60_000 + 2 * SETTLE.as_millis());

/// Where the certificate comes from.
#[derive(Clone)]
pub enum Source {
    SelfMade(Safe),
    Given(GivenFiles),
}

/// What the live registration carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live<'a> {
    pub ca_bundle: Option<&'a [u8]>,
    /// A replica of ours wrote it as it is.
    pub sealed: bool,
}

impl<'a> Live<'a> {
    fn sealed_bundle(&self) -> Option<&'a [u8]> {
        self.ca_bundle.filter(|_| self.sealed)
    }
}

/// Where one CA stands on its way to being followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is one.
    Steady,
    /// The next one is registered, too; served with is the current one.
    Introduced,
    /// Served with is the next one; the previous one is still registered.
    Switched,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Steady => "steady",
            Self::Introduced => "introduced",
            Self::Switched => "switched",
        })
    }
}

/// What is known of the certificate, for `/readyz` and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// When the API server will begin to refuse what is served now.
    pub expires: DateTime<Utc>,
    pub phase: Phase,
    /// Of the last look, where it failed: what was served before still is.
    pub last_error: Option<String>,
}

/// A certificate to serve with and the other half of it, for the registration.
#[derive(Clone, Debug)]
struct Serving {
    certificate: Certificate,
    /// PEM of what signs the certificate; none: what the API server's machine trusts anyway.
    ca_bundle: Option<Vec<u8>>,
    /// When the API server will begin to refuse it.
    expires: DateTime<Utc>,
}

/// A certificate that somebody else keeps: `tls.cert_file`, `tls.key_file`, `tls.ca_file`.
#[derive(Clone, Debug)]
pub struct GivenFiles {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Safe(#[from] SafeError),

    #[error("{key} {}: cannot be read: {}", path.display(), source.kind())]
    Read {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("tls.cert_file {} with tls.key_file {}: {fault}", cert_file.display(), key_file.display())]
    Pair { cert_file: PathBuf, key_file: PathBuf, fault: listener::CertificateError },

    #[error("tls.ca_file {}: accepted is PEM with one or more CERTIFICATE blocks", path.display())]
    Authority { path: PathBuf },

    #[error("tls.cert_file {}: the API server would refuse it: {unfit}", cert_file.display())]
    Unfit { cert_file: PathBuf, unfit: Unfit },

    #[error("making a certificate")]
    Make(#[from] rcgen::Error),

    #[error(transparent)]
    Tls(#[from] listener::TlsError),

    #[error("{place}: there is no certificate yet; `kubevision-audit serve` makes one at its start")]
    Missing { place: String },

    #[error("{place}: replaced by others {TURNS_MAX} times in a row: do all replicas have the same configuration?")]
    Unsettled { place: String },
}

impl CertificateError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::Safe(error) => error.retry(),
            Self::Unsettled { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }
}

/// What came of the wish for another CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It is kept in the safe; replicas that run carry it through.
    Begun,
    /// One CA was already being followed by another; nothing was changed.
    UnderWay(Phase),
}

/// Begins to replace our own CA, however long it is good for: its key may have leaked.
///
/// # Errors
/// Where the safe cannot be used, or holds no certificate yet.
pub async fn rotate(safe: &Safe, now: DateTime<Utc>) -> Result<Rotation, CertificateError> {
    for _ in 0..TURNS_MAX {
        let kept = safe.read(CERTIFICATES).await?;
        let Some(bundle) = kept.as_deref().and_then(Bundle::parse) else {
            return Err(CertificateError::Missing { place: safe.place(CERTIFICATES) });
        };
        match bundle.phase() {
            Phase::Steady => {}
            phase => return Ok(Rotation::UnderWay(phase)),
        }
        let fresh = bundle.introduced(now)?.text();
        if safe.exchange(CERTIFICATES, kept.as_deref(), fresh.as_bytes()).await? == fresh.as_bytes() {
            return Ok(Rotation::Begun);
        }
    }
    Err(CertificateError::Unsettled { place: safe.place(CERTIFICATES) })
}

/// What a message calls the place where certificates of our own are kept.
pub fn place(safe: &Safe) -> String {
    safe.place(CERTIFICATES)
}

#[cfg(test)]
mod tests;

//! What the webhook's listener serves with, and what the API server is told to trust.
//!
//! Either a certificate that somebody else issues and puts into files ([`given`]), or one of our own ([`self_made`]):
//! a CA for ten years and a serving certificate for one, kept in the [`Safe`], so that after a restart, and before the
//! registration is looked at, calls already succeed. Both are checked as the API server will check them, so that a
//! certificate it would refuse, each refusal a write unseen, is found at start.
//!
//! Nothing here watches: a certificate is looked at when the program starts. One of our own that has expired, that
//! will within [`RENEW_BEFORE`], or that lacks a name is replaced then; the CA stays as long as it is good.

mod check;
mod make;
mod names;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use cluster::Retry;
use listener::Certificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tracing::{info, warn};

use self::make::Bundle;
use crate::safe::{Safe, SafeError};

pub use self::check::Unfit;
pub use self::names::{NameError, Names};

const CERTIFICATES: &str = "certificates.pem";

const AUTHORITY_VALID: TimeDelta = TimeDelta::days(3650);
const SERVING_VALID: TimeDelta = TimeDelta::days(365);
/// A certificate that has less left is replaced at start: longer than a process is likely to run.
pub const RENEW_BEFORE: TimeDelta = TimeDelta::days(60);
/// The clocks of this machine and of the API server's may differ.
const BACKDATED: TimeDelta = TimeDelta::hours(1);
/// Each turn but the first is lost to a replica that starts at the same time with other names or another clock.
const TURNS_MAX: u32 = 5;

/// A certificate to serve with and the other half of it, for the registration.
#[derive(Clone, Debug)]
pub struct Serving {
    pub certificate: Certificate,
    /// PEM of what signs the certificate; none: what the API server's machine trusts anyway.
    pub ca_bundle: Option<Vec<u8>>,
    /// When the API server will begin to refuse it.
    pub expires: DateTime<Utc>,
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

/// The certificate of our own that is kept in the safe, for all of `names`; made or replaced where need be.
///
/// # Errors
/// Where the safe cannot be used.
pub async fn self_made(safe: &Safe, names: &Names, now: DateTime<Utc>) -> Result<Serving, CertificateError> {
    for _ in 0..TURNS_MAX {
        let kept = safe.read(CERTIFICATES).await?;
        let bundle = kept.as_deref().and_then(Bundle::parse);
        if let (Some(_), None) = (&kept, &bundle) {
            warn!(place = safe.place(CERTIFICATES), "what is kept there is no certificate of ours; making another");
        }
        let fresh = match (bundle.as_ref().map(|bundle| judge(bundle, names, now)), bundle) {
            (Some(Verdict::Keep), Some(bundle)) => return Ok(bundle.into_serving()),
            (Some(Verdict::Reissue), Some(bundle)) => bundle.reissued(names, now)?,
            _ => Bundle::made(names, now)?,
        };
        // What is there now, ours or another's, is judged in the next turn.
        safe.exchange(CERTIFICATES, kept.as_deref(), fresh.text().as_bytes()).await?;
        info!(place = safe.place(CERTIFICATES), "made a certificate for the webhook");
    }
    Err(CertificateError::Unsettled { place: safe.place(CERTIFICATES) })
}

/// The certificate that is given by files.
///
/// # Errors
/// Where a file is missing or of another kind, the key is not the certificate's, or the API server would refuse the
/// certificate: for its time, its issuer, or the name by which it calls. Names the file and the fault.
pub fn given(files: &GivenFiles, names: &Names, now: DateTime<Utc>) -> Result<Serving, CertificateError> {
    let GivenFiles { cert_file, key_file, ca_file } = files;
    let (chain, key) = (contents("tls.cert_file", cert_file)?, contents("tls.key_file", key_file)?);
    let certificate = Certificate::from_pem(&chain, &key).map_err(|fault| {
        let (cert_file, key_file) = (cert_file.clone(), key_file.clone());
        CertificateError::Pair { cert_file, key_file, fault }
    })?;
    let ca_bundle = ca_file.as_deref().map(|path| contents("tls.ca_file", path)).transpose()?;
    let roots = match (&ca_bundle, ca_file) {
        (Some(pem), Some(path)) => {
            Some(authorities(pem).ok_or_else(|| CertificateError::Authority { path: path.clone() })?)
        }
        _ => None,
    };
    let expires = check::check(certificate.chain(), roots.as_deref(), [names.called_by()], now)
        .map_err(|unfit| CertificateError::Unfit { cert_file: cert_file.clone(), unfit })?;
    Ok(Serving { certificate, ca_bundle, expires })
}

fn contents(key: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::Read { key, path: path.to_owned(), source })
}

fn authorities(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// What to do about a certificate of our own that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Another certificate under the same CA: whoever trusts the one trusts the other.
    Reissue,
    /// Another CA, too.
    Remake,
}

fn judge(bundle: &Bundle, names: &Names, now: DateTime<Utc>) -> Verdict {
    let (chain, roots) = (bundle.certificate().chain(), std::slice::from_ref(bundle.authority()));
    match check::check(chain, Some(roots), names.all(), now) {
        Ok(expires) if expires - now >= RENEW_BEFORE => Verdict::Keep,
        _ => match check::validity(bundle.authority()) {
            Some((from, until)) if from <= now && now + SERVING_VALID <= until => Verdict::Reissue,
            _ => Verdict::Remake,
        },
    }
}

#[cfg(test)]
mod tests;

//! A certificate as the API server will check it.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

/// Why the API server would refuse a certificate.
#[derive(Debug, PartialEq)]
pub enum Unfit {
    Expired(DateTime<Utc>),
    NotYet(DateTime<Utc>),
    Unsigned,
    Unnamed(String),
    Unreadable,
    Other(rustls::Error),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |at: &DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        match self {
            Self::Expired(at) => write!(f, "it or what signs it expired at {}", time(at)),
            Self::NotYet(at) => write!(f, "it or what signs it is not valid before {}", time(at)),
            Self::Unsigned => f.write_str("it is not signed by what tls.ca_file holds"),
            Self::Unnamed(name) => write!(f, "it is not for {name}, which the API server calls"),
            Self::Unreadable => f.write_str("it does not parse as an X.509 certificate"),
            Self::Other(error) => write!(f, "{error}"),
        }
    }
}

/// Until when `chain` is good for all of `names`; `roots` are what the API server is told to trust, none: what its
/// machine trusts, which nobody here knows.
pub(super) fn check<'a>(
    chain: &[CertificateDer<'_>],
    roots: Option<&[CertificateDer<'_>]>,
    names: impl IntoIterator<Item = &'a ServerName<'static>>,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, Unfit> {
    let Some((own, intermediates)) = chain.split_first() else { return Err(Unfit::Unreadable) };
    let mut expires = DateTime::<Utc>::MAX_UTC;
    // A root has its time, too: the API server's library looks at it, rustls doesn't.
    for certificate in chain.iter().chain(roots.unwrap_or_default()) {
        let (from, until) = validity(certificate).ok_or(Unfit::Unreadable)?;
        match () {
            () if now < from => return Err(Unfit::NotYet(from)),
            () if until < now => return Err(Unfit::Expired(until)),
            () => expires = expires.min(until),
        }
    }
    let parsed = ParsedCertificate::try_from(own).map_err(Unfit::Other)?;
    if let Some(roots) = roots {
        signed(&parsed, intermediates, roots, now)?;
    }
    for name in names {
        verify_server_name(&parsed, name).map_err(|_| Unfit::Unnamed(name.to_str().into_owned()))?;
    }
    Ok(expires)
}

/// From when to when a certificate says it is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let time = |at: x509_parser::time::ASN1Time| DateTime::from_timestamp(at.timestamp(), 0);
    Some((time(parsed.validity().not_before)?, time(parsed.validity().not_after)?))
}

fn signed(
    own: &ParsedCertificate<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: DateTime<Utc>,
) -> Result<(), Unfit> {
    use rustls::CertificateError::{BadSignature, UnknownIssuer};

    let mut anchors = RootCertStore::empty();
    for root in roots {
        anchors.add(root.clone().into_owned()).map_err(Unfit::Other)?;
    }
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.timestamp()).unwrap_or(0)));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(own, &anchors, intermediates, now, algorithms).map_err(
        |error| match error {
            rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => Unfit::Unsigned,
            error => Unfit::Other(error),
        },
    )
}

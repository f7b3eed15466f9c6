//! A CA of our own and the serving certificate it signs, and how they are kept: one text of PEM blocks, so that they change
//! together or not at all. The CA's certificate and key and the serving certificate and its key come first; while one CA
//! follows another, the next one's certificate and key, or the previous one's certificate, come after.

use std::time::Duration;

use chrono::{DateTime, Utc};
use listener::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::check::validity;
use super::{AUTHORITY_VALID, BACKDATED, Names, Phase, SERVING_VALID, Serving};

/// As it is kept. No `Debug`: it holds private keys.
pub(super) struct Bundle {
    current: Authority,
    serving_pem: String,
    serving_key_pem: String,
    pub(super) beside: Beside,
    certificate: Certificate,
    expires: DateTime<Utc>,
}

/// A CA that can sign.
pub(super) struct Authority {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

/// What else there is while one CA follows another.
pub(super) enum Beside {
    Nothing,
    /// Made known to the API server, so that it is trusted before anything is signed by it.
    Next(Authority),
    /// Kept known to the API server, for replicas that still serve what it signed. It signs nothing more, so its key is
    /// gone.
    Previous(String),
}

impl Bundle {
    pub(super) fn made(names: &Names, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        Self::issued(Authority::made(now)?, Beside::Nothing, names, now)
    }

    /// Another serving certificate, signed by the same CA.
    pub(super) fn reissued(self, names: &Names, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        Self::issued(self.current, self.beside, names, now)
    }

    /// With a CA that is to follow; one that was to is replaced.
    pub(super) fn introduced(self, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        Ok(Self { beside: Beside::Next(Authority::made(now)?), ..self })
    }

    /// With the next CA in the current one's place, where there is a next one.
    pub(super) fn switched(self, names: &Names, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        match self.beside {
            Beside::Next(next) => Self::issued(next, Beside::Previous(self.current.pem), names, now),
            Beside::Nothing | Beside::Previous(_) => Ok(self),
        }
    }

    /// Without the CA that was.
    pub(super) fn retired(self) -> Self {
        Self { beside: Beside::Nothing, ..self }
    }

    fn issued(current: Authority, beside: Beside, names: &Names, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&current.key_pem)?);
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(names.all().map(|name| name.to_str().into_owned()).collect::<Vec<_>>())?;
        set_validity(&mut params, now - BACKDATED, now + SERVING_VALID);
        params.distinguished_name = named("kubevision-audit");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let serving = params.signed_by(&key, &issuer)?;
        Self::of(current, [serving.pem(), key.serialize_pem()], beside).ok_or(rcgen::Error::CouldNotParseCertificate)
    }

    /// None where the text is not what [`Self::text`] gives.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut blocks = pem_blocks(std::str::from_utf8(text).ok()?).into_iter();
        let current = Authority::of(blocks.next()?, blocks.next()?)?;
        let serving = [blocks.next()?, blocks.next()?];
        let beside = match (blocks.next(), blocks.next(), blocks.next()) {
            (None, ..) => Beside::Nothing,
            (Some(previous), None, _) => {
                CertificateDer::from_pem_slice(previous.as_bytes()).ok()?;
                Beside::Previous(previous)
            }
            (Some(next), Some(key), None) => Beside::Next(Authority::of(next, key)?),
            (Some(_), Some(_), Some(_)) => return None,
        };
        Self::of(current, serving, beside)
    }

    fn of(current: Authority, [serving_pem, serving_key_pem]: [String; 2], beside: Beside) -> Option<Self> {
        let certificate = Certificate::from_pem(serving_pem.as_bytes(), serving_key_pem.as_bytes()).ok()?;
        let (_, authority_expires) = validity(&current.der)?;
        let (_, serving_expires) = validity(certificate.chain().first()?)?;
        let expires = authority_expires.min(serving_expires);
        Some(Self { current, serving_pem, serving_key_pem, beside, certificate, expires })
    }

    pub(super) fn text(&self) -> String {
        let mut text = [&self.current.pem, &self.current.key_pem, &self.serving_pem, &self.serving_key_pem]
            .map(String::as_str)
            .concat();
        match &self.beside {
            Beside::Nothing => {}
            Beside::Next(next) => text.extend([next.pem.as_str(), &next.key_pem]),
            Beside::Previous(previous) => text.push_str(previous),
        }
        text
    }

    pub(super) fn authority(&self) -> &CertificateDer<'static> {
        &self.current.der
    }

    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) fn phase(&self) -> Phase {
        match self.beside {
            Beside::Nothing => Phase::Steady,
            Beside::Next(_) => Phase::Introduced,
            Beside::Previous(_) => Phase::Switched,
        }
    }

    /// All that the API server is to trust.
    fn ca_bundle(&self) -> String {
        match &self.beside {
            Beside::Nothing => self.current.pem.clone(),
            Beside::Next(Authority { pem, .. }) | Beside::Previous(pem) => format!("{}{pem}", self.current.pem),
        }
    }

    pub(super) fn into_serving(self) -> Serving {
        let ca_bundle = Some(self.ca_bundle().into_bytes());
        Serving { certificate: self.certificate, ca_bundle, expires: self.expires }
    }
}

impl Authority {
    fn made(now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = authority_params();
        set_validity(&mut params, now - BACKDATED, now + AUTHORITY_VALID);
        let made = params.self_signed(&key)?;
        Self::of(made.pem(), key.serialize_pem()).ok_or(rcgen::Error::CouldNotParseCertificate)
    }

    /// None where the key is lost or another's: it could sign nothing that the certificate vouches for.
    fn of(pem: String, key_pem: String) -> Option<Self> {
        Certificate::from_pem(pem.as_bytes(), key_pem.as_bytes()).ok()?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        Some(Self { pem, key_pem, der })
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// The same each time but for the validity: who issues later is named as the CA was when it was made.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("kubevision-audit CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// rcgen takes its times in a type of another crate, which is made from a date here, and added to.
fn set_validity(params: &mut CertificateParams, from: DateTime<Utc>, until: DateTime<Utc>) {
    let since_epoch = |at: DateTime<Utc>| Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(until);
}

/// Each from its first line to its last; what stands between them is left out.
pub(super) fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("-----BEGIN ") {
            blocks.push(String::new());
            inside = true;
        }
        if let Some(block) = blocks.last_mut().filter(|_| inside) {
            block.push_str(line);
            block.push('\n');
        }
        inside &= !line.starts_with("-----END ");
    }
    blocks
}

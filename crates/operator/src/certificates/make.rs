//! A CA of our own and the serving certificate it signs, and how the two are kept: one text of four PEM blocks (the
//! CA's certificate and key, the serving certificate and its key), so that they change together or not at all.

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
use super::{AUTHORITY_VALID, BACKDATED, Names, SERVING_VALID, Serving};

/// As it is kept. No `Debug`: it holds two private keys.
pub(super) struct Bundle {
    authority_pem: String,
    authority_key_pem: String,
    serving_pem: String,
    serving_key_pem: String,
    authority: CertificateDer<'static>,
    certificate: Certificate,
    expires: DateTime<Utc>,
}

impl Bundle {
    pub(super) fn made(names: &Names, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = authority_params();
        set_validity(&mut params, now - BACKDATED, now + AUTHORITY_VALID);
        let authority = params.self_signed(&key)?;
        Self::issued(authority.pem(), key.serialize_pem(), names, now)
    }

    /// Another serving certificate, signed by the same CA.
    pub(super) fn reissued(self, names: &Names, now: DateTime<Utc>) -> Result<Self, rcgen::Error> {
        Self::issued(self.authority_pem, self.authority_key_pem, names, now)
    }

    fn issued(
        authority_pem: String,
        authority_key_pem: String,
        names: &Names,
        now: DateTime<Utc>,
    ) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&authority_key_pem)?);
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(names.all().map(|name| name.to_str().into_owned()).collect::<Vec<_>>())?;
        set_validity(&mut params, now - BACKDATED, now + SERVING_VALID);
        params.distinguished_name = named("kubevision-audit");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let serving = params.signed_by(&key, &issuer)?;
        Self::from_parts([authority_pem, authority_key_pem, serving.pem(), key.serialize_pem()])
            .ok_or(rcgen::Error::CouldNotParseCertificate)
    }

    /// None where the text is not what [`Self::text`] gives.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let blocks = pem_blocks(std::str::from_utf8(text).ok()?);
        Self::from_parts(blocks.try_into().ok()?)
    }

    fn from_parts([authority_pem, authority_key_pem, serving_pem, serving_key_pem]: [String; 4]) -> Option<Self> {
        let certificate = Certificate::from_pem(serving_pem.as_bytes(), serving_key_pem.as_bytes()).ok()?;
        // A CA whose key is lost or another's could sign nothing that its certificate vouches for.
        Certificate::from_pem(authority_pem.as_bytes(), authority_key_pem.as_bytes()).ok()?;
        let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes()).ok()?;
        let (_, authority_expires) = validity(&authority)?;
        let (_, serving_expires) = validity(certificate.chain().first()?)?;
        let expires = authority_expires.min(serving_expires);
        Some(Self { authority_pem, authority_key_pem, serving_pem, serving_key_pem, authority, certificate, expires })
    }

    pub(super) fn text(&self) -> String {
        [&self.authority_pem, &self.authority_key_pem, &self.serving_pem, &self.serving_key_pem]
            .map(String::as_str)
            .concat()
    }

    pub(super) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) fn into_serving(self) -> Serving {
        let Self { certificate, authority_pem, expires, .. } = self;
        Serving { certificate, ca_bundle: Some(authority_pem.into_bytes()), expires }
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

/// Each from its first line to its last.
fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    for line in text.lines() {
        if line.starts_with("-----BEGIN ") {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}

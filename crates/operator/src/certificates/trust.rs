//! CAs as a registration carries them, and since when this replica has seen them there.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::Instant;

use super::make::pem_blocks;

/// In their order, none twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Authorities(Vec<Authority>);

#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pem: String,
}

impl Authorities {
    /// None where a block is no certificate, or where there is none.
    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let mut all = Self::default();
        for pem in pem_blocks(std::str::from_utf8(pem).ok()?) {
            all.add(Authority { der: CertificateDer::from_pem_slice(pem.as_bytes()).ok()?, pem });
        }
        (!all.0.is_empty()).then_some(all)
    }

    pub(super) fn add(&mut self, authority: Authority) {
        if !self.contains(&authority.der) {
            self.0.push(authority);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.0.iter()
    }

    pub(super) fn ders(&self) -> Vec<CertificateDer<'static>> {
        self.0.iter().map(|authority| authority.der.clone()).collect()
    }

    pub(super) fn contains(&self, der: &CertificateDer<'_>) -> bool {
        self.0.iter().any(|authority| authority.der == *der)
    }

    /// In whatever order.
    pub(super) fn are_those_of(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().all(|authority| other.contains(&authority.der))
    }

    pub(super) fn text(&self) -> Vec<u8> {
        self.0.iter().map(|authority| authority.pem.as_str()).collect::<String>().into_bytes()
    }
}

/// Since when each certificate has been seen at every look.
#[derive(Debug, Default)]
pub(super) struct Sightings(Vec<(CertificateDer<'static>, Instant)>);

impl Sightings {
    /// Forgets what is not `there` any more.
    pub(super) fn look(&mut self, there: &[CertificateDer<'static>], at: Instant) {
        self.0.retain(|(seen, _)| there.contains(seen));
        for new in there {
            if !self.0.iter().any(|(seen, _)| seen == new) {
                self.0.push((new.clone(), at));
            }
        }
    }

    pub(super) fn all(&self, at: Instant) -> Vec<(CertificateDer<'static>, Duration)> {
        self.0.iter().map(|(seen, since)| (seen.clone(), at.duration_since(*since))).collect()
    }

    pub(super) fn of(&self, certificate: &CertificateDer<'_>, at: Instant) -> Option<Duration> {
        self.0.iter().find(|(seen, _)| seen == certificate).map(|(_, since)| at.duration_since(*since))
    }
}

//! A certificate in files that somebody else keeps: read again at every look, and taken over without a call refused.
//!
//! Replicas see new files at different times, up to minutes apart. So a CA is made known to the API server beside the one
//! before it, served with only once that is known, and one that this replica has no use for is left in the registration
//! for [`KEEP_FOR`]: another replica may still serve with it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use listener::Certificate;
use tokio::time::Instant;

use super::check::{check, validity};
use super::trust::{Authorities, Sightings};
use super::{CertificateError, GivenFiles, Live, Names, Phase, Serving, Unfit};

/// The kubelets of two nodes bring a changed Secret to their pods up to two minutes apart; twice that, and some.
pub const KEEP_FOR: Duration = Duration::from_secs(5 * 60);

/// Of a replica, from its start to its end.
pub(super) struct Given {
    files: GivenFiles,
    in_use: Loaded,
    /// Good, but not served with before its CA is known to the API server.
    next: Option<Loaded>,
    /// In the live registration, and none of ours.
    others: Sightings,
}

/// Files as they were read at one time.
struct Loaded {
    contents: Contents,
    certificate: Certificate,
    expires: DateTime<Utc>,
    /// None: the API server's machine trusts it anyway.
    roots: Option<Authorities>,
}

#[derive(PartialEq, Eq)]
struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

impl Given {
    pub(super) fn start(files: GivenFiles, names: &Names, now: DateTime<Utc>) -> Result<Self, CertificateError> {
        let in_use = Loaded::of(Contents::read(&files)?, &files, names, now)?;
        Ok(Self { files, in_use, next: None, others: Sightings::default() })
    }

    /// Looks at the files; tells what is wrong with them, where something is. `trusted` are the CAs that the live
    /// registration has carried for so long that the API server knows them.
    pub(super) fn look(
        &mut self,
        names: &Names,
        now: DateTime<Utc>,
        trusted: &[rustls::pki_types::CertificateDer<'static>],
    ) -> Result<(), CertificateError> {
        let contents = Contents::read(&self.files)?;
        if contents == self.in_use.contents {
            self.next = None;
            return Ok(());
        }
        let next = match self.next.take() {
            Some(next) if next.contents == contents => next,
            _ => Loaded::of(contents, &self.files, names, now)?,
        };
        if next.is_known(&self.in_use, names, now, trusted) {
            self.in_use = next;
        } else {
            self.next = Some(next);
        }
        Ok(())
    }

    /// What to serve with and what to register. A registration that somebody else has changed vouches for no CA.
    pub(super) fn serving(&mut self, live: Option<&Live<'_>>, now: DateTime<Utc>, at: Instant) -> (Serving, Phase) {
        let mut wanted = self.in_use.roots.clone();
        let mut phase = Phase::Steady;
        if let Some(wanted) = &mut wanted {
            for authority in self.next.iter().filter_map(|next| next.roots.as_ref()).flat_map(Authorities::iter) {
                phase = Phase::Introduced;
                wanted.add(authority.clone());
            }
            if let Some(live) = live {
                phase = self.keep_others(wanted, live, now, at).unwrap_or(phase);
            }
        }
        let ca_bundle = wanted.map(|wanted| match live.and_then(Live::sealed_bundle) {
            // Another replica's order is as good as ours.
            Some(bundle) if Authorities::parse(bundle).is_some_and(|there| there.are_those_of(&wanted)) => {
                bundle.to_vec()
            }
            _ => wanted.text(),
        });
        let Loaded { certificate, expires, .. } = &self.in_use;
        (Serving { certificate: certificate.clone(), ca_bundle, expires: *expires }, phase)
    }

    fn keep_others(
        &mut self,
        wanted: &mut Authorities,
        live: &Live<'_>,
        now: DateTime<Utc>,
        at: Instant,
    ) -> Option<Phase> {
        let there = live.ca_bundle.and_then(Authorities::parse).unwrap_or_default();
        let mut others = there.ders();
        others.retain(|der| {
            let known = live.sealed || self.others.of(der, at).is_some();
            let good = validity(der).is_some_and(|(_, until)| now <= until);
            known && good && !wanted.contains(der)
        });
        self.others.look(&others, at);
        let mut phase = None;
        for authority in there.iter() {
            if self.others.of(&authority.der, at).is_some_and(|since| since < KEEP_FOR) {
                wanted.add(authority.clone());
                phase = Some(Phase::Switched);
            }
        }
        phase
    }
}

impl Contents {
    fn read(files: &GivenFiles) -> Result<Self, CertificateError> {
        let ca = files.ca_file.as_deref().map(|path| contents("tls.ca_file", path)).transpose()?;
        let (chain, key) = (contents("tls.cert_file", &files.cert_file)?, contents("tls.key_file", &files.key_file)?);
        Ok(Self { chain, key, ca })
    }
}

impl Loaded {
    fn of(contents: Contents, files: &GivenFiles, names: &Names, now: DateTime<Utc>) -> Result<Self, CertificateError> {
        let GivenFiles { cert_file, key_file, ca_file } = files;
        let certificate = Certificate::from_pem(&contents.chain, &contents.key).map_err(|fault| {
            let (cert_file, key_file) = (cert_file.clone(), key_file.clone());
            CertificateError::Pair { cert_file, key_file, fault }
        })?;
        let roots = match (&contents.ca, ca_file) {
            (Some(pem), Some(path)) => {
                Some(Authorities::parse(pem).ok_or_else(|| CertificateError::Authority { path: path.clone() })?)
            }
            _ => None,
        };
        let ders = roots.as_ref().map(Authorities::ders);
        let expires = check(certificate.chain(), ders.as_deref(), [names.called_by()], now)
            .map_err(|unfit| CertificateError::Unfit { cert_file: cert_file.clone(), unfit })?;
        Ok(Self { contents, certificate, expires, roots })
    }

    /// Whether the API server would take it already, or takes nothing anyway.
    fn is_known(
        &self,
        in_use: &Self,
        names: &Names,
        now: DateTime<Utc>,
        trusted: &[rustls::pki_types::CertificateDer<'static>],
    ) -> bool {
        let Some(roots) = &self.roots else { return true };
        let before = in_use.roots.as_ref();
        let mut known = roots.ders();
        known.retain(|der| trusted.contains(der) || before.is_some_and(|before| before.contains(der)));
        let taken: Result<_, Unfit> = check(self.certificate.chain(), Some(&known), [names.called_by()], now);
        taken.is_ok() || in_use.expires < now
    }
}

fn contents(key: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::Read { key, path: path.to_owned(), source })
}

//! A replica's own keeper of its certificate: one look at a time, of which each ends with what to register.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::text::with_causes;
use listener::Tls;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::decide::{Seen, Step, decide};
use super::given::Given;
use super::make::Bundle;
use super::trust::{Authorities, Sightings};
use super::{CERTIFICATES, CertificateError, Live, Names, Phase, Serving, Source, Status, TURNS_MAX};
use crate::safe::Safe;

/// Holds the listener's TLS, and swaps its certificate when the time has come.
pub struct Keeper {
    source: Kept,
    names: Names,
    settle: Duration,
    /// CAs in the live registration.
    trusted: Sightings,
    tls: Arc<Tls>,
    pub(super) served: CertificateDer<'static>,
    served_since: Instant,
    /// As it was to be at the last look that went well.
    ca_bundle: Option<Vec<u8>>,
    status: watch::Sender<Status>,
}

enum Kept {
    SelfMade(Safe),
    Given(Box<Given>),
}

impl Keeper {
    /// What there is, made where it is missing, before the cluster has been asked. `settle` is
    /// [`SETTLE`](super::SETTLE), but in tests.
    ///
    /// # Errors
    /// Where the safe cannot be used, or the API server would refuse the given files.
    pub async fn start(
        source: Source,
        names: Names,
        settle: Duration,
        now: DateTime<Utc>,
    ) -> Result<Self, CertificateError> {
        let at = Instant::now();
        let (source, (serving, phase)) = match source {
            Source::SelfMade(safe) => {
                let first = self_made(&safe, &names, now, |_| unseen(settle)).await?;
                (Kept::SelfMade(safe), first)
            }
            Source::Given(files) => {
                let mut given = Box::new(Given::start(files, &names, now)?);
                let first = given.serving(None, now, at);
                (Kept::Given(given), first)
            }
        };
        let status = Status { expires: serving.expires, phase, last_error: None };
        Ok(Self {
            source,
            names,
            settle,
            trusted: Sightings::default(),
            tls: Arc::new(Tls::new(&serving.certificate)?),
            served: own(&serving),
            served_since: at,
            ca_bundle: serving.ca_bundle,
            status: watch::Sender::new(status),
        })
    }

    /// What the listener is to serve with: it follows every swap.
    pub fn tls(&self) -> Arc<Tls> {
        self.tls.clone()
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// One look, and what it takes; gives what the API server is to trust. `live` is what the registration carried just
    /// now, none: it could not be read. It must have been read *before* this: then no replica takes back what another
    /// has registered since.
    pub async fn look(&mut self, live: Option<&Live<'_>>, now: DateTime<Utc>) -> Option<Vec<u8>> {
        let at = Instant::now();
        if let Some(live) = live {
            let there = live.ca_bundle.and_then(Authorities::parse).unwrap_or_default();
            self.trusted.look(&there.ders(), at);
        }
        let (served, fault) = self.serving(live, now, at).await;
        let fault = match served {
            Some((serving, phase)) => self.serve(&serving, phase, at).err().or(fault),
            // What another replica registered may be newer than what this one knows.
            None => return self.unknown(live, fault),
        };
        self.tell(fault);
        self.ca_bundle.clone()
    }

    async fn serving(
        &mut self,
        live: Option<&Live<'_>>,
        now: DateTime<Utc>,
        at: Instant,
    ) -> (Option<(Serving, Phase)>, Option<CertificateError>) {
        let trusted = self.trusted.all(at);
        match &mut self.source {
            Kept::SelfMade(safe) => {
                let (served, since, settle) = (&self.served, at.duration_since(self.served_since), self.settle);
                let seen = |own: Option<&CertificateDer<'_>>| Seen {
                    settle,
                    trusted: trusted.clone(),
                    serving: if own == Some(served) { since } else { Duration::ZERO },
                };
                match self_made(safe, &self.names, now, seen).await {
                    Ok(serving) => (Some(serving), None),
                    Err(error) => (None, Some(error)),
                }
            }
            Kept::Given(given) => {
                let known = trusted.into_iter().filter(|(_, since)| *since >= self.settle).map(|(der, _)| der);
                let fault = given.look(&self.names, now, &known.collect::<Vec<_>>()).err();
                (Some(given.serving(live, now, at)), fault)
            }
        }
    }

    fn serve(&mut self, serving: &Serving, phase: Phase, at: Instant) -> Result<(), CertificateError> {
        let own = own(serving);
        if own != self.served {
            self.tls.swap(&serving.certificate)?;
            info!(expires = %serving.expires, "the webhook serves with another certificate");
            (self.served, self.served_since) = (own, at);
        }
        self.ca_bundle.clone_from(&serving.ca_bundle);
        let expires = serving.expires;
        self.status.send_if_modified(|status| {
            let changed = (status.expires, status.phase) != (expires, phase);
            if status.phase != phase {
                info!(%phase, "the webhook's CA");
            }
            (status.expires, status.phase) = (expires, phase);
            changed
        });
        Ok(())
    }

    fn unknown(&self, live: Option<&Live<'_>>, fault: Option<CertificateError>) -> Option<Vec<u8>> {
        self.tell(fault);
        live.and_then(Live::sealed_bundle).map(<[u8]>::to_vec).or_else(|| self.ca_bundle.clone())
    }

    /// Once, not at every look.
    fn tell(&self, fault: Option<CertificateError>) {
        let last_error = fault.as_ref().map(ToString::to_string);
        self.status.send_if_modified(|status| {
            let changed = status.last_error != last_error;
            if let (true, Some(error)) = (changed, &fault) {
                warn!(error = with_causes(error), "the webhook's certificate could not be looked after; it stays");
            }
            status.last_error = last_error;
            changed
        });
    }
}

/// The certificate of our own that is kept in the safe, for all of `names`; made, replaced or led a step further where
/// need be. Of many replicas one does each step, and all are given what it made.
async fn self_made(
    safe: &Safe,
    names: &Names,
    now: DateTime<Utc>,
    seen: impl Fn(Option<&CertificateDer<'_>>) -> Seen,
) -> Result<(Serving, Phase), CertificateError> {
    for _ in 0..TURNS_MAX {
        let kept = safe.read(CERTIFICATES).await?;
        let bundle = kept.as_deref().and_then(Bundle::parse);
        if let (Some(_), None) = (&kept, &bundle) {
            warn!(place = safe.place(CERTIFICATES), "what is kept there is no certificate of ours; making another");
        }
        let seen = seen(bundle.as_ref().and_then(|bundle| bundle.certificate().chain().first()));
        let step = decide(bundle.as_ref(), names, now, &seen);
        let fresh = match (step, bundle) {
            (Step::Keep, Some(bundle)) => {
                let phase = bundle.phase();
                return Ok((bundle.into_serving(), phase));
            }
            (Step::Reissue, Some(bundle)) => bundle.reissued(names, now)?,
            (Step::Introduce, Some(bundle)) => bundle.introduced(now)?,
            (Step::Switch, Some(bundle)) => bundle.switched(names, now)?,
            (Step::Retire, Some(bundle)) => bundle.retired(),
            (Step::Make, _) | (_, None) => Bundle::made(names, now)?,
        };
        // What is there now, ours or another's, is judged in the next turn.
        safe.exchange(CERTIFICATES, kept.as_deref(), fresh.text().as_bytes()).await?;
        info!(place = safe.place(CERTIFICATES), ?step, "changed the webhook's certificates");
    }
    Err(CertificateError::Unsettled { place: safe.place(CERTIFICATES) })
}

fn unseen(settle: Duration) -> Seen {
    Seen { settle, trusted: Vec::new(), serving: Duration::ZERO }
}

/// A certificate that was loaded has a first one in its chain.
fn own(serving: &Serving) -> CertificateDer<'static> {
    serving.certificate.chain().first().cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()))
}

//! What the API server calls, and that it does: the key, the certificate, the registration, and the reviews.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, Retry};
use domain::clock::Clock as _;
use domain::redact::{RedactionKey, Redactor};
use domain::seal::SealKey;
use domain::text::with_causes;
use intake::admission::Admission;
use listener::Bound;
use operator::certificates::{GivenFiles, Keeper, Names, SETTLE, Source};
use operator::policies;
use operator::registration::{self, Ledger, Registrar};
use operator::{Safe, keys};
use policy::Rules;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::adapters::{SystemClock, SystemEntropy};
use crate::app::RETRY;
use crate::config::Config;
use crate::health::Signs;
use crate::tasks::Outcome;

/// How the webhook's address is called where it cannot be bound.
pub const WEBHOOK_KEY: &str = "listen.webhook";
/// An API server that is there lists its policies in milliseconds.
const POLICIES_KNOWN_WITHIN: Duration = Duration::from_secs(3);

// What the webhook is registered with is what its answers reckon with.
const _: () = assert!(registration::TIMEOUT_SECONDS as u64 == intake::admission::WEBHOOK_TIMEOUT.as_secs());

/// What the API server calls, and that it does.
pub struct Webhook {
    pub config: Config,
    pub cluster: Cluster,
    pub namespace: String,
    pub safe: Safe,
    /// None while there is no key, or it is not known which policies there are: a call that is refused at once costs a
    /// write nothing, one that hangs its whole timeout.
    pub socket: Option<Bound>,
    pub recorder: pipeline::Recorder,
    pub reviews: intake::admission::Metrics,
    pub measures: operator::Metrics,
    pub signs: Arc<watch::Sender<Signs>>,
    pub rules: watch::Receiver<Arc<Rules>>,
    pub known: watch::Receiver<policies::Status>,
    pub audit_events: AuditEvents,
    /// Told once there is a key.
    pub redactor: watch::Sender<Option<Redactor>>,
}

/// What the door for audit events needs besides.
pub struct AuditEvents {
    pub settings: intake::audit_events::Settings,
    pub heard: intake::Heard,
    pub metrics: intake::audit_events::Metrics,
}

impl Webhook {
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
        // In a moment, as a rule; what the API server asks meanwhile waits for it.
        let _in_time = tokio::time::timeout(POLICIES_KNOWN_WITHIN, are_known(&mut self.known)).await;
        let Some(Keys { redactor, seal, keeper }) = self.keys(&stop).await? else { return Ok(()) };
        self.signs.send_modify(|signs| signs.key.clear());
        self.redactor.send_replace(Some(redactor.clone()));
        let policies_known = self.known.borrow().known;
        let mut socket = self.socket.take().filter(|_| policies_known);
        if !policies_known {
            warn!(
                "it is not known which AuditPolicies there are: no review is answered, and a registration that is there is \
                 left as it is, until it is"
            );
        }
        let (tls, mut certificate) = (keeper.tls(), keeper.status());
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let cluster = self.config.cluster.clone();
        let ledger = Ledger { recorder: self.recorder.clone(), clock, entropy, cluster, seal };
        let kubernetes = &self.config.kubernetes;
        let wanted = watch::Sender::new(Arc::new(registration::Settings {
            webhook_url: kubernetes.webhook_url.clone(),
            namespace: self.namespace.clone(),
            service: kubernetes.service.clone(),
            rules: self.rules.borrow().clone(),
            policies_known,
        }));
        let (registrar, mut status) = Registrar::new(registration::Parts {
            cluster: self.cluster,
            settings: wanted.subscribe(),
            keeper,
            ledger,
            metrics: self.measures,
        });
        let (mut rules, mut known) = (self.rules.clone(), self.known.clone());
        let follow = async {
            loop {
                let unknown = !wanted.borrow().policies_known;
                let followed = tokio::select! {
                    changed = rules.changed() => changed.is_ok(),
                    known = are_known(&mut known), if unknown => known,
                };
                if !followed {
                    return;
                }
                let (rules, policies_known) = (rules.borrow_and_update().clone(), known.borrow().known);
                wanted.send_modify(|wanted| {
                    let before = registration::Settings::clone(wanted);
                    *wanted = Arc::new(registration::Settings { rules, policies_known, ..before });
                });
            }
        };
        let settings = intake::admission::Settings {
            cluster: self.config.cluster.clone(),
            rules: self.rules.clone(),
            kinds: self.audit_events.settings.kinds.clone(),
        };
        let AuditEvents { settings: by, heard, metrics } = self.audit_events;
        let events = self.config.audit_events.clone().map(|callers| {
            intake::audit_events::router(intake::audit_events::Door {
                teller: intake::audit_events::Teller::new(by, redactor.clone()),
                recorder: self.recorder.clone(),
                callers,
                clock: Arc::new(SystemClock),
                heard,
                metrics,
            })
        });
        let admission =
            Admission::new(settings, self.recorder, redactor, Arc::new(SystemClock), Arc::new(SystemEntropy))
                .with_metrics(self.reviews);
        let router = intake::admission::router(Arc::new(admission)).merge(events.unwrap_or_default());
        certificate.mark_changed();
        let tell = async {
            loop {
                let told = tokio::select! {
                    told = status.changed() => told,
                    told = certificate.changed() => told,
                };
                if told.is_err() {
                    return;
                }
                let reason = unregistered(&status.borrow_and_update());
                let certificate = certificate.borrow_and_update().clone();
                self.signs.send_modify(|signs| (signs.webhook, signs.certificate) = (reason, Some(certificate)));
            }
        };
        // One token for both, so that a listener that fails takes the registrar along.
        let both = stop.child_token();
        let serve = async {
            let served = async {
                let known = async { are_known(&mut self.known).await };
                if both.run_until_cancelled(known).await.is_none() {
                    return Outcome::Ok(());
                }
                let socket = match socket.take() {
                    Some(socket) => socket,
                    None => Bound::bind(WEBHOOK_KEY, self.config.listen.webhook)?,
                };
                info!(address = %socket.local_addr(), namespace = self.namespace, "taking in admission reviews");
                Ok(socket.serve_tls(router, tls, both.clone()).await?)
            };
            let served = served.await;
            both.cancel();
            served
        };
        let (_, (), (), served) =
            tokio::join!(both.run_until_cancelled(follow), tell, registrar.run(both.clone()), serve);
        served
    }

    /// None where the program was stopped before they could be had.
    async fn keys(&mut self, stop: &CancellationToken) -> anyhow::Result<Option<Keys>> {
        let mut told = false;
        loop {
            let error = match self.try_keys().await {
                Ok(keys) => return Ok(Some(keys)),
                Err((error, Retry::Never)) => return Err(error),
                Err((error, Retry::Later)) => error,
            };
            self.socket = None;
            self.signs.send_modify(|signs| signs.key = error.to_string());
            if !told {
                warn!(
                    error = with_causes(error.as_ref()),
                    "no key and certificate yet; trying again until they are there"
                );
                told = true;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn try_keys(&self) -> Result<Keys, (anyhow::Error, Retry)> {
        let key = keys::redaction_key(&self.safe, &SystemEntropy).await;
        let key = key.map_err(|error| (error.retry(), error)).map_err(|(retry, error)| (error.into(), retry))?;
        let key = RedactionKey::new(key.into_bytes());
        let kubernetes = &self.config.kubernetes;
        let names = Names::of(kubernetes.webhook_url.as_ref(), &kubernetes.service, &self.namespace)
            .map_err(|error| (error.into(), Retry::Never))?;
        let source = match &self.config.tls {
            None => Source::SelfMade(self.safe.clone()),
            Some(given) => Source::Given(GivenFiles {
                cert_file: given.cert_file.clone(),
                key_file: given.key_file.clone(),
                ca_file: Some(given.ca_file.clone()),
            }),
        };
        let keeper = Keeper::start(source, names, SETTLE, SystemClock.now()).await;
        let keeper = keeper.map_err(|error| (error.retry(), error)).map_err(|(retry, error)| (error.into(), retry))?;
        Ok(Keys { seal: key.seal_key(), redactor: Redactor::new(key), keeper })
    }
}

/// Comes back once they are, and are in force; false where nobody will ever tell.
pub async fn are_known(policies: &mut watch::Receiver<policies::Status>) -> bool {
    policies.wait_for(|policies| policies.known).await.is_ok()
}

/// What the webhook needs before it can be called.
struct Keys {
    redactor: Redactor,
    seal: SealKey,
    keeper: Keeper,
}

/// Empty where the API server calls the webhook.
fn unregistered(status: &registration::Status) -> String {
    match (&status.last_error, status.registered) {
        (_, true) => String::new(),
        (Some(error), false) => error.clone(),
        (None, false) => "not registered yet".to_owned(),
    }
}

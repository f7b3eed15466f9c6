//! Keeps the webhook registered: creates its configuration, and repairs it when somebody changes or deletes it.
//!
//! A reconciler without input: every [`PERIOD`], and at once when what is wanted changes, it looks at the cluster, then at
//! the certificate ([`Keeper`]), decides purely ([`decide`]), and acts by server-side apply. All replicas do the same, and
//! agree, since all apply the same thing; each only to the very object that it looked at, so that one which stood still
//! meanwhile takes nothing back.
//!
//! A repair is recorded ([`Ledger`]): the API server shows a change of its registrations to no webhook.
//!
//! It never removes the registration. While the program restarts, calls fail open and the API server notes each of
//! them; without a registration nobody would know.

mod decide;
mod ledger;
mod removal;
mod seals;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, ClusterError, Retry};
use domain::system::Tampered;
use domain::text::with_causes;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::certificates::{Keeper, Live};
use crate::metrics::Metrics;

use self::seals::Seals;

pub use self::decide::{Known, Step, decide};
pub use self::ledger::{Ledger, SEAL};
pub use self::removal::{REMOVED_WITHIN, RemovalError, unregister, unregister_for_good};
pub(crate) use self::wanted::untold;
pub use self::wanted::{CONFIGURATION, DENYING_WEBHOOK, Settings, TIMEOUT_SECONDS, WEBHOOK, Wanted, wanted};

/// Between two looks. A hole that somebody makes by hand lasts five seconds at most, the repair itself included.
pub const PERIOD: Duration = Duration::from_secs(4);
/// After a first failure; doubled with each further one, up to the period.
const BACKOFF: Duration = Duration::from_millis(250);
/// Each look but the first is lost to a writer who was faster.
const LOOKS_MAX: u32 = 5;

/// What is known of the registration, for `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// At the last look that succeeded, the configuration was as it should be.
    pub registered: bool,
    /// Of the last look, where it failed.
    pub last_error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),

    /// Something in the cluster puts its changes back faster than we can look.
    #[error("ValidatingWebhookConfiguration {CONFIGURATION}: {} do not stay as they should be", fields.join(", "))]
    Unsettled { fields: Vec<&'static str> },
}

impl RegistrationError {
    pub fn retry(&self) -> Retry {
        match self {
            Self::Cluster(error) => error.retry(),
            Self::Unsettled { .. } => Retry::Later,
        }
    }
}

/// What a [`Registrar`] works with.
pub struct Parts {
    pub cluster: Cluster,
    /// A change of these is acted on at once.
    pub settings: watch::Receiver<Arc<Settings>>,
    pub keeper: Keeper,
    pub ledger: Ledger,
    pub metrics: Metrics,
}

/// The registration's keeper.
pub struct Registrar {
    parts: Parts,
    /// Seen since this process started, or made by it.
    registered_before: bool,
    seals: Seals,
    status: watch::Sender<Status>,
}

impl Registrar {
    pub fn new(parts: Parts) -> (Self, watch::Receiver<Status>) {
        let (status, seen) = watch::channel(Status::default());
        let registrar = Self { parts, registered_before: false, seals: Seals::default(), status };
        registrar.measure();
        (registrar, seen)
    }

    /// Keeps the registration until `stop`. To be run once the listener serves: from the first look on the API server
    /// calls.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let turn = async {
                let looked = self.reconcile().await;
                self.tell(&looked);
                failures = if looked.is_ok() { 0 } else { failures + 1 };
                tokio::select! {
                    () = tokio::time::sleep(pause(failures)) => {}
                    () = changed(&mut self.parts.settings) => {}
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = turn => {}
            }
        }
    }

    /// A look at the cluster, and what it takes; another one where somebody was faster. Tells what was done.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses, or what was written did not stay.
    pub async fn reconcile(&mut self) -> Result<Step, RegistrationError> {
        for _ in 1..LOOKS_MAX {
            match self.look().await {
                Err(RegistrationError::Cluster(error)) if error.is_conflict() => {}
                looked => return looked,
            }
        }
        self.look().await
    }

    async fn look(&mut self) -> Result<Step, RegistrationError> {
        let read = self.parts.cluster.registration(CONFIGURATION).await;
        let now = self.parts.ledger.clock.now();
        let live = match read {
            Ok(live) => live,
            Err(error) => {
                self.parts.keeper.look(None, now).await;
                self.measure();
                return Err(error.into());
            }
        };
        let ledger = &self.parts.ledger;
        let fits = live.as_ref().is_some_and(|live| ledger.fits(live));
        let seal = live.as_ref().and_then(ledger::seal);
        // One that was edited, and not taken away, is still what the next repair brings back.
        let put_back = (fits || live.is_none()) && self.seals.see(seal);
        let (sealed, seal) = (fits && !put_back, seal.filter(|_| !put_back));
        let carried = Live { ca_bundle: live.as_ref().and_then(ca_bundle), sealed };
        let ca_bundle = self.parts.keeper.look(Some(&carried), now).await;
        self.measure();
        let settings = self.parts.settings.borrow_and_update().clone();
        let wanted = wanted(&Wanted { settings: &settings, ca_bundle: ca_bundle.as_deref() });
        let wanted = ledger.sealed(wanted, seal);
        let written = ledger::seal(&wanted).map(str::to_owned);
        let manager = live.as_ref().map(ledger::other_manager).unwrap_or_default();
        let known = Known { registered_before: self.registered_before, ours: sealed };
        // What a replica that knows the policies has registered excludes and refuses what they say.
        let leave = live.is_some() && !settings.policies_known;
        let step = if leave { Step::Keep } else { decide(&wanted, live.as_ref(), known) };
        self.act(&step, wanted, live).await.inspect_err(|error| {
            let lost = matches!(error, RegistrationError::Cluster(error) if error.is_conflict());
            self.status.send_if_modified(|status| !lost && std::mem::take(&mut status.registered));
        })?;
        if step != Step::Keep {
            self.seals.see(written.as_deref());
        }
        let unwatched = !std::mem::replace(&mut self.registered_before, true);
        let done = match &step {
            Step::Restore => Tampered::Deleted,
            Step::Repair(fields) => Tampered::Changed { fields: fields.clone(), manager, unwatched },
            Step::Create | Step::Keep | Step::Update(_) => return Ok(step),
        };
        self.parts.metrics.repairs.inc();
        self.parts.ledger.record(done);
        Ok(step)
    }

    /// Server-side apply takes back every field that we state. What others have *added* (a condition, another webhook)
    /// is theirs to keep by its rules, and would narrow the record: only then the object is replaced.
    async fn act(
        &self,
        step: &Step,
        mut wanted: ValidatingWebhookConfiguration,
        live: Option<ValidatingWebhookConfiguration>,
    ) -> Result<(), RegistrationError> {
        let cluster = &self.parts.cluster;
        let applied = match (step, live) {
            (Step::Keep, _) => return Ok(()),
            (_, None) => cluster.create_registration(&wanted).await?,
            (_, Some(live)) => {
                wanted.metadata.resource_version = live.metadata.resource_version;
                cluster.apply_registration(&wanted).await?
            }
        };
        if decide::drift(&wanted, &applied).is_empty() {
            return Ok(());
        }
        let replaced = cluster.replace_registration(&decide::overlaid(&wanted, applied)).await?;
        let fields = decide::drift(&wanted, &replaced);
        if fields.is_empty() { Ok(()) } else { Err(RegistrationError::Unsettled { fields }) }
    }

    fn measure(&self) {
        let expires = self.parts.keeper.status().borrow().expires;
        self.parts.metrics.certificate_expires.set(expires.timestamp());
    }

    /// A registration that could not be looked at is presumed to be as it was: an API server that is away calls nobody.
    fn tell(&self, looked: &Result<Step, RegistrationError>) {
        let before = self.status.borrow().clone();
        let last_error = looked.as_ref().err().map(ToString::to_string);
        match looked {
            Ok(Step::Create) => info!(configuration = CONFIGURATION, "webhook registered"),
            Ok(Step::Update(fields)) => {
                info!(configuration = CONFIGURATION, ?fields, "the webhook's registration is brought up to date");
            }
            Ok(Step::Restore) => {
                warn!(configuration = CONFIGURATION, "the webhook's registration was deleted by somebody; restored");
            }
            Ok(Step::Repair(fields)) => {
                warn!(
                    configuration = CONFIGURATION,
                    ?fields,
                    "the webhook's registration was changed by somebody; repaired"
                );
            }
            Ok(Step::Keep) => {}
            // Once, not at every look.
            Err(_) if last_error == before.last_error => {}
            Err(error) => warn!(error = with_causes(error), "the webhook's registration could not be looked after"),
        }
        let registered = looked.is_ok() || before.registered;
        self.status.send_if_modified(|status| {
            let now = Status { registered, last_error };
            let changed = *status != now;
            *status = now;
            changed
        });
    }
}

/// Never, where nobody can change them any more.
async fn changed(settings: &mut watch::Receiver<Arc<Settings>>) {
    if settings.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn ca_bundle(live: &ValidatingWebhookConfiguration) -> Option<&[u8]> {
    let webhook = live.webhooks.iter().flatten().find(|webhook| webhook.name == WEBHOOK)?;
    webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice())
}

fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => PERIOD,
        Some(doublings) => BACKOFF.saturating_mul(2_u32.saturating_pow(doublings)).min(PERIOD),
    }
}

#[cfg(test)]
mod tests;

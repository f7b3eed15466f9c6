//! Keeps the webhook registered: creates its configuration, and repairs it when somebody changes or deletes it.
//!
//! A reconciler without input: it looks at the cluster every [`PERIOD`] and whenever the rules in force change, decides purely ([`decide`]), and acts by
//! server-side apply. All replicas do the same, and agree, since all apply the same thing.
//!
//! It never removes the registration. While the program restarts, calls fail open and the API server notes each of
//! them; without a registration nobody would know.

mod decide;
mod wanted;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::{Cluster, ClusterError, Retry};
use domain::text::with_causes;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use policy::Rules;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::decide::{Step, decide};
pub use self::wanted::{
    CONFIGURATION, DENYING_WEBHOOK, EXCLUSIONS, Exclusion, Settings, TIMEOUT_SECONDS, WEBHOOK, wanted,
};

/// Between two looks. A hole that somebody makes by hand lasts five seconds at most, the repair itself included.
pub const PERIOD: Duration = Duration::from_secs(4);
/// After a first failure; doubled with each further one, up to the period.
const BACKOFF: Duration = Duration::from_millis(250);

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

/// The registration's keeper.
pub struct Registrar {
    cluster: Cluster,
    settings: Settings,
    rules: watch::Receiver<Arc<Rules>>,
    /// What was in place when last looked at: a live object that is still so was changed by nobody.
    in_place: Mutex<Option<ValidatingWebhookConfiguration>>,
    status: watch::Sender<Status>,
}

impl Registrar {
    pub fn new(
        cluster: Cluster,
        settings: Settings,
        rules: watch::Receiver<Arc<Rules>>,
    ) -> (Self, watch::Receiver<Status>) {
        let (status, seen) = watch::channel(Status::default());
        (Self { cluster, settings, rules, in_place: Mutex::default(), status }, seen)
    }

    /// Keeps the registration until `stop`. To be run once the listener serves: from the first look on the API server
    /// calls.
    pub async fn run(self, stop: CancellationToken) {
        let mut failures = 0;
        let mut rules = self.rules.clone();
        loop {
            rules.mark_unchanged();
            let turn = async {
                let looked = self.reconcile().await;
                self.tell(&looked);
                failures = if looked.is_ok() { 0 } else { failures + 1 };
                let changed = async {
                    // Nobody changes them any more: the period alone is left.
                    if rules.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(pause(failures)) => {}
                    () = changed => {}
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = turn => {}
            }
        }
    }

    /// One look at the cluster, and what it takes. Tells what was done.
    ///
    /// # Errors
    /// Where the API server cannot be asked or refuses, or what was written did not stay.
    pub async fn reconcile(&self) -> Result<Step, RegistrationError> {
        let wanted = wanted(&self.settings, &self.rules.borrow());
        let live = self.cluster.registration(CONFIGURATION).await?;
        let step = match decide(&wanted, live.as_ref()) {
            Step::Repair(_) if self.is_as_left(live.as_ref()) => Step::Follow,
            step => step,
        };
        if step != Step::Keep {
            self.act(&wanted).await.inspect_err(|_| self.status.send_modify(|status| status.registered = false))?;
        }
        *self.in_place.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        Ok(step)
    }

    /// Before the first look nobody knows, and a change made while the program was away is brought up to date.
    fn is_as_left(&self, live: Option<&ValidatingWebhookConfiguration>) -> bool {
        let in_place = self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
        in_place.as_ref().is_none_or(|in_place| decide(in_place, live) == Step::Keep)
    }

    /// Server-side apply takes back every field that we state. What others have *added* (a condition, another webhook)
    /// is theirs to keep by its rules, and would narrow the record: only then the object is replaced.
    async fn act(&self, wanted: &ValidatingWebhookConfiguration) -> Result<(), RegistrationError> {
        let applied = self.cluster.apply_registration(wanted).await?;
        if decide(wanted, Some(&applied)) == Step::Keep {
            return Ok(());
        }
        let replaced = self.cluster.replace_registration(&decide::overlaid(wanted, applied)).await?;
        match decide(wanted, Some(&replaced)) {
            Step::Repair(fields) => Err(RegistrationError::Unsettled { fields }),
            Step::Create | Step::Keep | Step::Follow => Ok(()),
        }
    }

    /// A registration that could not be looked at is presumed to be as it was: an API server that is away calls nobody.
    fn tell(&self, looked: &Result<Step, RegistrationError>) {
        let before = self.status.borrow().clone();
        let last_error = looked.as_ref().err().map(ToString::to_string);
        match looked {
            Ok(Step::Create) => info!(configuration = CONFIGURATION, "webhook registered"),
            Ok(Step::Repair(fields)) => {
                warn!(
                    configuration = CONFIGURATION,
                    ?fields,
                    "the webhook's registration was changed by somebody; repaired"
                );
            }
            Ok(Step::Follow) => info!(configuration = CONFIGURATION, "webhook's registration brought up to date"),
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

/// Removes the registration, for good: for an uninstall. Tells whether there was one. A [`Registrar`] that runs puts
/// it back.
///
/// # Errors
/// Where the API server cannot be asked or refuses.
pub async fn unregister(cluster: &Cluster) -> Result<bool, ClusterError> {
    cluster.delete_registration(CONFIGURATION).await
}

fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => PERIOD,
        Some(doublings) => BACKOFF.saturating_mul(2_u32.saturating_pow(doublings)).min(PERIOD),
    }
}

#[cfg(test)]
mod tests;

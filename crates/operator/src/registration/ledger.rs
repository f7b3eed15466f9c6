//! How a registration is known for our own work, and where is recorded that it was not.

use std::sync::Arc;

use cluster::FIELD_MANAGER;
use domain::EntryId;
use domain::clock::{Clock, Entropy};
use domain::seal::SealKey;
use domain::system::{self, Tampered, Tampering};
use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhook, ValidatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use pipeline::Recorder;
use tracing::warn;

use super::wanted::CONFIGURATION;

/// The annotation that tells a registration which a replica wrote, of whatever version, from one that somebody changed.
/// Each write has another, so that one that is put back is known for it ([`Seals`](super::seals::Seals)).
pub const SEAL: &str = "audit.kubevision.io/seal";

/// Seals what is registered, and records repairs of what was not.
#[derive(Clone)]
pub struct Ledger {
    pub recorder: Recorder,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// Stamped on the entries.
    pub cluster: String,
    pub seal: SealKey,
}

impl Ledger {
    /// With the seal that is there, where it is one of this very registration; else with one that no other write has.
    pub(super) fn sealed(
        &self,
        mut registration: ValidatingWebhookConfiguration,
        there: Option<&str>,
    ) -> ValidatingWebhookConfiguration {
        let there = there.filter(|seal| self.is_of(&registration, seal)).map(str::to_owned);
        let seal = there.unwrap_or_else(|| {
            let nonce = format!("{:016x}", self.entropy.bits());
            format!("{nonce}.{}", self.seal.seal(&message(&registration, &nonce)))
        });
        registration.metadata.annotations.get_or_insert_default().insert(SEAL.to_owned(), seal);
        registration
    }

    pub(super) fn fits(&self, registration: &ValidatingWebhookConfiguration) -> bool {
        seal(registration).is_some_and(|seal| self.is_of(registration, seal))
    }

    fn is_of(&self, registration: &ValidatingWebhookConfiguration, seal: &str) -> bool {
        let parts = seal.split_once('.');
        parts.is_some_and(|(nonce, seal)| self.seal.fits(&message(registration, nonce), seal))
    }

    /// To be called by the one replica whose repair succeeded.
    pub(super) fn record(&self, done: Tampered) {
        let id = EntryId::at(self.clock.now(), self.entropy.bits());
        let tampering = Tampering {
            cluster: self.cluster.clone(),
            kind: "ValidatingWebhookConfiguration",
            name: CONFIGURATION.to_owned(),
            api_group: "admissionregistration.k8s.io",
            done,
        };
        if let Err(error) = self.recorder.record(system::tampering(id, &tampering)) {
            warn!(%error, "a repair of the registration is not recorded");
        }
    }
}

/// Whether it fits or not.
pub(super) fn seal(registration: &ValidatingWebhookConfiguration) -> Option<&str> {
    registration.metadata.annotations.as_ref()?.get(SEAL).map(String::as_str)
}

/// The program that wrote last of what is sealed, but for this one, by the name it gave itself; empty where there was
/// none. Who labels the object has no part in it.
pub(super) fn other_manager(live: &ValidatingWebhookConfiguration) -> String {
    let managers = live.metadata.managed_fields.iter().flatten();
    let others = managers.filter(|entry| {
        let has = |field: &str| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(field).is_some());
        let sealed = has("/f:webhooks") || has("/f:metadata/f:annotations/f:audit.kubevision.io~1seal");
        sealed && entry.manager.as_deref().is_some_and(|name| name != FIELD_MANAGER)
    });
    let newest = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    newest.and_then(|entry| entry.manager.clone()).unwrap_or_default()
}

fn message(registration: &ValidatingWebhookConfiguration, nonce: &str) -> Vec<u8> {
    let mut message = nonce.as_bytes().to_vec();
    message.push(b'.');
    message.extend(canonical(registration));
    message
}

/// Of the webhooks alone, with what means the same written the same: the API server may leave out an empty selector.
fn canonical(registration: &ValidatingWebhookConfiguration) -> Vec<u8> {
    let selector = |selector: &mut Option<LabelSelector>| {
        let LabelSelector { match_expressions, match_labels } = selector.take().unwrap_or_default();
        let match_expressions = match_expressions.filter(|all| !all.is_empty());
        let match_labels = match_labels.filter(|all| !all.is_empty());
        *selector = Some(LabelSelector { match_expressions, match_labels });
    };
    let webhooks: Vec<ValidatingWebhook> = registration.webhooks.clone().unwrap_or_default();
    let plain = webhooks.into_iter().map(|mut webhook| {
        selector(&mut webhook.namespace_selector);
        selector(&mut webhook.object_selector);
        webhook
    });
    // Plain data with texts for keys always has a JSON form; an empty one fits no seal that was ever made.
    serde_json::to_vec(&plain.collect::<Vec<_>>()).unwrap_or_default()
}

//! What to do about the live configuration, decided from the two objects alone.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{ValidatingWebhook, ValidatingWebhookConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Create,
    /// It was there, and somebody has deleted it.
    Restore,
    Keep,
    /// A replica of ours wrote it: an earlier version, or one that did not know of a CA. The fields that differ.
    Update(Vec<&'static str>),
    /// The fields that somebody has changed, taken away or added.
    Repair(Vec<&'static str>),
}

/// What is known besides the two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// This process has seen the webhook registered.
    pub registered_before: bool,
    /// The live object is the work of a replica of ours.
    pub ours: bool,
}

/// Pure: every case is a row of a table test.
pub fn decide(
    wanted: &ValidatingWebhookConfiguration,
    live: Option<&ValidatingWebhookConfiguration>,
    known: Known,
) -> Step {
    let Some(live) = live else { return if known.registered_before { Step::Restore } else { Step::Create } };
    let drift = drift(wanted, live);
    match (drift.is_empty(), known.ours) {
        (true, _) => Step::Keep,
        (false, true) => Step::Update(drift),
        (false, false) => Step::Repair(drift),
    }
}

/// The live object with what is wanted put over it: what others keep in its metadata stays, nothing else.
pub(super) fn overlaid(
    wanted: &ValidatingWebhookConfiguration,
    mut live: ValidatingWebhookConfiguration,
) -> ValidatingWebhookConfiguration {
    let put = |over: &Option<BTreeMap<String, String>>, under: &mut Option<BTreeMap<String, String>>| {
        under.get_or_insert_default().extend(over.clone().unwrap_or_default());
    };
    put(&wanted.metadata.labels, &mut live.metadata.labels);
    put(&wanted.metadata.annotations, &mut live.metadata.annotations);
    live.webhooks.clone_from(&wanted.webhooks);
    live
}

pub(super) fn drift(
    wanted: &ValidatingWebhookConfiguration,
    live: &ValidatingWebhookConfiguration,
) -> Vec<&'static str> {
    let mut drift = Vec::new();
    // Other tools label and annotate what they see; only ours matter.
    if !holds(live.metadata.labels.as_ref(), wanted.metadata.labels.as_ref()) {
        drift.push("labels");
    }
    if !holds(live.metadata.annotations.as_ref(), wanted.metadata.annotations.as_ref()) {
        drift.push("annotations");
    }
    let (wanted, live) = (webhooks(wanted), webhooks(live));
    if wanted.len() != live.len() {
        drift.push("webhooks");
    }
    for (wanted, live) in wanted.iter().zip(live) {
        drift.extend(webhook_drift(wanted, live));
    }
    drift
}

/// Takes the wanted one apart, so that a field which a later version of the API adds does not compile before it is
/// compared.
fn webhook_drift(wanted: &ValidatingWebhook, live: &ValidatingWebhook) -> impl Iterator<Item = &'static str> + use<> {
    let ValidatingWebhook {
        admission_review_versions,
        client_config,
        failure_policy,
        match_conditions,
        match_policy,
        name,
        namespace_selector,
        object_selector,
        rules,
        side_effects,
        timeout_seconds,
    } = wanted;
    [
        ("name", *name == live.name),
        ("clientConfig", *client_config == live.client_config),
        ("rules", *rules == live.rules),
        ("matchConditions", *match_conditions == live.match_conditions),
        ("failurePolicy", *failure_policy == live.failure_policy),
        ("timeoutSeconds", *timeout_seconds == live.timeout_seconds),
        ("namespaceSelector", same_selector(namespace_selector.as_ref(), live.namespace_selector.as_ref())),
        ("objectSelector", same_selector(object_selector.as_ref(), live.object_selector.as_ref())),
        ("matchPolicy", *match_policy == live.match_policy),
        ("sideEffects", *side_effects == live.side_effects),
        ("admissionReviewVersions", *admission_review_versions == live.admission_review_versions),
    ]
    .into_iter()
    .filter_map(|(field, same)| (!same).then_some(field))
}

/// An empty selector, an empty part of one, and none are the same: all match everything.
fn same_selector(wanted: Option<&LabelSelector>, live: Option<&LabelSelector>) -> bool {
    let parts = |selector: Option<&LabelSelector>| {
        let selector = selector.cloned().unwrap_or_default();
        (selector.match_expressions.unwrap_or_default(), selector.match_labels.unwrap_or_default())
    };
    parts(wanted) == parts(live)
}

fn webhooks(configuration: &ValidatingWebhookConfiguration) -> &[ValidatingWebhook] {
    configuration.webhooks.as_deref().unwrap_or_default()
}

fn holds(all: Option<&BTreeMap<String, String>>, some: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key| all.and_then(|all| all.get(key));
    some.is_none_or(|some| some.iter().all(|(key, wanted)| value(key) == Some(wanted)))
}

//! The webhook's configuration as it should be: every write is reviewed, but for what no person would look for.
//!
//! Each field is stated, also where it equals the API server's default, so that a live object can be compared field by
//! field and what we apply takes every field from whoever changed it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::FIELD_MANAGER;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, RuleWithOperations, ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use policy::{EXCLUSIONS, Exclusion, Rules};

use crate::webhook_url::{ADMISSION_PATH, WebhookUrl};

/// The configuration's name.
pub const CONFIGURATION: &str = "kubevision-audit";
/// The webhook's name, by which audit events tell its annotations. It must be a full domain name; kept for good, since
/// recorded events are read by it.
pub const WEBHOOK: &str = domain::event::WEBHOOK;

/// The one that fails closed; there only while a policy asks for it.
pub const DENYING_WEBHOOK: &str = domain::event::DENYING_WEBHOOK;

/// What kube-apiserver accepts for one webhook.
const CONDITIONS_MAX: usize = 64;
/// Policies whose exclusion the API server is told; those beyond are decided in the program.
const EXCLUSIONS_MAX: usize = 48;
/// Policies that fail closed also while the program is away; those beyond only while it is there.
const DENIALS_MAX: usize = 16;

const _: () = assert!(EXCLUSIONS.len() + EXCLUSIONS_MAX < CONDITIONS_MAX);

/// The port of the Service.
const SERVICE_PORT: i32 = 8443;
/// What a hung webhook costs each write. An answer takes milliseconds.
pub const TIMEOUT_SECONDS: i32 = 2;

/// How the webhook is reached, and where it lives: all that may be wanted but for the certificate's other half.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Outside a cluster; none: through the Service.
    pub webhook_url: Option<WebhookUrl>,
    pub namespace: String,
    pub service: String,
    /// The policies in force.
    pub rules: Arc<Rules>,
    /// Whether it is known which policies there are; until then a registration that is there is left as it is.
    pub policies_known: bool,
}

/// All that a registration is made of.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub settings: &'a Settings,
    /// PEM of what signs the webhook's certificate; none: what the API server's machine trusts anyway.
    pub ca_bundle: Option<&'a [u8]>,
}

/// Pure: the same for every replica that has the same inputs. Derived from the policies: what they record nothing of is not asked about, and what they refuse when it cannot be
/// recorded is asked of a webhook that fails closed. A write is asked of one of the two, never of both.
pub fn wanted(inputs: &Wanted<'_>) -> ValidatingWebhookConfiguration {
    let rules = &inputs.settings.rules;
    let always = || EXCLUSIONS.iter().map(condition);
    let unwanted = rules.exclusions(EXCLUSIONS_MAX);
    // By number: a policy's name may be longer than a condition's.
    let unwanted = unwanted.iter().enumerate().map(|(n, unwanted)| MatchCondition {
        name: format!("unwanted-{n}"),
        expression: format!("!({})", unwanted.matches),
    });
    let mut conditions: Vec<_> = always().chain(unwanted).collect();
    let mut webhooks = Vec::new();
    if let Some(denied) = denied(rules) {
        conditions.push(MatchCondition { name: "not-denied".to_owned(), expression: format!("!({denied})") });
        let denied = MatchCondition { name: "denied".to_owned(), expression: denied };
        webhooks.push(webhook(inputs, DENYING_WEBHOOK, "Fail", always().chain([denied]).collect()));
    }
    webhooks.insert(0, webhook(inputs, WEBHOOK, "Ignore", conditions));
    configuration(webhooks)
}

/// CEL, true for what is refused when it cannot be recorded; None where nothing is.
fn denied(rules: &Rules) -> Option<String> {
    let denials = rules.denials(DENIALS_MAX).told;
    if denials.is_empty() {
        return None;
    }
    let any: Vec<_> = denials.iter().map(|denial| format!("({})", denial.matches)).collect();
    Some(format!("!({}) && ({})", policy::spared_as_condition(), any.join(" || ")))
}

/// The policies that refuse only while this program is there, and why: the API server is not told of them.
pub(crate) fn untold(rules: &Rules) -> BTreeMap<String, String> {
    rules.denials(DENIALS_MAX).untold.into_iter().map(|untold| (untold.name, untold.reason)).collect()
}

fn configuration(webhooks: Vec<ValidatingWebhook>) -> ValidatingWebhookConfiguration {
    ValidatingWebhookConfiguration {
        metadata: ObjectMeta {
            name: Some(CONFIGURATION.to_owned()),
            labels: Some(texts([
                ("app.kubernetes.io/name", FIELD_MANAGER),
                ("app.kubernetes.io/component", "webhook"),
                ("app.kubernetes.io/managed-by", FIELD_MANAGER),
            ])),
            // Without it AKS leaves kube-system out of every webhook, by rewriting it again and again.
            annotations: Some(texts([("admissions.enforcer/disabled", "true")])),
            ..ObjectMeta::default()
        },
        webhooks: Some(webhooks),
    }
}

fn webhook(inputs: &Wanted<'_>, name: &str, failure: &str, conditions: Vec<MatchCondition>) -> ValidatingWebhook {
    ValidatingWebhook {
        name: name.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: client_config(inputs),
        // Ignore, but where somebody asked for the other: an audit log that can stop a Deployment has no place in a cluster.
        failure_policy: Some(failure.to_owned()),
        match_conditions: Some(conditions),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(all_but(&inputs.settings.namespace)),
        object_selector: Some(LabelSelector::default()),
        rules: Some(vec![every_write()]),
        // It records, but not a dry run.
        side_effects: "NoneOnDryRun".to_owned(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
    }
}

fn client_config(&Wanted { settings, ca_bundle }: &Wanted<'_>) -> WebhookClientConfig {
    let service = ServiceReference {
        namespace: settings.namespace.clone(),
        name: settings.service.clone(),
        path: Some(ADMISSION_PATH.to_owned()),
        port: Some(SERVICE_PORT),
    };
    WebhookClientConfig {
        ca_bundle: ca_bundle.map(|pem| ByteString(pem.to_vec())),
        url: settings.webhook_url.as_ref().map(WebhookUrl::admission),
        service: settings.webhook_url.is_none().then_some(service),
    }
}

/// `*/*` is every resource and every subresource: kube-apiserver matches the part behind the slash by itself, and an
/// object's own is empty.
fn every_write() -> RuleWithOperations {
    let all = || Some(vec!["*".to_owned()]);
    RuleWithOperations {
        api_groups: all(),
        api_versions: all(),
        operations: Some(["CREATE", "UPDATE", "DELETE", "CONNECT"].map(str::to_owned).into()),
        resources: Some(vec!["*/*".to_owned()]),
        scope: Some("*".to_owned()),
    }
}

/// Our own namespace: what starts us must not wait for us.
fn all_but(namespace: &str) -> LabelSelector {
    LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "kubernetes.io/metadata.name".to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec![namespace.to_owned()]),
        }]),
        match_labels: None,
    }
}

fn condition(exclusion: &Exclusion) -> MatchCondition {
    MatchCondition { name: exclusion.name.to_owned(), expression: format!("!({})", exclusion.matches) }
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

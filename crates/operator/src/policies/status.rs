//! What a policy's status and its events say.

use api::{AuditPolicy, AuditPolicyStatus, InForce, Level, OnWriteFailure};
use chrono::{DateTime, SecondsFormat, Utc};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::judge::Judged;

const READY: &str = "Ready";
const CONTROLLER: &str = "audit.kubevision.io/operator";
/// etcd's and kubectl's patience with a message.
const MESSAGE_CHARS_MAX: usize = 1_024;

/// The part of a status that tells what is in force.
#[derive(Debug)]
pub(super) struct Wanted {
    ready: bool,
    reason: &'static str,
    message: String,
    since: String,
    generation: i64,
    in_force: Option<InForce>,
}

pub(super) fn wanted(policy: &AuditPolicy, judged: &Judged, live: &AuditPolicyStatus, now: DateTime<Utc>) -> Wanted {
    let ready = judged.fault.is_none();
    let (reason, message) = told(policy, judged);
    let before = live.conditions.iter().find(|condition| condition.type_ == READY);
    let kept = before.filter(|before| before.status == word(ready));
    let since = kept.and_then(|kept| serde_json::to_value(&kept.last_transition_time).ok());
    let since = since.and_then(|since| since.as_str().map(str::to_owned));
    Wanted {
        ready,
        reason,
        message,
        since: since.unwrap_or_else(|| now.to_rfc3339_opts(SecondsFormat::Secs, true)),
        generation: judged.version.generation,
        in_force: judged.in_force.clone(),
    }
}

impl Wanted {
    pub(super) fn says_the_same_as(&self, live: &AuditPolicyStatus) -> bool {
        let condition = live.conditions.iter().find(|condition| condition.type_ == READY);
        condition.is_some_and(|condition| {
            condition.status == word(self.ready)
                && condition.reason == self.reason
                && condition.message == self.message
                && condition.observed_generation == Some(self.generation)
        }) && live.observed_generation == Some(self.generation)
            && live.in_force == self.in_force
    }

    pub(super) fn json(&self) -> Value {
        let mut status = json!({
            "observedGeneration": self.generation,
            "conditions": [{
                "type": READY, "status": word(self.ready), "reason": self.reason, "message": self.message,
                "lastTransitionTime": self.since, "observedGeneration": self.generation,
            }],
        });
        if let Some(in_force) = &self.in_force {
            status["inForce"] = json!(in_force);
        }
        status
    }
}

/// An event of a name that all replicas would give it, so that it is told once.
pub(super) fn event(policy: &AuditPolicy, judged: &Judged, now: DateTime<Utc>) -> Event {
    let (reason, message) = told(policy, judged);
    let name = policy.metadata.name.clone().unwrap_or_default();
    let uid = policy.metadata.uid.clone().unwrap_or_default();
    let kind = if judged.fault.is_none() { "Normal" } else { "Warning" };
    let unique = format!("{:.8}.{}.{}", uid, judged.version.generation, reason.to_ascii_lowercase());
    let time = json!(now.to_rfc3339_opts(SecondsFormat::Micros, true));
    Event {
        metadata: ObjectMeta { name: Some(format!("{name:.180}.{unique}")), ..ObjectMeta::default() },
        action: Some("Reconcile".to_owned()),
        event_time: serde_json::from_value(time).ok(),
        note: Some(message),
        reason: Some(reason.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("audit.kubevision.io/v1alpha1".to_owned()),
            kind: Some("AuditPolicy".to_owned()),
            name: Some(name),
            uid: Some(uid),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some("kubevision-audit".to_owned()),
        type_: Some(kind.to_owned()),
        ..Event::default()
    }
}

fn told(policy: &AuditPolicy, judged: &Judged) -> (&'static str, String) {
    let Some(fault) = &judged.fault else { return ("InForce", in_words(policy)) };
    let instead = match &judged.in_force {
        Some(in_force) => format!("generation {} stays in force", in_force.generation),
        None => "no version of this policy is in force".to_owned(),
    };
    let message: String = fault.message().chars().take(MESSAGE_CHARS_MAX - 100).collect();
    (fault.reason(), format!("{message}; {instead}"))
}

fn in_words(policy: &AuditPolicy) -> String {
    let spec = &policy.spec;
    if spec.level == Level::None {
        return match spec.match_.expression.trim() {
            "" => "in force: nothing is recorded".to_owned(),
            _ => {
                "in force: nothing is recorded; since it has an expression the API server asks all the same".to_owned()
            }
        };
    }
    let kept = match spec.retention_days {
        0 => "for ever".to_owned(),
        1 => "for 1 day".to_owned(),
        days => format!("for {days} days"),
    };
    let waits = match (spec.sync, spec.on_write_failure) {
        (_, OnWriteFailure::Deny) => "; a write that cannot be recorded is refused",
        (true, _) => "; writes wait for their record",
        (false, _) => "",
    };
    format!("in force: {:?} is recorded and kept {kept}{waits}", spec.level)
}

fn word(ready: bool) -> &'static str {
    if ready { "True" } else { "False" }
}

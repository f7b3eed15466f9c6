//! What a policy's status and its events say.

use api::{AuditPolicySpec, AuditPolicyStatus, InForce, Level, Match, OnWriteFailure};
use chrono::{DateTime, SecondsFormat, Utc};
use cluster::FoundPolicy;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::judge::{Judged, Version};

const READY: &str = "Ready";
const CONTROLLER: &str = "audit.kubevision.io/operator";
/// etcd's and kubectl's patience with a message.
const MESSAGE_CHARS_MAX: usize = 1_024;

/// The part of a status that tells what is in force.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    version: Version,
    ready: bool,
    reason: &'static str,
    message: String,
    in_force: Option<InForce>,
}

/// `untold` is why the API server does not know of a policy that refuses. What the status says is in force stays there
/// until there is a later version: it may be one that only another version of the program can put in force.
pub(super) fn wanted(found: &FoundPolicy, judged: &Judged, untold: Option<&str>) -> Wanted {
    let (reason, message) = told(found, judged, untold);
    let live = found.status.as_ref().and_then(|live| live.in_force.as_ref());
    let ours = judged.in_force.as_ref();
    let ours = ours.filter(|ours| live.is_none_or(|live| live.generation <= ours.generation));
    Wanted {
        version: judged.version.clone(),
        ready: judged.fault.is_none(),
        reason,
        message,
        in_force: ours.or(live).cloned(),
    }
}

impl Wanted {
    pub(super) fn says_the_same_as(&self, live: &AuditPolicyStatus) -> bool {
        let generation = Some(self.version.generation);
        let condition = live.conditions.iter().find(|condition| condition.type_ == READY);
        condition.is_some_and(|condition| {
            condition.status == word(self.ready)
                && condition.reason == self.reason
                && condition.message == self.message
                && condition.observed_generation == generation
        }) && live.observed_generation == generation
            && live.in_force == self.in_force
    }

    pub(super) fn json(&self, live: &AuditPolicyStatus, now: DateTime<Utc>) -> Value {
        let before = live.conditions.iter().find(|condition| condition.type_ == READY);
        let kept = before.filter(|before| before.status == word(self.ready));
        let since = kept.map_or_else(|| seconds(now), |kept| json!(kept.last_transition_time));
        let generation = self.version.generation;
        let mut status = json!({
            "observedGeneration": generation,
            "conditions": [{
                "type": READY, "status": word(self.ready), "reason": self.reason, "message": self.message,
                "lastTransitionTime": since, "observedGeneration": generation,
            }],
        });
        if let Some(in_force) = &self.in_force {
            status["inForce"] = json!(in_force);
        }
        status
    }
}

/// An event of a name that all replicas would give it, so that it is told once.
pub(super) fn event(found: &FoundPolicy, judged: &Judged, untold: Option<&str>, now: DateTime<Utc>) -> Event {
    let (reason, message) = told(found, judged, untold);
    let name = found.metadata.name.clone().unwrap_or_default();
    let uid = found.metadata.uid.clone().unwrap_or_default();
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

fn told(found: &FoundPolicy, judged: &Judged, untold: Option<&str>) -> (&'static str, String) {
    let fault = match (&judged.fault, &found.spec) {
        (None, Ok(spec)) => return ("InForce", in_words(spec, untold)),
        (None, Err(error)) => ("SpecUnknown", error.clone()),
        (Some(fault), _) => (fault.reason(), fault.message()),
    };
    let instead = match &judged.in_force {
        Some(in_force) => format!("generation {} stays in force", in_force.generation),
        None => "no version of this policy is in force".to_owned(),
    };
    let message: String = fault.1.chars().take(MESSAGE_CHARS_MAX - 100).collect();
    (fault.0, format!("{message}; {instead}"))
}

fn in_words(spec: &AuditPolicySpec, untold: Option<&str>) -> String {
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
        (_, OnWriteFailure::Deny) => {
            let spared = if asks_for_spared(&spec.match_) { SPARED_IN_WORDS } else { "" };
            let untold = untold.map(|why| format!("; while this program is away it is not, since {why}"));
            format!("; a write that cannot be recorded is refused{spared}{}", untold.unwrap_or_default())
        }
        (true, _) => "; writes wait for their record".to_owned(),
        (false, _) => String::new(),
    };
    format!("in force: {:?} is recorded and kept {kept}{waits}", spec.level)
}

const SPARED_IN_WORDS: &str = ", but for nodes, leases, certificate signing requests and volume attachments: what is down may need them to come back";

/// Whether a policy's author may think that it refuses what is never refused.
fn asks_for_spared(of: &Match) -> bool {
    let resources = &of.resources;
    let wide = resources.is_empty() || resources.iter().any(|pattern| pattern.starts_with('*'));
    let plural = |pattern: &String| pattern.split('/').next().is_some_and(policy::is_spared_plural);
    wide || resources.iter().any(plural)
}

fn seconds(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn word(ready: bool) -> &'static str {
    if ready { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::super::judge::judge;
    use super::*;

    fn found(generation: i64, spec: &Value, status: &Value) -> FoundPolicy {
        FoundPolicy {
            metadata: ObjectMeta { generation: Some(generation), ..ObjectMeta::default() },
            spec: serde_json::from_value(spec.clone()).map_err(|error| error.to_string()),
            retention_days: None,
            status: serde_json::from_value(status.clone()).ok(),
        }
    }

    fn wanted_of(found: &FoundPolicy, untold: Option<&str>) -> Wanted {
        wanted(found, &judge("a", "built-in", found, None), untold)
    }

    #[test]
    fn what_the_status_says_is_in_force_is_never_dropped_nor_made_older() {
        let in_force = json!({"inForce": {"generation": 2, "spec": {"level": "Of a later program"}}});
        let wanted = wanted_of(&found(3, &json!({"level": "Of a later program"}), &in_force), None);
        let said = wanted.json(&AuditPolicyStatus::default(), DateTime::UNIX_EPOCH);
        assert_eq!((&said["inForce"], &said["observedGeneration"]), (&in_force["inForce"], &json!(3)));
        assert_eq!(said["conditions"][0]["reason"], "SpecUnknown");
        let message = said["conditions"][0]["message"].as_str().unwrap();
        assert!(message.ends_with("does not know it; no version of this policy is in force"), "{message}");

        let good = found(3, &json!({"level": "Diff"}), &in_force);
        assert_eq!(wanted_of(&good, None).in_force.unwrap().generation, 3);
    }

    #[test]
    fn what_refuses_says_where_it_does_not() {
        let deny = |of: Value| json!({"level": "Diff", "sync": true, "onWriteFailure": "Deny", "match": of});
        let message = |of: Value, untold| wanted_of(&found(1, &deny(of), &json!({})), untold).message;
        let secrets = || json!({"resources": ["secrets"]});
        assert!(message(secrets(), None).ends_with("; a write that cannot be recorded is refused"));
        let untold = message(secrets(), Some("it is too long"));
        assert!(untold.ends_with("is refused; while this program is away it is not, since it is too long"), "{untold}");
        for of in [json!({}), json!({"resources": ["*"]}), json!({"resources": ["secrets", "nodes/*"]})] {
            assert!(message(of.clone(), None).contains("refused, but for nodes, leases"), "{of}");
        }
    }
}

//! Whether a policy can be in force, which version of it is, and for how long what it recorded is kept.

use std::sync::Arc;

use api::{AuditPolicySpec, InForce, Level, OnWriteFailure, Operation};
use cluster::FoundPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use policy::{Invalid, Policy, Requirement, RequirementOperator, Selector, Spec};
use serde_json::Value;

/// Which writing of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    uid: String,
    pub(super) generation: i64,
}

impl Version {
    fn of(metadata: &ObjectMeta) -> Self {
        Self { uid: metadata.uid.clone().unwrap_or_default(), generation: metadata.generation.unwrap_or_default() }
    }
}

/// What became of a policy.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) version: Version,
    /// What is in force of it, be it an earlier version.
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) in_force: Option<InForce>,
    /// Why the present version is not.
    pub(super) fault: Option<Fault>,
    /// For how many days its entries are kept; 0 is for ever. None where it has none to keep.
    pub(super) retention_days: Option<u32>,
    /// What the status said was in force.
    told: Option<InForce>,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Fault {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("spec.match.namespaceSelector: operator {0:?}: accepted are In, NotIn, Exists, DoesNotExist")]
    Selector(String),
    #[error("spec: {0}: this version of the program does not know it")]
    Unparsed(String),
    #[error("metadata.name: {0:?} is how entries that no policy asked for are told: accepted is any other name")]
    Reserved(String),
}

impl Fault {
    /// A condition's reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(Invalid::Expression(_)) => "ExpressionInvalid",
            Self::Invalid(Invalid::Redact(_)) => "RedactInvalid",
            Self::Selector(_) => "SelectorInvalid",
            Self::Unparsed(_) => "SpecUnknown",
            Self::Reserved(_) => "NameReserved",
        }
    }

    pub(super) fn message(&self) -> String {
        self.to_string()
    }
}

/// Where the present version cannot be in force, the last good one is: the latest of what is known here and what the
/// status keeps, so that replicas which saw different versions agree.
pub(super) fn judge(name: &str, reserved: &str, found: &FoundPolicy, before: Option<&Judged>) -> Judged {
    let version = Version::of(&found.metadata);
    let told = told(found);
    if name == reserved {
        let fault = Some(Fault::Reserved(name.to_owned()));
        return Judged { version, policy: None, in_force: None, fault, retention_days: None, told };
    }
    let spec = found.spec.as_ref().map_err(|error| Fault::Unparsed(error.clone()));
    let fault = match spec.and_then(|spec| Ok((compiled(name, spec)?, spec))) {
        Ok((compiled, spec)) => {
            let in_force = InForce { generation: version.generation, spec: as_object(spec) };
            let (policy, in_force, retention_days) = (Some(compiled), Some(in_force), Some(spec.retention_days));
            return Judged { version, policy, in_force, fault: None, retention_days, told };
        }
        Err(fault) => fault,
    };
    let known = before.filter(|before| before.version.uid == version.uid);
    let known = known.and_then(|before| Some((before.policy.clone()?, before.in_force.clone()?)));
    let later = told.as_ref().filter(|told| known.as_ref().is_none_or(|(_, known)| known.generation < told.generation));
    let kept = later.and_then(|kept| {
        let spec = serde_json::from_value(Value::Object(kept.spec.clone().into_iter().collect())).ok()?;
        Some((compiled(name, &spec).ok()?, kept.clone()))
    });
    let (policy, in_force) = kept.or(known).unzip();
    let retention_days = match (&in_force, &told) {
        (Some(in_force), _) => days_of(in_force),
        // It may be in force in another replica, or come back with another version of the program.
        (None, Some(told)) => longest(days_of(told), found.retention_days.unwrap_or(FOR_EVER)),
        (None, None) => found.retention_days.unwrap_or(FOR_EVER),
    };
    Judged { version, policy, in_force, fault: Some(fault), retention_days: Some(retention_days), told }
}

impl Judged {
    /// Whether judging again would tell the same.
    pub(super) fn holds_for(&self, found: &FoundPolicy) -> bool {
        self.version == Version::of(&found.metadata) && (self.fault.is_none() || self.told == told(found))
    }
}

const FOR_EVER: u32 = 0;

fn told(found: &FoundPolicy) -> Option<InForce> {
    found.status.as_ref()?.in_force.clone()
}

/// What cannot be read is kept.
fn days_of(in_force: &InForce) -> u32 {
    let days = in_force.spec.get("retentionDays").and_then(Value::as_u64);
    days.and_then(|days| u32::try_from(days).ok()).unwrap_or(FOR_EVER)
}

fn longest(a: u32, b: u32) -> u32 {
    if a == FOR_EVER || b == FOR_EVER { FOR_EVER } else { a.max(b) }
}

fn compiled(name: &str, spec: &AuditPolicySpec) -> Result<Arc<Policy>, Fault> {
    Ok(Arc::new(Policy::compile(name, &spec_of(spec)?)?))
}

fn as_object(spec: &AuditPolicySpec) -> std::collections::BTreeMap<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(members)) => members.into_iter().collect(),
        _ => std::collections::BTreeMap::new(),
    }
}

fn spec_of(spec: &AuditPolicySpec) -> Result<Spec, Fault> {
    use domain::attempt::Operation as Op;

    let operation = |operation: &Operation| match operation {
        Operation::Create => Op::Create,
        Operation::Update => Op::Update,
        Operation::Delete => Op::Delete,
        Operation::Connect => Op::Connect,
        Operation::Get => Op::Get,
        Operation::List => Op::List,
        Operation::Watch => Op::Watch,
    };
    let level = match spec.level {
        Level::None => None,
        Level::Metadata => Some(domain::Level::Metadata),
        Level::Diff => Some(domain::Level::Diff),
        Level::Full => Some(domain::Level::Full),
    };
    Ok(Spec {
        precedence: spec.precedence,
        api_groups: spec.match_.api_groups.clone(),
        resources: spec.match_.resources.clone(),
        operations: spec.match_.operations.iter().map(operation).collect(),
        namespaces: spec.match_.namespaces.clone(),
        namespace_selector: spec.match_.namespace_selector.as_ref().map(selector).transpose()?,
        users: spec.match_.users.clone(),
        groups: spec.match_.groups.clone(),
        expression: spec.match_.expression.clone(),
        level,
        sync: spec.sync,
        deny: spec.on_write_failure == OnWriteFailure::Deny,
        redact: spec.redact.clone(),
    })
}

fn selector(selector: &LabelSelector) -> Result<Selector, Fault> {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| {
        Ok(Requirement { key: key.clone(), operator: RequirementOperator::In, values: vec![value.clone()] })
    });
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let operator = match expression.operator.as_str() {
            "In" => RequirementOperator::In,
            "NotIn" => RequirementOperator::NotIn,
            "Exists" => RequirementOperator::Exists,
            "DoesNotExist" => RequirementOperator::DoesNotExist,
            other => return Err(Fault::Selector(other.to_owned())),
        };
        let values = expression.values.clone().unwrap_or_default();
        Ok(Requirement { key: expression.key.clone(), operator, values })
    });
    Ok(Selector { requirements: labels.chain(expressions).collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use api::AuditPolicyStatus;
    use serde_json::json;

    use super::*;

    fn found(generation: i64, spec: &Value, in_force: Option<(i64, Value)>) -> FoundPolicy {
        let in_force =
            in_force.map(|(generation, spec)| InForce { generation, spec: serde_json::from_value(spec).unwrap() });
        FoundPolicy {
            metadata: ObjectMeta { generation: Some(generation), ..ObjectMeta::default() },
            spec: serde_json::from_value(spec.clone()).map_err(|error| error.to_string()),
            retention_days: spec["retentionDays"].as_u64().map(|days| days as u32),
            status: Some(AuditPolicyStatus { in_force, ..AuditPolicyStatus::default() }),
        }
    }

    fn broken(days: u32) -> Value {
        json!({"level": "Diff", "retentionDays": days, "match": {"expression": "request.namespace =="}})
    }

    fn good(days: u32) -> Value {
        json!({"level": "Diff", "retentionDays": days})
    }

    fn later(days: u32) -> Value {
        json!({"level": "Everything", "retentionDays": days, "sealed": true})
    }

    #[test]
    fn a_policy_that_exists_keeps_what_it_recorded_whatever_became_of_it() {
        let rows = [
            ("in force", found(1, &good(7), None), Some(7)),
            ("the last good version", found(2, &broken(1), Some((1, good(30)))), Some(30)),
            ("none in force", found(1, &broken(400), None), Some(400)),
            ("of a later program", found(1, &later(0), None), Some(0)),
            ("of a later program, kept for long", found(2, &later(400), Some((1, later(7)))), Some(400)),
            ("of a later program, made shorter", found(2, &later(1), Some((1, later(0)))), Some(0)),
            ("none to be read", found(1, &json!({"level": "Everything"}), None), Some(0)),
            ("none to be read of what is in force", found(2, &broken(1), Some((1, json!({"level": "Diff"})))), Some(0)),
        ];
        for (case, found, kept) in rows {
            assert_eq!(judge("a", "built-in", &found, None).retention_days, kept, "{case}");
        }
    }

    #[test]
    fn a_policy_cannot_be_named_as_the_built_in_one() {
        let judged = judge("built-in", "built-in", &found(1, &good(1), Some((1, good(1)))), None);
        assert!(judged.policy.is_none() && judged.in_force.is_none() && judged.retention_days.is_none());
        assert_eq!(judged.fault.unwrap().reason(), "NameReserved");
    }

    #[test]
    fn one_that_does_not_parse_is_judged_as_any_that_cannot_be_in_force() {
        let judged = judge("a", "built-in", &found(2, &later(1), Some((1, good(5)))), None);
        assert_eq!(judged.fault.as_ref().unwrap().reason(), "SpecUnknown");
        assert_eq!((judged.in_force.unwrap().generation, judged.policy.is_some()), (1, true));
    }

    #[test]
    fn replicas_that_saw_different_versions_agree_on_the_latest_good_one() {
        // One that saw nothing before, and looked before another told what is in force.
        let unseen = judge("a", "built-in", &found(3, &broken(1), None), None);
        assert!(unseen.policy.is_none());
        let told = found(3, &broken(1), Some((2, good(2))));
        assert!(!unseen.holds_for(&told), "it is judged again");
        let agreed = judge("a", "built-in", &told, Some(&unseen));
        assert_eq!(agreed.in_force.as_ref().unwrap().generation, 2);
        assert!(agreed.holds_for(&told));

        // One that knows an earlier version, and one that knows a later one than is told.
        let earlier = judge("a", "built-in", &found(1, &good(1), None), None);
        assert_eq!(judge("a", "built-in", &told, Some(&earlier)).in_force.unwrap().generation, 2);
        let later = judge("a", "built-in", &found(2, &good(2), None), None);
        let told = found(3, &broken(1), Some((1, good(1))));
        assert_eq!(judge("a", "built-in", &told, Some(&later)).in_force.unwrap().generation, 2);
    }
}

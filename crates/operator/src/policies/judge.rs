//! Whether a policy can be in force, and which version of it is.

use std::sync::Arc;

use api::{AuditPolicy, AuditPolicySpec, InForce, Level, OnWriteFailure, Operation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy::{Invalid, Policy, Requirement, RequirementOperator, Selector, Spec};
use serde_json::Value;

/// Which writing of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    uid: String,
    pub(super) generation: i64,
}

impl Version {
    pub(super) fn of(policy: &AuditPolicy) -> Self {
        let metadata = &policy.metadata;
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
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Fault {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("spec.match.namespaceSelector: operator {0:?}: accepted are In, NotIn, Exists, DoesNotExist")]
    Selector(String),
}

impl Fault {
    /// A condition's reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(Invalid::Expression(_)) => "ExpressionInvalid",
            Self::Invalid(Invalid::Redact(_)) => "RedactInvalid",
            Self::Selector(_) => "SelectorInvalid",
        }
    }

    pub(super) fn message(&self) -> String {
        self.to_string()
    }
}

/// Where the present version cannot be in force, the last good one is: as known here, else as the status keeps it.
pub(super) fn judge(name: &str, policy: &AuditPolicy, before: Option<&Judged>) -> Judged {
    let version = Version::of(policy);
    let fault = match compiled(name, &policy.spec) {
        Ok(compiled) => {
            let in_force = InForce { generation: version.generation, spec: as_object(&policy.spec) };
            return Judged { version, policy: Some(compiled), in_force: Some(in_force), fault: None };
        }
        Err(fault) => fault,
    };
    let known = before.filter(|before| before.version.uid == version.uid);
    let known = known.and_then(|before| Some((before.policy.clone()?, before.in_force.clone()?)));
    let kept = || {
        let kept = policy.status.as_ref()?.in_force.clone()?;
        let spec = serde_json::from_value(Value::Object(kept.spec.clone().into_iter().collect())).ok()?;
        Some((compiled(name, &spec).ok()?, kept))
    };
    let (policy, in_force) = known.or_else(kept).unzip();
    Judged { version, policy, in_force, fault: Some(fault) }
}

impl Judged {
    /// For how many days entries are kept by the version that is in force; None where none is.
    pub(super) fn retention_days(&self) -> Option<u32> {
        let days = self.in_force.as_ref()?.spec.get("retentionDays")?.as_u64()?;
        u32::try_from(days).ok()
    }
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

//! The rules in force: which policy a request falls under, and so what is recorded of it.
//!
//! A [`Policy`] is compiled from a [`Spec`]; all of them, with the built-in one behind them, are the [`Rules`] that each
//! request is asked against: the lowest precedence that matches decides alone, ties go by name. What policies exclude can
//! be told to the API server as CEL of its own ([`Rules::exclusions`]), so that it does not even ask.
//!
//! This crate knows no Kubernetes objects but the request's own words, does no IO, and holds no clock.

mod exclusions;
mod expression;
mod matching;
mod rules;
mod spared;
mod told;

use std::fmt;

use domain::redact::{JsonPath, PathError};

pub use exclusions::{EXCLUSIONS, Exclusion, is_excluded, is_invisible};
pub use expression::{EXPRESSION_OBJECT_BYTES_MAX, Facts, Uncompiled};
pub use matching::{Namespaces, Requirement, RequirementOperator, Selector};
pub use rules::{Decided, Rules, Sort};
pub use spared::{is_spared, is_spared_plural, spared_as_condition};
pub use told::{CONDITION_BYTES_MAX, Condition, DENIALS_BYTES_MAX, Denials, Untold};

use crate::expression::Expression;
use crate::matching::Matcher;

/// What is recorded of a request, and how its answer waits for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The policy's name, as entries remember it.
    pub policy: String,
    /// None: nothing is recorded.
    pub level: Option<domain::Level>,
    /// Whether the answer waits until the entry is durable.
    pub sync: bool,
    /// Whether a write is refused where that takes too long.
    pub deny: bool,
    pub redact: Vec<JsonPath>,
}

impl Rule {
    /// What config.yaml describes: every write that no policy matches.
    pub fn built_in(name: &str, sync: bool) -> Self {
        Self { policy: name.to_owned(), level: Some(domain::Level::Diff), sync, deny: false, redact: Vec::new() }
    }

    /// How a metric calls it.
    pub fn level_name(&self) -> &'static str {
        self.level.map_or("None", domain::Level::as_str)
    }
}

/// A policy as its author wrote it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    pub precedence: i32,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub operations: Vec<domain::attempt::Operation>,
    pub namespaces: Vec<String>,
    pub namespace_selector: Option<Selector>,
    pub users: Vec<String>,
    pub groups: Vec<String>,
    /// Empty: none.
    pub expression: String,
    pub level: Option<domain::Level>,
    pub sync: bool,
    pub deny: bool,
    pub redact: Vec<String>,
}

/// Why a policy cannot be in force.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Invalid {
    #[error("spec.match.expression: {0}")]
    Expression(#[from] Uncompiled),
    #[error("spec.redact: {0}")]
    Redact(#[from] PathError),
}

/// A policy that can be in force.
pub struct Policy {
    precedence: i32,
    matcher: Matcher,
    expression: Option<Expression>,
    rule: Rule,
}

impl Policy {
    /// # Errors
    /// Where the expression does not compile or a path to redact does not parse.
    pub fn compile(name: &str, spec: &Spec) -> Result<Self, Invalid> {
        let expression = match spec.expression.trim() {
            "" => None,
            text => Some(Expression::compile(text)?),
        };
        let redact = spec.redact.iter().map(|path| path.parse()).collect::<Result<_, _>>()?;
        let rule = Rule { policy: name.to_owned(), level: spec.level, sync: spec.sync, deny: spec.deny, redact };
        Ok(Self { precedence: spec.precedence, matcher: Matcher::new(spec), expression, rule })
    }

    /// Whether it goes by the labels of namespaces.
    pub fn selects_namespaces(&self) -> bool {
        self.matcher.namespace_selector.is_some()
    }

    pub fn rule(&self) -> &Rule {
        &self.rule
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({} at {})", self.rule.policy, self.precedence)
    }
}

//! Policies told to the API server, in its own CEL, so that it does not ask about what would not be recorded.
//!
//! A matchCondition must never fail: with the failure policy that we need, a write whose condition fails is a write
//! unseen. So a field is asked for only where it is there, and an expression of a policy's author, which may fail, is
//! never passed on: such a policy is decided in the program.

use std::fmt::Write as _;

use domain::attempt::Operation;

use crate::matching::{Matcher, Namespaces, Pattern, ResourcePattern, Subresource};
use crate::{Policy, Rules};

/// What one condition may weigh; longer ones are decided in the program.
pub const CONDITION_BYTES_MAX: usize = 8 * 1024;

/// What the API server is told of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub policy: String,
    /// CEL over the admission request, true for what the policy is for and no policy before it could be.
    pub matches: String,
}

impl Rules {
    /// The policies that record nothing, as far as they can be told exactly; at most so many.
    pub fn exclusions(&self, at_most: usize) -> Vec<Condition> {
        self.conditions(at_most, |policy| policy.rule.level.is_none(), |before| before.rule.level.is_some())
    }

    /// The policies that refuse what they cannot record.
    pub fn denials(&self, at_most: usize) -> Vec<Condition> {
        self.conditions(at_most, |policy| policy.rule.deny, |before| !before.rule.deny)
    }

    fn conditions(
        &self,
        at_most: usize,
        of: impl Fn(&Policy) -> bool,
        stands_before: impl Fn(&Policy) -> bool,
    ) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for (index, policy) in self.policies().iter().enumerate() {
            if conditions.len() == at_most {
                break;
            }
            if !of(policy) || policy.expression.is_some() {
                continue;
            }
            let Some(mut matches) = told(&policy.matcher, self.namespaces()) else { continue };
            for before in &self.policies()[..index] {
                if stands_before(before) && !before.matcher.is_apart_from(&policy.matcher) {
                    // Wider than it is, where it has an expression or a selector: what may be its is asked about.
                    let _infallible = write!(matches, " && !({})", told_widely(&before.matcher));
                }
            }
            if matches.len() <= CONDITION_BYTES_MAX {
                conditions.push(Condition { policy: policy.rule.policy.clone(), matches });
            }
        }
        conditions
    }
}

/// None where it cannot be told exactly.
fn told(matcher: &Matcher, namespaces: &Namespaces) -> Option<String> {
    let mut parts = parts(matcher);
    if let Some(selector) = &matcher.namespace_selector {
        let mut names: Vec<_> =
            namespaces.iter().filter(|(_, labels)| selector.selects(labels)).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        parts.push(format!("has(request.namespace) && request.namespace in [{}]", quoted(names)));
    }
    joined(&parts)
}

fn told_widely(matcher: &Matcher) -> String {
    joined(&parts(matcher)).unwrap_or_else(|| "true".to_owned())
}

fn joined(parts: &[String]) -> Option<String> {
    match parts {
        [] => Some("true".to_owned()),
        parts => Some(parts.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" && ")),
    }
}

fn parts(matcher: &Matcher) -> Vec<String> {
    let mut parts = Vec::new();
    if !matcher.operations.is_empty() {
        parts.push(format!("request.operation in [{}]", quoted(matcher.operations.iter().map(|one| word(*one)))));
    }
    if !matcher.api_groups.is_empty() {
        parts.push(format!("request.resource.group in [{}]", quoted(matcher.api_groups.iter().map(String::as_str))));
    }
    if !matcher.resources.is_empty() {
        parts.push(matcher.resources.iter().map(resource).collect::<Vec<_>>().join(" || "));
    }
    if !matcher.namespaces.is_empty() {
        parts.push(format!("has(request.namespace) && ({})", any("request.namespace", &matcher.namespaces)));
    }
    if !matcher.users.is_empty() {
        let any = any("request.userInfo.username", &matcher.users);
        parts.push(format!("has(request.userInfo.username) && ({any})"));
    }
    if !matcher.groups.is_empty() {
        let any = any("g", &matcher.groups);
        parts.push(format!("has(request.userInfo.groups) && request.userInfo.groups.exists(g, {any})"));
    }
    parts
}

fn resource(pattern: &ResourcePattern) -> String {
    let plural = pattern.resource.as_ref().map(|plural| format!("request.resource.resource == {}", literal(plural)));
    let subresource = match &pattern.subresource {
        Subresource::All => None,
        Subresource::Itself => Some(r#"(!has(request.subResource) || request.subResource == "")"#.to_owned()),
        Subresource::Each => Some(r#"has(request.subResource) && request.subResource != """#.to_owned()),
        Subresource::Named(name) => {
            Some(format!("has(request.subResource) && request.subResource == {}", literal(name)))
        }
    };
    let both: Vec<String> = plural.into_iter().chain(subresource).collect();
    if both.is_empty() { "true".to_owned() } else { format!("({})", both.join(" && ")) }
}

fn any(of: &str, patterns: &[Pattern]) -> String {
    let exactly = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Exactly(text) => Some(text.as_str()),
        Pattern::Begins(_) => None,
    });
    let listed = quoted(exactly);
    let begins = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Exactly(_) => None,
        Pattern::Begins(start) => Some(format!("{of}.startsWith({})", literal(start))),
    });
    let listed = (!listed.is_empty()).then(|| format!("{of} in [{listed}]"));
    listed.into_iter().chain(begins).collect::<Vec<_>>().join(" || ")
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn quoted<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(literal).collect::<Vec<_>>().join(", ")
}

/// CEL's string literals are JSON's, but for escapes that JSON does not make of what these texts may hold.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

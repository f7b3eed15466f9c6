//! Policies told to the API server, in its own CEL, so that it does not ask about what would not be recorded.
//!
//! A matchCondition must never fail: with the failure policy that we need, a write whose condition fails is a write
//! unseen. So a field is asked for only where it is there, and an expression of a policy's author, which may fail, is
//! never passed on: such a policy is decided in the program.

use std::fmt::Write as _;

use crate::matching::{Matcher, Namespaces, Pattern, ResourcePattern, Subresource};
use crate::{Policy, Rules};

/// What one exclusion may weigh; longer ones are decided in the program.
pub const CONDITION_BYTES_MAX: usize = 8 * 1024;

/// What all denials may weigh: they become one expression, of which kube-apiserver parses 100,000 characters.
pub const DENIALS_BYTES_MAX: usize = 96 * 1024;
/// What joins them there, each.
const JOINED_BYTES: usize = "() || ".len();
const _: () = assert!(DENIALS_BYTES_MAX + 512 <= 100_000, "with what is written around them");

/// What of them is asked of each of a user's groups, for whom kube-apiserver allows an expression 1,000,000 steps and all
/// conditions of a webhook 2,500,000. Three characters take at most a step, and nobody is in more than 500 groups.
const DENIALS_GROUP_BYTES_MAX: usize = 4 * 1024;
const EXCLUSIONS_GROUP_BYTES_MAX: usize = 8 * 1024;
const _: () = assert!(500 * DENIALS_GROUP_BYTES_MAX / 3 < 1_000_000);
const _: () = assert!(500 * (DENIALS_GROUP_BYTES_MAX + EXCLUSIONS_GROUP_BYTES_MAX) / 3 < 2_500_000);

/// What the API server is told of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub policy: String,
    /// CEL over the admission request, true for what the policy is for and no policy before it could be.
    pub matches: String,
}

/// Which writes the API server itself refuses when they cannot be recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    pub told: Vec<Condition>,
    /// What they are for is refused only while the program is there.
    pub untold: Vec<Untold>,
}

/// A policy of which the API server is not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    pub name: String,
    /// A sentence's end: "…, since " and this.
    pub reason: String,
}

impl Rules {
    /// The policies that record nothing, as far as they can be told exactly; at most so many.
    pub fn exclusions(&self, at_most: usize) -> Vec<Condition> {
        let mut group_bytes = 0;
        let mut conditions = Vec::new();
        let excludes = |policy: &Policy| policy.rule.level.is_none() && policy.matcher.is_for_writes();
        for (index, policy) in self.policies().iter().enumerate().filter(|(_, policy)| excludes(policy)) {
            if conditions.len() == at_most {
                break;
            }
            let told = self.told(index, |before| before.rule.level.is_some());
            let Some(told) = told.filter(|told| told.cel.len() <= CONDITION_BYTES_MAX) else { continue };
            if group_bytes + told.group_bytes <= EXCLUSIONS_GROUP_BYTES_MAX {
                group_bytes += told.group_bytes;
                conditions.push(Condition { policy: policy.rule.policy.clone(), matches: told.cel });
            }
        }
        conditions
    }

    /// The policies that refuse what they cannot record: at most so many are told, in their order.
    pub fn denials(&self, at_most: usize) -> Denials {
        let (mut bytes, mut group_bytes) = (0, 0);
        let mut denials = Denials::default();
        let denies = |policy: &Policy| policy.rule.deny && policy.matcher.is_for_writes();
        for (index, policy) in self.policies().iter().enumerate().filter(|(_, policy)| denies(policy)) {
            let name = policy.rule.policy.clone();
            let fits = match self.told(index, |before| !before.rule.deny) {
                None => Err("it has an expression".to_owned()),
                Some(_) if denials.told.len() == at_most => {
                    Err(format!("it is told of {at_most} policies that deny, and those have a lower precedence"))
                }
                Some(told) if bytes + told.cel.len() + JOINED_BYTES > DENIALS_BYTES_MAX => Err(format!(
                    "what it matches, without what policies before it match, takes {} bytes to tell: of {DENIALS_BYTES_MAX} \
                     for all that deny {} are left",
                    told.cel.len(),
                    DENIALS_BYTES_MAX - bytes
                )),
                Some(told) if group_bytes + told.group_bytes > DENIALS_GROUP_BYTES_MAX => Err(format!(
                    "the groups that it and policies before it match take {} bytes to tell: of {DENIALS_GROUP_BYTES_MAX} for \
                     all that deny {} are left",
                    told.group_bytes,
                    DENIALS_GROUP_BYTES_MAX - group_bytes
                )),
                Some(told) => Ok(told),
            };
            match fits {
                Ok(told) => {
                    bytes += told.cel.len() + JOINED_BYTES;
                    group_bytes += told.group_bytes;
                    denials.told.push(Condition { policy: name, matches: told.cel });
                }
                Err(reason) => denials.untold.push(Untold { name, reason }),
            }
        }
        denials
    }

    /// What a policy matches and none of those that stand before it might; None where it has an expression.
    fn told(&self, index: usize, stands_before: impl Fn(&Policy) -> bool) -> Option<Told> {
        let (policy, before) = (self.policies().get(index)?, self.policies().get(..index)?);
        if policy.expression.is_some() {
            return None;
        }
        let mut told = Told::exactly(&policy.matcher, self.namespaces());
        for before in before {
            if stands_before(before) && !before.matcher.is_apart_from(&policy.matcher) {
                told.but_not(&Told::widely(&before.matcher));
            }
        }
        Some(told)
    }
}

struct Told {
    cel: String,
    /// How much of it is asked of each group.
    group_bytes: usize,
}

impl Told {
    fn exactly(matcher: &Matcher, namespaces: &Namespaces) -> Self {
        let mut parts = parts(matcher);
        if let Some(selector) = &matcher.namespace_selector {
            let labelled = namespaces.iter().filter(|(_, labels)| selector.selects(labels));
            let mut names: Vec<_> = labelled.map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            parts.push(format!("has(request.namespace) && request.namespace in [{}]", quoted(names)));
        }
        Self { cel: joined(&parts), group_bytes: groups(matcher).map_or(0, |part| part.len()) }
    }

    /// Wider than it is, where it has an expression or a selector: what may be its is asked about.
    fn widely(matcher: &Matcher) -> Self {
        Self { cel: joined(&parts(matcher)), group_bytes: groups(matcher).map_or(0, |part| part.len()) }
    }

    fn but_not(&mut self, other: &Self) {
        let _infallible = write!(self.cel, " && !({})", other.cel);
        self.group_bytes += other.group_bytes;
    }
}

fn joined(parts: &[String]) -> String {
    match parts {
        [] => "true".to_owned(),
        parts => parts.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" && "),
    }
}

fn parts(matcher: &Matcher) -> Vec<String> {
    let mut parts = Vec::new();
    if !matcher.operations.is_empty() {
        // Of reads the API server asks nobody.
        let writes = matcher.operations.iter().filter(|operation| operation.is_write());
        parts.push(format!("request.operation in [{}]", quoted(writes.map(|operation| operation.as_str()))));
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
    parts.extend(groups(matcher));
    parts
}

fn groups(matcher: &Matcher) -> Option<String> {
    let any = (!matcher.groups.is_empty()).then(|| any("g", &matcher.groups))?;
    Some(format!("has(request.userInfo.groups) && request.userInfo.groups.exists(g, {any})"))
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

fn quoted<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(literal).collect::<Vec<_>>().join(", ")
}

/// CEL's string literals are JSON's, but for escapes that JSON does not make of what these texts may hold.
fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

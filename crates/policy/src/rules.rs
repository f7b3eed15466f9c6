//! All policies in force, asked for every request.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cel::Env;
use domain::attempt::{Attempt, Operation};

use crate::expression::{Facts, Values};
use crate::{Namespaces, Policy, Rule};

/// The policies in force, in the order in which they are asked, and what holds where none matches.
pub struct Rules {
    policies: Vec<Arc<Policy>>,
    /// By plural, the policies that may match it, in their order; those that may match any are among each.
    by_plural: HashMap<String, Vec<usize>>,
    any_plural: Vec<usize>,
    built_in: Rule,
    /// For reads that no policy asks for.
    unread: Rule,
    namespaces: Arc<Namespaces>,
    env: Arc<Env>,
}

/// What requests have in common of which one was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort<'a> {
    pub operation: Operation,
    pub api_group: &'a str,
    /// The plural; None where it is not known.
    pub resource: Option<&'a str>,
    pub subresource: &'a str,
    /// Empty for what is in none.
    pub namespace: &'a str,
}

/// What is to be done about a request.
#[derive(Debug)]
pub struct Decided<'r> {
    pub rule: &'r Rule,
    /// Expressions that failed on the way: of a policy that records, which so matched, or of ones that do not.
    pub failed: u32,
}

impl Rules {
    pub fn new(mut policies: Vec<Arc<Policy>>, built_in: Rule, namespaces: Arc<Namespaces>) -> Self {
        policies.sort_by(|a, b| (a.precedence, &a.rule.policy).cmp(&(b.precedence, &b.rule.policy)));
        let mut by_plural: HashMap<String, Vec<usize>> = HashMap::new();
        for plural in policies.iter().flat_map(|policy| policy.matcher.plurals()) {
            by_plural.entry(plural.to_owned()).or_default();
        }
        let mut any_plural = Vec::new();
        for (index, policy) in policies.iter().enumerate() {
            if policy.matcher.any_plural() {
                any_plural.push(index);
                by_plural.values_mut().for_each(|indexes| indexes.push(index));
            } else {
                for plural in policy.matcher.plurals() {
                    let indexes = by_plural.entry(plural.to_owned()).or_default();
                    if indexes.last() != Some(&index) {
                        indexes.push(index);
                    }
                }
            }
        }
        let unread = Rule { level: None, deny: false, ..built_in.clone() };
        Self { policies, by_plural, any_plural, built_in, unread, namespaces, env: Arc::new(Env::stdlib()) }
    }

    /// Where nothing but the configuration speaks.
    pub fn only(built_in: Rule) -> Self {
        Self::new(Vec::new(), built_in, Arc::default())
    }

    /// Asks the policies one after the other until one matches.
    pub fn decide(&self, request: &Attempt<'_>, facts: &dyn Facts) -> Decided<'_> {
        let mut values = Values::new(&self.env, facts);
        let mut failed = 0;
        let candidates = self.by_plural.get(request.resource).unwrap_or(&self.any_plural);
        for policy in candidates.iter().filter_map(|index| self.policies.get(*index)) {
            if !policy.matcher.matches(request, &self.namespaces) {
                continue;
            }
            match policy.expression.as_ref().map(|expression| expression.holds(&mut values)) {
                None | Some(Some(true)) => return Decided { rule: &policy.rule, failed },
                Some(Some(false)) => {}
                Some(None) => {
                    failed += 1;
                    // Who writes the object can make an expression fail: that must not choose a policy behind this one,
                    // which records less and redacts less. The other way round it is recorded.
                    if policy.rule.level.is_some() {
                        return Decided { rule: &policy.rule, failed };
                    }
                }
            }
        }
        let rule = if request.operation.is_write() { &self.built_in } else { &self.unread };
        Decided { rule, failed }
    }

    /// Whether a request of this sort may be left out of the record by what is in force: by some policy, whoever makes it.
    pub fn may_skip(&self, sort: &Sort<'_>) -> bool {
        let skips =
            |policy: &Arc<Policy>| policy.rule.level.is_none() && policy.matcher.may_match(sort, &self.namespaces);
        self.built_in.level.is_none() || self.policies.iter().any(skips)
    }

    /// In the order in which they are asked; without the built-in one.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    pub fn built_in(&self) -> &Rule {
        &self.built_in
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rules").field(&self.policies).finish()
    }
}

#[cfg(test)]
mod tests {
    use domain::Level;

    use super::*;
    use crate::Spec;

    fn rules(specs: &[Spec]) -> Rules {
        let policies = specs.iter().enumerate();
        let policies = policies.map(|(n, spec)| Arc::new(Policy::compile(&format!("p{n}"), spec).unwrap())).collect();
        Rules::new(policies, Rule::built_in("built-in", false), Arc::default())
    }

    #[test]
    fn what_some_policy_may_leave_out_for_somebody_may_be_skipped() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let none = Spec {
            resources: texts(&["configmaps", "deployments/*"]),
            namespaces: texts(&["shop-*"]),
            users: texts(&["alice"]),
            expression: "request.name == 'a'".to_owned(),
            ..Spec::default()
        };
        let sort = |resource, subresource, namespace| Sort {
            operation: Operation::Update,
            api_group: "",
            resource,
            subresource,
            namespace,
        };
        let told = rules(&[none.clone(), Spec { level: Some(Level::Metadata), ..Spec::default() }]);
        assert!(told.may_skip(&sort(Some("configmaps"), "", "shop-1")));
        assert!(told.may_skip(&sort(None, "", "shop-1")), "it might be one of those");
        assert!(!told.may_skip(&sort(Some("configmaps"), "", "bank")));
        assert!(!told.may_skip(&sort(Some("deployments"), "", "shop-1")));
        assert!(told.may_skip(&sort(Some("deployments"), "scale", "shop-1")));
        assert!(!rules(&[]).may_skip(&sort(None, "", "shop-1")));
    }
}

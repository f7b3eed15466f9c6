//! Whether a request is one that a policy is for, by its words alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use domain::attempt::{Attempt, Operation};

use crate::Spec;

/// A namespace's labels, by its name.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// A label selector: all of its requirements hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub key: String,
    pub operator: RequirementOperator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequirementOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = value.is_some_and(|value| requirement.values.contains(value));
            match requirement.operator {
                RequirementOperator::In => listed,
                RequirementOperator::NotIn => !listed,
                RequirementOperator::Exists => value.is_some(),
                RequirementOperator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// A text, or all texts that begin like it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pattern {
    Exactly(String),
    Begins(String),
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(start) => Self::Begins(start.to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exactly(exactly) => exactly == text,
            Self::Begins(start) => text.starts_with(start.as_str()),
        }
    }

    /// Whether a text can match both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exactly(text), pattern) | (pattern, Self::Exactly(text)) => pattern.matches(text),
            (Self::Begins(one), Self::Begins(other)) => {
                one.starts_with(other.as_str()) || other.starts_with(one.as_str())
            }
        }
    }
}

/// `pods`, `pods/exec`, `pods/*`, `*/scale`, `*`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResourcePattern {
    /// None: every plural.
    pub(crate) resource: Option<String>,
    pub(crate) subresource: Subresource,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subresource {
    /// The object itself.
    Itself,
    Named(String),
    /// Each of them, but not the object itself.
    Each,
    /// The object itself, too.
    All,
}

impl ResourcePattern {
    fn new(text: &str) -> Self {
        let named = |text: &str| (text != "*").then(|| text.to_owned());
        match text.split_once('/') {
            None if text == "*" => Self { resource: None, subresource: Subresource::All },
            Some(("*", "*")) => Self { resource: None, subresource: Subresource::All },
            None => Self { resource: named(text), subresource: Subresource::Itself },
            Some((resource, "*")) => Self { resource: named(resource), subresource: Subresource::Each },
            Some((resource, sub)) => {
                Self { resource: named(resource), subresource: Subresource::Named(sub.to_owned()) }
            }
        }
    }

    fn matches(&self, resource: &str, subresource: &str) -> bool {
        self.resource.as_ref().is_none_or(|wanted| wanted == resource)
            && match &self.subresource {
                Subresource::Itself => subresource.is_empty(),
                Subresource::Named(wanted) => wanted == subresource,
                Subresource::Each => !subresource.is_empty(),
                Subresource::All => true,
            }
    }

    /// Whether a resource can match both.
    fn meets(&self, other: &Self) -> bool {
        use Subresource::{Each, Itself, Named};

        let plural = match (&self.resource, &other.resource) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        plural
            && match (&self.subresource, &other.subresource) {
                (Named(one), Named(other)) => one == other,
                (Itself, Named(_) | Each) | (Named(_) | Each, Itself) => false,
                _ => true,
            }
    }
}

/// Each list: empty matches everything; of operations, every write.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    pub(crate) operations: Vec<Operation>,
    pub(crate) api_groups: Vec<String>,
    pub(crate) resources: Vec<ResourcePattern>,
    pub(crate) namespaces: Vec<Pattern>,
    pub(crate) namespace_selector: Option<Arc<Selector>>,
    pub(crate) users: Vec<Pattern>,
    pub(crate) groups: Vec<Pattern>,
}

impl Matcher {
    pub(crate) fn new(spec: &Spec) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        let all_groups = spec.api_groups.iter().any(|group| group == "*");
        let resources: Vec<_> = spec.resources.iter().map(|text| ResourcePattern::new(text)).collect();
        let everything = ResourcePattern { resource: None, subresource: Subresource::All };
        Self {
            operations: spec.operations.clone(),
            api_groups: if all_groups { Vec::new() } else { spec.api_groups.clone() },
            resources: if resources.contains(&everything) { Vec::new() } else { resources },
            namespaces: patterns(&spec.namespaces),
            namespace_selector: spec.namespace_selector.clone().map(Arc::new),
            users: patterns(&spec.users),
            groups: patterns(&spec.groups),
        }
    }

    /// Whether this may match requests for any plural; else only for those of [`Self::plurals`].
    pub(crate) fn any_plural(&self) -> bool {
        self.resources.is_empty() || self.resources.iter().any(|pattern| pattern.resource.is_none())
    }

    pub(crate) fn plurals(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().filter_map(|pattern| pattern.resource.as_deref())
    }

    pub(crate) fn matches(&self, request: &Attempt<'_>, namespaces: &Namespaces) -> bool {
        let any = |patterns: &[Pattern], text: &str| patterns.is_empty() || patterns.iter().any(|p| p.matches(text));
        self.is_for(request.operation)
            && (self.resources.is_empty()
                || self.resources.iter().any(|pattern| pattern.matches(request.resource, request.subresource)))
            && (self.api_groups.is_empty() || self.api_groups.iter().any(|group| group == request.api_group))
            && (self.namespaces.is_empty()
                || (!request.namespace.is_empty() && any(&self.namespaces, request.namespace)))
            && any(&self.users, request.user)
            && (self.groups.is_empty() || request.groups.iter().any(|group| any(&self.groups, group)))
            && self.namespace_selector.as_ref().is_none_or(|selector| {
                // One that is not known yet is not presumed to be excluded, nor to be anything else.
                namespaces.get(request.namespace).is_some_and(|labels| selector.selects(labels))
            })
    }

    /// Whether some request of this sort can match, whoever makes it and whatever its object is.
    pub(crate) fn may_match(&self, sort: &crate::Sort<'_>, namespaces: &Namespaces) -> bool {
        let namespace = sort.namespace;
        self.is_for(sort.operation)
            && (self.resources.is_empty()
                || sort.resource.is_none_or(|resource| {
                    self.resources.iter().any(|pattern| pattern.matches(resource, sort.subresource))
                }))
            && (self.api_groups.is_empty() || self.api_groups.iter().any(|group| group == sort.api_group))
            && (self.namespaces.is_empty()
                || (!namespace.is_empty() && self.namespaces.iter().any(|pattern| pattern.matches(namespace))))
            && self.namespace_selector.as_ref().is_none_or(|selector| {
                // Labels that are not known any more may have been any.
                namespaces.get(namespace).is_none_or(|labels| selector.selects(labels))
            })
    }

    pub(crate) fn is_for(&self, operation: Operation) -> bool {
        if self.operations.is_empty() { operation.is_write() } else { self.operations.contains(&operation) }
    }

    /// Whether it is for writes at all, and not for reads alone.
    pub(crate) fn is_for_writes(&self) -> bool {
        self.operations.is_empty() || self.operations.iter().any(|operation| operation.is_write())
    }

    /// Whether no write can match both. Says no where it cannot tell: a user can be in a group of each.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        !self.is_for_writes()
            || !other.is_for_writes()
            || apart(&self.operations, &other.operations, PartialEq::eq)
            || apart(&self.api_groups, &other.api_groups, PartialEq::eq)
            || apart(&self.resources, &other.resources, ResourcePattern::meets)
            || apart(&self.namespaces, &other.namespaces, Pattern::meets)
            || apart(&self.users, &other.users, Pattern::meets)
    }
}

/// What is empty matches everything.
fn apart<T>(ours: &[T], theirs: &[T], meets: impl Fn(&T, &T) -> bool) -> bool {
    !ours.is_empty() && !theirs.is_empty() && !ours.iter().any(|one| theirs.iter().any(|other| meets(one, other)))
}

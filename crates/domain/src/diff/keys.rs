//! By which fields the elements of a list are told apart.
//!
//! A review carries no schema, so the merge keys of Kubernetes' own types are known here by name, the more telling first.
//! A key serves where every element on both sides has it and no two on one side share it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use super::path::escaped_selector;
use crate::json::Node;

/// `x-kubernetes-list-map-keys` and `patchMergeKey` of the built-in types, and what custom resources call the same.
const CANDIDATES: [&[&str]; 17] = [
    &["name"],
    &["containerPort", "protocol"],
    &["port", "protocol"],
    &["containerPort"],
    &["port"],
    &["ip"],
    &["key"],
    &["type"],
    &["uid"],
    &["mountPath"],
    &["devicePath"],
    &["topologyKey"],
    &["host"],
    &["path"],
    &["id"],
    &["kind", "name"],
    &["kind", "name", "namespace"],
];

/// The fields that tell an element from its siblings: `name=app`, `containerPort=53,protocol=UDP`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ElementKey<'t>(Vec<(&'static str, Cow<'t, str>)>);

impl fmt::Display for ElementKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (field, value)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{field}={}", escaped_selector(value))?;
        }
        Ok(())
    }
}

/// The keys of both lists, element by element.
pub(crate) struct ListKeys<'t> {
    pub(crate) old: Vec<ElementKey<'t>>,
    pub(crate) new: Vec<ElementKey<'t>>,
}

impl<'t> ListKeys<'t> {
    pub(crate) fn of(old: &'t [Node<'t>], new: &'t [Node<'t>]) -> Option<Self> {
        if old.is_empty() && new.is_empty() {
            return None;
        }
        CANDIDATES
            .into_iter()
            .find_map(|fields| Some(Self { old: distinct_keys(fields, old)?, new: distinct_keys(fields, new)? }))
    }
}

fn distinct_keys<'t>(fields: &'static [&'static str], elements: &'t [Node<'t>]) -> Option<Vec<ElementKey<'t>>> {
    let keys: Vec<_> = elements.iter().map(|element| key_of(fields, element)).collect::<Option<_>>()?;
    are_distinct(&keys).then_some(keys)
}

fn are_distinct(keys: &[ElementKey<'_>]) -> bool {
    /// Up to here comparing each with each costs less than hashing them.
    const FEW: usize = 16;
    if keys.len() <= FEW {
        return keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key));
    }
    let distinct: HashSet<_> = keys.iter().collect();
    distinct.len() == keys.len()
}

fn key_of<'t>(fields: &'static [&'static str], element: &'t Node<'t>) -> Option<ElementKey<'t>> {
    let value = |field: &&'static str| match element.member(field)? {
        Node::String(text) if !text.is_empty() => Some((*field, Cow::Borrowed(text.as_ref()))),
        Node::Number(number) => Some((*field, Cow::Owned(number.to_string()))),
        _ => None,
    };
    fields.iter().map(value).collect::<Option<_>>().map(ElementKey)
}

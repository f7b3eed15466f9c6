//! Policies and requests, and what each request gets.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints' allowance for tests ends at functions that are tests themselves"
)]

mod cluster;
mod cost;
mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use domain::EntryId;
use domain::attempt::{Attempt, Operation};
use domain::entry::RequestFacts;
use policy::{Facts, Namespaces, Policy, Rule, Rules, Spec};
use serde_json::{Value, json};

/// A request in few words: `UPDATE apps/deployments/scale shop/web alice dev,ops`; `-` is empty.
struct Asked {
    operation: Operation,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    user: String,
    groups: Vec<Cow<'static, str>>,
}

impl Asked {
    fn new(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [operation, resource, name, user, groups] = words[..] else { panic!("{text}: five words") };
        let empty = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
        let parts: Vec<&str> = resource.split('/').collect();
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Self {
            operation: match operation {
                "CREATE" => Operation::Create,
                "UPDATE" => Operation::Update,
                "DELETE" => Operation::Delete,
                "CONNECT" => Operation::Connect,
                "GET" => Operation::Get,
                "LIST" => Operation::List,
                other => panic!("{other}"),
            },
            group: empty(parts[0]),
            resource: parts[1].to_owned(),
            subresource: parts.get(2).map(|sub| (*sub).to_owned()).unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            user: user.to_owned(),
            groups: groups.split(',').filter(|group| *group != "-").map(|group| Cow::Owned(group.to_owned())).collect(),
        }
    }

    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            id: EntryId::at(chrono::DateTime::UNIX_EPOCH, 1),
            operation: self.operation,
            api_group: &self.group,
            kind: "Kind",
            resource: &self.resource,
            subresource: &self.subresource,
            name: &self.name,
            namespace: &self.namespace,
            user: &self.user,
            groups: &self.groups,
            object: None,
            old_object: None,
            request: RequestFacts::default(),
        }
    }
}

impl Facts for Asked {
    fn request(&self) -> Option<Value> {
        let mut request = json!({
            "name": self.name, "operation": format!("{:?}", self.operation).to_uppercase(),
            "resource": {"group": self.group, "version": "v1", "resource": self.resource},
            "userInfo": {"username": self.user, "groups": self.groups},
        });
        for (field, value) in [("subResource", &self.subresource), ("namespace", &self.namespace)] {
            if !value.is_empty() {
                request[field] = json!(value);
            }
        }
        Some(request)
    }

    fn object(&self) -> Option<Value> {
        Some(json!({"metadata": {"labels": {"tier": "gold"}}}))
    }

    fn old_object(&self) -> Option<Value> {
        Some(Value::Null)
    }
}

fn namespaces() -> Namespaces {
    let of = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        (name.to_owned(), labels.collect::<BTreeMap<_, _>>())
    };
    [of("shop", &[("env", "prod"), ("team", "a")]), of("lab", &[("env", "test")]), of("plain", &[])].into()
}

fn rules(specs: &[(&str, Spec)]) -> Rules {
    let policies = specs.iter().map(|(name, spec)| Arc::new(Policy::compile(name, spec).unwrap())).collect();
    Rules::new(policies, Rule::built_in("built-in", false), Arc::new(namespaces()))
}

fn named(specs: &[(String, Spec)]) -> Vec<(&str, Spec)> {
    specs.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect()
}

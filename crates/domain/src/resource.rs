//! What a request wrote to, in the log's words.
//!
//! A review names the kind that the request *carries*, which for a subresource is often another one than its object's:
//! a scale carries a `Scale`, an eviction an `Eviction`. The log names the object's kind, so that its history is one.

use crate::attempt::{Attempt, Operation};
use crate::diff::quoted;
use crate::entry::Resource;
use crate::json::{Node, Noise};
use crate::redact::Redacted;

/// Kinds that are carried to a subresource and are never the object itself.
const CARRIED: [&str; 10] = [
    "Scale",
    "Eviction",
    "Binding",
    "TokenRequest",
    "PodExecOptions",
    "PodAttachOptions",
    "PodPortForwardOptions",
    "PodProxyOptions",
    "ServiceProxyOptions",
    "NodeProxyOptions",
];

/// Whether the request carries states of what it writes, before and after, so that its hashes belong to a chain: the
/// object's own, or that of its scale. What else is carried to a subresource is no state.
pub(crate) fn has_states(attempt: &Attempt<'_>) -> bool {
    carries_the_object(attempt) || attempt.subresource == "scale"
}

/// Whether the request carries the object that it writes. A custom resource may be called `Scale` and be an object of its
/// own.
pub(crate) fn carries_the_object(attempt: &Attempt<'_>) -> bool {
    matches!(attempt.subresource, "" | "status") || !CARRIED.contains(&attempt.kind)
}

pub(crate) fn of(attempt: &Attempt<'_>) -> Resource {
    match (attempt.operation, attempt.subresource) {
        (Operation::Connect, "exec" | "attach") => Resource::new("Terminal", ""),
        (Operation::Connect, "portforward") => Resource::new("PortForward", ""),
        (_, "") => Resource::new(attempt.kind, ""),
        (_, subresource) if carries_the_object(attempt) => Resource::new(attempt.kind, subresource),
        (_, subresource) => Resource::new(kind_of(attempt.resource), subresource),
    }
}

/// The status is noise but to those who write it: `status` itself, and `approval`, which puts a condition there that
/// issues a certificate.
pub(crate) fn noise(subresource: &str) -> Noise {
    match subresource {
        "status" | "approval" => Noise::KeepStatus,
        _ => Noise::Status,
    }
}

/// The kind behind the plural of a built-in resource that has such a subresource. Of a custom resource with a scale only
/// the plural is known here, and it is what is shown.
fn kind_of(plural: &str) -> &str {
    match plural {
        "deployments" => "Deployment",
        "replicasets" => "ReplicaSet",
        "statefulsets" => "StatefulSet",
        "replicationcontrollers" => "ReplicationController",
        "pods" => "Pod",
        "services" => "Service",
        "nodes" => "Node",
        "serviceaccounts" => "ServiceAccount",
        custom => custom,
    }
}

/// One line for what has no changes to tell: creates, deletes, connections.
pub(crate) fn summary(attempt: &Attempt<'_>, object: Option<&Redacted<'_>>) -> String {
    let root = object.map(|object| &object.root.0);
    match (attempt.operation, attempt.subresource) {
        (Operation::Connect, "exec") => format!("exec {}{}", command(root), in_container(root)),
        (Operation::Connect, "attach") => format!("attach{}", in_container(root)),
        (Operation::Connect, "portforward") => "port-forward".to_owned(),
        (Operation::Connect, subresource) => subresource.to_owned(),
        (Operation::Create, "binding") => {
            match root.and_then(|root| root.at(&["target", "name"])).and_then(Node::as_str) {
                Some(node) => format!("bound to {}", quoted(node)),
                None => "bound".to_owned(),
            }
        }
        (Operation::Create, "eviction") => "eviction requested".to_owned(),
        (Operation::Create, "token") => "token requested".to_owned(),
        (Operation::Create, "") => format!("created{}", with_images(root)),
        (Operation::Create, subresource) => format!("{subresource} created"),
        (Operation::Update, _) => "changed".to_owned(),
        (Operation::Delete, _) => format!("deleted{}", with_images(root)),
        (Operation::Get | Operation::List | Operation::Watch, _) => verb(attempt).to_owned(),
    }
}

/// What was done, and nothing of the object.
pub(crate) fn verb(attempt: &Attempt<'_>) -> &'static str {
    match attempt.operation {
        Operation::Create => "created",
        Operation::Update => "changed",
        Operation::Delete => "deleted",
        Operation::Connect => "connected",
        Operation::Get => "read",
        Operation::List => "listed",
        Operation::Watch => "watched",
    }
}

/// The program alone: its arguments may hold secrets.
fn command(root: Option<&Node<'_>>) -> String {
    let program = root.and_then(|root| root.member("command")).and_then(|argv| argv.elements().first());
    program.and_then(Node::as_str).map_or_else(String::new, quoted)
}

fn in_container(root: Option<&Node<'_>>) -> String {
    match root.and_then(|root| root.member("container")).and_then(Node::as_str) {
        Some(container) => format!(" in container {}", quoted(container)),
        None => String::new(),
    }
}

/// What a workload runs, which is what a person asks first.
fn with_images(root: Option<&Node<'_>>) -> String {
    const TOLD_MAX: usize = 3;
    const PODS: [&[&str]; 3] = [
        &["spec", "template", "spec", "containers"],
        &["spec", "jobTemplate", "spec", "template", "spec", "containers"],
        &["spec", "containers"],
    ];
    let containers = root.and_then(|root| PODS.iter().find_map(|place| root.at(place))).map_or(&[][..], Node::elements);
    let images: Vec<&str> =
        containers.iter().filter_map(|container| container.member("image").and_then(Node::as_str)).collect();
    let told: Vec<String> = images.iter().take(TOLD_MAX).map(|image| quoted(image)).collect();
    match images.len() {
        0 => String::new(),
        n if n > TOLD_MAX => format!(" with {} and {} more", told.join(", "), n - TOLD_MAX),
        _ => format!(" with {}", told.join(", ")),
    }
}

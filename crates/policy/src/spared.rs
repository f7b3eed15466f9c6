//! What no policy refuses, be it recorded or not: without it a cluster could not get out of where nothing can be recorded.

use domain::attempt::{Attempt, Operation};

/// A group, and which of its plurals; none: all.
struct Spared {
    group: &'static str,
    plural: Option<&'static str>,
}

const SPARED: [Spared; 5] = [
    // Of the policies themselves: one that refuses everything could otherwise not be taken back.
    Spared { group: "audit.kubevision.io", plural: None },
    // Of what runs the program and its database: a node that comes back, and the disks that it is given.
    Spared { group: "", plural: Some("nodes") },
    Spared { group: "certificates.k8s.io", plural: None },
    Spared { group: "coordination.k8s.io", plural: None },
    Spared { group: "storage.k8s.io", plural: Some("volumeattachments") },
];

/// Whether a write is made even if it cannot be recorded. A connection (to a node's proxy) is none, and brings nothing
/// back.
pub fn is_spared(request: &Attempt<'_>) -> bool {
    let is = |spared: &Spared| {
        spared.group == request.api_group && spared.plural.is_none_or(|plural| plural == request.resource)
    };
    request.operation != Operation::Connect && SPARED.iter().any(is)
}

/// The same as CEL over the admission request.
pub fn spared_as_condition() -> String {
    let one = |Spared { group, plural }: &Spared| match plural {
        None => format!(r#"request.resource.group == "{group}""#),
        Some(plural) => {
            format!(r#"(request.resource.group == "{group}" && request.resource.resource == "{plural}")"#)
        }
    };
    let any: Vec<_> = SPARED.iter().map(one).collect();
    format!(r#"request.operation != "CONNECT" && ({})"#, any.join(" || "))
}

/// Whether a resource of this name, of some group, may be spared.
pub fn is_spared_plural(plural: &str) -> bool {
    let of_whole_groups = ["auditpolicies", "certificatesigningrequests", "clustertrustbundles", "leases"];
    SPARED.iter().any(|spared| spared.plural == Some(plural)) || of_whole_groups.contains(&plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_the_denials_their_room() {
        let around = "!(!() && ())".len();
        let told = spared_as_condition().len();
        assert!(told + around <= 512, "{told} bytes: DENIALS_BYTES_MAX leaves 512 for what is written around them");
    }
}

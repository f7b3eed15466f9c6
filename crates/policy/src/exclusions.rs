//! What the registration leaves out whatever the policies say: writes that no person would look for. As CEL for the API
//! server, which then does not even ask, and the same in Rust, for whoever tells of them all the same.

use domain::attempt::Attempt;

/// Writes that the API server does not call us for.
pub struct Exclusion {
    pub name: &'static str,
    /// Why nobody misses them.
    pub reason: &'static str,
    /// CEL over the admission request; true for what is left out. Never fails to evaluate: with the failure policy that
    /// we need, a write whose condition fails is a write unseen.
    pub matches: &'static str,
    is: fn(&Attempt<'_>) -> bool,
}

/// Who follows pods and services by themselves; the last is all controllers in one, where the controller manager runs
/// without an account for each.
const ENDPOINT_CONTROLLERS: [&str; 4] = [
    "system:serviceaccount:kube-system:endpoint-controller",
    "system:serviceaccount:kube-system:endpointslice-controller",
    "system:serviceaccount:kube-system:endpointslicemirroring-controller",
    "system:kube-controller-manager",
];

/// In the order of how often they would be called.
pub const EXCLUSIONS: [Exclusion; 5] = [
    Exclusion {
        name: "exclude-leases",
        reason: "heartbeats of nodes and leaders: every few seconds each, and the control plane loses its own when they \
                 are slow",
        matches: r#"request.resource.group == "coordination.k8s.io" && request.resource.resource == "leases""#,
        is: |request| request.api_group == "coordination.k8s.io" && request.resource == "leases",
    },
    Exclusion {
        name: "exclude-events",
        reason: "a record of what was seen, not a change",
        matches: r#"request.resource.group in ["", "events.k8s.io"] && request.resource.resource == "events""#,
        is: |request| matches!(request.api_group, "" | "events.k8s.io") && request.resource == "events",
    },
    Exclusion {
        name: "exclude-status",
        reason: "what controllers observe, not what somebody asked for",
        matches: r#"has(request.subResource) && request.subResource == "status""#,
        is: |request| request.subresource == "status",
    },
    Exclusion {
        name: "exclude-access-reviews",
        reason: "questions (who is this, may they do that) that are asked by creating an object which is never stored",
        matches: r#"request.resource.group in ["authentication.k8s.io", "authorization.k8s.io"]"#,
        is: |request| matches!(request.api_group, "authentication.k8s.io" | "authorization.k8s.io"),
    },
    Exclusion {
        name: "exclude-endpoint-controllers",
        reason: "follows from pods and services by itself; written by anybody else than these controllers, it redirects \
                 traffic and is recorded",
        matches: concat!(
            r#"((request.resource.group == "" && request.resource.resource == "endpoints")"#,
            r#" || (request.resource.group == "discovery.k8s.io" && request.resource.resource == "endpointslices"))"#,
            r#" && has(request.userInfo.username) && request.userInfo.username in ["#,
            r#""system:serviceaccount:kube-system:endpoint-controller","#,
            r#" "system:serviceaccount:kube-system:endpointslice-controller","#,
            r#" "system:serviceaccount:kube-system:endpointslicemirroring-controller","#,
            r#" "system:kube-controller-manager"]"#,
        ),
        is: |request| {
            matches!((request.api_group, request.resource), ("", "endpoints") | ("discovery.k8s.io", "endpointslices"))
                && ENDPOINT_CONTROLLERS.contains(&request.user)
        },
    },
];

/// The same as all of [`EXCLUSIONS`] together.
pub fn is_excluded(request: &Attempt<'_>) -> bool {
    EXCLUSIONS.iter().any(|exclusion| (exclusion.is)(request))
}

/// Whether the API server shows writes to it to no webhook, lest one that is broken could not be repaired.
pub fn is_invisible(group: &str, plural: &str) -> bool {
    const INVISIBLE: [&str; 6] = [
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
    ];
    group == "admissionregistration.k8s.io" && INVISIBLE.contains(&plural)
}

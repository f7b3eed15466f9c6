//! What is watched, and why no webhook tells of it.

use cluster::Collection;
use domain::kinds::Kinds;

/// A kind that no webhook of ours is asked about.
pub(super) struct Watched {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The API server asks no webhook about what decides whom it asks, but those on its own disk.
    Cluster,
    /// Our own namespace, which our registration leaves out: what starts us must not wait for us.
    Own,
}

impl Place {
    /// Why it is not known who made a change.
    pub(super) fn unknown_user(self) -> &'static str {
        match self {
            Self::Cluster => "the API server asks no webhook about this kind",
            Self::Own => "the webhook leaves out the namespace of the program itself",
        }
    }
}

const fn cluster(kind: &'static str) -> Watched {
    Watched { group: "admissionregistration.k8s.io", kind, place: Place::Cluster }
}

const fn own(group: &'static str, kind: &'static str) -> Watched {
    Watched { group, kind, place: Place::Own }
}

/// Its order is that of the numbers by which the rest of this module calls them.
pub(super) const WATCHED: [Watched; 15] = [
    cluster("ValidatingWebhookConfiguration"),
    cluster("MutatingWebhookConfiguration"),
    cluster("ValidatingAdmissionPolicy"),
    cluster("ValidatingAdmissionPolicyBinding"),
    cluster("MutatingAdmissionPolicy"),
    cluster("MutatingAdmissionPolicyBinding"),
    own("", "ConfigMap"),
    own("", "Secret"),
    own("", "Service"),
    own("", "ServiceAccount"),
    own("apps", "Deployment"),
    own("networking.k8s.io", "NetworkPolicy"),
    own("policy", "PodDisruptionBudget"),
    own("rbac.authorization.k8s.io", "Role"),
    own("rbac.authorization.k8s.io", "RoleBinding"),
];

/// Those that the API server serves, by their numbers.
pub(super) fn collections(kinds: &Kinds, namespace: &str) -> Vec<(usize, Collection)> {
    let collection = |(number, watched): (usize, &Watched)| {
        let served = kinds.served(watched.group, watched.kind)?;
        let collection = Collection {
            group: watched.group.to_owned(),
            version: served.version.clone(),
            kind: watched.kind.to_owned(),
            plural: served.plural.clone(),
            namespace: (watched.place == Place::Own).then(|| namespace.to_owned()),
        };
        Some((number, collection))
    };
    WATCHED.iter().enumerate().filter_map(collection).collect()
}

#[cfg(test)]
mod tests {
    use domain::kinds::Served;

    use super::*;

    #[test]
    fn what_is_not_served_is_not_watched_and_our_namespace_is_the_only_one() {
        let mut kinds = Kinds::default();
        for (group, kind, plural, namespaced) in [
            ("", "Secret", "secrets", true),
            ("", "Pod", "pods", true),
            ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", false),
        ] {
            kinds.serve(group, kind, Served { version: "v1".to_owned(), plural: plural.to_owned(), namespaced });
        }
        let found = collections(&kinds, "audit");
        let told: Vec<_> =
            found.iter().map(|(n, c)| (WATCHED[*n].kind, c.kind.as_str(), c.namespace.as_deref())).collect();
        let policy = "MutatingAdmissionPolicy";
        assert_eq!(told, [(policy, policy, None), ("Secret", "Secret", Some("audit"))]);
    }
}

//! Kinds by their plurals and plurals by their kinds: a review names both, an audit event only the plural (`deployments`),
//! and the log only the kind.

use std::collections::HashMap;

/// Which kind a group's plural is of. What is built in is known from the start; custom resources are told later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// By group, then by plural.
    told: HashMap<String, HashMap<String, String>>,
    /// By group, then by kind; what the API server serves, as far as it was asked.
    served: HashMap<String, HashMap<String, Served>>,
}

/// How the API server serves the objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The one that it prefers: `v1`.
    pub version: String,
    pub plural: String,
    pub namespaced: bool,
}

impl Kinds {
    /// With kinds beside those that are built in, as (group, plural, kind).
    pub fn with<T: Into<String>>(told: impl IntoIterator<Item = (T, T, T)>) -> Self {
        let mut kinds = Self::default();
        for (group, plural, kind) in told {
            kinds.told.entry(group.into()).or_default().insert(plural.into(), kind.into());
        }
        kinds
    }

    /// Of two resources of one kind the first that is told counts.
    pub fn serve(&mut self, group: &str, kind: &str, served: Served) {
        let plurals = self.told.entry(group.to_owned()).or_default();
        plurals.entry(served.plural.clone()).or_insert_with(|| kind.to_owned());
        self.served.entry(group.to_owned()).or_default().entry(kind.to_owned()).or_insert(served);
    }

    /// Keeps the names that were known before: what is not served for a moment, or not any more, is still in the log.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for (group, plurals) in &before.told {
            let known = self.told.entry(group.clone()).or_default();
            for (plural, kind) in plurals {
                known.entry(plural.clone()).or_insert_with(|| kind.clone());
            }
        }
        self
    }

    pub fn kind(&self, group: &str, plural: &str) -> Option<&str> {
        let told = self.told.get(group).and_then(|group| group.get(plural)).map(String::as_str);
        told.or_else(|| built_in(group, plural))
    }

    /// None where the API server serves no such kind, or was not asked yet.
    pub fn served(&self, group: &str, kind: &str) -> Option<&Served> {
        self.served.get(group)?.get(kind)
    }

    /// All that are served, as (group, kind, how).
    pub fn all_served(&self) -> impl Iterator<Item = (&str, &str, &Served)> {
        self.served
            .iter()
            .flat_map(|(group, kinds)| kinds.iter().map(move |(kind, served)| (group.as_str(), kind.as_str(), served)))
    }
}

impl Kinds {
    /// The other way round. None where it is not known, or there are several.
    pub fn plural(&self, group: &str, kind: &str) -> Option<&str> {
        let told = self.told.get(group).into_iter().flatten().filter(|(_, told)| *told == kind);
        let told = told.map(|(plural, _)| plural.as_str());
        let built_in = BUILT_IN.iter().filter(|(g, _, k)| (*g, *k) == (group, kind)).map(|(_, plural, _)| *plural);
        let mut found = told.chain(built_in);
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }
}

fn built_in(group: &str, plural: &str) -> Option<&'static str> {
    BUILT_IN.binary_search_by(|(g, p, _)| (*g, *p).cmp(&(group, plural))).ok().map(|found| BUILT_IN[found].2)
}

/// Group, plural, kind; sorted by the first two.
#[rustfmt::skip]
const BUILT_IN: &[(&str, &str, &str)] = &[
    ("", "bindings", "Binding"),
    ("", "componentstatuses", "ComponentStatus"),
    ("", "configmaps", "ConfigMap"),
    ("", "endpoints", "Endpoints"),
    ("", "events", "Event"),
    ("", "limitranges", "LimitRange"),
    ("", "namespaces", "Namespace"),
    ("", "nodes", "Node"),
    ("", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("", "persistentvolumes", "PersistentVolume"),
    ("", "pods", "Pod"),
    ("", "podtemplates", "PodTemplate"),
    ("", "replicationcontrollers", "ReplicationController"),
    ("", "resourcequotas", "ResourceQuota"),
    ("", "secrets", "Secret"),
    ("", "serviceaccounts", "ServiceAccount"),
    ("", "services", "Service"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "apiservices", "APIService"),
    ("apps", "controllerrevisions", "ControllerRevision"),
    ("apps", "daemonsets", "DaemonSet"),
    ("apps", "deployments", "Deployment"),
    ("apps", "replicasets", "ReplicaSet"),
    ("apps", "statefulsets", "StatefulSet"),
    ("audit.kubevision.io", "auditpolicies", "AuditPolicy"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    ("batch", "cronjobs", "CronJob"),
    ("batch", "jobs", "Job"),
    ("certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest"),
    ("certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundle"),
    ("certificates.k8s.io", "podcertificaterequests", "PodCertificateRequest"),
    ("coordination.k8s.io", "leasecandidates", "LeaseCandidate"),
    ("coordination.k8s.io", "leases", "Lease"),
    ("discovery.k8s.io", "endpointslices", "EndpointSlice"),
    ("events.k8s.io", "events", "Event"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "PriorityLevelConfiguration"),
    ("networking.k8s.io", "ingressclasses", "IngressClass"),
    ("networking.k8s.io", "ingresses", "Ingress"),
    ("networking.k8s.io", "ipaddresses", "IPAddress"),
    ("networking.k8s.io", "networkpolicies", "NetworkPolicy"),
    ("networking.k8s.io", "servicecidrs", "ServiceCIDR"),
    ("node.k8s.io", "runtimeclasses", "RuntimeClass"),
    ("policy", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "clusterroles", "ClusterRole"),
    ("rbac.authorization.k8s.io", "rolebindings", "RoleBinding"),
    ("rbac.authorization.k8s.io", "roles", "Role"),
    ("resource.k8s.io", "deviceclasses", "DeviceClass"),
    ("resource.k8s.io", "devicetaintrules", "DeviceTaintRule"),
    ("resource.k8s.io", "resourceclaims", "ResourceClaim"),
    ("resource.k8s.io", "resourceclaimtemplates", "ResourceClaimTemplate"),
    ("resource.k8s.io", "resourceslices", "ResourceSlice"),
    ("scheduling.k8s.io", "priorityclasses", "PriorityClass"),
    ("storage.k8s.io", "csidrivers", "CSIDriver"),
    ("storage.k8s.io", "csinodes", "CSINode"),
    ("storage.k8s.io", "csistoragecapacities", "CSIStorageCapacity"),
    ("storage.k8s.io", "storageclasses", "StorageClass"),
    ("storage.k8s.io", "volumeattachments", "VolumeAttachment"),
    ("storage.k8s.io", "volumeattributesclasses", "VolumeAttributesClass"),
    ("storagemigration.k8s.io", "storageversionmigrations", "StorageVersionMigration"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_found_and_what_is_told_besides() {
        assert!(BUILT_IN.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
        for (group, plural, kind) in BUILT_IN {
            assert_eq!(Kinds::default().kind(group, plural), Some(*kind));
        }
        let kinds = Kinds::with([("example.com", "a", "Twice"), ("example.com", "b", "Twice"), ("", "pods", "Pod")]);
        assert_eq!((kinds.plural("", "Pod"), kinds.plural("example.com", "Twice")), (Some("pods"), None));
        assert_eq!((kinds.plural("apps", "Deployment"), kinds.plural("", "Gizmo")), (Some("deployments"), None));
        let kinds = Kinds::with([("example.com", "gizmos", "Gizmo")]);
        assert_eq!(kinds.kind("example.com", "gizmos"), Some("Gizmo"));
        assert_eq!((kinds.kind("", "gizmos"), kinds.kind("apps", "deployments")), (None, Some("Deployment")));
    }

    #[test]
    fn what_is_served_is_found_by_its_kind_and_what_was_served_keeps_its_name() {
        let served = |version: &str, plural: &str| Served {
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespaced: true,
        };
        let mut before = Kinds::default();
        before.serve("example.com", "Gizmo", served("v1", "gizmos"));
        before.serve("example.com", "Gizmo", served("v1beta1", "gizmos"));
        assert_eq!(before.served("example.com", "Gizmo"), Some(&served("v1", "gizmos")));
        let now = Kinds::default().after(&before);
        assert_eq!((now.kind("example.com", "gizmos"), now.served("example.com", "Gizmo")), (Some("Gizmo"), None));
        assert_eq!(before.all_served().count(), 1);
    }
}

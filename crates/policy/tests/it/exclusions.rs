//! What the API server is told to leave out, and what the program takes for left out, is the same.

use policy::{EXCLUSIONS, Spec, is_excluded, is_invisible};

use crate::{Asked, rules};

#[test]
fn what_the_api_server_leaves_out_is_what_the_program_takes_for_left_out() {
    let users = [
        "alice",
        "system:kube-controller-manager",
        "system:serviceaccount:kube-system:endpoint-controller",
        "system:serviceaccount:kube-system:endpointslice-controller",
        "system:serviceaccount:kube-system:endpointslicemirroring-controller",
        "system:serviceaccount:shop:endpoint-controller",
    ];
    let resources = [
        "-/configmaps",
        "-/events",
        "events.k8s.io/events",
        "apps/events",
        "coordination.k8s.io/leases",
        "-/leases",
        "-/pods/status",
        "-/pods/exec",
        "apps/deployments/scale",
        "authentication.k8s.io/tokenreviews",
        "authorization.k8s.io/subjectaccessreviews",
        "-/endpoints",
        "discovery.k8s.io/endpointslices",
        "apps/endpoints",
    ];
    let mut left_out = 0;
    for (user, resource) in users.iter().flat_map(|user| resources.map(|resource| (user, resource))) {
        let asked = Asked::new(&format!("UPDATE {resource} shop/web {user} -"));
        let by_cel = EXCLUSIONS.iter().any(|exclusion| {
            let spec = Spec { expression: exclusion.matches.to_owned(), ..Spec::default() };
            let rules = rules(&[("excluded", spec)]);
            let decided = rules.decide(&asked.attempt(), &asked);
            assert_eq!(decided.failed, 0, "{} never fails", exclusion.name);
            decided.rule.level.is_none()
        });
        assert_eq!(is_excluded(&asked.attempt()), by_cel, "{resource} by {user}");
        left_out += usize::from(by_cel);
    }
    assert_eq!(left_out, users.len() * 6 + 4 * 2);
}

#[test]
fn only_what_admission_is_made_of_is_invisible() {
    assert!(is_invisible("admissionregistration.k8s.io", "validatingwebhookconfigurations"));
    assert!(!is_invisible("", "validatingwebhookconfigurations") && !is_invisible("apps", "deployments"));
}

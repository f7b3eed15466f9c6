//! What is told to a real API server.

use std::time::Duration;

use anyhow::ensure;
use domain::Level;
use policy::{DENIALS_BYTES_MAX, Spec};
use serde_json::json;

use crate::{named, rules};

/// Its parser has a limit, and so has what conditions may cost: one that fails refuses every write of a cluster, or lets each
/// pass unseen. The dearest user is in many groups, of which none matches.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_conditions_are_accepted_and_evaluated_for_somebody_in_500_groups() -> anyhow::Result<()> {
    let control_plane = testkit::control_plane::exclusive().await;
    let many = |what: &str, length: usize, ending: &str| -> Vec<String> {
        (0..64).map(|one| format!("{what}{one}{}{ending}", "x".repeat(length))).collect()
    };
    let short =
        |n: i32| many(&char::from(b'a' + u8::try_from(n).unwrap()).to_string(), 0, if n % 2 == 0 { "*" } else { "" });
    let denying = |precedence, spec| Spec { precedence, level: Some(Level::Diff), sync: true, deny: true, ..spec };
    let users = |n: i32| {
        let users = many(&format!("user-{n}-"), if n < 4 { 200 } else { 4 }, "*");
        (format!("users-{n}"), denying(n + 100, Spec { users, ..Spec::default() }))
    };
    let groups = |n: i32| (format!("groups-{n}"), Spec { precedence: 50 + n, groups: short(n), ..Spec::default() });
    let refusing = (0..4).map(groups).map(|(name, spec)| (name, denying(spec.precedence, spec)));
    let denials = rules(&named(&refusing.chain((0..12).map(users)).collect::<Vec<_>>())).denials(16);
    let exclusions = rules(&named(&(0..10).map(groups).collect::<Vec<_>>())).exclusions(64);
    let bytes: usize = denials.told.iter().map(|told| told.matches.len() + 6).sum();
    let excluding: usize = exclusions.iter().map(|told| told.matches.len()).sum();
    assert_eq!(
        denials.told.iter().filter(|told| told.policy.starts_with("groups-")).count(),
        4,
        "{:?}",
        denials.untold
    );
    assert!(
        bytes > DENIALS_BYTES_MAX * 9 / 10 && excluding > 7_000,
        "they are to be the largest: {bytes}, {excluding}"
    );

    let denied = denials.told.iter().map(|told| format!("({})", told.matches)).collect::<Vec<_>>().join(" || ");
    let mut conditions: Vec<_> = exclusions
        .iter()
        .enumerate()
        .map(|(n, told)| json!({"name": format!("unwanted-{n}"), "expression": format!("!({})", told.matches)}))
        .collect();
    conditions.push(json!({"name": "denied", "expression": denied}));
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "largest"},
        "webhooks": [{
            "name": "deny.largest.example.org", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["*"], "operations": ["*"], "resources": ["configmaps"]}],
            "matchConditions": conditions,
        }],
    });
    control_plane.kubectl(["create", "-f", "-"]).stdin(webhook.to_string()).ok().await?;

    let groups = (0..500).map(|n| format!("--as-group=group-number-{n}-of-somebody"));
    let args = |name: &str, user: &str| {
        ["create", "configmap", name, "--as", user, "--as-group=system:masters"].map(str::to_owned).into_iter()
    };
    let asked = &format!("user-0-0{}", "x".repeat(200));
    // It is registered, but may be in force a moment later.
    testkit::eventually(Duration::from_secs(30), async || {
        let said = control_plane.kubectl(args("asked", asked)).refused().await?;
        ensure!(said.contains("failed calling webhook"), "{said}");
        Ok(())
    })
    .await?;
    control_plane.kubectl(args("written", "somebody").chain(groups)).ok().await?;
    control_plane.kubectl(["delete", "validatingwebhookconfiguration", "largest"]).ok().await?;
    Ok(())
}

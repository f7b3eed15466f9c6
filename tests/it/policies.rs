//! AuditPolicies, from `kubectl apply` to what is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use domain::clock::Clock as _;
use domain::{Entry, EntryId, RedactedEntry};
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use testkit::postgres::Postgres;
use testkit::{eventually, http};

use crate::cluster::{Cluster, EFFECT_WITHIN, WITHIN, of_policy, write};
use crate::stock::Now;

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_applied_changes_what_is_recorded_within_two_seconds() -> anyhow::Result<()> {
    let cluster = Cluster::start("").await?;
    let all = |level: &str| json!({"level": level, "match": {"resources": ["configmaps"], "namespaces": ["shop"]}});

    cluster.apply("shop", all("Metadata")).await?;
    let took = cluster.until("metadata", |found| of_policy(found, "shop")).await?;
    assert!(took < EFFECT_WITHIN, "{took:?}");
    let found = cluster.entries("resource=ConfigMap&limit=1").await?;
    assert_eq!((&found[0]["detail"]["summary"], &found[0]["detail"]["after"]), (&json!("created"), &Value::Null));

    cluster.apply("shop", all("Full")).await?;
    let took =
        cluster.until("full", |found| of_policy(found, "shop") && found[0]["detail"]["after"].is_object()).await?;
    assert!(took < EFFECT_WITHIN, "{took:?}");

    cluster.apply("shop", all("None")).await?;
    let took = cluster.until("none", <[Value]>::is_empty).await?;
    assert!(took < EFFECT_WITHIN, "{took:?}");
    // And the API server does not even ask.
    let before = cluster.reviews().await?;
    for n in 0..20 {
        write(&cluster.control_plane, &format!("quiet-{n}")).await?;
    }
    assert_eq!(cluster.reviews().await?, before);

    cluster.control_plane.kubectl(["delete", "auditpolicy", "shop"]).ok().await?;
    let took = cluster.until("built-in again", |found| of_policy(found, "built-in")).await?;
    assert!(took < EFFECT_WITHIN, "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn among_500_policies_a_change_takes_effect_within_two_seconds() -> anyhow::Result<()> {
    let cluster = Cluster::start("").await?;
    let policy = |n: u32| {
        json!({
            "apiVersion": "audit.kubevision.io/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": format!("team-{n}")},
            "spec": {"level": "Metadata", "precedence": n + 1, "match": {
                "resources": ["configmaps", "secrets"], "users": [format!("system:serviceaccount:team-{n}:*")]}},
        })
    };
    let all = json!({"apiVersion": "v1", "kind": "List", "items": (0..500).map(policy).collect::<Vec<_>>()});
    cluster.control_plane.kubectl(["create", "-f", "-"]).stdin(all.to_string()).ok().await?;
    cluster.ready("team-499").await?;
    let metrics = http::get(cluster.program.metrics(), "/metrics").await?.body;
    assert!(metrics.contains("kubevision_audit_policies_in_force{level=\"Metadata\"} 500"), "{metrics}");
    let last = json!({"level": "Full", "precedence": 9_000, "match": {"resources": ["configmaps"]}});
    cluster.apply("last", last).await?;
    let took = cluster.until("the last of 501", |found| of_policy(found, "last")).await?;
    println!("a change among 500 policies took effect after {took:?}");
    assert!(took < EFFECT_WITHIN, "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_compile_says_so_and_the_last_good_one_stays_over_a_restart() -> anyhow::Result<()> {
    let mut cluster = Cluster::start("").await?;
    let with = |expression: &str| json!({"level": "Full", "retentionDays": 7, "match": {"resources": ["configmaps"], "expression": expression}});
    cluster.apply("careful", with("request.namespace == 'shop'")).await?;
    let ready = cluster.ready("careful").await?;
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("True"), &json!("InForce")));

    cluster.apply("careful", with("request.namespace ==")).await?;
    let ready = cluster.ready("careful").await?;
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ExpressionInvalid")), "{ready}");
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("Syntax error") && message.contains("generation 1 stays in force"), "{message}");
    cluster.until("the last good version", |found| of_policy(found, "careful")).await?;
    let metrics = http::get(cluster.program.metrics(), "/metrics").await?.body;
    assert!(metrics.contains("kubevision_audit_policies_not_ready 1"), "{metrics}");
    let health = http::get(cluster.program.metrics(), "/readyz?verbose").await?;
    let named = "[+]policies ok, but not ready: careful (";
    assert!(health.status == 200 && health.body.contains(named), "{health:?}");

    cluster.program.sigterm_and_wait().await?;
    cluster.program.start_again()?;
    cluster.program.ready().await?;
    cluster.until("the last good version after a restart", |found| of_policy(found, "careful")).await?;

    let events = cluster.control_plane.kubectl(["get", "events", "-n", "default", "-o", "json"]).json().await?;
    let told: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|event| event["reason"].as_str().unwrap()).collect();
    assert!(told.contains(&"InForce") && told.contains(&"ExpressionInvalid"), "{told:?}");
    assert_eq!(told.iter().filter(|reason| **reason == "ExpressionInvalid").count(), 1, "told once, not at each start");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_cannot_mean_is_refused_by_the_api_server_and_kubectl_reads_well() -> anyhow::Result<()> {
    let cluster = Cluster::start("").await?;
    let cases = [
        (json!({"level": "Loud"}), "Unsupported value: \"Loud\""),
        (json!({"level": "Diff", "precedence": 0}), "greater than or equal to 1"),
        (json!({"level": "Diff", "onWriteFailure": "Deny"}), "onWriteFailure: Deny needs sync: true"),
        (json!({"level": "None", "sync": true}), "level: None records nothing"),
        (
            json!({"level": "Diff", "sync": true, "onWriteFailure": "Deny", "match": {"expression": "true"}}),
            "onWriteFailure: Deny cannot have an expression",
        ),
        (
            json!({"level": "Diff", "match": {"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"a": "b"}}}}),
            "two ways to say the same",
        ),
        (json!({"level": "Diff", "redact": ["spec.password"]}), "spec.redact[0]"),
        (json!({"level": "Diff", "match": {"resources": ["Pods!"]}}), "spec.match.resources[0]"),
    ];
    for (spec, told) in cases {
        let refused = cluster.apply("wrong", spec.clone()).await.unwrap_err();
        assert!(format!("{refused:#}").contains(told), "{spec}: {refused:#}");
    }
    let refused = cluster.apply("built-in", json!({"level": "Diff"})).await.unwrap_err();
    assert!(format!("{refused:#}").contains("give this one another name"), "{refused:#}");

    let spec = json!({"level": "Full", "sync": true, "retentionDays": 0, "redact": ["$.data.pin"],
        "match": {"resources": ["configmaps"], "namespaces": ["shop"]}});
    cluster.apply("ledger", spec).await?;
    cluster.ready("ledger").await?;
    let pinned =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"pinned"},"data":{"pin":"1234","color":"red"}}"#;
    cluster.control_plane.kubectl(["apply", "-n", "shop", "-f", "-"]).stdin(pinned).ok().await?;
    let found = cluster.entries("name=pinned").await?;
    assert_eq!(found.len(), 1, "sync: it is there when kubectl returns");
    let data = &found[0]["detail"]["after"]["data"];
    assert_eq!(data["color"], "red");
    assert!(data["pin"].as_str().unwrap().starts_with("<redacted hmac:"), "{data}");

    let table = cluster.control_plane.kubectl(["get", "kvap"]).ok().await?;
    let (head, row) = table.trim().split_once('\n').unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(head), ["NAME", "PRECEDENCE", "LEVEL", "SYNC", "RETENTION", "READY", "AGE"]);
    assert_eq!(words(row)[..6], ["ledger", "1000", "Full", "true", "0", "True"]);
    let described = cluster.control_plane.kubectl(["describe", "auditpolicy", "ledger"]).ok().await?;
    println!("{described}");
    assert!(described.contains("in force: Full is recorded and kept for ever; writes wait for their record"));
    let explained = cluster.control_plane.kubectl(["explain", "auditpolicy.spec", "--recursive"]).ok().await?;
    println!("{explained}");
    for field in ["onWriteFailure\t<string>", "enum: Allow, Deny", "namespaceSelector", "retentionDays\t<integer>"] {
        assert!(explained.contains(field), "{field}: {explained}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_records_nothing_is_not_asked_about_and_what_a_policy_before_it_wants_is() -> anyhow::Result<()> {
    let cluster = Cluster::start("").await?;
    for namespace in ["lab", "lab-1", "quiet"] {
        cluster.control_plane.kubectl(["create", "namespace", namespace]).ok().await?;
    }
    cluster.control_plane.kubectl(["label", "namespace", "quiet", "noise=high"]).ok().await?;
    let unwanted =
        |precedence: u32, matching: Value| json!({"level": "None", "precedence": precedence, "match": matching});
    let first = json!({"level": "Full", "precedence": 1, "match": {"resources": ["secrets"], "namespaces": ["lab*"]}});
    cluster.apply("first", first).await?;
    cluster.apply("lab", unwanted(2, json!({"namespaces": ["lab", "lab-*"], "operations": ["CREATE"]}))).await?;
    cluster.apply("quiet", unwanted(3, json!({"namespaceSelector": {"matchLabels": {"noise": "high"}}}))).await?;
    cluster.apply("robots", unwanted(4, json!({"users": ["robot-*"]}))).await?;
    cluster.apply("crew", unwanted(5, json!({"groups": ["crew"]}))).await?;
    let scales = json!({"resources": ["*/scale", "pods/*"], "apiGroups": ["*"], "namespaces": ["shop"]});
    cluster.apply("scales", unwanted(6, scales)).await?;
    let crew = cluster.control_plane.kubeconfig_for("kim", Some("crew")).await?;
    let grant =
        ["create", "clusterrolebinding", "all", "--clusterrole=cluster-admin", "--group=crew", "--user=robot-1"];
    cluster.control_plane.kubectl(grant).ok().await?;
    let robot = cluster.control_plane.kubeconfig_for("robot-1", None).await?;
    for name in ["first", "lab", "quiet", "robots", "crew", "scales"] {
        cluster.ready(name).await?;
    }
    let create = |namespace: &'static str, name: &'static str| {
        cluster.control_plane.kubectl(["create", "configmap", name, "-n", namespace])
    };
    // The API server heard of the last of them.
    eventually(WITHIN, || async {
        let before = cluster.reviews().await?;
        cluster
            .control_plane
            .kubectl(["delete", "configmap", "probe", "-n", "shop", "--ignore-not-found"])
            .ok()
            .await?;
        create("shop", "probe").kubeconfig(&crew).ok().await?;
        ensure!(cluster.reviews().await? <= before + 1, "still asked");
        Ok(())
    })
    .await?;

    let before = cluster.reviews().await?;
    create("lab", "a").ok().await?;
    create("lab-1", "a").ok().await?;
    create("quiet", "a").ok().await?;
    create("shop", "by-robot").kubeconfig(&robot).ok().await?;
    create("shop", "by-crew").kubeconfig(&crew).ok().await?;
    assert_eq!(cluster.reviews().await?, before, "none of these is asked about");

    create("shop", "by-admin").ok().await?;
    cluster.control_plane.kubectl(["delete", "configmap", "a", "-n", "lab"]).ok().await?;
    cluster.control_plane.kubectl(["create", "secret", "generic", "s", "-n", "lab"]).ok().await?;
    assert_eq!(cluster.reviews().await?, before + 3, "each of these is");
    eventually(WITHIN, || async {
        let found = cluster.entries("name=s").await?;
        ensure!(of_policy(&found, "first"), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_cannot_be_recorded_is_refused_where_a_policy_says_so_and_nowhere_else() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let mut cluster = Cluster::on(Some(postgres.create_database().await?), "").await?;
    let deny = json!({"level": "Diff", "sync": true, "onWriteFailure": "Deny", "match": {"resources": ["secrets"]}});
    cluster.apply("secrets", deny).await?;
    cluster.ready("secrets").await?;
    let secret = |name: &str| cluster.control_plane.kubectl(["create", "secret", "generic", name, "-n", "shop"]);
    eventually(WITHIN, || async {
        let name = ["-n", "shop", "get", "validatingwebhookconfiguration", "kubevision-audit", "-o", "json"];
        let live = cluster.control_plane.kubectl(name).json().await?;
        ensure!(live["webhooks"][1]["failurePolicy"] == "Fail", "{live}");
        Ok(())
    })
    .await?;
    for n in 0..200 {
        let name = format!("kept-{n}");
        secret(&name).ok().await?;
        let found = cluster.entries(&format!("name={name}")).await?;
        assert!(of_policy(&found, "secrets"), "when kubectl returns, the row is there: {found:?}");
    }

    postgres.stop().await?;
    let refused = secret("lost").refused().await?;
    println!("{refused}");
    for part in ["the write was not made", "AuditPolicy \"secrets\"", "was not stored within", "/readyz?verbose"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let start = Instant::now();
    write(&cluster.control_plane, "other").await?;
    assert!(start.elapsed() < Duration::from_secs(1), "all else goes on: {:?}", start.elapsed());

    // What a machine needs to come back is made, by a policy that refuses everything.
    let node = |name: &str| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string();
        cluster.control_plane.kubectl(["create", "-f", "-"]).stdin(node)
    };
    let everything = json!({"level": "Diff", "sync": true, "onWriteFailure": "Deny"});
    cluster.apply("secrets", everything).await?;
    let ready = cluster.ready("secrets").await?;
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("is refused, but for nodes"), "{message}");
    eventually(WITHIN, || async { write(&cluster.control_plane, "refused").await.err().context("not refused") })
        .await?;
    node("first").ok().await?;

    // And with nobody there to ask.
    cluster.program.kill()?;
    let secret = |name: &str| cluster.control_plane.kubectl(["create", "secret", "generic", name, "-n", "shop"]);
    let refused = secret("lost-too").refused().await?;
    assert!(refused.contains("deny.audit.kubevision.io"), "{refused}");
    node("second").ok().await?;
    // Nobody is there to see that the policy is gone, so the registration has to go, too.
    cluster.control_plane.kubectl(["delete", "auditpolicy", "secrets"]).ok().await?;
    secret("lost-again").refused().await?;
    cluster.control_plane.kubectl(["delete", "validatingwebhookconfiguration", "kubevision-audit"]).ok().await?;
    eventually(WITHIN, || async { secret("made").ok().await.map(drop) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_list_the_policies_answers_nothing_and_leaves_the_registration_until_it_may() -> anyhow::Result<()>
{
    let mut cluster = Cluster::start("").await?;
    let deny = json!({"level": "Diff", "sync": true, "onWriteFailure": "Deny", "match": {"resources": ["secrets"]}});
    cluster.apply("secrets", deny).await?;
    cluster.ready("secrets").await?;
    let webhooks = |control_plane: &ControlPlane| {
        let live = control_plane.kubectl(["get", "validatingwebhookconfiguration", "kubevision-audit", "-o", "json"]);
        async move { anyhow::Ok(live.json().await?["webhooks"].take()) }
    };
    let registered = eventually(WITHIN, || async {
        let registered = webhooks(&cluster.control_plane).await?;
        ensure!(registered[1]["failurePolicy"] == "Fail", "{registered}");
        Ok(registered)
    })
    .await?;
    cluster.program.sigterm_and_wait().await?;

    cluster.without_a_right = true;
    let rights = |verbs: Value| {
        let patch = json!([{"op": "replace", "path": "/rules/0/verbs", "value": verbs}]);
        let patch = format!("--patch={patch}");
        let role = ["patch", "clusterrole", "kubevision-audit", "--type=json", &patch];
        cluster.control_plane.kubectl(role)
    };
    rights(json!(["watch"])).ok().await?;
    cluster.program.start_again()?;
    // Its registrar has looked, and found that it is there.
    eventually(WITHIN, || async {
        let health = http::get(cluster.program.metrics(), "/readyz?verbose").await?;
        ensure!(health.status == 503 && health.body.contains("[+]webhook ok"), "{health:?}");
        ensure!(health.body.contains("[-]policies failed: not known yet: "), "{health:?}");
        Ok(())
    })
    .await?;
    assert_eq!(webhooks(&cluster.control_plane).await?, registered);
    let secret = |name: &str| cluster.control_plane.kubectl(["create", "secret", "generic", name, "-n", "shop"]);
    let refused = secret("lost").refused().await?;
    assert!(refused.contains("deny.audit.kubevision.io"), "{refused}");
    write(&cluster.control_plane, "all-else-goes-on").await?;

    rights(json!(["list", "watch"])).ok().await?;
    eventually(WITHIN, || async { secret("kept").ok().await.map(drop) }).await?;
    assert!(of_policy(&cluster.entries("name=kept").await?, "secrets"));
    assert_eq!(webhooks(&cluster.control_plane).await?, registered);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_later_version_is_told_as_not_ready_and_keeps_what_it_recorded() -> anyhow::Result<()> {
    let cluster = Cluster::start("").await?;
    let everything = json!({"level": "Full", "retentionDays": 0, "match": {"resources": ["configmaps"]}});
    cluster.apply("later", everything).await?;
    cluster.ready("later").await?;
    let later = crate::cluster::CRD.replace("- Full\n", "- Full\n                - Everything\n");
    cluster.control_plane.kubectl(["apply", "-f", "-"]).stdin(later).ok().await?;
    eventually(WITHIN, || cluster.apply("later", json!({"level": "Everything", "retentionDays": 0}))).await?;
    let ready = cluster.ready("later").await?;
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("SpecUnknown")), "{ready}");
    let message = ready["message"].as_str().unwrap();
    assert!(message.ends_with("generation 1 stays in force"), "{message}");
    assert_eq!(cluster.policy("later").await?["status"]["inForce"]["generation"], 1);
    let health = http::get(cluster.program.metrics(), "/readyz?verbose").await?.body;
    assert!(health.contains("[+]policies ok, but not ready: later ("), "{health}");
    let metrics = http::get(cluster.program.metrics(), "/metrics").await?.body;
    assert!(metrics.contains("kubevision_audit_policies_not_ready 1"), "{metrics}");
    cluster.until("the last good version", |found| of_policy(found, "later")).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_followed_through_a_restart_of_the_api_server() -> anyhow::Result<()> {
    let mut cluster = Cluster::start("").await?;
    let all = |level: &str| json!({"level": level, "match": {"resources": ["configmaps"], "namespaces": ["shop"]}});
    cluster.apply("shop", all("Metadata")).await?;
    cluster.until("metadata", |found| of_policy(found, "shop")).await?;
    cluster.control_plane.restart_api_server().await?;
    cluster.until("still metadata", |found| of_policy(found, "shop")).await?;
    cluster.control_plane.kubectl(["delete", "auditpolicy", "shop"]).ok().await?;
    let took = cluster.until("built-in", |found| of_policy(found, "built-in")).await?;
    println!("a policy that was deleted after the restart was so after {took:?}");
    assert!(cluster.program.ended()?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_is_kept_for_as_long_as_its_policy_says_now() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let url = postgres.create_database().await?;
    let cluster = Cluster::on(Some(url.clone()), "audit: {retention_days: 90}").await?;
    let store = store_sql::open(&url)?;
    let kept = |days: u32| json!({"level": "Diff", "retentionDays": days, "match": {"users": ["nobody"]}});
    cluster.apply("short", kept(30)).await?;
    cluster.apply("ever", kept(0)).await?;
    cluster.ready("short").await?;
    cluster.apply("short", kept(1)).await?;
    for name in ["short", "ever"] {
        cluster.ready(name).await?;
    }
    let aged = |policy: &str, days: i64| {
        let id = EntryId::at(Now.now() - TimeDelta::days(days), days as u64);
        let (policy, resource_name) = (policy.to_owned(), format!("{policy}-{days}"));
        RedactedEntry::sample(Entry { policy, resource_name, ..Entry::sample(id) })
    };
    let policies = ["short", "ever", "deleted", "built-in"];
    let batch: Vec<_> = policies.iter().flat_map(|policy| [aged(policy, 2), aged(policy, 100)]).collect();
    store.write(&batch).await?;

    // The night comes again.
    let night = store.hold("purge", "this test", Duration::ZERO).await?.context("held by another")?;
    store.finish_purge(&night, Now.now() - TimeDelta::days(2), &BTreeMap::new(), None).await?;
    let left = || async {
        let mut names = BTreeSet::new();
        for policy in policies {
            for days in [2, 100] {
                let name = format!("{policy}-{days}");
                if !cluster.entries(&format!("name={name}")).await?.is_empty() {
                    names.insert(name);
                }
            }
        }
        anyhow::Ok(names)
    };
    eventually(Duration::from_secs(60), || async {
        ensure!(!left().await?.contains("short-2"), "not purged yet");
        Ok(())
    })
    .await?;
    let expected = ["ever-2", "ever-100", "deleted-2", "built-in-2"].map(str::to_owned);
    assert_eq!(left().await?, BTreeSet::from(expected));
    eventually(Duration::from_secs(60), || async {
        let status = cluster.policy("short").await?["status"].take();
        ensure!(status["lastPurged"] == 2 && status["matched24h"] == 0, "{status}");
        ensure!(status["lastPurgeTime"].is_string() && status["conditions"][0]["status"] == "True", "{status}");
        Ok(())
    })
    .await?;
    let purges = cluster.entries("resource=AuditLog&action=purge").await?;
    assert_eq!(purges[0]["detail"]["system"]["entries"], 4, "{purges:?}");
    Ok(())
}

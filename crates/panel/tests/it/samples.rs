//! Entries as a cluster makes them, and as an attacker would like them: for the tests and for the preview.

use chrono::{DateTime, TimeDelta, Utc};
use domain::entry::ObjectHash;
use domain::{Action, Detail, DetailJson, Entry, EntryId, Evidence, Outcome, RedactedEntry, Resource, Source, system};
use serde_json::{Value, json};

/// A text that must stay text wherever it is shown.
pub(crate) const MARKUP: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>";
pub(crate) const LINK: &str = "javascript:alert(document.domain)";
pub(crate) const OVERRIDE: &str = "admin\u{202e}gpj.exe\u{7}\r\nSet-Cookie: a=b";

pub(crate) fn now() -> DateTime<Utc> {
    "2026-03-01T14:05:00Z".parse().unwrap()
}

/// One write, `age` before [`now`]; `number` keeps ids apart and in order.
pub(crate) fn entry(age: TimeDelta, number: u64) -> Entry {
    Entry {
        id: EntryId::at(now() - age, number),
        user: "alice@example.com".into(),
        action: Action::Update,
        resource: Resource::new("Deployment", ""),
        resource_name: "web".into(),
        cluster: "local".into(),
        namespace: "shop".into(),
        status_code: 200,
        detail: detail(json!({"summary": "replicas 2 → 3", "changes": [
            {"op": "replace", "path": "/spec/replicas", "old": 2, "new": 3}
        ]})),
        ip: "10.0.4.17".into(),
        outcome: Outcome::Confirmed,
        evidence: Evidence::Audit,
        source: Source::Admission,
        audit_id: "7c1f7c3e-08dd-44a4-a6c4-3f2f1d4f9a10".into(),
        real_user: String::new(),
        user_agent: "kubectl/v1.37.2 (linux/amd64) kubernetes/abcdef0".into(),
        api_group: "apps".into(),
        object_uid: "2f1d4f9a-5a55-4c55-9f6b-0d2c6a1f8e11".into(),
        before_hash: Some(ObjectHash(-8_123_456_789_012_345_678)),
        after_hash: Some(ObjectHash(9_007_199_254_740_993)),
        policy: "default".into(),
    }
}

pub(crate) fn detail(value: Value) -> DetailJson {
    DetailJson::parse(value.to_string()).unwrap()
}

pub(crate) fn plain(count: u64) -> Vec<RedactedEntry> {
    (0..count).map(|n| RedactedEntry::sample(entry(TimeDelta::seconds(n as i64 * 37), n))).collect()
}

/// Every shape that an entry has, newest first.
pub(crate) fn showcase() -> Vec<RedactedEntry> {
    let minutes = |n: i64| TimeDelta::seconds(n * 60 + 11);
    let mut entries = vec![
        rollout(minutes(1)),
        scale(minutes(2)),
        secret(minutes(4)),
        config_map(minutes(9)),
        created(minutes(14)),
        deleted(minutes(21)),
        refused(minutes(33)),
        shell(minutes(47)),
        role_binding(minutes(62)),
        reordered(minutes(95)),
        truncated(minutes(640)),
        too_deep(minutes(700)),
        failed_login(minutes(1_020)),
    ];
    entries.extend(hostile().into_iter().enumerate().map(|(n, text)| hostile_entry(minutes(1_100 + n as i64), text)));
    let mut all: Vec<_> = entries.into_iter().map(RedactedEntry::sample).collect();
    let lost = system::Gap {
        from: now() - minutes(2_000),
        to: now() - minutes(1_999),
        lost: 12,
        reason: "the queue was full".into(),
    };
    all.push(system::gap(EntryId::at(now() - minutes(1_999), 0), &lost));
    let before = now() - TimeDelta::days(90);
    let by_policy = [("built-in".to_owned(), system::Outlived { before, entries: 48_211 })].into();
    let gone = system::Purge { before: Some(before), by_policy, days: 1, trigger: "nightly", finished: true };
    all.push(system::purge(EntryId::at(now() - minutes(2_165), 0), &gone));
    all
}

pub(crate) fn hostile() -> [&'static str; 3] {
    [MARKUP, LINK, OVERRIDE]
}

fn rollout(age: TimeDelta) -> Entry {
    let sidecar = json!({
        "name": "proxy", "image": "envoy:1.31", "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 15001, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "200m", "memory": "128Mi"}}, "terminationMessagePath": "/dev/termination-log"
    });
    Entry {
        detail: detail(json!({
            "summary": "image app:1.4.0 → app:1.5.0, container proxy added",
            "changes": [
                {"op": "add", "path": "/spec/template/spec/containers[name=proxy]", "index": 0, "new": sidecar},
                {"op": "replace", "path": "/spec/template/spec/containers[name=app]/image",
                 "old": "registry.example.com/shop/app:1.4.0", "new": "registry.example.com/shop/app:1.5.0"},
                {"op": "remove", "path": "/metadata/annotations/paused-by", "old": "bob"}
            ],
            "request": {"verb": "patch", "fieldManager": "kubectl-client-side-apply", "dryRun": false}
        })),
        ..entry(age, 0)
    }
}

fn scale(age: TimeDelta) -> Entry {
    Entry {
        user: "system:serviceaccount:kube-system:horizontal-pod-autoscaler".into(),
        resource: Resource::new("Deployment", "scale"),
        outcome: Outcome::Confirmed,
        evidence: Evidence::Successor,
        ..entry(age, 0)
    }
}

fn secret(age: TimeDelta) -> Entry {
    Entry {
        resource: Resource::new("Secret", ""),
        resource_name: "payments-api-key".into(),
        api_group: String::new(),
        outcome: Outcome::Unconfirmed,
        evidence: Evidence::Nothing,
        ip: String::new(),
        audit_id: String::new(),
        real_user: "carol@example.com".into(),
        detail: detail(json!({"summary": "data.token changed", "changes": [
            {"op": "replace", "path": "/data/token", "old": "<redacted hmac:9f86d081>", "new": "<redacted hmac:60303ae2>"}
        ]})),
        ..entry(age, 0)
    }
}

fn config_map(age: TimeDelta) -> Entry {
    let old: String = (1..=40).map(|n| format!("route_{n:02} = backend-{}\n", n % 4)).collect();
    let new = old.replace("route_07 = backend-3\n", "route_07 = backend-9\n").replace("route_31 = backend-3\n", "");
    Entry {
        resource: Resource::new("ConfigMap", ""),
        resource_name: "routes".into(),
        api_group: String::new(),
        detail: detail(json!({"summary": "data.routes.conf changed", "changes": [
            {"op": "replace", "path": "/data/routes.conf", "old": old, "new": new}
        ]})),
        ..entry(age, 0)
    }
}

fn created(age: TimeDelta) -> Entry {
    let after = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.14.7", "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}
    });
    Entry {
        action: Action::Create,
        resource: Resource::new("Service", ""),
        api_group: String::new(),
        status_code: 201,
        before_hash: None,
        detail: detail(json!({"summary": "Service web created", "after": after})),
        ..entry(age, 0)
    }
}

fn deleted(age: TimeDelta) -> Entry {
    let ports: Vec<_> = (0..12).map(|n| json!({"name": format!("p{n}"), "port": 8000 + n})).collect();
    let before =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "legacy"}, "spec": {"ports": ports}});
    Entry {
        user: "bob".into(),
        action: Action::Delete,
        resource: Resource::new("Service", ""),
        resource_name: "legacy".into(),
        api_group: String::new(),
        after_hash: None,
        outcome: Outcome::Unconfirmed,
        evidence: Evidence::Nothing,
        detail: detail(json!({"summary": "Service legacy deleted", "before": before})),
        ..entry(age, 0)
    }
}

fn refused(age: TimeDelta) -> Entry {
    Entry {
        user: "bob".into(),
        action: Action::Create,
        resource: Resource::new("Pod", ""),
        resource_name: "miner".into(),
        api_group: String::new(),
        status_code: 403,
        outcome: Outcome::Rejected,
        detail: detail(
            json!({"summary": "Pod miner created", "after": {"kind": "Pod", "spec": {"hostNetwork": true}}}),
        ),
        ..entry(age, 0)
    }
}

fn shell(age: TimeDelta) -> Entry {
    Entry {
        action: Action::Start,
        resource: Resource::new("Terminal", ""),
        resource_name: "web-7d9c5b6f4-x2x8q".into(),
        api_group: String::new(),
        status_code: 101,
        before_hash: None,
        after_hash: None,
        detail: detail(json!({"summary": "exec sh in container app"})),
        ..entry(age, 0)
    }
}

fn role_binding(age: TimeDelta) -> Entry {
    Entry {
        user: "system:admin".into(),
        action: Action::Create,
        resource: Resource::new("ClusterRoleBinding", ""),
        resource_name: "bob-is-cluster-admin".into(),
        namespace: String::new(),
        api_group: "rbac.authorization.k8s.io".into(),
        status_code: 201,
        before_hash: None,
        detail: detail(json!({"summary": "cluster-admin granted to User bob", "after": {
            "kind": "ClusterRoleBinding", "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "User", "name": "bob"}]
        }})),
        ..entry(age, 0)
    }
}

fn reordered(age: TimeDelta) -> Entry {
    Entry {
        outcome: Outcome::Superseded,
        evidence: Evidence::Audit,
        detail: detail(json!({"summary": "containers reordered", "changes": [
            {"op": "reorder", "path": "/spec/template/spec/containers", "old": ["app", "proxy"], "new": ["proxy", "app"]}
        ]})),
        ..entry(age, 0)
    }
}

fn truncated(age: TimeDelta) -> Entry {
    let changes: Vec<_> = (0..3)
        .map(|n| json!({"op": "add", "path": format!("/spec/rules/{n}"), "new": {"host": format!("h{n}.example.com")}}))
        .collect();
    Entry {
        resource: Resource::new("Ingress", ""),
        resource_name: "edge".into(),
        api_group: "networking.k8s.io".into(),
        detail: detail(json!({"summary": "812 changes", "changes": changes,
            "truncated": {"changes": 812, "kept": 3, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}})),
        ..entry(age, 0)
    }
}

fn too_deep(age: TimeDelta) -> Entry {
    Entry {
        resource: Resource::new("Workflow", ""),
        resource_name: "nested".into(),
        api_group: "example.com".into(),
        outcome: Outcome::Unconfirmed,
        evidence: Evidence::Nothing,
        detail: detail(
            json!({"summary": "Workflow nested updated", "omitted": "the object is more than 100 levels deep"}),
        ),
        ..entry(age, 0)
    }
}

fn failed_login(age: TimeDelta) -> Entry {
    Entry {
        user: String::new(),
        action: Action::Authenticate,
        resource: Resource::new("User", ""),
        resource_name: String::new(),
        namespace: String::new(),
        api_group: String::new(),
        object_uid: String::new(),
        status_code: 401,
        before_hash: None,
        after_hash: None,
        source: Source::Audit,
        policy: String::new(),
        detail: Detail { summary: "authentication failed".into(), ..Detail::default() }.to_json(),
        ..entry(age, 0)
    }
}

/// The text in every place that somebody outside can fill.
pub(crate) fn hostile_entry(age: TimeDelta, text: &str) -> Entry {
    let change = json!({"op": "replace", "path": format!("/metadata/annotations/{text}"), "old": format!("{text}\n{text}"), "new": text});
    let block = json!({"op": "add", "path": format!("/data/{text}"), "new": {text: [text]}});
    Entry {
        user: text.into(),
        resource: Resource::new(text, text),
        resource_name: text.into(),
        cluster: text.into(),
        namespace: text.into(),
        ip: text.into(),
        audit_id: text.into(),
        real_user: text.into(),
        user_agent: text.into(),
        api_group: text.into(),
        object_uid: text.into(),
        policy: text.into(),
        detail: detail(json!({"summary": text, "changes": [change, block], "after": {text: text}, "omitted": text,
            "request": {"verb": text, "fieldManager": text, "dryRun": false}})),
        ..entry(age, 0)
    }
}

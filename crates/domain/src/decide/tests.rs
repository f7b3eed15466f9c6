use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::entry::Action;
use crate::entry::{Evidence, Outcome, RequestFacts};
use crate::id::EntryId;
use crate::json::tests::raw;
use crate::redact::RedactionKey;

const TERMS: Terms<'static> = Terms { cluster: "local", policy: "built-in", level: Level::Diff, redact: &[] };

struct Given {
    api_group: &'static str,
    operation: Operation,
    kind: &'static str,
    resource: &'static str,
    subresource: &'static str,
    name: &'static str,
    namespace: &'static str,
    old: Option<serde_json::Value>,
    new: Option<serde_json::Value>,
    dry_run: bool,
    level: Level,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            api_group: "apps",
            operation: Operation::Update,
            kind: "Deployment",
            resource: "deployments",
            subresource: "",
            name: "web",
            namespace: "shop",
            old: None,
            new: None,
            dry_run: false,
            level: Level::Diff,
        }
    }
}

impl Given {
    fn decided(&self) -> Result<Decision, Unreadable> {
        let text = |value: &Option<serde_json::Value>| value.as_ref().map(|value| raw(&value.to_string()));
        self.decided_on(text(&self.old), text(&self.new))
    }

    fn decided_on(&self, old: Option<Box<RawValue>>, new: Option<Box<RawValue>>) -> Result<Decision, Unreadable> {
        let attempt = Attempt {
            id: EntryId::at(chrono::DateTime::UNIX_EPOCH, 1),
            operation: self.operation,
            api_group: self.api_group,
            kind: self.kind,
            resource: self.resource,
            subresource: self.subresource,
            name: self.name,
            namespace: self.namespace,
            user: "alice",
            groups: &[],
            object: new.as_deref().map(Unredacted),
            old_object: old.as_deref().map(Unredacted),
            request: RequestFacts {
                verb: "patch".into(),
                field_manager: "kubectl".into(),
                dry_run: self.dry_run,
                ..RequestFacts::default()
            },
        };
        decide(&attempt, &redactor(), &Terms { level: self.level, ..TERMS })
    }

    fn recorded(&self) -> RedactedEntry {
        match self.decided().unwrap() {
            Decision::Record(entry) => *entry,
            Decision::Skip(skip) => panic!("skipped: {skip:?}"),
        }
    }
}

fn redactor() -> Redactor {
    Redactor::new(RedactionKey::new([5; 32]))
}

#[test]
fn what_is_written_to_status_is_told_where_that_was_the_point() {
    let written_to = |subresource| Given {
        kind: "CertificateSigningRequest",
        subresource,
        old: Some(json!({"status": {}})),
        new: Some(json!({"status": {"conditions": [{"type": "Approved"}]}})),
        ..Given::default()
    };
    for (subresource, recorded) in [("status", true), ("approval", true), ("", false)] {
        let decision = written_to(subresource).decided().unwrap();
        assert_eq!(matches!(decision, Decision::Record(_)), recorded, "{subresource}");
    }
}

#[test]
fn an_update_carries_its_changes_its_line_and_both_hashes() {
    let object = |image: &str, generation: u32| json!({"metadata": {"name": "web", "uid": "u1", "generation": generation}, "spec": {"image": image}});
    let given = Given { old: Some(object("a:1", 1)), new: Some(object("a:2", 2)), ..Given::default() };
    let entry = given.recorded();
    assert_eq!((entry.action, entry.resource.as_str(), entry.status_code), (Action::Update, "Deployment", 200));
    assert_eq!(
        (entry.object_uid.as_str(), entry.outcome, entry.evidence),
        ("u1", Outcome::Unconfirmed, Evidence::Nothing)
    );
    assert!(entry.before_hash.is_some() && entry.before_hash != entry.after_hash);
    assert_eq!(
        entry.detail.as_str(),
        r#"{"summary":"image a:1 → a:2","changes":[{"op":"replace","path":"/spec/image","old":"a:1","new":"a:2"}],"#
            .to_owned()
            + r#""request":{"verb":"patch","fieldManager":"kubectl","dryRun":false}}"#
    );
}

/// What it approves is in the status, which is noise to everybody else.
#[test]
fn an_approval_is_a_change() {
    let new = json!({"status": {"conditions": [{"type": "Approved"}]}});
    let given = |subresource| Given { subresource, old: Some(json!({})), new: Some(new.clone()), ..Given::default() };
    assert!(given("approval").recorded().detail.as_str().contains("Approved"));
    assert!(matches!(given("").decided(), Ok(Decision::Skip(Skip::NothingChanged))));
}

#[test]
fn one_write_s_after_is_the_next_one_s_before() {
    let first = Given { new: Some(json!({"a": 1, "b": []})), operation: Operation::Create, ..Given::default() };
    let next = Given {
        old: Some(json!({"a": 1, "metadata": {"resourceVersion": "8"}})),
        new: Some(json!({"a": 2})),
        ..Given::default()
    };
    assert_eq!(first.recorded().after_hash, next.recorded().before_hash);
}

#[test]
fn what_each_operation_and_subresource_is_called() {
    let exec = json!({"kind": "PodExecOptions", "command": ["sh", "-c", "echo CANARY"], "container": "app"});
    let scale = |n: u32| Some(json!({"metadata": {"uid": "u1"}, "spec": {"replicas": n}}));
    let cases = [
        (
            Given {
                operation: Operation::Create,
                name: "",
                new: Some(json!({"metadata": {"name": "web-x7"}})),
                ..Given::default()
            },
            "create",
            "Deployment",
            "web-x7",
            "created",
            201,
        ),
        (
            Given {
                operation: Operation::Delete,
                old: Some(json!({"spec": {"containers": [{"image": "a:1"}]}})),
                ..Given::default()
            },
            "delete",
            "Deployment",
            "web",
            "deleted with a:1",
            200,
        ),
        (
            Given { kind: "Scale", subresource: "scale", old: scale(3), new: scale(5), ..Given::default() },
            "update",
            "Deployment/scale",
            "web",
            "replicas 3 → 5",
            200,
        ),
        (
            Given {
                operation: Operation::Connect,
                kind: "PodExecOptions",
                resource: "pods",
                subresource: "exec",
                new: Some(exec),
                ..Given::default()
            },
            "start",
            "Terminal",
            "web",
            "exec sh in container app",
            101,
        ),
        (
            Given {
                operation: Operation::Connect,
                kind: "PodPortForwardOptions",
                resource: "pods",
                subresource: "portforward",
                new: Some(json!({"ports": [80]})),
                ..Given::default()
            },
            "start",
            "PortForward",
            "web",
            "port-forward",
            101,
        ),
        (
            Given {
                operation: Operation::Create,
                kind: "Eviction",
                resource: "pods",
                subresource: "eviction",
                new: Some(json!({})),
                ..Given::default()
            },
            "create",
            "Pod/eviction",
            "web",
            "eviction requested",
            201,
        ),
        (
            Given {
                operation: Operation::Create,
                kind: "TokenRequest",
                resource: "serviceaccounts",
                subresource: "token",
                new: Some(json!({"status": {"token": "CANARY"}})),
                ..Given::default()
            },
            "create",
            "ServiceAccount/token",
            "web",
            "token requested",
            201,
        ),
        (
            Given {
                operation: Operation::Create,
                kind: "Binding",
                resource: "pods",
                subresource: "binding",
                new: Some(json!({"target": {"name": "node-1"}})),
                ..Given::default()
            },
            "create",
            "Pod/binding",
            "web",
            "bound to node-1",
            201,
        ),
    ];
    for (given, action, resource, name, summary, code) in cases {
        let entry = given.recorded();
        let detail = entry.detail.read().unwrap();
        assert_eq!(
            (
                entry.action.as_str(),
                entry.resource.as_str(),
                entry.resource_name.as_str(),
                detail.summary.as_str(),
                entry.status_code
            ),
            (action, resource, name, summary, code)
        );
        assert!(!entry.detail.as_str().contains("CANARY"), "{resource}");
    }
}

#[test]
fn a_scale_belongs_to_its_deployment_and_has_a_chain_of_its_own() {
    let given = Given {
        kind: "Scale",
        subresource: "scale",
        old: Some(json!({"metadata": {"uid": "u1"}, "spec": {"replicas": 1}})),
        new: Some(json!({"metadata": {"uid": "u1"}, "spec": {"replicas": 2}})),
        ..Given::default()
    };
    let entry = given.recorded();
    assert_eq!((entry.object_uid.as_str(), entry.resource.as_str()), ("u1", "Deployment/scale"));
    assert!(entry.before_hash.is_some() && entry.before_hash != entry.after_hash);
}

#[test]
fn a_namespace_is_cluster_scoped_though_its_requests_carry_its_name() {
    let of = |api_group, namespace| Given {
        api_group,
        operation: Operation::Create,
        kind: "Namespace",
        resource: "namespaces",
        name: "shop",
        namespace,
        new: Some(json!({})),
        ..Given::default()
    };
    assert_eq!(of("", "shop").recorded().namespace, "");
    assert_eq!(of("example.com", "shop").recorded().namespace, "shop", "a custom resource of the same name");
}

#[test]
fn dry_runs_and_updates_of_noise_alone_are_not_recorded() {
    let object = |generation: u32| Some(json!({"metadata": {"generation": generation, "managedFields": [generation]}}));
    let noise = Given { old: object(1), new: object(2), ..Given::default() };
    assert!(matches!(noise.decided(), Ok(Decision::Skip(Skip::NothingChanged))));
    let dry = Given { operation: Operation::Delete, old: object(1), dry_run: true, ..Given::default() };
    assert!(matches!(dry.decided(), Ok(Decision::Skip(Skip::DryRun))));
}

#[test]
fn what_the_hash_takes_for_absent_is_recorded_where_a_person_sees_it() {
    let given = Given {
        old: Some(json!({"spec": {"from": [{"podSelector": {"a": "b"}}]}})),
        new: Some(json!({"spec": {"from": [{"podSelector": {"a": "b"}, "namespaceSelector": {}}]}})),
        ..Given::default()
    };
    assert_eq!(given.recorded().detail.read().unwrap().summary, "from[0] namespaceSelector added");
}

#[test]
fn the_copy_that_apply_keeps_is_told_only_where_nothing_else_changed() {
    let object = |copy: &str, image: &str| {
        let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": copy});
        Some(json!({"metadata": {"annotations": annotations}, "spec": {"image": image}}))
    };
    let alone = Given { old: object("CANARY1", "a:1"), new: object("CANARY2", "a:1"), ..Given::default() }.recorded();
    let detail = alone.detail.read().unwrap();
    assert_eq!(detail.summary, "last-applied-configuration changed, and nothing else");
    assert_eq!(
        detail.changes.unwrap()[0].path,
        "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration"
    );
    let mirrored =
        Given { old: object("CANARY1", "a:1"), new: object("CANARY2", "a:2"), ..Given::default() }.recorded();
    let detail = mirrored.detail.read().unwrap();
    assert_eq!((detail.summary.as_str(), detail.changes.unwrap().len()), ("image a:1 → a:2", 1));
    assert!(![alone, mirrored].iter().any(|entry| entry.detail.as_str().contains("CANARY")));
}

#[test]
fn a_secret_that_changes_is_seen_to_change_and_its_value_is_not_seen() {
    let secret = |value: &str| Some(json!({"data": {"password": value, "same": "Q0FOQVJZ"}}));
    let given = Given { kind: "Secret", old: secret("Q0FOQVJZMQ=="), new: secret("Q0FOQVJZMg=="), ..Given::default() };
    let entry = given.recorded();
    let detail = entry.detail.read().unwrap();
    assert_eq!(detail.summary, "password changed");
    let change = &detail.changes.unwrap()[0];
    assert_ne!(change.old.as_ref().unwrap().get(), change.new.as_ref().unwrap().get());
    for secret in ["CANARY", "Q0FOQVJZ"] {
        assert!(!entry.detail.as_str().contains(secret));
    }
}

#[test]
fn an_object_too_deep_to_walk_is_recorded_by_name_and_says_so() {
    let deep = |leaf: u32| {
        let levels = 8_000;
        let (open, close) = (r#"{"a":"#.repeat(levels), "}".repeat(levels));
        raw(&format!(r#"{{"spec":{open}{leaf}{close},"metadata":{{"name":"deep","uid":"u9"}}}}"#))
    };
    let given = Given { name: "", ..Given::default() };
    let Ok(Decision::Record(entry)) = given.decided_on(Some(deep(1)), Some(deep(2))) else { panic!("not recorded") };
    assert_eq!((entry.resource_name.as_str(), entry.object_uid.as_str()), ("deep", "u9"));
    assert_eq!((entry.before_hash, entry.after_hash), (None, None));
    let detail = entry.detail.read().unwrap();
    assert_eq!(detail.omitted.as_deref(), Some("the object is more than 100 levels deep"));
    assert_eq!((detail.summary.as_str(), detail.changes.is_none()), ("changed", true));
}

#[test]
fn malformed_objects_are_refused_without_being_repeated() {
    let refused = Given::default().decided_on(None, Some(raw(r#"{"a":"CANARY\ud800"}"#))).unwrap_err();
    assert_eq!(refused, Unreadable { object: "object", line: 1, column: 19 });
}

#[test]
fn a_nul_is_shown_everywhere() {
    let given =
        Given { operation: Operation::Create, name: "a\0b", new: Some(json!({"x\0": "y\0"})), ..Given::default() };
    let entry = given.recorded();
    assert_eq!(entry.resource_name, "a\u{2400}b");
    assert!(entry.detail.as_str().contains("x\u{2400}") && !entry.detail.as_str().contains("\\u0000"));
}

#[test]
fn a_diff_past_the_bound_is_cut_between_changes_and_tells_the_digest_of_all() {
    let object = |letter: &str| {
        let text = letter.repeat(DETAIL_BYTES_MAX / 10);
        Some(json!((0..20).map(|n| (format!("k{n:02}"), json!(text))).collect::<serde_json::Map<_, _>>()))
    };
    let entry = Given { old: object("a"), new: object("b"), ..Given::default() }.recorded();
    let detail = entry.detail.read().unwrap();
    let truncated = detail.truncated.unwrap();
    assert_eq!((truncated.changes, truncated.kept), (20, detail.changes.unwrap().len()));
    assert!(truncated.kept > 0 && truncated.sha256.len() == 64);
    assert!(entry.detail.as_str().len() <= DETAIL_BYTES_MAX + 2_000);
}

#[test]
fn an_object_past_the_bound_says_what_it_weighs() {
    let new = Some(json!({"x": "a".repeat(DETAIL_BYTES_MAX + 1)}));
    let detail = Given { operation: Operation::Create, new, ..Given::default() }.recorded().detail.read().unwrap();
    assert_eq!(detail.omitted.as_deref(), Some("the object weighs 1024 KiB of JSON, and an entry holds 1024 KiB"));
    assert!(detail.after.is_none());
}

/// Objects with a canary in the places that hold secrets, among others that do not.
fn secretive() -> impl Strategy<Value = (&'static str, serde_json::Value)> {
    let noise = || prop::collection::hash_map("[a-d]", "[a-z]{0,4}", 0..4);
    let place = prop_oneof![
        Just(("Secret", json!({"data": {"k": "Q0FOQVJZLTEyMzQ1Njc4"}, "stringData": {"k": "CANARY-12345678"}}))),
        Just(("Secret", json!({"data": {"not base64": "CANARY-12345678"}}))),
        Just(("Pod", json!({"spec": {"containers": [{"env": [{"name": "API_TOKEN", "value": "CANARY-12345678"}]}]}}))),
        Just(("Pod", json!({"spec": {"containers": [{"args": ["--password=CANARY-12345678"]}]}}))),
        Just(("ConfigMap", json!({"data": {"db.password": "CANARY-12345678", "url": "amqp://u:CANARY-12345678@h"}}))),
        Just(("PodExecOptions", json!({"command": ["psql", "CANARY-12345678"]}))),
        Just(("Pod", json!({"metadata": {"annotations": {LAST_APPLIED: "{\"x\":\"CANARY-12345678\"}"}}}))),
        Just(("Pod", json!({"metadata": {"annotations": {"a": "Bearer CANARY-12345678abc"}}}))),
        Just(("Widget", json!({"spec": {"deep": [{"clientSecret": "CANARY-12345678"}]}}))),
        Just(("Secret", json!({"metadata": {"managedFields": [{"fieldsV1": {"f:data": "CANARY-12345678"}}]}}))),
    ];
    (place, noise(), noise()).prop_map(|((kind, mut object), more, spec)| {
        object["more"] = json!(more);
        object["zpec"] = json!(spec);
        (kind, object)
    })
}

proptest! {
    #[test]
    fn redaction_leaves_no_secret_anywhere_in_the_entry(
        (kind, object) in secretive(),
        other in prop::collection::hash_map("[a-d]", "[a-z]{0,4}", 0..4),
        operation in prop::sample::select(vec![Operation::Create, Operation::Update, Operation::Delete]),
        swapped: bool,
    ) {
        let (old, new) = if swapped { (json!(other), object) } else { (object, json!(other)) };
        let given = Given { operation, kind, old: Some(old), new: Some(new), ..Given::default() };
        if let Decision::Record(entry) = given.decided().unwrap() {
            let whole = format!("{:?}{}", entry, entry.detail.as_str());
            prop_assert!(!whole.contains("CANARY") && !whole.contains("Q0FOQVJZ"), "{}", whole);
        }
    }

    #[test]
    fn truncation_falls_between_whole_changes(sizes in prop::collection::vec(0..DETAIL_BYTES_MAX / 3, 0..8)) {
        let object = |letter: &str| Some(json!(sizes
            .iter()
            .enumerate()
            .map(|(n, size)| (format!("k{n}"), json!(letter.repeat(*size + 1))))
            .collect::<serde_json::Map<_, _>>()));
        let given = Given { old: object("a"), new: object("b"), ..Given::default() };
        if let Decision::Record(entry) = given.decided().unwrap() {
            let detail = entry.detail.read().unwrap();
            let kept = detail.changes.unwrap();
            prop_assert_eq!(kept.len(), detail.truncated.map_or(sizes.len(), |t| t.kept));
            for (change, size) in kept.iter().zip(&sizes) {
                prop_assert_eq!(change.new.as_ref().unwrap().get().len(), size + 3);
            }
        }
    }
}

#[test]
fn each_level_tells_so_much_and_no_more() {
    let image = |tag: &str| Some(json!({"metadata": {"name": "web"}, "spec": {"image": tag}}));
    let told = |level| {
        let given =
            Given { operation: Operation::Update, old: image("a:1"), new: image("a:2"), level, ..Given::default() };
        let entry = given.recorded();
        assert!(entry.before_hash.is_some() && entry.before_hash != entry.after_hash, "whatever is shown");
        serde_json::from_str::<serde_json::Value>(entry.detail.as_str()).unwrap()
    };
    let metadata = told(Level::Metadata);
    assert_eq!((&metadata["summary"], metadata.get("changes")), (&json!("changed"), None));
    assert!(!metadata.to_string().contains("a:2"), "{metadata}");
    let diff = told(Level::Diff);
    assert_eq!((&diff["summary"], diff.get("before")), (&json!("image a:1 → a:2"), None));
    let full = told(Level::Full);
    assert_eq!(full["changes"], diff["changes"]);
    assert_eq!((&full["before"]["spec"]["image"], &full["after"]["spec"]["image"]), (&json!("a:1"), &json!("a:2")));
}

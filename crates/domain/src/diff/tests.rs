use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::entry::{Change, Detail};
use crate::json::{Budget, Noise, Tree};
use crate::redact::{RedactionKey, Redactor};

/// What an entry says of an update: its changes and its line.
fn told(old: &Value, new: &Value) -> (Vec<Change>, String) {
    let (old, new) = (old.to_string(), new.to_string());
    let (old, new) = (crate::json::tests::raw(&old), crate::json::tests::raw(&new));
    let redactor = Redactor::new(RedactionKey::new([3; 32]));
    let shown =
        |raw| redactor.redact("Widget", Tree::read(raw, Noise::Status, &Budget::default()).unwrap(), &[]).unwrap();
    let (old, new) = (shown(&old), shown(&new));
    let diff = diff(&old, &new).unwrap();
    let summary = of_changes(&diff.changes);
    let value = |value: &super::Value<'_>| match value {
        super::Value::Nothing => None,
        super::Value::Node(node) => Some(serde_json::value::to_raw_value(node).unwrap()),
        super::Value::Order(keys) => Some(serde_json::value::to_raw_value(keys).unwrap()),
    };
    let changes = diff.changes.iter().map(|found| Change {
        op: found.op,
        path: found.path.clone(),
        index: found.index,
        old: value(&found.old),
        new: value(&found.new),
    });
    (changes.collect(), summary)
}

/// The object as the log knows it: without noise and nulls.
fn shown(object: &Value) -> Value {
    let raw = crate::json::tests::raw(&object.to_string());
    let tree = Tree::read(&raw, Noise::Status, &Budget::default()).unwrap();
    serde_json::to_value(Redactor::new(RedactionKey::new([3; 32])).redact("Widget", tree, &[]).unwrap()).unwrap()
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

#[test]
fn an_image_and_a_sidecar_in_front_are_the_two_changes_a_person_would_name() {
    let old = containers(json!([
        {"name": "app", "image": "a:1", "ports": [{"containerPort": 80}]},
        {"name": "cache", "image": "c:1"},
        {"name": "log", "image": "l:1"},
    ]));
    let new = containers(json!([
        {"name": "sidecar", "image": "s:1"},
        {"name": "app", "image": "a:2", "ports": [{"containerPort": 80}]},
        {"name": "cache", "image": "c:1"},
        {"name": "log", "image": "l:1"},
    ]));
    let (changes, summary) = told(&old, &new);
    let changes = serde_json::to_value(&changes).unwrap();
    let list = "/spec/template/spec/containers";
    assert_eq!(
        changes,
        json!([
            {"op": "add", "path": format!("{list}[name=sidecar]"), "index": 0, "new": {"name": "sidecar", "image": "s:1"}},
            {"op": "replace", "path": format!("{list}[name=app]/image"), "old": "a:1", "new": "a:2"},
        ])
    );
    assert_eq!(summary, "container sidecar added; image a:1 → a:2");
}

#[test]
fn an_update_is_told_by_what_changed_and_noise_is_no_change() {
    let p = |old: Value, new: Value| told(&old, &new);
    let cases = [
        ("image", json!({"image": "a:1"}), json!({"image": "a:2"}), "image a:1 → a:2"),
        ("removed", json!({"paused": true}), json!({}), "paused true → nothing"),
        ("added", json!({}), json!({"replicas": 3}), "replicas nothing → 3"),
        ("null is absent", json!({"a": null}), json!({}), ""),
        ("noise", json!({"metadata": {"managedFields": []}}), json!({"metadata": {"managedFields": [1]}}), ""),
        ("an empty selector is no absent one", json!({}), json!({"podSelector": {}}), "podSelector added"),
        (
            "a variable",
            json!({"env": [{"name": "LEVEL", "value": "info"}]}),
            json!({"env": [{"name": "LEVEL", "value": "debug"}]}),
            "LEVEL value info → debug",
        ),
        ("secret", json!({"password": "a"}), json!({"password": "b"}), "password changed"),
        ("front of a plain list", json!({"args": ["b", "c"]}), json!({"args": ["a", "b", "c"]}), "args[0] added"),
        (
            "order",
            json!({"env": [{"name": "A"}, {"name": "B"}]}),
            json!({"env": [{"name": "B"}, {"name": "A"}]}),
            "env reordered",
        ),
        (
            "one port by two protocols",
            json!({"ports": [{"containerPort": 53, "protocol": "UDP"}]}),
            json!({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]}),
            "port 53 added",
        ),
        (
            "many",
            json!({}),
            json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}),
            "a nothing → 1; b nothing → 2; c nothing → 3; and 2 more",
        ),
        ("a file", json!({"a": "x\ny"}), json!({"a": "x\nz"}), "a changed"),
        ("an end", json!({"a": "x".repeat(99)}), json!({"a": "x".repeat(98)}), "a changed"),
        ("blank ends show", json!({"a": "x"}), json!({"a": "x "}), r#"a x → "x ""#),
    ];
    for (name, old, new, summary) in cases {
        assert_eq!(p(old, new).1, summary, "{name}");
    }
}

/// Why there is no diff.
fn too_much(old: &Value, new: &Value) -> TooMuch {
    let (old, new) = (old.to_string(), new.to_string());
    let (old, new) = (crate::json::tests::raw(&old), crate::json::tests::raw(&new));
    let redactor = Redactor::new(RedactionKey::new([3; 32]));
    let shown =
        |raw| redactor.redact("Widget", Tree::read(raw, Noise::Status, &Budget::default()).unwrap(), &[]).unwrap();
    diff(&shown(&old), &shown(&new)).unwrap_err()
}

#[test]
fn more_changes_than_anybody_reads_are_not_paid_for() {
    let list = |seed: usize| json!((0..CHANGES_MAX + 10).map(|n| n * 2 + seed).collect::<Vec<_>>());
    assert_eq!(too_much(&list(0), &list(1)), TooMuch::Changes);
}

/// Twenty thousand changes below a name of a megabyte would be twenty gigabytes of paths.
#[test]
fn a_long_name_above_many_changes_is_not_repeated_for_each() {
    let object = |n: usize| json!({"k".repeat(PATHS_BYTES_MAX / 10): vec![n; 11]});
    assert_eq!(too_much(&object(1), &object(2)), TooMuch::Paths);
}

#[test]
fn a_line_stays_a_line_whatever_the_names_in_it() {
    let long = "k".repeat(100_000);
    let object = |n: usize| json!({&long: [n], "b": {&long: n}, "c": {&long: [{"name": long, "v": n}]}});
    let (_, summary) = told(&object(1), &object(2));
    assert!(summary.len() < 1_000, "{} bytes", summary.len());
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..100).prop_map(Value::from),
        "[a-c/~\\[\\],= ]{0,3}".prop_map(Value::from),
        "\\PC{0,4}".prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 40, 6, |inner| {
        let key = prop_oneof!["[a-d]", "[a/~\\[\\]=,]{1,3}"];
        let element =
            ("[a-e/\\],~=]{1,2}", inner.clone()).prop_map(|(name, value)| json!({"name": name, "value": value}));
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(element, 0..6).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::hash_map("[a-d]", value(), 0..5).prop_map(|m| Value::Object(m.into_iter().collect()))
}

/// The same object with a few of its values changed, moved or dropped: what an update does.
fn edited() -> impl Strategy<Value = (Value, Value)> {
    (object(), prop::collection::vec((any::<prop::sample::Index>(), value(), 0..4u8), 0..4)).prop_map(|(old, edits)| {
        let mut new = old.clone();
        for (place, value, how) in edits {
            edit(&mut new, &place, value, how);
        }
        (old, new)
    })
}

fn edit(object: &mut Value, place: &prop::sample::Index, value: Value, how: u8) {
    match object {
        Value::Array(list) if !list.is_empty() => {
            let at = place.index(list.len());
            match how {
                0 => list.insert(at, value),
                1 => drop(list.remove(at)),
                2 => list.rotate_left(at),
                _ => edit(&mut list[at], place, value, how),
            }
        }
        Value::Object(members) if !members.is_empty() => {
            let key = members.keys().nth(place.index(members.len())).unwrap().clone();
            edit(&mut members[&key], place, value, how);
        }
        other => *other = value,
    }
}

proptest! {
    #[test]
    fn applying_a_diff_to_old_gives_new((old, new) in prop_oneof![edited(), (object(), object())]) {
        let (changes, _) = told(&old, &new);
        prop_assert_eq!(apply(shown(&old), &changes).unwrap(), shown(&new), "{:?}", changes);
    }

    #[test]
    fn equal_objects_differ_in_nothing(object in object()) {
        let (changes, summary) = told(&object, &object);
        prop_assert!(changes.is_empty() && summary.is_empty());
    }

    #[test]
    fn changes_survive_being_stored((old, new) in edited()) {
        let (changes, summary) = told(&old, &new);
        let stored = Detail { summary, changes: Some(changes), ..Detail::default() }.to_json();
        let read = stored.read().unwrap().changes.unwrap();
        prop_assert_eq!(apply(shown(&old), &read).unwrap(), shown(&new));
    }
}

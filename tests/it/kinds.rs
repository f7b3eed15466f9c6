//! Every kind of the Kubernetes API, with every field filled: what holds for them holds for what clusters are made of.
//!
//! `k8s.io/api` carries such an object for each kind in its `testdata/`; the module is pinned in `tools/go.mod`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{Cluster, ConnectOptions};
use domain::attempt::{Attempt, Decision, Operation, Skip, Unredacted};
use domain::entry::RequestFacts;
use domain::kinds::{Kinds, Served};
use domain::redact::{RedactionKey, Redactor};
use domain::{Detail, EntryId, Terms, decide};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// At least so many kinds: fewer means that they were not found, not that Kubernetes has become small.
const KINDS_MIN: usize = 150;

#[test]
fn every_kind_records_what_changed_and_applying_that_gives_the_new_object() {
    let mut changed = 0;
    for (name, object) in kinds() {
        for (place, edited) in edits(&object) {
            let kind = kind_of(&object);
            let update = decided(kind, Operation::Update, Some(&object), Some(&edited));
            let before = decided(kind, Operation::Delete, Some(&object), None).and_then(|d| d.before);
            let after = decided(kind, Operation::Create, None, Some(&edited)).and_then(|d| d.after);
            let (before, after) = (value(&before), value(&after));
            let Some(update) = update else {
                assert_eq!(before, after, "{name}: {place} was taken for noise");
                continue;
            };
            let changes = update.changes.unwrap();
            let applied = domain::diff::apply(before, &changes);
            assert_eq!(applied.unwrap(), after, "{name}: {place}: {changes:?}");
            assert!(!update.summary.is_empty(), "{name}: {place}");
            changed += 1;
        }
    }
    assert!(changed > 5 * KINDS_MIN, "only {changed} edits were seen as changes");
}

#[test]
fn every_kind_is_nothing_new_to_itself() {
    for (name, object) in kinds() {
        assert!(decided(kind_of(&object), Operation::Update, Some(&object), Some(&object)).is_none(), "{name}");
    }
}

#[test]
fn no_kind_gives_away_the_value_of_a_secret_place() {
    const CANARY: &str = "canary-6f1d0b";
    for (name, mut object) in kinds() {
        if name.ends_with(".Secret") {
            object["stringData"] = json!({"a": CANARY});
            object["data"] = json!({"b": "Y2FuYXJ5LTZmMWQwYg=="});
        }
        plant(&mut object, CANARY);
        for operation in [Operation::Create, Operation::Delete] {
            let (old, new) = if operation == Operation::Create { (None, Some(&object)) } else { (Some(&object), None) };
            let detail = serde_json::to_string(&decided(kind_of(&object), operation, old, new).unwrap()).unwrap();
            assert!(!detail.contains(CANARY) && !detail.contains("Y2FuYXJ5"), "{name}: {detail}");
        }
    }
}

#[tokio::test]
async fn every_kind_that_the_api_server_serves_by_itself_is_known_without_asking_it() {
    let control_plane = testkit::control_plane::shared().await;
    let options = ConnectOptions { kubeconfig: Some(control_plane.kubeconfig().to_owned()), context: None };
    let kinds = Cluster::connect(&options).await.unwrap().kinds().await.unwrap();
    // Other tests define kinds of their own meanwhile.
    let built_in = |group: &str| !group.contains('.') || group.ends_with(".k8s.io");
    let served: Vec<_> = kinds.all_served().filter(|(group, ..)| built_in(group)).collect();
    assert!(served.len() > 50, "{served:?}");
    let known = |group: &str, served: &Served, kind: &str| Kinds::default().kind(group, &served.plural) == Some(kind);
    let unknown: Vec<_> = served.iter().filter(|(group, kind, served)| !known(group, served, kind)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// Puts a canary into each environment variable, each `token` and each copy that apply keeps.
fn plant(node: &mut Value, canary: &str) {
    match node {
        Value::Array(elements) => elements.iter_mut().for_each(|element| plant(element, canary)),
        Value::Object(members) => {
            for (key, value) in members.iter_mut() {
                match (key.as_str(), &mut *value) {
                    ("env", Value::Array(variables)) if variables.iter().all(Value::is_object) => {
                        variables.push(json!({"name": "DB_PASSWORD", "value": canary}));
                    }
                    ("token", Value::String(token)) => *token = canary.to_owned(),
                    ("annotations", Value::Object(annotations)) => {
                        let copy = "kubectl.kubernetes.io/last-applied-configuration";
                        annotations.insert(copy.to_owned(), json!(canary));
                    }
                    _ => {}
                }
                plant(value, canary);
            }
        }
        _ => {}
    }
}

/// The object with one leaf changed, one member dropped or one list turned round, at up to so many places.
fn edits(object: &Value) -> Vec<(String, Value)> {
    const PLACES_MAX: usize = 60;
    let mut places = Vec::new();
    pointers(object, String::new(), &mut places);
    let step = places.len().div_ceil(PLACES_MAX).max(1);
    let edited = places.into_iter().step_by(step).enumerate().map(|(n, place)| {
        let mut edited = object.clone();
        let value = edited.pointer_mut(&place).unwrap();
        match (n % 3, &mut *value) {
            (0, Value::Array(elements)) => elements.insert(0, json!({"name": "first"})),
            (1, Value::Object(members)) => {
                let first = members.keys().next().cloned();
                first.map(|key| members.remove(&key));
            }
            _ => *value = json!("edited"),
        }
        (place, edited)
    });
    edited.collect()
}

fn pointers(node: &Value, at: String, places: &mut Vec<String>) {
    match node {
        Value::Object(members) => {
            for (key, value) in members {
                pointers(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                pointers(element, format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
    if !at.is_empty() {
        places.push(at);
    }
}

fn decided(kind: &str, operation: Operation, old: Option<&Value>, new: Option<&Value>) -> Option<Detail> {
    let raw = |value: &Value| RawValue::from_string(value.to_string()).unwrap();
    let (old, new) = (old.map(raw), new.map(raw));
    let attempt = Attempt {
        id: EntryId::at(chrono::DateTime::UNIX_EPOCH, 0),
        operation,
        api_group: "",
        kind,
        resource: "things",
        subresource: "",
        name: "nameValue",
        namespace: "namespaceValue",
        user: "alice",
        groups: &[],
        object: new.as_deref().map(Unredacted),
        old_object: old.as_deref().map(Unredacted),
        request: RequestFacts::default(),
    };
    let redactor = Redactor::new(RedactionKey::new([1; 32]));
    match decide(
        &attempt,
        &redactor,
        &Terms { cluster: "local", policy: "built-in", level: domain::Level::Diff, redact: &[] },
    )
    .unwrap()
    {
        Decision::Record(entry) => Some(entry.detail.read().unwrap()),
        Decision::Skip(Skip::NothingChanged) => None,
        Decision::Skip(skip) => panic!("{skip:?}"),
    }
}

fn kind_of(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

fn value(raw: &Option<Box<RawValue>>) -> Value {
    serde_json::from_str(raw.as_ref().unwrap().get()).unwrap()
}

fn kinds() -> Vec<(String, Value)> {
    let folder = testdata();
    let mut kinds: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap())
        })
        .collect();
    kinds.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(kinds.len() >= KINDS_MIN, "{} kinds in {}", kinds.len(), folder.display());
    kinds
}

fn testdata() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    let asked = Command::new("go")
        .args(["mod", "download", "-json", "k8s.io/api@v0.37.2"])
        .current_dir(tools)
        .output()
        .expect("go is installed");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let module: Value = serde_json::from_slice(&asked.stdout).unwrap();
    Path::new(module["Dir"].as_str().unwrap()).join("testdata/HEAD")
}

//! What is told of events that a real API server logged (`fixtures/events`, made by intake's `examples/record_events.rs`).

use std::fs;

use super::*;
use crate::attempt::Attempt;
use crate::kinds::Kinds;
use crate::redact::{RedactionKey, Redactor};
use crate::{Action, Entry, Outcome, RedactedEntry};

/// Records everything, by one policy.
struct All {
    covered: Covered,
    wanted: bool,
    certain: bool,
}

const LIVE: All = All { covered: Covered::ByWebhook, wanted: true, certain: true };

impl Judge for All {
    fn excludes(&self, request: &Attempt<'_>) -> bool {
        request.resource == "leases"
    }

    fn judge(&self, request: &Attempt<'_>) -> Judgement<'_> {
        let covered = match request.api_group {
            "admissionregistration.k8s.io" => Covered::ByNone,
            _ => self.covered,
        };
        Judgement { policy: "all", wanted: self.wanted, certain: self.certain, redacts: false, covered }
    }

    fn built_in(&self) -> &str {
        "built-in"
    }
}

fn told(lines: &str, judge: &All) -> Vec<Told> {
    let redactor = Redactor::new(RedactionKey::new([7; 32]));
    let scene = Scene { cluster: "local", kinds: &Kinds::default(), redactor: Some(&redactor) };
    let event = |line| serde_json::from_str::<AuditEvent<'_>>(line).unwrap();
    lines.lines().map(|line| tell(&event(line), judge, &scene)).collect()
}

fn fixture(name: &str) -> String {
    fs::read_to_string(format!("{}/fixtures/events/{name}.jsonl", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// `join confirmed create ConfigMap shop/settings 201 alice`
fn line(how: &str, entry: &RedactedEntry) -> String {
    let Entry { action, resource, namespace, resource_name, status_code, user, outcome, .. } = &**entry;
    format!("{how} {outcome} {action} {resource} {namespace}/{resource_name} {status_code} {user}")
}

fn lines(told: &[Told]) -> Vec<String> {
    let of = |told: &Told| {
        let joins = told.join.iter().map(|entry| line("join", entry));
        joins.chain(told.write.iter().map(|entry| line("write", entry))).collect::<Vec<_>>()
    };
    told.iter().flat_map(of).collect()
}

const TOLD: [(&str, &[&str]); 31] = [
    ("namespace", &["join confirmed create Namespace /shop 201 alice"]),
    ("create", &["join confirmed create ConfigMap shop/settings 201 alice"]),
    ("generated-name", &["join confirmed create ConfigMap shop/ 201 alice"]),
    ("applied", &["join confirmed create ConfigMap shop/applied 201 alice"]),
    ("impersonated", &["join confirmed create ConfigMap shop/borrowed 201 carol"]),
    ("unauthorized", &["write rejected authenticate User / 401 "]),
    // Before its object was read.
    ("forbidden", &["write rejected create ConfigMap shop/ 403 bob"]),
    ("not-found", &["write rejected delete ConfigMap shop/nowhere 404 alice"]),
    ("already-exists", &["join rejected create ConfigMap shop/settings 409 alice"]),
    ("invalid", &["write rejected create Service shop/web 422 alice"]),
    ("invalid-secret", &["write rejected create Secret shop/s 422 alice"]),
    ("denied-by-us", &["join rejected create ConfigMap shop/no-thanks 503 alice"]),
    ("dry-run", &[]),
    ("dry-run-delete", &[]),
    ("deployment", &["join confirmed create Deployment shop/web 201 alice"]),
    ("scale", &["join confirmed update Deployment/scale shop/web 200 alice"]),
    ("node", &["join confirmed create Node /nowhere 201 alice"]),
    ("pod", &["join confirmed create Pod shop/shell 201 alice"]),
    (
        "exec",
        &[
            "join confirmed start Terminal shop/shell 101 alice",
            "join confirmed start Terminal shop/shell 101 alice",
            "write confirmed end Terminal shop/shell 101 alice",
        ],
    ),
    ("exec-forbidden", &["write rejected start Terminal shop/shell 403 bob"]),
    ("exec-not-found", &["join rejected start Terminal shop/nowhere 404 alice"]),
    ("portforward", &["join rejected start PortForward shop/shell 400 alice"]),
    ("proxy", &["join rejected start Pod/proxy shop/shell 400 alice"]),
    ("token", &["write rejected create ServiceAccount/token shop/default 404 alice"]),
    ("webhook-create", &["join confirmed create ValidatingWebhookConfiguration /other 201 alice"]),
    ("webhook-update", &["join confirmed update ValidatingWebhookConfiguration /other 200 alice"]),
    ("webhook-delete", &["join confirmed delete ValidatingWebhookConfiguration /other 200 alice"]),
    ("collection", &["join confirmed delete ConfigMap shop/ 200 alice"; 4]),
    ("empty-collection", &["write confirmed delete ConfigMap shop/ 200 alice"]),
    ("failed-open", &["write confirmed create ConfigMap shop/unseen 201 alice"]),
    ("unregistered", &["write confirmed create ConfigMap shop/unregistered 201 alice"]),
];

#[test]
fn each_request_is_told_once_with_what_came_of_it() {
    for (name, expected) in TOLD {
        let told = told(&fixture(name), &LIVE);
        assert_eq!(lines(&told), expected, "{name}");
        for entry in told.iter().flat_map(|told| told.join.iter().chain(&told.write)) {
            assert_eq!((entry.ip.as_str(), entry.cluster.as_str()), ("127.0.0.1", "local"), "{name}");
            assert!(entry.user_agent.starts_with("kubectl/v1.37"), "{name}");
            assert_eq!(entry.audit_id.len(), 36, "{name}");
            let detail = entry.detail.as_str().to_lowercase();
            assert!(!detail.contains("canary"), "{name}: {detail}");
        }
    }
}

#[test]
fn of_several_attempts_one_came_about_and_the_others_are_superseded() {
    let told = told(&fixture("several-attempts"), &LIVE);
    let joins: Vec<_> = told.iter().map(|told| &told.join).filter(|join| !join.is_empty()).collect();
    assert_eq!(joins.len(), 8);
    let mut superseded = 0;
    for join in joins {
        assert_eq!(join.iter().filter(|entry| entry.outcome == Outcome::Confirmed).count(), 1);
        superseded += join.iter().filter(|entry| entry.outcome == Outcome::Superseded).count();
    }
    assert!(superseded > 0, "several patches met each other");
}

#[test]
fn the_impersonator_the_reason_and_what_was_not_seen_are_told() {
    let one = |name: &str| {
        let mut told = told(&fixture(name), &LIVE);
        let told = told.pop().unwrap();
        told.join.into_iter().chain(told.write).next_back().unwrap()
    };
    assert_eq!(one("impersonated").real_user, "alice");
    let system = |name: &str| one(name).detail.read().unwrap().system.unwrap();
    assert_eq!(system("forbidden")["reason"], "Forbidden");
    assert!(system("invalid")["message"].as_str().unwrap().starts_with("Service \"web\" is invalid: spec.type: "));
    assert!(system("invalid-secret")["message"].is_null());
    for (name, failed_open) in [("failed-open", true), ("unregistered", false)] {
        assert_eq!(system(name), serde_json::json!({"seen": false, "failedOpen": failed_open}));
    }
    let end = system("exec");
    assert_eq!((&end["command"], &end["container"]), (&"sh".into(), &"app".into()));
    assert!(end["durationSeconds"].as_f64().unwrap() > 0.0);
    assert_eq!(one("unauthorized").policy, "built-in");
}

#[test]
fn a_webhook_configuration_is_known_by_its_uid_and_its_state_after_the_write() {
    let one = |name: &str| told(&fixture(name), &LIVE).pop().unwrap().join.remove(0);
    let (created, updated, deleted) = (one("webhook-create"), one("webhook-update"), one("webhook-delete"));
    assert!(created.object_uid.len() == 36 && created.object_uid == updated.object_uid);
    assert_eq!(created.object_uid, deleted.object_uid);
    assert!(created.after_hash.is_some() && created.after_hash != updated.after_hash);
    assert_eq!(deleted.after_hash, None);
}

#[test]
fn an_event_told_twice_is_the_same_entries() {
    for (name, _) in TOLD {
        let ids = || {
            let told = told(&fixture(name), &LIVE);
            told.iter().flat_map(|told| told.join.iter().chain(&told.write)).map(|entry| entry.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(), ids(), "{name}");
        assert!(ids().iter().all(|id| id.timestamp().timestamp() > 0));
    }
}

#[test]
fn what_the_policies_do_not_want_or_cannot_tell_is_not_recorded() {
    let came = |name: &str, judge: &All| told(&fixture(name), judge).pop().unwrap().came;
    let unwanted = All { wanted: false, ..LIVE };
    let undecided = All { certain: false, ..LIVE };
    for name in ["forbidden", "unregistered", "failed-open", "webhook-create"] {
        assert_eq!(came(name, &unwanted), Came::Unwanted, "{name}");
    }
    assert_eq!(came("unregistered", &undecided), Came::Undecided);
    assert_eq!(came("forbidden", &undecided), Came::Refused);
    assert_eq!(came("failed-open", &undecided), Came::Unseen);
    // What was recorded is told of, whatever the policies say now.
    assert_eq!(came("create", &unwanted), Came::Joined);
    let before = All { covered: Covered::Before, ..LIVE };
    for (name, expected) in [
        ("unregistered", Came::Undecided),
        ("failed-open", Came::Unseen),
        ("forbidden", Came::Refused),
        ("create", Came::Joined),
        ("webhook-create", Came::Recorded),
    ] {
        assert_eq!(came(name, &before), expected, "{name}");
    }
    let imported = All { covered: Covered::Unknown, ..LIVE };
    let told = told(&fixture("unregistered"), &imported).pop().unwrap();
    assert_eq!((told.came, told.write[0].detail.read().unwrap().system.is_none()), (Came::Recorded, true));
}

/// An event of a patch with these annotations and that code.
fn patched(code: u16, annotations: &str) -> Vec<(String, Outcome, u16)> {
    ended("patch", "", code, "", annotations).0
}

/// What an event of that verb, query, code and message comes to, with these annotations.
fn ended(verb: &str, query: &str, code: u16, message: &str, annotations: &str) -> (Vec<(String, Outcome, u16)>, Came) {
    let event = format!(
        r#"{{"auditID":"a","stage":"ResponseComplete","verb":"{verb}","objectRef":{{"resource":"configmaps","name":"n"}},
            "requestURI":"/x?{query}","user":{{"username":"alice"}},
            "responseStatus":{{"code":{code},"message":{message:?}}},"requestReceivedTimestamp":"2026-03-01T12:00:00Z",
            "stageTimestamp":"2026-03-01T12:00:00Z","annotations":{{{annotations}}}}}"#
    )
    .replace('\n', " ");
    let told = told(&event, &LIVE).remove(0);
    let of = |entry: &RedactedEntry| (entry.id.to_string().split_off(34), entry.outcome, entry.status_code);
    (told.join.iter().chain(&told.write).map(of).collect(), told.came)
}

fn note(what: &str, id: u8, value: &str) -> String {
    format!(r#""admission.audit.kubevision.io/{what}.0195505f-1680-7000-8000-0000000000{id:02x}":"{value}""#)
}

#[test]
fn the_attempt_that_replaced_the_highest_version_is_the_one_that_came_about() {
    use Outcome::{Confirmed, Rejected, Superseded};
    let of = |id: &str, outcome, code| (id.to_owned(), outcome, code);
    let two = |first: String, second: String| format!("{first},{second}");
    let older_id_newer_version = two(note("entry", 1, "update 100"), note("entry", 2, "update 99"));
    assert_eq!(patched(200, &older_id_newer_version), [of("01", Confirmed, 200), of("02", Superseded, 409)]);
    assert_eq!(patched(409, &older_id_newer_version), [of("01", Rejected, 409), of("02", Superseded, 409)]);
    let then_unchanged = two(note("entry", 1, "update 9"), note("unchanged", 2, "update 10"));
    assert_eq!(patched(200, &then_unchanged), [of("01", Superseded, 409)]);
    // An apply that found the object gone, and made it.
    let then_created = two(note("entry", 1, "update 9"), note("entry", 2, "create"));
    assert_eq!(patched(201, &then_created), [of("01", Superseded, 409), of("02", Confirmed, 201)]);
    let words_of_others =
        r#""admission.audit.kubevision.io/entry.x":"update","other/entry.0195505f-1680-7000-8000-000000000001":"""#;
    assert_eq!(patched(200, words_of_others).len(), 1, "told as unseen");
    assert_eq!(patched(200, &note("unchanged", 1, "update 9")), []);
    assert_eq!(patched(409, &note("unchanged", 1, "update 9")).len(), 1, "a refusal is a refusal");
    let failed_open = r#""failed-open.validating.webhook.admission.k8s.io/round_0_index_0":"deny.audit.kubevision.io""#;
    let one_unseen = patched(200, &two(note("entry", 1, "update 9"), failed_open.to_owned()));
    assert_eq!(one_unseen.len(), 1, "which of the two was the last, nobody can tell");
    assert_ne!(one_unseen[0].0, "01");
}

#[test]
fn a_panic_of_what_no_webhook_saw_is_a_refusal_and_an_end_is_told_of_a_session_that_nobody_saw_begin() {
    let panicked = fixture("forbidden").replace("\"ResponseComplete\"", "\"Panic\"");
    assert_eq!(told(&panicked, &LIVE).pop().unwrap().write[0].status_code, 500);
    let unseen = fixture("exec").replace("admission.audit", "another.audit");
    let told = told(&unseen, &LIVE);
    let starts: std::collections::BTreeSet<_> =
        told.iter().flat_map(|told| &told.write).filter(|entry| entry.action == Action::Start).map(|e| e.id).collect();
    assert_eq!(starts.len(), 1, "both stages say the same");
    assert_eq!(lines(&told).len(), 3);
}

#[test]
fn a_deletion_that_is_a_dry_run_by_its_body_is_none() {
    let event = |body: &str| {
        fixture("not-found")
            .replace("\"requestReceivedTimestamp", &format!("\"requestObject\":{body},\"requestReceivedTimestamp"))
    };
    assert!(lines(&told(&event(r#"{"kind":"DeleteOptions","dryRun":["All"]}"#), &LIVE)).is_empty());
    for body in [r#"{"kind":"DeleteOptions"}"#, r#"{"dryRun":null}"#, "[]", "5"] {
        assert_eq!(lines(&told(&event(body), &LIVE)).len(), 1, "{body}");
    }
}

#[test]
fn a_debug_print_of_an_event_shows_no_object() {
    let event = fixture("webhook-create");
    let event: AuditEvent<'_> = serde_json::from_str(event.lines().last().unwrap()).unwrap();
    let shown = format!("{event:?}");
    assert!(shown.ends_with("ResponseComplete create)") && !shown.contains("alice"), "{shown}");
}

#[test]
fn a_dry_run_is_believed_where_the_api_server_heeds_it() {
    let came = |verb: &str, code, annotations: &str| ended(verb, "a=b&dryRun=All", code, "", annotations).1;
    for verb in ["create", "update", "patch"] {
        assert_eq!(came(verb, 200, ""), Came::DryRun, "{verb}");
    }
    for verb in ["delete", "deletecollection"] {
        assert_eq!(came(verb, 200, ""), Came::Undecided, "{verb}: its body may have said otherwise");
        assert_eq!(came(verb, 200, &note("dry-run", 1, "delete 7")), Came::DryRun, "{verb}");
        assert_eq!(came(verb, 200, &note("entry", 1, "delete 7")), Came::Joined, "{verb}");
        assert_eq!(came(verb, 403, ""), Came::Refused, "{verb}");
    }
    let connects = fixture("exec").replace("exec?", "exec?dryRun=All&");
    assert_eq!(lines(&told(&connects, &LIVE)).len(), 3, "a connection has no such option");
    let nobody = fixture("unauthorized").replace("configmaps?", "configmaps?dryRun=All&");
    assert_eq!(told(&nobody, &LIVE).pop().unwrap().came, Came::Unauthenticated);
}

#[test]
fn a_backend_that_does_not_know_somebody_refuses_who_is_known() {
    let (entries, came) = ended("create", "", 401, "", "");
    assert_eq!((entries.len(), came), (1, Came::Refused));
    let excluded = fixture("unauthorized").replace("\"resource\":\"configmaps\"", "\"resource\":\"leases\"");
    assert_eq!(told(&excluded, &LIVE).pop().unwrap().came, Came::Excluded);
}

#[test]
fn a_failure_behind_admission_settles_nothing() {
    let recorded = note("entry", 1, "update 9");
    for code in [500, 503, 504] {
        assert_eq!(ended("patch", "", code, "etcdserver: request timed out", &recorded), (vec![], Came::Unproven));
        assert_eq!(ended("patch", "", code, "", "").1, Came::Refused);
    }
    let refused = "admission webhook \"deny.audit.kubevision.io\" denied the request: not made";
    assert_eq!(ended("patch", "", 503, refused, &recorded).1, Came::Joined);
    assert_eq!(ended("patch", "", 504, refused, &recorded).1, Came::Unproven);
    let panicked = fixture("create").replace("\"ResponseComplete\"", "\"Panic\"");
    assert_eq!(told(&panicked, &LIVE).pop().unwrap().came, Came::Unproven);
}

#[test]
fn an_attempt_without_an_entry_may_be_the_one_that_came_about() {
    let two = |what: &str| format!("{},{}", note("entry", 1, "update 9"), note(what, 2, "update 10"));
    let of = |id: &str, outcome, code| (id.to_owned(), outcome, code);
    assert_eq!(patched(200, &two("unwanted")), [of("01", Outcome::Superseded, 409)]);
    let lost = patched(200, &two("lost"));
    assert_eq!((lost.len(), &lost[0]), (2, &of("01", Outcome::Superseded, 409)));
    assert_eq!(ended("patch", "", 200, "", &note("unwanted", 1, "update 9")), (vec![], Came::Unwanted));
    let (entries, came) = ended("patch", "", 200, "", &note("lost", 1, "update 9"));
    assert_eq!((entries.len(), came), (1, Came::Unseen));
}

#[test]
fn of_a_collection_each_object_s_last_attempt_is_confirmed_alone() {
    let notes = [
        note("entry", 1, "delete 10 a"),
        note("entry", 2, "delete 11 a"),
        note("entry", 3, "delete - b"),
        note("entry", 4, "delete 12"),
        note("entry", 5, "delete 13"),
    ];
    let (entries, _) = ended("deletecollection", "", 200, "", &notes.join(","));
    assert_eq!(entries.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>(), ["02", "03", "04", "05"]);
    assert_eq!(Attempted::value(Action::Delete, "", "b"), "delete - b");
    assert_eq!(Attempted::value(Action::Delete, "7", ""), "delete 7");
    assert_eq!(Attempted::value(Action::Update, "7", "b"), "update 7");
}

#[test]
fn an_event_s_texts_are_bounded_before_they_are_told_by_many_entries() {
    let long = "x".repeat(100_000);
    let event = fixture("collection").replace("\"username\":\"alice\"", &format!("\"username\":\"{long}\""));
    let joins = told(&event, &LIVE).pop().unwrap().join;
    assert!(joins.len() == 4 && joins.iter().all(|entry| entry.user.chars().count() == 1_024));
}

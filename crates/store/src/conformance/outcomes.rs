//! What becomes known of entries later, in whatever order and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::entry::{ObjectHash, Prior, RequestFacts};
use domain::finding::Finding;
use domain::query::Filter;
use domain::{
    Action, Detail, DetailJson, Entry, EntryId, Evidence, Outcome, RedactedEntry, Resource, Source, StoredEntry,
};
use futures::future::join_all;

use super::{EVERYTHING, all, assert_same, entry_at, ids, noon, plain, sample};
use crate::{Late, ObjectRef, Retry, Store};

/// Long before and long after anything was kept, by whatever clock.
const NEVER: DateTime<Utc> = DateTime::<Utc>::UNIX_EPOCH;
const AT_ONCE: TimeDelta = TimeDelta::days(200_000);

fn at_once() -> DateTime<Utc> {
    NEVER + AT_ONCE
}

async fn stored(store: &dyn Store, id: EntryId) -> StoredEntry {
    store.entry(&EVERYTHING, id).await.unwrap().expect("it is there")
}

/// All, whatever came of them, by id.
async fn everything(store: &dyn Store) -> BTreeMap<EntryId, StoredEntry> {
    let mut found = all(store, &Filter::default()).await;
    let superseded = Filter { outcome: Some(Outcome::Superseded), ..Filter::default() };
    found.extend(all(store, &superseded).await);
    found.into_iter().map(|entry| (entry.id, entry)).collect()
}

async fn last_position(store: &dyn Store) -> i64 {
    everything(store).await.values().map(|entry| entry.position).max().unwrap_or(0)
}

/// What the API server's event tells of an entry.
fn told_of(entry: &Entry, outcome: Outcome, status_code: u16) -> RedactedEntry {
    RedactedEntry::sample(Entry {
        status_code,
        detail: DetailJson::parse(r#"{"summary":"","omitted":"lost"}"#.into()).unwrap(),
        ip: "192.0.2.7".into(),
        outcome,
        evidence: Evidence::Audit,
        source: Source::Audit,
        audit_id: format!("event-of-{}", entry.id),
        real_user: "root".into(),
        user_agent: "curl/8".into(),
        before_hash: None,
        after_hash: None,
        policy: String::new(),
        ..entry.clone()
    })
}

/// What the entry is once it has learned that.
fn having_learned(entry: &Entry, told: &Entry) -> Entry {
    Entry {
        outcome: told.outcome,
        evidence: told.evidence,
        status_code: told.status_code,
        ip: told.ip.clone(),
        audit_id: told.audit_id.clone(),
        real_user: told.real_user.clone(),
        user_agent: told.user_agent.clone(),
        ..entry.clone()
    }
}

pub(super) async fn a_finding_holds_where_it_weighs_more_than_what_is_known(store: Arc<dyn Store>) {
    let outcome_by = |evidence| match evidence {
        Evidence::Nothing => Outcome::Unconfirmed,
        Evidence::Itself => Outcome::Rejected,
        _ => Outcome::Confirmed,
    };
    let mut cases = Vec::new();
    for known in Evidence::ALL {
        for told in Evidence::ALL.iter().filter(|told| **told != Evidence::Nothing) {
            let n = cases.len() as u64;
            let entry = sample(|e| {
                e.id = EntryId::at(noon() + TimeDelta::seconds(n.cast_signed()), n);
                (e.outcome, e.evidence) = (outcome_by(*known), *known);
                e.status_code = if *known == Evidence::Itself { 503 } else { 200 };
            });
            cases.push((
                entry,
                Finding::rejected(EntryId::at(noon() + TimeDelta::seconds(n.cast_signed()), n), *told, 409),
            ));
        }
    }
    store.write(&cases.iter().map(|case| case.0.clone()).collect::<Vec<_>>()).await.unwrap();
    let before = everything(&*store).await;
    let last = last_position(&*store).await;
    let findings: Vec<_> = cases.iter().map(|case| case.1).collect();
    for _ in 0..2 {
        store.settle(&findings).await.unwrap();
    }
    let after = everything(&*store).await;
    let mut positions = BTreeSet::new();
    for (entry, finding) in &cases {
        let (was, is) = (&before[&entry.id], &after[&entry.id]);
        if finding.evidence.weight() > entry.evidence.weight() {
            let expected =
                Entry { outcome: Outcome::Rejected, evidence: finding.evidence, status_code: 409, ..(**entry).clone() };
            assert_same(is, &expected);
            assert!(is.position > last && positions.insert(is.position), "it has changed");
        } else {
            assert_eq!((was.position, format!("{was:?}")), (is.position, format!("{is:?}")), "{finding:?}");
        }
    }
    let now = last_position(&*store).await;
    store.settle(&findings).await.unwrap();
    assert_eq!(last_position(&*store).await, now, "twice does nothing");
}

pub(super) async fn findings_settle_what_they_name_and_nothing_else(store: Arc<dyn Store>) {
    let batch = plain(4);
    store.write(&batch).await.unwrap();
    let unknown = EntryId::at(noon() - TimeDelta::days(400), 7);
    let senseless =
        [Finding::confirmed(batch[0].id, Evidence::Probe), Finding::rejected(batch[1].id, Evidence::Probe, 200)];
    assert_eq!(store.settle(&senseless).await.unwrap_err().retry(), Retry::Never);
    store.settle(&[]).await.unwrap();
    assert!(everything(&*store).await.values().all(|entry| entry.outcome == Outcome::Unconfirmed), "all or none");
    // Of two for the same entry the heavier one, and of equals the first.
    let findings = [
        Finding::confirmed(unknown, Evidence::Probe),
        Finding::confirmed(batch[2].id, Evidence::Successor),
        Finding::confirmed(batch[0].id, Evidence::Successor),
        Finding::rejected(batch[0].id, Evidence::Probe, 409),
        Finding::rejected(batch[2].id, Evidence::Itself, 503),
    ];
    store.settle(&findings).await.unwrap();
    let of = async |n: usize| {
        let entry = stored(&*store, batch[n].id).await;
        (entry.outcome, entry.evidence, entry.status_code)
    };
    assert_eq!(of(0).await, (Outcome::Confirmed, Evidence::Successor, 200));
    assert_eq!(of(1).await, (Outcome::Unconfirmed, Evidence::Nothing, 200));
    assert_eq!(of(2).await, (Outcome::Rejected, Evidence::Itself, 503));
    assert_eq!(everything(&*store).await.len(), 4);
    let count = async |from, to| store.unconfirmed(batch[from as usize].id, to).await.unwrap();
    let end = EntryId::at(noon() + TimeDelta::days(1), 0);
    assert_eq!((count(0, end).await, count(1, batch[3].id).await, count(2, end).await), (2, 1, 1));
}

pub(super) async fn more_findings_than_a_statement_holds_all_hold(store: Arc<dyn Store>) {
    let batch = plain(2_500);
    store.write(&batch).await.unwrap();
    let findings: Vec<_> = batch.iter().map(|entry| Finding::confirmed(entry.id, Evidence::Probe)).collect();
    store.settle(&findings).await.unwrap();
    assert_eq!(store.unconfirmed(batch[0].id, EntryId::at(noon() + TimeDelta::days(1), 0)).await.unwrap(), 0);
    let told: Vec<_> = batch.iter().map(|entry| told_of(entry, Outcome::Rejected, 422)).collect();
    store.join(&told).await.unwrap();
    assert!(everything(&*store).await.values().all(|entry| entry.status_code == 422));
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late::default(), "none is kept");
}

pub(super) async fn an_event_tells_its_entry_what_admission_does_not_know(store: Arc<dyn Store>) {
    let batch = plain(3);
    store.write(&batch).await.unwrap();
    let last = last_position(&*store).await;
    let told = told_of(&batch[0], Outcome::Rejected, 403);
    let other_user = RedactedEntry::sample(Entry { user: "mallory".into(), ..(*told).clone() });
    // An empty text is one that is not told.
    let silent = RedactedEntry::sample(Entry {
        ip: String::new(),
        real_user: String::new(),
        user_agent: String::new(),
        ..(*told_of(&batch[1], Outcome::Confirmed, 200)).clone()
    });
    store.join(&[other_user.clone(), silent.clone()]).await.unwrap();
    let (first, second) = (stored(&*store, batch[0].id).await, stored(&*store, batch[1].id).await);
    assert_same(&first, &having_learned(&batch[0], &told));
    let expected = Entry {
        outcome: Outcome::Confirmed,
        evidence: Evidence::Audit,
        audit_id: silent.audit_id.clone(),
        ..(*batch[1]).clone()
    };
    assert_same(&second, &expected);
    assert!(first.position > last && second.position > last && first.position != second.position);
    assert!(stored(&*store, batch[2].id).await.position <= last);

    store.join(&[silent, other_user]).await.unwrap();
    store.settle(&[Finding::confirmed(batch[0].id, Evidence::Probe)]).await.unwrap();
    store.reject(&[batch[0].id], 503).await.unwrap();
    let again = stored(&*store, batch[0].id).await;
    assert_eq!((again.position, format!("{again:?}")), (first.position, format!("{first:?}")));
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late::default());
}

pub(super) async fn an_event_that_breaks_the_schema_is_refused_and_not_kept(store: Arc<dyn Store>) {
    let nameless =
        sample(|e| (e.outcome, e.evidence, e.audit_id) = (Outcome::Confirmed, Evidence::Audit, String::new()));
    assert_eq!(store.join(&[nameless]).await.unwrap_err().retry(), Retry::Never);
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late::default());
    assert_eq!(everything(&*store).await.len(), 0);
}

pub(super) async fn an_event_is_kept_until_its_entry_comes(store: Arc<dyn Store>) {
    let batch = plain(3);
    let told: Vec<_> = batch.iter().map(|entry| told_of(entry, Outcome::Confirmed, 201)).collect();
    store.write(&batch[..1]).await.unwrap();
    store.join(&told).await.unwrap();
    store.join(&told).await.unwrap();
    assert_eq!(everything(&*store).await.len(), 1);
    assert_eq!(store.join_late(NEVER).await.unwrap(), Late { waiting: 2, ..Late::default() });
    store.write(&batch).await.unwrap();
    assert_eq!(stored(&*store, batch[1].id).await.outcome, Outcome::Unconfirmed);
    let last = last_position(&*store).await;
    assert_eq!(store.join_late(NEVER).await.unwrap(), Late { joined: 2, ..Late::default() });
    for (entry, told) in batch.iter().zip(&told) {
        assert_same(&stored(&*store, entry.id).await, &having_learned(entry, told));
    }
    assert!(last_position(&*store).await > last);
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late::default());
}

pub(super) async fn an_event_whose_entry_was_lost_becomes_one_after_its_time_and_not_before(store: Arc<dyn Store>) {
    let other = sample(|e| e.id = EntryId::at(noon(), 1));
    // Of a day that has no other entries.
    let lost = entry_at(noon() - TimeDelta::days(40), 7);
    let told = told_of(&lost, Outcome::Rejected, 409);
    store.write(std::slice::from_ref(&other)).await.unwrap();
    store.join(std::slice::from_ref(&told)).await.unwrap();
    assert_eq!(store.join_late(NEVER).await.unwrap(), Late { waiting: 1, ..Late::default() });
    let last = last_position(&*store).await;
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late { adopted: 1, ..Late::default() });
    let adopted = stored(&*store, lost.id).await;
    assert_same(&adopted, &told);
    assert!(adopted.position > last);
    // It comes after all, and its event once more.
    store.write(&[RedactedEntry::sample(lost.clone())]).await.unwrap();
    store.join(std::slice::from_ref(&told)).await.unwrap();
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late::default());
    assert_same(&stored(&*store, lost.id).await, &told);
}

pub(super) async fn many_kept_events_are_taken_up_in_portions(store: Arc<dyn Store>) {
    let batch = plain(2_300);
    let told: Vec<_> = batch.iter().map(|entry| told_of(entry, Outcome::Confirmed, 200)).collect();
    store.join(&told).await.unwrap();
    store.write(&batch[..1_200]).await.unwrap();
    let (mut total, mut calls) = (Late::default(), 0);
    loop {
        let late = store.join_late(at_once()).await.unwrap();
        (total.joined, total.adopted, calls) = (total.joined + late.joined, total.adopted + late.adopted, calls + 1);
        assert!(late.joined + late.adopted <= 2_000 && calls < 20, "{late:?} in call {calls}");
        if late.waiting == 0 {
            break;
        }
    }
    assert!(calls > 1);
    assert_eq!((total.joined, total.adopted), (1_200, 1_100));
    let found = everything(&*store).await;
    assert!(found.len() == 2_300 && found.values().all(|entry| entry.outcome == Outcome::Confirmed));
}

/// What a watch has seen of a webhook configuration, and what its event tells.
fn watched(seconds: i64, random: u64, after: Option<i64>) -> (RedactedEntry, RedactedEntry) {
    let entry = |millis: i64, random| Entry {
        id: EntryId::at(noon() + TimeDelta::seconds(seconds) + TimeDelta::milliseconds(millis), random),
        action: if after.is_some() { Action::Update } else { Action::Delete },
        resource: Resource::new("ValidatingWebhookConfiguration", ""),
        namespace: String::new(),
        after_hash: after.map(ObjectHash),
        ..entry_at(noon(), 0)
    };
    let seen = Entry {
        user: String::new(),
        ip: String::new(),
        audit_id: String::new(),
        user_agent: String::new(),
        outcome: Outcome::Confirmed,
        evidence: Evidence::Probe,
        source: Source::Watch,
        ..entry(0, random)
    };
    let told = told_of(&entry(-200, random + 1), Outcome::Confirmed, 200);
    let told = Entry { after_hash: after.map(ObjectHash), ..(*told).clone() };
    (RedactedEntry::sample(seen), RedactedEntry::sample(told))
}

pub(super) async fn what_a_watch_has_seen_is_filled_by_its_event(store: Arc<dyn Store>) {
    // There and back again: the same state twice, and a delete; and one object beside.
    let changes =
        [watched(0, 10, Some(1)), watched(60, 20, Some(2)), watched(120, 30, Some(1)), watched(180, 40, None)];
    let aside = sample(|e| (e.id, e.source, e.object_uid) = (EntryId::at(noon(), 99), Source::Watch, "other".into()));
    let far = watched(3_600, 50, Some(2));
    let (seen, told): (Vec<_>, Vec<_>) = changes.iter().cloned().unzip();
    store.join(&told[..2]).await.unwrap();
    assert_eq!(store.join_late(NEVER).await.unwrap(), Late { waiting: 2, ..Late::default() });
    store.write(&seen).await.unwrap();
    store.write(std::slice::from_ref(&aside)).await.unwrap();
    store.join(&told[1..]).await.unwrap();
    store.join(std::slice::from_ref(&far.1)).await.unwrap();
    let last = last_position(&*store).await;
    assert_eq!(store.join_late(NEVER).await.unwrap(), Late { joined: 4, waiting: 1, ..Late::default() });
    let check = async || {
        for (seen, told) in &changes {
            let expected = Entry { user: "alice".into(), ..having_learned(seen, told) };
            assert_same(&stored(&*store, seen.id).await, &expected);
            assert!(store.entry(&EVERYTHING, told.id).await.unwrap().is_none());
        }
        assert_same(&stored(&*store, aside.id).await, &aside);
    };
    check().await;
    assert!(last_position(&*store).await > last);
    // Delivered again, all are told already; the one that no watch has seen becomes an entry.
    store.join(&told).await.unwrap();
    assert_eq!(store.join_late(at_once()).await.unwrap(), Late { adopted: 1, ..Late::default() });
    check().await;
    assert_same(&stored(&*store, far.1.id).await, &far.1);
    assert_eq!(stored(&*store, far.1.id).await.position, last_position(&*store).await);
    assert_eq!(everything(&*store).await.len(), 6);
}

fn linked(n: u64, change: impl FnOnce(&mut Entry)) -> RedactedEntry {
    sample(|e| {
        e.id = EntryId::at(noon() + TimeDelta::seconds(n.cast_signed()), n);
        change(e);
    })
}

pub(super) async fn links_tell_what_is_new_in_the_order_of_positions(store: Arc<dyn Store>) {
    let prior =
        Prior { resource_version: "7".into(), terminating: true, manager: "kübectl".into(), ..Prior::default() };
    let facts = |prior| RequestFacts { version: "v1".into(), prior, ..RequestFacts::default() };
    let detail = |request| Detail { summary: "x".into(), request, ..Detail::default() }.to_json();
    let deep = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
    let batch = [
        linked(1, |e| e.detail = detail(Some(facts(Some(prior.clone()))))),
        linked(2, |e| (e.detail, e.source) = (detail(Some(facts(None))), Source::Audit)),
        linked(3, |e| e.detail = DetailJson::parse(format!(r#"{{"after":{deep}}}"#)).unwrap()),
        linked(4, |e| (e.action, e.source, e.before_hash) = (Action::Create, Source::Chain, None)),
        linked(5, |e| e.detail = DetailJson::parse(r#"{"request":{"prior":{"terminating":"x"}}}"#.into()).unwrap()),
    ];
    let others = [
        linked(11, |e| e.cluster = "elsewhere".into()),
        linked(12, |e| e.action = Action::Start),
        linked(13, |e| e.source = Source::Watch),
        sample(|e| e.id = EntryId::at(noon() - TimeDelta::hours(2), 14)),
    ];
    let mixed: Vec<_> = others.iter().chain(batch.iter().rev()).cloned().collect();
    store.write(&mixed).await.unwrap();
    let since = EntryId::floor(noon() - TimeDelta::hours(1));
    let links = store.links("local", 0, since, 100).await.unwrap();
    assert!(links.is_sorted_by(|a, b| a.position < b.position));
    let by_id: BTreeMap<_, _> = links.iter().map(|link| (link.id, link)).collect();
    assert_eq!(by_id.keys().copied().collect::<Vec<_>>(), ids(&batch));
    for entry in &batch {
        let (link, row) = (by_id[&entry.id], stored(&*store, entry.id).await);
        assert_eq!((link.position, link.action, &link.resource), (row.position, entry.action, &entry.resource));
        assert_eq!(
            (&link.api_group, &link.namespace, &link.resource_name),
            (&entry.api_group, &entry.namespace, &entry.resource_name)
        );
        assert_eq!(
            (&link.object_uid, link.before, link.after),
            (&entry.object_uid, entry.before_hash, entry.after_hash)
        );
        assert_eq!(
            (link.outcome, link.evidence, link.source, &link.policy),
            (entry.outcome, entry.evidence, entry.source, &entry.policy)
        );
    }
    let facts: Vec<_> =
        batch.iter().map(|entry| (by_id[&entry.id].version.as_str(), by_id[&entry.id].prior.clone())).collect();
    assert_eq!(facts, [("v1", Some(prior)), ("v1", None), ("", None), ("", None), ("", None)]);

    // In portions, and what changes comes again.
    let mut walked = Vec::new();
    let mut after = 0;
    loop {
        let portion = store.links("local", after, since, 2).await.unwrap();
        let Some(last) = portion.last() else { break };
        after = last.position;
        walked.extend(portion);
    }
    assert_eq!(walked, links);
    store.settle(&[Finding::confirmed(batch[1].id, Evidence::Successor)]).await.unwrap();
    let changed = store.links("local", after, since, 100).await.unwrap();
    assert_eq!(
        changed.iter().map(|link| (link.id, link.outcome)).collect::<Vec<_>>(),
        [(batch[1].id, Outcome::Confirmed)]
    );
}

pub(super) async fn links_of_an_object_are_all_of_its_kind_and_name_newest_first(store: Arc<dyn Store>) {
    let long = "n".repeat(400);
    let of = [
        linked(1, |_| {}),
        linked(2, |e| e.resource = Resource::new("Deployment", "scale")),
        linked(3, |e| e.object_uid = "another".into()),
        linked(4, |e| (e.action, e.source) = (Action::Delete, Source::Watch)),
    ];
    let others = [
        linked(11, |e| e.namespace = "else".into()),
        linked(12, |e| e.resource = Resource::new("DeploymentX", "")),
        linked(13, |e| e.api_group = "example.com".into()),
        linked(14, |e| e.cluster = "elsewhere".into()),
        linked(15, |e| e.action = Action::Start),
        linked(16, |e| e.resource_name = long.clone()),
        linked(17, |e| e.resource_name = format!("{long}x")),
    ];
    store.write(&[&of[..], &others[..]].concat()).await.unwrap();
    let object = ObjectRef { cluster: "local", api_group: "apps", kind: "Deployment", namespace: "shop", name: "web" };
    let found = async |object: &ObjectRef<'_>, before, limit| {
        let links = store.links_of(object, before, limit).await.unwrap();
        links.into_iter().map(|link| link.id).collect::<Vec<_>>()
    };
    let end = EntryId::at(noon() + TimeDelta::days(1), 0);
    assert_eq!(found(&object, end, 10).await, [of[3].id, of[2].id, of[1].id, of[0].id]);
    assert_eq!(found(&object, of[3].id, 2).await, [of[2].id, of[1].id]);
    assert_eq!(found(&ObjectRef { name: &long, ..object }, end, 10).await, [others[5].id]);
}

pub(super) async fn reads_are_entries_too(store: Arc<dyn Store>) {
    let actions = [Action::Get, Action::List, Action::Watch];
    let of = |n: usize| linked(n as u64, |e| (e.action, e.source) = (actions[n], Source::Audit));
    let batch: Vec<_> = (0..actions.len()).map(of).collect();
    store.write(&batch).await.unwrap();
    for entry in &batch {
        let filter = Filter { action: Some(entry.action), ..Filter::default() };
        assert_eq!(ids(&all(&*store, &filter).await), [entry.id]);
    }
    let since = EntryId::floor(noon());
    assert_eq!(store.links("local", 0, since, 10).await.unwrap(), []);
}

/// One thing that happens to the log. Each may happen again.
#[derive(Clone)]
enum Step {
    Write(Vec<RedactedEntry>),
    Join(Vec<RedactedEntry>),
    Settle(Vec<Finding>),
    Reject(EntryId),
    Late,
}

impl Step {
    async fn take(&self, store: &dyn Store) {
        match self {
            Self::Write(batch) => store.write(batch).await.unwrap(),
            Self::Join(told) => store.join(told).await.unwrap(),
            Self::Settle(findings) => store.settle(findings).await.unwrap(),
            Self::Reject(id) => store.reject(&[*id], 503).await.unwrap(),
            Self::Late => drop(store.join_late(NEVER).await.unwrap()),
        }
    }
}

/// Requests of several attempts each, what is found and told of them, and what is to be there in the end.
fn requests(draw: &mut impl FnMut(u64) -> u64) -> (Vec<Step>, BTreeMap<EntryId, Entry>) {
    let (mut steps, mut expected) = (Vec::new(), BTreeMap::new());
    for request in 0..40_u64 {
        let attempts: Vec<_> = (0..=draw(4))
            .map(|attempt| {
                let time =
                    noon() + TimeDelta::seconds(request.cast_signed()) + TimeDelta::milliseconds(attempt.cast_signed());
                RedactedEntry::sample(entry_at(time, draw(1 << 40)))
            })
            .collect();
        let refused = draw(3) == 0;
        let last = attempts.len() - 1;
        let told = attempts.iter().enumerate().map(|(n, entry)| match (n == last, refused) {
            (false, _) => told_of(entry, Outcome::Superseded, 200),
            (true, false) => told_of(entry, Outcome::Confirmed, 200),
            (true, true) => told_of(entry, Outcome::Rejected, 422),
        });
        let told: Vec<_> = told.collect();
        let heard = draw(5) > 0;
        for (entry, told) in attempts.iter().zip(&told) {
            let lost = heard && draw(8) == 0;
            let unsure = Finding::rejected(entry.id, Evidence::Probe, 409);
            let mut is = (**entry).clone();
            if !lost {
                steps.push(Step::Write(vec![entry.clone()]));
            }
            // A settled one that has not come is passed over, so only what outlasts it may be found of what comes.
            if heard {
                steps.extend([Step::Settle(vec![unsure]), Step::Reject(entry.id)]);
                is = if lost { (**told).clone() } else { having_learned(entry, told) };
            }
            expected.insert(entry.id, is);
        }
        if heard {
            // Twice and thrice, in whole and in parts.
            steps.extend([Step::Join(told.clone()), Step::Join(told.clone())]);
            steps.extend(told.iter().filter(|_| draw(2) == 0).map(|told| Step::Join(vec![told.clone()])));
        }
        steps.push(Step::Write(attempts.iter().filter(|_| !heard).cloned().collect()));
        steps.extend((draw(3) == 0).then_some(Step::Late));
    }
    (steps, expected)
}

/// Whatever the order, however often, on whichever replica, and at the same time.
pub(super) async fn in_whatever_order_it_comes_to_the_same(replicas: [Arc<dyn Store>; 2]) {
    const ROUNDS: u64 = 3;
    for round in 0..ROUNDS {
        let mut seed = round;
        let mut draw = |below: u64| {
            // Knuth's linear congruential generator; its upper bits are the good ones.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 20) % below
        };
        let (mut steps, expected) = requests(&mut draw);
        for n in (1..steps.len()).rev() {
            steps.swap(n, usize::try_from(draw(n as u64 + 1)).unwrap());
        }
        let mut rest = steps.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + usize::try_from(draw(5)).unwrap()));
            join_all(now.iter().map(|step| {
                let replica = &replicas[usize::try_from(draw(2)).unwrap()];
                step.take(&**replica)
            }))
            .await;
            rest = later;
        }
        let late = join_all(replicas.iter().map(|replica| replica.join_late(at_once()))).await;
        assert!(late.iter().all(|late| late.is_ok()), "{late:?}");
        assert_eq!(replicas[0].join_late(at_once()).await.unwrap(), Late::default());
        let found = everything(&*replicas[1]).await;
        for (id, entry) in &expected {
            assert_same(found.get(id).expect("it is there"), entry);
        }
        let positions: BTreeSet<_> = found.values().map(|entry| entry.position).collect();
        assert_eq!(positions.len(), found.len(), "a position is given once");
    }
}

//! What every store has to pass: the contract, as cases. A test of a store runs each of [`CASES`] and [`SHARED_CASES`]
//! over a fresh store.
//!
//! Knows stores only by their contract. The order of arrival is read from the pages too.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "each case is a test")]

mod leases;
mod outcomes;
mod retention;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::entry::ObjectHash;
use domain::query::{Cursor, CursorKey, Direction, EntryQuery, Filter, Limit, ResourceFilter, Scope, Status};
use domain::text::storable;
use domain::{Action, DetailJson, Entry, EntryId, Evidence, Outcome, RedactedEntry, Resource, Source, StoredEntry};
use futures::future::{BoxFuture, join, join_all};
use futures::{FutureExt as _, TryStreamExt as _};

use self::leases::*;
use self::outcomes::*;
use self::retention::*;
use crate::{Retry, Store, StoreError};

/// Takes a store that is migrated and empty; panics where it breaks the contract.
pub type Case = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        pub const CASES: &[(&str, Case)] = &[$((stringify!($case), |store| $case(store).boxed())),+];
    };
}

cases! {
    an_entry_reads_back_as_it_was_written,
    a_batch_written_twice_is_stored_once,
    an_entry_that_is_there_stays_as_it_is,
    a_batch_that_breaks_the_schema_is_refused_for_good_and_whole,
    writes_that_were_refused_are_rejected_once_and_nothing_else_is,
    every_filter_finds_what_it_says_and_nothing_else,
    a_filter_matches_exactly_and_has_no_wildcards,
    long_texts_are_stored_and_found_in_whole,
    text_of_any_script_and_nul_is_stored_and_found,
    a_detail_nested_deeply_reads_back,
    time_filters_cut_at_the_millisecond,
    superseded_entries_show_only_where_they_are_asked_for,
    a_page_walk_under_a_writer_never_repeats_and_never_skips,
    a_page_walk_goes_on_over_a_purged_cursor,
    heavy_entries_are_walked_in_short_pages_both_ways_and_streamed_whole,
    a_reader_of_positions_never_misses_an_entry,
    thousands_in_a_batch_are_each_stored_once_and_streamed_in_order,
    reads_are_entries_too,
    a_finding_holds_where_it_weighs_more_than_what_is_known,
    findings_settle_what_they_name_and_nothing_else,
    more_findings_than_a_statement_holds_all_hold,
    an_event_tells_its_entry_what_admission_does_not_know,
    an_event_that_breaks_the_schema_is_refused_and_not_kept,
    an_event_is_kept_until_its_entry_comes,
    an_event_whose_entry_was_lost_becomes_one_after_its_time_and_not_before,
    many_kept_events_are_taken_up_in_portions,
    what_a_watch_has_seen_is_filled_by_its_event,
    links_tell_what_is_new_in_the_order_of_positions,
    links_of_an_object_are_all_of_its_kind_and_name_newest_first,
    a_purge_takes_all_before_the_cutoff_and_nothing_else,
    each_policy_keeps_its_entries_as_long_as_it_says,
    a_long_purge_goes_in_portions_that_are_counted_by_policy,
    a_purged_day_takes_entries_again,
    a_purge_is_remembered_and_told_together,
    who_is_fenced_out_removes_nothing_and_records_nothing,
    policies_are_counted_by_name,
    a_lease_is_held_by_one_and_its_epoch_tells_changes_of_hands,
    a_lease_that_is_released_is_taken_at_once_and_its_fence_is_worth_nothing,
    of_many_who_ask_at_once_one_gets_the_lease,
    the_cursor_key_stays,
    migrating_and_preparing_again_changes_nothing,
}

/// Takes two handles of one database, as two replicas have them.
pub type SharedCase = fn([Arc<dyn Store>; 2]) -> BoxFuture<'static, ()>;

pub const SHARED_CASES: &[(&str, SharedCase)] =
    &[("in_whatever_order_it_comes_to_the_same", |replicas| in_whatever_order_it_comes_to_the_same(replicas).boxed())];

const EVERYTHING: Scope = Scope::Everything;

/// Of a day that is no round number of anything.
fn noon() -> DateTime<Utc> {
    "2026-03-01T12:34:56.789Z".parse().unwrap()
}

fn entry_at(time: DateTime<Utc>, random: u64) -> Entry {
    Entry {
        id: EntryId::at(time, random),
        user: "alice".into(),
        action: Action::Update,
        resource: Resource::new("Deployment", ""),
        resource_name: "web".into(),
        cluster: "local".into(),
        namespace: "shop".into(),
        status_code: 200,
        detail: DetailJson::parse(r#"{"summary":"image a:1 → a:2"}"#.into()).unwrap(),
        ip: "10.0.0.7".into(),
        outcome: Outcome::Unconfirmed,
        evidence: Evidence::Nothing,
        source: Source::Admission,
        audit_id: "5c5bd3b2".into(),
        real_user: String::new(),
        user_agent: "kubectl/v1.37.2".into(),
        api_group: "apps".into(),
        object_uid: "b9d8".into(),
        before_hash: Some(ObjectHash(i64::MIN)),
        after_hash: Some(ObjectHash(i64::MAX)),
        policy: "default".into(),
    }
}

fn plain(count: u64) -> Vec<RedactedEntry> {
    (0..count).map(|n| RedactedEntry::sample(entry_at(noon() + TimeDelta::milliseconds(n as i64), n))).collect()
}

fn sample(change: impl FnOnce(&mut Entry)) -> RedactedEntry {
    let mut entry = entry_at(noon(), 0);
    change(&mut entry);
    RedactedEntry::sample(entry)
}

async fn all(store: &dyn Store, filter: &Filter) -> Vec<StoredEntry> {
    store.stream(&EVERYTHING, filter).try_collect().await.unwrap()
}

fn ids<'a, E: std::ops::Deref<Target = Entry> + 'a>(entries: impl IntoIterator<Item = &'a E>) -> Vec<EntryId> {
    entries.into_iter().map(|entry| entry.id).collect()
}

fn newest_first(entries: &[RedactedEntry]) -> Vec<EntryId> {
    let mut ids = ids(entries);
    ids.sort_by(|a, b| b.cmp(a));
    ids
}

fn limit(entries: usize) -> Limit {
    entries.to_string().parse().unwrap()
}

fn assert_same(stored: &StoredEntry, written: &Entry) {
    let json = |detail: &DetailJson| serde_json::from_str::<serde_json::Value>(detail.as_str()).unwrap();
    assert_eq!(json(&stored.detail), json(&written.detail));
    let rest = |entry: &Entry| {
        let detail = DetailJson::parse("{}".into()).unwrap();
        format!("{:?}", Entry { detail, ..entry.clone() })
    };
    assert_eq!(rest(&stored.entry), rest(written));
}

async fn an_entry_reads_back_as_it_was_written(store: Arc<dyn Store>) {
    let full = sample(|_| {});
    let bare = sample(|e| {
        *e = Entry {
            id: EntryId::at(noon() + TimeDelta::microseconds(1), u64::MAX),
            user: String::new(),
            action: Action::Authenticate,
            resource: Resource::new("User", ""),
            resource_name: String::new(),
            cluster: String::new(),
            namespace: String::new(),
            status_code: 401,
            ip: String::new(),
            outcome: Outcome::Confirmed,
            evidence: Evidence::Itself,
            source: Source::Panel,
            audit_id: String::new(),
            real_user: "root".into(),
            user_agent: String::new(),
            api_group: String::new(),
            object_uid: String::new(),
            before_hash: None,
            after_hash: None,
            policy: String::new(),
            ..e.clone()
        };
    });
    store.write(&[full.clone(), bare.clone()]).await.unwrap();
    for written in [&full, &bare] {
        assert_same(&store.entry(&EVERYTHING, written.id).await.unwrap().expect("it is there"), written);
    }
    let page = store.page(&EVERYTHING, &EntryQuery::default()).await.unwrap();
    assert_eq!(ids(&page.entries), [bare.id, full.id], "newest first");
    assert_eq!((page.next, page.prev), (None, None));
    let other = EntryId::at(noon(), 7);
    assert!(store.entry(&EVERYTHING, other).await.unwrap().is_none());
}

async fn a_batch_written_twice_is_stored_once(store: Arc<dyn Store>) {
    let batch = plain(250);
    store.write(&batch).await.unwrap();
    let before = all(&*store, &Filter::default()).await;
    store.write(&batch).await.unwrap();
    let twice_in_one: Vec<_> = batch.iter().chain(&batch).cloned().collect();
    store.write(&twice_in_one).await.unwrap();
    store.write(&[]).await.unwrap();
    let after = all(&*store, &Filter::default()).await;
    assert_eq!(ids(&after), newest_first(&batch));
    let positions = |entries: &[StoredEntry]| entries.iter().map(|entry| entry.position).collect::<Vec<_>>();
    assert_eq!(positions(&before), positions(&after), "what is there does not move");
}

async fn an_entry_that_is_there_stays_as_it_is(store: Arc<dyn Store>) {
    let first = sample(|_| {});
    store.write(std::slice::from_ref(&first)).await.unwrap();
    store.write(&[sample(|e| e.user = "mallory".into())]).await.unwrap();
    assert_same(&store.entry(&EVERYTHING, first.id).await.unwrap().unwrap(), &first);
}

async fn a_batch_that_breaks_the_schema_is_refused_for_good_and_whole(store: Arc<dyn Store>) {
    let mut batch = plain(150);
    let late = EntryId::at(noon() + TimeDelta::hours(1), 0);
    // Evidence settles an outcome, so there is none for an outcome that nobody knows.
    batch.push(sample(|e| (e.id, e.outcome, e.evidence) = (late, Outcome::Unconfirmed, Evidence::Audit)));
    let refused = store.write(&batch).await.unwrap_err();
    assert!(matches!(refused, StoreError::Write { entries: 151, retry: Retry::Never, .. }), "{refused:?}");
    assert_eq!(all(&*store, &Filter::default()).await.len(), 0);
}

async fn writes_that_were_refused_are_rejected_once_and_nothing_else_is(store: Arc<dyn Store>) {
    let batch = plain(3);
    let confirmed = sample(|e| {
        e.id = EntryId::at(noon() + TimeDelta::days(1), 9);
        (e.outcome, e.evidence) = (Outcome::Confirmed, Evidence::Audit);
    });
    store.write(&batch).await.unwrap();
    store.write(std::slice::from_ref(&confirmed)).await.unwrap();
    let text = |entries: &[StoredEntry]| entries.iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>();
    let before = all(&*store, &Filter::default()).await;
    let unknown = EntryId::at(noon() - TimeDelta::days(400), 7);
    let ids = [batch[2].id, confirmed.id, unknown, batch[0].id, batch[0].id];

    let senseless = store.reject(&ids, 200).await.unwrap_err();
    assert_eq!(senseless.retry(), Retry::Never, "{senseless:?}");
    store.reject(&[], 503).await.unwrap();
    assert_eq!(text(&all(&*store, &Filter::default()).await), text(&before));

    store.reject(&ids, 503).await.unwrap();
    let after = all(&*store, &Filter::default()).await;
    let last = before.iter().map(|entry| entry.position).max().unwrap();
    let mut positions = BTreeSet::new();
    for (was, is) in before.iter().zip(&after) {
        if [batch[0].id, batch[2].id].contains(&was.id) {
            let rejected =
                Entry { outcome: Outcome::Rejected, evidence: Evidence::Itself, status_code: 503, ..was.entry.clone() };
            assert_same(is, &rejected);
            assert!(is.position > last && positions.insert(is.position), "it has changed, which its readers are told");
        } else {
            assert_eq!((was.position, format!("{was:?}")), (is.position, format!("{is:?}")));
        }
    }
    store.reject(&ids, 504).await.unwrap();
    assert_eq!(text(&all(&*store, &Filter::default()).await), text(&after), "an outcome moves once");
}

/// Entries in which every filter has something to find and something to leave out; the same at every run.
fn mixture() -> Vec<RedactedEntry> {
    let mut seed = 1_u64;
    let mut draw = |from: usize| {
        // Knuth's linear congruential generator; its upper bits are the good ones.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % from
    };
    let outcomes = [
        (Outcome::Unconfirmed, Evidence::Nothing),
        (Outcome::Confirmed, Evidence::Audit),
        (Outcome::Superseded, Evidence::Successor),
        (Outcome::Rejected, Evidence::Audit),
    ];
    let kinds = [("Deployment", "apps"), ("Deployment", "example.com"), ("DeploymentX", "apps"), ("Pod", "")];
    let one = |n: u64| {
        let (outcome, evidence) = outcomes[draw(outcomes.len())];
        let (kind, api_group) = kinds[draw(kinds.len())];
        sample(|e| {
            e.id = EntryId::at(noon() + TimeDelta::minutes(draw(5 * 24 * 60) as i64), n);
            e.user = ["al", "alice", "bob", "AL"][draw(4)].into();
            e.action = [Action::Create, Action::Update, Action::Delete][draw(3)];
            e.resource = Resource::new(kind, ["", "", "scale", "exec"][draw(4)]);
            e.api_group = api_group.into();
            e.resource_name = ["web", "web-1", "db"][draw(3)].into();
            e.cluster = ["local", "eu", ""][draw(3)].into();
            e.namespace = ["shop", "sho", ""][draw(3)].into();
            (e.outcome, e.evidence) = (outcome, evidence);
            let code = [200, 201, 399, 400, 403, 500][draw(6)];
            e.status_code = if outcome == Outcome::Rejected { code.max(400) } else { code };
        })
    };
    (0..600).map(one).collect()
}

/// What a filter means, without SQL.
fn is_found(filter: &Filter, entry: &Entry) -> bool {
    fn same<T: PartialEq>(asked: Option<&T>, is: &T) -> bool {
        asked.is_none_or(|asked| asked == is)
    }
    let text = |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|asked| storable(asked) == storable(is));
    let resource = |asked: &ResourceFilter| {
        asked.kind == entry.resource.kind()
            && text(&asked.group, &entry.api_group)
            && asked.subresource.as_deref().is_none_or(|asked| asked == entry.resource.subresource())
    };
    let time = entry.id.timestamp();
    text(&filter.user, &entry.user)
        && same(filter.action.as_ref(), &entry.action)
        && filter.resource.as_ref().is_none_or(resource)
        && text(&filter.cluster, &entry.cluster)
        && text(&filter.namespace, &entry.namespace)
        && text(&filter.name, &entry.resource_name)
        && filter.from.is_none_or(|from| time >= from)
        && filter.to.is_none_or(|to| time < to)
        && filter.status.is_none_or(|status| (status == Status::Failure) == (entry.status_code >= 400))
        && filter.outcome.map_or(entry.outcome != Outcome::Superseded, |outcome| entry.outcome == outcome)
}

fn filters() -> Vec<Filter> {
    let values = [
        ("user", ["al", "alice", "nobody"]),
        ("action", ["create", "update", "delete"]),
        ("resource", ["Deployment", "Deployment.apps/scale", "Pod."]),
        ("cluster", ["local", "eu", "mars"]),
        ("namespace", ["shop", "sho", "none"]),
        ("name", ["web", "web-1", "we"]),
        ("from", ["2026-03-02", "2026-03-04T00:00", "2030-01-01"]),
        ("to", ["2026-03-05", "2026-03-03T07:08:09.010Z", "2020-01-01"]),
        ("status", ["success", "failure", "success"]),
        ("outcome", ["confirmed", "superseded", "rejected"]),
    ];
    let set = |pairs: &[(&str, &str)]| {
        let mut filter = Filter::default();
        for (parameter, value) in pairs {
            filter.set(parameter, value).unwrap();
        }
        filter
    };
    let singles = values.iter().flat_map(|(parameter, values)| values.map(|value| set(&[(*parameter, value)])));
    let pairs = values.iter().enumerate().flat_map(|(n, (a, of_a))| {
        values[n + 1..].iter().map(move |(b, of_b)| set(&[(*a, of_a[n % 2]), (*b, of_b[0])]))
    });
    let most = set(&values.map(|(parameter, values)| (parameter, values[0])));
    [Filter::default(), most].into_iter().chain(singles).chain(pairs).collect()
}

async fn every_filter_finds_what_it_says_and_nothing_else(store: Arc<dyn Store>) {
    let entries = mixture();
    store.write(&entries).await.unwrap();
    for filter in filters() {
        let matching: Vec<_> = entries.iter().filter(|entry| is_found(&filter, entry)).cloned().collect();
        let expected = newest_first(&matching);
        assert_eq!(ids(&all(&*store, &filter).await), expected, "{filter:?}");
        let paged = walk(&*store, &filter, 37).await;
        assert_eq!(ids(&paged), expected, "in pages, {filter:?}");
    }
}

/// All pages from the newest to the oldest.
async fn walk(store: &dyn Store, filter: &Filter, entries: usize) -> Vec<StoredEntry> {
    let mut query = EntryQuery { filter: filter.clone(), limit: limit(entries), cursor: None };
    let mut walked = Vec::new();
    loop {
        let page = store.page(&EVERYTHING, &query).await.unwrap();
        assert!(page.entries.len() <= entries);
        walked.extend(page.entries);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return walked,
        }
    }
}

async fn a_filter_matches_exactly_and_has_no_wildcards(store: Arc<dyn Store>) {
    let names = ["al", "alice", "a%", "a_", "a\\", "a\\%", "%", "_", "", "'", "\"", "' OR 1=1 --", "a'b", "$1", "?"];
    let batch: Vec<_> = names
        .iter()
        .zip(0..)
        .map(|(name, n)| {
            sample(|e| {
                e.id = EntryId::at(noon(), n);
                (e.user, e.resource_name, e.namespace) = ((*name).into(), (*name).into(), (*name).into());
                (e.cluster, e.resource) = ((*name).into(), Resource::new(&format!("K{name}"), ""));
            })
        })
        .collect();
    store.write(&batch).await.unwrap();
    for (name, entry) in names.iter().zip(&batch) {
        let text = Some((*name).to_owned());
        let kind = ResourceFilter { kind: format!("K{name}"), group: None, subresource: None };
        for filter in [
            Filter { user: text.clone(), ..Filter::default() },
            Filter { name: text.clone(), ..Filter::default() },
            Filter { namespace: text.clone(), ..Filter::default() },
            Filter { cluster: text.clone(), ..Filter::default() },
            Filter { resource: Some(kind), ..Filter::default() },
        ] {
            assert_eq!(ids(&all(&*store, &filter).await), [entry.id], "{filter:?}");
        }
    }
}

async fn long_texts_are_stored_and_found_in_whole(store: Arc<dyn Store>) {
    // 253 is the longest name of most objects. A user's name and a ClusterRole's have no bound; and what cannot be
    // compressed is what an index cannot take.
    let noise = |seed: u64, chars: usize| {
        let mut state = seed;
        let mut letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + ((state >> 33) % 26) as u8)
        };
        (0..chars).map(|_| letter()).collect::<String>()
    };
    let shared = noise(1, 8_000);
    let texts = [
        noise(2, 253),
        noise(3, 255),
        noise(4, 256),
        noise(4, 257),
        "é".repeat(256),
        "é".repeat(257),
        format!("{shared}x"),
        format!("{shared}y"),
        shared,
    ];
    let of = |text: &str, n: u64| {
        sample(|e| {
            e.id = EntryId::at(noon(), n);
            (e.user, e.resource_name, e.namespace) = (text.into(), text.into(), text.into());
            e.resource = Resource::new(text, "scale");
        })
    };
    let batch: Vec<_> = texts.iter().zip(0..).map(|(text, n)| of(text, n)).collect();
    store.write(&batch).await.unwrap();
    for (text, written) in texts.iter().zip(&batch) {
        let some = || Some(text.clone());
        let kind = ResourceFilter { kind: text.clone(), group: None, subresource: None };
        for filter in [
            Filter { user: some(), ..Filter::default() },
            Filter { name: some(), ..Filter::default() },
            Filter { namespace: some(), ..Filter::default() },
            Filter { resource: Some(kind), ..Filter::default() },
        ] {
            let found = all(&*store, &filter).await;
            assert_eq!(ids(&found), [written.id], "{} characters", text.chars().count());
            assert_same(&found[0], written);
        }
    }
}

async fn text_of_any_script_and_nul_is_stored_and_found(store: Arc<dyn Store>) {
    let texts = ["Ünïcödé", "中文", "👩‍💻", "e\u{301}", "\u{e9}", "\u{202e}abc", "\u{feff}", "tab\there\n", "a\0b", " "];
    let of = |text: &str, n: u64| {
        sample(|e| {
            e.id = EntryId::at(noon(), n);
            (e.user, e.real_user, e.user_agent) = (text.into(), text.into(), text.into());
        })
    };
    let batch: Vec<_> = texts.iter().zip(0..).map(|(text, n)| of(text, n)).collect();
    store.write(&batch).await.unwrap();
    for (text, written) in texts.iter().zip(&batch) {
        let found = all(&*store, &Filter { user: Some((*text).to_owned()), ..Filter::default() }).await;
        assert_eq!(ids(&found), [written.id], "{text:?}");
        for stored in [&found[0].user, &found[0].real_user, &found[0].user_agent] {
            assert_eq!(*stored, storable(text));
        }
    }
}

async fn a_detail_nested_deeply_reads_back(store: Arc<dyn Store>) {
    // As deep as the API server accepts.
    const LEVELS: usize = 8_000;
    let nested = format!(r#"{{"after":{}{}}}"#, "[".repeat(LEVELS), "]".repeat(LEVELS));
    let deep = sample(|e| e.detail = DetailJson::parse(nested.clone()).unwrap());
    store.write(std::slice::from_ref(&deep)).await.unwrap();
    let read = store.entry(&EVERYTHING, deep.id).await.unwrap().unwrap();
    assert_eq!(read.detail.as_str().replace(' ', ""), nested);
}

async fn time_filters_cut_at_the_millisecond(store: Arc<dyn Store>) {
    let at = |micros: i64, n: u64| sample(|e| e.id = EntryId::at(noon() + TimeDelta::microseconds(micros), n));
    let (before, first, last, after) = (at(-1, u64::MAX), at(0, 0), at(999, u64::MAX), at(1_000, 0));
    store.write(&[before.clone(), first.clone(), last.clone(), after.clone()]).await.unwrap();
    let half = TimeDelta::microseconds(500);
    let cases = [
        ("from is inclusive", Some(noon()), None, vec![after.id, last.id, first.id]),
        ("to is exclusive", None, Some(noon()), vec![before.id]),
        ("an entry's time is its whole millisecond", Some(noon() + half), None, vec![after.id]),
        ("also at the end", None, Some(noon() + half), vec![last.id, first.id, before.id]),
        ("one millisecond", Some(noon()), Some(noon() + TimeDelta::milliseconds(1)), vec![last.id, first.id]),
        ("none", Some(noon()), Some(noon()), vec![]),
        ("since before time began", Some(DateTime::<Utc>::MIN_UTC), None, vec![after.id, last.id, first.id, before.id]),
    ];
    for (name, from, to, expected) in cases {
        assert_eq!(ids(&all(&*store, &Filter { from, to, ..Filter::default() }).await), expected, "{name}");
    }
}

async fn superseded_entries_show_only_where_they_are_asked_for(store: Arc<dyn Store>) {
    let hidden = sample(|e| (e.outcome, e.evidence) = (Outcome::Superseded, Evidence::Successor));
    let shown = sample(|e| e.id = EntryId::at(noon(), 1));
    store.write(&[hidden.clone(), shown.clone()]).await.unwrap();
    assert_eq!(ids(&all(&*store, &Filter::default()).await), [shown.id]);
    let asked = Filter { outcome: Some(Outcome::Superseded), ..Filter::default() };
    assert_eq!(ids(&all(&*store, &asked).await), [hidden.id]);
    assert!(store.entry(&EVERYTHING, hidden.id).await.unwrap().is_some(), "by its id it is found");
}

async fn a_page_walk_under_a_writer_never_repeats_and_never_skips(store: Arc<dyn Store>) {
    let there = plain(300);
    store.write(&there).await.unwrap();
    // Before, between and after what is there: events come late.
    let writer = async {
        for n in 0..40_i64 {
            let at = |millis: i64| sample(|e| e.id = EntryId::at(noon() + TimeDelta::milliseconds(millis), 1 << 40));
            store.write(&[at(-n - 1), at(n * 7), at(1_000 + n)]).await.unwrap();
        }
    };
    let reader = async {
        let mut query = EntryQuery { limit: limit(7), ..EntryQuery::default() };
        let mut walked = Vec::new();
        while let Some(next) = visit(&*store, &mut query, &mut walked).await.next {
            query.cursor = Some(next);
        }
        let down = walked.split_off(0);
        query.cursor = down.last().map(|id| Cursor { direction: Direction::Newer, id: *id });
        loop {
            let page = store.page(&EVERYTHING, &query).await.unwrap();
            walked.extend(ids(page.entries.iter().rev()));
            match page.prev {
                Some(prev) => query.cursor = Some(prev),
                None => break,
            }
        }
        (down, walked)
    };
    let ((), (down, up)) = join(writer, reader).await;
    let there: BTreeSet<_> = ids(&there).into_iter().collect();
    assert!(down.is_sorted_by(|a, b| a > b), "newest first, each once");
    assert!(up.is_sorted_by(|a, b| a < b), "backwards, each once");
    let seen = |walked: &[EntryId]| walked.iter().filter(|id| there.contains(id)).count();
    assert_eq!(seen(&down), there.len(), "none skipped");
    let last = usize::from(down.last().is_some_and(|id| there.contains(id)));
    assert_eq!(seen(&up), there.len() - last, "none skipped on the way back, which begins after the last");
}

async fn visit(store: &dyn Store, query: &mut EntryQuery, walked: &mut Vec<EntryId>) -> domain::query::Page {
    let page = store.page(&EVERYTHING, query).await.unwrap();
    walked.extend(ids(&page.entries));
    page
}

/// Of light ones among them too: what a page holds must not be guessed from those before.
async fn heavy_entries_are_walked_in_short_pages_both_ways_and_streamed_whole(store: Arc<dyn Store>) {
    const HEAVY: usize = 1024 * 1024;
    let detail = |n: u64| {
        let summary = "x".repeat(if n % 100 < 70 { 10 } else { HEAVY });
        DetailJson::parse(format!(r#"{{"summary":"{summary}"}}"#)).unwrap()
    };
    let entries: Vec<_> = plain(200)
        .iter()
        .zip(0..)
        .map(|(entry, n)| RedactedEntry::sample(Entry { detail: detail(n), ..(**entry).clone() }))
        .collect();
    for some in entries.chunks(25) {
        store.write(some).await.unwrap();
    }
    let newest_first = newest_first(&entries);
    for entries in [51, 500] {
        let walk = async |mut cursor, forward: bool| {
            let mut walked = Vec::new();
            loop {
                let query = EntryQuery { cursor, limit: limit(entries), ..EntryQuery::default() };
                let page = store.page(&EVERYTHING, &query).await.unwrap();
                let bytes: usize = page.entries.iter().map(|entry| entry.weight()).sum();
                assert!(
                    !page.entries.is_empty() && bytes <= 16 * HEAVY,
                    "{} entries of {bytes} bytes",
                    page.entries.len()
                );
                walked.push(ids(&page.entries));
                cursor = if forward { page.next } else { page.prev };
                if cursor.is_none() {
                    return walked;
                }
            }
        };
        let older = walk(None, true).await;
        assert!(older.len() > 4, "{}", older.len());
        assert_eq!(older.concat(), newest_first);
        let end = Some(Cursor { direction: Direction::Newer, id: EntryId::floor(noon() - TimeDelta::days(1)) });
        let newer: Vec<_> = walk(end, false).await.into_iter().rev().collect();
        assert_eq!(newer.concat(), newest_first);
    }
    assert_eq!(ids(&all(&*store, &Filter::default()).await), newest_first);
}

async fn a_page_walk_goes_on_over_a_purged_cursor(store: Arc<dyn Store>) {
    let entries = plain(10);
    store.write(&entries).await.unwrap();
    let cut = entries[5].id;
    purge(&*store, &before(cut)).await;
    let gone = entries[2].id;
    let from = |direction| EntryQuery { cursor: Some(Cursor { direction, id: gone }), ..EntryQuery::default() };
    let newer = store.page(&EVERYTHING, &from(Direction::Newer)).await.unwrap();
    assert_eq!(ids(&newer.entries), newest_first(&entries[5..]));
    let older = store.page(&EVERYTHING, &from(Direction::Older)).await.unwrap();
    assert_eq!((older.entries.len(), older.next), (0, None));
}

async fn a_reader_of_positions_never_misses_an_entry(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const BATCHES: u64 = 12;
    const EACH: u64 = 5;
    let write = |writer: u64| {
        let store = &store;
        async move {
            for batch in 0..BATCHES {
                // Ids that are in no order of arrival.
                let entries: Vec<_> = (0..EACH)
                    .map(|n| {
                        let number = (writer * BATCHES + batch) * EACH + n;
                        let time = noon() + TimeDelta::minutes((number * 7_919 % 5_000) as i64);
                        sample(|e| e.id = EntryId::at(time, number))
                    })
                    .collect();
                store.write(&entries).await.unwrap();
            }
        }
    };
    let total = (WRITERS * BATCHES * EACH) as usize;
    let query = EntryQuery { limit: limit(500), ..EntryQuery::default() };
    let reader = async {
        let mut seen: BTreeMap<i64, EntryId> = BTreeMap::new();
        while seen.len() < total {
            // One statement, so one moment.
            let page = store.page(&EVERYTHING, &query).await.unwrap();
            let up_to = seen.last_key_value().map_or(i64::MIN, |(position, _)| *position);
            for entry in &page.entries {
                let known = seen.get(&entry.position) == Some(&entry.id);
                assert!(known || entry.position > up_to, "{} appears after {up_to} was seen", entry.position);
            }
            seen.extend(page.entries.iter().map(|entry| (entry.position, entry.id)));
        }
        seen
    };
    let (_, seen) = join(join_all((0..WRITERS).map(write)), reader).await;
    assert_eq!(seen.into_values().collect::<HashSet<_>>().len(), total, "a position is given once");
}

async fn thousands_in_a_batch_are_each_stored_once_and_streamed_in_order(store: Arc<dyn Store>) {
    let batch = plain(5_000);
    store.write(&batch).await.unwrap();
    let streamed = all(&*store, &Filter::default()).await;
    assert_eq!(ids(&streamed), newest_first(&batch));
    let positions: BTreeSet<_> = streamed.iter().map(|entry| entry.position).collect();
    assert_eq!(positions.len(), batch.len());
    assert_eq!(ids(&walk(&*store, &Filter::default(), 500).await), ids(&streamed), "streaming equals paging");
}

async fn the_cursor_key_stays(store: Arc<dyn Store>) {
    let cursor = Cursor { direction: Direction::Older, id: EntryId::at(noon(), 1) };
    let text = cursor.seal(&store.cursor_key().await.unwrap());
    store.migrate().await.unwrap();
    assert_eq!(Cursor::open(&text, &store.cursor_key().await.unwrap()), Ok(cursor));
    assert!(Cursor::open(&text, &CursorKey::new([0; 32])).is_err(), "the key is not empty");
}

async fn migrating_and_preparing_again_changes_nothing(store: Arc<dyn Store>) {
    let batch = plain(10);
    store.prepare(noon()).await.unwrap();
    store.write(&batch).await.unwrap();
    for _ in 0..2 {
        store.migrate().await.unwrap();
        store.prepare(noon()).await.unwrap();
        store.check().await.unwrap();
    }
    assert_eq!(ids(&all(&*store, &Filter::default()).await), newest_first(&batch));
}

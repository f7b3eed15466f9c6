//! Inference against an API server of the imagination that knows what it did: parallel attempts, retries, refusals by others,
//! slow requests, writes of nothing, writes of the same, deletions in steps, names taken again, writes that nobody is shown,
//! an upgrade, clocks that differ, entries that come late.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::entry::{Prior, Resource};
use crate::finding::Finding;

const NAMES: [&str; 2] = ["a", "b"];

/// What is drawn: what to do, to which object, with what, and how long after the one before.
type Draw = (u8, u8, u8, u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    value: u8,
    replicas: u8,
    finalizer: bool,
}

#[derive(Clone, Debug)]
struct Object {
    uid: String,
    version: u64,
    content: Content,
    terminating: bool,
    written: DateTime<Utc>,
    manager: u8,
    created: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Main,
    Beta,
    Scale,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Content(Content, Way),
    Delete { graceful: bool },
}

/// An attempt that was admitted, and is carried out later.
struct Pending {
    id: EntryId,
    name: usize,
    found: Option<Object>,
    change: Change,
    uid: String,
    due: DateTime<Utc>,
    written: DateTime<Utc>,
    removes_only: bool,
}

struct World {
    now: DateTime<Utc>,
    ahead: TimeDelta,
    version: u64,
    uids: u64,
    salt: i64,
    objects: [Vec<Option<Object>>; 2],
    since: [Vec<DateTime<Utc>>; 2],
    pending: Vec<Pending>,
    /// Whether it came about.
    truth: BTreeMap<EntryId, bool>,
    /// Not yet told: when, and what.
    queue: Vec<(DateTime<Utc>, usize, Link)>,
    chains: [Chain; 2],
    lead: Lead,
    /// Since when, by version, contents were changed with nobody looking: (name, version).
    hidden: Vec<(usize, u64)>,
    position: i64,
    settled: BTreeMap<EntryId, Finding>,
    told: u64,
}

impl World {
    fn new(ahead: i64) -> Self {
        Self {
            now: "2026-03-01T12:00:00.250Z".parse().unwrap(),
            ahead: TimeDelta::milliseconds(ahead),
            version: 10,
            uids: 0,
            salt: 0,
            objects: [vec![None], vec![None]],
            since: Default::default(),
            pending: Vec::new(),
            truth: BTreeMap::new(),
            queue: Vec::new(),
            chains: [Chain::default(), Chain::default()],
            lead: Lead::default(),
            hidden: Vec::new(),
            position: 0,
            settled: BTreeMap::new(),
            told: 0,
        }
    }

    fn live(&self, name: usize) -> Option<Object> {
        self.objects[name].last().cloned().flatten()
    }

    fn server_time(&self) -> DateTime<Utc> {
        let at = self.now + self.ahead;
        DateTime::from_timestamp(at.timestamp(), 0).unwrap()
    }

    fn hash(&self, content: Content, way: Way) -> ObjectHash {
        let Content { value, replicas, finalizer } = content;
        ObjectHash(match way {
            Way::Scale => 1_000_000 + i64::from(replicas),
            Way::Main => {
                self.salt * 10_000_000 + i64::from(value) * 100 + i64::from(replicas) * 10 + i64::from(finalizer)
            }
            Way::Beta => {
                self.salt * 10_000_000
                    + 2_000_000
                    + i64::from(value) * 100
                    + i64::from(replicas) * 10
                    + i64::from(finalizer)
            }
        })
    }

    fn prior(&self, object: &Object, way: Way) -> Prior {
        let whole = way != Way::Scale;
        Prior {
            resource_version: object.version.to_string(),
            created: object.created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            terminating: object.terminating && whole,
            manager: if whole { object.manager.to_string() } else { String::new() },
            written: if whole {
                object.written.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            } else {
                String::new()
            },
        }
    }

    /// Somebody tries, and the webhook is shown it.
    fn attempt(
        &mut self,
        name: usize,
        found: Option<Object>,
        change: Change,
        dials: (bool, TimeDelta, TimeDelta, bool),
    ) {
        let (refused, slow, late, removes_only) = dials;
        self.position += 1;
        let id = EntryId::at(self.now, u64::try_from(self.position).unwrap());
        let (action, way, after) = match (&found, change) {
            (None, Change::Content(content, way)) => (Action::Create, way, Some(self.hash(content, way))),
            (Some(_), Change::Content(content, way)) => (Action::Update, way, Some(self.hash(content, way))),
            (_, Change::Delete { .. }) => (Action::Delete, Way::Main, None),
        };
        let uid = found.as_ref().map_or_else(
            || {
                self.uids += 1;
                format!("u{}", self.uids)
            },
            |found| found.uid.clone(),
        );
        let link = Link {
            id,
            position: self.position,
            action,
            resource: Resource::new("Thing", if way == Way::Scale { "scale" } else { "" }),
            api_group: String::new(),
            namespace: "shop".to_owned(),
            resource_name: NAMES[name].to_owned(),
            object_uid: uid.clone(),
            before: found.as_ref().map(|found| self.hash(found.content, way)),
            after,
            outcome: Outcome::Unconfirmed,
            evidence: Evidence::Nothing,
            source: Source::Admission,
            policy: "built-in".to_owned(),
            version: if way == Way::Beta { "v1beta1" } else { "v1" }.to_owned(),
            prior: found.as_ref().map(|found| self.prior(found, way)),
        };
        // An update that changes nothing is no entry, as a rule; here it is one.
        self.queue.push((self.now + late, name, link));
        self.truth.insert(id, false);
        if !refused {
            let (due, written) = (self.now + slow, self.server_time());
            self.pending.push(Pending { id, name, found, change, uid, due, written, removes_only });
        }
        self.carry_out();
    }

    fn push(&mut self, name: usize, object: Option<Object>) {
        self.objects[name].push(object);
        self.since[name].push(self.now);
    }

    fn carry_out(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_by_key(|pending| pending.due);
        for pending in pending {
            if pending.due > self.now {
                self.pending.push(pending);
                continue;
            }
            let live = self.live(pending.name);
            let done = match (&pending.found, &live) {
                (None, None) => true,
                (Some(found), Some(live)) => found.uid == live.uid && found.version == live.version,
                _ => false,
            };
            if !done {
                continue;
            }
            self.truth.insert(pending.id, true);
            let written = (!pending.removes_only).then_some(pending.written);
            self.apply(pending.name, pending.change, &pending.uid, written, 1);
        }
    }

    fn apply(&mut self, name: usize, change: Change, uid: &str, written: Option<DateTime<Utc>>, manager: u8) {
        let live = self.live(name);
        let mut next = live.clone().unwrap_or_else(|| Object {
            uid: uid.to_owned(),
            version: 0,
            content: Content { value: 0, replicas: 0, finalizer: false },
            terminating: false,
            written: self.server_time(),
            manager,
            created: self.server_time(),
        });
        match change {
            Change::Content(content, way) => {
                let mut content = content;
                if way == Way::Scale {
                    content = Content { replicas: content.replicas, ..next.content };
                }
                if live.is_some() && next.content == content {
                    return;
                }
                next.content = content;
                if let Some(written) = written {
                    (next.written, next.manager) = (written, manager);
                }
                if next.terminating && !content.finalizer {
                    self.version += 1;
                    self.push(name, None);
                    return;
                }
            }
            Change::Delete { graceful } => {
                if next.terminating && (graceful || next.content.finalizer) {
                    return;
                }
                if next.terminating || !(graceful || next.content.finalizer) {
                    self.version += 1;
                    self.push(name, None);
                    return;
                }
                next.terminating = true;
            }
        }
        self.version += 1;
        next.version = self.version;
        self.push(name, Some(next));
    }

    /// Something changes, and nobody is shown it.
    fn hide(&mut self, name: usize, change: Change, removes_only: bool) {
        let before = self.live(name);
        if before.is_none() {
            return;
        }
        let written = (!removes_only).then(|| self.server_time());
        self.apply(name, change, "", written, 2);
        self.hidden.push((name, self.version));
    }

    fn pass(&mut self, millis: i64) {
        let until = self.now + TimeDelta::milliseconds(millis);
        while let Some(due) = self.pending.iter().map(|pending| pending.due).filter(|due| *due <= until).min() {
            self.now = self.now.max(due);
            self.carry_out();
        }
        self.now = until;
    }

    /// The program takes up what has come, and tells what it can.
    fn tell(&mut self, look: bool) {
        let (come, waiting) = std::mem::take(&mut self.queue).into_iter().partition(|(at, ..)| *at <= self.now);
        self.queue = waiting;
        let come: Vec<(DateTime<Utc>, usize, Link)> = come;
        for (_, name, link) in come {
            self.chains[name].learn(link, &mut self.lead);
        }
        for name in 0..NAMES.len() {
            if look {
                for tail in self.chains[name].tails(self.now) {
                    let saw = match self.live(name) {
                        None => Saw::Gone,
                        Some(object) => {
                            let way = match (tail.view.subresource(), tail.view.version.as_str()) {
                                ("scale", _) => Way::Scale,
                                (_, "v1") => Way::Main,
                                _ => Way::Beta,
                            };
                            let hash = Some(self.hash(object.content, way));
                            Saw::Object(Sight { uid: object.uid.clone(), hash, prior: self.prior(&object, way) })
                        }
                    };
                    self.chains[name].looked(self.now, tail.view, saw);
                }
            }
            for finding in self.chains[name].infer(self.now, self.lead) {
                let truth = self.truth[&finding.id];
                let told = finding.outcome == Outcome::Confirmed;
                assert_eq!(told, truth, "{finding:?} of{}", shown(&self.chains[name]));
                let mut link = self.chains[name].link(finding.id).unwrap().clone();
                assert_eq!(link.outcome, Outcome::Unconfirmed, "told twice");
                (link.outcome, link.evidence) = (finding.outcome, finding.evidence);
                self.position += 1;
                link.position = self.position;
                self.chains[name].learn(link, &mut self.lead);
                self.settled.insert(finding.id, finding);
            }
            for unseen in self.chains[name].unseen(self.now, TimeDelta::seconds(30), self.lead) {
                let version = |id| replaced(self.chains[name].link(id).unwrap()).unwrap_or(0);
                let (from, to) = (version(unseen.after), version(unseen.found_by));
                let was_hidden = self.hidden.iter().any(|(at, version)| *at == name && (from..=to).contains(version));
                match unseen.grounds {
                    Grounds::Said => {
                        assert!(was_hidden, "invented: {unseen:?} of{}", shown(&self.chains[name]));
                        self.told += 1;
                    }
                    Grounds::Other => {}
                }
            }
        }
    }

    /// The API server says what came of one attempt.
    fn audit(&mut self, name: usize, nth: u8) {
        let unconfirmed: Vec<_> = self.chains[name]
            .links
            .values()
            .filter(|link| {
                link.outcome == Outcome::Unconfirmed && !self.pending.iter().any(|pending| pending.id == link.id)
            })
            .cloned()
            .collect();
        let Some(mut link) = unconfirmed.get(usize::from(nth) % unconfirmed.len().max(1)).cloned() else { return };
        link.outcome = if self.truth[&link.id] { Outcome::Confirmed } else { Outcome::Rejected };
        link.evidence = Evidence::Audit;
        self.position += 1;
        link.position = self.position;
        self.chains[name].learn(link, &mut self.lead);
    }

    fn step(&mut self, (what, name, first, second, gap): Draw, kind: &Kind) {
        let name = usize::from(name) % NAMES.len();
        self.pass(match gap % 8 {
            0..=3 => i64::from(gap),
            4 => 400,
            5 => 2_500,
            6 => 7_000,
            _ => 45_000,
        });
        let live = self.live(name);
        let content = Content { value: first % 3, replicas: (first / 3) % 3, finalizer: first % 16 == 15 };
        let refused = second % 5 == 4;
        let slow = TimeDelta::milliseconds(if second % 11 == 10 { i64::from(second) * 120 } else { 0 });
        let late = TimeDelta::milliseconds(i64::from(second) * 7);
        let dials = (refused, slow, late, second % 7 == 6);
        match what % 18 {
            0..=1 => self.attempt(name, None, Change::Content(content, Way::Main), dials),
            2..=5 => {
                if let Some(found) = live {
                    let kept = Content { finalizer: found.content.finalizer, ..content };
                    self.attempt(name, Some(found), Change::Content(kept, Way::Main), dials);
                }
            }
            // Many at once, who try again until they are through.
            6..=7 => {
                let Some(found) = live else { return };
                for n in 0..4 {
                    let content = Content { value: (first.wrapping_add(n)) % 5, ..found.content };
                    let refused = dials.0 && n == 0;
                    self.attempt(
                        name,
                        Some(found.clone()),
                        Change::Content(content, Way::Main),
                        (refused, slow, late, dials.3),
                    );
                    self.pass(1);
                    let Some(again) = self.live(name) else { return };
                    if again.version != found.version && again.uid == found.uid {
                        let content = Content { value: content.value, ..again.content };
                        self.attempt(
                            name,
                            Some(again),
                            Change::Content(content, Way::Main),
                            (refused, slow, late, dials.3),
                        );
                    }
                }
            }
            8 => {
                if let Some(found) = live {
                    let scaled = Content { replicas: second % 3, ..found.content };
                    self.attempt(name, Some(found), Change::Content(scaled, Way::Scale), dials);
                }
            }
            9 => {
                if let Some(found) = live {
                    self.attempt(name, Some(found), Change::Content(content, Way::Beta), dials);
                }
            }
            10..=11 => {
                if let Some(found) = live {
                    self.attempt(name, Some(found), Change::Delete { graceful: first % 3 == 0 }, dials);
                }
            }
            // A reader whose copy is old, by seconds.
            12 => {
                let fresh = |since: &&DateTime<Utc>| self.now - **since < TimeDelta::seconds(5);
                let behind = self.since[name].iter().rev().take_while(fresh).count() + 1;
                let old: Vec<_> = self.objects[name].iter().rev().take(behind).rev().flatten().cloned().collect();
                if let Some(found) = old.iter().rev().nth(usize::from(first) % 3).cloned() {
                    let kept = Content { finalizer: found.content.finalizer, ..content };
                    self.attempt(name, Some(found), Change::Content(kept, Way::Main), dials);
                }
            }
            // A status: another version and nothing else.
            13 => {
                if let Some(Some(object)) = self.objects[name].last().cloned() {
                    self.version += 1;
                    self.push(name, Some(Object { version: self.version, ..object }));
                }
            }
            14 if kind.hides => {
                // Of what it would be a coincidence with, nothing is under way any more.
                self.pass(55_000);
                let removes_only = first % 4 == 0;
                // Who only takes away does not make again what was.
                let fresh = Content { value: 10 + u8::try_from(self.hidden.len()).unwrap(), ..content };
                self.hide(name, Change::Content(if removes_only { fresh } else { content }, Way::Main), removes_only);
                self.pass(55_000);
            }
            15 if kind.hides => {
                self.pass(55_000);
                self.hide(name, Change::Delete { graceful: first % 2 == 0 }, true);
                self.pass(55_000);
            }
            16 if kind.upgrades => self.salt += 1,
            17 if kind.audits => self.audit(name, first),
            17 if first % 2 == 0 => self.chains[name].forget_oldest(),
            _ => self.tell(first % 3 > 0),
        }
        if second % 3 == 0 {
            self.tell(first % 2 == 0);
        }
    }

    fn finish(&mut self) {
        for seconds in [3, 3, 6, 10, 25, 45, 100] {
            self.pass(seconds * 1_000);
            self.tell(true);
        }
    }
}

/// A chain in lines that are read when it was told wrongly.
fn shown(chain: &Chain) -> String {
    let link = |link: &Link| {
        let hash = |hash: Option<ObjectHash>| hash.map_or(String::from("-"), |hash| hash.0.to_string());
        let prior = link.prior.clone().unwrap_or_default();
        format!(
            "\n{} {:.3} {} {} {} {} at {}{}: {} > {}, {} {}, written {} by {}",
            link.id,
            link.id.timestamp().timestamp_millis() % 1_000_000,
            link.action,
            link.resource,
            link.version,
            link.object_uid,
            prior.resource_version,
            if prior.terminating { " terminating" } else { "" },
            hash(link.before),
            hash(link.after),
            link.outcome,
            link.evidence,
            prior.written,
            prior.manager,
        )
    };
    let looks = chain.looks.iter().map(|look| format!("\n{look:?}"));
    chain.links.values().map(link).chain(looks).collect()
}

struct Kind {
    hides: bool,
    upgrades: bool,
    audits: bool,
}

fn draws(length: usize) -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>()), 1..length)
}

/// Of those that came about, how many were confirmed; of those that did not, how many rejected.
fn never_wrong(kind: &Kind, cases: u32) -> (f64, f64) {
    let counts = Cell::new((0, 0, 0, 0));
    let unseen = Cell::new((0, 0));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let run = runner.run(&(draws(50), -60_000_i64..60_000), |(draws, ahead)| {
        let mut world = World::new(ahead);
        for draw in draws {
            world.step(draw, kind);
        }
        world.finish();
        let (mut came, mut confirmed, mut refused, mut rejected) = counts.get();
        for (id, truth) in &world.truth {
            let told = world.settled.contains_key(id);
            if *truth {
                (came, confirmed) = (came + 1, confirmed + u32::from(told));
            } else {
                (refused, rejected) = (refused + 1, rejected + u32::from(told));
            }
        }
        counts.set((came, confirmed, refused, rejected));
        let (hidden, told) = unseen.get();
        unseen.set((hidden + world.hidden.len(), told + world.told));
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
    let (came, confirmed, refused, rejected) = counts.get();
    println!(
        "{confirmed} of {came} that came about confirmed, {rejected} of {refused} others rejected; {:?} hidden and told",
        unseen.get()
    );
    (f64::from(confirmed) / f64::from(came), f64::from(rejected) / f64::from(refused))
}

/// Each takes a millisecond. A hundred times as many found nothing either.
const CASES: u32 = 1_000;

#[test]
fn where_all_is_seen_nothing_is_told_wrongly_and_most_is_told() {
    let (confirmed, rejected) = never_wrong(&Kind { hides: false, upgrades: false, audits: false }, CASES);
    assert!(confirmed > 0.6 && rejected > 0.5, "{confirmed} and {rejected}");
}

#[test]
fn where_writes_are_hidden_nothing_is_told_wrongly_and_no_write_is_invented() {
    never_wrong(&Kind { hides: true, upgrades: true, audits: false }, CASES);
}

#[test]
fn where_the_api_server_tells_of_some_nothing_is_told_wrongly_of_others() {
    never_wrong(&Kind { hides: true, upgrades: false, audits: true }, CASES);
}

//! What came of writes, told from the states of their objects alone: pure, and nothing but what the links say.
//!
//! A write replaces the one version that it was shown, so of all attempts at a version at most one came about, and what a
//! later look shows of the object some write has made. Two looks at one *view* of an object (its resource, subresource and
//! version of the API), with no look between them, say what came of the attempts at the first: [`infer`]. A state that
//! nobody was seen to make is a write that was not seen: [`unseen`].
//!
//! What cannot be told is not told. The one thing that is taken on trust: that a write which nobody saw did not, within
//! [`COINCIDENCE_MAX`] of a refused one that we saw, make to the last bit what that one would have made.

mod infer;
mod sight;
#[cfg(test)]
mod tests;
mod unseen;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::entry::{Action, Evidence, ObjectHash, Outcome, Source};
use crate::finding::{Finding, Link};
use crate::id::EntryId;

pub use self::sight::Sight;
pub use self::unseen::{Grounds, Unseen};

/// What is known of an object may still lie in another replica's queue, which is written twice a second. Nothing is inferred
/// from what is younger.
pub const SETTLED_AFTER: TimeDelta = TimeDelta::seconds(2);
/// An API server gives a request 34 s from when it came; two seconds more for the clocks of replicas, and some.
pub const REQUEST_MAX: TimeDelta = TimeDelta::seconds(40);
/// See the module.
const COINCIDENCE_MAX: TimeDelta = TimeDelta::seconds(10);
/// The same where an object does not say when it was written: that it is gone, or its scale.
const UNTIMED_COINCIDENCE_MAX: TimeDelta = TimeDelta::seconds(20);
/// No further than this an API server's clock is behind ours.
const CLOCKS_MAX: TimeDelta = TimeDelta::seconds(60);
/// By how much more than this the API server's clock runs ahead of ours is not believed: anybody may write what it is read
/// from.
const LEAD_MAX: TimeDelta = TimeDelta::seconds(120);
/// Of one object. The oldest go first, and what they were needed for is not inferred.
const LINKS_MAX: usize = 512;
const LOOKS_MAX: usize = 16;
/// The ages at which an attempt that nothing has come of is looked after, in seconds.
const LOOKED_AFTER: [i64; 5] = [3, 10, 42, 120, 300];

/// By how much the API server's clock is ahead of ours, as far as objects have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// By objects that were created before our eyes: what they say of when, nobody else can write. The furthest ahead, of
    /// several API servers.
    measured: Option<TimeDelta>,
    /// At least, by objects that were written later than they were shown to us.
    at_least: TimeDelta,
}

impl Lead {
    fn learn(&mut self, link: &Link, created: Option<&Link>) {
        let Some(prior) = &link.prior else { return };
        if let (Some(create), Some(at)) = (created, time(&prior.created)) {
            let lead = at - create.id.timestamp();
            self.measured = Some(self.measured.map_or(lead, |measured| measured.max(lead)));
        }
        let ahead = time(&prior.written).map(|written| written - link.id.timestamp());
        if let Some(ahead) = ahead.filter(|ahead| *ahead <= LEAD_MAX) {
            self.at_least = self.at_least.max(ahead);
        }
    }

    /// As far as it can be had.
    fn likely(self) -> TimeDelta {
        self.measured.unwrap_or(self.at_least)
    }
}

/// All that is remembered of the objects that have had one name.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    links: BTreeMap<EntryId, Link>,
    looks: Vec<Look>,
    /// Of what was to replace this version, or an older one, not all is known.
    forgotten: Option<u64>,
    /// The links before which a write went unseen, as was told already.
    told: BTreeSet<EntryId>,
}

/// A look at the object by ourselves, by one view.
#[derive(Clone, Debug)]
struct Look {
    at: DateTime<Utc>,
    view: View,
    saw: Saw,
}

/// What a look at an object came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saw {
    /// There is no object of that name.
    Gone,
    Object(Sight),
    /// It was not allowed, or not answered: tells nothing.
    Nothing,
}

/// How an object is written and shown: hashes compare within one view only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// The kind, with its subresource.
    pub resource: String,
    pub version: String,
}

/// An attempt that nothing has come of yet, and how to look after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The newest such attempt by its view.
    pub id: EntryId,
    pub view: View,
}

impl Chain {
    /// Takes up what a store tells; the same link again with what has become known of it.
    pub fn learn(&mut self, link: Link, lead: &mut Lead) {
        let creates = |other: &&Link| other.action == Action::Create && other.object_uid == link.object_uid;
        lead.learn(&link, self.links.values().filter(|link| is_attempt(link)).find(creates));
        if self.links.get(&link.id).is_none_or(|known| known.position <= link.position) {
            self.links.insert(link.id, link);
        }
        while self.links.len() > LINKS_MAX {
            self.forget_oldest();
        }
    }

    /// Older links than these were not read: the oldest may have rivals among them.
    pub fn older_are_not_known(&mut self) {
        for _ in 0..LINKS_MAX / 16 {
            self.forget_oldest();
        }
        self.forgotten = self.forgotten.max(self.links.values().next().and_then(replaced));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, link)) = self.links.pop_first() {
            self.forgotten = self.forgotten.max(Some(replaced(&link).unwrap_or(0)));
        }
    }

    pub fn len(&self) -> usize {
        self.links.len()
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// What was found is kept by the store now, which will tell so, too.
    pub fn settled(&mut self, finding: &Finding) {
        if let Some(link) = self.links.get_mut(&finding.id) {
            (link.outcome, link.evidence) = (finding.outcome, finding.evidence);
        }
    }

    pub fn looked(&mut self, at: DateTime<Utc>, view: View, saw: Saw) {
        self.looks.push(Look { at, view, saw });
        if self.looks.len() > LOOKS_MAX {
            self.looks.remove(0);
        }
    }

    pub fn link(&self, id: EntryId) -> Option<&Link> {
        self.links.get(&id)
    }

    /// What is worth looking after now, newest first.
    pub fn tails(&self, now: DateTime<Utc>) -> Vec<Tail> {
        let mut tails: Vec<Tail> = Vec::new();
        for link in self.ends() {
            let view = View::of(link);
            if !tails.iter().any(|tail| tail.view == view) && self.is_due(link, &view, now) {
                tails.push(Tail { id: link.id, view });
            }
        }
        tails
    }

    /// Whether looks are still to come after some attempt.
    pub fn is_open(&self, now: DateTime<Utc>) -> bool {
        let last = TimeDelta::seconds(LOOKED_AFTER.iter().copied().max().unwrap_or_default());
        self.ends().iter().any(|link| now - link.id.timestamp() <= last + REQUEST_MAX)
    }

    /// Attempts that nothing has come of, newest first, but for those of which somebody else has seen what followed: a look
    /// shows nothing more of it.
    fn ends(&self) -> Vec<&Link> {
        let place = |link: &Link| (link.object_uid.clone(), View::of(link));
        let mut furthest = BTreeMap::new();
        for link in self.links.values().filter(|link| is_attempt(link)) {
            let version = furthest.entry(place(link)).or_insert(None);
            *version = replaced(link).max(*version);
        }
        let unsettled = self
            .links
            .values()
            .rev()
            .filter(|link| link.outcome == Outcome::Unconfirmed && is_attempt(link) && changes(link));
        unsettled.filter(|link| furthest.get(&place(link)).is_none_or(|version| *version <= replaced(link))).collect()
    }

    fn is_due(&self, link: &Link, view: &View, now: DateTime<Utc>) -> bool {
        let made = link.id.timestamp();
        let passed = LOOKED_AFTER.iter().map(|age| made + TimeDelta::seconds(*age)).filter(|due| *due <= now).max();
        passed.is_some_and(|due| !self.looks.iter().any(|look| look.view == *view && look.at >= due))
    }
}

impl View {
    pub fn of(link: &Link) -> Self {
        Self { resource: link.resource.as_str().to_owned(), version: link.version.clone() }
    }

    pub fn subresource(&self) -> &str {
        self.resource.split_once('/').map_or("", |(_, subresource)| subresource)
    }
}

/// Whether a link tells anything of its object's chain: a terminal's, or a login, does not.
pub fn is_of_a_chain(link: &Link) -> bool {
    matches!(link.action, Action::Create | Action::Update | Action::Delete) && link.source != Source::Panel
}

/// A write as admission saw it, of an object that has a name of its own in time.
fn is_attempt(link: &Link) -> bool {
    link.source == Source::Admission
        && !link.object_uid.is_empty()
        && match link.action {
            Action::Create => link.resource.subresource().is_empty(),
            Action::Update | Action::Delete => link.prior.is_some(),
            _ => false,
        }
}

/// The version that it would replace; none of what is created.
fn replaced(link: &Link) -> Option<u64> {
    link.prior.as_ref().and_then(|prior| prior.resource_version.parse().ok())
}

fn is_terminating(link: &Link) -> bool {
    link.prior.as_ref().is_some_and(|prior| prior.terminating)
}

/// Whether it can have come about only by making another version. An update that changes nothing succeeds without, and so
/// does the deletion of what is being deleted.
fn changes(link: &Link) -> bool {
    match link.action {
        Action::Create => true,
        Action::Update => matches!((link.before, link.after), (Some(before), Some(after)) if before != after),
        // Of what is being deleted it may be the last step, so it is worth a look; it has no rivals.
        Action::Delete => true,
        _ => false,
    }
}

/// Of those at one version at most one has come about.
fn is_rival(link: &Link) -> bool {
    link.action != Action::Create && changes(link) && !(link.action == Action::Delete && is_terminating(link))
}

/// An instant as the API server writes it.
fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// One version of an object as it was shown.
#[derive(Clone, Debug)]
struct State {
    hash: Option<ObjectHash>,
    written: Option<DateTime<Utc>>,
    manager: String,
    /// By our clock, and the first time.
    at: DateTime<Utc>,
    by: Evidence,
    /// The first link that showed it; none where only we looked.
    link: Option<EntryId>,
}

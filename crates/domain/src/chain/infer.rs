//! From the looks at an object to what came of its attempts.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::{
    CLOCKS_MAX, COINCIDENCE_MAX, Chain, Lead, REQUEST_MAX, SETTLED_AFTER, Saw, Sight, State, UNTIMED_COINCIDENCE_MAX,
    View, changes, is_attempt, is_rival, is_terminating, replaced, time,
};
use crate::entry::{Action, Evidence, Outcome};
use crate::finding::{Finding, Link, REJECTED_UNSEEN};
use crate::id::EntryId;

/// Each pass narrows down what the next one can tell; what is left is told the next time.
const PASSES_MAX: usize = 16;

/// All objects of one name, by uid.
pub(super) struct Life<'c> {
    pub(super) uid: &'c str,
    pub(super) attempts: Vec<&'c Link>,
    /// By view, then by version; what was created is version 0.
    pub(super) views: BTreeMap<View, BTreeMap<u64, State>>,
    /// Every version that was shown, by whichever view.
    versions: BTreeMap<u64, Version>,
}

impl Chain {
    /// What can be told of attempts that nothing is known of.
    pub fn infer(&self, now: DateTime<Utc>, lead: Lead) -> Vec<Finding> {
        let mut found: BTreeMap<EntryId, Finding> = BTreeMap::new();
        let lives = self.lives(now, true);
        for _ in 0..PASSES_MAX {
            let before = found.len();
            for life in &lives {
                let mut pass = Pass { chain: self, life, now, lead, found: &mut found };
                pass.creations();
                pass.chains();
                pass.endings();
                pass.standstill();
                pass.rivals();
            }
            if found.len() == before {
                break;
            }
        }
        found.into_values().collect()
    }

    /// Those of which one version was shown as two are left out: a database of the API server's that was restored.
    pub(super) fn lives(&self, now: DateTime<Utc>, with_looks: bool) -> Vec<Life<'_>> {
        let settled = now - SETTLED_AFTER;
        let uids: BTreeSet<&str> =
            self.links.values().filter(|link| is_attempt(link)).map(|link| link.object_uid.as_str()).collect();
        let life = |uid| {
            let attempts: Vec<_> =
                self.links.values().filter(|link| is_attempt(link) && link.object_uid == uid).collect();
            let mut life = Life { uid, attempts, views: BTreeMap::new(), versions: BTreeMap::new() };
            let mut agrees = true;
            for link in life.attempts.clone().into_iter().filter(|link| link.id.timestamp() <= settled) {
                let version = match link.action {
                    Action::Create => Some(0),
                    _ => replaced(link),
                };
                let Some(version) = version else { continue };
                let prior = link.prior.as_ref();
                let state = State {
                    hash: if link.action == Action::Create { link.after } else { link.before },
                    written: prior.and_then(|prior| time(&prior.written)),
                    manager: prior.map_or_else(String::new, |prior| prior.manager.clone()),
                    at: link.id.timestamp(),
                    by: Evidence::Successor,
                    link: Some(link.id),
                };
                agrees &= life.shown(View::of(link), version, is_terminating(link), state);
            }
            let looks = self.looks.iter().filter(|look| with_looks && look.at <= settled);
            for look in looks {
                let Saw::Object(sight) = &look.saw else { continue };
                let Some(version) = version(sight) else { continue };
                if sight.uid != uid {
                    continue;
                }
                let state = State {
                    hash: sight.hash,
                    written: time(&sight.prior.written),
                    manager: sight.prior.manager.clone(),
                    at: look.at,
                    by: Evidence::Probe,
                    link: None,
                };
                agrees &= life.shown(look.view.clone(), version, sight.prior.terminating, state);
            }
            agrees.then_some(life)
        };
        uids.into_iter().filter_map(life).collect()
    }
}

impl Life<'_> {
    /// Whether it fits what was shown of the same version before.
    fn shown(&mut self, view: View, version: u64, terminating: bool, state: State) -> bool {
        let mut agrees = true;
        if version > 0 {
            let terminating = (view.subresource() != "scale").then_some(terminating);
            let shown = Version { terminating, at: state.at, by: state.by };
            let known = self.versions.entry(version).or_insert(shown);
            agrees &= known.terminating.is_none() || terminating.is_none() || known.terminating == terminating;
            known.terminating = known.terminating.or(terminating);
        }
        let known = self.views.entry(view).or_default().entry(version).or_insert_with(|| state.clone());
        agrees &= match (known.hash, state.hash) {
            (Some(known), Some(shown)) => known == shown,
            _ => true,
        };
        if known.hash.is_none() {
            known.hash = state.hash;
        }
        agrees
    }
}

/// What all views agree on.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// Whether it was being deleted; a scale does not tell.
    terminating: Option<bool>,
    /// When it was first seen, and how.
    at: DateTime<Utc>,
    by: Evidence,
}

impl Version {
    fn is_alive(self) -> bool {
        self.terminating == Some(false)
    }
}

struct Pass<'p, 'c> {
    chain: &'c Chain,
    life: &'p Life<'c>,
    now: DateTime<Utc>,
    lead: Lead,
    found: &'p mut BTreeMap<EntryId, Finding>,
}

impl<'c> Pass<'_, 'c> {
    fn outcome(&self, link: &Link) -> Outcome {
        self.found.get(&link.id).map_or(link.outcome, |finding| finding.outcome)
    }

    /// As far as is known.
    fn is_possible(&self, link: &Link) -> bool {
        matches!(self.outcome(link), Outcome::Unconfirmed | Outcome::Confirmed)
    }

    fn confirm(&mut self, link: &Link, by: Evidence) {
        if self.outcome(link) == Outcome::Unconfirmed {
            self.found.insert(link.id, Finding::confirmed(link.id, by));
        }
    }

    fn reject(&mut self, link: &Link, by: Evidence) {
        if self.outcome(link) == Outcome::Unconfirmed {
            self.found.insert(link.id, Finding::rejected(link.id, by, REJECTED_UNSEEN));
        }
    }

    fn possible(&self) -> Vec<&'c Link> {
        self.life.attempts.iter().copied().filter(|link| self.is_possible(link)).collect()
    }

    /// Nobody can be shown what was not created; and a name that is taken is not given again.
    fn creations(&mut self) {
        let created: Vec<_> = self.life.attempts.iter().copied().filter(|link| link.action == Action::Create).collect();
        let [create] = created[..] else { return };
        if let Some(shown) = self.life.versions.values().next() {
            self.confirm(create, shown.by);
            return;
        }
        let made = create.id.timestamp();
        let taken = self.chain.looks.iter().any(|look| match &look.saw {
            Saw::Object(other) if other.uid != create.object_uid && look.at >= made + REQUEST_MAX => {
                let seen_before = |link: &Link| {
                    link.object_uid == other.uid
                        && replaced(link).is_some()
                        && link.id.timestamp() + SETTLED_AFTER < made
                };
                time(&other.prior.created).is_some_and(|created| created + CLOCKS_MAX < made)
                    || self.chain.links.values().any(seen_before)
            }
            _ => false,
        });
        if taken {
            self.reject(create, Evidence::Probe);
        }
    }

    /// Two looks at a view, one after the other, and the attempts at the first.
    fn chains(&mut self) {
        let life = self.life;
        for (view, states) in &life.views {
            for ((version, first), (next, second)) in states.iter().zip(states.iter().skip(1)) {
                let (Some(was), Some(is)) = (first.hash, second.hash) else { continue };
                if Some(*version) <= self.chain.forgotten || self.is_opaque(view, *version, *next) {
                    continue;
                }
                let at_first: Vec<_> = self
                    .possible()
                    .into_iter()
                    .filter(|link| replaced(link) == Some(*version) && is_rival(link))
                    .collect();
                let makes =
                    |link: &&&Link| link.action == Action::Update && View::of(link) == *view && link.after == Some(is);
                let makers: Vec<_> = at_first.iter().filter(makes).copied().collect();
                if was == is {
                    for link in at_first.into_iter().filter(|link| link.action == Action::Update) {
                        if is_untouched(first, second, link, self.lead) {
                            self.reject(link, second.by);
                        }
                    }
                } else if !makers.is_empty() && makers.iter().all(|link| is_in_time(first, second, link, self.lead)) {
                    if let [maker] = makers[..] {
                        self.confirm(maker, second.by);
                    }
                    for other in at_first.into_iter().filter(|link| !makers.iter().any(|maker| maker.id == link.id)) {
                        self.reject(other, second.by);
                    }
                }
            }
        }
    }

    /// Whether something may have changed the object between two versions of which this view shows nothing.
    fn is_opaque(&self, view: &View, from: u64, to: u64) -> bool {
        self.life.attempts.iter().any(|link| {
            link.action == Action::Update
                && replaced(link).is_some_and(|at| (from..to).contains(&at))
                && self.is_possible(link)
                && match (link.before, link.after) {
                    (Some(before), Some(after)) => View::of(link) != *view && before != after,
                    _ => true,
                }
        })
    }

    /// Deletions: what is not being deleted afterwards was not deleted, and what is was by somebody.
    fn endings(&mut self) {
        let deletes = |link: &&Link| link.action == Action::Delete && link.resource.subresource().is_empty();
        let possible: Vec<_> = self.possible().into_iter().filter(deletes).collect();
        for delete in possible.iter().copied().filter(|link| !is_terminating(link)) {
            let Some(at) = replaced(delete).filter(|at| Some(*at) > self.chain.forgotten) else { continue };
            let mut later = self.life.versions.range(at + 1..).map(|(_, version)| *version);
            if let Some(alive) = later.clone().find(|version| version.is_alive()) {
                self.reject(delete, alive.by);
                continue;
            }
            let ended = later.find(|version| version.terminating == Some(true)).map(|version| (version.at, version.by));
            let ended = ended.or_else(|| self.gone_after(delete, at));
            let Some((since, by)) = ended else { continue };
            let sole = possible.iter().all(|other| {
                other.id == delete.id || is_terminating(other) || !self.is_possible(other) || self.is_undone(other)
            });
            if sole && !self.is_evicted(delete, since) && since - delete.id.timestamp() <= UNTIMED_COINCIDENCE_MAX {
                self.confirm(delete, by);
            }
        }
        self.last_steps(&possible);
    }

    /// The deletion of what was being deleted already may be the last step, or nothing.
    fn last_steps(&mut self, possible: &[&'c Link]) {
        let last = self.life.versions.last_key_value().filter(|(version, _)| Some(**version) > self.chain.forgotten);
        let Some((last, _)) = last else { return };
        let at_last: Vec<_> =
            self.possible().into_iter().filter(|link| replaced(link) == Some(*last) && changes(link)).collect();
        let [step] = at_last[..] else { return };
        if !is_terminating(step) || !possible.iter().any(|delete| delete.id == step.id) {
            return;
        }
        if let Some((since, by)) = self.gone_after(step, *last)
            && since - step.id.timestamp() <= UNTIMED_COINCIDENCE_MAX
        {
            self.confirm(step, by);
        }
    }

    /// Was alive in a version that it would have replaced.
    fn is_undone(&self, delete: &Link) -> bool {
        replaced(delete).is_some_and(|at| self.life.versions.range(at + 1..).any(|(_, version)| version.is_alive()))
    }

    /// Since when an object is known to be gone that this attempt was shown, and how.
    fn gone_after(&self, attempt: &Link, at: u64) -> Option<(DateTime<Utc>, Evidence)> {
        let settled = self.now - SETTLED_AFTER;
        let looks = self.chain.looks.iter().filter(|look| look.at > attempt.id.timestamp() && look.at <= settled);
        let gone = looks.filter(|look| match &look.saw {
            Saw::Gone => true,
            Saw::Object(sight) => sight.uid != self.life.uid && version(sight).is_some_and(|other| other > at),
            Saw::Nothing => false,
        });
        let others = self.chain.links.values().filter(|link| {
            is_attempt(link)
                && link.object_uid != self.life.uid
                && link.id.timestamp() <= settled
                && replaced(link).is_some_and(|other| other > at)
        });
        let gone = gone.map(|look| (look.at, Evidence::Probe));
        gone.chain(others.map(|link| (link.id.timestamp(), Evidence::Successor))).min_by_key(|(since, _)| *since)
    }

    /// An eviction deletes, too, and is shown to nobody as a deletion.
    fn is_evicted(&self, delete: &Link, until: DateTime<Utc>) -> bool {
        self.chain.links.values().any(|link| {
            link.resource.subresource() == "eviction"
                && link.id.timestamp() <= until
                && link.id.timestamp() + REQUEST_MAX >= delete.id.timestamp()
                && self.is_possible(link)
        })
    }

    /// What a version was to be replaced by did not come about where it is still there once no request can be under way.
    fn standstill(&mut self) {
        for look in &self.chain.looks {
            let Saw::Object(sight) = &look.saw else { continue };
            let Some(version) = version(sight) else { continue };
            if sight.uid != self.life.uid {
                continue;
            }
            for link in self.possible() {
                let was_at = replaced(link) == Some(version) && is_rival(link);
                if was_at && look.at >= link.id.timestamp() + REQUEST_MAX {
                    self.reject(link, Evidence::Probe);
                }
            }
        }
    }

    /// Of all attempts at a version at most one has come about.
    fn rivals(&mut self) {
        let mut confirmed: BTreeMap<u64, Vec<&Link>> = BTreeMap::new();
        for link in self.life.attempts.iter().copied().filter(|link| is_rival(link)) {
            if let Some(at) = replaced(link).filter(|_| self.outcome(link) == Outcome::Confirmed) {
                confirmed.entry(at).or_default().push(link);
            }
        }
        for (at, winners) in confirmed {
            let [winner] = winners[..] else { continue };
            let by = self.found.get(&winner.id).map_or(Evidence::Successor, |finding| finding.evidence);
            for link in self.possible() {
                if link.id != winner.id && replaced(link) == Some(at) && is_rival(link) {
                    self.reject(link, by);
                }
            }
        }
    }
}

fn version(sight: &Sight) -> Option<u64> {
    sight.prior.resource_version.parse().ok()
}

/// Whether what is shown may be as this attempt made it: nobody says to have written it since, nor instead of it.
fn is_in_time(first: &State, second: &State, attempt: &Link, lead: Lead) -> bool {
    let made = attempt.id.timestamp();
    let Some(written) = second.written else { return second.at <= made + UNTIMED_COINCIDENCE_MAX };
    // Who only takes away leaves the time as it was.
    let instead =
        first.written != second.written && lead.measured.is_some_and(|lead| written < made + lead - COINCIDENCE_MAX);
    written <= made + lead.likely() + COINCIDENCE_MAX && !instead
}

/// Whether the object says of itself that nobody wrote it from before this attempt until after it.
fn is_untouched(first: &State, second: &State, attempt: &Link, lead: Lead) -> bool {
    let (Some(before), Some(after), Some(lead)) = (first.written, second.written, lead.measured) else { return false };
    // To the second, as the API server writes it.
    let long_before = before + SETTLED_AFTER < attempt.id.timestamp() + lead;
    before == after && first.manager == second.manager && long_before
}

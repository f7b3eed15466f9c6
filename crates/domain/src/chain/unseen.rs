//! Writes that nobody saw: a state of an object that no attempt was to make.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;

use super::infer::Life;
use super::{Chain, Lead, State, View, is_attempt, replaced, time};
use crate::entry::{Action, Detail, Entry, Evidence, ObjectHash, Outcome, RedactedEntry, Source};
use crate::finding::Link;
use crate::id::EntryId;

/// The API server tells seconds, and takes the time of a write some moments before we are shown it.
const MARGIN: TimeDelta = TimeDelta::seconds(2);
/// What is told of an object without the version that it found, may have changed it from this long before on.
const UNTIED: TimeDelta = TimeDelta::seconds(60);

/// A write that was not seen, between two that were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Of the link that found its traces.
    pub found_by: EntryId,
    /// Of the last link before it.
    pub after: EntryId,
    pub was: ObjectHash,
    pub is: ObjectHash,
    pub manager: String,
    pub written: String,
    pub grounds: Grounds,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// The object itself says that it was written since the last write that was seen.
    Said,
    /// It is another, and does not say since when: it may be shown otherwise than before, by an API server of another
    /// version say.
    Other,
}

impl Chain {
    /// What went unseen before links that are older than `wait`, each once.
    pub fn unseen(&mut self, now: DateTime<Utc>, wait: TimeDelta, lead: Lead) -> Vec<Unseen> {
        let mut all = Vec::new();
        for life in self.lives(now, false) {
            for (view, states) in life.views.iter().filter(|(view, _)| view.subresource().is_empty()) {
                let known = states.iter().filter(|(version, _)| Some(**version) > self.forgotten);
                for ((from, first), (to, second)) in known.clone().zip(known.skip(1)) {
                    if second.at <= now - wait && !self.told.contains(&second.link.unwrap_or(EntryId::floor(now))) {
                        all.extend(self.between(&life, view, (*from, first), (*to, second), lead));
                    }
                }
            }
        }
        let known: BTreeSet<_> = self.links.keys().copied().collect();
        self.told.retain(|id| known.contains(id));
        self.told.extend(all.iter().map(|unseen| unseen.found_by));
        all
    }

    fn between(
        &self,
        life: &Life<'_>,
        view: &View,
        (from, first): (u64, &State),
        (to, second): (u64, &State),
        lead: Lead,
    ) -> Option<Unseen> {
        let (was, is) = (first.hash?, second.hash?);
        let (after, found_by) = (first.link?, second.link?);
        let within = |link: &Link| replaced(link).is_some_and(|at| (from..to).contains(&at));
        let explains = |link: &Link| {
            within(link)
                && match link.action {
                    // Its finalizers are added by the API server.
                    Action::Delete => is_possible(link),
                    _ => {
                        let changes = link.before.is_none() || link.after.is_none() || link.before != link.after;
                        link.after.is_none()
                            || link.after == Some(is)
                            || (View::of(link) != *view && changes && is_possible(link))
                    }
                }
        };
        // Of these it is not known which version they found.
        let untied = |link: &Link| {
            let since = link.id.timestamp() + UNTIED;
            !is_attempt(link)
                && link.source != Source::Chain
                && !matches!(link.action, Action::Start | Action::End)
                && since >= first.at
                && link.id.timestamp() <= second.at + UNTIED
        };
        if was == is || life.attempts.iter().any(|link| explains(link)) || self.links.values().any(untied) {
            return None;
        }
        let prior = self.links.get(&found_by)?.prior.as_ref()?;
        let earlier = |link: &&&Link| is_possible(link) && replaced(link).is_none_or(|at| at < to);
        let last = life.attempts.iter().filter(earlier).map(|link| link.id.timestamp()).max();
        let last = last.max(Some(first.at))?;
        let says = second.written.zip(lead.measured).is_some_and(|(written, lead)| written > last + lead + MARGIN);
        Some(Unseen {
            found_by,
            after,
            was,
            is,
            manager: prior.manager.clone(),
            written: prior.written.clone(),
            grounds: if says { Grounds::Said } else { Grounds::Other },
        })
    }
}

impl Unseen {
    /// The entry that tells of it, made alike by every replica: by its id it is written once.
    pub fn entry(&self, found_by: &Link, cluster: &str) -> RedactedEntry {
        let at = found_by.id.timestamp();
        let id = EntryId::derived(at, &[b"unseen write before ", found_by.id.as_uuid().as_bytes()]);
        let before = at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let by = if self.manager.is_empty() { String::new() } else { format!(" by {}", self.manager) };
        let when = time(&self.written).map(|_| format!(" at {}", self.written)).unwrap_or_default();
        let hint = if by.is_empty() && when.is_empty() {
            String::new()
        } else {
            format!("; last written{by}{when}, as the object says")
        };
        let detail = Detail {
            summary: format!("changed unseen before {before}{hint}"),
            omitted: Some("no webhook was shown this write; what follows it has another object before it".to_owned()),
            system: Some(json!({
                "seen": false, "manager": self.manager, "written": self.written,
                "after": self.after.to_string(), "before": self.found_by.to_string(),
            })),
            ..Detail::default()
        };
        RedactedEntry::vouch_for(Entry {
            resource_name: found_by.resource_name.clone(),
            cluster: cluster.to_owned(),
            namespace: found_by.namespace.clone(),
            outcome: Outcome::Confirmed,
            evidence: Evidence::Successor,
            source: Source::Chain,
            api_group: found_by.api_group.clone(),
            object_uid: found_by.object_uid.clone(),
            before_hash: Some(self.was),
            after_hash: Some(self.is),
            policy: found_by.policy.clone(),
            ..Entry::bare(id, Action::Update, found_by.resource.clone(), &detail)
        })
    }
}

fn is_possible(link: &Link) -> bool {
    matches!(link.outcome, Outcome::Unconfirmed | Outcome::Confirmed)
}

//! The chains of objects that are remembered: as many links as there is room for, those that were touched longest ago go first.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::chain::{Chain, Lead, Saw, Tail, View};
use domain::finding::{Finding, Link};
use domain::{EntryId, Evidence, Outcome};
use store::ObjectRef;

/// Of all objects together: some 50 MiB.
const LINKS_MAX: usize = 60_000;

/// An object by its name, whatever its uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) api_group: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn of(link: &Link) -> Self {
        Self {
            api_group: link.api_group.clone(),
            kind: link.resource.kind().to_owned(),
            namespace: link.namespace.clone(),
            name: link.resource_name.clone(),
        }
    }

    pub(super) fn object<'a>(&'a self, cluster: &'a str) -> ObjectRef<'a> {
        ObjectRef {
            cluster,
            api_group: &self.api_group,
            kind: &self.kind,
            namespace: &self.namespace,
            name: &self.name,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) chain: Chain,
    /// When something of it was last learnt.
    pub(super) changed: DateTime<Utc>,
    /// Whether all that followed from that was told.
    pub(super) inferred: bool,
    touched: u64,
}

/// Whether an object is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Fully,
    /// It is not, and the link needs no more to be told of it.
    Settled,
    Not,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) objects: HashMap<Key, Held>,
    by_touch: BTreeMap<u64, Key>,
    touches: u64,
    links: usize,
    lead: Lead,
    /// Objects in which a look may be due.
    open: HashSet<Key>,
    /// Objects that were looked at since they were last asked for.
    looked: Vec<Key>,
}

impl Memory {
    pub(super) fn lead(&self) -> Lead {
        self.lead
    }

    pub(super) fn knows(&self, key: &Key, link: &Link) -> Known {
        if self.objects.contains_key(key) {
            return Known::Fully;
        }
        // Our own findings come back as links that have changed.
        match link.evidence {
            Evidence::Successor | Evidence::Probe | Evidence::Itself => Known::Settled,
            Evidence::Audit if link.outcome != Outcome::Confirmed => Known::Settled,
            Evidence::Audit | Evidence::Nothing => Known::Not,
        }
    }

    /// Begins with what went before the link that is learnt next.
    pub(super) fn begin(&mut self, key: &Key, earlier: Vec<Link>, is_all: bool) {
        let mut held = Held::default();
        for link in earlier {
            held.chain.learn(link, &mut self.lead);
        }
        if !is_all {
            held.chain.older_are_not_known();
        }
        self.links += held.chain.len();
        self.objects.insert(key.clone(), held);
        self.touch(key);
    }

    pub(super) fn learn(&mut self, key: &Key, link: Link) {
        let Some(held) = self.objects.get_mut(key) else { return };
        let before = held.chain.len();
        held.changed = held.changed.max(link.id.timestamp());
        held.inferred = false;
        held.chain.learn(link, &mut self.lead);
        self.links = (self.links + held.chain.len()).saturating_sub(before);
        self.touch(key);
    }

    fn touch(&mut self, key: &Key) {
        self.touches += 1;
        self.open.insert(key.clone());
        if let Some(held) = self.objects.get_mut(key) {
            self.by_touch.remove(&held.touched);
            held.touched = self.touches;
            self.by_touch.insert(self.touches, key.clone());
        }
        while self.links > LINKS_MAX && self.objects.len() > 1 {
            let Some((_, oldest)) = self.by_touch.pop_first() else { break };
            if let Some(gone) = self.objects.remove(&oldest) {
                self.links = self.links.saturating_sub(gone.chain.len());
            }
        }
    }

    pub(super) fn settled(&mut self, key: &Key, finding: &Finding) {
        if let Some(held) = self.objects.get_mut(key) {
            held.chain.settled(finding);
        }
    }

    pub(super) fn is_to_be_inferred_again(&mut self, key: &Key, now: DateTime<Utc>) {
        if let Some(held) = self.objects.get_mut(key) {
            (held.changed, held.inferred) = (now, false);
        }
    }

    /// What is to be looked after now, newest first.
    pub(super) fn tails(&mut self, now: DateTime<Utc>) -> Vec<(Key, Tail)> {
        let objects = &self.objects;
        self.open.retain(|key| objects.get(key).is_some_and(|held| held.chain.is_open(now)));
        let of = |key: &Key| {
            let tails = objects.get(key).map(|held| held.chain.tails(now)).unwrap_or_default();
            tails.into_iter().map(|tail| (key.clone(), tail)).collect::<Vec<_>>()
        };
        let mut tails: Vec<_> = self.open.iter().flat_map(of).collect();
        tails.sort_by_key(|(_, tail)| std::cmp::Reverse(tail.id));
        tails
    }

    pub(super) fn link(&self, key: &Key, id: EntryId) -> Option<Link> {
        self.objects.get(key)?.chain.link(id).cloned()
    }

    pub(super) fn looked(&mut self, key: &Key, at: DateTime<Utc>, view: View, saw: Saw) {
        if let Some(held) = self.objects.get_mut(key) {
            held.chain.looked(at, view, saw);
            (held.changed, held.inferred) = (at, false);
            self.looked.push(key.clone());
        }
    }

    pub(super) fn take_looked(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.looked)
    }
}

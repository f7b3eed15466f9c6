//! What the program says of itself: entries with no object behind them, and so with nothing to redact.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::entry::{Action, Detail, Entry, Evidence, Outcome, RedactedEntry, Resource, Source};
use crate::id::EntryId;

/// The user of what the program does by itself.
pub const SELF: &str = "system:kubevision-audit";

/// Entries that should have been recorded between two instants and were not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub lost: u64,
    /// A clause: "the queue was full".
    pub reason: String,
}

pub fn gap(id: EntryId, gap: &Gap) -> RedactedEntry {
    let (from, to) = (rfc3339(gap.from), rfc3339(gap.to));
    let summary = format!("{} lost between {from} and {to}: {}", counted(gap.lost), gap.reason);
    let system = json!({ "from": from, "to": to, "lost": gap.lost, "reason": gap.reason });
    of_itself(id, Action::Gap, Detail { summary, system: Some(system), ..Detail::default() })
}

/// A purge, whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// All entries before this instant were to go, but for those of policies with a retention of their own. None where they
    /// are kept for ever.
    pub before: Option<DateTime<Utc>>,
    /// What went, by policy.
    pub by_policy: BTreeMap<String, Outlived>,
    /// How many days went as whole partitions.
    pub days: u32,
    /// `nightly` or `command`.
    pub trigger: &'static str,
    /// False where it was stopped: all entries that went were from before that instant, but not all of those went.
    pub finished: bool,
}

/// What went of one policy's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlived {
    /// All of them before this instant were to go.
    pub before: DateTime<Utc>,
    pub entries: u64,
}

pub fn purge(id: EntryId, purge: &Purge) -> RedactedEntry {
    let entries = purge.by_policy.values().map(|outlived| outlived.entries).sum();
    let alike = purge.by_policy.values().all(|outlived| Some(outlived.before) == purge.before);
    let before = purge.before.map(rfc3339);
    let which = match &before {
        Some(before) if alike => format!("from before {before}"),
        _ => "past their policies' retention".to_owned(),
    };
    let stopped = if purge.finished { "" } else { "; stopped before the rest" };
    let summary = format!("{} {which} purged{stopped}", counted(entries));
    let of_policy = |(policy, outlived): (&String, &Outlived)| {
        (policy.clone(), json!({ "before": rfc3339(outlived.before), "entries": outlived.entries }))
    };
    let policies: serde_json::Map<_, _> = purge.by_policy.iter().map(of_policy).collect();
    let system = json!({
        "before": before, "entries": entries, "policies": policies, "days": purge.days, "trigger": purge.trigger,
        "finished": purge.finished,
    });
    of_itself(id, Action::Purge, Detail { summary, system: Some(system), ..Detail::default() })
}

fn of_itself(id: EntryId, action: Action, detail: Detail) -> RedactedEntry {
    RedactedEntry::vouch_for(Entry {
        id,
        user: SELF.to_owned(),
        action,
        resource: Resource::new("AuditLog", ""),
        resource_name: String::new(),
        cluster: String::new(),
        namespace: String::new(),
        status_code: 200,
        detail: detail.to_json(),
        ip: String::new(),
        outcome: Outcome::Confirmed,
        evidence: Evidence::Itself,
        source: Source::Panel,
        audit_id: String::new(),
        real_user: String::new(),
        user_agent: String::new(),
        api_group: String::new(),
        object_uid: String::new(),
        before_hash: None,
        after_hash: None,
        policy: String::new(),
    })
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn counted(entries: u64) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_says_how_many_when_and_why() {
        let at = "2026-03-01T02:00:00Z".parse().unwrap();
        let said = gap(EntryId::at(at, 0), &Gap { from: at, to: at, lost: 1, reason: "the queue was full".into() });
        let detail = said.detail.read().unwrap();
        let told = "1 entry lost between 2026-03-01T02:00:00.000Z and 2026-03-01T02:00:00.000Z: the queue was full";
        assert_eq!((said.action, detail.summary.as_str()), (Action::Gap, told));
        assert_eq!(detail.system.unwrap()["lost"], 1);
    }

    #[test]
    fn a_purge_says_how_many_went_and_by_which_retention() {
        let at: DateTime<Utc> = "2026-03-01T02:00:00Z".parse().unwrap();
        let of = |before, entries| Outlived { before, entries };
        let said = |by_policy: &[(&str, Outlived)]| {
            let by_policy = by_policy.iter().map(|(policy, outlived)| ((*policy).to_owned(), *outlived)).collect();
            let told = Purge { before: Some(at), by_policy, days: 0, trigger: "nightly", finished: true };
            purge(EntryId::at(at, 0), &told).detail.read().unwrap()
        };
        let alike = said(&[("built-in", of(at, 3)), ("", of(at, 1))]);
        assert_eq!(alike.summary, "4 entries from before 2026-03-01T02:00:00.000Z purged");
        let other = said(&[("built-in", of(at, 3)), ("pci", of(at - chrono::TimeDelta::days(1), 1))]);
        assert_eq!(other.summary, "4 entries past their policies' retention purged");
        let system = other.system.unwrap();
        assert_eq!(system["policies"]["pci"], json!({ "before": "2026-02-28T02:00:00.000Z", "entries": 1 }));
        assert_eq!(system["entries"], 4);
    }
}

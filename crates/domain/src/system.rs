//! What the program says of itself: entries with no object behind them, and so with nothing to redact.

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
    /// All entries before this instant were to go.
    pub before: DateTime<Utc>,
    pub entries: u64,
    /// How many days went as whole partitions.
    pub days: u32,
    /// `nightly` or `command`.
    pub trigger: &'static str,
    /// False where it was stopped: all entries that went were from before that instant, but not all of those went.
    pub finished: bool,
}

pub fn purge(id: EntryId, purge: &Purge) -> RedactedEntry {
    let before = rfc3339(purge.before);
    let stopped = if purge.finished { "" } else { "; stopped before the rest" };
    let summary = format!("{} from before {before} purged{stopped}", counted(purge.entries));
    let system = json!({
        "before": before, "entries": purge.entries, "days": purge.days, "trigger": purge.trigger,
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
}

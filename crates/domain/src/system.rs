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
    of_itself(id, Action::Gap, &Detail { summary, system: Some(system), ..Detail::default() })
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
    of_itself(id, Action::Purge, &Detail { summary, system: Some(system), ..Detail::default() })
}

/// Somebody has changed or deleted what makes the API server call us, and it was repaired. The API server shows such a
/// write to no webhook, so nobody saw who it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// Whose API server it is.
    pub cluster: String,
    pub kind: &'static str,
    pub name: String,
    pub api_group: &'static str,
    pub done: Tampered,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tampered {
    Changed {
        fields: Vec<&'static str>,
        /// The program that seems to have done it, by the name it gave itself; empty where none is known: who only takes
        /// away leaves no name.
        manager: String,
        /// While no process of ours looked: it may be the work of an installation that had another key.
        unwatched: bool,
    },
    Deleted,
}

pub fn tampering(id: EntryId, tampering: &Tampering) -> RedactedEntry {
    let (action, summary, system) = match &tampering.done {
        Tampered::Changed { fields, manager, unwatched } => {
            let by = if manager.is_empty() { String::new() } else { format!(" ({manager})") };
            let how = if *unwatched { "not as this installation left them" } else { "changed by hand" };
            let summary = format!("{} {how}{by}; repaired", fields.join(", "));
            (Action::Update, summary, json!({ "fields": fields, "manager": manager }))
        }
        Tampered::Deleted => {
            let summary = "deleted by hand; registered again".to_owned();
            (Action::Delete, summary, json!({ "fields": [], "manager": "" }))
        }
    };
    let mut entry = itself(id, action, &Detail { summary, system: Some(system), ..Detail::default() });
    entry.user = String::new();
    entry.resource = Resource::new(tampering.kind, "");
    entry.resource_name.clone_from(&tampering.name);
    entry.cluster.clone_from(&tampering.cluster);
    entry.api_group = tampering.api_group.to_owned();
    entry.source = Source::Watch;
    RedactedEntry::vouch_for(entry)
}

fn of_itself(id: EntryId, action: Action, detail: &Detail) -> RedactedEntry {
    RedactedEntry::vouch_for(itself(id, action, detail))
}

fn itself(id: EntryId, action: Action, detail: &Detail) -> Entry {
    Entry {
        user: SELF.to_owned(),
        outcome: Outcome::Confirmed,
        evidence: Evidence::Itself,
        source: Source::Panel,
        ..Entry::bare(id, action, Resource::new("AuditLog", ""), detail)
    }
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

    #[test]
    fn tampering_says_what_was_changed_and_by_what_and_never_who() {
        let told = |done| {
            let tampering = Tampering {
                cluster: "local".to_owned(),
                kind: "ValidatingWebhookConfiguration",
                name: "kubevision-audit".to_owned(),
                api_group: "admissionregistration.k8s.io",
                done,
            };
            let said = tampering_at(&tampering);
            assert_eq!((said.user.as_str(), said.resource_name.as_str()), ("", "kubevision-audit"));
            assert_eq!(
                (said.source, said.evidence, said.outcome),
                (Source::Watch, Evidence::Itself, Outcome::Confirmed)
            );
            (said.action, said.detail.read().unwrap())
        };
        let fields = vec!["clientConfig", "rules"];
        let changed = |manager: &str, unwatched| Tampered::Changed {
            fields: fields.clone(),
            manager: manager.to_owned(),
            unwatched,
        };
        let (action, detail) = told(changed("kubectl-edit", false));
        assert_eq!(action, Action::Update);
        assert_eq!(detail.summary, "clientConfig, rules changed by hand (kubectl-edit); repaired");
        assert_eq!(detail.system.unwrap(), json!({"fields": fields, "manager": "kubectl-edit"}));
        assert_eq!(told(changed("", false)).1.summary, "clientConfig, rules changed by hand; repaired");
        let (_, detail) = told(changed("helm", true));
        assert_eq!(detail.summary, "clientConfig, rules not as this installation left them (helm); repaired");
        let (action, detail) = told(Tampered::Deleted);
        assert_eq!((action, detail.summary.as_str()), (Action::Delete, "deleted by hand; registered again"));
    }

    fn tampering_at(said: &Tampering) -> RedactedEntry {
        tampering(EntryId::at("2026-03-01T02:00:00Z".parse().unwrap(), 0), said)
    }
}

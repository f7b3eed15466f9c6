//! What the log says of an object already. Pure: from its links, newest first.

use domain::entry::{Action, ObjectHash, Outcome};
use domain::finding::Link;
use domain::{EntryId, RedactedEntry};

/// Replicas' clocks, and the time between a request and what a watch shows of it.
const APART_MILLIS_MAX: i64 = 120_000;

/// What is to be said of an object that is there when somebody begins to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As the log has it, or the log has nothing of it.
    AsKnown,
    Changed {
        before: ObjectHash,
    },
    /// The log has it as gone.
    Created,
    /// The log knows another one of the same name.
    Replaced {
        before: Option<ObjectHash>,
        uid: String,
    },
}

pub(super) fn compare(links: &[Link], uid: &str, version: &str, now: Option<ObjectHash>) -> Verdict {
    for link in links.iter().filter(|link| is_own(link)) {
        if link.after == now && link.object_uid == uid {
            return Verdict::AsKnown;
        }
        // What is not known to have come about is no state to compare with.
        if link.outcome != Outcome::Confirmed {
            continue;
        }
        if link.action == Action::Delete {
            return Verdict::Created;
        }
        if !link.object_uid.is_empty() && link.object_uid != uid {
            return Verdict::Replaced { before: link.after, uid: link.object_uid.clone() };
        }
        // Hashes of another version of the API are no hashes of this one's objects.
        let comparable = link.version == version && now.is_some();
        return match link.after {
            Some(before) if comparable => Verdict::Changed { before },
            _ => Verdict::AsKnown,
        };
    }
    Verdict::AsKnown
}

/// The link that tells of the very change, made by another: a replica, or a webhook from the API server's disk. Each link
/// accounts for one change, so not for those that are `accounted` for.
pub(super) fn told_by(links: &[Link], entry: &RedactedEntry, accounted: impl Fn(EntryId) -> bool) -> Option<EntryId> {
    let apart = |link: &Link| (link.id.timestamp() - entry.id.timestamp()).num_milliseconds().abs();
    let states = (entry.before_hash, entry.after_hash);
    let same = |link: &&Link| {
        is_own(link)
            && link.action == entry.action
            && states != (None, None)
            && (link.before, link.after) == states
            && apart(link) <= APART_MILLIS_MAX
            && !accounted(link.id)
    };
    links.iter().filter(same).min_by_key(|link| apart(link)).map(|link| link.id)
}

/// Of the object itself, and of a write that may have come about.
fn is_own(link: &Link) -> bool {
    link.resource.subresource().is_empty() && !matches!(link.outcome, Outcome::Rejected | Outcome::Superseded)
}

#[cfg(test)]
mod tests {
    use domain::Resource;
    use domain::entry::{Entry, Evidence, Source};

    use super::*;

    fn link(action: Action, outcome: Outcome, before: Option<i64>, after: Option<i64>) -> Link {
        Link {
            id: EntryId::at(chrono::DateTime::UNIX_EPOCH, 0),
            position: 1,
            action,
            resource: Resource::new("ConfigMap", ""),
            api_group: String::new(),
            namespace: "audit".to_owned(),
            resource_name: "settings".to_owned(),
            object_uid: "u-1".to_owned(),
            before: before.map(ObjectHash),
            after: after.map(ObjectHash),
            outcome,
            evidence: Evidence::Probe,
            source: Source::Watch,
            policy: String::new(),
            version: "v1".to_owned(),
            prior: None,
        }
    }

    #[test]
    fn what_is_there_is_compared_with_the_last_that_came_about() {
        use Action::{Delete, Update};
        use Outcome::{Confirmed, Rejected, Unconfirmed};
        let updated = |outcome, after| link(Update, outcome, Some(1), Some(after));
        let deleted = || link(Delete, Confirmed, Some(1), None);
        let of = |mut link: Link, uid: &str, version: &str| {
            (link.object_uid, link.version) = (uid.to_owned(), version.to_owned());
            link
        };
        let changed = Verdict::Changed { before: ObjectHash(4) };
        let replaced = Verdict::Replaced { before: Some(ObjectHash(5)), uid: "u-0".to_owned() };
        let cases = [
            ("nothing known", vec![], Verdict::AsKnown),
            ("as recorded", vec![updated(Confirmed, 5)], Verdict::AsKnown),
            ("as somebody may have made it", vec![updated(Unconfirmed, 5), updated(Confirmed, 4)], Verdict::AsKnown),
            ("otherwise", vec![updated(Confirmed, 4)], changed.clone()),
            ("otherwise, after what was refused", vec![updated(Rejected, 5), updated(Confirmed, 4)], changed),
            ("gone before", vec![deleted(), updated(Confirmed, 5)], Verdict::Created),
            ("another one", vec![of(updated(Confirmed, 5), "u-0", "v1")], replaced),
            ("of another version", vec![of(updated(Confirmed, 4), "u-1", "v1beta1")], Verdict::AsKnown),
        ];
        for (case, links, expected) in cases {
            assert_eq!(compare(&links, "u-1", "v1", Some(ObjectHash(5))), expected, "{case}");
        }
        assert_eq!(compare(&[updated(Confirmed, 4)], "u-1", "v1", None), Verdict::AsKnown, "cannot be walked");
    }

    #[test]
    fn a_link_accounts_for_one_change_with_the_same_states_at_about_the_same_time() {
        let mut entry = Entry::sample(EntryId::at(chrono::DateTime::UNIX_EPOCH, 7));
        (entry.before_hash, entry.after_hash) = (Some(ObjectHash(1)), Some(ObjectHash(2)));
        let entry = RedactedEntry::sample(entry);
        let same = link(Action::Update, Outcome::Confirmed, Some(1), Some(2));
        assert_eq!(told_by(std::slice::from_ref(&same), &entry, |_| false), Some(same.id));
        assert_eq!(told_by(std::slice::from_ref(&same), &entry, |id| id == same.id), None);
        let mut late = same.clone();
        late.id = EntryId::at(chrono::DateTime::from_timestamp_millis(APART_MILLIS_MAX + 1).unwrap(), 0);
        let other = link(Action::Update, Outcome::Confirmed, Some(2), Some(1));
        let refused = link(Action::Update, Outcome::Rejected, Some(1), Some(2));
        assert_eq!(told_by(&[late, other, refused], &entry, |_| false), None);
    }
}

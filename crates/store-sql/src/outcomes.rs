//! What both databases say in the same words of what becomes known of entries.

use std::collections::HashMap;
use std::hash::Hash;

/// The columns that an entry and one that is awaited have in common, in the order in which they are bound.
macro_rules! columns {
    () => {
        r#"id, "user", action, resource, resource_name, cluster, namespace, status_code, detail, ip, "timestamp", outcome, evidence, source, audit_id, real_user, user_agent, api_group, object_uid, before_hash, after_hash, policy"#
    };
}

/// [`domain::Evidence::weight`] of a row.
macro_rules! weight {
    ($row:literal) => {
        concat!("CASE ", $row, ".evidence WHEN 'none' THEN 0 WHEN 'self' THEN 2 WHEN 'audit' THEN 3 ELSE 1 END")
    };
}

/// What an entry `e` learns from what is told, `w`. What is not told is not forgotten, and who did it is told only where
/// nobody has seen it: the API server's own word at admission is no worse.
macro_rules! learned {
    () => {
        r#"outcome = w.outcome, evidence = w.evidence, status_code = w.status_code, ip = coalesce(nullif(w.ip, ''), e.ip), audit_id = coalesce(nullif(w.audit_id, ''), e.audit_id), user_agent = coalesce(nullif(w.user_agent, ''), e.user_agent), real_user = coalesce(nullif(w.real_user, ''), e.real_user), "user" = coalesce(nullif(e."user", ''), w."user")"#
    };
}

/// That `e`, an entry, is what a watch has seen of the change that `w` tells of: the same object, in the same state
/// after it. A state that is not known is that of nothing, which only a delete leaves.
macro_rules! same_change {
    () => {
        "e.source = 'watch' AND e.resource_name = w.resource_name AND e.cluster = w.cluster AND e.resource = w.resource AND e.object_uid = w.object_uid AND (e.after_hash = w.after_hash OR (e.after_hash IS NULL AND w.after_hash IS NULL AND e.action = 'delete' AND w.action = 'delete'))"
    };
}

/// That `w` may be of a change that a watch has seen: it names its object and the state after it.
macro_rules! seen_by_watch {
    () => {
        "w.object_uid <> '' AND (w.after_hash IS NOT NULL OR w.action = 'delete')"
    };
}

pub(crate) use {columns, learned, same_change, seen_by_watch, weight};

/// What one call joins or adopts at most: some 50 ms for which every writer waits.
pub(crate) const LATE_ROWS: usize = 1_000;
/// How many of those that came last are looked up at each call. Older ones are when they are about to be adopted.
pub(crate) const LATE_LOOKED_UP: usize = 10_000;
pub(crate) const ANY_WAITING: &str = "SELECT count(*) FROM (SELECT id FROM awaited_entries LIMIT 1) any_of_them";
pub(crate) const WAITING: &str = "SELECT count(*) FROM awaited_entries";
/// How far a watch and an event may differ in when they saw the same change.
pub(crate) const WATCH_WITHIN: chrono::TimeDelta = chrono::TimeDelta::minutes(10);

/// Of each id the one that weighs most, and of equals the first: a statement changes a row once.
pub(crate) fn heaviest<T, I: Eq + Hash>(told: &[T], of: impl Fn(&T) -> (I, u8)) -> Vec<&T> {
    let mut heaviest: HashMap<I, (usize, u8)> = HashMap::with_capacity(told.len());
    for (at, one) in told.iter().enumerate() {
        let (id, weight) = of(one);
        let known = heaviest.entry(id).or_insert((at, weight));
        if weight > known.1 {
            *known = (at, weight);
        }
    }
    told.iter()
        .enumerate()
        .filter(|(at, one)| heaviest.get(&of(one).0).is_some_and(|(kept, _)| kept == at))
        .map(|(_, one)| one)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_told_twice_the_heaviest_is_kept_and_of_equals_the_first() {
        let told = [("a", 1, 'x'), ("b", 3, 'y'), ("a", 3, 'z'), ("a", 3, 'u'), ("b", 1, 'v')];
        let kept: Vec<_> = heaviest(&told, |told| (told.0, told.1)).iter().map(|told| told.2).collect();
        assert_eq!(kept, ['y', 'z']);
    }
}

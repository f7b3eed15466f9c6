//! What was seen last, and what differs from it. Pure, and never told to anybody: it may hold secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cluster::{FoundObject, Heard};
use domain::entry::ObjectHash;
use serde_json::value::RawValue;

/// What an object may weigh to be remembered whole; a ConfigMap holds a MiB, but few are that large.
const OBJECT_BYTES_MAX: usize = 256 * 1024;
/// And all of them. A few dozen objects of a few KiB, as a rule. Of those beyond only the hash is kept.
const BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(OBJECT_BYTES_MAX < BYTES_MAX);

/// The collection's number, the namespace, the name.
pub(super) type Key = (usize, String, String);

#[derive(Default)]
pub(super) struct Memory {
    objects: BTreeMap<Key, Remembered>,
    listed: BTreeSet<usize>,
    bytes: usize,
}

#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) uid: String,
    pub(super) hash: Option<ObjectHash>,
    /// None where it is too large to be kept.
    pub(super) json: Option<Box<RawValue>>,
}

/// One change of one object: made where there is no before, gone where there is no after.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) key: Key,
    pub(super) before: Option<Remembered>,
    pub(super) after: Option<Box<RawValue>>,
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remembered({}, {:?})", self.uid, self.hash)
    }
}

impl Memory {
    /// Whether all objects of a collection have been seen once.
    pub(super) fn has_listed(&self, of: usize) -> bool {
        self.listed.contains(&of)
    }

    pub(super) fn of(&self, of: usize) -> impl Iterator<Item = (&Key, &Remembered)> {
        self.objects.iter().filter(move |((number, ..), _)| *number == of)
    }

    /// Takes in what was heard, and tells what is different now; of the first listing nothing is.
    pub(super) fn hear(
        &mut self,
        of: usize,
        heard: Heard,
        hash: impl Fn(&RawValue) -> Option<ObjectHash>,
    ) -> Vec<Difference> {
        let key = |object: &FoundObject| (of, object.namespace.clone(), object.name.clone());
        match heard {
            Heard::Failed(_) => Vec::new(),
            Heard::Applied(object) => self.apply(key(&object), object, &hash),
            Heard::Deleted(object) => self.delete(key(&object)),
            Heard::All(objects) => {
                let there: BTreeSet<Key> = objects.iter().map(&key).collect();
                let gone: Vec<Key> =
                    self.of(of).map(|(key, _)| key.clone()).filter(|key| !there.contains(key)).collect();
                let mut differences: Vec<_> = gone.into_iter().flat_map(|key| self.delete(key)).collect();
                for object in objects {
                    differences.extend(self.apply(key(&object), object, &hash));
                }
                if self.listed.insert(of) { Vec::new() } else { differences }
            }
        }
    }

    fn apply(
        &mut self,
        key: Key,
        object: FoundObject,
        hash: &impl Fn(&RawValue) -> Option<ObjectHash>,
    ) -> Vec<Difference> {
        let mut before = self.forget(&key);
        let hash = hash(&object.json);
        let mut differences = Vec::new();
        // Made anew under the same name: that it went in between was not seen.
        if let Some(former) = before.take_if(|before| before.uid != object.uid) {
            differences.push(Difference { key: key.clone(), before: Some(former), after: None });
        }
        let bytes = object.json.get().len();
        let fits = bytes <= OBJECT_BYTES_MAX && self.bytes + bytes <= BYTES_MAX;
        let json = fits.then(|| object.json.clone());
        self.bytes += if fits { bytes } else { 0 };
        self.objects.insert(key.clone(), Remembered { uid: object.uid, hash, json });
        // A status that is written every few seconds is not worth a comparison, nor is what a listing shows again.
        let same = before.as_ref().is_some_and(|before| {
            before.json.as_ref().map_or(before.hash == hash, |json| json.get() == object.json.get())
        });
        if !same {
            differences.push(Difference { key, before, after: Some(object.json) });
        }
        differences
    }

    fn delete(&mut self, key: Key) -> Vec<Difference> {
        let before = self.forget(&key);
        before.map(|before| Difference { key, before: Some(before), after: None }).into_iter().collect()
    }

    fn forget(&mut self, key: &Key) -> Option<Remembered> {
        let before = self.objects.remove(key)?;
        self.bytes -= before.json.as_ref().map_or(0, |json| json.get().len());
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher as _};

    use super::*;

    fn found(name: &str, uid: &str, content: &str) -> FoundObject {
        let json = RawValue::from_string(format!("{content:?}")).unwrap();
        FoundObject { namespace: String::new(), name: name.to_owned(), uid: uid.to_owned(), json }
    }

    fn hear(memory: &mut Memory, heard: Heard) -> Vec<String> {
        let hash = |json: &RawValue| {
            let mut hasher = DefaultHasher::new();
            hasher.write(json.get().as_bytes());
            Some(ObjectHash(hasher.finish().cast_signed()))
        };
        let told = |Difference { key: (_, _, name), before, after }: Difference| {
            let before =
                before.map_or("-".to_owned(), |before| before.json.map_or("#".to_owned(), |json| json.to_string()));
            format!(
                "{name}: {before} {}",
                after.map_or("-".to_owned(), |json| json.to_string().chars().take(9).collect())
            )
        };
        memory.hear(0, heard, hash).into_iter().map(told).collect()
    }

    #[test]
    fn the_first_listing_is_what_others_are_compared_with() {
        let mut memory = Memory::default();
        assert!(!memory.has_listed(0));
        assert!(hear(&mut memory, Heard::All(vec![found("a", "1", "x"), found("b", "1", "x")])).is_empty());
        assert!(memory.has_listed(0) && !memory.has_listed(1));
        assert_eq!(hear(&mut memory, Heard::Applied(found("a", "1", "y"))), [r#"a: "x" "y""#]);
        assert!(hear(&mut memory, Heard::Applied(found("a", "1", "y"))).is_empty());
        assert_eq!(hear(&mut memory, Heard::Applied(found("c", "1", "x"))), [r#"c: - "x""#]);
        assert_eq!(hear(&mut memory, Heard::Deleted(found("c", "1", "x"))), [r#"c: "x" -"#]);
        assert!(hear(&mut memory, Heard::Deleted(found("c", "1", "x"))).is_empty());
        assert!(hear(&mut memory, Heard::Failed("away".to_owned())).is_empty());
        let missed = Heard::All(vec![found("a", "1", "z"), found("d", "1", "x")]);
        assert_eq!(hear(&mut memory, missed), [r#"b: "x" -"#, r#"a: "y" "z""#, r#"d: - "x""#]);
    }

    #[test]
    fn another_of_the_same_name_is_told_as_gone_and_made() {
        let mut memory = Memory::default();
        hear(&mut memory, Heard::All(vec![found("a", "1", "x")]));
        assert_eq!(hear(&mut memory, Heard::Applied(found("a", "2", "y"))), [r#"a: "x" -"#, r#"a: - "y""#]);
    }

    #[test]
    fn what_is_remembered_whole_is_bounded_and_the_rest_is_known_by_its_hash() {
        let mut memory = Memory::default();
        let (large, other) = ("x".repeat(OBJECT_BYTES_MAX), "y".repeat(OBJECT_BYTES_MAX));
        hear(&mut memory, Heard::All(vec![found("a", "1", &large)]));
        assert!(hear(&mut memory, Heard::Applied(found("a", "1", &large))).is_empty());
        assert_eq!(hear(&mut memory, Heard::Applied(found("a", "1", &other))), [r#"a: # "yyyyyyyy"#]);
        let many = BYTES_MAX / 100_000 + 10;
        for n in 0..many {
            hear(&mut memory, Heard::Applied(found(&n.to_string(), "1", &"z".repeat(100_000))));
        }
        assert!(memory.bytes <= BYTES_MAX);
        for n in 0..many {
            hear(&mut memory, Heard::Deleted(found(&n.to_string(), "1", "")));
        }
        assert_eq!(memory.bytes, 0);
    }
}

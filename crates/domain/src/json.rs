//! An object, walked once: what is noise is skipped while reading and never built, what is kept borrows from the text.
//!
//! A [`Tree`] may hold secrets. It cannot be serialized and its `Debug` tells only that it is there; the way out of it
//! is [`crate::redact`].
//!
//! Walking is bounded in depth and in nodes, because the API server accepts custom resources that are thousands of
//! levels deep, and a review has to be answered in milliseconds whatever it holds. What lies past the bounds is
//! [`Unwalkable`]: valid, and recorded without its diff.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Number;
use serde_json::value::RawValue;

use crate::text::storable;

/// Below serde_json's own limit of 128, so that ours is the one that is met.
pub const DEPTH_MAX: usize = 100;

/// Nodes that one review may make of both of its objects. An object of a typical workload has a few hundred. What is
/// built of so many weighs some 15 MiB, and the dearest way to compare them (two lists of objects in another order) was
/// measured at 0.2 µs a node, so that a review stays well within its 100 ms.
pub const NODES_MAX: usize = 200_000;

/// A JSON value without its noise. Object members are sorted by key, each key once; a member that is null is not there.
#[derive(Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<Member<'a>>),
}

pub(crate) type Member<'a> = (Cow<'a, str>, Node<'a>);

/// An object as the API server sent it, without its noise. It may hold secrets.
pub struct Tree<'a> {
    pub(crate) root: Node<'a>,
    pub(crate) count: Count<'a>,
}

/// What the API server keeps count of in an object's `metadata`: noise in what was written, and a trace of what was before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count<'a> {
    pub(crate) resource_version: Option<&'a RawValue>,
    pub(crate) managed_fields: Option<&'a RawValue>,
}

impl fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tree(..)")
    }
}

/// Which part of an object is noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// `status`, and in `metadata` what the API server counts: for all but a write of the status itself.
    Status,
    /// The same without `status`.
    KeepStatus,
}

/// How many nodes may still be built; shared by the objects of one review.
#[derive(Debug)]
pub struct Budget(Cell<usize>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(NODES_MAX))
    }
}

/// Valid JSON that costs more to walk than a review may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwalkable {
    #[error("the object is more than {DEPTH_MAX} levels deep")]
    TooDeep,
    #[error("the objects have more than {NODES_MAX} values")]
    TooMany,
    #[error("the object has more than {} secret values", crate::redact::VALUES_MAX)]
    TooSecret,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Unwalkable(#[from] Unwalkable),
    /// The text of the cause is left out: it may quote a value.
    #[error("the object is not valid JSON (line {line}, column {column})")]
    Malformed { line: usize, column: usize },
}

impl<'a> Tree<'a> {
    /// # Errors
    /// [`ReadError::Unwalkable`] for what lies past the bounds, [`ReadError::Malformed`] for what is no JSON.
    pub fn read(raw: &'a RawValue, noise: Noise, budget: &Budget) -> Result<Self, ReadError> {
        let (stopped, count) = (Cell::new(None), Cell::new(Count::default()));
        let walk = Walk { budget, stopped: &stopped, count: &count, depth: 0, place: Place::Root(noise) };
        let mut text = serde_json::Deserializer::from_str(raw.get());
        match walk.deserialize(&mut text) {
            Ok(root) => Ok(Self { root, count: count.get() }),
            Err(error) => Err(match stopped.get() {
                Some(unwalkable) => unwalkable.into(),
                None => ReadError::Malformed { line: error.line(), column: error.column() },
            }),
        }
    }
}

impl<'a> Node<'a> {
    /// The member of an object; None too where this is none.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                members.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok().map(|found| &members[found].1)
            }
            _ => None,
        }
    }

    pub(crate) fn member_mut(&mut self, key: &str) -> Option<&mut Self> {
        match self {
            Self::Object(members) => {
                members.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok().map(|found| &mut members[found].1)
            }
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Self> {
        match self {
            Self::Object(members) => {
                members.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok().map(|found| members.remove(found).1)
            }
            _ => None,
        }
    }

    /// The node at a chain of keys.
    pub(crate) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.member(key))
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn elements(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            _ => &[],
        }
    }
}

/// Reached only from a redacted object: [`Tree`] has no way to it.
impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::String(value) => serializer.serialize_str(&storable(value)),
            Self::Array(elements) => {
                let mut seq = serializer.serialize_seq(Some(elements.len()))?;
                elements.iter().try_for_each(|element| seq.serialize_element(element))?;
                seq.end()
            }
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(key, value)| map.serialize_entry(&storable(key), value))?;
                map.end()
            }
        }
    }
}

/// Where in the object a walk is, as far as noise depends on it.
#[derive(Clone, Copy)]
enum Place {
    Root(Noise),
    Metadata,
    Inside,
}

impl Place {
    fn is_noise(self, key: &str) -> bool {
        match self {
            Self::Root(noise) => key == "status" && noise == Noise::Status,
            Self::Metadata => matches!(key, "managedFields" | "resourceVersion" | "generation" | "selfLink"),
            Self::Inside => false,
        }
    }

    /// Which noise is kept as text, and where.
    fn counted<'de>(self, key: &str) -> Option<fn(Count<'de>, &'de RawValue) -> Count<'de>> {
        match (self, key) {
            (Self::Metadata, "resourceVersion") => Some(|count, text| Count { resource_version: Some(text), ..count }),
            (Self::Metadata, "managedFields") => Some(|count, text| Count { managed_fields: Some(text), ..count }),
            _ => None,
        }
    }

    fn below(self, key: &str) -> Self {
        match self {
            Self::Root(_) if key == "metadata" => Self::Metadata,
            _ => Self::Inside,
        }
    }
}

#[derive(Clone, Copy)]
struct Walk<'w, 'de> {
    budget: &'w Budget,
    /// Why the walk was stopped, since serde's error cannot carry it.
    stopped: &'w Cell<Option<Unwalkable>>,
    count: &'w Cell<Count<'de>>,
    depth: usize,
    place: Place,
}

impl Walk<'_, '_> {
    fn stop<T, E: de::Error>(&self, why: Unwalkable) -> Result<T, E> {
        self.stopped.set(Some(why));
        Err(E::custom(why))
    }

    fn below(self, key: &str) -> Self {
        Self { depth: self.depth + 1, place: self.place.below(key), ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        if self.depth > DEPTH_MAX {
            return self.stop(Unwalkable::TooDeep);
        }
        match self.budget.0.get().checked_sub(1) {
            Some(left) => self.budget.0.set(left),
            None => return self.stop(Unwalkable::TooMany),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node<'de>, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node<'de>, E> {
        Ok(Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node<'de>, E> {
        Ok(Node::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(self.below(""))? {
            elements.push(element);
        }
        Ok(Node::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut members: Vec<Member<'de>> = Vec::new();
        while let Some(Key(key)) = map.next_key_seed(Key::default())? {
            if self.place.is_noise(&key) {
                match self.place.counted(&key) {
                    Some(count) => self.count.set(count(self.count.get(), map.next_value()?)),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
                continue;
            }
            let value = map.next_value_seed(self.below(&key))?;
            if value != Node::Null {
                members.push((key, value));
            }
        }
        if !members.is_sorted_by(|(a, _), (b, _)| a < b) {
            // Of a key that is given twice the last one holds, as for Go's decoder; the sort is stable.
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            members.reverse();
            members.dedup_by(|(later, _), (kept, _)| later == kept);
            members.reverse();
        }
        Ok(Node::Object(members))
    }
}

/// Reads an object's key without copying it, where it has no escapes.
#[derive(Default)]
struct Key<'a>(Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Key<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<'de>, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object's key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn read(text: &str) -> Result<String, String> {
        let raw = raw(text);
        let tree = Tree::read(&raw, Noise::Status, &Budget::default()).map_err(|e| e.to_string())?;
        Ok(serde_json::to_string(&tree.root).unwrap())
    }

    #[test]
    fn noise_is_left_out_where_it_is_noise_and_kept_elsewhere() {
        let text = r#"{"status":{"a":1},"spec":{"status":1,"managedFields":2},
            "metadata":{"resourceVersion":"7","generation":2,"selfLink":"x","managedFields":[{"f":1}],"name":"n"}}"#;
        assert_eq!(read(text).unwrap(), r#"{"metadata":{"name":"n"},"spec":{"managedFields":2,"status":1}}"#);
    }

    #[test]
    fn members_are_sorted_nulls_are_absent_and_of_a_repeated_key_the_last_holds() {
        assert_eq!(read(r#"{"b":1,"a":null,"b":2,"a":{"z":null},"b":3}"#).unwrap(), r#"{"a":{},"b":3}"#);
        assert_eq!(read(r#"[null,{"a":null}]"#).unwrap(), r"[null,{}]", "an element keeps its place");
    }

    #[test]
    fn a_nul_is_shown_by_its_sign() {
        assert_eq!(read(r#"{"a\u0000":"b\u0000c"}"#).unwrap(), "{\"a\u{2400}\":\"b\u{2400}c\"}");
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_told_from_what_is_malformed() {
        let deep = format!("{}{}", "[".repeat(8_000), "]".repeat(8_000));
        assert_eq!(read(&deep).unwrap_err(), Unwalkable::TooDeep.to_string());
        let just = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert!(read(&just).is_ok());
        let many = format!("[{}1]", "1,".repeat(NODES_MAX));
        assert_eq!(read(&many).unwrap_err(), Unwalkable::TooMany.to_string());
        assert_eq!(read(r#"{"a":"\ud800"}"#).unwrap_err(), "the object is not valid JSON (line 1, column 13)");
    }
}

//! The keyed hash of an object, by which one write's *after* is recognised as the next one's *before*.
//!
//! 64 bits of SipHash-2-4 over a canonical form of the object without its noise. Members that are null, `[]` or `{}`
//! count as absent, at every depth, because the API server shows an empty list now as one and now as another (tried:
//! EndpointSlice). An element of a list always counts, empty or not. The key is secret, so the hash of a Secret tells
//! nothing of it. That an object is about to be deleted is left out too: a delete puts that there, not an update.

use std::hash::Hasher as _;

use serde_json::Number;
use siphasher::sip::SipHasher24;

use crate::entry::ObjectHash;
use crate::json::{Member, Node, Tree};

/// Keys [`ObjectHash`]es.
#[derive(Clone)]
pub(crate) struct HashKey(pub(crate) [u8; 16]);

impl HashKey {
    /// The status counts where it was read: for a write of the status, which has a chain of its own.
    pub(crate) fn hash(&self, tree: &Tree<'_>) -> ObjectHash {
        let mut canonical = Vec::new();
        match &tree.root {
            Node::Object(members) => write_root(members, &mut canonical),
            other => {
                write(other, &mut canonical);
            }
        }
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&canonical);
        ObjectHash(hasher.finish().cast_signed())
    }
}

/// In what a delete leaves of the object until its finalizers are done.
const DELETION: [&str; 2] = ["deletionTimestamp", "deletionGracePeriodSeconds"];

fn write_root(members: &[Member<'_>], out: &mut Vec<u8>) {
    for (key, value) in members {
        let before = out.len();
        write_text(b'k', key, out);
        let written = match value {
            Node::Object(metadata) if key == "metadata" => {
                write_members(metadata.iter().filter(|(key, _)| !DELETION.contains(&key.as_ref())), out)
            }
            other => write(other, out),
        };
        if !written {
            out.truncate(before);
        }
    }
}

/// Writes the canonical form, each value by its sort and, where it has one, its length; tells whether there was
/// anything, and writes nothing where there was not.
fn write(node: &Node<'_>, out: &mut Vec<u8>) -> bool {
    match node {
        Node::Null => return false,
        Node::Bool(value) => out.extend_from_slice(if *value { b"t" } else { b"f" }),
        Node::Number(value) => write_number(value, out),
        Node::String(value) => write_text(b's', value, out),
        Node::Array(elements) if elements.is_empty() => return false,
        Node::Array(elements) => {
            out.push(b'[');
            out.extend_from_slice(&elements.len().to_le_bytes());
            for element in elements {
                if !write(element, out) {
                    out.push(b'0');
                }
            }
        }
        Node::Object(members) => return write_members(members.iter(), out),
    }
    true
}

fn write_members<'n>(members: impl Iterator<Item = &'n Member<'n>>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.push(b'{');
    for (key, value) in members {
        let before = out.len();
        write_text(b'k', key, out);
        if !write(value, out) {
            out.truncate(before);
        }
    }
    if out.len() == start + 1 {
        out.truncate(start);
        return false;
    }
    out.push(b'}');
    true
}

fn write_text(sort: u8, text: &str, out: &mut Vec<u8>) {
    out.push(sort);
    out.extend_from_slice(&text.len().to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A whole number is the same however it was written: 1 and 1.0.
fn write_number(number: &Number, out: &mut Vec<u8>) {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    let text = match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() <= WHOLE_MAX => {
            (value as i64).to_string()
        }
        _ => number.to_string(),
    };
    write_text(b'n', &text, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::raw;
    use crate::json::{Budget, Noise};

    fn hash(text: &str) -> ObjectHash {
        let raw = raw(text);
        HashKey([7; 16]).hash(&Tree::read(&raw, Noise::KeepStatus, &Budget::default()).unwrap())
    }

    #[test]
    fn what_counts_as_absent_hashes_like_absence_and_everything_else_tells() {
        let equal = [
            (r#"{"a":1}"#, r#"{"a":1,"b":null,"c":[],"d":{},"e":{"f":{"g":[]}}}"#),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1.0}"#),
            (r#"{"a":1}"#, r#"{"a":1,"metadata":{"managedFields":[1],"generation":4,"deletionTimestamp":"t"}}"#),
            (r#"{"a":[{}]}"#, r#"{"a":[null]}"#),
        ];
        for (one, other) in equal {
            assert_eq!(hash(one), hash(other), "{one} and {other}");
        }
        let different = [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":"1"}"#, r#"{"a":1}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":[{}]}"#, r#"{"a":[]}"#),
            (r#"{"a":{"b":1}}"#, r#"{"b":{"a":1}}"#),
            (r#"{"a":{"b":1},"c":2}"#, r#"{"a":{"b":1,"c":2}}"#),
            (r#"{"a":false}"#, "{}"),
            (r#"{"a":""}"#, "{}"),
            (r#"{"status":{"ready":true}}"#, r#"{"status":{"ready":false}}"#),
            (r#"{"spec":{"deletionTimestamp":1}}"#, "{}"),
        ];
        for (one, other) in different {
            assert_ne!(hash(one), hash(other), "{one} and {other}");
        }
    }

    #[test]
    fn the_hash_depends_on_its_key() {
        let raw = raw(r#"{"a":1}"#);
        let tree = Tree::read(&raw, Noise::Status, &Budget::default()).unwrap();
        assert_ne!(HashKey([1; 16]).hash(&tree), HashKey([2; 16]).hash(&tree));
    }
}

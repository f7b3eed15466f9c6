//! An object as it is found by a look of our own: hashed, and forgotten.

use serde_json::value::RawValue;

use crate::entry::{ObjectHash, Prior};
use crate::json::{Budget, Node, Tree};
use crate::prior::Trace;
use crate::redact::Redactor;
use crate::resource;

/// What is kept of an object that was read for its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    pub uid: String,
    /// None where the whole object was not read, or cannot be walked.
    pub hash: Option<ObjectHash>,
    pub prior: Prior,
}

impl Sight {
    /// From the text of an object, which may hold secrets. None for what is no object of the API.
    pub fn read(text: &str, subresource: &str, is_whole: bool, redactor: &Redactor) -> Option<Self> {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        let tree = Tree::read(raw, resource::noise(subresource), &Budget::default()).ok()?;
        let uid = tree.root.at(&["metadata", "uid"]).and_then(Node::as_str)?.to_owned();
        let prior = Trace::of(&tree).read();
        // A list without its type is none of a kind's own; what names an object's type belongs to it, as admission shows it.
        let hash = is_whole.then(|| redactor.hash(&tree));
        Some(Self { uid, hash, prior })
    }
}

//! What changed between two objects, as a person would name it.
//!
//! Each [`Change`](crate::entry::Change) has a path like a JSON pointer (RFC 6901), with a selector where the way leads
//! through a list: `/spec/template/spec/containers[name=app]/image`, `/spec/finalizers[0]` (see [`path`]). Lists whose
//! elements all have a Kubernetes merge key are matched by it ([`keys`]), so that a container put in front is one
//! change; other lists by position, their common beginning and end aside.
//!
//! Changes apply in their order ([`apply`]): of a list first the removals, from the back, then what was added or
//! changed, from the front, then a reordering where the elements that stayed changed their order. `index` is where in
//! its list an element was added or removed.

mod apply;
mod keys;
pub mod path;
mod summary;

use std::collections::HashMap;
use std::collections::HashSet;

pub use apply::{ApplyError, apply};
pub(crate) use summary::{of_changes, quoted};

use crate::entry::ChangeOp;
use crate::json::{Member, Node};
use crate::redact::Redacted;
use keys::{ElementKey, ListKeys};
use path::Path;

/// More changes than a person will ever read: such a diff is left out rather than paid for.
pub const CHANGES_MAX: usize = 20_000;

/// What the paths of all changes may weigh. A key may be a megabyte long, and every change below it repeats it.
pub const PATHS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Deeper than lists are nested in the API's own kinds.
const COMPARED_FIRST_MAX: usize = 4;

/// The changes that lead from one object to another, in the order in which they apply.
#[derive(Debug, Default)]
pub struct Diff<'t> {
    pub(crate) changes: Vec<Found<'t>>,
}

/// A change whose values still lie in the objects.
#[derive(Debug)]
pub(crate) struct Found<'t> {
    pub(crate) op: ChangeOp,
    pub(crate) path: String,
    pub(crate) index: Option<usize>,
    pub(crate) old: Value<'t>,
    pub(crate) new: Value<'t>,
}

/// What stands on one side of a change.
pub(crate) enum Value<'t> {
    Nothing,
    Node(&'t Node<'t>),
    /// The keys of a list in their order.
    Order(Vec<String>),
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Node(_) => "Node(..)",
            Self::Order(_) => "Order(..)",
        })
    }
}

/// The objects differ in more than is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("the objects differ in more than {CHANGES_MAX} places")]
    Changes,
    #[error("the paths to where the objects differ weigh more than {} MiB", PATHS_BYTES_MAX / 1024 / 1024)]
    Paths,
}

impl Diff<'_> {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }
}

/// # Errors
/// [`TooMuch`], as soon as that is known.
pub fn diff<'t>(old: &'t Redacted<'_>, new: &'t Redacted<'_>) -> Result<Diff<'t>, TooMuch> {
    let mut walk = Walk { path: Path::default(), paths_bytes: 0, lists_around: 0, changes: Vec::new() };
    walk.values(&old.root.0, &new.root.0)?;
    Ok(Diff { changes: walk.changes })
}

struct Walk<'t> {
    path: Path,
    /// Of the changes found so far.
    paths_bytes: usize,
    /// How many lists the walk is inside of.
    lists_around: usize,
    changes: Vec<Found<'t>>,
}

type Walked = Result<(), TooMuch>;

impl<'t> Walk<'t> {
    fn values(&mut self, old: &'t Node<'t>, new: &'t Node<'t>) -> Walked {
        match (old, new) {
            (Node::Object(old), Node::Object(new)) => self.objects(old, new),
            (Node::Array(old), Node::Array(new)) => self.lists(old, new),
            (old, new) if old == new => Ok(()),
            (old, new) => self.found(ChangeOp::Replace, None, Value::Node(old), Value::Node(new)),
        }
    }

    /// Both are sorted by key, so one pass over both finds what only one of them has.
    fn objects(&mut self, old: &'t [Member<'t>], new: &'t [Member<'t>]) -> Walked {
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let removed = if order.is_le() { old.next() } else { None };
            let added = if order.is_ge() { new.next() } else { None };
            let Some((key, _)) = removed.or(added) else { return Ok(()) };
            let mark = self.path.push_key(key);
            match (removed, added) {
                (Some((_, old)), Some((_, new))) => self.values(old, new)?,
                (Some((_, old)), None) => self.found(ChangeOp::Remove, None, Value::Node(old), Value::Nothing)?,
                (None, Some((_, new))) => self.found(ChangeOp::Add, None, Value::Nothing, Value::Node(new))?,
                (None, None) => {}
            }
            self.path.back_to(mark);
        }
    }

    fn lists(&mut self, old: &'t [Node<'t>], new: &'t [Node<'t>]) -> Walked {
        // Most lists are equal, and to see that is much cheaper than to match them. Only so deep, or each level of lists
        // within lists would look at all below it again.
        if self.lists_around < COMPARED_FIRST_MAX && old == new {
            return Ok(());
        }
        self.lists_around += 1;
        let walked = match ListKeys::of(old, new) {
            Some(keys) => self.keyed_lists(&keys, old, new),
            None => self.positional_lists(old, new),
        };
        self.lists_around -= 1;
        walked
    }

    fn keyed_lists(&mut self, keys: &ListKeys<'t>, old: &'t [Node<'t>], new: &'t [Node<'t>]) -> Walked {
        if keys.old == keys.new {
            for (key, (old, new)) in keys.new.iter().zip(old.iter().zip(new)) {
                let mark = self.path.push_select(key);
                self.values(old, new)?;
                self.path.back_to(mark);
            }
            return Ok(());
        }
        let places: HashMap<&ElementKey<'t>, usize> = keys.old.iter().zip(0..).collect();
        let stays: HashSet<&ElementKey<'t>> = keys.new.iter().filter(|key| places.contains_key(key)).collect();
        for (index, (key, element)) in keys.old.iter().zip(old).enumerate().rev() {
            if !stays.contains(key) {
                let mark = self.path.push_select(key);
                self.found(ChangeOp::Remove, Some(index), Value::Node(element), Value::Nothing)?;
                self.path.back_to(mark);
            }
        }
        let mut last = None;
        let mut in_order = true;
        for (index, (key, element)) in keys.new.iter().zip(new).enumerate() {
            let mark = self.path.push_select(key);
            match places.get(key) {
                Some(&place) => {
                    in_order &= last < Some(place);
                    last = Some(place);
                    self.values(&old[place], element)?;
                }
                None => self.found(ChangeOp::Add, Some(index), Value::Nothing, Value::Node(element))?,
            }
            self.path.back_to(mark);
        }
        if in_order {
            return Ok(());
        }
        let told = |keys: &[ElementKey<'t>]| Value::Order(keys.iter().map(ToString::to_string).collect());
        self.found(ChangeOp::Reorder, None, told(&keys.old), told(&keys.new))
    }

    fn positional_lists(&mut self, old: &'t [Node<'t>], new: &'t [Node<'t>]) -> Walked {
        if let ([old], [new]) = (old, new) {
            // Not compared first: a list in a list in a list would be compared once for each of its levels.
            let mark = self.path.push_index(0);
            self.values(old, new)?;
            self.path.back_to(mark);
            return Ok(());
        }
        let shorter = old.len().min(new.len());
        let start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let end = old.iter().rev().zip(new.iter().rev()).take(shorter - start).take_while(|(o, n)| o == n).count();
        let (gone, come) = (&old[start..old.len() - end], &new[start..new.len() - end]);
        let both = gone.len().min(come.len());
        for (index, element) in gone.iter().enumerate().skip(both).rev() {
            let mark = self.path.push_index(start + index);
            self.found(ChangeOp::Remove, Some(start + index), Value::Node(element), Value::Nothing)?;
            self.path.back_to(mark);
        }
        for (index, element) in come.iter().enumerate() {
            let mark = self.path.push_index(start + index);
            match gone.get(index) {
                Some(old) => self.values(old, element)?,
                None => self.found(ChangeOp::Add, Some(start + index), Value::Nothing, Value::Node(element))?,
            }
            self.path.back_to(mark);
        }
        Ok(())
    }

    fn found(&mut self, op: ChangeOp, index: Option<usize>, old: Value<'t>, new: Value<'t>) -> Walked {
        if self.changes.len() == CHANGES_MAX {
            return Err(TooMuch::Changes);
        }
        self.paths_bytes += self.path.as_str().len();
        if self.paths_bytes > PATHS_BYTES_MAX {
            return Err(TooMuch::Paths);
        }
        self.changes.push(Found { op, path: self.path.as_str().to_owned(), index, old, new });
        Ok(())
    }
}

#[cfg(test)]
mod tests;

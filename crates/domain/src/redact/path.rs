//! Where a policy says that a value is secret: a small part of JSONPath.

use std::str::FromStr;

use crate::json::Node;

const ACCEPTED: &str = "$ and then .name, ['any name'], [0], [*] or .*, as in $.spec.users[*].token";

/// `$.spec.users[*].token`: names the values that are to be redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Member(String),
    Element(usize),
    Each,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no path: accepted is {ACCEPTED}")]
pub struct PathError {
    pub given: String,
}

impl FromStr for JsonPath {
    type Err = PathError;

    fn from_str(given: &str) -> Result<Self, PathError> {
        let parse = || {
            let mut rest = given.strip_prefix('$')?;
            let mut segments = Vec::new();
            while !rest.is_empty() {
                let (segment, after) = segment(rest)?;
                segments.push(segment);
                rest = after;
            }
            (!segments.is_empty()).then_some(Self(segments))
        };
        parse().ok_or_else(|| PathError { given: given.to_owned() })
    }
}

fn segment(rest: &str) -> Option<(Segment, &str)> {
    if let Some(name) = rest.strip_prefix('.') {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        return match name {
            "" => None,
            "*" => Some((Segment::Each, after)),
            name => Some((Segment::Member(name.to_owned()), after)),
        };
    }
    let inside = rest.strip_prefix('[')?;
    for quote in ['\'', '"'] {
        if let Some(name) = inside.strip_prefix(quote) {
            let (name, after) = name.split_once(quote)?;
            return Some((Segment::Member(name.to_owned()), after.strip_prefix(']')?));
        }
    }
    let (index, after) = inside.split_once(']')?;
    if index == "*" {
        return Some((Segment::Each, after));
    }
    Some((Segment::Element(index.parse().ok()?), after))
}

impl JsonPath {
    /// Every node that the path names.
    pub(super) fn each<'a>(&self, root: &mut Node<'a>, secret: &impl Fn(&mut Node<'a>)) {
        within(&self.0, root, secret);
    }
}

/// As deep as the path is long, which its text bounds.
fn within<'a>(path: &[Segment], node: &mut Node<'a>, secret: &impl Fn(&mut Node<'a>)) {
    let Some((segment, rest)) = path.split_first() else { return secret(node) };
    match (segment, node) {
        (Segment::Member(name), node @ Node::Object(_)) => {
            if let Some(member) = node.member_mut(name) {
                within(rest, member, secret);
            }
        }
        (Segment::Each, Node::Object(members)) => {
            members.iter_mut().for_each(|(_, member)| within(rest, member, secret));
        }
        (Segment::Each, Node::Array(elements)) => {
            elements.iter_mut().for_each(|element| within(rest, element, secret));
        }
        (Segment::Element(index), Node::Array(elements)) => {
            if let Some(element) = elements.get_mut(*index) {
                within(rest, element, secret);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_is_refused_with_what_is_accepted() {
        for given in ["", "$", "spec.x", "$spec", "$.", "$..x", "$.x[", "$.x['y]", "$.x[-1]", "$.x[1", "$.x['y'z]"] {
            let refused = given.parse::<JsonPath>().unwrap_err().to_string();
            assert!(refused.contains("accepted is $ and then .name"), "{given}: {refused}");
        }
        for given in ["$.x", "$['a.b']", "$.x[*].y", "$.x[0]", "$.*", "$.data[\"api key\"]"] {
            assert!(given.parse::<JsonPath>().is_ok(), "{given}");
        }
    }
}

//! One line that tells a person what changed: `image a:1 → a:2; container sidecar added`.

use super::path::{self, Step};
use super::{Found, Value};
use crate::entry::ChangeOp;
use crate::json::Node;
use crate::redact::is_placeholder;
use crate::text::{shortened, storable};

/// So many changes are told; how many more there are is told as a number.
const TOLD_MAX: usize = 3;
/// Characters that one value may take.
const VALUE_MAX: usize = 60;

/// Empty where nothing changed.
pub(crate) fn of_changes(changes: &[Found<'_>]) -> String {
    let told: Vec<String> = changes.iter().take(TOLD_MAX).map(told).collect();
    match changes.len().saturating_sub(TOLD_MAX) {
        0 => told.join("; "),
        more => format!("{}; and {more} more", told.join("; ")),
    }
}

fn told(change: &Found<'_>) -> String {
    let named = Named::of(&change.path);
    let place = named.told();
    match (change.op, scalar(&change.old), scalar(&change.new)) {
        (ChangeOp::Reorder, ..) => format!("{place} reordered"),
        (ChangeOp::Add, ..) if named.is_element() => format!("{place} added"),
        (ChangeOp::Remove, ..) if named.is_element() => format!("{place} removed"),
        (ChangeOp::Add, _, Some(new)) => format!("{place} nothing → {new}"),
        (ChangeOp::Add, ..) => format!("{place} added"),
        (ChangeOp::Remove, Some(old), _) => format!("{place} {old} → nothing"),
        (ChangeOp::Remove, ..) => format!("{place} removed"),
        // Two placeholders, or two texts that are the same as far as they fit, tell nothing more.
        (ChangeOp::Replace, Some(old), Some(new)) if old != new && !(is_placeholder(&old) && is_placeholder(&new)) => {
            format!("{place} {old} → {new}")
        }
        (ChangeOp::Replace, ..) => format!("{place} changed"),
    }
}

/// A scalar as a person reads it in a line; None for what has parts, or lines of its own.
fn scalar(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Node(Node::Bool(value)) => Some(value.to_string()),
        Value::Node(Node::Number(value)) => Some(value.to_string()),
        Value::Node(Node::String(text)) if text.contains('\n') => None,
        Value::Node(Node::String(text)) => Some(quoted(text)),
        _ => None,
    }
}

/// A text short enough for one line, quoted where its ends could not be seen.
pub(crate) fn quoted(text: &str) -> String {
    let line: String = storable(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let short = shortened(&line, VALUE_MAX);
    if short.is_empty() || short.starts_with(' ') || short.ends_with(' ') { format!("{short:?}") } else { short.into() }
}

/// The end of a path in words.
enum Named {
    /// `within`: the element in which the member stands, where it is one.
    Member {
        within: Option<String>,
        member: String,
    },
    Element {
        list: String,
        step: Step,
    },
}

impl Named {
    fn of(path: &str) -> Self {
        let mut steps = path::parse(path).unwrap_or_default();
        match (steps.pop(), steps.pop(), steps.pop()) {
            (Some(Step::Key(member)), Some(Step::Select(fields)), _) => {
                Self::Member { within: fields.into_iter().next().map(|(_, value)| value), member }
            }
            (Some(Step::Key(member)), Some(Step::Index(index)), Some(Step::Key(list))) => {
                Self::Member { within: Some(format!("{}[{index}]", quoted(&list))), member }
            }
            (Some(Step::Key(member)), ..) => Self::Member { within: None, member },
            (Some(step), Some(Step::Key(list)), _) => Self::Element { list, step },
            (Some(step), ..) => Self::Element { list: "list".to_owned(), step },
            (None, ..) => Self::Member { within: None, member: "object".to_owned() },
        }
    }

    fn is_element(&self) -> bool {
        matches!(self, Self::Element { .. })
    }

    /// `image`, `LEVEL value`, `container sidecar`, `args[0]`.
    fn told(&self) -> String {
        match self {
            // An image says by itself what it belongs to; other fields need their element's name.
            Self::Member { within: Some(within), member } if member != "image" => {
                format!("{} {}", quoted(within), quoted(member))
            }
            Self::Member { member, .. } => quoted(member),
            Self::Element { list, step: Step::Select(fields) } => {
                let name = fields.first().map_or_else(String::new, |(_, value)| quoted(value));
                format!("{} {name}", quoted(&singular(list)))
            }
            Self::Element { list, step: Step::Index(index) } => format!("{}[{index}]", quoted(list)),
            Self::Element { list, step: Step::Key(_) } => quoted(list),
        }
    }
}

fn singular(list: &str) -> String {
    match list {
        "ingress" | "egress" | "status" => list.to_owned(),
        "addresses" | "ingresses" => list.trim_end_matches("es").to_owned(),
        _ => match list.strip_suffix("ies") {
            Some(stem) => format!("{stem}y"),
            None => list.strip_suffix('s').unwrap_or(list).to_owned(),
        },
    }
}

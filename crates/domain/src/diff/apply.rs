//! Carries out changes on an object: the inverse of the diff, and its proof.

use std::collections::HashMap;

use serde_json::Value;

use super::path::{self, PathError, Step};
use crate::entry::{Change, ChangeOp};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Path(#[from] PathError),
    /// The object is another one than the changes were found on.
    #[error("{path}: the object has no such place")]
    NoSuchPlace { path: String },
    #[error("{path}: the change's value does not parse")]
    Value {
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Applies the changes to the object from which they were found, in their order.
///
/// # Errors
/// Where the object is another one, or a change was not made by a diff.
pub fn apply(mut object: Value, changes: &[Change]) -> Result<Value, ApplyError> {
    for change in changes {
        let steps = path::parse(&change.path)?;
        let missing = || ApplyError::NoSuchPlace { path: change.path.clone() };
        let value = match &change.new {
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|source| ApplyError::Value { path: change.path.clone(), source })?,
            None => Value::Null,
        };
        one(&mut object, change, &steps, value).ok_or_else(missing)?;
    }
    Ok(object)
}

fn one(object: &mut Value, change: &Change, steps: &[Step], value: Value) -> Option<()> {
    if change.op == ChangeOp::Reorder {
        return reorder(steps.iter().try_fold(object, step_into)?, &value);
    }
    let Some((last, way)) = steps.split_last() else {
        *object = value;
        return Some(());
    };
    let place = way.iter().try_fold(object, step_into)?;
    match (change.op, last) {
        (ChangeOp::Replace, step) => *step_into(place, step)? = value,
        (ChangeOp::Add, Step::Key(key)) => {
            place.as_object_mut()?.insert(key.clone(), value);
        }
        (ChangeOp::Remove, Step::Key(key)) => {
            place.as_object_mut()?.remove(key)?;
        }
        (ChangeOp::Add, _) => {
            let list = place.as_array_mut()?;
            let index = change.index.filter(|index| *index <= list.len())?;
            list.insert(index, value);
        }
        (ChangeOp::Remove, step) => {
            let index = find(place, step)?;
            place.as_array_mut()?.remove(index);
        }
        (ChangeOp::Reorder, _) => return None,
    }
    Some(())
}

fn step_into<'v>(value: &'v mut Value, step: &Step) -> Option<&'v mut Value> {
    match step {
        Step::Key(key) => value.get_mut(key),
        step => {
            let index = find(value, step)?;
            value.get_mut(index)
        }
    }
}

fn find(list: &Value, step: &Step) -> Option<usize> {
    match step {
        Step::Key(_) => None,
        Step::Index(index) => Some(*index),
        Step::Select(fields) => list.as_array()?.iter().position(|element| matches(element, fields)),
    }
}

fn matches(element: &Value, fields: &[(String, String)]) -> bool {
    fields.iter().all(|(field, wanted)| match element.get(field) {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Number(number)) => number.to_string() == *wanted,
        _ => false,
    })
}

/// Puts the elements of a list into the order of the given keys, each of which is a selector without its brackets.
fn reorder(list: &mut Value, order: &Value) -> Option<()> {
    let fields = |key: &Value| match path::parse(&format!("[{}]", key.as_str()?)).ok()?.pop()? {
        Step::Select(fields) => Some(fields),
        _ => None,
    };
    let order: Vec<Vec<(String, String)>> = order.as_array()?.iter().map(fields).collect::<Option<_>>()?;
    let names: Vec<&String> = order.first()?.iter().map(|(field, _)| field).collect();
    let value_of = |element: &Value, field: &String| match element.get(field) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let mut by_key: HashMap<Vec<String>, Value> = HashMap::new();
    for element in std::mem::take(list.as_array_mut()?) {
        let key = names.iter().map(|field| value_of(&element, field)).collect::<Option<_>>()?;
        by_key.insert(key, element);
    }
    let in_order = order.iter().map(|fields| {
        let key: Vec<String> = fields.iter().map(|(_, value)| value.clone()).collect();
        by_key.remove(&key)
    });
    *list = Value::Array(in_order.collect::<Option<_>>()?);
    Some(())
}

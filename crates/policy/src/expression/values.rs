//! What expressions are shown of a request, and what they may still do with it.

use std::collections::HashMap;
use std::iter::Sum;
use std::sync::Arc;

use cel::Env;
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use serde_json::Value;

use super::cost::{Cost, Step};
use super::{Facts, STEPS_MAX, VARIABLES};

/// Read once, however many expressions ask.
pub(crate) struct Values<'a> {
    env: &'a Arc<Env>,
    facts: &'a dyn Facts,
    read: [Option<Option<Box<dyn Val>>>; 3],
    steps_left: u64,
}

/// Of a value with all that is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Size {
    /// How many entries its longest list or map has: the most that a loop can go round.
    pub(super) longest: u64,
    /// What it costs to read it all, or to copy it.
    pub(super) steps: u64,
    pub(super) text_bytes: u64,
}

impl<'a> Values<'a> {
    pub(crate) fn new(env: &'a Arc<Env>, facts: &'a dyn Facts) -> Self {
        Self { env, facts, read: [None, None, None], steps_left: STEPS_MAX }
    }

    pub(super) fn env(&self) -> &'a Arc<Env> {
        self.env
    }

    /// Reads what is asked for and takes what it costs from what is left, beforehand; None where either cannot be.
    pub(super) fn spend(&mut self, cost: &Cost, asks_for: [bool; 3]) -> Option<()> {
        for (place, _) in asks_for.iter().enumerate().filter(|(_, asked)| **asked) {
            self.read(place)?;
        }
        let steps = cost
            .steps(|path| self.read[path.variable].iter().flatten().map(|of| size_at(of.as_ref(), &path.steps)).sum());
        self.steps_left = self.steps_left.checked_sub(steps)?;
        Some(())
    }

    /// What was read, to be lent to an expression.
    pub(super) fn shown(&self) -> Shown<'_> {
        Shown(self.read.each_ref().map(|read| read.as_ref()?.as_deref()))
    }

    fn read(&mut self, place: usize) -> Option<()> {
        let facts = self.facts;
        let read = self.read.get_mut(place)?.get_or_insert_with(|| {
            let json = match place {
                0 => facts.request(),
                1 => facts.object(),
                _ => facts.old_object(),
            };
            json.map(value)
        });
        read.as_ref().map(|_| ())
    }
}

/// Lends the variables: an object is not copied for each expression.
pub(super) struct Shown<'v>([Option<&'v dyn Val>; 3]);

impl VariableResolver for Shown<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let place = VARIABLES.iter().position(|known| *known == variable)?;
        self.0[place].map(CowVal::Borrowed)
    }
}

/// As the API server has it: every whole number is an int, so that `replicas - 4 < 0` is what it says.
fn value(json: Value) -> Box<dyn Val> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(is) => Box::new(CelBool::from(is)),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Box::new(CelInt::from(whole)),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Box::new(CelString::from(text)),
        Value::Array(items) => Box::new(CelList::from(items.into_iter().map(value).collect::<Vec<_>>())),
        Value::Object(members) => {
            let members = members.into_iter().map(|(key, member)| (CelMapKey::from(key), value(member)));
            Box::new(CelMap::from(members.collect::<HashMap<_, _>>()))
        }
    }
}

/// Nothing, where there is no such field.
fn size_at(of: &dyn Val, steps: &[Step]) -> Size {
    let (Some(step), list, map) = (steps.first(), of.downcast_ref::<CelList<'_>>(), of.downcast_ref::<CelMap<'_>>())
    else {
        return size(of);
    };
    let further = &steps[1..];
    match (step, list, map) {
        (Step::Field(field), _, Some(map)) => {
            let member = map.inner().get(&CelMapKey::from(field.as_str()));
            member.map(|member| size_at(member.as_ref(), further)).unwrap_or_default()
        }
        (Step::Each, Some(list), _) => list.inner().iter().map(|item| size_at(item.as_ref(), further)).sum(),
        (Step::Each, _, Some(map)) => map.inner().keys().map(|key| size_at(key.inner(), further)).sum(),
        _ => Size::default(),
    }
}

/// The steps are as measured: an allocation is two, a map several.
fn size(of: &dyn Val) -> Size {
    let within = |entries: usize, own: u64, parts: &mut dyn Iterator<Item = Size>| {
        let all: Size = parts.sum();
        Size { longest: all.longest.max(entries as u64), steps: own + all.steps, ..all }
    };
    if let Some(text) = of.downcast_ref::<CelString<'_>>() {
        let text_bytes = text.inner().len() as u64;
        return Size { longest: 0, steps: 3 + text_bytes / 64, text_bytes };
    }
    if let Some(list) = of.downcast_ref::<CelList<'_>>() {
        return within(list.inner().len(), 4, &mut list.inner().iter().map(|item| size(item.as_ref())));
    }
    if let Some(map) = of.downcast_ref::<CelMap<'_>>() {
        let parts = map.inner().iter().flat_map(|(key, member)| [size(key.inner()), size(member.as_ref())]);
        return within(map.inner().len(), 8, &mut { parts });
    }
    Size { steps: 2, ..Size::default() }
}

impl Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |all, one| Self {
            longest: all.longest.max(one.longest),
            steps: all.steps + one.steps,
            text_bytes: all.text_bytes + one.text_bytes,
        })
    }
}

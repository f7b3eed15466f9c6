//! What an expression may do, and what that costs.
//!
//! Whoever writes an object chooses how large it is. So inside of `all`, `exists`, `exists_one`, `map` and `filter` the
//! expression may do with each entry what takes as long as that entry is large, and may not do again what takes as long as
//! the object is large; nothing may be built there, since what is built could be built upon. What is left is linear: so many
//! steps a pass over the object, and so many a turn of a loop, which [`Cost`] knows beforehand.

use std::collections::BTreeMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::CelInt;
use regex::{Regex, RegexBuilder};

use super::values::Size;
use super::{DEPTH_MAX, Uncompiled, VARIABLES};

/// What stands in a tree for `matches`: of a text and the number of a regex.
pub(super) const MATCHES: &str = "@matches";

/// Of a regex, compiled: what it is tried with, up to what is accepted. What a byte of text can cost grows with it, since so
/// many of its states can be live at once.
const REGEX_KIB: [usize; 5] = [1, 2, 4, 8, 16];

/// For each byte of text, and each KiB of the regex; as measured, of texts and regexes that are made for it.
const REGEX_STEPS_A_BYTE: u64 = 2;
/// Of a regex, whatever its text.
const REGEX_STEPS: u64 = 16;

/// Of a loop, besides what is written in it.
const TURN_STEPS: u64 = 4;

/// Literal texts up to this are no building material.
const SHORT_BYTES: usize = 16;

const TYPES: [&str; 10] = ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];

const ARITHMETIC: [&str; 9] = [
    operators::SUBSTRACT,
    operators::NEGATE,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
];

pub(super) const FUNCTIONS: [&str; 22] = [
    "contains",
    "size",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bytes",
    "bool",
    "dyn",
    "type",
    "has",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDate",
    "getHours",
    "getDayOfWeek",
    "getMinutes",
];

/// In steps, before it is known what it is asked of.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// However small the object.
    base: u64,
    of: Vec<OfPath>,
}

/// What becomes of one part of what is asked for: expressions ask for `object.spec.replicas`, seldom for all of it.
#[derive(Clone, Debug, PartialEq)]
struct OfPath {
    path: Path,
    /// How often all of it is read, or copied.
    reads: u64,
    /// For each byte of its texts.
    per_byte: u64,
    /// What each entry of its longest list or map costs in loops.
    per_entry: u64,
}

/// A variable, by its place, and what leads on from there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) variable: usize,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Field(String),
    /// All entries of a list, or all keys of a map: of them a loop meets one at each turn.
    Each,
}

impl Cost {
    pub(super) fn steps(&self, size: impl Fn(&Path) -> Size) -> u64 {
        self.of.iter().fold(self.base, |sum, of| {
            if of.reads == 0 && of.per_byte == 0 && of.per_entry == 0 {
                return sum;
            }
            let size = size(&of.path);
            let terms = [(of.reads, size.steps), (of.per_byte, size.text_bytes), (of.per_entry, size.longest)];
            terms.iter().fold(sum, |sum, (times, steps)| sum.saturating_add(times.saturating_mul(*steps)))
        })
    }
}

pub(super) struct Checked {
    pub(super) asks_for: [bool; 3],
    pub(super) regexes: Vec<Regex>,
    pub(super) cost: Cost,
}

/// Replaces each `matches` by [`MATCHES`].
pub(super) fn check(tree: &mut IdedExpr) -> Result<Checked, Uncompiled> {
    let checked = Checked { asks_for: [false; 3], regexes: Vec::new(), cost: Cost::default() };
    let mut check = Check { looping: None, checked };
    check.walk(tree, 0)?;
    Ok(check.checked)
}

/// How large a value can be. Nothing of the object: a number, a truth, what is written out.
#[derive(Clone, Debug, Default, PartialEq)]
struct Extent {
    /// The paths that it is made of, by their places, and how often; of an entry: over all turns.
    of: BTreeMap<usize, u64>,
    /// Inside a loop: it is not of the entry, so it is met whole at each turn.
    whole: bool,
    /// It can be a text that is written out, so long.
    literal_bytes: usize,
}

impl Extent {
    fn and(mut self, other: &Self) -> Self {
        for (path, times) in &other.of {
            let all = self.of.entry(*path).or_default();
            *all = all.saturating_add(*times);
        }
        self.whole |= other.whole;
        self.literal_bytes = self.literal_bytes.max(other.literal_bytes);
        self
    }

    /// Of something that is in it, or made of it.
    fn part(self) -> Self {
        Self { literal_bytes: 0, ..self }
    }

    fn is_small(&self) -> bool {
        self.of.is_empty()
    }
}

/// The loop that is looked into: there is at most one.
struct Loop {
    entry: String,
    result: String,
    range: Extent,
    /// Where the range is a path itself.
    entries: Option<Path>,
}

struct Check {
    looping: Option<Loop>,
    checked: Checked,
}

type Walked = Result<Extent, Uncompiled>;

impl Check {
    fn walk(&mut self, tree: &mut IdedExpr, depth: usize) -> Walked {
        let path = self.path(tree);
        if depth + path.as_ref().map_or(0, |path| path.steps.len()) > 4 * DEPTH_MAX {
            return Err(Uncompiled("nested too deep".to_owned()));
        }
        self.step(1);
        if let Some(path) = path {
            return Ok(self.of(path));
        }
        match &mut tree.expr {
            Expr::Unspecified => Ok(Extent::default()),
            Expr::Literal(literal) => {
                let literal_bytes = literal_bytes(literal);
                self.step(literal_bytes as u64 / 16);
                Ok(Extent { literal_bytes, ..Extent::default() })
            }
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                let of = self.walk(&mut select.operand, depth + 1)?;
                Ok(if select.test { Extent::default() } else { of.part() })
            }
            Expr::Call(call) => self.call(call, depth),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::List(list) => {
                self.may_build("a list")?;
                self.built(list.elements.iter_mut().collect(), depth)
            }
            Expr::Map(map) => {
                self.may_build("a map")?;
                let parts = map.entries.iter_mut().flat_map(|entry| match &mut entry.expr {
                    EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
                    EntryExpr::StructField(field) => vec![&mut field.value],
                });
                let parts = parts.collect();
                self.built(parts, depth)
            }
            Expr::Struct(literal) => Err(Uncompiled(format!("unknown type {:?}", literal.type_name))),
        }
    }

    /// What a chain of fields leads to, from a variable or from the entry of a loop over such a chain.
    fn path(&self, tree: &IdedExpr) -> Option<Path> {
        let further = |from: &IdedExpr, field: &str| {
            let mut path = self.path(from)?;
            path.steps.push(Step::Field(field.to_owned()));
            Some(path)
        };
        match &tree.expr {
            Expr::Ident(name) => match self.looping.as_ref().filter(|looping| looping.entry == *name) {
                Some(looping) => looping.entries.clone(),
                None => {
                    let variable = VARIABLES.iter().position(|known| known == name)?;
                    Some(Path { variable, steps: Vec::new() })
                }
            },
            Expr::Select(select) if !select.test => further(&select.operand, &select.field),
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [from, IdedExpr { expr: Expr::Literal(LiteralValue::String(field)), .. }] => {
                    further(from, field.inner())
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn of(&mut self, path: Path) -> Extent {
        self.checked.asks_for[path.variable] = true;
        self.step(path.steps.len() as u64);
        let whole = self.looping.is_some() && !path.steps.contains(&Step::Each);
        let of = &mut self.checked.cost.of;
        let place = of.iter().position(|known| known.path == path).unwrap_or_else(|| {
            of.push(OfPath { path, reads: 0, per_byte: 0, per_entry: 0 });
            of.len() - 1
        });
        Extent { of: [(place, 1)].into(), whole, literal_bytes: 0 }
    }

    fn name(&self, name: &str) -> Walked {
        match &self.looping {
            Some(looping) if looping.entry == name => return Ok(looping.range.clone()),
            Some(looping) if looping.result == name => return Ok(Extent::default()),
            _ => {}
        }
        if TYPES.contains(&name) {
            return Ok(Extent::default());
        }
        Err(Uncompiled(format!("undeclared reference to {name:?}: accepted are {}", VARIABLES.join(", "))))
    }

    fn call(&mut self, call: &mut CallExpr, depth: usize) -> Walked {
        let name = call.func_name.clone();
        if name == "matches" {
            return self.matches(call, depth);
        }
        if matches!(name.as_str(), operators::IN | operators::EQUALS | operators::NOT_EQUALS)
            && let [left, right] = call.args.as_mut_slice()
        {
            // Lists that are written out are no building: they are compared and gone.
            let left = self.operand(left, depth)?;
            let right = self.operand(right, depth)?;
            return if name == operators::IN {
                self.contained(&left, &right)
            } else {
                self.compared(&name, &left, &right)
            };
        }
        let target = call.target.iter_mut().map(AsMut::as_mut);
        let operands = target.chain(call.args.iter_mut()).map(|operand| self.walk(operand, depth + 1));
        let operands = operands.collect::<Result<Vec<_>, _>>()?;
        let all = operands.iter().fold(Extent::default(), Extent::and);
        match (name.as_str(), operands.as_slice()) {
            (operators::CONDITIONAL, [_, yes, no]) => Ok(yes.clone().and(no)),
            (operators::INDEX, [of, key]) => {
                self.not_whole("[…]", key)?;
                self.read(key);
                Ok(of.clone().part())
            }
            (
                operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE,
                _,
            )
            | ("type", _) => Ok(Extent::default()),
            // With a number, a text or a list makes a failure: nothing grows.
            (operators::ADD, _) if call.args.iter().any(is_number) => self.computed("+", &all),
            (operators::ADD, _) => {
                self.may_build("+ without a number that is written out")?;
                self.read(&all);
                Ok(all.part())
            }
            ("startsWith" | "endsWith", [text, part]) => self.compared(&name, text, part),
            ("dyn", [of]) => Ok(of.clone()),
            ("string" | "bytes", _) => {
                self.may_build(&format!("{name}()"))?;
                self.read(&all);
                Ok(all)
            }
            (arithmetic, _) if ARITHMETIC.contains(&arithmetic) => self.computed(arithmetic.trim_matches('_'), &all),
            (function, _) if FUNCTIONS.contains(&function) => self.computed(function, &all),
            (other, _) => {
                Err(Uncompiled(format!("undeclared function {other:?}: accepted are {}", FUNCTIONS.join(", "))))
            }
        }
    }

    /// What takes as long as the smaller of both.
    fn compared(&mut self, name: &str, left: &Extent, right: &Extent) -> Walked {
        if left.whole && right.whole && !left.is_small() && !right.is_small() {
            return Err(quadratic(&format!("{} between two values that are not of the entry", name.trim_matches('_'))));
        }
        if !left.is_small() && !right.is_small() {
            self.read(if left.whole { right } else { left });
        }
        Ok(Extent::default())
    }

    fn contained(&mut self, one: &Extent, list: &Extent) -> Walked {
        if !list.is_small() {
            self.not_whole("in", one)?;
            if list.whole {
                return Err(quadratic("`in` with a list that is not written out"));
            }
        }
        // Of a map it is one look, for which its key is read.
        self.read(list);
        self.read(one);
        Ok(Extent::default())
    }

    /// What gives a number or a truth, or fails and may then copy its operands into the failure.
    fn computed(&mut self, name: &str, operands: &Extent) -> Walked {
        self.not_whole(name, operands)?;
        self.read(operands);
        Ok(Extent::default())
    }

    fn matches(&mut self, call: &mut CallExpr, depth: usize) -> Walked {
        let mut operands: Vec<_> = call.target.take().map(|target| *target).into_iter().collect();
        operands.append(&mut call.args);
        let [mut text, pattern] = <[IdedExpr; 2]>::try_from(operands)
            .map_err(|_| Uncompiled("matches: wanted are a text and a regex".to_owned()))?;
        let Expr::Literal(LiteralValue::String(regex)) = &pattern.expr else {
            return Err(Uncompiled("matches: the regex must be written out".to_owned()));
        };
        let (regex, kib) = compiled(regex.inner())?;
        let of = self.walk(&mut text, depth + 1)?;
        self.not_whole("matches", &of)?;
        self.read(&of);
        for (path, times) in &of.of {
            let per_byte = &mut self.checked.cost.of[*path].per_byte;
            *per_byte = per_byte.saturating_add(times.saturating_mul(kib as u64 * REGEX_STEPS_A_BYTE));
        }
        // Of a short text: what a search takes to begin.
        self.step(REGEX_STEPS);
        let number = i64::try_from(self.checked.regexes.len()).unwrap_or(i64::MAX);
        self.checked.regexes.push(regex);
        let number = IdedExpr { id: pattern.id, expr: Expr::Literal(LiteralValue::Int(CelInt::from(number))) };
        *call = CallExpr { func_name: MATCHES.to_owned(), target: None, args: vec![text, number] };
        Ok(Extent::default())
    }

    fn comprehension(&mut self, comprehension: &mut ComprehensionExpr, depth: usize) -> Walked {
        if self.looping.is_some() {
            return Err(quadratic("another all, exists, map or filter"));
        }
        let entries = self.path(&comprehension.iter_range).map(|mut path| {
            path.steps.push(Step::Each);
            path
        });
        let range = self.walk(&mut comprehension.iter_range, depth + 1)?.part();
        // Each entry is copied once.
        self.read(&range);
        let before = self.checked.cost.base;
        let (entry, result) = (comprehension.iter_var.clone(), comprehension.accu_var.clone());
        self.looping = Some(Loop { entry, result, range: range.clone(), entries });
        self.walk(&mut comprehension.loop_cond, depth + 1)?;
        self.turn(comprehension, depth)?;
        self.looping = None;
        let turn = TURN_STEPS + self.checked.cost.base - before;
        for (path, times) in &range.of {
            let per_entry = &mut self.checked.cost.of[*path].per_entry;
            *per_entry = per_entry.saturating_add(turn.saturating_mul(*times));
        }
        self.step(turn.saturating_mul(written_out(&comprehension.iter_range)));
        let gathers = matches!(comprehension.accu_init.expr, Expr::List(_));
        Ok(if gathers { range } else { Extent::default() })
    }

    /// The step of a loop is one that a macro wrote around what its author wrote: `@result && …`, `@result + […]`,
    /// `… ? @result + […] : @result`.
    fn turn(&mut self, comprehension: &mut ComprehensionExpr, depth: usize) -> Result<(), Uncompiled> {
        let step = &mut comprehension.loop_step;
        let appends = |call: &CallExpr| {
            let is_result = |it: &IdedExpr| matches!(&it.expr, Expr::Ident(name) if *name == comprehension.accu_var);
            call.func_name == operators::ADD && call.args.first().is_some_and(is_result)
        };
        let append = match &mut step.expr {
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                if let Some(condition) = call.args.first_mut() {
                    self.walk(condition, depth + 1)?;
                }
                call.args.get_mut(1)
            }
            _ => Some(step),
        };
        let Some(append) = append else { return Ok(()) };
        let appended = match &mut append.expr {
            Expr::Call(call) if appends(call) => call.args.get_mut(1),
            _ => return self.walk(append, depth + 1).map(drop),
        };
        let Some(IdedExpr { expr: Expr::List(list), .. }) = appended else { return Ok(()) };
        for gathered in &mut list.elements {
            let gathered = self.walk(gathered, depth + 1)?;
            self.not_whole("map", &gathered)?;
            if gathered.literal_bytes > SHORT_BYTES {
                return Err(Uncompiled("map to a text that is written out".to_owned()));
            }
        }
        self.step(4);
        Ok(())
    }

    fn operand(&mut self, operand: &mut IdedExpr, depth: usize) -> Walked {
        if let Expr::List(list) = &operand.expr
            && list.elements.iter().all(|element| matches!(element.expr, Expr::Literal(_)))
        {
            let each = |element: &IdedExpr| match &element.expr {
                Expr::Literal(literal) => 1 + literal_bytes(literal) as u64 / 16,
                _ => 1,
            };
            self.step(1 + list.elements.iter().map(each).sum::<u64>());
            return Ok(Extent::default());
        }
        self.walk(operand, depth + 1)
    }

    fn built(&mut self, parts: Vec<&mut IdedExpr>, depth: usize) -> Walked {
        let mut all = Extent::default();
        for part in parts {
            all = all.and(&self.walk(part, depth + 1)?);
        }
        self.read(&all);
        Ok(all.part())
    }

    fn may_build(&self, what: &str) -> Result<(), Uncompiled> {
        match self.looping {
            None => Ok(()),
            Some(_) => Err(quadratic(what)),
        }
    }

    fn not_whole(&self, name: &str, operand: &Extent) -> Result<(), Uncompiled> {
        match operand.whole {
            false => Ok(()),
            true => Err(quadratic(&format!("{name} of a value that is not of the entry"))),
        }
    }

    fn step(&mut self, steps: u64) {
        let base = &mut self.checked.cost.base;
        *base = base.saturating_add(steps);
    }

    fn read(&mut self, extent: &Extent) {
        for (path, times) in &extent.of {
            let reads = &mut self.checked.cost.of[*path].reads;
            *reads = reads.saturating_add(*times);
        }
    }
}

/// How many entries a list can have of those that are written out in it.
fn written_out(tree: &IdedExpr) -> u64 {
    match &tree.expr {
        Expr::List(list) => list.elements.len() as u64 + list.elements.iter().map(written_out).sum::<u64>(),
        Expr::Map(map) => map.entries.len() as u64,
        Expr::Call(call) => {
            let target = call.target.iter().map(AsRef::as_ref);
            target.chain(&call.args).map(written_out).sum()
        }
        Expr::Select(select) => written_out(&select.operand),
        Expr::Comprehension(comprehension) => written_out(&comprehension.iter_range),
        _ => 0,
    }
}

/// And how large it is at most, in KiB.
fn compiled(regex: &str) -> Result<(Regex, usize), Uncompiled> {
    for kib in REGEX_KIB {
        match RegexBuilder::new(regex).size_limit(kib * 1024).build() {
            Ok(regex) => return Ok((regex, kib)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(error) => return Err(Uncompiled(format!("matches: {error}"))),
        }
    }
    let most = REGEX_KIB[REGEX_KIB.len() - 1];
    Err(Uncompiled(format!("matches: a regex that takes more than {most} KiB when it is compiled")))
}

fn is_number(tree: &IdedExpr) -> bool {
    matches!(&tree.expr, Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)))
}

fn literal_bytes(literal: &LiteralValue) -> usize {
    match literal {
        LiteralValue::String(text) => text.inner().len(),
        LiteralValue::Bytes(bytes) => bytes.inner().len(),
        _ => 0,
    }
}

fn quadratic(what: &str) -> Uncompiled {
    Uncompiled(format!("{what} inside of all, exists, map or filter: its cost would grow with the square of an object"))
}

//! JSON values as a page shows them: exactly what was recorded, laid out for reading.

use serde_json::value::RawValue;
use similar::{ChangeTag, TextDiff};

use crate::shown::Shown;

/// What fits on a line of the page, in characters.
const INLINE_CHARS_MAX: usize = 160;
/// A block of up to this many lines is open from the start.
const OPEN_LINES_MAX: usize = 24;
/// How many pairs of lines are compared for one page; texts past that are shown one after the other.
const COMPARED_PAIRS_MAX: usize = 1_000_000;
/// Indenting may make a value this many times as long; one that is mostly depth stays on its line instead.
const GROWTH_MAX: usize = 16;
/// Unchanged lines around a changed one.
const CONTEXT_LINES: usize = 3;

pub(crate) enum Value {
    Inline(Shown),
    Block(Block),
}

pub(crate) struct Block {
    pub(crate) text: Shown,
    /// "JSON, 12 lines"
    pub(crate) label: String,
    pub(crate) open: bool,
}

impl Value {
    /// A short value on one line, as JSON; a text of several lines as that text; the rest as indented JSON.
    pub(crate) fn new(json: &RawValue) -> Self {
        let json = json.get();
        if let Some(text) = lines_of(json) {
            return Self::Block(Block::new("Text", Shown::block(&text)));
        }
        if json.starts_with(['{', '[']) && !matches!(json, "{}" | "[]") {
            return Self::Block(Block::json(json));
        }
        if json.chars().nth(INLINE_CHARS_MAX).is_some() {
            return Self::Block(Block::new("Value", Shown::line(json)));
        }
        Self::Inline(Shown::line(json))
    }
}

impl Block {
    pub(crate) fn json(json: &str) -> Self {
        Self::new("JSON", Shown::block(&indented(json)))
    }

    fn new(kind: &str, text: Shown) -> Self {
        let lines = text.to_string().lines().count();
        let plural = if lines == 1 { "" } else { "s" };
        Self { text, label: format!("{kind}, {lines} line{plural}"), open: lines <= OPEN_LINES_MAX }
    }
}

/// A JSON string of several lines, unquoted.
fn lines_of(json: &str) -> Option<String> {
    if !json.starts_with('"') || !json.contains(r"\n") {
        return None;
    }
    serde_json::from_str::<String>(json).ok().filter(|text| text.trim_end().contains('\n'))
}

/// One line of a comparison of two texts.
pub(crate) struct Line {
    /// `+`, `-`, a space, or `…` where unchanged lines were left out.
    pub(crate) sign: char,
    pub(crate) text: Shown,
}

impl Line {
    pub(crate) fn class(&self) -> &'static str {
        match self.sign {
            '+' => "added",
            '-' => "removed",
            '…' => "skipped",
            _ => "kept",
        }
    }
}

/// What comparing texts may still cost on one page, in pairs of lines: comparing takes that many steps at worst.
pub(crate) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(COMPARED_PAIRS_MAX)
    }
}

/// Two texts, at least one of several lines, line by line; None where they are no such texts, or too dear.
pub(crate) fn compared(old: &RawValue, new: &RawValue, budget: &mut Budget) -> Option<Vec<Line>> {
    if lines_of(old.get()).is_none() && lines_of(new.get()).is_none() {
        return None;
    }
    let old: String = serde_json::from_str(old.get()).ok()?;
    let new: String = serde_json::from_str(new.get()).ok()?;
    let pairs = old.lines().count().saturating_mul(new.lines().count());
    budget.0 = budget.0.checked_sub(pairs)?;
    let diff = TextDiff::from_lines(old.as_str(), new.as_str());
    let mut lines = Vec::new();
    for (at, group) in diff.grouped_ops(CONTEXT_LINES).iter().enumerate() {
        if at > 0 {
            lines.push(Line { sign: '…', text: Shown::default() });
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            lines.push(Line { sign, text: Shown::block(change.value().trim_end_matches('\n')) });
            if change.missing_newline() {
                lines.push(Line { sign: '…', text: Shown::line("no newline at the end") });
            }
        }
    }
    Some(lines)
}

/// The same JSON with line breaks and two spaces a level. Works on the text, so that no number and no order changes, and
/// without recursion, so that no depth is too deep. What would grow past [`GROWTH_MAX`] stays as it is.
pub(crate) fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let break_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if out.len() > json.len() * GROWTH_MAX {
            return json.to_owned();
        }
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn raw(value: &serde_json::Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    #[test]
    fn json_is_indented_and_its_numbers_are_not_touched() {
        let json = r#"{"a":[1,{"b":{}}],"c":"{\"x\":[1, 2]}\\","n":123456789012345678901234567890.10,"e":[ ]}"#;
        let told = r#"{
  "a": [
    1,
    {
      "b": {}
    }
  ],
  "c": "{\"x\":[1, 2]}\\",
  "n": 123456789012345678901234567890.10,
  "e": []
}"#;
        assert_eq!(indented(json), told);
    }

    #[test]
    fn a_value_that_is_mostly_depth_stays_as_it_is() {
        let deep = format!("{}1{}", "[".repeat(8_000), "]".repeat(8_000));
        assert_eq!(indented(&deep), deep);
    }

    #[test]
    fn a_short_value_stays_on_its_line_and_a_text_of_many_lines_is_shown_as_such() {
        for (value, told) in
            [(json!("a:1"), r#""a:1""#), (json!(true), "true"), (json!({}), "{}"), (json!(null), "null")]
        {
            assert!(matches!(Value::new(&raw(&value)), Value::Inline(shown) if shown.to_string() == told), "{value}");
        }
        let Value::Block(text) = Value::new(&raw(&json!("a\nb\u{202e}\n"))) else { panic!("a block") };
        assert_eq!(
            (text.text.to_string().as_str(), text.label.as_str(), text.open),
            ("a\nb\\u{202e}\n", "Text, 2 lines", true)
        );
        let Value::Block(long) = Value::new(&raw(&json!((0..40).collect::<Vec<_>>()))) else { panic!("a block") };
        assert_eq!((long.label.as_str(), long.open), ("JSON, 42 lines", false));
    }

    #[test]
    fn texts_are_compared_by_line_with_what_surrounds_a_change() {
        let old: String = (0..20).map(|n| format!("line {n}\n")).collect();
        let new = old.replace("line 10\n", "line ten\n");
        let lines = compared(&raw(&json!(old)), &raw(&json!(new)), &mut Budget::default()).unwrap();
        let told: Vec<_> = lines.iter().map(|line| format!("{}{}", line.sign, line.text)).collect();
        assert_eq!(
            told,
            [" line 7", " line 8", " line 9", "-line 10", "+line ten", " line 11", " line 12", " line 13"]
        );
        assert!(compared(&raw(&json!("a")), &raw(&json!("b")), &mut Budget::default()).is_none());
        assert!(compared(&raw(&json!("a\nb")), &raw(&json!(1)), &mut Budget::default()).is_none());
    }

    #[test]
    fn a_page_compares_texts_only_as_long_as_it_can_afford_to() {
        let text = |c: &str, lines: usize| raw(&json!(format!("{c}\n").repeat(lines)));
        let mut budget = Budget::default();
        assert!(compared(&text("a", 2_000), &text("b", 2_000), &mut budget).is_none());
        let afforded = (0..200).filter(|_| compared(&text("a", 100), &text("b", 100), &mut budget).is_some()).count();
        assert_eq!(afforded, 100);
    }

    proptest! {
        #[test]
        fn indenting_changes_nothing_but_space(text in "[a-z\"\\\\{}\\[\\]:, \n]{0,20}", n in any::<i64>()) {
            let value = json!({"text": text, "list": [n, {"empty": {}, "t": text}], "none": []});
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&indented(&value.to_string())).unwrap(), value);
        }
    }
}

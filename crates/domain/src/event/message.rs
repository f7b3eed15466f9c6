//! Why a request was refused, in the API server's words, without what they quote of the object.

use std::borrow::Cow;

use crate::text::{shortened, storable};

const MESSAGE_CHARS_MAX: usize = 1_024;
/// How kube-apiserver begins to quote a value of an object, whatever is wrong with it: `Invalid value: "…"`.
const QUOTES: &str = " value: ";
const CUT: char = '…';

/// None where all of it may be the object's: what does not parse is quoted wherever the parser was.
pub(super) fn without_values(code: u16, message: &str) -> Option<String> {
    // What a webhook says when it refuses is its own.
    if code == 400 && !message.contains("denied the request") {
        return None;
    }
    let mut told = String::new();
    let mut rest = message;
    while let Some(at) = rest.find(QUOTES) {
        let (before, quoted) = rest.split_at(at + QUOTES.len());
        told.push_str(before);
        told.push(CUT);
        rest = after_quoted(quoted);
    }
    told.push_str(rest);
    Some(bounded(&told, MESSAGE_CHARS_MAX))
}

/// A text in quotes ends where they do; of anything else nobody can say where it ends.
fn after_quoted(text: &str) -> &str {
    let mut escaped = false;
    let Some(inside) = text.strip_prefix('"') else { return "" };
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return inside.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    ""
}

pub(super) fn bounded(text: &str, chars_max: usize) -> String {
    match storable(text) {
        Cow::Borrowed(text) => shortened(text, chars_max).into_owned(),
        Cow::Owned(text) => shortened(&text, chars_max).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_of_the_object_is_cut_out() {
        let cases = [
            (
                r#"web is invalid: spec.type: Unsupported value: "se\"cret": supported values: "A""#,
                r#"web is invalid: spec.type: Unsupported value: …: supported values: "A""#,
            ),
            (
                r#"[a: Invalid value: "x": must be, b: Invalid value: {"k":"se, cret"}: must be]"#,
                "[a: Invalid value: …: must be, b: Invalid value: …",
            ),
            (r#"a: Invalid value: "se"#, "a: Invalid value: …"),
            (r#"configmaps "a" already exists"#, r#"configmaps "a" already exists"#),
        ];
        for (message, told) in cases {
            assert_eq!(without_values(422, message).as_deref(), Some(told));
        }
        assert_eq!(without_values(400, r#"error found in #10 byte of ...|"secret"|..."#), None);
        assert!(without_values(400, r#"admission webhook "a" denied the request: no"#).is_some());
        assert_eq!(without_values(409, &"é".repeat(5_000)).unwrap().chars().count(), MESSAGE_CHARS_MAX);
    }
}

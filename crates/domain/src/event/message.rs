//! Why a request was refused, in the API server's words, without what they quote of the object.

use std::borrow::Cow;

use crate::text::{shortened, storable};

const MESSAGE_CHARS_MAX: usize = 1_024;
/// How kube-apiserver begins to quote a value of an object, whatever is wrong with it: `Invalid value: "…"`.
const QUOTES: &str = " value: ";
/// How it quotes where it tells what is wrong with an object: a difference in lines of its own, what a parser got, Go's
/// print of a structure, a value in the field's own words.
const QUOTES_OF_AN_OBJECT: [&str; 10] =
    ["\n", QUOTES, "got ", ": \"", "Not found: ", "entries for key ", "&", "{", "`", "\\n"];
/// Between the object's name and what is wrong with it.
const VERDICT: &str = " is invalid: ";
const CUT: char = '…';

/// Up to where a value of the object may begin: of what follows nobody can say where the value ends. None where all of it
/// may be the object's: what does not parse is quoted wherever the parser was.
pub(super) fn without_values(code: u16, message: &str) -> Option<String> {
    // What a webhook says when it refuses is its own.
    if code == 400 && !message.contains("denied the request") {
        return None;
    }
    let first = |mark: &&str| message.find(mark).map(|at| at + if mark.ends_with(' ') { mark.len() } else { 0 });
    let end = match code {
        422 | 500.. => {
            let verdict = message.find(VERDICT).map(|at| at + VERDICT.len());
            let quoted = verdict.and_then(|at| message.get(at..)?.find('"').map(|quote| at + quote));
            QUOTES_OF_AN_OBJECT.iter().filter_map(first).chain(quoted).min()
        }
        _ => first(&QUOTES),
    };
    let Some(told) = end.and_then(|end| message.get(..end)) else { return Some(bounded(message, MESSAGE_CHARS_MAX)) };
    let mut told = bounded(told.trim_end_matches('\n'), MESSAGE_CHARS_MAX - 1);
    told.push(CUT);
    Some(told)
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
                422,
                r#"web is invalid: spec.type: Unsupported value: "se\"cret": supported values: "A""#,
                "web is invalid: spec.type: Unsupported value…",
            ),
            (422, r#"[a: Invalid value: {"k":"se, cret"}: must be, b: Invalid value: "x"]"#, "[a: Invalid value: …"),
            (
                422,
                r#"Pod "web" is invalid: a: Forbidden: not "secret""#,
                r#"Pod "web" is invalid: a: Forbidden: not …"#,
            ),
            (
                422,
                "Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than a\n core.PodSpec{\n-\"Value\": \"old\"\n+\"Value\": \"hunter2\"",
                "Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than a…",
            ),
            (
                500,
                "failed: .spec.x: expected string, got &value.valueUnstructured{Value:12345}",
                "failed: .spec.x: expected string, got …",
            ),
            (500, r#"failed: .a: duplicate entries for key ["hunter2"]"#, "failed: .a: duplicate entries for key …"),
            (422, r#"spec.x: Not found: "hunter2""#, "spec.x: Not found…"),
            (
                403,
                r#"pods "a" is forbidden: b: Invalid value: "x": no"#,
                r#"pods "a" is forbidden: b: Invalid value: …"#,
            ),
            (409, r#"configmaps "a" already exists"#, r#"configmaps "a" already exists"#),
            (
                503,
                r#"admission webhook "a" denied the request: not made"#,
                r#"admission webhook "a" denied the request: not made"#,
            ),
        ];
        for (code, message, told) in cases {
            assert_eq!(without_values(code, message).as_deref(), Some(told));
        }
        assert_eq!(without_values(400, r#"error found in #10 byte of ...|"secret"|..."#), None);
        assert!(without_values(400, r#"admission webhook "a" denied the request: no"#).is_some());
        assert_eq!(without_values(409, &"é".repeat(5_000)).unwrap().chars().count(), MESSAGE_CHARS_MAX);
    }
}

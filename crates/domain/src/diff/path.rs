//! The way to a place in an object.
//!
//! `/` and a key for a member, `[field=value]` for an element known by its merge key, `[3]` for one known by its
//! position, from 0. As in RFC 6901 a `~` is written `~0` and a `/` `~1`; beyond it `]` is `~2`, `[` is `~3` and, in a
//! selector, `,` is `~4`, so that every path reads back in one way.

use std::fmt::Write as _;

use super::keys::ElementKey;

/// A path that grows and shrinks with a walk.
#[derive(Debug, Default)]
pub(crate) struct Path {
    text: String,
}

/// Where a path ended before it grew.
pub(crate) struct Mark(usize);

impl Path {
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn push_key(&mut self, key: &str) -> Mark {
        let mark = Mark(self.text.len());
        self.text.push('/');
        self.text.push_str(&escaped(key, &MEMBER));
        mark
    }

    pub(crate) fn push_select(&mut self, key: &ElementKey<'_>) -> Mark {
        self.push(format_args!("[{key}]"))
    }

    pub(crate) fn push_index(&mut self, index: usize) -> Mark {
        self.push(format_args!("[{index}]"))
    }

    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.text.truncate(mark.0);
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) -> Mark {
        let mark = Mark(self.text.len());
        // Writing to a String does not fail.
        let _ = self.text.write_fmt(part);
        mark
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
    /// Fields and their values; all must match.
    Select(Vec<(String, String)>),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is not a path: accepted is a way such as /spec/containers[name=app]/args[0]")]
pub struct PathError {
    pub given: String,
}

/// # Errors
/// Where the text is none that a diff writes.
pub fn parse(path: &str) -> Result<Vec<Step>, PathError> {
    let refused = || PathError { given: path.to_owned() };
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('/') {
            let end = behind.find(['/', '[']).unwrap_or(behind.len());
            steps.push(Step::Key(unescaped(&behind[..end]).ok_or_else(refused)?));
            rest = &behind[end..];
        } else {
            let (inside, behind) = rest.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(refused)?;
            steps.push(element(inside).ok_or_else(refused)?);
            rest = behind;
        }
    }
    Ok(steps)
}

fn element(inside: &str) -> Option<Step> {
    if !inside.contains('=') {
        return inside.parse().ok().map(Step::Index);
    }
    let pair = |pair: &str| pair.split_once('=').and_then(|(k, v)| Some((k.to_owned(), unescaped(v)?)));
    inside.split(',').map(pair).collect::<Option<_>>().map(Step::Select)
}

const MEMBER: [(char, &str); 3] = [('~', "~0"), ('/', "~1"), ('[', "~3")];
const SELECTOR: [(char, &str); 4] = [('~', "~0"), ('/', "~1"), (']', "~2"), (',', "~4")];
const ALL: [(char, &str); 5] = [('~', "~0"), ('/', "~1"), (']', "~2"), ('[', "~3"), (',', "~4")];

pub(crate) fn escaped_selector(text: &str) -> std::borrow::Cow<'_, str> {
    escaped(text, &SELECTOR)
}

fn escaped<'t>(text: &'t str, escapes: &[(char, &str)]) -> std::borrow::Cow<'t, str> {
    let escape = |c: char| escapes.iter().find(|(special, _)| *special == c).map(|(_, escape)| *escape);
    // All that is special, in any place, is one byte: most keys are looked at once and copied.
    if !text.bytes().any(|byte| matches!(byte, b'~' | b'/' | b'[' | b']' | b',' | b'\0')) {
        return text.into();
    }
    let text = crate::text::storable(text);
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match escape(c) {
            Some(escape) => out.push_str(escape),
            None => out.push(c),
        }
    }
    out.into()
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('~') {
        out.push_str(&rest[..at]);
        let (special, _) = ALL.iter().find(|(_, escape)| rest[at..].starts_with(escape))?;
        out.push(*special);
        rest = &rest[at + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_step_by_step() {
        let select = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let cases = [
            ("", vec![]),
            ("/a~1b/~0/~3x", vec![Step::Key("a/b".into()), Step::Key("~".into()), Step::Key("[x".into())]),
            ("/l[12]", vec![Step::Key("l".into()), Step::Index(12)]),
            (
                "/p[containerPort=53,protocol=UDP]/x",
                vec![
                    Step::Key("p".into()),
                    Step::Select(vec![select("containerPort", "53"), select("protocol", "UDP")]),
                    Step::Key("x".into()),
                ],
            ),
            ("/t[key=a~1b~2~4=]", vec![Step::Key("t".into()), Step::Select(vec![select("key", "a/b],=")])]),
        ];
        for (path, steps) in cases {
            assert_eq!(parse(path), Ok(steps), "{path}");
        }
        for given in ["x", "/a[", "/a[x]", "/a~9", "/a[b]c"] {
            assert_eq!(parse(given), Err(PathError { given: given.into() }));
        }
    }
}

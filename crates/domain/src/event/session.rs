//! A session (exec, attach, port-forward), as the query of its request describes it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::diff::quoted;
use crate::entry::Resource;
use crate::text::{shortened, storable};

const WORD_CHARS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    Exec,
    Attach,
    PortForward,
}

impl Session {
    pub(super) fn of(subresource: &str) -> Option<Self> {
        match subresource {
            "exec" => Some(Self::Exec),
            "attach" => Some(Self::Attach),
            "portforward" => Some(Self::PortForward),
            _ => None,
        }
    }

    pub(super) fn resource(self) -> Resource {
        match self {
            Self::Exec | Self::Attach => Resource::new("Terminal", ""),
            Self::PortForward => Resource::new("PortForward", ""),
        }
    }

    /// Of the command the program alone: its arguments may hold secrets.
    pub(super) fn describe(self, query: &str) -> (String, Value) {
        let word = |name| first(query, name).map(|word| shortened(&storable(&word), WORD_CHARS_MAX).into_owned());
        let is = |name| first(query, name).is_some_and(|value| value == "true" || value == "1");
        if self == Self::PortForward {
            return ("port-forward".to_owned(), json!({}));
        }
        let (program, container) = (word("command").filter(|_| self == Self::Exec), word("container"));
        let what = match (self, &program) {
            (Self::Exec, Some(program)) => format!("exec {}", quoted(program)),
            (Self::Exec, None) => "exec".to_owned(),
            _ => "attach".to_owned(),
        };
        let container_told =
            container.as_ref().map_or_else(String::new, |name| format!(" in container {}", quoted(name)));
        let facts = json!({"container": container, "command": program, "tty": is("tty"), "stdin": is("stdin")});
        (format!("{what}{container_told}"), facts)
    }
}

/// The first value under a name, as Go's `url.ParseQuery` reads it.
fn first<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    let spaced = if value.contains('+') { Cow::Owned(value.replace('+', " ")) } else { Cow::Borrowed(value) };
    Some(match spaced {
        Cow::Borrowed(text) => percent_decode_str(text).decode_utf8_lossy(),
        Cow::Owned(text) => Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_tells_its_program_and_never_its_arguments() {
        let (summary, facts) =
            Session::Exec.describe("command=my%20sh&command=-c&command=canary&container=app&stdin=true&tty=1");
        assert_eq!(summary, "exec my sh in container app");
        assert_eq!(facts, json!({"container": "app", "command": "my sh", "tty": true, "stdin": true}));
        assert_eq!(Session::Attach.describe("command=x&tty=false").0, "attach");
        assert_eq!(Session::PortForward.describe("ports=80"), ("port-forward".to_owned(), json!({})));
        assert_eq!(Session::Exec.describe("command=%ff+%00").0, "exec \u{fffd} \u{2400}");
    }
}

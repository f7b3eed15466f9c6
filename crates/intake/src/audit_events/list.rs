//! A posted or logged text, read as events without building what is not looked at.

use std::borrow::Cow;

use domain::event::{API_VERSION, AuditEvent};
use domain::text::shortened;
use serde::Deserialize;
use serde_json::error::Category;

/// Why a text is no event. Nothing of it is repeated but a word of its envelope.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("the text is not UTF-8 from byte {0}")]
    NotUtf8(usize),
    #[error("the JSON is cut short at line {line} column {column}")]
    CutShort { line: usize, column: usize },
    #[error("it is not valid JSON at line {line} column {column}")]
    NotJson { line: usize, column: usize },
    #[error("{what} is {given:?}: accepted is {accepted}")]
    Unknown { what: &'static str, given: String, accepted: &'static str },
    #[error("it is no audit event at line {line} column {column}{why}")]
    NotAnEvent { line: usize, column: usize, why: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
}

#[derive(Deserialize)]
struct EventList<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<AuditEvent<'a>>>,
}

/// An `Event` or an `EventList`.
///
/// # Errors
/// Where it is neither, of the one version that is read.
pub fn read(body: &[u8]) -> Result<Vec<AuditEvent<'_>>, Unread> {
    let text = std::str::from_utf8(body).map_err(|error| Unread::NotUtf8(error.valid_up_to()))?;
    let Envelope { kind, api_version } = serde_json::from_str(text).map_err(|error| fault(&error))?;
    let unknown =
        |what, given: &str, accepted| Err(Unread::Unknown { what, given: shortened(given, 64).into_owned(), accepted });
    let known = match &*kind {
        "Event" | "EventList" if api_version != API_VERSION => return unknown("apiVersion", &api_version, API_VERSION),
        "EventList" => serde_json::from_str::<EventList<'_>>(text).map(|list| list.items.unwrap_or_default()),
        "Event" => serde_json::from_str(text).map(|event| vec![event]),
        _ => return unknown("kind", &kind, "Event or EventList"),
    };
    known.map_err(|error| fault(&error))
}

fn fault(error: &serde_json::Error) -> Unread {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof => Unread::CutShort { line, column },
        Category::Syntax | Category::Io => Unread::NotJson { line, column },
        // Of serde's own words only those that quote no value.
        Category::Data => {
            let whole = error.to_string();
            let told = whole.starts_with("missing field `").then(|| format!(": {whole}"));
            Unread::NotAnEvent { line, column, why: told.unwrap_or_default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_event_is_refused_by_name_and_nothing_of_it_is_repeated() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "the JSON is cut short"),
            (b"{\"kind\":\"EventList\"", "the JSON is cut short"),
            (b"[]", r#"kind is "": accepted is Event or EventList"#),
            (b"nonsense", "it is not valid JSON"),
            (b"\xff", "the text is not UTF-8 from byte 0"),
            (br#"{"kind":"Pod","apiVersion":"v1"}"#, r#"kind is "Pod": accepted is Event or EventList"#),
            (
                br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1","items":[]}"#,
                r#"apiVersion is "audit.k8s.io/v1beta1": accepted is audit.k8s.io/v1"#,
            ),
            (
                br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{"stage":"Panic","user":{"username":"canary"}}]}"#,
                "missing field `auditID`",
            ),
        ];
        for (body, told) in cases {
            let said = read(body).unwrap_err().to_string();
            assert!(said.contains(told) && !said.contains("canary"), "{said}");
        }
        let none = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":null}"#;
        assert_eq!(read(none).unwrap().len(), 0);
    }
}

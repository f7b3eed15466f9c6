//! What an object shows of its life before the request: the counts that are noise in what was written.

use std::borrow::Cow;

use serde::Deserialize;

use crate::entry::Prior;
use crate::json::{Count, Node, Tree};
use crate::text::storable;

/// What there is to read a [`Prior`] from. Most reviews need none, so nothing is parsed before it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Trace<'a> {
    count: Count<'a>,
    created: Cow<'a, str>,
    terminating: bool,
}

/// An element of `metadata.managedFields`, but for its fields.
#[derive(Deserialize)]
struct Applied<'a> {
    #[serde(borrow, default)]
    manager: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
}

impl<'a> Trace<'a> {
    pub(crate) fn of(tree: &Tree<'a>) -> Self {
        let created = match tree.root.at(&["metadata", "creationTimestamp"]) {
            Some(Node::String(time)) => time.clone(),
            _ => Cow::Borrowed(""),
        };
        let terminating = tree.root.at(&["metadata", "deletionTimestamp"]).is_some();
        Self { count: tree.count, created, terminating }
    }

    /// What is not as the API server writes it is left out: it is a trace, not a reason to refuse.
    pub(crate) fn read(&self) -> Prior {
        let text = |text: Cow<'_, str>| storable(&text).into_owned();
        let resource_version = self.count.resource_version.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let applied = self.count.managed_fields.map_or("[]", |raw| raw.get());
        let applied: Vec<Applied<'_>> = serde_json::from_str(applied).unwrap_or_default();
        // Of one width, so the latest is the greatest.
        let last =
            applied.into_iter().filter(|applied| applied.subresource != "status").max_by(|a, b| a.time.cmp(&b.time));
        let (manager, written) = last.map_or_else(Default::default, |last| (text(last.manager), text(last.time)));
        Prior {
            resource_version: resource_version.map(text).unwrap_or_default(),
            created: text(self.created.clone()),
            terminating: self.terminating,
            manager,
            written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tests::raw;
    use crate::json::{Budget, Noise};

    fn prior(text: &str) -> Prior {
        let raw = raw(text);
        Trace::of(&Tree::read(&raw, Noise::Status, &Budget::default()).unwrap()).read()
    }

    #[test]
    fn the_last_writer_is_the_latest_that_did_not_write_the_status() {
        let read = prior(
            r#"{"metadata":{"resourceVersion":"7","creationTimestamp":"2026-03-01T12:00:00Z","deletionTimestamp":"x",
                "managedFields":[{"manager":"b","time":"2026-03-01T12:00:02Z","fieldsV1":{"f:a":{}}},
                {"manager":"a","time":"2026-03-01T12:00:01Z"},
                {"manager":"c","time":"2026-03-01T12:00:03Z","subresource":"status"}]}}"#,
        );
        let expected = Prior {
            resource_version: "7".into(),
            created: "2026-03-01T12:00:00Z".into(),
            terminating: true,
            manager: "b".into(),
            written: "2026-03-01T12:00:02Z".into(),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_not_as_the_api_server_writes_it_is_left_out() {
        for text in ["{}", r#"{"metadata":5}"#, r#"{"metadata":{"resourceVersion":7,"managedFields":{"a":[1]}}}"#] {
            assert_eq!(prior(text), Prior::default(), "{text}");
        }
    }
}

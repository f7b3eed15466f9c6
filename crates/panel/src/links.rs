//! The panel's own addresses, with their parameters percent-encoded: no link on a page is made in another way.

use std::fmt;

use domain::{EntryId, StoredEntry};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(crate) const LIST_PAGE: &str = "/settings/audit-logs";
pub(crate) const LIST_API: &str = "/api/v1/audit-logs";
const CSV_API: &str = "/api/v1/audit-logs.csv";

/// What RFC 3986 calls unreserved stays as it is.
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An address on this server, fit for a `href`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Href(String);

impl Href {
    fn new<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut href = path.to_owned();
        let mut separator = '?';
        for (name, value) in parameters.into_iter().filter(|(_, value)| !value.is_empty()) {
            href.push(separator);
            href.push_str(name);
            href.push('=');
            href.extend(utf8_percent_encode(value, &ENCODED));
            separator = '&';
        }
        Self(href)
    }
}

impl fmt::Display for Href {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn list<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Href {
    Href::new(LIST_PAGE, parameters)
}

pub(crate) fn csv<'a>(filters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Href {
    Href::new(CSV_API, filters)
}

/// An entry's page; the parameters lead back to the list it was chosen from.
pub(crate) fn entry<'a>(id: EntryId, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Href {
    Href::new(&format!("{LIST_PAGE}/{id}"), parameters)
}

pub(crate) fn entry_api(id: EntryId) -> Href {
    Href::new(&format!("{LIST_API}/{id}"), [])
}

/// Everything on the object of an entry, its subresources among it.
pub(crate) fn object(entry: &StoredEntry) -> Href {
    let kind = format!("{}.{}", entry.resource.kind(), entry.api_group);
    list([
        ("resource", kind.as_str()),
        ("cluster", &entry.cluster),
        ("namespace", &entry.namespace),
        ("name", &entry.resource_name),
    ])
}

pub(crate) fn user(entry: &StoredEntry) -> Href {
    list([("user", entry.user.as_str())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_parameter() {
        let href = list([("user", "a&action=delete#x\" onclick=\"é\u{202e}"), ("name", "")]);
        assert_eq!(
            href.to_string(),
            "/settings/audit-logs?user=a%26action%3Ddelete%23x%22%20onclick%3D%22%C3%A9%E2%80%AE"
        );
    }
}

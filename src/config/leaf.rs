//! One value of the configuration: parsed from its text, refused with what is accepted.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::NaiveTime;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What a key takes, as an error message ends: "accepted is …".
pub(super) trait Accepted: Sized {
    const ACCEPTED: &str;

    fn from_text(text: &str) -> Option<Self>;
}

/// A scalar of the file or a variable's text: both parse alike, so `"8"` and `8` are the same count.
#[derive(Clone, Debug)]
pub(super) struct Leaf<T>(pub(super) T);

impl<'de, T: Accepted> Deserialize<'de> for Leaf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        text.and_then(|text| T::from_text(&text)).map(Self).ok_or_else(|| serde::de::Error::custom(T::ACCEPTED))
    }
}

/// A cluster's name: stamped on every entry.
#[derive(Clone, Debug)]
pub(super) struct ClusterName(pub(super) String);

impl Accepted for ClusterName {
    const ACCEPTED: &str = "1 to 253 characters, none of them a control character";

    fn from_text(text: &str) -> Option<Self> {
        let fits = (1..=253).contains(&text.chars().count()) && !text.contains(char::is_control);
        fits.then(|| Self(text.to_owned()))
    }
}

/// A name as Kubernetes gives namespaces and Services: RFC 1123.
#[derive(Clone, Debug)]
pub(super) struct Label(pub(super) String);

impl Accepted for Label {
    const ACCEPTED: &str = "a name such as kubevision-audit: up to 63 lower-case letters, digits and inner hyphens";

    fn from_text(text: &str) -> Option<Self> {
        let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let ends = !text.starts_with('-') && !text.ends_with('-');
        (letters && ends && (1..=63).contains(&text.len())).then(|| Self(text.to_owned()))
    }
}

impl Accepted for SocketAddr {
    const ACCEPTED: &str = "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Accepted for bool {
    const ACCEPTED: &str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Days(pub(super) u32);

impl Accepted for Days {
    const ACCEPTED: &str = "a whole number of days from 0 (for ever) to 36500";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|days| *days <= 36_500).map(Self)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchEntries(pub(super) usize);

impl Accepted for BatchEntries {
    const ACCEPTED: &str = "a whole number of entries from 1 to 5000";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().filter(|entries| (1..=pipeline::BATCH_ENTRIES_MAX).contains(entries)).map(Self)
    }
}

const _: () = assert!(pipeline::BATCH_ENTRIES_MAX == 5_000, "the sentence above names the bound");

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchInterval(pub(super) Duration);

impl Accepted for BatchInterval {
    const ACCEPTED: &str = "a duration from 1ms to 1min, such as 500ms or 2s";

    fn from_text(text: &str) -> Option<Self> {
        let fits = |interval: &Duration| (Duration::from_millis(1)..=Duration::from_secs(60)).contains(interval);
        humantime::parse_duration(text).ok().filter(fits).map(Self)
    }
}

impl Accepted for NaiveTime {
    const ACCEPTED: &str = "a time of day in UTC, such as 02:00";

    fn from_text(text: &str) -> Option<Self> {
        Self::parse_from_str(text, "%H:%M").ok()
    }
}

impl Accepted for operator::WebhookUrl {
    const ACCEPTED: &str = "an https URL without path, such as https://127.0.0.1:8443";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// A path, or the URL of a database: any text but an empty one.
#[derive(Clone)]
pub(super) struct Text(pub(super) String);

impl Accepted for Text {
    const ACCEPTED: &str = "a text that is not empty";

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }
}

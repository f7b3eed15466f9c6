//! An entry as programs read it: the table's columns by name, in JSON and as cells of a CSV.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::{DetailJson, StoredEntry};
use serde::Serialize;

use crate::listing::Listing;

/// The columns in the table's order, which is the order of both forms.
pub(crate) const COLUMNS: [&str; COLUMNS_LEN] = [
    "id",
    "user",
    "action",
    "resource",
    "resource_name",
    "cluster",
    "namespace",
    "status_code",
    "detail",
    "ip",
    "timestamp",
    "outcome",
    "evidence",
    "source",
    "audit_id",
    "real_user",
    "user_agent",
    "api_group",
    "object_uid",
    "before_hash",
    "after_hash",
    "policy",
    "position",
];
const COLUMNS_LEN: usize = 23;

/// `detail` is an object, `timestamp` RFC 3339 in UTC with milliseconds.
///
/// The two hashes are decimal strings, the digits that SQL shows: they use all of 64 bits, and a JSON number of that size
/// silently becomes another one in JavaScript and in jq.
#[derive(Serialize)]
pub(crate) struct EntryBody<'a> {
    id: String,
    user: &'a str,
    action: &'static str,
    resource: &'a str,
    resource_name: &'a str,
    cluster: &'a str,
    namespace: &'a str,
    status_code: u16,
    detail: &'a DetailJson,
    ip: &'a str,
    timestamp: String,
    outcome: &'static str,
    evidence: &'static str,
    source: &'static str,
    audit_id: &'a str,
    real_user: &'a str,
    user_agent: &'a str,
    api_group: &'a str,
    object_uid: &'a str,
    before_hash: Option<String>,
    after_hash: Option<String>,
    policy: &'a str,
    position: i64,
}

impl<'a> From<&'a StoredEntry> for EntryBody<'a> {
    fn from(entry: &'a StoredEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            user: &entry.user,
            action: entry.action.as_str(),
            resource: entry.resource.as_str(),
            resource_name: &entry.resource_name,
            cluster: &entry.cluster,
            namespace: &entry.namespace,
            status_code: entry.status_code,
            detail: &entry.detail,
            ip: &entry.ip,
            timestamp: rfc3339(entry.id.timestamp()),
            outcome: entry.outcome.as_str(),
            evidence: entry.evidence.as_str(),
            source: entry.source.as_str(),
            audit_id: &entry.audit_id,
            real_user: &entry.real_user,
            user_agent: &entry.user_agent,
            api_group: &entry.api_group,
            object_uid: &entry.object_uid,
            before_hash: entry.before_hash.map(|hash| hash.0.to_string()),
            after_hash: entry.after_hash.map(|hash| hash.0.to_string()),
            policy: &entry.policy,
            position: entry.position,
        }
    }
}

impl EntryBody<'_> {
    /// The texts of the columns; what is not there is empty.
    pub(crate) fn cells(&self, mut each: impl FnMut(&str)) {
        let cells: [&str; COLUMNS_LEN] = [
            &self.id,
            self.user,
            self.action,
            self.resource,
            self.resource_name,
            self.cluster,
            self.namespace,
            &self.status_code.to_string(),
            self.detail.as_str(),
            self.ip,
            &self.timestamp,
            self.outcome,
            self.evidence,
            self.source,
            self.audit_id,
            self.real_user,
            self.user_agent,
            self.api_group,
            self.object_uid,
            self.before_hash.as_deref().unwrap_or_default(),
            self.after_hash.as_deref().unwrap_or_default(),
            self.policy,
            &self.position.to_string(),
        ];
        cells.into_iter().for_each(&mut each);
    }
}

/// The answer to a list.
#[derive(Serialize)]
pub(crate) struct ListBody<'a> {
    items: Vec<EntryBody<'a>>,
    next: Option<&'a str>,
    prev: Option<&'a str>,
}

impl<'a> From<&'a Listing> for ListBody<'a> {
    fn from(listing: &'a Listing) -> Self {
        Self {
            items: listing.entries.iter().map(EntryBody::from).collect(),
            next: listing.next.as_deref(),
            prev: listing.prev.as_deref(),
        }
    }
}

pub(crate) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

//! What the API server tells of a request once it knows what came of it: an `audit.k8s.io/v1` Event.
//!
//! Admission shows what a write would change; the event shows whether it came about, from where it was asked and by whom
//! really. [`tell`] makes entries of it: under the id that our webhook's annotation names, so that the two become one, or
//! under an id derived from the event's own, so that an event told twice is one entry.

mod annotations;
mod message;
mod session;
mod tell;

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::annotations::{Attempted, DENYING_WEBHOOK, WEBHOOK};
pub use self::tell::{Came, Covered, Judge, Judgement, Scene, Told, tell};

use self::annotations::Annotations;

/// The only version that is read; `v1beta1` went with Kubernetes 1.24.
pub const API_VERSION: &str = "audit.k8s.io/v1";

/// One event. It may hold a Secret, where the audit policy asks for objects: no `Serialize`, and `Debug` shows what
/// names it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent<'a> {
    #[serde(borrow, rename = "auditID")]
    audit_id: Cow<'a, str>,
    stage: Stage,
    #[serde(borrow, default, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow, default)]
    verb: Cow<'a, str>,
    #[serde(borrow, default)]
    user: UserInfo<'a>,
    #[serde(borrow, default)]
    impersonated_user: Option<UserInfo<'a>>,
    #[serde(borrow, default, rename = "sourceIPs")]
    source_ips: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    user_agent: Cow<'a, str>,
    #[serde(borrow, default)]
    object_ref: Option<ObjectReference<'a>>,
    #[serde(borrow, default)]
    response_status: Option<Status<'a>>,
    #[serde(borrow, default)]
    request_object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response_object: Option<&'a RawValue>,
    request_received_timestamp: DateTime<Utc>,
    stage_timestamp: DateTime<Utc>,
    #[serde(borrow, default)]
    annotations: Annotations<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

#[derive(Default, Deserialize)]
struct UserInfo<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
    #[serde(borrow, default)]
    groups: Option<Vec<Cow<'a, str>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference<'a> {
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    api_group: Cow<'a, str>,
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct Status<'a> {
    #[serde(default)]
    code: u16,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

impl AuditEvent<'_> {
    pub fn received(&self) -> DateTime<Utc> {
        self.request_received_timestamp
    }

    /// The group and the plural of what was written to, where it was and there is an object.
    pub fn written(&self) -> Option<(&str, &str)> {
        let object = self.object_ref.as_ref().filter(|object| !object.resource.is_empty())?;
        let is_write = matches!(&*self.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        // Of what is not served nobody can say what kind it would be.
        let is_served = self.code().is_some_and(|code| code != 404);
        (is_write && is_served).then_some((&*object.api_group, &*object.resource))
    }

    /// What the request came to; None where nobody has said.
    fn code(&self) -> Option<u16> {
        let said = self.response_status.as_ref().map(|status| status.code);
        match (self.stage, said) {
            (Stage::Panic, _) => Some(500),
            (_, said) => said.filter(|code| (100..600).contains(code)),
        }
    }

    /// The identity that was acted as.
    fn acting(&self) -> &UserInfo<'_> {
        self.impersonated_user.as_ref().unwrap_or(&self.user)
    }

    /// Only the last address is one that the API server saw; the others are the client's word.
    fn ip(&self) -> &str {
        self.source_ips.iter().flatten().next_back().map_or("", |ip| ip)
    }

    /// The path and the query of what was asked for.
    fn uri(&self) -> (&str, &str) {
        self.request_uri.split_once('?').unwrap_or((&self.request_uri, ""))
    }
}

impl fmt::Debug for AuditEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditEvent({} {:?} {})", self.audit_id, self.stage, self.verb)
    }
}

#[cfg(test)]
mod tests;

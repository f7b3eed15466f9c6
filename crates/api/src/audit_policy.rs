//! `AuditPolicy`, modelled on FlowSchema: many small objects, of which the lowest precedence that matches wins.

#![expect(unreachable_pub, reason = "the derive puts what it makes into a module of its own")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is recorded of the requests that match, for how long it is kept, and whether a write waits for its record.
///
/// Of all policies that match a request the one with the lowest precedence decides alone; of equal ones the first by
/// name. What matches none is recorded by the built-in policy: level Diff, kept and synced as config.yaml says.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "audit.kubevision.io",
    version = "v1alpha1",
    kind = "AuditPolicy",
    plural = "auditpolicies",
    shortname = "kvap",
    category = "kubevision",
    status = "AuditPolicyStatus",
    derive = "PartialEq",
    doc = "An AuditPolicy says what is recorded of the requests that it matches, for how long, and whether the API server's answer waits for the durable record.",
    printcolumn(name = "Precedence", type_ = "integer", json_path = ".spec.precedence"),
    printcolumn(name = "Level", type_ = "string", json_path = ".spec.level"),
    printcolumn(name = "Sync", type_ = "boolean", json_path = ".spec.sync"),
    printcolumn(
        name = "Retention",
        type_ = "integer",
        json_path = ".spec.retentionDays",
        description = "Days; 0 keeps for ever"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name != 'built-in'")
        .message("metadata.name: built-in is the policy of everything that no AuditPolicy matches: give this one another name"),
    // What carries a validation derives a second schema, which `crates` below does not reach.
    attr = "x_kube(crates(kube_core = \"::kube_core\"))",
    crates(kube = "::kube_derive", kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("self.onWriteFailure != 'Deny' || self.sync")
        .message("onWriteFailure: Deny needs sync: true, since only a write that waits for its record can be refused for the lack of it"),
    validation = Rule::new("self.level != 'None' || (!self.sync && self.onWriteFailure == 'Allow' && size(self.redact) == 0)")
        .message("level: None records nothing: sync, onWriteFailure: Deny and redact have no meaning beside it"),
    validation = Rule::new("self.onWriteFailure != 'Deny' || size(self.match.expression) == 0")
        .message("onWriteFailure: Deny cannot have an expression: what a policy refuses must be known to the API server when this program is away"),
    validation = Rule::new("self.onWriteFailure != 'Deny' || !has(self.match.namespaceSelector)")
        .message("onWriteFailure: Deny cannot have a namespaceSelector: name the namespaces")
)]
pub struct AuditPolicySpec {
    /// Of the policies that match a request the one with the lowest precedence decides; of equal ones the first by name.
    #[serde(default = "precedence")]
    #[schemars(range(min = 1, max = 10_000))]
    pub precedence: i32,

    /// Which requests this policy is for. All that are given must match; within a list, one is enough; what is empty
    /// matches everything.
    #[serde(default, rename = "match")]
    pub match_: Match,

    /// What is recorded. None: nothing, and the API server does not even ask. Metadata: who did what to which object, and
    /// when. Diff: also what changed (for a create or delete, the object). Full: also the whole object before and after.
    pub level: Level,

    /// Whether the API server's answer waits until the record is durable.
    #[serde(default)]
    pub sync: bool,

    /// What becomes of a write that cannot be recorded durably in time. Allow: it is made, and recorded later. Deny: it is
    /// refused, also while this program is away; needs sync.
    #[serde(default)]
    pub on_write_failure: OnWriteFailure,

    /// How many days entries of this policy are kept; 0 keeps them for ever. Each night's purge goes by the value that is
    /// in force then, also for older entries.
    #[serde(default = "retention_days")]
    // kube-apiserver knows no format of unsigned numbers, and warns of each at every apply.
    #[schemars(with = "i32", range(min = 0, max = 36_500))]
    pub retention_days: u32,

    /// Further values to redact, besides Secrets and what looks like one: paths as $.spec.password, $.spec.users[*].token,
    /// $.data['api.key'].
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 3, max = 256), regex(pattern = r"^\$([.\[]).+$")))]
    pub redact: Vec<String>,
}

/// Which requests a policy is for.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Rule::new("!(size(self.namespaces) > 0 && has(self.namespaceSelector))")
        .message("namespaces and namespaceSelector are two ways to say the same: give one of them")
)]
pub struct Match {
    /// API groups; "" is the core group, "*" all.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 253), regex(pattern = r"^(\*|[a-z0-9.-]*)$")))]
    pub api_groups: Vec<String>,

    /// Plurals as in RBAC: "secrets"; "pods/exec" for a subresource; "pods/*" all of its subresources; "*/scale" one of
    /// every resource; "*" everything, subresources included. "pods" alone does not include its subresources.
    #[serde(default)]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 253), regex(pattern = r"^(\*|[a-z0-9.-]+)(/(\*|[a-z0-9.-]+))?$"))
    )]
    pub resources: Vec<String>,

    /// CREATE, UPDATE, DELETE, CONNECT (a PATCH is an UPDATE; exec, attach and port-forward are CONNECT); none: all of these.
    /// GET, LIST and WATCH are recorded only where a policy names them, and only from the API server's audit events.
    #[serde(default)]
    #[schemars(length(max = 7))]
    pub operations: Vec<Operation>,

    /// Namespaces by name; a "*" at the end stands for any ending. Cluster-scoped objects are in none, but for a Namespace,
    /// which is in itself.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^([a-z0-9-]+\*?|\*)$")))]
    pub namespaces: Vec<String>,

    /// Namespaces by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Users by name, as the API server authenticated them; a "*" at the end stands for any ending
    /// ("system:serviceaccount:shop:*").
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub users: Vec<String>,

    /// Groups of the user, of which one is enough; a "*" at the end stands for any ending.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub groups: Vec<String>,

    /// CEL over the admission request as in matchConditions: `request`, `object`, `oldObject`; must give true or false. One
    /// that fails for a request (a field that is not there) counts as true, but with level None as false: in doubt it is
    /// recorded.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    pub expression: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    None,
    Metadata,
    Diff,
    Full,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnWriteFailure {
    #[default]
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
    Get,
    List,
    Watch,
}

/// What became of the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPolicyStatus {
    /// Ready: whether this generation of the policy is in force; its message says why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The version that is in force: the last one that could be. It stays in force while a later one cannot be, and is
    /// found here after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForce>,

    /// Entries recorded by this policy in the last 24 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched24h: Option<i64>,

    /// When an entry of this policy was last written to the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_flush_time: Option<Time>,

    /// What has told of this policy's entries lately: made one, or found out what came of it. Looks at the newest 1,000 of
    /// the last 24 hours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sources: Vec<SourceHeard>,

    /// When the last purge began that was finished: the nightly one, or the command `purge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_purge_time: Option<Time>,

    /// How many entries of this policy that purge removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_purged: Option<i64>,
}

/// A source of entries and of what came of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceHeard {
    /// `admission`, the webhook; `audit`, the API server's audit events; `watch`; `chain`, the states of objects.
    pub name: String,
    /// When the newest entry was made that it told of.
    pub last_time: Time,
}

/// A version of a policy that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InForce {
    pub generation: i64,
    /// The spec of that generation.
    #[schemars(schema_with = "any_object")]
    pub spec: BTreeMap<String, serde_json::Value>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn precedence() -> i32 {
    1_000
}

fn retention_days() -> u32 {
    90
}

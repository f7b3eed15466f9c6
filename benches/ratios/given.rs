//! What a bench gives to the product: the time, chance, and entries as a cluster makes them.

use chrono::{DateTime, Utc};
use domain::clock::{Clock, Entropy};
use domain::entry::ObjectHash;
use domain::{DetailJson, Entry, EntryId, RedactedEntry, Resource};

pub struct Now;

impl Clock for Now {
    #[expect(clippy::disallowed_methods, reason = "the bench's own end of the clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// Chance as the program takes it, with its cost.
pub struct Chance;

impl Entropy for Chance {
    #[expect(clippy::disallowed_methods, reason = "the bench's own end of chance")]
    fn bits(&self) -> u64 {
        uuid::Uuid::new_v4().as_u128() as u64
    }
}

/// The update of a workload, of which a few things differ from one to the next.
pub fn entry(id: EntryId, n: u64) -> RedactedEntry {
    let image = "/spec/template/spec/containers[name=app]/image";
    let (old, new) = (format!("registry.example/shop/app:{n}"), format!("registry.example/shop/app:{}", n + 1));
    let detail = serde_json::json!({
        "summary": format!("image {old} → {new}"),
        "changes": [
            {"op": "replace", "path": image, "old": old, "new": new},
            {"op": "replace", "path": "/metadata/annotations/deployment.kubernetes.io~1revision",
             "old": n.to_string(), "new": (n + 1).to_string()},
        ],
        "request": {"verb": "patch", "fieldManager": "kubectl-client-side-apply", "dryRun": false},
    });
    RedactedEntry::sample(Entry {
        user: format!("user-{}@example.com", n % 50),
        resource: Resource::new(["Deployment", "ConfigMap", "StatefulSet"][(n % 3) as usize], ""),
        resource_name: format!("web-{}", n % 2_000),
        namespace: format!("shop-{}", n % 40),
        #[expect(clippy::unwrap_used, reason = "a JSON value's own text")]
        detail: DetailJson::parse(detail.to_string()).unwrap(),
        api_group: "apps".to_owned(),
        object_uid: format!("0d5fbc1e-31b5-4b7b-9d1d-{n:012x}"),
        before_hash: Some(ObjectHash(n.cast_signed())),
        after_hash: Some(ObjectHash((n + 1).cast_signed())),
        policy: "built-in".to_owned(),
        ..Entry::sample(id)
    })
}

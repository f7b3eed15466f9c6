//! The stores over real databases: a SQLite file and a PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod postgres;
mod schema;
mod sqlite;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::entry::ObjectHash;
use domain::query::{Filter, Scope};
use domain::{DetailJson, Entry, EntryId, Evidence, Outcome, RedactedEntry, Resource, Source, StoredEntry};
use futures::TryStreamExt as _;
use store::Store;

fn noon() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn entry(time: DateTime<Utc>, random: u64) -> RedactedEntry {
    RedactedEntry::sample(Entry {
        resource: Resource::new("Deployment", "scale"),
        resource_name: "web".into(),
        detail: DetailJson::parse(r#"{"summary":"replicas 1 → 3"}"#.into()).unwrap(),
        ip: "10.0.0.7".into(),
        user_agent: "kubectl/v1.37.2".into(),
        api_group: "apps".into(),
        object_uid: "b9d8".into(),
        before_hash: Some(ObjectHash(-7)),
        policy: "default".into(),
        ..Entry::sample(EntryId::at(time, random))
    })
}

fn entries(count: u64) -> Vec<RedactedEntry> {
    (0..count).map(|n| entry(noon() + TimeDelta::milliseconds(n as i64), n)).collect()
}

/// What an audit event tells of it.
fn told(entry: &RedactedEntry) -> RedactedEntry {
    RedactedEntry::sample(Entry {
        outcome: Outcome::Confirmed,
        evidence: Evidence::Audit,
        source: Source::Audit,
        audit_id: "8a3f".into(),
        ..(**entry).clone()
    })
}

async fn all(store: &Arc<dyn Store>) -> Vec<StoredEntry> {
    store.stream(&Scope::Everything, &Filter::default()).try_collect().await.unwrap()
}

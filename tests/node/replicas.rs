//! Two replicas on PostgreSQL: pods come and go under load, and no write notices.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sqlx::{Connection as _, PgConnection, Row as _};
use testkit::chaos::Proxy;
use testkit::eventually;
use testkit::postgres::Postgres;

use crate::load::{Load, PER_SECOND_MIN, Write, Written};
use crate::node::{MACHINE, Node, STARTED_WITHIN};
use crate::release::{NAMESPACE, Release, failed_open};

const WAITS_AT_MOST: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn rolling_updates_deleted_pods_and_a_drain_cost_no_write_and_no_entry() -> anyhow::Result<()> {
    let node = Node::alone().await?;
    node.restricted_namespace("load").await?;
    let postgres = Postgres::start().await?;
    let url = postgres.create_database().await?;
    // Pods reach the machine by its end of the node's link; PostgreSQL listens on the loopback alone.
    let proxy = Proxy::start_at(MACHINE.parse()?, ([127, 0, 0, 1], postgres.port()).into())?;
    let release =
        Release::install(&node, &[&format!("database.url={}", proxy.through(&url)?), "config.audit.sync=true"]).await?;
    release.until_it_records("load").await?;
    let open_before = failed_open(&node).await?;

    let load = Load::start(&node, "load").await?;
    let restart = ["rollout", "restart", "deployment/kubevision-audit", "-n", NAMESPACE];
    node.run(&restart).await?;
    release.rolled_out().await?;
    println!("rolled");
    let pods = release.pods().await?;
    ensure!(pods.len() == 2, "{pods:?}");
    node.run(&["delete", "pod", &pods[0], "-n", NAMESPACE]).await?;
    both_serve(&release).await?;
    println!("deleted and replaced");
    // A drain evicts; the disruption budget lets one go at a time.
    let drain = ["drain", "kubevision", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"];
    let drained = node.kubectl(drain.iter().chain(&["--pod-selector=app.kubernetes.io/name=kubevision-audit"]))?;
    let drained = drained.spawn()?;
    eventually(STARTED_WITHIN, || async {
        let serving = release.pods().await?;
        ensure!(serving.len() < 2, "nothing is evicted yet");
        Ok(())
    })
    .await?;
    node.run(&["uncordon", "kubevision"]).await?;
    both_serve(&release).await?;
    drop(drained);
    println!("drained and back");

    let written = load.finish().await?;
    let failed = failed_open(&node).await? - open_before;
    no_write_suffered(&written);
    each_is_stored_once(&url, &written.writes).await?;
    assert_eq!(failed, 0, "calls that found no replica");
    release.uninstall().await?;
    node.without_namespace(NAMESPACE).await?;
    node.without_namespace("load").await
}

async fn both_serve(release: &Release<'_>) -> anyhow::Result<()> {
    eventually(STARTED_WITHIN, || async {
        let pods = release.pods().await?;
        ensure!(pods.len() == 2, "{pods:?}");
        Ok(())
    })
    .await
}

fn no_write_suffered(written: &Written) {
    let (writes, per_second) = (&written.writes, written.per_second());
    let refused: Vec<_> = writes.iter().filter(|write| write.refused.is_some()).collect();
    assert!(refused.is_empty(), "{} of {} failed, as {:?}", refused.len(), writes.len(), refused.first());
    let slowest = writes.iter().max_by_key(|write| write.took).expect("nothing was written");
    println!("{} writes, {per_second:.1} a second, the slowest took {:.1?}", writes.len(), slowest.took);
    assert!(per_second >= f64::from(PER_SECOND_MIN), "{per_second:.1} writes a second are no load");
    assert!(slowest.took < WAITS_AT_MOST, "{slowest:?}");
}

/// They were recorded before they were answered, so nothing is waited for but the last.
async fn each_is_stored_once(url: &str, writes: &[Write]) -> anyhow::Result<()> {
    let mut database = PgConnection::connect(url).await.context("connecting to PostgreSQL")?;
    let mut counts = BTreeMap::new();
    let sql = "SELECT resource_name, count(*) FROM audit_entries WHERE namespace = 'load' AND action = 'create' \
               AND resource = 'ConfigMap' GROUP BY 1";
    for row in sqlx::query(sql).fetch_all(&mut database).await? {
        counts.insert(row.get::<String, _>(0), row.get::<i64, _>(1));
    }
    let wrong: Vec<_> = writes.iter().filter(|write| counts.get(&write.name) != Some(&1)).collect();
    assert!(wrong.is_empty(), "{} of {} are not stored once, as {:?}", wrong.len(), writes.len(), wrong.first());
    Ok(())
}

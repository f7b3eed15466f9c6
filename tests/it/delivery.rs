//! That every write which was acknowledged is stored, once, whatever becomes of the database and of the program.
//!
//! Two books are compared: what the clients were told by the API server, or what its audit log says that the program
//! answered, and what the database holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::chaos::{Network, Proxy};
use testkit::eventually;
use testkit::http;
use testkit::postgres::Postgres;
use tokio::task::JoinSet;

use crate::api::config_map;
use crate::house::{BOTH, Database, House};
use crate::load::{Load, accepted, all_accepted, each_is_stored_once, events, failed_open, ids, quantile, stored};

const CLIENTS: usize = 8;
const MIB: u64 = 1024 * 1024;
/// Of a process that has nothing to do, and of one that has recorded 2,000 writes.
const IDLE_BYTES_MAX: u64 = 30 * MIB;
const AFTER_BURST_BYTES_MAX: u64 = 80 * MIB;
/// The queue is full, 32 MiB of it, and what is on its way in and out of it comes on top.
const FULL_QUEUE_BYTES_MAX: u64 = 128 * MIB;
const WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_writes_by_eight_clients_are_two_thousand_entries() -> anyhow::Result<()> {
    for database in BOTH {
        burst(database, "").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_writes_that_wait_for_the_database_are_two_thousand_entries() -> anyhow::Result<()> {
    for database in BOTH {
        burst(database, "audit: {sync: true}").await?;
    }
    Ok(())
}

async fn burst(database: Database, config: &str) -> anyhow::Result<()> {
    const WRITES: usize = 2_000;
    let house = House::on(database, config).await?;
    let sync = if config.is_empty() { "async" } else { "sync" };
    let namespace = house.namespace(&format!("burst-{database:?}-{sync}").to_lowercase()).await?;
    let idle = house.program.rss_bytes()?;
    let load = Load::start(&house, &namespace, CLIENTS, WRITES / CLIENTS)?;
    let writes = load.finish().await?;
    assert_eq!(writes.len(), WRITES);
    each_is_stored_once(&house, &namespace, &writes).await?;
    let events = events(&house.control_plane, &namespace, WRITES).await?;
    assert_eq!(failed_open(&events), 0);
    assert_eq!(all_accepted(&events), ids(&house, &namespace).await?);

    let after = house.program.rss_bytes()?;
    let p99 = quantile(&writes, 0.99);
    println!("{database:?} {sync}: p99 {p99:.1?}; resident {} MiB idle, {} MiB after", idle / MIB, after / MIB);
    assert!(idle <= IDLE_BYTES_MAX, "{idle} bytes idle");
    assert!(after <= AFTER_BURST_BYTES_MAX, "{after} bytes after the burst");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_told_to_end_in_the_middle_stores_all_that_it_accepted() -> anyhow::Result<()> {
    for database in BOTH {
        let mut house = House::on(database, "").await?;
        let namespace = house.namespace(&format!("sigterm-{database:?}").to_lowercase()).await?;
        let load = Load::start(&house, &namespace, CLIENTS, usize::MAX)?;
        load.goes_on_for(500).await?;
        let status = house.program.sigterm_and_wait().await?;
        load.goes_on_for(100).await?;
        let writes = load.stop().await?;
        assert_eq!(status.code(), Some(0), "{}", house.program.log()?);

        let events = events(&house.control_plane, &namespace, writes.len()).await?;
        let (accepted, stored) = (all_accepted(&events), ids(&house, &namespace).await?);
        println!("{database:?}: {} of {} writes accepted before the end", accepted.len(), writes.len());
        assert!(accepted.len() >= 500 && failed_open(&events) >= 100, "the end came in the middle");
        let lost: Vec<_> = accepted.difference(&stored).collect();
        assert!(lost.is_empty(), "accepted and not stored: {lost:?}\n{}", house.program.log()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_20_seconds_costs_no_entry_and_slows_no_write() -> anyhow::Result<()> {
    const AWAY: Duration = Duration::from_secs(20);
    let postgres = Postgres::start().await?;
    let house = House::on_postgres(&postgres, "").await?;
    let namespace = house.namespace("away").await?;
    let load = Load::start(&house, &namespace, 2, usize::MAX)?;
    load.goes_on_for(600).await?;

    postgres.stop().await?;
    let gone = Instant::now();
    let said = not_ready(&house).await?;
    assert!(said.contains("[-]store failed: "), "{said}");
    // What the chart probes: a Service goes on sending writes here.
    assert_eq!(http::get(house.program.metrics(), "/readyz?exclude=store").await?.status, 200);
    load.goes_on_through(AWAY).await?;
    let back = Instant::now();
    postgres.start_again().await?;
    load.goes_on_for(200).await?;
    let writes = load.stop().await?;

    each_is_stored_once(&house, &namespace, &writes).await?;
    let (before, during): (Vec<_>, Vec<_>) =
        writes.iter().filter(|write| write.start < back).partition(|write| write.start < gone);
    let [before_p99, during_p99] = [&before, &during].map(|part| quantile(part.iter().copied(), 0.99));
    println!(
        "{} writes while the database was away; p99 {before_p99:.1?} before, {during_p99:.1?} then; resident {} MiB after",
        during.len(),
        house.program.rss_bytes()? / MIB
    );
    assert!(during_p99 <= 5 * before_p99 + Duration::from_millis(200), "writes waited for the database");
    let events = events(&house.control_plane, &namespace, writes.len()).await?;
    assert_eq!(failed_open(&events), 0);
    eventually(WITHIN, || async {
        let answer = http::get(house.program.metrics(), "/readyz").await?;
        ensure!(answer.status == 200, "{}", answer.body);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_again_and_again_has_each_entry_once() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let house = House::on_postgres(&postgres, "").await?;
    let namespace = house.namespace("crashes").await?;
    let load = Load::start(&house, &namespace, 4, usize::MAX)?;
    for _ in 0..3 {
        load.goes_on_for(300).await?;
        postgres.crash().await?;
        load.goes_on_for(100).await?;
        postgres.start_again().await?;
    }
    let writes = load.stop().await?;
    each_is_stored_once(&house, &namespace, &writes).await
}

/// Where a connection is cut in the middle of a commit, nobody knows whether it was done, and it is done again.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_cuts_commits_off_loses_no_entry_and_doubles_none() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let proxy = Proxy::start(([127, 0, 0, 1], postgres.port()).into())?;
    let url = proxy.through(&postgres.create_database().await?)?;
    let house = House::at(Database::Postgres, Some(url), "audit: {batch: {interval: 20ms}}").await?;
    let namespace = house.namespace("cut-off").await?;
    let load = Load::start(&house, &namespace, 4, usize::MAX)?;
    for before in [Network::Slow(Duration::from_millis(50)), Network::Stalled, Network::Slow(Duration::from_millis(5))]
    {
        load.goes_on_for(100).await?;
        proxy.set(before);
        load.goes_on_for(100).await?;
        proxy.set(Network::Cut);
        load.goes_on_for(50).await?;
        proxy.set(Network::Fine);
    }
    let writes = load.stop().await?;
    each_is_stored_once(&house, &namespace, &writes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sync_mode_a_write_that_returned_is_in_the_database() -> anyhow::Result<()> {
    const WRITES: usize = 200;
    for database in BOTH {
        let house = House::on(database, "audit: {sync: true}").await?;
        let namespace = house.namespace(&format!("returned-{database:?}").to_lowercase()).await?;
        let (api, mut sql) = (house.api("alice")?, house.connect().await?);
        let start = Instant::now();
        for number in 0..WRITES {
            let (collection, object) = config_map(&namespace, &format!("n{number}"), json!({"n": "1"}));
            api.create(&collection, &object).await?;
            let count = format!(
                "select count(*) from audit_entries where namespace = '{namespace}' and resource_name = 'n{number}'"
            );
            assert_eq!(
                sql.rows(&count).await?,
                ["1"],
                "{database:?}: write {number} is back before its entry is there"
            );
        }
        println!("{database:?}: {WRITES} writes, one after another, in {:.1?}", start.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sync_mode_without_the_database_a_write_is_admitted_in_time_and_stored_later() -> anyhow::Result<()> {
    const WRITES: usize = 6;
    let postgres = Postgres::start().await?;
    let house = House::on_postgres(&postgres, "audit: {sync: true}").await?;
    let namespace = house.namespace("sync-away").await?;
    postgres.stop().await?;
    let mut writes = JoinSet::new();
    for number in 0..WRITES {
        let api = house.api("alice")?;
        let (collection, object) = config_map(&namespace, &format!("n{number}"), json!({"n": "1"}));
        writes.spawn(async move {
            let start = Instant::now();
            api.create(&collection, &object).await?;
            anyhow::Ok(start.elapsed())
        });
    }
    let took = writes.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let (fastest, slowest) = took.iter().min().zip(took.iter().max()).context("none was written")?;
    println!("admitted without the database after {fastest:.1?} to {slowest:.1?}");
    assert!(*fastest >= Duration::from_secs(1), "it did not wait for the database");
    // An id in the event is an answer that came inside the two seconds that the API server waits for one.
    let events = events(&house.control_plane, &namespace, WRITES).await?;
    let accepted = all_accepted(&events);
    assert_eq!((accepted.len(), failed_open(&events)), (WRITES, 0));

    postgres.start_again().await?;
    stored(&house, &namespace, WRITES).await?;
    assert_eq!(ids(&house, &namespace).await?, accepted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_without_its_database_takes_writes_in_and_stores_them_later() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let url = postgres.create_database().await?;
    postgres.stop().await?;
    let mut house = House::not_ready(Database::Postgres, Some(url), "").await?;
    // Reviews are taken in once there is a key, which is in the cluster and not in the database.
    eventually(WITHIN, || async {
        let verbose = http::get(house.program.metrics(), "/readyz?verbose").await?;
        ensure!(verbose.body.contains("[+]webhook ok"), "{}", verbose.body);
        Ok(())
    })
    .await?;
    assert_eq!(http::get(house.program.metrics(), "/healthz").await?.status, 200);
    let said = not_ready(&house).await?;
    assert!(said.contains("[-]store failed: ") && said.contains("[-]migrations failed: "), "{said}");
    // A pod that never had a database is not sent to by a Service, also where one that lost it is.
    assert_eq!(http::get(house.program.metrics(), "/readyz?exclude=store").await?.status, 503);

    let (api, namespace) = (house.api("alice")?, house.namespace("started-without").await?);
    let mut written = 0;
    let events = eventually(WITHIN, || {
        written += 1;
        let (collection, object) = config_map(&namespace, &format!("n{written}"), json!({"n": "1"}));
        let (house, api, namespace) = (&house, &api, &namespace);
        async move {
            api.create(&collection, &object).await?;
            let events = events(&house.control_plane, namespace, written).await?;
            ensure!(all_accepted(&events).len() >= 5, "the API server does not call yet");
            Ok(events)
        }
    })
    .await?;
    let accepted = all_accepted(&events);
    println!("{} of {} writes accepted without the database", accepted.len(), events.len());

    assert!(house.program.ended()?.is_none(), "{}", house.program.log()?);
    postgres.start_again().await?;
    house.program.ready().await?;
    stored(&house, &namespace, accepted.len()).await?;
    assert!(accepted.is_subset(&ids(&house, &namespace).await?));
    Ok(())
}

/// A patch that meets another's write runs admission again, inside the same request. So there are more entries than
/// writes; each write's own is the newest of those that its audit event names, and the states that were stored are a
/// chain in them, one entry's `after` the next one's `before`.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_twelve_parallel_patches_has_its_entry_and_discarded_attempts_are_unconfirmed() -> anyhow::Result<()> {
    const PATCHES: usize = 12;
    let house = House::on(Database::Sqlite, "").await?;
    let namespace = house.namespace("patches").await?;
    let (collection, object) = config_map(&namespace, "shared", json!({}));
    let api = house.api("alice")?;
    let path = format!("{collection}/shared");
    api.create(&collection, &object).await?;
    let mut patches = JoinSet::new();
    for number in 0..PATCHES {
        let (api, path) = (api.clone(), path.clone());
        patches.spawn(async move { api.merge(&path, &json!({"data": {format!("k{number}"): "v"}})).await });
    }
    let mut states = patches.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    api.delete(&path).await?;

    let events = events(&house.control_plane, &namespace, PATCHES + 2).await?;
    assert_eq!(failed_open(&events), 0);
    let accepted_ids = all_accepted(&events);
    let entries = house.entries(&format!("namespace={namespace}&resource=ConfigMap"), accepted_ids.len()).await?;
    let id_of = |entry: &Value| entry["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(entries.iter().map(id_of).collect::<BTreeSet<_>>(), accepted_ids);
    println!("{} entries of {} writes", entries.len(), events.len());
    assert!(entries.iter().all(|entry| entry["outcome"] == "unconfirmed"), "nobody has seen what came of them");

    let persisted: BTreeSet<_> = events.iter().filter_map(|event| accepted(event).pop_last()).collect();
    assert_eq!(persisted.len(), events.len());
    let of_persisted = |action: &str| {
        let is_it = |entry: &&Value| entry["action"] == action && persisted.contains(&id_of(entry));
        entries.iter().filter(is_it).collect::<Vec<_>>()
    };
    let updates = of_persisted("update");
    let mut state = &of_persisted("create").first().context("no entry of the creation")?["after_hash"];
    let mut known = BTreeSet::new();
    states.sort_by_key(|object| object["data"].as_object().map_or(0, serde_json::Map::len));
    for object in &states {
        let keys: BTreeSet<_> = object["data"].as_object().context("no data")?.keys().cloned().collect();
        let added: Vec<_> = keys.difference(&known).collect();
        let told = json!([{"op": "add", "path": format!("/data/{}", added[0]), "new": "v"}]);
        let is_it = |entry: &&&Value| entry["before_hash"] == *state && whole(&entry["detail"]["changes"]) == told;
        let found: Vec<_> = updates.iter().filter(is_it).collect();
        assert_eq!((added.len(), found.len()), (1, 1), "{added:?} after {known:?}: {updates:#?}");
        state = &found[0]["after_hash"];
        known = keys;
    }
    let deleted = of_persisted("delete");
    assert_eq!((known.len(), &deleted[0]["before_hash"]), (PATCHES, state));
    Ok(())
}

/// The first key's change adds the whole of `data`, which was absent: told as the key's own.
fn whole(changes: &Value) -> Value {
    match changes.as_array().map(Vec::as_slice) {
        Some([one]) if one["path"] == "/data" => {
            let members = one["new"].as_object();
            let told = members
                .into_iter()
                .flatten()
                .map(|(key, value)| json!({"op": one["op"], "path": format!("/data/{key}"), "new": value}));
            told.collect()
        }
        _ => changes.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_admits_at_once_and_tells_what_was_lost() -> anyhow::Result<()> {
    const WRITES: usize = 100;
    const OBJECT_BYTES: usize = 500_000;
    let postgres = Postgres::start().await?;
    let house = House::on_postgres(&postgres, "").await?;
    let namespace = house.namespace("full").await?;
    postgres.stop().await?;
    let api = house.api("alice")?;
    let mut slowest = Duration::ZERO;
    for number in 0..WRITES {
        let data = json!({"big": "x".repeat(OBJECT_BYTES)});
        let (collection, object) = config_map(&namespace, &format!("n{number}"), data);
        let start = Instant::now();
        api.create(&collection, &object).await?;
        slowest = slowest.max(start.elapsed());
    }
    let events = events(&house.control_plane, &namespace, WRITES).await?;
    let accepted = all_accepted(&events);
    assert_eq!(failed_open(&events), 0, "each was answered in time");
    let full = house.program.rss_bytes()?;

    postgres.start_again().await?;
    stored(&house, &namespace, accepted.len()).await?;
    assert_eq!(ids(&house, &namespace).await?, accepted);
    let gaps = house.entries("action=gap", 1).await?;
    let gap = &gaps[0]["detail"]["system"];
    assert_eq!(gap["lost"], WRITES - accepted.len(), "{gap}");
    assert!(accepted.len() < WRITES, "the queue was never full");
    assert!(gap["from"].as_str() < gap["to"].as_str(), "{gap}");
    assert!(gap["reason"].as_str().is_some_and(|reason| reason.contains("queue was full")), "{gap}");
    let drained = house.program.rss_bytes()?;
    println!(
        "{} accepted, {} told as lost; the slowest write took {slowest:.1?}; resident {} MiB with a full queue, {} MiB \
         after",
        accepted.len(),
        gap["lost"],
        full / MIB,
        drained / MIB
    );
    assert!(full.max(drained) <= FULL_QUEUE_BYTES_MAX, "{full} bytes with a full queue, {drained} bytes after");
    Ok(())
}

/// What `/readyz` says, once it says no.
async fn not_ready(house: &House) -> anyhow::Result<String> {
    eventually(WITHIN, || async {
        let answer = http::get(house.program.metrics(), "/readyz").await?;
        ensure!(answer.status == 503, "/readyz answers {}", answer.status);
        Ok(answer.body)
    })
    .await
}

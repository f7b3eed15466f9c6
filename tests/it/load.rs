//! Many writes at once through the API server, and the two books that are compared afterwards: what the API server
//! acknowledged, and what the program has of it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use testkit::control_plane::ControlPlane;
use testkit::eventually;
use tokio::task::JoinSet;

use crate::api::{Api, config_map};
use crate::house::House;

/// How the API server's audit events name an entry of ours: the webhook, the key, and then the id.
const ANNOTATION: &str = "admission.audit.kubevision.io/entry.";
/// How they tell that our webhook did not answer.
const FAILED_OPEN: &str = "failed-open.validating.webhook.admission.k8s.io/";
/// Some hundred writes take a second.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);
/// An event is logged a moment after its request was answered.
const LOGGED_WITHIN: Duration = Duration::from_secs(20);
/// A batch is half a second apart, a store that was away is asked again after five, and a machine may be busy.
const STORED_WITHIN: Duration = Duration::from_secs(60);

/// Clients that write without a pause, each as a user and to objects of its own: one creates a ConfigMap, then
/// replaces it, then creates the next.
///
/// It replaces and does not patch: a patch that meets a stale cache runs admission again, which is an attempt more than
/// there are writes.
pub struct Load {
    clients: JoinSet<anyhow::Result<Vec<Write>>>,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    start: Instant,
}

/// A write that the API server acknowledged.
#[derive(Clone, Debug)]
pub struct Write {
    pub told: Told,
    pub start: Instant,
    pub took: Duration,
}

/// By what a write and its entry know each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    pub user: String,
    pub action: String,
    pub name: String,
    /// What was written; no two writes write the same.
    pub value: String,
}

impl Load {
    /// Each client does so many writes, or ends earlier when told to.
    pub fn start(house: &House, namespace: &str, clients: usize, writes_each: usize) -> anyhow::Result<Self> {
        Self::at_pace(house, namespace, clients, writes_each, None)
    }

    /// As [`Self::start`]; each client with so much time from one write to the next, where a pace is given.
    pub fn at_pace(
        house: &House,
        namespace: &str,
        clients: usize,
        writes_each: usize,
        pace: Option<Duration>,
    ) -> anyhow::Result<Self> {
        Self::on(&house.control_plane, namespace, clients, writes_each, pace)
    }

    /// As [`Self::at_pace`], whoever records it.
    pub fn on(
        control_plane: &ControlPlane,
        namespace: &str,
        clients: usize,
        writes_each: usize,
        pace: Option<Duration>,
    ) -> anyhow::Result<Self> {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let apis = (0..clients).map(|client| Ok((client, Api::of(control_plane, &user(client))?)));
        let apis = apis.collect::<anyhow::Result<Vec<_>>>()?;
        let (start, mut set) = (Instant::now(), JoinSet::new());
        for (client, api) in apis {
            let (namespace, stop, written) = (namespace.to_owned(), stop.clone(), written.clone());
            set.spawn(async move {
                let mut writes = Vec::new();
                let mut created = Value::Null;
                let mut ticks = pace.map(tokio::time::interval);
                while writes.len() < writes_each && !stop.load(Ordering::Relaxed) {
                    if let Some(ticks) = &mut ticks {
                        ticks.tick().await;
                    }
                    let written_now = write(&api, &namespace, client, writes.len(), created).await;
                    let (write, object) = written_now.inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
                    created = object;
                    writes.push(write);
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok(writes)
            });
        }
        Ok(Self { clients: set, stop, written, start })
    }

    /// Until so many more were acknowledged, or one was refused, which [`Self::stop`] tells.
    pub async fn goes_on_for(&self, writes: usize) -> anyhow::Result<()> {
        let target = self.written.load(Ordering::Relaxed) + writes;
        eventually(WRITTEN_WITHIN, || async {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let written = self.written.load(Ordering::Relaxed);
            ensure!(written >= target, "{written} writes instead of {target}");
            Ok(())
        })
        .await
    }

    /// Until so much time has gone by.
    pub async fn goes_on_through(&self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        eventually(2 * time, || async {
            ensure!(start.elapsed() >= time, "time goes by too slowly");
            Ok(())
        })
        .await
    }

    /// All that was acknowledged; fails if any write was refused.
    pub async fn stop(self) -> anyhow::Result<Vec<Write>> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    pub async fn finish(mut self) -> anyhow::Result<Vec<Write>> {
        let mut all = Vec::new();
        while let Some(writes) = self.clients.join_next().await {
            all.extend(writes??);
        }
        let took = self.start.elapsed();
        println!("{} writes in {took:.1?}: {:.0} a second", all.len(), all.len() as f64 / took.as_secs_f64());
        Ok(all)
    }
}

fn user(client: usize) -> String {
    format!("client-{client}")
}

async fn write(
    api: &Api,
    namespace: &str,
    client: usize,
    number: usize,
    created: Value,
) -> anyhow::Result<(Write, Value)> {
    let name = format!("c{client}-{}", number / 2);
    let value = format!("{client}/{number}");
    let (collection, mut object) = config_map(namespace, &name, json!({"value": value}));
    let start = Instant::now();
    let (action, object) = if number.is_multiple_of(2) {
        ("create", api.create(&collection, &object).await?)
    } else {
        object["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
        ("update", api.put(&format!("{collection}/{name}"), &object).await?)
    };
    let took = start.elapsed();
    let told = Told { user: user(client), action: action.to_owned(), name, value };
    Ok((Write { told, start, took }, object))
}

impl Told {
    /// Of an entry as REST tells it.
    fn of_entry(entry: &Value) -> Self {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let detail = &entry["detail"];
        let value = match entry["action"].as_str() {
            Some("create") => &detail["after"]["data"]["value"],
            _ => &detail["changes"][0]["new"],
        };
        let value = value.as_str().unwrap_or_default().to_owned();
        Self { user: text("user"), action: text("action"), name: text("resource_name"), value }
    }
}

/// That exactly these writes are in the database, each once, and that REST shows what the database holds.
pub async fn each_is_stored_once(house: &House, namespace: &str, writes: &[Write]) -> anyhow::Result<()> {
    let is_of = format!("from audit_entries where namespace = '{namespace}' and resource = 'ConfigMap'");
    stored(house, namespace, writes.len()).await?;
    let shown = house.entries_now(&format!("namespace={namespace}&resource=ConfigMap")).await?;

    let rows = house.sql(&format!("select id {is_of} order by id")).await?;
    let ids: Vec<_> = shown.iter().filter_map(|entry| entry["id"].as_str()).collect();
    ensure!(rows == ids, "REST shows {} entries, SQL has {}", ids.len(), rows.len());

    let mut acknowledged: Vec<_> = writes.iter().map(|write| write.told.clone()).collect();
    let mut told: Vec<_> = shown.iter().map(Told::of_entry).collect();
    acknowledged.sort();
    told.sort();
    for (written, entry) in acknowledged.iter().zip(&told) {
        ensure!(written == entry, "written was {written:?}, recorded is {entry:?}");
    }
    ensure!(acknowledged.len() == told.len(), "{} writes, {} entries", acknowledged.len(), told.len());
    Ok(())
}

/// Until the database holds so many entries of this namespace's ConfigMaps.
pub async fn stored(house: &House, namespace: &str, count: usize) -> anyhow::Result<()> {
    eventually(STORED_WITHIN, || async {
        let sql =
            format!("select count(*) from audit_entries where namespace = '{namespace}' and resource = 'ConfigMap'");
        let found = house.sql(&sql).await?.concat();
        ensure!(found == count.to_string(), "{found} entries instead of {count}");
        Ok(())
    })
    .await
}

/// The ids of all entries of a namespace, as the database holds them.
pub async fn ids(house: &House, namespace: &str) -> anyhow::Result<BTreeSet<String>> {
    let sql = format!("select id from audit_entries where namespace = '{namespace}'");
    Ok(house.sql(&sql).await?.into_iter().collect())
}

/// What the API server logged of writes to ConfigMaps of a namespace, once there is so much of it.
pub async fn events(control_plane: &ControlPlane, namespace: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    eventually(LOGGED_WITHIN, || async {
        let log = fs::read_to_string(control_plane.audit_log()).context("reading the audit log")?;
        let of_namespace = format!("\"namespace\":\"{namespace}\"");
        let lines = log.lines().filter(|line| line.contains(&of_namespace));
        let events = lines.map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        // The program looks at what it has recorded.
        let of_config_maps = |event: &Value| event["objectRef"]["resource"] == "configmaps" && event["verb"] != "get";
        let events: Vec<_> = events.into_iter().filter(of_config_maps).collect();
        ensure!(events.len() == count, "{} events instead of {count}", events.len());
        Ok(events)
    })
    .await
}

/// The entries that the program answered with, in the order of their making: by the API server's own word.
pub fn accepted(event: &Value) -> BTreeSet<String> {
    annotations(event).filter_map(|key| key.strip_prefix(ANNOTATION)).map(str::to_owned).collect()
}

pub fn all_accepted(events: &[Value]) -> BTreeSet<String> {
    events.iter().flat_map(accepted).collect()
}

/// How many writes the API server let pass without our answer.
pub fn failed_open(events: &[Value]) -> usize {
    events.iter().filter(|event| passed_unseen(event)).count()
}

pub fn passed_unseen(event: &Value) -> bool {
    annotations(event).any(|key| key.starts_with(FAILED_OPEN))
}

fn annotations(event: &Value) -> impl Iterator<Item = &String> {
    event["annotations"].as_object().into_iter().flat_map(|annotations| annotations.keys())
}

/// The time within which that share of the writes was answered.
pub fn quantile<'a>(writes: impl IntoIterator<Item = &'a Write>, share: f64) -> Duration {
    let mut times: Vec<_> = writes.into_iter().map(|write| write.took).collect();
    times.sort();
    let at = (times.len() as f64 * share) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

//! Several whole replicas on one PostgreSQL, behind one address: what one of them leaves, the others carry on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::clock::Clock as _;
use domain::{Action, Entry, EntryId, RedactedEntry};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::Certificate;
use reqwest::tls::TlsInfo;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use testkit::balancer::{Balancer, Target};
use testkit::control_plane::{self, ControlPlane};
use testkit::program::{Options, Program};
use testkit::{eventually, guard, postgres};
use tokio::process::Command;

use crate::account;
use crate::api::{self, Api, config_map};
use crate::cluster::prepared;
use crate::house::{Database, Sql, metric};
use crate::load::{Load, Told, Write, events, passed_unseen};
use crate::made_up::{self, Random};
use crate::reviews::Review;
use crate::stock::{Now, Stock};

const BINARY: &str = env!("CARGO_BIN_EXE_kubevision-audit");
const NAMESPACE: &str = "load";
/// More than any test lasts.
const WRITES_EACH: usize = 100_000;
/// Of the API server, of a registrar's period and of a busy machine.
const WITHIN: Duration = Duration::from_secs(30);
/// Three steps of a quarter of a minute each, and a busy machine.
const ROTATED_WITHIN: Duration = Duration::from_secs(90);
/// The lease's time, and a turn of whoever is next.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30 + 20 + 10);
/// Of the registrar; `registration::PERIOD`.
const TURN: Duration = Duration::from_secs(4);

struct Replicas {
    control_plane: ControlPlane,
    balancer: Balancer,
    database_url: String,
    options: Options,
    programs: Vec<Program>,
    targets: Vec<Arc<Target>>,
}

impl Replicas {
    /// One that records; `config` are further sections of config.yaml.
    async fn one(database_url: String, config: &str) -> anyhow::Result<Self> {
        let control_plane = prepared(control_plane::Options::default()).await?;
        control_plane.kubectl(["create", "namespace", NAMESPACE]).ok().await?;
        let balancer = Balancer::start()?;
        let mut options = Options::new(BINARY, account::kubeconfig(&control_plane).await?);
        options.database_url = Some(database_url.clone());
        options.webhook_url = Some(format!("https://{}", balancer.address()));
        config.clone_into(&mut options.config);
        let (programs, targets) = (Vec::new(), Vec::new());
        let mut replicas = Self { control_plane, balancer, database_url, options, programs, targets };
        replicas.join().await?;
        replicas.records(0).await?;
        Ok(replicas)
    }

    /// Another one, ready and behind the balancer.
    async fn join(&mut self) -> anyhow::Result<()> {
        let mut program = Program::spawn(self.options.clone())?;
        program.ready().await?;
        let target = self.balancer.add(program.webhook(), program.metrics())?;
        self.programs.push(program);
        self.targets.push(target);
        self.is_ready(self.targets.len() - 1).await
    }

    async fn is_ready(&self, replica: usize) -> anyhow::Result<()> {
        eventually(WITHIN, || async {
            ensure!(self.targets[replica].is_ready(), "replica {replica} is not ready");
            Ok(())
        })
        .await
    }

    /// Until a write is recorded, as this replica shows it.
    async fn records(&self, replica: usize) -> anyhow::Result<()> {
        let api = Api::of(&self.control_plane, "prober")?;
        let write = async |name: String| {
            let (collection, object) = config_map("default", &name, json!({}));
            api.create(&collection, &object).await.map(drop)
        };
        self.programs[replica].until_it_records(write).await
    }

    fn load(&self, clients: usize, pace: Duration) -> anyhow::Result<Load> {
        Load::on(&self.control_plane, NAMESPACE, clients, WRITES_EACH, Some(pace))
    }

    async fn connect(&self) -> anyhow::Result<Sql> {
        Ok(Sql::Postgres(PgConnection::connect(&self.database_url).await?))
    }

    async fn sql(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        self.connect().await?.rows(sql).await
    }

    /// Compares the two books: each acknowledged write is stored, but for those of which the API server itself says that
    /// nobody answered; none is stored twice, and nothing else. Answers those events.
    async fn each_is_stored_once(&self, writes: &[Write]) -> anyhow::Result<Vec<Value>> {
        let mut unanswered = events(&self.control_plane, NAMESPACE, writes.len()).await?;
        unanswered.retain(passed_unseen);
        let unseen: Vec<_> = unanswered.iter().map(of_event).collect();
        let acknowledged: BTreeMap<_, _> =
            writes.iter().map(|Write { told, .. }| (of_told(told), told.value.clone())).collect();
        ensure!(acknowledged.len() == writes.len(), "two writes look the same");
        eventually(WITHIN, || async {
            let mut stored = BTreeMap::new();
            for row in self.stored().await? {
                let (key, value) = row.rsplit_once('|').context("a row without a value")?;
                ensure!(stored.insert(key.to_owned(), value.to_owned()).is_none(), "stored twice: {key}");
            }
            for (key, value) in &acknowledged {
                let found = stored.remove(key);
                ensure!(found.as_ref() == Some(value) || found.is_none() && unseen.contains(key), "{key}: {found:?}");
            }
            ensure!(stored.is_empty(), "nobody wrote {stored:?}");
            Ok(())
        })
        .await?;
        Ok(unanswered)
    }

    /// User, action and name; then what was written.
    async fn stored(&self) -> anyhow::Result<Vec<String>> {
        let value = "coalesce(detail -> 'after' -> 'data' ->> 'value', detail -> 'changes' -> 0 ->> 'new')";
        let of = format!("FROM audit_entries WHERE namespace = '{NAMESPACE}' AND resource = 'ConfigMap'");
        self.sql(&format!("SELECT \"user\", action, resource_name, {value} {of}")).await
    }

    async fn registration(&self) -> anyhow::Result<Value> {
        let get = ["get", "validatingwebhookconfigurations", "-o", "json"];
        let mut list = self.control_plane.kubectl(get).json().await?;
        let items = list["items"].as_array_mut().context("no list")?;
        ensure!(items.len() == 1, "{} registrations", items.len());
        Ok(items.remove(0))
    }

    /// What the API server is told to trust, as PEM.
    async fn trusted(&self) -> anyhow::Result<String> {
        let registration = self.registration().await?;
        let bundle = registration["webhooks"][0]["clientConfig"]["caBundle"].as_str().context("no CA")?;
        Ok(String::from_utf8(STANDARD.decode(bundle)?)?)
    }

    /// Posts a review to one replica past the balancer, by what the registration trusts; answers its entry's id and the
    /// certificate that it served with.
    async fn ask(&self, replica: usize) -> anyhow::Result<(String, Vec<u8>)> {
        let trusted = Certificate::from_pem_bundle(self.trusted().await?.as_bytes())?;
        let client = api::client().tls_certs_only(trusted).tls_info(true).build()?;
        let url = format!("https://{}/admission", self.programs[replica].webhook());
        // A call that comes twice is answered as it was the first time.
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let uid = format!("by-hand-{}", CALLS.fetch_add(1, Ordering::Relaxed));
        let review = Review { uid: &uid, ..Review::default() }.json();
        let response = client.post(&url).header("content-type", "application/json").body(review).send().await?;
        let served = response.extensions().get::<TlsInfo>().and_then(|info| info.peer_certificate());
        let served = served.context("no certificate")?.to_vec();
        let answer: Value = response.json().await?;
        let annotations = answer["response"]["auditAnnotations"].as_object().context("no annotations")?;
        let id = annotations.keys().find_map(|key| key.strip_prefix("entry.")).context("no entry")?;
        Ok((id.to_owned(), served))
    }

    async fn all_serve(&self, certificate: &[u8]) -> anyhow::Result<()> {
        eventually(WITHIN, || async {
            for replica in 0..self.programs.len() {
                ensure!(self.ask(replica).await?.1 == certificate, "replica {replica} serves with another certificate");
            }
            Ok(())
        })
        .await
    }

    /// Once it is stored.
    async fn policy_of(&self, entry: &str) -> anyhow::Result<String> {
        eventually(WITHIN, || async {
            let mut found = self.sql(&format!("SELECT policy FROM audit_entries WHERE id = '{entry}'")).await?;
            found.pop().context("it is not stored")
        })
        .await
    }

    /// What each purge that was recorded says of itself.
    async fn purges(&self) -> anyhow::Result<Vec<Value>> {
        let rows = self.sql("SELECT CAST(detail AS text) FROM audit_entries WHERE action = 'purge'").await?;
        rows.iter().map(|row| Ok(serde_json::from_str::<Value>(row)?["system"].take())).collect()
    }

    /// Once there is one, and it was finished; there must not be another.
    async fn purged_once(&self) -> anyhow::Result<Value> {
        eventually(TAKEN_OVER_WITHIN, || async {
            let mut purges = self.purges().await?;
            ensure!(purges.len() == 1, "{purges:?}");
            Ok(purges.remove(0))
        })
        .await
    }

    /// Which one holds the lease of the purge.
    async fn purger(&self) -> anyhow::Result<usize> {
        eventually(WITHIN, || async {
            let held = "SELECT holder FROM leases WHERE name = 'purge' AND until > clock_timestamp()";
            let holder = self.sql(held).await?.concat();
            let is_holder = |program: &Program| holder.ends_with(&format!("-{}", program.pid()));
            self.programs.iter().position(is_holder).with_context(|| format!("held by {holder:?}"))
        })
        .await
    }
}

fn of_told(Told { user, action, name, .. }: &Told) -> String {
    format!("{user}|{action}|{name}")
}

fn of_event(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}|{}|{}", text(&event["user"]["username"]), text(&event["verb"]), text(&event["objectRef"]["name"]))
}

/// A database in which a purge is due, and does not begin before it is told to.
struct Due {
    url: String,
    /// Holds the row of the lease.
    lease: Sql,
}

/// With it a partition is taken away; `store-sql`'s own number.
const SCHEMA_LOCK: &str = "x'6b76610000000001'::bit(64)::bigint";
const RETENTION_DAYS: i64 = 90;
const OLD: usize = 300;
const YOUNG: usize = 40;
const CONFIG: &str = "audit: {retention_days: 90, sync: true}";

impl Due {
    async fn made() -> anyhow::Result<Self> {
        let url = postgres::shared().await.create_database().await?;
        let (store, now) = (store_sql::open(&url)?, Now.now());
        store.migrate().await?;
        store.write(&outlived(now)).await?;
        let fence = store.hold("purge", "this test", Duration::ZERO).await?.context("held by another")?;
        store.finish_purge(&fence, now - TimeDelta::days(2), &BTreeMap::new(), None).await?;
        let mut lease = Sql::Postgres(PgConnection::connect(&url).await?);
        lease.rows("BEGIN").await?;
        lease.rows("SELECT name FROM leases WHERE name = 'purge' FOR UPDATE").await?;
        Ok(Self { url, lease })
    }

    /// Answers which replica has the lease now, and waits for the lock that comes back with it: it has begun, and
    /// nothing is gone yet.
    async fn begins(mut self, replicas: &Replicas) -> anyhow::Result<(usize, Sql)> {
        let mut schema = replicas.connect().await?;
        schema.rows(&format!("SELECT 'locked' FROM pg_advisory_lock({SCHEMA_LOCK})")).await?;
        self.lease.rows("COMMIT").await?;
        Ok((replicas.purger().await?, schema))
    }

    /// What is left: nothing that is old, all that is young.
    async fn left(replicas: &Replicas) -> anyhow::Result<(usize, usize)> {
        let count = async |name| {
            let sql = format!("SELECT id FROM audit_entries WHERE resource_name = '{name}'");
            Ok::<_, anyhow::Error>(replicas.sql(&sql).await?.len())
        };
        Ok((count("old").await?, count("young").await?))
    }
}

/// Whole days, and a part of one; and what is to be kept.
fn outlived(now: DateTime<Utc>) -> Vec<RedactedEntry> {
    let mut random = Random::from(11);
    let mut aged = |name: &str, age| {
        let id = EntryId::at(now - age, random.bits());
        let (resource_name, action) = (name.to_owned(), Action::Update);
        RedactedEntry::sample(Entry { resource_name, action, ..made_up::at(&mut random, id) })
    };
    let (days, every) = (TimeDelta::days(RETENTION_DAYS), |n: usize| TimeDelta::minutes(n as i64 * 40));
    let mut entries: Vec<_> = (1..=OLD).map(|n| aged("old", days + every(n))).collect();
    entries.extend((1..=YOUNG).map(|n| aged("young", days - every(n))));
    entries
}

async fn rotate_ca(folder: &Path) -> anyhow::Result<()> {
    let command = Command::new(BINARY).args(["rotate-ca", "--config", "config.yaml"]).current_dir(folder).output();
    let begun = command.await?;
    let told = String::from_utf8_lossy(&begun.stdout).into_owned();
    ensure!(begun.status.success() && told.contains("a new CA is introduced"), "{begun:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_the_one_that_purges_dies_and_the_ca_is_rotated_and_no_write_is_lost() -> anyhow::Result<()> {
    const CLIENTS: usize = 4;
    let due = Due::made().await?;
    // The first one takes the API server's calls, and waits for the lease before the others do.
    let mut replicas = Replicas::one(due.url.clone(), CONFIG).await?;
    replicas.join().await?;
    replicas.join().await?;
    let load = replicas.load(CLIENTS, Duration::from_millis(100))?;
    load.goes_on_for(40).await?;

    let (dies, schema) = due.begins(&replicas).await?;
    let reviews = metric(&replicas.programs[dies], "kubevision_audit_admission_reviews_total", "").await?;
    let died = Instant::now();
    replicas.programs[dies].kill()?;
    drop(schema);
    load.goes_on_for(40).await?;

    let rest: Vec<_> = (0..3).filter(|replica| *replica != dies).collect();
    let before = (replicas.trusted().await?, replicas.registration().await?);
    rotate_ca(replicas.programs[rest[0]].folder()).await?;
    let rotated = async {
        let after = eventually(ROTATED_WITHIN, || async {
            let trusted = replicas.trusted().await?;
            ensure!(trusted.matches("BEGIN").count() == 1 && trusted != before.0, "{trusted}");
            replicas.registration().await
        })
        .await?;
        let took = died.elapsed();
        load.goes_on_through(3 * TURN).await?;
        let versions = |of: &Value| ["resourceVersion", "generation"].map(|key| of["metadata"][key].clone());
        ensure!(versions(&replicas.registration().await?) == versions(&after), "each turn writes it again");
        Ok((after, took))
    };
    let purged = async { anyhow::Ok((replicas.purged_once().await?, died.elapsed())) };
    let ((after, rotated), (purge, purged)) = tokio::try_join!(rotated, purged)?;
    assert_eq!((&purge["entries"], &purge["trigger"]), (&json!(OLD), &json!("nightly")));
    assert_eq!(Due::left(&replicas).await?, (0, YOUNG));
    let url = after["webhooks"][0]["clientConfig"]["url"].as_str().unwrap_or_default();
    assert_eq!(url, format!("https://{}/admission", replicas.balancer.address()));
    let [from, to] = [&before.1, &after].map(|of| of["metadata"]["generation"].as_u64().unwrap_or_default());
    // Introduced, perhaps in another order when switched, and the previous one dropped.
    assert!(to - from <= 3, "{from} to {to}");
    for replica in &rest {
        replicas.ask(*replica).await?;
    }

    let writes = load.stop().await?;
    let unseen = replicas.each_is_stored_once(&writes).await?.len();
    assert!(unseen <= CLIENTS, "more than were on their way when it died: {unseen}");
    assert_eq!(replicas.purges().await?.len(), 1);
    account::nothing_was_refused(&replicas.control_plane)?;
    println!(
        "replica {dies} died after {reviews} reviews; {unseen} of {} writes passed unanswered; \
         purged by another after {purged:.1?}; CA rotated after {rotated:.1?}, {} generations",
        writes.len(),
        to - from
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stands_still_in_its_purge_is_refused_when_it_wakes_and_goes_on_serving() -> anyhow::Result<()> {
    const CLIENTS: usize = 2;
    const STILL_FOR: Duration = Duration::from_secs(60);
    let due = Due::made().await?;
    let mut replicas = Replicas::one(due.url.clone(), CONFIG).await?;
    replicas.join().await?;
    let load = replicas.load(CLIENTS, Duration::from_millis(200))?;
    load.goes_on_for(20).await?;

    let (still, schema) = due.begins(&replicas).await?;
    let other = 1 - still;
    let stopped = Instant::now();
    replicas.programs[still].signal(Signal::STOP)?;
    drop(schema);
    let purge = replicas.purged_once().await?;
    let purged = stopped.elapsed();
    assert_eq!((&purge["entries"], &purge["trigger"]), (&json!(OLD), &json!("nightly")));
    load.goes_on_through(STILL_FOR.saturating_sub(stopped.elapsed())).await?;
    assert!(!replicas.targets[still].is_ready());

    replicas.programs[still].signal(Signal::CONT)?;
    eventually(WITHIN, || async {
        let label = "result=\"interrupted\"";
        let refused = metric(&replicas.programs[still], "kubevision_audit_purge_runs_total", label).await?;
        let log = replicas.programs[still].log()?;
        let told = log.contains("another process took the purge over after 0 entries");
        ensure!(refused == 1 && told, "its purge is not refused: {log}");
        Ok(())
    })
    .await?;
    replicas.is_ready(still).await?;
    // Now all calls are its own: the other goes in good order, which costs none.
    let woken = Now.now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let before = metric(&replicas.programs[still], "kubevision_audit_admission_reviews_total", "").await?;
    assert!(replicas.programs[other].sigterm_and_wait().await?.success());
    load.goes_on_for(20).await?;
    let reviews = metric(&replicas.programs[still], "kubevision_audit_admission_reviews_total", "").await? - before;
    let writes = load.stop().await?;
    let unseen = replicas.each_is_stored_once(&writes).await?;
    let since_woken = unseen.iter().filter(|event| event["requestReceivedTimestamp"].as_str() > Some(&woken));
    assert_eq!(since_woken.collect::<Vec<_>>(), Vec::<&Value>::new());
    let unseen = unseen.len();
    assert_eq!(replicas.purges().await?.len(), 1);
    account::nothing_was_refused(&replicas.control_plane)?;
    assert_eq!(Due::left(&replicas).await?, (0, YOUNG));
    println!(
        "the other purged {purged:.1?} after it stood still; {unseen} of {} writes passed unanswered; \
         it answered {reviews} reviews once it was alone",
        writes.len()
    );
    assert!(reviews >= 10, "{reviews}");
    Ok(())
}

/// What it has deleted is not deleted before it commits, and nobody else may purge meanwhile: the database ends that.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stands_still_in_a_transaction_of_its_purge_holds_up_another_for_half_a_minute()
-> anyhow::Result<()> {
    const RETENTION: &str = "audit: {retention_days: 90}";
    let now = Now.now();
    let stock = Stock::holding(Database::Postgres, &outlived(now)).await?;
    let fence = stock.store.hold("purge", "this test", Duration::ZERO).await?.context("held by another")?;
    stock.store.finish_purge(&fence, now - TimeDelta::days(2), &BTreeMap::new(), None).await?;
    let mut reader = Sql::Postgres(PgConnection::connect(stock.url()).await?);
    // Of the day that goes in part; by its own table, since the others could not be detached under a reader of all.
    let newest = "FROM audit_entries WHERE resource_name = 'old' ORDER BY id DESC LIMIT 1";
    let day = stock.column(&format!("SELECT tableoid::regclass::text {newest}")).await?.concat();
    reader.rows("BEGIN").await?;
    reader.rows(&format!("SELECT id FROM {day} WHERE resource_name = 'old' FOR UPDATE")).await?;
    let mut still = stock.serve(RETENTION).await?;
    let waits = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(WITHIN, || async {
        ensure!(!stock.column(waits).await?.is_empty(), "its purge waits for nobody");
        Ok(())
    })
    .await?;
    let stopped = Instant::now();
    still.signal(Signal::STOP)?;
    reader.rows("ROLLBACK").await?;

    let other = stock.serve_beside(RETENTION).await?;
    let recorded = "SELECT CAST(detail AS text) FROM audit_entries WHERE action = 'purge'";
    let purge =
        eventually(TAKEN_OVER_WITHIN, || async { stock.column(recorded).await?.pop().context("no purge is recorded") })
            .await?;
    println!("another purged {:.1?} after it stood still", stopped.elapsed());
    let gone = serde_json::from_str::<Value>(&purge)?["system"]["entries"].as_u64().context("no number")?;

    still.signal(Signal::CONT)?;
    eventually(WITHIN, || async {
        let ended = metric(&still, "kubevision_audit_purge_runs_total", "").await?;
        ensure!(ended == 1, "its purge has not ended: {}", still.log()?);
        Ok(())
    })
    .await?;
    assert_eq!(metric(&still, "kubevision_audit_purge_runs_total", "result=\"finished\"").await?, 0);
    // Of whole days it had taken some away before.
    let gone_before = metric(&still, "kubevision_audit_purge_entries_total", "").await?;
    assert_eq!(gone + gone_before, OLD as u64);
    assert_eq!(stock.column(recorded).await?.len(), 1);
    assert_eq!(stock.ids_where("resource_name = 'old'").await?, Vec::<String>::new());
    assert_eq!(stock.ids_where("resource_name = 'young'").await?.len(), YOUNG);
    for program in [&still, &other] {
        program.json("/api/v1/audit-logs?limit=1").await?;
    }
    Ok(())
}

/// A Secret as a kubelet mounts it: files that are links into a folder that is itself a link, and swapped.
struct Mounted {
    folder: PathBuf,
    versions: usize,
}

const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

impl Mounted {
    fn new(issued: &Issued) -> anyhow::Result<Self> {
        let mut mounted = Self { folder: guard::folder("mounted")?, versions: 0 };
        mounted.swap(issued)?;
        for file in FILES {
            symlink(Path::new("..data").join(file), mounted.folder.join(file))?;
        }
        Ok(mounted)
    }

    fn swap(&mut self, issued: &Issued) -> anyhow::Result<()> {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        fs::create_dir(self.folder.join(&version))?;
        for (file, content) in FILES.iter().zip([&issued.certificate, &issued.key, &issued.authority]) {
            fs::write(self.folder.join(&version).join(file), content)?;
        }
        let link = self.folder.join("..data_tmp");
        symlink(&version, &link)?;
        Ok(fs::rename(link, self.folder.join("..data"))?)
    }

    fn config(&self) -> String {
        let [cert_file, key_file, ca_file] = FILES.map(|file| self.folder.join(file));
        format!("tls: {}", json!({"cert_file": cert_file, "key_file": key_file, "ca_file": ca_file}))
    }
}

/// Of some company's own authority.
struct Issuing {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Issued {
    certificate: String,
    key: String,
    authority: String,
    der: Vec<u8>,
}

impl Issuing {
    fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        Ok(Self { authority, issuer: Issuer::new(params, key) })
    }

    fn issue(&self) -> anyhow::Result<Issued> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &self.issuer)?;
        let (der, certificate) = (certificate.der().to_vec(), certificate.pem());
        Ok(Issued { certificate, key: key.serialize_pem(), authority: self.authority.clone(), der })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn given_files_that_change_and_an_api_server_that_restarts_lose_nothing() -> anyhow::Result<()> {
    const CLIENTS: usize = 2;
    let [before, after] = [Issuing::new("before")?, Issuing::new("after")?];
    let first = before.issue()?;
    let mut mounted = Mounted::new(&first)?;
    let url = postgres::shared().await.create_database().await?;
    let mut replicas = Replicas::one(url, &mounted.config()).await?;
    replicas.join().await?;
    let load = replicas.load(CLIENTS, Duration::from_millis(200))?;
    replicas.all_serve(&first.der).await?;

    let renewed = before.issue()?;
    let start = Instant::now();
    mounted.swap(&renewed)?;
    replicas.all_serve(&renewed.der).await?;
    let renewed_after = start.elapsed();

    let of_another = after.issue()?;
    let start = Instant::now();
    mounted.swap(&of_another)?;
    eventually(WITHIN, || async {
        ensure!(replicas.trusted().await?.contains(after.authority.trim()), "the next CA is not registered");
        Ok(())
    })
    .await?;
    let introduced = start.elapsed();
    assert!(replicas.trusted().await?.contains(before.authority.trim()), "the one that is served is not dropped");
    replicas.all_serve(&of_another.der).await?;
    let switched = start.elapsed();
    load.goes_on_for(20).await?;
    let writes = load.stop().await?;
    assert_eq!(replicas.each_is_stored_once(&writes).await?, Vec::<Value>::new());

    replicas.control_plane.restart_api_server().await?;
    let policy = json!({
        "apiVersion": "audit.kubevision.io/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "later"},
        "spec": {"level": "Metadata", "match": {"users": ["mallory"]}},
    });
    replicas.control_plane.kubectl(["apply", "-f", "-"]).stdin(policy.to_string()).ok().await?;
    let applied = Instant::now();
    for replica in 0..2 {
        eventually(WITHIN, || async {
            let (entry, _) = replicas.ask(replica).await?;
            let policy = replicas.policy_of(&entry).await?;
            ensure!(policy == "later", "replica {replica} records by {policy:?}");
            Ok(())
        })
        .await?;
    }
    let in_force = applied.elapsed();
    for (replica, program) in replicas.programs.iter_mut().enumerate() {
        assert!(program.ended()?.is_none(), "replica {replica} ended");
        program.ready().await?;
    }
    replicas.records(0).await?;
    assert_eq!(replicas.each_is_stored_once(&writes).await?, Vec::<Value>::new());
    println!(
        "{} writes, all recorded; under the same CA served with after {renewed_after:.1?}; another CA introduced after \
         {introduced:.1?}, served with after {switched:.1?}; a policy is in force on both {in_force:.1?} after the API \
         server came back",
        writes.len()
    );
    Ok(())
}

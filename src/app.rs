//! `serve`: joins the crates to a running program, and takes it down in good order.
//!
//! Addresses are bound and files are read before anything runs, so that what can only fail fails at start. What may be
//! away for a while, the database and the API server, is waited for by the task that needs it: the process is up, tells
//! on `/readyz` what it waits for, and takes reviews in as soon as it has a key to redact with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cluster::{Cluster, ConnectOptions, SecretRef};
use domain::clock::Clock as _;
use domain::retention::{Retention, Retentions};
use intake::Heard;
use intake::audit_events::Callers;
use jobs::{Late, LateMetrics, Purge, PurgeSettings, Room};
use listener::Bound;
use operator::Safe;
use operator::policies::{self, Policies};
use panel::PanelState;
use policy::{Rule, Rules};
use prometheus_client::registry::Registry;
use store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::adapters::{self, OnceMigrated, SystemClock, SystemEntropy};
use crate::config::Config;
use crate::health::{self, Health, Signs};
use crate::outcomes::{self, Watching};
use crate::tasks::{Phase, Tasks};
use crate::webhook::{AuditEvents, WEBHOOK_KEY, Webhook};

/// The operator's Secret, for databases that several replicas share.
const SECRET: &str = "kubevision-audit-keys";
/// Where the program is at home outside a cluster: nothing runs there, but its Secret may lie there.
pub const NAMESPACE: &str = "kubevision-audit";
/// What a policy column says of entries that no AuditPolicy asked for.
pub const BUILT_IN_POLICY: &str = "built-in";
/// Between two attempts at what was away: short enough that nobody waits long, long enough not to be a load.
pub const RETRY: Duration = Duration::from_secs(2);

pub async fn serve(config: Config) -> anyhow::Result<()> {
    let store = store_sql::open(config.database_url.as_str())?;
    let sockets = Sockets::bind(&config)?;
    if let Some(callers) = &config.audit_events {
        callers.check().await.context("audit_events")?;
    }
    let Home { cluster, namespace } = connected(&config).await?;

    let mut tasks = Tasks::default();
    let signs = Arc::new(watch::Sender::new(Signs::default()));
    let migrated = watch::Sender::new(false);
    let mut registry = Registry::with_prefix("kubevision_audit");

    let writer = Arc::new(OnceMigrated { store: store.clone(), migrated: migrated.subscribe() });
    let batch =
        pipeline::Settings { max_entries: config.audit.batch_max_entries, interval: config.audit.batch_interval };
    let (recorder, batcher) = pipeline::pipeline(batch, writer, Arc::new(SystemClock), Arc::new(SystemEntropy));
    recorder.metrics().register(&mut registry);
    let reviews = intake::admission::Metrics::default();
    reviews.register(&mut registry);
    let policies = policies::Metrics::default();
    policies.register(&mut registry);
    let measures = operator::Metrics::default();
    measures.register(&mut registry);
    let told = outcomes::Measures::default();
    told.register(&mut registry);
    let events = intake::audit_events::Metrics::default();
    events.register(&mut registry);
    let (posted, logged, inferred, seen) = (Heard::default(), Heard::default(), Heard::default(), Heard::default());
    let mut sources =
        vec![("audit-events", posted.clone()), ("chain", inferred.clone()), ("config-watch", seen.clone())];
    sources.extend(config.audit.log_path.is_some().then(|| ("audit-log", logged.clone())));

    let stop = tasks.stop_of(Phase::Pipeline);
    tasks.spawn(Phase::Pipeline, "batcher", async move { Ok(batcher.run(stop).await.map(drop)?) });
    let retentions = watch::Sender::new(Arc::new(configured(config.audit.retention)));
    let purge = purge(&config, &store, retentions.subscribe());
    purge.metrics.register(&mut registry);
    let schema = migrated.subscribe();
    let late = Late { store: store.clone(), clock: Arc::new(SystemClock), metrics: LateMetrics::default() };
    late.metrics.register(&mut registry);
    spawn_jobs(&mut tasks, &store, purge, late, migrated, &signs);
    spawn_readers(&mut tasks, sockets.panel, sockets.metrics, &store, &signs, sources, registry);
    let (rules, known, kept) = spawn_policies(&mut tasks, &config, &cluster, &signs, &policies, retentions);
    spawn_counters(&mut tasks, &cluster, &store, schema.clone(), kept);
    let redactor = watch::Sender::default();
    let watching = Watching {
        cluster: cluster.clone(),
        name: config.cluster.clone(),
        namespace: namespace.clone(),
        store: store.clone(),
        recorder: recorder.clone(),
        redactor: redactor.subscribe(),
        rules: rules.clone(),
        known: known.clone(),
        migrated: schema,
        inferred,
        seen,
        expects_events: config.audit.log_path.is_some() || config.audit_events.as_ref().is_some_and(Callers::are_named),
    };
    let (kinds, ask) = outcomes::spawn(&mut tasks, watching, told);
    let by = intake::audit_events::Settings {
        cluster: config.cluster.clone(),
        namespace: namespace.clone(),
        rules: rules.clone(),
        kinds,
        ask,
    };
    if let Some(path) = config.audit.log_path.clone() {
        let following = outcomes::Following {
            path,
            database: config.database_url.sqlite_file().map(Path::to_owned),
            settings: by.clone(),
            recorder: recorder.clone(),
            redactor: redactor.subscribe(),
            known: known.clone(),
            signs: signs.subscribe(),
            heard: logged,
            metrics: events.clone(),
        };
        outcomes::follow(&mut tasks, following);
    }
    let webhook = Webhook {
        rules,
        known,
        redactor,
        safe: safe(&config, &cluster, &namespace),
        cluster,
        namespace,
        config,
        socket: Some(sockets.webhook),
        recorder,
        reviews,
        measures,
        audit_events: AuditEvents { settings: by, heard: posted, metrics: events },
        signs: signs.clone(),
    };
    let stop = tasks.stop_of(Phase::Doors);
    tasks.spawn(Phase::Doors, "webhook", webhook.run(stop));

    let ended = tasks.until(asked_to_stop()?).await;
    signs.send_modify(|signs| signs.stopping = true);
    let finished = tasks.finish().await;
    ended?;
    finished?;
    info!("stopped; the queue is flushed");
    Ok(())
}

/// All addresses, bound before anything runs.
struct Sockets {
    webhook: Bound,
    panel: Bound,
    metrics: Bound,
}

impl Sockets {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            webhook: Bound::bind(WEBHOOK_KEY, config.listen.webhook)?,
            panel: Bound::bind("listen.panel", config.listen.panel)?,
            metrics: Bound::bind("listen.metrics", config.listen.metrics)?,
        })
    }
}

/// For a command: the cluster is needed only where the safe is in it.
pub async fn safe_of(config: &Config) -> anyhow::Result<Safe> {
    match config.database_url.sqlite_file() {
        Some(file) => Ok(Safe::Files { beside: file.to_owned() }),
        None => {
            let Home { cluster, namespace } = connected(config).await?;
            Ok(safe(config, &cluster, &namespace))
        }
    }
}

/// The cluster, and where in it the program is.
pub struct Home {
    pub cluster: Cluster,
    namespace: String,
}

pub async fn connected(config: &Config) -> anyhow::Result<Home> {
    let options = ConnectOptions { kubeconfig: config.kubernetes.kubeconfig.clone(), context: None };
    let cluster = Cluster::connect(&options).await.context("finding the cluster")?;
    let namespace = config.kubernetes.namespace.as_deref().or(cluster.in_cluster_namespace()).unwrap_or(NAMESPACE);
    Ok(Home { namespace: namespace.to_owned(), cluster })
}

/// Beside an embedded database its files; else a Secret that all replicas share.
fn safe(config: &Config, cluster: &Cluster, namespace: &str) -> Safe {
    match config.database_url.sqlite_file() {
        Some(file) => Safe::Files { beside: file.to_owned() },
        None => {
            let secret = SecretRef { namespace: namespace.to_owned(), name: SECRET.to_owned() };
            Safe::Secret { cluster: cluster.clone(), secret }
        }
    }
}

/// Of what the configuration alone speaks of, while the policies are not known: what was recorded by one of them may have
/// to be kept for longer.
pub fn configured(retention: Retention) -> Retentions {
    const OF_THE_PROGRAM_ITSELF: &str = "";
    let known = [BUILT_IN_POLICY, OF_THE_PROGRAM_ITSELF].map(|policy| (policy.to_owned(), retention));
    Retentions { default: Retention::Forever, by_policy: known.into(), complete: false }
}

fn retentions_of(kept: &policies::Kept, default: Retention) -> Retentions {
    match kept {
        policies::Kept::Unknown => configured(default),
        // The night's purge is due without them, too.
        policies::Kept::NoneInstalled => Retentions { complete: true, ..configured(default) },
        policies::Kept::Days(days) => {
            let by_policy = days.iter().map(|(name, days)| (name.clone(), Retention::from_days(*days))).collect();
            Retentions { default, by_policy, complete: true }
        }
    }
}

/// What is kept for how long can change while it runs.
fn purge(config: &Config, store: &Arc<dyn Store>, retentions: watch::Receiver<Arc<Retentions>>) -> Purge {
    Purge {
        store: store.clone(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        settings: PurgeSettings { retentions, at: config.audit.purge_at, holder: adapters::holder() },
        metrics: jobs::Metrics::default(),
    }
}

fn spawn_jobs(
    tasks: &mut Tasks,
    store: &Arc<dyn Store>,
    purge: Purge,
    late: Late,
    migrated: watch::Sender<bool>,
    signs: &Arc<watch::Sender<Signs>>,
) {
    let stop = tasks.stop_of(Phase::Rest);
    let room = Room { store: store.clone(), clock: Arc::new(SystemClock) };
    let (store, signs, ready) = (store.clone(), signs.clone(), migrated.subscribe());
    let stopped = stop.clone();
    tasks.spawn(Phase::Rest, "migrations", async move {
        migrate(&*store, &migrated, &signs, &stopped).await;
        stopped.cancelled().await;
        Ok(())
    });
    let (stopped, mut is_ready) = (stop.clone(), ready.clone());
    tasks.spawn(Phase::Rest, "room", async move {
        is_ready.wait_for(|ready| *ready).await?;
        Ok(room.run(stopped).await?)
    });
    let (stopped, mut is_ready) = (stop.clone(), ready.clone());
    tasks.spawn(Phase::Rest, "late", async move {
        is_ready.wait_for(|ready| *ready).await?;
        Ok(late.run(stopped).await?)
    });
    let mut is_ready = ready;
    tasks.spawn(Phase::Rest, "purge", async move {
        is_ready.wait_for(|ready| *ready).await?;
        Ok(purge.run(stop).await?)
    });
}

/// Until it succeeds: the database may be away when the program starts.
async fn migrate(
    store: &dyn Store,
    migrated: &watch::Sender<bool>,
    signs: &watch::Sender<Signs>,
    stop: &CancellationToken,
) {
    let attempt = async || {
        store.migrate().await?;
        store.prepare(SystemClock.now()).await
    };
    let mut told = false;
    while let Err(error) = attempt().await {
        signs.send_modify(|signs| signs.migrations = error.to_string());
        if !told {
            warn!(error = &error as &dyn std::error::Error, "the database is not ready; trying again until it is");
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    signs.send_modify(|signs| signs.migrations.clear());
    migrated.send_replace(true);
}

/// Keeps what reviews are asked against; the second channel tells once it is known what policies there are.
fn spawn_policies(
    tasks: &mut Tasks,
    config: &Config,
    cluster: &Cluster,
    signs: &Arc<watch::Sender<Signs>>,
    metrics: &policies::Metrics,
    retentions: watch::Sender<Arc<Retentions>>,
) -> (watch::Receiver<Arc<Rules>>, watch::Receiver<policies::Status>, watch::Receiver<policies::Kept>) {
    let built_in = Rule::built_in(BUILT_IN_POLICY, config.audit.sync);
    let outlets = policies::Outlets {
        rules: watch::Sender::new(Arc::new(Rules::only(built_in.clone()))),
        kept: watch::Sender::default(),
        status: watch::Sender::default(),
    };
    let (rules, status) = (outlets.rules.subscribe(), outlets.status.subscribe());
    let (default, mut kept) = (config.audit.retention, outlets.kept.subscribe());
    let keeper = Policies {
        cluster: cluster.clone(),
        clock: Arc::new(SystemClock),
        built_in,
        outlets,
        metrics: metrics.clone(),
    };
    let counted = kept.clone();
    let stop = tasks.stop_of(Phase::Rest);
    let (signs, mut told) = (signs.clone(), status.clone());
    tasks.spawn(Phase::Rest, "policies", async move {
        let tell = async {
            while told.changed().await.is_ok() {
                let status = told.borrow_and_update().clone();
                signs.send_modify(|signs| signs.policies = status);
            }
        };
        let retain = async {
            while kept.changed().await.is_ok() {
                let now = retentions_of(&kept.borrow_and_update(), default);
                retentions.send_replace(Arc::new(now));
            }
        };
        tokio::join!(tell, retain, keeper.run(stop));
        Ok(())
    });
    (rules, status, counted)
}

fn spawn_counters(
    tasks: &mut Tasks,
    cluster: &Cluster,
    store: &Arc<dyn Store>,
    mut migrated: watch::Receiver<bool>,
    policies: watch::Receiver<policies::Kept>,
) {
    let counters = policies::Counters {
        cluster: cluster.clone(),
        store: store.clone(),
        clock: Arc::new(SystemClock),
        holder: adapters::holder(),
        policies,
    };
    let stop = tasks.stop_of(Phase::Rest);
    tasks.spawn(Phase::Rest, "counters", async move {
        migrated.wait_for(|migrated| *migrated).await?;
        counters.run(stop).await;
        Ok(())
    });
}

fn spawn_readers(
    tasks: &mut Tasks,
    panel: Bound,
    metrics: Bound,
    store: &Arc<dyn Store>,
    signs: &Arc<watch::Sender<Signs>>,
    sources: Vec<(&'static str, Heard)>,
    mut registry: Registry,
) {
    let passed = health::Passed::default();
    passed.register(&mut registry);
    let sources = health::Sources::new(sources);
    sources.register(&mut registry);
    let (registry, clock) = (Arc::new(registry), Arc::new(SystemClock));
    let health = Health { store: store.clone(), signs: signs.subscribe(), sources, registry, passed, clock };
    let stop = tasks.stop_of(Phase::Rest);
    tasks.spawn(Phase::Rest, "health", async move { Ok(metrics.serve(health::router(health), stop).await?) });
    let state = PanelState { entries: store.clone(), clock: Arc::new(SystemClock) };
    let stop = tasks.stop_of(Phase::Doors);
    tasks.spawn(Phase::Doors, "panel", async move { Ok(panel.serve(panel::router(state), stop).await?) });
}

/// SIGTERM, as Kubernetes sends it, or Ctrl-C.
pub fn asked_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

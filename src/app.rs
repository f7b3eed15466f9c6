//! `serve`: joins the crates to a running program, and takes it down in good order.
//!
//! Addresses are bound and files are read before anything runs, so that what can only fail fails at start. What may be
//! away for a while, the database and the API server, is waited for by the task that needs it: the process is up, tells
//! on `/readyz` what it waits for, and takes reviews in as soon as it has a key to redact with.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cluster::{Cluster, ConnectOptions, Retry, SecretRef};
use domain::clock::Clock as _;
use domain::redact::{RedactionKey, Redactor};
use domain::retention::{Retention, Retentions};
use domain::seal::SealKey;
use domain::text::with_causes;
use intake::admission::Admission;
use jobs::{Late, LateMetrics, Purge, PurgeSettings, Room};
use listener::Bound;
use operator::certificates::{GivenFiles, Keeper, Names, SETTLE, Source};
use operator::policies::{self, Policies};
use operator::registration::{self, Ledger, Registrar};
use operator::{Safe, keys};
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
use crate::tasks::{Outcome, Phase, Tasks};

/// The operator's Secret, for databases that several replicas share.
const SECRET: &str = "kubevision-audit-keys";
/// Where the program is at home outside a cluster: nothing runs there, but its Secret may lie there.
const NAMESPACE: &str = "kubevision-audit";
/// What a policy column says of entries that no AuditPolicy asked for.
pub const BUILT_IN_POLICY: &str = "built-in";
/// How the webhook's address is called where it cannot be bound.
const WEBHOOK_KEY: &str = "listen.webhook";
/// An API server that is there lists its policies in milliseconds.
const POLICIES_KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// Between two attempts at what was away: short enough that nobody waits long, long enough not to be a load.
const RETRY: Duration = Duration::from_secs(2);

// What the webhook is registered with is what its answers reckon with.
const _: () = assert!(registration::TIMEOUT_SECONDS as u64 == intake::admission::WEBHOOK_TIMEOUT.as_secs());

pub async fn serve(config: Config) -> anyhow::Result<()> {
    let store = store_sql::open(config.database_url.as_str())?;
    let sockets = Sockets::bind(&config)?;
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

    let stop = tasks.stop_of(Phase::Pipeline);
    tasks.spawn(Phase::Pipeline, "batcher", async move { Ok(batcher.run(stop).await.map(drop)?) });
    let retentions = watch::Sender::new(Arc::new(configured(config.audit.retention)));
    let purge = purge(&config, &store, retentions.subscribe());
    purge.metrics.register(&mut registry);
    let schema = migrated.subscribe();
    let late = Late { store: store.clone(), clock: Arc::new(SystemClock), metrics: LateMetrics::default() };
    late.metrics.register(&mut registry);
    spawn_jobs(&mut tasks, &store, purge, late, migrated, &signs);
    spawn_readers(&mut tasks, sockets.panel, sockets.metrics, &store, &signs, registry);
    let (rules, known, kept) = spawn_policies(&mut tasks, &config, &cluster, &signs, &policies, retentions);
    spawn_counters(&mut tasks, &cluster, &store, schema, kept);
    let webhook = Webhook {
        rules,
        known,
        safe: safe(&config, &cluster, &namespace),
        cluster,
        namespace,
        config,
        socket: Some(sockets.webhook),
        recorder,
        reviews,
        measures,
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
    mut registry: Registry,
) {
    let passed = health::Passed::default();
    passed.register(&mut registry);
    let (registry, clock) = (Arc::new(registry), Arc::new(SystemClock));
    let health = Health { store: store.clone(), signs: signs.subscribe(), registry, passed, clock };
    let stop = tasks.stop_of(Phase::Rest);
    tasks.spawn(Phase::Rest, "health", async move { Ok(metrics.serve(health::router(health), stop).await?) });
    let state = PanelState { entries: store.clone(), clock: Arc::new(SystemClock) };
    let stop = tasks.stop_of(Phase::Doors);
    tasks.spawn(Phase::Doors, "panel", async move { Ok(panel.serve(panel::router(state), stop).await?) });
}

/// What the API server calls, and that it does.
struct Webhook {
    config: Config,
    cluster: Cluster,
    namespace: String,
    safe: Safe,
    /// None while there is no key, or it is not known which policies there are: a call that is refused at once costs a
    /// write nothing, one that hangs its whole timeout.
    socket: Option<Bound>,
    recorder: pipeline::Recorder,
    reviews: intake::admission::Metrics,
    measures: operator::Metrics,
    signs: Arc<watch::Sender<Signs>>,
    rules: watch::Receiver<Arc<Rules>>,
    known: watch::Receiver<policies::Status>,
}

impl Webhook {
    async fn run(mut self, stop: CancellationToken) -> Outcome {
        // In a moment, as a rule; what the API server asks meanwhile waits for it.
        let _in_time = tokio::time::timeout(POLICIES_KNOWN_WITHIN, are_known(&mut self.known)).await;
        let Some(Keys { redactor, seal, keeper }) = self.keys(&stop).await? else { return Ok(()) };
        self.signs.send_modify(|signs| signs.key.clear());
        let policies_known = self.known.borrow().known;
        let mut socket = self.socket.take().filter(|_| policies_known);
        if !policies_known {
            warn!(
                "it is not known which AuditPolicies there are: no review is answered, and a registration that is there is \
                 left as it is, until it is"
            );
        }
        let (tls, mut certificate) = (keeper.tls(), keeper.status());
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let cluster = self.config.cluster.clone();
        let ledger = Ledger { recorder: self.recorder.clone(), clock, entropy, cluster, seal };
        let kubernetes = &self.config.kubernetes;
        let wanted = watch::Sender::new(Arc::new(registration::Settings {
            webhook_url: kubernetes.webhook_url.clone(),
            namespace: self.namespace.clone(),
            service: kubernetes.service.clone(),
            rules: self.rules.borrow().clone(),
            policies_known,
        }));
        let (registrar, mut status) = Registrar::new(registration::Parts {
            cluster: self.cluster,
            settings: wanted.subscribe(),
            keeper,
            ledger,
            metrics: self.measures,
        });
        let (mut rules, mut known) = (self.rules.clone(), self.known.clone());
        let follow = async {
            loop {
                let unknown = !wanted.borrow().policies_known;
                let followed = tokio::select! {
                    changed = rules.changed() => changed.is_ok(),
                    known = are_known(&mut known), if unknown => known,
                };
                if !followed {
                    return;
                }
                let (rules, policies_known) = (rules.borrow_and_update().clone(), known.borrow().known);
                wanted.send_modify(|wanted| {
                    let before = registration::Settings::clone(wanted);
                    *wanted = Arc::new(registration::Settings { rules, policies_known, ..before });
                });
            }
        };
        let settings = intake::admission::Settings { cluster: self.config.cluster.clone(), rules: self.rules.clone() };
        let admission =
            Admission::new(settings, self.recorder, redactor, Arc::new(SystemClock), Arc::new(SystemEntropy))
                .with_metrics(self.reviews);
        let router = intake::admission::router(Arc::new(admission));
        certificate.mark_changed();
        let tell = async {
            loop {
                let told = tokio::select! {
                    told = status.changed() => told,
                    told = certificate.changed() => told,
                };
                if told.is_err() {
                    return;
                }
                let reason = unregistered(&status.borrow_and_update());
                let certificate = certificate.borrow_and_update().clone();
                self.signs.send_modify(|signs| (signs.webhook, signs.certificate) = (reason, Some(certificate)));
            }
        };
        // One token for both, so that a listener that fails takes the registrar along.
        let both = stop.child_token();
        let serve = async {
            let served = async {
                let known = async { are_known(&mut self.known).await };
                if both.run_until_cancelled(known).await.is_none() {
                    return Outcome::Ok(());
                }
                let socket = match socket.take() {
                    Some(socket) => socket,
                    None => Bound::bind(WEBHOOK_KEY, self.config.listen.webhook)?,
                };
                info!(address = %socket.local_addr(), namespace = self.namespace, "taking in admission reviews");
                Ok(socket.serve_tls(router, tls, both.clone()).await?)
            };
            let served = served.await;
            both.cancel();
            served
        };
        let (_, (), (), served) =
            tokio::join!(both.run_until_cancelled(follow), tell, registrar.run(both.clone()), serve);
        served
    }

    /// None where the program was stopped before they could be had.
    async fn keys(&mut self, stop: &CancellationToken) -> anyhow::Result<Option<Keys>> {
        let mut told = false;
        loop {
            let error = match self.try_keys().await {
                Ok(keys) => return Ok(Some(keys)),
                Err((error, Retry::Never)) => return Err(error),
                Err((error, Retry::Later)) => error,
            };
            self.socket = None;
            self.signs.send_modify(|signs| signs.key = error.to_string());
            if !told {
                warn!(
                    error = with_causes(error.as_ref()),
                    "no key and certificate yet; trying again until they are there"
                );
                told = true;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn try_keys(&self) -> Result<Keys, (anyhow::Error, Retry)> {
        let key = keys::redaction_key(&self.safe, &SystemEntropy).await;
        let key = key.map_err(|error| (error.retry(), error)).map_err(|(retry, error)| (error.into(), retry))?;
        let key = RedactionKey::new(key.into_bytes());
        let kubernetes = &self.config.kubernetes;
        let names = Names::of(kubernetes.webhook_url.as_ref(), &kubernetes.service, &self.namespace)
            .map_err(|error| (error.into(), Retry::Never))?;
        let source = match &self.config.tls {
            None => Source::SelfMade(self.safe.clone()),
            Some(given) => Source::Given(GivenFiles {
                cert_file: given.cert_file.clone(),
                key_file: given.key_file.clone(),
                ca_file: Some(given.ca_file.clone()),
            }),
        };
        let keeper = Keeper::start(source, names, SETTLE, SystemClock.now()).await;
        let keeper = keeper.map_err(|error| (error.retry(), error)).map_err(|(retry, error)| (error.into(), retry))?;
        Ok(Keys { seal: key.seal_key(), redactor: Redactor::new(key), keeper })
    }
}

/// Comes back once they are, and are in force; false where nobody will ever tell.
async fn are_known(policies: &mut watch::Receiver<policies::Status>) -> bool {
    policies.wait_for(|policies| policies.known).await.is_ok()
}

/// What the webhook needs before it can be called.
struct Keys {
    redactor: Redactor,
    seal: SealKey,
    keeper: Keeper,
}

/// Empty where the API server calls the webhook.
fn unregistered(status: &registration::Status) -> String {
    match (&status.last_error, status.registered) {
        (_, true) => String::new(),
        (Some(error), false) => error.clone(),
        (None, false) => "not registered yet".to_owned(),
    }
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

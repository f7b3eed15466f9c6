//! Joins what tells of writes beside their reviews: the kinds that are served, the watch of what no webhook sees, and what the
//! states of objects tell of the writes before.

use std::path::PathBuf;
use std::sync::Arc;

use cluster::Cluster;
use domain::clock::Clock as _;
use domain::kinds::Kinds;
use domain::redact::Redactor;
use intake::Heard;
use intake::audit_events::{self, LogFile, Teller, place_of};
use intake::config_watch::{self, ConfigWatch};
use operator::outcomes::{self, Outcomes};
use operator::policies;
use policy::Rules;
use prometheus_client::registry::Registry;
use store::Store;
use tokio::sync::{Notify, watch};

use crate::adapters::{self, SystemClock, SystemEntropy};
use crate::health::Signs;
use crate::tasks::{Phase, Tasks};
use crate::webhook::are_known;

/// What it takes to watch.
pub struct Watching {
    pub cluster: Cluster,
    /// The cluster's, as entries have it.
    pub name: String,
    /// The program's own.
    pub namespace: String,
    pub store: Arc<dyn Store>,
    pub recorder: pipeline::Recorder,
    pub redactor: watch::Receiver<Option<Redactor>>,
    pub rules: watch::Receiver<Arc<Rules>>,
    pub known: watch::Receiver<policies::Status>,
    pub migrated: watch::Receiver<bool>,
    /// When the log was last gone through for outcomes.
    pub inferred: Heard,
    pub seen: Heard,
    /// Somebody is set up to tell of audit events.
    pub expects_events: bool,
}

impl Watching {
    /// The redactor, once what is found can be judged and stored; None where the program ends before.
    async fn ready(&mut self) -> Option<Redactor> {
        self.migrated.wait_for(|migrated| *migrated).await.ok()?;
        if !are_known(&mut self.known).await {
            return None;
        }
        self.redactor.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// What is counted on the way.
#[derive(Default)]
pub struct Measures {
    config_watch: config_watch::Metrics,
    outcomes: outcomes::Metrics,
}

impl Measures {
    pub fn register(&self, registry: &mut Registry) {
        self.config_watch.register(registry);
        self.outcomes.register(registry);
    }
}

/// Answers the kinds that are served, and by what to ask for them anew.
pub fn spawn(tasks: &mut Tasks, watching: Watching, measures: Measures) -> (watch::Receiver<Arc<Kinds>>, Arc<Notify>) {
    let asked = Arc::new(Notify::new());
    let ask = Arc::clone(&asked);
    let kinds = watch::Sender::new(Arc::new(Kinds::default()));
    let (served, answer) = (kinds.subscribe(), kinds.subscribe());
    let (stop, cluster) = (tasks.stop_of(Phase::Rest), watching.cluster.clone());
    tasks.spawn(Phase::Rest, "kinds", async move {
        stop.run_until_cancelled(cluster.keep_kinds(&kinds, &ask)).await;
        Ok(())
    });
    let inferred = watching.inferred.clone();
    let (outcomes, mut migrated) = (outcomes(&watching, served.clone(), measures.outcomes), watching.migrated.clone());
    let stop = tasks.stop_of(Phase::Rest);
    tasks.spawn(Phase::Rest, "outcomes", async move {
        migrated.wait_for(|migrated| *migrated).await?;
        let mut spoke = outcomes.spoke();
        let tell = async {
            while spoke.changed().await.is_ok() {
                if let Some(at) = *spoke.borrow_and_update() {
                    inferred.spoke(at);
                }
            }
        };
        tokio::join!(outcomes.run(stop), tell);
        Ok(())
    });
    let metrics = measures.config_watch;
    // With the doors: what it has seen is recorded before the pipeline ends.
    let stop = tasks.stop_of(Phase::Doors);
    tasks.spawn(Phase::Doors, "config watch", async move {
        let ready = stop.run_until_cancelled(config_watch(watching, served, metrics)).await.flatten();
        match ready {
            Some(watch) => watch.run(stop).await,
            // Stopped before; or nobody is left who would tell what is waited for.
            None => stop.cancelled().await,
        }
        Ok(())
    });
    (answer, asked)
}

/// What it takes to follow the API server's audit log.
pub struct Following {
    pub path: PathBuf,
    /// The embedded database, beside which it is kept how far the log was read.
    pub database: Option<PathBuf>,
    pub settings: audit_events::Settings,
    pub recorder: pipeline::Recorder,
    pub redactor: watch::Receiver<Option<Redactor>>,
    pub known: watch::Receiver<policies::Status>,
    /// Of which it is told when the webhook is registered.
    pub signs: watch::Receiver<Signs>,
    pub heard: Heard,
    pub metrics: audit_events::Metrics,
}

/// It is a door: what it reads goes into the queue, so it ends before the queue does.
pub fn follow(tasks: &mut Tasks, mut following: Following) {
    let stop = tasks.stop_of(Phase::Doors);
    tasks.spawn(Phase::Doors, "audit log", async move {
        let ready = async {
            let known = are_known(&mut following.known).await;
            let redactor = following.redactor.wait_for(Option::is_some).await.ok()?.clone();
            redactor.filter(|_| known)
        };
        let Some(Some(redactor)) = stop.run_until_cancelled(ready).await else { return Ok(()) };
        let registered = watch::Sender::new(None);
        let log = LogFile {
            place: place_of(&following.path, following.database.as_deref()),
            path: following.path,
            teller: Teller::new(following.settings, redactor).covered_since(registered.subscribe()),
            recorder: following.recorder,
            clock: Arc::new(SystemClock),
            heard: following.heard,
            metrics: following.metrics,
        };
        let mut signs = following.signs;
        let register = async {
            let is_registered = signs.wait_for(|signs| signs.webhook.is_empty()).await.is_ok();
            registered.send_replace(is_registered.then(|| SystemClock.now()));
        };
        tokio::join!(stop.run_until_cancelled(register), log.run(stop.clone()));
        Ok(())
    });
}

fn outcomes(
    watching: &Watching,
    kinds: watch::Receiver<Arc<Kinds>>,
    metrics: outcomes::Metrics,
) -> Outcomes<dyn Store, Cluster> {
    Outcomes::new(outcomes::Parts {
        store: watching.store.clone(),
        cluster: watching.cluster.clone(),
        clock: Arc::new(SystemClock),
        settings: outcomes::Settings {
            cluster: watching.name.clone(),
            holder: adapters::holder(),
            expects_events: watching.expects_events,
        },
        rules: watching.rules.clone(),
        policies: watching.known.clone(),
        kinds,
        redactor: watching.redactor.clone(),
        metrics,
    })
}

/// None where the program ends before it can begin.
async fn config_watch(
    mut watching: Watching,
    kinds: watch::Receiver<Arc<Kinds>>,
    metrics: config_watch::Metrics,
) -> Option<ConfigWatch> {
    let redactor = watching.ready().await?;
    let settings = config_watch::Settings {
        cluster: watching.name,
        namespace: watching.namespace,
        registration: operator::registration::CONFIGURATION,
        holder: adapters::holder(),
        rules: watching.rules,
        kinds,
    };
    let parts = config_watch::Parts {
        cluster: watching.cluster,
        entries: watching.store.clone(),
        links: watching.store.clone(),
        leases: watching.store,
        recorder: watching.recorder,
        redactor,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        heard: watching.seen,
        metrics,
    };
    Some(ConfigWatch::new(settings, parts, watch::Sender::default()))
}

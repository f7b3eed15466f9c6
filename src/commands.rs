//! The commands that do one thing and end.

mod import;

use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use cluster::DeploymentRef;
use jobs::{Purge, PurgeSettings, Purged};
use operator::certificates::{self, Phase, Rotation, SETTLE};
use operator::registration::{self, PERIOD};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::adapters::{self, SystemClock, SystemEntropy};
use crate::app;
use crate::config::Config;
use crate::status;

pub use self::import::import;

#[expect(clippy::print_stdout, reason = "a command's answer")]
pub fn crd() -> anyhow::Result<()> {
    print!("{}", api::crd_yaml().context("writing the definition")?);
    Ok(())
}

pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let store = store_sql::open(config.database_url.as_str())?;
    store.migrate().await.context("migrating")?;
    store.prepare(domain::clock::Clock::now(&SystemClock)).await.context("making room for the coming days")?;
    say("the schema is up to date");
    Ok(())
}

pub async fn purge(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    let store = store_sql::open(config.database_url.as_str())?;
    store.check().await.context("asking the database")?;
    let retentions = watch::Sender::new(Arc::new(app::configured(config.audit.retention)));
    let purge = Purge {
        store,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        settings: PurgeSettings {
            retentions: retentions.subscribe(),
            at: config.audit.purge_at,
            holder: adapters::holder(),
        },
        metrics: jobs::Metrics::default(),
    };
    let purged = if dry_run {
        purge.preview().await.context("counting what would go")?
    } else {
        let stop = CancellationToken::new();
        let asked = app::asked_to_stop()?;
        let mut work = pin!(purge.now("command", &stop));
        let done = tokio::select! {
            done = &mut work => done,
            () = asked => {
                stop.cancel();
                work.await
            }
        };
        done.context("purging")?
    };
    say(&told(&purged, dry_run));
    Ok(())
}

pub async fn rotate_ca(config: &Config) -> anyhow::Result<()> {
    if let Some(given) = &config.tls {
        bail!(
            "tls.ca_file {} is given: who issues it replaces it, and replicas that run take over what the files hold",
            given.ca_file.display()
        );
    }
    let safe = app::safe_of(config).await?;
    let place = certificates::place(&safe);
    match certificates::rotate(&safe, domain::clock::Clock::now(&SystemClock)).await.context("introducing a CA")? {
        Rotation::Begun => say(&format!(
            "a new CA is introduced ({place}). Replicas that run register it beside the old one within {period} s, serve \
             with it about {settle} s later, and drop the old one about {settle} s after that; no call is refused meanwhile",
            period = PERIOD.as_secs(),
            settle = (SETTLE + PERIOD).as_secs(),
        )),
        Rotation::UnderWay(Phase::Switched) => bail!(
            "the CA was replaced a moment ago, and replicas that run have yet to drop the one before it ({place}): \
             nothing was changed; run this again in {} s",
            (SETTLE + PERIOD).as_secs()
        ),
        Rotation::UnderWay(_) => say(&format!(
            "a new CA is introduced already ({place}), and replicas that run carry it through: nothing was changed"
        )),
    }
    Ok(())
}

pub async fn status(config: &Config, address: Option<&str>) -> anyhow::Result<()> {
    let here = status::here(config.listen.metrics).to_string();
    let address = address.unwrap_or(&here);
    let answer = status::ask(address).await?;
    say(answer.body.trim_end());
    ensure!(answer.status == 200, "{address} cannot do its work: /readyz answers {}", answer.status);
    Ok(())
}

pub async fn unregister(config: &Config, deployment: Option<&DeploymentRef>) -> anyhow::Result<()> {
    let cluster = app::connected(config).await?.cluster;
    let Some(deployment) = deployment else {
        let was_there = registration::unregister(&cluster).await?;
        say(if was_there { "the webhook's registration is removed" } else { "no webhook was registered" });
        say(&format!(
            "a kubevision-audit that runs registers again within {} s: stop it first, or name its Deployment by --deployment",
            PERIOD.as_secs()
        ));
        return Ok(());
    };
    if cluster.scale_to_zero(deployment).await? {
        say(&format!("{deployment} is scaled to 0 replicas"));
    } else {
        say(&format!("there is no {deployment}: nothing to stop"));
    }
    match registration::unregister_for_good(&cluster).await? {
        0 => say("no webhook was registered, and none has appeared"),
        1 => say("the webhook's registration is removed, and stays away"),
        times => say(&format!(
            "the webhook's registration is removed, and stays away: replicas that were ending put it back {} times",
            times - 1
        )),
    }
    Ok(())
}

fn told(purged: &Purged, dry_run: bool) -> String {
    let Some(before) = purged.before() else {
        return "audit.retention_days is 0: everything is kept for ever".to_owned();
    };
    let (entries, days) = (purged.entries(), purged.days);
    let before = before.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    match (dry_run, days) {
        (true, _) => format!("{entries} entries from before {before} would be purged"),
        (false, 0) => format!("{entries} entries from before {before} purged"),
        (false, days) => {
            format!("{entries} entries from before {before} purged, {days} days of them as whole partitions")
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a command was asked for goes to standard output")]
fn say(line: &str) {
    println!("{line}");
}

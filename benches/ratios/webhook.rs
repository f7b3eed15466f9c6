//! The webhook beside a handler that reads the body and does nothing, over the same listener, with the same client.
//!
//! What is recorded goes into a SQLite file on this machine's disk while the load lasts. The two take turns, so that what
//! else the machine does befalls both.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use domain::redact::{RedactionKey, Redactor};
use intake::admission::{Admission, Settings};
use listener::{Bound, Certificate, Tls};
use policy::{Rule, Rules};
use testkit::control_plane::Authority;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Talker};
use crate::given::{Chance, Now};
use crate::report::{Goal, Report, percentile};
use crate::review::Review;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const CLIENT_THREADS: u32 = 2;
/// Of each thread.
const TALKERS: u32 = 8;
/// What a large cluster writes, and far from what either side can do.
const CALM_PER_SECOND: u32 = 200;
const CALM_TALKERS: u32 = 4;
/// For the batcher to write what still waits, so that it costs nobody else's turn.
const DRAIN: Duration = Duration::from_millis(1_500);

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let authority = Authority::new("bench")?;
    let identity = authority.server(["localhost"])?;
    let certificate = Certificate::from_pem(identity.certificate.as_bytes(), identity.key.as_bytes())?;
    let folder = tempfile::tempdir()?;
    let database = format!("sqlite://{}", folder.path().join("audit.db").display());
    let stop = CancellationToken::new();
    let (started, addresses) = std::sync::mpsc::channel();
    let (server, stopped) = (stop.clone(), stop.clone());
    let serving = thread::spawn(move || {
        // Whatever ends it, nobody waits for it in vain.
        let _stop = stopped.drop_guard();
        let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(serve(&database, &certificate, server, started))
    });
    let [noop, webhook] = addresses.recv().context("the servers did not start")?;
    let review = Review::new()?;
    report.note(&format!("reviews of {} bytes, {} at a time", review.len(), CLIENT_THREADS * TALKERS));
    let load = Load { client: Client::new(&authority.certificate())?, review, sent: AtomicU64::new(0) };
    let measured = measure(&load, noop, webhook, report);
    stop.cancel();
    let stored = serving.join().ok().context("the servers panicked")??;
    let sent = measured?;
    ensure!(stored == sent, "{sent} reviews were admitted and {stored} stored");
    report.note(&format!("all {stored} reviews are stored"));
    Ok(())
}

/// Answers how many reviews the webhook took.
fn measure(load: &Load, noop: SocketAddr, webhook: SocketAddr, report: &mut Report) -> anyhow::Result<u64> {
    let (mut fast, mut calm) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut of_webhook = load.saturate(webhook, DRAIN)?.len() as u64;
    load.saturate(noop, DRAIN)?;
    for _ in 0..ROUNDS {
        fast[0].extend(load.saturate(noop, ROUND)?);
        calm[0].extend(load.calm(noop, ROUND)?);
        fast[1].extend(load.saturate(webhook, ROUND)?);
        thread::sleep(DRAIN);
        calm[1].extend(load.calm(webhook, ROUND)?);
        thread::sleep(DRAIN);
    }
    of_webhook += (fast[1].len() + calm[1].len()) as u64;
    let seconds = (ROUND * ROUNDS as u32).as_secs_f64();
    let [noop_rate, rate] = [0, 1].map(|side| fast[side].len() as f64 / seconds);
    report.ratio("webhook, 28 kB reviews", "/s", rate, ("no-op", noop_rate), Goal::AtLeast(0.35));
    let [[noop_p50, p50], [noop_p99, p99]] = [50, 99].map(|p| [0, 1].map(|side| percentile(&mut calm[side], p)));
    report.ratio(&format!("p99 at {CALM_PER_SECOND}/s"), "µs", p99, ("no-op", noop_p99), Goal::AtMost(2.0));
    let [noop_full, full] = [0, 1].map(|side| percentile(&mut fast[side], 99));
    report.note(&format!("p50 at {CALM_PER_SECOND}/s {p50:.0} µs beside {noop_p50:.0} µs"));
    report.note(&format!("p99 under full load {full:.0} µs beside {noop_full:.0} µs"));
    Ok(of_webhook)
}

struct Load {
    client: Client,
    review: Review,
    sent: AtomicU64,
}

impl Load {
    /// As much as goes; answers what each took, in microseconds.
    fn saturate(&self, address: SocketAddr, during: Duration) -> anyhow::Result<Vec<f64>> {
        let one = || {
            on_one_thread(self.client.each(address, TALKERS, async |talker| {
                let mut took = Vec::new();
                let end = Instant::now() + during;
                while Instant::now() < end {
                    took.push(self.timed(&talker).await?);
                }
                Ok(took)
            }))
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..CLIENT_THREADS).map(|_| scope.spawn(one)).collect();
            let all: anyhow::Result<Vec<_>> = threads.into_iter().map(joined).collect();
            Ok(all?.concat().concat())
        })
    }

    /// At a moderate rate, whatever the answers take.
    fn calm(&self, address: SocketAddr, during: Duration) -> anyhow::Result<Vec<f64>> {
        let took = on_one_thread(self.client.each(address, CALM_TALKERS, async |talker| {
            let mut took = Vec::new();
            let mut turns = interval(Duration::from_secs(1) * CALM_TALKERS / CALM_PER_SECOND);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let end = Instant::now() + during;
            while Instant::now() < end {
                turns.tick().await;
                took.push(self.timed(&talker).await?);
            }
            Ok(took)
        }))?;
        Ok(took.concat())
    }

    async fn timed(&self, talker: &Talker) -> anyhow::Result<f64> {
        let review = self.review.numbered(self.sent.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        talker.exchange(review).await?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

fn on_one_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().ok().context("a client panicked")?
}

/// Both until `stop`; answers how many entries were stored.
async fn serve(
    database: &str,
    certificate: &Certificate,
    stop: CancellationToken,
    started: std::sync::mpsc::Sender<[SocketAddr; 2]>,
) -> anyhow::Result<u64> {
    let store = store_sql::open(database)?;
    store.migrate().await?;
    let (recorder, batcher) = pipeline::pipeline(pipeline::Settings::default(), store, Arc::new(Now), Arc::new(Chance));
    let rules = Rules::only(Rule::built_in("built-in", false));
    let settings = Settings {
        cluster: "local".to_owned(),
        rules: watch::Sender::new(Arc::new(rules)).subscribe(),
        kinds: watch::Sender::new(Arc::default()).subscribe(),
    };
    let redactor = Redactor::new(RedactionKey::new([7; 32]));
    let admission = Admission::new(settings, recorder, redactor, Arc::new(Now), Arc::new(Chance));
    let webhook = intake::admission::router(Arc::new(admission));
    let noop = Router::new().route("/admission", post(allow));

    let bind = |name| Bound::bind(name, (Ipv4Addr::LOCALHOST, 0).into());
    let sockets = [bind("no-op")?, bind("webhook")?];
    started.send([sockets[0].local_addr(), sockets[1].local_addr()])?;
    let [first, second] = sockets;
    let tls = Arc::new(Tls::new(certificate)?);
    let batcher_stop = CancellationToken::new();
    let doors = async {
        let served = tokio::try_join!(
            first.serve_tls(noop, tls.clone(), stop.clone()),
            second.serve_tls(webhook, tls.clone(), stop.clone())
        );
        batcher_stop.cancel();
        served
    };
    let (served, flushed) = tokio::join!(doors, batcher.run(batcher_stop.clone()));
    served?;
    Ok(flushed?.stored)
}

async fn allow(body: Bytes) -> ([(axum::http::HeaderName, &'static str); 1], &'static str) {
    const ALLOWED: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"73e41105-3c54-4564-8035-0c349ca97599","allowed":true}}"#;
    std::hint::black_box(body.len());
    ([(CONTENT_TYPE, "application/json")], ALLOWED)
}

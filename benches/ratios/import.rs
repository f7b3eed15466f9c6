//! A log of a million audit events imported into SQLite by the program itself, beside as many entries written by the store
//! alone, and what the program keeps in memory meanwhile.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use domain::clock::Clock as _;
use domain::{EntryId, RedactedEntry};
use testkit::guard;

use crate::given::{Now, entry};
use crate::report::{Goal, Report};

const EVENTS: u64 = 1_000_000;
/// As the import writes them.
const BATCH: u64 = 2_000;
const PROGRAM: &str = env!("CARGO_BIN_EXE_kubevision-audit");
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let folder = guard::folder("bench-import")?;
    let log = folder.join("audit.log");
    write_log(&log)?;
    report.note(&format!("{EVENTS} events in {} MiB", fs::metadata(&log)?.len() / 1024 / 1024));
    let plain = tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(written(&folder))?;
    let (took, peak_kib) = imported(&folder, &log)?;
    let (again, _) = imported(&folder, &log)?;
    report.note(&format!("the second time, which adds nothing, took {:.1} s", again.as_secs_f64()));
    let rate = |took: Duration| EVENTS as f64 / took.as_secs_f64();
    report.ratio("import into SQLite", "events/s", rate(took), ("entries/s", rate(plain)), Goal::AtLeast(0.5));
    report.figure("memory of an import at its peak", "MiB", peak_kib as f64 / 1024.0, Goal::AtMost(100.0));
    fs::remove_dir_all(folder).context("removing what was measured with")
}

/// As kube-apiserver writes them at level Metadata, of writes that no webhook of ours knew of.
fn write_log(path: &Path) -> anyhow::Result<()> {
    let mut log = BufWriter::new(File::create(path)?);
    for n in 0..EVENTS {
        let time = time(n).to_rfc3339_opts(SecondsFormat::Micros, true);
        writeln!(
            log,
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"89ec012a-4b57-48ac-8d10-{n:012x}","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/shop-{}/deployments/web-{}?fieldManager=kubectl-client-side-apply\u0026fieldValidation=Strict","verb":"patch","user":{{"username":"user-{}@example.com","groups":["developers","system:authenticated"],"extra":{{"authentication.kubernetes.io/credential-id":["X509SHA256=06a722bada091e9b3d45b269008e58125c3ee14cef5188b22c456b35ff9f10aa"]}}}},"sourceIPs":["10.0.{}.{}"],"userAgent":"kubectl/v1.37.2 (linux/amd64) kubernetes/$Format","objectRef":{{"resource":"deployments","namespace":"shop-{}","name":"web-{}","apiGroup":"apps","apiVersion":"v1"}},"responseStatus":{{"metadata":{{}},"code":200}},"requestReceivedTimestamp":"{time}","stageTimestamp":"{time}","annotations":{{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}}}"#,
            n % 40,
            n % 2_000,
            n % 50,
            n / 250 % 250,
            n % 250,
            n % 40,
            n % 2_000
        )?;
    }
    log.flush().context("writing the log")
}

fn time(n: u64) -> DateTime<Utc> {
    Now.now() - TimeDelta::days(1) + TimeDelta::milliseconds(n.cast_signed() * 20)
}

async fn written(folder: &Path) -> anyhow::Result<Duration> {
    let store = store_sql::open(&url(folder, "plain"))?;
    store.migrate().await?;
    let mut took = Duration::ZERO;
    for batch in 0..EVENTS / BATCH {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        let entries: Vec<RedactedEntry> = numbers.map(|n| entry(EntryId::at(time(n), n), n)).collect();
        let start = Instant::now();
        store.write(&entries).await?;
        took += start.elapsed();
    }
    Ok(took)
}

/// How long it took, and the most that it kept in memory, in KiB.
fn imported(folder: &Path, log: &Path) -> anyhow::Result<(Duration, u64)> {
    let program = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(folder).env("KUBEVISION_AUDIT_DATABASE__URL", url(folder, "imported"));
        command.stdout(Stdio::null());
        command
    };
    ensure!(program(&["migrate"]).status()?.success(), "migrating");
    let start = Instant::now();
    let mut import = program(&["import"]).arg(log).spawn()?;
    let status = format!("/proc/{}/status", import.id());
    let mut peak = 0;
    let ended = loop {
        if let Ok(status) = fs::read_to_string(&status) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
        if let Some(ended) = import.try_wait()? {
            break ended;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    ensure!(ended.success(), "the import failed: {ended}");
    Ok((start.elapsed(), peak))
}

fn url(folder: &Path, name: &str) -> String {
    format!("sqlite://{}", folder.join(format!("{name}.db")).display())
}

//! `import`: audit events out of files, straight into the store. What is imported twice is there once.

mod shapes;
mod values;

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use domain::RedactedEntry;
use domain::attempt::Attempt;
use domain::event::{Covered, Judge, Judgement, Scene, tell};
use domain::kinds::Kinds;
use domain::redact::{RedactionKey, Redactor};
use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use intake::audit_events::is_left_out;
use operator::keys;
use store::Store;
use tokio::sync::mpsc;

use self::shapes::events;
use self::values::Values;
use super::say;
use crate::adapters::SystemEntropy;
use crate::app;
use crate::config::Config;

/// What a policy column says of entries that were imported and belong to no other.
const POLICY: &str = "import";
/// What is written together.
const BATCH_ENTRIES: usize = 2_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Batches that wait while one is written: reading and writing go on side by side.
const AHEAD: usize = 2;
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Default)]
struct Batch {
    write: Vec<RedactedEntry>,
    join: Vec<RedactedEntry>,
    bytes: usize,
}

/// What was found, for the summary.
#[derive(Clone, Copy, Default)]
struct Count {
    events: u64,
    entries: u64,
    outcomes: u64,
    others: u64,
}

pub async fn import(config: &Config, files: Vec<PathBuf>, cluster: Option<String>) -> anyhow::Result<()> {
    let store = store_sql::open(config.database_url.as_str())?;
    store.check().await.context("asking the database")?;
    let reader = Reader {
        cluster: cluster.unwrap_or_else(|| config.cluster.clone()),
        namespace: config.kubernetes.namespace.clone().unwrap_or_else(|| app::NAMESPACE.to_owned()),
        redactor: redactor(config).await,
        kinds: Kinds::default(),
    };
    let (batches, mut read) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || reader.read_all(&files, &batches));
    let mut written = Ok(());
    while let Some(batch) = read.recv().await {
        written = write(&*store, batch).await;
        if written.is_err() {
            // The reader ends at its next batch.
            break;
        }
    }
    drop(read);
    let counted = reading.await.context("reading")?;
    written?;
    say(&told(&counted?));
    Ok(())
}

async fn write(store: &dyn Store, batch: Batch) -> anyhow::Result<()> {
    if !batch.write.is_empty() {
        store
            .write(&batch.write)
            .await
            .context("writing: what was read before is stored, and may be imported again")?;
    }
    if !batch.join.is_empty() {
        store.join(&batch.join).await.context("joining: what was read before is stored, and may be imported again")?;
    }
    Ok(())
}

/// Where the key can be had: with it, what a watch saw of a webhook configuration is found by its state.
async fn redactor(config: &Config) -> Option<Redactor> {
    let safe = app::safe_of(config).await.ok()?;
    let key = keys::redaction_key(&safe, &SystemEntropy).await.ok()?;
    Some(Redactor::new(RedactionKey::new(key.into_bytes())))
}

struct Reader {
    cluster: String,
    namespace: String,
    redactor: Option<Redactor>,
    kinds: Kinds,
}

impl Reader {
    fn read_all(&self, files: &[PathBuf], batches: &mpsc::Sender<Batch>) -> anyhow::Result<Count> {
        let mut count = Count::default();
        let bar = progress(files);
        let mut batch = Batch::default();
        let mut read = Ok(());
        for file in files {
            read = self.read_file(file, &bar, &mut count, &mut batch, batches);
            read = read.with_context(|| format!("importing {}", file.display()));
            if read.is_err() {
                break;
            }
        }
        bar.finish_and_clear();
        // What came before a fault is good.
        let _gone = batches.blocking_send(batch);
        read.map(|()| count)
    }

    fn read_file(
        &self,
        file: &Path,
        bar: &ProgressBar,
        count: &mut Count,
        batch: &mut Batch,
        batches: &mpsc::Sender<Batch>,
    ) -> anyhow::Result<()> {
        let mut values = Values::new(opened(file, bar)?);
        let scene = Scene { cluster: &self.cluster, kinds: &self.kinds, redactor: self.redactor.as_ref() };
        let judge = Imported { namespace: &self.namespace };
        while let Some((line, value)) = values.next()? {
            let others = events(value, &mut |events| {
                for event in events {
                    let told = tell(event, &judge, &scene);
                    count.events += 1;
                    count.entries += told.write.len() as u64;
                    count.outcomes += told.join.len() as u64;
                    batch.bytes += told.write.iter().chain(&told.join).map(|entry| entry.weight()).sum::<usize>();
                    batch.write.extend(told.write);
                    batch.join.extend(told.join);
                }
            });
            count.others += others.with_context(|| format!("line {line}"))?;
            if batch.write.len() + batch.join.len() >= BATCH_ENTRIES || batch.bytes >= BATCH_BYTES {
                // Gone where a write failed, which is told instead.
                if batches.blocking_send(std::mem::take(batch)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// All writes, but for those that nobody looks for. Whether a webhook was to see them then, nobody can say.
struct Imported<'n> {
    namespace: &'n str,
}

impl Judge for Imported<'_> {
    fn excludes(&self, request: &Attempt<'_>) -> bool {
        is_left_out(request, self.namespace)
    }

    fn judge(&self, request: &Attempt<'_>) -> Judgement<'_> {
        let is_invisible = policy::is_invisible(request.api_group, request.resource);
        Judgement {
            policy: POLICY,
            wanted: request.operation.is_write(),
            certain: true,
            // What a policy hides nobody is asked here, so no message is told.
            redacts: true,
            covered: if is_invisible { Covered::ByNone } else { Covered::Unknown },
        }
    }

    fn built_in(&self) -> &str {
        POLICY
    }
}

/// Standard input for `-`; unpacked where it is gzip, whatever its name.
fn opened(file: &Path, bar: &ProgressBar) -> anyhow::Result<Box<dyn Read>> {
    let raw: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(bar.wrap_read(File::open(file).context("opening it")?)),
    };
    let mut raw = BufReader::new(raw);
    let mut first = Vec::new();
    (&mut raw).take(GZIP.len() as u64).read_to_end(&mut first)?;
    let is_gzip = first == GZIP;
    let whole = io::Cursor::new(first).chain(raw);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

/// In bytes of the files, where somebody looks at it.
fn progress(files: &[PathBuf]) -> ProgressBar {
    let sizes = files.iter().map(|file| file.metadata().map(|metadata| metadata.len()));
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(sizes.flatten().sum()), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn told(count: &Count) -> String {
    let Count { events, entries, outcomes, others, .. } = count;
    let mut told =
        format!("{events} events read: {entries} entries and {outcomes} outcomes of entries, each stored once");
    if *others > 0 {
        told += &format!("; {others} records skipped that are no audit events");
    }
    if *outcomes > 0 {
        told += ". An outcome whose entry is not there becomes an entry by itself, in minutes, while `serve` runs";
    }
    told
}

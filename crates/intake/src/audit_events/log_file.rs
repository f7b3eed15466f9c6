//! Follows the file that the API server's log backend writes: one event a line, moved aside when it is large.
//!
//! Each line is told at least once. How far it was read is remembered only when what was read is stored; a torn last line
//! is waited for; where the queue is full, the file waits. Of files that were moved aside meanwhile none is left out.

use std::collections::VecDeque;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::RedactedEntry;
use domain::clock::Clock;
use domain::text::with_causes;
use pipeline::{Loss, NotAccepted, Recorder};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::Heard;
use crate::audit_events::metrics::Skipped;
use crate::audit_events::place::{Begin, Opened, Place};
use crate::audit_events::{Lot, Metrics, Teller, read};

/// A longer line is skipped.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;
/// How often the file is looked at while nothing new is in it.
const PERIOD: Duration = Duration::from_millis(250);
/// While the queue is full.
const BUSY: Duration = Duration::from_millis(200);
/// Places that are not stored yet; one for each read, so that a database that is away costs little memory.
const PENDING_MAX: usize = 4_096;

/// A task's body.
pub struct LogFile {
    pub path: PathBuf,
    /// Where it is remembered how far the file was read.
    pub place: PathBuf,
    pub teller: Teller,
    pub recorder: Recorder,
    pub clock: Arc<dyn Clock>,
    pub heard: Heard,
    pub metrics: Metrics,
}

/// How far it was read, and is not kept yet.
#[derive(Default)]
struct Pending {
    places: VecDeque<(u64, Place)>,
    /// Where it could not be kept, and somebody was told.
    is_told: bool,
}

/// What is read of a file and is no whole line yet.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    /// What was read of this line is too long already.
    skips: bool,
}

impl LogFile {
    /// Reads until `stop`. A file that cannot be read is tried again.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = false;
        loop {
            let followed = stop.run_until_cancelled(self.follow()).await;
            let Some(Err(error)) = followed else { return };
            if !told {
                let path = self.path.display();
                tracing::warn!(%path, error = with_causes(&error), "the audit log cannot be read; trying again");
                told = true;
            }
            if stop.run_until_cancelled(sleep(8 * PERIOD)).await.is_none() {
                return;
            }
        }
    }

    async fn follow(&self) -> io::Result<()> {
        let (mut opened, begin) = Opened::open(&self.path, Place::load(&self.place).as_ref())?;
        if begin == Begin::Gone {
            let path = self.path.display();
            tracing::warn!(%path, "the file that was being read is gone: what came after in it is not told");
            self.metrics.skipped(Skipped::Gone);
        }
        let mut pending = Pending::default();
        let mut tail = Tail::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = opened.file.read(&mut buffer)?;
            if count > 0 {
                opened.complete_head()?;
                let lines = tail.take(buffer.get(..count).unwrap_or_default());
                let lot = self.tell(&lines).await;
                self.put(lot).await;
                opened.place.offset += count as u64;
                // A torn line is read again after a restart.
                let mut whole = opened.place.clone();
                whole.offset -= tail.bytes.len() as u64;
                if !tail.skips {
                    pending.places.push_back((self.recorder.progress().accepted, whole));
                }
            }
            self.remember(&mut pending);
            while pending.places.len() >= PENDING_MAX {
                sleep(BUSY).await;
                self.remember(&mut pending);
            }
            if count == 0 {
                if opened.place.is_over(&self.path)? {
                    // Of the old one all is read: what was written between the last read and the move, too.
                    if opened.file.read(&mut [0; 1]).is_ok_and(|more| more > 0) {
                        opened.file.seek(SeekFrom::Start(opened.place.offset))?;
                        continue;
                    }
                    if !tail.bytes.is_empty() {
                        self.metrics.skipped(Skipped::Malformed);
                    }
                    tail = Tail::default();
                    opened = opened.next(&self.path)?;
                } else {
                    sleep(PERIOD).await;
                    // Looked at before it is read on, or the middle of what is new would be read.
                    if opened.is_begun_anew()? {
                        (tail, opened) = (Tail::default(), Opened::from_start(&self.path)?);
                    }
                }
            }
        }
    }

    async fn tell(&self, lines: &Lines) -> Lot {
        let mut lot = Lot::default();
        for _ in 0..lines.too_long {
            self.metrics.skipped(Skipped::TooLong);
        }
        for line in lines.text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match read(line) {
                Ok(events) => {
                    let unknown = self.teller.unknown(&events);
                    if !unknown.is_empty() {
                        self.teller.ask_for(unknown).await;
                    }
                    let told = self.teller.tell(&events);
                    lot.write.extend(told.write);
                    lot.join.extend(told.join);
                    lot.came.extend(told.came);
                }
                Err(_) => self.metrics.skipped(Skipped::Malformed),
            }
        }
        lot
    }

    /// Waits for room: the file keeps what is not read.
    async fn put(&self, lot: Lot) {
        let mut parts = vec![(lot.write, lot.join)];
        while let Some((write, join)) = parts.pop() {
            loop {
                match self.recorder.tell(write.clone(), join.clone()) {
                    Ok(()) => {}
                    Err(NotAccepted::QueueFull | NotAccepted::Stopped) => {
                        sleep(BUSY).await;
                        continue;
                    }
                    Err(NotAccepted::TooHeavy) => match smaller(write, join) {
                        Ok(halves) => parts.extend(halves),
                        Err(at) => self.recorder.note_lost(at.unwrap_or_else(|| self.clock.now()), Loss::Unreadable),
                    },
                }
                break;
            }
        }
        self.metrics.told(&lot.came);
        if !lot.came.is_empty() {
            self.heard.spoke(self.clock.now());
        }
    }

    fn remember(&self, pending: &mut Pending) {
        let settled = self.recorder.progress().settled;
        let done = pending.places.iter().take_while(|(accepted, _)| *accepted <= settled).count();
        let Some((_, place)) = pending.places.drain(..done).next_back() else { return };
        match place.save(&self.place) {
            Ok(()) => pending.is_told = false,
            Err(_) if pending.is_told => {}
            Err(error) => {
                let path = self.place.display();
                tracing::warn!(%path, error = with_causes(&error), "how far the audit log was read cannot be kept");
                pending.is_told = true;
            }
        }
    }
}

type Part = (Vec<RedactedEntry>, Vec<RedactedEntry>);

/// The first of them last. Of one entry there is nothing smaller: its time.
fn smaller(mut write: Vec<RedactedEntry>, mut join: Vec<RedactedEntry>) -> Result<[Part; 2], Option<DateTime<Utc>>> {
    match (write.len(), join.len()) {
        (1.., 1..) => Ok([(Vec::new(), join), (write, Vec::new())]),
        (2.., _) => {
            let rest = write.split_off(write.len() / 2);
            Ok([(rest, join), (write, Vec::new())])
        }
        (_, 2..) => {
            let rest = join.split_off(join.len() / 2);
            Ok([(Vec::new(), rest), (Vec::new(), join)])
        }
        _ => Err(write.first().or(join.first()).map(|entry| entry.id.timestamp())),
    }
}

/// Whole lines, and how many were too long to keep.
struct Lines {
    text: Vec<u8>,
    too_long: usize,
}

impl Tail {
    fn take(&mut self, read: &[u8]) -> Lines {
        let mut lines = Lines { text: Vec::new(), too_long: 0 };
        let mut rest = read;
        if self.skips {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return lines };
            self.skips = false;
            lines.too_long = 1;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        match rest.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                let (whole, torn) = rest.split_at(end + 1);
                lines.text = std::mem::take(&mut self.bytes);
                lines.text.extend_from_slice(whole);
                self.bytes = torn.to_vec();
            }
            None => self.bytes.extend_from_slice(rest),
        }
        if self.bytes.len() > LINE_BYTES_MAX {
            (self.bytes, self.skips) = (Vec::new(), true);
        }
        lines
    }
}

/// Where it is remembered how far a log was read: beside an embedded database, else beside the log.
pub fn place_of(log: &Path, database: Option<&Path>) -> PathBuf {
    let beside = database.unwrap_or(log);
    PathBuf::from(format!("{}.audit-log-place", beside.display()))
}

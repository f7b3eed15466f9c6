//! When a source last spoke: silence is what a source that broke has in common with one that has nothing to say, so it is
//! shown to people, who can tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// Shared by who listens and who shows it; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicI64>);

impl Heard {
    pub fn spoke(&self, now: DateTime<Utc>) {
        self.0.fetch_max(now.timestamp_millis(), Ordering::Relaxed);
    }

    /// None where it never has, since this process started.
    pub fn last(&self) -> Option<DateTime<Utc>> {
        let millis = self.0.load(Ordering::Relaxed);
        (millis > 0).then(|| DateTime::from_timestamp_millis(millis)).flatten()
    }
}

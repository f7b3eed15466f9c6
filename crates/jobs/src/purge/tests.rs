use std::sync::Mutex;

use chrono::TimeDelta;
use domain::query::{EntryQuery, Filter, Scope};
use domain::{Action, Entry, RedactedEntry};

use super::*;

struct Hands(Mutex<DateTime<Utc>>);

impl Clock for Hands {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

struct Counting;

impl Entropy for Counting {
    fn bits(&self) -> u64 {
        7
    }
}

struct Night {
    purge: Purge,
    clock: Arc<Hands>,
    _folder: tempfile::TempDir,
}

impl Night {
    async fn at(now: &str, retention_days: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store_sql::open(&format!("sqlite://{}/audit.db", folder.path().display())).unwrap();
        store.migrate().await.unwrap();
        let clock = Arc::new(Hands(Mutex::new(now.parse().unwrap())));
        let settings = PurgeSettings {
            retention: Retention::from_days(retention_days),
            at: NaiveTime::from_hms_opt(2, 0, 0).unwrap(),
        };
        let purge = Purge { store, clock: clock.clone(), entropy: Arc::new(Counting), settings };
        Self { purge, clock, _folder: folder }
    }

    fn later(&self, by: TimeDelta) {
        *self.clock.0.lock().unwrap() += by;
    }

    async fn with_entries_of_the_last(&self, days: i64) {
        let now = self.clock.now();
        let batch: Vec<_> = (0..days).map(|age| entry(now - TimeDelta::days(age))).collect();
        self.purge.store.write(&batch).await.unwrap();
    }

    async fn purged(&self) -> Purged {
        self.purge.now("nightly", &CancellationToken::new()).await.unwrap()
    }

    async fn left(&self, action: Action) -> usize {
        let filter = Filter { action: Some(action), ..Filter::default() };
        let query = EntryQuery { filter, limit: "500".parse().unwrap(), cursor: None };
        self.purge.store.page(&Scope::Everything, &query).await.unwrap().entries.len()
    }
}

fn entry(at: DateTime<Utc>) -> RedactedEntry {
    RedactedEntry::sample(Entry::sample(EntryId::at(at, 1)))
}

#[tokio::test]
async fn only_what_has_outlived_its_retention_goes_and_that_is_recorded() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    night.with_entries_of_the_last(101).await;
    assert_eq!(night.purge.preview().await.unwrap().entries, 10, "91 to 100 days old");
    assert_eq!(night.purged().await.entries, 10);
    assert_eq!((night.left(Action::Update).await, night.left(Action::Purge).await), (91, 1));
    assert_eq!(night.purged().await.entries, 0);
}

#[tokio::test]
async fn a_retention_of_0_keeps_everything() {
    let night = Night::at("2026-03-31T02:00:00Z", 0).await;
    night.with_entries_of_the_last(101).await;
    assert_eq!(night.purged().await.before, None);
    assert_eq!((night.left(Action::Update).await, night.left(Action::Purge).await), (101, 0));
    assert!(!night.purge.due().await.unwrap());
}

#[tokio::test]
async fn a_purge_is_due_once_a_night_and_a_missed_night_is_caught_up() {
    let night = Night::at("2026-03-30T14:00:00Z", 90).await;
    assert!(night.purge.due().await.unwrap(), "none has ever run");
    night.purged().await;
    assert!(!night.purge.due().await.unwrap());
    night.later(TimeDelta::hours(11));
    assert!(!night.purge.due().await.unwrap(), "01:00");
    night.later(TimeDelta::hours(2));
    assert!(night.purge.due().await.unwrap(), "03:00, the night's purge was missed");
    night.purged().await;
    assert!(!night.purge.due().await.unwrap());
}

#[tokio::test]
async fn a_purge_that_is_stopped_says_so_and_is_due_again() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let old = night.clock.now() - TimeDelta::days(100);
    let batch: Vec<_> = (0..12_000).map(|n| entry(old + TimeDelta::milliseconds(n))).collect();
    for part in batch.chunks(4_000) {
        night.purge.store.write(part).await.unwrap();
    }
    let stopped = night.purge.now("nightly", &stop).await;
    assert!(matches!(stopped, Err(PurgeError::Interrupted { entries: 1.. })), "{stopped:?}");
    assert_eq!(night.left(Action::Purge).await, 1, "what went is told");
    assert!(night.purge.due().await.unwrap());
    night.purged().await;
    assert_eq!(night.left(Action::Update).await, 0);
}

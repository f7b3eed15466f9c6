use std::sync::Mutex;

use chrono::TimeDelta;
use domain::query::{EntryQuery, Filter, Scope};
use domain::retention::Retention;
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
    retentions: watch::Sender<Arc<Retentions>>,
    folder: tempfile::TempDir,
}

impl Night {
    async fn at(now: &str, retention_days: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store_sql::open(&format!("sqlite://{}/audit.db", folder.path().display())).unwrap();
        store.migrate().await.unwrap();
        let clock = Arc::new(Hands(Mutex::new(now.parse().unwrap())));
        let retentions = watch::Sender::new(Arc::new(Retentions::only(Retention::from_days(retention_days))));
        let settings = PurgeSettings {
            retentions: retentions.subscribe(),
            at: NaiveTime::from_hms_opt(2, 0, 0).unwrap(),
            holder: "us".to_owned(),
        };
        let entropy = Arc::new(Counting);
        let purge = Purge { store, clock: clock.clone(), entropy, settings, metrics: Metrics::default() };
        Self { purge, clock, retentions, folder }
    }

    /// Another process over the same database.
    fn replica(&self, holder: &str) -> Purge {
        let folder = self.folder.path().display();
        Purge {
            store: store_sql::open(&format!("sqlite://{folder}/audit.db")).unwrap(),
            clock: self.clock.clone(),
            entropy: Arc::new(Counting),
            settings: PurgeSettings { holder: holder.to_owned(), ..self.purge.settings.clone() },
            metrics: Metrics::default(),
        }
    }

    /// More than one portion.
    async fn with_many_old_entries(&self) {
        let old = self.clock.now() - TimeDelta::days(100);
        let batch: Vec<_> = (0..6_000).map(|n| entry(old + TimeDelta::milliseconds(n))).collect();
        self.purge.store.write(&batch).await.unwrap();
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
    assert_eq!(night.purge.preview().await.unwrap().entries(), 10, "91 to 100 days old");
    assert_eq!(night.purged().await.entries(), 10);
    assert_eq!((night.left(Action::Update).await, night.left(Action::Purge).await), (91, 1));
    assert_eq!(night.purged().await.entries(), 0);
}

#[tokio::test]
async fn a_retention_of_0_keeps_everything() {
    let night = Night::at("2026-03-31T02:00:00Z", 0).await;
    night.with_entries_of_the_last(101).await;
    assert_eq!(night.purged().await.before(), None);
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
    night.with_many_old_entries().await;
    let stopped = night.purge.now("nightly", &stop).await;
    assert!(matches!(stopped, Err(PurgeError::Interrupted { entries: 1.. })), "{stopped:?}");
    assert_eq!(night.left(Action::Purge).await, 1, "what went is told");
    assert!(night.purge.due().await.unwrap());
    night.purged().await;
    assert_eq!(night.left(Action::Update).await, 0);
}

#[tokio::test]
async fn each_policy_has_the_retention_that_was_told_last() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    let of = |days: i64, policy: &str, random: u64| {
        let id = EntryId::at(night.clock.now() - TimeDelta::days(days), random);
        RedactedEntry::sample(Entry { policy: policy.to_owned(), ..Entry::sample(id) })
    };
    let batch = [of(10, "short", 1), of(10, "kept", 2), of(200, "kept", 3), of(200, "", 4), of(10, "", 5)];
    night.purge.store.write(&batch).await.unwrap();
    let by_policy = [("short", 7), ("kept", 0)].map(|(name, days)| (name.to_owned(), Retention::from_days(days)));
    let told = Retentions { by_policy: by_policy.into(), ..Retentions::only(Retention::Days(90)) };
    night.retentions.send_replace(Arc::new(told));
    let purged = night.purged().await;
    assert_eq!(purged.by_policy, BTreeMap::from([(String::new(), 1), ("short".to_owned(), 1)]));
    assert_eq!(night.purge.store.last_purge().await.unwrap().unwrap().by_policy, purged.by_policy);
    assert_eq!((night.left(Action::Update).await, night.left(Action::Purge).await), (3, 1));
}

#[tokio::test]
async fn while_one_process_purges_another_does_not_and_says_so() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    let other = night.replica("other");
    let fence = night.purge.hold().await.unwrap().unwrap();
    let stop = CancellationToken::new();
    let refused = other.now("command", &stop).await.unwrap_err();
    assert_eq!(refused.to_string(), "another process is purging this database right now");
    assert_eq!(other.nightly(&stop).await.unwrap(), None);
    night.purge.release(&fence).await;
    assert!(other.nightly(&stop).await.unwrap().is_some());
    assert_eq!(night.purge.nightly(&stop).await.unwrap(), None, "it has been done");
}

#[tokio::test]
async fn who_dies_in_the_middle_is_followed_by_another_and_one_entry_tells_of_the_night() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    night.with_many_old_entries().await;
    let stop = CancellationToken::new();
    // Dies after a portion, with its lease: what is dropped here runs no more.
    let cutoffs = night.purge.settings.retentions.borrow().cutoffs(night.clock.now());
    let dead = night.purge.store.hold(LEASE, "dead", Duration::ZERO).await.unwrap().unwrap();
    let first = night.purge.store.purge_some(&cutoffs, &dead).await.unwrap();
    assert!(!first.done && first.entries() > 0);
    let other = night.replica("other");
    let rest = other.nightly(&stop).await.unwrap().unwrap();
    assert_eq!(first.entries() + rest.entries(), 6_000);
    assert_eq!((night.left(Action::Update).await, night.left(Action::Purge).await), (0, 1));
    assert_eq!(night.purge.nightly(&stop).await.unwrap(), None);
    assert!(!night.purge.due().await.unwrap());
}

#[tokio::test]
async fn who_is_overtaken_stops_and_records_nothing() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    night.with_many_old_entries().await;
    let frozen = night.purge.store.hold(LEASE, "us", Duration::ZERO).await.unwrap().unwrap();
    let other = night.replica("other");
    let follower = other.hold().await.unwrap().unwrap();
    let overtaken = night.purge.fenced("nightly", &frozen, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(overtaken, PurgeError::Overtaken { entries: 0 }), "{overtaken:?}");
    assert_eq!(night.left(Action::Purge).await, 0);
    let rest = other.fenced("nightly", &follower, &CancellationToken::new()).await.unwrap();
    assert_eq!(rest.entries(), 6_000);
    let mut registry = prometheus_client::registry::Registry::default();
    night.purge.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in ["purge_runs_total{result=\"interrupted\"} 1", "purge_runs_total{result=\"failed\"} 0"] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn while_it_is_not_known_which_policies_there_are_the_night_stays_due() {
    let night = Night::at("2026-03-31T02:00:00Z", 90).await;
    night.with_entries_of_the_last(100).await;
    let partly = Retentions { complete: false, ..Retentions::only(Retention::Days(95)) };
    night.retentions.send_replace(Arc::new(partly));
    assert!(!night.purge.due().await.unwrap(), "it waits until they are known");
    assert!(night.purged().await.entries() > 0, "who asks for a purge gets it");
    night.retentions.send_replace(Arc::new(Retentions::only(Retention::Days(90))));
    assert!(night.purge.due().await.unwrap(), "and it was not the night's");
}

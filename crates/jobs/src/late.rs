//! Joins the audit events that came before their entries with those, once they are there; and takes up as entries of their
//! own those whose entries never come.
//!
//! Every replica does, under no lease: what one has joined, another finds done.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::clock::Clock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use store::{Outcomes, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// An entry that another replica holds comes with its next batch, so most wait for one of these.
const PERIOD: Duration = Duration::from_secs(5);
/// Between two portions, so that many of them leave the database to its writers.
const BREATH: Duration = Duration::from_millis(20);
/// How long an entry may be on its way: through a queue, while the database is away or a replica is restarted. Whoever
/// comes later finds that its event has taken its place, without its diff.
const ADOPT_AFTER: TimeDelta = TimeDelta::minutes(5);

pub struct Late {
    pub store: Arc<dyn Outcomes>,
    pub clock: Arc<dyn Clock>,
    pub metrics: LateMetrics,
}

impl Late {
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut failing = false;
        loop {
            let pause = match self.portion().await {
                Ok(more) => {
                    failing = false;
                    if more { BREATH } else { PERIOD }
                }
                Err(error) => {
                    // Once, and not every few seconds while the database is away.
                    if !failing {
                        warn!(error = &error as &dyn std::error::Error, "could not join late audit events; trying on");
                    }
                    failing = true;
                    PERIOD
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether there may be more to do.
    async fn portion(&self) -> Result<bool, StoreError> {
        let late = self.store.join_late(self.clock.now() - ADOPT_AFTER).await?;
        self.metrics.joined.inc_by(late.joined);
        self.metrics.adopted.inc_by(late.adopted);
        self.metrics.waiting.set(i64::try_from(late.waiting).unwrap_or(i64::MAX));
        if late.joined + late.adopted > 0 {
            debug!(joined = late.joined, adopted = late.adopted, waiting = late.waiting, "joined late audit events");
        }
        Ok(late.joined + late.adopted > 0 && late.waiting > 0)
    }
}

/// Shared with the job that counts: a clone registers the same numbers.
#[derive(Clone, Debug, Default)]
pub struct LateMetrics {
    joined: Counter,
    adopted: Counter,
    waiting: Gauge,
}

impl LateMetrics {
    /// Under the registry's own prefix: `…_late_events_joined_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("late_events");
        let joined = "Audit events that this process joined with entries that came after them";
        registry.register("joined", joined, self.joined.clone());
        let adopted = "Audit events that this process made entries, since theirs never came";
        registry.register("adopted", adopted, self.adopted.clone());
        registry.register("waiting", "Audit events in the database that wait for their entries", self.waiting.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use chrono::{DateTime, Utc};
    use domain::finding::Finding;
    use domain::{EntryId, RedactedEntry};
    use store::Retry;

    use super::*;

    struct At(DateTime<Utc>);

    impl Clock for At {
        fn now(&self) -> DateTime<Utc> {
            self.0
        }
    }

    /// Answers what it was given, then that nothing waits; notes when it was asked and what for.
    struct Told {
        answers: Mutex<VecDeque<Result<store::Late, StoreError>>>,
        asked: Mutex<Vec<(tokio::time::Instant, DateTime<Utc>)>>,
    }

    #[async_trait::async_trait]
    impl Outcomes for Told {
        async fn settle(&self, _: &[Finding]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn join(&self, _: &[RedactedEntry]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn join_late(&self, adopt: DateTime<Utc>) -> Result<store::Late, StoreError> {
            self.asked.lock().unwrap().push((tokio::time::Instant::now(), adopt));
            self.answers.lock().unwrap().pop_front().unwrap_or_else(|| Ok(store::Late::default()))
        }

        async fn unconfirmed(&self, _: EntryId, _: EntryId) -> Result<u64, StoreError> {
            Ok(0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn portions_follow_one_another_and_a_failure_is_tried_again() {
        let noon: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
        let away = StoreError::Failed { operation: "x", retry: Retry::Later, source: "away".into() };
        let answers = [
            Ok(store::Late { joined: 1_000, adopted: 0, waiting: 7 }),
            Ok(store::Late { joined: 0, adopted: 3, waiting: 4 }),
            Ok(store::Late { joined: 0, adopted: 0, waiting: 4 }),
            Err(away),
        ];
        let store = Arc::new(Told { answers: Mutex::new(answers.into()), asked: Mutex::default() });
        let metrics = LateMetrics::default();
        let late = Late { store: store.clone(), clock: Arc::new(At(noon)), metrics: metrics.clone() };
        let stop = CancellationToken::new();
        let started = tokio::time::Instant::now();
        let until = async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(late.run(stop.clone()), until);
        assert_eq!(ended, Ok(()));
        let asked = store.asked.lock().unwrap();
        let millis: Vec<_> = asked.iter().map(|(at, _)| (*at - started).as_millis()).collect();
        assert_eq!(millis, [0, 20, 40, 5_040, 10_040]);
        assert!(asked.iter().all(|(_, adopt)| *adopt == noon - TimeDelta::minutes(5)));
        assert_eq!((metrics.joined.get(), metrics.adopted.get(), metrics.waiting.get()), (1_000, 3, 0));
    }
}

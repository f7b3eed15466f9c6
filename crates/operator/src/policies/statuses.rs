//! Tells in each policy's status, and in an event, what became of it.
//!
//! Apart from the rules, which wait for none of this: an API server that is slow to take a status delays no policy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, FoundPolicy};
use domain::clock::Clock;
use domain::text::with_causes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::judge::Judged;
use super::status::{self, Wanted};

/// A status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// A status that was written and reads otherwise was overwritten by a replica that judges otherwise, as one of another
/// version does: each write of the one wakes the other.
const CONTESTED: Duration = Duration::from_secs(10);

/// What is to be told: the policies as last heard, and what became of each.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdicts {
    pub(super) found: BTreeMap<String, FoundPolicy>,
    pub(super) judged: HashMap<String, Arc<Judged>>,
    /// Of the policies that refuse, those that the API server does not know of, and why.
    pub(super) untold: BTreeMap<String, String>,
}

/// The statuses' keeper.
pub(super) struct Statuses {
    pub(super) cluster: Cluster,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) verdicts: watch::Receiver<Arc<Verdicts>>,
}

/// What was written last of a policy.
struct Written {
    wanted: Wanted,
    at: Instant,
    succeeded: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Keep,
    Write,
    Later(Instant),
}

/// Pure.
fn turn(found: &FoundPolicy, wanted: &Wanted, last: Option<&Written>, now: Instant) -> Turn {
    // What cannot be read is not written over: a part of it would be lost.
    let Some(live) = &found.status else { return Turn::Keep };
    if wanted.says_the_same_as(live) {
        return Turn::Keep;
    }
    let Some(last) = last.filter(|last| last.wanted == *wanted) else { return Turn::Write };
    let due = last.at + if last.succeeded { CONTESTED } else { RETRY };
    if due <= now { Turn::Write } else { Turn::Later(due) }
}

impl Statuses {
    /// Until nobody has anything to tell any more.
    pub(super) async fn run(mut self) {
        let mut written = HashMap::new();
        loop {
            let verdicts = self.verdicts.borrow_and_update().clone();
            written.retain(|name, _| verdicts.found.contains_key(name));
            let Some(later) = self.pass(&verdicts, &mut written).await else { continue };
            let again = async {
                match later {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                heard = self.verdicts.changed() => heard.is_err(),
                () = again => false,
            };
            if ended {
                return;
            }
        }
    }

    /// When to look again, if without a change; None as soon as there is one: the rest of what was heard is out of date.
    async fn pass(&self, verdicts: &Verdicts, written: &mut HashMap<String, Written>) -> Option<Option<Instant>> {
        let mut later: Option<Instant> = None;
        for (name, found) in &verdicts.found {
            let Some(judged) = verdicts.judged.get(name) else { continue };
            let untold = verdicts.untold.get(name).map(String::as_str);
            let wanted = status::wanted(found, judged, untold);
            let due = match turn(found, &wanted, written.get(name), Instant::now()) {
                Turn::Keep => continue,
                Turn::Later(due) => due,
                Turn::Write => {
                    let last = written.get(name).filter(|last| last.wanted == wanted);
                    let succeeded = self.write(name, found, &wanted, last.is_some()).await;
                    if succeeded && !last.is_some_and(|last| last.succeeded) {
                        self.tell(name, found, judged, untold).await;
                    }
                    let at = Instant::now();
                    written.insert(name.clone(), Written { wanted, at, succeeded });
                    if self.verdicts.has_changed().unwrap_or(false) {
                        return None;
                    }
                    if succeeded {
                        // Heard of, it is a change.
                        continue;
                    }
                    at + RETRY
                }
            };
            later = Some(later.map_or(due, |later| later.min(due)));
        }
        Some(later)
    }

    async fn write(&self, name: &str, found: &FoundPolicy, wanted: &Wanted, again: bool) -> bool {
        let live = found.status.clone().unwrap_or_default();
        let status = wanted.json(&live, self.clock.now());
        match self.cluster.apply_policy_status(name, "policies", &status).await {
            Ok(()) => true,
            // Deleted meanwhile: nothing to say.
            Err(error) if error.is_not_found() => true,
            // Once, not at every try.
            Err(error) if again => {
                debug!(policy = name, error = with_causes(&error), "its status could not be written");
                false
            }
            Err(error) => {
                warn!(policy = name, error = with_causes(&error), "its status could not be written; trying again");
                false
            }
        }
    }

    async fn tell(&self, name: &str, found: &FoundPolicy, judged: &Judged, untold: Option<&str>) {
        match &judged.fault {
            None => info!(policy = name, generation = judged.version.generation, "policy in force"),
            Some(fault) => warn!(policy = name, fault = fault.message(), "policy not in force"),
        }
        // Of less worth than the statuses of others, which would wait for another try.
        if let Err(error) = self.cluster.tell_event(&status::event(found, judged, untold, self.clock.now())).await {
            warn!(policy = name, error = with_causes(&error), "an event of it could not be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::super::judge::judge;
    use super::*;

    fn found(spec: &Value, status: Option<Value>) -> FoundPolicy {
        FoundPolicy {
            metadata: ObjectMeta { generation: Some(1), ..ObjectMeta::default() },
            spec: serde_json::from_value(spec.clone()).map_err(|error| error.to_string()),
            retention_days: None,
            status: status.and_then(|status| serde_json::from_value(status).ok()),
        }
    }

    #[test]
    fn a_status_that_another_replica_writes_over_is_not_written_again_at_once() {
        let now = Instant::now();
        let spec = json!({"level": "Diff"});
        let mut found = found(&spec, Some(json!({})));
        let wanted_of = |found: &FoundPolicy| status::wanted(found, &judge("a", "built-in", found, None), None);
        let wanted = wanted_of(&found);
        assert_eq!(turn(&found, &wanted, None, now), Turn::Write);

        let last = |succeeded| Written { wanted: wanted.clone(), at: now, succeeded };
        let overwritten = turn(&found, &wanted, Some(&last(true)), now + Duration::from_secs(9));
        assert_eq!(overwritten, Turn::Later(now + CONTESTED));
        assert_eq!(turn(&found, &wanted, Some(&last(true)), now + CONTESTED), Turn::Write);
        assert_eq!(turn(&found, &wanted, Some(&last(false)), now + RETRY), Turn::Write);

        let live = serde_json::from_value(wanted.json(&Default::default(), chrono::DateTime::UNIX_EPOCH)).unwrap();
        found.status = Some(live);
        assert_eq!(turn(&found, &wanted, Some(&last(true)), now), Turn::Keep);
        found.metadata.generation = Some(2);
        assert_eq!(turn(&found, &wanted_of(&found), Some(&last(true)), now), Turn::Write, "ours has changed");
    }

    #[test]
    fn a_status_that_cannot_be_read_is_left_alone() {
        let found = found(&json!({"level": "Diff"}), None);
        let wanted = status::wanted(&found, &judge("a", "built-in", &found, None), None);
        assert_eq!(turn(&found, &wanted, None, Instant::now()), Turn::Keep);
    }
}

//! The AuditPolicies of the cluster, in force.
//!
//! A reconciler without input: it looks at the policies and namespaces as last heard, judges each policy ([`judge`]),
//! swaps the rules that reviews are asked against, and only then says in each policy's status, and in an event, what
//! became of it. All replicas do the same and agree; the status is server-side apply of the same thing by each.
//!
//! A policy that cannot be in force never takes its last good version with it: that stays, and is kept in the status, so
//! that a restart finds it.

mod counters;
mod judge;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::AuditPolicy;
use chrono::{DateTime, Utc};
use cluster::{Cluster, ClusterError, Followed, FoundPolicy};
use domain::clock::Clock;
use domain::text::with_causes;
use policy::{Namespaces, Rule, Rules};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::counters::Counters;

use self::judge::{Judged, Version, judge};

/// A status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How the policies are, for `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it is known which policies there are; until then, and where it never is, the built-in one stands alone.
    pub known: bool,
    /// Why nothing is heard of them at the moment.
    pub last_error: Option<String>,
    /// Those of which no version, or an earlier one, is in force; by name.
    pub not_ready: Vec<NotReady>,
}

/// A policy whose present version is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    pub name: String,
    pub reason: String,
}

/// Where what follows from the policies is told.
pub struct Outlets {
    pub rules: watch::Sender<Arc<Rules>>,
    /// For how many days each policy's entries are kept, 0 is for ever; None until it is known what policies there are.
    pub retention_days: watch::Sender<Option<Arc<BTreeMap<String, u32>>>>,
    pub status: watch::Sender<Status>,
}

/// The policies' keeper.
pub struct Policies {
    pub cluster: Cluster,
    pub clock: Arc<dyn Clock>,
    pub built_in: Rule,
    pub outlets: Outlets,
    pub metrics: Metrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// Rules by level, and policies that are not ready.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    in_force: Family<LevelLabels, Gauge>,
    not_ready: Gauge,
}

impl Metrics {
    /// Under the registry's own prefix: `…_policies_in_force` and so on.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("policies");
        registry.register("in_force", "AuditPolicies in force, by level", self.in_force.clone());
        registry.register("not_ready", "AuditPolicies whose present version is not in force", self.not_ready.clone());
    }

    fn tell(&self, rules: &Rules, not_ready: usize) {
        for level in ["None", "Metadata", "Diff", "Full"] {
            let of_level = rules.policies().iter().filter(|policy| policy.rule().level_name() == level).count();
            self.in_force.get_or_create(&LevelLabels { level }).set(i64::try_from(of_level).unwrap_or(i64::MAX));
        }
        self.not_ready.set(i64::try_from(not_ready).unwrap_or(i64::MAX));
    }
}

impl Policies {
    /// Keeps the rules as the policies say, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (policies, heard_policies) = watch::channel(Followed::default());
        let (namespaces, heard_namespaces) = watch::channel(Followed::default());
        let cluster = self.cluster.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = cluster.follow_policies(&policies) => {}
            () = cluster.follow_namespaces(&namespaces) => {}
            () = self.keep(heard_policies, heard_namespaces) => {}
        }
    }

    async fn keep(
        self,
        mut policies: watch::Receiver<Followed<FoundPolicy>>,
        mut namespaces: watch::Receiver<Followed<BTreeMap<String, String>>>,
    ) {
        let mut judged = HashMap::new();
        let mut in_force = None;
        loop {
            let heard = policies.borrow_and_update().clone();
            let labels = namespaces.borrow_and_update().objects.clone();
            if heard.synced {
                judged = judge_all(&heard.objects, judged);
                let now = InForceNow::of(&judged, labels);
                // A status that was written, ours above all, changes nothing.
                if in_force.as_ref() != Some(&now) {
                    self.put_in_force(&judged, &now);
                    in_force = Some(now);
                }
            }
            self.tell(&heard, &judged);
            let told = if heard.synced { self.write_statuses(&heard.objects, &judged).await } else { Ok(()) };
            if let Err(error) = &told {
                warn!(error = with_causes(error), "a policy's status could not be written; trying again");
            }
            let again = async {
                match told {
                    Ok(()) => std::future::pending().await,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            let ended = tokio::select! {
                heard = policies.changed() => heard.is_err(),
                heard = namespaces.changed() => heard.is_err(),
                () = again => false,
            };
            if ended {
                return;
            }
        }
    }

    /// Swaps the rules: from here on each review is asked against the new ones.
    fn put_in_force(&self, judged: &HashMap<String, Judged>, now: &InForceNow) {
        let in_force = judged.values().filter_map(|judged| judged.policy.clone()).collect();
        let rules = Arc::new(Rules::new(in_force, self.built_in.clone(), Arc::new(now.namespaces.clone())));
        let days = judged.iter().filter_map(|(name, judged)| Some((name.clone(), judged.retention_days()?)));
        let days: BTreeMap<String, u32> = days.collect();
        self.outlets.rules.send_replace(rules);
        self.outlets.retention_days.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&days);
            if changed {
                *known = Some(Arc::new(days));
            }
            changed
        });
    }

    fn tell(&self, heard: &Followed<FoundPolicy>, judged: &HashMap<String, Judged>) {
        let not_ready = not_ready(&heard.objects, judged);
        self.metrics.tell(&self.outlets.rules.borrow(), not_ready.len());
        let known = heard.synced || heard.last_error.is_some();
        if let Some(error) = &heard.last_error
            && self.outlets.status.borrow().last_error.is_none()
        {
            warn!(
                error,
                "no AuditPolicies are heard of (`kubevision-audit crd` prints their definition); trying again"
            );
        }
        let now = Status { known, last_error: heard.last_error.clone(), not_ready };
        self.outlets.status.send_if_modified(|status| {
            let changed = *status != now;
            *status = now;
            changed
        });
    }

    async fn write_statuses(
        &self,
        found: &BTreeMap<String, FoundPolicy>,
        judged: &HashMap<String, Judged>,
    ) -> Result<(), ClusterError> {
        for (name, found) in found {
            let (Ok(policy), Some(judged)) = (found, judged.get(name)) else { continue };
            self.write_status(name, policy, judged, self.clock.now()).await?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        name: &str,
        policy: &AuditPolicy,
        judged: &Judged,
        now: DateTime<Utc>,
    ) -> Result<(), ClusterError> {
        let live = policy.status.clone().unwrap_or_default();
        let wanted = status::wanted(policy, judged, &live, now);
        if wanted.says_the_same_as(&live) {
            return Ok(());
        }
        match self.cluster.apply_policy_status(name, "policies", &wanted.json()).await {
            // Deleted meanwhile: nothing to say.
            Err(error) if error.is_not_found() => return Ok(()),
            written => written?,
        }
        match &judged.fault {
            None => info!(policy = name, generation = policy.metadata.generation, "policy in force"),
            Some(fault) => warn!(policy = name, fault = fault.message(), "policy not in force"),
        }
        self.cluster.tell_event(&status::event(policy, judged, now)).await
    }
}

fn not_ready(found: &BTreeMap<String, FoundPolicy>, judged: &HashMap<String, Judged>) -> Vec<NotReady> {
    let why = |name: &String, found: &FoundPolicy| match found {
        Err(error) => Some(error.clone()),
        Ok(_) => Some(judged.get(name)?.fault.as_ref()?.message()),
    };
    let faulty =
        found.iter().filter_map(|(name, found)| Some(NotReady { name: name.clone(), reason: why(name, found)? }));
    faulty.collect()
}

/// By which the rules in force are told from those before.
#[derive(PartialEq)]
struct InForceNow {
    versions: BTreeMap<String, (Version, Option<i64>)>,
    /// Empty where no policy goes by them.
    namespaces: Namespaces,
}

impl InForceNow {
    fn of(judged: &HashMap<String, Judged>, labels: BTreeMap<String, BTreeMap<String, String>>) -> Self {
        let version =
            |judged: &Judged| (judged.version.clone(), judged.in_force.as_ref().map(|in_force| in_force.generation));
        let policies = || judged.values().filter_map(|judged| judged.policy.as_ref());
        let selected = policies().any(|policy| policy.selects_namespaces());
        Self {
            versions: judged.iter().map(|(name, judged)| (name.clone(), version(judged))).collect(),
            namespaces: if selected { labels.into_iter().collect() } else { Namespaces::new() },
        }
    }
}

/// What was judged before and has not changed is not judged again: compiling 500 policies takes a moment.
fn judge_all(found: &BTreeMap<String, FoundPolicy>, mut before: HashMap<String, Judged>) -> HashMap<String, Judged> {
    found
        .iter()
        .filter_map(|(name, found)| {
            let known = before.remove(name);
            let policy = match found {
                Ok(policy) => policy,
                Err(error) => {
                    warn!(policy = name, error, "this AuditPolicy does not parse; what was in force of it stays");
                    return known.map(|known| (name.clone(), known));
                }
            };
            let version = Version::of(policy);
            let judged = match known {
                Some(known) if known.version == version => known,
                known => judge(name, policy, known.as_ref()),
            };
            Some((name.clone(), judged))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, expression: &str) -> (String, FoundPolicy) {
        let spec = serde_json::json!({"level": "Full", "match": {"expression": expression}});
        let policy = AuditPolicy::new(name, serde_json::from_value(spec).unwrap());
        (name.to_owned(), Ok(policy))
    }

    #[test]
    fn a_policy_that_does_not_compile_and_one_that_does_not_parse_are_not_ready_and_say_why() {
        let garbled = ("garbled".to_owned(), Err("missing field `spec`".to_owned()));
        let found = BTreeMap::from([policy("good", "true"), policy("bad", "request.namespace =="), garbled]);
        let judged = judge_all(&found, HashMap::new());
        let told = not_ready(&found, &judged);
        let [bad, garbled] = &told[..] else { panic!("{told:?}") };
        assert!(bad.name == "bad" && bad.reason.contains("Syntax error"), "{bad:?}");
        assert_eq!((garbled.name.as_str(), garbled.reason.as_str()), ("garbled", "missing field `spec`"));
    }
}

//! The AuditPolicies of the cluster, in force.
//!
//! A reconciler without input: it looks at the policies and namespaces as last heard, judges each policy ([`judge`]),
//! and swaps the rules that reviews are asked against; beside that it says in each policy's status, and in an event, what
//! became of it ([`statuses`]). All replicas do the same and agree; the status is server-side apply of the same thing by
//! each.
//!
//! A policy that cannot be in force never takes its last good version with it: that stays, and is kept in the status, so
//! that a restart finds it. Until it is known which policies there are, nothing is in force.

mod counters;
mod judge;
mod status;
mod statuses;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, Followed, FoundPolicy};
use domain::clock::Clock;
use policy::{Namespaces, Rule, Rules};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::counters::Counters;

use self::judge::{Judged, Version, judge};
use self::statuses::{Statuses, Verdicts};
use crate::registration::untold;

/// Who hears nothing of the policies for so long no longer knows for how long their entries are to be kept. Longer than an
/// API server takes to restart.
const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// How the policies are, for `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it is known which policies there are, and they are in force; until then no review can be answered.
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

/// For how long the policies' entries are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Nothing is heard of the policies yet, or was for long.
    #[default]
    Unknown,
    /// Their definition is not installed. What those recorded that there were may still be wanted: they may come back with it.
    NoneInstalled,
    /// By name, for how many days; 0 is for ever.
    Days(Arc<BTreeMap<String, u32>>),
}

/// Where what follows from the policies is told.
pub struct Outlets {
    pub rules: watch::Sender<Arc<Rules>>,
    pub kept: watch::Sender<Kept>,
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

type Labels = BTreeMap<String, String>;

impl Policies {
    /// Keeps the rules as the policies say, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (policies, heard_policies) = watch::channel(Followed::default());
        let (namespaces, heard_namespaces) = watch::channel(Followed::default());
        let (verdicts, told) = watch::channel(Arc::default());
        let cluster = self.cluster.clone();
        let statuses = Statuses { cluster: cluster.clone(), clock: self.clock.clone(), verdicts: told };
        tokio::select! {
            () = stop.cancelled() => {}
            () = cluster.follow_policies(&policies) => {}
            () = cluster.follow_namespaces(&namespaces) => {}
            () = self.keep(heard_policies, heard_namespaces, verdicts) => {}
            () = statuses.run() => {}
        }
    }

    async fn keep(
        self,
        mut policies: watch::Receiver<Followed<FoundPolicy>>,
        mut namespaces: watch::Receiver<Followed<Labels>>,
        verdicts: watch::Sender<Arc<Verdicts>>,
    ) {
        let mut judged = HashMap::new();
        let mut in_force = None;
        let mut untold = BTreeMap::new();
        let mut unheard_since = None;
        loop {
            let heard = policies.borrow_and_update().clone();
            let labels = namespaces.borrow_and_update().clone();
            let mut settled = false;
            if heard.known() {
                judged = judge_all(&heard.objects, judged, &self.built_in.policy);
                if let Some(now) = InForceNow::of(&judged, &labels) {
                    settled = true;
                    // A status that was written, ours above all, changes nothing.
                    if in_force.as_ref() != Some(&now) {
                        untold = self.put_in_force(&judged, &now);
                        in_force = Some(now);
                    }
                }
            }
            unheard_since = heard.last_error.is_some().then(|| unheard_since.unwrap_or_else(Instant::now));
            let unheard_for = unheard_since.map(|since: Instant| since.elapsed());
            self.tell_kept(kept(&heard, &judged, unheard_for));
            self.tell(&heard, &labels, &judged, in_force.is_some());
            if settled {
                let untold = untold.clone();
                verdicts.send_replace(Arc::new(Verdicts { found: heard.objects, judged: judged.clone(), untold }));
            }
            let forgotten = async {
                match unheard_since {
                    Some(since) if since.elapsed() < UNHEARD_MAX => sleep_until(since + UNHEARD_MAX).await,
                    _ => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                heard = policies.changed() => heard.is_err(),
                heard = namespaces.changed() => heard.is_err(),
                () = forgotten => false,
            };
            if ended {
                return;
            }
        }
    }

    /// Swaps the rules: from here on each review is asked against the new ones. Tells which of them refuse only while this
    /// program is there, and why.
    fn put_in_force(&self, judged: &HashMap<String, Arc<Judged>>, now: &InForceNow) -> BTreeMap<String, String> {
        let in_force = judged.values().filter_map(|judged| judged.policy.clone()).collect();
        let namespaces = Arc::new(now.namespaces.clone());
        let rules = Arc::new(Rules::new(in_force, self.built_in.clone(), namespaces));
        self.outlets.rules.send_replace(rules.clone());
        untold(&rules)
    }

    fn tell_kept(&self, now: Kept) {
        self.outlets.kept.send_if_modified(|kept| {
            let changed = *kept != now;
            *kept = now;
            changed
        });
    }

    fn tell(
        &self,
        heard: &Followed<FoundPolicy>,
        labels: &Followed<Labels>,
        judged: &HashMap<String, Arc<Judged>>,
        known: bool,
    ) {
        let not_ready = not_ready(judged);
        self.metrics.tell(&self.outlets.rules.borrow(), not_ready.len());
        let unlabelled = labels.last_error.as_ref().filter(|_| selects_namespaces(judged));
        let unlabelled = unlabelled.map(|error| format!("the labels of namespaces are not: {error}"));
        let last_error = heard.last_error.clone().or(unlabelled);
        if let Some(error) = &last_error
            && self.outlets.status.borrow().last_error.is_none()
        {
            let hint = if heard.absent { " (`kubevision-audit crd` prints their definition)" } else { "" };
            warn!(error, "no AuditPolicies are heard of{hint}; trying again");
        }
        let now = Status { known, last_error, not_ready };
        self.outlets.status.send_if_modified(|status| {
            let changed = *status != now;
            *status = now;
            changed
        });
    }
}

/// Not known any more where nothing is heard of them for long: they may have changed.
fn kept(heard: &Followed<FoundPolicy>, judged: &HashMap<String, Arc<Judged>>, unheard_for: Option<Duration>) -> Kept {
    if heard.absent {
        return Kept::NoneInstalled;
    }
    if !heard.synced || unheard_for.is_some_and(|unheard_for| unheard_for >= UNHEARD_MAX) {
        return Kept::Unknown;
    }
    let days = judged.iter().filter_map(|(name, judged)| Some((name.clone(), judged.retention_days?)));
    Kept::Days(Arc::new(days.collect()))
}

fn not_ready(judged: &HashMap<String, Arc<Judged>>) -> Vec<NotReady> {
    let faulty = judged
        .iter()
        .filter_map(|(name, judged)| Some(NotReady { name: name.clone(), reason: judged.fault.as_ref()?.message() }));
    let mut faulty: Vec<_> = faulty.collect();
    faulty.sort_by(|a, b| a.name.cmp(&b.name));
    faulty
}

fn selects_namespaces(judged: &HashMap<String, Arc<Judged>>) -> bool {
    judged.values().filter_map(|judged| judged.policy.as_ref()).any(|policy| policy.selects_namespaces())
}

/// By which the rules in force are told from those before.
#[derive(PartialEq)]
struct InForceNow {
    versions: BTreeMap<String, (Version, Option<i64>)>,
    /// Empty where no policy goes by them.
    namespaces: Namespaces,
}

impl InForceNow {
    /// None where a policy goes by labels that are not known yet: it would match nothing.
    fn of(judged: &HashMap<String, Arc<Judged>>, labels: &Followed<Labels>) -> Option<Self> {
        let version =
            |judged: &Judged| (judged.version.clone(), judged.in_force.as_ref().map(|in_force| in_force.generation));
        let versions = judged.iter().map(|(name, judged)| (name.clone(), version(judged))).collect();
        let namespaces = match (selects_namespaces(judged), labels.synced) {
            (true, false) => return None,
            (true, true) => labels.objects.clone().into_iter().collect(),
            (false, _) => Namespaces::new(),
        };
        Some(Self { versions, namespaces })
    }
}

/// What was judged before and has not changed is not judged again: compiling 500 policies takes a moment.
fn judge_all(
    found: &BTreeMap<String, FoundPolicy>,
    mut before: HashMap<String, Arc<Judged>>,
    reserved: &str,
) -> HashMap<String, Arc<Judged>> {
    found
        .iter()
        .map(|(name, found)| {
            let judged = match before.remove(name) {
                Some(known) if known.holds_for(found) => known,
                known => Arc::new(judge(name, reserved, found, known.as_deref())),
            };
            (name.clone(), judged)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;

    fn heard(specs: &[(&str, serde_json::Value)]) -> Followed<FoundPolicy> {
        let policy = |spec: &serde_json::Value| FoundPolicy {
            metadata: ObjectMeta { generation: Some(1), ..ObjectMeta::default() },
            spec: serde_json::from_value(spec.clone()).map_err(|error| error.to_string()),
            retention_days: None,
            status: None,
        };
        let objects = specs.iter().map(|(name, spec)| ((*name).to_owned(), policy(spec))).collect();
        Followed { objects, synced: true, ..Followed::default() }
    }

    #[test]
    fn for_how_long_entries_are_kept_is_known_only_while_the_policies_are_heard_of() {
        let mut heard = heard(&[("a", json!({"level": "Diff", "retentionDays": 7})), ("b", json!({"level": "Loud"}))]);
        let judged = judge_all(&heard.objects, HashMap::new(), "built-in");
        let known = Kept::Days(BTreeMap::from([("a".to_owned(), 7), ("b".to_owned(), 0)]).into());
        assert_eq!(kept(&heard, &judged, None), known);
        assert_eq!(kept(&heard, &judged, Some(UNHEARD_MAX / 2)), known);
        assert_eq!(kept(&heard, &judged, Some(UNHEARD_MAX)), Kept::Unknown);
        heard.absent = true;
        assert_eq!(kept(&heard, &judged, Some(UNHEARD_MAX)), Kept::NoneInstalled);
        assert_eq!(kept(&Followed::default(), &HashMap::new(), None), Kept::Unknown, "nothing was heard yet");
    }

    #[test]
    fn a_policy_that_goes_by_labels_waits_for_them() {
        let selector = json!({"level": "Diff", "match": {"namespaceSelector": {"matchLabels": {"a": "b"}}}});
        let selecting = judge_all(&heard(&[("a", selector)]).objects, HashMap::new(), "built-in");
        let others = judge_all(&heard(&[("a", json!({"level": "Diff"}))]).objects, HashMap::new(), "built-in");
        let unsynced = Followed::default();
        assert!(InForceNow::of(&selecting, &unsynced).is_none());
        assert!(InForceNow::of(&others, &unsynced).is_some());
        assert!(InForceNow::of(&selecting, &Followed { synced: true, ..Followed::default() }).is_some());
    }

    #[test]
    fn a_policy_that_does_not_compile_and_one_that_does_not_parse_are_not_ready_and_say_why() {
        let bad = json!({"level": "Diff", "match": {"expression": "request.namespace =="}});
        let found = heard(&[("good", json!({"level": "Diff"})), ("bad", bad), ("garbled", json!({"level": "Loud"}))]);
        let told = not_ready(&judge_all(&found.objects, HashMap::new(), "built-in"));
        let [bad, garbled] = &told[..] else { panic!("{told:?}") };
        assert!(bad.name == "bad" && bad.reason.contains("Syntax error"), "{bad:?}");
        assert!(garbled.name == "garbled" && garbled.reason.contains("unknown variant `Loud`"), "{garbled:?}");
    }
}

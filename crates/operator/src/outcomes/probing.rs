//! Looks at objects whose last write nothing has followed.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cluster::{Cluster, ClusterError, LookAt, ObjectText};
use domain::chain::{Saw, Sight, Tail};
use domain::redact::Redactor;
use futures::future::join_all;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::memory::Key;
use super::{Books, Outcomes};

/// Looks in a second, for as many as are due: the API server notices none of it.
const A_SECOND: usize = 20;
const PERIOD: Duration = Duration::from_millis(500);
/// In flight at once, and how long one is waited for.
const AT_ONCE: usize = 5;
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// After an API server that is busy or away; doubled with each further time.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// For so long it is not asked again whether objects of a sort may be looked at.
const ALLOWED_FOR: TimeDelta = TimeDelta::minutes(10);

/// What an API server says to a look.
#[derive(Debug)]
pub enum Answer {
    Object(ObjectText),
    Gone,
    /// It is not allowed, or there is no such kind.
    Refused,
    /// It is busy, or does not answer.
    Later,
}

/// Who can look at objects.
pub trait Looks: Send + Sync {
    fn look(&self, at: &LookAt<'_>) -> impl Future<Output = Answer> + Send;

    /// Whether all objects of that sort may be looked at; None where that cannot be found out now. Asked first: a look that is
    /// refused is a line in somebody's log.
    fn may_look(&self, at: &LookAt<'_>) -> impl Future<Output = Option<bool>> + Send;
}

impl Looks for Cluster {
    async fn look(&self, at: &LookAt<'_>) -> Answer {
        match Self::look(self, at).await {
            Ok(Some(text)) => Answer::Object(text),
            Ok(None) => Answer::Gone,
            Err(ClusterError::Refused { code: 400..=428 | 430..=499, .. }) => Answer::Refused,
            Err(_) => Answer::Later,
        }
    }

    async fn may_look(&self, at: &LookAt<'_>) -> Option<bool> {
        Self::may_look(self, at).await.ok()
    }
}

/// How a look ended, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ended {
    Object,
    Gone,
    Refused,
    Later,
}

/// Group, plural and subresource.
type Sort = (String, String, &'static str);

/// Whether objects may be looked at, and since when that is known.
type Allowed = HashMap<Sort, (bool, DateTime<Utc>)>;

impl<S: Books + ?Sized, L: Looks> Outcomes<S, L> {
    pub(super) async fn probe(&self) {
        let mut allowed = Allowed::new();
        let mut rest = REST;
        loop {
            let start = Instant::now();
            let redactor = self.parts.redactor.borrow().clone();
            if let Some(redactor) = redactor.filter(|_| *self.holds.borrow()) {
                if self.round(&redactor, &mut allowed).await {
                    rest = REST;
                } else {
                    sleep(rest).await;
                    rest = (2 * rest).min(REST_MAX);
                }
            }
            tokio::time::sleep_until(start + PERIOD).await;
            yield_now().await;
        }
    }

    /// False where the API server is to be left alone for a while.
    async fn round(&self, redactor: &Redactor, allowed: &mut Allowed) -> bool {
        let now = self.parts.clock.now();
        allowed.retain(|_, (_, since)| now - *since < ALLOWED_FOR);
        let due = self.memory().tails(now);
        let mut left = A_SECOND * PERIOD.as_millis() as usize / 1_000;
        let mut looks = Vec::new();
        for (key, tail) in due {
            let Some(target) = self.target(&key, &tail) else {
                self.memory().looked(&key, now, tail.view, Saw::Nothing);
                continue;
            };
            let sort = (target.api_group.clone(), target.plural.clone(), target.subresource);
            let Some(may) = self.is_allowed(allowed, &sort, &target, now).await else { return false };
            if !may {
                self.memory().looked(&key, now, tail.view, Saw::Nothing);
            } else if left > 0 {
                left -= 1;
                looks.push((key, tail.view, target, sort));
            }
        }
        let mut is_served = true;
        let mut looks = looks.into_iter().peekable();
        while looks.peek().is_some() && is_served {
            let together: Vec<_> = looks.by_ref().take(AT_ONCE).collect();
            // What is answered is no older than the question.
            let at = self.parts.clock.now();
            let asked = together.iter().map(|(_, _, target, _)| self.ask(target));
            let answers = join_all(asked).await;
            for ((key, view, target, sort), answer) in together.into_iter().zip(answers) {
                let (saw, ended) = match answer {
                    Answer::Object(text) => {
                        let sight = Sight::read(text.as_str(), view.subresource(), !target.metadata_only, redactor);
                        (sight.map_or(Saw::Nothing, Saw::Object), Ended::Object)
                    }
                    Answer::Gone => (Saw::Gone, Ended::Gone),
                    Answer::Refused => {
                        allowed.insert(sort, (false, at));
                        (Saw::Nothing, Ended::Refused)
                    }
                    Answer::Later => {
                        is_served = false;
                        self.parts.metrics.probed(Ended::Later);
                        continue;
                    }
                };
                self.parts.metrics.probed(ended);
                self.memory().looked(&key, at, view, saw);
            }
        }
        is_served
    }

    /// None where it cannot be found out now.
    async fn is_allowed(
        &self,
        allowed: &mut Allowed,
        sort: &Sort,
        target: &Target,
        now: DateTime<Utc>,
    ) -> Option<bool> {
        if let Some((may, _)) = allowed.get(sort) {
            return Some(*may);
        }
        let at = target.at();
        let asked = timeout(ANSWERED_WITHIN, self.parts.cluster.may_look(&at)).await;
        let Ok(Some(may)) = asked else {
            self.parts.metrics.probed(Ended::Later);
            return None;
        };
        if !may {
            let (group, plural, subresource) = sort;
            debug!(group, plural, subresource, "objects may not be looked at: their last writes stay unconfirmed");
            self.parts.metrics.probed(Ended::Refused);
        }
        allowed.insert(sort.clone(), (may, now));
        Some(may)
    }

    async fn ask(&self, target: &Target) -> Answer {
        timeout(ANSWERED_WITHIN, self.parts.cluster.look(&target.at())).await.unwrap_or(Answer::Later)
    }

    /// None where it is not known how to ask for it.
    fn target(&self, key: &Key, tail: &Tail) -> Option<Target> {
        let link = self.memory().link(key, tail.id)?;
        let plural = self.parts.kinds.borrow().plural(&key.api_group, &key.kind)?.to_owned();
        if link.version.is_empty() || key.name.is_empty() {
            return None;
        }
        Some(Target {
            // Whoever may see a Secret has it; nothing of it but its metadata is asked for.
            metadata_only: key.api_group.is_empty() && key.kind == "Secret",
            api_group: key.api_group.clone(),
            version: link.version,
            plural,
            subresource: if tail.view.subresource() == "scale" { "scale" } else { "" },
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        })
    }
}

/// A look that is to be had.
struct Target {
    api_group: String,
    version: String,
    plural: String,
    /// What else is written by a subresource is the object itself.
    subresource: &'static str,
    namespace: String,
    name: String,
    metadata_only: bool,
}

impl Target {
    fn at(&self) -> LookAt<'_> {
        LookAt {
            api_group: &self.api_group,
            version: &self.version,
            plural: &self.plural,
            subresource: self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            metadata_only: self.metadata_only,
        }
    }
}

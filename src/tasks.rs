//! The only place that spawns. Each task has a name and a phase of the shutdown; an end that nobody asked for ends the
//! process, and says which task it was.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info_span};

/// In the order in which they stop: what requests come in by, what is in the queue, what the rest stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Doors,
    Pipeline,
    Rest,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Doors, Self::Pipeline, Self::Rest];

    /// How long the tasks of a phase may take to end once they are told to. Together within the 30 s that Kubernetes
    /// leaves between SIGTERM and SIGKILL.
    const fn grace(self) -> Duration {
        match self {
            Self::Doors => Duration::from_secs(16),
            Self::Pipeline => Duration::from_secs(11),
            Self::Rest => Duration::from_secs(2),
        }
    }
}

const _: () = assert!(Phase::Doors.grace().as_secs() > listener::GRACE.as_secs());
const _: () = assert!(Phase::Pipeline.grace().as_secs() > pipeline::SHUTDOWN_MAX.as_secs());
const _: () =
    assert!(Phase::Doors.grace().as_secs() + Phase::Pipeline.grace().as_secs() + Phase::Rest.grace().as_secs() < 30);

/// What a task comes back with. An error has been told to nobody yet.
pub type Outcome = Result<(), anyhow::Error>;

#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("task {name} returned, which it never should")]
    Returned { name: &'static str },
    #[error("task {name} failed")]
    Failed {
        name: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("task {name} panicked")]
    Panicked { name: &'static str },
    #[error("task {name} did not end within {} s", grace.as_secs())]
    TooSlow { name: &'static str, grace: Duration },
}

#[derive(Default)]
pub struct Tasks {
    set: JoinSet<Outcome>,
    running: HashMap<Id, (&'static str, Phase)>,
    stops: HashMap<u8, CancellationToken>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.running.values()).finish()
    }
}

impl Tasks {
    /// The token that tells the tasks of a phase to end.
    pub fn stop_of(&mut self, phase: Phase) -> CancellationToken {
        self.stops.entry(phase as u8).or_default().clone()
    }

    pub fn spawn(&mut self, phase: Phase, name: &'static str, task: impl Future<Output = Outcome> + Send + 'static) {
        let handle = self.set.spawn(task.instrument(info_span!("task", name)));
        self.running.insert(handle.id(), (name, phase));
    }

    /// Comes back when the process has to stop: because it was asked to, or because a task ended that never should.
    pub async fn until(&mut self, asked: impl Future<Output = ()>) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = asked => Ok(()),
            Some(end) = self.set.join_next_with_id() => Err(match self.named(end) {
                (name, Ok(())) => Ended::Returned { name },
                (_, Err(ended)) => ended,
            }),
        }
    }

    /// Ends all tasks, phase by phase, and tells the first one that did not end well.
    pub async fn finish(mut self) -> Result<(), Ended> {
        let mut first = Ok(());
        for phase in Phase::ALL {
            self.stop_of(phase).cancel();
            let ended = self.phase_ended(phase).await;
            if first.is_ok() {
                first = ended;
            }
            debug!(?phase, "stopped");
        }
        first
    }

    async fn phase_ended(&mut self, phase: Phase) -> Result<(), Ended> {
        let mut first = Ok(());
        let all = async {
            while self.running.values().any(|(_, of)| *of == phase) {
                let Some(end) = self.set.join_next_with_id().await else { break };
                if let (_, Err(ended)) = self.named(end)
                    && first.is_ok()
                {
                    first = Err(ended);
                }
            }
        };
        if timeout(phase.grace(), all).await.is_err() {
            // What the rest does is idempotent, and holds nothing that somebody was promised: it is cut off.
            if phase == Phase::Rest {
                return first;
            }
            let slow = self.running.values().find(|(_, of)| *of == phase);
            return Err(Ended::TooSlow { name: slow.map_or("unknown", |(name, _)| *name), grace: phase.grace() });
        }
        first
    }

    fn named(&mut self, end: Result<(Id, Outcome), JoinError>) -> (&'static str, Result<(), Ended>) {
        let id = match &end {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let (name, _) = self.running.remove(&id).unwrap_or(("unknown", Phase::Rest));
        let ended = match end {
            Ok((_, Ok(()))) => Ok(()),
            Ok((_, Err(error))) => Err(Ended::Failed { name, source: error.into() }),
            Err(_) => Err(Ended::Panicked { name }),
        };
        (name, ended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn a_task_that_returns_unasked_ends_the_process_by_name() {
        let mut tasks = Tasks::default();
        tasks.spawn(Phase::Rest, "steady", std::future::pending());
        tasks.spawn(Phase::Rest, "brief", async { Ok(()) });
        let ended = tasks.until(std::future::pending()).await.unwrap_err();
        assert_eq!(ended.to_string(), "task brief returned, which it never should");
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_are_told_apart() {
        let mut tasks = Tasks::default();
        tasks.spawn(Phase::Rest, "failing", async { Err(anyhow::anyhow!("disk full")) });
        assert_eq!(tasks.until(std::future::pending()).await.unwrap_err().to_string(), "task failing failed");
        tasks.spawn(Phase::Rest, "panicking", async { panic!("oh") });
        assert_eq!(tasks.until(std::future::pending()).await.unwrap_err().to_string(), "task panicking panicked");
    }

    #[tokio::test]
    async fn phases_end_one_after_the_other() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Tasks::default();
        for (phase, name) in [(Phase::Rest, "rest"), (Phase::Pipeline, "pipeline"), (Phase::Doors, "doors")] {
            let (stop, order) = (tasks.stop_of(phase), Arc::clone(&order));
            tasks.spawn(phase, name, async move {
                stop.cancelled().await;
                order.lock().unwrap().push(name);
                Ok(())
            });
        }
        tasks.finish().await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["doors", "pipeline", "rest"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn(Phase::Doors, "stuck", std::future::pending());
        assert_eq!(tasks.finish().await.unwrap_err().to_string(), "task stuck did not end within 16 s");
    }
}

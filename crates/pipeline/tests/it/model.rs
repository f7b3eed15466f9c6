//! Whatever happens in whatever order: what was accepted is stored, each once, or is said to be lost.

use std::collections::HashSet;

use domain::EntryId;
use pipeline::{Flushed, Loss, LostAtShutdown, NotDurable};
use proptest::prelude::*;
use tokio::task::JoinSet;

use crate::fake::{Fault, Line, entry, heavy, id, ms, noon, pass};

#[derive(Clone, Debug)]
enum Event {
    Record(u64),
    /// Entries of 4 MiB, of which the queue holds seven.
    RecordHeavy(u64),
    RecordDurably(u64),
    RecordPoison,
    /// A list of an audit event: entries, and outcomes of others.
    Tell(u64),
    /// The same of entries of 1 MiB.
    TellHeavy(u64),
    NoteLost,
    Pass(u64),
    Fail(Fault),
    Away(bool),
    Slow(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![4 => Just(Fault::Away), 4 => Just(Fault::ReplyLost), 1 => Just(Fault::Silent)];
    prop_oneof![
        4 => (1..250_u64).prop_map(Event::Record),
        1 => (1..6_u64).prop_map(Event::RecordHeavy),
        2 => (1..20_u64).prop_map(Event::RecordDurably),
        1 => Just(Event::RecordPoison),
        2 => (1..50_u64).prop_map(Event::Tell),
        1 => (1..12_u64).prop_map(Event::TellHeavy),
        1 => Just(Event::NoteLost),
        4 => (0..2_000_u64).prop_map(Event::Pass),
        2 => fault.prop_map(Event::Fail),
        1 => any::<bool>().prop_map(Event::Away),
        1 => (0..1_000_u64).prop_map(Event::Slow),
    ]
}

/// A pipeline, and what is expected of it.
struct Run {
    line: Line,
    next: u64,
    accepted: Vec<EntryId>,
    told: HashSet<EntryId>,
    joins: Vec<EntryId>,
    poison: HashSet<EntryId>,
    lost: u64,
    answers: JoinSet<(EntryId, Result<(), NotDurable>)>,
}

impl Run {
    fn new() -> Self {
        let (accepted, joins, poison, answers) = (Vec::new(), Vec::new(), HashSet::new(), JoinSet::new());
        let told = HashSet::new();
        Self { line: Line::start(), next: 0, accepted, told, joins, poison, lost: 0, answers }
    }

    async fn happens(&mut self, event: Event) {
        match event {
            Event::Record(count) => (0..count).for_each(|_| self.record(0)),
            Event::RecordHeavy(count) => (0..count).for_each(|_| self.record(4 * 1024 * 1024)),
            Event::RecordDurably(count) => self.record_durably(count).await,
            Event::RecordPoison => {
                self.poison.insert(id(self.next));
                self.line.store.kept().poison.insert(id(self.next));
                self.record(0);
            }
            Event::Tell(count) => self.tell(count, 0),
            Event::TellHeavy(count) => self.tell(count, 1024 * 1024),
            Event::NoteLost => {
                self.lost += 1;
                self.line.recorder.note_lost(noon(), Loss::Panicked);
            }
            Event::Pass(millis) => pass(ms(millis)).await,
            Event::Fail(fault) => self.line.store.kept().faults.push_back(fault),
            Event::Away(away) => self.line.store.kept().away = away,
            Event::Slow(millis) => self.line.store.kept().takes = ms(millis),
        }
    }
    fn tell(&mut self, count: u64, bytes: usize) {
        let write = self.next..self.next + count;
        // Of others than those that are written here.
        let join = (1 << 30) + self.next..(1 << 30) + self.next + count;
        let list = |numbers: std::ops::Range<u64>| numbers.map(|n| heavy(n, bytes)).collect();
        if self.line.recorder.tell(list(write.clone()), list(join.clone())).is_ok() {
            self.accepted.extend(write.clone().map(id));
            self.told.extend(write.map(id));
            self.joins.extend(join.map(id));
        }
        self.next += count;
    }

    fn record(&mut self, bytes: usize) {
        let n = self.next;
        self.next += 1;
        match self.line.recorder.record(heavy(n, bytes)) {
            Ok(()) => self.accepted.push(id(n)),
            Err(_) => self.lost += 1,
        }
    }

    /// Small entries may still fit where a heavy one did not; which, their answers tell.
    async fn record_durably(&mut self, count: u64) {
        for n in self.next..self.next + count {
            let recorder = self.line.recorder.clone();
            self.answers.spawn(async move { (id(n), recorder.record_durably(entry(n), ms(1_500)).await) });
        }
        self.next += count;
        // Lets them go into the queue before what happens next.
        pass(ms(0)).await;
        tokio::task::yield_now().await;
    }

    /// Holds the store against what was accepted.
    async fn ends(mut self) -> Result<Flushed, LostAtShutdown> {
        let end = self.line.stopped().await;
        while let Some(answer) = self.answers.join_next().await {
            let (id, answer) = answer.unwrap();
            match answer {
                Err(NotDurable::NotAccepted(_)) => self.lost += 1,
                Ok(()) => assert!(self.line.store.ids().contains(&id), "told to be durable"),
                Err(NotDurable::Refused) => panic!("no poison among those that are waited for"),
                Err(NotDurable::NotYet { .. } | NotDurable::Ended) => {}
            }
            if !matches!(answer, Err(NotDurable::NotAccepted(_))) {
                self.accepted.push(id);
            }
        }
        let stored = self.line.store.ids();
        for of_told in [false, true] {
            let lane = stored.iter().filter(|id| self.told.contains(id) == of_told);
            assert!(lane.is_sorted(), "of each lane, written in the order of their arrival");
        }
        let distinct: HashSet<_> = stored.iter().copied().collect();
        assert_eq!(distinct.len(), stored.len(), "each once");
        let wanted: HashSet<_> = self.accepted.iter().copied().filter(|id| !self.poison.contains(id)).collect();
        assert!(distinct.is_subset(&wanted), "nothing that was refused is stored");
        let joined = self.line.store.kept().joined.clone();
        assert_eq!(joined, self.joins[..joined.len()], "each once, in the order of their arrival");
        let missing = wanted.difference(&distinct).count() as u64 + (self.joins.len() - joined.len()) as u64;
        match &end {
            Ok(_) => {
                assert_eq!(missing, 0, "what was accepted is stored");
                let refused = self.accepted.iter().filter(|id| self.poison.contains(id)).count() as u64;
                let told: u64 = self.line.store.gaps().iter().map(|(lost, _)| lost).sum();
                assert_eq!(told, self.lost + refused, "what was lost is told");
            }
            Err(LostAtShutdown { entries }) => assert!(missing <= *entries, "{missing} of {entries}"),
        }
        end
    }
}

fn in_paused_time(run: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(run);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_was_accepted_is_stored_once_or_said_to_be_lost(events in prop::collection::vec(event(), 1..60)) {
        in_paused_time(async {
            let mut run = Run::new();
            for event in events {
                run.happens(event).await;
            }
            let _either_way = run.ends().await;
        });
    }

    #[test]
    fn with_a_store_that_recovers_nothing_accepted_is_lost(events in prop::collection::vec(event(), 1..60)) {
        in_paused_time(async {
            let mut run = Run::new();
            for event in events {
                run.happens(event).await;
            }
            run.happens(Event::Away(false)).await;
            run.happens(Event::Slow(0)).await;
            // Each fault costs at most a write that is given up and a pause.
            pass(pipeline::WRITE_MAX * 2 * 60).await;
            run.line.store.kept().faults.clear();
            assert!(run.ends().await.is_ok(), "there was time and a store");
        });
    }
}

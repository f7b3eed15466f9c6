//! What should have been recorded and was not, until a `gap` entry tells of it.

use chrono::{DateTime, Utc};
use domain::system::Gap;

/// Why an entry was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The store was behind for longer than the queue could hold.
    QueueFull,
    /// The store takes others and refuses this one.
    Refused,
    /// Whoever should have made the entry panicked.
    Panicked,
    /// So many requests were being handled that one could not be read in time.
    Overloaded,
    /// The API server gave up waiting, or its connection broke, before the review was read to its end.
    Abandoned,
    /// A review that was too large or came too slowly.
    Unreadable,
    /// It came, or was still waiting, when the program had to end.
    Stopped,
}

impl Loss {
    pub(crate) const ALL: [Self; 7] = [
        Self::QueueFull,
        Self::Refused,
        Self::Panicked,
        Self::Overloaded,
        Self::Abandoned,
        Self::Unreadable,
        Self::Stopped,
    ];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Panicked => "panicked",
            Self::Overloaded => "overloaded",
            Self::Abandoned => "abandoned",
            Self::Unreadable => "unreadable",
            Self::Stopped => "stopped",
        }
    }

    /// The clause in a gap.
    fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "the queue was full while the database was behind",
            Self::Refused => "the database refused to store it",
            Self::Panicked => "handling the request failed",
            Self::Overloaded => "too many requests came at once",
            Self::Abandoned => "the API server gave up before the request was read",
            Self::Unreadable => "the request was too large or came too slowly",
            Self::Stopped => "the program was stopping",
        }
    }
}

/// Losses not told yet, one growing gap for each cause: however much is lost, this never grows.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pending: [Option<Span>; Loss::ALL.len()],
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    lost: u64,
}

impl Losses {
    pub(crate) fn note(&mut self, loss: Loss, at: DateTime<Utc>) {
        let span = self.pending[loss as usize].get_or_insert(Span { from: at, to: at, lost: 0 });
        *span = Span { from: span.from.min(at), to: span.to.max(at), lost: span.lost + 1 };
    }

    /// Leaves none behind.
    pub(crate) fn take(&mut self) -> Vec<Gap> {
        let told = |loss: Loss, Span { from, to, lost }: Span| Gap { from, to, lost, reason: loss.reason().to_owned() };
        Loss::ALL.iter().filter_map(|&loss| Some(told(loss, self.pending[loss as usize].take()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn losses_of_one_cause_are_one_gap_from_the_earliest_to_the_latest() {
        let noon: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().unwrap();
        let second = TimeDelta::seconds(1);
        let mut losses = Losses::default();
        for (loss, at) in [
            (Loss::QueueFull, noon),
            (Loss::Panicked, noon),
            (Loss::QueueFull, noon - second),
            (Loss::QueueFull, noon + second),
        ] {
            losses.note(loss, at);
        }
        let gap = |from, to, lost, loss: Loss| Gap { from, to, lost, reason: loss.reason().to_owned() };
        let expected = [gap(noon - second, noon + second, 3, Loss::QueueFull), gap(noon, noon, 1, Loss::Panicked)];
        assert_eq!(losses.take(), expected);
        assert_eq!(losses.take(), [], "told once");
    }
}

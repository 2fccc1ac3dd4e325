//! Queue pairs that stay where they are for a while, so that none goes to and fro.

use std::collections::BTreeMap;

use super::history::{History, Over};
use super::watch::Then;
use crate::QueueId;

/// Doublings after which a hold gets no longer.
const MOST_DOUBLINGS: u32 = 20;

/// A time for which a queue pair stays, which doubles with each further one soon after.
#[derive(Debug, Clone, Copy, Default)]
struct Stay {
    /// The first tick in which it may move.
    until: u64,
    /// How often there was another soon after: before as much time again, or ten times the first, had passed.
    again: u32,
    /// When what `again` counts is forgotten.
    forgotten: u64,
}

impl Stay {
    /// From `tick` on for `base` ticks, twice as long for each further time soon after, up to `most`.
    fn begin(&mut self, tick: u64, base: u64, most: u64) {
        self.again = if tick < self.forgotten { self.again + 1 } else { 0 };
        let ticks = base.saturating_mul(1 << self.again.min(MOST_DOUBLINGS)).min(most);
        self.until = self.until.max(tick + ticks);
        self.forgotten = self.until + ticks.max(10 * base);
    }
}

#[derive(Debug, Clone, Default)]
struct Hold {
    /// After moves.
    moved: Stay,
    /// After roll-backs, …
    back: Stay,
    /// … how things were before what was undone, …
    then: Option<Then>,
    /// … and for how many ticks in a row they have been different.
    differs: u64,
}

impl Hold {
    fn until(&self) -> u64 {
        self.moved.until.max(self.back.until)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    queues: BTreeMap<QueueId, Hold>,
}

impl Holds {
    /// After a move at `tick`: for `base` ticks, twice as long for each further one soon after, up to `most`.
    pub(super) fn moved(&mut self, queue: QueueId, tick: u64, base: u64, most: u64) {
        self.queues.entry(queue).or_default().moved.begin(tick, base, most);
    }

    /// After its move was undone, which then counts for nothing: the same, but until it [differs](Self::look) how things were.
    pub(super) fn put_back(&mut self, queue: QueueId, tick: u64, base: u64, most: u64, then: Option<Then>) {
        let hold = self.queues.entry(queue).or_default();
        hold.moved = Stay { until: tick, again: hold.moved.again.saturating_sub(1), ..hold.moved };
        hold.back.begin(tick, base, most);
        (hold.then, hold.differs) = (then, 0);
    }

    pub(super) fn hold(&mut self, queue: QueueId, until: u64) {
        let stay = &mut self.queues.entry(queue).or_default().moved;
        stay.until = stay.until.max(until);
    }

    /// Ends the holds after roll-backs where things have differed for so many ticks from how they were. Whether there was one.
    pub(super) fn look(&mut self, tick: u64, ticks: u64, history: &History) -> bool {
        if !self.queues.values().any(|hold| tick < hold.back.until) {
            return false;
        }
        let loads = history.loads(Over::Short);
        let mut ended = false;
        for queue in &history.queues {
            let Some(hold) = self.queues.get_mut(&queue.last.queue).filter(|hold| tick < hold.back.until) else {
                continue;
            };
            let differs = hold.then.as_ref().is_some_and(|then| then.differs(queue, &loads, history));
            hold.differs = if differs { hold.differs + 1 } else { 0 };
            if hold.differs >= ticks {
                hold.back.until = tick;
                ended = true;
            }
        }
        ended
    }

    pub(super) fn is_held(&self, queue: QueueId, tick: u64) -> bool {
        self.queues.get(&queue).is_some_and(|hold| tick < hold.until())
    }

    /// The first tick in which one more may move than now.
    pub(super) fn next_end(&self, tick: u64) -> Option<u64> {
        self.queues.values().map(Hold::until).filter(|until| *until > tick).min()
    }

    pub(super) fn keep(&mut self, exists: impl Fn(QueueId) -> bool) {
        self.queues.retain(|queue, _| exists(*queue));
    }
}

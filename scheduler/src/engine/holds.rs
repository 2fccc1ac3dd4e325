//! Queue pairs that stay where they are for a while, so that none goes to and fro.

use std::collections::BTreeMap;

use crate::QueueId;

/// Doublings after which a hold gets no longer.
const MOST_DOUBLINGS: u32 = 20;

#[derive(Debug, Clone, Copy, Default)]
struct Hold {
    /// The first tick in which it may move.
    until: u64,
    /// How often it was moved soon after a hold: before as much time again, or ten times the first hold, had passed.
    moves: u32,
    /// When what `moves` counts is forgotten.
    forgotten: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    queues: BTreeMap<QueueId, Hold>,
}

impl Holds {
    /// After a move at `tick`: for `base` ticks, twice as long for each further one soon after, up to `most`.
    pub(super) fn moved(&mut self, queue: QueueId, tick: u64, base: u64, most: u64) {
        let hold = self.queues.entry(queue).or_default();
        hold.moves = if tick < hold.forgotten { hold.moves + 1 } else { 0 };
        let ticks = base.saturating_mul(1 << hold.moves.min(MOST_DOUBLINGS)).min(most);
        hold.until = hold.until.max(tick + ticks);
        hold.forgotten = hold.until + ticks.max(10 * base);
    }

    pub(super) fn hold(&mut self, queue: QueueId, until: u64) {
        let hold = self.queues.entry(queue).or_default();
        hold.until = hold.until.max(until);
    }

    pub(super) fn is_held(&self, queue: QueueId, tick: u64) -> bool {
        self.queues.get(&queue).is_some_and(|hold| tick < hold.until)
    }

    /// The first tick in which one more may move than now.
    pub(super) fn next_end(&self, tick: u64) -> Option<u64> {
        self.queues.values().map(|hold| hold.until).filter(|until| *until > tick).min()
    }

    pub(super) fn keep(&mut self, exists: impl Fn(QueueId) -> bool) {
        self.queues.retain(|queue, _| exists(*queue));
    }
}

//! What came of a step, once it has settled.

use std::collections::BTreeMap;

use super::history::{History, Over, Queue, Rate};
use super::planning::DIFFERENT;
use super::{Scheduler, Why};
use crate::{Move, QueueId};

/// How the cores of a step were before it.
#[derive(Debug, Clone)]
pub(super) struct Before {
    cores: Vec<usize>,
    /// The load of each.
    loads: Vec<f64>,
    /// What their queue pairs did.
    queues: BTreeMap<QueueId, Rate>,
}

/// What the steps gained that were judged, in all: by how much the fullest of the cores of each became less full, in parts of a core.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gains {
    /// What they should have gained.
    pub expected: f64,
    /// What those gained that did.
    pub gained: f64,
    /// By how much the others made things worse.
    pub lost: f64,
}

impl Gains {
    fn add(&mut self, expected: f64, measured: f64) {
        self.expected += expected.max(0.0);
        self.gained += measured.max(0.0);
        self.lost += (-measured).max(0.0);
    }
}

/// A step that is done and has to settle.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// The moves, and the numbers of their decisions.
    pub(super) done: Vec<(Move, u64)>,
    pub(super) before: Before,
    /// What it should gain.
    pub(super) expected: f64,
    /// The tick in which it is judged.
    pub(super) until: u64,
}

impl Watch {
    pub(super) fn cores(&self) -> impl Iterator<Item = usize> + '_ {
        self.before.cores()
    }
}

impl Before {
    pub(super) fn new(history: &History, mut cores: Vec<usize>) -> Self {
        cores.sort_unstable();
        cores.dedup();
        let loads = history.loads(Over::Short);
        let here = cores.iter().flat_map(|core| history.on(*core));
        Self {
            loads: cores.iter().map(|core| loads[*core]).collect(),
            queues: here.map(|queue| (queue.last.queue, queue.short)).collect(),
            cores,
        }
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = usize> + '_ {
        self.cores.iter().copied()
    }

    /// The load of the fullest of them.
    pub(super) fn fullest(&self) -> f64 {
        self.loads.iter().copied().fold(0.0, f64::max)
    }

    /// What of it concerns a queue pair of one of the cores.
    pub(super) fn of(&self, queue: QueueId) -> Option<Then> {
        let cores = self.cores.iter().copied().zip(self.loads.iter().copied()).collect();
        Some(Then { cycles: self.queues.get(&queue)?.cycles, cores })
    }

    /// By how much the fullest core is fuller than before, or than it should have become by what its queue pairs cost then: had each of them
    /// as many packets as before. So what guests do differently is not taken for the step's effect.
    fn worse_at_equal_rates(&self, history: &History) -> f64 {
        let (mut expected, mut actual) = (self.fullest(), 0.0_f64);
        for &core in &self.cores {
            let (mut then, mut now) = (history.besides(core), history.besides(core));
            for queue in history.on(core) {
                let Some(before) = self.queues.get(&queue.last.queue) else { continue };
                then += before.cycles;
                let Rate { cycles, packets } = queue.short;
                now += if packets > 0.0 { cycles / packets * before.packets } else { before.cycles };
            }
            expected = expected.max(then / history.capacity(core));
            actual = actual.max(now / history.capacity(core));
        }
        actual - expected
    }
}

/// How a queue pair, and the cores of its step, were before it.
#[derive(Debug, Clone)]
pub(super) struct Then {
    cycles: f64,
    cores: Vec<(usize, f64)>,
}

impl Then {
    /// Whether it is another situation now: the queue pair's own load or that of one of the cores is another one.
    pub(super) fn differs(&self, queue: &Queue, loads: &[f64], history: &History) -> bool {
        let differ = |then: f64, now: f64| (then - now).abs() >= DIFFERENT;
        let capacity = history.capacity(queue.last.core.0);
        differ(self.cycles / capacity, queue.short.cycles / capacity)
            || self.cores.iter().any(|(core, then)| loads.get(*core).is_some_and(|now| differ(*then, *now)))
    }
}

fn fullest(cores: &[usize], loads: &[f64]) -> f64 {
    cores.iter().filter_map(|core| loads.get(*core)).copied().fold(0.0, f64::max)
}

impl Scheduler {
    /// Judges the steps that have settled, and has those undone that made things worse.
    pub(super) fn judge(&mut self) {
        let tick = self.tick;
        let settled: Vec<Watch> = self.watches.extract_if(.., |watch| watch.until <= tick).collect();
        if settled.is_empty() {
            return;
        }
        let loads = self.history.loads(Over::Short);
        for watch in settled {
            let measured = watch.before.fullest() - fullest(&watch.before.cores, &loads);
            self.gains.add(watch.expected, measured);
            for (_, number) in &watch.done {
                if let Some(decision) = self.log.get_mut(*number) {
                    decision.measured = Some(measured);
                }
            }
            let worse = watch.before.worse_at_equal_rates(&self.history);
            if worse > self.config.patience.worse && !self.paused {
                self.planning.press(watch.cores());
                self.undo(&watch.done, Why::Worse(worse), watch.before);
            }
        }
    }
}

//! Cores that sleep while there is little to do.

use super::history::Over;
use super::steps::{Kind, Step};
use super::{Order, Scheduler, Why};
use crate::{IoCore, Move};

/// After an order that failed, none is given for so long.
const RETRY_NS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Since when one core fewer would do.
    low_since: Option<u64>,
    /// The core whose queue pairs are being moved away, and that is parked then.
    draining: Option<usize>,
    /// The core that was told to wake and is not shown as awake yet.
    waking: Option<usize>,
    /// No order before this tick.
    not_before: u64,
}

impl State {
    /// Whether a core is about to be parked.
    pub(super) fn is_closing(&self, core: usize) -> bool {
        self.draining == Some(core)
    }

    pub(super) fn forget(&mut self) {
        *self = Self { waking: self.waking, not_before: self.not_before, ..Self::default() };
    }
}

impl Scheduler {
    /// Parks a core when there has been little to do for long enough: its queue pairs move away first.
    pub(super) fn park(&mut self) {
        let Some(elastic) = self.config.elastic else { return };
        self.note_woken();
        if let Some(core) = self.elastic.draining {
            self.drain(core);
            return;
        }
        let awake: Vec<usize> = (0..self.history.cores()).filter(|core| !self.history.is_parked(*core)).collect();
        if awake.len() <= elastic.min.max(1) {
            self.elastic.low_since = None;
            return;
        }
        let loads = self.history.loads(Over::Short);
        let total: f64 = awake.iter().map(|core| loads[*core]).sum();
        if total / (awake.len() as f64 - 1.0) >= elastic.mean {
            self.elastic.low_since = None;
            return;
        }
        let idle = self.steps.is_empty() && self.watches.is_empty() && self.elastic.waking.is_none();
        let since = *self.elastic.low_since.get_or_insert(self.tick);
        if !idle || self.tick < (since + self.config.ticks(elastic.after_ns)).max(self.elastic.not_before) {
            return;
        }
        // The emptiest; of equals the last, so that the first cores are those that stay awake.
        let can_empty = |core: &usize| {
            let stays = |queue| self.holds.is_held(queue, self.tick);
            !self.history.on(*core).any(|queue| queue.last.pinned || stays(queue.last.queue))
        };
        let emptiest =
            awake.iter().copied().filter(can_empty).min_by(|a, b| loads[*a].total_cmp(&loads[*b]).then(b.cmp(a)));
        let Some(core) = emptiest else { return };
        self.elastic.draining = Some(core);
        self.drain(core);
    }

    /// Moves the queue pairs of a core away; orders it parked once it has none.
    fn drain(&mut self, core: usize) {
        if self.history.is_parked(core) {
            self.elastic.draining = None;
            self.elastic.low_since = None;
            return;
        }
        if !self.steps.is_empty() || !self.power.is_empty() {
            return;
        }
        match self.drain_moves(core) {
            Some(moves) if moves.is_empty() => {
                let total = self.history.loads(Over::Short).iter().sum();
                self.power.push_back((Order::Park(IoCore(core)), Why::LittleToDo(total)));
            }
            Some(moves) => {
                let why = Why::Draining(IoCore(core));
                self.steps.extend(moves.into_iter().map(|step| Step::new(vec![step], why, None, Kind::Unconditional)));
            }
            None => {
                self.elastic.forget();
                self.elastic.not_before = self.tick + self.config.ticks(RETRY_NS);
            }
        }
    }

    /// Each queue pair of a core to the one with the least to do, the dearest first. `None` if one may not move, or a core would become too full:
    /// also by what this one does besides, for uplinks, which goes to one of the others too.
    fn drain_moves(&self, core: usize) -> Option<Vec<Move>> {
        let most = self.config.elastic?.most;
        let mut loads = self.history.loads(Over::Short);
        let others: Vec<usize> =
            (0..loads.len()).filter(|other| *other != core && !self.history.is_parked(*other)).collect();
        let mut queues: Vec<_> = self.history.on(core).collect();
        queues.sort_by(|a, b| b.short.cycles.total_cmp(&a.short.cycles));
        let mut moves = Vec::with_capacity(queues.len());
        for queue in queues {
            let to = *others.iter().min_by(|a, b| loads[**a].total_cmp(&loads[**b]))?;
            loads[to] += queue.short.cycles / self.history.capacity(to);
            if queue.last.pinned || loads[to] > most {
                return None;
            }
            moves.push(Move { queue: queue.last.queue, from: IoCore(core), to: IoCore(to) });
        }
        let besides = self.history.besides(core) / self.history.capacity(core);
        others.iter().any(|other| loads[*other] + besides <= most).then_some(moves)
    }

    /// A core is saturated: none is parked now.
    pub(super) fn cancel_parking(&mut self) {
        self.note_woken();
        self.steps.retain(|step| !matches!(step.why, Why::Draining(_)));
        self.power.retain(|(order, _)| !matches!(order, Order::Park(_)));
        self.elastic.forget();
    }

    /// Wakes a core for one that is saturated; near it, and no thread of a core that is awake, if there is one. Whether one is on its way.
    pub(super) fn wake(&mut self, saturated: usize) -> bool {
        if self.config.elastic.is_none() || self.tick < self.elastic.not_before {
            return false;
        }
        if self.elastic.waking.is_some() {
            return true;
        }
        let cpus = &self.topology.cpus;
        let node = |core: usize| cpus.get(core).map(|cpu| cpu.node);
        let physical = |core: usize| cpus.get(core).map(|cpu| cpu.physical);
        let awake = |core: usize| !self.history.is_parked(core);
        let beside = |core: usize| {
            (0..self.history.cores()).any(|other| other != core && awake(other) && physical(other) == physical(core))
        };
        let asleep = (0..self.history.cores()).filter(|core| !awake(*core));
        let Some(core) = asleep.min_by_key(|core| (node(*core) != node(saturated), beside(*core), *core)) else {
            return false;
        };
        self.elastic.waking = Some(core);
        self.power.push_back((Order::Wake(IoCore(core)), Why::Saturated(IoCore(saturated))));
        true
    }

    fn note_woken(&mut self) {
        if self.elastic.waking.is_some_and(|core| !self.history.is_parked(core)) {
            self.elastic.waking = None;
            self.planning.changed();
        }
    }

    pub(super) fn power_finished(&mut self, core: usize, done: bool) {
        if !done {
            self.elastic.draining = self.elastic.draining.filter(|draining| *draining != core);
            self.elastic.waking = self.elastic.waking.filter(|waking| *waking != core);
            self.elastic.low_since = None;
            self.elastic.not_before = self.tick + self.config.ticks(RETRY_NS);
        }
    }
}

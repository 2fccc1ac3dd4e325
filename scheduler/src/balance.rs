//! Which queue pairs to move so that the fullest I/O core has less to do.
//!
//! The load of a core, as a placement would make it, is what its queue pairs cost (more on a NUMA node that is not their guest's), what
//! packets cost that cross to or from another core, and a part of what its SMT sibling does. From the placement as it is, moves and
//! exchanges of two queue pairs are tried on the fullest core, the best is taken, and so on until none gains enough. That is a local
//! search, not an optimum; what it leaves is what moving one or two queue pairs at a time cannot better.

use std::collections::BTreeMap;

use crate::load::{Load, QueueLoad, Topology};
use crate::{IoCore, QueueId};

/// What a move costs at least, in parts of a core: of steps that gain the same, the one with fewer moves is better.
const LEAST_COST: f64 = 1e-6;

/// What moving costs and has to gain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// A step of the plan lowers the fullest core's load by at least this part of a core.
    pub gain: f64,
    /// Cycles that a move costs on each of its two cores, spread over the ticks in which it has to pay.
    pub move_cycles: u64,
    /// Queue pairs moved in one plan, at most.
    pub moves: usize,
    /// Cycles of a packet that is handed to another core, on the sending one, more than on one core.
    pub send_cycles: u64,
    /// The same on the receiving one.
    pub receive_cycles: u64,
    /// How much more a queue pair costs on a NUMA node that is not its guest's: 0.3 is 30 %.
    pub remote: f64,
    /// How much of a sibling's load counts as a core's own: two threads of a physical core slow each other down.
    pub sibling: f64,
    /// A core whose load would be more than this part of it is full.
    pub full: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gain: 0.05,
            move_cycles: 0,
            moves: 16,
            send_cycles: 150,
            receive_cycles: 150,
            remote: 0.3,
            sibling: 0.5,
            full: 0.95,
        }
    }
}

/// A queue pair to be moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Move {
    /// The queue pair.
    pub queue: QueueId,
    /// Where it is.
    pub from: IoCore,
    /// Where it is to go.
    pub to: IoCore,
}

/// What can be done, and what comes of it. Loads are parts of a core.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// In this order. The two moves of an exchange follow each other.
    pub moves: Vec<Move>,
    /// The fullest core's load as it is.
    pub before: f64,
    /// The same after the moves.
    pub after: f64,
    /// Why cores stay full all the same, where they do.
    pub hopeless: Option<Hopeless>,
}

/// Why no placement helps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hopeless {
    /// One queue pair alone is more than a core can do.
    Queue {
        /// Which.
        queue: QueueId,
        /// What it costs, in parts of a core.
        load: f64,
    },
    /// All cores together have too little left.
    Cores {
        /// Their mean load.
        mean: f64,
    },
    /// What fills the core may not move.
    Pinned {
        /// Which core.
        core: IoCore,
    },
}

/// Plans moves for what `load` shows.
#[must_use]
pub fn balance(load: &Load, topology: &Topology, settings: &Settings) -> Balance {
    let mut search = Search::new(load, topology, settings);
    let before = search.fullest().1;
    let mut moves = Vec::new();
    while let Some(step) = search.best_step(settings.moves - moves.len().min(settings.moves)) {
        for (queue, to) in step.changes() {
            let from = search.place[queue];
            moves.push(Move { queue: load.queues[queue].queue, from: IoCore(from), to: IoCore(to) });
            search.put(queue, to);
        }
    }
    let (core, after) = search.fullest();
    let hopeless = (after > settings.full).then(|| search.why(core)).flatten();
    Balance { moves, before, after, hopeless }
}

/// One step: a move, or two that exchange queue pairs. Queue pairs are indices into the load's list.
#[derive(Clone, Copy)]
enum Step {
    Move { queue: usize, to: usize },
    Exchange { one: (usize, usize), other: (usize, usize) },
}

impl Step {
    fn changes(self) -> impl Iterator<Item = (usize, usize)> {
        let (first, second) = match self {
            Self::Move { queue, to } => ((queue, to), None),
            Self::Exchange { one, other } => (one, Some(other)),
        };
        std::iter::once(first).chain(second)
    }
}

struct Search<'a> {
    queues: &'a [QueueLoad],
    topology: &'a Topology,
    settings: &'a Settings,
    /// Cycles in a tick, by core.
    capacity: Vec<f64>,
    /// Where each queue pair is.
    place: Vec<usize>,
    /// (other queue pair, packets to it, packets from it), by queue pair.
    talks: Vec<Vec<(usize, f64, f64)>>,
    /// Cycles of each core, without its sibling's.
    cycles: Vec<f64>,
    /// The other threads of each core's physical core.
    siblings: Vec<Vec<usize>>,
}

impl<'a> Search<'a> {
    fn new(load: &'a Load, topology: &'a Topology, settings: &'a Settings) -> Self {
        let cores = load.cores.len();
        let index: BTreeMap<QueueId, usize> =
            load.queues.iter().enumerate().map(|(index, load)| (load.queue, index)).collect();
        let mut talks = vec![Vec::new(); load.queues.len()];
        for talk in &load.talks {
            if let (Some(&from), Some(&to)) = (index.get(&talk.from), index.get(&talk.to))
                && from != to
            {
                talks[from].push((to, talk.packets as f64, 0.0));
                talks[to].push((from, 0.0, talk.packets as f64));
            }
        }
        let capacity = load.cores.iter().map(|core| core.capacity.max(1) as f64).collect();
        // A queue pair on a core that is not there is left out of every sum and every step.
        let place = load.queues.iter().map(|queue| queue.core.0.min(cores)).collect();
        let physical = |core: usize| topology.cpus.get(core).map(|cpu| cpu.physical);
        let beside = |core: usize| {
            move |other: &usize| *other != core && physical(core).is_some_and(|it| physical(*other) == Some(it))
        };
        let siblings = (0..cores).map(|core| (0..cores).filter(beside(core)).collect()).collect();
        let cycles = vec![0.0; cores + 1];
        let mut search = Self { queues: &load.queues, topology, settings, capacity, place, talks, cycles, siblings };
        for queue in 0..search.queues.len() {
            let core = search.place[queue];
            search.cycles[core] += search.cost(queue, core);
        }
        for queue in 0..search.queues.len() {
            for &(other, sent, received) in &search.talks[queue] {
                if search.place[queue] != search.place[other] {
                    search.cycles[search.place[queue]] += search.crossing(sent, received);
                }
            }
        }
        search
    }

    fn cores(&self) -> usize {
        self.capacity.len()
    }

    /// What a queue pair costs on a core, without crossings.
    fn cost(&self, queue: usize, core: usize) -> f64 {
        let queue = &self.queues[queue];
        let away = match (queue.node, self.topology.cpus.get(core)) {
            (Some(node), Some(cpu)) => node != cpu.node,
            _ => false,
        };
        // What was measured includes the distance where it is now.
        let away_now = match (queue.node, self.topology.cpus.get(queue.core.0)) {
            (Some(node), Some(cpu)) => node != cpu.node,
            _ => false,
        };
        let near = queue.cycles as f64 / if away_now { 1.0 + self.settings.remote } else { 1.0 };
        near * if away { 1.0 + self.settings.remote } else { 1.0 }
    }

    /// What crossing costs the core of the queue pair that sends and receives so many packets.
    fn crossing(&self, sent: f64, received: f64) -> f64 {
        sent * self.settings.send_cycles as f64 + received * self.settings.receive_cycles as f64
    }

    /// Puts a queue pair on another core.
    fn put(&mut self, queue: usize, to: usize) {
        for (core, change) in self.changes(queue, to) {
            self.cycles[core] += change;
        }
        self.place[queue] = to;
    }

    /// What moving a queue pair changes, by core; a core may come more than once.
    fn changes(&self, queue: usize, to: usize) -> Vec<(usize, f64)> {
        let from = self.place[queue];
        let mut changes = vec![(from, -self.cost(queue, from)), (to, self.cost(queue, to))];
        for &(other, sent, received) in &self.talks[queue] {
            let there = self.place[other];
            if there != from {
                changes.push((from, -self.crossing(sent, received)));
                changes.push((there, -self.crossing(received, sent)));
            }
            if there != to {
                changes.push((to, self.crossing(sent, received)));
                changes.push((there, self.crossing(received, sent)));
            }
        }
        changes
    }

    /// The load of a core, its sibling's part included.
    fn load(&self, core: usize) -> f64 {
        let own = |core: usize| self.cycles[core] / self.capacity[core];
        own(core) + self.settings.sibling * self.siblings[core].iter().map(|sibling| own(*sibling)).sum::<f64>()
    }

    /// The fullest core, the first of several, and its load.
    fn fullest(&self) -> (usize, f64) {
        let loads = (0..self.cores()).map(|core| (core, self.load(core)));
        loads.fold((0, 0.0), |most, next| if next.1 > most.1 { next } else { most })
    }

    /// The step that makes the fullest core of those concerned least full, if it gains enough. `left` moves may be made.
    fn best_step(&mut self, left: usize) -> Option<Step> {
        let (core, before) = self.fullest();
        if left == 0 || before <= 0.0 {
            return None;
        }
        let mine: Vec<usize> = self.movable(core).collect();
        let mut best: Option<(f64, Step)> = None;
        for &queue in &mine {
            for to in (0..self.cores()).filter(|to| *to != core) {
                self.consider(Step::Move { queue, to }, &mut best);
                if left < 2 {
                    continue;
                }
                for other in self.movable(to).collect::<Vec<_>>() {
                    self.consider(Step::Exchange { one: (queue, to), other: (other, core) }, &mut best);
                }
            }
        }
        let (after, step) = best?;
        (before - after >= self.settings.gain).then_some(step)
    }

    fn movable(&self, core: usize) -> impl Iterator<Item = usize> + '_ {
        let free = move |queue: &usize| self.place[*queue] == core && !self.queues[*queue].pinned;
        (0..self.queues.len()).filter(free)
    }

    /// Takes a step if, of the cores whose load it changes, the fullest is less full than the best one's; the first of equals stays. Other cores
    /// may be as full: their turn comes.
    fn consider(&mut self, step: Step, best: &mut Option<(f64, Step)>) {
        let mut touched = Vec::new();
        let mut back = Vec::new();
        for (queue, to) in step.changes() {
            back.push((queue, self.place[queue]));
            touched
                .extend(self.changes(queue, to).into_iter().map(|(core, _)| core).filter(|core| *core < self.cores()));
            self.put(queue, to);
        }
        let cost = back.len() as f64 * (self.settings.move_cycles as f64 / self.capacity[touched[0]] + LEAST_COST);
        let beside = touched.iter().flat_map(|core| &self.siblings[*core]);
        let after = touched.iter().chain(beside).map(|core| self.load(*core)).fold(0.0, f64::max) + cost;
        back.into_iter().rev().for_each(|(queue, from)| self.put(queue, from));
        if best.is_none_or(|(least, _)| after < least - f64::EPSILON) {
            *best = Some((after, step));
        }
    }

    /// Why a core stays full.
    fn why(&self, core: usize) -> Option<Hopeless> {
        let here = (0..self.queues.len()).filter(|queue| self.place[*queue] == core);
        let load = |queue: usize| self.cost(queue, core) / self.capacity[core];
        let largest = here.max_by(|a, b| load(*a).total_cmp(&load(*b)))?;
        if load(largest) > self.settings.full {
            return Some(Hopeless::Queue { queue: self.queues[largest].queue, load: load(largest) });
        }
        let mean = (0..self.cores()).map(|core| self.load(core)).sum::<f64>() / self.cores() as f64;
        if mean > self.settings.full {
            return Some(Hopeless::Cores { mean });
        }
        self.movable(core).next().is_none().then_some(Hopeless::Pinned { core: IoCore(core) })
    }
}

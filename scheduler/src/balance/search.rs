//! The local search: which one step makes the fullest core least full.
//!
//! A step is weighed by what it makes of the cores it touches. Steps that cannot beat the best one found so far are not weighed: cores are
//! tried from the emptiest on, until even a queue pair without any crossings would make them too full; and of the queue pairs that could be
//! had in exchange, only those whose cost is near what would make both cores equally full.

use std::collections::BTreeMap;

use super::{Hopeless, Settings};
use crate::load::{Load, QueueLoad, Topology};
use crate::{IoCore, QueueId};

/// What a move costs at least, in parts of a core: of steps that gain the same, the one with fewer moves is better.
const LEAST_COST: f64 = 1e-6;
/// Queue pairs of a core that are tried in exchange for one, on either side of the cost that would fit best.
const NEIGHBOURS: usize = 4;
/// A queue pair costs at least this part of what was measured, whatever crossings are thought to cost.
const LEAST_NEAR: f64 = 0.25;

/// Queue pairs that one step moves, at most.
const STEP_MOVES: usize = 4;

/// One step: some queue pairs, as indices into the load's list, and the cores they go to.
#[derive(Clone, Copy)]
pub(super) struct Step([Option<(usize, usize)>; STEP_MOVES]);

impl Step {
    fn of<const N: usize>(changes: [(usize, usize); N]) -> Self {
        Self(std::array::from_fn(|nth| changes.get(nth).copied()))
    }

    pub(super) fn changes(self) -> impl Iterator<Item = (usize, usize)> {
        self.0.into_iter().flatten()
    }
}

/// What packets between a queue pair and another cost if the two are on different cores, in cycles.
#[derive(Clone, Copy)]
struct Tie {
    other: usize,
    /// On the core of this end, for what it sends, …
    sending: f64,
    /// … and for what it receives.
    receiving: f64,
    /// On the core of the other end, for both.
    there: f64,
}

/// The best step so far.
type Best = Option<(f64, Step)>;

pub(super) struct Search<'a> {
    queues: &'a [QueueLoad],
    topology: &'a Topology,
    settings: &'a Settings,
    /// Cycles in a tick, by core.
    capacity: Vec<f64>,
    open: Vec<bool>,
    /// Where each queue pair is.
    place: Vec<usize>,
    /// What each costs on its own node, with everybody it talks to on its core.
    near: Vec<f64>,
    ties: Vec<Vec<Tie>>,
    /// What crossings of a queue pair cost at most, on all cores together.
    tied: Vec<f64>,
    /// Cycles of each core, without its sibling's; the last is of queue pairs on cores that do not exist.
    cycles: Vec<f64>,
    /// The other threads of each core's physical core.
    siblings: Vec<Vec<usize>>,
    /// The queue pairs of each core that may move, the dearest first.
    movable: Vec<Vec<usize>>,
    /// What a step changes, while it is weighed.
    delta: Vec<f64>,
    touched: Vec<usize>,
    weighed: usize,
}

impl<'a> Search<'a> {
    pub(super) fn new(load: &'a Load, topology: &'a Topology, settings: &'a Settings) -> Self {
        let cores = load.cores.len();
        let place: Vec<usize> = load.queues.iter().map(|queue| queue.core.0.min(cores)).collect();
        let mut search = Self {
            queues: &load.queues,
            topology,
            settings,
            capacity: load.cores.iter().map(|core| core.capacity.max(1) as f64).collect(),
            open: load.cores.iter().map(|core| !core.parked).collect(),
            near: vec![0.0; place.len()],
            ties: ties(load, settings),
            tied: Vec::new(),
            cycles: vec![0.0; cores + 1],
            siblings: siblings(cores, topology),
            movable: vec![Vec::new(); cores + 1],
            delta: vec![0.0; cores + 1],
            touched: Vec::new(),
            weighed: 0,
            place,
        };
        search.tied = (0..search.place.len()).map(|queue| search.crossings(queue, |_| true).0).collect();
        search.add_up(load);
        search
    }

    /// Computes what each queue pair and each core costs from what was measured.
    fn add_up(&mut self, load: &Load) {
        let mut measured = vec![0.0; self.cycles.len()];
        for queue in 0..self.queues.len() {
            let core = self.place[queue];
            let here = self.ties[queue].iter().filter(|tie| self.place[tie.other] != core);
            let (sending, receiving) =
                here.fold((0.0, 0.0), |(sending, receiving), tie| (sending + tie.sending, receiving + tie.receiving));
            let cycles = self.queues[queue].cycles as f64;
            let near = (cycles - sending).max(cycles * LEAST_NEAR);
            // What was measured includes the distance where it is now.
            self.near[queue] = near / self.distance(queue, self.queues[queue].core.0);
            self.cycles[core] += near + sending + receiving;
            measured[core] += near + sending + receiving;
            self.movable[core].push(queue);
        }
        // What the core did besides: packets of uplinks that no rule brings, and of other cores.
        for (core, of) in load.cores.iter().enumerate() {
            self.cycles[core] += (of.busy as f64 - measured[core]).max(0.0);
        }
        let queues = self.queues;
        for movable in &mut self.movable {
            movable.retain(|queue| !queues[*queue].pinned);
            movable.sort_by(|a, b| self.near[*b].total_cmp(&self.near[*a]));
        }
    }

    pub(super) fn place(&self, queue: usize) -> usize {
        self.place[queue]
    }

    pub(super) fn weighed(&self) -> usize {
        self.weighed
    }

    /// How much more a queue pair costs on a core than on its guest's node.
    fn distance(&self, queue: usize, core: usize) -> f64 {
        match (self.queues[queue].node, self.topology.cpus.get(core)) {
            (Some(node), Some(cpu)) if node != cpu.node => 1.0 + self.settings.remote,
            _ => 1.0,
        }
    }

    /// What a queue pair costs on a core, without crossings.
    fn cost(&self, queue: usize, core: usize) -> f64 {
        self.near[queue] * self.distance(queue, core)
    }

    /// What those ties cost that cross: at both ends, and at the other.
    fn crossings(&self, queue: usize, crosses: impl Fn(&Tie) -> bool) -> (f64, f64) {
        self.ties[queue]
            .iter()
            .filter(|tie| crosses(tie))
            .fold((0.0, 0.0), |(both, there), tie| (both + tie.here() + tie.there, there + tie.there))
    }

    /// Puts a queue pair on another core.
    pub(super) fn put(&mut self, queue: usize, to: usize) {
        let from = self.place[queue];
        self.change(queue, to);
        for core in std::mem::take(&mut self.touched) {
            self.cycles[core] += std::mem::take(&mut self.delta[core]);
        }
        self.movable[from].retain(|other| *other != queue);
        let at = self.movable[to].partition_point(|other| self.near[*other] >= self.near[queue]);
        self.movable[to].insert(at, queue);
    }

    /// Notes in `delta` and `touched` what putting a queue pair elsewhere changes, and puts it there, but in no core's list.
    fn change(&mut self, queue: usize, to: usize) {
        let from = self.place[queue];
        self.add(from, -self.cost(queue, from));
        self.add(to, self.cost(queue, to));
        for index in 0..self.ties[queue].len() {
            let tie = self.ties[queue][index];
            let there = self.place[tie.other];
            if there != from {
                self.add(from, -tie.here());
                self.add(there, -tie.there);
            }
            if there != to {
                self.add(to, tie.here());
                self.add(there, tie.there);
            }
        }
        self.place[queue] = to;
    }

    /// What so many moves cost a core and have to gain, in parts of it.
    fn price(&self, moves: usize, core: usize) -> f64 {
        let cost = self.settings.move_cycles as f64 / self.capacity.get(core).unwrap_or(&1.0);
        moves as f64 * (cost + self.settings.step + LEAST_COST)
    }

    fn add(&mut self, core: usize, cycles: f64) {
        self.delta[core] += cycles;
        if !self.touched.contains(&core) {
            self.touched.push(core);
        }
    }

    /// The load of a core, its sibling's part included.
    pub(super) fn load(&self, core: usize) -> f64 {
        let own = |core: usize| (self.cycles[core] + self.delta[core]) / self.capacity[core];
        let beside = self.siblings[core].iter().map(|sibling| own(*sibling)).sum::<f64>();
        own(core) + self.settings.sibling * beside
    }

    fn open_cores(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.open.len()).filter(|core| self.open[*core])
    }

    /// The fullest core, the first of several, and its load.
    pub(super) fn fullest(&self) -> (usize, f64) {
        self.fullest_but(&[])
    }

    /// The same but for these.
    pub(super) fn fullest_but(&self, these: &[usize]) -> (usize, f64) {
        let loads = self.open_cores().filter(|core| !these.contains(core)).map(|core| (core, self.load(core)));
        loads.fold((0, 0.0), |most, next| if next.1 > most.1 { next } else { most })
    }

    /// The step from a core that makes the fullest core of those concerned least full, and by how much, if it gains enough. `left` moves may be
    /// made.
    pub(super) fn best_step(&mut self, core: usize, left: usize) -> Option<(Step, f64)> {
        if !self.open.get(core).is_some_and(|open| *open) {
            return None;
        }
        let before = self.load(core);
        let mut targets: Vec<(usize, f64)> =
            self.open_cores().filter(|to| *to != core).map(|to| (to, self.load(to))).collect();
        targets.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut best = None;
        let mine = self.movable[core].clone();
        for &queue in &mine {
            self.moves(queue, before, &targets, &mut best);
        }
        // Also where a move would do: it may part two who talk.
        if left >= 2 {
            mine.iter().for_each(|queue| self.together(*queue, before, &targets, &mut best));
        }
        let enough = self.settings.enough + self.price(1, core);
        let will_do = |best: &Best| best.is_some_and(|(least, _)| least <= enough);
        if left >= 2 && !will_do(&best) {
            let most_tied = self.tied.iter().copied().fold(0.0, f64::max);
            mine.iter().for_each(|queue| self.exchanges(*queue, (core, before), &targets, most_tied, &mut best));
        }
        if left >= STEP_MOVES && !will_do(&best) {
            mine.iter().for_each(|queue| self.exchanges_of_two(*queue, (core, before), &targets, &mut best));
        }
        // What the moves cost is in `least`, what each has to gain too.
        let (least, step) = best?;
        let wanted = self.settings.step * step.changes().count() as f64;
        (least <= before).then_some((step, before - least + wanted))
    }

    /// Weighs the moves of a queue pair to all cores that could be better than the best step.
    fn moves(&mut self, queue: usize, before: f64, targets: &[(usize, f64)], best: &mut Best) {
        let from = self.place[queue];
        let relief = (self.cost(queue, from) + self.tied[queue]) / self.capacity[from];
        let added = self.near[queue] - self.crossings(queue, |_| true).1;
        let cost = self.price(1, from);
        for &(to, load) in targets {
            let at_least = (before - relief).max(load + added / self.capacity[to]);
            if !beats(at_least + cost, best) {
                break;
            }
            self.consider(Step::of([(queue, to)]), best);
        }
    }

    /// Weighs moving a queue pair together with the one on its core that it has most to do with.
    fn together(&mut self, queue: usize, before: f64, targets: &[(usize, f64)], best: &mut Best) {
        let from = self.place[queue];
        let Some(other) = self.closest(queue) else { return };
        let tied = self.tied[queue] + self.tied[other];
        let relief = (self.cost(queue, from) + self.cost(other, from) + tied) / self.capacity[from];
        let added = self.near[queue] + self.near[other] - tied;
        let price = self.price(2, from);
        for &(to, load) in targets {
            let at_least = (before - relief).max(load + added / self.capacity[to]);
            if !beats(at_least + price, best) {
                break;
            }
            self.consider(Step::of([(queue, to), (other, to)]), best);
        }
    }

    /// Weighs the exchanges of a queue pair that could be better than the best step.
    fn exchanges(
        &mut self,
        queue: usize,
        (core, before): (usize, f64),
        targets: &[(usize, f64)],
        most_tied: f64,
        best: &mut Best,
    ) {
        for &(to, load) in targets {
            // The best there could be: both equally full, and no crossings left of either.
            let least = self.capacity[core].min(self.capacity[to]);
            let tied = (self.tied[queue] + most_tied) / least;
            let relieved = before - self.cost(queue, core) / self.capacity[core];
            let at_least = relieved.max((before + load) / 2.0) - tied;
            if !beats(at_least + self.price(2, core), best) {
                break;
            }
            let wanted = self.near[queue] - (before - load) / 2.0 * self.capacity[to];
            let at = self.movable[to].partition_point(|other| self.near[*other] >= wanted);
            let last = (at + NEIGHBOURS).min(self.movable[to].len());
            for index in at.saturating_sub(NEIGHBOURS)..last {
                let other = self.movable[to][index];
                let here = before + (self.arrives(other, core) - self.leaves(queue)) / self.capacity[core];
                let there = load + (self.arrives(queue, to) - self.leaves(other)) / self.capacity[to];
                if !beats(here.max(there) + self.price(2, core), best) {
                    continue;
                }
                self.consider(Step::of([(queue, to), (other, core)]), best);
            }
        }
    }

    /// Weighs exchanging a queue pair, and the one that it has most to do with, for two of another core of which the same is true.
    fn exchanges_of_two(
        &mut self,
        queue: usize,
        (core, before): (usize, f64),
        targets: &[(usize, f64)],
        best: &mut Best,
    ) {
        let Some(partner) = self.closest(queue).filter(|partner| *partner > queue) else { return };
        let leave = self.leaves(queue) + self.leaves(partner);
        let price = self.price(4, core);
        for &(to, load) in targets {
            for index in 0..self.movable[to].len() {
                let other = self.movable[to][index];
                let Some(others) = self.closest(other).filter(|others| *others > other) else { continue };
                let come = self.arrives(other, core) + self.arrives(others, core);
                let here = before + (come - leave) / self.capacity[core];
                let go = self.arrives(queue, to) + self.arrives(partner, to) - self.leaves(other) - self.leaves(others);
                let there = load + go / self.capacity[to];
                if beats(here.max(there) + price, best) {
                    self.consider(Step::of([(queue, to), (partner, to), (other, core), (others, core)]), best);
                }
            }
        }
    }

    /// Of those on its core that may move, the one that a queue pair has most to do with.
    fn closest(&self, queue: usize) -> Option<usize> {
        let here = self.ties[queue].iter().filter(|tie| self.place[tie.other] == self.place[queue]);
        let closest = here.max_by(|a, b| (a.here() + a.there).total_cmp(&(b.here() + b.there)))?;
        Some(closest.other).filter(|other| !self.queues[*other].pinned)
    }

    /// The most that a core can lose with a queue pair: its cost, and what its crossings cost there.
    fn leaves(&self, queue: usize) -> f64 {
        let from = self.place[queue];
        let crossing = self.ties[queue].iter().filter(|tie| self.place[tie.other] != from);
        self.cost(queue, from) + crossing.map(Tie::here).sum::<f64>()
    }

    /// The least that a core can get with a queue pair: its cost, less what those there who talk to it no longer pay for crossings.
    fn arrives(&self, queue: usize, to: usize) -> f64 {
        let there = self.ties[queue].iter().filter(|tie| self.place[tie.other] == to);
        self.cost(queue, to) - there.map(|tie| tie.there).sum::<f64>()
    }

    /// Takes a step if, of the cores whose load it changes, the fullest is less full than the best one's; the first of equals stays. Other cores
    /// may be as full: their turn comes.
    fn consider(&mut self, step: Step, best: &mut Best) {
        self.weighed += 1;
        let mut back = [None; STEP_MOVES];
        for ((queue, to), back) in step.changes().zip(&mut back) {
            *back = Some((queue, self.place[queue]));
            self.change(queue, to);
        }
        let cost = self.price(back.iter().flatten().count(), self.touched[0]);
        let real = self.touched.iter().filter(|core| **core < self.capacity.len());
        let beside = real.clone().flat_map(|core| &self.siblings[*core]);
        let after = real.chain(beside).map(|core| self.load(*core)).fold(0.0, f64::max) + cost;
        for (queue, from) in back.into_iter().flatten() {
            self.place[queue] = from;
        }
        while let Some(core) = self.touched.pop() {
            self.delta[core] = 0.0;
        }
        if beats(after, best) {
            *best = Some((after, step));
        }
    }

    /// Why a core stays full.
    pub(super) fn why(&self, core: usize) -> Hopeless {
        let load = |queue: usize| self.cost(queue, core) / self.capacity[core];
        let here = (0..self.queues.len()).filter(|queue| self.place[*queue] == core);
        if let Some(largest) = here.max_by(|a, b| load(*a).total_cmp(&load(*b)))
            && load(largest) > self.settings.full
        {
            return Hopeless::Queue { queue: self.queues[largest].queue, load: load(largest) };
        }
        let mean = self.open_cores().map(|core| self.load(core)).sum::<f64>() / self.open_cores().count().max(1) as f64;
        if mean > self.settings.full {
            return Hopeless::Cores { mean };
        }
        if self.movable[core].is_empty() {
            return Hopeless::Pinned { core: IoCore(core) };
        }
        Hopeless::Stuck { core: IoCore(core), load: self.load(core) }
    }
}

/// Whether a step that leaves such a load could be better than the best one.
fn beats(after: f64, best: &Best) -> bool {
    best.is_none_or(|(least, _)| after < least - LEAST_COST / 1000.0)
}

impl Tie {
    /// On the core of this end.
    fn here(&self) -> f64 {
        self.sending + self.receiving
    }
}

/// By queue pair, those that it talks to.
fn ties(load: &Load, settings: &Settings) -> Vec<Vec<Tie>> {
    let mut ties: Vec<Vec<Tie>> = vec![Vec::new(); load.queues.len()];
    if load.talks.is_empty() {
        return ties;
    }
    let index: BTreeMap<QueueId, usize> =
        load.queues.iter().enumerate().map(|(index, load)| (load.queue, index)).collect();
    let ends = load.talks.iter().filter_map(|talk| {
        let (from, to) = (*index.get(&talk.from)?, *index.get(&talk.to)?);
        (from != to).then_some((from, to, talk.packets as f64))
    });
    let mut crossing = vec![0.0; load.queues.len()];
    for (from, to, packets) in ends.clone() {
        crossing[from] += if load.queues[from].core == load.queues[to].core { 0.0 } else { packets };
    }
    for (from, to, packets) in ends {
        let [sending, receiving] = packet(&load.queues[from], crossing[from], settings).map(|cycles| cycles * packets);
        ties[from].push(Tie { other: to, sending, receiving: 0.0, there: receiving });
        ties[to].push(Tie { other: from, sending: 0.0, receiving, there: sending });
    }
    ties
}

/// What a packet of a queue pair costs more, on the sending and on the receiving core, that crosses from one to the other: the longer it is, the
/// more there is to copy. `crossing` of its packets do so now, at a price that what was measured includes.
fn packet(queue: &QueueLoad, crossing: f64, settings: &Settings) -> [f64; 2] {
    let packets = queue.packets as f64;
    let near = queue.cycles as f64 / (packets + settings.crossing * crossing.min(packets)).max(1.0);
    [settings.send_cycles, settings.receive_cycles].map(|least| (settings.crossing * near).max(least as f64))
}

/// By core, the other threads of its physical core.
fn siblings(cores: usize, topology: &Topology) -> Vec<Vec<usize>> {
    let physical = |core: usize| topology.cpus.get(core).map(|cpu| cpu.physical);
    let beside = |core: usize| {
        move |other: &usize| *other != core && physical(core).is_some_and(|it| physical(*other) == Some(it))
    };
    (0..cores).map(|core| (0..cores).filter(beside(core)).collect()).collect()
}

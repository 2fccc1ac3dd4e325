//! What OVS-DPDK does with its RX queues, re-created from ovs-vswitchd.conf.db(5) and "PMD Threads" in its documentation, so that other
//! policies can be compared with it. A core is what OVS calls a PMD thread, a queue pair what it calls an RX queue.

use std::collections::{BTreeMap, VecDeque};

use crate::balance::Move;
use crate::load::{Load, QueueLoad, Topology};
use crate::{IoCore, QueueId};

/// `pmd-rxq-assign`: how queue pairs are assigned to cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// Sorted by their cycles, the most first, to the cores in turn: upwards, then downwards, and so on.
    Cycles,
    /// Sorted in the same way, each to the core that has got the least so far.
    Group,
    /// In order, to the cores in turn.
    RoundRobin,
}

/// A core for every queue pair that is not pinned, in the order of the load's list. A core with a pinned one is isolated: it gets no
/// other. A queue pair goes to a core of its guest's NUMA node, if there is one; where there is no core at all that is not isolated, it is
/// left out.
#[must_use]
pub fn assign(load: &Load, topology: &Topology, assignment: Assignment) -> Vec<(QueueId, IoCore)> {
    let mut queues: Vec<(usize, &QueueLoad)> = load.queues.iter().filter(|queue| !queue.pinned).enumerate().collect();
    if assignment != Assignment::RoundRobin {
        // Stable: those with the same cycles stay in order.
        queues.sort_by_key(|(_, queue)| std::cmp::Reverse(queue.cycles));
    }
    let mut cores: Vec<Core> = open_cores(load).map(|index| Core { index, ..Core::default() }).collect();
    // Where the next turn of each node is; the last one is of those without a node, or far from theirs.
    let mut turns: Vec<(Option<u16>, Turn)> = Vec::new();
    let mut assigned = Vec::new();
    for (order, queue) in queues {
        let node = |core: &Core| topology.cpus.get(core.index).map(|cpu| cpu.node);
        let near = queue.node.filter(|wanted| cores.iter().any(|core| node(core) == Some(*wanted)));
        let candidates: Vec<usize> =
            (0..cores.len()).filter(|at| near.is_none() || node(&cores[*at]) == near).collect();
        let at = match assignment {
            Assignment::Group => candidates.iter().copied().min_by_key(|at| cores[*at].has(queue.cycles > 0)),
            Assignment::Cycles | Assignment::RoundRobin => {
                let known = turns.iter().position(|(of, _)| *of == near).unwrap_or_else(|| {
                    turns.push((near, Turn::default()));
                    turns.len() - 1
                });
                let at = turns[known].1.next(candidates.len(), assignment == Assignment::Cycles);
                at.map(|at| candidates[at])
            }
        };
        let Some(at) = at else { continue };
        cores[at].cycles += queue.cycles;
        cores[at].queues += 1;
        assigned.push((order, queue.queue, IoCore(cores[at].index)));
    }
    assigned.sort_by_key(|(order, ..)| *order);
    assigned.into_iter().map(|(_, queue, core)| (queue, core)).collect()
}

/// Cores that are awake and without a pinned queue pair.
fn open_cores(load: &Load) -> impl Iterator<Item = usize> + '_ {
    let isolated = |core: usize| load.queues.iter().any(|queue| queue.pinned && queue.core == IoCore(core));
    (0..load.cores.len()).filter(move |core| !load.cores[*core].parked && !isolated(*core))
}

#[derive(Default)]
struct Core {
    index: usize,
    cycles: u64,
    queues: u64,
}

impl Core {
    /// How much it has got: cycles, or, for a queue pair of which no cycles are known, queue pairs.
    fn has(&self, by_cycles: bool) -> u64 {
        if by_cycles { self.cycles } else { self.queues }
    }
}

/// Whose turn it is among several.
#[derive(Default)]
struct Turn {
    next: usize,
    down: bool,
}

impl Turn {
    /// 0, 1, 2, 0, 1, 2, … or, there and back, 0, 1, 2, 2, 1, 0, 0, …
    fn next(&mut self, count: usize, there_and_back: bool) -> Option<usize> {
        let last = count.checked_sub(1)?;
        let now = self.next.min(last);
        match (there_and_back, self.down) {
            (false, _) => self.next = if now == last { 0 } else { now + 1 },
            (true, false) if now == last => self.down = true,
            (true, true) if now == 0 => self.down = false,
            (true, false) => self.next = now + 1,
            (true, true) => self.next = now - 1,
        }
        Some(now)
    }
}

/// Length of the intervals in which OVS measures a core's load, in seconds.
pub const INTERVAL_S: u32 = 10;
/// Intervals in a row that make a core overloaded.
const OVERLOADED_INTERVALS: u32 = 6;
/// Intervals over which a queue pair's cycles are added up for an assignment.
const REMEMBERED_INTERVALS: usize = 6;

/// `pmd-auto-lb`: assigns anew when a core has been overloaded for a minute, if the loads' variance falls enough.
#[derive(Debug, Clone)]
pub struct AutoLoadBalance {
    assignment: Assignment,
    /// `pmd-auto-lb-load-threshold`, in percent.
    load_threshold: u64,
    /// `pmd-auto-lb-improvement-threshold`, in percent of the variance.
    improvement_threshold: u64,
    /// `pmd-auto-lb-rebal-interval`, in intervals of 10 s.
    every: u32,
    /// Intervals since it was last looked whether to do anything.
    since: u32,
    /// Overloaded intervals in a row, by core.
    overloaded: Vec<u32>,
    /// Cycles by queue pair, of the last intervals.
    cycles: VecDeque<BTreeMap<QueueId, u64>>,
    /// Cycles that each core had in them.
    capacity: VecDeque<Vec<u64>>,
}

/// What came of an interval.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The time between two looks is not over.
    Waiting,
    /// No core has been overloaded for long enough.
    NotOverloaded,
    /// Fewer than two cores that are not isolated, or none of them with more than one queue pair.
    NotEnough,
    /// Assignment in turn does not look at loads.
    NotByLoad,
    /// The assignment would lower the variance by so many percent, which is too little.
    TooLittle(u64),
    /// It is made.
    Moves(Vec<Move>),
}

impl AutoLoadBalance {
    /// With OVS's defaults where a value is `None` or out of its bounds: load 95 % (0 to 100), improvement 25 % (0 to 100), one minute (at least).
    #[must_use]
    pub fn new(
        assignment: Assignment,
        load_percent: Option<u64>,
        improvement_percent: Option<u64>,
        minutes: Option<u32>,
    ) -> Self {
        let percent = |value: Option<u64>, default| value.filter(|percent| *percent <= 100).unwrap_or(default);
        Self {
            assignment,
            load_threshold: percent(load_percent, 95),
            improvement_threshold: percent(improvement_percent, 25),
            every: minutes.unwrap_or(1).max(1).saturating_mul(60 / INTERVAL_S),
            since: 0,
            overloaded: Vec::new(),
            cycles: VecDeque::new(),
            capacity: VecDeque::new(),
        }
    }

    /// Takes the load of [`INTERVAL_S`] seconds.
    pub fn interval(&mut self, load: &Load, topology: &Topology) -> Outcome {
        self.overloaded.resize(load.cores.len(), 0);
        for core in 0..load.cores.len() {
            let busy = load.cores[core].busy * 100 / load.cores[core].capacity.max(1);
            let high = busy.max(percent_of(load, core, |queue| queue.core)) >= self.load_threshold;
            self.overloaded[core] = if high { self.overloaded[core] + 1 } else { 0 };
        }
        self.remember(load);
        self.since += 1;
        if self.since < self.every {
            return Outcome::Waiting;
        }
        self.since = 0;
        if self.assignment == Assignment::RoundRobin {
            return Outcome::NotByLoad;
        }
        let open: Vec<usize> = open_cores(load).collect();
        let queues = |core: usize| load.queues.iter().filter(move |queue| queue.core == IoCore(core)).count();
        if open.len() < 2 || open.iter().all(|core| queues(*core) < 2) {
            return Outcome::NotEnough;
        }
        if open.iter().all(|core| self.overloaded[*core] < OVERLOADED_INTERVALS) {
            return Outcome::NotOverloaded;
        }
        let minute = self.last_minute(load);
        self.dry_run(&minute, topology, &open)
    }

    fn remember(&mut self, load: &Load) {
        self.cycles.push_back(load.queues.iter().map(|queue| (queue.queue, queue.cycles)).collect());
        self.capacity.push_back(load.cores.iter().map(|core| core.capacity).collect());
        if self.cycles.len() > REMEMBERED_INTERVALS {
            self.cycles.pop_front();
            self.capacity.pop_front();
        }
    }

    /// The same with the cycles of all intervals that are remembered.
    fn last_minute(&self, load: &Load) -> Load {
        let mut sum = load.clone();
        for queue in &mut sum.queues {
            queue.cycles = self.cycles.iter().filter_map(|interval| interval.get(&queue.queue)).sum();
        }
        for (index, core) in sum.cores.iter_mut().enumerate() {
            core.capacity = self.capacity.iter().filter_map(|interval| interval.get(index)).sum();
        }
        sum
    }

    fn dry_run(&mut self, load: &Load, topology: &Topology, open: &[usize]) -> Outcome {
        let assigned = assign(load, topology, self.assignment);
        let place = |queue: &QueueLoad| {
            let found = assigned.iter().find(|(id, _)| *id == queue.queue);
            found.map_or(queue.core, |(_, core)| *core)
        };
        let now = variance(open.iter().map(|core| percent_of(load, *core, |queue| queue.core)));
        let then = variance(open.iter().map(|core| percent_of(load, *core, place)));
        let improvement = if then < now { (now - then) * 100 / now } else { 0 };
        if then >= now || improvement < self.improvement_threshold {
            return Outcome::TooLittle(improvement);
        }
        self.overloaded.fill(0);
        let moved = load.queues.iter().filter(|queue| place(queue) != queue.core);
        Outcome::Moves(moved.map(|queue| Move { queue: queue.queue, from: queue.core, to: place(queue) }).collect())
    }
}

/// The load of a core in percent, if its queue pairs are those that `place` puts there.
fn percent_of(load: &Load, core: usize, place: impl Fn(&QueueLoad) -> IoCore) -> u64 {
    let here = load.queues.iter().filter(|queue| place(queue) == IoCore(core));
    here.map(|queue| queue.cycles).sum::<u64>() * 100 / load.cores[core].capacity.max(1)
}

/// As OVS computes it: in whole numbers.
fn variance(loads: impl Iterator<Item = u64> + Clone) -> u64 {
    let count = loads.clone().count().max(1) as u64;
    let mean = loads.clone().sum::<u64>() / count;
    loads.map(|load| load.abs_diff(mean).pow(2)).sum::<u64>() / count
}

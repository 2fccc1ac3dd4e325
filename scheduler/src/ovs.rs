//! What OVS-DPDK does with its RX queues, re-created from ovs-vswitchd.conf.db(5) and "PMD Threads" in its documentation, so that other
//! policies can be compared with it. A core is what OVS calls a PMD thread, a queue pair what it calls an RX queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// The same with `pmd-rxq-isolate=false`, which OVS knows for no other: a core with a pinned queue pair gets others too.
    GroupNonIsolated,
    /// In order, to the cores in turn.
    RoundRobin,
}

/// A core for every queue pair that is not pinned, in the order of the load's list. A core with a pinned one is isolated: it gets no
/// other. A queue pair goes to a core of its guest's NUMA node, if there is one that is not isolated, and those without such a node to the other
/// nodes in turn; where there is no core at all, they are left out. One that is pinned to a core which is not there is not pinned.
#[must_use]
pub fn assign(load: &Load, topology: &Topology, assignment: Assignment) -> Vec<(QueueId, IoCore)> {
    let mut queues: Vec<(usize, &QueueLoad)> =
        load.queues.iter().filter(|queue| !is_pinned(load, queue)).enumerate().collect();
    if assignment != Assignment::RoundRobin {
        // Stable: those with the same cycles stay in order.
        queues.sort_by_key(|(_, queue)| std::cmp::Reverse(queue.cycles));
    }
    let mut nodes = Node::all(load, topology, assignment);
    let mut far = Turn::default();
    let mut assigned = Vec::new();
    for (order, queue) in queues {
        let own = nodes.iter().position(|node| Some(node.number) == queue.node);
        let Some(node) = own.or_else(|| far.next(nodes.len(), false)) else { break };
        let core = nodes[node].next(assignment, queue.cycles > 0);
        core.add(queue);
        assigned.push((order, queue.queue, IoCore(core.index)));
    }
    assigned.sort_by_key(|(order, ..)| *order);
    assigned.into_iter().map(|(_, queue, core)| (queue, core)).collect()
}

fn is_awake(load: &Load, core: usize) -> bool {
    load.cores.get(core).is_some_and(|core| !core.parked)
}

fn is_pinned(load: &Load, queue: &QueueLoad) -> bool {
    queue.pinned && is_awake(load, queue.core.0)
}

/// Cores that are awake and not isolated.
fn open_cores(load: &Load, assignment: Assignment) -> impl Iterator<Item = usize> + '_ {
    let isolates = assignment != Assignment::GroupNonIsolated;
    let isolated = move |core: usize| isolates && load.queues.iter().any(|queue| queue.pinned && queue.core.0 == core);
    (0..load.cores.len()).filter(move |core| is_awake(load, *core) && !isolated(*core))
}

/// The node of a core; 0 where nothing is known of it.
fn node_of(topology: &Topology, core: usize) -> u16 {
    topology.cpus.get(core).map_or(0, |cpu| cpu.node)
}

/// A NUMA node with its cores that are not isolated.
struct Node {
    number: u16,
    cores: Vec<Core>,
    turn: Turn,
}

impl Node {
    /// Those that have such cores, with what is pinned to them.
    fn all(load: &Load, topology: &Topology, assignment: Assignment) -> Vec<Self> {
        let mut nodes: BTreeMap<u16, Vec<Core>> = BTreeMap::new();
        for index in open_cores(load, assignment) {
            let mut core = Core { index, cycles: 0, queues: 0 };
            load.queues.iter().filter(|queue| queue.pinned && queue.core.0 == index).for_each(|queue| core.add(queue));
            nodes.entry(node_of(topology, index)).or_default().push(core);
        }
        nodes.into_iter().map(|(number, cores)| Self { number, cores, turn: Turn::default() }).collect()
    }

    /// The core that gets the next queue pair, of which cycles are known or not.
    fn next(&mut self, assignment: Assignment, by_cycles: bool) -> &mut Core {
        let count = self.cores.len();
        let at = match assignment {
            Assignment::Group | Assignment::GroupNonIsolated => {
                (0..count).min_by_key(|at| self.cores[*at].has(by_cycles))
            }
            Assignment::Cycles => self.turn.next(count, true),
            Assignment::RoundRobin => self.turn.next(count, false),
        };
        &mut self.cores[at.expect("a node is made with its first core")]
    }
}

struct Core {
    index: usize,
    cycles: u64,
    queues: u64,
}

impl Core {
    fn add(&mut self, queue: &QueueLoad) {
        self.cycles += queue.cycles;
        self.queues += 1;
    }

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

/// Most minutes that `pmd-auto-lb-rebal-interval` may be.
const MOST_MINUTES: i64 = 20_000;

/// The keys of `pmd-auto-lb`, as an operator writes them. What is out of its bounds counts as the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// `pmd-auto-lb-load-threshold`: percent of a core, 0 to 100.
    pub load_threshold: i64,
    /// `pmd-auto-lb-improvement-threshold`: percent of the variance, 0 to 100.
    pub improvement_threshold: i64,
    /// `pmd-auto-lb-rebal-interval`: minutes, 1 to 20,000.
    pub rebal_interval: i64,
}

impl Default for Keys {
    fn default() -> Self {
        Self { load_threshold: 95, improvement_threshold: 25, rebal_interval: 1 }
    }
}

/// `pmd-auto-lb`: assigns anew when a core has been overloaded for a minute, if the loads' variance falls enough on some NUMA node.
#[derive(Debug, Clone)]
pub struct AutoLoadBalance {
    assignment: Assignment,
    /// In percent.
    load_threshold: u64,
    /// In percent of the variance.
    improvement_threshold: u64,
    /// In intervals of 10 s.
    every: u32,
    /// Intervals since it was last looked whether to do anything.
    since: u32,
    /// Overloaded intervals in a row, by core.
    overloaded: Vec<u32>,
    /// The configuration in which there was last nothing to do, whatever the loads.
    in_vain: Option<Configuration>,
    /// Cycles by queue pair, of the last intervals.
    cycles: VecDeque<BTreeMap<QueueId, u64>>,
    /// Cycles that each core had in them.
    capacity: VecDeque<Vec<u64>>,
}

/// What is where: the cores that are awake; the queue pairs, where they are, and which are pinned.
type Configuration = (Vec<usize>, Vec<(QueueId, IoCore, bool)>);

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
    /// One of the last two, and nothing came, went, or moved since.
    Unchanged,
    /// A queue pair would be on a core of a NUMA node that is not its guest's, of several that have cores: what it would cost there is not known.
    AcrossNodes,
    /// The assignment would lower the variance by so many percent on the node where it does most, which is too little.
    TooLittle(u64),
    /// It is made.
    Moves(Vec<Move>),
}

impl AutoLoadBalance {
    /// With nothing known of loads.
    #[must_use]
    pub fn new(assignment: Assignment, keys: &Keys) -> Self {
        let or = |value: i64, bounds: std::ops::RangeInclusive<i64>, default: i64| {
            (if bounds.contains(&value) { value } else { default }).unsigned_abs()
        };
        let default = Keys::default();
        let minutes = or(keys.rebal_interval, 1..=MOST_MINUTES, default.rebal_interval) as u32;
        Self {
            assignment,
            load_threshold: or(keys.load_threshold, 0..=100, default.load_threshold),
            improvement_threshold: or(keys.improvement_threshold, 0..=100, default.improvement_threshold),
            every: minutes * (60 / INTERVAL_S),
            since: 0,
            overloaded: Vec::new(),
            in_vain: None,
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
        let open: Vec<usize> = open_cores(load, self.assignment).collect();
        if open.iter().all(|core| self.overloaded[*core] < OVERLOADED_INTERVALS) {
            return Outcome::NotOverloaded;
        }
        if let Some(vain) = self.checked(load, &open) {
            return vain;
        }
        let minute = self.last_minute(load);
        self.dry_run(&minute, topology, &open)
    }

    /// What is in the way of a dry run, whatever the loads.
    fn checked(&mut self, load: &Load, open: &[usize]) -> Option<Outcome> {
        let awake = (0..load.cores.len()).filter(|core| is_awake(load, *core)).collect();
        let queues = load.queues.iter().map(|queue| (queue.queue, queue.core, queue.pinned)).collect();
        let now = Some((awake, queues));
        if self.in_vain == now {
            return Some(Outcome::Unchanged);
        }
        let queues = |core: usize| load.queues.iter().filter(|queue| queue.core == IoCore(core)).count();
        let vain = if self.assignment == Assignment::RoundRobin {
            Some(Outcome::NotByLoad)
        } else if open.len() < 2 || open.iter().all(|core| queues(*core) < 2) {
            Some(Outcome::NotEnough)
        } else {
            None
        };
        self.in_vain = if vain.is_some() { now } else { None };
        vain
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
        let assigned: BTreeMap<QueueId, IoCore> = assign(load, topology, self.assignment).into_iter().collect();
        let place = |queue: &QueueLoad| assigned.get(&queue.queue).copied().unwrap_or(queue.core);
        let far = |queue: &QueueLoad| {
            let placed = assigned.get(&queue.queue).map(|core| node_of(topology, core.0));
            placed.zip(queue.node).is_some_and(|(placed, own)| placed != own)
        };
        let awake = (0..load.cores.len()).filter(|core| is_awake(load, *core));
        let nodes: BTreeSet<u16> = awake.map(|core| node_of(topology, core)).collect();
        if nodes.len() > 1 && load.queues.iter().any(far) {
            return Outcome::AcrossNodes;
        }
        let improvement = |node: u16| {
            let here = || open.iter().copied().filter(move |core| node_of(topology, *core) == node);
            let now = variance(here().map(|core| percent_of(load, core, |queue| queue.core)));
            let then = variance(here().map(|core| percent_of(load, core, place)));
            if then < now { (now - then) * 100 / now } else { 0 }
        };
        let most = nodes.into_iter().map(improvement).max().unwrap_or(0);
        if most < self.improvement_threshold {
            return Outcome::TooLittle(most);
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

//! Which queue pairs to move so that the fullest I/O core has less to do.
//!
//! The load of a core, as a placement would make it, is what its queue pairs cost (more on a NUMA node that is not their guest's), what
//! packets cost that cross to or from another core, and a part of what its SMT sibling does. From the placement as it is, moves and
//! exchanges of queue pairs, or of two that talk to each other, are tried on the fullest core, the best is taken, and so on until none gains enough. That is a local
//! search, not an optimum; what it leaves is what moving one or two queue pairs at a time cannot better.

mod search;

use std::fmt;

use crate::load::{CoreLoad, Load, QueueLoad, Topology};
use crate::{IoCore, QueueId};
use search::Search;

/// What moving costs and has to gain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// A plan lowers the load of one of the cores it relieves by at least this part of a core, or there is none.
    pub gain: f64,
    /// Every move of it lowers the load of the core that was fullest by at least this part of a core; several that belong together, by that for each.
    pub step: f64,
    /// Where one move leaves the fullest of its cores no fuller than this, nothing is looked for that takes more moves.
    pub enough: f64,
    /// Cycles that a move costs on each of its two cores, spread over the ticks in which it has to pay. The scheduler adds the pauses that were measured.
    pub move_cycles: u64,
    /// Queue pairs moved in one plan, at most.
    pub moves: usize,
    /// Cycles of a packet that is handed to another core, on the sending one, more than on one core: at least.
    pub send_cycles: u64,
    /// The same on the receiving one.
    pub receive_cycles: u64,
    /// Either in parts of what the packet costs on one core, where that is more: long packets are copied twice.
    pub crossing: f64,
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
            step: 0.0025,
            enough: 0.0,
            move_cycles: 0,
            moves: 16,
            send_cycles: 150,
            receive_cycles: 150,
            // Across cores 1518 B take 2.04 times as long (`make bench-timing`), the difference in equal parts on both.
            crossing: 0.52,
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

/// A step of a plan: a move, an exchange, or the same of two queue pairs that talk to each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    /// How many of the plan's moves it is: 1, 2 or 4, after those of the steps before.
    pub moves: usize,
    /// By how much the fullest of the cores that it touches becomes less full, in parts of a core.
    pub gain: f64,
}

/// What can be done, and what comes of it. Loads are parts of a core.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// In this order.
    pub moves: Vec<Move>,
    /// The steps that they belong to.
    pub steps: Vec<Planned>,
    /// The fullest core's load as it is.
    pub before: f64,
    /// The same after the moves.
    pub after: f64,
    /// Why cores stay full all the same, where they do.
    pub hopeless: Option<Hopeless>,
    /// How many steps were weighed: what planning took.
    pub weighed: usize,
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
    /// What fills the core may not move yet.
    Held {
        /// Which core.
        core: IoCore,
    },
    /// No move and no exchange gains enough.
    Stuck {
        /// The core that stays full.
        core: IoCore,
        /// Its load, in parts of a core.
        load: f64,
    },
}

impl Hopeless {
    /// The same in words, with these names for queue pairs.
    #[must_use]
    pub fn told(&self, name: impl Fn(QueueId) -> String) -> String {
        match *self {
            Self::Queue { queue, load } => format!("{} alone takes {:.0} % of a core", name(queue), load * 100.0),
            Self::Cores { mean } => format!("all cores are full: {:.0} % busy on average", mean * 100.0),
            Self::Pinned { core } => {
                format!("nothing that fills {core} may move: it is pinned, or comes from NICs without a rule")
            }
            Self::Held { core } => format!(
                "what fills {core} may not move yet: a short time ago it was moved, or put back, or could not be moved"
            ),
            Self::Stuck { core, load } => {
                format!("{core} is {:.0} % busy, and no move or exchange of queue pairs gains enough", load * 100.0)
            }
        }
    }
}

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(|queue| queue.to_string()))
    }
}

/// Plans moves for what `load` shows. Cores that are parked get nothing and are not looked at.
#[must_use]
pub fn balance(load: &Load, topology: &Topology, settings: &Settings) -> Balance {
    let mut search = Search::new(load, topology, settings);
    let before = search.fullest().1;
    let (mut moves, mut steps) = (Vec::new(), Vec::new());
    let mut reliefs: Vec<Relief> = Vec::new();
    let mut ended = false;
    // Full cores that no step helps as things are; others may still be helped.
    let mut stuck = Vec::new();
    while moves.len() < settings.moves {
        let (core, full) = search.fullest_but(&stuck);
        if !stuck.is_empty() && full <= settings.full {
            ended = true;
            break;
        }
        let Some((step, gain)) = search.best_step(core, settings.moves - moves.len()) else {
            if full > settings.full {
                stuck.push(core);
                continue;
            }
            ended = true;
            break;
        };
        let known = reliefs.iter().position(|relief| relief.core == core).unwrap_or_else(|| {
            reliefs.push(Relief { core, before: full, targets: Vec::new() });
            reliefs.len() - 1
        });
        stuck.clear();
        steps.push(Planned { moves: step.changes().count(), gain });
        for (queue, to) in step.changes() {
            let from = search.place(queue);
            reliefs[known].targets.push(to);
            moves.push(Move { queue: load.queues[queue].queue, from: IoCore(from), to: IoCore(to) });
            search.put(queue, to);
        }
    }
    let weighed = search.weighed();
    let gain = reliefs.iter().map(|relief| relief.gain(&search)).fold(0.0, f64::max);
    if !moves.is_empty() && gain < settings.gain {
        moves.clear();
        steps.clear();
        ended = true;
        search = Search::new(load, topology, settings);
    }
    let (core, after) = search.fullest();
    let hopeless = (ended && after > settings.full).then(|| search.why(core));
    Balance { moves, steps, before, after, hopeless, weighed }
}

/// The one move from `core` to the emptiest other core that makes the fuller of the two least full, if it gains enough. Looks at cycles alone.
pub(crate) fn one_move(load: &Load, topology: &Topology, settings: &Settings, core: IoCore) -> Balance {
    let alone = Load { talks: Vec::new(), ..load.clone() };
    let loads: Vec<f64> = load.cores.iter().map(CoreLoad::busy_ratio).collect();
    let others = (0..loads.len()).filter(|other| *other != core.0 && !load.cores[*other].parked);
    let emptiest = others.min_by(|a, b| loads[*a].total_cmp(&loads[*b]));
    let movable = || load.queues.iter().filter(|queue| queue.core == core && !queue.pinned);
    let step = |to: usize, queue: &QueueLoad| {
        let part = |core: usize| queue.cycles as f64 / load.cores[core].capacity.max(1) as f64;
        let after = (loads[core.0] - part(core.0)).max(loads[to] + part(to));
        (after, Move { queue: queue.queue, from: core, to: IoCore(to) })
    };
    let steps = emptiest.into_iter().flat_map(|to| movable().map(move |queue| (to, queue)));
    let before = loads[core.0];
    let best = steps
        .map(|(to, queue)| step(to, queue))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(after, _)| before - after >= settings.gain);
    let after = best.map_or(before, |(after, _)| after);
    let hopeless =
        (best.is_none() && before > settings.full).then(|| Search::new(&alone, topology, settings).why(core.0));
    let moves: Vec<Move> = best.into_iter().map(|(_, step)| step).collect();
    let steps = vec![Planned { moves: 1, gain: before - after }; moves.len()];
    Balance { moves, steps, before, after, hopeless, weighed: movable().count() }
}

/// A core that steps take from.
struct Relief {
    core: usize,
    /// Its load before the first of them.
    before: f64,
    /// The cores where the queue pairs went.
    targets: Vec<usize>,
}

impl Relief {
    /// By how much the fullest of the cores concerned is less full than this one was.
    fn gain(&self, search: &Search) -> f64 {
        let after = self.targets.iter().chain([&self.core]).map(|core| search.load(*core)).fold(0.0, f64::max);
        self.before - after
    }
}

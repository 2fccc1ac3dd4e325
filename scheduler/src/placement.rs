//! Where a queue pair goes when it appears.

use std::collections::BTreeSet;
use std::fmt;

use crate::{IoCore, PortId, QueueId};

/// A queue pair that needs a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The queue pair.
    pub queue: QueueId,
    /// The core it must be on, if its configuration names one.
    pub pinned: Option<IoCore>,
}

/// Where a queue pair is to go, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The queue pair.
    pub queue: QueueId,
    /// Its core.
    pub core: IoCore,
    /// Why this one.
    pub reason: Reason,
}

/// Why a core was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The configuration names it.
    Pinned,
    /// No core had fewer queue pairs.
    Fewest {
        /// How many it had.
        queues: usize,
    },
    /// It was its turn.
    Turn,
    /// No core had less to do.
    LeastLoaded {
        /// How busy it was, in percent.
        percent: u64,
    },
}

/// How a core is chosen for a queue pair that is not pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The one with the fewest queue pairs.
    Fewest,
    /// The next in turn, beginning with this one.
    InTurn(usize),
    /// The one with the least to do. A queue pair that was placed counts as what this says, in millionths of a core, until it is measured.
    LeastLoaded(u64),
}

/// A core to place on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Site {
    /// Whether it may not be given any queue pair but those pinned to it.
    pub closed: bool,
    /// How busy it is, in millionths.
    pub load: u64,
}

/// One placement for each demand, in the order of the demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The placements.
    pub placements: Vec<Placement>,
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There is nothing to place on.
    #[error("there are no I/O cores")]
    NoCores,
    /// A demand, or a queue pair that is already placed, names a core that does not exist.
    #[error("{queue} is to be on {core}, and there are {cores}, numbered from 0")]
    NoSuchCore {
        /// The queue pair.
        queue: QueueId,
        /// The core it names.
        core: IoCore,
        /// How many cores there are.
        cores: usize,
    },
    /// A queue pair is to be placed that is already, or twice.
    #[error("{queue} is placed already")]
    Twice {
        /// The queue pair.
        queue: QueueId,
    },
}

/// Places `demands` on `cores` I/O cores, where `present` are already, by [`Rule::Fewest`].
///
/// A pinned queue pair goes where it is pinned. Every other one goes, in the order of `demands`, to the core that has the
/// fewest queue pairs; among those to the one with the fewest of the same port, so that a port's queue pairs spread;
/// among those to the lowest. Pinned ones count before any other is placed: who comes first does not matter to them.
///
/// # Errors
/// There is no core, a core does not exist, or a queue pair appears twice. Then nothing is placed.
pub fn place(cores: usize, present: &[(QueueId, IoCore)], demands: &[Demand]) -> Result<Plan, PlaceError> {
    place_by(&vec![Site::default(); cores], Rule::Fewest, present, demands)
}

/// The same by any rule, on cores of which some may be closed.
///
/// # Errors
/// As for [`place`]; all cores being closed is as if there were none.
pub fn place_by(
    sites: &[Site],
    mut rule: Rule,
    present: &[(QueueId, IoCore)],
    demands: &[Demand],
) -> Result<Plan, PlaceError> {
    let mut cores: Vec<Core> = sites.iter().map(|site| Core { site: *site, ..Core::default() }).collect();
    if cores.iter().all(|core| core.site.closed) {
        return Err(PlaceError::NoCores);
    }
    let pinned = demands.iter().filter_map(|demand| Some((demand.queue, demand.pinned?)));
    for (queue, core) in present.iter().copied().chain(pinned) {
        let count = cores.len();
        let known = cores.get_mut(core.0).ok_or(PlaceError::NoSuchCore { queue, core, cores: count })?;
        known.add(queue);
    }
    let mut seen: BTreeSet<QueueId> = present.iter().map(|(queue, _)| *queue).collect();
    let mut placements = Vec::with_capacity(demands.len());
    for Demand { queue, pinned } in demands.iter().copied() {
        if !seen.insert(queue) {
            return Err(PlaceError::Twice { queue });
        }
        placements.push(match pinned {
            Some(core) => Placement { queue, core, reason: Reason::Pinned },
            None => choose(&mut cores, &mut rule, queue),
        });
    }
    Ok(Plan { placements })
}

/// A core, and the queue pairs on it.
#[derive(Debug, Clone, Default)]
struct Core {
    site: Site,
    queues: usize,
    ports: Vec<PortId>,
}

impl Core {
    fn add(&mut self, queue: QueueId) {
        self.queues += 1;
        self.ports.push(queue.port);
    }

    fn of_port(&self, port: PortId) -> usize {
        self.ports.iter().filter(|other| **other == port).count()
    }
}

/// At least one of `cores` is open.
fn choose(cores: &mut [Core], rule: &mut Rule, queue: QueueId) -> Placement {
    let count = cores.len();
    let by = *rule;
    let rank = |index: usize| {
        let core = &cores[index];
        let even = (core.queues, core.of_port(queue.port), index);
        match by {
            Rule::Fewest => (0, even),
            Rule::InTurn(next) => ((index + count - next % count) as u64 % count as u64, even),
            Rule::LeastLoaded(_) => (core.site.load, even),
        }
    };
    let core = (0..count).filter(|index| !cores[*index].site.closed).min_by_key(|index| rank(*index)).unwrap_or(0);
    let reason = match rule {
        Rule::Fewest => Reason::Fewest { queues: cores[core].queues },
        Rule::InTurn(next) => {
            *next = core + 1;
            Reason::Turn
        }
        Rule::LeastLoaded(each) => {
            let load = cores[core].site.load;
            cores[core].site.load += *each;
            Reason::LeastLoaded { percent: load / 10_000 }
        }
    };
    cores[core].add(queue);
    Placement { queue, core: IoCore(core), reason }
}

impl Plan {
    /// The core of a queue pair, if the plan is about it.
    pub fn core_of(&self, queue: QueueId) -> Option<IoCore> {
        self.placements.iter().find(|placement| placement.queue == queue).map(|placement| placement.core)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("its configuration says so"),
            Self::Fewest { queues } => write!(f, "it had the fewest queue pairs: {queues}"),
            Self::Turn => f.write_str("it was its turn"),
            Self::LeastLoaded { percent } => write!(f, "it had the least to do: {percent} % busy"),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} goes to {}: {}", self.queue, self.core, self.reason)
    }
}

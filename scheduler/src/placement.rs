//! Static placement: where a queue pair goes when it appears. It stays there until it disappears.

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

/// Places `demands` on `cores` I/O cores, where `present` are already.
///
/// A pinned queue pair goes where it is pinned. Every other one goes, in the order of `demands`, to the core that has the
/// fewest queue pairs; among those to the one with the fewest of the same port, so that a port's queue pairs spread;
/// among those to the lowest. Pinned ones count before any other is placed: who comes first does not matter to them.
///
/// # Errors
/// There is no core, a core does not exist, or a queue pair appears twice. Then nothing is placed.
pub fn place(cores: usize, present: &[(QueueId, IoCore)], demands: &[Demand]) -> Result<Plan, PlaceError> {
    if cores == 0 {
        return Err(PlaceError::NoCores);
    }
    let mut loads: Vec<Load> = vec![Load::default(); cores];
    let pinned = demands.iter().filter_map(|demand| Some((demand.queue, demand.pinned?)));
    for (queue, core) in present.iter().copied().chain(pinned) {
        let load = loads.get_mut(core.0).ok_or(PlaceError::NoSuchCore { queue, core, cores })?;
        load.add(queue);
    }
    let mut seen: BTreeSet<QueueId> = present.iter().map(|(queue, _)| *queue).collect();
    let mut placements = Vec::with_capacity(demands.len());
    for Demand { queue, pinned } in demands.iter().copied() {
        if !seen.insert(queue) {
            return Err(PlaceError::Twice { queue });
        }
        placements.push(match pinned {
            Some(core) => Placement { queue, core, reason: Reason::Pinned },
            None => place_on_fewest(&mut loads, queue),
        });
    }
    Ok(Plan { placements })
}

/// The queue pairs of one core.
#[derive(Debug, Clone, Default)]
struct Load {
    queues: usize,
    ports: Vec<PortId>,
}

impl Load {
    fn add(&mut self, queue: QueueId) {
        self.queues += 1;
        self.ports.push(queue.port);
    }

    fn of_port(&self, port: PortId) -> usize {
        self.ports.iter().filter(|other| **other == port).count()
    }
}

/// `loads` has at least one element.
fn place_on_fewest(loads: &mut [Load], queue: QueueId) -> Placement {
    let rank = |index: usize| (loads[index].queues, loads[index].of_port(queue.port), index);
    let core = (0..loads.len()).min_by_key(|index| rank(*index)).unwrap_or(0);
    let queues = loads[core].queues;
    loads[core].add(queue);
    Placement { queue, core: IoCore(core), reason: Reason::Fewest { queues } }
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
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} goes to {}: {}", self.queue, self.core, self.reason)
    }
}

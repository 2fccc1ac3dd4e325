//! What the scheduler is told: one tick of every I/O core and queue pair, and the machine they run on.

use crate::{IoCore, QueueId};

/// One tick of everything. Cycles are of the time-stamp counter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Every I/O core, by its index.
    pub cores: Vec<CoreLoad>,
    /// Every queue pair that is attached.
    pub queues: Vec<QueueLoad>,
    /// Who sent to whom.
    pub talks: Vec<Talk>,
}

impl Load {
    /// Whether no queue pair had anything to do, and nothing waited.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let silent = |queue: &QueueLoad| queue.cycles == 0 && queue.packets == 0;
        self.cores.iter().all(|core| core.oldest_ns == 0) && self.queues.iter().all(silent) && self.talks.is_empty()
    }
}

/// What one I/O core did in a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreLoad {
    /// Cycles of rounds in which there was something to do.
    pub busy: u64,
    /// Cycles in the tick.
    pub capacity: u64,
    /// How long the oldest work that it is to do has waited at the end of the tick, in nanoseconds, be it in rings of guests, in queues of a NIC
    /// or in rings from other cores; 0 where none waits.
    pub oldest_ns: u64,
    /// Whether it sleeps and may not be given any queue pair.
    pub parked: bool,
}

impl CoreLoad {
    /// The part of the tick that was busy, from 0 to 1.
    #[must_use]
    pub fn busy_ratio(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.busy as f64 / self.capacity as f64 }
    }
}

/// What one queue pair cost in a tick, and how it fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// The queue pair.
    pub queue: QueueId,
    /// Where it is.
    pub core: IoCore,
    /// Whether its configuration says that it has to stay there.
    pub pinned: bool,
    /// Cycles spent on what was pulled from it, handing it to other cores included, and on what was brought to it.
    pub cycles: u64,
    /// Packets pulled from it, and those brought to it.
    pub packets: u64,
    /// What of both was brought to it.
    pub brought: Brought,
    /// Bytes pulled from it.
    pub bytes: u64,
    /// Slots of its transmit ring with work that was left over when it was last looked how much there is.
    pub backlog: u64,
    /// How long the oldest work in its transmit ring waited, in nanoseconds; 0 where none waits.
    pub oldest_ns: u64,
    /// The NUMA node of its guest's memory, where that is known.
    pub node: Option<u16>,
}

/// What a NIC brings to a queue pair by a rule: its core receives it, whichever that is, so that it moves with the queue pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Brought {
    /// Cycles spent on it.
    pub cycles: u64,
    /// Packets.
    pub packets: u64,
}

/// Packets of a tick that one queue pair sent and another received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Talk {
    /// Who sent.
    pub from: QueueId,
    /// Who received.
    pub to: QueueId,
    /// How many.
    pub packets: u64,
}

/// The CPUs behind the I/O cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// By the I/O core's index.
    pub cpus: Vec<Cpu>,
}

/// The CPU of an I/O core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// Its NUMA node.
    pub node: u16,
    /// The physical core that it is a thread of: SMT siblings have the same.
    pub physical: u32,
}

impl Topology {
    /// So many CPUs on one node, none a sibling of another.
    #[must_use]
    pub fn flat(cores: usize) -> Self {
        Self { cpus: (0..cores).map(|core| Cpu { node: 0, physical: core as u32 }).collect() }
    }
}

//! What the tests of this crate share: loads made of a few numbers.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod machine;

use scheduler::{CoreLoad, IoCore, Load, PortId, QueueId, QueueLoad};

/// Cycles in a tick of every core.
pub(crate) const CAPACITY: u64 = 10_000_000;

/// The only queue pair of a port.
pub(crate) fn id(port: u32) -> QueueId {
    QueueId { port: PortId(port), queue: 0 }
}

/// Queue pairs as (core, percent of a core), each of a port of its own.
pub(crate) fn load(cores: usize, queues: &[(usize, u64)]) -> Load {
    let queue = |(port, &(core, percent)): (usize, &(usize, u64))| QueueLoad {
        queue: id(port as u32),
        core: IoCore(core),
        cycles: CAPACITY / 100 * percent,
        packets: 100 * percent,
        ..QueueLoad::default()
    };
    Load {
        cores: vec![CoreLoad { capacity: CAPACITY, ..CoreLoad::default() }; cores],
        queues: queues.iter().enumerate().map(queue).collect(),
        talks: Vec::new(),
    }
}

/// What each core has to do, in percent.
pub(crate) fn sums(load: &Load) -> Vec<u64> {
    let on = |core| load.queues.iter().filter(move |queue| queue.core == IoCore(core)).map(|queue| queue.cycles);
    (0..load.cores.len()).map(|core| on(core).sum::<u64>() / (CAPACITY / 100)).collect()
}

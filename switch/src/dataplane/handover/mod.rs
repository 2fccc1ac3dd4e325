//! Moving a queue pair from one I/O core to another, so that nothing is lost, duplicated or reordered in either direction.
//!
//! Core A gives the pair up, core B takes it. Between any two cores packets travel through a FIFO ring; every core publishes how much
//! of each ring to it has been delivered ([`Progress`]).
//!
//! ```text
//! control   tells A and B what is going to happen, then publishes the port table in which the pair is B's
//! every X   on taking over that table: marks where its rings to A and B stand. What it sends for the pair after that goes to B
//! B         parks what comes for the pair: the pair is not there yet
//! A         serves the pair until everything before the marks has been delivered ([`Move::is_drained`]), then sends it to B,
//!           and with it where A's rings to all others stand (the ordering [`Token`])
//! B         delivers what it parked and serves the receive ring; pulls from the transmit ring once all others have passed the token
//! B         keeps the pair out of floods that were sent before their marks: A's copy has been delivered
//! ```
//!
//! Into the guest: what was sent by the old table is delivered by A before the pair leaves it; what was sent by the new one waits at
//! B until then. Out of the guest: what A pulled has been delivered, wherever it went, before B pulls. So the order of each flow is kept. One
//! move is under way at a time. `model` checks all of it with loom.

mod progress;

#[cfg(test)]
mod model;

pub(super) use progress::{Cell, Progress, Token};

use crate::forwarding::PortId;

/// Number of a port table. It goes up with each one that is published, and wraps around.
pub(super) type TableVersion = u32;

/// Whether the ordering token is to be left out, for tests that have to see it missed: `SIDECORE_FAULT=no-ordering-token`.
#[cfg(feature = "fault-injection")]
pub(super) fn ignores_token() -> bool {
    std::env::var_os("SIDECORE_FAULT").is_some_and(|fault| fault == "no-ordering-token")
}

/// Never, in a switch that was not built for fault injection.
#[cfg(not(feature = "fault-injection"))]
pub(super) fn ignores_token() -> bool {
    false
}

/// A move that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) port: PortId,
    pub(super) queue: u16,
    /// The core that has the queue pair.
    pub(super) from: u16,
    /// The core that gets it.
    pub(super) to: u16,
    /// The first table in which it is there. Also the move's number: no two moves have the same.
    pub(super) since: TableVersion,
}

impl Move {
    /// Whether it is this queue pair that moves.
    #[inline]
    pub(super) fn concerns(&self, port: PortId, queue: u16) -> bool {
        self.port == port && self.queue == queue
    }

    /// The core to which packets for the queue pair were sent by whoever forwards by the table `version`.
    #[inline]
    pub(super) fn owner(&self, version: TableVersion) -> u16 {
        let is_new = version.wrapping_sub(self.since) < 1 << 31;
        if is_new { self.to } else { self.from }
    }

    /// Whether everything that other cores sent to `core`, one of the two, by older tables has been delivered.
    pub(super) fn is_drained<C: Cell>(&self, core: u16, progress: &Progress<C>) -> bool {
        let to = usize::from(core);
        (0..progress.cores()).filter(|from| *from != to).all(|from| progress.passed_mark(from, to, self.since))
    }
}

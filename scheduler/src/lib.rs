//! Which I/O core serves which queue pair: load in, plan out.
//!
//! Nothing here does I/O, reads a clock, starts a thread or draws a random number: the same input gives the same plan,
//! so that a plan can be tested, shown before it is applied, and explained after.
#![forbid(unsafe_code)]

mod balance;
mod engine;
mod load;
pub mod ovs;
mod placement;
mod policy;
mod saturation;

pub use balance::{Balance, Hopeless, Move, Planned, Settings, balance};
pub use engine::{Config, Decision, Elastic, Gains, Order, Outcome, Patience, Scheduler, Status, What, Why};
pub use load::{Brought, CoreLoad, Cpu, Load, QueueLoad, Talk, Topology};
pub use placement::{Demand, PlaceError, Placement, Plan, Reason, Rule, Site, place, place_by};
pub use policy::{Policy, UnknownPolicy};
pub use saturation::{Change, Detector, Thresholds};

use std::fmt;

/// An I/O core: its index in the configured list of CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoCore(pub usize);

/// A port, by the number its owner gave it; never reused for another port while a plan refers to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A queue pair: the unit that is placed, and moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    /// The port it belongs to.
    pub port: PortId,
    /// Its index within the port, from 0.
    pub queue: u16,
}

impl fmt::Display for IoCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I/O core {}", self.0)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue pair {} of port {}", self.queue, self.port.0)
    }
}

//! Where a packet goes: source check, VLAN, MAC table, policing. Pure state machines: no clock, no queue, no lock. An
//! I/O core owns one set of them and gives them the time.

#![forbid(unsafe_code)]

mod decision;
mod drop_reason;
mod fdb;
mod learn;
mod mac;
mod police;
mod slots;
mod spoof;
mod vlan;

pub(crate) use decision::{Entrance, Frame, Tables, Target, decide};
pub(crate) use drop_reason::DropReason;
pub(crate) use fdb::{Entry, Fdb, FdbSettings, Foreseen};
pub(crate) use learn::{LearnMessage, LearnRefusal, Learned, Learning, PortKind};
pub(crate) use mac::{Destination, MacAddr};
pub(crate) use police::TokenBucket;
pub(crate) use spoof::SourceCheck;
pub(crate) use vlan::{Egress, Ingress, PortVlans, Tag, VlanId, VlanSet};

/// A port of the switch: an index that is dense, so that tables can be indexed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PortId(pub(crate) u16);

impl PortId {
    /// As an index into tables of ports.
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The time, as an I/O core reads it once a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// Seconds of a clock that all cores share, from any start. It may wrap.
    pub(crate) seconds: u32,
    /// The core's cycle counter.
    pub(crate) cycles: u64,
}

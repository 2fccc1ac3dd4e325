//! What learning an address can come to, and what one I/O core tells the others of it.

use super::{MacAddr, PortId, VlanId};

/// Whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortKind {
    /// A virtual machine's: what is learnt on it stays.
    Guest,
    /// A network's: what is learnt on it may move.
    Uplink,
}

/// An entry that another core's replica is to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LearnMessage {
    pub(crate) vlan: VlanId,
    pub(crate) mac: MacAddr,
    pub(crate) port: PortId,
    /// Counts the flushes of the port: an entry from before one is of no use after it.
    pub(super) generation: u32,
    pub(super) seen: u32,
    pub(super) since: u32,
}

/// What became of a packet's source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// It is where it was; nothing was written.
    Known,
    /// It is where it was and was seen again, which the other cores should hear. At most once in a quarter of the
    /// ageing time.
    Refreshed(LearnMessage),
    /// It was added.
    New(LearnMessage),
    /// It was behind another port.
    Moved(LearnMessage),
    /// It was not learnt. The packet may be forwarded all the same.
    Refused(LearnRefusal),
}

/// What would become of a packet's source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learning {
    /// It is where it was.
    Known,
    /// It is where it was, and would be noted to have been seen again.
    Refresh,
    /// It would be added.
    New,
    /// It would be taken from this port.
    Move(PortId),
    /// It would not be learnt.
    Refused(LearnRefusal),
}

/// Why an address was not learnt, or not fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LearnRefusal {
    /// Multicast or zero.
    BadSource,
    /// The port is not open.
    UnknownPort,
    /// A guest's port has the address.
    OwnedByGuest,
    /// The address is fixed to another port.
    Fixed,
    /// The port has as many entries as it may have.
    PortLimit,
    /// The port adds entries faster than it may.
    RateLimit,
    /// The table has as many entries as it may have.
    TableFull,
    /// Both of the address's buckets are full.
    BucketFull,
}

impl LearnRefusal {
    /// All refusals, in the order of [`LearnRefusal::index`].
    pub(crate) const ALL: [Self; 8] = [
        Self::BadSource,
        Self::UnknownPort,
        Self::OwnedByGuest,
        Self::Fixed,
        Self::PortLimit,
        Self::RateLimit,
        Self::TableFull,
        Self::BucketFull,
    ];

    /// The refusal's place in a table of counters.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The value of the `reason` label in metrics: stable.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BadSource => "bad_source",
            Self::UnknownPort => "unknown_port",
            Self::OwnedByGuest => "owned_by_guest",
            Self::Fixed => "fixed",
            Self::PortLimit => "port_limit",
            Self::RateLimit => "rate_limit",
            Self::TableFull => "table_full",
            Self::BucketFull => "bucket_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn one_to_one_with_counters() {
        let names: HashSet<_> = LearnRefusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(names.len(), LearnRefusal::ALL.len());
        assert!(LearnRefusal::ALL.into_iter().enumerate().all(|(index, refusal)| refusal.index() == index));
    }
}

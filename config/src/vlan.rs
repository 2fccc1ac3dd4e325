//! Which VLANs a port belongs to, and which of them it sees tagged.

use std::collections::BTreeSet;

use crate::types::VlanId;

/// The VLAN membership of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vlan {
    /// The port sends and receives untagged, in this VLAN. Tagged packets from it are dropped.
    Access(VlanId),
    /// The port sends and receives several VLANs with tags, and at most one without.
    Trunk {
        /// VLANs that carry a tag. Never contains `native`.
        tagged: Tagged,
        /// The VLAN of untagged packets; none: untagged packets are dropped.
        native: Option<VlanId>,
    },
}

/// The VLANs that carry a tag on a trunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tagged {
    /// Every VLAN but the native one.
    All,
    /// These; never empty.
    Only(BTreeSet<VlanId>),
}

impl Vlan {
    /// An access port of VLAN 1: what a guest is that says nothing.
    pub const GUEST_DEFAULT: Self = Self::Access(VlanId::DEFAULT);
    /// A trunk of all VLANs with VLAN 1 untagged: what an uplink is that says nothing.
    pub const UPLINK_DEFAULT: Self = Self::Trunk { tagged: Tagged::All, native: Some(VlanId::DEFAULT) };

    /// The VLAN of the port's untagged packets, in both directions.
    pub fn untagged(&self) -> Option<VlanId> {
        match self {
            Self::Access(id) => Some(*id),
            Self::Trunk { native, .. } => *native,
        }
    }

    /// The VLANs that the port names: those in which the addresses configured for it are fixed. A trunk of all VLANs
    /// names its native one at most.
    pub fn named(&self) -> Vec<VlanId> {
        let tagged = match self {
            Self::Trunk { tagged: Tagged::Only(ids), .. } => ids.iter().copied().collect(),
            _ => Vec::new(),
        };
        self.untagged().into_iter().chain(tagged).collect()
    }

    /// Whether packets of `id` carry a tag on this port.
    pub fn is_tagged(&self, id: VlanId) -> bool {
        match self {
            Self::Access(_) => false,
            Self::Trunk { tagged: Tagged::All, native } => *native != Some(id),
            Self::Trunk { tagged: Tagged::Only(ids), .. } => ids.contains(&id),
        }
    }

    /// Whether the port is in VLAN `id` at all.
    pub fn contains(&self, id: VlanId) -> bool {
        self.untagged() == Some(id) || self.is_tagged(id)
    }
}

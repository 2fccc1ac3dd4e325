//! Virtio feature bits that matter to virtio-net rings (virtio 1.2 §5.1.3 and §6).

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// A set of virtio feature bits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Features {
            $($(#[$doc])* pub const $name: Features = Features(1 << $bit);)*
            const NAMES: &'static [(&'static str, u64)] = &[$((stringify!($name), 1 << $bit)),*];
        }
    };
}

features! {
    /// The device completes checksums of frames the guest sends.
    CSUM = 0;
    /// The guest takes frames with incomplete checksums.
    GUEST_CSUM = 1;
    /// The device states its MTU.
    MTU = 3;
    /// The device states a MAC address.
    MAC = 5;
    /// The guest takes TCPv4 segments larger than its MTU.
    GUEST_TSO4 = 7;
    /// The guest takes TCPv6 segments larger than its MTU.
    GUEST_TSO6 = 8;
    /// The guest takes large segments with ECN.
    GUEST_ECN = 9;
    /// The guest takes large UDP datagrams.
    GUEST_UFO = 10;
    /// The device takes large TCPv4 segments.
    HOST_TSO4 = 11;
    /// The device takes large TCPv6 segments.
    HOST_TSO6 = 12;
    /// The device takes large segments with ECN.
    HOST_ECN = 13;
    /// The device takes large UDP datagrams.
    HOST_UFO = 14;
    /// A received frame may span several buffers.
    MRG_RXBUF = 15;
    /// The device has a status field.
    STATUS = 16;
    /// There is a control queue.
    CTRL_VQ = 17;
    /// The guest can announce itself.
    GUEST_ANNOUNCE = 21;
    /// Several queue pairs.
    MQ = 22;
    /// Dirty pages are logged (vhost only).
    LOG_ALL = 26;
    /// The driver may use any descriptor layout (legacy).
    ANY_LAYOUT = 27;
    /// Indirect descriptor tables.
    INDIRECT_DESC = 28;
    /// Notifications by event index (split) or event structure position (packed).
    EVENT_IDX = 29;
    /// vhost-user protocol features can be negotiated (vhost-user only).
    PROTOCOL_FEATURES = 30;
    /// Virtio 1.0 and later.
    VERSION_1 = 32;
    /// Addresses go through an IOMMU.
    IOMMU_PLATFORM = 33;
    /// Packed rings.
    RING_PACKED = 34;
    /// Buffers are used in the order in which they were made available.
    IN_ORDER = 35;
}

impl Features {
    /// No bit.
    pub const NONE: Features = Features(0);
    /// Checksum and TCP segmentation offload in both directions.
    pub const OFFLOADS: Features = Features(
        Self::CSUM.0
            | Self::GUEST_CSUM.0
            | Self::GUEST_TSO4.0
            | Self::GUEST_TSO6.0
            | Self::HOST_TSO4.0
            | Self::HOST_TSO6.0,
    );

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names of the bits that are set and known here.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(_, bit)| self.0 & bit != 0).map(|(name, _)| *name)
    }

    /// These bits without those of `other`.
    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// Bytes of the virtio-net header: 12 with num_buffers, 10 without (virtio 1.2 §5.1.6.1).
    pub const fn header_len(self) -> usize {
        if self.0 & (Self::VERSION_1.0 | Self::MRG_RXBUF.0) != 0 { 12 } else { 10 }
    }
}

impl BitOr for Features {
    type Output = Features;
    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl BitAnd for Features {
    type Output = Features;
    fn bitand(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)?;
        self.names().try_for_each(|name| write!(f, " {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_length_follows_features() {
        assert_eq!(Features::NONE.header_len(), 10);
        assert_eq!(Features::MRG_RXBUF.header_len(), 12);
        assert_eq!(Features::VERSION_1.header_len(), 12);
    }

    #[test]
    fn debug_names_bits() {
        assert_eq!(format!("{:?}", Features::CSUM | Features::MQ), "0x400001 CSUM MQ");
    }
}

//! The virtio feature bits this backend knows, and what each negotiation means for the data path.

use std::fmt;

use virtio_bindings::virtio_config::{
    VIRTIO_F_ANY_LAYOUT, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// A set of virtio feature bits (virtio 1.2 §6, §5.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

macro_rules! bits {
    ($($name:ident = $bit:expr, $text:literal;)*) => {
        impl Features {
            $(
                #[doc = concat!("`", $text, "`")]
                pub const $name: Self = Self(1 << $bit);
            )*

            const NAMED: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

bits! {
    CSUM = net::VIRTIO_NET_F_CSUM, "csum";
    GUEST_CSUM = net::VIRTIO_NET_F_GUEST_CSUM, "guest_csum";
    MTU = net::VIRTIO_NET_F_MTU, "mtu";
    MAC = net::VIRTIO_NET_F_MAC, "mac";
    GSO = net::VIRTIO_NET_F_GSO, "gso";
    GUEST_TSO4 = net::VIRTIO_NET_F_GUEST_TSO4, "guest_tso4";
    GUEST_TSO6 = net::VIRTIO_NET_F_GUEST_TSO6, "guest_tso6";
    GUEST_ECN = net::VIRTIO_NET_F_GUEST_ECN, "guest_ecn";
    HOST_TSO4 = net::VIRTIO_NET_F_HOST_TSO4, "host_tso4";
    HOST_TSO6 = net::VIRTIO_NET_F_HOST_TSO6, "host_tso6";
    HOST_ECN = net::VIRTIO_NET_F_HOST_ECN, "host_ecn";
    MRG_RXBUF = net::VIRTIO_NET_F_MRG_RXBUF, "mrg_rxbuf";
    STATUS = net::VIRTIO_NET_F_STATUS, "status";
    CTRL_VQ = net::VIRTIO_NET_F_CTRL_VQ, "ctrl_vq";
    GUEST_ANNOUNCE = net::VIRTIO_NET_F_GUEST_ANNOUNCE, "guest_announce";
    MQ = net::VIRTIO_NET_F_MQ, "mq";
    ANY_LAYOUT = VIRTIO_F_ANY_LAYOUT, "any_layout";
    INDIRECT_DESC = VIRTIO_RING_F_INDIRECT_DESC, "indirect_desc";
    EVENT_IDX = VIRTIO_RING_F_EVENT_IDX, "event_idx";
    VERSION_1 = VIRTIO_F_VERSION_1, "version_1";
    RING_PACKED = VIRTIO_F_RING_PACKED, "ring_packed";
    IN_ORDER = VIRTIO_F_IN_ORDER, "in_order";
}

impl Features {
    /// No bits.
    pub const NONE: Self = Self(0);

    /// TCP segmentation, both directions.
    pub const SEGMENTATION: Self = Self(
        Self::GSO.0
            | Self::GUEST_TSO4.0
            | Self::GUEST_TSO6.0
            | Self::GUEST_ECN.0
            | Self::HOST_TSO4.0
            | Self::HOST_TSO6.0
            | Self::HOST_ECN.0,
    );

    /// Checksum and segmentation, both directions.
    pub const OFFLOADS: Self = Self(Self::CSUM.0 | Self::GUEST_CSUM.0 | Self::SEGMENTATION.0);

    /// What the data path can do. Bits that are not here (LOG_ALL, IOMMU_PLATFORM, UFO, USO, RSS, HASH_REPORT, NOTIFICATION_DATA,
    /// RING_RESET) must not be offered.
    pub const fn data_path() -> Self {
        Self(
            Self::OFFLOADS.0
                | Self::MRG_RXBUF.0
                | Self::ANY_LAYOUT.0
                | Self::INDIRECT_DESC.0
                | Self::EVENT_IDX.0
                | Self::VERSION_1.0
                | Self::RING_PACKED.0
                | Self::IN_ORDER.0,
        )
    }

    /// Whether all of `bits` are in the set.
    #[inline]
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// The set with `bits` too.
    pub const fn with(self, bits: Self) -> Self {
        Self(self.0 | bits.0)
    }

    /// The set less `bits`.
    pub const fn without(self, bits: Self) -> Self {
        Self(self.0 & !bits.0)
    }

    /// Bytes of virtio-net header before each packet: 12 with `num_buffers`, which is there iff MRG_RXBUF or VERSION_1 was
    /// negotiated (virtio 1.2 §5.1.6, §5.1.6.1), else 10.
    pub const fn net_header_len(self) -> usize {
        if self.has(Self::MRG_RXBUF) || self.has(Self::VERSION_1) { 12 } else { 10 }
    }

    /// The names of the bits, for logs and metrics; a bit without a name here is shown by number.
    pub fn names(self) -> Vec<String> {
        let mut names: Vec<String> =
            Self::NAMED.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| (*name).to_owned()).collect();
        let known = Self::NAMED.iter().fold(0, |all, (bit, _)| all | bit.0);
        names.extend((0..64).filter(|n| self.0 & !known & (1 << n) != 0).map(|n| format!("bit_{n}")));
        names
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({:#x}: {})", self.0, self.names().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_twelve_bytes_iff_mrg_rxbuf_or_version_1() {
        assert_eq!(Features::NONE.net_header_len(), 10);
        assert_eq!(Features::CSUM.net_header_len(), 10);
        assert_eq!(Features::MRG_RXBUF.net_header_len(), 12);
        assert_eq!(Features::VERSION_1.net_header_len(), 12);
    }

    #[test]
    fn names_show_known_and_unknown_bits() {
        let names = Features(Features::CSUM.0 | 1 << 62).names();
        assert_eq!(names, ["csum", "bit_62"]);
    }
}

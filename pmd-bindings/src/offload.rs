//! What devices can do for packets, and how a packet says what was done or is to be done.

use crate::ffi;

bitflags::bitflags! {
    /// What a device can do on receive.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct RxOffloads: u64 {
        /// Check IPv4 header checksums.
        const IPV4_CHECKSUM = ffi::PMD_RX_OFFLOAD_IPV4_CKSUM;
        /// Check UDP checksums.
        const UDP_CHECKSUM = ffi::PMD_RX_OFFLOAD_UDP_CKSUM;
        /// Check TCP checksums.
        const TCP_CHECKSUM = ffi::PMD_RX_OFFLOAD_TCP_CKSUM;
        /// Spread one frame over several mbufs. Asked for by itself where frames are larger than mbufs.
        const SCATTER = ffi::PMD_RX_OFFLOAD_SCATTER;
        /// Hand over the RSS hash.
        const RSS_HASH = ffi::PMD_RX_OFFLOAD_RSS_HASH;
    }

    /// What a device can do on transmit.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct TxOffloads: u64 {
        /// Fill in IPv4 header checksums.
        const IPV4_CHECKSUM = ffi::PMD_TX_OFFLOAD_IPV4_CKSUM;
        /// Fill in UDP checksums.
        const UDP_CHECKSUM = ffi::PMD_TX_OFFLOAD_UDP_CKSUM;
        /// Fill in TCP checksums.
        const TCP_CHECKSUM = ffi::PMD_TX_OFFLOAD_TCP_CKSUM;
        /// Cut TCP packets into segments.
        const TCP_SEGMENTATION = ffi::PMD_TX_OFFLOAD_TCP_TSO;
        /// Send packets of several mbufs. Without it a TX queue refuses them.
        const MULTI_SEGMENT = ffi::PMD_TX_OFFLOAD_MULTI_SEGS;
    }
}

impl TxOffloads {
    /// The mbuf flags a queue must refuse when just these offloads are on: nobody would act on them, and the
    /// packet would go out with a wrong checksum, or far too long.
    pub(crate) fn refused_flags(self) -> u64 {
        let mut refused = ffi::PMD_TX_FLAGS & !(ffi::PMD_TX_IPV4 | ffi::PMD_TX_IPV6);
        let grants = [
            (Self::IPV4_CHECKSUM, ffi::PMD_TX_IP_CKSUM),
            (Self::TCP_SEGMENTATION, ffi::PMD_TX_TCP_SEG),
            // The two are values of one field; a request for the one that is missing keeps a bit that is refused.
            (Self::TCP_CHECKSUM, ffi::PMD_TX_TCP_CKSUM),
            (Self::TCP_CHECKSUM | Self::UDP_CHECKSUM, ffi::PMD_TX_UDP_CKSUM),
        ];
        for (offloads, flags) in grants {
            if self.contains(offloads) {
                refused &= !flags;
            }
        }
        refused
    }
}

/// What the device found out about a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumState {
    /// It did not look.
    Unknown,
    /// Correct.
    Good,
    /// Wrong.
    Bad,
    /// Not correct in the data, but the packet is known to be intact (from a guest on the same host, for instance).
    None,
}

/// What the device found out about a packet's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RxChecksum {
    /// The IPv4 header's.
    pub ip: ChecksumState,
    /// TCP's or UDP's.
    pub l4: ChecksumState,
}

impl RxChecksum {
    #[inline]
    pub(crate) fn from_flags(flags: u64) -> Self {
        let ip = match flags & ffi::PMD_RX_IP_CKSUM_MASK {
            ffi::PMD_RX_IP_CKSUM_GOOD => ChecksumState::Good,
            ffi::PMD_RX_IP_CKSUM_BAD => ChecksumState::Bad,
            ffi::PMD_RX_IP_CKSUM_NONE => ChecksumState::None,
            _ => ChecksumState::Unknown,
        };
        let l4 = match flags & ffi::PMD_RX_L4_CKSUM_MASK {
            ffi::PMD_RX_L4_CKSUM_GOOD => ChecksumState::Good,
            ffi::PMD_RX_L4_CKSUM_BAD => ChecksumState::Bad,
            ffi::PMD_RX_L4_CKSUM_NONE => ChecksumState::None,
            _ => ChecksumState::Unknown,
        };
        Self { ip, l4 }
    }
}

/// The network layer of a packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// IPv4.
    Ipv4 {
        /// Whether the header's checksum is to be filled in. Segmentation always does.
        checksum: bool,
    },
    /// IPv6, which has no header checksum.
    Ipv6,
}

/// The checksum above the network layer that is to be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// None.
    None,
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
}

/// What the device is asked to do with a packet when it sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TxOffload {
    /// Bytes before the network header, VLAN tags included.
    pub l2_len: u16,
    /// Bytes of the network header, options or extension headers included.
    pub l3_len: u16,
    /// Bytes of the transport header. Only segmentation needs it.
    pub l4_len: u16,
    /// The network layer.
    pub network: Network,
    /// The transport checksum.
    pub transport: Transport,
    /// Payload bytes of each segment, where the packet is to be cut into TCP segments.
    pub segment_size: Option<u16>,
}

/// Why a [`TxOffload`] cannot be put on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OffloadError {
    /// A header length is more than an mbuf can express.
    #[error("a header is too long to be described")]
    HeaderTooLong,
    /// The headers do not all lie in the first segment, where drivers look for them.
    #[error("the headers are not all in the first segment")]
    NotInFirstSegment,
    /// Only TCP can be segmented, into segments of at least one byte.
    #[error("segmentation needs TCP and a segment size")]
    Segmentation,
}

impl TxOffload {
    /// The two words of an mbuf that say this: the flags and the lengths.
    #[inline]
    pub(crate) fn encode(&self, first_segment: usize) -> Result<(u64, u64), OffloadError> {
        let fits = |length: u16, bits: u32| u32::from(length) < 1 << bits;
        if !fits(self.l2_len, ffi::PMD_L2_LEN_BITS)
            || !fits(self.l3_len, ffi::PMD_L3_LEN_BITS)
            || !fits(self.l4_len, ffi::PMD_L4_LEN_BITS)
        {
            return Err(OffloadError::HeaderTooLong);
        }
        if usize::from(self.l2_len) + usize::from(self.l3_len) + usize::from(self.l4_len) > first_segment {
            return Err(OffloadError::NotInFirstSegment);
        }
        let segmented = self.segment_size.is_some();
        if segmented && (self.transport != Transport::Tcp || self.segment_size == Some(0)) {
            return Err(OffloadError::Segmentation);
        }
        let mut flags = match self.network {
            Network::Ipv4 { checksum } if checksum || segmented => ffi::PMD_TX_IPV4 | ffi::PMD_TX_IP_CKSUM,
            Network::Ipv4 { .. } => ffi::PMD_TX_IPV4,
            Network::Ipv6 => ffi::PMD_TX_IPV6,
        };
        flags |= match self.transport {
            Transport::None => 0,
            Transport::Tcp => ffi::PMD_TX_TCP_CKSUM,
            Transport::Udp => ffi::PMD_TX_UDP_CKSUM,
        };
        if segmented {
            flags |= ffi::PMD_TX_TCP_SEG;
        }
        let lengths = u64::from(self.l2_len) << ffi::PMD_L2_LEN_SHIFT
            | u64::from(self.l3_len) << ffi::PMD_L3_LEN_SHIFT
            | u64::from(self.l4_len) << ffi::PMD_L4_LEN_SHIFT
            | u64::from(self.segment_size.unwrap_or(0)) << ffi::PMD_TSO_SEGSZ_SHIFT;
        Ok((flags, lengths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: TxOffload = TxOffload {
        l2_len: 14,
        l3_len: 20,
        l4_len: 20,
        network: Network::Ipv4 { checksum: false },
        transport: Transport::Tcp,
        segment_size: None,
    };

    #[test]
    fn lengths_are_checked_against_the_fields_and_the_data() {
        assert_eq!(TxOffload { l2_len: 128, ..TCP4 }.encode(4096), Err(OffloadError::HeaderTooLong));
        assert_eq!(TxOffload { l3_len: 512, ..TCP4 }.encode(4096), Err(OffloadError::HeaderTooLong));
        assert_eq!(TCP4.encode(53), Err(OffloadError::NotInFirstSegment));
        assert!(TCP4.encode(54).is_ok());
    }

    #[test]
    fn segmentation_is_tcps_and_implies_the_checksums() {
        let (flags, lengths) = TxOffload { segment_size: Some(1460), ..TCP4 }.encode(64).unwrap();
        let expected = ffi::PMD_TX_TCP_SEG | ffi::PMD_TX_TCP_CKSUM | ffi::PMD_TX_IP_CKSUM | ffi::PMD_TX_IPV4;
        assert_eq!(flags, expected);
        assert_eq!(lengths, 14 | 20 << 7 | 20 << 16 | 1460 << 24);
        let udp = TxOffload { transport: Transport::Udp, segment_size: Some(1460), ..TCP4 };
        assert_eq!(udp.encode(64), Err(OffloadError::Segmentation));
        assert_eq!(TxOffload { segment_size: Some(0), ..TCP4 }.encode(64), Err(OffloadError::Segmentation));
    }

    #[test]
    fn a_queue_refuses_what_was_not_negotiated() {
        let (tcp, _) = TCP4.encode(64).unwrap();
        let (udp, _) = TxOffload { transport: Transport::Udp, ..TCP4 }.encode(64).unwrap();
        let plain = TxOffload { transport: Transport::None, ..TCP4 }.encode(64).unwrap().0;
        let none = TxOffloads::empty().refused_flags();
        assert!(tcp & none != 0 && udp & none != 0 && plain & none == 0);
        let only_tcp = TxOffloads::TCP_CHECKSUM.refused_flags();
        assert!(tcp & only_tcp == 0 && udp & only_tcp != 0);
        let both = (TxOffloads::TCP_CHECKSUM | TxOffloads::UDP_CHECKSUM).refused_flags();
        assert!(tcp & both == 0 && udp & both == 0);
    }
}

//! The virtio-net header (virtio 1.2 §5.1.6): what a sender asks for, checked; what a receiver is told.

use virtio_bindings::virtio_net as net;

use crate::features::Features;
use crate::offload::{self, IpVersion, MAX_SEGMENTS};

/// The longest virtio-net header in use: with `num_buffers`.
pub const NET_HEADER_MAX: usize = 12;

/// TCP's payload of a segment where nothing else is known of the way (RFC 9293 §3.7.1). Few networks have less.
const SEGMENT_USUAL: u16 = 536;

/// The header of a packet in one buffer of which nothing is to be said, as every receiver gets it.
pub(crate) const PLAIN_HEADER: [u8; NET_HEADER_MAX] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// What kind of segmentation a packet needs before it fits its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gso {
    /// None: the packet is one frame.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// Offload metadata of one packet. Values from a guest are made by [`Offload::parse`] alone, so that one that exists is consistent with
/// its packet's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum from `csum_start` to the end is still to be computed and stored at `csum_start + csum_offset`.
    pub needs_csum: bool,
    /// Somebody we trust (a NIC) has checked the checksums.
    pub data_valid: bool,
    /// Congestion window reduced on the first segment only (virtio 1.2 §5.1.6.2, GSO_ECN).
    pub ecn: bool,
    /// Segmentation to be done.
    pub gso: Gso,
    /// Bytes from the start of the frame.
    pub csum_start: u16,
    /// Bytes from `csum_start`.
    pub csum_offset: u16,
    /// Largest TCP payload of one segment, in bytes.
    pub gso_size: u16,
    /// Bytes of headers the sender says there are; a hint, never trusted.
    pub hdr_len: u16,
}

impl Offload {
    /// Nothing to be done.
    pub const NONE: Self = Self {
        needs_csum: false,
        data_valid: false,
        ecn: false,
        gso: Gso::None,
        csum_start: 0,
        csum_offset: 0,
        gso_size: 0,
        hdr_len: 0,
    };

    /// Reads what a guest wrote, as far as it had the right to (`features`), for a frame of `len` bytes. `None` where it lies: a checksum
    /// outside of the frame, segmentation without a size, without a checksum, or not negotiated. DATA_VALID and the
    /// RSC bits mean nothing from a guest and are dropped (§5.1.6.2: a driver must not set them).
    #[inline]
    pub fn parse(header: &[u8; NET_HEADER_MAX], features: Features, len: usize) -> Option<Self> {
        if Self::is_absent(&[header[0], header[1]]) {
            Some(Self::NONE)
        } else {
            Self::parse_request(header, features, len)
        }
    }

    /// Whether a guest's header that begins like this asks for nothing: flags and gso_type both zero, but for flags that mean nothing from it.
    #[inline]
    pub(crate) fn is_absent(header: &[u8; 2]) -> bool {
        header[0] & net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8 == 0 && header[1] == 0
    }

    fn parse_request(header: &[u8; NET_HEADER_MAX], features: Features, len: usize) -> Option<Self> {
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut offload = Self { hdr_len: field(2), ..Self::NONE };
        if header[0] & net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8 != 0 {
            if !features.has(Features::CSUM) {
                return None;
            }
            offload.needs_csum = true;
            offload.csum_start = field(6);
            offload.csum_offset = field(8);
            if usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2 > len {
                return None;
            }
        }
        let ecn = header[1] & net::VIRTIO_NET_HDR_GSO_ECN as u8 != 0;
        let (gso, needed) = match u32::from(header[1]) & !net::VIRTIO_NET_HDR_GSO_ECN {
            net::VIRTIO_NET_HDR_GSO_NONE if !ecn => return Some(offload),
            net::VIRTIO_NET_HDR_GSO_TCPV4 => (Gso::TcpV4, Features::HOST_TSO4),
            net::VIRTIO_NET_HDR_GSO_TCPV6 => (Gso::TcpV6, Features::HOST_TSO6),
            _ => return None,
        };
        // VIRTIO_NET_F_GSO is the legacy way of negotiating TSO and ECN at once (§5.1.3.2).
        let allowed = features.has(needed) || features.has(Features::GSO);
        let ecn_allowed = !ecn || features.has(Features::HOST_ECN) || features.has(Features::GSO);
        offload.gso = gso;
        offload.ecn = ecn;
        offload.gso_size = field(4);
        (allowed && ecn_allowed && offload.needs_csum && offload.gso_size > 0).then_some(offload)
    }

    /// What the packet is to be cut into, for [`offload::Gso::check`].
    pub fn segmentation(&self) -> Option<offload::Gso> {
        let version = match self.gso {
            Gso::None => return None,
            Gso::TcpV4 => IpVersion::V4,
            Gso::TcpV6 => IpVersion::V6,
        };
        let Self { gso_size, csum_start, csum_offset, .. } = *self;
        Some(offload::Gso { version, size: gso_size, csum_start, csum_offset })
    }

    /// Frames beyond the first that a packet of `len` bytes is cut into, where they are shorter than [`SEGMENT_USUAL`]: of others there are no more
    /// than their bytes say.
    #[inline]
    pub fn short_segments(&self, len: usize) -> usize {
        if self.gso == Gso::None || self.gso_size >= SEGMENT_USUAL {
            return 0;
        }
        (len / usize::from(self.gso_size).max(1)).min(MAX_SEGMENTS)
    }

    /// Whether a receiver with these features takes the packet as it is.
    #[inline]
    pub fn accepted_by(&self, features: Features) -> bool {
        if !self.needs_csum && self.gso == Gso::None {
            return true;
        }
        let gso = match self.gso {
            Gso::None => true,
            Gso::TcpV4 => features.has(Features::GUEST_TSO4),
            Gso::TcpV6 => features.has(Features::GUEST_TSO6),
        };
        features.has(Features::GUEST_CSUM) && gso && (!self.ecn || features.has(Features::GUEST_ECN))
    }

    /// Whether there is nothing to be done and nothing to be said.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.needs_csum && !self.data_valid && self.gso == Gso::None
    }

    /// The same, but equal to [`Offload::NONE`] where there is nothing to be done and nothing to be said.
    #[inline]
    pub fn essence(&self) -> Self {
        if self.is_plain() { Self::NONE } else { *self }
    }

    /// Moves the checksum's place when `delta` bytes of VLAN tag were put in (or, negative, taken out) before it.
    #[inline]
    pub fn shift(&mut self, delta: i16) {
        if self.needs_csum {
            self.csum_start = self.csum_start.saturating_add_signed(delta);
        }
        self.hdr_len = self.hdr_len.saturating_add_signed(if self.hdr_len == 0 { 0 } else { delta });
    }

    /// The header a receiver gets. `num_buffers` is written even where the header is 10 bytes long and ends before it.
    #[inline]
    pub fn write(&self, features: Features, num_buffers: u16) -> [u8; NET_HEADER_MAX] {
        let mut header = [0; NET_HEADER_MAX];
        header[10..12].copy_from_slice(&num_buffers.to_le_bytes());
        if self.is_plain() {
            return header;
        }
        // §5.1.6.4: flags only where the driver negotiated GUEST_CSUM.
        if features.has(Features::GUEST_CSUM) {
            if self.needs_csum {
                header[0] = net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
                header[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
                header[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
            } else if self.data_valid {
                header[0] = net::VIRTIO_NET_HDR_F_DATA_VALID as u8;
            }
        }
        let gso = match self.gso {
            Gso::None => return header,
            Gso::TcpV4 => net::VIRTIO_NET_HDR_GSO_TCPV4,
            Gso::TcpV6 => net::VIRTIO_NET_HDR_GSO_TCPV6,
        };
        let ecn = if self.ecn { net::VIRTIO_NET_HDR_GSO_ECN } else { 0 };
        header[1] = (gso | ecn) as u8;
        header[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        header[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, gso: u8, gso_size: u16, start: u16, offset: u16) -> [u8; NET_HEADER_MAX] {
        let mut h = [0; NET_HEADER_MAX];
        h[0] = flags;
        h[1] = gso;
        h[4..6].copy_from_slice(&gso_size.to_le_bytes());
        h[6..8].copy_from_slice(&start.to_le_bytes());
        h[8..10].copy_from_slice(&offset.to_le_bytes());
        h
    }

    const ALL: Features = Features::data_path();

    #[test]
    fn checksum_must_lie_inside_the_frame() {
        assert!(Offload::parse(&header(1, 0, 0, 34, 16), ALL, 52).is_some());
        assert!(Offload::parse(&header(1, 0, 0, 34, 16), ALL, 51).is_none());
        assert!(Offload::parse(&header(1, 0, 0, u16::MAX, u16::MAX), ALL, 65_536).is_none());
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let without = |bits| ALL.without(bits).without(Features::GSO);
        assert!(Offload::parse(&header(1, 0, 0, 34, 16), without(Features::CSUM), 64).is_none());
        assert!(Offload::parse(&header(1, 1, 1448, 34, 16), without(Features::HOST_TSO4), 64).is_none());
        assert!(Offload::parse(&header(1, 4, 1448, 34, 16), without(Features::HOST_TSO6), 64).is_none());
        assert!(Offload::parse(&header(1, 0x81, 1448, 34, 16), without(Features::HOST_ECN), 64).is_none());
        assert!(Offload::parse(&header(1, 0x81, 1448, 34, 16), ALL, 64).is_some());
    }

    #[test]
    fn segmentation_needs_a_size_a_checksum_and_a_known_type() {
        assert!(Offload::parse(&header(1, 1, 0, 34, 16), ALL, 64).is_none());
        assert!(Offload::parse(&header(0, 1, 1448, 34, 16), ALL, 64).is_none());
        for gso in [2, 3, 5, 6, 0x7f, 0x80] {
            assert!(Offload::parse(&header(1, gso, 1448, 34, 16), ALL, 64).is_none(), "gso_type {gso}");
        }
    }

    #[test]
    fn data_valid_and_rsc_bits_of_a_guest_are_dropped() {
        assert_eq!(Offload::parse(&header(2 | 4, 0, 0, 0, 0), ALL, 64), Some(Offload::NONE));
    }

    #[test]
    fn a_receiver_is_told_only_what_it_negotiated() {
        let offload = Offload { data_valid: true, ..Offload::NONE };
        assert_eq!(offload.write(Features::GUEST_CSUM, 1)[0], 2);
        assert_eq!(offload.write(Features::NONE, 1)[0], 0);
    }

    #[test]
    fn parse_reads_back_what_write_wrote() {
        let sent = Offload {
            needs_csum: true,
            ecn: true,
            gso: Gso::TcpV6,
            csum_start: 54,
            csum_offset: 16,
            gso_size: 1440,
            hdr_len: 74,
            data_valid: false,
        };
        assert_eq!(Offload::parse(&sent.write(ALL, 3), ALL, 9000), Some(sent));
        assert_eq!(sent.write(ALL, 3)[10..12], [3, 0]);
    }
}

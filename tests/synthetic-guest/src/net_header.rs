//! The virtio-net header (virtio 1.2 §5.1.6): offload metadata before every frame.

/// Segmentation that the receiver of the metadata must do, or may assume done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gso {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP fragmentation.
    Udp,
    /// Anything else, as it stands in the header: for tests of what a backend does with it.
    Raw(u8),
}

impl Gso {
    const fn to_wire(self) -> u8 {
        match self {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Udp => 3,
            Gso::Tcp6 => 4,
            Gso::Raw(value) => value,
        }
    }

    const fn from_wire(value: u8) -> Self {
        match value {
            0 => Gso::None,
            1 => Gso::Tcp4,
            3 => Gso::Udp,
            4 => Gso::Tcp6,
            other => Gso::Raw(other),
        }
    }
}

/// The fields of a virtio-net header. `Offload::default()` is an ordinary frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// VIRTIO_NET_HDR_F_* as they stand in the header; see the associated constants.
    pub flags: u8,
    /// Segmentation.
    pub gso: Gso,
    /// Bytes of headers before the payload that is segmented (a hint).
    pub header_len: u16,
    /// Payload bytes of one segment.
    pub gso_size: u16,
    /// Where checksumming starts.
    pub csum_start: u16,
    /// Where, from there, the checksum is stored.
    pub csum_offset: u16,
    /// Buffers a received frame spans; a driver sends 0.
    pub num_buffers: u16,
}

impl Offload {
    /// The checksum at `csum_start + csum_offset` is incomplete.
    pub const NEEDS_CSUM: u8 = 1;
    /// The device has verified the checksum.
    pub const DATA_VALID: u8 = 2;
    /// Receive segment coalescing information is present.
    pub const RSC_INFO: u8 = 4;

    /// A frame whose transport checksum is left to the device.
    pub const fn partial_checksum(csum_start: u16, csum_offset: u16) -> Self {
        let none = Offload::none();
        Offload { flags: Self::NEEDS_CSUM, csum_start, csum_offset, ..none }
    }

    const fn none() -> Self {
        Offload { flags: 0, gso: Gso::None, header_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0, num_buffers: 0 }
    }

    /// The header as bytes; a 10-byte header leaves out the last two.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 12] {
        let [h0, h1] = self.header_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso.to_wire(), h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// The fields of a header. With a 10-byte header, the last two bytes are to be 0.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Offload {
            flags: bytes[0],
            gso: Gso::from_wire(bytes[1]),
            header_len: u16::from_le_bytes([bytes[2], bytes[3]]),
            gso_size: u16::from_le_bytes([bytes[4], bytes[5]]),
            csum_start: u16::from_le_bytes([bytes[6], bytes[7]]),
            csum_offset: u16::from_le_bytes([bytes[8], bytes[9]]),
            num_buffers: u16::from_le_bytes([bytes[10], bytes[11]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp, Gso::Raw(0x85)] {
            let header = Offload {
                flags: 3,
                gso,
                header_len: 0x1234,
                gso_size: 1448,
                csum_start: 34,
                csum_offset: 16,
                num_buffers: 2,
            };
            assert_eq!(Offload::from_bytes(header.to_bytes()), header);
        }
        assert_eq!(Offload::partial_checksum(34, 6).to_bytes(), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
    }
}

//! Frames to send, and what is looked at in those that arrive.

use std::net::{Ipv4Addr, Ipv6Addr};

use synthetic_guest::packet::{Checksum, FrameSpec, Ip, Template, Transport};
use synthetic_guest::{Frame, Offload, Received};

/// A frame with its metadata, sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
}

impl Packet {
    /// A frame without metadata.
    pub(crate) fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::default() }
    }

    /// The frame that `spec` describes.
    pub(crate) fn new(spec: FrameSpec) -> Self {
        let template = Template::new(spec);
        Self { bytes: template.bytes().to_vec(), offload: template.offload() }
    }

    pub(crate) fn of(received: &Received<'_>) -> Self {
        let mut bytes = Vec::new();
        received.copy_to(&mut bytes);
        Self { bytes, offload: received.header() }
    }

    pub(crate) fn as_frame(&self) -> Frame<'_> {
        Frame { bytes: &self.bytes, offload: self.offload }
    }
}

/// `count` different UDP frames of `len` bytes between stations `from` and `to`.
pub(crate) fn udp(from: u32, to: u32, len: usize, count: u16) -> Vec<Packet> {
    (0..count).map(|flow| Packet::new(FrameSpec::udp4(from, to, flow, len))).collect()
}

/// One such frame.
pub(crate) fn one(from: u32, to: u32) -> Packet {
    Packet::new(FrameSpec::udp4(from, to, 0, 60))
}

/// One such frame to any address.
pub(crate) fn addressed(from: u32, to: [u8; 6]) -> Packet {
    Packet::new(FrameSpec { to, ..FrameSpec::udp4(from, 0, 0, 60) })
}

/// The bytes of packets.
pub(crate) fn bytes(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(|packet| packet.bytes.clone()).collect()
}

/// A frame with an 802.1Q tag of this control field.
pub(crate) fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let [high, low] = tci.to_be_bytes();
    [&frame[..12], &[0x81, 0x00, high, low], &frame[12..]].concat()
}

/// TCP from station 1 to station 2.
pub(crate) fn tcp(version: u8, len: usize) -> FrameSpec {
    let spec = FrameSpec { transport: Transport::Tcp, checksum: Checksum::Partial, ..FrameSpec::udp4(1, 2, 7, len) };
    FrameSpec { ip: addresses(version), ..spec }
}

/// Addresses of IP version 4 or 6.
pub(crate) fn addresses(version: u8) -> Ip {
    let v6 = |n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
    match version {
        4 => Ip::V4(Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)),
        _ => Ip::V6(v6(2), v6(3)),
    }
}

/// A TCP or UDP frame, taken apart.
pub(crate) struct Parsed {
    /// Offset of the network header.
    pub(crate) l3: usize,
    /// Offset of the transport header.
    pub(crate) l4: usize,
    /// Offset of the payload.
    pub(crate) payload: usize,
    /// Bytes up to the end of the IP packet.
    pub(crate) end: usize,
    v4: bool,
    protocol: u8,
}

impl Parsed {
    /// Takes a frame apart, tagged or not.
    pub(crate) fn new(frame: &[u8]) -> Self {
        let l3 = if frame[12..14] == [0x81, 0x00] { 18 } else { 14 };
        let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let v4 = word(l3 - 2) == 0x0800;
        assert!(v4 || word(l3 - 2) == 0x86dd, "not IP");
        let (l4, end, protocol) = match v4 {
            true => (l3 + 20, l3 + word(l3 + 2), frame[l3 + 9]),
            false => (l3 + 40, l3 + 40 + word(l3 + 4), frame[l3 + 6]),
        };
        let payload = l4 + if protocol == 6 { usize::from(frame[l4 + 12] >> 4) * 4 } else { 8 };
        Self { l3, l4, payload, end, v4, protocol }
    }

    /// The TCP sequence number.
    pub(crate) fn sequence(&self, frame: &[u8]) -> u32 {
        let b = &frame[self.l4 + 4..self.l4 + 8];
        u32::from_be_bytes([b[0], b[1], b[2], b[3]])
    }

    /// Whether the checksums of IPv4, TCP and UDP are right.
    pub(crate) fn checksums_hold(&self, frame: &[u8]) -> bool {
        let ip = !self.v4 || fold(sum(&frame[self.l3..self.l4])) == 0xffff;
        ip && fold(self.pseudo_header(frame) + sum(&frame[self.l4..self.end])) == 0xffff
    }

    /// Whether the transport checksum field holds the sum of the pseudo header, as one still to be completed does.
    pub(crate) fn checksum_is_partial(&self, frame: &[u8]) -> bool {
        let at = self.l4 + if self.protocol == 6 { 16 } else { 6 };
        frame[at..at + 2] == fold(self.pseudo_header(frame)).to_be_bytes()
    }

    fn pseudo_header(&self, frame: &[u8]) -> u64 {
        let addresses = if self.v4 { self.l3 + 12 } else { self.l3 + 8 };
        sum(&frame[addresses..self.l4]) + u64::from(self.protocol) + (self.end - self.l4) as u64
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

//! Frames that say what they are: flow, sequence number, time of sending and a checksum over all of it and the rest of the
//! payload. The shortest Ethernet frame (60 bytes without FCS) has room for them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Gso, Offload};

/// Bytes of a [`Stamp`] in a frame.
pub const STAMP_LEN: usize = 18;
/// UDP or TCP destination port of stamped frames: what tells them from all others.
pub const PORT: u16 = 0x5c0e;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// What a frame carries at the beginning of its transport payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Flow number.
    pub flow: u16,
    /// Sequence number in the flow, 48 bits.
    pub sequence: u64,
    /// Time of sending in nanoseconds, 48 bits (three days).
    pub time_ns: u64,
}

impl Stamp {
    const MASK: u64 = (1 << 48) - 1;

    /// The stamp as bytes; `body` is [`hash`] of the payload behind it.
    #[inline]
    pub fn to_bytes(self, body: u64) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..2].copy_from_slice(&self.flow.to_le_bytes());
        bytes[2..8].copy_from_slice(&self.sequence.to_le_bytes()[..6]);
        bytes[8..14].copy_from_slice(&self.time_ns.to_le_bytes()[..6]);
        bytes[14..].copy_from_slice(&self.checksum(body).to_le_bytes());
        bytes
    }

    /// Reads a stamp; `None` when it does not match its checksum and `body`.
    #[inline]
    pub fn from_bytes(bytes: &[u8; STAMP_LEN], body: u64) -> Option<Stamp> {
        let word48 = |at: usize| {
            let b = &bytes[at..at + 6];
            u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
        };
        let stamp = Stamp { flow: u16::from_le_bytes([bytes[0], bytes[1]]), sequence: word48(2), time_ns: word48(8) };
        let sum = u32::from_le_bytes([bytes[14], bytes[15], bytes[16], bytes[17]]);
        (sum == stamp.checksum(body)).then_some(stamp)
    }

    fn checksum(self, body: u64) -> u32 {
        let first = self.sequence & Self::MASK | u64::from(self.flow) << 48;
        let mixed = mix(mix(body, first), self.time_ns & Self::MASK);
        (mixed ^ mixed >> 32) as u32
    }
}

#[inline(always)]
fn mix(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Hash of payload bytes, position included. Against accidents, not against forgers.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut lanes = [bytes.len() as u64, 1, 2, 3];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let word: [u8; 8] = word.try_into().expect("chunks of 8 have 8 bytes");
            *lane = mix(*lane, u64::from_le_bytes(word));
        }
    }
    let state = lanes.into_iter().fold(0, mix);
    chunks.remainder().iter().fold(state, |state, byte| mix(state, u64::from(*byte)))
}

/// Network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4: source, destination.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6: source, destination.
    V6(Ipv6Addr, Ipv6Addr),
}

/// Transport layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Transport checksum of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// 0, which for UDP over IPv4 means that there is none. The only one that stays right when a prefilled buffer gets a
    /// new stamp.
    Absent,
    /// Complete.
    Full,
    /// Left to the device: the sum of the pseudo header, and NEEDS_CSUM (needs CSUM).
    Partial,
}

/// Description of a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameSpec {
    /// Destination MAC address.
    pub to: [u8; 6],
    /// Source MAC address.
    pub from: [u8; 6],
    /// Tag control information of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// Network layer.
    pub ip: Ip,
    /// Transport layer.
    pub transport: Transport,
    /// Transport checksum.
    pub checksum: Checksum,
    /// Flow number; also decides the transport source port.
    pub flow: u16,
    /// Frame length without FCS.
    pub len: usize,
    /// Ask for segmentation (TCP only) into payloads of this many bytes (needs HOST_TSO4 or HOST_TSO6).
    pub gso_size: Option<u16>,
}

impl FrameSpec {
    /// A UDP frame over IPv4 from `from` to `to`, locally administered MAC addresses of these numbers.
    pub fn udp4(from: u32, to: u32, flow: u16, len: usize) -> Self {
        let address = |n: u32| Ipv4Addr::from(0x0a00_0000 | (n + 1) & 0xff_ffff);
        FrameSpec {
            to: mac(to),
            from: mac(from),
            vlan: None,
            ip: Ip::V4(address(from), address(to)),
            transport: Transport::Udp,
            checksum: Checksum::Absent,
            flow,
            len,
            gso_size: None,
        }
    }

    /// Bytes before the stamp.
    pub fn header_len(&self) -> usize {
        let l2 = if self.vlan.is_some() { 18 } else { 14 };
        let l3 = if matches!(self.ip, Ip::V4(..)) { 20 } else { 40 };
        l2 + l3 + if self.transport == Transport::Udp { 8 } else { 20 }
    }

    /// Shortest frame of this kind that has room for a stamp and is legal on Ethernet.
    pub fn min_len(&self) -> usize {
        (self.header_len() + STAMP_LEN).max(60)
    }
}

/// A locally administered unicast MAC address that carries `number`.
pub fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x02, 0x5c, a, b, c, d]
}

/// A frame made once and stamped many times.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    offload: Offload,
    stamp_at: usize,
    transport_at: usize,
    body: u64,
    spec: FrameSpec,
}

impl Template {
    /// Builds the frame; a length below [`FrameSpec::min_len`] is raised to it.
    ///
    /// # Panics
    /// When the frame is longer than IP allows.
    pub fn new(spec: FrameSpec) -> Template {
        let len = spec.len.max(spec.min_len());
        let stamp_at = spec.header_len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&spec.to);
        bytes.extend_from_slice(&spec.from);
        if let Some(tci) = spec.vlan {
            bytes.extend_from_slice(&[0x81, 0x00]);
            bytes.extend_from_slice(&tci.to_be_bytes());
        }
        push_ip(&mut bytes, &spec, len);
        let transport_at = bytes.len();
        push_transport(&mut bytes, &spec, len - transport_at);
        debug_assert_eq!(bytes.len(), stamp_at);
        bytes.resize(stamp_at + STAMP_LEN, 0);
        // Every position of the payload has its own value, and so has every flow.
        bytes.extend((stamp_at + STAMP_LEN..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(spec.flow as u8)));
        let offload = offload(&spec, transport_at);
        let body = hash(&bytes[stamp_at + STAMP_LEN..]);
        let mut template = Template { bytes, offload, stamp_at, transport_at, body, spec };
        template.stamp(Stamp { flow: spec.flow, ..Stamp::default() });
        template
    }

    /// The frame with its latest stamp.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The metadata for the virtio-net header.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Offset of the stamp.
    pub fn stamp_at(&self) -> usize {
        self.stamp_at
    }

    /// The stamp of `sequence` and `time_ns`, to be written at [`Template::stamp_at`] of a prefilled buffer.
    #[inline]
    pub fn stamp_bytes(&self, sequence: u64, time_ns: u64) -> [u8; STAMP_LEN] {
        Stamp { flow: self.spec.flow, sequence, time_ns }.to_bytes(self.body)
    }

    /// Puts a stamp into the frame and completes the transport checksum where it is to be full.
    pub fn stamp(&mut self, stamp: Stamp) {
        let at = self.stamp_at;
        self.bytes[at..at + STAMP_LEN].copy_from_slice(&stamp.to_bytes(self.body));
        if self.spec.checksum == Checksum::Full {
            let field = self.transport_at + checksum_offset(self.spec.transport);
            let len = self.bytes.len() - self.transport_at;
            self.bytes[field..field + 2].copy_from_slice(&[0, 0]);
            let sum = fold(pseudo_header(&self.spec, len) + sum_words(&self.bytes[self.transport_at..]));
            let sum = if sum == 0xffff { 0xffff } else { !sum };
            self.bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

fn push_ip(bytes: &mut Vec<u8>, spec: &FrameSpec, frame_len: usize) {
    let protocol = if spec.transport == Transport::Udp { UDP } else { TCP };
    let room = |len: usize| u16::try_from(len).expect("a frame longer than IP allows");
    match spec.ip {
        Ip::V4(from, to) => {
            bytes.extend_from_slice(&[0x08, 0x00]);
            let at = bytes.len();
            bytes.extend_from_slice(&[0x45, 0]);
            bytes.extend_from_slice(&room(frame_len - at).to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            let sum = !fold(sum_words(&bytes[at..]));
            bytes[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        Ip::V6(from, to) => {
            bytes.extend_from_slice(&[0x86, 0xdd]);
            let at = bytes.len();
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&room(frame_len - at - 40).to_be_bytes());
            bytes.extend_from_slice(&[protocol, 64]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
        }
    }
}

fn push_transport(bytes: &mut Vec<u8>, spec: &FrameSpec, len: usize) {
    let source = 1024 + spec.flow % 60_000;
    bytes.extend_from_slice(&source.to_be_bytes());
    bytes.extend_from_slice(&PORT.to_be_bytes());
    let partial = match spec.checksum {
        Checksum::Partial => fold(pseudo_header(spec, len)),
        Checksum::Absent | Checksum::Full => 0,
    };
    match spec.transport {
        Transport::Udp => bytes.extend_from_slice(&(len as u16).to_be_bytes()),
        // Sequence 0, acknowledgement 0, five words, ACK, full window.
        Transport::Tcp => bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff]),
    }
    bytes.extend_from_slice(&partial.to_be_bytes());
    if spec.transport == Transport::Tcp {
        bytes.extend_from_slice(&[0, 0]);
    }
}

fn offload(spec: &FrameSpec, transport_at: usize) -> Offload {
    let mut offload = Offload::default();
    if spec.checksum == Checksum::Partial {
        offload = Offload::partial_checksum(transport_at as u16, checksum_offset(spec.transport) as u16);
    }
    if let Some(size) = spec.gso_size {
        offload.gso = if matches!(spec.ip, Ip::V4(..)) { Gso::Tcp4 } else { Gso::Tcp6 };
        offload.gso_size = size;
        offload.header_len = spec.header_len() as u16;
    }
    offload
}

const fn checksum_offset(transport: Transport) -> usize {
    match transport {
        Transport::Udp => 6,
        Transport::Tcp => 16,
    }
}

fn pseudo_header(spec: &FrameSpec, len: usize) -> u64 {
    let protocol = if spec.transport == Transport::Udp { UDP } else { TCP };
    let addresses = match spec.ip {
        Ip::V4(from, to) => sum_words(&from.octets()) + sum_words(&to.octets()),
        Ip::V6(from, to) => sum_words(&from.octets()) + sum_words(&to.octets()),
    };
    addresses + u64::from(protocol) + len as u64
}

/// Sum of big-endian 16-bit words, a last odd byte padded with 0 (RFC 1071).
fn sum_words(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0)));
    words.sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The stamped payload of a frame, its transport payload: `None` for frames that are not of this library's kind.
#[inline]
pub(crate) fn stamped_payload(frame: &[u8]) -> Option<Result<&[u8], ()>> {
    let mut at = 12;
    if frame.get(at..at + 2)? == [0x81, 0x00] {
        at += 4;
    }
    let (ip, ip_len, total, protocol) = match frame.get(at..at + 2)? {
        [0x08, 0x00] => {
            let ip = frame.get(at + 2..at + 22)?;
            (at + 2, 20, usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip[9])
        }
        [0x86, 0xdd] => {
            let ip = frame.get(at + 2..at + 42)?;
            (at + 2, 40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])), ip[6])
        }
        _ => return None,
    };
    let transport = ip + ip_len;
    let header = match protocol {
        UDP => 8,
        TCP => 20,
        _ => return None,
    };
    if frame.get(transport + 2..transport + 4)? != PORT.to_be_bytes() {
        return None;
    }
    let end = ip + total;
    Some(frame.get(transport + header..end).filter(|p| p.len() >= STAMP_LEN).ok_or(()))
}

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)
    }

    #[test]
    fn shortest_frame_has_room_for_a_stamp() {
        let template = Template::new(FrameSpec::udp4(1, 2, 3, 0));
        assert_eq!(template.bytes().len(), 60);
    }

    #[test]
    fn full_checksums_add_up() {
        let ips = [Ip::V4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)), Ip::V6(v6(1), v6(2))];
        for ip in ips {
            for transport in [Transport::Udp, Transport::Tcp] {
                let spec = FrameSpec { ip, transport, checksum: Checksum::Full, ..FrameSpec::udp4(1, 2, 9, 333) };
                let mut template = Template::new(spec);
                template.stamp(Stamp { flow: 9, sequence: 77, time_ns: 1234 });
                let segment = &template.bytes()[template.transport_at..];
                assert_eq!(fold(pseudo_header(&spec, segment.len()) + sum_words(segment)), 0xffff);
                if matches!(ip, Ip::V4(..)) {
                    assert_eq!(fold(sum_words(&template.bytes()[14..34])), 0xffff);
                }
            }
        }
    }

    #[test]
    fn partial_checksum_is_completed_by_summing_from_its_start() {
        let spec = FrameSpec { checksum: Checksum::Partial, vlan: Some(5), ..FrameSpec::udp4(1, 2, 9, 100) };
        let template = Template::new(spec);
        let start = usize::from(template.offload().csum_start);
        assert_eq!(start, 38);
        let sum = !fold(sum_words(&template.bytes()[start..]));
        let mut completed = template.bytes().to_vec();
        let field = start + usize::from(template.offload().csum_offset);
        completed[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let total = sum_words(&completed[start..]) + pseudo_header(&spec, completed.len() - start);
        assert_eq!(fold(total), 0xffff);
    }

    #[test]
    fn stamps_round_trip_and_notice_a_changed_bit() {
        let stamp = Stamp { flow: 513, sequence: (1 << 48) - 2, time_ns: 1 << 47 };
        let bytes = stamp.to_bytes(99);
        assert_eq!(Stamp::from_bytes(&bytes, 99), Some(stamp));
        assert_eq!(Stamp::from_bytes(&bytes, 98), None);
        for bit in 0..8 * STAMP_LEN {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::from_bytes(&bad, 99), None, "bit {bit}");
        }
    }

    #[test]
    fn hash_depends_on_every_byte_and_its_place() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut swapped = bytes.clone();
        swapped.swap(3, 40);
        assert_ne!(hash(&bytes), hash(&swapped));
        assert_ne!(hash(&bytes), hash(&bytes[..99]));
    }
}

//! Segmentation of a TCP packet that its sender left to the device (virtio 1.2 §5.1.6.2, `gso_type` TCPV4 and TCPV6).
//!
//! The packet's headers are checked once, in [`Segmenter::new`]. Then each segment is made by itself: its headers are
//! written to a local buffer, the caller copies its payload and sums it on the way, and the TCP checksum goes in last.

use super::OffloadError;
use super::checksum::{Sum, stored};
use super::headers::{HeaderError, Headers, IpVersion, MAX_HEADERS, PROTOCOL_TCP, Transport, be16, bytes, parse};

/// Segments that come out of one packet at most. An IP packet has at most 64 KiB, so any segment size from 256 bytes up
/// stays within it; a smaller one is taken for packets that are small enough.
pub const MAX_SEGMENTS: usize = 256;

/// Offset of the checksum field in a TCP header.
const TCP_CHECKSUM: u16 = 16;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// The segmentation metadata of a packet, as its sender gave it. The ECN bit of `gso_type` is not needed: the CWR flag
/// that it announces is in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The IP version that `gso_type` names.
    pub version: IpVersion,
    /// Payload bytes of every segment but the last.
    pub size: u16,
    /// Where the checksum begins: must be the TCP header.
    pub csum_start: u16,
    /// Where, from there, it is stored: must be TCP's.
    pub csum_offset: u16,
}

impl Gso {
    /// Whether the metadata fits `head`, which holds the headers of a packet of `packet_len` bytes. `headers` is what
    /// [`parse`] found in it. Gives the number of segments.
    pub fn check(&self, head: &[u8], headers: &Headers, packet_len: usize) -> Result<usize, OffloadError> {
        if headers.transport != Transport::Tcp {
            return Err(OffloadError::NotTcp);
        }
        if headers.version != self.version {
            return Err(OffloadError::WrongVersion);
        }
        if self.csum_start != headers.l4 || self.csum_offset != TCP_CHECKSUM {
            return Err(OffloadError::ChecksumNotTcp);
        }
        let l3 = usize::from(headers.l3);
        let ip_len = match headers.version {
            IpVersion::V4 => usize::from(be16(head, l3 + 2)?),
            IpVersion::V6 => 40 + usize::from(be16(head, l3 + 4)?),
        };
        if l3 + ip_len != packet_len {
            return Err(OffloadError::WrongLength);
        }
        let payload = packet_len.checked_sub(usize::from(headers.payload)).ok_or(OffloadError::WrongLength)?;
        let [flags] = bytes(head, usize::from(headers.l4) + 13)?;
        if flags & (SYN | RST) != 0 {
            return Err(OffloadError::BadFlags);
        }
        if self.size == 0 {
            return Err(OffloadError::ZeroSize);
        }
        let segments = payload.div_ceil(usize::from(self.size)).max(1);
        if segments > MAX_SEGMENTS {
            return Err(OffloadError::TooManySegments);
        }
        Ok(segments)
    }
}

/// A checked packet, ready to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Segmenter<'h> {
    /// The headers, and nothing behind them.
    head: &'h [u8],
    version: IpVersion,
    l3: usize,
    l4: usize,
    size: usize,
    payload: usize,
    segments: usize,
    fields: Fields,
}

/// What differs from segment to segment, as it was in the packet.
#[derive(Clone, Copy, Debug)]
struct Fields {
    id: u16,
    seq: u32,
    flags: u8,
    urgent: u16,
    /// The pseudo header without its length.
    addresses: Sum,
}

/// One segment: its headers are in the buffer that [`Segmenter::segment`] wrote, complete but for the TCP checksum.
#[derive(Clone, Copy, Debug)]
#[must_use = "the segment's checksum is not in its headers yet"]
pub struct Segment {
    /// Length of the headers.
    pub header_len: usize,
    /// Where the payload begins, from the start of the packet that is being cut.
    pub payload_start: usize,
    /// Length of the payload.
    pub payload_len: usize,
    l4: usize,
    pseudo: Sum,
}

impl<'h> Segmenter<'h> {
    /// Checks the packet of `packet_len` bytes that begins with `head` against `gso`. All its headers must be inside
    /// `head`; payload bytes behind them are not looked at.
    pub fn new(head: &'h [u8], packet_len: usize, gso: &Gso) -> Result<Self, OffloadError> {
        let headers = parse(head)?;
        let segments = gso.check(head, &headers, packet_len)?;
        let [l3, l4, header_len] = [headers.l3, headers.l4, headers.payload].map(usize::from);
        Ok(Self {
            head: head.get(..header_len).ok_or(HeaderError::Truncated)?,
            version: headers.version,
            l3,
            l4,
            size: usize::from(gso.size),
            payload: packet_len - header_len,
            segments,
            fields: Fields::read(head, &headers)?,
        })
    }

    /// How many segments there are: 1 to [`MAX_SEGMENTS`].
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Length of the headers, the same in every segment.
    pub fn header_len(&self) -> usize {
        self.head.len()
    }

    /// Length of the longest segment, headers included.
    pub fn longest(&self) -> usize {
        self.head.len() + self.payload.min(self.size)
    }

    /// Writes the headers of segment `index` to the front of `header`, all but the TCP checksum, which
    /// [`Segment::finish`] or [`Segment::finish_partial`] puts in. `None` when there is no such segment.
    #[inline]
    pub fn segment(&self, index: usize, header: &mut [u8; MAX_HEADERS]) -> Option<Segment> {
        if index >= self.segments {
            return None;
        }
        let header_len = self.head.len();
        header.get_mut(..header_len)?.copy_from_slice(self.head);
        let start = index * self.size;
        let payload_len = self.size.min(self.payload - start);
        let l4_len = header_len - self.l4 + payload_len;
        self.write_ip(index, payload_len, header);
        self.write_tcp(start, index + 1 == self.segments, header);
        let mut pseudo = self.fields.addresses;
        pseudo.add_u16(l4_len as u16);
        Some(Segment { header_len, payload_start: header_len + start, payload_len, l4: self.l4, pseudo })
    }

    /// Lengths, and for IPv4 the identification (one more for each segment, as hardware does it) and the checksum.
    #[inline]
    fn write_ip(&self, index: usize, payload_len: usize, header: &mut [u8; MAX_HEADERS]) {
        let ip_len = self.head.len() - self.l3 + payload_len;
        match self.version {
            IpVersion::V6 => put(header, self.l3 + 4, ((ip_len - 40) as u16).to_be_bytes()),
            IpVersion::V4 => {
                put(header, self.l3 + 2, (ip_len as u16).to_be_bytes());
                put(header, self.l3 + 4, self.fields.id.wrapping_add(index as u16).to_be_bytes());
                put(header, self.l3 + 10, [0; 2]);
                let mut sum = Sum::new();
                sum.add_bytes(header.get(self.l3..self.l4).unwrap_or_default());
                put(header, self.l3 + 10, sum.checksum().to_be_bytes());
            }
        }
    }

    /// Sequence number, flags and urgent pointer of the segment whose payload begins at `start` of the packet's.
    #[inline]
    fn write_tcp(&self, start: usize, last: bool, header: &mut [u8; MAX_HEADERS]) {
        let mut flags = self.fields.flags;
        if !last {
            flags &= !(FIN | PSH);
        }
        if start > 0 {
            // CWR answers one ECN echo, and is said once (RFC 3168 §6.1.2).
            flags &= !CWR;
        }
        let urgent = usize::from(self.fields.urgent).saturating_sub(start) as u16;
        if urgent == 0 {
            flags &= !URG;
        }
        put(header, self.l4 + 4, self.fields.seq.wrapping_add(start as u32).to_be_bytes());
        put(header, self.l4 + 13, [flags]);
        put(header, self.l4 + usize::from(TCP_CHECKSUM), [0; 2]);
        put(header, self.l4 + 18, urgent.to_be_bytes());
    }
}

impl Fields {
    fn read(head: &[u8], headers: &Headers) -> Result<Self, HeaderError> {
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        let (id, addresses) = match headers.version {
            IpVersion::V4 => {
                let (source, destination) = (bytes(head, l3 + 12)?, bytes(head, l3 + 16)?);
                (be16(head, l3 + 4)?, Sum::pseudo_v4(source, destination, PROTOCOL_TCP, 0))
            }
            IpVersion::V6 => {
                let (source, destination) = (bytes(head, l3 + 8)?, bytes(head, l3 + 24)?);
                (0, Sum::pseudo_v6(source, destination, PROTOCOL_TCP, 0))
            }
        };
        let [flags] = bytes(head, l4 + 13)?;
        Ok(Self {
            id,
            seq: bytes(head, l4 + 4).map(u32::from_be_bytes)?,
            flags,
            urgent: if flags & URG == 0 { 0 } else { be16(head, l4 + 18)? },
            addresses,
        })
    }
}

impl Segment {
    /// Puts the TCP checksum into `header`, the buffer that the segment's headers were written to. `payload` is the sum
    /// over the segment's payload.
    #[inline]
    pub fn finish(self, header: &mut [u8; MAX_HEADERS], payload: Sum) {
        let mut sum = self.pseudo;
        sum.add_bytes(header.get(self.l4..self.header_len).unwrap_or_default());
        sum.add_sum(payload);
        put(header, self.l4 + usize::from(TCP_CHECKSUM), stored(sum).to_be_bytes());
    }

    /// Puts the pseudo header's sum into the checksum field instead, for a receiver that takes packets with a checksum
    /// to be completed. Gives `csum_start` and `csum_offset` to tell it.
    #[inline]
    pub fn finish_partial(self, header: &mut [u8; MAX_HEADERS]) -> (u16, u16) {
        put(header, self.l4 + usize::from(TCP_CHECKSUM), self.pseudo.fold().to_be_bytes());
        (self.l4 as u16, TCP_CHECKSUM)
    }
}

/// Stores a field. All offsets were checked by [`Segmenter::new`]; one that is outside would store nothing.
#[inline]
fn put<const N: usize>(header: &mut [u8; MAX_HEADERS], at: usize, value: [u8; N]) {
    if let Some(field) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, SlicedPacket, TcpHeader};
    use etherparse::{NetSlice, TcpSlice, TransportSlice};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Shape {
        v6: bool,
        vlan: Option<u16>,
        options: Vec<u8>,
        flags: u8,
        seq: u32,
        id: u16,
        urgent: u16,
        payload: Vec<u8>,
        size: u16,
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let options = prop_oneof![
            Just(vec![]),
            Just(vec![1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7]),
            Just([&[1, 1, 8, 10, 9, 9, 9, 9, 4, 5, 6, 7, 1, 1, 5, 26][..], &[7; 24]].concat()),
        ];
        let payload = prop::collection::vec(any::<u8>(), 0..6000);
        let flags = any::<u8>().prop_map(|flags| flags & !(SYN | RST));
        (
            any::<bool>(),
            prop::option::of(1u16..4095),
            options,
            flags,
            any::<u32>(),
            any::<u16>(),
            0u16..9000,
            payload,
            64u16..4000,
        )
            .prop_map(|(v6, vlan, options, flags, seq, id, urgent, payload, size)| Shape {
                v6,
                vlan,
                options,
                flags,
                seq,
                id,
                urgent,
                payload,
                size,
            })
    }

    fn build(shape: &Shape) -> (Vec<u8>, Gso) {
        let mut tcp = TcpHeader::new(4000, 80, shape.seq, 1000);
        tcp.acknowledgment_number = 77;
        [tcp.fin, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr] =
            [0, 3, 4, 5, 6, 7].map(|bit| shape.flags >> bit & 1 == 1);
        tcp.urgent_pointer = shape.urgent;
        tcp.set_options_raw(&shape.options).expect("valid options");
        let ip = if shape.v6 {
            let (source, destination) = ([0xfd; 16], [0xfe; 16]);
            IpHeaders::Ipv6(Ipv6Header { source, destination, hop_limit: 3, ..Default::default() }, Default::default())
        } else {
            let mut header = Ipv4Header::new(0, 9, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 200]).expect("valid");
            header.identification = shape.id;
            header.options = [1, 1, 1, 0].as_slice().try_into().expect("valid options");
            IpHeaders::Ipv4(header, Default::default())
        };
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match shape.vlan {
            Some(vlan) => ethernet.single_vlan(vlan.try_into().expect("12 bits")).ip(ip),
            None => ethernet.ip(ip),
        };
        let mut packet = Vec::new();
        ip.tcp_header(tcp).write(&mut packet, &shape.payload).expect("valid packet");
        let l4 = packet.len() - shape.payload.len() - 20 - shape.options.len();
        let version = if shape.v6 { IpVersion::V6 } else { IpVersion::V4 };
        (packet, Gso { version, size: shape.size, csum_start: l4 as u16, csum_offset: 16 })
    }

    fn cut(packet: &[u8], gso: &Gso) -> Result<Vec<Vec<u8>>, OffloadError> {
        let segmenter = Segmenter::new(&packet[..packet.len().min(MAX_HEADERS)], packet.len(), gso)?;
        let mut header = [0xee; MAX_HEADERS];
        let mut segments = Vec::new();
        for index in 0..segmenter.segments() {
            let segment = segmenter.segment(index, &mut header).expect("in range");
            let payload = &packet[segment.payload_start..segment.payload_start + segment.payload_len];
            let mut sum = Sum::new();
            for piece in payload.chunks(501) {
                sum.add_bytes(piece);
            }
            let header_len = segment.header_len;
            segment.finish(&mut header, sum);
            assert!(header_len + payload.len() <= segmenter.longest());
            segments.push([&header[..header_len], payload].concat());
        }
        assert!(segmenter.segment(segmenter.segments(), &mut header).is_none());
        Ok(segments)
    }

    fn verified<'p>(packet: &'p [u8]) -> TcpSlice<'p> {
        let sliced = SlicedPacket::from_ethernet(packet).expect("valid packet");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        let right = match sliced.net.expect("IP") {
            NetSlice::Ipv4(ip) => {
                assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            }
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
            NetSlice::Arp(_) => panic!("not IP"),
        };
        let right = right.expect("not too long");
        assert_eq!(tcp.checksum(), if right == 0 { 0xffff } else { right });
        tcp
    }

    fn plain(len: usize, size: u16) -> (Vec<u8>, Gso) {
        build(&Shape {
            v6: false,
            vlan: None,
            options: vec![],
            flags: 0x19,
            seq: 1,
            id: 0xfffe,
            urgent: 0,
            payload: vec![5; len],
            size,
        })
    }

    proptest! {
        #[test]
        fn segments_are_the_packet(shape in shape()) {
            let (packet, gso) = build(&shape);
            let segments = cut(&packet, &gso).expect("valid");
            let mut rejoined: Vec<u8> = Vec::new();
            let size = usize::from(shape.size);
            prop_assert_eq!(segments.len(), shape.payload.len().div_ceil(size).max(1));
            let whole = SlicedPacket::from_ethernet(&packet).expect("valid packet");
            for (index, bytes) in segments.iter().enumerate() {
                let (first, last) = (index == 0, index + 1 == segments.len());
                let tcp = verified(bytes);
                prop_assert_eq!(tcp.sequence_number(), shape.seq.wrapping_add(rejoined.len() as u32));
                prop_assert!(last || tcp.payload().len() == size);
                let bit = |mask| shape.flags & mask != 0;
                prop_assert_eq!(tcp.fin(), last && bit(FIN));
                prop_assert_eq!(tcp.psh(), last && bit(PSH));
                prop_assert_eq!(tcp.cwr(), first && bit(CWR));
                prop_assert_eq!((tcp.ack(), tcp.ece()), (bit(0x10), bit(0x40)));
                prop_assert_eq!(tcp.acknowledgment_number(), 77);
                prop_assert_eq!(tcp.options(), &shape.options[..]);
                let urgent = usize::from(shape.urgent);
                prop_assert_eq!(tcp.urg(), bit(URG) && urgent > rejoined.len());
                prop_assert!(!tcp.urg() || usize::from(tcp.urgent_pointer()) + rejoined.len() == urgent);
                let sliced = SlicedPacket::from_ethernet(bytes).expect("valid packet");
                prop_assert_eq!(sliced.vlan_ids(), whole.vlan_ids());
                prop_assert_eq!(sliced.vlan_ids().len(), usize::from(shape.vlan.is_some()));
                if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
                    prop_assert_eq!(ip.header().identification(), shape.id.wrapping_add(index as u16));
                    prop_assert_eq!(ip.header().options(), &[1, 1, 1, 0]);
                }
                rejoined.extend(tcp.payload());
            }
            prop_assert_eq!(rejoined, shape.payload);
        }

        #[test]
        fn lies_end_in_an_error_or_in_segments(
            shape in shape(), damage in prop::collection::vec((0usize..120, any::<u8>()), 0..4),
            size: u16, csum_start in prop::option::of(any::<u16>()), len in prop::option::of(0usize..70_000), snapshot in 0usize..300,
        ) {
            let (mut packet, mut gso) = build(&shape);
            for (at, value) in damage {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            gso.size = size;
            gso.csum_start = csum_start.unwrap_or(gso.csum_start);
            let len = len.unwrap_or(packet.len());
            if let Ok(segmenter) = Segmenter::new(&packet[..packet.len().min(snapshot)], len, &gso) {
                let mut header = [0; MAX_HEADERS];
                let mut total = 0;
                prop_assert!(segmenter.segments() <= MAX_SEGMENTS);
                for index in 0..segmenter.segments() {
                    let segment = segmenter.segment(index, &mut header).expect("in range");
                    prop_assert_eq!(segment.payload_start, segmenter.header_len() + total);
                    total += segment.payload_len;
                    segment.finish(&mut header, Sum::new());
                }
                prop_assert_eq!(segmenter.header_len() + total, len);
            }
        }
    }

    #[test]
    fn each_lie_has_its_reason() {
        let (packet, gso) = plain(3000, 1000);
        let with = |at: usize, value: u8| {
            let mut changed = packet.clone();
            changed[at] = value;
            cut(&changed, &gso).expect_err("a lie")
        };
        // 14 bytes Ethernet, 24 IPv4, 20 TCP.
        assert_eq!(with(17, packet[17] ^ 1), OffloadError::WrongLength);
        assert_eq!(with(23, 17), OffloadError::NotTcp);
        assert_eq!(with(20, 0x20), OffloadError::NotTcp);
        assert_eq!(with(38 + 12, 0x40), OffloadError::NotTcp);
        assert_eq!(with(38 + 13, SYN), OffloadError::BadFlags);
        assert_eq!(with(38 + 13, RST), OffloadError::BadFlags);
        assert_eq!(with(12, 0x88), OffloadError::Headers(HeaderError::NotIp));
        let lie = |gso: Gso| cut(&packet, &gso).expect_err("a lie");
        assert_eq!(lie(Gso { version: IpVersion::V6, ..gso }), OffloadError::WrongVersion);
        assert_eq!(lie(Gso { csum_start: 34, ..gso }), OffloadError::ChecksumNotTcp);
        assert_eq!(lie(Gso { csum_offset: 6, ..gso }), OffloadError::ChecksumNotTcp);
        assert_eq!(lie(Gso { size: 0, ..gso }), OffloadError::ZeroSize);
        assert_eq!(lie(Gso { size: 11, ..gso }), OffloadError::TooManySegments);
        assert_eq!(cut(&packet, &Gso { size: 12, ..gso }).expect("250 segments").len(), 250);
        let short = Segmenter::new(&packet[..57], packet.len(), &gso);
        assert_eq!(short.expect_err("cut short"), OffloadError::NotTcp);
    }

    #[test]
    fn the_longest_packet_and_an_empty_one() {
        let (packet, gso) = plain(65_535 - 44, 256);
        let segments = cut(&packet, &gso).expect("valid");
        assert_eq!(segments.len(), 256);
        for segment in &segments {
            verified(segment);
        }
        let (packet, gso) = plain(0, 1460);
        assert_eq!(cut(&packet, &gso).expect("valid"), [packet]);
    }

    #[test]
    fn a_partial_checksum_can_be_completed() {
        let (packet, gso) = plain(2500, 1000);
        let segmenter = Segmenter::new(&packet[..MAX_HEADERS], packet.len(), &gso).expect("valid");
        let mut header = [0; MAX_HEADERS];
        for index in 0..3 {
            let segment = segmenter.segment(index, &mut header).expect("in range");
            let payload = &packet[segment.payload_start..segment.payload_start + segment.payload_len];
            let mut bytes = [&header[..segment.header_len], payload].concat();
            let (start, offset) = segment.finish_partial(&mut header);
            bytes[..segmenter.header_len()].copy_from_slice(&header[..segmenter.header_len()]);
            crate::offload::finish_checksum(&mut bytes, start, offset, Sum::new()).expect("inside");
            verified(&bytes);
        }
    }
}

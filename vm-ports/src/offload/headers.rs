//! Where the headers of a packet are, found in a local snapshot of its first bytes.

/// The longest snapshot that is looked at. Ethernet with two tags, IPv6 and a TCP header with all its options are 122
/// bytes; the rest is room for IPv6 extension headers.
pub const MAX_HEADERS: usize = 192;

/// IPv6 extension headers that are followed at most. More than this is legal and not seen in practice.
const MAX_EXTENSIONS: usize = 6;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

pub(super) const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;

/// The version of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What follows the IP header and its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP header, complete in the snapshot.
    Tcp,
    /// A UDP header, complete in the snapshot.
    Udp,
    /// A fragment: there may be no transport header, and where there is one, it speaks for a part of the data only.
    Fragment,
    /// Another protocol, or one behind an IPv6 header that is not followed (a source route still under way, AH, ESP).
    Other,
    /// TCP or UDP, or an IPv6 extension header, of an impossible length or not complete in the snapshot.
    Unreadable,
}

/// Offsets from the start of the frame, all of them inside the snapshot that they were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The version of the IP header.
    pub version: IpVersion,
    /// What follows it.
    pub transport: Transport,
    /// IP's number of the protocol that `l4` is at.
    pub protocol: u8,
    /// VLAN tags in front of the IP header: 0, 1 or 2.
    pub tags: u8,
    /// Start of the IP header; the length of the link layer's.
    pub l3: u16,
    /// End of the IP header and the IPv6 extension headers that were followed.
    pub l4: u16,
    /// End of the TCP or UDP header; `l4` where there is none.
    pub payload: u16,
}

/// Why no IP header was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The snapshot ends before the link layer's or the IP header does.
    #[error("headers are cut short")]
    Truncated,
    /// Neither IPv4 nor IPv6, or behind more than two VLAN tags.
    #[error("not an IP packet")]
    NotIp,
    /// The IP header contradicts itself: its version or one of its lengths.
    #[error("malformed IP header")]
    BadIpHeader,
}

/// Finds the headers in `head`, the first bytes of an Ethernet frame. Looks at no more than [`MAX_HEADERS`] of them.
#[inline]
pub fn parse(head: &[u8]) -> Result<Headers, HeaderError> {
    let head = head.get(..MAX_HEADERS).unwrap_or(head);
    let mut at = 12;
    let mut tags = 0;
    let mut ethertype = be16(head, at)?;
    while tags < 2 && matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
        at += 4;
        tags += 1;
        ethertype = be16(head, at)?;
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(head, at + 2, tags),
        ETHERTYPE_IPV6 => ipv6(head, at + 2, tags),
        _ => Err(HeaderError::NotIp),
    }
}

/// `N` bytes at `at`.
#[inline]
pub(super) fn bytes<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], HeaderError> {
    head.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(HeaderError::Truncated)
}

/// The 16-bit field at `at`.
#[inline]
pub(super) fn be16(head: &[u8], at: usize) -> Result<u16, HeaderError> {
    bytes(head, at).map(u16::from_be_bytes)
}

fn ipv4(head: &[u8], l3: usize, tags: u8) -> Result<Headers, HeaderError> {
    let fixed: [u8; 20] = bytes(head, l3)?;
    let length = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if fixed[0] >> 4 != 4 || length < 20 || total < length {
        return Err(HeaderError::BadIpHeader);
    }
    let l4 = l3 + length;
    if l4 > head.len() {
        return Err(HeaderError::Truncated);
    }
    // More fragments, or an offset that is not zero; neither "do not fragment" nor the reserved bit.
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    let (transport, payload) = if fragment { (Transport::Fragment, l4) } else { transport(head, l4, fixed[9]) };
    Ok(headers(IpVersion::V4, transport, fixed[9], tags, [l3, l4, payload]))
}

fn ipv6(head: &[u8], l3: usize, tags: u8) -> Result<Headers, HeaderError> {
    let fixed: [u8; 40] = bytes(head, l3)?;
    if fixed[0] >> 4 != 6 {
        return Err(HeaderError::BadIpHeader);
    }
    let (found, protocol, l4) = extensions(head, l3 + 40, fixed[6]);
    let (transport, payload) = match found {
        Some(transport) => (transport, l4),
        None => transport(head, l4, protocol),
    };
    Ok(headers(IpVersion::V6, transport, protocol, tags, [l3, l4, payload]))
}

/// Follows IPv6 extension headers (RFC 8200 §4) from `at`. Gives what stopped it other than a transport protocol, the
/// protocol number it stopped at, and where that is.
fn extensions(head: &[u8], mut at: usize, mut protocol: u8) -> (Option<Transport>, u8, usize) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    for _ in 0..MAX_EXTENSIONS {
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {}
            FRAGMENT => return (Some(Transport::Fragment), protocol, at),
            _ => return (None, protocol, at),
        }
        let Ok([next, units, _, segments_left]) = bytes::<4>(head, at) else {
            return (Some(Transport::Unreadable), protocol, at);
        };
        // While a source route is under way, the checksum covers an address that is not the header's destination.
        if protocol == ROUTING && segments_left != 0 {
            return (Some(Transport::Other), protocol, at);
        }
        let end = at + 8 + usize::from(units) * 8;
        if end > head.len() {
            return (Some(Transport::Unreadable), protocol, at);
        }
        protocol = next;
        at = end;
    }
    match protocol {
        HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT => (Some(Transport::Other), protocol, at),
        _ => (None, protocol, at),
    }
}

/// What is at `l4`, and where its header ends.
#[inline]
fn transport(head: &[u8], l4: usize, protocol: u8) -> (Transport, usize) {
    let (transport, length) = match protocol {
        PROTOCOL_TCP => match bytes::<1>(head, l4 + 12) {
            Ok([offset]) => (Transport::Tcp, usize::from(offset >> 4) * 4),
            Err(_) => return (Transport::Unreadable, l4),
        },
        PROTOCOL_UDP => (Transport::Udp, 8),
        _ => return (Transport::Other, l4),
    };
    let end = l4 + length;
    if end > head.len() || (transport == Transport::Tcp && length < 20) {
        return (Transport::Unreadable, l4);
    }
    (transport, end)
}

/// Offsets come from inside a snapshot of at most [`MAX_HEADERS`] bytes, so they fit.
fn headers(version: IpVersion, transport: Transport, protocol: u8, tags: u8, at: [usize; 3]) -> Headers {
    let [l3, l4, payload] = at.map(|offset| offset as u16);
    Headers { version, transport, protocol, tags, l3, l4, payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn tcp6_with(extensions: &[(u8, &[u8])], last: u8) -> Vec<u8> {
        let mut packet = vec![2; 12];
        packet.extend(ETHERTYPE_IPV6.to_be_bytes());
        packet.extend([0x60, 0, 0, 0, 1, 0, extensions.first().map_or(last, |first| first.0), 64]);
        packet.extend([0xfd; 32]);
        for (i, (_, body)) in extensions.iter().enumerate() {
            packet.push(extensions.get(i + 1).map_or(last, |next| next.0));
            packet.extend(*body);
        }
        packet.extend([0, 80, 1, 187, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn extension_headers_are_followed() {
        let options = [0, 0, 1, 2, 0, 0, 0];
        let long = [1, 0, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let found = parse(&tcp6_with(&[(0, &options), (60, &long)], 6)).expect("valid");
        assert_eq!((found.transport, found.l3, found.l4, found.payload), (Transport::Tcp, 14, 78, 98));
    }

    #[test]
    fn what_is_not_followed_says_so() {
        let options = [0, 0, 1, 2, 0, 0, 0];
        type Case<'a> = (&'a [(u8, &'a [u8])], u8, Transport);
        let cases: [Case; 7] = [
            (&[(44, &options)], 6, Transport::Fragment),
            (&[(43, &[0, 0, 1, 0, 0, 0, 0])], 6, Transport::Other),
            (&[(43, &[0, 0, 0, 0, 0, 0, 0])], 6, Transport::Tcp),
            (&[(60, &[255, 0, 1, 2, 0, 0, 0])], 6, Transport::Unreadable),
            (&[(60, &options as &[u8]); 7], 6, Transport::Other),
            (&[(60, &options as &[u8]); 6], 6, Transport::Tcp),
            (&[], 50, Transport::Other),
        ];
        for (extensions, last, expected) in cases {
            assert_eq!(parse(&tcp6_with(extensions, last)).expect("IPv6").transport, expected);
        }
    }

    #[test]
    fn lies_in_ipv4_are_refused() {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 2, 3, 4], [5, 6, 7, 8], 9);
        builder.tcp(1, 2, 3, 4).write(&mut packet, &[0; 8]).expect("valid packet");
        let with = |at: usize, value: u8| {
            let mut changed = packet.clone();
            changed[at] = value;
            parse(&changed)
        };
        assert_eq!(with(14, 0x44), Err(HeaderError::BadIpHeader));
        assert_eq!(with(14, 0x65), Err(HeaderError::BadIpHeader));
        assert_eq!(with(14, 0x4f), Err(HeaderError::BadIpHeader), "header longer than the packet");
        assert_eq!(with(17, 19), Err(HeaderError::BadIpHeader));
        assert_eq!(with(12, 0x09), Err(HeaderError::NotIp));
        for (at, value, expected) in [
            (20, 0x20, Transport::Fragment),
            (21, 1, Transport::Fragment),
            (46, 0x40, Transport::Unreadable),
            (46, 0xf0, Transport::Unreadable),
            (23, 1, Transport::Other),
        ] {
            assert_eq!(with(at, value).expect("IPv4").transport, expected, "{at} {value}");
        }
        assert_eq!(parse(&packet[..33]), Err(HeaderError::Truncated));
        assert_eq!(parse(&packet[..13]), Err(HeaderError::Truncated));
        assert_eq!(parse(&packet[..53]).expect("IPv4").transport, Transport::Unreadable);
    }

    #[test]
    fn two_tags_and_no_more() {
        let mut packet = vec![2; 12];
        packet.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
        let mut three = packet.clone();
        packet.extend(&tcp6_with(&[], 6)[12..]);
        let found = parse(&packet).expect("valid");
        assert_eq!((found.tags, found.l3, found.l4), (2, 22, 62));
        three.extend([0x81, 0, 0, 3, 8, 0]);
        assert_eq!(parse(&three), Err(HeaderError::NotIp));
    }

    /// Ethernet, then any of the parts in a shape that is nearly right, so that the deeper branches are reached.
    fn nearly_a_packet() -> impl Strategy<Value = Vec<u8>> {
        let ethertype = prop_oneof![Just([8u8, 0]), Just([0x86, 0xdd]), Just([0x81, 0]), any::<[u8; 2]>()];
        let first = prop_oneof![0x44u8..0x50, 0x60u8..0x62, any::<u8>()];
        let next = prop_oneof![Just(6u8), Just(17), Just(0), Just(43), Just(44), Just(60), any::<u8>()];
        (ethertype, first, next, prop::collection::vec(any::<u8>(), 0..260)).prop_map(
            |(ethertype, first, next, mut bytes)| {
                for (at, value) in [(12, ethertype[0]), (13, ethertype[1]), (14, first), (20, next), (23, next)] {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn offsets_stay_inside_and_in_order(head in nearly_a_packet()) {
            if let Ok(found) = parse(&head) {
                let limit = head.len().min(MAX_HEADERS) as u16;
                prop_assert!(14 <= found.l3 && found.l3 < found.l4 && found.l4 <= found.payload && found.payload <= limit);
                if found.transport == Transport::Tcp {
                    prop_assert!(found.payload - found.l4 >= 20);
                }
            }
        }

        #[test]
        fn agrees_with_etherparse(
            v6: bool, udp: bool, vlan in prop::option::of(1u16..4095), source: u16, destination: u16,
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip = if v6 {
                etherparse::IpHeaders::Ipv6(etherparse::Ipv6Header { hop_limit: 3, ..Default::default() }, Default::default())
            } else {
                etherparse::IpHeaders::Ipv4(etherparse::Ipv4Header::new(0, 9, etherparse::IpNumber::TCP, [1; 4], [2; 4]).unwrap(), Default::default())
            };
            let ip = match vlan {
                Some(vlan) => ethernet.single_vlan(vlan.try_into().unwrap()).ip(ip),
                None => ethernet.ip(ip),
            };
            let mut packet = Vec::new();
            if udp {
                ip.udp(source, destination).write(&mut packet, &payload).unwrap();
            } else {
                ip.tcp(source, destination, 1, 2).write(&mut packet, &payload).unwrap();
            }
            let found = parse(&packet).unwrap();
            let sliced = SlicedPacket::from_ethernet(&packet).unwrap();
            prop_assert_eq!(usize::from(found.payload), packet.len() - payload.len());
            prop_assert_eq!(found.tags, u8::from(vlan.is_some()));
            let l4 = usize::from(found.l4);
            match sliced.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    prop_assert_eq!(found.transport, Transport::Tcp);
                    prop_assert_eq!(tcp.slice(), &packet[l4..l4 + tcp.slice().len()]);
                }
                Some(TransportSlice::Udp(_)) => prop_assert_eq!(found.transport, Transport::Udp),
                _ => prop_assert!(false, "etherparse sees no transport header"),
            }
        }
    }
}

//! The flow of a packet as a number, to spread packets over queues while each flow keeps to one.

use super::headers::{Headers, IpVersion, PROTOCOL_TCP, PROTOCOL_UDP, Transport, bytes};

/// Odd numbers without structure (digits of π), so that inputs with few bits set still fill the product.
const KEYS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345];

/// A hash of the flow that a packet belongs to: addresses, protocol and ports of IP (addresses alone where it is a
/// fragment or the ports are not in the snapshot), the MAC addresses otherwise. `headers` is what [`super::parse`] found in
/// `head`. The hash is not symmetric, and not secret: a sender that wants all its packets in one queue needs no
/// collisions for that.
#[inline]
pub fn flow_hash(head: &[u8], headers: Option<&Headers>) -> u32 {
    let hash = match headers {
        Some(headers) => mix(addresses(head, headers), ports(head, headers)),
        None => mix(word(head, 0), word(head, 4)),
    };
    // The upper half: there, more bits of the input had a say.
    (hash >> 32) as u32
}

#[inline]
fn addresses(head: &[u8], headers: &Headers) -> u64 {
    let l3 = usize::from(headers.l3);
    match headers.version {
        IpVersion::V4 => word(head, l3 + 12),
        IpVersion::V6 => {
            let source = mix(word(head, l3 + 8), word(head, l3 + 16));
            let destination = mix(word(head, l3 + 24), word(head, l3 + 32));
            mix(source, destination)
        }
    }
}

/// Protocol and ports; zero where they cannot be told or not all packets of the flow have them. Ports come first in a header: they are also
/// there where the rest of it is not in the snapshot.
#[inline]
fn ports(head: &[u8], headers: &Headers) -> u64 {
    match (headers.transport, headers.protocol) {
        (Transport::Tcp | Transport::Udp | Transport::Unreadable, PROTOCOL_TCP | PROTOCOL_UDP) => {
            let ports = bytes(head, usize::from(headers.l4)).map_or(0, u32::from_le_bytes);
            u64::from(ports) << 8 | u64::from(headers.protocol)
        }
        _ => 0,
    }
}

/// Eight bytes at `at`; zero where there are fewer.
#[inline]
fn word(head: &[u8], at: usize) -> u64 {
    bytes(head, at).map_or(0, u64::from_le_bytes)
}

/// Two words made one: their product in 128 bits, the halves laid over each other.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ KEYS[0]) * u128::from(b ^ KEYS[1]);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::parse;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn tcp(last: u8, source: u16, seq: u32) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, last], [10, 0, 1, 1], 64)
            .tcp(source, 443, seq, 4096)
            .write(&mut packet, &[0; 10])
            .expect("valid packet");
        packet
    }

    fn hash(packet: &[u8]) -> u32 {
        flow_hash(packet, parse(packet).as_ref().ok())
    }

    #[test]
    fn a_flow_keeps_its_hash() {
        assert_eq!(hash(&tcp(1, 1000, 1)), hash(&tcp(1, 1000, 99)));
        assert_ne!(hash(&tcp(1, 1000, 1)), hash(&tcp(1, 1001, 1)));
        assert_ne!(hash(&tcp(1, 1000, 1)), hash(&tcp(2, 1000, 1)));
    }

    #[test]
    fn all_fragments_of_a_packet_go_one_way() {
        let mut first = tcp(1, 1000, 1);
        first[20] = 0x20;
        let mut later = tcp(1, 7, 7);
        later[21] = 0x10;
        assert_eq!(hash(&first), hash(&later));
    }

    #[test]
    fn a_header_that_is_cut_short_behind_its_ports_makes_no_difference() {
        let tcp6 = |source| {
            let mut packet = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv6([0xfd; 16], [1; 16], 64)
                .tcp(source, 443, 1, 4096)
                .write(&mut packet, &[0; 10])
                .expect("valid packet");
            packet
        };
        let (one, other) = (tcp6(1000), tcp6(1001));
        assert_eq!(hash(&one[..64]), hash(&one));
        assert_ne!(hash(&one[..64]), hash(&other[..64]));
    }

    #[test]
    fn flows_spread_over_queues() {
        for queues in [2, 3, 4, 8] {
            let mut hits = vec![0u32; queues];
            for source in 0..4000u16 {
                hits[hash(&tcp((source % 7) as u8, 32_768 + source, 0)) as usize % queues] += 1;
            }
            let mean = 4000 / queues as u32;
            assert!(hits.iter().all(|&hit| hit > mean * 8 / 10 && hit < mean * 12 / 10), "{hits:?}");
        }
    }

    #[test]
    fn ipv6_flows_spread_over_queues() {
        let mut hits = [0u32; 4];
        for source in 0..4000u16 {
            let mut packet = Vec::new();
            let mut address = [0xfd; 16];
            address[15] = source as u8;
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv6(address, [1; 16], 64)
                .udp(source / 256, 53)
                .write(&mut packet, &[])
                .expect("valid packet");
            hits[hash(&packet) as usize % 4] += 1;
        }
        assert!(hits.iter().all(|&hit| hit > 800 && hit < 1200), "{hits:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_hash(head in prop::collection::vec(any::<u8>(), 0..200), other in prop::collection::vec(any::<u8>(), 0..200)) {
            hash(&head);
            // Headers that belong to another packet give a useless hash, not a panic.
            flow_hash(&other, parse(&head).as_ref().ok());
        }
    }
}

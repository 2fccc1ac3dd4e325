//! Checksums and segmentation between guests that can do different things.

use std::collections::BTreeMap;

use synthetic_guest::packet::{Checksum, FrameSpec, Transport};
use synthetic_guest::{Features, Gso, GuestConfig, Offload};

use crate::frames::{Packet, Parsed, addresses, one, tcp};
use crate::rig::{Node, Plan, Rig};

/// The longest frames of either kind that IP's length fields allow in a frame of 64 KiB.
const LONGEST: usize = 65_535 + 14;

fn taking(features: Features) -> impl FnOnce(&mut GuestConfig) {
    move |config| {
        config.session.features = Features::VERSION_1 | Features::MRG_RXBUF | features;
        config.session.required = features;
        config.rx_ring = 512;
        config.tx_ring = 64;
        config.tx_frame_len = LONGEST;
    }
}

/// A sender that leaves everything to the switch, and a receiver that takes `features`. They know each other.
fn pair(features: Features) -> (Rig, Node, Node) {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let mut a = rig.guest_with("a", taking(Features::OFFLOADS));
    let mut b = rig.guest_with("b", taking(features));
    b.send(&[one(2, 1)]);
    a.received();
    (rig, a, b)
}

/// Segments as they should be: headers of their own, numbers without a gap, together the payload of `sent`.
fn assert_segments(sent: &Packet, segments: &[Packet], partial: bool) {
    let whole = Parsed::new(&sent.bytes);
    let payload = &sent.bytes[whole.payload..whole.end];
    let size = usize::from(sent.offload.gso_size);
    assert_eq!(segments.len(), payload.len().div_ceil(size));
    for (number, (segment, piece)) in segments.iter().zip(payload.chunks(size)).enumerate() {
        let parsed = Parsed::new(&segment.bytes);
        assert_eq!((parsed.payload, parsed.end), (whole.payload, segment.bytes.len()));
        assert!(segment.bytes[parsed.payload..] == *piece, "payload of segment {number}");
        let expected = whole.sequence(&sent.bytes).wrapping_add((number * size) as u32);
        assert_eq!(parsed.sequence(&segment.bytes), expected);
        assert_eq!(segment.offload.gso, Gso::None);
        if partial {
            assert_eq!(segment.offload.flags, Offload::NEEDS_CSUM);
            assert_eq!(usize::from(segment.offload.csum_start), parsed.l4);
            assert!(parsed.checksum_is_partial(&segment.bytes), "checksum of segment {number}");
        } else {
            assert_eq!(segment.offload.flags & Offload::NEEDS_CSUM, 0);
            assert!(parsed.checksums_hold(&segment.bytes), "checksum of segment {number}");
        }
    }
}

#[test]
fn two_guests_with_tso_exchange_64_kib_untouched() {
    let (rig, mut a, mut b) = pair(Features::OFFLOADS);
    for version in [4, 6] {
        for (len, size) in [(LONGEST, 1448), (20_000, 536), (1600, 1400)] {
            let sent = Packet::new(FrameSpec { gso_size: Some(size), ..tcp(version, len) });
            for _ in 0..5 {
                a.send(std::slice::from_ref(&sent));
                let [arrived] = &b.received()[..] else { panic!("one frame") };
                assert!(arrived.bytes == sent.bytes, "IPv{version}, {len} bytes");
                let Offload { flags, gso, gso_size, csum_start, csum_offset, .. } = arrived.offload;
                assert_eq!((flags, gso, gso_size), (sent.offload.flags, sent.offload.gso, size));
                assert_eq!((csum_start, csum_offset), (sent.offload.csum_start, sent.offload.csum_offset));
            }
        }
    }
    let port = rig.port("b");
    assert_eq!((port.rx.packets, port.rx.bytes), (30, 10 * (LONGEST as u64 + 20_000 + 1600)));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_receiver_without_tso_gets_segments_with_checksums() {
    let (rig, mut a, mut b) = pair(Features::NONE);
    for version in [4, 6] {
        for (len, size) in [(LONGEST, 1448), (30_001, 1000), (3000, 1448), (1000, 1448)] {
            let sent = Packet::new(FrameSpec { gso_size: Some(size), ..tcp(version, len) });
            a.send(std::slice::from_ref(&sent));
            assert_segments(&sent, &b.received(), false);
        }
    }
    assert_eq!(rig.port("a").accounting.forwarded, 8);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_receiver_with_checksum_offload_alone_gets_segments_to_complete() {
    let (rig, mut a, mut b) = pair(Features::GUEST_CSUM);
    for version in [4, 6] {
        for (len, size) in [(LONGEST, 1448), (3000, 1448)] {
            let sent = Packet::new(FrameSpec { gso_size: Some(size), ..tcp(version, len) });
            a.send(std::slice::from_ref(&sent));
            assert_segments(&sent, &b.received(), true);
        }
    }
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn tso_is_a_matter_of_each_ip_version() {
    let (rig, mut a, mut b) = pair(Features::GUEST_CSUM | Features::GUEST_TSO4);
    let sent = Packet::new(FrameSpec { gso_size: Some(1448), ..tcp(4, 20_000) });
    a.send(std::slice::from_ref(&sent));
    let [arrived] = &b.received()[..] else { panic!("one frame") };
    assert!(arrived.bytes == sent.bytes);
    let sent = Packet::new(FrameSpec { gso_size: Some(1448), ..tcp(6, 20_000) });
    a.send(std::slice::from_ref(&sent));
    assert_segments(&sent, &b.received(), true);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn checksums_are_completed_for_those_who_cannot() {
    let rig = Plan::new().guests(&["a", "b", "c"]).start();
    let mut a = rig.guest_with("a", taking(Features::OFFLOADS));
    let mut b = rig.guest_with("b", taking(Features::NONE));
    let mut c = rig.guest_with("c", taking(Features::GUEST_CSUM));
    for version in [4, 6] {
        for transport in [Transport::Udp, Transport::Tcp] {
            for len in [90, 91, 200, 1513, 1514, 8999, LONGEST] {
                let spec = FrameSpec {
                    ip: addresses(version),
                    transport,
                    checksum: Checksum::Partial,
                    ..FrameSpec::udp4(1, 2, 9, len)
                };
                // Nobody knows station 2, so both get it, each in its own form.
                let sent = Packet::new(spec);
                a.send(std::slice::from_ref(&sent));
                let [complete] = &b.received()[..] else { panic!("one frame") };
                let parsed = Parsed::new(&complete.bytes);
                assert!(parsed.checksums_hold(&complete.bytes), "IPv{version} {transport:?} {len}");
                assert!(complete.bytes[parsed.payload..] == sent.bytes[parsed.payload..]);
                assert_eq!(complete.offload.flags & Offload::NEEDS_CSUM, 0);

                let [partial] = &c.received()[..] else { panic!("one frame") };
                assert!(partial.bytes == sent.bytes);
                assert_eq!(partial.offload.flags, Offload::NEEDS_CSUM);
                assert_eq!(partial.offload.csum_start, sent.offload.csum_start);
            }
        }
    }
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn a_complete_checksum_is_left_alone() {
    let (rig, mut a, mut b) = pair(Features::NONE);
    for version in [4, 6] {
        let spec = FrameSpec { checksum: Checksum::Full, ..tcp(version, 700) };
        let mut sent = Packet::new(spec);
        // Even a wrong one: it is not the switch's.
        for _ in 0..2 {
            a.send(std::slice::from_ref(&sent));
            assert_eq!(b.frames(), std::slice::from_ref(&sent.bytes));
            *sent.bytes.last_mut().unwrap() ^= 1;
        }
    }
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn metadata_that_cannot_be_true_is_dropped_and_counted() {
    let (rig, mut a, mut b) = pair(Features::OFFLOADS);
    let good = Packet::new(FrameSpec { gso_size: Some(1000), ..tcp(4, 3000) });
    let with = |change: fn(&mut Offload)| {
        let mut packet = good.clone();
        change(&mut packet.offload);
        packet
    };
    let bad = [
        with(|offload| offload.csum_start = 2999),
        with(|offload| offload.csum_start = u16::MAX),
        with(|offload| offload.csum_start = 12),
        with(|offload| offload.csum_offset = 2965),
        with(|offload| offload.gso_size = 0),
        with(|offload| offload.gso = Gso::Udp),
        with(|offload| offload.gso = Gso::Raw(77)),
        with(|offload| offload.flags = 0),
    ];
    a.send(&bad);
    let arrived = b.received();
    assert!(arrived.is_empty(), "{:?}", arrived.iter().map(|packet| packet.offload).collect::<Vec<_>>());
    assert_eq!(rig.drops("a"), BTreeMap::from([("bad_offload".to_owned(), bad.len() as u64)]));
    a.send(std::slice::from_ref(&good));
    assert_eq!(b.frames(), [good.bytes]);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn what_only_the_device_may_say_is_stripped() {
    let (rig, mut a, mut b) = pair(Features::OFFLOADS);
    let mut packet = one(1, 2);
    packet.offload.flags = Offload::DATA_VALID | Offload::RSC_INFO;
    a.send(&[packet]);
    let [arrived] = &b.received()[..] else { panic!("one frame") };
    assert_eq!(arrived.offload.flags, 0);
    rig.finish(&mut [&mut a, &mut b]);
}

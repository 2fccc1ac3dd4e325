//! VLAN tags on access and trunk ports.

use std::collections::BTreeMap;

use synthetic_guest::packet::{Checksum, FrameSpec, Transport};
use synthetic_guest::{Features, Gso, GuestConfig};

use crate::frames::{Packet, Parsed, addressed, addresses, bytes, one, tagged, tcp};
use crate::rig::Plan;

const BROADCAST: [u8; 6] = [0xff; 6];

fn drops(reason: &str, count: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(reason.to_owned(), count)])
}

fn checksum_offload(config: &mut GuestConfig) {
    config.session.features = Features::VERSION_1 | Features::CSUM | Features::GUEST_CSUM;
}

#[test]
fn access_ports_see_their_own_vlan_only() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("b", &["vlan = { access = 10 }"])
        .guest("c", &["vlan = { access = 20 }"])
        .guest("d", &["vlan = { access = 20 }"])
        .start();
    let [mut a, mut b, mut c, mut d] = rig.guests(["a", "b", "c", "d"]);
    // The same addresses in both VLANs are different stations.
    a.send(&[addressed(1, BROADCAST)]);
    c.send(&[addressed(1, BROADCAST)]);
    assert_eq!((b.frames().len(), d.frames().len()), (1, 1));
    b.send(&[one(2, 1)]);
    d.send(&[one(2, 1), one(2, 1)]);
    assert_eq!((a.frames(), c.frames()), (bytes(&[one(2, 1)]), bytes(&[one(2, 1), one(2, 1)])));
    assert!(b.frames().is_empty() && d.frames().is_empty());
    let vlans: Vec<(u64, String)> = rig.stations().into_iter().map(|(vlan, _, port, _)| (vlan, port)).collect();
    let expected = [(10, "a"), (10, "b"), (20, "c"), (20, "d")].map(|(vlan, port)| (vlan, port.to_owned()));
    assert_eq!(vlans, expected);
    rig.finish(&mut [&mut a, &mut b, &mut c, &mut d]);
}

#[test]
fn a_tag_comes_with_the_way_into_a_trunk_and_goes_with_the_way_out() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("b", &["vlan = { access = 20 }"])
        .guest("t", &["vlan = { trunk = [10, 20] }"])
        .start();
    let [mut a, mut b, mut t] = rig.guests(["a", "b", "t"]);
    a.send(&[addressed(1, BROADCAST)]);
    b.send(&[addressed(1, BROADCAST)]);
    let plain = addressed(1, BROADCAST).bytes;
    assert_eq!(t.frames(), [tagged(&plain, 10), tagged(&plain, 20)]);

    let answer = one(9, 1).bytes;
    t.send(&[Packet::plain(tagged(&answer, 0xa00a)), Packet::plain(tagged(&answer, 20))]);
    assert_eq!((a.frames(), b.frames()), (vec![answer.clone()], vec![answer.clone()]));
    // Known stations: now without a flood.
    a.send(&[one(1, 9)]);
    assert_eq!((t.frames(), b.frames().len()), (vec![tagged(&one(1, 9).bytes, 10)], 0));
    rig.finish(&mut [&mut a, &mut b, &mut t]);
}

#[test]
fn priority_is_kept() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("b", &["vlan = { access = 10 }"])
        .guest("t", &["vlan = { trunk = [10, 20], native = 30 }"])
        .guest("u", &["vlan = { trunk = \"all\" }"])
        .start();
    let [mut a, mut b, mut t, mut u] = rig.guests(["a", "b", "t", "u"]);
    let plain = addressed(1, BROADCAST).bytes;
    // A priority tag: priority 5, drop eligible, no VLAN.
    a.send(&[Packet::plain(tagged(&plain, 0xb000))]);
    assert_eq!(b.frames(), std::slice::from_ref(&plain));
    assert_eq!((t.frames(), u.frames()), (vec![tagged(&plain, 0xb00a)], vec![tagged(&plain, 0xb00a)]));
    // From trunk to trunk the tag stays as it is; in a native VLAN there is none.
    let from_t = addressed(2, BROADCAST).bytes;
    t.send(&[
        Packet::plain(tagged(&from_t, 0xe014)),
        Packet::plain(tagged(&from_t, 0x6000)),
        Packet::plain(from_t.clone()),
    ]);
    assert_eq!(u.frames(), [tagged(&from_t, 0xe014), tagged(&from_t, 0x601e), tagged(&from_t, 30)]);
    assert!(a.frames().is_empty() && b.frames().is_empty());
    rig.finish(&mut [&mut a, &mut b, &mut t, &mut u]);
}

#[test]
fn untagged_frames_of_a_trunk_are_in_its_native_vlan() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("t", &["vlan = { trunk = [20], native = 10 }"])
        .guest("strict", &["vlan = { trunk = [10] }"])
        .start();
    let [mut a, mut t, mut strict] = rig.guests(["a", "t", "strict"]);
    let plain = addressed(1, BROADCAST).bytes;
    t.send(&[Packet::plain(plain.clone()), Packet::plain(tagged(&plain, 10)), Packet::plain(tagged(&plain, 30))]);
    assert_eq!((a.frames(), strict.frames()), (vec![plain.clone()], vec![tagged(&plain, 10)]));
    // Tagged with the native VLAN, which this trunk does not carry tagged, and with one it has not at all.
    assert_eq!(rig.drops("t"), drops("vlan_not_allowed", 2));

    a.send(&[addressed(3, BROADCAST)]);
    let from_a = addressed(3, BROADCAST).bytes;
    assert_eq!((t.frames(), strict.frames()), (vec![from_a.clone()], vec![tagged(&from_a, 10)]));
    strict.send(&[Packet::plain(plain.clone()), Packet::plain(tagged(&plain, 0xe000))]);
    assert!(a.frames().is_empty() && t.frames().is_empty());
    assert_eq!(rig.drops("strict"), drops("vlan_not_allowed", 2));
    rig.finish(&mut [&mut a, &mut t, &mut strict]);
}

#[test]
fn an_access_port_cannot_tag_its_way_anywhere() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("b", &["vlan = { access = 10 }"])
        .guest("c", &["vlan = { access = 20 }"])
        .guest("t", &["vlan = { trunk = [20], native = 10 }"])
        .guest("u", &["vlan = { trunk = \"all\" }"])
        .start();
    let [mut a, mut b, mut c, mut t, mut u] = rig.guests(["a", "b", "c", "t", "u"]);
    let plain = addressed(1, BROADCAST).bytes;
    let sent: Vec<Packet> = [1, 10, 20, 4094, 4095].iter().map(|vlan| Packet::plain(tagged(&plain, *vlan))).collect();
    a.send(&sent);
    // Two tags, the outer one a priority tag: what is behind it is payload, and stays in VLAN 10.
    let inner = tagged(&plain, 20);
    a.send(&[Packet::plain(tagged(&inner, 0))]);
    assert_eq!(b.frames(), std::slice::from_ref(&inner));
    assert!(c.frames().is_empty());
    // Without the outer tag it would be of VLAN 20 for whoever is behind this port: one copy less. With it, it is of VLAN 10.
    assert_eq!(rig.drops("a"), drops("vlan_not_allowed", 6));
    assert!(t.frames().is_empty());
    assert_eq!(u.frames(), [tagged(&inner, 10)]);
    // The same to this port alone.
    t.send(&[addressed(7, BROADCAST)]);
    [&mut a, &mut b, &mut u].into_iter().for_each(|node| assert_eq!(node.frames().len(), 1));
    let to_t = tagged(&tagged(&one(1, 7).bytes, 20), 0);
    a.send(&[Packet::plain(to_t)]);
    assert!(t.frames().is_empty());
    assert_eq!(rig.drops("a"), drops("vlan_not_allowed", 7));
    rig.finish(&mut [&mut a, &mut b, &mut c, &mut t, &mut u]);
}

#[test]
fn a_flood_leaves_every_port_in_its_own_form() {
    let rig = Plan::new()
        .guest("in", &["vlan = { trunk = [10] }"])
        .guest("p1", &["vlan = { access = 10 }"])
        .guest("p2", &["vlan = { trunk = [10, 20] }"])
        .guest("p3", &["vlan = { trunk = [20], native = 10 }"])
        .guest("p4", &["vlan = { access = 20 }"])
        .guest("p5", &["vlan = { trunk = \"all\" }"])
        .guest("p6", &["vlan = { access = 10 }"])
        .start();
    let [mut source, mut p1, mut p2, mut p3, mut p4, mut p5, mut p6] =
        rig.guests(["in", "p1", "p2", "p3", "p4", "p5", "p6"]);
    let plain = addressed(1, BROADCAST).bytes;
    let with = tagged(&plain, 0x400a);
    source.send(&vec![Packet::plain(with.clone()); 40]);
    for node in [&mut p1, &mut p3, &mut p6] {
        assert_eq!(node.frames(), vec![plain.clone(); 40]);
    }
    for node in [&mut p2, &mut p5] {
        assert_eq!(node.frames(), vec![with.clone(); 40]);
    }
    assert!(p4.frames().is_empty());
    let accounting = rig.port("in").accounting;
    assert_eq!((accounting.forwarded, accounting.copies, accounting.delivered), (40, 200, 200));
    rig.finish(&mut [&mut source, &mut p1, &mut p2, &mut p3, &mut p4, &mut p5, &mut p6]);
}

#[test]
fn checksum_metadata_moves_with_the_tag() {
    let rig = Plan::new().guest("a", &["vlan = { access = 10 }"]).guest("t", &["vlan = { trunk = [10] }"]).start();
    let mut a = rig.guest_with("a", checksum_offload);
    let mut t = rig.guest_with("t", checksum_offload);
    for version in [4, 6] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let spec = FrameSpec {
                ip: addresses(version),
                transport,
                checksum: Checksum::Partial,
                ..FrameSpec::udp4(1, 2, 7, 200)
            };
            let sent = Packet::new(spec);
            a.send(std::slice::from_ref(&sent));
            let [arrived] = &t.received()[..] else { panic!("one frame") };
            assert_eq!(arrived.bytes, tagged(&sent.bytes, 10));
            assert_eq!((arrived.offload.flags, arrived.offload.gso), (sent.offload.flags, Gso::None));
            assert_eq!(arrived.offload.csum_start, sent.offload.csum_start + 4);
            assert_eq!(arrived.offload.csum_offset, sent.offload.csum_offset);

            let sent = Packet::new(FrameSpec { vlan: Some(0x600a), ..spec });
            t.send(std::slice::from_ref(&sent));
            let [arrived] = &a.received()[..] else { panic!("one frame") };
            assert_eq!(tagged(&arrived.bytes, 0x600a), sent.bytes);
            assert_eq!(arrived.offload.csum_start, sent.offload.csum_start - 4);
            assert!(Parsed::new(&arrived.bytes).checksum_is_partial(&arrived.bytes));
        }
    }
    rig.finish(&mut [&mut a, &mut t]);
}

#[test]
fn checksums_are_completed_and_segments_cut_behind_a_tag_too() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("t", &["vlan = { trunk = [10] }"])
        .guest("b", &["vlan = { access = 10 }"])
        .start();
    let mut a = rig.guest_with("a", |config| {
        config.session.features = Features::VERSION_1 | Features::OFFLOADS;
        config.tx_frame_len = 10_000;
    });
    let [mut t, mut b] = rig.guests(["t", "b"]);
    for version in [4, 6] {
        // Both addresses are unknown, so each of the two gets a copy of its own kind.
        let spec = FrameSpec { gso_size: Some(1000), ..tcp(version, 7000) };
        let sent = Packet::new(spec);
        let payload = &sent.bytes[Parsed::new(&sent.bytes).payload..];
        a.send(std::slice::from_ref(&sent));
        for (node, tci) in [(&mut t, Some(10)), (&mut b, None)] {
            let mut joined = Vec::new();
            for segment in node.received() {
                let parsed = Parsed::new(&segment.bytes);
                assert_eq!(parsed.l3, if tci.is_some() { 18 } else { 14 });
                assert!(parsed.checksums_hold(&segment.bytes));
                assert_eq!(segment.offload.flags, 0);
                joined.extend_from_slice(&segment.bytes[parsed.payload..parsed.end]);
            }
            assert!(joined == payload, "{version} {tci:?}");
        }
    }
    rig.finish(&mut [&mut a, &mut t, &mut b]);
}

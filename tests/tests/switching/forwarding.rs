//! Where a frame goes.

use std::collections::BTreeMap;

use sidecore_tests::switch::Accounting;
use synthetic_guest::packet::mac;

use crate::frames::{Packet, addressed, bytes, one, udp};
use crate::rig::Plan;

const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn unicast_is_flooded_until_its_station_is_known() {
    let rig = Plan::new().guests(&["a", "b", "c"]).start();
    let [mut a, mut b, mut c] = rig.guests(["a", "b", "c"]);
    let unknown = udp(1, 2, 300, 3);
    a.send(&unknown);
    assert_eq!((b.frames(), c.frames(), a.frames().len()), (bytes(&unknown), bytes(&unknown), 0));

    let answer = udp(2, 1, 400, 5);
    b.send(&answer);
    assert_eq!((a.frames(), c.frames().len()), (bytes(&answer), 0));
    let known = udp(1, 2, 1514, 7);
    a.send(&known);
    assert_eq!((b.frames(), c.frames().len()), (bytes(&known), 0));

    let port = rig.port("a");
    let expected = Accounting { pulled: 10, forwarded: 10, copies: 6, delivered: 6, ..Accounting::default() };
    assert_eq!((port.accounting, port.drops), (expected, BTreeMap::new()));
    assert_eq!((port.tx.packets, port.tx.bytes), (10, 3 * 300 + 7 * 1514));
    assert_eq!((port.rx.packets, port.rx.bytes), (5, 5 * 400));
    let expected = Accounting { pulled: 5, forwarded: 5, ..Accounting::default() };
    assert_eq!(rig.port("b").accounting, expected);
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn broadcast_and_multicast_reach_everybody_else() {
    let rig = Plan::new().guests(&["a", "b", "c", "d"]).start();
    let [mut a, mut b, mut c, mut d] = rig.guests(["a", "b", "c", "d"]);
    let groups = [BROADCAST, [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [0x01, 0x80, 0xc2, 0, 0, 0x10]];
    let sent: Vec<Packet> = groups.iter().map(|group| addressed(1, *group)).collect();
    for _ in 0..50 {
        a.send(&sent);
        for node in [&mut b, &mut c, &mut d] {
            assert_eq!(node.frames(), bytes(&sent));
        }
    }
    assert!(a.frames().is_empty());
    let expected = Accounting { pulled: 200, forwarded: 200, copies: 600, delivered: 600, ..Accounting::default() };
    assert_eq!(rig.port("a").accounting, expected);
    rig.finish(&mut [&mut a, &mut b, &mut c, &mut d]);
}

#[test]
fn a_port_nobody_is_connected_to_costs_a_counted_copy() {
    let rig = Plan::new().guests(&["a", "b", "nobody"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    a.send(&vec![addressed(1, BROADCAST); 20]);
    assert_eq!(b.frames().len(), 20);
    let port = rig.port("a");
    let expected =
        Accounting { pulled: 20, forwarded: 20, copies: 40, delivered: 20, copy_drops: 20, ..Accounting::default() };
    assert_eq!((port.accounting, port.drops), (expected, BTreeMap::from([("receiver_not_ready".to_owned(), 20)])));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn what_concerns_the_link_alone_is_not_forwarded() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let reserved: Vec<Packet> = (0..16).map(|last| addressed(1, [0x01, 0x80, 0xc2, 0, 0, last])).collect();
    a.send(&reserved);
    assert!(b.frames().is_empty());
    let port = rig.port("a");
    let expected = Accounting { pulled: 16, dropped: 16, ..Accounting::default() };
    assert_eq!((port.accounting, port.drops), (expected, BTreeMap::from([("reserved_multicast".to_owned(), 16)])));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn frames_without_a_whole_header_are_dropped() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let whole = addressed(1, BROADCAST).bytes;
    let cut = |len: usize| Packet::plain(whole[..len].to_vec());
    a.send(&[cut(1), cut(13), cut(14), cut(15), cut(59)]);
    assert_eq!(b.frames(), [&whole[..14], &whole[..15], &whole[..59]]);
    // A tag is announced, and ends before the type behind it.
    let mut tagged = whole.clone();
    tagged[12..16].copy_from_slice(&[0x81, 0x00, 0, 0]);
    a.send(&[Packet::plain(tagged[..15].to_vec()), Packet::plain(tagged[..17].to_vec())]);
    assert!(b.frames().is_empty());
    let expected = BTreeMap::from([("bad_length".to_owned(), 2), ("runt".to_owned(), 2)]);
    assert_eq!(rig.drops("a"), expected);
    assert_eq!((rig.port("a").accounting.pulled, rig.port("a").accounting.dropped), (7, 4));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_frame_for_its_own_port_is_dropped() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    // Two stations behind one port talk to each other without the switch.
    a.send(&[addressed(1, BROADCAST), addressed(11, BROADCAST)]);
    assert_eq!(b.frames().len(), 2);
    a.send(&[one(1, 11), one(11, 1), one(1, 1)]);
    assert!(a.frames().is_empty() && b.frames().is_empty());
    assert_eq!(rig.drops("a"), BTreeMap::from([("hairpin".to_owned(), 3)]));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn nobody_sends_from_a_group_or_from_nowhere() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let from = |source: [u8; 6]| {
        let mut packet = addressed(1, BROADCAST);
        packet.bytes[6..12].copy_from_slice(&source);
        packet
    };
    a.send(&[from([0; 6]), from(BROADCAST), from([0x01, 0, 0x5e, 0, 0, 1]), from(mac(1))]);
    assert_eq!(b.frames().len(), 1);
    assert_eq!(rig.drops("a"), BTreeMap::from([("bad_source".to_owned(), 3)]));
    assert_eq!(rig.stations().len(), 1);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn alone_in_its_vlan_there_is_nowhere_to_go() {
    let rig = Plan::new().guest("a", &["vlan = { access = 10 }"]).guest("b", &["vlan = { access = 20 }"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    a.send(&vec![addressed(1, BROADCAST); 9]);
    a.send(&vec![one(1, 2); 4]);
    assert!(b.frames().is_empty());
    let port = rig.port("a");
    let expected = Accounting { pulled: 13, dropped: 13, ..Accounting::default() };
    assert_eq!((port.accounting, port.drops), (expected, BTreeMap::from([("no_destination".to_owned(), 13)])));
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_guest_that_is_removed_is_forgotten_at_once() {
    let rig = Plan::new().guests(&["a", "b", "c"]).start();
    let [mut a, mut b, mut c] = rig.guests(["a", "b", "c"]);
    b.send(&[addressed(2, BROADCAST)]);
    assert_eq!((a.frames().len(), c.frames().len()), (1, 1));
    rig.switch.must(&["guest", "remove", "b"]).unwrap();
    assert!(b.guest.session().channel().wait_closed(crate::rig::LIMIT));
    // Its station is unknown again, so this is a flood.
    a.send(&[one(1, 2)]);
    assert_eq!((c.frames().len(), b.frames().len()), (1, 0));
    let accounting = rig.port("a").accounting;
    assert_eq!((accounting.copies, accounting.delivered), (1, 1));
    rig.finish(&mut [&mut a, &mut c]);
}

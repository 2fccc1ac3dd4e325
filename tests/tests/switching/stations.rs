//! The MAC table: who may have an address, how many, and for how long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sidecore_tests::process::eventually;
use synthetic_guest::packet::mac;

use crate::frames::{Packet, addressed, bytes, one};
use crate::rig::{LIMIT, Plan};

const BROADCAST: [u8; 6] = [0xff; 6];

fn text(number: u32) -> String {
    mac(number).map(|byte| format!("{byte:02x}")).join(":")
}

/// A line of a guest's configuration: its address is that of station `number`.
fn address(number: u32) -> String {
    format!("mac = \"{}\"", text(number))
}

#[test]
fn a_guest_with_anti_spoofing_sends_from_its_own_address_only() {
    let rig = Plan::new().guest("a", &[&address(1), "anti_spoof = true"]).guests(&["b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let spoofed: Vec<Packet> = (2..12).map(|number| addressed(number, BROADCAST)).collect();
    a.send(&spoofed);
    a.send(&[addressed(1, BROADCAST)]);
    assert_eq!(b.frames(), bytes(&[addressed(1, BROADCAST)]));
    assert_eq!(rig.drops("a"), BTreeMap::from([("spoofed_source".to_owned(), 10)]));
    assert_eq!(rig.stations(), [(1, text(1), "a".to_owned(), true)]);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_configured_address_is_fixed() {
    let rig = Plan::new()
        .guest("a", &[&address(1), "vlan = { trunk = [20], native = 10 }"])
        .guest("b", &["vlan = { access = 10 }"])
        .guest("c", &["vlan = { access = 10 }"])
        .start();
    let [mut a, mut b, mut c] = rig.guests(["a", "b", "c"]);
    let fixed = |vlan| (vlan, text(1), "a".to_owned(), true);
    assert_eq!(rig.stations(), [fixed(10), fixed(20)]);
    // Known before it has said a word.
    c.send(&[one(3, 1)]);
    assert_eq!((a.frames().len(), b.frames().len()), (1, 0));
    // Somebody else's claim changes nothing; what he sends is forwarded all the same.
    b.send(&vec![one(1, 3); 7]);
    assert_eq!(c.frames().len(), 7);
    assert_eq!(rig.learn_refusals("fixed"), 7);
    c.send(&vec![one(3, 1); 5]);
    assert_eq!((a.frames().len(), b.frames().len()), (5, 0));
    // The owner going away does not free it.
    drop(a);
    rig.switch.wait_for_port("a", "an end of the connection", |port| port.state == "waiting").unwrap();
    b.send(&[one(1, 3)]);
    c.send(&[one(3, 1)]);
    assert_eq!((b.frames().len(), c.frames().len()), (0, 1));
    assert_eq!(rig.drops("c"), BTreeMap::from([("receiver_not_ready".to_owned(), 1)]));
    rig.finish(&mut [&mut b, &mut c]);
}

#[test]
fn stations_are_always_behind_their_port() {
    let list = |number| format!("stations = [\"{}\", \"{}\"]", text(number), text(number + 1));
    let rig =
        Plan::new().guest("a", &[&list(5)]).guests(&["b"]).uplink("net", "net_null0,no-rx=1", &[&list(7)]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    assert_eq!(rig.stations(), [5, 6, 7, 8].map(|n| (1, text(n), if n < 7 { "a" } else { "net" }.to_owned(), true)));
    // A guest that claims to be the router behind the uplink gets nothing that is for it.
    a.send(&vec![one(7, 2); 3]);
    b.send(&vec![one(2, 7); 4]);
    b.send(&[one(2, 5), one(2, 6)]);
    assert_eq!((a.frames().len(), b.frames().len()), (2, 3));
    assert_eq!(rig.learn_refusals("fixed"), 3);
    assert_eq!(rig.port("net").tx.packets, 3 + 4, "flooded, and for the router");
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn a_learnt_address_cannot_be_stolen() {
    let rig = Plan::new().guests(&["a", "thief", "c"]).start();
    let [mut a, mut thief, mut c] = rig.guests(["a", "thief", "c"]);
    a.send(&[addressed(1, BROADCAST)]);
    assert_eq!((thief.frames().len(), c.frames().len()), (1, 1));
    thief.send(&vec![addressed(1, BROADCAST); 30]);
    assert_eq!((a.frames().len(), c.frames().len()), (30, 30));
    c.send(&vec![one(3, 1); 20]);
    assert_eq!((a.frames().len(), thief.frames().len()), (20, 0));
    assert_eq!(rig.learn_refusals("owned_by_guest"), 30);

    // When its owner is gone it is free.
    drop(a);
    rig.switch.wait_for_port("a", "an end of the connection", |port| port.state == "waiting").unwrap();
    thief.send(&[one(1, 3)]);
    c.send(&[one(3, 1)]);
    assert_eq!((thief.frames().len(), c.frames().len()), (1, 1));
    rig.finish(&mut [&mut thief, &mut c]);
}

#[test]
fn one_port_can_hold_so_many_addresses_and_no_more() {
    let rig = Plan::new().key("learn_limit_per_port = 8").guests(&["a", "b", "c"]).start();
    let [mut a, mut b, mut c] = rig.guests(["a", "b", "c"]);
    let many: Vec<Packet> = (100..200).map(|number| addressed(number, BROADCAST)).collect();
    a.send(&many);
    assert_eq!((b.frames().len(), c.frames().len()), (100, 100));
    b.send(&[addressed(2, BROADCAST)]);
    let mut expected: Vec<_> = (100..108).map(|number| (1, text(number), "a".to_owned(), false)).collect();
    expected.insert(0, (1, text(2), "b".to_owned(), false));
    assert_eq!(rig.stations(), expected);
    assert_eq!(rig.learn_refusals("port_limit"), 92);
    // A known station and one that was not learnt: forwarded, and flooded.
    a.frames();
    c.frames();
    c.send(&[one(3, 107), one(3, 108)]);
    assert_eq!((a.frames().len(), b.frames().len()), (2, 1));
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn one_port_learns_so_fast_and_no_faster() {
    let rig = Plan::new().key("learn_rate_per_s = 20").guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let many: Vec<Packet> = (100..300).map(|number| addressed(number, BROADCAST)).collect();
    let begin = Instant::now();
    a.send(&many);
    let most = 20 + 20 * begin.elapsed().as_secs_f64().ceil() as usize;
    assert_eq!(b.frames().len(), 200);
    let learnt = rig.stations().len();
    assert!((20..=most).contains(&learnt), "{learnt} of at most {most}");
    assert_eq!(rig.learn_refusals("rate_limit"), 200 - learnt as u64);
    // The others are not held back by it.
    b.send(&[addressed(2, BROADCAST)]);
    assert_eq!(rig.stations().len(), learnt + 1);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn floods_are_policed_and_nothing_else_is() {
    let rig = Plan::new().key("flood_rate_pps = 1000").guests(&["a", "b", "c"]).start();
    let [mut a, mut b, mut c] = rig.guests(["a", "b", "c"]);
    b.send(&[addressed(2, BROADCAST)]);
    a.frames();
    c.frames();
    let begin = Instant::now();
    for _ in 0..50 {
        a.send(&vec![addressed(1, BROADCAST); 100]);
        assert!(a.frames().is_empty());
        b.frames();
    }
    let took = begin.elapsed().as_secs_f64();
    let port = rig.port("a");
    let policed = port.drops["flood_policed"];
    // At once a tenth of a second's worth; and on a busy machine the core's clock may have begun some time before ours.
    let most = 100.0 + 1000.0 * (took + 1.0);
    assert!(port.accounting.forwarded >= 100 && port.accounting.forwarded as f64 <= most, "{port:?} in {took} s");
    assert_eq!(port.accounting.forwarded + policed, 5000);
    assert_eq!(port.accounting.copies, 2 * port.accounting.forwarded);

    a.send(&vec![one(1, 2); 200]);
    assert_eq!(b.frames().len(), 200);
    let later = rig.port("a");
    assert_eq!((later.accounting.forwarded, later.drops), (port.accounting.forwarded + 200, port.drops));
    // The others have a measure of their own.
    c.received();
    b.send(&vec![addressed(2, BROADCAST); 60]);
    assert_eq!((a.frames().len(), c.frames().len()), (60, 60));
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn a_silent_station_is_forgotten() {
    let rig = Plan::new().key("fdb_ageing_s = 2").guest("a", &[]).guest("b", &[&address(2)]).guests(&["c"]).start();
    let [mut a, mut b, mut c] = rig.guests(["a", "b", "c"]);
    let begin = Instant::now();
    a.send(&[addressed(1, BROADCAST)]);
    c.send(&[addressed(3, BROADCAST)]);
    assert_eq!(rig.stations().len(), 3);
    a.frames();
    b.frames();
    c.frames();
    // One of the two goes on talking, and stays.
    let stations = eventually("the end of an entry", LIMIT, || {
        a.send(&[one(1, 2)]);
        b.frames();
        let stations = rig.stations();
        Ok((stations.len() < 3).then_some(stations))
    })
    .unwrap();
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert_eq!(stations, [(1, text(1), "a".to_owned(), false), (1, text(2), "b".to_owned(), true)]);
    b.send(&[one(2, 3), one(2, 1)]);
    assert_eq!((a.frames(), c.frames()), (bytes(&[one(2, 3), one(2, 1)]), bytes(&[one(2, 3)])));
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn the_table_is_shown_to_people_too() {
    let rig = Plan::new().guest("a", &[&address(1)]).guest("b", &["vlan = { access = 7 }"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    b.send(&[addressed(2, BROADCAST)]);
    let shown = rig.switch.must(&["fdb", "show"]).unwrap();
    let words: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words.len(), 3, "{shown}");
    assert_eq!(words[1], ["1", &text(1), "a", "configured"]);
    assert_eq!(words[2][..3], ["7", &text(2), "b"]);
    assert_eq!(words[2][4], "s");
    rig.finish(&mut [&mut a, &mut b]);
}

//! Several I/O cores, sharing CPUs: what crosses from one to another arrives whole, once and in order, and is accounted
//! for.

use synthetic_guest::packet::{Checksum, FrameSpec, Transport};
use synthetic_guest::{Features, GuestConfig};

use crate::frames::{Packet, addressed, addresses, bytes, udp};
use crate::rig::{Node, Plan, Rig};
use crate::stream::{self, Stream};

const BROADCAST: [u8; 6] = [0xff; 6];

/// The longest frame: IP's longest packet.
const LONGEST: usize = 65_535 + 14;

fn big(config: &mut GuestConfig) {
    config.session.features = Features::VERSION_1 | Features::MRG_RXBUF | Features::OFFLOADS;
    (config.rx_ring, config.tx_ring) = (1024, 256);
    config.tx_frame_len = LONGEST;
    config.tx_buffers = Some(64);
    config.ram.region_size = 16 << 20;
}

/// A guest on each of three cores, all of which know where the others are.
fn one_on_each(change: fn(&mut GuestConfig)) -> (Rig, [Node; 3]) {
    let rig = Plan::three_cores()
        .guest("g0", &["io_core = 0"])
        .guest("g1", &["io_core = 1"])
        .guest("g2", &["io_core = 2"])
        .start();
    let mut nodes = ["g0", "g1", "g2"].map(|name| rig.guest_with(name, change));
    introduce(&rig, &mut nodes);
    (rig, nodes)
}

/// Every guest, the stations of which have their places as numbers, says a word to all others.
fn introduce(rig: &Rig, nodes: &mut [Node]) {
    let others = nodes.len() - 1;
    for (number, node) in nodes.iter_mut().enumerate() {
        node.send(&[addressed(number as u32, BROADCAST)]);
    }
    nodes.iter_mut().for_each(|node| assert_eq!(node.receive(others).len(), others));
    // Every core hears of every station before it sees the next packet from there; the reader of the table asks core 0.
    rig.settle();
}

fn handed_over(rig: &Rig) -> u64 {
    rig.json()["cores"].as_array().unwrap().iter().map(|core| core["handed_over"].as_u64().unwrap()).sum()
}

/// Six streams, one from every guest to every other.
fn all_to_all(frame: FrameSpec, count: u64, window: u64) {
    let (rig, mut nodes) = one_on_each(big);
    let before = handed_over(&rig);
    let pairs = (0..3).flat_map(|from| (0..3).filter(move |to| *to != from).map(move |to| (from, to)));
    let streams: Vec<Stream> = pairs
        .map(|(from, to)| {
            let FrameSpec { to: destination, from: source, .. } = FrameSpec::udp4(from as u32, to as u32, 0, 60);
            Stream { from, pair: 0, frame: FrameSpec { to: destination, from: source, ..frame }, count, window }
        })
        .collect();
    let [a, b, c] = &mut nodes;
    for report in stream::run(&mut [a, b, c], &streams) {
        assert!(report.is_perfect(2 * count), "{report:?}");
    }
    rig.settle();
    assert_eq!(handed_over(&rig) - before, 6 * count);
    for name in ["g0", "g1", "g2"] {
        let port = rig.port(name);
        assert_eq!(port.accounting.forwarded, 2 * count + 1);
        assert!(port.drops.is_empty(), "{:?}", port.drops);
        assert_eq!(port.rx.packets, 2 * count + 2);
    }
    let [a, b, c] = &mut nodes;
    rig.finish(&mut [a, b, c]);
}

#[test]
fn frames_of_60_bytes() {
    all_to_all(FrameSpec::udp4(0, 0, 0, 60), 20_000, 64);
}

#[test]
fn frames_of_1514_bytes() {
    all_to_all(FrameSpec::udp4(0, 0, 0, 1514), 5_000, 64);
}

#[test]
fn frames_of_9000_bytes() {
    all_to_all(FrameSpec::udp4(0, 0, 0, 9000), 2_000, 16);
}

#[test]
fn segments_of_64_kib() {
    let tcp = FrameSpec { transport: Transport::Tcp, checksum: Checksum::Partial, ..FrameSpec::udp4(0, 0, 0, LONGEST) };
    all_to_all(FrameSpec { gso_size: Some(1448), ..tcp }, 400, 4);
    let ip = addresses(6);
    all_to_all(FrameSpec { ip, gso_size: Some(1428), ..tcp }, 200, 4);
}

#[test]
fn a_flood_reaches_every_port_once() {
    let mut plan = Plan::three_cores();
    let names: Vec<String> = (0..7).map(|number| format!("g{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        // Two on every core in VLAN 10, and one in another VLAN.
        let vlan = if number < 6 { 10 } else { 20 };
        plan = plan.guest(name, &[&format!("io_core = {}", number % 3), &format!("vlan = {{ access = {vlan} }}")]);
    }
    let rig = plan.guest("nobody", &["vlan = { access = 10 }"]).start();
    let mut nodes: Vec<Node> = names.iter().map(|name| rig.guest_with(name, |_| ())).collect();
    const ROUNDS: usize = 20;
    for round in 0..ROUNDS {
        for from in 0..6 {
            let sent: Vec<Packet> = (0..32).map(|n| addressed((100 * from + n) as u32, BROADCAST)).collect();
            nodes[from].send(&sent);
            for (number, node) in nodes.iter_mut().enumerate() {
                let expected = if number == from || number == 6 { vec![] } else { bytes(&sent) };
                let arrived = bytes(&node.receive(expected.len()));
                assert!(arrived == expected, "round {round}: from {from} to {number}: {} frames", arrived.len());
            }
        }
    }
    rig.settle();
    let count = 32 * ROUNDS as u64;
    for name in &names[..6] {
        let accounting = rig.port(name).accounting;
        assert_eq!((accounting.pulled, accounting.forwarded), (count, count));
        assert_eq!((accounting.copies, accounting.delivered, accounting.copy_drops), (6 * count, 5 * count, count));
    }
    assert!(nodes.iter_mut().all(|node| node.frames().is_empty()));
    let mut nodes: Vec<&mut Node> = nodes.iter_mut().collect();
    rig.finish(&mut nodes);
}

#[test]
fn a_station_that_one_core_learns_is_known_to_all() {
    let (rig, [mut a, mut b, mut c]) = one_on_each(|_| ());
    // Nothing is flooded any more, whoever sends to whom.
    for (from, node) in [&mut a, &mut b, &mut c].into_iter().enumerate() {
        for to in (0..3).filter(|to| *to != from) {
            node.send(&udp(from as u32, to as u32, 100, 10));
        }
    }
    for node in [&mut a, &mut b, &mut c] {
        assert_eq!(node.receive(20).len(), 20);
    }
    rig.settle();
    for name in ["g0", "g1", "g2"] {
        let accounting = rig.port(name).accounting;
        assert_eq!((accounting.copies, accounting.forwarded), (2, 21));
    }
    assert_eq!(rig.json()["cores"].as_array().unwrap().iter().filter(|core| core["learn_lost"] != 0).count(), 0);
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn what_a_full_ring_between_cores_drops_is_counted() {
    let (rig, [mut a, mut b, mut c]) = one_on_each(big);
    // The receiver takes nothing meanwhile: its ring is full first, or the arena between the cores.
    let segment = Packet::new(FrameSpec {
        gso_size: Some(1448),
        transport: Transport::Tcp,
        checksum: Checksum::Partial,
        ..FrameSpec::udp4(0, 2, 0, LONGEST)
    });
    let sent = vec![segment; 300];
    a.send(&sent);
    rig.settle();
    let arrived = c.received();
    assert!(arrived.iter().all(|packet| packet.bytes == sent[0].bytes));
    let port = rig.port("g0");
    let dropped: u64 = port.drops.values().sum();
    assert!(dropped > 0 && port.drops.keys().all(|reason| ["xcore_full", "rx_full"].contains(&reason.as_str())));
    assert_eq!(arrived.len() as u64 + dropped, 300);
    // And the way is free again.
    a.send(&udp(0, 2, 9000, 1));
    assert_eq!(bytes(&c.receive(1)), bytes(&udp(0, 2, 9000, 1)));
    rig.finish(&mut [&mut a, &mut b, &mut c]);
}

#[test]
fn an_uplink_with_one_queue_is_reached_through_its_owner() {
    // A net_ring device gives back what it is sent. Each guest is alone in its VLAN, so that it alone hears its echo.
    let rig = Plan::three_cores()
        .guest("g0", &["io_core = 0", "vlan = { access = 10 }"])
        .guest("g1", &["io_core = 1", "vlan = { access = 20 }"])
        .guest("g2", &["io_core = 2", "vlan = { access = 30 }"])
        .uplink("echo", "net_ring0", &["queues = 1"])
        .start();
    let mut nodes = ["g0", "g1", "g2"].map(|name| rig.guest_with(name, |_| ()));
    let streams: Vec<Stream> = (0..3)
        .map(|n| Stream { frame: FrameSpec::udp4(n as u32, 99, 0, 1000), ..Stream::udp(n, n, 60, 5000) })
        .collect();
    let [a, b, c] = &mut nodes;
    for report in stream::run(&mut [a, b, c], &streams) {
        assert!(report.is_perfect(5000), "{report:?}");
    }
    rig.settle();
    let echo = rig.port("echo");
    assert_eq!(echo.queues.len(), 1);
    // With a tag on.
    assert_eq!((echo.tx.packets, echo.tx.bytes), (15_000, 15_000 * 1004));
    assert_eq!((echo.rx.packets, echo.rx.bytes), (15_000, 15_000 * 1004));
    assert_eq!((echo.accounting.forwarded, echo.accounting.delivered), (15_000, 15_000));
    // The echo did not make anybody believe that the stations were out there.
    assert_eq!(rig.stations().iter().filter(|station| station.2 == "echo").count(), 0);
    let [a, b, c] = &mut nodes;
    rig.finish(&mut [a, b, c]);
}

//! A receiver that is short of buffers or comes and goes harms nobody but itself.

use std::collections::BTreeMap;
use std::time::Duration;

use synthetic_guest::packet::FrameSpec;
use synthetic_guest::{Base, Features, Guest};

use crate::frames::{Packet, addressed, bytes, one, udp};
use crate::rig::{Node, Plan, Rig};
use crate::stream::{Runner, Stream};

const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn a_receiver_without_buffers_costs_its_own_packets_only() {
    let rig = Plan::new().guests(&["a", "b", "slow"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    let mut slow = rig.guest_with("slow", |config| config.rx_buffers = Some(16));
    slow.guest.pair(0).rx.set_auto_refill(false);
    slow.send(&[addressed(3, BROADCAST)]);
    b.send(&[addressed(2, BROADCAST)]);
    a.frames();
    b.frames();
    // One buffer of the 16 is used up by b's word.
    let to_slow = udp(1, 3, 100, 500);
    let to_b = udp(1, 2, 100, 500);
    for (slow, b) in to_slow.chunks(10).zip(to_b.chunks(10)) {
        a.send(&[slow, b].concat());
    }
    // Everything was taken, and b has all of its share.
    assert_eq!(b.frames().len(), 256, "as many as its ring holds");
    assert_eq!(slow.frames()[1..], bytes(&to_slow[..15]));
    let port = rig.port("a");
    assert_eq!(port.drops, BTreeMap::from([("rx_full".to_owned(), 485 + 244)]));
    assert_eq!((port.accounting.pulled, port.accounting.forwarded), (1000, 15 + 256));
    assert_eq!(rig.json()["ports"][2]["refused"]["rx_full"], 485);

    // One buffer, one packet.
    slow.guest.pair(0).rx.fill(1);
    a.send(&udp(1, 3, 100, 3));
    assert_eq!(slow.frames().len(), 1);
    rig.finish(&mut [&mut a, &mut b, &mut slow]);
}

#[test]
fn a_frame_that_does_not_fit_whole_leaves_the_buffers_to_the_next() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let mut a = rig.guest_with("a", |config| config.tx_frame_len = 9216);
    let mut b = rig.guest_with("b", |config| {
        config.session.features = Features::VERSION_1 | Features::MRG_RXBUF;
        config.rx_buffers = Some(4);
    });
    b.guest.pair(0).rx.set_auto_refill(false);
    let jumbo = Packet::new(FrameSpec::udp4(1, 2, 0, 9000));
    a.send(&[jumbo, one(1, 2), one(1, 2)]);
    assert_eq!(b.frames(), bytes(&[one(1, 2), one(1, 2)]));
    let port = rig.port("a");
    assert_eq!((port.accounting.delivered, port.drops), (2, BTreeMap::from([("rx_full".to_owned(), 1)])));
    rig.finish(&mut [&mut a, &mut b]);
}

/// A pair of neighbours streams in both directions while `disturb` is called again and again; they lose nothing.
fn undisturbed(rig: Rig, expected_in_log: &[&str], mut disturb: impl FnMut(&Rig, usize)) {
    let [mut a, mut b] = ["a", "b"].map(|name| rig.guest_with(name, |_| ()));
    // The disturber is in another VLAN: what it floods would not be a loss, but would take buffers.
    a.send(&[one(0, 1)]);
    b.send(&[one(1, 0)]);
    a.received();
    b.received();
    let count = 1_000_000;
    let streams = [Stream::udp(0, 1, 200, count), Stream::udp(1, 0, 200, count)];
    let mut runner = Runner::new(2, &streams);
    for round in 0..25 {
        runner.step_for(&mut [&mut a, &mut b], Duration::from_millis(20));
        disturb(&rig, round);
    }
    runner.step_for(&mut [&mut a, &mut b], Duration::from_millis(20));
    rig.settle();
    // What is still under way is in the rings.
    for _ in 0..10 {
        runner.receive(&mut [&mut a, &mut b]);
    }
    for (report, name) in runner.reports().iter().zip(["b", "a"]) {
        let sent = rig.port(name).tx.packets - 1;
        assert!(report.is_perfect(sent) && sent > 1000, "{name} sent {sent}: {report:?}");
        assert_eq!(rig.drops(name), BTreeMap::new());
    }
    rig.finish_but(&mut [&mut a, &mut b], expected_in_log);
}

#[test]
fn a_guest_that_connects_and_disconnects_does_not_disturb_its_neighbours() {
    let rig = Plan::new().guests(&["a", "b"]).guest("restless", &["vlan = { access = 9 }"]).start();
    let mut restless: Option<Node> = None;
    undisturbed(rig, &[], |rig, round| match (round % 3, restless.take()) {
        (0, _) => restless = Some(rig.guest_with("restless", |_| ())),
        (1, Some(mut node)) => {
            // Gone with everything under way.
            let packets = udp(9, 10, 100, 64);
            let frames: Vec<_> = packets.iter().map(Packet::as_frame).collect();
            node.guest.pair(0).tx.send_burst(&frames);
            node.guest.disconnect();
            restless = Some(node);
        }
        (_, Some(mut node)) => {
            node.guest.reconnect(Base::Fresh).unwrap();
            node.guest.stop().unwrap();
        }
        (_, None) => {}
    });
}

#[test]
fn guests_added_and_removed_do_not_disturb_their_neighbours() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    undisturbed(rig, &[], |rig, round| {
        if round % 2 == 0 {
            let socket = rig.config("visitor").session.socket.display().to_string();
            rig.switch.must(&["guest", "add", "visitor", "--socket", &socket, "--vlan", "9"]).unwrap();
            rig.guest_with("visitor", |_| ());
        } else {
            rig.switch.must(&["guest", "remove", "visitor"]).unwrap();
        }
    });
}

#[test]
fn packets_for_a_receiver_that_comes_and_goes_are_delivered_or_counted() {
    let rig = Plan::three_cores().guest("a", &["io_core = 0"]).guest("b", &["io_core = 1"]).start();
    let mut a = rig.guest_with("a", |_| ());
    let mut arrived = 0;
    for _ in 0..10 {
        let mut b = Node::new(Guest::start(rig.config("b")).unwrap());
        a.send(&udp(1, 2, 200, 100));
        b.guest.disconnect();
        a.send(&udp(1, 2, 200, 100));
        rig.switch.wait_for_port("b", "an end of the connection", |port| port.state == "waiting").unwrap();
        arrived += b.received().len() as u64;
    }
    rig.settle();
    let port = rig.port("a");
    let lost: u64 = port.drops.values().sum();
    assert!(port.drops.keys().all(|reason| ["receiver_not_ready", "rx_full"].contains(&reason.as_str())), "{port:?}");
    // Copies of floods, all of them: b never says where it is.
    assert_eq!(port.accounting.forwarded, 2000);
    assert_eq!((port.accounting.delivered, port.accounting.copy_drops), (arrived, lost));
    assert_eq!(arrived + lost, 2000);
    rig.finish(&mut [&mut a]);
}

//! Several queue pairs: every flow keeps to one and to its order, and all of them are used.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use synthetic_guest::packet::{FrameSpec, Stamp, Template};
use synthetic_guest::verify::{Verdict, Verifier};
use synthetic_guest::{Features, GuestConfig};

use crate::frames::{Packet, addressed};
use crate::rig::{Node, Plan, Rig};

const BROADCAST: [u8; 6] = [0xff; 6];
const FLOWS: u16 = 256;
const ROUNDS: u64 = 40;
/// What has not arrived within this is lost.
const LIMIT: Duration = Duration::from_secs(20);

fn with_pairs(pairs: usize) -> impl FnOnce(&mut GuestConfig) {
    move |config| {
        config.queue_pairs = pairs;
        config.session.features = config.session.features | Features::MQ;
    }
}

/// Sends all flows, a frame of each after the other, and gives for each queue pair of the receiver the flows that came
/// there. Checks that every flow kept to one pair and to its order.
fn spread(from: &mut Node, to: &mut Node) -> Vec<BTreeSet<u16>> {
    let mut templates: Vec<Template> = (0..FLOWS).map(|flow| Template::new(FrameSpec::udp4(1, 2, flow, 120))).collect();
    let pairs = to.guest.pairs().len();
    let mut flows = vec![BTreeSet::new(); pairs];
    let mut verifier = Verifier::new();
    for sequence in 0..ROUNDS {
        // A few at a time: one queue must hold them all, should they all go there.
        for some in templates.chunks_mut(128) {
            let stamped = some.iter_mut().enumerate().map(|(at, template)| {
                let flow = u16::from_be_bytes([template.bytes()[34], template.bytes()[35]]) - 1024;
                template.stamp(Stamp { flow, sequence, time_ns: at as u64 });
                Packet::plain(template.bytes().to_vec())
            });
            let sent: Vec<Packet> = stamped.collect();
            from.send(&sent);
            let (mut arrived, start) = (0, Instant::now());
            while arrived < sent.len() {
                assert!(start.elapsed() < LIMIT, "{arrived} of {} frames arrived", sent.len());
                for (pair, flows) in flows.iter_mut().enumerate() {
                    arrived += to.guest.pair(pair).rx.recv_burst(usize::MAX, |frame| {
                        match verifier.check_received(frame) {
                            Verdict::Good(stamp) => flows.insert(stamp.flow),
                            other => panic!("{other:?}"),
                        };
                    });
                }
            }
        }
    }
    let report = verifier.report_against(&vec![ROUNDS; usize::from(FLOWS)]);
    assert!(report.is_perfect(u64::from(FLOWS) * ROUNDS), "{report:?}");
    // Each flow on one pair: then the sets are disjoint.
    assert_eq!(flows.iter().map(BTreeSet::len).sum::<usize>(), usize::from(FLOWS));
    flows
}

fn assert_even(flows: &[BTreeSet<u16>], used: &[usize]) {
    let fair = usize::from(FLOWS) / used.len();
    for (pair, flows) in flows.iter().enumerate() {
        if used.contains(&pair) {
            assert!(flows.len() > fair / 2 && flows.len() < fair * 2, "pair {pair} has {} flows", flows.len());
        } else {
            assert!(flows.is_empty(), "pair {pair}, which is not enabled, has {} flows", flows.len());
        }
    }
}

/// Returns the two guests, still connected.
fn multi_queue(rig: &Rig, pairs: usize) -> [Node; 2] {
    let mut from = rig.guest_with("from", with_pairs(pairs));
    let mut to = rig.guest_with("to", with_pairs(pairs));
    to.send(&[addressed(2, BROADCAST)]);
    from.receive(1);
    // Sent on any of the pairs, a station is a station.
    from.send_on(pairs - 1, &[addressed(1, BROADCAST)]);
    to.receive(1);
    assert_eq!(rig.port("from").negotiated.unwrap().queue_pairs as usize, pairs);

    let all: Vec<usize> = (0..pairs).collect();
    let before = spread(&mut from, &mut to);
    assert_even(&before, &all);
    assert_eq!(spread(&mut from, &mut to), before, "the same flows, the same pairs");

    // The odd ones disabled: the others take over.
    let odd = (0..pairs).filter(|pair| pair % 2 == 1);
    odd.clone().for_each(|pair| to.guest.session().enable(2 * pair as u32, false).unwrap());
    let even: Vec<usize> = (0..pairs).step_by(2).collect();
    assert_even(&spread(&mut from, &mut to), &even);
    odd.for_each(|pair| to.guest.session().enable(2 * pair as u32, true).unwrap());
    assert_eq!(spread(&mut from, &mut to), before);
    [from, to]
}

#[test]
fn flows_keep_their_order_and_spread_over_2_4_and_8_pairs() {
    let rig = Plan::new().guest("from", &["queue_pairs = 8"]).guest("to", &["queue_pairs = 8"]).start();
    for pairs in [2, 4, 8] {
        drop(multi_queue(&rig, pairs));
        let gone = |name| rig.switch.wait_for_port(name, "an end of the connection", |port| port.state == "waiting");
        gone("from").unwrap();
        gone("to").unwrap();
    }
    assert_eq!(rig.switch.status().unwrap().drops(), BTreeMap::new());
    rig.finish(&mut []);
}

#[test]
fn pairs_on_several_cores() {
    let rig = Plan::three_cores().guest("from", &["queue_pairs = 4"]).guest("to", &["queue_pairs = 4"]).start();
    let [mut from, mut to] = multi_queue(&rig, 4);
    let cores: BTreeSet<u32> = rig.port("to").queues.iter().filter_map(|queue| queue.io_core).collect();
    assert!(rig.port("to").queues.iter().all(|queue| queue.rx.packets > 0));
    assert!(cores.len() > 1, "all on {cores:?}");
    rig.finish(&mut [&mut from, &mut to]);
}

#[test]
fn every_pair_can_send() {
    let rig = Plan::new().guest("a", &["queue_pairs = 8"]).guests(&["b"]).start();
    let mut a = rig.guest_with("a", with_pairs(8));
    let mut b = rig.guest_with("b", |_| ());
    for pair in 0..8 {
        let sent = crate::frames::udp(1, 2, 60 + 10 * pair, 20);
        a.send_on(pair, &sent);
        assert_eq!(b.frames(), crate::frames::bytes(&sent));
    }
    let port = rig.port("a");
    assert!(port.queues.iter().all(|queue| queue.tx.packets == 20), "{port:?}");
    assert_eq!(port.accounting.pulled, 160);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn what_a_disabled_ring_sends_is_drained_and_counted() {
    let rig = Plan::new().guest("a", &["queue_pairs = 2"]).guests(&["b"]).start();
    let mut a = rig.guest_with("a", with_pairs(2));
    let mut b = rig.guest_with("b", |_| ());
    a.guest.session().enable(3, false).unwrap();
    a.send_on(1, &vec![addressed(1, BROADCAST); 30]);
    assert!(b.frames().is_empty());
    a.send_on(0, &vec![addressed(1, BROADCAST); 10]);
    assert_eq!(b.frames().len(), 10);
    a.guest.session().enable(3, true).unwrap();
    a.send_on(1, &vec![addressed(1, BROADCAST); 5]);
    assert_eq!(b.frames().len(), 5);
    let port = rig.port("a");
    assert_eq!(port.drops, BTreeMap::from([("ring_disabled".to_owned(), 30)]));
    assert_eq!((port.accounting.pulled, port.accounting.forwarded), (45, 15));
    rig.finish(&mut [&mut a, &mut b]);
}

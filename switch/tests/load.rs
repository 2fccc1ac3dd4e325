//! What an I/O core says of its load, held against what it was made to do.
#![forbid(unsafe_code)]

mod rig;

use std::cell::Cell;

use rig::{BURST, PACKED, RING, SPLIT, Workload};
use scheduler::{Detector, IoCore, Load, Talk, Thresholds};

/// Refills of the rings under load.
const FILLS: usize = 200;
/// One cycle is one nanosecond: the rig's clock.
const TURN_NS: u64 = 1000;

/// Moves rings full of frames at the time that the cycle counter says.
fn under_load(workload: &mut Workload, fills: usize) {
    for _ in 0..fills {
        workload.fill();
        (0..RING / BURST).for_each(|_| assert!(workload.turn(pmd_bindings::tsc)));
        workload.drain();
    }
}

/// The load since it was asked last. A round without work before it, so that the cores have accounted for all of the time.
fn load_now(workload: &mut Workload) -> Load {
    workload.turn(pmd_bindings::tsc);
    workload.rig().load(pmd_bindings::tsc())
}

#[test]
fn the_cycles_of_a_cores_queues_add_up_to_its_busy_cycles() {
    for features in [SPLIT, PACKED] {
        let mut workload = Workload::v2v(features, 60, 1).beside_idle(64);
        // The clock has to begin somewhere.
        under_load(&mut workload, 1);
        load_now(&mut workload);
        under_load(&mut workload, FILLS);
        let load = load_now(&mut workload);
        let (busy, queues) = (load.cores[0].busy, load.queues.iter().map(|queue| queue.cycles).sum::<u64>());
        assert!(queues <= busy && queues as f64 > 0.9 * busy as f64, "{queues} of {busy}");
        let sender = workload.ports[0].queue(0);
        let own = load.queues.iter().find(|queue| queue.queue == sender).expect("it is attached").cycles;
        assert_eq!(own, queues, "only one of them sent");
        assert!(busy <= load.cores[0].capacity);
    }
}

#[test]
fn receiving_from_another_core_is_not_the_queues_but_the_cores_work() {
    let mut workload = Workload::v2v(SPLIT, 60, 2);
    under_load(&mut workload, 1);
    load_now(&mut workload);
    let before = workload.rig().received(1);
    under_load(&mut workload, FILLS);
    let load = load_now(&mut workload);
    let after = workload.rig().received(1);
    assert_eq!(after.packets - before.packets, (FILLS * RING) as u64);
    let received = after.cycles - before.cycles;
    assert!(received <= load.cores[1].busy && received as f64 > 0.9 * load.cores[1].busy as f64);
    let cycles = |port: usize| {
        let queue = workload.ports[port].queue(0);
        load.queues.iter().find(|load| load.queue == queue).map(|load| load.cycles)
    };
    assert_eq!(cycles(1), Some(0), "the receiver sent nothing");
    assert!(cycles(0).is_some_and(|cycles| cycles <= load.cores[0].busy && cycles > 0));
}

#[test]
fn every_packet_between_two_guests_is_a_talk_once() {
    for cores in [1, 2] {
        let mut workload = Workload::v2v(SPLIT, 60, cores);
        let [from, to] = [0, 1].map(|port: usize| workload.ports[port].queue(0));
        workload.rig().load(0);
        under_load(&mut workload, 3);
        let talk = Talk { from, to, packets: 3 * RING as u64 };
        assert_eq!(workload.rig().load(0).talks, [talk], "{cores} cores");
        assert_eq!(workload.rig().load(0).talks, [], "that was the last tick");
    }
}

/// A ring that is full at once, a burst of it taken in every turn: what is left after the first waits until the last.
#[test]
fn work_that_is_left_in_the_ring_ages() {
    for features in [SPLIT, PACKED] {
        let mut workload = Workload::v2v(features, 60, 1);
        let turns = RING / BURST;
        let now = Cell::new(0);
        let turn = |workload: &mut Workload| {
            now.set(now.get() + TURN_NS);
            assert!(workload.turn(|| now.get()));
        };
        workload.fill();
        workload.rig().load(0);
        (0..turns / 2).for_each(|_| turn(&mut workload));
        let half = workload.rig().load(now.get());
        assert_eq!(half.cores[0].oldest_ns, (turns as u64 / 2 - 1) * TURN_NS, "it still waits");
        (turns / 2..turns).for_each(|_| turn(&mut workload));
        let whole = workload.rig().load(now.get());
        assert_eq!(whole.cores[0].oldest_ns, (turns as u64 - 1) * TURN_NS, "it waited so long");
        let after = workload.rig().load(now.get() + TURN_NS);
        assert_eq!(after.cores[0].oldest_ns, 0, "nothing waits");
        workload.drain();
        workload.finish();
    }
}

#[test]
fn work_that_is_taken_at_once_does_not_age() {
    let mut workload = Workload::v2v(SPLIT, 60, 1);
    let now = Cell::new(0);
    for _ in 0..50 {
        workload.send(BURST);
        now.set(now.get() + TURN_NS);
        assert!(workload.turn(|| now.get()));
        workload.receive(BURST);
    }
    assert_eq!(workload.rig().load(now.get()).cores[0].oldest_ns, 0);
}

/// So many turns of a core that a NIC always has packets for, each as long as the last; their load.
fn behind(workload: &mut Workload, now: &Cell<u64>, turns: u64) -> Load {
    for _ in 0..turns {
        workload.send(BURST);
        now.set(now.get() + TURN_NS);
        assert!(workload.turn(|| now.get()));
        workload.receive(BURST);
    }
    workload.rig().load(now.get())
}

/// One after the other: devices have names.
#[test]
fn what_nics_bring_fills_a_core_and_may_be_a_part_of_what_guests_cost() {
    a_core_that_a_nic_fills_is_saturated();
    what_a_nic_brings_by_a_rule_is_a_part_of_what_the_guest_costs();
}

fn a_core_that_a_nic_fills_is_saturated() {
    let (mut workload, now) = (Workload::p2v(SPLIT, 60), Cell::new(0));
    let thresholds = Thresholds::default();
    let mut detector = Detector::new(1, thresholds);
    behind(&mut workload, &now, 1);
    let turns = thresholds.wait_ns / TURN_NS;
    for tick in 1..=u64::from(thresholds.onset_ticks) {
        assert!(!detector.is_saturated(IoCore(0)));
        let load = behind(&mut workload, &now, turns);
        assert_eq!((load.cores[0].oldest_ns, load.cores[0].busy), (tick * turns * TURN_NS, turns * TURN_NS));
        detector.tick(&load.cores);
    }
    assert!(detector.is_saturated(IoCore(0)));
    workload.finish();
}

/// All of it is one guest's.
fn what_a_nic_brings_by_a_rule_is_a_part_of_what_the_guest_costs() {
    for steered in [false, true] {
        let (mut workload, now) = (Workload::p2v(SPLIT, 60), Cell::new(0));
        let port = workload.ports[0];
        if steered {
            workload.rig().steer(port);
        }
        behind(&mut workload, &now, 1);
        let load = behind(&mut workload, &now, 10);
        let guest = load.queues.iter().find(|load| load.queue == port.queue(0)).expect("it is attached");
        let all = (load.cores[0].busy, 10 * BURST as u64);
        assert_eq!((guest.cycles, guest.packets), if steered { all } else { (0, 0) });
        assert_eq!((guest.brought.cycles, guest.brought.packets), (guest.cycles, guest.packets));
    }
}

/// The same as in a guest's ring, a burst of it being a chunk of the ring between two cores.
#[test]
fn work_that_another_core_hands_over_ages() {
    let mut workload = Workload::v2v(SPLIT, 60, 2);
    let turns = RING / BURST;
    let now = Cell::new(0);
    let turn = |workload: &mut Workload| {
        now.set(now.get() + TURN_NS);
        assert!(workload.rig().turn(1, || now.get()));
    };
    workload.fill();
    (0..turns).for_each(|_| assert!(workload.rig().turn(0, || 0)));
    workload.rig().load(0);
    (0..turns / 2).for_each(|_| turn(&mut workload));
    let ages = |workload: &mut Workload, now| {
        let load = workload.rig().load(now);
        assert!(load.queues.iter().all(|queue| queue.oldest_ns == 0), "it is in no guest's ring");
        assert_eq!(load.cores[0].oldest_ns, 0);
        load.cores[1].oldest_ns
    };
    assert_eq!(ages(&mut workload, now.get()), (turns as u64 / 2 - 1) * TURN_NS, "it still waits");
    (turns / 2..turns).for_each(|_| turn(&mut workload));
    assert_eq!(ages(&mut workload, now.get()), (turns as u64 - 1) * TURN_NS, "it waited so long");
    assert_eq!(ages(&mut workload, now.get() + TURN_NS), 0, "nothing waits");
    workload.drain();
    workload.finish();
}

#[test]
fn the_node_of_a_guests_memory_is_known() {
    // Here as on any machine with one node only; others may have it anywhere.
    let nodes = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    let mut workload = Workload::v2v(SPLIT, 60, 1);
    let load = load_now(&mut workload);
    assert!(!load.queues.is_empty());
    match nodes.trim() {
        "0" => assert!(load.queues.iter().all(|queue| queue.node == Some(0)), "{:?}", load.queues),
        "" => assert!(load.queues.iter().all(|queue| queue.node.is_none_or(|node| node == 0)), "{:?}", load.queues),
        _ => assert!(load.queues.iter().all(|queue| queue.node.is_some()), "{:?}", load.queues),
    }
}

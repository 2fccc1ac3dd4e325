//! A round of an I/O core neither takes memory from the allocator nor gives any back, whatever it moves. `allocation_counter` replaces
//! this program's allocator by one that counts for each thread.
#![forbid(unsafe_code)]

mod rig;

use allocation_counter::measure;
use rig::interrupts::Interrupts;
use rig::{BURST, CYCLES_PER_US, PACKED, RING, SPLIT, Workload};
use vm_ports::Moderation;

/// Refills of the rings: descriptors wrap, and the source's address is learnt in the first.
const FILLS: usize = 3;

/// Moves frames until all rings were emptied some times, and counts in the cores' rounds only.
fn moves_without_allocating(name: &str, mut workload: Workload) {
    for fill in 0..FILLS {
        workload.fill();
        for round in 0..RING / BURST {
            let mut worked = false;
            // Idle rings fall asleep, and their turn comes.
            workload.pass_time(300);
            let info = measure(|| worked = workload.round());
            assert!(worked, "{name}: there is a burst for every round");
            assert_eq!((info.count_total, info.count_current), (0, 0), "{name}: fill {fill}, round {round}: {info:?}");
        }
        workload.drain();
    }
    workload.finish();
}

#[test]
fn between_guests() {
    for len in [60, 1514] {
        moves_without_allocating("split", Workload::v2v(SPLIT, len, 1));
        moves_without_allocating("packed", Workload::v2v(PACKED, len, 1));
        moves_without_allocating("across cores", Workload::v2v(SPLIT, len, 2));
    }
    moves_without_allocating("beside idle guests", Workload::v2v(SPLIT, 60, 1).beside_idle(64));
}

/// In one test, because the thread that starts EAL is the one with caches of mbufs, as an I/O core is.
#[test]
fn from_and_to_a_nic() {
    for len in [60, 1514] {
        for features in [SPLIT, PACKED] {
            moves_without_allocating("from a NIC", Workload::p2v(features, len));
            moves_without_allocating("to a NIC", Workload::v2p(features, len));
        }
    }
}

#[test]
fn captured() {
    for len in [60, 1514] {
        let mut workload = Workload::v2v(SPLIT, len, 2);
        let port = workload.ports[1];
        // Whatever it takes: every packet is recorded, one by one at the receiver's core.
        let mut capture = workload.rig().capture(port, 100);
        moves_without_allocating("captured", workload);
        let recorded = (FILLS * RING) as u64;
        assert_eq!((capture.counts(), capture.drain()), ((recorded, recorded), FILLS * RING));
    }
}

#[test]
fn nothing_to_do() {
    let mut workload = Workload::v2v(SPLIT, 60, 1).beside_idle(16);
    let info = measure(|| assert!((0..100).all(|_| !workload.round())));
    assert_eq!((info.count_total, info.count_current), (0, 0), "{info:?}");
}

#[test]
fn calls_that_are_held_back() {
    for features in [SPLIT, PACKED] {
        let mut world = Interrupts::new(features, 1, 64, Moderation { delay: 50 * CYCLES_PER_US, adaptive: true });
        for turn in 0..2000 {
            world.send(turn % 64, 1 + turn % 3);
            world.send(turn % 7, 1);
            let info = measure(|| world.turn_alone(0));
            assert_eq!((info.count_total, info.count_current), (0, 0), "turn {turn}: {info:?}");
            world.answer();
            world.pass(CYCLES_PER_US);
        }
        assert!(world.all_calls() < 3000, "some were held back: {}", world.all_calls());
    }
}

#[test]
fn an_idle_ring_wakes_up() {
    let mut workload = Workload::v2v(SPLIT, 60, 1).beside_idle(64);
    for pair in 0..64 {
        // Everybody is asleep.
        workload.pass_time(2000);
        while workload.round() {}
        workload.send_from_idle(pair);
        // The clock stands still: a core without work looks at some idle rings in every turn all the same.
        let info = measure(|| while !workload.turn(|| (pair as u64 + 1) * 2_000_000) {});
        assert_eq!((info.count_total, info.count_current), (0, 0), "pair {pair}: {info:?}");
        assert!(workload.was_taken(pair), "pair {pair}");
    }
}

/// The counter sees what it is there to see: both ends of an allocation.
#[test]
fn the_counter_counts() {
    let mut kept = Vec::new();
    let taken = measure(|| kept.push(std::hint::black_box(Box::new([0u8; 100]))));
    assert!(taken.count_total >= 1 && taken.bytes_total >= 100, "{taken:?}");
    let given = measure(|| kept.clear());
    assert_eq!((given.count_total, given.count_current), (0, -1), "{given:?}");
}

//! Rings that a busy core of mode `adaptive` leaves to their kicks.
#![forbid(unsafe_code)]

mod rig;

use rig::{PACKED, SPLIT, Workload};
use sidecore::rig::Mode;

/// Bytes of a frame.
const LEN: usize = 60;
/// What a round takes, in microseconds.
const ROUND_US: u64 = 10;
/// A ring in which nothing was found for so long has been left to its kicks, in microseconds.
const LEFT_AFTER_US: u64 = 20_000;
/// The first packet of such a ring is seen within this time and a round, without a kick, where the core has few guests.
const SEEN_US: u64 = 100;

/// One guest streams to the other for so long.
fn stream(workload: &mut Workload, us: u64) {
    let mut passed = 0;
    while passed < us {
        workload.fill();
        while !workload.is_through() {
            workload.round();
            workload.pass_time(ROUND_US);
            passed += ROUND_US;
        }
        workload.drain();
    }
}

#[test]
fn a_busy_core_that_has_few_guests_does_not_depend_on_kicks_and_one_that_has_many_does() {
    for features in [SPLIT, PACKED] {
        for (others, seen) in [(0, 1), (14, 1), (15, 0)] {
            let mut workload = Workload::v2v_in(Mode::Adaptive, features, LEN, 1).beside_idle(others);
            stream(&mut workload, LEFT_AFTER_US);
            assert!(workload.answer_without_a_kick(), "{features:?}, {others} others: it is to kick");
            stream(&mut workload, SEEN_US + ROUND_US);
            assert_eq!(workload.answers(), seen, "{features:?}, {others} others");
        }
    }
}

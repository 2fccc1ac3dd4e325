//! Calls that a core holds back: they go out in time, whatever else it does, and before it gives up looking after them.
#![forbid(unsafe_code)]

mod rig;

use rig::interrupts::Interrupts;
use rig::{CYCLES_PER_US, PACKED, SPLIT};
use synthetic_guest::Features;
use vm_ports::Moderation;

const DELAY: u64 = 50 * CYCLES_PER_US;
const NONE: Moderation = Moderation { delay: 0, adaptive: false };
const FIXED: Moderation = Moderation { delay: DELAY, adaptive: false };
const ADAPTIVE: Moderation = Moderation { delay: DELAY, adaptive: true };
const KINDS: [Features; 4] =
    [SPLIT, PACKED, Features(SPLIT.0 | Features::EVENT_IDX.0), Features(PACKED.0 | Features::EVENT_IDX.0)];

#[test]
fn a_lone_packet_is_called_for_in_its_own_burst() {
    for features in KINDS {
        for moderation in [NONE, FIXED, ADAPTIVE] {
            let mut world = Interrupts::new(features, 1, 2, moderation);
            for packet in 0..100 {
                world.send(packet % 2, 1);
                world.turn(0, 0);
                world.pass(DELAY);
            }
            assert_eq!((world.all_calls(), world.longest()), (100, 0), "{features:?} {moderation:?}");
        }
    }
}

/// Bursts for some guests in turn, more often than every delay, on a core whose turns take a microsecond. Calls for each burst.
fn stream(features: Features, moderation: Moderation) -> f64 {
    const TURNS: usize = 20_000;
    let mut world = Interrupts::new(features, 1, 3, moderation);
    for turn in 0..TURNS {
        // Some come three times as often as others, and in larger bursts.
        world.send([0, 1, 1, 2, 2, 2][turn % 6], 1 + turn % 5);
        world.turn(0, CYCLES_PER_US);
        // What is held back goes out at the first look after its time.
        assert!(
            world.longest() <= moderation.delay + CYCLES_PER_US,
            "{features:?} {moderation:?}: {}",
            world.longest()
        );
    }
    world.pass(DELAY);
    world.turn(0, 0);
    assert!(world.longest() <= 2 * DELAY, "nobody waits any more");
    world.all_calls() as f64 / TURNS as f64
}

#[test]
fn a_stream_has_fewer_calls_and_each_is_in_time() {
    for features in KINDS {
        assert_eq!(stream(features, NONE), 1.0, "{features:?}");
        for moderation in [FIXED, ADAPTIVE] {
            let calls = stream(features, moderation);
            assert!(calls < 0.25, "{features:?} {moderation:?}: {calls}");
        }
    }
}

/// The core is busy with others' bursts, of which a round has many and each takes its time. No call waits for the end of the round.
#[test]
fn a_call_is_let_go_between_two_bursts_of_a_round() {
    const BURST: u64 = 20 * CYCLES_PER_US;
    for features in KINDS {
        let mut world = Interrupts::new(features, 1, 1, FIXED);
        for _ in 0..100 {
            world.send(0, 1);
            world.turn(0, 0);
            world.send(0, 1);
            world.turn(0, 0);
            // Eight bursts, in one round.
            world.fill_sink();
            let begin = world.now.get();
            world.turn(0, BURST);
            assert_eq!(world.now.get() - begin, 8 * BURST);
            world.pass(DELAY);
        }
        assert_eq!(world.calls(0), 200, "{features:?}");
        assert!(world.longest() <= DELAY + BURST, "{features:?}: {}", world.longest());
    }
}

/// Makes a call be held back: the second within the delay.
fn hold_one(features: Features) -> Interrupts {
    let mut world = Interrupts::new(features, 2, 2, FIXED);
    for calls in [1, 1] {
        world.send(0, 1);
        world.turn(0, 0);
        assert_eq!(world.calls(0), calls);
    }
    world
}

#[test]
fn a_queue_pair_that_moves_takes_no_call_with_it() {
    for features in KINDS {
        let mut world = hold_one(features);
        world.move_away(0);
        world.answer();
        assert_eq!(world.calls(0), 2, "{features:?}");
        // The one that took its place in the lists is known by its new place.
        for calls in [1, 1] {
            world.send(1, 1);
            world.turn(0, 0);
            assert_eq!(world.calls(1), calls);
        }
        world.pass(DELAY);
        world.turn(0, 0);
        assert_eq!((world.calls(0), world.calls(1)), (2, 2), "{features:?}");
    }
}

#[test]
fn a_core_that_goes_to_sleep_holds_nothing_back() {
    for features in KINDS {
        let mut world = hold_one(features);
        world.release_calls(0);
        world.answer();
        assert_eq!(world.calls(0), 2, "{features:?}");
        world.pass(DELAY);
        world.turn(0, 0);
        assert_eq!(world.calls(0), 2, "{features:?}: it is forgotten");
    }
}

//! A core is saturated when it is busy and work waits; not before, and not for longer.

use scheduler::{Change, CoreLoad, Detector, IoCore, Thresholds};

const CAPACITY: u64 = 1_000_000;

fn core(busy_percent: u64, oldest_us: u64) -> CoreLoad {
    CoreLoad { busy: CAPACITY / 100 * busy_percent, capacity: CAPACITY, oldest_ns: oldest_us * 1000, parked: false }
}

fn ticks(detector: &mut Detector, load: CoreLoad, count: usize) -> Vec<Change> {
    (0..count).flat_map(|_| detector.tick(&[load])).collect()
}

#[test]
fn it_is_seen_in_two_ticks() {
    let mut detector = Detector::new(1, Thresholds::default());
    assert!(ticks(&mut detector, core(50, 0), 10).is_empty());
    assert!(ticks(&mut detector, core(100, 500), 1).is_empty());
    assert_eq!(ticks(&mut detector, core(100, 500), 1), [Change { core: IoCore(0), saturated: true }]);
    assert!(detector.is_saturated(IoCore(0)));
}

#[test]
fn busy_is_not_enough_and_waiting_is_not_enough() {
    let mut detector = Detector::new(1, Thresholds::default());
    assert!(ticks(&mut detector, core(100, 10), 100).is_empty());
    assert!(ticks(&mut detector, core(90, 5000), 100).is_empty());
    // One bad tick in two is none.
    for _ in 0..100 {
        assert!(ticks(&mut detector, core(100, 500), 1).is_empty());
        assert!(ticks(&mut detector, core(100, 10), 1).is_empty());
    }
}

#[test]
fn it_ends_only_after_a_while_of_calm() {
    let thresholds = Thresholds::default();
    let mut detector = Detector::new(1, thresholds);
    ticks(&mut detector, core(100, 500), 2);
    // Between the two thresholds nothing changes.
    assert!(ticks(&mut detector, core(90, 0), 1000).is_empty());
    assert!(ticks(&mut detector, core(50, 0), thresholds.calm_ticks as usize - 1).is_empty());
    assert!(ticks(&mut detector, core(90, 0), 1).is_empty());
    let calm = ticks(&mut detector, core(50, 0), thresholds.calm_ticks as usize);
    assert_eq!(calm, [Change { core: IoCore(0), saturated: false }]);
}

#[test]
fn each_core_has_a_state_of_its_own() {
    let mut detector = Detector::new(3, Thresholds::default());
    let load = [core(100, 500), core(10, 0), core(100, 500)];
    assert!(detector.tick(&load).is_empty());
    let saturated = |core| Change { core: IoCore(core), saturated: true };
    assert_eq!(detector.tick(&load), [saturated(0), saturated(2)]);
    assert!(!detector.is_saturated(IoCore(1)) && !detector.is_saturated(IoCore(7)));
}

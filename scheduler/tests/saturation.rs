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

/// A core whose work comes at a rate, in parts of what it can do, and is served in order; a tick is 5 ms, in steps of a hundredth.
struct Fluid {
    detector: Detector,
    steps: u64,
    busy: f64,
    backlog: f64,
    /// When work first waited for as long as it takes, in steps, and when that was seen to be saturation.
    waits: Option<u64>,
    seen: Option<u64>,
}

const STEPS: u64 = 100;
const STEP_NS: f64 = 50_000.0;

impl Fluid {
    fn new() -> Self {
        let detector = Detector::new(1, Thresholds::default());
        Self { detector, steps: 0, busy: 0.0, backlog: 0.0, waits: None, seen: None }
    }

    fn step(&mut self, rate: f64) {
        self.steps += 1;
        let work = self.backlog + rate;
        self.busy += work.min(1.0);
        self.backlog = (work - 1.0).max(0.0);
        let oldest_ns = (self.backlog / rate.max(1.0) * STEP_NS) as u64;
        if oldest_ns >= Thresholds::default().wait_ns {
            self.waits.get_or_insert(self.steps);
        }
        if self.steps.is_multiple_of(STEPS) {
            let busy = (std::mem::take(&mut self.busy) / STEPS as f64 * CAPACITY as f64) as u64;
            let load = CoreLoad { busy, capacity: CAPACITY, oldest_ns, parked: false };
            if self.detector.tick(&[load]).iter().any(|change| change.saturated) {
                self.seen.get_or_insert(self.steps);
            }
        }
    }
}

#[test]
fn it_is_seen_in_two_ticks_wherever_in_a_tick_it_begins() {
    for (before, after) in [(0.0, 1.1), (0.0, 2.0), (0.5, 1.05), (0.5, 1.2), (0.9, 1.1), (0.9, 4.0)] {
        for phase in 0..STEPS {
            let mut core = Fluid::new();
            (0..10 * STEPS + phase).for_each(|_| core.step(before));
            assert!(core.waits.is_none());
            (0..20 * STEPS).for_each(|_| core.step(after));
            let late = core.seen.expect("it is saturated") - core.waits.expect("work waits");
            assert!(late < 2 * STEPS, "from {before} to {after} at {phase} % of a tick: {late} % of a tick");
        }
    }
}

#[test]
fn what_is_worked_off_within_a_tick_is_no_saturation() {
    for length in [1, 10, 50, 90] {
        for phase in 0..STEPS {
            let mut core = Fluid::new();
            (0..phase).for_each(|_| core.step(0.2));
            // In every third tick, all at once: much waits, and is soon done.
            for _ in 0..20 {
                core.step(length as f64 * 0.8);
                (1..3 * STEPS).for_each(|_| core.step(0.2));
            }
            assert!(core.waits.is_some() || length == 1);
            assert_eq!(core.seen, None, "{length} % of a tick at {phase} %");
        }
    }
}

#[test]
fn the_last_tick_has_to_be_busy_all_the_time() {
    let thresholds = Thresholds { onset_ticks: 1, ..Thresholds::default() };
    let mut detector = Detector::new(1, thresholds);
    assert!(ticks(&mut detector, core(90, 5000), 10).is_empty());
    assert_eq!(ticks(&mut detector, core(100, 500), 1).len(), 1);
    let mut detector = Detector::new(1, Thresholds { onset_ticks: 3, ..thresholds });
    // It has waited before, and not since.
    assert!(ticks(&mut detector, core(50, 500), 3).is_empty() && ticks(&mut detector, core(50, 0), 1).is_empty());
    assert!(ticks(&mut detector, core(50, 500), 1).is_empty());
    assert!(ticks(&mut detector, core(100, 500), 1).is_empty());
    assert_eq!(ticks(&mut detector, core(100, 500), 1).len(), 1);
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
fn a_constant_load_changes_nothing_twice_however_low_the_threshold() {
    for busy in [0.5, 0.6, 0.75, 0.9, 0.95, 1.0] {
        for load in 40..=100 {
            let mut detector = Detector::new(1, Thresholds { busy, ..Thresholds::default() });
            let changes = ticks(&mut detector, core(load, 500), 1000);
            assert_eq!(changes.len(), usize::from(load as f64 / 100.0 >= busy), "{load} % at {busy}");
        }
    }
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

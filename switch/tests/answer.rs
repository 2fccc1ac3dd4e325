//! What the scheduler is for, with all parts of the switch but threads: where one of two cores is asked for more than it can do, it sees that
//! in the cores' counters and moves guests that send all the while. Time is counted in bursts: it comes out the same however busy the
//! machine is.
#![forbid(unsafe_code)]

mod rig;

use rig::shift::Shift;
use scheduler::{IoCore, Move, Thresholds};

/// Loads of both cores, in parts of what one can do.
const LOADS: [f64; 2] = [1.3, 0.1];
/// Pairs of guests on each.
const PAIRS: usize = 4;
/// Ticks until everything is where it belongs, and those that are looked at then.
const BEFORE: usize = 30;
const TICKS: usize = 20;

#[test]
fn two_cores_do_together_what_one_of_them_cannot_do_alone() {
    let [off, on] = [false, true].map(|watched| {
        let mut shift = Shift::new(&LOADS, PAIRS, watched);
        shift.ticks(BEFORE);
        let (service, load) = shift.ticks(TICKS);
        let moves = shift.moves().to_vec();
        assert!(shift.finish(), "nothing is lost, duplicated or reordered");
        (service, load, moves)
    });
    let (service, load, moves) = off;
    // One core's work and a tenth of it, of 1.4.
    assert!(service.part() < 0.85 && moves.is_empty(), "{service:?} {moves:?}");
    assert!(load.cores[0].busy_ratio() >= Thresholds::default().busy, "{load:?}");
    let (service, load, moves) = on;
    assert!(service.part() > 0.95, "{service:?} {moves:?}");
    assert!(!moves.is_empty() && moves.iter().all(|step| (step.from, step.to) == (IoCore(0), IoCore(1))), "{moves:?}");
    let together = |pair: &[Move]| pair.len() == 2 && pair[0].queue.port.0 / 2 == pair[1].queue.port.0 / 2;
    assert!(moves.chunks(2).all(together), "those who talk move together: {moves:?}");
    assert!(load.cores.iter().all(|core| core.busy_ratio() < Thresholds::default().busy), "{load:?}");
}

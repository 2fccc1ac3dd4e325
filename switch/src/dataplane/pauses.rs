//! How long queue pairs were not served while they moved, as a histogram.

use std::sync::{Mutex, PoisonError};

use pmd_bindings::tsc_hz;

use crate::snapshot::PausesSnapshot;

/// Upper ends of the histogram's intervals, in microseconds.
pub(crate) const BOUNDS_US: [u32; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000];

/// The moves of queue pairs up to now.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<Counts>);

#[derive(Debug, Default, Clone)]
struct Counts {
    /// One more than there are bounds.
    by_bound: [u64; BOUNDS_US.len() + 1],
    cycles: u64,
}

impl Pauses {
    /// Counts a move whose queue pair was not served for so many cycles.
    pub(super) fn add(&self, cycles: u64) {
        let us = cycles as f64 * 1e6 / tsc_hz() as f64;
        let place = BOUNDS_US.iter().position(|bound| us <= f64::from(*bound)).unwrap_or(BOUNDS_US.len());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.by_bound[place] += 1;
        counts.cycles += cycles;
    }

    pub(super) fn snapshot(&self) -> PausesSnapshot {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut moves = 0;
        let up_to = |(bound, count): (&u32, &u64)| {
            moves += count;
            (f64::from(*bound) / 1e6, moves)
        };
        let within_s = BOUNDS_US.iter().zip(&counts.by_bound).map(up_to).collect();
        PausesSnapshot {
            moves: counts.by_bound.iter().sum(),
            seconds: counts.cycles as f64 / tsc_hz() as f64,
            within_s,
        }
    }
}

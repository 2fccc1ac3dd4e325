//! How long things take, as histograms with fixed bounds.

use std::sync::{Mutex, PoisonError};

use pmd_bindings::tsc_hz;
use vm_ports::Counter;

use crate::snapshot::HistogramSnapshot;

/// Upper ends of the intervals for [`Pauses`], in microseconds.
pub(crate) const PAUSE_BOUNDS_US: [u32; 14] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000];

/// Upper ends of the intervals for [`Latency`], in microseconds.
pub(crate) const LATENCY_BOUNDS_US: [u32; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// The interval that so many cycles are in: the first whose bound is not below, or the one after the last.
fn interval(bounds_us: &[u32], cycles: u64, cycles_per_s: u64) -> usize {
    let scaled = u128::from(cycles) * 1_000_000;
    let within = |bound: &u32| scaled <= u128::from(*bound) * u128::from(cycles_per_s);
    bounds_us.iter().position(within).unwrap_or(bounds_us.len())
}

/// What a histogram with these counts, one more than there are bounds, looks like from outside.
fn snapshot(bounds_us: &[u32], counts: &[u64], cycles: u64, cycles_per_s: u64) -> HistogramSnapshot {
    let mut sum = 0;
    let up_to = |(bound, count): (&u32, &u64)| {
        sum += count;
        (f64::from(*bound) / 1e6, sum)
    };
    HistogramSnapshot {
        within_s: bounds_us.iter().zip(counts).map(up_to).collect(),
        count: counts.iter().sum(),
        seconds: cycles as f64 / cycles_per_s.max(1) as f64,
    }
}

/// How long queue pairs were not served while they moved, up to now.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<Counts>);

#[derive(Debug, Default, Clone)]
struct Counts {
    by_bound: [u64; PAUSE_BOUNDS_US.len() + 1],
    cycles: u64,
}

impl Pauses {
    /// Counts a move whose queue pair was not served for so many cycles.
    pub(super) fn add(&self, cycles: u64) {
        let place = interval(&PAUSE_BOUNDS_US, cycles, tsc_hz());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.by_bound[place] += 1;
        counts.cycles += cycles;
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        snapshot(&PAUSE_BOUNDS_US, &counts.by_bound, counts.cycles, tsc_hz())
    }
}

/// How long packets were in the switch, of those bursts that [`Sampler`] chose. Written by one I/O core.
#[derive(Debug, Default)]
pub(super) struct Latency {
    counts: [Counter; LATENCY_BOUNDS_US.len() + 1],
    cycles: Counter,
}

impl Latency {
    /// Counts packets that were there for so many cycles each.
    #[cold]
    pub(super) fn add(&self, cycles: u64, packets: u64, cycles_per_s: u64) {
        self.counts[interval(&LATENCY_BOUNDS_US, cycles, cycles_per_s)].add(packets);
        self.cycles.add(cycles.saturating_mul(packets));
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.counts.iter().map(Counter::get).collect();
        snapshot(&LATENCY_BOUNDS_US, &counts, self.cycles.get(), tsc_hz())
    }
}

/// Chooses one burst in 64, on average: not every 64th, which could be the same guest's each time.
#[derive(Debug)]
pub(super) struct Sampler(u32);

impl Sampler {
    const EVERY: u32 = 64;

    /// The next one is chosen.
    pub(super) fn new() -> Self {
        Self(1)
    }

    /// Whether this burst is chosen. Then [`Sampler::rearm`] comes next.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 == 0
    }

    /// Chooses another one, by whatever the clock's last digits are.
    #[cold]
    pub(super) fn rearm(&mut self, clock: u64) {
        self.0 = Self::EVERY / 2 + 1 + (clock % u64::from(Self::EVERY)) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_interval_below_it() {
        let places = [0, 2000, 2001, 4000, 4001, u64::MAX].map(|cycles| interval(&[1, 2], cycles, 2_000_000_000));
        assert_eq!(places, [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn one_burst_in_sixty_four_is_chosen_whatever_the_clock_says() {
        // A clock that always ends alike, and one that does not.
        for step in [64, 6_700_417] {
            let (mut sampler, mut clock, mut chosen) = (Sampler::new(), 5_u64, 0);
            for _ in 0..64_000 {
                clock += step;
                if sampler.is_due() {
                    chosen += 1;
                    sampler.rearm(clock);
                }
            }
            assert!((600..=2000).contains(&chosen), "{chosen} with {step}");
        }
    }

    #[test]
    fn packets_of_a_burst_count_one_by_one() {
        let latency = Latency::default();
        latency.add(5000, 32, 1_000_000_000);
        latency.add(20_000_000, 1, 1_000_000_000);
        let seen = latency.snapshot();
        assert_eq!(
            (seen.count, seen.within_s[1], seen.within_s[2], seen.within_s[12]),
            (33, (2e-6, 0), (5e-6, 32), (0.01, 32))
        );
    }

    #[test]
    fn a_snapshot_counts_everything_up_to_a_bound() {
        let seen = snapshot(&[1, 1000], &[3, 2, 1], 500, 1000);
        let within_s = vec![(0.000_001, 3), (0.001, 5)];
        assert_eq!(seen, HistogramSnapshot { count: 6, seconds: 0.5, within_s });
    }
}

//! Throughput at the limit and past it, side by side: the same guests' load changes many times a second, so that what changes the speed of the machine,
//! from one second to the next or with the memory that a generator happens to get, changes all of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::super::Lab;
use super::super::finding::Table;
use super::super::stage::Stage;
use super::super::traffic::Streams;
use super::load::{PAST, SIZE};
use super::{BUSY, estimate};
use crate::stats::median;

/// Loads, in parts of what the core can do at that time.
const LOADS: [f64; 4] = [1.0, 2.0, 4.0, 16.0];
/// Rounds, with a generator each, for each round of other measurements. In one, all loads have a turn so many times, …
const ROUNDS: usize = 2;
const CYCLES: usize = 30;
/// … after a first turn that shows what the core can do, and is so many times as long.
const FIRST: u32 = 10;
/// In each turn so long settles, and so long is measured.
const SETTLE: Duration = Duration::from_millis(5);
const LENGTH: Duration = Duration::from_millis(20);

/// Packets a second, by load.
type Rates = [f64; LOADS.len()];

/// Turns of all loads, one after the other.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cycle {
    asked: Rates,
    delivered: Rates,
}

/// What all rounds came to.
#[derive(Serialize)]
pub(super) struct Limit {
    rounds: Vec<Vec<Cycle>>,
    /// Part of the time in which the generator had nothing to do: the least of all rounds.
    pub(super) idle: f64,
}

impl Limit {
    /// Measures; `most`: packets a second that the core could do before.
    pub(super) fn find(lab: &Lab, stage: &Stage, most: f64) -> Result<Self> {
        let mut limit = Self { rounds: Vec::new(), idle: 1.0 };
        let rounds = if lab.effort.coarse { 1 } else { ROUNDS };
        for _ in 0..rounds * lab.effort.rounds {
            let streams = Streams::packets(lab, stage, SIZE, &[PAST * most / BUSY as f64; BUSY])?;
            limit.rounds.push(round(&streams, most)?);
            limit.idle = limit.idle.min(streams.finish()?.generator_idle);
        }
        Ok(limit)
    }

    /// The median over the cycles of each round: the machine changes its speed in some of them, and then one load has a turn at one speed and the next
    /// load at another.
    fn by_round(&self, figure: impl Fn(&Cycle) -> f64) -> Vec<f64> {
        let of_round = |cycles: &Vec<Cycle>| {
            // In a turn of which the machine took all there is no ratio to it.
            let figures: Vec<f64> = cycles.iter().map(&figure).filter(|figure| figure.is_finite()).collect();
            median(&figures).unwrap_or(f64::NAN)
        };
        self.rounds.iter().map(of_round).collect()
    }

    /// The load at which most is delivered: in parts of its cycle, so that a slow one says as much as a fast one.
    fn peak(&self) -> usize {
        let part = |load: usize| {
            let parts = self.by_round(|cycle| cycle.delivered[load] / cycle.delivered.iter().sum::<f64>());
            median(&parts).unwrap_or(0.0)
        };
        (0..LOADS.len()).max_by(|one, other| part(*one).total_cmp(&part(*other))).unwrap_or(0)
    }

    /// What was delivered at a load in parts of the peak, round by round.
    pub(super) fn to_peak(&self, load: f64) -> Vec<f64> {
        let peak = self.peak();
        let at = LOADS.iter().position(|other| *other == load);
        at.map_or(Vec::new(), |at| self.by_round(|cycle| cycle.delivered[at] / cycle.delivered[peak]))
    }

    pub(super) fn setup(&self) -> String {
        format!(
            "Throughput past the limit is held against the peak, which is at {} times what the core can do, within {} rounds of one generator \
             each. In a round, all loads have a turn of {} ms one after the other, {CYCLES} times, and give a ratio each time; a round's ratio is \
             the median of those. What the core can do is the most that it delivered in one of the four turns just before. The peak is that of \
             these rounds, rather too high than too low. The generator idles {:.0} % at least.",
            LOADS[self.peak()],
            self.rounds.len(),
            (SETTLE + LENGTH).as_millis(),
            self.idle * 100.0
        )
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(
            "At the limit and past it, side by side",
            &["load", "asked for, to the peak", "delivered, Mpps", "to the peak"],
        );
        let peak = self.peak();
        for (at, load) in LOADS.iter().enumerate() {
            table.row([
                load.to_string(),
                estimate(&self.by_round(|cycle| cycle.asked[at] / cycle.delivered[peak])),
                estimate(&self.by_round(|cycle| cycle.delivered[at] / 1e6)),
                estimate(&self.to_peak(*load)),
            ]);
        }
        table
    }
}

/// All cycles of a generator. `most` is what the core could do before, in packets a second.
fn round(streams: &Streams, most: f64) -> Result<Vec<Cycle>> {
    let mut most = turn(streams, PAST * most, FIRST * LENGTH)?;
    let mut cycles = Vec::with_capacity(CYCLES);
    for first in 0..CYCLES {
        let asked = LOADS.map(|load| load * most);
        let mut delivered = Rates::default();
        for nth in 0..LOADS.len() {
            // Each of them is the first in its turn.
            let load = (first + nth) % LOADS.len();
            delivered[load] = turn(streams, asked[load], LENGTH)?;
        }
        most = delivered.iter().copied().fold(0.0, f64::max);
        cycles.push(Cycle { asked, delivered });
    }
    Ok(cycles)
}

/// Packets a second that arrive when all guests together ask for so many.
fn turn(streams: &Streams, asked: f64, length: Duration) -> Result<f64> {
    streams.set(&[asked / BUSY as f64; BUSY])?;
    std::thread::sleep(SETTLE);
    let (before, begin) = (streams.received(), Instant::now());
    std::thread::sleep(length);
    let (after, seconds) = (streams.received(), begin.elapsed().as_secs_f64());
    Ok((after.iter().sum::<u64>() - before.iter().sum::<u64>()) as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds in which the machine is this fast, and gets twice as fast within the second one of three cycles.
    fn limit(speeds: &[f64]) -> Limit {
        let cycle = |[first, then]: [f64; 2]| Cycle {
            asked: LOADS.map(|load| load * first),
            delivered: [0.5 * first, 0.9 * first, then, 0.95 * then],
        };
        let round = |speed: &f64| [[*speed; 2], [*speed, 2.0 * speed], [2.0 * speed; 2]].map(cycle).to_vec();
        Limit { rounds: speeds.iter().map(round).collect(), idle: 0.5 }
    }

    #[test]
    fn neither_a_slow_round_nor_a_change_within_it_changes_a_ratio() {
        let limit = limit(&[100.0, 50.0, 80.0]);
        assert_eq!(LOADS[limit.peak()], 4.0);
        assert!(limit.to_peak(2.0).iter().all(|part| (part - 0.9).abs() < 1e-9));
        assert!(limit.to_peak(16.0).iter().all(|part| (part - 0.95).abs() < 1e-9));
        assert_eq!(limit.to_peak(4.0), [1.0; 3]);
        assert!(limit.to_peak(3.0).is_empty());
    }
}

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

/// Loads, in parts of what the core can do in that round.
const LOADS: [f64; 4] = [1.0, 2.0, 4.0, 16.0];
/// Rounds, with a generator each, for each round of other measurements. In one each load has so many turns, …
const ROUNDS: usize = 2;
const TURNS: usize = 8;
/// … after a first one that shows what the core can do, and is so many times as long.
const FIRST: u32 = 8;
/// In each turn so long settles, and so long is measured.
const SETTLE: Duration = Duration::from_millis(20);
const TURN: Duration = Duration::from_millis(60);

/// What all rounds came to.
#[derive(Serialize)]
pub(super) struct Limit {
    /// Packets a second that the core can do, round by round: load 1.
    most: Vec<f64>,
    /// Packets a second, by load, round by round.
    delivered: [Vec<f64>; LOADS.len()],
    /// Part of the time in which the generator had nothing to do: the least of all rounds.
    pub(super) idle: f64,
}

impl Limit {
    /// Measures; `most`: packets a second that the core could do before.
    pub(super) fn find(lab: &Lab, stage: &Stage, most: f64) -> Result<Self> {
        let mut limit = Self { most: Vec::new(), delivered: Default::default(), idle: 1.0 };
        for _ in 0..ROUNDS * lab.effort.rounds {
            let streams = Streams::packets(lab, stage, SIZE, &[PAST * most / BUSY as f64; BUSY])?;
            let most = over(&streams, FIRST * TURN).pps();
            let rates = |load: f64| [load * most / BUSY as f64; BUSY];
            let (mut packets, mut seconds) = ([0; LOADS.len()], [0.0; LOADS.len()]);
            for turn in 0..TURNS * LOADS.len() {
                // Each of them is the first in its turn.
                let load = (turn + turn / LOADS.len()) % LOADS.len();
                streams.set(&rates(LOADS[load]))?;
                let turn = over(&streams, TURN);
                packets[load] += turn.packets;
                seconds[load] += turn.seconds;
            }
            limit.most.push(most);
            for ((delivered, packets), seconds) in limit.delivered.iter_mut().zip(packets).zip(seconds) {
                delivered.push(packets as f64 / seconds);
            }
            limit.idle = limit.idle.min(streams.finish()?.generator_idle);
        }
        Ok(limit)
    }

    /// The load at which most is delivered: in parts of its round, so that a slow round says as much as a fast one.
    fn peak(&self) -> usize {
        let size = |load: &usize| {
            let all = |round: usize| self.delivered.iter().map(|delivered| delivered[round]).sum::<f64>();
            let parts = self.delivered[*load].iter().enumerate().map(|(round, delivered)| delivered / all(round));
            median(&parts.collect::<Vec<_>>()).unwrap_or(0.0)
        };
        (0..LOADS.len()).max_by(|one, other| size(one).total_cmp(&size(other))).unwrap_or(0)
    }

    /// What was delivered at a load in parts of the peak, round by round.
    pub(super) fn to_peak(&self, load: f64) -> Vec<f64> {
        let at = LOADS.iter().position(|other| *other == load);
        let peak = &self.delivered[self.peak()];
        at.map_or(Vec::new(), |at| self.delivered[at].iter().zip(peak).map(|(here, peak)| here / peak).collect())
    }

    /// What was asked for at a load, in the same parts.
    fn asked(&self, load: f64) -> Vec<f64> {
        self.most.iter().zip(&self.delivered[self.peak()]).map(|(most, peak)| load * most / peak).collect()
    }

    pub(super) fn setup(&self) -> String {
        format!(
            "Throughput past the limit is held against the peak, which is at {} times what the core can do, within {} rounds of one generator \
             each, in which loads take turns of {} ms. What the core can do is what it delivered at the beginning of the round, asked \
             for {PAST} times what it could do before. The peak is that of these rounds, rather too high than too low. The generator idles \
             {:.0} % at least.",
            LOADS[self.peak()],
            self.delivered[0].len(),
            (SETTLE + TURN).as_millis(),
            self.idle * 100.0
        )
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(
            "At the limit and past it, side by side",
            &["load", "asked for, to the peak", "delivered, Mpps", "to the peak"],
        );
        for (load, delivered) in LOADS.iter().zip(&self.delivered) {
            let mpps: Vec<f64> = delivered.iter().map(|pps| pps / 1e6).collect();
            table.row([
                load.to_string(),
                estimate(&self.asked(*load)),
                estimate(&mpps),
                estimate(&self.to_peak(*load)),
            ]);
        }
        table
    }
}

/// What arrived in a while.
struct Arrived {
    packets: u64,
    seconds: f64,
}

impl Arrived {
    fn pps(&self) -> f64 {
        self.packets as f64 / self.seconds
    }
}

/// Lets streams settle, and counts for so long.
fn over(streams: &Streams, length: Duration) -> Arrived {
    std::thread::sleep(SETTLE);
    let (before, begin) = (streams.received(), Instant::now());
    std::thread::sleep(length);
    let (after, length) = (streams.received(), begin.elapsed());
    Arrived { packets: after.iter().sum::<u64>() - before.iter().sum::<u64>(), seconds: length.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_round_changes_no_ratio() {
        let rounds = |part: f64| [100.0, 50.0, 80.0].map(|speed| speed * part).to_vec();
        let limit = Limit {
            most: vec![90.0, 45.0, 72.0],
            delivered: [rounds(0.5), rounds(0.9), rounds(1.0), rounds(0.95)],
            idle: 0.5,
        };
        assert_eq!(LOADS[limit.peak()], 4.0);
        assert!(limit.to_peak(2.0).iter().all(|part| (part - 0.9).abs() < 1e-9));
        assert_eq!(limit.to_peak(4.0), [1.0; 3]);
        assert!(limit.asked(2.0).iter().all(|part| (part - 1.8).abs() < 1e-9));
    }
}

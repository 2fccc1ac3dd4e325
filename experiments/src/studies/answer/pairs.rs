//! Pairs of guests at a switch, and what its cores can do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::super::Lab;
use super::super::finding::{Table, show};
use super::super::stage::{Stage, name};
use super::super::traffic::Streams;
use super::AFTER;
use crate::stats::{self, Ratio};

/// Pairs of guests that begin on each I/O core: the first one on core 0, the next one on core 1, and so on.
const PAIRS_A_CORE: usize = 4;
/// Pairs of guests on two cores.
pub(super) const PAIRS: usize = pairs(2);
/// Packets a second that no sender reaches.
pub(super) const FASTEST: f64 = 1e9;

/// Pairs of guests on so many cores.
pub(super) const fn pairs(cores: usize) -> usize {
    PAIRS_A_CORE * cores
}

/// A switch with so many pairs of guests, each of which begins on one core, and stays there.
pub(super) fn stage(lab: &Lab, cores: usize, pairs: usize) -> Result<Stage> {
    // Ports go to the cores in turn: so the first guests of a pair on each core come first, then the second ones.
    let order = (0..pairs).step_by(cores).flat_map(|first| {
        let on_each = move |second: usize| (first..first + cores).map(move |pair| 2 * pair + second);
        on_each(0).chain(on_each(1))
    });
    Stage::spread(lab, cores, |config| {
        order.fold(config.without_rebalancing(), |config, port| config.guest(&name(port), &[]))
    })
}

/// Pairs have to be where the experiment wants them.
pub(super) fn ensure_together(stage: &Stage, cores: usize, pairs: usize) -> Result<()> {
    let status = stage.switch.status()?;
    for pair in 0..pairs {
        for port in [2 * pair, 2 * pair + 1] {
            let core = status.port(&name(port))?.queues.first().and_then(|queue| queue.io_core);
            ensure!(core == Some((pair % cores) as u32), "{} is on I/O core {core:?}", name(port));
        }
    }
    Ok(())
}

/// Packets a second of a round: pairs are together, and send as fast as they can.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Of one core with as many pairs as each of two has.
    pub one_with_half: f64,
    /// Of one core with all pairs.
    pub one_with_all: f64,
    /// Of two cores with all pairs.
    pub two: f64,
}

impl Capacity {
    /// Of one core at its best: it may do more for fewer pairs, whether there is a second core or not.
    #[must_use]
    pub fn one(&self) -> f64 {
        self.one_with_half.max(self.one_with_all)
    }
}

/// What one core and two can do, in every round.
pub fn capacity(lab: &Lab) -> Result<Vec<Capacity>> {
    let measured = lab.rounds(&[(1, pairs(1)), (1, PAIRS), (2, PAIRS)], |&(cores, pairs)| {
        let stage = stage(lab, cores, pairs)?;
        let _preferred = stage.preferred()?;
        let streams = Streams::segments(lab, &stage, &vec![FASTEST; pairs])?;
        ensure_together(&stage, cores, pairs)?;
        let pps = delivered(lab, &streams);
        streams.finish()?;
        Ok(pps.iter().sum::<f64>())
    })?;
    let rounds = measured[0].iter().zip(&measured[1]).zip(&measured[2]);
    Ok(rounds.map(|((&half, &all), &two)| Capacity { one_with_half: half, one_with_all: all, two }).collect())
}

/// How that is measured, for the report.
pub(super) fn setup() -> String {
    format!(
        "Two I/O cores with {PAIRS} pairs, half of them on each, take turns with one that has {}, as each of them has, and with one that has all \
         {PAIRS}. All send as fast as they can. What two deliver is divided by the better of the two figures of one, round by round: so it is what \
         the second core adds, and not that each has fewer pairs.",
        pairs(1)
    )
}

/// Two cores to one at its best.
pub(super) fn gain(capacity: &[Capacity]) -> Option<Ratio> {
    stats::ratio(&figures(capacity, |round| round.two), &figures(capacity, Capacity::one))
}

/// All of what was measured.
pub(super) fn table(capacity: &[Capacity]) -> Table {
    let head = ["I/O cores", "pairs of guests", "delivered, thousand segments a second", "two I/O cores to it"];
    let mut table = Table::new("Two I/O cores beside one", &head);
    let cell = |figure: Option<Ratio>| figure.map_or("-".to_owned(), show);
    let two = figures(capacity, |round| round.two);
    for (cores, pairs, pps) in [
        (1, pairs(1), figures(capacity, |round| round.one_with_half)),
        (1, PAIRS, figures(capacity, |round| round.one_with_all)),
        (2, PAIRS, two.clone()),
    ] {
        let thousands: Vec<f64> = pps.iter().map(|pps| pps / 1e3).collect();
        let to_it = if cores == 1 { cell(stats::ratio(&two, &pps)) } else { String::new() };
        table.row([cores.to_string(), pairs.to_string(), cell(stats::estimate(&thousands)), to_it]);
    }
    table
}

fn figures(capacity: &[Capacity], of: impl Fn(&Capacity) -> f64) -> Vec<f64> {
    capacity.iter().map(of).collect()
}

/// Packets a second that each of several cores can do just now: all but the first beside the first at its limit, the first one while the others have
/// as little to do as after the shift.
pub(super) fn can(lab: &Lab, streams: &Streams, cores: usize) -> Result<Vec<f64>> {
    let of = |core: usize, pps: &[f64]| pps.iter().skip(core).step_by(cores).sum::<f64>();
    streams.set(&vec![FASTEST; pairs(cores)])?;
    let all = delivered(lab, streams);
    let mut can: Vec<f64> = (0..cores).map(|core| of(core, &all)).collect();
    can[0] = FASTEST;
    streams.set(&rates(AFTER, &can))?;
    can[0] = of(0, &delivered(lab, streams));
    Ok(can)
}

/// Packets a second that arrive from each sender, after a while in which that settles.
fn delivered(lab: &Lab, streams: &Streams) -> Vec<f64> {
    std::thread::sleep(Duration::from_millis(200));
    let (before, begin) = (streams.received(), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(lab.effort.seconds));
    let seconds = begin.elapsed().as_secs_f64();
    streams.received().iter().zip(&before).map(|(now, before)| (now - before) as f64 / seconds).collect()
}

/// Rates of all senders for a load of the first core and one of all others, which can do so much.
pub(super) fn rates([first, others]: [f64; 2], can: &[f64]) -> Vec<f64> {
    let load = |core: usize| if core == 0 { first } else { others };
    let cores = can.len();
    (0..pairs(cores)).map(|pair| load(pair % cores) * can[pair % cores] / PAIRS_A_CORE as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One core is at its best with half of the pairs in two rounds, and with all in the last one.
    const ROUNDS: [Capacity; 3] = [
        Capacity { one_with_half: 120e3, one_with_all: 80e3, two: 240e3 },
        Capacity { one_with_half: 100e3, one_with_all: 75e3, two: 180e3 },
        Capacity { one_with_half: 90e3, one_with_all: 110e3, two: 209e3 },
    ];

    #[test]
    fn two_cores_are_divided_by_the_better_figure_of_one_in_each_round() {
        let gain = gain(&ROUNDS).unwrap();
        assert_eq!((gain.low, gain.value, gain.high), (1.8, 1.9, 2.0));
        assert_eq!(super::gain(&[]), None);
    }

    #[test]
    fn the_table_has_each_figure_of_one_core() {
        let rows = table(&ROUNDS).rows;
        assert_eq!(rows[0], ["1", "4", "100 [90, 120]", "2.09 [1.80, 2.32]"]);
        assert_eq!(rows[1], ["1", "8", "80.0 [75.0, 110.0]", "2.61 [1.90, 3.00]"]);
        assert_eq!(rows[2], ["2", "8", "209 [180, 240]", ""]);
    }
}

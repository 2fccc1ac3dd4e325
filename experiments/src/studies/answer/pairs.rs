//! Pairs of guests at a switch, and what its cores can do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::Lab;
use super::super::stage::{Stage, name};
use super::super::traffic::Streams;
use super::AFTER;

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

/// Packets a second that one core and two deliver, in every round: pairs are together, and send as fast as they can.
pub fn capacity(lab: &Lab) -> Result<Vec<[f64; 2]>> {
    let measured = lab.rounds(&[1, 2], |cores| {
        let stage = stage(lab, *cores, PAIRS)?;
        let _preferred = stage.preferred()?;
        let streams = Streams::segments(lab, &stage, &[FASTEST; PAIRS])?;
        ensure_together(&stage, *cores, PAIRS)?;
        let pps = delivered(lab, &streams);
        streams.finish()?;
        Ok(pps.iter().sum::<f64>())
    })?;
    Ok(measured[0].iter().zip(&measured[1]).map(|(one, two)| [*one, *two]).collect())
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

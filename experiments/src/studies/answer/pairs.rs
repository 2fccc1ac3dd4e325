//! Pairs of guests at a switch, and what its cores can do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::super::Lab;
use super::super::stage::{Stage, name};
use super::super::traffic::Streams;
use super::AFTER;

/// Pairs of guests: even ones begin on I/O core 0, odd ones on I/O core 1.
pub(super) const PAIRS: usize = 8;
/// Packets a second that no sender reaches.
pub(super) const FASTEST: f64 = 1e9;

/// A switch with pairs of guests, which begin together on one core, and stay there.
pub(super) fn stage(lab: &Lab, cores: usize) -> Result<Stage> {
    // Ports go to the cores in turn: so the first of two pairs come first, then the second ones.
    let order = (0..PAIRS / 2).flat_map(|pairs| [0, 2, 1, 3].map(|port| 4 * pairs + port));
    Stage::spread(lab, cores, |config| {
        order.fold(config.without_rebalancing(), |config, port| config.guest(&name(port), &[]))
    })
}

/// Pairs have to be where the experiment wants them.
pub(super) fn ensure_together(stage: &Stage, cores: usize) -> Result<()> {
    let status = stage.switch.status()?;
    for pair in 0..PAIRS {
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
        let stage = stage(lab, *cores)?;
        let _preferred = stage.preferred()?;
        let streams = Streams::segments(lab, &stage, &[FASTEST; PAIRS])?;
        ensure_together(&stage, *cores)?;
        let pps = delivered(lab, &streams);
        streams.finish()?;
        Ok(pps.iter().sum::<f64>())
    })?;
    Ok(measured[0].iter().zip(&measured[1]).map(|(one, two)| [*one, *two]).collect())
}

/// Packets a second that each of two cores can do just now: the second one beside the first at its limit, the first one while the second has as
/// little to do as after the shift.
pub(super) fn can(lab: &Lab, streams: &Streams) -> Result<[f64; 2]> {
    let of = |core: usize, pps: &[f64]| pps.iter().skip(core).step_by(2).sum::<f64>();
    streams.set(&[FASTEST; PAIRS])?;
    let second = of(1, &delivered(lab, streams));
    streams.set(&rates(AFTER, [FASTEST, second]))?;
    Ok([of(0, &delivered(lab, streams)), second])
}

/// Packets a second that arrive from each sender, after a while in which that settles.
fn delivered(lab: &Lab, streams: &Streams) -> Vec<f64> {
    std::thread::sleep(Duration::from_millis(200));
    let (before, begin) = (streams.received(), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(lab.effort.seconds));
    let seconds = begin.elapsed().as_secs_f64();
    streams.received().iter().zip(&before).map(|(now, before)| (now - before) as f64 / seconds).collect()
}

/// Rates of all senders for loads of both cores, which can do so much.
pub(super) fn rates(loads: [f64; 2], can: [f64; 2]) -> Vec<f64> {
    (0..PAIRS).map(|pair| loads[pair % 2] * can[pair % 2] / (PAIRS / 2) as f64).collect()
}

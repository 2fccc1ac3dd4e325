//! Generated load: how many packets each guest sends in each tick.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, Poisson, StandardNormal};
use rand_pcg::Pcg64Mcg;

use crate::model::Model;
use crate::scenario::{OFF, Scenario, Shape, Talk};

/// Above this mean a Poisson process is drawn as a normal one.
const NORMAL_ABOVE: f64 = 50.0;
/// On/off: how much more than on average guests send while on.
const WHILE_ON: f64 = 1.0 + OFF;
/// Flash crowds: one guest in so many sends so much more, for so long of every so long, in seconds, after a while.
const CROWD: usize = 8;
const CROWD_TIMES: f64 = 5.0;
const CROWD_S: f64 = 180.0;
const CROWD_EVERY_S: f64 = 240.0;
const CROWD_AFTER_S: f64 = 60.0;
/// Churn: how long guests stay and are away, in seconds, and how much more than on average they send while they are there.
const STAY_S: f64 = 240.0;
const AWAY_S: f64 = 80.0;
const WHILE_THERE: f64 = (STAY_S + AWAY_S) / STAY_S;
/// What the guest that no core can serve sends, in parts of a core.
const ELEPHANT: f64 = 1.3;

/// Draws the load of one run.
pub(crate) struct Traffic<'a> {
    scenario: &'a Scenario,
    rng: Pcg64Mcg,
    /// Packets a tick on average, by guest.
    means: Vec<f64>,
    packets_a_tick: f64,
    /// On/off and churn: whether each is on, or there, and for how many ticks more.
    phases: Vec<(bool, f64)>,
    /// How many ticks they are on, and off, on average.
    lengths: [f64; 2],
    /// Flash crowds: the guests in the order in which they come to be part of one.
    order: Vec<usize>,
    crowd: Vec<bool>,
    /// To whom each sends.
    pub(crate) partners: Vec<Option<usize>>,
    ticks_a_second: f64,
}

impl<'a> Traffic<'a> {
    pub(crate) fn new(scenario: &'a Scenario, model: &Model, seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let means = means(scenario, model, &mut rng);
        let ticks_a_second = 1000.0 / model.tick_ms;
        let lengths = match scenario.shape {
            Shape::Churn => [STAY_S, AWAY_S],
            _ => [scenario.on_s, scenario.on_s * OFF],
        };
        let lengths = lengths.map(|seconds| seconds * ticks_a_second);
        let phases = means.iter().map(|_| {
            let on = rng.random_bool(lengths[0] / lengths.iter().sum::<f64>());
            (on, phase(on, lengths, &mut rng))
        });
        let phases = phases.collect();
        let mut order: Vec<usize> = (0..scenario.guests).collect();
        order.shuffle(&mut rng);
        let partners = partners(scenario, &mut rng);
        let crowd = vec![false; scenario.guests];
        let packets_a_tick = model.packets_a_tick();
        Self { scenario, rng, means, packets_a_tick, phases, lengths, order, crowd, partners, ticks_a_second }
    }

    /// Packets by guest in a tick; `None` after the end of a recording.
    pub(crate) fn tick(&mut self, tick: u64, packets: &mut Vec<f64>) -> Option<()> {
        packets.clear();
        match self.scenario.shape {
            Shape::Recorded => packets.extend_from_slice(self.scenario.recording.as_ref()?.tick(tick)?),
            Shape::Constant => packets.extend_from_slice(&self.means),
            Shape::Poisson | Shape::Zipf | Shape::Elephant => {
                packets.extend(self.means.iter().map(|mean| poisson(*mean, &mut self.rng)));
            }
            Shape::OnOff => self.on_off(WHILE_ON, packets),
            Shape::Churn => self.on_off(WHILE_THERE, packets),
            Shape::FlashCrowd => self.flash_crowd(tick, packets),
        }
        Some(())
    }

    /// Whether a guest is there, as of the last tick.
    pub(crate) fn is_there(&self, guest: usize) -> bool {
        self.scenario.shape != Shape::Churn || self.phases[guest].0
    }

    /// On/off: what each guest asks for while it is on, on average, in parts of a core.
    pub(crate) fn while_on(&self) -> Vec<f64> {
        self.means.iter().map(|mean| mean * WHILE_ON / self.packets_a_tick).collect()
    }

    fn on_off(&mut self, while_on: f64, packets: &mut Vec<f64>) {
        for (mean, (on, left)) in self.means.iter().zip(&mut self.phases) {
            *left -= 1.0;
            if *left <= 0.0 {
                *on = !*on;
                *left = phase(*on, self.lengths, &mut self.rng);
            }
            packets.push(if *on { poisson(mean * while_on, &mut self.rng) } else { 0.0 });
        }
    }

    fn flash_crowd(&mut self, tick: u64, packets: &mut Vec<f64>) {
        let since = tick as f64 / self.ticks_a_second - CROWD_AFTER_S;
        self.crowd.fill(false);
        if since >= 0.0 && since % CROWD_EVERY_S < CROWD_S {
            let size = self.order.len() / CROWD;
            let first = (since / CROWD_EVERY_S) as usize * size;
            for index in first..first + size {
                self.crowd[self.order[index % self.order.len()]] = true;
            }
        }
        for (mean, many) in self.means.iter().zip(&self.crowd) {
            packets.push(poisson(mean * if *many { CROWD_TIMES } else { 1.0 }, &mut self.rng));
        }
    }
}

/// For how many ticks one is on, or off.
fn phase(on: bool, [ons, offs]: [f64; 2], rng: &mut impl Rng) -> f64 {
    let long: f64 = Exp1.sample(rng);
    long * if on { ons } else { offs }
}

/// A number of packets whose mean is this.
fn poisson(mean: f64, rng: &mut impl Rng) -> f64 {
    if mean > NORMAL_ABOVE {
        let off: f64 = StandardNormal.sample(rng);
        return (mean + off * mean.sqrt()).round().max(0.0);
    }
    Poisson::new(mean).map_or(0.0, |process| process.sample(rng))
}

/// Packets a tick on average, by guest.
fn means(scenario: &Scenario, model: &Model, rng: &mut impl Rng) -> Vec<f64> {
    let guests = scenario.guests;
    let mut weights: Vec<f64> = match scenario.shape {
        Shape::Zipf => (1..=guests).map(|rank| 1.0 / rank as f64).collect(),
        _ => (0..guests).map(|_| rng.random_range(0.2..1.8)).collect(),
    };
    weights.shuffle(rng);
    let mut total = scenario.load * scenario.cores as f64;
    // While it sends more, a guest sends this many times its mean.
    let peak = match scenario.shape {
        Shape::OnOff => WHILE_ON,
        Shape::FlashCrowd => CROWD_TIMES,
        Shape::Churn => WHILE_THERE,
        _ => 1.0,
    };
    if scenario.shape == Shape::Elephant {
        weights[0] = 0.0;
        total -= ELEPHANT;
    }
    let mut loads = spread(&weights, total.max(0.0), scenario.largest / peak);
    if scenario.shape == Shape::Elephant {
        loads[0] = ELEPHANT;
    }
    loads.into_iter().map(|load| load * model.packets_a_tick()).collect()
}

/// Spreads a total in proportion to weights, no part larger than `largest`. What is too much for all is left out.
fn spread(weights: &[f64], total: f64, largest: f64) -> Vec<f64> {
    let mut parts = vec![0.0; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).collect();
    let mut left = total;
    loop {
        let weight: f64 = open.iter().map(|index| weights[*index]).sum();
        let (over, under): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|index| weights[**index] * left > largest * weight);
        if over.is_empty() {
            for index in under {
                parts[index] = if weight > 0.0 { weights[index] / weight * left } else { 0.0 };
            }
            return parts;
        }
        for index in over {
            parts[index] = largest;
            left -= largest;
        }
        left = left.max(0.0);
        open = under;
    }
}

fn partners(scenario: &Scenario, rng: &mut impl Rng) -> Vec<Option<usize>> {
    let guests = scenario.guests;
    let mut partners = vec![None; guests];
    match scenario.talk {
        Talk::Uplink => {}
        Talk::Pairs => {
            let mut order: Vec<usize> = (0..guests).collect();
            order.shuffle(rng);
            for pair in order.chunks_exact(2) {
                partners[pair[0]] = Some(pair[1]);
                partners[pair[1]] = Some(pair[0]);
            }
        }
        Talk::Random if guests > 1 => {
            for (guest, partner) in partners.iter_mut().enumerate() {
                *partner = Some((guest + rng.random_range(1..guests)) % guests);
            }
        }
        Talk::Random => {}
    }
    partners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(shape: Shape) -> (f64, f64) {
        let (scenario, model) = (Scenario::new(shape, 8, 64), Model::default());
        let mut traffic = Traffic::new(&scenario, &model, 7);
        let (mut sum, mut largest, mut packets) = (0.0, 0.0, Vec::new());
        let ticks = model.ticks(240.0);
        for tick in 0..ticks {
            traffic.tick(tick, &mut packets);
            sum += packets.iter().sum::<f64>();
            largest = packets.iter().copied().fold(largest, f64::max);
        }
        (sum / ticks as f64 / model.packets_a_tick() / 8.0, largest / model.packets_a_tick())
    }

    #[test]
    fn loads_are_what_they_say() {
        for (shape, expected, off) in [
            (Shape::Constant, 0.85, 1e-9),
            (Shape::Poisson, 0.85, 0.001),
            (Shape::Zipf, 0.85, 0.001),
            (Shape::Elephant, 0.85, 0.001),
            (Shape::OnOff, 0.6, 0.1),
            (Shape::Churn, 0.75, 0.1),
            // An eighth of the guests four times more than usual, three minutes of four.
            (Shape::FlashCrowd, 0.5 * (1.0 + 0.75 * 4.0 / 8.0), 0.08),
        ] {
            let (load, largest) = total(shape);
            assert!((load - expected).abs() <= off, "{shape}: {load}");
            assert!(shape == Shape::Elephant || largest < 0.9, "{shape}: {largest}");
        }
    }

    #[test]
    fn bursts_are_as_long_as_the_scenario_says() {
        for on_s in [5.0, 60.0] {
            let (scenario, model) = (Scenario::on_off(on_s, 8, 64), Model { tick_ms: 100.0, ..Model::default() });
            let mut traffic = Traffic::new(&scenario, &model, 3);
            let (mut before, mut begun, mut on, mut packets) = (vec![true; 64], 0, 0, Vec::new());
            for tick in 0..model.ticks(200.0 * on_s) {
                traffic.tick(tick, &mut packets);
                for (packets, before) in packets.iter().zip(&mut before) {
                    let now = *packets > 0.0;
                    let was = std::mem::replace(before, now);
                    begun += u32::from(now && !was);
                    on += u32::from(now);
                }
            }
            let long = f64::from(on) / f64::from(begun) * model.tick_ms / 1000.0;
            assert!((long / on_s - 1.0).abs() < 0.1, "{long} s for {on_s} s");
        }
    }

    #[test]
    fn small_means_come_out_too() {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        for mean in [0.0, 0.3, 20.0, 70.0] {
            let sum: f64 = (0..20_000).map(|_| poisson(mean, &mut rng)).sum();
            assert!((sum / 20_000.0 - mean).abs() <= 0.03 * mean, "{mean}");
        }
    }

    #[test]
    fn everybody_has_the_partner_the_scenario_says() {
        let model = Model::default();
        let mut scenario = Scenario::new(Shape::Constant, 2, 9);
        scenario.talk = Talk::Pairs;
        let pairs = Traffic::new(&scenario, &model, 1).partners;
        assert_eq!(pairs.iter().flatten().count(), 8);
        assert!(pairs.iter().enumerate().all(|(guest, other)| other.is_none_or(|other| pairs[other] == Some(guest))));
        scenario.talk = Talk::Random;
        let random = Traffic::new(&scenario, &model, 1).partners;
        assert!(random.iter().enumerate().all(|(guest, other)| other.is_some_and(|other| other != guest)));
    }
}

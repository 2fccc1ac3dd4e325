//! One run: a scenario, a policy, a seed; and what is measured in it.

use anyhow::{Context, Result, ensure};
use scheduler::{Config, Demand, Elastic, Order, Policy, Scheduler, Settings, Topology};
use serde::Serialize;

use crate::bound::Bound;
use crate::machine::{Machine, id};
use crate::model::Model;
use crate::scenario::Scenario;
use crate::traffic::Traffic;

/// A move has to pay for itself in so many ticks.
const PAID_IN_TICKS: u64 = 200;

/// What a run came to. Cycles are those of packets that stay on one core, so that they are the same for all policies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The seed.
    pub seed: u64,
    /// Cycles that guests asked for.
    pub demanded_cycles: f64,
    /// Cycles that they got.
    pub served_cycles: f64,
    /// The difference: packets that found their ring full, and those that wait at the end.
    pub under_served_cycles: f64,
    /// Those of them that no policy could have served: a lower bound.
    pub unservable_cycles: f64,
    /// Those of them that are left to the policy: at most so many.
    pub under_served_beyond_cycles: f64,
    /// All of them after the time for converging.
    pub under_served_converged_cycles: f64,
    /// Median queueing delay of a packet, in microseconds.
    pub delay_p50_us: f64,
    /// The 99th percentile.
    pub delay_p99_us: f64,
    /// Queue pairs moved.
    pub moves: u64,
    /// The same in an hour, after the time for converging.
    pub moves_per_hour_converged: f64,
    /// The largest core load divided by max(mean core load, largest queue pair), in windows of a second after the time for converging: their mean.
    pub largest_to_bound: f64,
    /// The 99th percentile of these windows.
    pub largest_to_bound_p99: f64,
    /// The window in which it is largest.
    pub largest_to_bound_max: f64,
    /// The same after the first second in which this was at most 1.05 and stayed so for 10 s; `None` where that never happened.
    pub even_after_s: Option<f64>,
    /// Cores awake on average.
    pub awake: f64,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// One second. Loads are what guests ask of cores, in parts of a core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Second {
    /// The largest core load.
    pub largest: f64,
    /// max(mean core load, largest queue pair).
    pub bound: f64,
    /// Cycles demanded and not served so far.
    pub under_served_cycles: f64,
    /// Moves in this second.
    pub moves: u64,
    /// Cores awake at its end.
    pub awake: usize,
}

impl Second {
    /// How far the largest core load is from the bound: 1 is as good as it gets.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.bound > 0.0 { self.largest / self.bound } else { 1.0 }
    }
}

/// Simulates.
///
/// # Errors
/// The scenario has no cores, or none for a guest, or ends before a second has passed after the time for converging.
pub fn run(scenario: &Scenario, model: &Model, policy: Policy, seed: u64) -> Result<Measured> {
    let mut scheduler = Scheduler::new(config(scenario, model, policy), Topology::flat(scenario.cores));
    let demands: Vec<Demand> = (0..scenario.guests).map(|guest| Demand { queue: id(guest), pinned: None }).collect();
    let plan = scheduler.place(&[], &demands).context("the guests cannot be placed")?;
    let place = plan.placements.iter().map(|placement| placement.core.0).collect();
    let mut traffic = Traffic::new(scenario, model, seed);
    let mut machine = Machine::new(model, scenario.cores, place, traffic.partners.clone());
    let mut watch = Watch::new(scenario, model);
    let mut packets = Vec::new();
    for tick in 0..model.ticks(scenario.seconds) {
        if traffic.tick(tick, &mut packets).is_none() {
            break;
        }
        come_and_go(&traffic, &mut machine, &mut scheduler)?;
        scheduler.tick(machine.tick(&packets));
        while let Some(order) = scheduler.next_order() {
            watch.second.moves += u64::from(matches!(order, Order::Move(_)));
            let outcome = machine.carry_out(order);
            scheduler.finished(outcome);
        }
        watch.tick(&machine, &packets);
    }
    ensure!(
        watch.seconds.len() > scenario.converged_s as usize,
        "the load lasts {} s: nothing is left after {} s for converging",
        watch.seconds.len(),
        scenario.converged_s
    );
    Ok(watch.measured(&machine, seed, scheduler.status().moves))
}

/// Has those guests leave that left, and places those that came.
fn come_and_go(traffic: &Traffic, machine: &mut Machine, scheduler: &mut Scheduler) -> Result<()> {
    for guest in 0..machine.guests() {
        match (machine.is_there(guest), traffic.is_there(guest)) {
            (true, false) => machine.leave(guest),
            (false, true) => {
                let demand = Demand { queue: id(guest), pinned: None };
                let plan = scheduler.place(&machine.placed(), &[demand]).context("a guest cannot be placed")?;
                machine.arrive(guest, plan.placements[0].core);
            }
            _ => {}
        }
    }
    Ok(())
}

fn config(scenario: &Scenario, model: &Model, policy: Policy) -> Config {
    let balance = Settings {
        send_cycles: model.cycles(model.send_ns),
        receive_cycles: model.cycles(model.receive_ns),
        move_cycles: model.cycles(model.move_ns) / PAID_IN_TICKS,
        ..Settings::default()
    };
    let elastic = scenario.elastic_min.map(|min| Elastic { min, ..Elastic::default() });
    Config { policy, tick_ns: model.tick_ns() as u64, balance, elastic, ..Config::default() }
}

/// Adds up what is measured.
struct Watch<'a> {
    model: &'a Model,
    scenario: &'a Scenario,
    ticks_a_second: u64,
    ticks: u64,
    demanded: f64,
    bound: Bound,
    /// By core and by queue pair, in this second.
    cores: Vec<f64>,
    queues: Vec<f64>,
    second: Second,
    seconds: Vec<Second>,
}

impl<'a> Watch<'a> {
    fn new(scenario: &'a Scenario, model: &'a Model) -> Self {
        Self {
            model,
            scenario,
            ticks_a_second: model.ticks(1.0).max(1),
            ticks: 0,
            demanded: 0.0,
            bound: Bound::new(model, scenario.cores, scenario.guests),
            cores: vec![0.0; scenario.cores],
            queues: vec![0.0; scenario.guests],
            second: Second::default(),
            seconds: Vec::new(),
        }
    }

    fn cycles(&self, packets: f64) -> f64 {
        packets * self.model.packet_ns * self.model.core_hz / 1e9
    }

    fn tick(&mut self, machine: &Machine, packets: &[f64]) {
        self.ticks += 1;
        self.demanded += packets.iter().sum::<f64>();
        self.bound.tick(packets);
        self.cores.iter_mut().zip(&machine.offered).for_each(|(sum, load)| *sum += load);
        let most = self.model.packets_a_tick();
        self.queues.iter_mut().zip(packets).for_each(|(sum, packets)| *sum += packets / most);
        if self.ticks.is_multiple_of(self.ticks_a_second) {
            let ticks = self.ticks_a_second as f64;
            let most = |loads: &[f64]| loads.iter().copied().fold(0.0, f64::max) / ticks;
            // What crossings cost is no part of it: a placement without any has the same bound.
            let mean = self.queues.iter().sum::<f64>() / ticks / self.cores.len() as f64;
            self.second.largest = most(&self.cores);
            self.second.bound = mean.max(most(&self.queues));
            self.second.under_served_cycles = self.cycles(self.demanded - machine.served).max(0.0);
            self.second.awake = machine.parked.iter().filter(|parked| !**parked).count();
            self.seconds.push(std::mem::take(&mut self.second));
            self.cores.fill(0.0);
            self.queues.fill(0.0);
        }
    }

    fn measured(self, machine: &Machine, seed: u64, moves: u64) -> Measured {
        let count = |seconds: &[Second]| seconds.len().max(1) as f64;
        let (before, after) = self.seconds.split_at((self.scenario.converged_s as usize).min(self.seconds.len()));
        // Sums of parts differ in the last digits.
        let under_served = self.cycles(self.demanded - machine.served).max(0.0);
        let unservable = self.cycles(self.bound.packets()).min(under_served);
        let at_first = before.last().map_or(0.0, |second| second.under_served_cycles);
        let even = |seconds: &[Second]| seconds.iter().all(|second| second.ratio() <= 1.05);
        let mut ratios: Vec<f64> = after.iter().map(Second::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let of_ratios =
            |quantile: f64| ratios[((ratios.len() as f64 * quantile).ceil() as usize).clamp(1, ratios.len()) - 1];
        let quantile = |quantile| machine.delays.value_at_quantile(quantile) as f64 / 1000.0;
        Measured {
            seed,
            demanded_cycles: self.cycles(self.demanded),
            served_cycles: self.cycles(machine.served),
            under_served_cycles: under_served,
            unservable_cycles: unservable,
            under_served_beyond_cycles: under_served - unservable,
            under_served_converged_cycles: (under_served - at_first).max(0.0),
            delay_p50_us: quantile(0.5),
            delay_p99_us: quantile(0.99),
            moves,
            moves_per_hour_converged: after.iter().map(|second| second.moves).sum::<u64>() as f64 * 3600.0
                / count(after),
            largest_to_bound: ratios.iter().sum::<f64>() / count(after),
            largest_to_bound_p99: of_ratios(0.99),
            largest_to_bound_max: of_ratios(1.0),
            even_after_s: self.seconds.windows(10).position(even).map(|second| second as f64),
            awake: self.seconds.iter().map(|second| second.awake as f64).sum::<f64>() / count(&self.seconds),
            seconds: self.seconds,
        }
    }
}

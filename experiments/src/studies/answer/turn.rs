//! One turn: how much both cores can do, and the load that shifts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Lab;
use super::super::stage::name;
use super::super::traffic::Streams;
use super::pairs::{FASTEST, can, ensure_together, pairs, rates, stage};
use super::{AFTER, BEFORE, after_s, before_s};
use crate::stats::quantile;

/// Between looks at the generator's counts, and of those between looks at the switch.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS_A_STATUS: usize = 4;
/// Throughput is drawn, and judged, in steps of this.
pub(super) const STEP_S: f64 = 0.05;
/// Recovered is who gets so much of what is asked for, in so many steps one after another.
pub(super) const RECOVERED: f64 = 0.95;
pub(super) const STEADY: usize = 4;
/// The scheduler is on from so long before the shift: what memory costs that is used for the first time is not its business here.
const ON_BEFORE_S: f64 = 0.25;
/// Moves by hand under load, for their pause.
pub(super) const MOVES: usize = 40;

/// What is compared: a number of I/O cores, whose scheduler is on or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) cores: usize,
    pub(super) on: bool,
}

/// One turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Turn {
    /// Packets a second that each core can do, measured before.
    pub(super) can: Vec<f64>,
    /// Seconds since the shift, and packets delivered up to then.
    pub(super) delivered: Vec<(f64, u64)>,
    /// Seconds since the shift, and the busy part of what each core got of its CPU's time since the look before.
    pub(super) busy: Vec<(f64, Vec<f64>)>,
    /// The part of the time in which each core did not get its CPU, from the first of these looks to the last.
    pub(super) without_cpu: Vec<f64>,
    /// Queue pairs that were moved.
    pub(super) moves: Vec<Moved>,
    /// What the scheduler decided, and why.
    pub(super) decisions: Value,
    /// Microseconds in which they were not served.
    pub(super) pauses_us: Vec<f64>,
    /// Packets asked for, before and after the shift, a second.
    pub(super) asked: [f64; 2],
}

/// A move of the scheduler's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moved {
    /// Seconds since the shift.
    pub(super) at: f64,
    /// The I/O cores.
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Turn {
    /// Packets delivered in steps, in parts of what is asked for after the shift, with the seconds at which each step begins.
    pub(super) fn rates(&self) -> Vec<(f64, f64)> {
        let mut rates = Vec::new();
        let mut begin: Option<(f64, u64)> = None;
        for &(at, count) in &self.delivered {
            match begin {
                None => begin = Some((at, count)),
                Some((from, before)) if at - from >= STEP_S => {
                    rates.push(((from + at) / 2.0, (count - before) as f64 / (at - from) / self.asked[1]));
                    begin = Some((at, count));
                }
                Some(_) => {}
            }
        }
        rates
    }

    /// Delivered from one moment to another, in parts of what was asked for after the shift.
    pub(super) fn served(&self, from: f64, to: f64) -> f64 {
        let of = |moment: f64| self.delivered.iter().find(|(at, _)| *at >= moment).or(self.delivered.last());
        let (Some(first), Some(last)) = (of(from), of(to)) else { return f64::NAN };
        (last.1 - first.1) as f64 / (last.0 - first.0) / self.asked[1]
    }

    /// Moves before the shift, and after it.
    pub(super) fn moves_by_then(&self) -> [usize; 2] {
        let before = self.moves.iter().filter(|moved| moved.at < 0.0).count();
        [before, self.moves.len() - before]
    }

    /// Seconds from the shift to the last move of the first second after it; infinitely many without one.
    pub(super) fn rebalanced(&self) -> f64 {
        let moves = self.moves.iter().map(|moved| moved.at).filter(|at| (0.0..1.0).contains(at));
        moves.reduce(f64::max).unwrap_or(f64::INFINITY)
    }

    /// Seconds from the shift until as much is delivered as asked for, and stays so for some steps; infinitely many where that never is.
    pub(super) fn recovered(&self) -> f64 {
        let rates: Vec<_> = self.rates().into_iter().filter(|(at, _)| *at > 0.0).collect();
        let well = |steps: &[(f64, f64)]| steps.iter().all(|(_, rate)| *rate >= RECOVERED);
        let first = rates.windows(STEADY).find(|steps| well(steps));
        first.map_or(f64::INFINITY, |steps| (steps[0].0 - STEP_S / 2.0).max(0.0))
    }

    /// Such a quantile of the pauses of moves by hand, in microseconds.
    pub(super) fn pause_us(&self, share: f64) -> Option<f64> {
        let mut sorted = self.pauses_us.clone();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, share)
    }

    /// The largest core load in the last part of the turn.
    pub(super) fn largest(&self) -> f64 {
        let last = &self.busy[self.busy.len() - self.busy.len() / 3..];
        let of =
            |core: usize| last.iter().filter_map(|(_, busy)| busy.get(core)).sum::<f64>() / last.len().max(1) as f64;
        (0..self.can.len()).map(of).fold(0.0, f64::max)
    }
}

/// One turn: the load shifts.
pub(super) fn turn(lab: &Lab, case: Case) -> Result<Turn> {
    let (cores, pairs) = (case.cores, pairs(case.cores));
    let stage = stage(lab, cores, pairs)?;
    let _preferred = stage.preferred()?;
    let streams = Streams::segments(lab, &stage, &vec![FASTEST; pairs])?;
    let can = can(lab, &streams, cores)?;
    let (before, after) = (rates(BEFORE, &can), rates(AFTER, &can));
    streams.set(&before)?;
    std::thread::sleep(Duration::from_millis(300));
    ensure_together(&stage, cores, pairs)?;
    let mut turn = Turn { can, asked: [before.iter().sum(), after.iter().sum()], ..Turn::default() };
    let shift = Instant::now() + Duration::from_secs_f64(before_s(lab));
    let (mut shifted, mut is_on): (Option<SystemTime>, bool) = (None, false);
    let (mut first, mut last): (Option<Cycles>, Option<Cycles>) = (None, None);
    let since = || {
        let now = Instant::now();
        now.duration_since(shift).as_secs_f64() - shift.duration_since(now).as_secs_f64()
    };
    for look in 0.. {
        lab.interrupt.check()?;
        if case.on && !is_on && since() >= -ON_BEFORE_S {
            stage.switch.ask(&json!({"command": "scheduler_resume"}))?;
            is_on = true;
        }
        if shifted.is_none() && Instant::now() >= shift {
            streams.set(&after)?;
            shifted = Some(SystemTime::now());
        }
        turn.delivered.push((since(), streams.received().iter().sum()));
        if look % LOOKS_A_STATUS == 0 {
            let now = core_cycles(&stage.status()?);
            first.get_or_insert_with(|| now.clone());
            if let Some(before) = last.replace(now.clone()) {
                turn.busy.push((since(), before.iter().zip(&now).map(busy).collect()));
            }
        }
        if since() > after_s(lab) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    turn.without_cpu = first.iter().flatten().zip(last.iter().flatten()).map(without_cpu).collect();
    let status = stage.status()?;
    let shifted = shifted.context("the load did not shift")?;
    turn.moves = moves(&status, shifted);
    turn.decisions = status["scheduler"]["decisions"].clone();
    if case.on {
        stage.switch.ask(&json!({"command": "scheduler_pause"}))?;
        for number in 0..MOVES {
            let moved = stage.switch.move_guest(&name(0), Some(0), number % 2)?;
            turn.pauses_us.extend(moved.into_iter().filter_map(|moved| moved.pause_us));
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    streams.finish()?;
    Ok(turn)
}

/// Of each core: busy cycles, idle ones, and those of both in which it did not get its CPU.
type Cycles = Vec<[f64; 3]>;

fn core_cycles(status: &Value) -> Cycles {
    let cores = status["cores"].as_array().map(Vec::as_slice).unwrap_or_default();
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap_or_default() as f64;
    let waited = |core: &Value| count(core, "cpu_wait_ns") / 1e9 * count(status, "tsc_hz");
    cores.iter().map(|core| [count(core, "busy_cycles"), count(core, "idle_cycles"), waited(core)]).collect()
}

/// Work comes while a core is without its CPU, so that it was in a busy round: as the switch counts it.
fn busy((before, after): (&[f64; 3], &[f64; 3])) -> f64 {
    let [busy, idle, waited] = [0, 1, 2].map(|which| after[which] - before[which]);
    let got = busy + idle - waited;
    if got > 0.0 { ((busy - waited) / got).max(0.0) } else { 0.0 }
}

fn without_cpu((before, after): (&[f64; 3], &[f64; 3])) -> f64 {
    let [busy, idle, waited] = [0, 1, 2].map(|which| after[which] - before[which]);
    if busy + idle > 0.0 { waited / (busy + idle) } else { 0.0 }
}

/// What the scheduler moved.
fn moves(status: &Value, shifted: SystemTime) -> Vec<Moved> {
    let shifted = shifted.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let decisions = status["scheduler"]["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let moved = decisions
        .iter()
        .filter(|decision| ["move", "roll_back"].contains(&decision["kind"].as_str().unwrap_or_default()));
    let read = |decision: &Value| {
        let [from, to] = ["from", "to"].map(|end| decision["step"][end].as_u64());
        Some(Moved { at: decision["time_ms"].as_f64()? / 1e3 - shifted, from: from?, to: to? })
    };
    moved.filter_map(read).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A turn of a second after the shift, in looks of 10 ms, which delivers such a part of what is asked for from each of these moments on.
    pub(in super::super) fn turn(moves: &[f64], parts: &[(f64, f64)]) -> Turn {
        let mut turn = Turn { asked: [800.0, 1e6], can: vec![1e6; 2], pauses_us: vec![20.0], ..Turn::default() };
        let mut count = 0.0;
        for look in -50..=150 {
            let at = f64::from(look) / 100.0;
            turn.delivered.push((at, count as u64));
            let part = parts.iter().rev().find(|(from, _)| at >= *from - 1e-6).map_or(0.8, |(_, part)| *part);
            count += part * turn.asked[1] / 100.0;
        }
        turn.busy = vec![(1.4, vec![0.9, 0.4])];
        turn.moves = moves.iter().map(|at| Moved { at: *at, from: 0, to: 1 }).collect();
        turn
    }

    #[test]
    fn the_last_move_of_the_first_second_counts_and_none_is_infinitely_late() {
        assert_eq!(turn(&[-0.2, 0.01, 0.08, 1.2], &[]).rebalanced(), 0.08);
        assert_eq!(turn(&[-0.2, 0.01, 0.08, 1.2], &[]).moves_by_then(), [1, 3]);
        assert_eq!(turn(&[-0.2, 1.2], &[]).rebalanced(), f64::INFINITY);
        assert_eq!(turn(&[], &[]).moves_by_then(), [0, 0]);
    }

    #[test]
    fn recovered_is_who_stays_so_for_some_steps() {
        let recovered = |parts: &[(f64, f64)]| turn(&[], parts).recovered();
        assert!(recovered(&[(0.0, 0.96)]) <= STEP_S, "{}", recovered(&[(0.0, 0.96)]));
        let late = recovered(&[(0.0, 0.7), (0.3, 1.0)]);
        assert!((0.3 - STEP_S..=0.3 + STEP_S).contains(&late), "{late}");
        // Three steps well are not enough.
        let again = recovered(&[(0.0, 0.7), (0.3, 1.0), (0.45, 0.7), (0.8, 1.0)]);
        assert!((0.8 - STEP_S..=0.8 + STEP_S).contains(&again), "{again}");
        assert_eq!(recovered(&[(0.0, 0.94)]), f64::INFINITY);
    }
}

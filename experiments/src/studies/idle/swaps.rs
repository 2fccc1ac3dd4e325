//! First packets of a switch that polls and of one that sleeps, whose CPU halts meanwhile or does not, in short turns.

use anyhow::Result;
use serde_json::{Value, json};

use super::crowd::{Awake, Crowd};
use super::firsts::{self, Pair};
use super::{AWAKE, CALM, FIRSTS, Place, shown};
use crate::stats::{self, Ratio};
use crate::studies::Lab;
use crate::studies::finding::{Bound, Claim, Finding, Table};

/// Turns of a round in which first packets are compared.
pub(super) const SWAPS: usize = 2;
/// Median and 99th percentile, in microseconds.
type Late = [f64; 2];

/// A short turn of each.
pub(super) struct Swap {
    /// First packets of a switch that polls.
    poll: Late,
    /// Those of one that sleeps, and bare wake-ups beside them.
    adaptive: Beside,
    /// The same where the CPU does not halt.
    awake: Option<Beside>,
}

/// First packets, and bare wake-ups right after them.
#[derive(Clone, Copy)]
struct Beside {
    packet: Late,
    bare: Late,
}

impl Swap {
    pub(super) fn raw(&self) -> Value {
        let of = |beside: &Beside| json!({"packet": beside.packet, "bare": beside.bare});
        json!({"poll": self.poll, "adaptive": of(&self.adaptive), "awake": self.awake.as_ref().map(of)})
    }
}

/// Turns of all rounds at a switch that polls and one that sleeps; with a CPU that does not halt where that can be. What changes the speed of the
/// machine changes all of a turn. With and without a CPU that halts it is the same switch.
pub(super) fn swaps(lab: &Lab, sides: [&Crowd; 2], awake: Option<&Awake>) -> Result<Vec<Swap>> {
    let rounds = lab.rounds(&[sides], |sides| {
        sides.iter().try_for_each(|side| side.halt(false))?;
        let [polls, sleeps] = sides.map(Pair::connect);
        let mut pairs = [polls?, sleeps?];
        sides.iter().try_for_each(|side| side.halt(true))?;
        let swaps = (0..SWAPS).map(|_| swap(lab, *sides, &mut pairs, awake)).collect::<Result<Vec<_>>>()?;
        // Guests leave switches that run.
        sides.iter().try_for_each(|side| side.halt(false))?;
        drop(pairs);
        sides.iter().try_for_each(|side| side.halt(true))?;
        Ok(swaps)
    })?;
    Ok(rounds.into_iter().flatten().flatten().collect())
}

/// A short turn of each.
fn swap(lab: &Lab, sides: [&Crowd; 2], pairs: &mut [Pair; 2], awake: Option<&Awake>) -> Result<Swap> {
    let count = (FIRSTS * lab.effort.seconds).ceil() as usize;
    let mut turn = |nth: usize, beside: bool| -> Result<Beside> {
        lab.interrupt.check()?;
        sides[nth].halt(false)?;
        std::thread::sleep(CALM / 5);
        let [packet, bare] = pairs[nth].measure(&lab.cpus, count, firsts::SILENCE, beside)?.quantiles()?;
        sides[nth].halt(true)?;
        Ok(Beside { packet, bare })
    };
    let poll = turn(0, false)?.packet;
    let adaptive = turn(1, true)?;
    let while_awake = |awake: &Awake| -> Result<Beside> {
        awake.hold(true)?;
        let beside = turn(1, true)?;
        awake.hold(false)?;
        Ok(beside)
    };
    Ok(Swap { poll, adaptive, awake: awake.map(while_awake).transpose()? })
}

fn estimate(swaps: &[Swap], of: impl Fn(&Swap) -> Option<f64>) -> Option<Ratio> {
    stats::estimate(&swaps.iter().filter_map(of).collect::<Vec<_>>())
}

/// First packets and bare wake-ups side by side: with `guests`, beside a switch that polls, and with most guests.
pub(super) fn table(guests: usize, swaps: &[Swap], most: Option<&Place>) -> Table {
    let head = ["", "guests", "p50, µs", "p99, µs", "turns"];
    let mut table = Table::new("First packets, and bare wake-ups right after them", &head);
    let mut row = |what: &str, guests: usize, late: Vec<Late>| {
        let cell = |which: usize| shown(stats::estimate(&late.iter().map(|late| late[which]).collect::<Vec<_>>()));
        if !late.is_empty() {
            table.row([what.to_owned(), guests.to_string(), cell(0), cell(1), late.len().to_string()]);
        }
    };
    let all = |of: fn(&Swap) -> Option<Late>| swaps.iter().filter_map(of).collect::<Vec<_>>();
    row("first packet, poll", guests, all(|swap| Some(swap.poll)));
    row("first packet, adaptive", guests, all(|swap| Some(swap.adaptive.packet)));
    row("bare wake-up", guests, all(|swap| Some(swap.adaptive.bare)));
    row(&format!("first packet, {AWAKE}"), guests, all(|swap| Some(swap.awake?.packet)));
    row("bare wake-up of a CPU that does not halt", guests, all(|swap| Some(swap.awake?.bare)));
    if let Some(most) = most {
        row("first packet, adaptive", most.guests, most.pairs().iter().map(|pair| pair[0]).collect());
        row("bare wake-up", most.guests, most.pairs().iter().map(|pair| pair[1]).collect());
        let beyond = |pair: &[Late; 2]| [0, 1].map(|which| pair[0][which] - pair[1][which]);
        row("packet beyond bare wake-up", most.guests, most.pairs().iter().map(beyond).collect());
    }
    table
}

pub(super) fn judge(finding: &mut Finding, guests: usize, swaps: &[Swap]) {
    let halting = |which: usize| estimate(swaps, |swap| Some(swap.adaptive.packet[which] - swap.poll[which]));
    let awake = |which: usize| estimate(swaps, |swap| Some(swap.awake?.packet[which] - swap.poll[which]));
    let beyond = |which: usize| estimate(swaps, |swap| Some(swap.adaptive.packet[which] - swap.adaptive.bare[which]));
    let bare = |which: usize| estimate(swaps, |swap| Some(swap.adaptive.bare[which]));
    let text = format!("latency p99 that sleeping adds to a first packet, with {guests} guests");
    let claim = Claim::new(&text, halting(1), "µs", Bound::AtMost(50.0), true);
    let remark = format!("the CPU halts; a bare wake-up takes {} µs here", shown(bare(1)));
    finding.claims.push(claim.but(&remark));
    finding.answer.push(format!(
        "With {guests} guests sleeping adds {} µs to the first packet after a silence in the median, and {} µs at the 99th percentile. A bare wake-up \
         of a thread takes {} and {} µs on this machine; the packet takes {} and {} µs longer.",
        shown(halting(0)),
        shown(halting(1)),
        shown(bare(0)),
        shown(bare(1)),
        shown(beyond(0)),
        shown(beyond(1)),
    ));
    if swaps.iter().any(|swap| swap.awake.is_some()) {
        let text =
            format!("latency p99 that sleeping adds to a first packet with wake_latency_us = 0, with {guests} guests");
        finding.claims.push(Claim::new(&text, awake(1), "µs", Bound::AtMost(50.0), true));
        let bare = |which: usize| estimate(swaps, |swap| Some(swap.awake?.bare[which]));
        finding.answer.push(format!(
            "Where the CPU does not halt (wake_latency_us = 0) it adds {} and {} µs, and a bare wake-up takes {} and {}.",
            shown(awake(0)),
            shown(awake(1)),
            shown(bare(0)),
            shown(bare(1)),
        ));
    }
    let text = format!("latency p99 of a first packet beyond that of a bare wake-up, with {guests} guests");
    finding.claims.push(Claim::new(&text, beyond(1), "µs", Bound::AtMost(50.0), true));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::studies::finding::Verdict;

    #[test]
    fn both_settings_are_held_against_the_goal() {
        let beside = |p99| Beside { packet: [p99 / 2.0, p99], bare: [20.0, 60.0] };
        let swap = || Swap { poll: [2.0, 10.0], adaptive: beside(100.0), awake: Some(beside(40.0)) };
        let mut finding = Finding::default();
        judge(&mut finding, 16, &[swap(), swap()]);
        let verdicts: Vec<Verdict> = finding.claims.iter().map(|claim| claim.verdict).collect();
        assert_eq!(verdicts, [Verdict::Missed, Verdict::Reached, Verdict::Reached], "{finding:?}");
        let mut finding = Finding::default();
        judge(&mut finding, 16, &[Swap { awake: None, ..swap() }]);
        assert_eq!(finding.claims.len(), 2, "where no limit can be set: {finding:?}");
    }
}

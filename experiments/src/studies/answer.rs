//! The answer to saturation: load shifts, a core saturates, guests move to another one.

mod charts;
mod model;
mod pairs;
mod turn;

use anyhow::{Context, Result};
use serde_json::json;

use super::Lab;
use super::finding::{Bound, Claim, Finding, Table, show};
use super::traffic::NAP_US;
use crate::stats::{self, Ratio, median, quantile};
use charts::charts;
use model::{compare, simulated};
use pairs::PAIRS;
pub use pairs::capacity;
use turn::{Case, Turn, turn};

/// Loads of the first core and of all others, in parts of what each can do, before and after the shift.
const BEFORE: [f64; 2] = [0.6, 0.6];
const AFTER: [f64; 2] = [1.2, 0.1];
/// I/O core 0 has a CPU of its own. A turn in which it is without it for more than this part of the time shows what else ran: it is made again, so
/// often at most.
const DISTURBED: f64 = 0.05;
const AGAIN: usize = 2;
/// Length of the scheduler's tick, in seconds.
const TICK_S: f64 = 0.005;
/// What is compared, and beside it a third core, where there is time.
const CASES: [Case; 3] = [Case { cores: 2, on: false }, Case { cores: 2, on: true }, Case { cores: 3, on: true }];

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let apart = lab.cpus.are_enough_for(2);
    let capacity = capacity(lab)?;
    let [one, two] = [0, 1].map(|cores: usize| capacity.iter().map(|pps| pps[cores]).collect::<Vec<_>>());
    let mut disturbed = 0;
    let cases = if lab.effort.coarse { &CASES[..2] } else { &CASES };
    let turns = lab.rounds(cases, |case| undisturbed(lab, *case, &mut disturbed))?;
    let [off, on, more] = [0, 1, 2].map(|case| turns.get(case).map_or(&[][..], Vec::as_slice));
    let can = |core: usize| median(&turns[..2].iter().flatten().map(|turn| turn.can[core]).collect::<Vec<_>>());
    let can = [can(0).context("nothing was measured")?, can(1).context("nothing was measured")?];
    let simulated = simulated(lab, &can)?;

    let mut finding = Finding {
        name: "answer".to_owned(),
        title: "The answer: load shifts, and guests move to another I/O core".to_owned(),
        question: "When the load of guests shifts so that one of two I/O cores saturates while the other has time to spare: what do guests get with \
                   the scheduler off and on, and how long does it take?"
            .to_owned(),
        repeat: "make experiments ONLY=answer".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.conditions.seconds = before_s(lab) + after_s(lab);
    let remark = if apart { "" } else { "I/O core 1 shares its CPU with the generator" };
    finding.setup = vec![
        format!(
            "{PAIRS} pairs of guests send TCP segments of 64 KiB, which cost a core so much that the generator is never the limit; half of the pairs \
             begin on each of two I/O cores. In each turn it is measured first what each core can do just then: both at once, and core 0 again \
             beside a core 1 that has as little to do as after the shift. Then rates make each core {:.0} % busy; then those on core 0 ask for {:.0} % of what it can do and those on core 1 for {:.0} %.",
            BEFORE[0] * 100.0,
            AFTER[0] * 100.0,
            AFTER[1] * 100.0
        ),
        format!(
            "In the whole form a switch with three I/O cores, {} pairs, and its scheduler on takes turns with these two: the load of core 0 shifts in the \
             same way, and core 2 is as busy as core 1.",
            pairs::pairs(3)
        ),
        if apart {
            "Every I/O core has a CPU of its own.".to_owned()
        } else {
            format!(
                "Too few CPUs here: I/O core 0, which saturates, has one of its own; I/O core 1 (and 2) has the CPU of the generator and of the switch's \
                 other threads, which sleep nearly always (the generator for {NAP_US} µs after each look at all guests) and come first when they do not \
                 (SCHED_FIFO). I/O core 1 is without its CPU {} % of the time, I/O core 0 {} %; a load is what a core does of what it can do in \
                 the rest. Times gate nothing here.",
                lacks(&turns, 1),
                lacks(&turns, 0)
            )
        },
        format!(
            "A turn in which I/O core 0 was without its CPU for more than {:.0} % of the time was made again, {AGAIN} times at most: {disturbed} were.",
            DISTURBED * 100.0
        ),
        "The default scheduler: policy balance, ticks of 5 ms.".to_owned(),
    ];
    finding.charts = charts(off, on, more, remark);
    finding.tables = vec![table(cases, &turns)];
    claims(&mut finding, off, on, stats::ratio(&two, &one), remark, apart);
    compare(&mut finding, [off, on], (&simulated, model::simulated_s(lab)), remark, apart);
    finding.raw = json!({ "capacity_pps": capacity, "off": off, "on": on, "more": more, "simulated": simulated });
    Ok(finding)
}

/// A turn in which little else ran, or the last of several; counts the others.
fn undisturbed(lab: &Lab, case: Case, disturbed: &mut usize) -> Result<Turn> {
    for _ in 0..AGAIN {
        let turn = turn(lab, case)?;
        if turn.without_cpu.first().is_none_or(|part| *part <= DISTURBED) {
            return Ok(turn);
        }
        *disturbed += 1;
    }
    turn(lab, case)
}

/// The part of the time that a core was without its CPU, in percent.
fn lacks(turns: &[Vec<Turn>], core: usize) -> String {
    let all = turns.iter().flatten().filter_map(|turn| Some(turn.without_cpu.get(core)? * 100.0));
    stats::estimate(&all.collect::<Vec<_>>()).map_or("-".to_owned(), show)
}

fn before_s(lab: &Lab) -> f64 {
    if lab.effort.coarse { 0.5 } else { 1.0 }
}

fn after_s(lab: &Lab) -> f64 {
    if lab.effort.coarse { 1.5 } else { 3.0 }
}

/// From a while after the shift to the end: what the scheduler comes to.
fn settled(turns: &[Turn]) -> Vec<f64> {
    turns.iter().map(|turn| turn.served(0.5, f64::INFINITY)).collect()
}

fn table(cases: &[Case], turns: &[Vec<Turn>]) -> Table {
    let head = [
        "scheduler",
        "I/O cores",
        "delivered after the shift, %",
        "largest core load at the end, %",
        "moves in a turn",
    ];
    let mut table = Table::new("After the shift", &head);
    for (case, turns) in cases.iter().zip(turns) {
        let all = |of: &dyn Fn(&Turn) -> f64| {
            stats::estimate(&turns.iter().map(of).collect::<Vec<_>>()).map_or("-".to_owned(), show)
        };
        table.row([
            if case.on { "on" } else { "off" }.to_owned(),
            case.cores.to_string(),
            all(&|turn| turn.served(0.5, f64::INFINITY) * 100.0),
            all(&|turn| turn.largest() * 100.0),
            all(&|turn| turn.moves.len() as f64),
        ]);
    }
    table
}

fn claims(finding: &mut Finding, off: &[Turn], on: &[Turn], cores: Option<Ratio>, remark: &str, counts: bool) {
    let ms = |of: fn(&Turn) -> Option<f64>| {
        let all: Option<Vec<f64>> = on.iter().map(|turn| Some(of(turn)? * 1e3)).collect();
        all.and_then(|all| stats::estimate(&all))
    };
    let gain = stats::ratio(&settled(on), &settled(off));
    let mut pauses: Vec<f64> = on.iter().flat_map(|turn| turn.pauses_us.iter().copied()).collect();
    pauses.sort_by(f64::total_cmp);
    let pause = |share: f64| quantile(&pauses, share).map(|at| Ratio { value: at, low: at, high: at });
    let (rebalanced, recovered) = (ms(Turn::rebalanced), ms(Turn::recovered));
    let mut add = |text: &str, figure: Option<Ratio>, unit: &str, bound: Bound, counts: bool| {
        finding.claims.push(Claim::new(text, figure, unit, bound, counts).but(remark));
    };
    add("delivered after the shift, scheduler on to off", gain, "times", Bound::AtLeast(1.1), true);
    add("onset of saturation to the last move", rebalanced, "ms", Bound::AtMost(100.0), counts);
    add("onset of saturation until all that is asked for is delivered", recovered, "ms", Bound::AtMost(100.0), counts);
    add("pause of a queue pair per move under load, p50", pause(0.5), "µs", Bound::AtMost(50.0), false);
    add("pause of a queue pair per move under load, p99", pause(0.99), "µs", Bound::AtMost(50.0), counts);
    add("two I/O cores to one, pairs placed together", cores, "times", Bound::AtLeast(1.8), counts);
    let shown = |figure: Option<Ratio>| figure.map_or("-".to_owned(), show);
    finding.answer.push(format!(
        "Off, the saturated core leaves guests with {} % of what they ask for while the other core idles. On, the last move is made {} ms after the \
         load has shifted, that is {} ticks, everything is delivered again after {} ms, and guests get {} %. Two I/O cores deliver {} times what one does.",
        shown(stats::estimate(&settled(off).iter().map(|served| served * 100.0).collect::<Vec<_>>())),
        shown(rebalanced),
        rebalanced.map_or("-".to_owned(), |ms| format!("{:.0}", (ms.value / 1e3 / TICK_S).ceil())),
        shown(recovered),
        shown(stats::estimate(&settled(on).iter().map(|served| served * 100.0).collect::<Vec<_>>())),
        shown(cores),
    ));
}

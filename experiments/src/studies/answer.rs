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
use crate::stats::{self, Ratio, median};
use charts::charts;
use model::{compare, simulated};
use pairs::PAIRS;
pub use pairs::{Capacity, capacity};
use turn::{Case, MOVES, RECOVERED, STEADY, STEP_S, Turn, turn};

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
        repeat: lab.repeat("answer"),
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
        pairs::setup(),
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
        format!(
            "After each turn with the scheduler on a guest is moved {MOVES} times under load. Quantiles of pauses are of a turn's own: its 99th \
             percentile is the longest."
        ),
    ];
    finding.charts = charts(off, on, more, remark);
    finding.tables = vec![table(cases, &turns), pairs::table(&capacity)];
    claims(&mut finding, off, on, pairs::gain(&capacity), remark, apart);
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
        "moves before the shift",
        "moves after it",
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
            all(&|turn| turn.moves_by_then()[0] as f64),
            all(&|turn| turn.moves_by_then()[1] as f64),
        ]);
    }
    table
}

fn claims(finding: &mut Finding, off: &[Turn], on: &[Turn], cores: Option<Ratio>, remark: &str, counts: bool) {
    let gain = stats::ratio(&settled(on), &settled(off));
    let pause = |share: f64| stats::estimate(&on.iter().filter_map(|turn| turn.pause_us(share)).collect::<Vec<_>>());
    let [rebalanced, recovered] = [Turn::rebalanced, Turn::recovered].map(|of| Late::new(on, of));
    let often = |late: &Late| {
        let remarks = [remark.to_owned(), late.often()];
        remarks.into_iter().filter(|remark| !remark.is_empty()).collect::<Vec<_>>().join("; ")
    };
    let delivered = format!(
        "at least {:.0} % of what is asked for is delivered, in {STEADY} windows of {:.0} ms one after another",
        RECOVERED * 100.0,
        STEP_S * 1e3
    );
    let mut add = |text: &str, figure: Option<Ratio>, unit: &str, bound: Bound, counts: bool, remark: &str| {
        finding.claims.push(Claim::new(text, figure, unit, bound, counts).but(remark));
    };
    add("delivered after the shift, scheduler on to off", gain, "times", Bound::AtLeast(1.1), true, remark);
    let text = "onset of saturation to the last move of the first second";
    add(text, rebalanced.ms, "ms", Bound::AtMost(100.0), counts, &often(&rebalanced));
    let text = format!("onset of saturation until {delivered}");
    add(&text, recovered.ms, "ms", Bound::AtMost(100.0), counts, &often(&recovered));
    add("pause of a queue pair per move under load, p50", pause(0.5), "µs", Bound::AtMost(50.0), false, remark);
    add("pause of a queue pair per move under load, p99", pause(0.99), "µs", Bound::AtMost(50.0), counts, remark);
    let text =
        format!("two I/O cores to one (the better with {} or {PAIRS} pairs), pairs placed together", pairs::pairs(1));
    add(&text, cores, "times", Bound::AtLeast(1.8), counts, remark);
    let shown = |figures: Vec<f64>| stats::estimate(&figures).map_or("-".to_owned(), show);
    let percent = |turns: &[Turn]| shown(settled(turns).iter().map(|served| served * 100.0).collect());
    finding.answer.push(format!(
        "Off, the saturated core leaves guests with {} % of what they ask for while the other core idles. On, the last move of the first second after \
         the load has shifted comes {}, {delivered}, {}, and guests get {} %. From when the scheduler is on until the shift there are {} moves. Two \
         I/O cores deliver {} times what one does with as many pairs as each of them or with all, whichever is more.",
        percent(off),
        rebalanced.after(),
        recovered.after(),
        percent(on),
        shown(on.iter().map(|turn| turn.moves_by_then()[0] as f64).collect()),
        cores.map_or("-".to_owned(), show),
    ));
}

/// How late something is in rounds, in some of which it may never happen.
struct Late {
    ms: Option<Ratio>,
    rounds: usize,
    happened: usize,
}

impl Late {
    fn new(turns: &[Turn], seconds: fn(&Turn) -> f64) -> Self {
        let all: Vec<f64> = turns.iter().map(|turn| seconds(turn) * 1e3).collect();
        let happened = all.iter().filter(|ms| ms.is_finite()).count();
        Self { ms: stats::estimate(&all), rounds: all.len(), happened }
    }

    /// In how many rounds, unless in all.
    fn often(&self) -> String {
        if self.happened == self.rounds {
            String::new()
        } else {
            format!("in {} of {} rounds", self.happened, self.rounds)
        }
    }

    fn after(&self) -> String {
        let often = if self.happened == self.rounds { String::new() } else { format!(" ({})", self.often()) };
        match self.ms {
            None => "-".to_owned(),
            Some(ms) if ms.value.is_finite() => format!("after {} ms{often}", show(ms)),
            Some(_) => format!("never in most rounds{often}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::turn::tests::turn;
    use super::*;

    /// Claims about three rounds with the scheduler on, the last of which is this one.
    fn found(last: Turn, counts: bool) -> Finding {
        let well = || turn(&[-0.1, 0.02], &[(0.0, 1.0)]);
        let off = || turn(&[], &[(0.0, 0.8)]);
        let mut finding = Finding::default();
        let cores = Some(Ratio { value: 2.0, low: 1.9, high: 2.1 });
        claims(&mut finding, &[off(), off(), off()], &[well(), well(), last], cores, "", counts);
        finding
    }

    fn claim<'f>(finding: &'f Finding, text: &str) -> &'f Claim {
        finding.claims.iter().find(|claim| claim.text.starts_with(text)).unwrap_or_else(|| panic!("{finding:?}"))
    }

    #[test]
    fn a_round_that_never_recovers_misses_the_claim() {
        let finding = found(turn(&[-0.1, 0.02], &[(0.0, 0.9)]), true);
        let recovered = claim(&finding, "onset of saturation until at least 95 %");
        assert!(recovered.text.ends_with("in 4 windows of 50 ms one after another"), "{recovered:?}");
        assert!(recovered.measured.ends_with(", never] ms"), "{recovered:?}");
        assert_eq!((recovered.verdict, recovered.remark.as_str()), (Verdict::Missed, "in 2 of 3 rounds"));
        let rebalanced = claim(&finding, "onset of saturation to the last move of the first second");
        assert_eq!((rebalanced.verdict, rebalanced.measured.as_str()), (Verdict::Reached, "20.0 ms"));
        assert!(
            finding.answer[0].contains("comes after 20.0 ms,") && finding.answer[0].contains("(in 2 of 3 rounds)"),
            "{finding:?}"
        );
        assert!(finding.answer[0].contains("there are 1.00 moves"), "{finding:?}");
    }

    #[test]
    fn quantiles_of_pauses_are_of_rounds_and_have_an_interval() {
        let finding = found(Turn { pauses_us: vec![70.0, 30.0, 10.0], ..turn(&[0.02], &[]) }, true);
        let pause = |share: &str| claim(&finding, &format!("pause of a queue pair per move under load, {share}"));
        assert_eq!(pause("p50").measured, "20.0 [20.0, 30.0] µs");
        let longest = pause("p99");
        assert_eq!((longest.verdict, longest.measured.as_str()), (Verdict::Missed, "20.0 [20.0, 70.0] µs"));
    }

    #[test]
    fn figures_that_decide_nothing_are_shown_whatever_they_are() {
        let finding = found(turn(&[-0.1], &[(0.0, 0.9)]), false);
        for text in ["onset of saturation until", "onset of saturation to the last move"] {
            let claim = claim(&finding, text);
            assert!(claim.verdict == Verdict::Shown && claim.measured.ends_with(", never] ms"), "{claim:?}");
        }
        assert!(finding.claims.iter().all(|claim| claim.measured != "nothing was measured"), "{finding:?}");
    }

    #[test]
    fn what_mostly_never_happens_has_no_time() {
        let never = || turn(&[], &[(0.0, 0.9)]);
        assert_eq!(Late::new(&[never(), never()], Turn::recovered).after(), "never in most rounds (in 0 of 2 rounds)");
    }
}

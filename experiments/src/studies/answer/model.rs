//! The simulator beside the switch.

use anyhow::Result;

use super::super::Lab;
use super::super::finding::{Bound, Claim, Finding, Table};
use super::super::simulator::{Simulated, simulate};
use super::super::traffic::{BACKLOG, BUFFERS};
use super::pairs::rates;
use super::turn::Turn;
use super::{AFTER, BEFORE, TICK_S, after_s, before_s};
use crate::stats::{Ratio, median};

/// Seconds of the simulated run before and after the shift: it judges whole ones.
pub(super) fn simulated_s(lab: &Lab) -> [f64; 2] {
    [before_s(lab).ceil(), after_s(lab).ceil()]
}

/// The simulator with the same load on cores of the speed of the first: scheduler off and on.
pub(super) fn simulated(lab: &Lab, can: &[f64]) -> Result<Vec<Simulated>> {
    let seconds = simulated_s(lab);
    let line = |loads: [f64; 2]| {
        let packets = rates(loads, can).into_iter().map(|rate| format!("{}", rate * TICK_S));
        packets.collect::<Vec<_>>().join(",") + "\n"
    };
    let ticks = |seconds: f64| (seconds / TICK_S).round() as usize;
    let folder = tempfile::tempdir()?;
    let recording = folder.path().join("shift.csv");
    std::fs::write(&recording, line(BEFORE).repeat(ticks(seconds[0])) + &line(AFTER).repeat(ticks(seconds[1])))?;
    let args = format!(
        "--shape recorded --recording {} --cores 2 --seconds {} --converged-s {} --seeds 1 --policies static,balance --packet-ns {} --ring {}",
        recording.display(),
        seconds[0] + seconds[1],
        seconds[0],
        1e9 / can[0],
        BUFFERS + BACKLOG
    );
    let runs = simulate(lab, &args.split(' ').map(str::to_owned).collect::<Vec<_>>(), folder.path())?;
    Ok(runs.into_iter().flatten().collect())
}

/// The simulator beside the switch: what is served after the shift, and the largest core load at the end.
pub(super) fn compare(
    finding: &mut Finding,
    [off, on]: [&[Turn]; 2],
    (simulated, simulated_s): (&[Simulated], [f64; 2]),
    remark: &str,
    counts: bool,
) {
    let head = [
        "scheduler",
        "served after the shift: switch, %",
        "simulator, %",
        "largest core load at the end: switch, %",
        "simulator, %",
    ];
    let mut table = Table::new("The simulator beside the switch, same loads, same speed of a core", &head);
    let mut worst: f64 = 0.0;
    for (turns, policy) in [(off, "static"), (on, "balance")] {
        let Some(run) = simulated.iter().find(|run| run.policy == policy) else { continue };
        let asked = turns.first().map_or([1.0; 2], |turn| turn.asked);
        let [before, after] = [0, 1].map(|phase| asked[phase] * simulated_s[phase]);
        let demanded = run.demanded_cycles * after / (before + after);
        let model = 1.0 - run.under_served_converged_cycles / demanded.max(1.0);
        let real =
            median(&turns.iter().map(|turn| turn.served(0.0, f64::INFINITY)).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        let largest = run.seconds.last().map_or(f64::NAN, |second| second.largest.min(1.0));
        let measured = median(&turns.iter().map(Turn::largest).collect::<Vec<_>>()).unwrap_or(f64::NAN);
        for (real, model) in [(real, model), (measured, largest)] {
            worst = worst.max((real / model - 1.0).abs());
        }
        let name = if policy == "static" { "off" } else { "on" };
        let percent = |part: f64| format!("{:.1}", part * 100.0);
        table.row([name.to_owned(), percent(real), percent(model), percent(measured), percent(largest)]);
    }
    finding.tables.push(table);
    let worst = Some(Ratio { value: worst * 100.0, low: worst * 100.0, high: worst * 100.0 });
    let text = "largest difference between the simulator and the switch (served, largest core load)";
    finding.claims.push(Claim::new(text, worst, "%", Bound::AtMost(15.0), counts).but(remark));
}

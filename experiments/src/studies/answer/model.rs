//! The simulator beside the switch.

use anyhow::Result;

use super::super::Lab;
use super::super::finding::{Bound, Claim, Finding, Table, show};
use super::super::simulator::{Simulated, simulate};
use super::super::traffic::{BACKLOG, BUFFERS};
use super::pairs::rates;
use super::turn::Turn;
use super::{AFTER, BEFORE, TICK_S, after_s, before_s};
use crate::stats;

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
    let mut worst = vec![0.0_f64; on.len()];
    for (turns, policy) in [(off, "static"), (on, "balance")] {
        let Some(run) = simulated.iter().find(|run| run.policy == policy) else { continue };
        let asked = turns.first().map_or([1.0; 2], |turn| turn.asked);
        let [before, after] = [0, 1].map(|phase| asked[phase] * simulated_s[phase]);
        let demanded = run.demanded_cycles * after / (before + after);
        let model = 1.0 - run.under_served_converged_cycles / demanded.max(1.0);
        let largest = run.seconds.last().map_or(f64::NAN, |second| second.largest.min(1.0));
        let measured: [fn(&Turn) -> f64; 2] = [|turn| turn.served(0.0, f64::INFINITY), Turn::largest];
        for (worst, turn) in worst.iter_mut().zip(turns) {
            for (of, model) in measured.iter().zip([model, largest]) {
                *worst = worst.max((of(turn) / model - 1.0).abs() * 100.0);
            }
        }
        let name = if policy == "static" { "off" } else { "on" };
        let [served, load] = measured.map(|of| {
            let percent: Vec<f64> = turns.iter().map(|turn| of(turn) * 100.0).collect();
            stats::estimate(&percent).map_or("-".to_owned(), show)
        });
        let percent = |part: f64| format!("{:.1}", part * 100.0);
        table.row([name.to_owned(), served, percent(model), load, percent(largest)]);
    }
    finding.tables.push(table);
    let text = "largest difference of a round between the simulator and the switch (served, largest core load)";
    finding.claims.push(Claim::new(text, stats::estimate(&worst), "%", Bound::AtMost(15.0), counts).but(remark));
}

#[cfg(test)]
mod tests {
    use super::super::super::simulator::Second;
    use super::super::turn::tests::turn;
    use super::*;

    #[test]
    fn the_largest_difference_is_of_each_round() {
        let run = |policy: &str, largest: f64| Simulated {
            policy: policy.to_owned(),
            demanded_cycles: 1e9,
            seconds: vec![Second { largest, ..Second::default() }],
            ..Simulated::default()
        };
        let turn = |part: f64| Turn { busy: vec![(1.4, vec![0.9, 0.4]); 3], ..turn(&[], &[(0.0, part)]) };
        let (off, on) = ([turn(1.0), turn(1.0), turn(1.0)], [turn(1.0), turn(0.6), turn(1.0)]);
        let mut finding = Finding::default();
        compare(&mut finding, [&off, &on], (&[run("static", 0.9), run("balance", 0.75)], [1.0, 1.0]), "", true);
        assert_eq!(finding.claims[0].measured, "20.0 [20.0, 40.0] %");
        assert_eq!(finding.tables[0].rows[1], ["on", "100 [60, 100]", "100.0", "90.0", "75.0"]);
    }
}

//! Scale on paper: 64 I/O cores and 1,024 guests, in the simulator.

use anyhow::{Context, Result};
use serde_json::json;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, ENOUGH_ROUNDS, Finding, Kind, Point, Series, Table, show};
use super::simulator::{Simulated, simulate};
use crate::stats::{self, Ratio};

const CORES: usize = 64;
const GUESTS: usize = 1024;
/// Seeds of each load: they stand for rounds.
const SEEDS: usize = ENOUGH_ROUNDS;
/// The policies of the short form: those that the goal is about. It is not shorter in simulated time, since OVS looks once a minute, and crowds come
/// with the second one.
const COMPARED: &str = "balance,ovs-auto-lb";
/// Loads, and what they are called.
const SHAPES: [(&str, &str); 3] =
    [("zipf", "a few guests send most"), ("flash-crowd", "crowds come and go"), ("on-off", "guests come and go")];

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let seconds = lab.effort.simulated_s;
    let seeds = lab.effort.rounds.min(SEEDS);
    let policies = if lab.effort.coarse { format!(" --policies {COMPARED}") } else { String::new() };
    let converged = seconds * 0.3;
    let mut finding = Finding {
        name: "scale".to_owned(),
        title: format!("Scale, on paper: {CORES} I/O cores and {GUESTS} guests"),
        question: "How do scheduling policies compare on a switch of a size that no machine here has? (Simulated: the scheduler that runs in the \
                   switch, on a model of it.)"
            .to_owned(),
        repeat: lab.repeat("scale"),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.conditions.rounds = seeds;
    finding.conditions.seconds = seconds;
    let folder = tempfile::tempdir()?;
    let mut runs = Vec::new();
    for (shape, _) in SHAPES {
        lab.interrupt.check()?;
        let args = format!(
            "--shape {shape} --cores {CORES} --guests {GUESTS} --seconds {seconds} --converged-s {converged} --seeds {seeds}{policies}"
        );
        finding.setup.push(format!("sidecore-simulate {args}"));
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        runs.push(simulate(lab, &args, folder.path())?);
    }
    finding.setup.push(format!(
        "Seeds: {seeds}, which stand for rounds: figures are medians with their intervals. Costs are the simulator's defaults, which say where they were measured \
         (sidecore-simulate --help)."
    ));
    let policies: Vec<String> = runs.first().context("no runs")?.iter().map(|runs| runs[0].policy.clone()).collect();
    let names: Vec<&str> = SHAPES.iter().map(|(shape, _)| *shape).collect();
    let bars = |name: &str, title: &str, y: Axis, of: &dyn Fn(&Simulated) -> f64| Chart {
        name: name.to_owned(),
        title: title.to_owned(),
        x: Axis::names("load", &names),
        y,
        kind: Kind::Bars,
        series: policies
            .iter()
            .enumerate()
            .map(|(at, policy)| {
                let points = runs.iter().enumerate().map(|(shape, runs)| Point::new(shape as f64, &all(&runs[at], of)));
                Series::new(policy, points.collect())
            })
            .collect(),
        ..Chart::default()
    };
    finding.charts.push(bars(
        "largest",
        "Largest core load to its lower bound, converged",
        Axis::linear("times the bound"),
        &|run| run.largest_to_bound,
    ));
    finding.charts.push(bars(
        "under-served",
        "Cycles that guests asked for and did not get",
        Axis::linear("% of the demand"),
        &|run| unserved(run) * 100.0,
    ));
    for ((shape, what), runs) in SHAPES.iter().zip(&runs) {
        let head = ["policy", "under-served, %", "converged, %", "largest core to bound", "delay p99, µs", "moves"];
        let mut table = Table::new(&format!("{shape}: {what}"), &head);
        let cell = |runs: &[Simulated], of: &dyn Fn(&Simulated) -> f64| shown(stats::estimate(&all(runs, of)));
        for runs in runs {
            let converged = |run: &Simulated| run.under_served_converged_cycles / run.demanded_cycles.max(1.0) * 100.0;
            table.row([
                runs[0].policy.clone(),
                shown(percent(runs)),
                cell(runs, &converged),
                cell(runs, &|run| run.largest_to_bound),
                cell(runs, &|run| run.delay_p99_us),
                cell(runs, &|run| run.moves as f64),
            ]);
        }
        finding.tables.push(table);
        let of = |name: &str| runs.iter().find(|runs| runs[0].policy == name);
        if let (Some(ours), Some(ovs)) = (of("balance"), of("ovs-auto-lb")) {
            let beyond = |runs: &[Simulated]| all(runs, &|run| run.under_served_beyond_cycles.max(1.0));
            let text = format!(
                "{shape}: under-served cycles of OVS auto load balance, to those of balance, of what any policy could serve"
            );
            let fewer = stats::ratio(&beyond(ovs), &beyond(ours));
            finding.claims.push(Claim::new(&text, fewer, "times", Bound::AtLeast(10.0), true));
        }
        let middle = |runs: &[Simulated]| percent(runs).map_or(f64::NAN, |percent| percent.value);
        let best = runs.iter().min_by(|one, other| middle(one).total_cmp(&middle(other))).context("no runs")?;
        let of = |name: &str| shown(of(name).and_then(|runs| percent(runs)));
        finding.answer.push(format!(
            "{shape}: of these policies {} leaves least unserved ({} %), balance {} %, OVS auto load balance {} %.",
            best[0].policy,
            shown(percent(best)),
            of("balance"),
            of("ovs-auto-lb"),
        ));
    }
    finding.raw = json!(runs);
    Ok(finding)
}

/// A figure of every seed.
fn all(runs: &[Simulated], of: &dyn Fn(&Simulated) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}

fn shown(figure: Option<Ratio>) -> String {
    figure.map_or("-".to_owned(), show)
}

/// Percent of what was asked for that was not served: the median of seeds.
fn percent(runs: &[Simulated]) -> Option<Ratio> {
    stats::estimate(&all(runs, &|run| unserved(run) * 100.0))
}

/// The part of what was asked for that was not served.
fn unserved(run: &Simulated) -> f64 {
    run.under_served_cycles / run.demanded_cycles.max(1.0)
}

//! Scale on paper: 64 I/O cores and 1,024 guests, in the simulator, all policies.

use anyhow::{Context, Result};
use serde_json::json;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Kind, Point, Series, Table, number};
use super::simulator::{Simulated, simulate};
use crate::stats::Ratio;

const CORES: usize = 64;
const GUESTS: usize = 1024;
/// Loads, and what they are called.
const SHAPES: [(&str, &str); 3] =
    [("zipf", "a few guests send most"), ("flash-crowd", "crowds come and go"), ("on-off", "guests come and go")];

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let seconds = lab.effort.simulated_s;
    let converged = seconds * 0.3;
    let mut finding = Finding {
        name: "scale".to_owned(),
        title: format!("Scale, on paper: {CORES} I/O cores and {GUESTS} guests"),
        question: "How do scheduling policies compare on a switch of a size that no machine here has? (Simulated: the scheduler that runs in the \
                   switch, on a model of it.)"
            .to_owned(),
        repeat: "make experiments ONLY=scale".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.conditions.rounds = 1;
    finding.conditions.seconds = seconds;
    let folder = tempfile::tempdir()?;
    let mut runs = Vec::new();
    for (shape, _) in SHAPES {
        lab.interrupt.check()?;
        let args = format!(
            "--shape {shape} --cores {CORES} --guests {GUESTS} --seconds {seconds} --converged-s {converged} --seeds 1"
        );
        finding.setup.push(format!("sidecore-simulate {args}"));
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        runs.push(simulate(lab, &args, folder.path())?);
    }
    finding.setup.push(
        "One seed; costs are the simulator's defaults, which say where they were measured (sidecore-simulate --help)."
            .to_owned(),
    );
    let policies: Vec<String> = runs.first().context("no runs")?.iter().map(|run| run.policy.clone()).collect();
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
                let points = runs.iter().enumerate().map(|(shape, runs)| Point::new(shape as f64, &[of(&runs[at])]));
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
        for run in runs {
            let converged = run.under_served_converged_cycles / run.demanded_cycles.max(1.0) * 100.0;
            table.row([
                run.policy.clone(),
                number(unserved(run) * 100.0, unserved(run) * 100.0),
                number(converged, converged),
                format!("{:.3}", run.largest_to_bound),
                format!("{:.0}", run.delay_p99_us),
                run.moves.to_string(),
            ]);
        }
        finding.tables.push(table);
        let of = |name: &str| runs.iter().find(|run| run.policy == name);
        if let (Some(ours), Some(ovs)) = (of("balance"), of("ovs-auto-lb")) {
            let fewer = ovs.under_served_cycles / ours.under_served_cycles.max(1.0);
            let exact = Some(Ratio { value: fewer, low: fewer, high: fewer });
            let text = format!("{shape}: under-served cycles of OVS auto load balance, to those of balance");
            finding.claims.push(Claim::new(&text, exact, "times", Bound::AtLeast(10.0), true));
        }
        let best = runs.iter().min_by(|one, other| unserved(one).total_cmp(&unserved(other))).context("no runs")?;
        finding.answer.push(format!(
            "{shape}: {} leaves least unserved ({} %), balance {} %, OVS auto load balance {} %.",
            best.policy,
            number(unserved(best) * 100.0, unserved(best) * 100.0),
            of("balance").map_or("-".to_owned(), |run| number(unserved(run) * 100.0, unserved(run) * 100.0)),
            of("ovs-auto-lb").map_or("-".to_owned(), |run| number(unserved(run) * 100.0, unserved(run) * 100.0)),
        ));
    }
    finding.raw = json!(runs);
    Ok(finding)
}

fn unserved(run: &Simulated) -> f64 {
    run.under_served_cycles / run.demanded_cycles.max(1.0)
}

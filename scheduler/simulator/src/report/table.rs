//! The tables, in Markdown that can be read as it is.

use std::fmt::Write as _;

use scheduler::Policy;

use crate::goals::{Block, Cell, EVEN, FEWER, MORE_MOVES, Verdict};

/// How cells without a ratio are judged.
const CONVENTIONS: &str = "balance against ovs-auto-lb. Under-served: beyond what no policy could serve (of a queue pair more than a core can do, of all together more \
than all cores can); where there is such, the ratio of all that is under-served stands beside it. ∞ where only OVS leaves cycles unserved, — where neither does. Moves are counted after the \
time for converging; where OVS makes none, only none reaches the goal. Missed *as by any* policy: whoever moves nothing once converged misses the goal before, in expectation \
(computed for on/off load alone). Guests come and go with churn alone: elsewhere ovs-cycles and ovs-group, which assign anew only then, do what static does.";

/// All tables.
#[must_use]
pub fn table(blocks: &[Block]) -> String {
    let mut text = String::new();
    let judged: Vec<(&Block, Verdict)> = blocks.iter().filter_map(|block| Some((block, block.verdict?))).collect();
    if !judged.is_empty() {
        text += &goals(&judged);
    }
    for block in blocks {
        text += &details(block);
    }
    text
}

fn goals(judged: &[(&Block, Verdict)]) -> String {
    let heading = [
        "load, cores × guests".to_owned(),
        format!("under-served, times fewer than ovs-auto-lb (≥ {FEWER:.0})"),
        format!("moves an hour: ours, OVS's (≤ {MORE_MOVES:.0} times)"),
        format!("largest core to bound: mean of seconds (≤ {EVEN}), p99, most"),
    ];
    let row = |(block, verdict): &(&Block, Verdict)| {
        let of = |policy| block.cells.iter().find(|cell| cell.policy == policy);
        let moves = |policy| of(policy).map_or(0.0, |cell| cell.mean(|run| run.moves_per_hour_converged));
        let fewer = match (verdict.fewer, verdict.only_ovs_under_serves) {
            (Some(fewer), _) => format!("{fewer:.1}"),
            (None, true) => "∞".to_owned(),
            (None, false) => "— (neither)".to_owned(),
        };
        let of_all = verdict.fewer_of_all.map_or_else(String::new, |all| format!(" (of all: {all:.1})"));
        let mut even = of(Policy::Balance).map_or_else(String::new, bound);
        even += verdict.even_reached.map_or(" (not steady)", mark);
        let moves_mark = match (verdict.moves_reached, verdict.shown_unreachable) {
            (false, true) => ", **missed** as by any",
            (reached, _) => mark(reached),
        };
        vec![
            block.scenario.to_string(),
            fewer + mark(verdict.fewer_reached) + &of_all,
            format!("{:.0}, {:.0}{}", moves(Policy::Balance), moves(Policy::OvsAutoLb), moves_mark),
            even,
        ]
    };
    let rows: Vec<Vec<String>> = judged.iter().map(row).collect();
    format!("## Goals\n\n{CONVENTIONS}\n\n{}\n", lay_out(&heading, &rows))
}

fn mark(reached: bool) -> &'static str {
    if reached { ", reached" } else { ", **missed**" }
}

/// Of one-second windows: the mean, the 99th percentile, the most.
fn bound(cell: &Cell) -> String {
    let most = cell.runs.iter().map(|run| run.largest_to_bound_max).fold(0.0, f64::max);
    let [mean, p99] = [cell.mean(|run| run.largest_to_bound), cell.mean(|run| run.largest_to_bound_p99)];
    format!("{mean:.3}, {p99:.3}, {most:.3}")
}

fn details(block: &Block) -> String {
    let heading = [
        "policy",
        "under-served, % of demand",
        "beyond what no policy could serve, %",
        "all of it converged, %",
        "largest core to bound: mean, p99, most",
        "even after, s",
        "delay p50, µs",
        "delay p99, µs",
        "moves",
        "moves an hour, converged",
        "cores awake",
    ]
    .map(str::to_owned);
    let rows: Vec<Vec<String>> = block.cells.iter().map(row).collect();
    let mut text = format!("## {}\n\n", block.scenario);
    let scenario = &block.scenario;
    let seeds = block.cells.first().map_or(0, |cell| cell.runs.len());
    let _ = write!(
        text,
        "{:.0} s, of which {:.0} s are for converging; {:.0} % load on average; means of {seeds} seeds.",
        scenario.seconds,
        scenario.converged_s,
        scenario.load * 100.0
    );
    if let (Some(cycles), Some(cell)) = (block.standing_cycles, block.cells.first()) {
        let part = cycles / cell.mean(|run| run.demanded_cycles).max(1.0) * 100.0;
        let _ =
            write!(text, " Whoever moves nothing once converged leaves {part:.2} % unserved in expectation, at least.");
    }
    let _ = writeln!(text, "\n\n{}", lay_out(&heading, &rows));
    text
}

fn row(cell: &Cell) -> Vec<String> {
    let percent = |cycles: f64| cell.mean(|run| cycles / run.demanded_cycles.max(1.0)) * 100.0;
    let even: Option<Vec<f64>> = cell.runs.iter().map(|run| run.even_after_s).collect();
    vec![
        cell.policy.to_string(),
        format!("{:.5}", percent(cell.mean(|run| run.under_served_cycles))),
        format!("{:.5}", percent(cell.mean(|run| run.under_served_beyond_cycles))),
        format!("{:.5}", percent(cell.mean(|run| run.under_served_converged_cycles))),
        bound(cell),
        even.map_or("never".to_owned(), |all| format!("{:.0}", all.iter().copied().fold(0.0, f64::max))),
        format!("{:.1}", cell.mean(|run| run.delay_p50_us)),
        format!("{:.1}", cell.mean(|run| run.delay_p99_us)),
        format!("{:.0}", cell.mean(|run| run.moves as f64)),
        format!("{:.0}", cell.mean(|run| run.moves_per_hour_converged)),
        format!("{:.1}", cell.mean(|run| run.awake)),
    ]
}

/// Columns as wide as they have to be.
fn lay_out(heading: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let all = rows.iter().map(|row| &row[column]).chain([&heading[column]]);
        all.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (text, width))| {
            if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths
        .iter()
        .enumerate()
        .map(|(column, width)| if column == 0 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) });
    let mut text = line(heading);
    let _ = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
    rows.iter().for_each(|row| text += &line(row));
    text
}

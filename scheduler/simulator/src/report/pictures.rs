//! The pictures: what each policy leaves unserved, how even it makes loads, and how a run went.

use scheduler::Policy;

use super::drawing::{Drawing, colour};
use crate::goals::{Block, Cell};

const LEFT: f64 = 220.0;
const PLOT: f64 = 560.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 50.0;
const BAR: f64 = 11.0;
const BETWEEN: f64 = 16.0;
/// Less than this is drawn as nothing: parts of the demand.
const LEAST: f64 = 1e-7;
/// Ratios above are cut off.
const MOST_RATIO: f64 = 3.0;
const TIMELINE_HEIGHT: f64 = 300.0;
/// Policies whose runs are drawn.
const SHOWN: [Policy; 4] = [Policy::Static, Policy::OvsAutoLb, Policy::OvsAutoLbGroup, Policy::Balance];

/// Cycles that were not served, on a logarithmic scale.
pub(super) fn under_served(blocks: &[Block]) -> String {
    let part = |cell: &Cell| cell.mean(|run| run.under_served_cycles / run.demanded_cycles.max(1.0));
    let length = |part: f64| (part.max(LEAST) / LEAST).log10() / (1.0 / LEAST).log10();
    bars(blocks, "Cycles not served, % of the demand, logarithmic (shorter is better)", |cell| {
        (length(part(cell)), format!("{:.5}", part(cell) * 100.0))
    })
}

/// The largest core load over its bound.
pub(super) fn largest_core(blocks: &[Block]) -> String {
    bars(blocks, "Largest core load over its lower bound, converged (1 is best; none is below)", |cell| {
        let ratio = cell.mean(|run| run.largest_to_bound);
        ((ratio.min(MOST_RATIO) - 1.0).max(0.0) / (MOST_RATIO - 1.0), format!("{ratio:.3}"))
    })
}

/// A bar for every policy in every scenario; `bar` gives its length, from 0 to 1, and what is written beside it.
fn bars(blocks: &[Block], title: &str, bar: impl Fn(&Cell) -> (f64, String)) -> String {
    let rows: usize = blocks.iter().map(|block| block.cells.len()).sum();
    let height = TOP + rows as f64 * BAR + blocks.len() as f64 * BETWEEN + 10.0;
    let mut drawing = Drawing::new(LEFT + PLOT + RIGHT, height);
    drawing.text((10.0, 24.0), "start", 15, title);
    let mut y = TOP;
    for block in blocks {
        drawing.text((10.0, y + BAR), "start", 11, &block.scenario.to_string());
        for cell in &block.cells {
            let (length, label) = bar(cell);
            drawing.bar((LEFT, y), (length * PLOT, BAR - 1.0), colour(cell.policy));
            let end = LEFT + length * PLOT + 4.0;
            drawing.text((end, y + BAR - 2.0), "start", 9, &format!("{label} {}", cell.policy));
            y += BAR;
        }
        y += BETWEEN;
    }
    drawing.finish()
}

/// The largest core load, second by second, of the first seed; dashed: the bound.
pub(super) fn timeline(block: &Block) -> String {
    let mut drawing = Drawing::new(LEFT + PLOT + RIGHT, TOP + TIMELINE_HEIGHT + 40.0);
    let title = format!("{}: the largest core load, second by second (dashed: its lower bound)", block.scenario);
    drawing.text((10.0, 24.0), "start", 15, &title);
    let shown: Vec<&Cell> =
        SHOWN.iter().filter_map(|policy| block.cells.iter().find(|cell| cell.policy == *policy)).collect();
    let seconds = |cell: &Cell| cell.runs.first().map(|run| run.seconds.clone()).unwrap_or_default();
    let most = shown.iter().flat_map(|cell| seconds(cell)).map(|second| second.largest).fold(1.0, f64::max) * 1.05;
    let last = shown.iter().map(|cell| seconds(cell).len()).max().unwrap_or(1).max(2) as f64 - 1.0;
    let at = |index: usize, load: f64| (LEFT + index as f64 / last * PLOT, TOP + TIMELINE_HEIGHT * (1.0 - load / most));
    for percent in (0..=(most * 100.0) as usize).step_by(25) {
        let y = at(0, percent as f64 / 100.0).1;
        drawing.line(&[(LEFT, y), (LEFT + PLOT, y)], if percent == 100 { "#555" } else { "#ddd" }, false);
        drawing.text((LEFT - 8.0, y + 4.0), "end", 10, &format!("{percent} %"));
    }
    for minute in 0..=(last / 60.0) as usize {
        drawing.text((at(minute * 60, 0.0).0, TOP + TIMELINE_HEIGHT + 16.0), "middle", 10, &format!("{minute} min"));
    }
    for (row, cell) in shown.iter().enumerate() {
        let all = seconds(cell);
        let points: Vec<_> = all.iter().enumerate().map(|(index, second)| at(index, second.largest)).collect();
        drawing.line(&points, colour(cell.policy), false);
        let y = TOP + 14.0 + row as f64 * 18.0;
        drawing.bar((10.0, y - 9.0), (12.0, 12.0), colour(cell.policy));
        drawing.text((28.0, y + 1.0), "start", 11, cell.policy.name());
    }
    if let Some(cell) = shown.last() {
        let points: Vec<_> = seconds(cell).iter().enumerate().map(|(index, second)| at(index, second.bound)).collect();
        drawing.line(&points, "#000", true);
    }
    drawing.finish()
}

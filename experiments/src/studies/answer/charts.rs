//! The pictures.

use super::super::finding::{Axis, Chart, Mark, Point, Series};
use super::turn::{Moved, Turn};

/// `more`: turns with the scheduler on and more cores, if there were any.
pub(super) fn charts(off: &[Turn], on: &[Turn], more: &[Turn], remark: &str) -> Vec<Chart> {
    let rate = |turns: &[Turn]| {
        let all: Vec<Vec<(f64, f64)>> = turns.iter().map(Turn::rates).collect();
        let percent = |rates: &Vec<(f64, f64)>| rates.iter().map(|(at, part)| (*at, part * 100.0)).collect();
        points(&all.iter().map(percent).collect::<Vec<_>>())
    };
    let asked = on.first().map_or([0.0; 2], |turn| turn.asked);
    let end = on.first().and_then(|turn| turn.delivered.last()).map_or(1.0, |(at, _)| *at);
    let begin = on.first().and_then(|turn| turn.delivered.first()).map_or(-1.0, |(at, _)| *at);
    let line = [(begin, 0), (-0.001, 0), (0.0, 1), (end, 1)];
    let line = line.map(|(at, phase)| Point::new(at, &[asked[phase] / asked[1] * 100.0]));
    let note = |what: &str| if remark.is_empty() { what.to_owned() } else { format!("{what} Remark: {remark}.") };
    let mut charts = vec![Chart {
        name: "throughput".to_owned(),
        title: "Load shifts at 0 s: packets delivered, scheduler off and on".to_owned(),
        x: Axis::linear("seconds since the load shifted"),
        y: Axis::linear("% of the segments asked for after the shift"),
        series: vec![
            Series::new("scheduler off", rate(off)),
            Series::new("scheduler on", rate(on)),
            Series { dashed: true, ..Series::new("asked for", line.to_vec()) },
        ],
        marks: marks(on),
        note: note(
            "Medians over rounds with their 95 % intervals; marked: moves of queue pairs in the first round with the scheduler on.",
        ),
        ..Chart::default()
    }];
    let cases = [("off", "off", off), ("on", "on", on), ("more", "on, more cores", more)];
    for (name, case, turns) in cases.into_iter().filter(|(.., turns)| !turns.is_empty()) {
        let cores = turns.iter().map(|turn| turn.can.len()).max().unwrap_or_default();
        let of = |core: usize| {
            let one = |turn: &Turn| {
                turn.busy.iter().filter_map(|(at, busy)| Some((*at, busy.get(core)? * 100.0))).collect::<Vec<_>>()
            };
            points(&turns.iter().map(one).collect::<Vec<_>>())
        };
        charts.push(Chart {
            name: format!("loads-{name}"),
            title: format!("Load shifts at 0 s: core loads, scheduler {case}"),
            x: Axis::linear("seconds since the load shifted"),
            y: Axis::linear("% busy, of the time that it had its CPU"),
            series: (0..cores).map(|core| Series::new(&format!("I/O core {core}"), of(core))).collect(),
            marks: marks(turns),
            note: note("Medians over rounds with their 95 % intervals."),
            ..Chart::default()
        });
    }
    charts
}

/// Marks for the moves of the first round. Those that are too near to each other to be told apart are one.
fn marks(turns: &[Turn]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for Moved { at, .. } in turns.first().map(|turn| turn.moves.clone()).unwrap_or_default() {
        if marks.last().is_none_or(|mark| at - mark.x > 0.01) {
            let text = if marks.is_empty() { "move" } else { "" };
            marks.push(Mark { x: at, text: text.to_owned() });
        }
    }
    marks
}

/// The figures of all rounds at each moment of the first.
fn points(rounds: &[Vec<(f64, f64)>]) -> Vec<Point> {
    let first = rounds.first().map(Vec::as_slice).unwrap_or_default();
    let nearest = |round: &Vec<(f64, f64)>, moment: f64| {
        let distance = |(at, _): &&(f64, f64)| ((at - moment).abs() * 1e6) as u64;
        round.iter().min_by_key(distance).map(|(_, figure)| *figure)
    };
    let at = |&(moment, _): &(f64, f64)| {
        let all: Vec<f64> = rounds.iter().filter_map(|round| nearest(round, moment)).collect();
        Point::new(moment, &all)
    };
    first.iter().map(at).collect()
}

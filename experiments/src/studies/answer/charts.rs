//! The pictures.

use super::super::finding::{Axis, Chart, Mark, Point, Series};
use super::turn::{Moved, Turn};

/// `more`: turns with the scheduler on and more cores, if there were any.
pub(super) fn charts(off: &[Turn], on: &[Turn], more: &[Turn], remark: &str) -> Vec<Chart> {
    let sides = [("scheduler off", off), ("scheduler on", on)];
    let mut charts = vec![throughput(("throughput", "scheduler off and on"), &sides, remark)];
    if !more.is_empty() {
        let sides = [("scheduler on, more cores", more)];
        charts.push(throughput(("throughput-more", "scheduler on, more cores"), &sides, remark));
    }
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
            note: note("Medians over rounds with their 95 % intervals.", remark),
            ..Chart::default()
        });
    }
    charts
}

/// What is delivered beside what is asked for; of the last of these, which has the scheduler on, moves are marked.
fn throughput((name, case): (&str, &str), sides: &[(&str, &[Turn])], remark: &str) -> Chart {
    let rate = |turns: &[Turn]| {
        let percent = |turn: &Turn| turn.rates().iter().map(|(at, part)| (*at, part * 100.0)).collect();
        points(&turns.iter().map(percent).collect::<Vec<_>>())
    };
    let on = sides.last().map_or(&[][..], |(_, turns)| turns);
    let asked = on.first().map_or([0.0; 2], |turn| turn.asked);
    let end = on.first().and_then(|turn| turn.delivered.last()).map_or(1.0, |(at, _)| *at);
    let begin = on.first().and_then(|turn| turn.delivered.first()).map_or(-1.0, |(at, _)| *at);
    let line = [(begin, 0), (-0.001, 0), (0.0, 1), (end, 1)];
    let line = line.map(|(at, phase)| Point::new(at, &[asked[phase] / asked[1] * 100.0]));
    let mut series: Vec<Series> = sides.iter().map(|(name, turns)| Series::new(name, rate(turns))).collect();
    series.push(Series { dashed: true, ..Series::new("asked for", line.to_vec()) });
    Chart {
        name: name.to_owned(),
        title: format!("Load shifts at 0 s: packets delivered, {case}"),
        x: Axis::linear("seconds since the load shifted"),
        y: Axis::linear("% of the segments asked for after the shift"),
        series,
        marks: marks(on),
        note: note(
            "Medians over rounds with their 95 % intervals; marked: moves of queue pairs in the first round with the scheduler on.",
            remark,
        ),
        ..Chart::default()
    }
}

fn note(what: &str, remark: &str) -> String {
    if remark.is_empty() { what.to_owned() } else { format!("{what} Remark: {remark}.") }
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

#[cfg(test)]
mod tests {
    use super::super::turn::tests::turn;
    use super::*;

    #[test]
    fn more_cores_have_what_is_delivered_beside_what_is_asked_for_too() {
        let [off, on, more] = [[turn(&[], &[])], [turn(&[0.1], &[])], [turn(&[0.2], &[])]];
        let names = |more: &[Turn]| charts(&off, &on, more, "").into_iter().map(|chart| chart.name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["throughput", "loads-off", "loads-on"]);
        assert_eq!(names(&more), ["throughput", "throughput-more", "loads-off", "loads-on", "loads-more"]);
        let chart = &charts(&off, &on, &more, "")[1];
        let series: Vec<&str> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(series, ["scheduler on, more cores", "asked for"]);
        assert!(chart.series.iter().all(|series| !series.points.is_empty()) && chart.marks[0].x == 0.2, "{chart:?}");
    }
}

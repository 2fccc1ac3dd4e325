//! Charts as SVG that reads well in light and in dark, by itself and within a page.

use std::fmt::Write as _;

use super::finding::{Axis, Chart, Kind, Point, Series, number};
use crate::stats::Ratio;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 74.0;
const BOTTOM: f64 = 52.0;
/// Above so many points a line stands by itself.
const DOTS: usize = 40;

/// Colours of series, in light and in dark.
const COLOURS: [(&str, &str); 8] = [
    ("#2f6db3", "#7db2ee"),
    ("#c07a12", "#e9b25c"),
    ("#2f8f5b", "#6fd09c"),
    ("#a63d57", "#ee8aa2"),
    ("#7a56b3", "#b99bea"),
    ("#6b6b6b", "#b0b0b0"),
    ("#0f8a94", "#62cfd8"),
    ("#8a6a3b", "#cdb083"),
];

/// The chart as an SVG document.
#[must_use]
pub fn render(chart: &Chart) -> String {
    let x = Scale::new(&chart.x, &places(chart), (LEFT, WIDTH - RIGHT), chart.kind == Kind::Bars);
    let y = Scale::new(&chart.y, &values(chart), (HEIGHT - BOTTOM, TOP), false);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\" font-family=\"system-ui,sans-serif\" font-size=\"12\">\n<title>{}</title>\n{}\
         <rect class=\"bg\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        escape(&chart.title),
        style()
    );
    svg += &text((LEFT, 24.0), "start", "fg", 15, &chart.title);
    svg += &legend(&chart.series);
    svg += &grid(&x, &y, chart);
    for mark in &chart.marks {
        let at = x.at(mark.x);
        let _ = writeln!(
            svg,
            "<line class=\"mark\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#a63d57\" stroke-dasharray=\"3 3\"/>",
            HEIGHT - BOTTOM
        );
        svg += &text((at + 3.0, TOP + 10.0), "start", "dim", 10, &mark.text);
    }
    for (number, series) in chart.series.iter().enumerate() {
        svg += &match chart.kind {
            Kind::Lines => line(series, number, &x, &y),
            Kind::Bars => bars(series, number, chart.series.len(), &x, &y),
        };
    }
    svg + "</svg>\n"
}

fn style() -> String {
    let mut style = String::from(
        "<style>@media(prefers-color-scheme:dark){.bg{fill:#16181c}.fg{fill:#e8e8e8}.dim{fill:#a8adb5}.grid{stroke:#33373e}.axis{stroke:#6d737d}\
         .mark{stroke:#ee8aa2}",
    );
    for (number, (_, dark)) in COLOURS.iter().enumerate() {
        let _ = write!(style, ".f{number}{{fill:{dark}}}.l{number}{{stroke:{dark}}}");
    }
    style + "}</style>\n"
}

fn places(chart: &Chart) -> Vec<f64> {
    let points = chart.series.iter().flat_map(|series| &series.points).map(|point| point.x);
    points.chain(chart.marks.iter().map(|mark| mark.x)).collect()
}

fn values(chart: &Chart) -> Vec<f64> {
    let estimates = chart.series.iter().flat_map(|series| &series.points).filter_map(Point::estimate);
    estimates.flat_map(|estimate| [estimate.low, estimate.high]).collect()
}

/// From figures to places in the picture.
struct Scale {
    from: f64,
    to: f64,
    log: bool,
    pixels: (f64, f64),
    ticks: Vec<(f64, String)>,
}

impl Scale {
    fn new(axis: &Axis, figures: &[f64], pixels: (f64, f64), bars: bool) -> Self {
        let of = |pick: fn(f64, f64) -> f64, first| figures.iter().copied().filter(|f| f.is_finite()).fold(first, pick);
        if !axis.names.is_empty() || bars {
            let count = axis.names.len().max(1) as f64;
            let ticks = axis.names.iter().enumerate().map(|(at, name)| (at as f64, name.clone())).collect();
            return Self { from: -0.5, to: count - 0.5, log: false, pixels, ticks };
        }
        if axis.log {
            let positive: Vec<f64> = figures.iter().copied().filter(|f| *f > 0.0).collect();
            let low = positive.iter().copied().fold(f64::INFINITY, f64::min);
            let low = if low.is_finite() { low } else { 1.0 };
            let high = of(f64::max, low).max(low * 1.5);
            let mut places = positive.clone();
            places.sort_by(f64::total_cmp);
            places.dedup();
            // The places measured, if they are few, else 1, 2, 5, 10, …
            let steps: Vec<f64> = if places.len() <= 9 && pixels.0 < pixels.1 {
                places
            } else {
                let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
                decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade))).collect()
            };
            let (from, to) = (low / 1.1, high * 1.1);
            let seen = steps.into_iter().filter(|step| (from..=to).contains(step));
            let ticks = seen.map(|step| (step, trimmed(step))).collect();
            return Self { from: from.log10(), to: to.log10(), log: true, pixels, ticks };
        }
        let low = of(f64::min, 0.0);
        let high = of(f64::max, low);
        let high = if high > low { low + (high - low) * 1.06 } else { low + 1.0 };
        let step = step(high - low);
        let first = (low / step).ceil() as i64;
        let ticks = (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= high);
        let ticks = ticks.map(|tick| (tick, trimmed(tick))).collect();
        Self { from: low, to: high, log: false, pixels, ticks }
    }

    fn at(&self, figure: f64) -> f64 {
        let figure = if self.log { figure.max(f64::MIN_POSITIVE).log10() } else { figure };
        let share = ((figure - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }
}

/// A round step that gives some eight ticks.
fn step(range: f64) -> f64 {
    let decade = 10f64.powf((range / 8.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * decade).into_iter().find(|step| range / step <= 8.0).unwrap_or(range)
}

fn trimmed(figure: f64) -> String {
    let shown = number(figure, figure.abs());
    if shown.contains('.') { shown.trim_end_matches('0').trim_end_matches('.').to_owned() } else { shown }
}

fn grid(x: &Scale, y: &Scale, chart: &Chart) -> String {
    let mut svg = String::new();
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (figure, label) in &y.ticks {
        let at = y.at(*figure);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#e3e3e3\"/>"
        );
        svg += &text((LEFT - 7.0, at + 4.0), "end", "dim", 11, label);
    }
    for (figure, label) in &x.ticks {
        let at = x.at(*figure);
        svg += &text((at, bottom + 16.0), "middle", "dim", 11, label);
        if chart.kind == Kind::Lines {
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#f0f0f0\"/>"
            );
        }
    }
    let _ =
        writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#888888\"/>");
    svg += &text(((LEFT + right) / 2.0, HEIGHT - 14.0), "middle", "fg", 12, &chart.x.label);
    let middle = (TOP + bottom) / 2.0;
    let _ = writeln!(
        svg,
        "<text class=\"fg\" transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(&chart.y.label)
    );
    svg
}

fn legend(series: &[Series]) -> String {
    let mut svg = String::new();
    let (mut x, mut y) = (LEFT, 44.0);
    for (number, one) in series.iter().enumerate() {
        let width = 30.0 + 6.6 * one.name.chars().count() as f64;
        if x + width > WIDTH - RIGHT && x > LEFT {
            (x, y) = (LEFT, y + 16.0);
        }
        let colour = number % COLOURS.len();
        let _ = writeln!(
            svg,
            "<rect class=\"f{colour}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\" fill=\"{}\"/>",
            y - 10.0,
            COLOURS[colour].0
        );
        svg += &text((x + 16.0, y), "start", "fg", 12, &one.name);
        x += width;
    }
    svg
}

fn line(series: &Series, number: usize, x: &Scale, y: &Scale) -> String {
    let colour = number % COLOURS.len();
    let light = COLOURS[colour].0;
    let points: Vec<(f64, Ratio)> =
        series.points.iter().filter_map(|point| Some((point.x, point.estimate()?))).collect();
    let path: Vec<String> =
        points.iter().map(|(at, figure)| format!("{:.1},{:.1}", x.at(*at), y.at(figure.value))).collect();
    let dashes = if series.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
    let mut svg = if points.len() > DOTS { band(&points, colour, x, y) } else { String::new() };
    svg += &format!(
        "<polyline class=\"l{colour}\" points=\"{}\" fill=\"none\" stroke=\"{light}\" stroke-width=\"1.6\"{dashes}/>\n",
        path.join(" ")
    );
    if points.len() > DOTS || series.dashed {
        return svg;
    }
    for (at, figure) in &points {
        let at = x.at(*at);
        svg += &dot((at, y.at(figure.value)), 2.6, colour);
        svg += &error_bar(at, figure, &stroke(colour), y);
    }
    svg
}

fn dot((x, y): (f64, f64), radius: f64, colour: usize) -> String {
    let light = COLOURS[colour].0;
    format!("<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{light}\"/>\n")
}

fn stroke(colour: usize) -> String {
    format!("class=\"l{colour}\" stroke=\"{}\"", COLOURS[colour].0)
}

/// The intervals of a line with too many places for error bars.
fn band(points: &[(f64, Ratio)], colour: usize, x: &Scale, y: &Scale) -> String {
    if points.iter().all(|(_, figure)| figure.low == figure.high) {
        return String::new();
    }
    let corner = |at: f64, figure: f64| format!("{:.1},{:.1}", x.at(at), y.at(figure));
    let above = points.iter().map(|(at, figure)| corner(*at, figure.high));
    let below = points.iter().rev().map(|(at, figure)| corner(*at, figure.low));
    let corners: Vec<String> = above.chain(below).collect();
    format!(
        "<polygon class=\"f{colour}\" points=\"{}\" fill=\"{}\" fill-opacity=\"0.2\"/>\n",
        corners.join(" "),
        COLOURS[colour].0
    )
}

/// Bars, or points in their places where a bar would have no foot to stand on.
fn bars(series: &Series, number: usize, count: usize, x: &Scale, y: &Scale) -> String {
    let colour = number % COLOURS.len();
    let wide = (x.at(1.0) - x.at(0.0)) * 0.76 / count as f64;
    let mut svg = String::new();
    for point in &series.points {
        let Some(figure) = point.estimate() else { continue };
        let left = x.at(point.x) + (number as f64 - count as f64 / 2.0) * wide;
        let middle = left + (wide - 2.0) / 2.0;
        if y.log {
            svg += &dot((middle, y.at(figure.value)), 3.2, colour);
            svg += &error_bar(middle, &figure, &stroke(colour), y);
        } else {
            let (top, bottom) = (y.at(figure.value), y.pixels.0);
            let _ = writeln!(
                svg,
                "<rect class=\"f{colour}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                wide - 2.0,
                (bottom - top).max(0.5),
                COLOURS[colour].0
            );
            svg += &error_bar(middle, &figure, "class=\"axis\" stroke=\"#444444\"", y);
        }
        let above = y.at(figure.high) - if y.log { 6.0 } else { 4.0 };
        svg += &text((middle, above), "middle", "dim", 10, &trimmed(figure.value));
    }
    svg
}

fn error_bar(x: f64, figure: &Ratio, attributes: &str, y: &Scale) -> String {
    if figure.low == figure.high {
        return String::new();
    }
    let (low, high) = (y.at(figure.low), y.at(figure.high));
    let (left, right) = (x - 3.0, x + 3.0);
    format!(
        "<path {attributes} d=\"M{x:.1} {low:.1}V{high:.1}M{left:.1} {low:.1}H{right:.1}M{left:.1} {high:.1}H{right:.1}\" \
         fill=\"none\"/>\n"
    )
}

fn text((x, y): (f64, f64), anchor: &str, class: &str, size: u32, content: &str) -> String {
    let colour = if class == "dim" { "#666666" } else { "#222222" };
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{colour}\">{}</text>\n",
        escape(content)
    )
}

/// Text for XML and HTML.
#[must_use]
pub fn escape(content: &str) -> String {
    content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    fn chart(kind: Kind) -> Chart {
        let points = vec![Point::new(0.0, &[1.0, 2.0, 3.0]), Point::new(1.0, &[4.0])];
        Chart {
            title: "a < b".to_owned(),
            x: Axis::linear("guests"),
            y: Axis::linear("Mpps"),
            kind,
            series: vec![Series::new("one", points)],
            marks: vec![Mark { x: 0.5, text: "moved".to_owned() }],
            ..Chart::default()
        }
    }

    #[test]
    fn several_rounds_have_an_error_bar_and_one_has_none() {
        let lines = render(&chart(Kind::Lines));
        assert_eq!((lines.matches("<circle").count(), lines.matches("<path class=\"l0\"").count()), (2, 1), "{lines}");
        assert!(lines.contains("a &lt; b") && lines.contains(">moved<"), "{lines}");
        let mut bars = chart(Kind::Bars);
        bars.x = Axis::names("mode", &["poll", "trap"]);
        let bars = render(&bars);
        assert_eq!(bars.matches("<rect class=\"f0\"").count(), 3, "two bars and the legend: {bars}");
        assert!(bars.contains(">poll<") && bars.ends_with("</svg>\n"), "{bars}");
    }

    #[test]
    fn on_a_logarithmic_axis_points_stand_where_bars_would() {
        let (x, y) = (Axis::names("mode", &["poll", "trap"]), Axis::log("µs"));
        let points = render(&Chart { x: x.clone(), y, ..chart(Kind::Bars) });
        let bars = render(&Chart { x, ..chart(Kind::Bars) });
        assert_eq!(
            (points.matches("<circle class=\"f0\"").count(), bars.matches("<circle").count()),
            (2, 0),
            "{points}"
        );
        assert_eq!(points.matches("<rect class=\"f0\"").count(), 1, "the legend: {points}");
        assert_eq!(points.matches("<path class=\"l0\"").count(), 1, "an error bar: {points}");
    }

    #[test]
    fn a_line_of_many_places_has_a_band_where_there_are_several_rounds() {
        let long = |rounds: &[f64]| {
            let points = (0..=DOTS).map(|at| Point::new(at as f64, rounds)).collect();
            render(&Chart { series: vec![Series::new("long", points)], ..chart(Kind::Lines) })
        };
        assert_eq!(long(&[1.0, 2.0, 3.0, 4.0, 5.0]).matches("<polygon").count(), 1);
        assert_eq!(long(&[1.0]).matches("<polygon").count(), 0);
    }

    #[test]
    fn more_is_higher_and_further_right_on_either_scale() {
        for axis in [Axis::linear(""), Axis::log("")] {
            let scale = Scale::new(&axis, &[1.0, 4.0, 16.0], (0.0, 100.0), false);
            assert!(scale.at(1.0) < scale.at(4.0) && scale.at(4.0) < scale.at(16.0));
            assert!(scale.ticks.len() >= 3, "{:?}", scale.ticks);
        }
        assert_eq!((step(8.0), step(9.0), step(0.3)), (1.0, 2.0, 0.05));
    }

    #[test]
    fn a_chart_without_figures_is_drawn() {
        assert!(render(&Chart { y: Axis::log("µs"), ..Chart::default() }).ends_with("</svg>\n"));
    }
}

//! The picture: a bar for every ratio, with its interval and its goal.

use std::fmt::Write as _;

use super::{groups, peers, title};
use crate::results::{Against, Entry};
use crate::systems::Kind;
use crate::work::Goal;

const LEFT: f64 = 210.0;
const PLOT: f64 = 520.0;
const RIGHT: f64 = 240.0;
const TOP: f64 = 64.0;
const BAR: f64 = 14.0;
const BETWEEN_BARS: f64 = 4.0;
const BETWEEN_ROWS: f64 = 12.0;

/// Bars of the peers, in order.
const COLOURS: [&str; 4] = ["#3b6ea8", "#c98a2b", "#7f9fc4", "#e0bd86"];

/// A bar to be drawn.
struct Bar<'e> {
    peer: Kind,
    against: &'e Against,
    counts: bool,
}

/// The picture as an SVG document.
#[must_use]
pub fn render(entries: &[Entry]) -> String {
    let peers = peers(entries);
    let rows: Vec<(String, Vec<Bar>)> = groups(entries)
        .into_iter()
        .filter_map(|group| {
            let ours = *group.iter().find(|entry| entry.system == Kind::Sidecore)?;
            let bars: Vec<Bar> = ours
                .ratio
                .iter()
                .map(|(peer, against)| Bar { peer: *peer, against, counts: !ours.generator_bound })
                .collect();
            (!bars.is_empty()).then(|| (title(ours), bars))
        })
        .collect();
    let scale = Scale::over(rows.iter().flat_map(|(_, bars)| bars).map(|bar| bar.against));
    let height_of = |bars: &[Bar]| bars.len() as f64 * (BAR + BETWEEN_BARS) + BETWEEN_ROWS;
    let height = TOP + rows.iter().map(|(_, bars)| height_of(bars)).sum::<f64>() + 40.0;
    let width = LEFT + PLOT + RIGHT;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    svg += &text(LEFT, 22.0, "start", "font-size=\"15\"", "Sidecore divided by each peer, with 95 % intervals");
    svg += &legend(&peers);
    svg += &grid(&scale, TOP, height - 34.0);
    let mut y = TOP + BETWEEN_ROWS / 2.0;
    for (name, bars) in &rows {
        svg += &text(LEFT - 10.0, y + (height_of(bars) - BETWEEN_ROWS) / 2.0 + 3.0, "end", "", name);
        for bar in bars {
            let colour = peers.iter().position(|peer| *peer == bar.peer).unwrap_or(0) % COLOURS.len();
            svg += &draw(bar, COLOURS[colour], &scale, y);
            y += BAR + BETWEEN_BARS;
        }
        y += BETWEEN_ROWS;
    }
    svg + "</svg>\n"
}

/// From ratios to places. It begins at 0, so that lengths can be compared.
struct Scale {
    largest: f64,
    step: f64,
}

impl Scale {
    fn over<'e>(all: impl Iterator<Item = &'e Against>) -> Self {
        let end = |against: &Against| match against.goal {
            Some(Goal::AtLeast(bound) | Goal::AtMost(bound)) => against.ratio.high.max(bound),
            None => against.ratio.high,
        };
        let largest = all.map(end).filter(|end| end.is_finite()).fold(1.0, f64::max) * 1.04;
        let step = [0.25, 0.5, 1.0, 2.0, 5.0].into_iter().find(|step| largest / step <= 12.0).unwrap_or(largest / 10.0);
        Self { largest, step }
    }

    fn x(&self, ratio: f64) -> f64 {
        LEFT + PLOT * (ratio / self.largest).clamp(0.0, 1.0)
    }
}

fn grid(scale: &Scale, top: f64, bottom: f64) -> String {
    let mut svg = String::new();
    let steps = (scale.largest / scale.step) as u32;
    for number in 0..=steps {
        let ratio = f64::from(number) * scale.step;
        let x = scale.x(ratio);
        let colour = if (ratio - 1.0).abs() < 1e-9 { "#555" } else { "#ddd" };
        let _ = writeln!(svg, "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>");
        svg += &text(x, bottom + 16.0, "middle", "fill=\"#555\"", &format!("{ratio}"));
    }
    svg
}

fn legend(peers: &[Kind]) -> String {
    let mut svg = String::new();
    let mut x = LEFT;
    for (peer, colour) in peers.iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        svg += &text(x + 17.0, 46.0, "start", "", peer.title());
        x += 40.0 + 7.0 * peer.title().len() as f64;
    }
    let _ = writeln!(svg, "<line x1=\"{x}\" y1=\"35\" x2=\"{x}\" y2=\"49\" stroke=\"#b00020\" stroke-width=\"3\"/>");
    svg + &text(x + 8.0, 46.0, "start", "", "goal (round trips: no more than)")
}

fn draw(bar: &Bar, colour: &str, scale: &Scale, y: f64) -> String {
    let ratio = bar.against.ratio;
    let middle = y + BAR / 2.0;
    let opacity = if bar.counts { "1" } else { "0.35" };
    let mut svg = format!(
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\" opacity=\"{opacity}\"/>\n",
        scale.x(ratio.value) - LEFT
    );
    let (low, high) = (scale.x(ratio.low), scale.x(ratio.high));
    let _ = writeln!(
        svg,
        "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\" stroke=\"black\" fill=\"none\"/>",
        middle - 3.0,
        middle - 3.0
    );
    if let Some(Goal::AtLeast(bound) | Goal::AtMost(bound)) = bar.against.goal {
        let x = scale.x(bound);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#b00020\" stroke-width=\"3\"/>",
            y - 1.0,
            y + BAR + 1.0
        );
    }
    let verdict = match (bar.counts, bar.against.reached) {
        (false, Some(true)) => ", generator-bound, reached",
        (false, _) => ", generator-bound",
        (true, Some(true)) => ", reached",
        (true, Some(false)) => ", missed",
        (true, None) => "",
    };
    let label = format!("{:.2} [{:.2}, {:.2}]{verdict}", ratio.value, ratio.low, ratio.high);
    svg + &text(LEFT + PLOT + 8.0, middle + 4.0, "start", "font-size=\"11\"", &label)
}

fn text(x: f64, y: f64, anchor: &str, attributes: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {attributes}>{content}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn a_bar_for_every_ratio_and_a_mark_for_every_goal() {
        let mut entries = sample("v2v-64-split").entries();
        entries.extend(sample("rtt-idle").entries());
        let svg = render(&entries);
        assert_eq!(svg.matches(" opacity=").count(), 6, "{svg}");
        // One more of each is in the legend.
        assert_eq!(svg.matches("#b00020").count(), 7, "{svg}");
        assert!(svg.contains(">v2v 64 B split<") && svg.contains(">RTT idle p99 64 B split<"), "{svg}");
        assert!(svg.contains("3.00 [3.00, 3.00], reached"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn what_does_not_count_is_pale() {
        let mut outcome = sample("v2v-64-split");
        outcome.systems[0].1.idle = vec![0.0; 3];
        let svg = render(&outcome.entries());
        assert!(svg.contains("opacity=\"0.35\"") && svg.contains("generator-bound"), "{svg}");
    }

    #[test]
    fn no_results_are_an_empty_picture() {
        let svg = render(&[]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("opacity"), "{svg}");
    }
}

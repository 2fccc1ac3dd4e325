//! The little SVG that the pictures need.

use std::fmt::Write as _;

use scheduler::Policy;

/// A picture in the making.
pub(super) struct Drawing {
    svg: String,
}

impl Drawing {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        Self { svg }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, content: &str) {
        let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{content}</text>"
        );
    }

    pub(super) fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], colour: &str, dashed: bool) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dashes = if dashed { " stroke-dasharray=\"4 3\"" } else { "" };
        let _ =
            writeln!(self.svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"{dashes}/>", points.join(" "));
    }

    pub(super) fn finish(self) -> String {
        self.svg + "</svg>\n"
    }
}

/// The same colour for a policy in every picture.
pub(super) fn colour(policy: Policy) -> &'static str {
    match policy {
        Policy::Static => "#999999",
        Policy::RoundRobin => "#bbbbbb",
        Policy::LeastLoaded => "#4a9a6a",
        Policy::Balance => "#3b6ea8",
        Policy::OvsCycles => "#e0bd86",
        Policy::OvsGroup => "#eed9b3",
        Policy::OvsAutoLb => "#c98a2b",
        Policy::OvsAutoLbGroup => "#a0522d",
    }
}

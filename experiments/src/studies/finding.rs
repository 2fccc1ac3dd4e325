//! What an experiment found: all that the report shows of it, and what is written to its JSON file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use sidecore_tests::process::must;

use crate::judge;
use crate::machine::Machine;
use crate::stats::{self, Ratio};

/// Rounds whose intervals decide whether a goal is reached. Those of fewer have little width, or none.
pub const ENOUGH_ROUNDS: usize = 5;

/// An experiment's result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, which its files are called by.
    pub name: String,
    /// Its title in the report.
    pub title: String,
    /// What was to be found out.
    pub question: String,
    /// How it was measured, point by point.
    pub setup: Vec<String>,
    /// What the pictures show.
    pub charts: Vec<Chart>,
    /// The figures.
    pub tables: Vec<Table>,
    /// What was claimed before, and what came of it.
    pub claims: Vec<Claim>,
    /// What is to be learnt from it, made from the figures.
    pub answer: Vec<String>,
    /// The command that repeats it.
    pub repeat: String,
    /// On what, and how thoroughly.
    pub conditions: Conditions,
    /// Seconds that it took; 0 in files of older versions.
    #[serde(default)]
    pub took_s: f64,
    /// Figures of all rounds that no chart shows.
    #[serde(default)]
    pub raw: Value,
}

impl Finding {
    /// The same, whose claims decide nothing where rounds were too few.
    #[must_use]
    pub fn weighed(mut self) -> Self {
        let rounds = self.conditions.rounds;
        self.claims = self.claims.into_iter().map(|claim| claim.of_rounds(rounds)).collect();
        if rounds < ENOUGH_ROUNDS {
            self.answer
                .insert(0, format!("With fewer than {ENOUGH_ROUNDS} rounds ({rounds}) nothing is decided here."));
        }
        self
    }
}

/// On what an experiment was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// The machine.
    pub machine: Vec<String>,
    /// The programs.
    pub versions: Vec<String>,
    /// Rounds, which take turns.
    pub rounds: usize,
    /// Measured seconds of each turn; 0 where that differs.
    pub seconds: f64,
    /// The date, in UTC.
    pub date: String,
}

impl Conditions {
    /// Those here and now.
    #[must_use]
    pub fn now(rounds: usize, seconds: f64) -> Self {
        let Machine { mut machine, versions } = Machine::detect(false);
        // What concerns other switches is not of this report.
        machine.truncate(2);
        machine.push("guests' memory on 4 KiB pages".to_owned());
        let versions = versions.into_iter().filter(|name| name.starts_with("sidecore") || name.starts_with("rustc"));
        Self {
            machine,
            versions: versions.collect(),
            rounds,
            seconds,
            date: must(&["date", "-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default().trim().to_owned(),
        }
    }

    /// Sidecore's version, with its commit where that is known.
    #[must_use]
    pub fn sidecore(&self) -> &str {
        let mut names = self.versions.iter().map(String::as_str);
        names.find(|name| name.starts_with("sidecore")).unwrap_or("an unknown version")
    }
}

/// A statement that the figures have to bear out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The statement.
    pub text: String,
    /// What was measured, with its unit and interval.
    pub measured: String,
    /// The goal, where there is one.
    pub goal: String,
    /// Whether it is reached.
    pub verdict: Verdict,
    /// What has to be known about it.
    #[serde(default)]
    pub remark: String,
}

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The end of the interval that counts against us reaches the goal.
    Reached,
    /// It does not.
    Missed,
    /// Measured where it decides nothing: on a machine with too few CPUs, in too few rounds, or without a goal.
    Shown,
}

/// A side of a goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// More than this.
    MoreThan(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
}

impl Claim {
    /// A claim about a figure in a unit. Where `counts` is false the figure is only shown.
    #[must_use]
    pub fn new(text: &str, measured: Option<Ratio>, unit: &str, bound: Bound, counts: bool) -> Self {
        let (sign, goal) = match bound {
            Bound::MoreThan(goal) => (">", goal),
            Bound::AtLeast(goal) => ("≥", goal),
            Bound::AtMost(goal) => ("≤", goal),
        };
        let reached = measured.is_some_and(|measured| match bound {
            Bound::MoreThan(goal) => measured.low > goal,
            Bound::AtLeast(goal) => measured.low >= goal,
            Bound::AtMost(goal) => measured.high <= goal,
        });
        let verdict = match (counts, reached) {
            (false, _) => Verdict::Shown,
            (true, true) => Verdict::Reached,
            (true, false) => Verdict::Missed,
        };
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let measured =
            measured.map_or("nothing was measured".to_owned(), |measured| format!("{}{unit}", show(measured)));
        Self { text: text.to_owned(), measured, goal: format!("{sign} {goal}{unit}"), verdict, remark: String::new() }
    }

    /// The same with a remark.
    #[must_use]
    pub fn but(mut self, remark: &str) -> Self {
        remark.clone_into(&mut self.remark);
        self
    }

    /// The same of a generator that idled for these parts of the time, round by round: where it may have been the limit,
    /// the figure is only shown.
    #[must_use]
    pub fn where_generator_idled(mut self, rounds: &[f64]) -> Self {
        if judge::is_generator_bound(rounds) {
            self.verdict = Verdict::Shown;
            self.remark = format!(
                "the generator idled less than {:.0} % of the time, and may have been the limit: this does not count",
                judge::LEAST_IDLE * 100.0
            );
        }
        self
    }

    /// The same of so many rounds: too few of them decide nothing.
    #[must_use]
    pub fn of_rounds(mut self, rounds: usize) -> Self {
        if rounds < ENOUGH_ROUNDS && self.verdict != Verdict::Shown {
            self.verdict = Verdict::Shown;
            let few = format!("fewer than {ENOUGH_ROUNDS} rounds");
            self.remark = if self.remark.is_empty() { few } else { format!("{}; {few}", self.remark) };
        }
        self
    }
}

/// A figure with its interval. A time without end is one of what never happened.
#[must_use]
pub fn show(figure: Ratio) -> String {
    let Ratio { value, low, high } = figure;
    let size = [value.abs(), high - low].into_iter().filter(|size| size.is_finite()).fold(0.0, f64::max);
    // Where half of the rounds never come to an end, the lower end alone has a size.
    let size = if value.is_finite() { size } else { low.abs() };
    let digits = |figure: f64| if figure == f64::INFINITY { "never".to_owned() } else { number(figure, size) };
    if low == high { digits(value) } else { format!("{} [{}, {}]", digits(value), digits(low), digits(high)) }
}

/// A number with as many digits as are of use for one of that size.
#[must_use]
pub fn number(figure: f64, size: f64) -> String {
    match size {
        s if s >= 100.0 => fixed(figure, 0),
        s if s >= 10.0 => fixed(figure, 1),
        s if s >= 1.0 => fixed(figure, 2),
        s if s >= 0.01 => fixed(figure, 3),
        0.0 => "0".to_owned(),
        _ => fixed(figure, 5),
    }
}

/// A number with so many digits after the point, and without a sign where it rounds to zero.
#[must_use]
pub fn fixed(figure: f64, digits: usize) -> String {
    let shown = format!("{figure:.digits$}");
    match shown.strip_prefix('-') {
        Some(size) if size.parse() == Ok(0.0) => size.to_owned(),
        _ => shown,
    }
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Its columns.
    pub head: Vec<String>,
    /// Its rows, each with as many cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(title: &str, head: &[&str]) -> Self {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        Self { title: title.to_owned(), head, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// A picture of figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// Its file is called by the experiment's name and this.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From the bottom up.
    pub y: Axis,
    /// Lines or bars.
    pub kind: Kind,
    /// What is drawn.
    pub series: Vec<Series>,
    /// Moments or places that are marked.
    #[serde(default)]
    pub marks: Vec<Mark>,
    /// What has to be known to read it.
    #[serde(default)]
    pub note: String,
}

/// How series are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Points joined by lines.
    #[default]
    Lines,
    /// Bars beside each other at every place; points on a logarithmic axis, on which a bar's length means nothing.
    Bars,
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// What it measures, and in which unit.
    pub label: String,
    /// Logarithmic.
    #[serde(default)]
    pub log: bool,
    /// Names of places 0, 1, 2, …, where they are no numbers.
    #[serde(default)]
    pub names: Vec<String>,
}

impl Axis {
    /// From 0, evenly.
    #[must_use]
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), ..Self::default() }
    }

    /// Logarithmic.
    #[must_use]
    pub fn log(label: &str) -> Self {
        Self { log: true, ..Self::linear(label) }
    }

    /// Places with names.
    #[must_use]
    pub fn names<S: ToString>(label: &str, names: &[S]) -> Self {
        Self { names: names.iter().map(S::to_string).collect(), ..Self::linear(label) }
    }
}

/// Figures that belong together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What they are of.
    pub name: String,
    /// The figures.
    pub points: Vec<Point>,
    /// Drawn dashed: not measured, but computed or wished.
    #[serde(default)]
    pub dashed: bool,
}

impl Series {
    /// Figures of all rounds at each place.
    #[must_use]
    pub fn new(name: &str, points: Vec<Point>) -> Self {
        Self { name: name.to_owned(), points, dashed: false }
    }
}

/// All figures of one place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The place.
    pub x: f64,
    /// The figure of every round that has one.
    pub rounds: Vec<f64>,
}

impl Point {
    /// A place with the figure of every round that has one: JSON has no other numbers.
    #[must_use]
    pub fn new(x: f64, rounds: &[f64]) -> Self {
        Self { x, rounds: rounds.iter().copied().filter(|figure| figure.is_finite()).collect() }
    }

    /// The median with its interval.
    #[must_use]
    pub fn estimate(&self) -> Option<Ratio> {
        stats::estimate(&self.rounds)
    }
}

/// A marked place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Where.
    pub x: f64,
    /// What happened there; empty: as at the mark before.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_left_out_of_charts_so_that_they_can_be_read_again() {
        let point = Point::new(1.0, &[2.0, f64::NAN, 3.0, f64::INFINITY]);
        assert_eq!(point.rounds, [2.0, 3.0]);
        let text = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), point);
    }

    #[test]
    fn what_never_happened_is_in_the_interval_and_misses_its_goal() {
        let never = f64::INFINITY;
        let shown = |low, value, high| show(Ratio { low, value, high });
        assert_eq!(shown(13.0, 14.0, never), "14.0 [13.0, never]");
        assert_eq!(shown(13.0, never, never), "never [13.0, never]");
        assert_eq!(shown(never, never, never), "never");
        let late = Some(Ratio { low: 13.0, value: 14.0, high: never });
        let claim = Claim::new("soon", late, "ms", Bound::AtMost(100.0), true);
        assert_eq!((claim.verdict, claim.measured.as_str()), (Verdict::Missed, "14.0 [13.0, never] ms"));
    }

    #[test]
    fn too_few_rounds_decide_nothing() {
        let claim = |figure, counts| {
            let measured = Some(Ratio { value: figure, low: figure, high: figure });
            Claim::new("it is so", measured, "", Bound::AtLeast(1.0), counts)
        };
        let found = |rounds| {
            let conditions = Conditions { rounds, ..Conditions::default() };
            let claims = vec![claim(2.0, true), claim(0.5, true).but("at night"), claim(2.0, false).but("by chance")];
            Finding { claims, conditions, ..Finding::default() }.weighed()
        };
        let few = found(4);
        assert!(few.claims.iter().all(|claim| claim.verdict == Verdict::Shown), "{few:?}");
        let remarks: Vec<&str> = few.claims.iter().map(|claim| claim.remark.as_str()).collect();
        assert_eq!(remarks, ["fewer than 5 rounds", "at night; fewer than 5 rounds", "by chance"]);
        assert_eq!(few.answer, ["With fewer than 5 rounds (4) nothing is decided here."]);
        let enough = found(5);
        let verdicts = enough.claims.iter().map(|claim| claim.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts, [Verdict::Reached, Verdict::Missed, Verdict::Shown]);
        assert!(enough.answer.is_empty() && enough.claims[0].remark.is_empty(), "{enough:?}");
    }

    #[test]
    fn what_rounds_to_zero_has_no_sign() {
        let shown = [-0.00001, -0.0004, -0.0, 0.0004, -0.0006].map(|figure| fixed(figure, 3));
        assert_eq!(shown, ["0.000", "0.000", "0.000", "0.000", "-0.001"]);
        assert_eq!((number(-0.4, 100.0), number(-25.0, 25.0)), ("0".to_owned(), "-25.0".to_owned()));
    }

    #[test]
    fn the_end_of_the_interval_that_counts_against_us_decides() {
        let measured = |low, value, high| Some(Ratio { low, value, high });
        let verdict = |measured, bound| Claim::new("it is so", measured, "", bound, true).verdict;
        assert_eq!(verdict(measured(0.99, 1.0, 1.1), Bound::AtLeast(0.97)), Verdict::Reached);
        assert_eq!(verdict(measured(0.9, 1.0, 1.1), Bound::AtLeast(0.97)), Verdict::Missed);
        assert_eq!(verdict(measured(0.9, 1.0, 2.1), Bound::AtMost(2.0)), Verdict::Missed);
        assert_eq!(verdict(measured(1.0, 1.1, 1.2), Bound::MoreThan(1.0)), Verdict::Missed);
        assert_eq!(verdict(measured(1.01, 1.1, 1.2), Bound::MoreThan(1.0)), Verdict::Reached);
        assert_eq!(verdict(None, Bound::AtMost(2.0)), Verdict::Missed, "nothing measured reaches nothing");
        let shown = Claim::new("it is so", measured(1.0, 3.0, 4.0), "µs", Bound::AtMost(2.0), false);
        assert_eq!((shown.verdict, shown.measured.as_str()), (Verdict::Shown, "3.00 [1.00, 4.00] µs"));
    }

    #[test]
    fn what_may_be_the_generators_figure_does_not_count() {
        let one = Some(Ratio { low: 1.0, value: 1.0, high: 1.0 });
        let claim = |idle: &[f64]| {
            let claim = Claim::new("it is so", one, "times", Bound::AtLeast(0.97), true).but("it was a Sunday");
            claim.where_generator_idled(idle).where_generator_idled(&[0.5])
        };
        assert_eq!((claim(&[0.3]).verdict, claim(&[0.3]).remark.as_str()), (Verdict::Reached, "it was a Sunday"));
        assert_eq!(claim(&[0.02]).verdict, Verdict::Shown);
        assert!(claim(&[0.02]).remark.starts_with("the generator idled less than 10 %"), "{:?}", claim(&[0.02]));
    }
}

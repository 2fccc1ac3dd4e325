//! Round trips of a guest beside neighbours that fill its I/O core: by its class.

use anyhow::Result;
use serde_json::json;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Finding, Kind, Point, Series, Table, show};
use super::saturation::stage;
use super::stage::{Load, Stage};
use super::turns::{self, Played};
use crate::ringgen::Report;
use crate::stats::{self, Ratio};

/// Guests that exchange pings: the first ones.
const PINGING: usize = 2;
/// Pairs of busy guests.
const PAIRS: usize = 8;
/// Turns of each case in a round: more than elsewhere, since a round trip takes three times as long while CPUs are far from each other, and
/// a turn beside one of the other case shows what the class does only where both are near, or both are far.
const TURNS: usize = 24;
/// Sizes of all packets.
const SIZES: [usize; 2] = [1518, 64];

/// Who has the core beside whom.
struct Case {
    name: &'static str,
    /// Lines in the sections of the two guests that exchange pings.
    pinging: &'static [&'static str],
    beside: bool,
}

/// With a share that allows them a ping as soon as the one before is answered, which is more than a neighbour sends.
const LATENCY: &[&str] = &["class = \"latency\"", "weight = 4"];
const THROUGHPUT: &[&str] = &["weight = 4"];

const CASES: [Case; 3] = [
    Case { name: "alone", pinging: LATENCY, beside: false },
    Case { name: "class latency, beside busy neighbours", pinging: LATENCY, beside: true },
    Case { name: "class throughput, beside busy neighbours", pinging: THROUGHPUT, beside: true },
];

impl Case {
    fn ports(&self) -> usize {
        PINGING + if self.beside { 2 * PAIRS } else { 0 }
    }

    /// A switch for it alone, halted until its turn: nobody else is connected.
    fn stage(&self, lab: &Lab) -> Result<Stage> {
        let stage = stage(lab, self.ports(), |guest| if guest < PINGING { self.pinging.to_vec() } else { vec![] })?;
        stage.halt(true)?;
        Ok(stage)
    }

    fn load(&self, lab: &Lab, size: usize) -> Load {
        let ports = (0..self.ports()).collect();
        Load::in_so_many_turns("pingpong", ports, lab.effort.seconds, TURNS).option("size", size)
    }
}

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let stages: Vec<Stage> = CASES.iter().map(|case| case.stage(lab)).collect::<Result<_>>()?;
    let sizes = &SIZES[..if lab.effort.coarse { 1 } else { SIZES.len() }];
    let played = turns::rounds(lab, sizes, |size| {
        let at_stage = |(case, stage): (&Case, _)| turns::Case { stage, load: case.load(lab, *size) };
        turns::play(lab, &CASES.iter().zip(&stages).map(at_stage).collect::<Vec<_>>(), TURNS)
    })?;
    let places: Vec<(usize, &Case)> =
        sizes.iter().flat_map(|size| CASES.iter().map(move |case| (*size, case))).collect();
    let mut finding = Finding {
        name: "classes".to_owned(),
        title: "Classes: a guest that minds latency, beside busy guests".to_owned(),
        question: "How long do the round trips of a guest take when others keep its I/O core busy all the time, with class = \"latency\" and \
                   without?"
            .to_owned(),
        setup: vec![
            format!(
                "One I/O core with a CPU of its own. Two guests exchange one ping at a time; {PAIRS} pairs of others, of class throughput, send \
                 packets of the same size as fast as their rings take them. ringgen plays all on another CPU, in one thread, and looks at the \
                 pings after every 4 packets of the others, so that their time is the switch's rather than its own. Those two have a weight of 4: one that \
                 is answered this soon sends more packets than each of its neighbours, and at equal weights would be held to as many as they. ringgen \
                 idles while its looks at all guests find neither a packet nor a ping."
            ),
            format!("Each case has a switch of its own, which is halted in the turns of the others. {}", turns::setup(lab, TURNS)),
            "Ratios to the guest alone are those of turns one after another: of the p99 of one to that of the other. A round's ratio is the median of \
             its turns'. (CPUs are near each other or far for a tenth of a second to some seconds, and a guest alone then has 0.8 or 2.1 µs in the median: \
             the p99 of many turns says how many of them were far ones.)"
                .to_owned(),
            CASES[1].load(lab, SIZES[0]).shown(),
        ],
        repeat: lab.repeat("classes"),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    let head = ["packets", "guest", "p50, µs", "p99, µs", "p99 to alone", "neighbours, Mpps", "generator idle, %"];
    let mut table = Table::new("Round trips", &head);
    for (at, size) in sizes.iter().enumerate() {
        let of_size = &played[at * CASES.len()..][..CASES.len()];
        for (case, played) in CASES.iter().zip(of_size) {
            table.row(row(*size, case, played, &of_size[0]));
        }
    }
    finding.tables.push(table);
    finding.charts.push(chart(sizes, &played));
    let [alone, latency, throughput] = [0, 1, 2].map(|case| &played[case]);
    let to_alone = to_other(latency, alone);
    let text =
        format!("RTT p99 of a latency-class guest beside busy neighbours ({} B), to its RTT p99 alone", SIZES[0]);
    // Where the generator is the limit, neighbours leave some of the core to the guest.
    let claim = Claim::new(&text, to_alone, "times", Bound::AtMost(2.0), true);
    finding.claims.push(claim.where_generator_idled(&idle(latency)));
    let against = stats::ratio(&p99(throughput), &p99(latency));
    finding.claims.push(Claim::new(
        "RTT p99 of the same guest in class throughput, to that in class latency",
        against,
        "times",
        Bound::AtLeast(1.0),
        false,
    ));
    finding.answer.push(format!(
        "Beside neighbours that fill the core with {} B packets, round trips of the latency class take {} times as long as alone at the 99th \
         percentile; those of the throughput class take {} times as long as those of the latency class. A packet of the latency class waits \
         for a part of the burst under way, twice for each round trip, and has its turn in the middle of it, which its neighbours pay for.",
        SIZES[0],
        shown(to_alone),
        shown(against)
    ));
    let of_turns = |played: &Played| played.turns.iter().map(|report| report.latency_ns).collect::<Vec<_>>();
    finding.raw = json!({ "places": places.iter().map(|(size, case)| format!("{size} B, {}", case.name)).collect::<Vec<_>>(),
        "latency_ns": played.iter().map(|all| all.iter().map(|played| played.all.latency_ns).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "turns_latency_ns": played.iter().map(|all| all.iter().map(of_turns).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "neighbours_mpps": played.iter().map(|all| neighbours(all)).collect::<Vec<_>>(),
        "generator_idle": played.iter().map(|all| idle(all)).collect::<Vec<_>>() });
    Ok(finding)
}

fn shown(ratio: Option<Ratio>) -> String {
    ratio.map_or("-".to_owned(), show)
}

fn p50(played: &[Played]) -> Vec<f64> {
    played.iter().map(|played| played.all.latency_ns.map_or(f64::NAN, |latency| latency.p50 / 1e3)).collect()
}

fn p99(played: &[Played]) -> Vec<f64> {
    played.iter().map(|played| p99_of(&played.all)).collect()
}

fn p99_of(report: &Report) -> f64 {
    report.latency_ns.map_or(f64::NAN, |latency| latency.p99 / 1e3)
}

/// Mpps of all neighbours together.
fn neighbours(played: &[Played]) -> Vec<f64> {
    let mpps =
        |played: &Played| played.all.per_guest.iter().skip(PINGING).fold(0.0, |sum, guest| sum + guest.pps) / 1e6;
    played.iter().map(mpps).collect()
}

/// Parts of the time in which the generator had nothing to do.
fn idle(played: &[Played]) -> Vec<f64> {
    played.iter().map(|played| played.all.generator_idle).collect()
}

/// The p99 of a case to that of another one: of turns one after another in each round.
fn to_other(here: &[Played], there: &[Played]) -> Option<Ratio> {
    let ratio = |here: &Report, there: &Report| p99_of(here) / p99_of(there);
    stats::estimate(&here.iter().zip(there).map(|(here, there)| here.beside(there, ratio)).collect::<Vec<_>>())
}

fn row(size: usize, case: &Case, played: &[Played], alone: &[Played]) -> [String; 7] {
    [
        format!("{size} B"),
        case.name.to_owned(),
        shown(stats::estimate(&p50(played))),
        shown(stats::estimate(&p99(played))),
        shown(to_other(played, alone)),
        if case.beside { shown(stats::estimate(&neighbours(played))) } else { "-".to_owned() },
        shown(stats::estimate(&idle(played).iter().map(|idle| idle * 100.0).collect::<Vec<_>>())),
    ]
}

fn chart(sizes: &[usize], played: &[Vec<Played>]) -> Chart {
    let names: Vec<String> =
        sizes.iter().flat_map(|size| ["p50", "p99"].map(|quantile| format!("{size} B, {quantile}"))).collect();
    let series = CASES.iter().enumerate().map(|(case, Case { name, .. })| {
        let points = sizes.iter().enumerate().flat_map(|(at, _)| {
            let of = &played[at * CASES.len() + case];
            [Point::new(2.0 * at as f64, &p50(of)), Point::new(2.0 * at as f64 + 1.0, &p99(of))]
        });
        Series::new(name, points.collect())
    });
    Chart {
        name: "rtt".to_owned(),
        title: "Round trips of a guest, alone and beside guests that fill the core".to_owned(),
        x: Axis::names("packets", &names),
        y: Axis::log("µs"),
        kind: Kind::Bars,
        series: series.collect(),
        ..Chart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ringgen::Latency;

    fn played(p99: &[f64]) -> Played {
        let turn =
            |p99: &f64| Report { latency_ns: Some(Latency { p99: *p99, ..Latency::default() }), ..Report::default() };
        Played { all: Report::default(), turns: p99.iter().map(turn).collect() }
    }

    #[test]
    fn a_machine_that_gets_slower_between_two_turns_changes_no_ratio() {
        let alone = [played(&[1.0, 1.0, 3.0]), played(&[3.0, 3.0, 3.0])];
        let beside = [played(&[2.0, 6.0, 6.0]), played(&[6.0, 6.0, 6.0])];
        assert_eq!(to_other(&beside, &alone), Some(Ratio { value: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(to_other(&[played(&[])], &[played(&[])]), None, "no round trips");
    }
}

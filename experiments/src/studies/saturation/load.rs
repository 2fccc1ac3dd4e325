//! The second part: the same guests ask for more and more.

use anyhow::{Context, Result};
use serde_json::json;

use super::super::finding::{Axis, Bound, Chart, Claim, Finding, Point, Series, Table, Verdict};
use super::super::stage::{Load, Stage};
use super::super::traffic::BACKLOG;
use super::super::{Lab, jain};
use super::limit::Limit;
use super::{BUSY, cell, estimate, stage};
use crate::occupied::SLICE;
use crate::ringgen::Report;
use crate::stats::{self, Ratio, median};

/// Bytes of a packet on the wire, and the share of a CPU that the core gets, so that the core is the limit and not the generator.
pub(super) const SIZE: usize = 64;
const SHARE: f64 = 0.5;
/// Loads, in parts of what the core can do.
const LOADS: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 16.0];
/// What the core can do is what it delivers when it is asked for so many times what was thought that it can.
pub(super) const PAST: f64 = 4.0;

/// What all rounds with one load came to.
struct Place {
    load: f64,
    /// Packets a second.
    delivered: Vec<f64>,
    /// Jain's index.
    fairness: Vec<f64>,
    /// Parts of the time in which the generator had nothing to do.
    idle: Vec<f64>,
}

impl Place {
    fn new(load: f64, reports: &[Report]) -> Self {
        let shares = |report: &Report| -> Vec<f64> {
            report.per_guest.iter().skip(1).step_by(2).map(|guest| guest.pps).collect()
        };
        Self {
            load,
            delivered: reports.iter().map(|report| report.pps).collect(),
            fairness: reports.iter().map(|report| jain(&shares(report))).collect(),
            idle: reports.iter().map(|report| report.generator_idle).collect(),
        }
    }

    /// What was delivered, in parts of something.
    fn parts_of(&self, pps: f64) -> Vec<f64> {
        self.delivered.iter().map(|delivered| delivered / pps).collect()
    }
}

/// Measures, and adds it to what was found.
pub(super) fn find(lab: &Lab, finding: &mut Finding) -> Result<()> {
    let mut stage = stage(lab, 2 * BUSY, |_| vec![])?;
    let limited = stage.limit(SHARE);
    let most = most(lab, &mut stage)?;
    let rate = |load: f64| load * most / BUSY as f64;
    let reports = lab.rounds(&LOADS, |load| stage.play(lab, &streams(lab, rate(*load))))?;
    let places: Vec<Place> = LOADS.iter().zip(&reports).map(|(load, reports)| Place::new(*load, reports)).collect();
    let limit = Limit::find(lab, &stage, most)?;
    finding.tables.push(table(&places));
    finding.tables.push(limit.table());
    finding.charts.push(chart(&places, most));
    finding.setup.push(match limited {
        Ok(()) => format!(
            "For the load beyond the limit the I/O core's thread has {SHARE} of its CPU, some {} µs at a time, since another thread has it in \
             between, so that the switch is the limit and not the generator, which idles as the table says. Guests have a queue of {BACKLOG} \
             packets before their rings, as Linux has.",
            SLICE.as_micros()
        ),
        Err(error) => format!("No limit could be set for the I/O core's thread, so that the generator may have been the limit: {error:#}"),
    });
    finding.setup.push(streams(lab, rate(LOADS[LOADS.len() - 1])).shown());
    finding.setup.push(limit.setup());
    judge(finding, &places, &limit);
    let all = |of: fn(&Place) -> &Vec<f64>| places.iter().map(of).collect::<Vec<_>>();
    finding.raw["load"] = json!({
        "most_pps": most,
        "loads": LOADS,
        "delivered_pps": all(|place| &place.delivered),
        "fairness": all(|place| &place.fairness),
        "generator_idle": all(|place| &place.idle),
        "limit": limit,
    });
    Ok(())
}

/// Packets a second that the core can do. Guests ask for several times as much as they get when they just send as fast as they can: what they cannot
/// send while the core has no CPU is then asked for afterwards, which nobody does who has no rate.
fn most(lab: &Lab, stage: &mut Stage) -> Result<f64> {
    let first = stage.play(lab, &streams(lab, 0.0))?.pps;
    let past = streams(lab, PAST * first / BUSY as f64);
    let most: Vec<f64> = (0..3).map(|_| Ok(stage.play(lab, &past)?.pps)).collect::<Result<_>>()?;
    median(&most).context("nothing was measured")
}

/// Guests that send so many packets a second each; 0: as many as they can.
fn streams(lab: &Lab, rate: f64) -> Load {
    Load::new("stream", 2 * BUSY, lab.effort.seconds)
        .option("size", SIZE)
        .option("rate", format!("{rate:.0}"))
        .option("backlog", BACKLOG)
}

fn table(places: &[Place]) -> Table {
    let head = ["load", "delivered, Mpps", "Jain's index", "generator idle, %"];
    let mut table = Table::new("More and more load", &head);
    for place in places {
        table.row([
            place.load.to_string(),
            estimate(&place.parts_of(1e6)),
            estimate(&place.fairness),
            estimate(&place.idle.iter().map(|idle| idle * 100.0).collect::<Vec<_>>()),
        ]);
    }
    table
}

/// `most`: packets a second that the core can do.
fn chart(places: &[Place], most: f64) -> Chart {
    let points = places.iter().map(|place| Point::new(place.load, &place.parts_of(most)));
    let asked = LOADS.iter().map(|load| Point::new(*load, &[load.min(1.0)])).collect();
    Chart {
        name: "load".to_owned(),
        title: format!("{BUSY} guests ask for more and more: packets of {SIZE} B delivered"),
        x: Axis::log("load asked for, in parts of what the core can do"),
        y: Axis::linear("delivered, in parts of the same"),
        series: vec![
            Series::new("delivered", points.collect()),
            Series { dashed: true, ..Series::new("what a core could do at best", asked) },
        ],
        note: "Past the limit, a switch without receive livelock stays flat: what it cannot do stays in the guests' rings.".to_owned(),
        ..Chart::default()
    }
}

fn judge(finding: &mut Finding, places: &[Place], limit: &Limit) {
    let past = || places.iter().filter(|place| place.load >= 2.0);
    let idle = past().filter_map(|place| median(&place.idle)).fold(limit.idle, f64::min);
    let mut last = None;
    let mut claims = Vec::new();
    for place in past() {
        let load = place.load;
        let mut claim = |text: String, figure, least| {
            let claim = Claim::new(&text, figure, "", Bound::AtLeast(least), true);
            claims.push(claim.where_generator_idled(&[idle]));
        };
        last = stats::estimate(&limit.to_peak(load));
        claim(format!("throughput when asked for {load} times what the core can do, to the peak"), last, 0.97);
        let fair = stats::estimate(&place.fairness);
        claim(format!("fairness when asked for {load} times what the core can do (Jain's index)"), fair, 0.99);
    }
    finding.answer.push(past_the_limit(&claims, last));
    finding.claims.extend(claims);
}

/// What it says, by what its claims came to and the throughput at the greatest load, in parts of the peak.
fn past_the_limit(claims: &[Claim], last: Option<Ratio>) -> String {
    let all = |verdict: Verdict| claims.iter().all(|claim| claim.verdict == verdict);
    let what = if all(Verdict::Shown) {
        "How throughput behaves past the limit is not proven here, since the generator may have been the limit"
    } else if all(Verdict::Reached) {
        "Past the limit throughput stays flat and is shared evenly"
    } else {
        "Past the limit throughput does not stay flat, or is not shared evenly, in all places"
    };
    format!("{what}: asked for 16 times what the core can do, it is {} of the peak.", cell(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_what_the_figures_do() {
        let at = |value| Some(Ratio { value, low: value, high: value });
        let claim = |value, counts| Claim::new("", at(value), "", Bound::AtLeast(0.97), counts);
        let says = |claims: &[Claim]| past_the_limit(claims, at(0.98));
        assert!(says(&[claim(0.98, true), claim(1.0, true)]).starts_with("Past the limit throughput stays flat"));
        assert!(says(&[claim(0.98, true), claim(0.5, true)]).contains("does not stay flat"));
        assert!(says(&[claim(0.98, false), claim(0.5, false)]).contains("not proven"));
        assert!(says(&[claim(1.0, true)]).ends_with("it is 0.980 of the peak."), "{}", says(&[]));
    }
}

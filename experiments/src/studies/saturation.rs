//! One I/O core with more and more busy guests, up to its limit and beyond.

use anyhow::{Context, Result};
use serde_json::json;
use sidecore_tests::switch::SwitchConfig;

use super::finding::{Axis, Bound, Chart, Claim, Finding, Point, Series, Table, Verdict, show};
use super::stage::{Load, Stage, name};
use super::{Lab, jain};
use crate::ringgen::Report;
use crate::stats::{self, Ratio, median};

/// Guests that exchange pings, beside the busy ones.
const PINGING: usize = 2;
/// Busy guests at most.
const BUSY: usize = 16;
/// So many busy guests ask for as much as the core can do.
const KNEE: usize = 4;
/// Bytes of a packet on the wire, where guests are counted: copying makes the core the limit, and not the generator.
const LONG: usize = 1518;
/// The same where the load is raised, and the share of a CPU that the core gets then, for the same reason.
const SHORT: usize = 64;
const SHARE: f64 = 0.5;
/// Loads, in parts of what the core can do.
const LOADS: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 16.0];

/// What one turn of the first part came to.
struct Turn {
    offered: f64,
    delivered: f64,
    /// By busy guest.
    each: Vec<f64>,
    rtt: [f64; 2],
    /// Parts of what guests sent, and of what they had to send.
    dropped: f64,
    left: f64,
}

impl Turn {
    /// Of a report in which the guests after the pinging ones send in pairs.
    fn new(report: &Report, busy: usize, rate: f64) -> Self {
        let busy_guests = || report.per_guest.iter().skip(PINGING);
        let each: Vec<f64> = busy_guests().skip(1).step_by(2).map(|guest| guest.pps).collect();
        let (sent, received) =
            busy_guests().fold((0, 0), |(sent, received), guest| (sent + guest.sent, received + guest.received));
        let dropped = if sent == 0 { 0.0 } else { (sent.saturating_sub(received)) as f64 / sent as f64 };
        let (offered, delivered) = (busy as f64 * rate, each.iter().sum::<f64>());
        let left = if offered > 0.0 { (1.0 - delivered / (1.0 - dropped) / offered).max(0.0) } else { 0.0 };
        let rtt = report.latency_ns.map_or([f64::NAN; 2], |latency| [latency.p50 / 1e3, latency.p99 / 1e3]);
        Self { offered, delivered, each, rtt, dropped, left }
    }
}

/// Makes the experiment.
pub fn run(lab: &Lab) -> Result<Finding> {
    let mut finding = Finding {
        name: "saturation".to_owned(),
        title: "Saturation: one I/O core, more and more busy guests".to_owned(),
        question: "What do guests get when an I/O core has to serve more and more of them, up to its limit and beyond it: throughput, round \
                   trips, losses, and is it shared fairly?"
            .to_owned(),
        repeat: "make experiments ONLY=saturation".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    guests(lab, &mut finding)?;
    load(lab, &mut finding)?;
    Ok(finding)
}

/// A switch for so many guests whose housekeeping does not disturb the generator, which may share a CPU with it.
pub fn stage(lab: &Lab, guests: usize, lines: impl Fn(usize) -> Vec<&'static str>) -> Result<Stage> {
    Stage::start(lab, 1, |config| ports(config, guests, lines))
}

fn ports(config: SwitchConfig, guests: usize, lines: impl Fn(usize) -> Vec<&'static str>) -> SwitchConfig {
    (0..guests).fold(quiet(config), |config, guest| config.guest(&name(guest), &lines(guest)))
}

/// Nothing is moved, and loads are read once in a second.
fn quiet(config: SwitchConfig) -> SwitchConfig {
    config.without_rebalancing().scheduler("tick_ms = 1000")
}

/// The first part: guests are added, at an I/O core, and at a switch with a thread for each guest on the same CPU.
fn guests(lab: &Lab, finding: &mut Finding) -> Result<()> {
    let all = PINGING + 2 * BUSY;
    let mut stages =
        [stage(lab, all, |_| vec![])?, Stage::start_traditional(lab, |config| ports(config, all, |_| vec![]))?];
    stages[1].halt(true)?;
    let seconds = lab.effort.seconds;
    let load = |busy: usize, rate: f64| {
        Load::new("pingpong", PINGING + 2 * busy, seconds).option("size", LONG).option("rate", format!("{rate:.0}"))
    };
    // What the core can do: guests send as fast as they can.
    let most: Vec<f64> = (0..3)
        .map(|_| Ok(Turn::new(&stages[0].play(lab, &load(KNEE, 0.0))?, KNEE, 0.0).delivered))
        .collect::<Result<_>>()?;
    let rate = median(&most).context("nothing was measured")? / KNEE as f64;
    let counts: &[usize] = if lab.effort.coarse { &[0, 1, 2, 4, 8, 16] } else { &[0, 1, 2, 3, 4, 5, 6, 8, 12, 16] };
    stages[0].halt(true)?;
    let places: Vec<(usize, usize)> =
        [0, 1].iter().flat_map(|which| counts.iter().map(|busy| (*which, *busy))).collect();
    let all = lab.rounds(&places, |&(which, busy)| {
        stages[which].halt(false)?;
        let turn = Turn::new(&stages[which].play(lab, &load(busy, rate))?, busy, rate);
        stages[which].halt(true)?;
        Ok(turn)
    })?;
    let (turns, traditional) = all.split_at(counts.len());

    let series_of = |turns: &[Vec<Turn>], title: &str, of: &dyn Fn(&Turn) -> f64, skip: usize| {
        let places = counts.iter().zip(turns).skip(skip);
        let points = places.map(|(busy, turns)| Point::new(*busy as f64, &turns.iter().map(of).collect::<Vec<_>>()));
        Series::new(title, points.collect())
    };
    let series = |title: &str, of: &dyn Fn(&Turn) -> f64, skip: usize| series_of(turns, title, of, skip);
    let mut offered = series("asked for", &|turn| turn.offered / 1e6, 1);
    offered.dashed = true;
    finding.charts.push(Chart {
        name: "throughput".to_owned(),
        title: format!("Busy guests on one I/O core: packets of {LONG} B delivered"),
        x: Axis::linear("busy guests"),
        y: Axis::linear("Mpps"),
        series: vec![
            series("delivered to all", &|turn| turn.delivered / 1e6, 1),
            offered,
            series(
                "delivered to the one that got least",
                &|turn| turn.each.iter().copied().fold(f64::INFINITY, f64::min) / 1e6,
                1,
            ),
            series_of(traditional, "to all, with a thread for each guest (trap)", &|turn| turn.delivered / 1e6, 1),
        ],
        note: format!(
            "Each busy guest sends to one of its own at {:.2} Mpps, a quarter of what the core can do. With a thread for each guest, which sleeps \
             until it is kicked, all threads share the CPU that the I/O core has otherwise.",
            rate / 1e6
        ),
        ..Chart::default()
    });
    finding.charts.push(Chart {
        name: "latency".to_owned(),
        title: "Round trip between two more guests of the same core".to_owned(),
        x: Axis::linear("busy guests"),
        y: Axis::log("µs"),
        series: vec![
            series("median", &|turn| turn.rtt[0], 0),
            series("99th percentile", &|turn| turn.rtt[1], 0),
            series_of(traditional, "median, with a thread for each guest (trap)", &|turn| turn.rtt[0], 0),
        ],
        note: "All guests are of class throughput. A packet waits for its turn twice, there and back.".to_owned(),
        ..Chart::default()
    });
    finding.tables.push(guests_table("More and more guests", counts, turns));
    finding.tables.push(guests_table("The same with a thread for each guest (trap)", counts, traditional));
    finding.setup.push(format!(
        "One I/O core with a CPU of its own; guests, played by ringgen on another CPU, send {LONG} B packets in pairs beside two that exchange \
         pings of the same size. Split rings of 256 entries; the scheduler looks on."
    ));
    finding.setup.push(load(BUSY, rate).shown());
    let least = |busy: usize| {
        let at = counts.iter().position(|count| *count == busy);
        at.and_then(|at| stats::estimate(&turns[at].iter().map(|turn| jain(&turn.each)).collect::<Vec<_>>()))
    };
    let text = format!("fairness of {BUSY} equal guests that ask for 4 times what the core can do (Jain's index)");
    finding.claims.push(Claim::new(&text, least(BUSY), "", Bound::AtLeast(0.99), true));
    let (alone, knee, past) = (of(counts, turns, 0), of(counts, turns, KNEE), of(counts, turns, BUSY));
    let threads = [0, KNEE, BUSY].map(|busy| of(counts, traditional, busy));
    let more = stats::ratio(&knee.0, &threads[1].0);
    let text = format!(
        "throughput of {KNEE} busy guests on a core that polls, to that with a thread for each guest on the same CPU"
    );
    finding.claims.push(Claim::new(&text, more, "times", Bound::AtLeast(1.0), true));
    finding.answer.push(format!(
        "The core delivers {} Mpps. With {BUSY} busy guests, which ask for four times as much, it delivers {} of what {KNEE} got. The median \
         round trip of guests without any other load is {:.1} µs alone, {:.1} µs at the limit and {:.1} µs beyond it; moving guests to \
         another core, and class latency, are there to shorten it. With a thread for each guest on the same CPU, {KNEE} busy guests get {} Mpps \
         and {BUSY} get {}; round trips take {:.1} µs alone and {:.1} µs at that limit.",
        show(stats::estimate(&knee.0).unwrap_or(NOTHING)),
        show(stats::ratio(&past.0, &knee.0).unwrap_or(NOTHING)),
        median(&alone.1).unwrap_or(f64::NAN),
        median(&knee.1).unwrap_or(f64::NAN),
        median(&past.1).unwrap_or(f64::NAN),
        show(stats::estimate(&threads[1].0).unwrap_or(NOTHING)),
        show(stats::estimate(&threads[2].0).unwrap_or(NOTHING)),
        median(&threads[0].1).unwrap_or(f64::NAN),
        median(&threads[1].1).unwrap_or(f64::NAN),
    ));
    finding.raw["guests"] = json!({
        "rate_pps": rate,
        "counts": counts,
        "delivered_pps": each(turns),
        "traditional_delivered_pps": each(traditional),
        "rtt_us": rtt(turns),
        "traditional_rtt_us": rtt(traditional),
    });
    Ok(())
}

/// Of all rounds at each place: packets a second by guest, and round trips.
fn each(turns: &[Vec<Turn>]) -> Vec<Vec<&Vec<f64>>> {
    turns.iter().map(|turns| turns.iter().map(|turn| &turn.each).collect()).collect()
}

fn rtt(turns: &[Vec<Turn>]) -> Vec<Vec<[f64; 2]>> {
    turns.iter().map(|turns| turns.iter().map(|turn| turn.rtt).collect()).collect()
}

/// What the second part says, by what its claims came to and the throughput at the greatest load, in parts of the peak.
fn past_the_limit(claims: &[Claim], last: Option<Ratio>) -> String {
    let all = |verdict: Verdict| claims.iter().all(|claim| claim.verdict == verdict);
    let what = if all(Verdict::Shown) {
        "How throughput behaves past the limit is not proven here, since the generator was the limit"
    } else if all(Verdict::Reached) {
        "Past the limit throughput stays flat and is shared evenly"
    } else {
        "Past the limit throughput does not stay flat, or is not shared evenly, in all places"
    };
    let last = last.map_or("-".to_owned(), show);
    format!("{what}: at 16 times the load that saturates it is {last} of the peak.")
}

const NOTHING: Ratio = Ratio { value: f64::NAN, low: f64::NAN, high: f64::NAN };

/// Delivered Mpps and median round trips of all rounds with so many busy guests.
fn of(counts: &[usize], turns: &[Vec<Turn>], busy: usize) -> (Vec<f64>, Vec<f64>) {
    let at = counts.iter().position(|count| *count == busy).unwrap_or_default();
    turns[at].iter().map(|turn| (turn.delivered / 1e6, turn.rtt[0])).unzip()
}

fn guests_table(title: &str, counts: &[usize], turns: &[Vec<Turn>]) -> Table {
    let head = [
        "busy guests",
        "asked for, Mpps",
        "delivered, Mpps",
        "each, Mpps",
        "Jain's index",
        "RTT p50, µs",
        "RTT p99, µs",
        "dropped, %",
        "left with the guest, %",
    ];
    let mut table = Table::new(title, &head);
    for (busy, turns) in counts.iter().zip(turns) {
        let all = |of: &dyn Fn(&Turn) -> f64| {
            stats::estimate(&turns.iter().map(of).collect::<Vec<_>>()).map_or("-".to_owned(), show)
        };
        let busy_only = |cell: String| if *busy == 0 { "-".to_owned() } else { cell };
        table.row([
            busy.to_string(),
            busy_only(all(&|turn| turn.offered / 1e6)),
            busy_only(all(&|turn| turn.delivered / 1e6)),
            busy_only(all(&|turn| turn.delivered / 1e6 / *busy as f64)),
            busy_only(all(&|turn| jain(&turn.each))),
            all(&|turn| turn.rtt[0]),
            all(&|turn| turn.rtt[1]),
            busy_only(all(&|turn| turn.dropped * 100.0)),
            busy_only(all(&|turn| turn.left * 100.0)),
        ]);
    }
    table
}

/// The second part: the same guests ask for more and more.
fn load(lab: &Lab, finding: &mut Finding) -> Result<()> {
    let mut stage = stage(lab, 2 * BUSY, |_| vec![])?;
    let limited = stage.limit(SHARE);
    let seconds = lab.effort.seconds;
    let streams =
        |rate: f64| Load::new("stream", 2 * BUSY, seconds).option("size", SHORT).option("rate", format!("{rate:.0}"));
    let most: Vec<f64> = (0..3).map(|_| Ok(stage.play(lab, &streams(0.0))?.pps)).collect::<Result<_>>()?;
    let most = median(&most).context("nothing was measured")?;
    let reports = lab.rounds(&LOADS, |load| stage.play(lab, &streams(load * most / BUSY as f64)))?;
    let delivered: Vec<Vec<f64>> = reports.iter().map(|reports| reports.iter().map(|r| r.pps).collect()).collect();
    let fairness = |reports: &Vec<Report>| -> Vec<f64> {
        let shares = |r: &Report| r.per_guest.iter().skip(1).step_by(2).map(|guest| guest.pps).collect::<Vec<_>>();
        reports.iter().map(|report| jain(&shares(report))).collect()
    };
    let idle = |reports: &Vec<Report>| median(&reports.iter().map(|r| r.generator_idle).collect::<Vec<_>>());
    let peak =
        delivered.iter().max_by(|one, other| median(one).unwrap_or(0.0).total_cmp(&median(other).unwrap_or(0.0)));
    let peak = peak.context("no loads")?;

    let mut table = Table::new(
        "More and more load",
        &["load", "delivered, Mpps", "to the peak", "Jain's index", "generator idle, %"],
    );
    for ((load, delivered), reports) in LOADS.iter().zip(&delivered).zip(&reports) {
        let mpps: Vec<f64> = delivered.iter().map(|pps| pps / 1e6).collect();
        table.row([
            format!("{load}"),
            stats::estimate(&mpps).map_or("-".to_owned(), show),
            stats::ratio(delivered, peak).map_or("-".to_owned(), show),
            stats::estimate(&fairness(reports)).map_or("-".to_owned(), show),
            format!("{:.0}", idle(reports).unwrap_or_default() * 100.0),
        ]);
    }
    finding.tables.push(table);
    let points = LOADS
        .iter()
        .zip(&delivered)
        .map(|(load, all)| Point::new(*load, &all.iter().map(|pps| pps / most).collect::<Vec<_>>()));
    let asked = LOADS.iter().map(|load| Point::new(*load, &[load.min(1.0)])).collect();
    finding.charts.push(Chart {
        name: "load".to_owned(),
        title: format!("{BUSY} guests ask for more and more: packets of {SHORT} B delivered"),
        x: Axis::log("load asked for, in parts of what the core can do"),
        y: Axis::linear("delivered, in parts of the same"),
        series: vec![
            Series::new("delivered", points.collect()),
            Series { dashed: true, ..Series::new("what a core could do at best", asked) },
        ],
        note: "Past the limit, a switch without receive livelock stays flat: what it cannot do stays in the guests' rings.".to_owned(),
        ..Chart::default()
    });
    finding.setup.push(match &limited {
        Ok(()) => format!(
            "For the load beyond the limit the I/O core's thread has {SHARE} of its CPU (a control group; a millisecond in two), so that the \
             switch is the limit and not the generator, which idles as the table says. At the limit itself the guests' rings do not bridge all \
             of the gaps: packets stay with the guest there although the core could have taken them a little later."
        ),
        Err(error) => format!("No limit could be set for the I/O core's thread, so that the generator may have been the limit: {error:#}"),
    });
    finding.setup.push(streams(16.0 * most / BUSY as f64).shown());

    let bound = LOADS.iter().zip(&reports).any(|(load, reports)| *load >= 2.0 && idle(reports).unwrap_or(0.0) < 0.1);
    let remark = if bound { "the generator was the limit: this does not count" } else { "" };
    let earlier = finding.claims.len();
    for factor in [2.0, 4.0, 16.0] {
        let at = LOADS.iter().position(|load| *load == factor).unwrap_or_default();
        let text = format!("throughput at {factor} times the load that saturates, to the peak");
        finding
            .claims
            .push(Claim::new(&text, stats::ratio(&delivered[at], peak), "", Bound::AtLeast(0.97), !bound).but(remark));
        let text = format!("fairness at {factor} times the load that saturates (Jain's index)");
        let fair = stats::estimate(&fairness(&reports[at]));
        finding.claims.push(Claim::new(&text, fair, "", Bound::AtLeast(0.99), !bound).but(remark));
    }
    let last = stats::ratio(delivered.last().context("no loads")?, peak);
    finding.answer.push(past_the_limit(&finding.claims[earlier..], last));
    finding.raw["load"] = json!({ "most_pps": most, "loads": LOADS, "delivered_pps": delivered });
    Ok(())
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

//! The first part: guests are added, at an I/O core, and at a switch with a thread for each guest on the same CPU.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::finding::{Axis, Bound, Chart, Claim, Finding, Point, Series, Table};
use super::super::stage::{Load, Stage};
use super::super::{Lab, jain};
use super::{BUSY, cell, estimate, ports, stage};
use crate::judge::is_generator_bound;
use crate::ringgen::Report;
use crate::stats::{self, median};

/// Guests that exchange pings, beside the busy ones.
const PINGING: usize = 2;
/// So many busy guests ask for as much as the core can do.
const KNEE: usize = 4;
/// Bytes of a packet on the wire: copying makes the core the limit, and not the generator.
const SIZE: usize = 1518;

/// What one turn came to.
struct Turn {
    offered: f64,
    delivered: f64,
    /// By busy guest.
    each: Vec<f64>,
    rtt: [f64; 2],
    /// Parts of what guests sent, and of what they had to send.
    dropped: f64,
    left: f64,
    /// Part of the time in which the generator had nothing to do.
    idle: f64,
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
        Self { offered, delivered, each, rtt, dropped, left, idle: report.generator_idle }
    }
}

/// All turns of one switch: for each number of busy guests, those of all rounds.
struct Turns<'t> {
    counts: &'static [usize],
    turns: &'t [Vec<Turn>],
}

impl Turns<'_> {
    /// With so many busy guests. Nothing, where a turn has no such figure, since no ping came back: the others alone would be too good.
    fn with(&self, busy: usize, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        let at = self.counts.iter().position(|count| *count == busy).unwrap_or_default();
        let all: Vec<f64> = self.turns[at].iter().map(of).collect();
        if all.iter().all(|figure| figure.is_finite()) { all } else { Vec::new() }
    }

    fn mpps(&self, busy: usize) -> Vec<f64> {
        self.with(busy, |turn| turn.delivered / 1e6)
    }

    fn idle(&self, busy: usize) -> Vec<f64> {
        self.with(busy, |turn| turn.idle)
    }

    /// Median over the rounds of the median round trip.
    fn rtt(&self, busy: usize) -> f64 {
        median(&self.with(busy, |turn| turn.rtt[0])).unwrap_or(f64::NAN)
    }

    /// From so many busy guests on.
    fn series(&self, title: &str, from: usize, of: impl Fn(&Turn) -> f64) -> Series {
        let counts = self.counts.iter().filter(|count| **count >= from);
        let places = counts.map(|busy| (*busy as f64, self.with(*busy, &of))).filter(|(_, all)| !all.is_empty());
        Series::new(title, places.map(|(busy, all)| Point::new(busy, &all)).collect())
    }

    fn table(&self, title: &str) -> Table {
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
            "generator idle, %",
        ];
        let mut table = Table::new(title, &head);
        for busy in self.counts {
            let all = |of: &dyn Fn(&Turn) -> f64| estimate(&self.with(*busy, of));
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
                all(&|turn| turn.idle * 100.0),
            ]);
        }
        table
    }

    /// Adds figures of all rounds at each place, under keys that begin so.
    fn add_to(&self, raw: &mut Value, prefix: &str) {
        let mut add = |key: &str, of: fn(&Turn) -> Value| {
            let all = self.turns.iter().map(|turns| turns.iter().map(of).collect::<Value>());
            raw[format!("{prefix}{key}")] = all.collect();
        };
        // Packets a second by guest.
        add("delivered_pps", |turn| json!(turn.each));
        add("rtt_us", |turn| json!(turn.rtt));
        add("dropped", |turn| json!(turn.dropped));
        add("left", |turn| json!(turn.left));
        add("generator_idle", |turn| json!(turn.idle));
    }
}

/// Measures, and adds it to what was found.
pub(super) fn find(lab: &Lab, finding: &mut Finding) -> Result<()> {
    let counts: &[usize] = if lab.effort.coarse { &[0, 1, 2, 4, 8, 16] } else { &[0, 1, 2, 3, 4, 5, 6, 8, 12, 16] };
    let (rate, turns) = measure(lab, counts)?;
    let (polling, trap) = turns.split_at(counts.len());
    let (polling, trap) = (Turns { counts, turns: polling }, Turns { counts, turns: trap });
    finding.charts.push(throughput(rate, &polling, &trap));
    finding.charts.push(latency(&polling, &trap));
    finding.tables.push(polling.table("More and more guests"));
    finding.tables.push(trap.table("The same with a thread for each guest (trap)"));
    finding.setup.push(format!(
        "One I/O core with a CPU of its own; guests, played by ringgen on another CPU, send {SIZE} B packets in pairs beside two that exchange \
         pings of the same size. Split rings of 256 entries; the scheduler looks on. Guests poll at both switches: what trap pays for is kicks and \
         wake-ups, and no interrupts."
    ));
    finding.setup.push(load(lab, BUSY, rate).shown());
    judge(finding, &polling, &trap);
    let mut raw = json!({ "rate_pps": rate, "counts": counts });
    polling.add_to(&mut raw, "");
    trap.add_to(&mut raw, "traditional_");
    finding.raw["guests"] = raw;
    Ok(())
}

/// So many busy guests that send so many packets a second each; 0: as many as they can.
fn load(lab: &Lab, busy: usize, rate: f64) -> Load {
    let load = Load::new("pingpong", PINGING + 2 * busy, lab.effort.seconds);
    load.option("size", SIZE).option("rate", format!("{rate:.0}"))
}

/// The rate of each busy guest; and turns with so many of them each, first at the switch that polls, then at the one with threads.
fn measure(lab: &Lab, counts: &[usize]) -> Result<(f64, Vec<Vec<Turn>>)> {
    let all = PINGING + 2 * BUSY;
    let traditional = Stage::start_traditional(lab, |config| ports(config, all, |_| vec![]));
    let mut stages = [stage(lab, all, |_| vec![])?, traditional?];
    stages[1].halt(true)?;
    // What the core can do: guests send as fast as they can.
    let most: Vec<f64> = (0..3)
        .map(|_| Ok(Turn::new(&stages[0].play(lab, &load(lab, KNEE, 0.0))?, KNEE, 0.0).delivered))
        .collect::<Result<_>>()?;
    let rate = median(&most).context("nothing was measured")? / KNEE as f64;
    stages[0].halt(true)?;
    let places: Vec<(usize, usize)> =
        [0, 1].iter().flat_map(|which| counts.iter().map(|busy| (*which, *busy))).collect();
    let turns = lab.rounds(&places, |&(which, busy)| {
        stages[which].halt(false)?;
        let turn = Turn::new(&stages[which].play(lab, &load(lab, busy, rate))?, busy, rate);
        stages[which].halt(true)?;
        Ok(turn)
    })?;
    Ok((rate, turns))
}

fn throughput(rate: f64, polling: &Turns<'_>, trap: &Turns<'_>) -> Chart {
    let asked = polling.series("asked for", 1, |turn| turn.offered / 1e6);
    Chart {
        name: "throughput".to_owned(),
        title: format!("Busy guests on one I/O core: packets of {SIZE} B delivered"),
        x: Axis::linear("busy guests"),
        y: Axis::linear("Mpps"),
        series: vec![
            polling.series("delivered to all", 1, |turn| turn.delivered / 1e6),
            Series { dashed: true, ..asked },
            polling.series("delivered to the one that got least", 1, |turn| {
                turn.each.iter().copied().fold(f64::INFINITY, f64::min) / 1e6
            }),
            trap.series("to all, with a thread for each guest (trap)", 1, |turn| turn.delivered / 1e6),
        ],
        note: format!(
            "Each busy guest sends to one of its own at {:.2} Mpps, a quarter of what the core can do. With a thread for each guest, which sleeps \
             until it is kicked, all threads share the CPU that the I/O core has otherwise.",
            rate / 1e6
        ),
        ..Chart::default()
    }
}

fn latency(polling: &Turns<'_>, trap: &Turns<'_>) -> Chart {
    Chart {
        name: "latency".to_owned(),
        title: "Round trip between two more guests of the same core".to_owned(),
        x: Axis::linear("busy guests"),
        y: Axis::log("µs"),
        series: vec![
            polling.series("median", 0, |turn| turn.rtt[0]),
            polling.series("99th percentile", 0, |turn| turn.rtt[1]),
            trap.series("median, with a thread for each guest (trap)", 0, |turn| turn.rtt[0]),
        ],
        note: "All guests are of class throughput. A packet waits for its turn twice, there and back.".to_owned(),
        ..Chart::default()
    }
}

fn judge(finding: &mut Finding, polling: &Turns<'_>, trap: &Turns<'_>) {
    let fair = stats::estimate(&polling.with(BUSY, |turn| jain(&turn.each)));
    let text = format!("fairness of {BUSY} equal guests that ask for 4 times what the core can do (Jain's index)");
    // Where the generator is the limit, it is what shares evenly.
    let fair = Claim::new(&text, fair, "", Bound::AtLeast(0.99), true);
    finding.claims.push(fair.where_generator_idled(&polling.idle(BUSY)));
    let knee = polling.mpps(KNEE);
    let text = format!(
        "throughput of {KNEE} busy guests on a core that polls, to that with a thread for each guest on the same CPU"
    );
    let more = stats::ratio(&knee, &trap.mpps(KNEE));
    // Where the generator is the limit beside the core that polls, the ratio is too small, which helps nobody. Beside trap it has time for less,
    // since its guests kick: that is part of what they pay there.
    let at_least = is_generator_bound(&polling.idle(KNEE));
    let remark =
        if at_least { "with the core that polls the generator may have been the limit: at least this" } else { "" };
    finding.claims.push(Claim::new(&text, more, "times", Bound::AtLeast(1.0), true).but(remark));
    let kept = stats::ratio(&polling.mpps(BUSY), &knee);
    let text = format!("throughput of {BUSY} busy guests to that of {KNEE}, one core that polls");
    let claim = Claim::new(&text, kept, "times", Bound::AtLeast(0.97), true);
    finding.claims.push(claim.where_generator_idled(&polling.idle(KNEE)).where_generator_idled(&polling.idle(BUSY)));
    finding.answer.push(format!(
        "The core delivers {} Mpps. With {BUSY} busy guests, which ask for four times as much, it delivers {} of what {KNEE} got. The median \
         round trip of guests without any other load is {:.1} µs alone, {:.1} µs at the limit and {:.1} µs beyond it; moving guests to \
         another core, and class latency, are there to shorten it. With a thread for each guest on the same CPU, {KNEE} busy guests get {} Mpps \
         and {BUSY} get {}; round trips take {:.1} µs alone and {:.1} µs at that limit.",
        estimate(&knee),
        cell(kept),
        polling.rtt(0),
        polling.rtt(KNEE),
        polling.rtt(BUSY),
        estimate(&trap.mpps(KNEE)),
        estimate(&trap.mpps(BUSY)),
        trap.rtt(0),
        trap.rtt(KNEE),
    ));
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Verdict::{self, Reached, Shown};
    use super::*;

    fn turn(delivered: f64, rtt: f64) -> Turn {
        let each = vec![delivered];
        Turn { offered: 1.0, delivered, each, rtt: [rtt; 2], dropped: 0.0, left: 0.0, idle: 0.5 }
    }

    #[test]
    fn a_turn_without_a_round_trip_leaves_no_point() {
        let turn = |rtt| turn(1.0, rtt);
        let turns = [vec![turn(1.0), turn(2.0)], vec![turn(3.0), turn(f64::NAN)]];
        let turns = Turns { counts: &[0, 1], turns: &turns };
        let series = turns.series("", 0, |turn| turn.rtt[0]);
        assert_eq!(series.points, [Point::new(0.0, &[1.0, 2.0])]);
        assert_eq!(turns.series("", 0, |turn| turn.delivered).points.len(), 2);
        // What is written can be read again.
        let text = serde_json::to_string(&series).unwrap();
        assert_eq!(serde_json::from_str::<Series>(&text).unwrap(), series);
    }

    #[test]
    fn figures_of_all_rounds_are_written() {
        let turns = [vec![turn(1.0, 2.0), Turn { dropped: 0.25, left: 0.5, ..turn(3.0, f64::NAN) }]];
        let mut raw = json!({ "counts": [1] });
        Turns { counts: &[1], turns: &turns }.add_to(&mut raw, "old_");
        let expected = json!({
            "counts": [1],
            "old_delivered_pps": [[[1.0], [3.0]]],
            "old_rtt_us": [[[2.0, 2.0], [null, null]]],
            "old_dropped": [[0.0, 0.25]],
            "old_left": [[0.0, 0.5]],
            "old_generator_idle": [[0.5, 0.5]],
        });
        assert_eq!(raw, expected);
    }

    #[test]
    fn a_generator_that_may_be_the_limit_helps_no_claim() {
        // Fairness, throughput to that of threads, and of many guests to few: where the generator idles so much with few
        // and with many guests on the core that polls.
        let verdicts = |[few, many]: [f64; 2]| {
            let turns = [few, many].map(|idle| vec![Turn { idle, ..turn(1.0, 1.0) }]);
            let of = |turns| Turns { counts: &[KNEE, BUSY], turns };
            let mut finding = Finding::default();
            judge(&mut finding, &of(&turns), &of(&turns));
            finding.claims.iter().map(|claim| claim.verdict).collect::<Vec<Verdict>>()
        };
        assert_eq!(verdicts([0.5, 0.5]), [Reached, Reached, Reached]);
        assert_eq!(verdicts([0.0, 0.5]), [Reached, Reached, Shown], "at least so much more than threads");
        assert_eq!(verdicts([0.5, 0.0]), [Shown, Reached, Shown]);
    }
}

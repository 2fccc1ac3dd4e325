//! Round trips and streams of the guest in ring 3, or of a thread where there is no KVM: traditional against exitless, round by round.

use serde_json::Value;

use super::{RINGS, ROUND_TRIP, THROUGHPUT, busy, chart, figures, gains, sides};
use crate::stats::{self, Ratio};
use crate::studies::finding::{Finding, Table, show};

/// Adds what the rounds show.
pub(super) fn judge(finding: &mut Finding, rows: &[&Value], rounds: usize) {
    if rounds == 0 {
        finding
            .answer
            .push("This exits.json, of an older version, has no rounds: `make exits` takes times anew.".to_owned());
        return;
    }
    finding.setup.push(format!(
        "Times are of {rounds} rounds, in which all modes take turns, first with split rings, then with packed ones; each mode has a switch and a guest \
         of its own, and switches are halted when it is not their turn. Counts are sums over rounds."
    ));
    finding.tables.push(table(rows));
    let figures_of = |key: &'static str, scale: f64| {
        let pairs = RINGS.into_iter().flat_map(|ring| [(ring, false), (ring, true)]);
        pairs.map(move |(ring, interrupts)| {
            let guest = if interrupts { "interrupted" } else { "polling" };
            (format!("{ring} rings, {guest} guest"), move |mode: &str| {
                Some(scaled(busy(rows, ring, mode, interrupts)?, key, scale))
            })
        })
    };
    let title = |what: &str| format!("{what} of {}", guest(rows));
    finding.charts.push(chart("rtt", &title("Median round trip"), "µs", figures_of("rtt_p50_us", 1.0)));
    finding.charts.push(chart("stream", &title("Stream"), "Mpps", figures_of("stream_pps", 1e-6)));
    for ring in RINGS {
        let Some([exitless, traditional]) = sides(rows, ring) else { continue };
        let (gain, less) = (gain(exitless, traditional), less(exitless, traditional));
        let mut claim = |text: &str, figure, goals| {
            let text = format!("{text}, {ring} rings");
            finding.claims.extend(gains([exitless, traditional], &text, figure, goals));
        };
        claim("throughput of a stream, exitless to traditional", gain, THROUGHPUT);
        claim("median round trip, traditional less exitless", less, ROUND_TRIP);
        finding.answer.push(format!(
            "With {ring} rings a round trip takes {} µs less exitless, and a stream has {} times the throughput.",
            shown(less),
            shown(gain)
        ));
    }
}

/// What the guest is.
fn guest(rows: &[&Value]) -> &'static str {
    if rows.iter().any(|row| row["guest"] == "thread") { "a guest that is a thread" } else { "a guest in ring 3" }
}

/// How many times the throughput of a stream.
fn gain(row: &Value, traditional: &Value) -> Option<Ratio> {
    stats::ratio(&figures(row, "stream_pps"), &figures(traditional, "stream_pps"))
}

/// How much less a median round trip takes: the difference in each round.
fn less(row: &Value, traditional: &Value) -> Option<Ratio> {
    let (ours, theirs) = (figures(row, "rtt_p50_us"), figures(traditional, "rtt_p50_us"));
    stats::estimate(&theirs.iter().zip(&ours).map(|(theirs, ours)| theirs - ours).collect::<Vec<_>>())
}

fn scaled(row: &Value, key: &str, scale: f64) -> Vec<f64> {
    figures(row, key).into_iter().map(|figure| figure * scale).collect()
}

fn shown(figure: Option<Ratio>) -> String {
    figure.map_or("-".to_owned(), show)
}

/// Every row beside the traditional one with the same rings.
fn table(rows: &[&Value]) -> Table {
    let head = [
        "mode",
        "load",
        "ring",
        "interrupts",
        "RTT p50, µs",
        "less than traditional, µs",
        "RTT p99, µs",
        "stream, Mpps",
        "times traditional",
    ];
    let mut table = Table::new(&format!("Round trips and streams of {}", guest(rows)), &head);
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let figure = |key: &str, scale| shown(stats::estimate(&scaled(row, key, scale)));
        // An idle guest's round trips are of a switch that sleeps.
        let beside = |of: fn(&Value, &Value) -> Option<Ratio>| {
            let traditional = sides(rows, row["ring"].as_str()?)?[1];
            if row["load"] == "busy" && *row != traditional { of(row, traditional) } else { None }
        };
        table.row([
            word("mode"),
            word("load"),
            word("ring"),
            if row["interrupts"] == true { "on" } else { "off" }.to_owned(),
            figure("rtt_p50_us", 1.0),
            shown(beside(less)),
            figure("rtt_p99_us", 1.0),
            figure("stream_pps", 1e-6),
            shown(beside(gain)),
        ]);
    }
    table
}

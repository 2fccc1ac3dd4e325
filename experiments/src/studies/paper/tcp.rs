//! TCP in Linux guests: traditional against exitless, where stock guests run under KVM.

use serde_json::Value;

use super::{COUNTED, MODES, RINGS, ROUND_TRIP, THROUGHPUT, busy, figures, gains};
use crate::stats;
use crate::studies::finding::{Chart, Finding, Table, show};

/// Adds what rows of Linux guests show; where there is none, why.
pub(super) fn judge(finding: &mut Finding, linux: &[&Value], rows: &[Value]) {
    if linux.is_empty() {
        finding.answer.push(format!("TCP in Linux guests was not measured: {}.", why_not(rows)));
        return;
    }
    let rounds = figures(linux[0], "rtt_p50_us").len();
    finding.setup.push(format!(
        "TCP between two Linux guests under QEMU and KVM, whose own virtio-net drivers kick, and take interrupts, as the device asks: a stream, \
         and requests of 64 B with their answers, one at a time; {rounds} rounds that take turns. Traditional: mode trap. Exitless: poll, adaptive."
    ));
    finding.tables.push(table(linux));
    finding.charts.push(chart(linux, "tcp-stream", "TCP stream between two Linux guests", "Mbit/s", "stream_mbit_s"));
    finding.charts.push(chart(linux, "tcp-rtt", "Median TCP round trip of two Linux guests", "µs", "rtt_p50_us"));
    for mode in &MODES[..2] {
        let [Some(exitless), Some(trap)] = [mode, "trap"].map(|mode| busy(linux, "split", mode, true)) else {
            finding.answer.push(format!("{COUNTED} lacks Linux guests' rows of mode {mode}, or of trap."));
            continue;
        };
        let rows = [exitless, trap];
        let of = |key: &str| rows.map(|row| figures(row, key));
        let [ours, theirs] = of("stream_mbit_s");
        let gain = stats::ratio(&ours, &theirs);
        let text = format!("TCP stream, Linux guests: {mode} to trap");
        finding.claims.extend(gains(rows, &text, gain, THROUGHPUT));
        let [ours, theirs] = of("rtt_p50_us");
        let less: Vec<f64> = theirs.iter().zip(&ours).map(|(theirs, ours)| theirs - ours).collect();
        let less = stats::estimate(&less);
        let text = format!("median TCP round trip, Linux guests: trap less {mode}");
        finding.claims.extend(gains(rows, &text, less, ROUND_TRIP));
        let shown = |figure: Option<stats::Ratio>| figure.map_or("-".to_owned(), show);
        finding.answer.push(format!(
            "With {mode}, TCP between Linux guests has {} times the throughput that it has with trap, and a round trip takes {} µs less.",
            shown(gain),
            shown(less)
        ));
    }
}

fn why_not(rows: &[Value]) -> String {
    let stock = rows.iter().map(|row| &row["stock_guests"]).find(|stock| stock.is_object());
    match stock {
        None => "this exits.json, of an older version, says nothing of them".to_owned(),
        Some(stock) if stock["run_under_kvm"] == true => "make exits was broken off before their rows".to_owned(),
        Some(stock) => {
            let found = stock["found"].as_str().unwrap_or("?");
            match stock["run_under_kvm"].is_null() {
                true => format!("whether stock guests run under KVM was not tried ({found})"),
                false => format!("no stock guest runs under KVM here ({found})"),
            }
        }
    }
}

fn table(linux: &[&Value]) -> Table {
    let head = ["mode", "load", "ring", "stream, Mbit/s", "exits a packet of it", "RTT p50, µs", "RTT p99, µs"];
    let mut table = Table::new("TCP in Linux guests", &head);
    for row in linux {
        let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let figure = |key: &str| stats::estimate(&figures(row, key)).map_or("-".to_owned(), show);
        let exits = row["stream"]["exits_per_packet"].as_f64();
        table.row([
            word("mode"),
            word("load"),
            word("ring"),
            figure("stream_mbit_s"),
            exits.map_or("-".to_owned(), |exits| format!("{exits:.2}")),
            figure("rtt_p50_us"),
            figure("rtt_p99_us"),
        ]);
    }
    table
}

fn chart(linux: &[&Value], name: &str, title: &str, unit: &str, key: &str) -> Chart {
    let series = RINGS.map(|ring| {
        let of = move |mode: &str| busy(linux, ring, mode, true).map(|row| figures(row, key));
        (format!("{ring} rings"), of)
    });
    super::chart(name, title, unit, series)
}

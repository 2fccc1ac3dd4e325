//! The end of the demo: what was measured, and the verdict.

use std::fmt::Write as _;
use std::path::Path;

use crate::report::Report;
use crate::table::{busy_percent, reasons};

/// The summary of a report. Its last line is `demo: ok` or `demo: failed`.
pub(crate) fn render(report: &Report, path: &Path) -> String {
    let mut text = String::new();
    let hugepages = if report.hugepages { "hugepages" } else { "no hugepages" };
    let _ = writeln!(
        text,
        "\nGuests: Linux {} under {}; {hugepages}; {:.0} s of traffic",
        report.guest_kernel, report.accelerator, report.traffic_seconds
    );
    let answered: u32 = report.pings.iter().map(|ping| ping.answered).sum();
    let sent: u32 = report.pings.iter().map(|ping| ping.sent).sum();
    let _ = writeln!(text, "Pings answered: {answered} of {sent}, IPv4 and IPv6");
    streams(report, &mut text);
    ports(report, &mut text);
    let _ = writeln!(text, "Report: {}", path.display());
    let faults = report.faults();
    for fault in &faults {
        let _ = writeln!(text, "demo: fault: {fault}");
    }
    let _ = writeln!(text, "demo: {}", if faults.is_empty() { "ok" } else { "failed" });
    text
}

fn streams(report: &Report, text: &mut String) {
    let _ = writeln!(
        text,
        "  {:22} {:>12} {:>16} {:>16} {:>8}",
        "TCP", "MiB received", "from port, MiB", "to port, MiB", "Mbit/s"
    );
    for stream in &report.streams {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let rate = stream.received_bytes as f64 * 8.0 / 1e6 / stream.seconds.max(1e-3);
        let _ = writeln!(
            text,
            "  {:22} {:12.1} {:16.1} {:16.1} {rate:8.0}",
            format!("{} to {}", stream.from, stream.to),
            mib(stream.received_bytes),
            mib(stream.taken_bytes),
            mib(stream.given_bytes),
        );
    }
}

fn ports(report: &Report, text: &mut String) {
    let Some(status) = &report.status else { return };
    let _ = writeln!(
        text,
        "  {:10} {:>12} {:>12} {:>7} {:>11}  drops",
        "port", "packets from", "packets to", "kicks", "interrupts"
    );
    for port in &status.ports {
        let _ = writeln!(
            text,
            "  {:10} {:12} {:12} {:7} {:11}  {}",
            port.name,
            port.taken().packets,
            port.given().packets,
            port.kicks,
            port.calls,
            reasons(&port.drops)
        );
    }
    for core in &status.cores {
        let busy = busy_percent(&Default::default(), core);
        let _ = writeln!(
            text,
            "  I/O core {} on CPU {}: {busy:.1} % busy",
            core.core,
            core.cpu.map_or("any".to_owned(), |cpu| cpu.to_string())
        );
    }
    let sums = &status.accounting;
    let _ = writeln!(
        text,
        "Accounting: {} pulled = {} forwarded + {} dropped + {} in flight",
        sums.pulled, sums.forwarded, sums.dropped, sums.in_flight
    );
}

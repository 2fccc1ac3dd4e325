//! The paper's table: a guest that exits for its packets, and one that does not, as `make exits` has measured them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Lab;
use super::finding::{Bound, Claim, Finding, Table, number};
use crate::stats::Ratio;

/// What "Towards exitless and efficient paravirtual I/O" (SYSTOR 2012) gained: throughput, and round trips in microseconds.
const PAPER: &str = "the paper: 45 % more throughput, 25 µs less for a round trip";

/// The file that `make exits` writes, where the results go.
pub const COUNTED: &str = "exits.json";

/// Reads what `make exits` has written.
pub fn run(lab: &Lab) -> Result<Finding> {
    let path = lab.out.join(COUNTED);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no {}: `make exits` counts VM exits first", path.display()))?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    ensure!(!rows.is_empty(), "{} is empty", path.display());
    let mut finding = Finding {
        name: "paper".to_owned(),
        title: "The paper's table: traditional against exitless".to_owned(),
        question: "What does a guest gain when it neither exits to kick nor is interrupted: throughput of a stream, round trips, VM exits?".to_owned(),
        setup: vec![
            "A guest program in ring 3 under KVM drives virtio-net by itself; exits are KVM's own count (make exits). Traditional: the guest kicks for \
             every packet and is interrupted for every packet. Exitless: neither."
                .to_owned(),
            if rows.iter().any(|row| row["hardware_virtualisation"] == true) {
                "With hardware virtualisation.".to_owned()
            } else {
                "Without hardware virtualisation here: an exit does not cost what it costs on hardware, so that times are no evidence for or against \
                 the paper's; counts are."
                    .to_owned()
            },
        ],
        repeat: "make exits && make experiments ONLY=paper".to_owned(),
        conditions: lab.conditions(),
        ..Finding::default()
    };
    finding.conditions.rounds = 1;
    let mut table = Table::new(
        "Exits, notifications and speed",
        &[
            "mode",
            "load",
            "ring",
            "interrupts",
            "packets",
            "exits a packet",
            "kicks a packet",
            "interrupts a packet",
            "stream, Mpps",
            "RTT p50, µs",
        ],
    );
    for row in &rows {
        let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let yes = |key: &str| if row[key] == true { "on" } else { "off" }.to_owned();
        let figure =
            |key: &str, scale: f64| row[key].as_f64().map_or("-".to_owned(), |f| number(f * scale, (f * scale).abs()));
        table.row([
            word("mode"),
            word("load"),
            word("ring"),
            yes("interrupts"),
            row["packets"].to_string(),
            figure("exits_per_packet", 1.0),
            figure("kicks_per_packet", 1.0),
            figure("interrupts_per_packet", 1.0),
            figure("stream_pps", 1e-6),
            figure("rtt_p50_us", 1.0),
        ]);
    }
    finding.tables.push(table);
    judge(&mut finding, &rows);
    finding.raw = rows.into();
    Ok(finding)
}

fn judge(finding: &mut Finding, rows: &[Value]) {
    let find = |wanted: &dyn Fn(&Value) -> bool| rows.iter().find(|row| row["ring"] == "split" && wanted(row));
    let exitless = find(&|row| row["mode"] == "poll" && row["interrupts"] == false);
    let traditional =
        find(&|row| row["mode"] == "trap" && row["interrupts"] == true).or_else(|| find(&|row| row["mode"] == "trap"));
    let (Some(exitless), Some(traditional)) = (exitless, traditional) else {
        finding
            .answer
            .push("exits.json lacks one of the two: an exitless and a traditional row with split rings.".to_owned());
        return;
    };
    let exact = |figure: Option<f64>| figure.map(|figure| Ratio { value: figure, low: figure, high: figure });
    let exits = |row: &Value| row["exits_per_packet"].as_f64();
    let claim = |text: &str, figure, unit, bound, counts| Claim::new(text, exact(figure), unit, bound, counts);
    let none = exits(exitless).map(|exits| (exits * 100.0).round().abs() / 100.0);
    finding.claims.push(claim("VM exits a packet, exitless", none, "", Bound::AtMost(0.0), true));
    finding.claims.push(claim("VM exits a packet, traditional", exits(traditional), "", Bound::AtLeast(0.9), true));
    let of = |key: &str| Some((exitless[key].as_f64()?, traditional[key].as_f64()?));
    let gain = of("stream_pps").map(|(ours, theirs)| ours / theirs);
    finding
        .claims
        .push(claim("throughput, exitless to traditional", gain, "times", Bound::AtLeast(1.45), false).but(PAPER));
    let less = of("rtt_p50_us").map(|(ours, theirs)| theirs - ours);
    finding.claims.push(
        claim("median round trip, traditional less exitless", less, "µs", Bound::AtLeast(25.0), false).but(PAPER),
    );
    finding.answer.push(format!(
        "Exitless, a packet costs {} VM exits; traditional, {}. {PAPER}.",
        none.map_or("?".to_owned(), |exits| format!("{exits:.2}")),
        exits(traditional).map_or("?".to_owned(), |exits| format!("{exits:.2}")),
    ));
}

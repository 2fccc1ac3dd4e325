//! The paper's table: a guest that exits for its packets, and one that does not, as `make exits` has measured them.

mod speed;
mod tcp;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Conditions, Finding, Kind, Point, Series, Table, number};
use crate::stats::Ratio;

/// What "Towards exitless and efficient paravirtual I/O" (SYSTOR 2012) gained: throughput, and round trips in microseconds.
const PAPER: &str = "the paper: 45 % more throughput, 25 µs less for a round trip";

/// The modes of the switch, the traditional one last.
const MODES: [&str; 3] = ["poll", "adaptive", "trap"];

/// Ring formats.
const RINGS: [&str; 2] = ["split", "packed"];

/// The file that `make exits` writes, where the results go.
pub const COUNTED: &str = "exits.json";

/// Reads what `make exits` has written.
pub fn run(lab: &Lab) -> Result<Finding> {
    let path = lab.out.join(COUNTED);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no {}: `make exits` counts VM exits first", path.display()))?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    ensure!(!rows.is_empty(), "{} is empty", path.display());
    Ok(find(&rows, lab.conditions()))
}

fn find(rows: &[Value], conditions: Conditions) -> Finding {
    let (linux, ring_3): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row["guest"] == "linux");
    let rounds = ring_3.first().map_or(0, |row| figures(row, "rtt_p50_us").len());
    let mut finding = Finding {
        name: "paper".to_owned(),
        title: "The paper's table: traditional against exitless".to_owned(),
        question: "What does a guest gain when it neither exits to kick nor is interrupted: throughput of a stream, round trips, VM exits?".to_owned(),
        setup: vec![
            "A guest program in ring 3 under KVM drives virtio-net by itself; exits are KVM's own count (make exits). Traditional: it kicks when the \
             switch asks for it, and is interrupted for what came. With one packet at a time, which is how exits a packet and round trips are \
             measured, that is for every packet. In a stream up to 128 are under way and few of them need either: what the modes differ by \
             there is rather what waking another thread costs. Exitless: neither."
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
        conditions: Conditions { rounds, seconds: 0.0, ..conditions },
        ..Finding::default()
    };
    finding.tables.push(all(rows));
    judge(&mut finding, &ring_3);
    speed::judge(&mut finding, &ring_3, rounds);
    tcp::judge(&mut finding, &linux, rows);
    finding.raw = rows.into();
    finding
}

/// The figure of every round.
fn figures(row: &Value, key: &str) -> Vec<f64> {
    let places = [&row["rounds"][key], &row["tcp"][key]];
    places.into_iter().filter_map(Value::as_array).flatten().filter_map(Value::as_f64).collect()
}

/// The row of a guest that has something to do all the time.
fn busy<'v>(rows: &[&'v Value], ring: &str, mode: &str, interrupts: bool) -> Option<&'v Value> {
    let is_it = |row: &Value| row["ring"] == ring && row["mode"] == mode && row["interrupts"] == interrupts;
    rows.iter().find(|row| row["load"] == "busy" && is_it(row)).copied()
}

/// An exitless and a traditional row: a polling guest of a polling switch, and one that kicks and is interrupted.
fn sides<'v>(rows: &[&'v Value], ring: &str) -> Option<[&'v Value; 2]> {
    Some([busy(rows, ring, "poll", false)?, busy(rows, ring, "trap", true)?])
}

/// Bars for every mode. A series is a name and what there is of a mode.
fn chart<F>(name: &str, title: &str, unit: &str, series: impl IntoIterator<Item = (String, F)>) -> Chart
where
    F: Fn(&str) -> Option<Vec<f64>>,
{
    let series = series.into_iter().map(|(name, of)| {
        let points = MODES.iter().enumerate().filter_map(|(at, mode)| Some(Point::new(at as f64, &of(mode)?)));
        Series::new(&name, points.collect())
    });
    Chart {
        name: name.to_owned(),
        title: title.to_owned(),
        x: Axis::names("mode of the switch", &MODES),
        y: Axis::linear(unit),
        kind: Kind::Bars,
        series: series.filter(|series| !series.points.is_empty()).collect(),
        ..Chart::default()
    }
}

/// All that `make exits` has counted.
fn all(rows: &[Value]) -> Table {
    let mut table = Table::new(
        "Exits and notifications",
        &[
            "guest",
            "mode",
            "load",
            "ring",
            "interrupts",
            "packets",
            "exits a packet",
            "kicks a packet",
            "interrupts a packet",
            "exits a packet of a stream",
            "KVM's counts a packet",
        ],
    );
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let yes = |key: &str| if row[key] == true { "on" } else { "off" }.to_owned();
        let figure = |key: &str| row[key].as_f64().map_or("-".to_owned(), |f| number(f, f.abs()));
        let causes = row["exits_by_cause"].as_object().into_iter().flatten();
        let causes = causes.filter_map(|(name, count)| Some(format!("{name} {:.2}", count.as_f64()?)));
        table.row([
            if row["guest"] == "kvm" { "ring 3".to_owned() } else { word("guest") },
            word("mode"),
            word("load"),
            word("ring"),
            yes("interrupts"),
            row["packets"].to_string(),
            figure("exits_per_packet"),
            figure("kicks_per_packet"),
            figure("interrupts_per_packet"),
            row["stream"]["exits_per_packet"].as_f64().map_or("-".to_owned(), |exits| format!("{exits:.3}")),
            causes.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn judge(finding: &mut Finding, rows: &[&Value]) {
    let Some([exitless, traditional]) = sides(rows, "split") else {
        finding
            .answer
            .push("exits.json lacks one of the two: an exitless and a traditional row with split rings.".to_owned());
        return;
    };
    let exact = |figure: Option<f64>| figure.map(|figure| Ratio { value: figure, low: figure, high: figure });
    let exits = |row: &Value| row["exits_per_packet"].as_f64();
    let none = exits(exitless).map(|exits| (exits * 100.0).round().abs() / 100.0);
    let mut claim = |text: &str, figure, bound| finding.claims.push(Claim::new(text, exact(figure), "", bound, true));
    claim("VM exits a packet, exitless", none, Bound::AtMost(0.0));
    claim("VM exits a packet, traditional", exits(traditional), Bound::AtLeast(0.9));
    finding.answer.push(format!(
        "Exitless, a packet costs {} VM exits; traditional, {}. {PAPER}.",
        none.map_or("?".to_owned(), |exits| format!("{exits:.2}")),
        exits(traditional).map_or("?".to_owned(), |exits| format!("{exits:.2}")),
    ));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::page;
    use super::*;

    /// A machine that is twice as slow in every other round, for all.
    fn rounds(figure: f64) -> Value {
        json!([figure, figure * 2.0, figure, figure * 2.0, figure])
    }

    fn ring_3(mode: &str, interrupts: bool, exits: f64, rtt: f64) -> Value {
        json!({ "guest": "kvm", "mode": mode, "load": "busy", "ring": "split", "interrupts": interrupts, "packets": 1000, "exits_per_packet": exits,
            "kicks_per_packet": 1.0, "interrupts_per_packet": 1.0, "exits_by_cause": { "irq_exits": exits, "preemption_other": 0.5 },
            "rounds": { "rtt_p50_us": rounds(rtt), "rtt_p99_us": rounds(rtt), "stream_pps": rounds(1e8 / rtt) },
            "stock_guests": { "run_under_kvm": false, "found": "a guest was tried & QEMU ended" } })
    }

    fn linux(mode: &str, mbit_s: f64, rtt: f64) -> Value {
        let three = |figure: f64| json!([figure, figure * 1.1, figure * 0.9]);
        json!({ "guest": "linux", "mode": mode, "load": "busy", "ring": "split", "interrupts": true, "packets": 1000, "exits_per_packet": 9.0,
            "stock_guests": { "run_under_kvm": true, "found": "it booted" }, "hardware_virtualisation": true,
            "tcp": { "stream_mbit_s": three(mbit_s) }, "rounds": { "rtt_p50_us": three(rtt), "rtt_p99_us": three(rtt * 2.0) } })
    }

    #[test]
    fn where_no_stock_guest_runs_the_page_says_how_that_was_found() {
        let rows = [ring_3("poll", false, 0.0, 1.0), ring_3("trap", true, 2.99, 90.0)];
        let finding = find(&rows, Conditions::default());
        let page = page::html(std::slice::from_ref(&finding), &[]);
        let said = "no stock guest runs under KVM here (a guest was tried &amp; QEMU ended)";
        assert!(page.contains(said) && page::markdown(&finding).contains("QEMU ended"), "{page}");
        assert!(!finding.claims.iter().any(|claim| claim.text.contains("TCP")));
        assert_eq!((finding.claims.len(), finding.raw.as_array().unwrap().len()), (4, 2));
        assert!(page.contains("irq_exits 2.99, preemption_other 0.50"));
    }

    #[test]
    fn rounds_are_compared_one_by_one_and_drawn_with_error_bars() {
        let rows =
            [ring_3("poll", false, 0.0, 1.0), ring_3("trap", false, 1.0, 40.0), ring_3("trap", true, 2.99, 90.0)];
        let finding = find(&rows, Conditions::default());
        let claim = |text: &str| finding.claims.iter().find(|claim| claim.text.contains(text)).unwrap();
        assert_eq!(claim("throughput of a stream").measured, "90.0 times", "slow rounds are slow for both");
        assert_eq!(claim("median round trip").measured, "89.0 [89.0, 178.0] µs");
        assert_eq!((finding.conditions.rounds, finding.charts.len()), (5, 2));
        let series = &finding.charts[0].series;
        assert_eq!(series.len(), 2, "guests that poll, and those that are interrupted: {series:?}");
        let rounds = series.iter().flat_map(|series| &series.points).map(|point| point.rounds.len());
        assert_eq!(rounds.collect::<Vec<_>>(), [5; 3]);
        // An older exits.json still says what was counted.
        let older = rows.map(|mut row| {
            row.as_object_mut().unwrap().remove("rounds");
            row
        });
        let finding = find(&older, Conditions::default());
        assert!((finding.claims.len(), finding.charts.len()) == (2, 0) && finding.answer[1].contains("older"));
    }

    #[test]
    fn linux_guests_are_beside_the_paper_and_not_taken_for_ring_3() {
        let mut rows = vec![linux("trap", 2000.0, 60.0), linux("poll", 4000.0, 30.0), linux("adaptive", 3000.0, 40.0)];
        rows.extend([ring_3("poll", false, 0.0, 1.0), ring_3("trap", true, 2.99, 90.0)]);
        let finding = find(&rows, Conditions::default());
        let claim = |text: &str| finding.claims.iter().find(|claim| claim.text.contains(text)).unwrap();
        assert_eq!(claim("VM exits a packet, traditional").measured, "2.99");
        assert!(claim("TCP stream, Linux guests: poll to trap").measured.starts_with("2.00"));
        assert!(claim("TCP stream, Linux guests: adaptive to trap").measured.starts_with("1.50"));
        assert!(claim("median TCP round trip, Linux guests: trap less poll").measured.starts_with("30.0 ["));
        assert!(claim("trap less adaptive").remark.contains("the paper"));
        assert_eq!(finding.charts.len(), 4);
        assert!(page::html(&[finding], &[]).contains("4000 [3600, 4400]"));
    }

    #[test]
    fn a_run_that_was_broken_off_says_so() {
        let mut row = ring_3("poll", false, 0.0, 1.0);
        row["stock_guests"]["run_under_kvm"] = true.into();
        let finding = find(&[row], Conditions::default());
        assert!(finding.answer.iter().any(|answer| answer.contains("broken off")), "{finding:?}");
        let finding = find(&[json!({ "mode": "poll" })], Conditions::default());
        assert!(finding.answer.iter().any(|answer| answer.contains("says nothing")), "{finding:?}");
    }
}

//! The paper's table: a guest that exits for its packets, and one that does not, as `make exits` has measured them.

mod speed;
mod tcp;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Lab;
use super::finding::{Axis, Bound, Chart, Claim, Conditions, Finding, Kind, Point, Series, Table, fixed, number};
use crate::stats::Ratio;

/// What "Towards exitless and efficient paravirtual I/O" (SYSTOR 2012) gained: throughput, and round trips in microseconds.
const PAPER: &str = "the paper: 45 % more throughput, 25 µs less for a round trip";

/// The same as goals: a unit, what would be no gain, and the paper's.
const THROUGHPUT: (&str, f64, f64) = ("times", 1.0, 1.45);
const ROUND_TRIP: (&str, f64, f64) = ("µs", 0.0, 25.0);

/// The remark where nothing is claimed of exits.
const NO_KVM: &str = "no KVM: exits were not counted";

/// The modes of the switch, the traditional one last.
const MODES: [&str; 3] = ["poll", "adaptive", "trap"];

/// Ring formats.
const RINGS: [&str; 2] = ["split", "packed"];

/// The file that `make exits` writes, where the results go.
pub const COUNTED: &str = "exits.json";

/// Packets without an exit that the goal asks for.
const ENOUGH: f64 = 1e6;

/// Reads what `make exits` has written.
pub fn run(lab: &Lab) -> Result<Finding> {
    let path = lab.out.join(COUNTED);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no {}: `make exits` counts VM exits first", path.display()))?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    ensure!(!rows.is_empty(), "{} is empty", path.display());
    Ok(find(&rows, &lab.conditions()))
}

/// `now`: the conditions of the report, which need not be those of the rows.
fn find(rows: &[Value], now: &Conditions) -> Finding {
    let (linux, ring_3): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row["guest"] == "linux");
    let rounds = ring_3.first().map_or(0, |row| figures(row, "rtt_p50_us").len());
    let is_thread = ring_3.iter().any(|row| row["guest"] == "thread");
    let counted: Option<Conditions> =
        rows.iter().find_map(|row| serde_json::from_value(row["conditions"].clone()).ok());
    let repeat = rows.iter().find_map(|row| row["repeat"].as_str()).unwrap_or("make exits");
    let mut finding = Finding {
        name: "paper".to_owned(),
        title: "The paper's table: traditional against exitless".to_owned(),
        question: "What does a guest gain when it neither exits to kick nor is interrupted: throughput of a stream, round trips, VM exits?".to_owned(),
        setup: vec![
            format!(
                "A guest program {} (make exits). Traditional: it kicks when the \
                 switch asks for it, and is interrupted for what came. With one packet at a time, which is how exits a packet and round trips are \
                 measured, that is for every packet. In a stream up to 128 are under way and few of them need either: what the modes differ by \
                 there is rather what waking another thread costs. Exitless: neither.",
                if is_thread {
                    "drives virtio-net by itself, as a thread, since there was no KVM: a kick is a write to an eventfd and a call a read of one; both are \
                     counted, and there are no exits"
                } else {
                    "in ring 3 under KVM drives virtio-net by itself; exits are KVM's own count"
                }
            ),
            if is_thread {
                "Without KVM: kicks and calls do not cost what exits and interrupts do, so that times are no evidence for or against the paper's."
                    .to_owned()
            } else if rows.iter().any(|row| row["hardware_virtualisation"] == true) {
                "With hardware virtualisation.".to_owned()
            } else {
                "Without hardware virtualisation here: an exit does not cost what it costs on hardware, so that times are no evidence for or against \
                 the paper's; counts are. Of times and streams only the direction is judged."
                    .to_owned()
            },
        ],
        repeat: format!("{repeat} && make experiments ONLY=paper"),
        conditions: Conditions { rounds, ..counted.clone().unwrap_or_default() },
        ..Finding::default()
    };
    finding.tables.push(all(rows));
    judge(&mut finding, &ring_3, is_thread);
    speed::judge(&mut finding, &ring_3, rounds);
    tcp::judge(&mut finding, &linux, rows);
    finding.answer.extend(elsewhere(counted.as_ref(), now));
    finding.raw = rows.into();
    finding
}

/// What has to be known where the rows are not of the report's commit, or do not say of which they are.
fn elsewhere(counted: Option<&Conditions>, now: &Conditions) -> Option<String> {
    match counted {
        None => Some(format!(
            "This {COUNTED}, of an older version, does not say on what it was measured, nor when: `make exits` measures anew."
        )),
        Some(counted) if counted.sidecore() != now.sidecore() => Some(format!(
            "Exits were counted with another version ({}) than the report's ({}): `make exits` counts anew.",
            counted.sidecore(),
            now.sidecore()
        )),
        Some(_) => None,
    }
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
        // What an idle guest exits for is taken off, so that there can be less than none.
        let exits = |cost: &Value| cost["exits_per_packet"].as_f64().map_or("-".to_owned(), |exits| fixed(exits, 3));
        let causes = row["exits_by_cause"].as_object().into_iter().flatten();
        let causes = causes.filter_map(|(name, count)| Some(format!("{name} {}", fixed(count.as_f64()?, 2))));
        table.row([
            if row["guest"] == "kvm" { "ring 3".to_owned() } else { word("guest") },
            word("mode"),
            word("load"),
            word("ring"),
            yes("interrupts"),
            row["packets"].to_string(),
            exits(row),
            figure("kicks_per_packet"),
            figure("interrupts_per_packet"),
            exits(&row["stream"]),
            causes.collect::<Vec<_>>().join(", "),
        ]);
    }
    table
}

fn judge(finding: &mut Finding, rows: &[&Value], is_thread: bool) {
    let before = finding.claims.len();
    for ring in RINGS {
        let Some(sides) = sides(rows, ring) else { continue };
        if is_thread { notifications(finding, ring, sides) } else { exits(finding, ring, sides) }
    }
    if finding.claims.len() == before {
        finding
            .answer
            .push(format!("{COUNTED} lacks one of the two: an exitless and a traditional row with the same rings."));
    }
    finding.answer.push(format!("For comparison, {PAPER}."));
}

/// Claims of what the first row gains over the second one. That it is more than nothing counts where KVM has counted
/// exits; that it is as much as the paper's, where exits are hardware's, as they were there.
fn gains(rows: [&Value; 2], text: &str, gain: Option<Ratio>, (unit, nothing, papers): (&str, f64, f64)) -> [Claim; 2] {
    let counted = rows.iter().all(|row| row["exits_per_packet"].is_number());
    let on_hardware = rows.iter().all(|row| row["hardware_virtualisation"] == true);
    let rounds = rows.map(|row| figures(row, "rtt_p50_us").len()).into_iter().min().unwrap_or_default();
    let as_papers = format!("{text}, beside the paper's");
    let remark =
        if on_hardware { PAPER.to_owned() } else { format!("{PAPER}; there is no hardware virtualisation here") };
    [
        Claim::new(text, gain, unit, Bound::MoreThan(nothing), counted).but(if counted { "" } else { NO_KVM }),
        Claim::new(&as_papers, gain, unit, Bound::AtLeast(papers), on_hardware).but(&remark),
    ]
    .map(|claim| claim.of_rounds(rounds))
}

/// A figure without an interval: a count.
fn exact(figure: Option<f64>) -> Option<Ratio> {
    figure.map(|figure| Ratio { value: figure, low: figure, high: figure })
}

fn packets(row: &Value) -> f64 {
    row["packets"].as_f64().unwrap_or_default()
}

fn two_digits(figure: Option<f64>) -> String {
    figure.map_or("?".to_owned(), |figure| format!("{figure:.2}"))
}

/// VM exits, where KVM has counted them.
fn exits(finding: &mut Finding, ring: &str, [exitless, traditional]: [&Value; 2]) {
    let exits = |row: &Value| row["exits_per_packet"].as_f64();
    let none = exits(exitless).map(|exits| (exits * 100.0).round().abs() / 100.0);
    let mut claim = |side: &str, row: &Value, figure, bound, counts, remark| {
        let text = format!("VM exits a packet, {side}, {ring} rings, {} packets", packets(row));
        finding.claims.push(Claim::new(&text, exact(figure), "", bound, counts).but(remark));
    };
    let enough = packets(exitless) >= ENOUGH;
    let remark = if enough { "" } else { "the goal is over 1,000,000 packets or more" };
    claim("exitless", exitless, none, Bound::AtMost(0.0), enough, remark);
    claim("traditional", traditional, exits(traditional), Bound::AtLeast(0.9), true, "");
    finding.answer.push(format!(
        "With {ring} rings a packet costs {} VM exits exitless, and {} traditionally.",
        two_digits(none),
        two_digits(exits(traditional)),
    ));
}

/// Kicks and calls, where there is no KVM: each would have been an exit, but none was counted.
fn notifications(finding: &mut Finding, ring: &str, [exitless, traditional]: [&Value; 2]) {
    let sum = |row: &Value| Some(row["kicks_per_packet"].as_f64()? + row["interrupts_per_packet"].as_f64()?);
    let mut claim = |side: &str, row: &Value, bound| {
        let text = format!("kicks and calls a packet, {side}, {ring} rings, {} packets", packets(row));
        finding.claims.push(Claim::new(&text, exact(sum(row)), "", bound, false).but(NO_KVM));
    };
    claim("exitless", exitless, Bound::AtMost(0.0));
    claim("traditional", traditional, Bound::AtLeast(0.9));
    finding.answer.push(format!(
        "VM exits were not counted, since there was no KVM. With {ring} rings a packet costs {} kicks and calls exitless, and {} traditionally.",
        two_digits(sum(exitless)),
        two_digits(sum(traditional)),
    ));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Verdict;
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
        let finding = find(&rows, &Conditions::default());
        let page = page::html(std::slice::from_ref(&finding), &[]);
        let said = "no stock guest runs under KVM here (a guest was tried &amp; QEMU ended)";
        assert!(page.contains(said) && page::markdown(&finding).contains("QEMU ended"), "{page}");
        assert!(!finding.claims.iter().any(|claim| claim.text.contains("TCP")));
        assert_eq!((finding.claims.len(), finding.raw.as_array().unwrap().len()), (6, 2));
        assert!(page.contains("irq_exits 2.99, preemption_other 0.50"));
    }

    /// An exitless and a traditional row of a ring format, of so many packets.
    fn both(ring: &str, packets: u64) -> [Value; 2] {
        [ring_3("poll", false, 0.0, 1.0), ring_3("trap", true, 2.99, 90.0)].map(|mut row| {
            row["ring"] = ring.into();
            row["packets"] = packets.into();
            row
        })
    }

    #[test]
    fn too_few_packets_reach_no_goal_and_each_ring_format_has_its_own() {
        let rows = [both("split", 100_000), both("packed", 1_400_000)].concat();
        let finding = find(&rows, &Conditions::default());
        let claim = |text: &str| finding.claims.iter().find(|claim| claim.text == text).unwrap();
        let few = claim("VM exits a packet, exitless, split rings, 100000 packets");
        assert_eq!((few.verdict, few.measured.as_str()), (Verdict::Shown, "0"));
        assert!(few.remark.contains("1,000,000"), "{few:?}");
        let enough = claim("VM exits a packet, exitless, packed rings, 1400000 packets");
        assert_eq!((enough.verdict, enough.remark.as_str()), (Verdict::Reached, ""));
        claim("VM exits a packet, traditional, packed rings, 1400000 packets");
    }

    #[test]
    fn the_report_says_on_what_exits_were_counted_and_when() {
        let of = |version: &str| Conditions { versions: vec![version.to_owned()], ..Conditions::default() };
        let mut counted = of("sidecore 0.1.0, commit 1");
        (counted.date, counted.machine) = ("yesterday".to_owned(), vec!["another machine".to_owned()]);
        let rows = both("split", 1_000_000).map(|mut row| {
            row["conditions"] = serde_json::to_value(&counted).unwrap();
            row["repeat"] = "make exits QUICK=1".into();
            row
        });
        let finding = find(&rows, &of("sidecore 0.1.0, commit 2"));
        assert_eq!(finding.conditions, Conditions { rounds: 5, ..counted.clone() });
        assert_eq!(finding.repeat, "make exits QUICK=1 && make experiments ONLY=paper");
        let said = |finding: &Finding, what: &str| finding.answer.iter().any(|answer| answer.contains(what));
        assert!(said(&finding, "commit 1) than the report's (sidecore 0.1.0, commit 2)"), "{finding:?}");
        assert!(!said(&find(&rows, &counted), "another version"));
        assert!(said(&find(&both("split", 1), &counted), "does not say on what it was measured"));
    }

    #[test]
    fn without_kvm_kicks_and_calls_are_the_figures_and_no_exits_are_claimed() {
        let rows = both("split", 1_000_000).map(|mut row| {
            row["guest"] = "thread".into();
            row["exits_per_packet"] = Value::Null;
            row
        });
        let finding = find(&rows, &Conditions::default());
        assert!(!finding.claims.iter().any(|claim| claim.text.contains("VM exits")), "{finding:?}");
        assert!(finding.claims.iter().all(|claim| claim.verdict == Verdict::Shown), "{finding:?}");
        let traditional = finding.claims.iter().find(|claim| claim.text.starts_with("kicks and calls a packet, trad"));
        assert_eq!(traditional.unwrap().measured, "2.00");
        assert!(
            finding.setup[0].contains("as a thread") && !finding.setup[0].contains("ring 3"),
            "{:?}",
            finding.setup
        );
        assert!(finding.charts.iter().all(|chart| chart.title.ends_with("of a guest that is a thread")));
    }

    #[test]
    fn rounds_are_compared_one_by_one_and_drawn_with_error_bars() {
        let rows =
            [ring_3("poll", false, 0.0, 1.0), ring_3("trap", false, 1.0, 40.0), ring_3("trap", true, 2.99, 90.0)];
        let finding = find(&rows, &Conditions::default());
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
        let finding = find(&older, &Conditions::default());
        assert!(
            (finding.claims.len(), finding.charts.len()) == (2, 0)
                && finding.answer.iter().any(|answer| answer.contains("has no rounds"))
        );
    }

    #[test]
    fn the_direction_counts_wherever_exits_do_and_the_papers_gain_on_hardware() {
        let verdicts = |exitless: f64, change: &dyn Fn(&mut Value)| {
            let rows = [ring_3("poll", false, 0.0, exitless), ring_3("trap", true, 2.99, 90.0)].map(|mut row| {
                change(&mut row);
                row
            });
            let finding = find(&rows, &Conditions::default());
            let times = finding.claims.iter().filter(|claim| !claim.text.contains("a packet"));
            times.map(|claim| claim.verdict).collect::<Vec<_>>()
        };
        let on_hardware = |row: &mut Value| row["hardware_virtualisation"] = true.into();
        let (reached, missed, shown) = (Verdict::Reached, Verdict::Missed, Verdict::Shown);
        assert_eq!(verdicts(1.0, &|_| ()), [reached, shown, reached, shown]);
        assert_eq!(verdicts(100.0, &|_| ()), [missed, shown, missed, shown], "trap beats exitless");
        assert_eq!(verdicts(1.0, &on_hardware), [reached; 4]);
        assert_eq!(verdicts(80.0, &on_hardware), [reached, missed, reached, missed]);
        assert_eq!(verdicts(100.0, &|row| row["exits_per_packet"] = Value::Null), [shown; 4]);
    }

    #[test]
    fn exits_that_round_to_none_have_no_sign() {
        let mut rows = both("split", 1000);
        rows[0]["exits_per_packet"] = (-0.00001).into();
        rows[0]["stream"] = json!({ "exits_per_packet": -0.0004 });
        let table = all(&rows);
        assert_eq!((table.rows[0][6].as_str(), table.rows[0][9].as_str()), ("0.000", "0.000"), "{table:?}");
    }

    #[test]
    fn linux_guests_are_beside_the_paper_and_not_taken_for_ring_3() {
        let mut rows = vec![linux("trap", 2000.0, 60.0), linux("poll", 4000.0, 30.0), linux("adaptive", 3000.0, 40.0)];
        rows.extend([ring_3("poll", false, 0.0, 1.0), ring_3("trap", true, 2.99, 90.0)]);
        let finding = find(&rows, &Conditions::default());
        let claim = |text: &str| finding.claims.iter().find(|claim| claim.text.contains(text)).unwrap();
        assert_eq!(claim("VM exits a packet, traditional").measured, "2.99");
        assert!(claim("TCP stream, Linux guests: poll to trap").measured.starts_with("2.00"));
        assert!(claim("TCP stream, Linux guests: adaptive to trap").measured.starts_with("1.50"));
        assert!(claim("median TCP round trip, Linux guests: trap less poll").measured.starts_with("30.0 ["));
        assert!(claim("trap less adaptive, beside the paper's").remark.starts_with("the paper"));
        let of_tcp = || finding.claims.iter().filter(|claim| claim.text.contains("TCP"));
        assert!(of_tcp().all(|claim| claim.verdict == Verdict::Shown), "of three rounds: {finding:?}");
        assert_eq!(finding.charts.len(), 4);
        assert!(page::html(&[finding], &[]).contains("4000 [3600, 4400]"));
    }

    #[test]
    fn a_run_that_was_broken_off_says_so() {
        let mut row = ring_3("poll", false, 0.0, 1.0);
        row["stock_guests"]["run_under_kvm"] = true.into();
        let finding = find(&[row], &Conditions::default());
        assert!(finding.answer.iter().any(|answer| answer.contains("broken off")), "{finding:?}");
        let finding = find(&[json!({ "mode": "poll" })], &Conditions::default());
        assert!(finding.answer.iter().any(|answer| answer.contains("says nothing")), "{finding:?}");
    }
}

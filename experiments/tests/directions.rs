//! The experiments in their shortest form: in which direction claims go, never how fast anything is.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sidecore_experiments::studies::answer::{Capacity, capacity};
use sidecore_experiments::studies::finding::{Finding, Table, Verdict};
use sidecore_experiments::studies::{self, Effort, Lab, paper};
use sidecore_tests::process::Process;
use sidecore_tests::{paths, rules};

/// Makes an experiment, and its files.
fn make(name: &str) -> Finding {
    make_in(name, tempfile::tempdir().unwrap().path())
}

/// In a thread of its own, which keeps to one CPU from then on: the test still has them all.
fn make_in(name: &str, folder: &Path) -> Finding {
    let made = std::thread::scope(|scope| scope.spawn(|| make_here(name, folder)).join());
    made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn make_here(name: &str, folder: &Path) -> Finding {
    let _alone = rules::Machine::exclusive().unwrap();
    let lab = Lab::new(Effort::CHECK, folder.to_owned()).unwrap();
    let study = studies::chosen(&[name.to_owned()]).unwrap()[0];
    let finding = study.make(&lab).unwrap();
    lab.write(&finding).unwrap();
    let report = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains(&finding.title) && report.matches("<svg ").count() == finding.charts.len(), "{report}");
    assert!(!finding.claims.is_empty() && !finding.answer.is_empty() && !finding.setup.is_empty());
    finding
}

fn table<'f>(finding: &'f Finding, title: &str) -> &'f Table {
    finding.tables.iter().find(|table| table.title.starts_with(title)).unwrap_or_else(|| panic!("{finding:?}"))
}

/// The figure at the beginning of a cell.
fn figure(cell: &str) -> f64 {
    cell.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no figure in {cell:?}"))
}

fn largest(all: &Value) -> f64 {
    all.as_array().unwrap().iter().map(|figure| figure.as_f64().unwrap()).fold(0.0, f64::max)
}

/// The figure of the only round at the place of this name.
fn at(finding: &Finding, place: &Value, figures: impl Fn(&Value, usize) -> f64) -> f64 {
    let places = finding.raw["places"].as_array().unwrap();
    let at = places.iter().position(|other| other == place).unwrap_or_else(|| panic!("no {place} in {places:?}"));
    figures(&finding.raw, at)
}

/// How long `exits` may take for its short form.
const COUNTING: Duration = Duration::from_secs(300);

/// A guest in ring 3 that polls, at a switch that polls, and one that kicks and is interrupted.
#[test]
fn exitless_beats_trap() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        println!("/dev/kvm: {error}");
        return rules::skip("exitless_beats_trap", "/dev/kvm does not open");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(paper::COUNTED);
    let args = ["--quick", "--ring", "split", "--out", out.to_str().unwrap()];
    let mut exits = Process::spawn("exits", paths::exits().unwrap(), args, &folder.path().join("log")).unwrap();
    let (status, took) = exits.wait(COUNTING).unwrap();
    println!("{}\n{took:.1?}", exits.output());
    assert!(status.success(), "{status}");
    let finding = make_in("paper", folder.path());
    let charts: Vec<&str> = finding.charts.iter().map(|chart| chart.name.as_str()).collect();
    assert!(charts.starts_with(&["rtt", "stream"]), "{charts:?}");
    let rows = [("poll", false), ("trap", true)].map(|(mode, interrupts)| {
        let is_it = |row: &&Value| row["guest"] == "kvm" && row["load"] == "busy" && row["mode"] == mode;
        finding.raw.as_array().unwrap().iter().filter(is_it).find(|row| row["interrupts"] == interrupts).unwrap()
    });
    assert!(rows.iter().all(|row| row["rounds"]["rtt_p50_us"].as_array().unwrap().len() >= 5), "{rows:?}");
    let [exits, trips] = ["exits_per_packet", "rtt_p50_us"].map(|key| rows.map(|row| row[key].as_f64().unwrap()));
    assert!(exits[0] < 0.05 && exits[1] >= 0.9, "VM exits a packet, exitless and traditional: {exits:?}");
    // Half: it is some fiftieth. Streams are `saturation`'s: threads that poll lose most of one where others want the CPU, too.
    assert!(2.0 * trips[0] < trips[1], "median round trips, exitless and traditional: {trips:?}");
}

#[test]
fn a_saturated_core_is_shared_evenly_and_does_not_collapse() {
    let finding = make("saturation");
    let guests = table(&finding, "More and more guests");
    let last = guests.rows.last().unwrap();
    assert!(figure(&last[4]) > 0.9, "Jain's index of guests on a saturated core: {last:?}");
    // Whoever polls answers sooner than threads that have to be kicked and woken. Guests poll at both: none is interrupted.
    let alone = ["rtt_us", "traditional_rtt_us"].map(|key| finding.raw["guests"][key][0][0][0].as_f64().unwrap());
    assert!(alone[0] < alone[1], "median round trips, exitless and traditional: {alone:?}");
    // And streams get more from it. All counts of busy guests together: others may have had the machine in one of these turns.
    let streams = ["delivered_pps", "traditional_delivered_pps"].map(|key| {
        let turns = finding.raw["guests"][key].as_array().unwrap().iter().flat_map(|turns| turns.as_array().unwrap());
        turns.flat_map(|guests| guests.as_array().unwrap()).map(|pps| pps.as_f64().unwrap()).sum::<f64>()
    });
    assert!(streams[0] > streams[1], "packets a second, exitless and traditional: {streams:?}");
    let delivered = finding.raw["load"]["delivered_pps"].as_array().unwrap();
    let most = delivered.iter().map(largest).fold(0.0, f64::max);
    // A fifth: others may have had the machine in that turn. A livelock leaves next to nothing.
    assert!(largest(delivered.last().unwrap()) > most / 5.0, "{delivered:?}");
}

#[test]
fn round_trips_of_class_latency_are_shorter() {
    let finding = make("classes");
    let medians: Vec<f64> = table(&finding, "Round trips").rows.iter().map(|row| figure(&row[2])).collect();
    let [_, latency, throughput, ..] = medians[..] else { panic!("{finding:?}") };
    assert!(latency < throughput, "medians beside busy neighbours: {medians:?}");
}

/// What one I/O core and two can do, in so many rounds.
fn capacity_in(rounds: usize) -> Vec<Capacity> {
    let _alone = rules::Machine::exclusive().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new(Effort { rounds, ..Effort::CHECK }, folder.path().to_owned()).unwrap();
    capacity(&lab).unwrap()
}

/// Pairs of guests on two I/O cores get more than on one at its best.
fn two_beat_one(capacity: &[Capacity]) -> bool {
    println!("packets a second on one core and on two: {capacity:?}");
    let one: f64 = capacity.iter().map(Capacity::one).sum();
    let two: f64 = capacity.iter().map(|round| round.two).sum();
    two > one
}

/// All of it in one round, also where I/O cores share CPUs. Then what guests gain shows nothing; that some are moved, and
/// when, does, and that the second core adds something.
#[test]
fn load_that_shifts_moves_guests() {
    let finding = make("answer");
    let charts: Vec<&str> = finding.charts.iter().map(|chart| chart.name.as_str()).collect();
    assert_eq!(charts, ["throughput", "loads-off", "loads-on"]);
    assert_eq!((table(&finding, "After the shift").rows.len(), table(&finding, "The simulator").rows.len()), (2, 2));
    assert!(finding.claims.iter().all(|claim| claim.measured != "nothing was measured"), "{:?}", finding.claims);
    let [off, on] = ["off", "on"].map(|side| finding.raw[side].as_array().unwrap().first().unwrap());
    let moves = [off, on].map(|turn| turn["moves"].as_array().unwrap().len());
    assert!(moves[0] == 0 && moves[1] > 0, "moves with the scheduler off and on: {moves:?}");
    let round: Vec<Capacity> = serde_json::from_value(finding.raw["capacity_pps"].clone()).unwrap();
    // A core that shares its CPU adds less than the machine may change its speed by in a round: then more of them decide.
    assert!(two_beat_one(&round) || two_beat_one(&capacity_in(7)), "two I/O cores do not beat one");
    if std::thread::available_parallelism().unwrap().get() > 2 {
        let served = table(&finding, "After the shift").rows.iter().map(|row| figure(&row[2])).collect::<Vec<_>>();
        assert!(served[1] > served[0], "delivered after the shift with the scheduler off and on, %: {served:?}");
    }
}

/// Two I/O cores beside one in more rounds, where each has a CPU of its own.
#[test]
fn two_cores_beat_one() {
    if std::thread::available_parallelism().unwrap().get() < 3 {
        return rules::skip("two_cores_beat_one", "two I/O cores and a generator need three CPUs");
    }
    assert!(two_beat_one(&capacity_in(3)), "two I/O cores do not beat one");
}

#[test]
fn moderation_makes_interrupts_fewer() {
    let finding = make("interrupts");
    let calls = ["none", "adaptive, 50 µs"].map(|setting| {
        at(&finding, &format!("100,000/s; {setting}").into(), |raw, at| {
            raw["rounds"][at][0]["calls_per_packet"].as_f64().unwrap()
        })
    });
    assert!(calls[1] < calls[0], "calls a packet without and with moderation: {calls:?}");
}

#[test]
fn an_adaptive_switch_idles() {
    let finding = make("idle");
    let cpu = ["poll", "adaptive"]
        .map(|mode| at(&finding, &json!([mode, 16]), |raw, at| raw["cpu"][at][0].as_f64().unwrap()));
    assert!(cpu[1] < cpu[0] / 4.0, "CPU of a silent switch that polls, and of an adaptive one: {cpu:?}");
}

#[test]
fn balance_serves_more_than_ovs_on_paper() {
    let finding = make("scale");
    assert!(
        finding.claims.iter().all(|claim| claim.verdict == Verdict::Shown),
        "one seed reaches no goal: {finding:?}"
    );
    for (shape, run) in finding.raw.as_array().unwrap().iter().enumerate() {
        let unserved = |policy: &str| {
            // One seed.
            let run = run.as_array().unwrap().iter().map(|runs| &runs[0]).find(|run| run["policy"] == policy).unwrap();
            run["under_served_cycles"].as_f64().unwrap() / run["demanded_cycles"].as_f64().unwrap()
        };
        let (ours, theirs) = (unserved("balance"), unserved("ovs-auto-lb"));
        // The first one is skewed from the beginning; a crowd does not come in so short a time.
        assert!(ours <= theirs && (shape > 0 || ours < theirs), "{shape}: {ours} {theirs}");
    }
}

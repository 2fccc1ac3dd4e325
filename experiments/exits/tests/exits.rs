//! `exits` itself, in its short form: KVM's counter sees kicks and interrupts, and nothing of a polling guest.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::Value;
use sidecore_exits::vmm;
use sidecore_tests::process::Process;
use sidecore_tests::rules;

const LIMIT: Duration = Duration::from_secs(300);

/// Runs it, and returns its rows. It judges by itself.
fn rows(args: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("exits.json");
    let args = [&["--quick", "--out", out.to_str().unwrap()], args].concat();
    let mut exits = Process::spawn("exits", env!("CARGO_BIN_EXE_exits"), args, &dir.path().join("log")).unwrap();
    let (status, took) = exits.wait(LIMIT).unwrap();
    println!("{}\n{took:.1?}", exits.output());
    assert!(status.success(), "{status}");
    serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

/// The row with these properties.
fn find<'a>(rows: &'a [Value], mode: &str, load: &str, ring: &str, interrupts: bool) -> &'a Value {
    let wanted =
        [("mode", mode.into()), ("load", load.into()), ("ring", ring.into()), ("interrupts", interrupts.into())];
    let is_it = |row: &&Value| wanted.iter().all(|(key, value): &(&str, Value)| row[*key] == *value);
    rows.iter().find(is_it).unwrap()
}

#[test]
fn a_polling_guest_does_not_exit() {
    if let Err(error) = vmm::available() {
        println!("{error}");
        return rules::skip("a_polling_guest_does_not_exit", "/dev/kvm does not open");
    }
    let rows = rows(&[]);
    let exits = |row: &Value| number(row, "exits_per_packet");
    let stock = &rows[0]["stock_guests"];
    assert!(!stock["found"].as_str().unwrap().is_empty(), "how it was found: {stock}");
    let conditions = &rows[0]["conditions"];
    assert!(
        conditions["versions"][0].as_str().unwrap().starts_with("sidecore"),
        "on what it was measured: {conditions}"
    );
    assert!(
        rows.iter().all(|row| row["conditions"] == *conditions && row["repeat"].as_str().unwrap().contains("--quick"))
    );
    let linux: Vec<&Value> = rows.iter().filter(|row| row["guest"] == "linux").collect();
    assert_eq!(
        !linux.is_empty(),
        stock["run_under_kvm"] == true,
        "rows of Linux guests where they run, and nowhere else"
    );
    assert!(linux.iter().all(|row| exits(row) > 0.0), "{linux:?}");
    for ring in ["split", "packed"] {
        let poll = find(&rows, "poll", "busy", ring, false);
        assert!(number(poll, "packets") >= 100_000.0, "{poll}");
        assert!(exits(poll) < 0.05 && exits(&poll["stream"]) < 0.05, "{poll}");
        assert!(number(poll, "exits_raw") > 0.0 && number(poll, "exits_baseline") > 0.0, "the end is an exit: {poll}");
        assert!(number(poll, "stream_pps") > 0.0 && number(poll, "rtt_p99_us") >= number(poll, "rtt_p50_us"), "{poll}");
        for key in ["rtt_p50_us", "rtt_p99_us", "stream_pps"] {
            assert!(poll["rounds"][key].as_array().unwrap().len() >= 5, "{key} of every round: {poll}");
        }
        let interrupted = find(&rows, "poll", "busy", ring, true);
        assert!(exits(interrupted) >= 0.9, "an interrupt is an exit: {interrupted}");
        assert!(number(interrupted, "interrupts_per_packet") >= 0.9, "{interrupted}");
        let trap = find(&rows, "trap", "busy", ring, false);
        assert!(exits(trap) >= 0.9, "a kick is an exit: {trap}");
        assert!(number(trap, "kicks_per_packet") >= 0.9, "{trap}");
        // The switch got every kick that the guest sent; a few more were sent before anything was counted.
        assert!(number(trap, "switch_kicks") >= number(trap, "packets") * number(trap, "kicks_per_packet"), "{trap}");
        let idle = find(&rows, "adaptive", "idle", ring, false);
        assert!(number(idle, "kicks_per_packet") >= 0.4, "a switch that sleeps is woken: {idle}");
        let busy = find(&rows, "adaptive", "busy", ring, false);
        assert!(exits(busy) < exits(idle) / 2.0, "a busy one is not: {busy}");
    }
}

#[test]
fn without_kvm_kicks_and_calls_are_counted() {
    let rows = rows(&["--no-kvm"]);
    for ring in ["split", "packed"] {
        let poll = find(&rows, "poll", "busy", ring, false);
        assert!(poll["exits_per_packet"].is_null() && poll["guest"] == "thread", "{poll}");
        assert_eq!((number(poll, "kicks_per_packet"), number(poll, "interrupts_per_packet")), (0.0, 0.0), "{poll}");
        assert!(number(find(&rows, "poll", "busy", ring, true), "interrupts_per_packet") >= 0.9);
        // A thread that is about to sleep when the next packet comes needs no kick; how often that is depends on the machine.
        let trap = find(&rows, "trap", "busy", ring, false);
        assert!(number(trap, "kicks_per_packet") >= 0.3, "{trap}");
    }
}

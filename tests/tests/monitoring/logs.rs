//! What the switch logs, and how.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::Value;
use sidecore_tests::paths;
use sidecore_tests::process::eventually;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use synthetic_guest::hostile::RawRing;
use synthetic_guest::{Guest, GuestConfig};

const SOON: Duration = Duration::from_secs(20);

/// `sidecore`, with `--log-format json` behind what it is started with, and more in its environment.
fn with_json(environment: &str) -> Vec<OsString> {
    let sidecore = paths::sidecore().unwrap().display().to_string();
    let script = format!("exec env {environment} {sidecore} \"$@\" --log-format json");
    ["sh", "-c", &script, "sh"].map(OsString::from).into()
}

/// The messages of a log in JSON that are of this guest.
fn of_guest(log: &str, guest: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["guest"] == guest).map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_state_a_guest_gets_into_is_one_line() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).guest("vm1", &[]);
    let switch = SwitchProcess::start_as(&with_json(""), &config).unwrap();
    let mut guest = Guest::start(GuestConfig::new(config.socket("vm1"))).unwrap();
    switch.wait_for_port("vm1", "served rings", |port| port.state == "running").unwrap();
    RawRing::of(guest.pair(0).tx.ring()).set_avail_index(1 << 15);
    switch.wait_for_port("vm1", "stopped ring", |port| port.state == "stopped").unwrap();
    // The line comes when the control thread next looks after the guests.
    eventually("a line about the ring", SOON, || Ok(switch.log().contains("ring stopped").then_some(()))).unwrap();
    drop(guest);
    switch.wait_for_port("vm1", "end of the session", |port| port.state == "waiting").unwrap();
    let log = switch.log();
    let lines = of_guest(&log, "vm1");
    let steps = ["queue pair 0", "frontend connected", "serving: ", "ring stopped: ", "disconnected: "];
    assert_eq!(lines.len(), steps.len(), "{lines:?}");
    steps.iter().zip(&lines).for_each(|(step, line)| assert!(line.starts_with(step), "{step:?} is {line:?}"));
    assert!(
        log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["timestamp"].is_string())),
        "{log}"
    );
    switch.must(&["guest", "remove", "vm1"]).unwrap();
    assert!(switch.log().contains("guest vm1 removed"), "{}", switch.log());
    switch.stop().unwrap();
}

#[test]
fn the_journal_gets_priorities_and_no_second_time() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).guest("vm1", &[]);
    // The file that standard error will be.
    let log = std::fs::File::create(dir.path().join("sidecore.log")).unwrap().metadata().unwrap();
    let stream = format!("JOURNAL_STREAM={}:{}", log.dev(), log.ino());
    let switch = SwitchProcess::start_as(&with_json(&stream), &config).unwrap();
    let text = switch.log();
    for line in text.lines() {
        let json = ["<3>", "<4>", "<6>"].iter().find_map(|priority| line.strip_prefix(priority));
        let json: Value = serde_json::from_str(json.unwrap_or_else(|| panic!("no priority in {line}"))).unwrap();
        assert!(json["message"].is_string() && json.get("timestamp").is_none(), "{line}");
    }
    assert!(text.contains("\"ready\""), "{text}");
    switch.stop().unwrap();
}

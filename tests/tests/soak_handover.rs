//! `soak-handover` itself, in its short form: it finds nothing wrong with the switch, says so in one line of JSON, and leaves nothing behind
//! when it is interrupted.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sidecore_tests::process::{Process, eventually};
use sidecore_tests::rules::Machine;

const LIMIT: Duration = Duration::from_secs(300);

/// The soak, with its folders in `dir`.
fn start(dir: &Path, moves: &str) -> Process {
    let folder = dir.join("tmp");
    fs::create_dir_all(&folder).unwrap();
    let mut tmp = OsString::from("TMPDIR=");
    tmp.push(&folder);
    let args = [tmp, env!("CARGO_BIN_EXE_soak-handover").into(), "--moves".into(), moves.into()];
    Process::spawn("soak-handover", "env", args, &dir.join("log")).unwrap()
}

fn assert_nothing_left(dir: &Path) {
    let left: Vec<_> = fs::read_dir(dir.join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn moves_under_verified_traffic_lose_nothing() {
    let _machine = Machine::exclusive().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut soak = start(dir.path(), "240");
    let (status, took) = soak.wait(LIMIT).unwrap();
    let output = soak.output();
    assert!(status.success(), "{status}\n{output}");
    let result: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    for key in ["lost", "duplicated", "reordered", "corrupted", "late", "misdelivered", "unaccounted", "kicks"] {
        assert_eq!(result[key], 0, "{key}: {result}");
    }
    let count = |key: &str| result[key].as_u64().unwrap();
    assert!(count("moves") >= 240 && count("packets") > 10_000, "{result}");
    assert!(count("parked") > 0, "{result}");
    assert!(count("in_flight_moves") * 10 >= count("moves") * 9, "{result}");
    assert!(result["directions"].as_array().unwrap().iter().all(|moves| moves.as_u64() >= Some(40)), "{result}");
    assert!(result["pause_p99_us"].as_f64().unwrap() > 0.0, "{result}");
    assert_eq!(result["cpus"].as_array().unwrap().len(), 3, "{result}");
    assert!(result["shared_cpu"].is_boolean(), "{result}");
    assert_nothing_left(dir.path());
    println!("{took:.1?}");
}

/// Processes started by this one that run.
fn children(pid: u32) -> Vec<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn an_interrupted_soak_leaves_nothing_behind() {
    let _machine = Machine::exclusive().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut soak = start(dir.path(), "100000");
    let started = eventually("a switch and a generator", LIMIT, || {
        soak.ensure_running()?;
        Ok(Some(children(soak.pid())).filter(|children| children.len() == 2))
    })
    .unwrap();
    let (status, _) = soak.stop(Signal::INT, LIMIT).unwrap();
    assert_eq!(status.code(), Some(1));
    let output = soak.output();
    assert!(output.contains("interrupted"), "{output}");
    for pid in started {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
    }
    assert_nothing_left(dir.path());
}

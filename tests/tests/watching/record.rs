//! `sidecore scheduler record`: what guests sent, as the simulator reads it.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use sidecore_tests::paths;
use sidecore_tests::process::{Process, must};
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};

use crate::scene::LIMIT;

const GUESTS: [&str; 2] = ["p0", "1"];

/// Packets that the guests sent so far.
fn sent(switch: &SwitchProcess) -> Result<u64> {
    let status = switch.status()?;
    Ok(GUESTS.iter().map(|name| Ok(status.port(name)?.tx.packets)).collect::<Result<Vec<_>>>()?.iter().sum())
}

/// What the simulator makes of a recording: its scenario, and the packets that were asked for in it.
fn simulated(recording: &Path, out: &Path) -> Result<(Value, f64)> {
    let mut args: Vec<OsString> = vec![paths::simulator()?.into()];
    args.extend("--shape recorded --cores 1 --policies static --seeds 1 --recording".split(' ').map(OsString::from));
    args.extend([recording.into(), "--out".into(), out.into()]);
    must(&args)?;
    let mut results: Value = serde_json::from_slice(&std::fs::read(out.join("results.json"))?)?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let cycles = number(&results["blocks"][0]["cells"][0]["runs"][0]["demanded_cycles"]);
    let model = &results["model"];
    let packets = cycles / (number(&model["packet_ns"]) * number(&model["core_hz"]) / 1e9);
    Ok((results["blocks"][0]["scenario"].take(), packets))
}

#[test]
fn the_simulator_gets_what_guests_sent() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = GUESTS.iter().fold(SwitchConfig::new(dir.path()), |config, name| config.guest(name, &[]));
    let switch = SwitchProcess::start(&config).unwrap();
    let file = dir.path().join("load.csv");
    let begin = |more: &[&str]| {
        let mut args: Vec<OsString> = vec!["--control".into(), config.control_socket().into(), "scheduler".into()];
        args.extend(["record".into(), file.clone().into()]);
        args.extend(more.iter().map(OsString::from));
        let mut recorder = Process::spawn("recorder", paths::sidecore()?, args, &dir.path().join("record.log"))?;
        recorder.wait_until("begin", LIMIT, |recorder| {
            Ok(recorder.output().contains("; Ctrl-C ends it\n").then_some(()))
        })?;
        anyhow::Ok(recorder)
    };

    let mut nothing = begin(&["--seconds", "1"]).unwrap();
    let (status, _) = nothing.wait(LIMIT).unwrap();
    assert!(!status.success() && !file.exists(), "{}", nothing.output());
    assert!(
        nothing.output().ends_with("error: no guest was served: there is nothing to record\n"),
        "{}",
        nothing.output()
    );

    let mut recorder = begin(&[]).unwrap();
    let before = sent(&switch).unwrap();
    let line = "stream --rate 20000 --duration-s 1.5 --cpu 0 --json -";
    let mut ringgen: Vec<OsString> = vec![paths::ringgen().unwrap().into()];
    ringgen.extend(line.split(' ').map(OsString::from));
    ringgen.extend(GUESTS.iter().flat_map(|name| ["--guest".into(), config.socket(name).into_os_string()]));
    let report: Value = serde_json::from_str(&must(&ringgen).unwrap()).unwrap();
    switch.quiet_status().unwrap();
    let sent = sent(&switch).unwrap() - before;
    assert!(report["sent"].as_u64().is_some_and(|measured| measured > 1000 && measured <= sent), "{sent}: {report}");
    // Until the line in which the last of them came is whole, and another, which is empty: two tenths of a second, where nobody is in the way.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!file.exists(), "it is not whole yet");
    let (status, _) = recorder.stop(Signal::INT, LIMIT).unwrap();
    assert!(status.success(), "{}", recorder.output());
    assert!(recorder.output().contains(" s, 2 queue pairs, "), "{}", recorder.output());

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# tick_ms = 100\n\"1\",\"p0\"\n") && text.ends_with("\n0,0\n"), "{text}");
    let (scenario, packets) = simulated(&file, &dir.path().join("simulated")).unwrap();
    assert_eq!(scenario["guests"], 2);
    let seconds = (text.lines().count() - 2) as f64 / 10.0;
    assert!(seconds >= 2.0 && scenario["seconds"].as_f64().is_some_and(|it| (it - seconds).abs() < 1e-9), "{scenario}");
    // Each queue pair may be half a packet short.
    assert!((packets - sent as f64).abs() < 1.5, "{packets} simulated, {sent} sent");

    let refused = begin(&[]).unwrap_err().to_string();
    assert!(refused.contains("load.csv is there already"), "{refused}");
    ensure_nothing_else(dir.path()).unwrap();
    switch.stop().unwrap();
}

/// No file is left that was not finished.
fn ensure_nothing_else(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        ensure!(path.extension().is_none_or(|extension| extension != "part"), "{} is left", path.display());
    }
    Ok(())
}

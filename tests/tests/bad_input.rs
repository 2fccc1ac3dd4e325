//! What the switch is told wrongly is one clear error, before anything is half started.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sidecore_tests::paths;
use sidecore_tests::process::run;
use sidecore_tests::rules::{self, Machine};
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};

/// An error that takes longer is no help to whoever waits for it, also where others have the CPUs.
const ERROR_LIMIT: Duration = Duration::from_secs(10);

/// Files below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Starts the switch on a text that it must refuse. Its one error has to contain all of `words`; nothing is left behind.
fn refused_as(prefix: &[&str], dir: &Path, text: &str, words: &[&str]) {
    let file = dir.join("bad.toml");
    fs::write(&file, text).unwrap();
    let before = files(dir);
    let mut command: Vec<OsString> = prefix.iter().map(OsString::from).collect();
    command.extend([paths::sidecore().unwrap().into(), "run".into(), "--config".into(), file.into()]);

    let begin = Instant::now();
    let output = run(&command, Duration::from_secs(20)).unwrap();
    let took = begin.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(output.status.code(), Some(1), "{text}\n{stderr}");
    assert_eq!(errors.len(), 1, "one error is wanted, for\n{text}\n{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word:?} is missing in the error for\n{text}\n{stderr}");
    }
    assert!(took < ERROR_LIMIT, "the error took {took:?}: {stderr}");
    assert_eq!(files(dir), before, "left behind after: {stderr}");
}

fn refused(dir: &Path, text: &str, words: &[&str]) {
    refused_as(&[], dir, text, words);
}

#[test]
fn configurations_that_cannot_be() {
    let dir = SwitchProcess::folder().unwrap();
    let base = || SwitchConfig::new(dir.path());
    let with_cores = |cores: &str| base().to_toml().replace(&io_cores_line(&base()), &format!("io_cores = {cores}"));
    let mac = "mac = \"52:54:00:00:00:01\"";
    let cases: [(String, &[&str]); 10] = [
        (with_cores("[4095]"), &["io_cores", "4095", "bad.toml:2:"]),
        (with_cores("[0, 0]"), &["io_cores", "allow_shared_cpu"]),
        (with_cores("[]"), &["io_cores"]),
        (base().guest("vm1", &[]).uplink("vm1", "net_null0", &[]).to_toml(), &["vm1", "name"]),
        (
            base().guest("vm1", &[]).guest("vm2", &[]).to_toml().replace("vm2.sock", "vm1.sock"),
            &["vm1.sock", "guest[1].socket"],
        ),
        (
            base().guest("vm1", &[mac]).guest("vm2", &[mac]).to_toml(),
            &["guest[1].mac", "52:54:00:00:00:01 in VLAN 1", "guest[0].mac"],
        ),
        (base().key("colour = \"blue\"").to_toml(), &["colour", "bad.toml:5:"]),
        (base().guest("vm1", &["queue_pairs = 17"]).to_toml(), &["queue_pairs", "17", "16"]),
        (base().guest("vm1", &["anti_spoof = true"]).to_toml(), &["anti_spoof", "mac"]),
        ("io_cores = [".to_owned(), &["bad.toml"]),
    ];
    for (text, words) in &cases {
        refused(dir.path(), text, words);
    }
}

fn io_cores_line(config: &SwitchConfig) -> String {
    config.to_toml().lines().find(|line| line.starts_with("io_cores")).unwrap().to_owned()
}

#[test]
fn a_file_that_is_not_there() {
    let output = run(
        &[paths::sidecore().unwrap().as_os_str(), "run".as_ref(), "--config".as_ref(), "/nonexistent.toml".as_ref()],
        Duration::from_secs(5),
    )
    .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent.toml"));
}

#[test]
fn a_socket_path_that_exists() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).guest("vm1", &[]);
    // Somebody's file: it is theirs, and stays.
    fs::write(config.socket("vm1"), "precious").unwrap();
    refused(dir.path(), &config.to_toml(), &["vm1.sock"]);
    assert_eq!(fs::read_to_string(config.socket("vm1")).unwrap(), "precious");
}

#[test]
fn devices_that_are_not_there() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let cases = [
        ("net_af_packet0,iface=nosuchif0", "nosuchif0"),
        ("net_af_xdp0,iface=nosuchif0", "nosuchif0"),
        ("0000:ff:1f.7", "0000:ff:1f.7"),
        ("net_nosuchdriver0", "net_nosuchdriver0"),
    ];
    for (device, word) in cases {
        let config = SwitchConfig::new(dir.path()).guest("vm1", &[]).uplink("wan", device, &[]);
        refused(dir.path(), &config.to_toml(), &["wan", word]);
    }
}

#[test]
fn no_memory() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    // No machine has a terabyte of hugepages that nobody reserved.
    let config = SwitchConfig::new(dir.path()).key("hugepages = \"require\"").key("memory_mib = 1048576");
    refused(dir.path(), &config.to_toml(), &["hugepages"]);
}

#[test]
fn a_limit_on_waking_up_that_cannot_be_set() {
    // As in a container.
    let read_only = ["unshare", "--mount", "sh", "-c", "mount -o remount,bind,ro /sys && exec \"$@\"", "sh"];
    if !run(&[&read_only[..], &["true"]].concat(), Duration::from_secs(5)).is_ok_and(|output| output.status.success()) {
        return rules::skip("a_limit_on_waking_up_that_cannot_be_set", "/sys cannot be made read-only here");
    }
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).key("mode = \"adaptive\"").key("wake_latency_us = 0").guest("vm1", &[]);
    refused_as(&read_only, dir.path(), &config.to_toml(), &["wake_latency_us"]);
}

#[test]
fn no_permission() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    // The folder belongs to root, and nobody else may write there; the configuration can be read.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    // Built under somebody's home, the binary may be out of reach for others.
    let binary = dir.path().join("sidecore");
    fs::copy(paths::sidecore().unwrap(), &binary).unwrap();
    let config = SwitchConfig::new(dir.path()).guest("vm1", &[]);
    let file = dir.path().join("bad.toml");
    fs::write(&file, config.to_toml()).unwrap();
    let before = files(dir.path());
    let mut command: Vec<&std::ffi::OsStr> = nobody.iter().map(AsRef::as_ref).collect();
    command.extend([binary.as_os_str(), "run".as_ref(), "--config".as_ref(), file.as_os_str()]);
    let output = run(&command, Duration::from_secs(20)).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{stderr}");
    assert!(stderr.contains("ermission"), "{stderr}");
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_second_switch_on_the_same_control_socket() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).guest("vm1", &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    refused(dir.path(), &config.to_toml(), &["control.sock"]);
    // The first one has not noticed.
    assert_eq!(switch.status().unwrap().ports.len(), 1);
    assert!(config.socket("vm1").exists());
    switch.stop().unwrap();
}

#[test]
fn requests_that_cannot_be_met() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).guest("vm1", &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    let taken = config.socket("vm1").display().to_string();
    let free = config.socket("vm2").display().to_string();
    let cases: [&[&str]; 6] = [
        &["guest", "add", "vm1", "--socket", &free],
        &["guest", "add", "vm2", "--socket", &taken],
        &["guest", "add", "vm2", "--socket", "not/absolute"],
        &["guest", "remove", "nobody"],
        &["uplink", "add", "wan", "--device", "net_af_packet7,iface=nosuchif0"],
        &["uplink", "remove", "vm1"],
    ];
    for case in cases {
        let output = switch.cli(case).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{case:?} was accepted");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{case:?}: {stderr}");
    }
    assert_eq!(switch.status().unwrap().ports.len(), 1);
    assert!(!Path::new(&free).exists());
    switch.stop().unwrap();
}

#[test]
fn nobody_to_talk_to() {
    let dir = SwitchProcess::folder().unwrap();
    let control = dir.path().join("control.sock");
    let sidecore = paths::sidecore().unwrap();
    for command in [["status", "--json"], ["guest", "list"], ["reload", "--control"]] {
        let mut args = vec![sidecore.as_os_str()];
        args.extend(command.iter().filter(|word| **word != "--control").map(|word| std::ffi::OsStr::new(*word)));
        args.extend(["--control".as_ref(), control.as_os_str()]);
        let output = run(&args, Duration::from_secs(5)).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(stderr.contains("control.sock") && stderr.starts_with("error:"), "{stderr}");
    }
}

//! Operators who get it wrong: one clear error, exit status 1, at once, and nothing left behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidecore_tests::paths;
use sidecore_tests::process::run;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};

/// An error is there within this, also where others have the CPUs.
const AT_ONCE: Duration = Duration::from_secs(10);

fn entries(dir: &Path) -> Result<BTreeSet<String>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What a failed start must leave as it was. Others' DPDK processes have entries of their own.
fn surroundings(dir: &Path) -> Result<Vec<BTreeSet<String>>> {
    let mut all = vec![entries(dir)?];
    for place in ["/dev/hugepages", "/var/run/dpdk", "/dev/shm"] {
        let mut found = entries(Path::new(place)).unwrap_or_default();
        found.retain(|name| name.contains("sidecore"));
        all.push(found);
    }
    Ok(all)
}

/// Another switch may start while this test runs: what has a process's number in its name is that process's while it lives.
fn is_somebody_elses(name: &str) -> bool {
    let process = name.rsplit('-').next().filter(|number| number.parse::<u32>().is_ok());
    process.is_some_and(|number| Path::new("/proc").join(number).exists())
}

/// A configuration: lines of its `[switch]` section and what follows it.
struct Wrong<'a> {
    dir: &'a Path,
    switch: String,
    ports: String,
}

impl<'a> Wrong<'a> {
    fn new(dir: &'a Path, switch: &str, ports: &str) -> Self {
        Self { dir, switch: switch.to_owned(), ports: ports.to_owned() }
    }

    fn to_toml(&self) -> String {
        let control = self.dir.join("control.sock");
        format!(
            "[switch]\nio_cores = [0]\ncontrol_socket = \"{}\"\nhugepages = \"off\"\n{}\n{}\n",
            control.display(),
            self.switch,
            self.ports
        )
    }

    /// Starts a switch, under another command where there is one, that must not start.
    fn fails(&self, under: &[&str], words: &[&str], limit: Duration) -> Result<()> {
        let file = self.dir.join("wrong.toml");
        std::fs::write(&file, self.to_toml())?;
        let around = surroundings(self.dir)?;
        let binary = paths::sidecore()?;
        let mut command: Vec<&OsStr> = under.iter().map(|word| OsStr::new(*word)).collect();
        command.extend([binary.as_os_str(), "run".as_ref(), "--config".as_ref(), file.as_os_str()]);
        let start = Instant::now();
        let output = run(&command, Duration::from_secs(60))?;
        let took = start.elapsed();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error:")).collect();
        ensure!(output.status.code() == Some(1), "ended with {}: {text}", output.status);
        ensure!(errors.len() == 1, "{} errors: {text}", errors.len());
        for word in words {
            ensure!(text.contains(word), "no {word:?} in {text}");
        }
        ensure!(took < limit, "took {took:?}: {text}");
        let now = surroundings(self.dir)?;
        ensure!(now[0] == around[0], "{:?} instead of {:?}", now[0], around[0]);
        let new = around.iter().zip(&now).flat_map(|(before, after)| after.difference(before));
        let left: Vec<&String> = new.filter(|name| !is_somebody_elses(name)).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        println!("  {took:.1?}: {}", errors[0]);
        Ok(())
    }
}

fn guest(name: &str, socket: &Path, more: &str) -> String {
    format!("[[guest]]\nname = \"{name}\"\nsocket = \"{}\"\n{more}\n", socket.display())
}

#[test]
fn a_start_that_cannot_succeed_ends_in_one_clear_error() {
    let _machine = Machine::exclusive().unwrap();
    let folder = SwitchProcess::folder().unwrap();
    let dir = folder.path();
    let file = dir.join("file");
    std::fs::write(&file, "precious").unwrap();
    let many = |count: usize, more: &str| -> String {
        (0..count).map(|n| guest(&format!("g{n}"), &dir.join(format!("g{n}.sock")), more)).collect()
    };
    let state = format!("state_file = \"{}\"", file.display());
    let cases: Vec<(&str, Wrong<'_>, Vec<&str>)> = vec![
        ("too little memory", Wrong::new(dir, "memory_mib = 1", ""), vec!["memory_mib"]),
        ("more memory than there is", Wrong::new(dir, "memory_mib = 900000", ""), vec!["memory_mib"]),
        ("a socket nowhere", Wrong::new(dir, "", &guest("a", Path::new("/no/such/s"), "")), vec!["/no/such"]),
        ("a socket that is a folder", Wrong::new(dir, "", &guest("a", Path::new("/tmp"), "")), vec!["not a socket"]),
        ("too many guests", Wrong::new(dir, "", &many(1025, "")), vec!["1024"]),
        ("too many queue pairs", Wrong::new(dir, "", &many(300, "queue_pairs = 16")), vec!["queue pairs"]),
        ("a damaged state file", Wrong::new(dir, &state, ""), vec!["file", "damaged"]),
        ("a state file nowhere", Wrong::new(dir, "state_file = \"/no/such/state\"", ""), vec!["/no/such"]),
        ("a log level", Wrong::new(dir, "log_level = \"loud\"", ""), vec!["loud"]),
    ];
    let mut failed = Vec::new();
    for (name, wrong, words) in cases {
        println!("{name}");
        // A thousand ports are started before there is one too many.
        let limit = if name.contains("many") { AT_ONCE * 5 } else { AT_ONCE };
        if let Err(error) = wrong.fails(&[], &words, limit) {
            failed.push(format!("{name}: {error:#}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_start_where_a_guests_socket_is_somebody_elses() {
    let _machine = Machine::exclusive().unwrap();
    let folder = SwitchProcess::folder().unwrap();
    let first = SwitchConfig::new(folder.path()).guest("vm1", &[]);
    let switch = SwitchProcess::start(&first).unwrap();
    let other = SwitchProcess::folder().unwrap();
    let same_guest = Wrong::new(other.path(), "", &guest("vm1", &first.socket("vm1"), ""));
    same_guest.fails(&[], &["vm1.sock", "in use"], AT_ONCE).unwrap();

    // Nobody may write in a folder of root's; the configuration can be read.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(other.path(), open).unwrap();
    let guarded = folder.path().join("vm2.sock");
    let elsewhere = Wrong::new(other.path(), "", &guest("vm2", &guarded, ""));
    elsewhere.fails(&nobody, &["vm2.sock", "ermission"], AT_ONCE).unwrap();
    // The first one has noticed nothing.
    assert!(switch.status().unwrap().port("vm1").is_ok());
}

#[test]
fn a_state_file_that_can_no_longer_be_written_changes_nothing() {
    let _machine = Machine::exclusive().unwrap();
    let folder = SwitchProcess::folder().unwrap();
    let state = folder.path().join("state.json");
    let config = SwitchConfig::new(folder.path()).key(&format!("state_file = \"{}\"", state.display()));
    let switch = SwitchProcess::start(&config).unwrap();
    let socket = config.socket("x").display().to_string();
    // A folder where the new file is to be made: not even root can write there.
    std::fs::create_dir(folder.path().join("state.json.new")).unwrap();
    let output = switch.cli(&["guest", "add", "x", "--socket", &socket]).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error:") && text.contains("state.json") && text.contains("cannot be written"), "{text}");
    assert!(!Path::new(&socket).exists());
    assert!(switch.status().unwrap().ports.is_empty());
    std::fs::remove_dir(folder.path().join("state.json.new")).unwrap();
    switch.must(&["guest", "add", "x", "--socket", &socket]).unwrap();
}

//! The binary as its user sees it, as far as that needs no data plane: help, configuration files, and every start that
//! must fail before anything is half started.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

fn sidecore(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecore")).args(args).env_remove("SIDECORE_CONTROL").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The message of a command that fails as one should: exit status 1, soon, and one error on standard error.
fn failure(args: &[&str]) -> String {
    let start = Instant::now();
    let output = sidecore(args);
    assert!(start.elapsed() < Duration::from_secs(10), "{args:?} took {:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
    text
}

/// A folder for a configuration file and what it names.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a configuration with this control socket and more keys of `[switch]`.
    fn config(&self, more: &str) -> String {
        let file = self.path("sidecore.toml");
        let socket = self.text("control.sock");
        fs::write(&file, format!("[switch]\nio_cores = [0]\ncontrol_socket = {socket:?}\n{more}\n")).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn help_is_there_for_everything() {
    for args in [
        "--help",
        "run --help",
        "status --help",
        "guest --help",
        "guest add --help",
        "guest remove --help",
        "guest list --help",
        "uplink --help",
        "uplink add --help",
        "fdb show --help",
        "metrics list --help",
        "reload --help",
        "config check --help",
        "config schema --help",
    ] {
        let text = stdout(&sidecore(&args.split(' ').collect::<Vec<_>>()));
        assert!(text.contains("Usage: sidecore"), "{args}: {text}");
    }
    for args in ["--help", "guest add --help", "uplink add --help"] {
        let text = stdout(&sidecore(&args.split(' ').collect::<Vec<_>>()));
        assert!(text.contains("Examples:\n  sidecore "), "{args}: {text}");
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    for args in [&[][..], &["explode"], &["run"], &["guest", "add", "vm1"], &["guest", "remove"]] {
        assert_eq!(sidecore(args).status.code(), Some(2), "{args:?}");
    }
    let output = sidecore(&["run", "--config", "/x", "--control", "/y"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("switch.control_socket in the configuration"), "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecore"));
    let output = command.args(["config", "schema"]).env("SIDECORE_CONTROL", "/y").output().unwrap();
    assert!(output.status.success(), "the environment is for all commands: {output:?}");
}

#[test]
fn examples_are_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path();
        let text = stdout(&sidecore(&["config", "check", "--any-machine", file.to_str().unwrap()]));
        assert!(text.contains(": ok ("), "{text}");
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn the_schema_is_json() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&sidecore(&["config", "schema"]))).unwrap();
    assert!(schema["properties"]["switch"].is_object());
    assert!(schema["$defs"]["Guest"]["properties"]["socket"]["description"].is_string());
}

#[test]
fn a_bad_file_is_one_error_that_names_key_line_and_remedy() {
    let folder = Folder::new();
    let cases = [
        ("io_cores = [0]\nio_cores = [0]", "not TOML"),
        ("fdb_entrys = 7", "sidecore.toml:4:1: switch.fdb_entrys"),
        ("hugepages = \"some\"", "sidecore.toml:4"),
        ("http_listen = \"localhost\"", "switch.http_listen"),
        ("[[guest]]\nname = \"a\"\nsocket = \"relative\"", "guest[0].socket"),
        (
            "[[guest]]\nname = \"a\"\nsocket = \"/x\"\n[[guest]]\nname = \"a\"\nsocket = \"/y\"",
            "is taken by guest[0].name (line 5)",
        ),
        ("[[uplink]]\nname = \"a\"\ndevice = \"eth0\"", "net_af_xdp0,iface=eth0"),
    ];
    for (more, expected) in cases {
        let file = folder.config(more);
        for command in [&["config", "check", &file][..], &["run", "--config", &file]] {
            let text = failure(command);
            assert!(text.contains(expected) && text.contains("remedy: "), "{more}: {text}");
        }
    }
    let text = folder.config("").replace("sidecore.toml", "missing.toml");
    assert!(failure(&["run", "--config", &text]).contains("missing.toml: cannot be read"));
    fs::write(folder.path("sidecore.toml"), "[switch]\nio_cores = [0, 0]\n").unwrap();
    assert!(failure(&["run", "--config", &folder.text("sidecore.toml")]).contains("allow_shared_cpu"));
    fs::write(folder.path("sidecore.toml"), "[switch]\nio_cores = [4000]\n").unwrap();
    assert!(failure(&["run", "--config", &folder.text("sidecore.toml")]).contains("CPU 4000 is not online"));
    assert_eq!(folder.names(), ["sidecore.toml"]);
}

#[test]
fn a_second_switch_on_the_same_control_socket_is_refused() {
    let folder = Folder::new();
    let _first = UnixListener::bind(folder.path("control.sock")).unwrap();
    let text = failure(&["run", "--config", &folder.config("")]);
    assert!(text.starts_with("error: a second switch on the same control socket"), "{text}");
    assert_eq!(folder.names(), ["control.sock", "sidecore.toml"]);
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let state = folder.text("state.json");
    let cases = [
        (format!("http_listen = \"{}\"", taken.local_addr().unwrap()), "HTTP cannot listen on"),
        ("state_file = \"/nonexistent/state.json\"".to_owned(), "/nonexistent/state.json cannot be kept"),
        (format!("state_file = {state:?}"), "is damaged"),
    ];
    fs::write(&state, "{").unwrap();
    for (more, expected) in cases {
        let text = failure(&["run", "--config", &folder.config(&more)]);
        assert!(text.contains(expected), "{text}");
        assert_eq!(folder.names(), ["sidecore.toml", "state.json"]);
    }
    assert_eq!(fs::read_to_string(&state).unwrap(), "{", "the damaged file is kept for repair");

    fs::write(folder.path("control.sock"), "a file").unwrap();
    assert!(failure(&["run", "--config", &folder.config("")]).contains("is not a socket"));
    assert_eq!(fs::read_to_string(folder.path("control.sock")).unwrap(), "a file");

    let elsewhere = folder.config("").replace("sidecore.toml", "other.toml");
    fs::write(&elsewhere, "[switch]\nio_cores = [0]\ncontrol_socket = \"/nonexistent/control.sock\"\n").unwrap();
    assert!(failure(&["run", "--config", &elsewhere]).contains("mkdir -p /nonexistent"));
}

#[test]
fn a_bad_log_filter_is_an_error() {
    let folder = Folder::new();
    let output = Command::new(env!("CARGO_BIN_EXE_sidecore"))
        .args(["run", "--config", &folder.config("")])
        .env("RUST_LOG", "sidecore=loud")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: RUST_LOG is not a log filter"));
    assert_eq!(folder.names(), ["sidecore.toml"]);
}

#[test]
fn without_a_switch_commands_say_how_to_start_one() {
    let folder = Folder::new();
    let socket = folder.text("control.sock");
    for command in [&["status"][..], &["status", "--json"], &["reload"], &["guest", "list"], &["fdb", "show"]] {
        let args = [command, &["--control", &socket]].concat();
        let text = failure(&args);
        assert!(text.contains("no switch runs on the control socket") && text.contains("sidecore run"), "{text}");
    }
    // What a killed switch left behind.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(failure(&["status", "--control", &socket]).contains("no switch runs"));
    let output = Command::new(env!("CARGO_BIN_EXE_sidecore")).arg("status").env("SIDECORE_CONTROL", &socket).output();
    assert!(String::from_utf8(output.unwrap().stderr).unwrap().contains(&socket));
}

#[test]
fn the_metrics_are_listed_without_a_switch() {
    let table = stdout(&sidecore(&["metrics", "list"]));
    assert!(table.starts_with("METRIC ") && table.contains("\nsidecore_queue_kicks_total "), "{table}");
    let json: serde_json::Value = serde_json::from_str(&stdout(&sidecore(&["metrics", "list", "--json"]))).unwrap();
    let list = json.as_array().unwrap();
    assert_eq!(list.len() + 1, table.lines().count());
    let busy = list.iter().find(|metric| metric["name"] == "sidecore_core_busy_seconds_total").unwrap();
    assert_eq!(
        (&busy["type"], &busy["labels"][0], &busy["series"]["per_core"]),
        (&"counter".into(), &"core".into(), &1.into())
    );
    assert!(stdout(&sidecore(&["metrics", "list", "--markdown"])).starts_with("# Metrics\n"));
}

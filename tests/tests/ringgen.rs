//! The generator against the built switch: every workload, and what it counts against what the switch counts.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sidecore_tests::paths;
use sidecore_tests::process::{Process, run};
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use tempfile::TempDir;

/// A run of the generator that is not over by then hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for what is under way at the end, a quarter of it without any packet: on a machine that others load, neither the switch nor the
/// generator may get a CPU for a while, and what is not waited for is counted as lost.
const DRAIN_S: &str = "2";

/// Tests take turns: each wants two CPUs for itself.
static TURN: Mutex<()> = Mutex::new(());

/// A switch with guest ports p0, p1, ... and nobody at them yet.
struct Rig {
    // Dropped in this order.
    switch: SwitchProcess,
    config: SwitchConfig,
    ports: usize,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    fn new(ports: usize, lines: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = SwitchProcess::folder().unwrap();
        let names: Vec<String> = (0..ports).map(|n| format!("p{n}")).collect();
        let config = names.iter().fold(SwitchConfig::new(dir.path()), |config, name| config.guest(name, lines));
        let switch = SwitchProcess::start(&config).unwrap();
        Rig { switch, config, ports, dir, _turn: turn }
    }

    /// Command line for guests at ports `from` to `to` - 1.
    fn command(&self, line: &str, ports: std::ops::Range<usize>, role: &str) -> Vec<OsString> {
        let mut command = vec![paths::ringgen().unwrap().into_os_string()];
        command.extend(line.split_whitespace().map(OsString::from));
        for port in ports {
            let socket = self.config.socket(&format!("p{port}"));
            command.extend(["--guest".into(), format!("{}{role}", socket.display()).into()]);
        }
        command.extend(["--drain-s", DRAIN_S, "--json", "-"].map(OsString::from));
        command
    }

    /// Runs the generator with guests at all ports; returns its report.
    fn ringgen(&self, line: &str) -> Value {
        self.ringgen_as(line, "")
    }

    fn ringgen_as(&self, line: &str, role: &str) -> Value {
        let output = run(&self.command(line, 0..self.ports, role), LIMIT).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ringgen {line}: {error}\n{}", self.switch.log());
        assert_eq!(error, "", "ringgen {line}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The end of a run of streams between these guests: nothing was spoiled on the way, and what the generator missed is
    /// what the switch says that it dropped.
    fn finish(self, report: &Value) {
        assert_clean(report);
        let accounting = self.switch.quiet_status().unwrap().accounting;
        assert_eq!(count(report, "lost"), accounting.dropped, "{report}\n{accounting:?}");
        assert_eq!(count(report, "lost"), count(report, "sent") - count(report, "received"));
        self.switch.stop().unwrap();
    }
}

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no {key} in {report}"))
}

fn assert_clean(report: &Value) {
    for key in ["duplicated", "reordered", "corrupted", "late", "misdelivered", "foreign", "ring_faults"] {
        assert_eq!(count(report, key), 0, "{key} in {report}");
    }
    assert!(report["pps"].as_f64().unwrap() > 0.0, "{report}");
    assert!((0.0..=1.0).contains(&report["generator_idle"].as_f64().unwrap()), "{report}");
}

#[test]
fn stream_over_either_ring() {
    for ring in ["split", "packed"] {
        for verify in ["order", "full"] {
            let rig = Rig::new(2, &[]);
            let report = rig.ringgen(&format!("stream --ring {ring} --verify {verify} --duration-s 0.5 --cpu 0"));
            assert!(count(&report, "received") > 1000, "{report}");
            assert_eq!(report["negotiated"][1]["ring"], ring);
            let packed = report["negotiated"][0]["feature_names"].as_array().unwrap().contains(&"RING_PACKED".into());
            assert_eq!(packed, ring == "packed");
            rig.finish(&report);
        }
    }
}

#[test]
fn stream_that_nobody_looks_at() {
    let rig = Rig::new(2, &[]);
    let report = rig.ringgen("stream --verify none --duration-s 0.3");
    assert!(count(&report, "received") > 1000 && report["duplicated"].is_null(), "{report}");
    assert_eq!(count(&report, "lost"), rig.switch.quiet_status().unwrap().accounting.dropped);
    rig.switch.stop().unwrap();
}

#[test]
fn rings_of_every_shape() {
    for shape in [
        "--event-idx on --in-order on --indirect on",
        "--ring packed --event-idx on --in-order on --indirect on --ring-size 200",
        "--ring-size 1024 --buffers 64 --size 1518",
        "--mrg-rxbuf off --offloads on --burst 7",
        "--rx-buffer 256 --size mix --ring packed",
    ] {
        let rig = Rig::new(2, &[]);
        let report = rig.ringgen(&format!("stream --verify full --duration-s 0.2 {shape}"));
        assert!(count(&report, "received") > 100, "{shape}: {report}");
        rig.finish(&report);
    }
}

#[test]
fn stream_at_a_rate() {
    let rig = Rig::new(2, &[]);
    let report = rig.ringgen("stream --rate 5000 --duration-s 1 --size mix --verify full");
    let pps = report["pps"].as_f64().unwrap();
    // Others may want the CPU, but nothing makes a rate too high.
    assert!((200.0..=5300.0).contains(&pps), "{report}");
    assert!(count(&report["latency_ns"], "count") > 100, "{report}");
    rig.finish(&report);
}

#[test]
fn rates_can_change_while_packets_flow() {
    let rig = Rig::new(4, &[]);
    let (rates, live) = (rig.dir.path().join("rates"), rig.dir.path().join("live"));
    // In place: the generator has it mapped.
    let mut file = std::fs::File::create(&rates).unwrap();
    let mut set = |each: [u64; 2]| {
        file.rewind().unwrap();
        file.write_all(&each.map(u64::to_le_bytes).concat()).unwrap();
    };
    let sent = || {
        let bytes = std::fs::read(&live).unwrap_or_default();
        let word =
            |row: usize| bytes.chunks_exact(8).nth(row * 5 + 3).map(|w| u64::from_le_bytes(w.try_into().unwrap()));
        [word(0).unwrap_or(0), word(1).unwrap_or(0)]
    };
    set([4000, 0]);
    let line = format!("stream --rates {} --live {} --duration-s 20", rates.display(), live.display());
    let command = rig.command(&line, 0..4, "");
    let mut generator =
        Process::spawn("ringgen", &command[0], &command[1..], &rig.dir.path().join("ringgen.log")).unwrap();
    generator.wait_until("packets of guest 0", LIMIT, |_| Ok((sent()[0] > 500).then_some(()))).unwrap();
    assert_eq!(sent()[1], 0, "guest 2 is told to be silent");
    set([0, 4000]);
    generator.wait_until("packets of guest 2", LIMIT, |_| Ok((sent()[1] > 500).then_some(()))).unwrap();
    let still = sent()[0];
    generator.wait_until("more of guest 2", LIMIT, |_| Ok((sent()[1] > 1000).then_some(()))).unwrap();
    assert_eq!(sent()[0], still, "guest 0 is silent now");
    let (status, _) = generator.stop(rustix::process::Signal::INT, LIMIT).unwrap();
    assert!(status.success(), "{}", generator.tail());
    rig.switch.stop().unwrap();
}

#[test]
fn pings_have_neighbours_that_stream() {
    let rig = Rig::new(6, &[]);
    let report = rig.ringgen("pingpong --rate 5000 --size 594 --verify full --duration-s 1");
    assert!(count(&report["latency_ns"], "count") > 0, "{report}");
    let guests = report["per_guest"].as_array().unwrap();
    for (from, to) in [(2, 3), (4, 5)] {
        let sent = count(&guests[from], "sent");
        assert!(sent > 100 && count(&guests[to], "received") == sent, "{report}");
        assert_eq!(count(&guests[to], "sent"), 0, "{report}");
    }
    assert_eq!(count(&report, "lost"), 0, "{report}");
    assert_clean(&report);
    rig.switch.stop().unwrap();
}

#[test]
fn duplex_is_a_stream_in_both_directions() {
    let rig = Rig::new(4, &["queue_pairs = 2"]);
    let line =
        "duplex --queue-pairs 2 --flows 4 --ring packed --verify full --in-flight 40 --patience-s 0 --duration-s 0.5";
    let report = rig.ringgen(line);
    assert_eq!(count(&report, "flows"), 4 * 4);
    let guests = report["per_guest"].as_array().unwrap();
    for (guest, peer) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        let sent = count(&guests[guest], "sent");
        assert!(sent > 100 && count(&guests[peer], "received") == sent, "{report}");
    }
    assert_eq!(count(&report, "lost"), 0, "{report}");
    rig.finish(&report);
}

/// The rows of a file that `--live` made.
fn rows(file: &Path) -> Vec<[u64; 5]> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let words: Vec<u64> = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    words.chunks_exact(5).map(|row| row.try_into().unwrap()).collect()
}

#[test]
fn counts_can_be_read_meanwhile_and_a_run_ends_when_it_is_told_to() {
    let rig = Rig::new(2, &[]);
    let (live, log) = (rig.dir.path().join("live"), rig.dir.path().join("ringgen.log"));
    let line = format!(
        "duplex --flows 2 --in-flight 50 --patience-s 0 --warmup-s 0 --duration-s 3600 --live {}",
        live.display()
    );
    let command = rig.command(&line, 0..2, "");
    let mut process = Process::spawn("ringgen", &command[0], &command[1..], &log).unwrap();
    let seen = process
        .wait_until("packets of all flows", LIMIT, |_| {
            let rows = rows(&live);
            Ok((rows.len() == 4 && rows.iter().all(|row| row[4] > 1000)).then_some(rows))
        })
        .unwrap();
    let from_to: Vec<_> = seen.iter().map(|row| (row[0], row[1], row[2])).collect();
    assert_eq!(from_to, [(0, 0, 1), (0, 0, 1), (1, 0, 0), (1, 0, 0)]);
    assert!(process.stop(rustix::process::Signal::INT, LIMIT).unwrap().0.success(), "{}", process.tail());
    let report: Value = serde_json::from_str(process.output().trim()).unwrap();
    // In the end they are those of the report.
    let sum = |rows: &[[u64; 5]], word: usize| rows.iter().map(|row| row[word]).sum::<u64>();
    let last = rows(&live);
    assert_eq!((sum(&last, 3), sum(&last, 4)), (count(&report, "sent"), count(&report, "received")));
    assert!(sum(&last, 4) > sum(&seen, 4) && count(&report, "lost") == 0, "{report}");
    rig.finish(&report);
}

#[test]
fn guests_stay_connected_between_measurements() {
    for workload in ["stream --ring packed --verify full", "pingpong"] {
        let rig = Rig::new(2, &[]);
        let command = rig.command(&format!("{workload} --warmup-s 0.02 --duration-s 0.1 --on-request"), 0..2, "");
        let mut process = Process::spawn("ringgen", &command[0], &command[1..], &rig.dir.path().join("log")).unwrap();
        let mut reports: Vec<Value> = Vec::new();
        for turn in 0..3 {
            process.say("").unwrap();
            let text = process
                .wait_until("report", LIMIT, |process| {
                    Ok(process
                        .output()
                        .split_inclusive('\n')
                        .nth(turn)
                        .filter(|t| t.ends_with('\n'))
                        .map(str::to_owned))
                })
                .unwrap();
            reports.push(serde_json::from_str(&text).unwrap());
            // Nobody sends anything while nobody asks.
            let pulled = || rig.switch.quiet_status().unwrap().accounting.pulled;
            let before = pulled();
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(pulled(), before);
        }
        process.close_stdin();
        assert!(process.wait(LIMIT).unwrap().0.success(), "{}", process.tail());
        let seconds = |report: &Value| report["duration_s"].as_f64().unwrap();
        for pair in reports.windows(2) {
            // Counts are of all turns.
            assert!(count(&pair[1], "sent") > count(&pair[0], "sent"), "{pair:?}");
        }
        // Rates and times are of one; at the end they, too, are of all of them.
        let all: Value = serde_json::from_str(process.output().lines().nth(3).unwrap()).unwrap();
        assert_eq!(count(&all, "sent"), count(&reports[2], "sent"));
        assert!((seconds(&all) - reports.iter().map(seconds).sum::<f64>()).abs() < 1e-6, "{all} {reports:?}");
        let packets = |report: &Value| report["pps"].as_f64().unwrap() * seconds(report);
        assert!((packets(&all) - reports.iter().map(packets).sum::<f64>()).abs() < 0.5, "{all} {reports:?}");
        let timed = |report: &Value| count(&report["latency_ns"], "count");
        assert_eq!(timed(&all), reports.iter().map(timed).sum::<u64>());
        if workload == "pingpong" {
            let most = count(&reports[2], "sent") - count(&reports[1], "sent");
            assert!((1..=most).contains(&timed(&reports[2])), "{reports:?}");
        }
        assert_clean(&all);
        rig.switch.stop().unwrap();
    }
}

#[test]
fn a_signal_ends_a_generator_that_waits_to_be_asked() {
    let rig = Rig::new(2, &[]);
    let command = rig.command("stream --warmup-s 0.02 --duration-s 0.1 --on-request", 0..2, "");
    let mut process = Process::spawn("ringgen", &command[0], &command[1..], &rig.dir.path().join("log")).unwrap();
    process.say("").unwrap();
    process.wait_for_output("\n", LIMIT).unwrap();
    let (status, _) = process.stop(rustix::process::Signal::INT, LIMIT).unwrap();
    assert!(status.success(), "{}", process.tail());
    rig.switch.stop().unwrap();
}

#[test]
fn mesh_of_four_guests_with_many_flows_and_addresses() {
    let rig = Rig::new(4, &[]);
    let report = rig.ringgen("mesh --flows 6 --macs 3 --verify full --rate 20000 --duration-s 0.5");
    assert_eq!(count(&report, "flows"), 4 * 3 * 6);
    for guest in report["per_guest"].as_array().unwrap() {
        assert!(count(guest, "sent") > 500 && count(guest, "received") > 500, "{report}");
    }
    rig.finish(&report);
}

#[test]
fn pingpong_times_every_round_trip() {
    for options in ["", "--ring packed --window 8 --verify full", "--background-pps 20000 --verify full --size 512"] {
        let rig = Rig::new(2, &[]);
        // No warm-up: what is counted is then what is timed.
        let report = rig.ringgen(&format!("pingpong --warmup-s 0 --duration-s 0.5 {options}"));
        assert_clean(&report);
        assert_eq!(count(&report, "lost"), 0, "{report}");
        let (trips, timed) = (count(&report, "received"), count(&report["latency_ns"], "count"));
        assert_eq!(trips, count(&report, "sent"));
        // Those that were under way at the end of the measured time come back after it.
        assert!(timed > 10 && timed <= trips && trips - timed <= 8, "{report}");
        let [p50, p99, max] = ["p50", "p99", "max"].map(|key| count(&report["latency_ns"], key));
        assert!(0 < p50 && p50 <= p99 && p99 <= max, "{report}");
        if options.contains("background") {
            let background = &report["background"];
            assert!(count(background, "received") > 1000, "{report}");
            let dropped = rig.switch.quiet_status().unwrap().accounting.dropped;
            assert_eq!(count(background, "lost"), dropped, "{report}");
        }
        rig.switch.stop().unwrap();
    }
}

#[test]
fn guests_that_sleep_are_called_for_what_they_get() {
    for (ring, events) in [("split", "off"), ("split", "on"), ("packed", "off"), ("packed", "on")] {
        let rig = Rig::new(2, &[]);
        let run = |work: &str| {
            let report = rig
                .ringgen(&format!("{work} --guest-mode interrupt --ring {ring} --event-idx {events} --duration-s 0.4"));
            assert_clean(&report);
            assert!(count(&report, "calls") > 20, "{report}");
            report
        };
        let figure = |report: &Value, key: &str| report[key].as_f64().unwrap();
        let pings = run("pingpong --window 4");
        assert!(count(&pings, "received") > 100 && count(&pings, "lost") == 0, "{pings}");
        let seldom = run("stream --rate 500 --verify full");
        assert!(count(&seldom, "received") > 50 && count(&seldom, "lost") == 0, "{seldom}");
        // They sleep in between. Where others have the CPU meanwhile, one call is for several packets.
        assert!(figure(&seldom, "generator_cpu") < 0.7 && figure(&seldom, "calls_per_packet") <= 1.5, "{seldom}");
        // A sender whose ring is full sleeps, too.
        let stream = run("stream --verify full");
        assert!(count(&stream, "received") > 1000 && figure(&stream, "calls_per_packet") < 1.0, "{stream}");
        rig.finish(&stream);
    }
}

#[test]
fn bursts_leave_the_switch_in_peace_in_between() {
    let rig = Rig::new(2, &[]);
    let report = rig.ringgen("bursty --on-us 200 --off-us 20000 --duration-s 0.6");
    assert!(count(&report, "received") > 100, "{report}");
    // With 1 % of the time for sending, most of it has nothing in it.
    assert!(report["generator_idle"].as_f64().unwrap() > 0.3, "{report}");
    rig.finish(&report);
}

#[test]
fn tso_segments_arrive_whole() {
    for ring in ["split", "packed"] {
        let rig = Rig::new(2, &[]);
        let report = rig.ringgen(&format!("stream --size tso --verify full --ring {ring} --duration-s 0.5"));
        assert_eq!(count(&report, "size"), 65_000);
        let bytes = report["gbps"].as_f64().unwrap() / 8.0 * 1e9 / report["pps"].as_f64().unwrap();
        assert!((bytes - 65_000.0).abs() < 1.0, "{bytes} bytes a packet: {report}");
        assert_eq!(count(&report, "lost"), 0, "{report}");
        rig.finish(&report);
    }
}

#[test]
fn sixty_four_guests() {
    let rig = Rig::new(64, &[]);
    let report = rig.ringgen("stream --rate 500 --duration-s 0.5 --buffers 32 --size mix");
    assert_eq!(count(&report, "guests"), 64);
    for (number, guest) in report["per_guest"].as_array().unwrap().iter().enumerate() {
        let key = if number % 2 == 0 { "sent" } else { "received" };
        assert!(count(guest, key) > 20, "guest {number}: {report}");
    }
    assert_clean(&report);
    // At the beginning all of them say where they are, which is more than 32 buffers hold at once: some of that may be dropped, and said again.
    let dropped = rig.switch.quiet_status().unwrap().accounting.dropped;
    let lost = count(&report, "lost");
    assert!(lost <= dropped && lost == count(&report, "sent") - count(&report, "received"), "{dropped}: {report}");
    rig.switch.stop().unwrap();
}

#[test]
fn eight_queue_pairs() {
    let rig = Rig::new(2, &["queue_pairs = 8"]);
    let report = rig.ringgen("stream --queue-pairs 8 --flows 64 --verify full --ring packed --duration-s 0.5");
    assert_eq!(count(&report, "queue_pairs"), 8);
    let sender = rig.switch.status().unwrap().port("p0").unwrap().clone();
    assert_eq!(sender.queues.len(), 8);
    assert!(sender.queues.iter().all(|queue| queue.tx.packets > 0), "{sender:?}");
    rig.finish(&report);
}

#[test]
fn guests_that_listen() {
    let rig = Rig::new(2, &["socket_role = \"client\""]);
    let report = rig.ringgen_as("stream --duration-s 0.3", ",server");
    assert!(count(&report, "received") > 1000, "{report}");
    rig.finish(&report);
}

/// A second generator, at port p1, under way.
fn start_second(rig: &Rig, line: &str, log: &Path) -> Process {
    let command = rig.command(&format!("{line} --first-guest 1 --expect-peer --duration-s 1"), 1..2, "");
    let mut process = Process::spawn("ringgen", &command[0], &command[1..], log).unwrap();
    // It has to be known to the switch before somebody sends to it.
    process
        .wait_until("be known to the switch", LIMIT, |_| {
            Ok(rig.switch.must(&["fdb", "show"])?.contains("02:5c:00:01:00:01").then_some(()))
        })
        .unwrap();
    process
}

#[test]
fn source_to_sink_in_another_process() {
    let rig = Rig::new(2, &[]);
    let log = rig.dir.path().join("sink.log");
    let mut sink = start_second(&rig, "sink --verify full", &log);
    let line = "source --to 02:5c:00:01:00:01 --duration-s 2 --verify full";
    let output = run(&rig.command(line, 0..1, ""), LIMIT).unwrap();
    let source: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(sink.wait(LIMIT).unwrap().0.success());
    let report: Value = serde_json::from_str(sink.output().trim()).unwrap();
    assert_clean(&report);
    assert!(count(&report, "received") > 1000 && count(&report, "sent") == 0, "{report}");
    // All of it was taken from the source, and nothing came back to it.
    let (sent, completed) = (count(&source, "sent"), count(&source, "completed"));
    assert!((sent..sent + 20).contains(&completed), "{source}");
    assert_eq!(count(&source, "received"), 0, "{source}");
    assert!(source["pps"].as_f64().unwrap() > 0.0, "{source}");
    rig.switch.stop().unwrap();
}

#[test]
fn echo_sends_back_what_a_source_sends() {
    ["poll", "interrupt"].iter().for_each(|mode| echo_sends_back(mode));
}

fn echo_sends_back(mode: &str) {
    let rig = Rig::new(2, &[]);
    let log = rig.dir.path().join("echo.log");
    let mut echo = start_second(&rig, &format!("echo --guest-mode {mode}"), &log);
    let line = "source --to 02:5c:00:01:00:01 --duration-s 2 --rate 20000 --verify full";
    let output = run(&rig.command(line, 0..1, ""), LIMIT).unwrap();
    let source: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(echo.wait(LIMIT).unwrap().0.success());
    let report: Value = serde_json::from_str(echo.output().trim()).unwrap();
    assert!(report["pps"].as_f64().unwrap() > 1000.0, "{report}");
    assert_eq!(count(&report, "sent"), count(&report, "received"), "{report}");
    // What comes back is what was sent, byte for byte.
    assert_clean(&source);
    assert!(count(&source, "received") > 1000, "{source}");
    rig.switch.stop().unwrap();
}

#[test]
fn what_cannot_be_run_is_said() {
    let rig = Rig::new(2, &[]);
    let fails = |line: &str, ports: std::ops::Range<usize>, words: &str| {
        let output = run(&rig.command(line, ports, ""), LIMIT).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {error}");
        assert!(error.contains(words), "{line}: {error}");
    };
    fails("stream", 0..1, "two guests at least");
    fails("stream --connect-timeout-s 0.3", 1..3, "p2.sock");
    fails("stream --queue-pairs 4", 0..2, "MQ");
    fails("stream --cpu 9999", 0..2, "CPU 9999");
    fails("sink --expect-peer --connect-timeout-s 0.3", 0..1, "nobody has sent anything");
    fails("stream --on-request", 0..2, "standard input");
    rig.switch.stop().unwrap();
}

#[test]
fn guests_that_a_switch_keeps_apart_are_not_measured() {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = SwitchProcess::folder().unwrap();
    let config =
        SwitchConfig::new(dir.path()).guest("p0", &["vlan = { access = 10 }"]).guest("p1", &["vlan = { access = 20 }"]);
    let switch = SwitchProcess::start(&config).unwrap();
    let rig = Rig { switch, config, ports: 2, dir, _turn: turn };
    let output = run(&rig.command("stream --connect-timeout-s 0.5", 0..2, ""), LIMIT).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("no frame of guest 0 reaches guest 1"), "{error}");
    assert_eq!(output.status.code(), Some(1));
    rig.switch.stop().unwrap();
}

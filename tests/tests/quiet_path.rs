//! An I/O core makes no system call while it moves packets between vhost-user guests and net_null, but for the eventfd write of a call to
//! a guest that wants one. Seen from outside: strace on the core's thread of a running switch.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sidecore_tests::process::{Process, eventually};
use sidecore_tests::rules::{Machine, skip};
use sidecore_tests::switch::{Status, SwitchConfig, SwitchProcess};
use synthetic_guest::packet::{FrameSpec, Template};
use synthetic_guest::{Backing, CallMode, Features, Frame, Guest, GuestConfig};
use tempfile::TempDir;

/// How long a core is watched, at least, and how many packets of each kind it has to move meanwhile.
const WATCH: Duration = Duration::from_millis(500);
const PACKETS: u64 = 20_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Frames that fill a NIC's mbufs: some times as many as there are.
const PRIMED: usize = 16_384;

/// Guests, by the numbers of their addresses; and somebody behind the NICs.
const NAMES: [&str; 4] = ["left", "right", "sink", "source"];
const NUMBERS: [u32; 4] = [1, 2, 3, 4];
const STRANGER: u32 = 99;

/// What strace saw of the core's thread.
#[derive(Debug, Default)]
struct Trace {
    /// Writes of a one to an eventfd.
    calls: u64,
    /// Everything else.
    others: Vec<String>,
}

impl Trace {
    fn read(text: &str) -> Self {
        let mut trace = Self::default();
        for line in text.lines() {
            let call =
                line.starts_with("write(") && line.contains(r#", "\1\0\0\0\0\0\0\0", 8)"#) && line.ends_with("= 8");
            // The watch over the cores signals one that did not end a round for 20 ms, because it has no CPU or strace holds it: the
            // thread returns from the handler.
            let freed = line.starts_with("--- SIGURG") || line.starts_with("rt_sigreturn(");
            let detached = line.contains("<detached");
            if call {
                trace.calls += 1;
            } else if !freed && !detached && !line.is_empty() {
                trace.others.push(line.to_owned());
            }
        }
        trace
    }
}

/// A switch with one core, and guests on both sides of two NICs: one that only receives and one that only sends.
struct Load {
    switch: SwitchProcess,
    guests: Vec<Guest>,
    templates: [Template; 3],
    dir: TempDir,
    _machine: Machine,
}

impl Load {
    /// Each kind of traffic has a VLAN of its own: 1 between guests, 10 from a NIC, 20 to one.
    fn start(features: Features, calls: CallMode) -> Result<Self> {
        let machine = Machine::exclusive()?;
        let dir = SwitchProcess::folder()?;
        let config = SwitchConfig::new(dir.path())
            // Nobody ever answers from behind net_null: what is sent there is flooded.
            .key("flood_rate_pps = 0")
            .guest("left", &[])
            .guest("right", &[])
            .guest("sink", &["vlan = { access = 10 }"])
            .guest("source", &["vlan = { access = 20 }"])
            .uplink("rain", "net_null0,size=60", &["vlan = { access = 10 }"])
            .uplink("drain", "net_null1,no-rx=1", &["vlan = { access = 20 }"]);
        let switch = SwitchProcess::start(&config)?;
        let guests = NAMES.iter().map(|name| Guest::start(guest(&config, name, features, calls)));
        let guests = guests.collect::<Result<_, _>>()?;
        let template = |from: usize, to: u32| Template::new(FrameSpec::udp4(NUMBERS[from], to, 0, 60));
        let templates = [template(0, NUMBERS[1]), template(1, NUMBERS[0]), template(3, STRANGER)];
        let mut load = Self { switch, guests, templates, dir, _machine: machine };
        load.prime()?;
        // Everybody has been heard once before anything is watched.
        load.run_until(Instant::now() + LIMIT, |status| Ok(moved(status)?.iter().all(|count| *count > 0)))?;
        Ok(load)
    }

    /// Puts frames for the sink into the mbufs of the NIC that it receives from: net_null hands over its mbufs with whatever was in
    /// them, and what was in them last is what a guest sent through it.
    fn prime(&mut self) -> Result<()> {
        let [_, _, sink, _] = NUMBERS;
        let frame = Template::new(FrameSpec::udp4(STRANGER, sink, 0, 60));
        let known = Template::new(FrameSpec::udp4(sink, STRANGER, 0, 60));
        let guest = &mut self.guests[2];
        let end = Instant::now() + LIMIT;
        let mut sent = 0;
        while sent < PRIMED {
            sent += guest.pair(0).tx.send_burst(&[Frame::from(frame.bytes()); 32]);
            guest.pair(0).tx.reclaim();
            ensure!(Instant::now() < end, "the switch took {sent} of {PRIMED} frames");
        }
        // Only now is the sink where its own frames are for.
        eventually("room for a frame", LIMIT, || {
            let tx = &mut guest.pair(0).tx;
            tx.reclaim();
            Ok((tx.in_flight() == 0).then_some(()))
        })?;
        ensure!(guest.pair(0).tx.send_burst(&[Frame::from(known.bytes())]) == 1, "no room for one frame");
        Ok(())
    }

    /// All guests send and receive what they can, until a time or a condition of the status.
    fn run_until(&mut self, end: Instant, done: impl Fn(&Status) -> Result<bool>) -> Result<()> {
        loop {
            // Asking takes a while, in which nothing is sent.
            let ask = Instant::now() + Duration::from_millis(100);
            while Instant::now() < ask {
                self.step();
            }
            if done(&self.switch.status()?)? {
                return Ok(());
            }
            ensure!(Instant::now() < end, "too few packets moved: {:?}", moved(&self.switch.status()?));
        }
    }

    fn step(&mut self) {
        for (guest, template) in [(0, 0), (1, 1), (3, 2)] {
            let tx = &mut self.guests[guest].pair(0).tx;
            tx.reclaim();
            tx.send_burst(&[Frame::from(self.templates[template].bytes()); 32]);
        }
        for guest in &mut self.guests {
            guest.pair(0).rx.recv_burst(usize::MAX, |_| ());
        }
    }

    /// Watches the core while packets move.
    fn watch(&mut self) -> Result<Option<Trace>> {
        let file = self.dir.path().join("trace");
        let Some(mut strace) = attach(core_thread(self.switch.process().pid())?, &file)? else { return Ok(None) };
        let begin = Instant::now();
        let before = moved(&self.switch.status()?)?;
        self.run_until(begin + LIMIT, |status| {
            let now = moved(status)?;
            let enough = now.iter().zip(&before).all(|(now, before)| now - before >= PACKETS);
            Ok(enough && begin.elapsed() >= WATCH)
        })?;
        strace.stop(Signal::INT, LIMIT)?;
        Ok(Some(Trace::read(&fs::read_to_string(&file)?)))
    }

    fn calls(&self) -> Result<u64> {
        Ok(self.switch.status()?.ports.iter().map(|port| port.calls).sum())
    }
}

fn guest(config: &SwitchConfig, name: &str, features: Features, calls: CallMode) -> GuestConfig {
    let mut guest = GuestConfig::new(config.socket(name));
    guest.ram.backing = Backing::Pages;
    guest.session.features = features;
    guest.session.reply_timeout = LIMIT;
    guest.calls = calls;
    guest
}

/// Packets moved: between the guests each way, from the NIC into the sink, and from the source to the other NIC.
fn moved(status: &Status) -> Result<[u64; 4]> {
    let given = |name: &str| Ok::<_, anyhow::Error>(status.port(name)?.given().packets);
    Ok([given("left")?, given("right")?, given("sink")?, given("drain")?])
}

/// The thread of the only I/O core.
fn core_thread(pid: u32) -> Result<i32> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "io-core-0") {
            return task.file_name().to_str().and_then(|id| id.parse().ok()).context("a thread without a number");
        }
    }
    bail!("the switch has no thread io-core-0")
}

/// Attaches strace to one thread; `None` where nobody may trace.
fn attach(thread: i32, file: &Path) -> Result<Option<Process>> {
    let log = file.with_extension("log");
    let file = file.display().to_string();
    let mut strace = Process::spawn("strace", "strace", ["-p", &thread.to_string(), "-o", &file], &log)?;
    let traced = strace.wait_for_output("attached", LIMIT);
    if strace.output().contains("Operation not permitted") {
        return Ok(None);
    }
    traced.map(|()| Some(strace))
}

/// Guests that poll: not one system call. Guests that want calls: those, and nothing else but what they take.
fn only_calls(name: &str, features: Features) {
    let mut polling = Load::start(features, CallMode::Never).unwrap();
    let Some(quiet) = polling.watch().unwrap() else {
        return skip(name, "nobody may trace processes here");
    };
    assert_eq!((quiet.calls, quiet.others.as_slice()), (0, &[][..]), "while guests poll");
    polling.switch.stop().unwrap();
    drop((polling.guests, polling.dir, polling._machine));

    let mut interrupted = Load::start(features, CallMode::Always).unwrap();
    let before = interrupted.calls().unwrap();
    let calls = interrupted.watch().unwrap().expect("what could be traced before can be traced");
    let counted = interrupted.calls().unwrap() - before;
    // Traced, a write takes so long that the next ones are measured by the thread's CPU time, before and after each.
    let is_time = |call: &&String| call.starts_with("clock_gettime(CLOCK_THREAD_CPUTIME_ID");
    let (times, others): (Vec<&String>, Vec<&String>) = calls.others.iter().partition(is_time);
    assert_eq!(others, [""; 0], "while guests want calls");
    assert!(times.len() as u64 <= 2 * (calls.calls + 1), "{} times asked for {} calls", times.len(), calls.calls);
    // The trace sees system calls, and no more of them than the switch says it made.
    assert!((1..=counted).contains(&calls.calls), "{} calls traced, {counted} counted", calls.calls);
    interrupted.switch.stop().unwrap();
}

#[test]
fn split_rings_make_no_system_call() {
    only_calls("split_rings_make_no_system_call", Features::VERSION_1 | Features::MRG_RXBUF);
}

#[test]
fn packed_rings_make_no_system_call() {
    let features = Features::VERSION_1 | Features::MRG_RXBUF | Features::RING_PACKED;
    only_calls("packed_rings_make_no_system_call", features);
}

//! A switch, guests around it, and what must hold when a test is over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use sidecore_tests::process::eventually;
use sidecore_tests::switch::{Port, SwitchConfig, SwitchProcess};
use synthetic_guest::{Frame, Guest, GuestConfig};
use tempfile::TempDir;

use crate::frames::Packet;

/// Longest wait for anything that has to happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Tests take turns: a switch polls on every CPU it is given.
static TURN: Mutex<()> = Mutex::new(());

/// A switch to be started.
pub(crate) struct Plan {
    dir: TempDir,
    config: SwitchConfig,
    /// Whether guests may be asked to kick.
    asks: bool,
}

impl Plan {
    /// One I/O core and no ports.
    pub(crate) fn new() -> Self {
        let dir = SwitchProcess::folder().unwrap();
        let config = SwitchConfig::new(dir.path());
        Self { dir, config, asks: false }
    }

    /// Three I/O cores: two share the first CPU, the third has the last one.
    pub(crate) fn three_cores() -> Self {
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let Self { dir, config, .. } = Self::new();
        Self { dir, config: config.on_cpus(vec![0, 0, last]), asks: false }
    }

    /// The same, and queue pairs stay where they are unless a test moves them.
    pub(crate) fn three_still_cores() -> Self {
        let plan = Self::three_cores();
        Self { config: plan.config.without_rebalancing(), ..plan }
    }

    /// All but so many I/O cores may be parked. Ticks are long: what the scheduler counts in ticks does not take much longer where it has no CPU.
    pub(crate) fn awake(mut self, cores: usize) -> Self {
        self.config = self.config.awake(cores).scheduler("tick_ms = 50");
        self
    }

    /// Adds a line to the `[switch]` section.
    pub(crate) fn key(mut self, line: &str) -> Self {
        self.config = self.config.key(line);
        self
    }

    /// The switch waits for packets like this.
    pub(crate) fn mode(self, mode: &str) -> Self {
        let asks = mode != "poll";
        Self { asks, ..self.key(&format!("mode = \"{mode}\"")) }
    }

    /// Some guests may be asked to kick.
    pub(crate) fn asks(self) -> Self {
        Self { asks: true, ..self }
    }

    /// Adds a guest.
    pub(crate) fn guest(mut self, name: &str, lines: &[&str]) -> Self {
        self.config = self.config.guest(name, lines);
        self
    }

    /// Adds guests that have nothing but a name.
    pub(crate) fn guests(self, names: &[&str]) -> Self {
        names.iter().fold(self, |plan, name| plan.guest(name, &[]))
    }

    /// Adds an uplink.
    pub(crate) fn uplink(mut self, name: &str, device: &str, lines: &[&str]) -> Self {
        self.config = self.config.uplink(name, device, lines);
        self
    }

    /// Starts the switch, when it is this test's turn.
    pub(crate) fn start(self) -> Rig {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let switch = SwitchProcess::start(&self.config).unwrap();
        let Self { dir, config, asks } = self;
        Rig { switch, config, asks, dir, _turn: turn }
    }
}

/// A running switch.
pub(crate) struct Rig {
    // Dropped in this order.
    pub(crate) switch: SwitchProcess,
    config: SwitchConfig,
    asks: bool,
    dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    /// What a plain guest at port `name` is: VERSION_1, split rings of 256 entries, no offload.
    pub(crate) fn config(&self, name: &str) -> GuestConfig {
        let mut config = GuestConfig::new(self.config.socket(name));
        // An answer takes turns of I/O cores that share their CPUs with all else that runs here.
        config.session.reply_timeout = LIMIT;
        config
    }

    /// Starts a guest at port `name` after `change`s to the plain one. When this returns, the switch serves it.
    pub(crate) fn guest_with(&self, name: &str, change: impl FnOnce(&mut GuestConfig)) -> Node {
        let mut config = self.config(name);
        change(&mut config);
        Node::new(Guest::start(config).unwrap())
    }

    /// Starts plain guests.
    pub(crate) fn guests<const N: usize>(&self, names: [&str; N]) -> [Node; N] {
        names.map(|name| self.guest_with(name, |_| ()))
    }

    /// The folder of the switch's sockets.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A port's status.
    pub(crate) fn port(&self, name: &str) -> Port {
        self.switch.status().unwrap().port(name).unwrap().clone()
    }

    /// A port's drops by reason.
    pub(crate) fn drops(&self, name: &str) -> BTreeMap<String, u64> {
        self.port(name).drops
    }

    /// All that the switch says of itself, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.switch.must(&["status", "--json"]).unwrap()).unwrap()
    }

    /// The I/O cores that are parked.
    pub(crate) fn parked(&self) -> Vec<u64> {
        let cores = self.json()["scheduler"]["parked"].as_array().cloned().unwrap_or_default();
        cores.iter().filter_map(Value::as_u64).collect()
    }

    /// Addresses that were not learnt for `reason`, summed over the cores.
    pub(crate) fn learn_refusals(&self, reason: &str) -> u64 {
        let status = self.json();
        let cores = status["cores"].as_array().unwrap();
        cores.iter().map(|core| core["learn_refusals"][reason].as_u64().unwrap_or(0)).sum()
    }

    /// The MAC table: (VLAN, address, port, configured).
    pub(crate) fn stations(&self) -> Vec<(u64, String, String, bool)> {
        let list: Value = serde_json::from_str(&self.switch.must(&["fdb", "show", "--json"]).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let station =
            |s: &Value| (s["vlan"].as_u64().unwrap(), text(&s["mac"]), text(&s["port"]), s["fixed"].as_bool().unwrap());
        list.as_array().unwrap().iter().map(station).collect()
    }

    /// Waits until nothing moves between cores any more. (On one core, what was completed was delivered before.)
    pub(crate) fn settle(&self) {
        let mut last = None;
        eventually("quiet switch", LIMIT, || {
            let now: Vec<_> = self.switch.quiet_status()?.ports.iter().map(|p| (p.rx, p.tx, p.drops.clone())).collect();
            let same = last.as_ref() == Some(&now);
            last = Some(now);
            Ok(same.then_some(()))
        })
        .unwrap();
    }

    /// The end of a test: the accounting adds up for every source, nobody kicked or wanted to, nothing was logged that
    /// somebody would have to look at, no guest saw a ring or a header that no driver could accept, and the switch
    /// stops as it should.
    pub(crate) fn finish(self, nodes: &mut [&mut Node]) {
        self.finish_but(nodes, &[]);
    }

    /// The same where lines with these words in them are in the log for a reason.
    pub(crate) fn finish_but(self, nodes: &mut [&mut Node], expected: &[&str]) {
        self.settle();
        let status = self.json();
        for port in status["ports"].as_array().unwrap() {
            let name = port["name"].as_str().unwrap();
            assert_identity(name, &port["accounting"]);
            for queue in port["queues"].as_array().unwrap() {
                assert_identity(&format!("{name} queue {}", queue["index"]), &queue["accounting"]);
            }
            assert_eq!(port["kicks_polling"], 0, "{name} kicked and was not asked to");
            assert_eq!(port["faults"], Value::Object(Default::default()), "{name}'s rings were stopped");
        }
        for core in status["cores"].as_array().unwrap() {
            for missed in ["missed_wakeups", "missed_kicks"] {
                assert_eq!(core[missed], 0, "{missed}: a wake-up was lost, and made up for by a timer: {core}");
            }
        }
        if !self.asks {
            nodes.iter_mut().for_each(|node| assert_eq!(node.kicks_wanted(), 0, "the switch asked for kicks"));
        }
        nodes.iter_mut().for_each(|node| node.assert_content());
        let log = self.switch.log();
        for line in log.lines().filter(|line| !expected.iter().any(|words| line.contains(words))) {
            let bad = ["WARN", "ERROR", "panicked"].iter().find(|word| line.contains(**word));
            assert!(bad.is_none(), "{line}");
        }
        self.switch.stop().unwrap();
    }

    /// The switch was told to stop by the test: it does, as it should.
    pub(crate) fn has_stopped(mut self) {
        let (status, _) = self.switch.process().wait(LIMIT).unwrap();
        assert!(status.success() && !self.config.control_socket().exists(), "{status}");
    }
}

fn assert_identity(source: &str, accounting: &Value) {
    let count = |key: &str| accounting[key].as_u64().unwrap();
    assert_eq!(count("in_flight"), 0, "{source}: {accounting}");
    assert_eq!(count("pulled"), count("forwarded") + count("dropped"), "{source}: {accounting}");
    assert_eq!(count("copies"), count("delivered") + count("copy_drops"), "{source}: {accounting}");
}

/// A guest.
pub(crate) struct Node {
    pub(crate) guest: Guest,
    /// Kicks that the rings asked for before the switch had them.
    unserved: u64,
}

impl Node {
    pub(crate) fn new(guest: Guest) -> Self {
        let mut node = Self { guest, unserved: 0 };
        node.unserved = node.kicks_wanted();
        node
    }

    /// Connects again as somebody else.
    pub(crate) fn reconnect_as(&mut self, change: impl FnOnce(&mut GuestConfig)) {
        self.guest.reconnect_as(change).unwrap();
        self.unserved = 0;
        self.unserved = self.kicks_wanted();
    }

    /// Kicks that the switch wanted since it served the rings.
    pub(crate) fn kicks_wanted(&mut self) -> u64 {
        let pairs = self.guest.pairs().iter_mut();
        pairs.map(|pair| pair.rx.bell().kicks_wanted() + pair.tx.bell().kicks_wanted()).sum::<u64>() - self.unserved
    }

    /// Sends all of `packets` on the first queue pair, in order; returns when the switch has given every buffer back.
    pub(crate) fn send(&mut self, packets: &[Packet]) {
        self.send_on(0, packets);
    }

    /// The same on queue pair `pair`.
    pub(crate) fn send_on(&mut self, pair: usize, packets: &[Packet]) {
        let tx = &mut self.guest.pair(pair).tx;
        let deadline = Instant::now() + LIMIT;
        let mut sent = 0;
        while sent < packets.len() || tx.in_flight() > 0 {
            let burst: Vec<Frame<'_>> = packets[sent..].iter().take(32).map(Packet::as_frame).collect();
            sent += if burst.is_empty() { 0 } else { tx.send_burst(&burst) };
            if tx.reclaim() == 0 {
                std::thread::yield_now();
                assert!(Instant::now() < deadline, "the switch does not take what is sent");
            }
        }
    }

    /// What has arrived, on all queue pairs.
    pub(crate) fn received(&mut self) -> Vec<Packet> {
        let count = self.guest.pairs().len();
        (0..count).flat_map(|pair| self.received_on(pair)).collect()
    }

    /// What has arrived on queue pair `pair`.
    pub(crate) fn received_on(&mut self, pair: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        self.guest.pair(pair).rx.recv_burst(usize::MAX, |frame| packets.push(Packet::of(frame)));
        packets
    }

    /// Waits until `count` packets have arrived, and returns them with what came behind them at once.
    pub(crate) fn receive(&mut self, count: usize) -> Vec<Packet> {
        let deadline = Instant::now() + LIMIT;
        let mut packets = self.received();
        while packets.len() < count && Instant::now() < deadline {
            std::thread::yield_now();
            packets.extend(self.received());
        }
        packets
    }

    /// What has arrived, without metadata.
    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        self.received().into_iter().map(|packet| packet.bytes).collect()
    }

    fn assert_content(&mut self) {
        for pair in self.guest.pairs() {
            let stats = pair.rx.stats();
            assert_eq!((stats.bad_frames, stats.bad_num_buffers, stats.incomplete), (0, 0, 0));
            assert_eq!((pair.rx.ring().violations(), pair.tx.ring().violations()), (0, 0));
        }
    }
}

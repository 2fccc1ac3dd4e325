//! What an attack needs: a switch, neighbours that stream, an accomplice, and the counters before and after.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use sidecore_tests::process::eventually;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use synthetic_guest::packet::{FrameSpec, Stamp, Template, mac};
use synthetic_guest::verify::{Verdict, Verifier};
use synthetic_guest::{Backing, Channel, Features, Frame, Guest, GuestConfig};
use tempfile::TempDir;

use crate::neighbours::Neighbours;

/// A neighbour waits for its next packet no longer than this, whatever others do. On an idle machine it is some
/// milliseconds; here I/O cores and guests share two CPUs with whatever else runs.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(3);

/// How long counters may take to say what happened.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Numbers of the guests: of their ports and MAC addresses.
pub(crate) const LEFT: u32 = 1;
/// See [`LEFT`].
pub(crate) const RIGHT: u32 = 2;
/// The accomplice: well-behaved, talks to the attacker.
pub(crate) const EVE: u32 = 3;
/// The attacker.
pub(crate) const MALLORY: u32 = 4;

/// Queue pairs of the attacker's port.
pub(crate) const QUEUE_PAIRS: usize = 8;

/// Everything that can be negotiated.
pub(crate) const ALL_FEATURES: Features = Features(
    Features::VERSION_1.0
        | Features::OFFLOADS.0
        | Features::MRG_RXBUF.0
        | Features::INDIRECT_DESC.0
        | Features::EVENT_IDX.0
        | Features::MQ.0,
);

/// A running stage.
pub(crate) struct Stage {
    pub(crate) switch: SwitchProcess,
    pub(crate) config: SwitchConfig,
    neighbours: Option<Neighbours>,
    eve: Guest,
    /// Number of the last exchange: each has a flow of its own.
    exchange: u16,
    fds: usize,
    _dir: TempDir,
    _machine: Machine,
}

/// What a port has counted, and how it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortState {
    pub(crate) state: String,
    pub(crate) error: String,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) connections: u64,
    /// Packets pulled from the guest.
    pub(crate) tx: u64,
    /// Packets delivered to the guest.
    pub(crate) rx: u64,
}

impl PortState {
    fn read(port: &Value) -> Self {
        let counts = |key: &str| -> BTreeMap<String, u64> {
            let object = port[key].as_object().into_iter().flatten();
            object.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default())).collect()
        };
        Self {
            state: port["state"].as_str().unwrap_or_default().to_owned(),
            error: port["error"].as_str().unwrap_or_default().to_owned(),
            drops: counts("drops"),
            refused: counts("refused"),
            faults: counts("faults"),
            connections: port["session"]["connections"].as_u64().unwrap_or_default(),
            tx: port["tx"]["packets"].as_u64().unwrap_or_default(),
            rx: port["rx"]["packets"].as_u64().unwrap_or_default(),
        }
    }

    pub(crate) fn drops_of(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or_default()
    }

    pub(crate) fn faults_of(&self, reason: &str) -> u64 {
        self.faults.get(reason).copied().unwrap_or_default()
    }
}

/// One request on the control socket, without a process of its own.
pub(crate) fn ask(control: &Path, request: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("{request}: {line}"))
}

impl Stage {
    /// A switch with one I/O core for everybody.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(|config| config)
    }

    /// The same with changes of the configuration.
    pub(crate) fn start_with(change: impl FnOnce(SwitchConfig) -> SwitchConfig) -> Result<Self> {
        let machine = Machine::exclusive()?;
        let dir = SwitchProcess::folder()?;
        let pairs = format!("queue_pairs = {QUEUE_PAIRS}");
        let config = SwitchConfig::new(dir.path())
            // What attackers flood must not fill the neighbours' receive rings: that would be Ethernet, not an attack.
            .key("flood_rate_pps = 1000")
            .key("learn_limit_per_port = 100")
            .guest("left", &[])
            .guest("right", &[])
            .guest("eve", &[&format!("mac = \"{}\"", text(mac(EVE)))])
            .guest("mallory", &[&format!("mac = \"{}\"", text(mac(MALLORY))), &pairs]);
        let config = change(config);
        let switch = SwitchProcess::start(&config)?;
        let neighbours = Neighbours::start([config.socket("left"), config.socket("right")])?;
        let mut eve = plain(&config, "eve");
        eve.rx_ring = 4096;
        let eve = Guest::start(eve)?;
        let mut stage = Self {
            switch,
            config,
            neighbours: Some(neighbours),
            eve,
            exchange: 0,
            fds: 0,
            _dir: dir,
            _machine: machine,
        };
        stage.fds = stage.open_files()?;
        Ok(stage)
    }

    /// Runs an attack. Afterwards the switch answers, the neighbours go on and have not waited, the attacked port serves a
    /// well-behaved guest, and the switch holds no descriptor it did not hold before.
    pub(crate) fn attack(&mut self, name: &str, attack: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        self.neighbours()?.take_wait();
        attack(self).with_context(|| format!("{name}\n{}", self.explain()))?;
        let took = begin.elapsed();
        self.recovers().with_context(|| format!("after {name}\n{}", self.explain()))?;
        let wait = self.neighbours()?.take_wait();
        println!("{name}: {took:.1?}, recovered after {:.1?}, neighbours waited {wait:.1?}", begin.elapsed() - took);
        ensure!(wait < STALL_LIMIT, "{name}: the neighbours waited {wait:?}\n{}", self.explain());
        Ok(())
    }

    fn neighbours(&self) -> Result<&Neighbours> {
        self.neighbours.as_ref().context("the neighbours have stopped")
    }

    fn recovers(&mut self) -> Result<()> {
        self.neighbours()?.wait_progress()?;
        self.serves_mallory()?;
        let fds = self.fds;
        eventually("closed descriptors", SOON, || Ok((self.open_files()? <= fds).then_some(())))
            .with_context(|| format!("{:?} descriptors, {fds} before", self.open_files()))
    }

    /// A well-behaved guest on the attacker's port exchanges packets with the accomplice.
    pub(crate) fn serves_mallory(&mut self) -> Result<()> {
        let mut guest = Guest::start(plain(&self.config, "mallory"))?;
        self.wait_state("mallory", "running")?;
        self.exchange_with(&mut guest)?;
        guest.disconnect();
        drop(guest);
        self.wait_state("mallory", "waiting").map(drop)
    }

    /// Exchanges packets between a guest on the attacker's port and the accomplice: each must arrive, in order.
    pub(crate) fn exchange_with(&mut self, guest: &mut Guest) -> Result<()> {
        const FRAMES: u64 = 32;
        self.exchange += 1;
        let flow = 1000 + self.exchange;
        one_way(guest, &mut self.eve, FrameSpec::udp4(MALLORY, EVE, flow, 300), FRAMES)?;
        one_way(&mut self.eve, guest, FrameSpec::udp4(EVE, MALLORY, flow, 300), FRAMES)
    }

    /// Connects a guest to the attacker's port.
    pub(crate) fn mallory(&self, change: impl FnOnce(&mut GuestConfig)) -> Result<Guest> {
        let mut config = plain(&self.config, "mallory");
        change(&mut config);
        let guest = Guest::start(config)?;
        self.wait_state("mallory", "running")?;
        Ok(guest)
    }

    /// Connects a bare socket to the attacker's port.
    pub(crate) fn channel(&self) -> Result<Channel> {
        let stream = UnixStream::connect(self.config.socket("mallory"))?;
        Ok(Channel::new(stream, SOON)?)
    }

    /// The accomplice.
    pub(crate) fn eve(&mut self) -> &mut Guest {
        &mut self.eve
    }

    /// Lets the accomplice send `count` packets to the attacker, whether it can take them or not.
    pub(crate) fn eve_sends(&mut self, count: usize, len: usize) -> Result<()> {
        let template = Template::new(FrameSpec::udp4(EVE, MALLORY, 999, len));
        let mut left = count;
        let deadline = Instant::now() + SOON;
        while left > 0 {
            let frames = vec![Frame::from(template.bytes()); left.min(32)];
            left -= self.eve.pair(0).tx.send_burst(&frames);
            ensure!(Instant::now() < deadline, "the accomplice cannot send");
        }
        eventually("completion of the accomplice's packets", SOON, || {
            let tx = &mut self.eve.pair(0).tx;
            tx.reclaim();
            Ok((tx.in_flight() == 0).then_some(()))
        })
    }

    /// A port as it is now.
    pub(crate) fn port(&self, name: &str) -> Result<PortState> {
        let status = self.status()?;
        let ports = status["ports"].as_array().context("no ports")?;
        let port = ports.iter().find(|port| port["name"] == name).with_context(|| format!("no port {name}"))?;
        Ok(PortState::read(port))
    }

    /// The whole status.
    pub(crate) fn status(&self) -> Result<Value> {
        Ok(self.ask(&json!({"command": "status"}))?["ok"]["status"].take())
    }

    /// A request on the control socket.
    pub(crate) fn ask(&self, request: &Value) -> Result<Value> {
        ask(&self.config.control_socket(), request)
    }

    /// Waits until a port is in a state.
    pub(crate) fn wait_state(&self, name: &str, state: &str) -> Result<PortState> {
        self.wait_for(name, state, |port| port.state == state)
    }

    /// Waits until a port satisfies `condition`.
    pub(crate) fn wait_for(&self, name: &str, what: &str, condition: impl Fn(&PortState) -> bool) -> Result<PortState> {
        eventually(&format!("{what} at {name}"), SOON, || Ok(Some(self.port(name)?).filter(&condition)))
            .with_context(|| format!("{name} is {:?}", self.port(name)))
    }

    /// Waits until exactly `count` packets of a port were dropped for a reason since `before`.
    pub(crate) fn dropped(&self, name: &str, before: &PortState, reason: &str, count: u64) -> Result<()> {
        let more = |port: &PortState| port.drops_of(reason) - before.drops_of(reason);
        let port = self.wait_for(name, &format!("{count} drops as {reason}"), |port| more(port) >= count)?;
        ensure!(more(&port) == count, "{} drops as {reason} instead of {count}: {port:?}", more(&port));
        Ok(())
    }

    /// Waits until the attacker's ring was stopped for a reason, once since `before`, and the port says so.
    pub(crate) fn faulted(&self, before: &PortState, reason: &str) -> Result<()> {
        let more = |port: &PortState| port.faults_of(reason) - before.faults_of(reason);
        let port = self.wait_for("mallory", &format!("fault {reason}"), |port| more(port) > 0)?;
        ensure!(more(&port) == 1, "{} faults {reason}: {port:?}", more(&port));
        ensure!(port.state == "stopped" && !port.error.is_empty(), "{port:?}");
        Ok(())
    }

    fn open_files(&mut self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.switch.process().pid()))?.count())
    }

    fn explain(&mut self) -> String {
        format!("{}\n{}", self.switch.must(&["status"]).unwrap_or_default(), self.switch.process().tail())
    }

    /// The end: every packet of the neighbours arrived, everything is accounted for, and the switch stops.
    pub(crate) fn finish(mut self) -> Result<()> {
        let Some(neighbours) = self.neighbours.take() else { bail!("the neighbours have stopped") };
        neighbours.stop()?.check().with_context(|| self.explain())?;
        self.switch.quiet_status()?;
        // How fast it stops is for tests that have the machine to themselves: `lifecycle`.
        let (status, _) = self.switch.process().stop(Signal::TERM, SOON)?;
        ensure!(status.success(), "the switch ended with {status}");
        ensure!(!self.config.control_socket().exists(), "the control socket is left behind");
        Ok(())
    }
}

/// A guest without special wishes.
pub(crate) fn plain(config: &SwitchConfig, port: &str) -> GuestConfig {
    let mut guest = GuestConfig::new(config.socket(port));
    guest.ram.backing = Backing::Pages;
    guest.session.reply_timeout = SOON;
    guest
}

/// A MAC address as configurations have it.
pub(crate) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn one_way(from: &mut Guest, to: &mut Guest, spec: FrameSpec, count: u64) -> Result<()> {
    let mut template = Template::new(spec);
    // What arrived for others, or before.
    let _ = to.pair(0).rx.recv_burst(usize::MAX, |_| ());
    let mut frames = Vec::new();
    for sequence in 0..count {
        template.stamp(Stamp { flow: spec.flow, sequence, time_ns: 0 });
        frames.push(template.bytes().to_vec());
    }
    let frames: Vec<Frame<'_>> = frames.iter().map(|frame| frame.as_slice().into()).collect();
    from.pair(0).tx.reclaim();
    ensure!(from.pair(0).tx.send_burst(&frames) == frames.len(), "no room to send");
    let mut verifier = Verifier::new();
    let mut next = 0;
    eventually("the packets of an exchange", SOON, || {
        to.pair(0).rx.recv_burst(64, |frame| {
            if let Verdict::Good(stamp) = verifier.check_received(frame)
                && stamp.flow == spec.flow
                && stamp.sequence == next
            {
                next += 1;
            }
        });
        Ok((next == count).then_some(()))
    })
    .with_context(|| format!("{next} of {count} packets from {:?}", spec.from))
}

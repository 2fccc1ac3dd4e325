//! Workloads on a rig: guests whose driver side is `synthetic_guest`, I/O cores that are polled by hand. Between two refills nothing but
//! the cores' own poll function runs.
#![allow(dead_code, reason = "each program that has a rig needs a part of it")]

pub(crate) mod circle;
pub(crate) mod echo;
mod guest;
pub(crate) mod interrupts;
pub(crate) mod sharing;
pub(crate) mod shift;

use std::sync::OnceLock;

use pmd_bindings::{Eal, EalConfig, LogLevel, PciDevices};
use sidecore::rig::{Mode, Rig, RigPort, Share};
use synthetic_guest::Features;
use synthetic_guest::packet::{FrameSpec, Stamp, Template, mac};
use synthetic_guest::verify::Verifier;

use guest::{Guest, Idle};

/// Packets of a full burst.
pub(crate) const BURST: usize = 32;
/// Descriptors of every ring.
pub(crate) const RING: usize = 256;
/// Bytes of a frame with the longest IPv4 packet.
pub(crate) const LONGEST: usize = 65_535 + 14;
/// Stations that a core knows beside those that talk, numbered from here on.
const CROWD: u32 = 1024;
const CROWD_FROM: u32 = 1000;
/// Idle queue pairs have addresses with these numbers.
const IDLERS: u32 = 10_000;
/// The two that talk, by the numbers of their addresses.
const HERE: u32 = 1;
const THERE: u32 = 2;
/// The speed of the cores' clock, where it is moved on by hand.
pub(crate) const CYCLES_PER_US: u64 = 1000;
/// Packet memory without hugepages, in MiB.
const MEMORY_MIB: u32 = 64;

/// The features of a guest with split rings, and what makes them packed ones.
pub(crate) const SPLIT: Features = Features(Features::VERSION_1.0 | Features::MRG_RXBUF.0);
pub(crate) const PACKED: Features = Features(SPLIT.0 | Features::RING_PACKED.0);

/// Where the frames of a workload come from and go to.
pub(crate) struct Workload {
    rig: Rig,
    /// That of all guests.
    mode: Mode,
    /// Cores that a packet passes, in this order.
    cores: usize,
    from: Option<Guest>,
    to: Option<Guest>,
    /// The guests' ports, the sender's first.
    #[allow(dead_code, reason = "benches do not ask who is who")]
    pub(crate) ports: Vec<RigPort>,
    idle: Vec<Idle>,
    template: Template,
    verifier: Verifier,
    /// Frames that were to be forwarded, and those before them by which a station made itself known.
    sent: u64,
    announced: u64,
}

impl Workload {
    /// From guest to guest, both on one core or each on its own.
    pub(crate) fn v2v(features: Features, frame_len: usize, cores: usize) -> Self {
        Self::v2v_in(Mode::Poll, features, frame_len, cores)
    }

    /// The same in a switch of another mode, with guests that can kick.
    pub(crate) fn v2v_in(mode: Mode, features: Features, frame_len: usize, cores: usize) -> Self {
        let rig = Rig::in_mode(mode, cores, CYCLES_PER_US * 1_000_000);
        let mut workload = Self { rig, mode, ..Self::new(frame_len, cores) };
        let share = workload.share();
        let (mut from, device) = Guest::that_kicks(features);
        let sender = workload.rig.add_guest_with(0, share, [device]);
        let (mut to, device) = Guest::that_kicks(features);
        let receiver = workload.rig.add_guest_with(cores - 1, share, [device]);
        workload.ports = vec![sender, receiver];
        workload.crowd();
        // The receiver makes itself known, as any station does.
        to.send(&mut Template::new(FrameSpec::udp4(THERE, HERE, 0, frame_len)), 1, |_| Stamp::default());
        assert!(workload.round() | workload.round());
        assert_eq!((from.receive(|_| ()), to.reclaim()), (1, 1), "the receiver's first frame is flooded");
        workload.announced = 1;
        (workload.from, workload.to) = (Some(from), Some(to));
        workload
    }

    /// From a NIC that always has packets into a guest.
    pub(crate) fn p2v(features: Features, frame_len: usize) -> Self {
        let mut workload = Self::new(frame_len, 1);
        let (to, device) = Guest::new(features);
        let port = workload.rig.add_guest(0, [device]);
        workload.rig.fix_station(mac(THERE), port);
        workload.crowd();
        workload.uplink(&format!("size={frame_len}"));
        workload.ports = vec![port];
        workload.to = Some(to);
        workload
    }

    /// From a guest to a NIC that takes everything.
    pub(crate) fn v2p(features: Features, frame_len: usize) -> Self {
        let mut workload = Self::new(frame_len, 1);
        let (from, device) = Guest::new(features);
        workload.rig.add_guest(0, [device]);
        workload.crowd();
        let port = workload.uplink("no-rx=1");
        workload.rig.fix_station(mac(THERE), port);
        workload.from = Some(from);
        workload
    }

    /// The same with so many idle queue pairs on the first core, on guests with as many as there can be.
    pub(crate) fn beside_idle(mut self, pairs: usize) -> Self {
        let mut left = pairs;
        while left > 0 {
            let here = left.min(Idle::PAIRS);
            let (idle, devices) = Idle::new(SPLIT, here, self.mode != Mode::Poll);
            self.rig.add_guest_with(0, self.share(), devices);
            self.idle.push(idle);
            left -= here;
        }
        self
    }

    /// From a NIC that always has packets to one that takes everything, with no driver in between; what passes the first can be captured.
    pub(crate) fn p2p(frame_len: usize) -> Self {
        let mut workload = Self::new(frame_len, 1);
        workload.crowd();
        let from = workload.uplink(&format!("size={frame_len}"));
        let to = workload.uplink("no-rx=1");
        workload.rig.fix_station(mac(THERE), to);
        workload.ports = vec![from, to];
        workload
    }

    fn new(frame_len: usize, cores: usize) -> Self {
        let template = Template::new(FrameSpec::udp4(HERE, THERE, 0, frame_len));
        Self {
            rig: Rig::new(cores, CYCLES_PER_US * 1_000_000),
            mode: Mode::Poll,
            cores,
            from: None,
            to: None,
            ports: Vec::new(),
            idle: Vec::new(),
            template,
            verifier: Verifier::new(),
            sent: 0,
            announced: 0,
        }
    }

    fn share(&self) -> Share {
        Share { mode: self.mode, ..Share::default() }
    }

    /// Stations that nobody talks to, so that the table is no emptier than in use.
    fn crowd(&mut self) {
        let port = self.rig.add_guest(0, None);
        (0..CROWD).for_each(|number| self.rig.fix_station(mac(CROWD_FROM + number), port));
    }

    fn uplink(&mut self, arguments: &str) -> RigPort {
        add_uplink(&mut self.rig, arguments, self.template.bytes())
    }

    /// The drivers' part: all buffers of the sender are full and all of the receiver are empty.
    pub(crate) fn fill(&mut self) {
        self.send(RING);
    }

    /// The drivers' part: so many frames more.
    pub(crate) fn send(&mut self, count: usize) {
        if let Some(from) = &mut self.from {
            from.reclaim();
            let first = self.sent;
            from.send(&mut self.template, count, |number| Stamp { sequence: first + number, ..Stamp::default() });
        }
        self.sent += count as u64;
    }

    /// Between two rounds: what the cores take for time.
    pub(crate) fn pass_time(&mut self, us: u64) {
        self.rig.pass_time(us * CYCLES_PER_US);
    }

    /// The cores' part: one round of each that a packet passes. Whether there was anything to do.
    pub(crate) fn round(&mut self) -> bool {
        (0..self.cores).fold(false, |worked, core| self.rig.poll(core) | worked)
    }

    /// The same as a core's thread does it, mailbox and accounting included, at the time that `clock` says.
    pub(crate) fn turn(&mut self, clock: impl Fn() -> u64) -> bool {
        (0..self.cores).fold(false, |worked, core| self.rig.turn(core, &clock) | worked)
    }

    /// Moves the receiver's queue pair to a core.
    pub(crate) fn move_receiver(&mut self, to: usize) {
        let mut moving = self.rig.begin_move(self.ports[1], 0, to);
        while !moving.behind().is_empty() {
            self.rig.publish_move(&mut moving, 0);
        }
        while let Err(still) = self.rig.end_move(moving) {
            moving = still;
            self.round();
        }
    }

    /// Packets forwarded up to now.
    pub(crate) fn forwarded(&self) -> u64 {
        self.rig.totals().forwarded
    }

    /// Whether all frames that were sent have been forwarded.
    pub(crate) fn is_through(&self) -> bool {
        self.forwarded() >= self.announced + self.sent
    }

    /// Whether its idle guests' memory is on hugepages.
    pub(crate) fn has_hugepages(&self) -> bool {
        self.idle.iter().all(Idle::hugepages)
    }

    /// The cores, for whoever asks them what they did.
    #[allow(dead_code, reason = "benches do not")]
    pub(crate) fn rig(&mut self) -> &mut Rig {
        &mut self.rig
    }

    /// Lets the receiver send one frame to the sender, for which it does not kick. Whether it was asked to.
    pub(crate) fn answer_without_a_kick(&mut self) -> bool {
        let Some(to) = &mut self.to else { return false };
        to.lose_kicks();
        let before = to.kicks_wanted();
        let len = self.template.bytes().len();
        to.send(&mut Template::new(FrameSpec::udp4(THERE, HERE, 0, len)), 1, |_| Stamp::default());
        to.kicks_wanted() > before
    }

    /// Frames that the sender has received since this was asked last.
    pub(crate) fn answers(&mut self) -> usize {
        self.from.as_mut().map_or(0, |from| from.receive(|_| ()))
    }

    /// Lets an idle queue pair send one frame, to a station that is known and has no ring.
    pub(crate) fn send_from_idle(&mut self, nth: usize) {
        let from = IDLERS + nth as u32;
        let frame = Template::new(FrameSpec::udp4(from, CROWD_FROM, 0, 60));
        self.idle[nth / Idle::PAIRS].send(nth % Idle::PAIRS, &frame);
    }

    /// Whether that frame was taken since.
    pub(crate) fn was_taken(&mut self, nth: usize) -> bool {
        self.idle[nth / Idle::PAIRS].reclaim(nth % Idle::PAIRS) == 1
    }

    /// The drivers' part after the cores': a whole fill arrived.
    pub(crate) fn drain(&mut self) {
        self.receive(RING);
    }

    /// The drivers' part after the cores': so many frames arrived.
    pub(crate) fn receive(&mut self, count: usize) {
        let Self { from, to, verifier, template, .. } = self;
        if let Some(to) = to {
            let whole = to.receive(|frame| match from {
                Some(_) => {
                    verifier.check_received(frame);
                }
                // A NIC like net_null has but one frame.
                None => assert!(same(frame, template.bytes()), "what was received is not what was sent"),
            });
            assert_eq!(whole, count, "frames received");
        }
    }

    /// Everything that was pulled was forwarded, and what was received is what was sent.
    pub(crate) fn finish(&self) {
        let totals = self.rig.totals();
        assert_eq!((totals.forwarded, totals.dropped), (self.announced + self.sent, 0));
        if self.from.is_some() && self.to.is_some() {
            let report = self.verifier.report();
            assert!(report.is_perfect(self.sent), "{report:?}");
        }
    }
}

/// Guests have hugepages from now on, where enough are free.
pub(crate) fn prefer_hugepages() {
    guest::prefer_hugepages();
}

/// A device of net_null with these arguments, which "receives" this frame again and again.
fn add_uplink(rig: &mut Rig, arguments: &str, frame: &[u8]) -> RigPort {
    static DEVICES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = DEVICES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    rig.add_uplink(eal(), &format!("net_null{number},{arguments}"), None, frame).expect("net_null is part of DPDK")
}

fn same(frame: &synthetic_guest::Received<'_>, sent: &[u8]) -> bool {
    let mut bytes = Vec::new();
    frame.copy_to(&mut bytes);
    bytes == sent
}

/// DPDK's run time, started once in a process, by the thread that polls.
fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let config = EalConfig {
            memory_mib: Some(MEMORY_MIB),
            pci: PciDevices::Off,
            log_level: LogLevel::Error,
            ..EalConfig::default()
        };
        Eal::init(config).expect("EAL starts without hugepages")
    })
}

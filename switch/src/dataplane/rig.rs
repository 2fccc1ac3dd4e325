//! I/O cores without threads, sessions or a clock of their own: benches and tests poll them one round at a time and see exactly what a
//! round does. Ports come to a core the way they do in the running switch: through its mailbox.

use std::sync::Arc;

pub use config::Mode;
use pmd_bindings::{Eal, Mbuf, Mempool, Port, tsc};
use scheduler::{Load, QueueId};
use vm_ports::{QueueCounters, QueuePair};

use super::accounting::{self, CoreCounters, SourceId, UplinkCounters};
use super::capture::RigTaps;
use super::device;
use super::handover::{Move, Token};
use super::io_core::{CoreSetup, IoCore};
use super::load::{Intake, LoadMeter, Place, Reading, Traffic, queue_id};
use super::mailbox::{Handed, Mailbox, Message, UplinkShare, mailbox};
use super::ports::{PORTS_MAX, PortEntry, PortTable, Receiver, Way};
use super::reply::{Answer, Reply, reply};
use super::sleep::{Bed, Bells};
pub use super::turns::Share;
use super::uplink_queues::ways;
use super::xcore::connect;
use crate::forwarding::{
    Fdb, FdbSettings, MacAddr, PortId, PortKind, PortVlans, SourceCheck, TokenBucket, VlanId, VlanSet,
};

/// Stations a core has room for: what `fdb_entries` is by default.
const STATIONS: usize = 16_384;
/// Addresses a port may learn, at once too.
const LEARN_LIMIT: u32 = 1024;

/// What a guest is charged for a packet of this length, in bytes copied (see `turns`).
#[must_use]
pub fn cost(frame_len: usize) -> i64 {
    super::turns::cost(1, frame_len)
}

/// From now on load is accounted for, or not, in all rigs. False: in this build it always is (see the feature `optional-accounting`).
#[must_use]
pub fn set_accounting(on: bool) -> bool {
    accounting::set_accounting(on)
}

/// A port of a rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RigPort(PortId);

impl RigPort {
    /// One of its queue pairs, as [`Rig::load`] calls it.
    #[must_use]
    pub fn queue(self, index: usize) -> QueueId {
        queue_id(self.0, index)
    }
}

/// What a core took from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets.
    pub packets: u64,
    /// Cycles spent on delivering them.
    pub cycles: u64,
}

/// What became of the packets of all ports, on all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets delivered to the one port they were for, or flooded.
    pub forwarded: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// Copies of flooded packets that were dropped.
    pub copy_drops: u64,
    /// Packets handed to another core that have not arrived there.
    pub in_flight: u64,
}

/// What a rig records of its ports.
pub struct RigCapture(RigTaps);

impl RigCapture {
    /// Takes everything that was recorded since this was asked last. How many packets it was.
    pub fn drain(&mut self) -> usize {
        self.0.drain()
    }

    /// Packets that were seen, and those of them that were recorded.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.0.counts()
    }
}

/// Some I/O cores, connected to each other, and their ports.
pub struct Rig {
    cores: Vec<RigCore>,
    /// Where each queue pair is, and what it counts.
    places: Vec<Place>,
    counters: Vec<Arc<QueueCounters>>,
    /// The same of each uplink's queue.
    intakes: Vec<(Intake, Arc<UplinkCounters>)>,
    meter: LoadMeter,
    /// Of the interval that [`Rig::load`] ends next.
    interval: u64,
    table: PortTable,
    ports: u16,
    sources: u16,
    /// The source of each port's first queue pair.
    first_source: Vec<SourceId>,
    /// Class, weight and mode of each port's queue pairs.
    shares: Vec<Share>,
    cycles: u64,
    /// Dropped after the cores, which hold the queues.
    devices: Vec<Port>,
}

struct RigCore {
    core: IoCore,
    mailbox: Mailbox,
    counters: Arc<CoreCounters>,
}

/// A queue pair that moves from core to core.
pub struct RigMove {
    moving: Move,
    table: Arc<PortTable>,
    /// Cores that have not taken the table over.
    behind: Vec<usize>,
    arrival: Answer<Box<Handed>>,
}

impl RigMove {
    /// The cores that do not forward by the table of the move yet.
    #[must_use]
    pub fn behind(&self) -> &[usize] {
        &self.behind
    }
}

impl Rig {
    /// This many cores that poll, without ports. `cycles_per_s` is the speed of the clock that [`Rig::pass_time`] moves on, or that
    /// [`Rig::turn`] is given.
    #[must_use]
    pub fn new(cores: usize, cycles_per_s: u64) -> Self {
        Self::in_mode(Mode::Poll, cores, cycles_per_s)
    }

    /// The same of another mode. None of them sleeps between two turns.
    #[must_use]
    pub fn in_mode(mode: Mode, cores: usize, cycles_per_s: u64) -> Self {
        let once = std::num::NonZeroU32::MIN;
        let learn = std::num::NonZeroU32::new(LEARN_LIMIT).unwrap_or(once);
        // A seed that is always the same, so that every run does the same.
        let fdb = FdbSettings {
            capacity: STATIONS,
            ports: PORTS_MAX,
            ageing_s: learn,
            learn_rate: learn,
            learn_burst: learn,
            cycles_per_s,
            seed: [1, 2, 3, 4],
        };
        let bells = Arc::new(Bells::new(cores, cycles_per_s).expect("eventfds"));
        let cores = connect(cores).0.into_iter().enumerate().map(|(index, links)| {
            let (sender, receiver) = mailbox();
            let counters = Arc::new(CoreCounters::new());
            let core = IoCore::new(CoreSetup {
                index,
                mode,
                bells: Arc::clone(&bells),
                bed: (mode != Mode::Poll).then(|| Bed::new(bells.alarm(index).expect("a bell")).expect("epoll")),
                mailbox: receiver,
                links,
                counters: Arc::clone(&counters),
                fdb: Fdb::new(&fdb),
                flood: TokenBucket::UNLIMITED,
                epoch: 0,
                cycles_per_s,
                shares_cpu: false,
            });
            RigCore { core, mailbox: sender, counters }
        });
        Self {
            cores: cores.collect(),
            places: Vec::new(),
            counters: Vec::new(),
            intakes: Vec::new(),
            meter: LoadMeter::new(cycles_per_s),
            interval: 0,
            table: PortTable::default(),
            ports: 0,
            sources: 0,
            first_source: Vec::new(),
            shares: Vec::new(),
            cycles: 0,
            devices: Vec::new(),
        }
    }

    /// A guest all of whose queue pairs are on one core.
    pub fn add_guest(&mut self, core: usize, pairs: impl IntoIterator<Item = QueuePair>) -> RigPort {
        self.add_guest_with(core, Share::default(), pairs)
    }

    /// The same with another class or weight.
    pub fn add_guest_with(&mut self, core: usize, share: Share, pairs: impl IntoIterator<Item = QueuePair>) -> RigPort {
        let port = self.open_port(PortKind::Guest);
        self.shares[port.index()] = share;
        let mut receivers = Vec::new();
        for (queue, pair) in pairs.into_iter().enumerate() {
            let source = self.take_source();
            receivers.push(Receiver { queue: queue as u16, core: core as u16 });
            let node = pair.counters().node();
            let (queue_id, traffic) = (queue_id(port, queue), Traffic::default());
            self.places.push(Place { queue: queue_id, source, core, pinned: false, steered: false, traffic, node });
            self.counters.push(Arc::clone(pair.counters()));
            self.tell(core, Message::Attach { port, queue, source, share, pair: Box::new(pair) });
        }
        self.publish(port, Way::Guest(receivers));
        RigPort(port)
    }

    /// An uplink with so many queues, or one for each core, where the device has as many. Every mbuf of its pool holds `frame` from the beginning: what a device like net_null, which
    /// does not touch its packets, "receives".
    ///
    /// # Errors
    /// A device that EAL does not know or that cannot be configured.
    pub fn add_uplink(
        &mut self,
        eal: &Eal,
        device: &str,
        queues: Option<u16>,
        frame: &[u8],
    ) -> Result<RigPort, Box<dyn std::error::Error>> {
        let config = config::UplinkConfig {
            name: "uplink".parse()?,
            device: device.parse()?,
            queues,
            mtu: None,
            vlan: config::Vlan::Access(config::VlanId::DEFAULT),
            stations: Vec::new(),
        };
        let port = self.open_port(PortKind::Uplink);
        let device = eal.hotplug(device)?;
        let (device, pool, pairs) = device::configure(eal, device, self.cores.len(), &config, port)?;
        prefill(&pool, frame);
        let limits = device::limits(&device);
        let queues = pairs.len();
        for (core, queues) in pairs.into_iter().enumerate() {
            let (source, counters) = (self.take_source(), Arc::new(UplinkCounters::default()));
            self.intakes.push((Intake::of(source, core, &counters), Arc::clone(&counters)));
            let share = UplinkShare { port, source, queues, pool: pool.clone(), limits, counters };
            self.tell(core, Message::AttachUplink(Box::new(share)));
        }
        self.publish(port, ways(self.cores.len(), queues));
        self.devices.push(device);
        Ok(RigPort(port))
    }

    /// Captures what comes from a port and what goes to it; each core spends so many hundredths of the time stamp counter's time on it. 100: whatever it
    /// takes.
    pub fn capture(&mut self, port: RigPort, core_share: u32) -> RigCapture {
        let (taps, rig_taps) = RigTaps::new(port.0, self.cores.len(), core_share);
        for (core, tap) in taps.into_iter().enumerate() {
            self.ask(core, |reply| Message::Tap { tap: Box::new(tap), reply });
        }
        RigCapture(rig_taps)
    }

    /// A frontend has asked for so many announcements of a guest on this core. The core has not seen them yet.
    pub fn announce(&mut self, core: usize, port: RigPort, mac: [u8; 6], count: usize) {
        let source = self.first_source[port.0.index()];
        let message = || Message::Announce { port: port.0, source, mac: MacAddr(mac), pending: Arc::default() };
        (0..count).for_each(|_| self.cores[core].mailbox.send(message()));
    }

    /// Ends every capture.
    pub fn end_capture(&mut self) {
        for core in 0..self.cores.len() {
            self.ask(core, |reply| Message::Untap { capture: RigTaps::NUMBER, reply });
        }
    }

    /// Takes what NICs receive for a port to come to the core that it is on, by a rule.
    pub fn steer(&mut self, port: RigPort) {
        let first = port.queue(0);
        self.places.iter_mut().filter(|place| place.queue == first).for_each(|place| place.steered = true);
    }

    /// Makes a station known to be behind a port, as a configured one is.
    pub fn fix_station(&mut self, mac: [u8; 6], port: RigPort) {
        self.tell_all(|| Message::FixStation { vlan: VlanId::DEFAULT, mac: MacAddr(mac), port: port.0 });
    }

    /// Puts a port into a VLAN, whose packets leave it without a tag; `None`: into all VLANs, with a tag.
    pub fn set_vlan(&mut self, port: RigPort, vlan: Option<u16>) {
        let vlans = match vlan.map(VlanId::new) {
            Some(id) => PortVlans::access(id.unwrap_or(VlanId::DEFAULT)),
            None => PortVlans::trunk(VlanSet::all(), None),
        };
        self.table.change(port.0, |entry| entry.vlans = vlans);
        self.publish_table();
    }

    /// Begins to move a queue pair of a port to another core: both cores know. One move can be under way at a time.
    pub fn begin_move(&mut self, port: RigPort, queue: usize, to: usize) -> RigMove {
        let mut from = to;
        let since = self.table.next_version();
        self.table.change(port.0, |entry| {
            let (Way::Guest(ways) | Way::Uplink(ways)) = &mut entry.way;
            let moved = ways.iter_mut().filter(|way| usize::from(way.queue) == queue);
            moved.for_each(|way| from = std::mem::replace(&mut way.core, to as u16).into());
        });
        let moving = Move { port: port.0, queue: queue as u16, from: from as u16, to: to as u16, since };
        let (reply, arrival) = reply();
        let token = Token::for_cores(config::MAX_IO_CORES);
        let source = SourceId(self.first_source[port.0.index()].0 + queue as u16);
        let share = self.shares[port.0.index()];
        let handed = Handed { moving, source, share, pair: None, token, left: 0, arrived: None, reply: Some(reply) };
        self.ask(to, |reply| Message::Expect { moving, reply });
        self.ask(from, |reply| Message::Give { handed: Box::new(handed), reply });
        RigMove { moving, table: Arc::new(self.table.clone()), behind: (0..self.cores.len()).collect(), arrival }
    }

    /// Makes the `nth` of the cores that are [behind](RigMove::behind) take over the table of the move.
    pub fn publish_move(&mut self, moving: &mut RigMove, nth: usize) {
        let table = Arc::clone(&moving.table);
        let core = moving.behind.remove(nth);
        self.ask(core, |reply| Message::Table { table, moving: Some(moving.moving), reply });
    }

    /// Ends the move, if the queue pair is served by its new core; gives it back where it is not.
    ///
    /// # Errors
    /// The move, where it is not over.
    ///
    /// # Panics
    /// Where it is over, and the queue pair was lost on the way.
    pub fn end_move(&mut self, moving: RigMove) -> Result<(), RigMove> {
        if !moving.arrival.is_over() {
            return Err(moving);
        }
        let handed = moving.arrival.wait();
        assert!(handed.is_some_and(|handed| handed.arrived.is_some()), "the queue pair has arrived");
        let Move { port, queue, to, .. } = moving.moving;
        let moved = self.places.iter_mut().find(|place| place.queue == queue_id(port, queue.into()));
        moved.into_iter().for_each(|place| place.core = to.into());
        Ok(())
    }

    /// One round of a core over everything it owns. Whether there was anything to do.
    pub fn poll(&mut self, core: usize) -> bool {
        let now = self.cycles;
        // Reading the clock costs what it costs a thread; the time is the rig's.
        self.cores[core].core.poll(&|| {
            std::hint::black_box(tsc());
            now
        })
    }

    /// Lets time pass for all cores between two rounds; [`Rig::poll`] itself takes none.
    pub fn pass_time(&mut self, cycles: u64) {
        self.cycles += cycles;
        self.cores.iter_mut().for_each(|core| core.core.tick(self.cycles));
    }

    /// The turn that a core's thread takes: mailbox, round and accounting, at the time that `clock` says. Whether there was anything to do.
    #[inline]
    pub fn turn(&mut self, core: usize, clock: impl Fn() -> u64) -> bool {
        self.cores[core].core.turn(clock).unwrap_or(false)
    }

    /// What a core does before it stops looking at its clock.
    pub fn release_calls(&mut self, core: usize) {
        self.cores[core].core.release_calls();
    }

    /// What all cores and queue pairs did since this was asked last, at the time `now`; nothing in the first answer.
    pub fn load(&mut self, now: u64) -> Load {
        let cores: Vec<&CoreCounters> = self.cores.iter().map(|core| &*core.counters).collect();
        for (place, counters) in self.places.iter_mut().zip(&self.counters) {
            place.traffic = Traffic::of(counters);
        }
        let intakes: Vec<Intake> =
            self.intakes.iter().map(|(it, counters)| Intake::of(it.source, it.core, counters)).collect();
        let reading = Reading::take(&cores, (&self.places, &intakes), self.interval, now);
        self.interval += 1;
        self.meter.tick(&reading, &[], None)
    }

    /// What a core took from the others up to now.
    #[must_use]
    pub fn received(&self, core: usize) -> Received {
        let counters = &self.cores[core].counters;
        Received { packets: counters.received_packets.get(), cycles: counters.received_cycles.get() }
    }

    /// What became of everything up to now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for core in &self.cores {
            for source in (0..self.sources).map(SourceId) {
                let counters = core.counters.source(source);
                totals.forwarded += counters.forwarded.get();
                totals.in_flight =
                    totals.in_flight.wrapping_add(counters.handed.get()).wrapping_sub(counters.arrived.get());
                let sum = |drops: &[vm_ports::Counter]| drops.iter().map(vm_ports::Counter::get).sum::<u64>();
                totals.dropped += sum(&counters.dropped);
                totals.copy_drops += sum(&counters.copy_drops);
            }
        }
        totals
    }

    fn open_port(&mut self, kind: PortKind) -> PortId {
        let port = PortId(self.ports);
        self.ports += 1;
        self.first_source.push(SourceId(self.sources));
        self.shares.push(Share::default());
        self.tell_all(|| Message::OpenPort { port, kind, limit: LEARN_LIMIT });
        port
    }

    fn take_source(&mut self) -> SourceId {
        self.sources += 1;
        SourceId(self.sources - 1)
    }

    fn publish(&mut self, id: PortId, way: Way) {
        self.table.set(PortEntry { id, vlans: PortVlans::access(VlanId::DEFAULT), check: SourceCheck::ANY, way });
        self.publish_table();
    }

    fn publish_table(&mut self) {
        self.table.next_version();
        let table = Arc::new(self.table.clone());
        for core in 0..self.cores.len() {
            self.ask(core, |reply| Message::Table { table: Arc::clone(&table), moving: None, reply });
        }
    }

    fn tell(&mut self, core: usize, message: Message) {
        let RigCore { core, mailbox, .. } = &mut self.cores[core];
        mailbox.send(message);
        core.read_mailbox();
    }

    /// The answer is there at once.
    fn ask<T: Send + 'static>(&mut self, core: usize, question: impl FnOnce(Reply<T>) -> Message) -> Option<T> {
        let (reply, answer) = reply();
        self.tell(core, question(reply));
        answer.wait()
    }

    fn tell_all(&mut self, message: impl Fn() -> Message) {
        (0..self.cores.len()).for_each(|core| self.tell(core, message()));
    }
}

/// Writes `frame` into every mbuf of the pool, and gives them all back.
fn prefill(pool: &Mempool, frame: &[u8]) {
    let mut all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    for mbuf in &mut all {
        if let Some(bytes) = mbuf.append(frame.len()) {
            bytes.copy_from_slice(frame);
        }
    }
}

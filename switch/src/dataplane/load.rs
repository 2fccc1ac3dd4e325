//! The cores' counters as the scheduler wants them: one tick at a time.
//!
//! [`LoadReader`] reads, [`LoadMeter`] makes differences of it. Nothing is asked of the cores: they write, this reads.

mod brought;
mod steal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pmd_bindings::{tsc, tsc_hz};
use scheduler::{Brought, CoreLoad, IoCore, Load, PortId, QueueId, QueueLoad, Talk};
use vm_ports::QueueCounters;

use self::brought::{FromNics, Received, bring};
use self::steal::Steal;
use super::accounting::{CoreCounters, SourceId, UplinkCounters};
use super::fabric::Fabric;
use super::guest::GuestHost;
use super::interval::Interval;
use super::steering::Steered;
use crate::forwarding;

const NS_PER_S: u128 = 1_000_000_000;

/// A core is taken to get at least this part of its CPU's time: it has to have a capacity.
const LEAST: f64 = 0.05;

/// A queue pair as the scheduler calls it.
pub(super) fn queue_id(port: forwarding::PortId, queue: usize) -> QueueId {
    QueueId { port: PortId(port.0.into()), queue: queue as u16 }
}

/// Cycles of a counter with this speed, in nanoseconds.
pub(super) fn ns(cycles: u64, cycles_per_s: u64) -> u64 {
    (u128::from(cycles) * NS_PER_S / u128::from(cycles_per_s.max(1))) as u64
}

/// A time in cycles.
fn cycles(time: Duration) -> u64 {
    (time.as_secs_f64() * tsc_hz() as f64) as u64
}

/// A queue pair that is attached to a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) queue: QueueId,
    pub(super) source: SourceId,
    pub(super) core: usize,
    /// Whether it has to stay there.
    pub(super) pinned: bool,
    /// Whether a NIC brings what it receives to the core that it is on, by a rule.
    pub(super) steered: bool,
    /// What its rings count.
    pub(super) traffic: Traffic,
    /// The NUMA node of its guest's memory.
    pub(super) node: Option<u16>,
}

/// What was pulled from a queue pair, and delivered to it, ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// Packets delivered.
    pub(super) received: u64,
}

impl Traffic {
    /// What these counters say.
    pub(super) fn of(counters: &QueueCounters) -> Self {
        let (packets, bytes) = (counters.tx.packets.get(), counters.tx.bytes.get());
        Self { packets, bytes, received: counters.rx.packets.get() }
    }

    fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(before.packets),
            bytes: self.bytes.wrapping_sub(before.bytes),
            received: self.received.wrapping_sub(before.received),
        }
    }
}

/// An uplink's RX queue, and the core that serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Intake {
    pub(super) source: SourceId,
    pub(super) core: usize,
    /// Packets received through it, ever.
    pub(super) packets: u64,
}

impl Intake {
    /// What these counters say of a queue.
    pub(super) fn of(source: SourceId, core: usize, counters: &UplinkCounters) -> Self {
        Self { source, core, packets: counters.rx_packets.get() }
    }
}

/// What is noted of a source on whichever core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Noted {
    /// Cycles that were spent on it.
    cycles: u64,
    /// What waits of it.
    backlog: u64,
    /// Cycles that the oldest of that waited in the interval.
    waited: u64,
}

/// What the counters say at one moment. Cycles are totals, but for waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// The cycle counter.
    at: u64,
    /// Busy cycles of each core.
    cores: Vec<u64>,
    /// Those in which each core was ready to run and did not get its CPU.
    waits: Vec<u64>,
    /// Cycles that the oldest work waited in the interval, by core, which other cores handed over.
    handed: Vec<u64>,
    /// Every queue pair.
    queues: Vec<(Place, Noted)>,
    /// Every uplink's queue.
    intakes: Vec<(Intake, Noted)>,
    /// Packets of the interval by source and receiver; a pair may come more than once.
    talks: Vec<(SourceId, SourceId, u64)>,
}

impl Reading {
    /// Ends the interval `number` on these cores, and reads what was noted in it.
    pub(super) fn take(
        cores: &[&CoreCounters],
        (places, intakes): (&[Place], &[Intake]),
        number: u64,
        now: u64,
    ) -> Self {
        cores.iter().for_each(|core| core.tick.set(number + 1));
        let noted = |source: SourceId, at: usize| {
            let cycles = cores.iter().fold(0_u64, |sum, core| sum.wrapping_add(core.source(source).cycles.get()));
            let here = cores.get(at).map(|core| &core.source(source).waits);
            let (backlog, waited) =
                here.map_or((0, 0), |waits| (waits.backlog.get(), waits.oldest((number, number), now)));
            Noted { cycles, backlog, waited }
        };
        let talks = |place: &Place| {
            let source = place.source;
            let intervals = cores.iter().filter_map(move |core| core.source(source).waits.intervals.of(number));
            intervals.flat_map(Interval::talks).map(move |(to, packets)| (source, to, packets))
        };
        Self {
            at: now,
            cores: cores.iter().map(|core| core.busy_cycles.get()).collect(),
            waits: Vec::new(),
            handed: cores.iter().map(|core| core.received_waits.oldest((number, number), now)).collect(),
            queues: places.iter().map(|place| (*place, noted(place.source, place.core))).collect(),
            intakes: intakes.iter().map(|intake| (*intake, noted(intake.source, intake.core))).collect(),
            talks: places.iter().flat_map(talks).collect(),
        }
    }
}

/// Makes ticks of readings.
#[derive(Debug)]
pub(super) struct LoadMeter {
    cycles_per_s: u64,
    /// When the last reading was taken; nothing before the first.
    at: Option<u64>,
    /// Busy cycles by core, and those that it waited for its CPU.
    cores: Vec<u64>,
    waits: Vec<u64>,
    /// Cycles and traffic by source: of an uplink's queue, the packets that came through it.
    sources: HashMap<u16, (u64, Traffic)>,
}

impl LoadMeter {
    /// For cores whose counter has this speed.
    pub(super) fn new(cycles_per_s: u64) -> Self {
        Self { cycles_per_s, at: None, cores: Vec::new(), waits: Vec::new(), sources: HashMap::new() }
    }

    /// What happened since the last reading; nothing in the first one. Scaled to a tick of `nominal` cycles, if that is given: whoever reads may
    /// come late, and averages are made of ticks that are all the same. `stolen`: the part of its CPU's time, from 0 to 1, that a
    /// hypervisor took from each core.
    pub(super) fn tick(&mut self, reading: &Reading, stolen: &[f64], nominal: Option<u64>) -> Load {
        let span = self.span(reading.at, nominal);
        let (mut cores, real) = self.cores(reading, stolen, span);
        let mut sources = HashMap::with_capacity(self.sources.len());
        let mut spent = |source: SourceId, core: usize, cycles: u64, traffic: Traffic| {
            let before = self.sources.get(&source.0).copied().unwrap_or((cycles, traffic));
            sources.insert(source.0, (cycles, traffic));
            let cycles = cycles.wrapping_sub(before.0).min(span.length) as f64 * real.get(core).copied().unwrap_or(1.0);
            (span.scaled(cycles as u64), traffic.since(before.1))
        };
        let mut queues = Vec::with_capacity(reading.queues.len());
        let mut received = Vec::with_capacity(reading.queues.len());
        for (place, noted) in &reading.queues {
            let Place { queue, core, pinned, node, steered, .. } = *place;
            let (cycles, traffic) = spent(place.source, core, noted.cycles, place.traffic);
            received.push(Received { packets: span.scaled(traffic.received), steered });
            queues.push(QueueLoad {
                queue,
                core: IoCore(core),
                pinned,
                cycles,
                packets: span.scaled(traffic.packets),
                bytes: span.scaled(traffic.bytes),
                backlog: noted.backlog,
                oldest_ns: ns(noted.waited, self.cycles_per_s),
                brought: Brought::default(),
                node,
            });
        }
        let mut nics = vec![FromNics::default(); cores.len()];
        for (intake, noted) in &reading.intakes {
            let traffic = Traffic { packets: intake.packets, ..Traffic::default() };
            let (cycles, traffic) = spent(intake.source, intake.core, noted.cycles, traffic);
            if let Some(nics) = nics.get_mut(intake.core) {
                nics.add(cycles, span.scaled(traffic.packets));
            }
        }
        self.sources = sources;
        let mut talks = talks(reading);
        talks.iter_mut().for_each(|talk| talk.packets = span.scaled(talk.packets));
        bring(&mut queues, &received, &nics, &talks);
        self.note_waits(reading, &mut cores);
        Load { cores, queues, talks }
    }

    /// How long work has waited for each core: in the rings of its guests, in a NIC's queues, and in those from other cores.
    fn note_waits(&self, reading: &Reading, cores: &mut [CoreLoad]) {
        let queues = reading.queues.iter().map(|(place, noted)| (place.core, noted.waited));
        let intakes = reading.intakes.iter().map(|(intake, noted)| (intake.core, noted.waited));
        let handed = reading.handed.iter().copied().enumerate();
        for (core, waited) in queues.chain(intakes).chain(handed) {
            if let Some(core) = cores.get_mut(core) {
                core.oldest_ns = core.oldest_ns.max(ns(waited, self.cycles_per_s));
            }
        }
    }

    /// Makes the next tick of a silent one, where nothing has happened since to any queue pair: `reading` is of the cores alone.
    pub(super) fn silent_tick(&mut self, load: &mut Load, reading: &Reading, stolen: &[f64], nominal: Option<u64>) {
        let span = self.span(reading.at, nominal);
        load.cores = self.cores(reading, stolen, span).0;
    }

    fn span(&self, at: u64, nominal: Option<u64>) -> Span {
        let length = self.at.map_or(0, |before| at.saturating_sub(before));
        let scale = nominal.filter(|_| length > 0).map_or(1.0, |nominal| nominal as f64 / length as f64);
        Span { length, scale }
    }

    /// What the cores did, and which part of the busy cycles of each was really busy.
    fn cores(&mut self, reading: &Reading, stolen: &[f64], span: Span) -> (Vec<CoreLoad>, Vec<f64>) {
        let length = span.length;
        let since = |totals: &[u64], before: &[u64], index: usize| {
            let total = totals.get(index).copied().unwrap_or(0);
            // A round, or a wait, that took longer than the tick is accounted for as a whole in the one that it ends in.
            total.wrapping_sub(before.get(index).copied().unwrap_or(total)).min(length)
        };
        let core = |index: usize| {
            let busy = since(&reading.cores, &self.cores, index);
            let stolen = (length as f64 * stolen.get(index).copied().unwrap_or(0.0)) as u64;
            let lost = since(&reading.waits, &self.waits, index) + stolen;
            let capacity = length.saturating_sub(lost).max((length as f64 * LEAST) as u64);
            // While a core is without its CPU work comes, so that it was in a busy round: as much less was it really busy.
            let worked = busy.saturating_sub(length - capacity);
            let load =
                CoreLoad { busy: span.scaled(worked), capacity: span.scaled(capacity), oldest_ns: 0, parked: false };
            (load, if busy > 0 { worked as f64 / busy as f64 } else { 1.0 })
        };
        let cores = (0..reading.cores.len()).map(core).unzip();
        self.at = Some(reading.at);
        self.cores.clone_from(&reading.cores);
        self.waits.clone_from(&reading.waits);
        cores
    }
}

/// The time from one reading to the next.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// In cycles.
    length: u64,
    /// Of a tick, to it.
    scale: f64,
}

impl Span {
    fn scaled(self, count: u64) -> u64 {
        (count as f64 * self.scale) as u64
    }
}

/// Between queue pairs only: what NICs bring is another matter (see [`brought`]).
fn talks(reading: &Reading) -> Vec<Talk> {
    let names: HashMap<u16, QueueId> = reading.queues.iter().map(|(place, ..)| (place.source.0, place.queue)).collect();
    let mut sums = BTreeMap::new();
    for (from, to, packets) in &reading.talks {
        if let (Some(from), Some(to)) = (names.get(&from.0), names.get(&to.0)) {
            *sums.entry((*from, *to)).or_default() += packets;
        }
    }
    sums.into_iter().map(|((from, to), packets)| Talk { from, to, packets }).collect()
}

/// What is read, and what was read last: shared by whoever reads, whoever adds guests, and whoever shows it.
pub(super) struct Loads {
    fabric: Arc<Fabric>,
    guests: Mutex<Vec<Arc<GuestHost>>>,
    uplinks: Mutex<Vec<Arc<Steered>>>,
    last: Mutex<LastLoad>,
}

/// What is shown of the last tick.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLoad {
    pub(super) queues: Vec<QueueLoad>,
    pub(super) talks: Vec<Talk>,
    /// How long it was, in nanoseconds.
    pub(super) length_ns: u64,
}

impl Loads {
    /// Of these cores, without guests.
    pub(super) fn new(fabric: Arc<Fabric>) -> Self {
        Self { fabric, guests: Mutex::default(), uplinks: Mutex::default(), last: Mutex::default() }
    }

    /// From now on this guest is read, too.
    pub(super) fn add(&self, guest: Arc<GuestHost>) {
        locked(&self.guests).push(guest);
        self.fabric.note_placement();
    }

    /// This guest is read no longer.
    pub(super) fn remove(&self, port: forwarding::PortId) {
        locked(&self.guests).retain(|guest| guest.port != port);
        self.fabric.note_placement();
    }

    /// The same for an uplink.
    pub(super) fn add_uplink(&self, uplink: Arc<Steered>) {
        locked(&self.uplinks).push(uplink);
        self.fabric.note_placement();
    }

    /// This uplink is read no longer.
    pub(super) fn remove_uplink(&self, port: forwarding::PortId) {
        locked(&self.uplinks).retain(|uplink| uplink.port() != port);
        self.fabric.note_placement();
    }

    /// The last tick that was read.
    pub(super) fn last(&self) -> LastLoad {
        locked(&self.last).clone()
    }

    /// The guest of a port.
    pub(super) fn guest(&self, port: PortId) -> Option<Arc<GuestHost>> {
        locked(&self.guests).iter().find(|guest| u32::from(guest.port.0) == port.0).cloned()
    }

    /// What guests are called, by their ports.
    pub(super) fn names(&self) -> BTreeMap<PortId, String> {
        let guests = locked(&self.guests);
        guests.iter().map(|guest| (PortId(guest.port.0.into()), guest.name().to_owned())).collect()
    }

    /// Every queue pair, with the core it is on or will start on.
    pub(super) fn homes(&self) -> Vec<(QueueId, IoCore)> {
        let guests = locked(&self.guests);
        let homes = guests.iter().flat_map(|guest| {
            guest.queues.iter().enumerate().map(|(index, queue)| (queue_id(guest.port, index), IoCore(queue.home())))
        });
        homes.collect()
    }

    /// Every queue pair that is attached, and every uplink's queue.
    fn places(&self) -> (Vec<Place>, Vec<Intake>) {
        let uplinks = locked(&self.uplinks).clone();
        let rules: HashSet<_> = uplinks.iter().flat_map(|uplink| uplink.ways()).collect();
        let places = locked(&self.guests).iter().flat_map(|guest| guest.places(&rules)).collect();
        (places, uplinks.iter().flat_map(|uplink| uplink.intakes()).collect())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the loads. There is one: it numbers the intervals.
pub(super) struct LoadReader {
    loads: Arc<Loads>,
    meter: LoadMeter,
    steal: Steal,
    number: u64,
    read_at: u64,
    /// The last tick, and what was seen just before it was read.
    load: Load,
    seen: Seen,
}

/// What is another once anything has happened to a queue pair.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    placements: u64,
    /// Busy cycles by core, guests' own threads too: counted at the end of a round, after all that happened in it.
    busy: Vec<u64>,
}

impl Seen {
    fn now(fabric: &Fabric) -> Self {
        let placements = fabric.placements();
        Self { placements, busy: fabric.cores().map(|core| core.counters.busy_cycles.get()).collect() }
    }
}

impl LoadReader {
    /// Begins with the first tick.
    pub(super) fn new(loads: Arc<Loads>) -> Self {
        let cpus = loads.fabric.cores().map_while(|core| core.cpu).collect();
        let (load, seen) = (Load::default(), Seen::default());
        Self { loads, meter: LoadMeter::new(tsc_hz()), steal: Steal::new(cpus), number: 0, read_at: tsc(), load, seen }
    }

    /// Ends a tick: what happened in it. Takes no core's time and waits for nobody. As long as nothing happens, no queue pair is looked at: the
    /// counters of a thousand are in nobody's cache.
    pub(super) fn tick(&mut self, nominal: Duration) -> &Load {
        let fabric = Arc::clone(&self.loads.fabric);
        let io_cores = fabric.io_cores();
        let seen = Seen::now(&fabric);
        let now = tsc();
        let waits = fabric.cores().take(io_cores).map(|core| cycles(core.cpu_wait.total())).collect();
        let nominal = Some(cycles(nominal));
        if seen == self.seen && self.load.is_silent() {
            let cores = seen.busy.iter().take(io_cores).copied().collect();
            let reading = Reading { at: now, cores, waits, ..Reading::default() };
            self.meter.silent_tick(&mut self.load, &reading, self.steal.shares(), nominal);
        } else {
            let reading = Reading { waits, ..self.read(&fabric, now) };
            self.load = self.meter.tick(&reading, self.steal.shares(), nominal);
        }
        self.seen = seen;
        for (load, core) in self.load.cores.iter_mut().zip(fabric.cores()) {
            load.parked = core.counters.parked.get() != 0;
        }
        let length_ns = ns(now.saturating_sub(std::mem::replace(&mut self.read_at, now)), tsc_hz());
        let Load { queues, talks, .. } = &self.load;
        *locked(&self.loads.last) = LastLoad { queues: queues.clone(), talks: talks.clone(), length_ns };
        &self.load
    }

    /// Ends an interval, and reads all of it.
    fn read(&mut self, fabric: &Fabric, now: u64) -> Reading {
        let (places, intakes) = self.loads.places();
        let cores: Vec<&CoreCounters> = fabric.cores().take(fabric.io_cores()).map(|core| core.counters).collect();
        // Guests' own threads are nothing for the scheduler, but theirs are intervals too.
        fabric.cores().skip(fabric.io_cores()).for_each(|core| core.counters.tick.set(self.number + 1));
        let reading = Reading::take(&cores, (&places, &intakes), self.number, now);
        self.number += 1;
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GHZ: u64 = 1_000_000_000;

    fn place(source: u16, core: usize) -> Place {
        Place {
            queue: queue_id(forwarding::PortId(source + 100), 0),
            source: SourceId(source),
            core,
            pinned: false,
            steered: false,
            traffic: Traffic::default(),
            node: Some(1),
        }
    }

    /// The same after so many packets were pulled.
    fn sent(packets: u64, place: Place) -> Place {
        Place { traffic: Traffic { packets, bytes: 60 * packets, received: 0 }, ..place }
    }

    /// A source that so many cycles were spent on, and of which work waited for so many.
    fn noted(cycles: u64, waited: u64) -> Noted {
        Noted { cycles, waited, backlog: 0 }
    }

    fn id(source: u16) -> QueueId {
        place(source, 0).queue
    }

    fn reading(at: u64, cores: &[u64], queues: &[(Place, u64, u64)]) -> Reading {
        let queues = queues.iter().map(|(place, cycles, waited)| (*place, noted(*cycles, *waited)));
        Reading { at, cores: cores.to_vec(), queues: queues.collect(), ..Reading::default() }
    }

    #[test]
    fn a_tick_is_the_difference_of_two_readings() {
        let mut meter = LoadMeter::new(2 * GHZ);
        let first = meter.tick(&reading(1500, &[1000], &[(place(1, 0), 700, 0)]), &[], None);
        assert_eq!(first.cores, [CoreLoad::default()]);
        assert_eq!(first.queues[0].cycles, 0, "what was before is nobody's load");
        let now = sent(9, place(1, 0));
        let second = meter.tick(&reading(2500, &[1600], &[(now, 1200, 5000)]), &[], None);
        assert_eq!(second.cores, [CoreLoad { busy: 600, capacity: 1000, oldest_ns: 2500, parked: false }]);
        let queue = QueueLoad {
            queue: id(1),
            cycles: 500,
            packets: 9,
            bytes: 540,
            oldest_ns: 2500,
            node: Some(1),
            ..QueueLoad::default()
        };
        assert_eq!(second.queues, [queue]);
    }

    #[test]
    fn a_round_longer_than_a_tick_fills_it_and_no_more() {
        let mut meter = LoadMeter::new(GHZ);
        meter.tick(&reading(0, &[0], &[(place(1, 0), 0, 0)]), &[], None);
        let during = meter.tick(&reading(1000, &[0], &[(place(1, 0), 900, 0)]), &[], None);
        assert_eq!((during.cores[0].busy, during.cores[0].capacity, during.queues[0].cycles), (0, 1000, 900));
        let end = meter.tick(&reading(2000, &[2000], &[(place(1, 0), 1900, 0)]), &[], None);
        assert_eq!((end.cores[0].busy, end.cores[0].capacity), (1000, 1000));
    }

    #[test]
    fn a_silent_tick_is_one_in_which_nothing_happened() {
        let before = [(place(1, 0), 700, 0), (place(2, 1), 900, 0)];
        let [mut meter, mut all] = [0, 1].map(|_| LoadMeter::new(GHZ));
        let [mut load, _] = [&mut meter, &mut all].map(|meter| {
            meter.tick(&reading(0, &[500, 400], &before), &[], Some(1000));
            meter.tick(&reading(1000, &[500, 400], &before), &[], Some(1000))
        });
        assert!(load.is_silent());
        for at in [2000, 2500, 4500] {
            let waits = vec![at / 10, 0];
            let cores = Reading { waits: waits.clone(), ..reading(at, &[500, 400], &[]) };
            meter.silent_tick(&mut load, &cores, &[0.0, 0.25], Some(1000));
            let everything = Reading { waits, ..reading(at, &[500, 400], &before) };
            assert_eq!(load, all.tick(&everything, &[0.0, 0.25], Some(1000)));
        }
        assert_eq!((load.cores[0].capacity, load.cores[1].capacity), (900, 750));
        let queues = [(sent(3, place(1, 0)), 950, 0), (place(2, 1), 900, 0)];
        let now = Reading { waits: vec![450, 0], ..reading(5500, &[800, 400], &queues) };
        let load = meter.tick(&now, &[], None);
        assert_eq!((load.cores[0].busy, load.queues[0].cycles, load.queues[0].packets), (300, 250, 3));
    }

    #[test]
    fn a_late_reading_counts_as_much_as_one_in_time() {
        let mut meter = LoadMeter::new(GHZ);
        meter.tick(&reading(0, &[0], &[(place(1, 0), 0, 0)]), &[], Some(1000));
        let late = meter.tick(&reading(4000, &[2000], &[(place(1, 0), 1600, 0)]), &[], Some(1000));
        assert_eq!((late.cores[0].busy, late.cores[0].capacity, late.queues[0].cycles), (500, 1000, 400));
    }

    #[test]
    fn the_oldest_work_of_a_core_is_that_of_its_own_queues() {
        let mut meter = LoadMeter::new(GHZ);
        let queues = [(place(1, 0), 0, 30), (place(2, 0), 0, 70), (place(3, 1), 0, 50), (place(4, 9), 0, 90)];
        let load = meter.tick(&reading(0, &[0, 0], &queues), &[], None);
        assert_eq!(load.cores.iter().map(|core| core.oldest_ns).collect::<Vec<_>>(), [70, 50]);
    }

    #[test]
    fn work_from_nics_and_from_other_cores_ages_too() {
        let mut meter = LoadMeter::new(GHZ);
        let intake = |source, core| Intake { source: SourceId(source), core, packets: 0 };
        let intakes = vec![(intake(5, 1), noted(0, 60)), (intake(6, 0), noted(0, 20)), (intake(7, 9), noted(0, 90))];
        let now = Reading { handed: vec![0, 40, 70], intakes, ..reading(0, &[0; 3], &[(place(1, 0), 0, 30)]) };
        let load = meter.tick(&now, &[], None);
        assert_eq!(load.cores.iter().map(|core| core.oldest_ns).collect::<Vec<_>>(), [30, 60, 70]);
        assert_eq!(load.queues[0].oldest_ns, 30, "a queue pair's is its own");
    }

    #[test]
    fn what_a_rule_brings_is_the_guests_and_the_rest_the_cores() {
        let tick = |steered| {
            let mut meter = LoadMeter::new(GHZ);
            let at = |at: u64, packets: u64| {
                let received = Traffic { received: packets / 4, ..Traffic::default() };
                let guest = Place { steered, traffic: received, ..place(1, 0) };
                let intake = Intake { source: SourceId(2), core: 0, packets };
                Reading {
                    intakes: vec![(intake, noted(8 * packets, 0))],
                    ..reading(at, &[8 * packets], &[(guest, 0, 0)])
                }
            };
            meter.tick(&at(0, 40), &[], None);
            let load = meter.tick(&at(1000, 140), &[], None);
            (load.cores[0].busy, load.queues[0].cycles, load.queues[0].packets)
        };
        assert_eq!((tick(true), tick(false)), ((800, 200, 25), (800, 0, 0)));
    }

    #[test]
    fn a_queue_that_moved_has_all_of_its_cycles_where_it_is_now() {
        let mut meter = LoadMeter::new(GHZ);
        meter.tick(&reading(0, &[0, 0], &[(place(1, 0), 100, 0)]), &[], None);
        let load = meter.tick(&reading(1000, &[0, 0], &[(place(1, 1), 350, 0)]), &[], None);
        assert_eq!((load.queues[0].core, load.queues[0].cycles), (IoCore(1), 250));
    }

    #[test]
    fn a_queue_that_was_away_begins_anew() {
        let mut meter = LoadMeter::new(GHZ);
        meter.tick(&reading(0, &[0], &[(place(1, 0), 100, 0)]), &[], None);
        assert_eq!(meter.tick(&reading(1000, &[0], &[]), &[], None).queues, []);
        let load = meter.tick(&reading(2000, &[0], &[(place(1, 0), 900, 0)]), &[], None);
        assert_eq!(load.queues[0].cycles, 0);
    }

    /// Busy cycles, capacity and one queue pair's cycles of two cores with equal counters, of which the first was without its CPU.
    fn without_cpu(busy: u64, waits: u64, stolen: f64) -> [(u64, u64, u64); 2] {
        let queues = |cycles| [(place(1, 0), cycles, 0), (place(2, 1), cycles, 0)];
        let mut meter = LoadMeter::new(GHZ);
        meter.tick(&Reading { waits: vec![5000, 7], ..reading(0, &[0, 0], &queues(0)) }, &[], None);
        let now = Reading { waits: vec![5000 + waits, 7], ..reading(1000, &[busy, busy], &queues(busy / 2)) };
        let load = meter.tick(&now, &[stolen, 0.0], None);
        [0, 1].map(|core| (load.cores[core].busy, load.cores[core].capacity, load.queues[core].cycles))
    }

    #[test]
    fn time_that_a_core_did_not_get_was_nobodys() {
        assert_eq!(without_cpu(400, 0, 0.25), [(150, 750, 75), (400, 1000, 200)]);
        assert_eq!(without_cpu(400, 300, 0.0), [(100, 700, 50), (400, 1000, 200)]);
        assert_eq!(without_cpu(400, 100, 0.2), [(100, 700, 50), (400, 1000, 200)], "both count");
        assert_eq!(without_cpu(1000, 600, 0.0)[0], (400, 400, 200), "full is full");
        assert_eq!(without_cpu(100, 300, 0.0)[0], (0, 700, 0), "it was idle meanwhile");
        assert_eq!(without_cpu(1000, 9000, 0.5)[0], (50, 50, 25), "something is left");
    }

    #[test]
    fn talks_are_summed_over_cores_and_those_with_uplinks_left_out() {
        let mut meter = LoadMeter::new(GHZ);
        let mut now = reading(0, &[0], &[(place(1, 0), 0, 0), (place(2, 0), 0, 0)]);
        now.talks = [(1, 2, 5), (2, 1, 7), (1, 2, 3), (1, 9, 100), (9, 2, 100)]
            .map(|(from, to, packets)| (SourceId(from), SourceId(to), packets))
            .to_vec();
        let expected = [Talk { from: id(1), to: id(2), packets: 8 }, Talk { from: id(2), to: id(1), packets: 7 }];
        assert_eq!(meter.tick(&now, &[], None).talks, expected);
    }

    /// One source on one core, with a mark that was set at 100.
    fn waiting() -> CoreCounters {
        let core = CoreCounters::new();
        core.note_waiting(SourceId(1), super::super::waiting::Change { waited: None, backlog: 8, since: 100 });
        core
    }

    #[test]
    fn what_still_waits_is_as_old_as_its_mark() {
        let core = waiting();
        let reading = Reading::take(&[&core], (&[place(1, 0)], &[]), 0, 400);
        assert_eq!(reading.queues, [(place(1, 0), Noted { backlog: 8, ..noted(0, 300) })]);
        core.note_nothing_waiting(SourceId(1));
        let reading = Reading::take(&[&core], (&[place(1, 0)], &[]), 1, 500);
        assert_eq!(reading.queues, [(place(1, 0), noted(0, 0))]);
    }

    #[test]
    fn a_wait_that_ended_is_seen_in_its_own_tick_and_no_other() {
        let core = waiting();
        let change = super::super::waiting::Change { waited: Some(250), backlog: 0, since: 350 };
        core.note_waiting(SourceId(1), change);
        let waits =
            [0, 1].map(|number| Reading::take(&[&core], (&[place(1, 0)], &[]), number, 1000).queues[0].1.waited);
        assert_eq!(waits, [250, 0]);
    }

    proptest! {
        /// Whatever a core notes, in whatever intervals: over all ticks nothing is lost and nothing is counted twice.
        #[test]
        fn ticks_add_up(steps in prop::collection::vec((0_usize..2, 0_u16..4, 0_u16..4, 1_u64..100, any::<bool>()), 1..200)) {
            let cores = [CoreCounters::new(), CoreCounters::new()];
            let both = [&cores[0], &cores[1]];
            let places: Vec<Place> = (0..4).map(|source| place(source, 0)).collect();
            let mut meter = LoadMeter::new(GHZ);
            let far = 1_000_000;
            meter.tick(&Reading::take(&both, (&places, &[]), 0, 0), &[], None);
            let (mut number, mut ticks) = (1, Vec::new());
            let (mut cycles, mut talks) = ([0; 4], BTreeMap::new());
            for (core, from, to, n, read) in &steps {
                cores[*core].source(SourceId(*from)).cycles.add(*n);
                cores[*core].busy_cycles.add(*n);
                cores[*core].note_talk(SourceId(*from), SourceId(*to), *n as usize);
                cycles[usize::from(*from)] += n;
                *talks.entry((id(*from), id(*to))).or_insert(0) += n;
                if *read {
                    ticks.push(meter.tick(&Reading::take(&both, (&places, &[]), number, number * far), &[], None));
                    number += 1;
                }
            }
            ticks.push(meter.tick(&Reading::take(&both, (&places, &[]), number, number * far), &[], None));
            let of = |source: usize| ticks.iter().map(|tick| tick.queues[source].cycles).sum::<u64>();
            prop_assert_eq!([0, 1, 2, 3].map(of), cycles);
            let busy: u64 = ticks.iter().flat_map(|tick| &tick.cores).map(|core| core.busy).sum();
            prop_assert_eq!(busy, cycles.iter().sum::<u64>());
            let mut sums = BTreeMap::new();
            for talk in ticks.iter().flat_map(|tick| &tick.talks) {
                *sums.entry((talk.from, talk.to)).or_insert(0) += talk.packets;
            }
            prop_assert_eq!(sums, talks);
        }
    }
}

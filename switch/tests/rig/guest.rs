//! A guest of a rig: the driver's side of a queue pair, and the device's side of it for an I/O core.

use std::sync::{Arc, OnceLock};

use synthetic_guest::packet::{Stamp, Template};
use synthetic_guest::{
    Backing, Bell, CallMode, Features, Frame, GuestConfig, KickPolicy, QueuePair, Ram, RamConfig, Received, Ring,
    TxShape,
};
use vm_ports::{
    FrontendAddr, GuestMemory, GuestPhysAddr, KickFd, MemorySlot, Moderation, QueueCounters, RingSetup, RxQueue,
    TxQueue,
};

use super::{LONGEST, RING};

/// Descriptors of the rings of guests that only idle.
const IDLE_RING: u16 = 16;

/// What memory guests have, where somebody has said so; else ordinary pages, whatever else there is.
static BACKING: OnceLock<Backing> = OnceLock::new();

/// Guests have hugepages from now on, where enough are free, as guests of such a switch have.
pub(super) fn prefer_hugepages() {
    // Whoever said so before has said the same.
    let _ = BACKING.set(Backing::Auto);
}

/// Buffers of a guest with such frames.
const LONG_FRAMES: usize = 8;

pub(super) struct Guest {
    driver: QueuePair,
    _ram: Ram,
}

impl Guest {
    /// A guest that polls, so that it wants no calls; and the device's side of its queue pair, for whoever serves it.
    pub(super) fn new(features: Features) -> (Self, vm_ports::QueuePair) {
        let (ram, mut drivers, mut devices) = pairs(features, 1, RING as u16, 4 << 20, CallMode::Never);
        (Self { driver: drivers.remove(0), _ram: ram }, devices.remove(0))
    }

    /// The same, which kicks when it is asked to.
    pub(super) fn that_kicks(features: Features) -> (Self, vm_ports::QueuePair) {
        let (mut guest, mut device) = Self::new(features);
        hear(&mut guest.driver, &mut device);
        (guest, device)
    }

    /// A guest that has few buffers to send from, which take the longest frames there are.
    pub(super) fn with_long_frames(features: Features) -> (Self, vm_ports::QueuePair) {
        let ram = 4 << 20;
        let (ram, mut drivers, mut devices) = pairs_with(features, 1, RING as u16, ram, CallMode::Never, |config| {
            (config.tx_frame_len, config.tx_buffers) = (LONGEST, Some(LONG_FRAMES));
        });
        (Self { driver: drivers.remove(0), _ram: ram }, devices.remove(0))
    }

    /// A guest whose frames are in descriptors like this.
    pub(super) fn with_shape(features: Features, shape: TxShape) -> (Self, vm_ports::QueuePair) {
        let ram = 8 << 20;
        let (ram, mut drivers, mut devices) = pairs_with(features, 1, RING as u16, ram, CallMode::Never, |config| {
            config.tx_shape = shape;
        });
        (Self { driver: drivers.remove(0), _ram: ram }, devices.remove(0))
    }

    /// A guest that looks at its rings when it is called, which is moderated.
    pub(super) fn called(features: Features, moderation: Moderation) -> (Self, vm_ports::QueuePair) {
        let (ram, mut drivers, mut devices) = pairs(features, 1, RING as u16, 4 << 20, CallMode::Event);
        let (mut guest, mut device) = (Self { driver: drivers.remove(0), _ram: ram }, devices.remove(0));
        let eventfd = |bell: &Bell| bell.call_fd().map(|fd| fd.try_clone_to_owned().expect("a second handle").into());
        if let (Some(rx), Some(tx)) = (&mut device.rx, &mut device.tx) {
            rx.set_moderation(moderation);
            tx.set_moderation(moderation);
            rx.set_call(eventfd(guest.driver.rx.bell()));
            tx.set_call(eventfd(guest.driver.tx.bell()));
        }
        // A new call eventfd is signalled once.
        assert_eq!(guest.calls(), [1, 1]);
        (guest, device)
    }

    /// Calls since this was asked last, for what was received and for what was sent.
    pub(super) fn calls(&mut self) -> [u64; 2] {
        [self.driver.rx.bell().drain_calls(), self.driver.tx.bell().drain_calls()]
    }

    /// Its kicks get nowhere from now on.
    pub(super) fn lose_kicks(&mut self) {
        self.driver.tx.bell().set_policy(KickPolicy::Never);
    }

    /// Kicks that it was asked for.
    pub(super) fn kicks_wanted(&mut self) -> u64 {
        self.driver.tx.bell().kicks_wanted()
    }

    /// Makes `count` frames available, each with the stamp of its number, and shows them to the device at once.
    pub(super) fn send(&mut self, template: &mut Template, count: usize, stamp: impl Fn(u64) -> Stamp) {
        let queued = self.driver.tx.queue_with(count, |number, slot| {
            template.stamp(stamp(number as u64));
            let frame = Frame { bytes: template.bytes(), offload: template.offload() };
            slot.header(frame.offload);
            slot.write(0, frame.bytes);
            frame.bytes.len()
        });
        assert_eq!(queued, count, "the ring has room");
        self.driver.tx.publish();
    }

    /// Takes sent buffers back; how many.
    pub(super) fn reclaim(&mut self) -> usize {
        self.driver.tx.reclaim()
    }

    /// Takes everything that was received and puts the buffers back; how many frames.
    pub(super) fn receive(&mut self, take: impl FnMut(&Received<'_>)) -> usize {
        self.driver.rx.recv_burst(usize::MAX, take)
    }
}

/// A guest with some queue pairs that does nothing, as a rule.
pub(super) struct Idle {
    drivers: Vec<QueuePair>,
    ram: Ram,
}

impl Idle {
    /// As many as it can have.
    pub(super) const PAIRS: usize = 16;

    /// It can kick, where that is wanted.
    pub(super) fn new(features: Features, count: usize, kicks: bool) -> (Self, Vec<vm_ports::QueuePair>) {
        let size = (64 << 10) * count as u64;
        let (ram, mut drivers, mut devices) = pairs_with(features, count, IDLE_RING, size, CallMode::Never, |config| {
            // An odd number of pages from one ring to the next: at powers of two from each other all would share a few lines of the caches, as
            // those of guests that know nothing of each other do not.
            config.tx_buffers = Some(2);
        });
        if kicks {
            drivers.iter_mut().zip(&mut devices).for_each(|(driver, device)| hear(driver, device));
        }
        (Self { drivers, ram }, devices)
    }

    /// Whether its memory is on hugepages.
    pub(super) fn hugepages(&self) -> bool {
        self.ram.hugepages()
    }

    /// One frame from one of the pairs: it is not so idle after all.
    pub(super) fn send(&mut self, pair: usize, template: &Template) {
        let sent = self.drivers[pair].tx.send_burst(&[Frame { bytes: template.bytes(), offload: template.offload() }]);
        assert_eq!(sent, 1, "the ring has room");
    }

    /// Takes back what it sent; how many frames.
    pub(super) fn reclaim(&mut self, pair: usize) -> usize {
        self.drivers[pair].tx.reclaim()
    }
}

/// Gives the device's side of a queue pair what the driver kicks with.
fn hear(driver: &mut QueuePair, device: &mut vm_ports::QueuePair) {
    if let Some(tx) = &mut device.tx {
        let kick = driver.tx.bell().kick_fd().map(|fd| fd.try_clone_to_owned().expect("a second handle"));
        tx.set_kick(kick.map(|fd| KickFd::new(fd.into())));
    }
}

/// Both sides of some queue pairs, and the memory they are in.
fn pairs(
    features: Features,
    count: usize,
    ring: u16,
    region_size: u64,
    calls: CallMode,
) -> (Ram, Vec<QueuePair>, Vec<vm_ports::QueuePair>) {
    pairs_with(features, count, ring, region_size, calls, |_| ())
}

/// The same of guests that are different.
fn pairs_with(
    features: Features,
    count: usize,
    ring: u16,
    region_size: u64,
    calls: CallMode,
    differ: impl FnOnce(&mut GuestConfig),
) -> (Ram, Vec<QueuePair>, Vec<vm_ports::QueuePair>) {
    let mut config = GuestConfig::new("");
    let backing = BACKING.get().copied().unwrap_or(Backing::Pages);
    config.ram = RamConfig { region_size, backing, ..RamConfig::default() };
    (config.queue_pairs, config.rx_ring, config.tx_ring, config.calls) = (count, ring, ring, calls);
    differ(&mut config);
    let ram = Ram::new(&config.ram).expect("memory for a guest");
    let mut drivers = QueuePair::standalone(&ram, &config, features).expect("rings that fit");
    let memory = map(&ram);
    let devices = drivers.iter_mut().map(|driver| device(driver, features, &memory)).collect();
    (ram, drivers, devices)
}

/// The device's side of a queue pair.
fn device(driver: &mut QueuePair, features: Features, memory: &Arc<GuestMemory>) -> vm_ports::QueuePair {
    let features = vm_ports::Features(features.0);
    let counters = Arc::new(QueueCounters::default());
    let (rx_setup, tx_setup) = (setup_of(driver.rx.ring(), 0), setup_of(driver.tx.ring(), 1));
    let (m, c) = (Arc::clone(memory), Arc::clone(&counters));
    let mut rx = RxQueue::start(features, m, &rx_setup, c).expect("a sound ring");
    let (m, c) = (Arc::clone(memory), Arc::clone(&counters));
    let mut tx = TxQueue::start(features, m, &tx_setup, c).expect("a sound ring");
    rx.set_enabled(true);
    tx.set_enabled(true);
    let mut pair = vm_ports::QueuePair::new(counters);
    (pair.rx, pair.tx) = (Some(rx), Some(tx));
    pair
}

/// The guest's memory, as the device maps it.
fn map(ram: &Ram) -> Arc<GuestMemory> {
    let slots = ram.regions().iter().map(|region| MemorySlot {
        guest: GuestPhysAddr(region.guest),
        frontend: FrontendAddr(region.frontend),
        size: region.size,
        mmap_offset: region.offset,
        file: region.file().try_clone_to_owned().expect("a second handle").into(),
    });
    GuestMemory::map(slots.collect()).expect("the driver could map it")
}

/// Where a ring of the driver is, from its beginning.
fn setup_of(ring: &Ring, index: u32) -> RingSetup {
    let [descriptors, driver, device] = ring.parts().map(|part| FrontendAddr(part.frontend()));
    RingSetup { index, size: u32::from(ring.size()), descriptors, driver, device, base: ring.fresh_base() }
}

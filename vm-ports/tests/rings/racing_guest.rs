//! A guest that rewrites everything it shares from another thread while the device polls: no panic, and not a byte
//! written outside of the slots the frontend named.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use synthetic_guest::hostile::{PackedDescriptor, RawRing, SplitDescriptor};
use synthetic_guest::{Features, Ram};
use vm_ports::{FrontendAddr, GuestMemory, GuestPhysAddr, MemorySlot, RxQueue, TxQueue};

use crate::bench::{Neighbour, Setup, World, forward, setup_of};

const CANARY: u8 = 0xc3;
const CANARY_BYTES: u64 = 1 << 20;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Mostly inside memory, often at its edges, sometimes anywhere.
    fn address(&mut self, start: u64, size: u64) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => start + size - self.below(64),
            2 => (start - 32).wrapping_add(self.below(64)),
            _ => start + self.below(size),
        }
    }

    fn length(&mut self) -> u32 {
        match self.below(8) {
            0 => self.next() as u32,
            1 => 0,
            2 => self.below(70_000) as u32,
            _ => self.below(1600) as u32,
        }
    }

    fn flags(&mut self) -> u16 {
        // Any of the three that matter; the rest seldom.
        if self.below(16) == 0 { self.next() as u16 } else { self.below(8) as u16 & self.next() as u16 }
    }
}

/// One write of the guest's, anywhere in the ring or in the buffers.
fn disturb(random: &mut Random, raw: &RawRing, ram: &Ram, (start, size): (u64, u64), packed: bool) {
    let slot = random.below(u64::from(raw.size())) as u16;
    match random.below(6) {
        0 | 1 if packed => {
            let available = [synthetic_guest::hostile::AVAIL, synthetic_guest::hostile::USED];
            let flags = random.flags() | available[random.below(2) as usize];
            let (addr, len, id) = (random.address(start, size), random.length(), random.next() as u16);
            raw.set_packed(slot, PackedDescriptor { addr, len, id, flags });
        }
        0 | 1 => {
            let next = random.below(u64::from(raw.size()) + 2) as u16;
            let (addr, len, flags) = (random.address(start, size), random.length(), random.flags());
            raw.set_split(slot, SplitDescriptor { addr, len, flags, next });
        }
        2 if packed => raw.set_driver_event(random.next() as u16, random.below(4) as u16),
        2 => {
            let outside = u64::from(random.below(200) == 0);
            raw.set_avail_entry(slot, random.below(u64::from(raw.size()) + outside) as u16);
        }
        3 if !packed => {
            // Never further than the ring is long: a stopped ring is no test.
            let ahead = random.below(u64::from(raw.size()) + 1) as u16;
            raw.set_avail_index(raw.used_index().wrapping_add(ahead));
        }
        _ => {
            let at = start + random.below(size - 64);
            let bytes = random.next().to_le_bytes();
            synthetic_guest::hostile::poke(ram, at, &bytes).expect("inside");
        }
    }
}

fn race(features: Features, seed: u64) {
    let setup = Setup { region_size: 4 << 20, ..Setup::new(features).ring(64) };
    let mut world = World::new(&setup);
    let packed = features.contains(Features::RING_PACKED);
    // The device is told of the middle of the region only; what is before and behind it are the canaries... but for the
    // rings, which a frontend may put anywhere it likes: they are at the region's beginning, in a slot of their own,
    // far from the rest.
    let region = &world.ram.regions()[0];
    let (guest, frontend) = (region.guest, region.frontend);
    let rings = 256 << 10;
    let slot = |offset: u64, size: u64| MemorySlot {
        guest: GuestPhysAddr(guest + offset),
        frontend: FrontendAddr(frontend + offset),
        size,
        mmap_offset: offset,
        file: region.file().try_clone_to_owned().expect("a handle").into(),
    };
    let (start, size) = (rings + CANARY_BYTES, 1u64 << 20);
    let canaries = [rings, start + size].map(|at| world.ram.window(guest + at, CANARY_BYTES as usize).expect("inside"));
    canaries.iter().for_each(|canary| canary.fill(0, CANARY_BYTES as usize, CANARY));
    let memory = GuestMemory::map(vec![slot(0, rings), slot(start, size)]).expect("it maps");
    let (rx_setup, tx_setup) = (setup_of(world.pair.rx.ring(), 0), setup_of(world.pair.tx.ring(), 1));
    let bits = vm_ports::Features(features.0);
    let counters = Arc::clone(&world.counters);
    let rx = || {
        let mut rx = RxQueue::start(bits, Arc::clone(&memory), &rx_setup, Arc::clone(&counters)).expect("a ring");
        rx.set_enabled(true);
        rx
    };
    let tx = || {
        let mut tx = TxQueue::start(bits, Arc::clone(&memory), &tx_setup, Arc::clone(&counters)).expect("a ring");
        tx.set_enabled(true);
        tx
    };
    let raws = [world.raw_rx(), world.raw_tx()];
    let stop = AtomicBool::new(false);
    let mut neighbour = Neighbour::new();
    let ram = &world.ram;
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut random = Random(seed);
            while !stop.load(Ordering::Relaxed) {
                for raw in &raws {
                    disturb(&mut random, raw, ram, (guest + start, size), packed);
                }
            }
        });
        let (until, limit) = (Instant::now() + Duration::from_millis(400), Instant::now() + Duration::from_secs(20));
        let (mut to, mut from) = (rx(), tx());
        let mut bursts = 0u32;
        // The other thread may get its CPU late.
        let is_run = || Instant::now() >= until && world.counters.tx.packets.get() > 0;
        while !is_run() && Instant::now() < limit {
            forward(&mut from, &mut to);
            bursts += 1;
            if bursts.is_multiple_of(8) {
                neighbour.talk(1);
            }
            // A stopped ring comes back, as after a reset.
            if from.fault().is_some() {
                from = tx();
            }
            if to.fault().is_some() {
                to = rx();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut bytes = vec![0; CANARY_BYTES as usize];
    for (n, canary) in canaries.iter().enumerate() {
        canary.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == CANARY), "canary {n} is untouched");
    }
    assert!(world.counters.tx.packets.get() > 0, "the race was run");
    neighbour.lost_nothing();
}

#[test]
fn a_guest_that_rewrites_a_split_ring_while_it_is_polled() {
    race(Features::VERSION_1 | Features::INDIRECT_DESC | Features::MRG_RXBUF | Features::EVENT_IDX, 0x1234_5678_9abc);
    race(Features::VERSION_1 | Features::OFFLOADS.without(Features::GUEST_CSUM), 0x9e37_79b9_7f4a);
}

#[test]
fn a_guest_that_rewrites_a_packed_ring_while_it_is_polled() {
    let packed = Features::VERSION_1 | Features::RING_PACKED | Features::INDIRECT_DESC;
    race(packed | Features::MRG_RXBUF | Features::EVENT_IDX, 0x5555_aaaa_1111);
    race(packed | Features::OFFLOADS.without(Features::GUEST_CSUM), 0x7777_3333_dddd);
}

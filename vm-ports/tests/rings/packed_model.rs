//! Packed rings against a little driver written from the specification alone (virtio 1.2 §2.8), which keeps the ring as
//! plain numbers and looks at every bit the device writes.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use proptest::prelude::*;
use synthetic_guest::{Backing, Ram, RamConfig, Window};
use vm_ports::{Burst, BurstBuffer, Features, FrontendAddr, QueueCounters, RingSetup, RxQueue, TxQueue};

use crate::bench::{contents, map, pattern, push};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const DRIVER_EVENT: u64 = 0x1_0000;
const DEVICE_EVENT: u64 = 0x1_0040;
const TABLES: u64 = 0x2_0000;
const BUFFERS: u64 = 0x10_0000;
const BUFFER_BYTES: u64 = 2048;
const SIZE: u64 = 0x40_0000;

/// A ring as its driver sees it.
struct Model {
    ram: Ram,
    ring: Window,
    size: u16,
    write: bool,
    avail: (u16, bool),
    used: (u16, bool),
    /// By buffer id: slots taken, and the frame that must come out (TX) or the room there is (RX).
    outstanding: Vec<Option<(u16, usize)>>,
    free_slots: u16,
}

#[derive(Clone, Debug)]
struct Step {
    /// Parts of the chain, and whether they are in an indirect table.
    parts: u16,
    indirect: bool,
    len: usize,
    /// How the id is chosen among the free ones: drivers may reuse them in any order.
    id: u16,
    /// Serve now, after this chain.
    serve: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (1u16..5, any::<bool>(), 14usize..1500, any::<u16>(), any::<bool>());
    let step = step.prop_map(|(parts, indirect, len, id, serve)| Step { parts, indirect, len, id, serve });
    prop::collection::vec(step, 1..400)
}

impl Model {
    fn new(size: u16, write: bool) -> Self {
        let config = RamConfig { region_size: SIZE, backing: Backing::Pages, ..RamConfig::default() };
        let ram = Ram::new(&config).expect("memory for a guest");
        let ring = ram.window(ram.regions()[0].guest, 16 * usize::from(size)).expect("inside the region");
        let model = Self {
            ring,
            size,
            write,
            avail: (0, true),
            used: (0, true),
            outstanding: vec![None; usize::from(size)],
            free_slots: size,
            ram,
        };
        // Flags 0: the driver wants a call for everything.
        model.at(DRIVER_EVENT, 4).store_u32(0, 0, Relaxed);
        model
    }

    fn at(&self, offset: u64, len: usize) -> Window {
        self.ram.window(self.ram.regions()[0].guest + offset, len).expect("inside the region")
    }

    fn setup(&self) -> RingSetup {
        let region = &self.ram.regions()[0];
        let frontend = |offset| FrontendAddr(region.frontend + offset);
        RingSetup {
            index: 0,
            size: u32::from(self.size),
            descriptors: frontend(0),
            driver: frontend(DRIVER_EVENT),
            device: frontend(DEVICE_EVENT),
            base: 0x8000,
        }
    }

    fn buffer(&self, id: u16) -> Window {
        self.at(BUFFERS + BUFFER_BYTES * u64::from(id), BUFFER_BYTES as usize)
    }

    /// Makes a chain available, its first descriptor last; false where there is no room. A frame of `len` bytes begins
    /// 12 bytes into it.
    fn add(&mut self, step: &Step, total: usize) -> Option<u16> {
        let parts = usize::from(step.parts).min(total);
        let slots = if step.indirect { 1 } else { parts as u16 };
        if slots > self.free_slots {
            return None;
        }
        let free = self.outstanding.iter().filter(|o| o.is_none()).count();
        let nth = usize::from(step.id) % free;
        let id = self.outstanding.iter().enumerate().filter(|o| o.1.is_none()).nth(nth).expect("a free id").0 as u16;
        let base = self.buffer(id).guest();
        let direction = if self.write { WRITE } else { 0 };
        let piece = |n: usize| {
            let (from, to) = (total * n / parts, total * (n + 1) / parts);
            (base + from as u64, (to - from) as u32)
        };
        let first = self.avail;
        if step.indirect {
            let table = self.at(TABLES + 256 * u64::from(id), 256);
            for n in 0..parts {
                let (addr, len) = piece(n);
                table.store_u64(16 * n, addr, Relaxed);
                table.store_u32(16 * n + 8, len, Relaxed);
                // §2.8.7: the id means nothing here, nor does any flag but WRITE.
                table.store_u16(16 * n + 12, 0xffff, Relaxed);
                table.store_u16(16 * n + 14, direction, Relaxed);
            }
            self.put(first, table.guest(), 16 * parts as u32, id, INDIRECT);
        } else {
            for n in (0..parts).rev() {
                let slot = self.ahead(first, n as u16);
                let (addr, len) = piece(n);
                // §2.8.6: the id of all but the last means nothing.
                let (id, next) = if n + 1 == parts { (id, 0) } else { (0xdead, NEXT) };
                self.put(slot, addr, len, id, next | direction);
            }
        }
        self.avail = self.ahead(first, slots);
        self.free_slots -= slots;
        self.outstanding[usize::from(id)] = Some((slots, step.len));
        Some(id)
    }

    fn ahead(&self, (slot, wrap): (u16, bool), by: u16) -> (u16, bool) {
        let to = slot + by;
        if to >= self.size { (to - self.size, !wrap) } else { (to, wrap) }
    }

    fn put(&self, (slot, wrap): (u16, bool), addr: u64, len: u32, id: u16, flags: u16) {
        let at = 16 * usize::from(slot);
        self.ring.store_u64(at, addr, Relaxed);
        self.ring.store_u32(at + 8, len, Relaxed);
        self.ring.store_u16(at + 12, id, Relaxed);
        self.ring.store_u16(at + 14, flags | if wrap { AVAIL } else { USED }, Release);
    }

    /// The next used chain: its id, the length written, and what was kept of it.
    fn take_used(&mut self) -> Option<(u16, u32, usize)> {
        let (slot, wrap) = self.used;
        let at = 16 * usize::from(slot);
        let flags = self.ring.load_u16(at + 14, Acquire);
        let bit = |mask| flags & mask != 0;
        if self.free_slots == self.size || bit(AVAIL) != wrap || bit(USED) != wrap {
            return None;
        }
        let (id, len) = (self.ring.load_u16(at + 12, Relaxed), self.ring.load_u32(at + 8, Relaxed));
        // §2.8.5: WRITE says whether the length means anything.
        assert_eq!(bit(WRITE), len > 0);
        let (slots, frame) = self.outstanding[usize::from(id)].take().expect("an outstanding id");
        self.used = self.ahead(self.used, slots);
        self.free_slots += slots;
        Some((id, len, frame))
    }

    fn device_says_no_kicks(&self) {
        let event = self.at(DEVICE_EVENT, 4).load_u32(0, Relaxed);
        assert_eq!(event >> 16, 1, "RING_EVENT_FLAGS_DISABLE");
    }
}

fn features() -> Features {
    Features::VERSION_1.with(Features::RING_PACKED).with(Features::INDIRECT_DESC)
}

fn transmit(size: u16, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::new(size, false);
    let counters = Arc::new(QueueCounters::default());
    let mut queue = TxQueue::start(features(), map(&model.ram), &model.setup(), counters).expect("a sound ring");
    queue.set_enabled(true);
    let mut waiting = std::collections::VecDeque::new();
    for (number, step) in steps.iter().enumerate() {
        if let Some(id) = model.add(step, 12 + step.len) {
            let frame = pattern(step.len, number as u8);
            // Nobody looks at the buffer before the device is served, so it may be filled now.
            model.buffer(id).fill(0, 12, 0);
            model.buffer(id).write(12, &frame);
            waiting.push_back((id, frame));
        } else {
            prop_assert!(
                step.parts > size || !waiting.is_empty(),
                "a ring of {} with nothing outstanding takes {:?}",
                size,
                step
            );
        }
        if !step.serve && number + 1 < steps.len() {
            continue;
        }
        while !waiting.is_empty() {
            let mut buffer = BurstBuffer::default();
            let mut burst = Burst::new(&mut buffer);
            queue.pull(&mut burst);
            prop_assert!(!burst.is_empty(), "{} chains are left", waiting.len());
            let frames: Vec<Vec<u8>> = (0..burst.len()).map(|index| contents(&burst, index)).collect();
            drop(burst);
            prop_assert!(model.take_used().is_none(), "nothing is used before it is completed");
            queue.complete();
            for frame in frames {
                let (id, expected) = waiting.pop_front().expect("no more than was sent");
                prop_assert_eq!(frame, expected);
                prop_assert_eq!(model.take_used().map(|used| (used.0, used.1)), Some((id, 0)));
            }
        }
        prop_assert!(model.take_used().is_none());
    }
    model.device_says_no_kicks();
    let (slot, wrap) = model.avail;
    let half = u32::from(slot) | u32::from(wrap) << 15;
    prop_assert_eq!(queue.stop().0, half | half << 16);
    Ok(())
}

fn receive(size: u16, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model::new(size, true);
    let counters = Arc::new(QueueCounters::default());
    let mut queue = RxQueue::start(features(), map(&model.ram), &model.setup(), counters).expect("a sound ring");
    queue.set_enabled(true);
    let mut posted = std::collections::VecDeque::new();
    for (number, step) in steps.iter().enumerate() {
        posted.extend(model.add(step, BUFFER_BYTES as usize));
        if !step.serve && number + 1 < steps.len() {
            continue;
        }
        while let Some(id) = posted.pop_front() {
            let frame = pattern(step.len, number as u8);
            prop_assert_eq!(push(&mut queue, &frame), Ok(()));
            prop_assert_eq!(model.take_used().map(|used| (used.0, used.1)), Some((id, 12 + frame.len() as u32)));
            let mut bytes = vec![0; 12 + frame.len()];
            model.buffer(id).read(0, &mut bytes);
            prop_assert_eq!(&bytes[..12], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            prop_assert_eq!(&bytes[12..], &frame[..]);
        }
        prop_assert!(push(&mut queue, &pattern(60, 0)).is_err(), "no buffers left");
    }
    model.device_says_no_kicks();
    Ok(())
}

fn sizes() -> impl Strategy<Value = u16> {
    prop_oneof![1u16..9, Just(53), Just(255), Just(256)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packed_transmit_rings_follow_the_specification(size in sizes(), steps in steps()) {
        transmit(size, &steps)?;
    }

    #[test]
    fn packed_receive_rings_follow_the_specification(size in sizes(), steps in steps()) {
        receive(size, &steps)?;
    }
}

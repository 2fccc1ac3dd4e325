//! Split rings written by a driver that breaks the rules. Each rule broken is a counted drop of that packet, or the
//! counted stop of that ring; the packet behind it and the neighbour lose nothing.

use synthetic_guest::Features;
use synthetic_guest::hostile::{INDIRECT, NEXT, RawRing, SplitDescriptor, WRITE, poke};
use vm_ports::{RingFault, TxDrop};

use crate::bench::{Neighbour, Setup, World, pattern};

struct Attack {
    world: World,
    raw: RawRing,
    index: u16,
    neighbour: Neighbour,
}

impl Attack {
    fn new(regions: usize) -> Self {
        let setup = Setup {
            regions,
            region_size: 1 << 20,
            ..Setup::new(Features::VERSION_1 | Features::INDIRECT_DESC).ring(16)
        };
        let mut world = World::new(&setup);
        let raw = world.raw_tx();
        Self { world, raw, index: 0, neighbour: Neighbour::new() }
    }

    /// Where there is memory to put things in: the transmit buffers.
    fn buffers(&self) -> u64 {
        self.world.pair.tx.memory().guest()
    }

    fn publish(&mut self, head: u16) {
        self.raw.set_avail_entry(self.index % 16, head);
        self.index = self.index.wrapping_add(1);
        self.raw.set_avail_index(self.index);
    }

    /// A sound packet of 12 + `len` bytes in descriptor 15, which must come through after whatever came before.
    fn still_works(&mut self) {
        let frame = pattern(60, self.index as u8);
        let bytes = [&[0; 12][..], &frame].concat();
        poke(&self.world.ram, self.buffers(), &bytes).expect("inside");
        self.raw.set_split(15, SplitDescriptor { addr: self.buffers(), len: bytes.len() as u32, flags: 0, next: 0 });
        self.publish(15);
        assert_eq!(self.world.pull(), [frame]);
        assert_eq!(self.raw.used_index(), self.index, "all that was taken was given back");
    }

    /// Publishes the chain at descriptor 0: it must be dropped for `reason`, given back, and nothing else happen.
    fn dropped(&mut self, reason: TxDrop) {
        let before = (self.world.drops(reason), self.world.all_drops());
        self.publish(0);
        self.neighbour.talk(1);
        assert_eq!(self.world.pull(), [] as [Vec<u8>; 0]);
        let after = (self.world.drops(reason), self.world.all_drops());
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{reason:?}");
        assert_eq!(self.raw.used_entry((self.index - 1) % 16), (0, 0));
        self.still_works();
        assert_eq!(self.world.tx.fault(), None);
    }

    fn stopped(mut self, fault: RingFault) {
        for _ in 0..3 {
            assert_eq!(self.world.pull(), [] as [Vec<u8>; 0]);
            self.neighbour.talk(1);
        }
        assert_eq!(self.world.tx.fault(), Some(fault));
        assert_eq!(self.world.tx_faults(fault), 1, "a stop is counted once");
        assert!(!self.world.tx.has_work());
        self.neighbour.lost_nothing();
    }
}

fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> SplitDescriptor {
    SplitDescriptor { addr, len, flags, next }
}

#[test]
fn a_chain_with_a_loop() {
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    for (a, b) in [(0, 0), (1, 0), (1, 1)] {
        attack.raw.set_split(0, descriptor(at, 100, NEXT, a));
        attack.raw.set_split(1, descriptor(at, 0, NEXT, b));
        attack.dropped(TxDrop::MalformedChain);
    }
    attack.neighbour.lost_nothing();
}

#[test]
fn next_outside_of_the_table() {
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    for next in [16, 17, 0x7fff, 0xffff] {
        attack.raw.set_split(0, descriptor(at, 100, NEXT, next));
        attack.dropped(TxDrop::MalformedChain);
    }
    attack.neighbour.lost_nothing();
}

#[test]
fn lengths_of_nothing_and_of_everything() {
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    for len in [0, 1, 11, 12, 25] {
        attack.raw.set_split(0, descriptor(at, len, 0, 0));
        attack.dropped(TxDrop::BadLength);
    }
    for len in [u32::MAX, 1 << 31, 1 << 20] {
        attack.raw.set_split(0, descriptor(at, len, 0, 0));
        attack.dropped(TxDrop::BadAddress);
    }
    // Many times all of memory in one chain.
    let base = attack.world.ram.regions()[0].guest;
    for index in 0..15 {
        attack.raw.set_split(index, descriptor(base, 1 << 20, if index < 14 { NEXT } else { 0 }, index + 1));
    }
    attack.dropped(TxDrop::BadLength);
    attack.neighbour.lost_nothing();
}

#[test]
fn addresses_outside_of_memory() {
    let mut attack = Attack::new(2);
    let regions: Vec<(u64, u64)> = attack.world.ram.regions().iter().map(|r| (r.guest, r.guest + r.size)).collect();
    let [(first, first_end), (second, second_end)] = regions[..] else { panic!("two regions") };
    let cases = [
        (0, 100),
        (first - 1, 100),
        (first_end - 99, 100),
        (first_end, 100),
        (first_end - 1, u32::MAX),
        (second - 50, 100),
        (second_end - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 99, 100),
        (u64::MAX - 99, 200),
        (u64::MAX - 50, u32::MAX),
        (1 << 63, 100),
    ];
    for (addr, len) in cases {
        attack.raw.set_split(0, descriptor(addr, len, 0, 0));
        attack.dropped(TxDrop::BadAddress);
    }
    // The last bytes are memory like any other.
    poke(&attack.world.ram, second_end - 72, &[0; 72]).expect("inside");
    attack.raw.set_split(0, descriptor(second_end - 72, 72, 0, 0));
    attack.publish(0);
    assert_eq!(attack.world.pull(), [vec![0; 60]]);
    attack.neighbour.lost_nothing();
}

#[test]
fn an_available_index_that_jumps() {
    for jump in [17, 100, 0x7fff, 0x8000, 0xffff] {
        let attack = Attack::new(1);
        attack.raw.set_avail_index(jump);
        attack.stopped(RingFault::IndexJump);
    }
    // As far as the ring is long is no jump.
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    attack.raw.set_split(0, descriptor(at, 0, 0, 0));
    attack.raw.set_avail_index(16);
    attack.world.pull();
    assert_eq!((attack.world.tx.fault(), attack.world.drops(TxDrop::BadLength)), (None, 16));
}

#[test]
fn an_available_index_that_goes_back() {
    let mut attack = Attack::new(1);
    attack.still_works();
    attack.raw.set_avail_index(0);
    attack.stopped(RingFault::IndexJump);
}

#[test]
fn a_head_outside_of_the_table() {
    for head in [16, 0x8000, 0xffff] {
        let mut attack = Attack::new(1);
        attack.still_works();
        attack.publish(head);
        attack.stopped(RingFault::BadHead);
    }
}

#[test]
fn what_was_pulled_before_a_bad_head_still_goes_its_way() {
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    poke(&attack.world.ram, at, &[0; 72]).expect("inside");
    attack.raw.set_split(0, descriptor(at, 72, 0, 0));
    attack.publish(0);
    attack.publish(99);
    assert_eq!(attack.world.pull(), [vec![0; 60]]);
    assert_eq!(attack.raw.used_index(), 1);
    assert_eq!(attack.world.tx.fault(), Some(RingFault::BadHead));
}

#[test]
fn writable_buffers_to_send_from() {
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    attack.raw.set_split(0, descriptor(at, 100, WRITE, 0));
    attack.dropped(TxDrop::MalformedChain);
    attack.raw.set_split(0, descriptor(at, 100, NEXT, 1));
    attack.raw.set_split(1, descriptor(at, 100, WRITE, 0));
    attack.dropped(TxDrop::MalformedChain);
    attack.neighbour.lost_nothing();
}

#[test]
fn indirect_tables_that_lie() {
    let mut attack = Attack::new(1);
    let at = attack.buffers();
    let table = at + 4096;
    let put = |attack: &Attack, entry: u64, descriptor: SplitDescriptor| {
        poke(&attack.world.ram, table + 16 * entry, &descriptor.to_bytes()).expect("inside");
    };
    put(&attack, 0, descriptor(at, 100, 0, 0));
    // Lengths that are no whole number of descriptors, none, or more than any ring could hold.
    for len in [0, 1, 15, 17, 31, 16 * 32_769, u32::MAX, u32::MAX - 15] {
        attack.raw.set_split(0, descriptor(table, len, INDIRECT, 0));
        attack.dropped(TxDrop::MalformedChain);
    }
    // Together with NEXT.
    attack.raw.set_split(0, descriptor(table, 16, INDIRECT | NEXT, 1));
    attack.dropped(TxDrop::MalformedChain);
    // A table in the table; and the table itself.
    for inner in [at, table] {
        put(&attack, 0, descriptor(inner, 16, INDIRECT, 0));
        attack.raw.set_split(0, descriptor(table, 16, INDIRECT, 0));
        attack.dropped(TxDrop::MalformedChain);
    }
    // A loop, and an entry behind the end, in the table.
    for next in [0, 2, 0xffff] {
        put(&attack, 0, descriptor(at, 20, NEXT, 1));
        put(&attack, 1, descriptor(at, 20, NEXT, next));
        attack.raw.set_split(0, descriptor(table, 32, INDIRECT, 0));
        attack.dropped(TxDrop::MalformedChain);
    }
    // Outside of memory, wholly and with its last entry.
    let end = attack.world.ram.regions()[0].guest + attack.world.ram.regions()[0].size;
    poke(&attack.world.ram, end - 16, &descriptor(at, 20, NEXT, 1).to_bytes()).expect("inside");
    for addr in [0, end, end - 16, end - 8, u64::MAX, u64::MAX - 15, u64::MAX - 31] {
        attack.raw.set_split(0, descriptor(addr, 32, INDIRECT, 0));
        attack.dropped(TxDrop::BadAddress);
    }
    attack.neighbour.lost_nothing();
}

#[test]
fn a_chain_of_more_parts_than_a_packet_may_have() {
    let setup = Setup::new(Features::VERSION_1 | Features::INDIRECT_DESC).ring(512);
    let mut world = World::new(&setup);
    let raw = world.raw_tx();
    let at = world.pair.tx.memory().guest();
    poke(&world.ram, at, &[0; 72]).expect("inside");
    let mut used = 0;
    // Header and 14 bytes in the first, a byte in each other.
    for (count, table) in [(256u16, false), (257, false), (256, true), (257, true), (512, false), (512, true)] {
        for index in 0..count {
            let flags = if index + 1 < count { NEXT } else { 0 };
            let part = descriptor(at, if index == 0 { 26 } else { 1 }, flags, index + 1);
            if table {
                poke(&world.ram, at + 4096 + 16 * u64::from(index), &part.to_bytes()).expect("inside");
            } else {
                raw.set_split(index, part);
            }
        }
        if table {
            raw.set_split(0, descriptor(at + 4096, 16 * u32::from(count), INDIRECT, 0));
        }
        raw.set_avail_entry(used, 0);
        used += 1;
        raw.set_avail_index(used);
        let pulled = world.pull();
        assert_eq!(pulled.iter().map(Vec::len).collect::<Vec<_>>(), if count == 256 { vec![14 + 255] } else { vec![] });
    }
    assert_eq!(world.drops(TxDrop::MalformedChain), 4);
}

#[test]
fn a_ring_that_starts_where_it_cannot() {
    use std::sync::Arc;
    use vm_ports::{FrontendAddr, RingError, RingSetup, TxQueue};

    let mut world = World::new(&Setup::new(Features::VERSION_1));
    let good = crate::bench::setup_of(world.pair.tx.ring(), 1);
    let start = |setup: RingSetup, features| {
        TxQueue::start(features, Arc::clone(&world.memory), &setup, Arc::clone(&world.counters)).err()
    };
    let (split, packed) = (vm_ports::Features::VERSION_1, vm_ports::Features::RING_PACKED);
    for size in [0, 3, 65_536, 65_535, u32::MAX, 1 << 16 | 256] {
        assert!(matches!(start(RingSetup { size, ..good }, split), Some(RingError::Size { .. })), "{size}");
    }
    for size in [0, 32_769, 65_536, u32::MAX, 1 << 16 | 256] {
        assert!(matches!(start(RingSetup { size, ..good }, packed), Some(RingError::Size { .. })), "{size}");
    }
    assert!(matches!(start(RingSetup { base: 256, ..good }, packed), Some(RingError::Base { .. })));
    let base = world.ram.regions()[0].frontend;
    let end = base + world.ram.regions()[0].size;
    for (addr, why) in [
        (base - 16, "before memory"),
        (end, "behind memory"),
        (end - 16, "over the end"),
        (good.descriptors.0 + 1, "misaligned"),
        (u64::MAX - 15, "around"),
        (world.ram.regions()[0].guest, "a guest-physical address"),
    ] {
        let addr = FrontendAddr(addr);
        for features in [split, packed] {
            let refused = |setup| matches!(start(setup, features), Some(RingError::Area { .. }));
            assert!(refused(RingSetup { descriptors: addr, ..good }), "{why}");
            // Event suppression of a packed ring is four bytes: it fits before the end.
            if why != "over the end" || features == split {
                assert!(refused(RingSetup { driver: addr, ..good }), "{why}");
                assert!(refused(RingSetup { device: addr, ..good }), "{why}");
            }
        }
    }
    assert_eq!(start(good, split), None);
    world.tx.set_enabled(false);
}

#[test]
fn a_disabled_ring_is_drained_and_counted() {
    let mut attack = Attack::new(1);
    attack.still_works();
    attack.world.tx.set_enabled(false);
    attack.publish(15);
    assert_eq!(attack.world.pull(), [] as [Vec<u8>; 0]);
    assert_eq!((attack.world.drops(TxDrop::RingDisabled), attack.raw.used_index()), (1, 2));
    attack.world.tx.set_enabled(true);
    attack.still_works();
}

#[test]
fn buffers_that_cross_into_an_adjacent_region_and_into_a_hole() {
    use std::sync::Arc;
    use vm_ports::{FrontendAddr, GuestMemory, GuestPhysAddr, MemorySlot, QueueCounters, TxQueue};

    // One region of the driver, which the device is told of in three slots with a hole before the last.
    let mut world = World::new(&Setup::new(Features::VERSION_1));
    let region = &world.ram.regions()[0];
    let (guest, frontend, half) = (region.guest, region.frontend, region.size / 2);
    let slot = |offset: u64, size: u64| MemorySlot {
        guest: GuestPhysAddr(guest + offset),
        frontend: FrontendAddr(frontend + offset),
        size,
        mmap_offset: offset,
        file: region.file().try_clone_to_owned().expect("a handle").into(),
    };
    let memory = GuestMemory::map(vec![slot(half + 4096, 4096), slot(0, half), slot(half, 100)]).expect("it maps");
    let setup = crate::bench::setup_of(world.pair.tx.ring(), 1);
    world.tx = TxQueue::start(vm_ports::Features::VERSION_1, memory, &setup, Arc::new(QueueCounters::default()))
        .expect("the ring is in the first slot");
    world.tx.set_enabled(true);
    let raw = world.raw_tx();
    let bytes = [&[0; 12][..], &pattern(140, 5)].concat();
    poke(&world.ram, guest + half - 100, &bytes).expect("inside");
    for (n, (len, expected)) in [(152, Some(140)), (200, Some(188)), (201, None)].into_iter().enumerate() {
        let n = n as u16;
        raw.set_split(0, descriptor(guest + half - 100, len, 0, 0));
        raw.set_avail_entry(n, 0);
        raw.set_avail_index(n + 1);
        let pulled = world.pull();
        assert_eq!(pulled.first().map(Vec::len), expected);
        if len == 152 {
            assert_eq!(pulled[0], bytes[12..]);
        }
    }
    assert_eq!(world.tx.fault(), None);
}

/// The bound of one pull: 256 descriptors of a chain, and no further chain after 1,024, however many more are offered.
#[test]
fn one_pull_walks_1024_descriptors_at_most() {
    let setup = Setup::new(Features::VERSION_1 | Features::INDIRECT_DESC).ring(1024);
    let mut world = World::new(&setup);
    let raw = world.raw_tx();
    let table = world.pair.tx.memory().guest();
    let entries = 32_768u32;
    for n in 0..entries {
        let entry = descriptor(0, 0, NEXT, ((n + 1) % entries) as u16);
        poke(&world.ram, table + 16 * u64::from(n), &entry.to_bytes()).expect("inside");
    }
    // The 257th descriptor would show that it was read: it alone is outside of memory, which is another reason to drop.
    poke(&world.ram, table + 16 * 256, &descriptor(0, 1, 0, 0).to_bytes()).expect("inside");
    for n in 0..1024 {
        raw.set_split(n, descriptor(table, 16 * entries, INDIRECT, 0));
        raw.set_avail_entry(n, n);
    }
    raw.set_avail_index(1024);
    for pull in 1..=256 {
        assert_eq!(world.pull(), [] as [Vec<u8>; 0]);
        assert_eq!(raw.used_index(), 4 * pull);
    }
    assert_eq!((world.drops(TxDrop::MalformedChain), world.all_drops()), (1024, 1024));
    assert!(!world.tx.has_work());
}

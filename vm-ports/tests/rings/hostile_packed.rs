//! Packed rings written by a driver that breaks the rules.

use synthetic_guest::Features;
use synthetic_guest::hostile::{AVAIL, INDIRECT, NEXT, PackedDescriptor, RawRing, USED, WRITE, poke};
use vm_ports::{RingFault, TxDrop};

use crate::bench::{Neighbour, Setup, World, pattern};

struct Attack {
    world: World,
    raw: RawRing,
    slot: u16,
    wrap: bool,
    size: u16,
    neighbour: Neighbour,
}

impl Attack {
    fn new(size: u16) -> Self {
        let features = Features::VERSION_1 | Features::RING_PACKED | Features::INDIRECT_DESC;
        let mut world = World::new(&Setup { region_size: 8 << 20, ..Setup::new(features).ring(size) });
        let raw = world.raw_tx();
        Self { world, raw, slot: 0, wrap: true, size, neighbour: Neighbour::new() }
    }

    fn buffers(&self) -> u64 {
        self.world.pair.tx.memory().guest()
    }

    /// Writes a chain, the first descriptor last, and moves on.
    fn publish(&mut self, chain: &[PackedDescriptor]) {
        let mut slots = Vec::new();
        for descriptor in chain {
            let flags = descriptor.flags | if self.wrap { AVAIL } else { USED };
            slots.push((self.slot, PackedDescriptor { flags, ..*descriptor }));
            self.slot += 1;
            if self.slot == self.size {
                (self.slot, self.wrap) = (0, !self.wrap);
            }
        }
        for (slot, descriptor) in slots.into_iter().rev() {
            self.raw.set_packed(slot, descriptor);
        }
    }

    fn still_works(&mut self) {
        let frame = pattern(60, self.slot as u8);
        let bytes = [&[0; 12][..], &frame].concat();
        poke(&self.world.ram, self.buffers(), &bytes).expect("inside");
        let (slot, wrap) = (self.slot, self.wrap);
        self.publish(&[part(self.buffers(), 72, 0, 0x55)]);
        assert_eq!(self.world.pull(), [frame]);
        let used = self.raw.packed(slot);
        assert_eq!((used.id, used.len), (0x55, 0));
        assert_eq!(used.flags, if wrap { AVAIL | USED } else { 0 });
    }

    fn dropped(&mut self, chain: &[PackedDescriptor], reason: TxDrop) {
        let before = (self.world.drops(reason), self.world.all_drops());
        let (slot, id) = (self.slot, chain.last().expect("a chain").id);
        self.publish(chain);
        self.neighbour.talk(1);
        assert_eq!(self.world.pull(), [] as [Vec<u8>; 0]);
        let after = (self.world.drops(reason), self.world.all_drops());
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{reason:?}");
        assert_eq!(self.raw.packed(slot).id, id, "given back with the id of its last descriptor");
        self.still_works();
    }
}

fn part(addr: u64, len: u32, flags: u16, id: u16) -> PackedDescriptor {
    PackedDescriptor { addr, len, id, flags }
}

#[test]
fn bad_parts_spoil_their_chain_and_no_other() {
    let mut attack = Attack::new(53);
    let at = attack.buffers();
    let end = attack.world.ram.regions()[0].guest + attack.world.ram.regions()[0].size;
    for _ in 0..20 {
        attack.dropped(&[part(at, 100, WRITE, 1)], TxDrop::MalformedChain);
        attack.dropped(
            &[part(at, 100, NEXT, 9), part(at, 10, WRITE | NEXT, 9), part(at, 5, 0, 2)],
            TxDrop::MalformedChain,
        );
        attack.dropped(&[part(at, 0, 0, 3)], TxDrop::BadLength);
        attack.dropped(&[part(at, u32::MAX, 0, 4)], TxDrop::BadAddress);
        attack.dropped(&[part(end - 10, 11, NEXT, 0), part(at, 100, 0, 5)], TxDrop::BadAddress);
        attack.dropped(&[part(u64::MAX - 5, 100, 0, 6)], TxDrop::BadAddress);
    }
    attack.neighbour.lost_nothing();
}

#[test]
fn indirect_tables_that_lie() {
    let mut attack = Attack::new(7);
    let at = attack.buffers();
    let table = at + 4096;
    let put = |attack: &Attack, entry: u64, descriptor: PackedDescriptor| {
        poke(&attack.world.ram, table + 16 * entry, &descriptor.to_bytes()).expect("inside");
    };
    for len in [0, 8, 17, 16 * 257, 16 * 32_769, u32::MAX] {
        attack.dropped(&[part(table, len, INDIRECT, 1)], TxDrop::MalformedChain);
    }
    attack.dropped(&[part(table, 16, INDIRECT | NEXT, 1), part(at, 100, 0, 2)], TxDrop::MalformedChain);
    attack.dropped(&[part(at, 100, NEXT, 1), part(table, 16, INDIRECT, 2)], TxDrop::MalformedChain);
    put(&attack, 0, part(table, 16, INDIRECT, 0));
    attack.dropped(&[part(table, 16, INDIRECT, 3)], TxDrop::MalformedChain);
    put(&attack, 0, part(at, 50, 0, 0));
    put(&attack, 1, part(at, 50, WRITE, 0));
    attack.dropped(&[part(table, 32, INDIRECT, 4)], TxDrop::MalformedChain);
    let end = attack.world.ram.regions()[0].guest + attack.world.ram.regions()[0].size;
    for addr in [0, end - 8, end, u64::MAX - 15] {
        attack.dropped(&[part(addr, 32, INDIRECT, 5)], TxDrop::BadAddress);
    }
    attack.neighbour.lost_nothing();
}

#[test]
fn a_chain_without_an_end() {
    for size in [1, 2, 53, 256, 300] {
        let mut attack = Attack::new(size);
        let at = attack.buffers();
        let chain: Vec<_> = (0..size).map(|n| part(at, 0, NEXT, n)).collect();
        attack.publish(&chain);
        for _ in 0..3 {
            assert_eq!(attack.world.pull(), [] as [Vec<u8>; 0]);
            attack.neighbour.talk(1);
        }
        assert_eq!(attack.world.tx.fault(), Some(RingFault::EndlessChain), "ring of {size}");
        assert_eq!(attack.world.tx_faults(RingFault::EndlessChain), 1);
        attack.neighbour.lost_nothing();
    }
}

#[test]
fn a_chain_of_256_is_taken_and_of_257_is_not() {
    for (count, taken) in [(256u16, true), (257, false)] {
        let mut attack = Attack::new(300);
        let at = attack.buffers();
        poke(&attack.world.ram, at, &[0; 64]).expect("inside");
        let chain: Vec<_> = (0..count)
            .map(|n| part(at, if n == 0 { 26 } else { 1 }, if n + 1 < count { NEXT } else { 0 }, 7))
            .collect();
        attack.publish(&chain);
        assert_eq!(attack.world.pull().len(), usize::from(taken));
        assert_eq!(attack.world.tx.fault().is_none(), taken);
    }
}

/// The bound of one pull, 1,024 descriptors, holds for chains that are bad from their first part on.
#[test]
fn slots_of_bad_chains_count_in_what_a_pull_looks_at() {
    let mut attack = Attack::new(2048);
    let at = attack.buffers();
    let mut chain = vec![part(at, 1, NEXT, 7); 256];
    chain[0].flags = WRITE | NEXT;
    chain[255].flags = 0;
    for _ in 0..8 {
        attack.publish(&chain);
    }
    for dropped in [4, 8] {
        assert_eq!(attack.world.pull(), [] as [Vec<u8>; 0]);
        assert_eq!((attack.world.drops(TxDrop::MalformedChain), attack.world.all_drops()), (dropped, dropped));
    }
    attack.still_works();
}

#[test]
fn ids_are_garbage_only_to_their_driver() {
    let mut attack = Attack::new(5);
    let at = attack.buffers();
    poke(&attack.world.ram, at, &[0; 72]).expect("inside");
    for id in [5, 0x7fff, 0x8000, 0xffff] {
        let slot = attack.slot;
        attack.publish(&[part(at, 72, 0, id)]);
        assert_eq!(attack.world.pull().len(), 1);
        assert_eq!(attack.raw.packed(slot).id, id, "given back as it came");
        attack.still_works();
    }
}

#[test]
fn flipped_wrap_bits_are_not_available() {
    let mut attack = Attack::new(4);
    let at = attack.buffers();
    for _ in 0..3 {
        for flags in [0, AVAIL | USED, if attack.wrap { USED } else { AVAIL }] {
            attack.raw.set_packed(attack.slot, part(at, 72, flags, 1));
            assert!(!attack.world.tx.has_work());
            assert_eq!(attack.world.pull(), [] as [Vec<u8>; 0]);
        }
        attack.still_works();
    }
    assert_eq!(attack.world.tx.fault(), None);
}

#[test]
fn a_driver_that_makes_the_whole_ring_available_for_ever_is_served_a_burst_at_a_time() {
    // It sets each slot again, for the next lap, before it was used: the device takes what it finds, never more than a
    // burst.
    let mut attack = Attack::new(8);
    let at = attack.buffers();
    poke(&attack.world.ram, at, &[0; 72]).expect("inside");
    for _ in 0..100 {
        attack.publish(&[part(at, 72, 0, 1); 8]);
        assert!(attack.world.pull().len() <= 8);
    }
    assert_eq!(attack.world.tx.fault(), None);
}

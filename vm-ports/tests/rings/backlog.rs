//! What a transmit ring says of the work that is left in it: against a driver that is right, and one that is not.

use proptest::prelude::*;
use synthetic_guest::hostile::{AVAIL, PackedDescriptor, USED, WRITE};
use synthetic_guest::{Features, TxShape};
use vm_ports::{BURST_PACKETS, Burst, BurstBuffer};

use crate::bench::{Setup, World, pattern};

/// Slots that the driver filled and nobody pulled.
struct Followed {
    world: World,
    /// Slots of a packet.
    slots: usize,
    left: usize,
    /// Those that a split ring knows of.
    known: usize,
}

impl Followed {
    fn new(packed: bool, ring: u16, slots: usize) -> Self {
        let format = if packed { Features::RING_PACKED } else { Features::NONE };
        let tx_shape = if slots == 2 { TxShape::HeaderSeparate } else { TxShape::OneBuffer };
        let setup = Setup { tx_shape, region_size: 4 << 20, ..Setup::new(Features::VERSION_1 | format).ring(ring) };
        Self { world: World::new(&setup), slots, left: 0, known: 0 }
    }

    fn send(&mut self, packets: usize) {
        let frame = pattern(60, 1);
        self.world.pair.tx.reclaim();
        let sent = self.world.pair.tx.send_with(packets, |_, slot| {
            slot.header(synthetic_guest::Offload::default());
            slot.write(0, &frame);
            frame.len()
        });
        self.left += sent * self.slots;
    }

    fn pull(&mut self) {
        // A ring looks for more when it knows of less than a burst.
        if self.known < BURST_PACKETS {
            self.known = self.left;
        }
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        let pulled = self.world.tx.pull(&mut burst).slots;
        drop(burst);
        self.world.tx.complete();
        assert_eq!(pulled, self.left.min(self.slots * BURST_PACKETS));
        self.left -= pulled;
        self.known -= pulled;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_split_ring_says_what_it_knows(steps in prop::collection::vec((0_usize..300, 0_usize..12), 0..40)) {
        let mut ring = Followed::new(false, 256, 1);
        for (send, pulls) in steps {
            ring.send(send);
            for _ in 0..pulls {
                ring.pull();
                prop_assert_eq!(usize::from(ring.world.tx.backlog()), ring.known);
            }
        }
        prop_assert_eq!(ring.world.tx.fault(), None);
    }

    /// Rings of every size, a power of two or not, with chains of one descriptor or two.
    #[test]
    fn a_packed_ring_finds_out_but_for_a_burst(
        size in 2_u16..=300,
        slots in 1_usize..=2,
        steps in prop::collection::vec((0_usize..300, 0_usize..12), 0..40),
    ) {
        let mut ring = Followed::new(true, size, slots);
        for (send, pulls) in steps {
            ring.send(send);
            for pull in 0..=pulls {
                let backlog = usize::from(ring.world.tx.backlog());
                prop_assert!(backlog <= ring.left && ring.left <= backlog + BURST_PACKETS, "{} of {}", backlog, ring.left);
                prop_assert_eq!(backlog == 0, ring.left == 0);
                if pull < pulls {
                    ring.known = ring.left;
                    ring.pull();
                }
            }
        }
        prop_assert_eq!(ring.world.tx.fault(), None);
    }

    /// Looking is no fault, and what is seen is no more than the ring can hold, whatever stands in it.
    #[test]
    fn a_hostile_packed_ring_is_only_looked_at(
        size in 1_u16..=256,
        flags in prop::collection::vec(prop::sample::select(vec![0, AVAIL, USED, AVAIL | USED, AVAIL | WRITE]), 256),
    ) {
        let mut ring = Followed::new(true, size, 1);
        let raw = ring.world.raw_tx();
        for (slot, flags) in (0..size).zip(&flags) {
            raw.set_packed(slot, PackedDescriptor { addr: u64::MAX, len: u32::MAX, id: u16::MAX, flags: *flags });
        }
        let backlog = ring.world.tx.backlog();
        prop_assert!(backlog <= size);
        prop_assert_eq!(backlog == 0, flags[0] & (AVAIL | USED) != AVAIL);
        prop_assert_eq!(ring.world.tx.fault(), None);
    }

    #[test]
    fn a_hostile_index_is_bounded_by_the_ring(indices: Vec<u16>) {
        let mut ring = Followed::new(false, 16, 1);
        let raw = ring.world.raw_tx();
        for index in indices {
            raw.set_avail_index(index);
            // Only looks: the fault is for a pull to find.
            ring.world.tx.has_work();
            prop_assert!(ring.world.tx.backlog() <= 16);
            prop_assert_eq!(ring.world.tx.fault(), None);
        }
    }
}

#[test]
fn a_stopped_ring_has_nothing_left() {
    let mut ring = Followed::new(false, 16, 1);
    ring.world.raw_tx().set_avail_index(17);
    let mut buffer = BurstBuffer::default();
    assert_eq!(ring.world.tx.pull(&mut Burst::new(&mut buffer)).slots, 0);
    assert!(ring.world.tx.fault().is_some());
    assert_eq!(ring.world.tx.backlog(), 0);
}

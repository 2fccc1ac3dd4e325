//! virtio-net headers and frames that lie: each is one counted drop.

use synthetic_guest::hostile::{NEXT, RawRing, SplitDescriptor, poke};
use synthetic_guest::{Features, Gso, Offload};
use vm_ports::{FRAME_MAX, TxDrop};

use crate::bench::{Neighbour, Setup, World, pattern};

fn offloading() -> Features {
    Features::VERSION_1 | Features::OFFLOADS | Features::INDIRECT_DESC
}

/// One frame with this header; what comes out, and the drops it was counted under.
fn send(world: &mut World, header: Offload, frame: &[u8]) -> Vec<Vec<u8>> {
    world.pair.tx.reclaim();
    let sent = world.pair.tx.send_with(1, |_, slot| {
        slot.header(header);
        slot.write(0, frame);
        frame.len()
    });
    assert_eq!(sent, 1);
    world.pull()
}

fn csum(start: u16, offset: u16) -> Offload {
    Offload::partial_checksum(start, offset)
}

fn gso(kind: Gso, size: u16) -> Offload {
    Offload { gso: kind, gso_size: size, ..csum(34, 16) }
}

fn refused(features: Features, header: Offload, frame: &[u8]) {
    let mut world = World::new(&Setup::new(features));
    let mut neighbour = Neighbour::new();
    neighbour.talk(1);
    assert!(send(&mut world, header, frame).is_empty(), "{header:?}");
    assert_eq!((world.drops(TxDrop::BadOffload), world.all_drops()), (1, 1), "{header:?}");
    assert_eq!(send(&mut world, Offload::default(), frame), [frame], "the next one");
    assert_eq!(world.tx.fault(), None);
    neighbour.lost_nothing();
}

#[test]
fn a_checksum_outside_of_the_frame() {
    let frame = pattern(100, 1);
    for (start, offset) in [(99, 0), (34, 65), (0xffff, 0xffff), (100, 0), (0xffff, 1), (14, 0xffff)] {
        refused(offloading(), csum(start, offset), &frame);
    }
    let mut world = World::new(&Setup::new(offloading()));
    assert_eq!(send(&mut world, csum(34, 64), &frame), [frame], "its last two bytes are inside");
}

/// A checksum is stored after addresses and VLAN tag were judged: one that is stored in them would forge them.
#[test]
fn a_checksum_in_the_link_layers_header() {
    let plain = pattern(100, 1);
    for (start, offset) in [(0, 0), (0, 6), (0, 10), (0, 16), (6, 2), (13, 20)] {
        refused(offloading(), csum(start, offset), &plain);
    }
    let mut tagged = plain.clone();
    tagged[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
    for (start, offset) in [(14, 0), (14, 16), (17, 3), (0, 14)] {
        refused(offloading(), csum(start, offset), &tagged);
    }
    let mut world = World::new(&Setup::new(offloading()));
    assert_eq!(send(&mut world, csum(14, 0), &plain), [plain]);
    assert_eq!(send(&mut world, csum(18, 0), &tagged), [tagged]);
}

#[test]
fn segmentation_that_cannot_be() {
    let frame = pattern(1400, 1);
    refused(offloading(), gso(Gso::Tcp4, 0), &frame);
    refused(offloading(), Offload { flags: 0, ..gso(Gso::Tcp4, 1000) }, &frame);
    refused(offloading(), Offload { flags: Offload::DATA_VALID, ..gso(Gso::Tcp6, 1000) }, &frame);
    for kind in [2, 3, 5, 6, 0x7f, 0x80, 0x83, 0xff] {
        refused(offloading(), gso(Gso::Raw(kind), 1000), &frame);
    }
    // ECN needs HOST_ECN.
    refused(offloading(), gso(Gso::Raw(0x81), 1000), &frame);
}

#[test]
fn what_was_not_negotiated() {
    let frame = pattern(1400, 1);
    refused(Features::VERSION_1, csum(34, 16), &frame);
    refused(Features::NONE, csum(34, 16), &frame);
    refused(Features::VERSION_1 | Features::CSUM | Features::HOST_TSO6, gso(Gso::Tcp4, 1000), &frame);
    refused(Features::VERSION_1 | Features::CSUM | Features::HOST_TSO4, gso(Gso::Tcp6, 1000), &frame);
}

#[test]
fn bits_that_mean_nothing_from_a_guest_are_dropped() {
    let frame = pattern(100, 1);
    let mut world = World::new(&Setup::new(Features::VERSION_1));
    for flags in [Offload::DATA_VALID, Offload::RSC_INFO, 0xfe] {
        let header = Offload {
            flags,
            header_len: 0xffff,
            gso_size: 1,
            csum_start: 0xffff,
            csum_offset: 9,
            num_buffers: 77,
            gso: Gso::None,
        };
        assert_eq!(send(&mut world, header, &frame), [&frame[..]]);
    }
    assert_eq!(world.all_drops(), 0);
}

fn raw_world(ring: u16) -> (World, RawRing) {
    let setup = Setup { region_size: 4 << 20, ..Setup::new(offloading()).ring(ring) };
    let mut world = World::new(&setup);
    let raw = world.raw_tx();
    (world, raw)
}

#[test]
fn a_header_spread_over_one_byte_descriptors() {
    let (mut world, raw) = raw_world(64);
    let at = world.pair.tx.memory().guest();
    let frame = pattern(100, 3);
    poke(&world.ram, at, &[&csum(34, 16).to_bytes()[..], &frame].concat()).expect("inside");
    // 30 bytes in descriptors of their own, one of none after each: the Ethernet header is spread as well.
    for n in 0..30u16 {
        raw.set_split(2 * n, SplitDescriptor { addr: at + u64::from(n), len: 1, flags: NEXT, next: 2 * n + 1 });
        raw.set_split(2 * n + 1, SplitDescriptor { addr: 0, len: 0, flags: NEXT, next: 2 * n + 2 });
    }
    raw.set_split(60, SplitDescriptor { addr: at + 30, len: 82, flags: 0, next: 0 });
    raw.set_avail_entry(0, 0);
    raw.set_avail_index(1);
    assert_eq!(world.pull(), [frame]);
}

#[test]
fn frames_of_every_impossible_length() {
    let (mut world, raw) = raw_world(64);
    let at = world.pair.tx.memory().guest();
    poke(&world.ram, at, &[0; 70_000]).expect("inside");
    let mut sent = 0;
    let mut send = |world: &mut World, len: usize| {
        raw.set_split(0, SplitDescriptor { addr: at, len: len as u32, flags: 0, next: 0 });
        raw.set_avail_entry(sent % 64, 0);
        sent += 1;
        raw.set_avail_index(sent);
        world.pull()
    };
    let bad: Vec<usize> = (0..12 + 14).chain([12 + FRAME_MAX + 1, 66_000, 70_000, 1 << 20]).collect();
    for &len in &bad {
        assert!(send(&mut world, len).is_empty(), "{len}");
    }
    assert_eq!((world.drops(TxDrop::BadLength), world.all_drops()), (bad.len() as u64, bad.len() as u64));
    for len in [14, 15, 60, FRAME_MAX - 1, FRAME_MAX] {
        assert_eq!(send(&mut world, 12 + len).iter().map(Vec::len).collect::<Vec<_>>(), [len]);
    }
}

#[test]
fn a_legacy_header_has_ten_bytes() {
    let mut world = World::new(&Setup::new(Features::NONE));
    let frame = pattern(60, 1);
    assert_eq!(send(&mut world, Offload::default(), &frame), [frame]);
    let mut world = World::new(&Setup::new(Features::NONE | Features::RING_PACKED));
    let frame = pattern(14, 1);
    assert_eq!(send(&mut world, Offload::default(), &frame), [frame]);
}

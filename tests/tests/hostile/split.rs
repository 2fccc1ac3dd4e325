//! Split transmit rings that break the rules.

use anyhow::{Result, ensure};
use sidecore_tests::process::eventually;
use synthetic_guest::hostile::{INDIRECT, NEXT, RawRing, SplitDescriptor, WRITE, poke};
use synthetic_guest::{Base, Features, Gso, Guest, Offload, Ram};

use crate::stage::{ALL_FEATURES, SOON, Stage};

/// Chains of one kind, in two rounds.
const CHAINS: u16 = 200;
/// Bytes of virtio-net header.
pub(crate) const HEADER: u32 = 12;

/// The attacker's transmit ring and the memory its descriptors point to.
pub(crate) struct Split<'a> {
    pub(crate) raw: RawRing,
    pub(crate) ram: &'a Ram,
    /// Guest-physical address of some memory nobody uses.
    pub(crate) buffer: u64,
    index: u16,
}

impl<'a> Split<'a> {
    pub(crate) fn of(guest: &'a mut Guest) -> Self {
        let raw = RawRing::of(guest.pair(0).tx.ring());
        let buffer = guest.pair(0).tx.memory().guest();
        Self { raw, ram: guest.ram(), buffer, index: 0 }
    }

    pub(crate) fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.raw.set_split(index, SplitDescriptor { addr, len, flags, next });
    }

    /// A table of descriptors in guest memory.
    fn table(&self, entries: &[SplitDescriptor]) -> u64 {
        let at = self.buffer + 0x1000;
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        poke(self.ram, at, &bytes).expect("the table is in memory");
        at
    }

    /// The end of guest memory.
    fn end(&self) -> u64 {
        let last = &self.ram.regions()[0];
        last.guest + last.size
    }

    /// Writes a virtio-net header and a frame's Ethernet header into the buffer.
    fn header(&self, offload: Offload) {
        poke(self.ram, self.buffer, &offload.to_bytes()).expect("the buffer is in memory");
    }

    /// Makes a head available, `count` times, and waits until the ring has given them all back.
    pub(crate) fn offer(&mut self, head: u16, count: u16) -> Result<()> {
        for _ in 0..count {
            self.raw.set_avail_entry(self.index % self.raw.size(), head);
            self.index = self.index.wrapping_add(1);
        }
        self.raw.set_avail_index(self.index);
        let used = || Ok((self.raw.used_index() == self.index).then_some(()));
        eventually("used chains", SOON, used)
    }
}

/// A chain that is dropped: its name, the reason, and what writes it; its head is descriptor 0.
type Case = (&'static str, &'static str, fn(&Split<'_>));

fn entry(addr: u64, len: u32, flags: u16, next: u16) -> SplitDescriptor {
    SplitDescriptor { addr, len, flags, next }
}

/// A frame of 100 bytes behind a header that asks for something.
fn lie(split: &Split<'_>, offload: Offload) {
    split.header(offload);
    split.desc(0, split.buffer, HEADER + 100, 0, 0);
}

fn partial(csum_start: u16, csum_offset: u16) -> Offload {
    Offload::partial_checksum(csum_start, csum_offset)
}

const CHAIN_CASES: [Case; 19] = [
    ("a chain into itself", "malformed_chain", |s| s.desc(0, s.buffer, 20, NEXT, 0)),
    ("a loop of two", "malformed_chain", |s| {
        s.desc(0, s.buffer, 20, NEXT, 1);
        s.desc(1, s.buffer, 20, NEXT, 0);
    }),
    ("next out of range", "malformed_chain", |s| s.desc(0, s.buffer, 100, NEXT, 256)),
    ("next far out of range", "malformed_chain", |s| s.desc(0, s.buffer, 100, NEXT, u16::MAX)),
    ("a buffer to write to", "malformed_chain", |s| s.desc(0, s.buffer, 100, WRITE, 0)),
    ("an address nowhere", "bad_address", |s| s.desc(0, 0x10, 100, 0, 0)),
    ("an address that wraps", "bad_address", |s| s.desc(0, u64::MAX - 10, 100, 0, 0)),
    ("the end of memory", "bad_address", |s| s.desc(0, s.end() - 10, 100, 0, 0)),
    ("just past the end", "bad_address", |s| s.desc(0, s.end(), 100, 0, 0)),
    ("four gigabytes", "bad_address", |s| s.desc(0, s.buffer, u32::MAX, 0, 0)),
    ("a second descriptor nowhere", "bad_address", |s| {
        s.desc(0, s.buffer, 100, NEXT, 1);
        s.desc(1, 0, 100, 0, 0);
    }),
    ("a runt", "bad_length", |s| s.desc(0, s.buffer, HEADER + 13, 0, 0)),
    ("half a header", "bad_length", |s| s.desc(0, s.buffer, 5, 0, 0)),
    ("nothing at all", "bad_length", |s| s.desc(0, s.buffer, 0, 0, 0)),
    ("a packet too long", "bad_length", |s| s.desc(0, s.buffer, HEADER + 65_536 + 18, 0, 0)),
    ("a packet of megabytes", "bad_length", |s| s.desc(0, s.buffer, 1 << 20, 0, 0)),
    ("a chain longer than the limit", "malformed_chain", |s| {
        (0..255).for_each(|n| s.desc(n, s.buffer, 1, NEXT, n + 1));
        s.desc(255, s.buffer, 1, NEXT, 0);
    }),
    ("empty descriptors only", "bad_length", |s| {
        (0..254).for_each(|n| s.desc(n, s.buffer, 0, NEXT, n + 1));
        s.desc(254, s.buffer, 0, 0, 0);
    }),
    ("a huge length in the middle", "bad_address", |s| {
        s.desc(0, s.buffer, 100, NEXT, 1);
        s.desc(1, s.buffer, u32::MAX - 5, 0, 0);
    }),
];

const INDIRECT_CASES: [Case; 13] = [
    ("an indirect descriptor with next", "malformed_chain", |s| {
        let table = s.table(&[entry(s.buffer, 100, 0, 0)]);
        s.desc(0, table, 16, INDIRECT | NEXT, 1);
        s.desc(1, s.buffer, 100, 0, 0);
    }),
    ("indirect in indirect", "malformed_chain", |s| {
        let table = s.table(&[entry(s.buffer + 0x1000, 16, INDIRECT, 0)]);
        s.desc(0, table, 16, INDIRECT, 0);
    }),
    ("a table of no bytes", "malformed_chain", |s| s.desc(0, s.buffer, 0, INDIRECT, 0)),
    ("a table of 15 bytes", "malformed_chain", |s| s.desc(0, s.buffer, 15, INDIRECT, 0)),
    ("a table of 17 bytes", "malformed_chain", |s| s.desc(0, s.buffer, 17, INDIRECT, 0)),
    ("a table of four gigabytes", "malformed_chain", |s| s.desc(0, s.buffer, !15, INDIRECT, 0)),
    ("a table nowhere", "bad_address", |s| s.desc(0, 0x20, 32, INDIRECT, 0)),
    ("a table that wraps", "bad_address", |s| s.desc(0, u64::MAX - 7, 32, INDIRECT, 0)),
    ("a table across the end of memory", "bad_address", |s| s.desc(0, s.end() - 8, 16, INDIRECT, 0)),
    ("a table that loops", "malformed_chain", |s| {
        let table = s.table(&[entry(s.buffer, 20, NEXT, 1), entry(s.buffer, 20, NEXT, 0)]);
        s.desc(0, table, 32, INDIRECT, 0);
    }),
    ("next out of the table", "malformed_chain", |s| {
        let table = s.table(&[entry(s.buffer, 20, NEXT, 2), entry(s.buffer, 20, 0, 0)]);
        s.desc(0, table, 32, INDIRECT, 0);
    }),
    ("a table entry nowhere", "bad_address", |s| {
        let table = s.table(&[entry(s.buffer, 20, NEXT, 1), entry(7, 200, 0, 0)]);
        s.desc(0, table, 32, INDIRECT, 0);
    }),
    ("a table entry to write to", "malformed_chain", |s| {
        let table = s.table(&[entry(s.buffer, 100, WRITE, 0)]);
        s.desc(0, table, 16, INDIRECT, 0);
    }),
];

const OFFLOAD_CASES: [Case; 10] = [
    ("a checksum past the end", "bad_offload", |s| lie(s, partial(34, 100))),
    ("a checksum far past the end", "bad_offload", |s| lie(s, partial(u16::MAX, u16::MAX))),
    ("a checksum in the addresses", "bad_offload", |s| lie(s, partial(0, 6))),
    ("segmentation without a checksum", "bad_offload", |s| {
        lie(s, Offload { gso: Gso::Tcp4, gso_size: 1000, ..Offload::default() });
    }),
    ("segments of no bytes", "bad_offload", |s| lie(s, Offload { gso: Gso::Tcp4, ..partial(34, 16) })),
    ("UDP fragmentation", "bad_offload", |s| lie(s, Offload { gso: Gso::Udp, gso_size: 1000, ..partial(34, 6) })),
    ("an unknown segmentation", "bad_offload", |s| {
        lie(s, Offload { gso: Gso::Raw(2), gso_size: 1000, ..partial(34, 16) });
    }),
    ("every segmentation at once", "bad_offload", |s| {
        lie(s, Offload { gso: Gso::Raw(0x7f), gso_size: 1000, ..partial(34, 16) });
    }),
    ("segmentation with congestion marks, not negotiated", "bad_offload", |s| {
        lie(s, Offload { gso: Gso::Raw(0x81), gso_size: 1000, ..partial(34, 16) });
    }),
    ("congestion marks alone", "bad_offload", |s| lie(s, Offload { gso: Gso::Raw(0x80), ..partial(34, 16) })),
];

fn run_cases(cases: &[Case]) {
    let mut stage = Stage::start().unwrap();
    for (name, reason, write) in cases {
        let attack = |stage: &mut Stage| {
            let mut guest = stage.mallory(|config| config.session.features = ALL_FEATURES)?;
            let before = stage.port("mallory")?;
            let mut split = Split::of(&mut guest);
            write(&split);
            split.offer(0, CHAINS)?;
            split.offer(0, CHAINS)?;
            stage.dropped("mallory", &before, reason, 2 * u64::from(CHAINS))?;
            let after = stage.port("mallory")?;
            ensure!(after.tx - before.tx == 2 * u64::from(CHAINS), "pulled {}", after.tx - before.tx);
            ensure!(after.state == "running", "{after:?}");
            Ok(())
        };
        stage.attack(name, attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn malformed_chains_are_dropped_and_counted() {
    run_cases(&CHAIN_CASES);
}

#[test]
fn malformed_indirect_tables_are_dropped_and_counted() {
    run_cases(&INDIRECT_CASES);
}

#[test]
fn offload_metadata_that_lies_is_dropped_and_counted() {
    run_cases(&OFFLOAD_CASES);
}

#[test]
fn a_ring_that_cannot_be_followed_is_stopped() {
    type Fault = (&'static str, &'static str, fn(&Split<'_>));
    let faults: [Fault; 6] = [
        ("a head out of range", "bad_head", |s| {
            s.raw.set_avail_entry(0, 256);
            s.raw.set_avail_index(1);
        }),
        ("a head far out of range", "bad_head", |s| {
            s.raw.set_avail_entry(0, u16::MAX);
            s.raw.set_avail_index(1);
        }),
        ("an index one too far", "index_jump", |s| s.raw.set_avail_index(257)),
        ("an index behind", "index_jump", |s| s.raw.set_avail_index(u16::MAX)),
        ("an index half the space away", "index_jump", |s| s.raw.set_avail_index(1 << 15)),
        ("a good chain and then a head out of range", "bad_head", |s| {
            s.desc(0, s.buffer, HEADER + 100, 0, 0);
            s.raw.set_avail_entry(0, 0);
            s.raw.set_avail_entry(1, 300);
            s.raw.set_avail_index(2);
        }),
    ];
    let mut stage = Stage::start().unwrap();
    for (name, reason, write) in faults {
        let attack = |stage: &mut Stage| {
            let mut guest = stage.mallory(|config| config.session.features = Features::VERSION_1)?;
            let before = stage.port("mallory")?;
            write(&Split::of(&mut guest));
            stage.faulted(&before, reason)?;
            // A driver that resets its device, on the same connection, is served again.
            guest.stop()?;
            guest.start_rings(Base::Fresh)?;
            stage.wait_state("mallory", "running")?;
            stage.exchange_with(&mut guest)
        };
        stage.attack(name, attack).unwrap();
    }
    stage.finish().unwrap();
}

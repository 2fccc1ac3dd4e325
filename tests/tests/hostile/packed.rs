//! Packed transmit rings that break the rules.

use anyhow::{Result, ensure};
use sidecore_tests::process::eventually;
use synthetic_guest::hostile::{AVAIL, INDIRECT, NEXT, PackedDescriptor, RawRing, USED, WRITE, poke};
use synthetic_guest::{Base, Features, Guest, Ram};

use crate::split::HEADER;
use crate::stage::{ALL_FEATURES, SOON, Stage};

const CHAINS: u64 = 400;

/// The attacker's transmit ring.
pub(crate) struct Packed<'a> {
    pub(crate) raw: RawRing,
    pub(crate) ram: &'a Ram,
    pub(crate) buffer: u64,
    at: u16,
    wrap: bool,
}

impl<'a> Packed<'a> {
    pub(crate) fn of(guest: &'a mut Guest) -> Self {
        let raw = RawRing::of(guest.pair(0).tx.ring());
        let buffer = guest.pair(0).tx.memory().guest();
        Self { raw, ram: guest.ram(), buffer, at: 0, wrap: true }
    }

    /// Makes a chain available: its first descriptor last.
    pub(crate) fn offer(&mut self, chain: &[PackedDescriptor]) {
        let mut places = Vec::with_capacity(chain.len());
        for descriptor in chain {
            let available = if self.wrap { AVAIL } else { USED };
            places.push((self.at, PackedDescriptor { flags: descriptor.flags | available, ..*descriptor }));
            self.at += 1;
            if self.at == self.raw.size() {
                (self.at, self.wrap) = (0, !self.wrap);
            }
        }
        for (at, descriptor) in places.into_iter().rev() {
            self.raw.set_packed(at, descriptor);
        }
    }

    fn end(&self) -> u64 {
        let last = &self.ram.regions()[0];
        last.guest + last.size
    }

    /// A table of descriptors in guest memory.
    fn table(&self, entries: &[PackedDescriptor]) -> u64 {
        let at = self.buffer + 0x1000;
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        poke(self.ram, at, &bytes).expect("the table is in memory");
        at
    }
}

fn desc(addr: u64, len: u32, flags: u16) -> PackedDescriptor {
    PackedDescriptor { addr, len, id: 7, flags }
}

type Case = (&'static str, &'static str, fn(&Packed<'_>) -> Vec<PackedDescriptor>);

const CASES: [Case; 17] = [
    ("an address nowhere", "bad_address", |_| vec![desc(0x10, 100, 0)]),
    ("an address that wraps", "bad_address", |_| vec![desc(u64::MAX - 10, 100, 0)]),
    ("the end of memory", "bad_address", |p| vec![desc(p.end() - 10, 100, 0)]),
    ("four gigabytes", "bad_address", |p| vec![desc(p.buffer, u32::MAX, 0)]),
    ("a buffer to write to", "malformed_chain", |p| vec![desc(p.buffer, 100, WRITE)]),
    ("a second one to write to", "malformed_chain", |p| vec![desc(p.buffer, 100, NEXT), desc(p.buffer, 100, WRITE)]),
    ("an id that nobody gave", "bad_length", |p| vec![PackedDescriptor { id: 60_000, ..desc(p.buffer, 3, 0) }]),
    ("a runt", "bad_length", |p| vec![desc(p.buffer, HEADER + 13, 0)]),
    ("nothing at all", "bad_length", |p| vec![desc(p.buffer, 0, 0)]),
    ("a packet of megabytes", "bad_length", |p| vec![desc(p.buffer, 1 << 20, 0)]),
    ("indirect with next", "malformed_chain", |p| vec![desc(p.buffer, 16, INDIRECT | NEXT), desc(p.buffer, 100, 0)]),
    ("indirect as the second", "malformed_chain", |p| vec![desc(p.buffer, 20, NEXT), desc(p.buffer, 16, INDIRECT)]),
    ("indirect in indirect", "malformed_chain", |p| {
        let table = p.table(&[desc(p.buffer, 16, INDIRECT)]);
        vec![desc(table, 16, INDIRECT)]
    }),
    ("a table of no bytes", "malformed_chain", |p| vec![desc(p.buffer, 0, INDIRECT)]),
    ("a table of 17 bytes", "malformed_chain", |p| vec![desc(p.buffer, 17, INDIRECT)]),
    ("a table of a megabyte", "malformed_chain", |p| vec![desc(p.buffer, 1 << 20, INDIRECT)]),
    ("a table nowhere", "bad_address", |_| vec![desc(0x20, 32, INDIRECT)]),
];

fn features() -> Features {
    ALL_FEATURES | Features::RING_PACKED
}

#[test]
fn malformed_packed_chains_are_dropped_and_counted() {
    let mut stage = Stage::start().unwrap();
    for (name, reason, chain) in CASES {
        let attack = |stage: &mut Stage| {
            let mut guest = stage.mallory(|config| config.session.features = features())?;
            let before = stage.port("mallory")?;
            let mut packed = Packed::of(&mut guest);
            let chain = chain(&packed);
            for n in 1..=CHAINS {
                packed.offer(&chain);
                // The ring must not overtake itself.
                if n % 100 == 0 {
                    stage.dropped("mallory", &before, reason, n)?;
                }
            }
            let after = stage.port("mallory")?;
            ensure!(after.tx - before.tx == CHAINS && after.state == "running", "{after:?}");
            Ok(())
        };
        stage.attack(&format!("packed: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

/// Every descriptor says that there is another one.
fn endless(guest: &mut Guest, descriptor: impl Fn(&Packed<'_>) -> PackedDescriptor) {
    let mut packed = Packed::of(guest);
    let chain = vec![descriptor(&packed); usize::from(packed.raw.size())];
    packed.offer(&chain);
}

#[test]
fn a_packed_chain_without_an_end_stops_its_ring() {
    let mut stage = Stage::start().unwrap();
    for (name, size, addr) in [
        ("good buffers", 256, None),
        ("bad addresses", 256, Some(1)),
        ("a small ring", 5, None),
        ("a large ring", 4096, None),
    ] {
        let attack = |stage: &mut Stage| {
            let mut guest = stage.mallory(|config| {
                config.session.features = features();
                config.tx_ring = size;
                config.tx_buffers = Some(64);
            })?;
            let before = stage.port("mallory")?;
            endless(&mut guest, |packed| desc(addr.unwrap_or(packed.buffer), 1, NEXT));
            stage.faulted(&before, "endless_chain")?;
            guest.stop()?;
            guest.start_rings(Base::Fresh)?;
            stage.wait_state("mallory", "running").map(drop)
        };
        stage.attack(&format!("endless packed chain of {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn a_packed_ring_whose_every_descriptor_is_always_available() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = stage.mallory(|config| config.session.features = features())?;
        let before = stage.port("mallory")?;
        let packed = Packed::of(&mut guest);
        // Flags that suit both laps are impossible; the next best: all of the ring again and again, whatever was used.
        let all = |wrap: bool| {
            let available = if wrap { AVAIL } else { USED };
            for at in 0..packed.raw.size() {
                packed.raw.set_packed(at, desc(packed.buffer, 3, available));
            }
        };
        eventually("many laps", SOON, || {
            for _ in 0..100 {
                all(true);
                std::thread::yield_now();
                all(false);
                std::thread::yield_now();
            }
            Ok((stage.port("mallory")?.drops_of("bad_length") > before.drops_of("bad_length") + 2_000).then_some(()))
        })
    };
    stage.attack("packed: descriptors of every lap", attack).unwrap();
    stage.finish().unwrap();
}

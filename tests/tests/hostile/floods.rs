//! Attacks at full speed, on every ring a guest can have, and descriptors that change while they are read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidecore_tests::process::eventually;
use sidecore_tests::rules;
use synthetic_guest::hostile::{NEXT, RawRing, SplitDescriptor, poke};
use synthetic_guest::packet::{FrameSpec, Template};
use synthetic_guest::{Features, Guest, Offload};

use crate::split::HEADER;
use crate::stage::{ALL_FEATURES, MALLORY, QUEUE_PAIRS, SOON, Stage};

/// How long a flood lasts.
fn duration() -> Duration {
    Duration::from_secs(if rules::full() { 20 } else { 2 })
}

/// Keeps every ring full of the chain at descriptor 0 until the time is over; returns how many were offered.
fn flood(rings: &[RawRing]) -> u64 {
    let deadline = Instant::now() + duration();
    let mut indices = vec![0u16; rings.len()];
    let mut offered = 0;
    rings.iter().for_each(|ring| (0..ring.size()).for_each(|slot| ring.set_avail_entry(slot, 0)));
    while Instant::now() < deadline {
        let mut idle = true;
        for (ring, index) in rings.iter().zip(&mut indices) {
            let target = ring.used_index().wrapping_add(ring.size());
            let more = target.wrapping_sub(*index);
            idle &= more == 0;
            offered += u64::from(more);
            *index = target;
            ring.set_avail_index(target);
        }
        if idle {
            std::thread::yield_now();
        }
    }
    offered
}

fn rings(guest: &mut Guest) -> Vec<RawRing> {
    guest.pairs().iter_mut().map(|pair| RawRing::of(pair.tx.ring())).collect()
}

fn all_pairs(stage: &Stage) -> Result<Guest> {
    stage.mallory(|config| {
        config.session.features = ALL_FEATURES;
        config.queue_pairs = QUEUE_PAIRS;
        config.ram.region_size = 64 << 20;
    })
}

#[test]
fn floods_of_bad_packets_on_all_rings() {
    type Flood = (&'static str, &'static str, fn(&RawRing, u64));
    let floods: [Flood; 3] = [
        ("runts", "bad_length", |ring, buffer| {
            ring.set_split(0, SplitDescriptor { addr: buffer, len: HEADER + 1, ..SplitDescriptor::default() });
        }),
        ("the longest malformed chains", "malformed_chain", |ring, buffer| {
            for n in 0..ring.size() {
                let next = (n + 1) % ring.size();
                ring.set_split(n, SplitDescriptor { addr: buffer + u64::from(n), len: 1, flags: NEXT, next });
            }
        }),
        ("the longest empty chains", "malformed_chain", |ring, buffer| {
            for n in 0..ring.size() {
                let next = (n + 1) % ring.size();
                ring.set_split(n, SplitDescriptor { addr: buffer, len: 0, flags: NEXT, next });
            }
        }),
    ];
    let mut stage = Stage::start().unwrap();
    for (name, reason, write) in floods {
        let attack = |stage: &mut Stage| -> Result<()> {
            let mut guest = all_pairs(stage)?;
            let before = stage.port("mallory")?;
            let buffer = guest.pair(0).tx.memory().guest();
            let rings = rings(&mut guest);
            rings.iter().for_each(|ring| write(ring, buffer));
            let offered = flood(&rings);
            stage.dropped("mallory", &before, reason, offered)?;
            println!("{name}: {offered} packets");
            Ok(())
        };
        stage.attack(&format!("flood: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn floods_of_packets_for_nobody() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = all_pairs(stage)?;
        let before = stage.port("mallory")?;
        let buffer = guest.pair(0).tx.memory().guest();
        let mut bytes = Offload::default().to_bytes().to_vec();
        bytes.extend_from_slice(Template::new(FrameSpec::udp4(MALLORY, 77_777, 5, 60)).bytes());
        poke(guest.ram(), buffer, &bytes)?;
        let rings = rings(&mut guest);
        let len = bytes.len() as u32;
        rings.iter().for_each(|r| r.set_split(0, SplitDescriptor { addr: buffer, len, ..SplitDescriptor::default() }));
        let offered = flood(&rings);
        stage.wait_for("mallory", "all packets pulled", |port| port.tx - before.tx == offered)?;
        let policed = stage.port("mallory")?.drops_of("flood_policed") - before.drops_of("flood_policed");
        // 1,000 a second and 100 at once for the port, however many queues it has: here all of them are on one core.
        // What is left at its end may be pulled later, where others have the CPU.
        let seconds = duration().as_secs() + 8;
        let allowed = 1000 * seconds + 100;
        ensure!(policed + allowed >= offered, "{policed} of {offered} were policed");
        ensure!(policed > 0, "a flood that was not policed: {offered} packets");
        Ok(())
    };
    stage.attack("flood: unknown destinations", attack).unwrap();
    stage.finish().unwrap();
}

/// A cheap source of bits that repeats itself run by run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Overwrites descriptors and available entries with what is sometimes good and sometimes not.
fn scribble(ring: &RawRing, buffer: u64, stop: &AtomicBool, packed: bool) {
    let mut dice = Dice(0x5eed);
    while !stop.load(Ordering::Relaxed) {
        let bits = dice.roll();
        let index = (bits % u64::from(ring.size())) as u16;
        let addr = if bits & 0x100 == 0 { buffer + (bits >> 40) } else { dice.roll() };
        let len = if bits & 0x200 == 0 { (bits >> 16) as u32 % 2000 } else { dice.roll() as u32 };
        let flags = (bits >> 32) as u16;
        if packed {
            ring.set_packed(index, synthetic_guest::hostile::PackedDescriptor { addr, len, id: index, flags });
        } else {
            ring.set_split(index, SplitDescriptor { addr, len, flags: flags & 7, next: (bits >> 24) as u16 % 300 });
            ring.set_avail_entry(index, (bits >> 48) as u16 % ring.size());
        }
    }
}

#[test]
fn descriptors_that_change_while_they_are_read() {
    let mut stage = Stage::start().unwrap();
    for (name, more) in [("split", Features::NONE), ("packed", Features::RING_PACKED)] {
        let attack = |stage: &mut Stage| -> Result<()> {
            let packed = more == Features::RING_PACKED;
            let deadline = Instant::now() + duration();
            let mut rounds = 0;
            while Instant::now() < deadline {
                let mut guest = stage.mallory(|config| config.session.features = ALL_FEATURES | more)?;
                let before = stage.port("mallory")?;
                let buffer = guest.pair(0).tx.memory().guest();
                let stop = AtomicBool::new(false);
                let [tx, rx] = [RawRing::of(guest.pair(0).tx.ring()), RawRing::of(guest.pair(0).rx.ring())];
                std::thread::scope(|scope| -> Result<()> {
                    // RawRing is not shared: each thread has its own.
                    let (stop, other) = (&stop, RawRing::of(guest.pair(0).tx.ring()));
                    scope.spawn(move || scribble(&other, buffer, stop, packed));
                    scope.spawn(move || scribble(&rx, buffer, stop, packed));
                    let outcome = mutate(stage, &tx, packed, before.tx);
                    stop.store(true, Ordering::Relaxed);
                    outcome
                })?;
                rounds += 1;
            }
            println!("{name}: {rounds} rounds");
            Ok(())
        };
        stage.attack(&format!("changing descriptors: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

/// Moves the index along, while others write descriptors, until the ring is stopped or many packets were pulled.
fn mutate(stage: &mut Stage, tx: &RawRing, packed: bool, before: u64) -> Result<()> {
    stage.eve_sends(64, 500)?;
    eventually("a fault or many packets", SOON, || {
        for _ in 0..100 {
            if !packed {
                tx.set_avail_index(tx.used_index().wrapping_add(tx.size()));
            }
            std::thread::yield_now();
        }
        let port = stage.port("mallory")?;
        Ok((port.state == "stopped" || port.tx - before > 500).then_some(()))
    })?;
    stage.eve_sends(64, 500)
}

//! Receive rings that break the rules, while an accomplice sends.

use anyhow::{Result, ensure};
use sidecore_tests::process::eventually;
use synthetic_guest::hostile::{INDIRECT, NEXT, PackedDescriptor, RawRing, SplitDescriptor, WRITE};
use synthetic_guest::{Features, Guest};

use crate::stage::{ALL_FEATURES, PortState, SOON, Stage};

/// Packets that the accomplice sends.
const PACKETS: u64 = 100;

/// The attacker's receive ring, which the library has put nothing into.
struct Rx {
    raw: RawRing,
    buffer: u64,
    end: u64,
}

impl Rx {
    fn of(guest: &mut Guest) -> Self {
        let raw = RawRing::of(guest.pair(0).rx.ring());
        let region = &guest.ram().regions()[0];
        let end = region.guest + region.size;
        Self { raw, buffer: guest.pair(0).tx.memory().guest(), end }
    }

    fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.raw.set_split(index, SplitDescriptor { addr, len, flags, next });
    }

    /// Fills the available ring with one head.
    fn offer_all(&self, head: u16) {
        for slot in 0..self.raw.size() {
            self.raw.set_avail_entry(slot, head);
        }
        self.raw.set_avail_index(self.raw.size());
    }
}

/// Its name, the reason at the sender, the reason at the receiver, features, and what writes descriptor 0.
type Case = (&'static str, &'static str, &'static str, Features, fn(&Rx));

const CASES: [Case; 10] = [
    ("a buffer to read from", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.buffer, 2000, 0, 0)),
    ("an address nowhere", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, 8, 2000, WRITE, 0)),
    ("the end of memory", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.end - 9, 2000, WRITE, 0)),
    ("four gigabytes", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.buffer, u32::MAX, WRITE, 0)),
    ("a chain into itself", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.buffer, 1, WRITE | NEXT, 0)),
    ("nothing at all", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.buffer, 0, WRITE, 0)),
    ("next out of range", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.buffer, 9, WRITE | NEXT, 900)),
    ("a table nowhere", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, 8, 64, INDIRECT, 0)),
    ("a table of 15 bytes", "bad_buffer", "rx_bad_buffer", ALL_FEATURES, |r| r.desc(0, r.buffer, 15, INDIRECT, 0)),
    ("buffers of a byte", "too_long", "rx_buffer_too_small", Features::VERSION_1, |r| r.desc(0, r.buffer, 1, WRITE, 0)),
];

fn refused(now: &PortState, before: &PortState, reason: &str) -> u64 {
    let count = |port: &PortState| port.refused.get(reason).copied().unwrap_or_default();
    count(now) - count(before)
}

#[test]
fn receive_buffers_that_cannot_be_used_are_given_back_and_counted() {
    let mut stage = Stage::start().unwrap();
    for (name, at_sender, at_receiver, features, write) in CASES {
        let attack = |stage: &mut Stage| {
            let mut guest = stage.mallory(|config| {
                config.session.features = features;
                config.rx_buffers = Some(0);
            })?;
            let (eve, mallory) = (stage.port("eve")?, stage.port("mallory")?);
            let rx = Rx::of(&mut guest);
            write(&rx);
            rx.offer_all(0);
            // A longer burst would look at as many descriptors as it may, 2,048, before it is done with the last of these:
            // that one would be `rx_full`.
            (0..PACKETS / 5).try_for_each(|_| stage.eve_sends(5, 60))?;
            stage.dropped("eve", &eve, at_sender, PACKETS)?;
            let after = stage.port("mallory")?;
            ensure!(refused(&after, &mallory, at_receiver) == PACKETS, "{after:?}");
            ensure!(after.rx == mallory.rx && after.state == "running", "{after:?}");
            if at_sender == "bad_buffer" {
                // Each packet meets one bad buffer, which is given back empty.
                let used = || Ok((u64::from(rx.raw.used_index()) == PACKETS).then_some(()));
                eventually("buffers given back", SOON, used)?;
                ensure!(rx.raw.used_entry(3) == (0, 0), "{:?}", rx.raw.used_entry(3));
            }
            Ok(())
        };
        stage.attack(&format!("receive buffer: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn a_receive_ring_that_cannot_be_followed_is_stopped() {
    type Fault = (&'static str, &'static str, Features, fn(&Rx));
    let packed = ALL_FEATURES | Features::RING_PACKED;
    let faults: [Fault; 3] = [
        ("a head out of range", "bad_head", ALL_FEATURES, |r| r.offer_all(5000)),
        ("an index that jumps", "index_jump", ALL_FEATURES, |r| r.raw.set_avail_index(9999)),
        ("an endless packed chain", "endless_chain", packed, |r| {
            let flags = synthetic_guest::hostile::AVAIL | NEXT | WRITE;
            for at in 0..r.raw.size() {
                r.raw.set_packed(at, PackedDescriptor { addr: r.buffer, len: 1, id: 0, flags });
            }
        }),
    ];
    let mut stage = Stage::start().unwrap();
    for (name, reason, features, write) in faults {
        let attack = |stage: &mut Stage| {
            let mut guest = stage.mallory(|config| {
                config.session.features = features;
                config.rx_buffers = Some(0);
            })?;
            let (eve, mallory) = (stage.port("eve")?, stage.port("mallory")?);
            write(&Rx::of(&mut guest));
            stage.eve_sends(PACKETS as usize, 60)?;
            stage.dropped("eve", &eve, "receiver_not_ready", PACKETS)?;
            stage.faulted(&mallory, reason)
        };
        stage.attack(&format!("receive ring: {name}"), attack).unwrap();
    }
    stage.finish().unwrap();
}

#[test]
fn a_guest_that_never_gives_receive_buffers_costs_its_senders_alone() {
    let mut stage = Stage::start().unwrap();
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = stage.mallory(|_| ())?;
        let eve = stage.port("eve")?;
        stage.eve_sends(1000, 1000)?;
        stage.dropped("eve", &eve, "rx_full", 1000 - 256)?;
        // It comes to its senses.
        let mut count = 0;
        guest.pair(0).rx.recv_burst(usize::MAX, |_| count += 1);
        ensure!(count >= 256, "{count} packets were delivered");
        stage.exchange_with(&mut guest)
    };
    stage.attack("a guest that takes nothing", attack).unwrap();
    stage.finish().unwrap();
}

#[test]
fn receive_buffers_that_are_dear_to_look_at_do_not_hold_up_neighbours() {
    let mut stage = Stage::start().unwrap();
    // 255 descriptors without bytes and then one byte: the most work that a packet can be made to take.
    let dear = |rx: &Rx| {
        (0..255).for_each(|n| rx.desc(n, rx.buffer, 0, WRITE | NEXT, n + 1));
        rx.desc(255, rx.buffer, 1, WRITE, 0);
        rx.offer_all(0);
    };
    let attack = |stage: &mut Stage| -> Result<()> {
        let mut guest = stage.mallory(|config| {
            config.session.features = ALL_FEATURES;
            config.rx_buffers = Some(0);
        })?;
        let before = stage.port("eve")?;
        let rx = Rx::of(&mut guest);
        let mut sent = 0;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while std::time::Instant::now() < deadline {
            dear(&rx);
            // As many again as the switch has given back: the ring is never empty and never jumps.
            rx.raw.set_avail_index(rx.raw.used_index().wrapping_add(rx.raw.size()));
            stage.eve_sends(256, 60)?;
            sent += 256;
        }
        let after = stage.port("eve")?;
        let dropped: u64 = ["bad_buffer", "rx_full"].map(|r| after.drops_of(r) - before.drops_of(r)).iter().sum();
        ensure!(dropped == sent, "{dropped} of {sent}: {after:?}");
        println!("{sent} packets");
        Ok(())
    };
    stage.attack("dear receive buffers", attack).unwrap();
    stage.finish().unwrap();
}

//! Split rings against `virtio-queue`: both are given the same memory, with a used ring each, and must find the same
//! buffers, write the same used entries and want the same notifications.
//!
//! Our rules are stricter on purpose where `virtio-queue` has none: a chain has at most 256 descriptors, all of one
//! direction, and an error in it spoils all of it, where the oracle's iterator just ends.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use proptest::prelude::*;
use synthetic_guest::hostile::{INDIRECT, NEXT, WRITE};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vm_ports::{Burst, BurstBuffer, FRAME_MAX, FRAME_MIN, Features, QueueCounters, RxDrop, RxQueue, TxDrop, TxQueue};

use crate::bench::{contents, map, pattern, push};

mod driver;
use driver::{Driver, Expected};

const HEADER: usize = 12;
const DESCRIPTORS: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const ORACLE_USED: u64 = 0x4000;
const TABLES: u64 = 0x1_0000;
const TABLE_BYTES: u64 = 0x2000;
const BUFFERS: u64 = 0x20_0000;
const SIZE: u64 = 0x80_0000;

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    NextOutOfRange,
    Loop,
    WrongDirection,
    BadAddress,
    IndirectInIndirect,
    IndirectWithNext,
    TableLength,
    EmptyTable,
}

#[derive(Clone, Debug)]
struct ChainSpec {
    /// Bytes of each part.
    parts: Vec<u32>,
    /// How many of the parts are direct descriptors; the rest are in an indirect table, if there is a rest.
    direct: usize,
    /// Flag bits that mean nothing.
    noise: u16,
    damage: Option<Damage>,
}

#[derive(Clone, Debug)]
struct Round {
    chains: Vec<ChainSpec>,
    /// How far the driver's used_event is from the used index; or, in bit 0, its no-interrupt flag.
    event: i16,
    /// Frame lengths pushed, for RX.
    frames: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Case {
    size: u16,
    base: u16,
    event_idx: bool,
    mergeable: bool,
    rounds: Vec<Round>,
}

fn chain() -> impl Strategy<Value = ChainSpec> {
    let len = prop_oneof![
        1 => Just(0u32), 3 => 1u32..14, 4 => 14u32..200, 2 => 200u32..3000, 1 => Just(66_000), 1 => Just(4096)
    ];
    let damage = prop_oneof![
        Just(Damage::NextOutOfRange),
        Just(Damage::Loop),
        Just(Damage::WrongDirection),
        Just(Damage::BadAddress),
        Just(Damage::IndirectInIndirect),
        Just(Damage::IndirectWithNext),
        Just(Damage::TableLength),
        Just(Damage::EmptyTable),
    ];
    let damage = prop_oneof![7 => Just(None), 3 => damage.prop_map(Some)];
    (prop::collection::vec(len, 1..7), 0usize..8, any::<u16>(), damage).prop_map(|(parts, direct, noise, damage)| {
        ChainSpec { direct: direct.min(parts.len()), parts, noise: noise & !(NEXT | WRITE | INDIRECT), damage }
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let frames = prop::collection::vec(prop_oneof![14usize..100, 100usize..1600, Just(5000)], 0..6);
    let event = prop_oneof![Just(0i16), -3i16..40, any::<i16>()];
    let round = (prop::collection::vec(chain(), 0..12), event, frames).prop_map(|(chains, event, frames)| Round {
        chains,
        event,
        frames,
    });
    let rounds = prop::collection::vec(round, 1..12);
    let base = prop_oneof![Just(0u16), Just(u16::MAX - 5), any::<u16>()];
    (0u32..9, base, any::<bool>(), any::<bool>(), rounds).prop_map(|(bits, base, event_idx, mergeable, rounds)| Case {
        size: 1 << bits,
        base,
        event_idx,
        mergeable,
        rounds,
    })
}

/// `virtio-queue` on the same ring.
struct Oracle {
    queue: Queue,
    memory: GuestMemoryMmap,
}

impl Oracle {
    fn new(driver: &Driver, case: &Case) -> Self {
        let region = &driver.ram.regions()[0];
        let file: File = region.file().try_clone_to_owned().expect("a second handle").into();
        let range = (GuestAddress(region.guest), region.size as usize, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).expect("it can be mapped twice");
        let mut queue = Queue::new(1 << 15).expect("a legal size");
        let halves = |offset: u64| (Some((driver.base + offset) as u32), Some(((driver.base + offset) >> 32) as u32));
        let (descriptors, avail, used) = (halves(DESCRIPTORS), halves(AVAIL), halves(ORACLE_USED));
        queue.set_size(case.size);
        queue.set_desc_table_address(descriptors.0, descriptors.1);
        queue.set_avail_ring_address(avail.0, avail.1);
        queue.set_used_ring_address(used.0, used.1);
        queue.set_event_idx(case.event_idx);
        queue.set_next_avail(case.base);
        queue.set_next_used(case.base);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory), "virtio-queue takes the ring");
        Self { queue, memory }
    }

    /// The next chain: its head and its buffers that have bytes.
    fn take(&mut self) -> Option<(u16, Vec<(u64, u32)>)> {
        let chain = self.queue.iter(&self.memory).expect("a sound avail index").next()?;
        let head = chain.head_index();
        let buffers = chain.map(|d| (d.addr().0, d.len())).filter(|b| b.1 > 0).collect();
        Some((head, buffers))
    }

    fn use_up(&mut self, head: u16, len: u32) {
        self.queue.add_used(&self.memory, head, len).expect("a sound head");
    }

    /// `virtio-queue` does not know the avail ring's no-interrupt flag: there, the driver's wish is the answer.
    fn wants_call(&mut self, used_any: bool, event: i16, event_idx: bool) -> bool {
        let wants = self.queue.needs_notification(&self.memory).expect("a sound ring");
        used_any && if event_idx { wants } else { event & 1 == 0 }
    }

    fn bytes(&self, buffers: &[(u64, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(addr, len) in buffers {
            let at = bytes.len();
            bytes.resize(at + len as usize, 0);
            self.memory.read_slice(&mut bytes[at..], GuestAddress(addr)).expect("inside the region");
        }
        bytes
    }
}

fn features(case: &Case) -> Features {
    let mut features = Features::VERSION_1.with(Features::INDIRECT_DESC);
    if case.event_idx {
        features = features.with(Features::EVENT_IDX);
    }
    if case.mergeable { features.with(Features::MRG_RXBUF) } else { features }
}

fn eventfd() -> File {
    File::from(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("an eventfd"))
}

fn transmit(case: &Case) -> Result<(), TestCaseError> {
    let mut driver = Driver::new(case, false);
    let mut oracle = Oracle::new(&driver, case);
    let counters = Arc::new(QueueCounters::default());
    let setup = driver.setup(case.base);
    let mut queue =
        TxQueue::start(features(case), map(&driver.ram), &setup, Arc::clone(&counters)).expect("a sound ring");
    queue.set_enabled(true);
    queue.set_call(Some(eventfd()));
    let mut expected_drops = [0u64; TxDrop::ALL.len()];
    for round in &case.rounds {
        let added: Vec<Expected> = round.chains.iter().map_while(|spec| driver.add(spec)).collect();
        driver.set_event(round.event, case.event_idx);
        let mut waiting = added.into_iter();
        // Bursts until the ring is empty: long packets end a burst early.
        loop {
            let calls = counters.tx.calls.get();
            let mut buffer = BurstBuffer::default();
            let mut burst = Burst::new(&mut buffer);
            queue.pull(&mut burst);
            let taken = counters.tx.packets.get();
            let pulled: Vec<Vec<u8>> = (0..burst.len()).map(|index| contents(&burst, index)).collect();
            drop(burst);
            queue.complete();
            let used = driver.at(USED, 4).load_u16(2, Acquire);
            let mut pulled = pulled.into_iter();
            let mut any = false;
            while oracle.queue.next_used() != used {
                any = true;
                let expected = waiting.next().expect("no more chains than the driver wrote");
                let (head, buffers) = oracle.take().expect("the oracle sees the chain too");
                prop_assert_eq!(head, expected.head);
                if let Some(reason) = expected.bad {
                    expected_drops[reason as usize] += 1;
                } else {
                    prop_assert_eq!(&buffers, &expected.buffers);
                    let bytes = oracle.bytes(&buffers);
                    if bytes.len() < HEADER + FRAME_MIN || bytes.len() > HEADER + FRAME_MAX {
                        expected_drops[TxDrop::BadLength as usize] += 1;
                    } else {
                        prop_assert_eq!(pulled.next(), Some(bytes[HEADER..].to_vec()));
                    }
                }
                oracle.use_up(head, 0);
            }
            prop_assert_eq!(pulled.next(), None, "of {}", taken);
            let called = counters.tx.calls.get() - calls;
            prop_assert_eq!(called, u64::from(oracle.wants_call(any, round.event, case.event_idx)), "calls");
            if !any {
                break;
            }
        }
        prop_assert!(waiting.next().is_none(), "every chain is taken");
        driver.reclaim()?;
    }
    for reason in TxDrop::ALL {
        prop_assert_eq!(counters.tx.drops[reason as usize].get(), expected_drops[reason as usize], "{:?}", reason);
    }
    prop_assert_eq!(queue.fault(), None);
    prop_assert_eq!(queue.stop().0, u32::from(driver.avail_idx));
    Ok(())
}

/// What the specification has a device do with a frame, given the chains at hand: used chains with their lengths, and
/// the answer.
fn place(chains: &VecDeque<Expected>, total: usize, mergeable: bool) -> (Vec<(u16, u32)>, Result<(), RxDrop>) {
    let (mut used, mut room) = (Vec::new(), 0);
    for chain in chains {
        if chain.bad.is_some() || chain.room() == 0 {
            used.push((chain.head, 0));
            return (used.into_iter().map(|(head, _)| (head, 0)).collect(), Err(RxDrop::BadBuffer));
        }
        if !mergeable && chain.room() < total {
            return (Vec::new(), Err(RxDrop::BufferTooSmall));
        }
        let written = chain.room().min(total - room);
        used.push((chain.head, written as u32));
        room += written;
        if room == total {
            return (used, Ok(()));
        }
    }
    (Vec::new(), Err(RxDrop::Full))
}

fn receive(case: &Case) -> Result<(), TestCaseError> {
    // No more parts than one frame may be spread over: what happens then is tested by itself.
    let case = &Case { size: case.size.min(32), ..case.clone() };
    let mut driver = Driver::new(case, true);
    let mut oracle = Oracle::new(&driver, case);
    let counters = Arc::new(QueueCounters::default());
    let setup = driver.setup(case.base);
    let mut queue =
        RxQueue::start(features(case), map(&driver.ram), &setup, Arc::clone(&counters)).expect("a sound ring");
    queue.set_enabled(true);
    queue.set_call(Some(eventfd()));
    let mut posted = VecDeque::new();
    for (number, round) in case.rounds.iter().enumerate() {
        posted.extend(round.chains.iter().map_while(|spec| driver.add(spec)));
        driver.set_event(round.event, case.event_idx);
        for &len in &round.frames {
            let calls = counters.rx.calls.get();
            let frame = pattern(len, number as u8);
            let (used, outcome) = place(&posted, HEADER + len, case.mergeable);
            prop_assert_eq!(push(&mut queue, &frame), outcome);
            let mut written = Vec::new();
            for &(head, len) in &used {
                let (oracle_head, buffers) = oracle.take().expect("the oracle sees the chain too");
                let chain = posted.pop_front().expect("a used chain was posted");
                prop_assert_eq!((oracle_head, chain.head), (head, head));
                if outcome.is_ok() {
                    prop_assert_eq!(&buffers, &chain.buffers);
                    let bytes = oracle.bytes(&buffers);
                    written.extend_from_slice(&bytes[..len as usize]);
                    prop_assert!(
                        bytes[len as usize..].iter().all(|b| *b == 0xa5),
                        "nothing behind what is said to be written"
                    );
                }
                oracle.use_up(head, len);
                // As it was, for the next one to be posted there.
                for &(addr, len) in &chain.buffers {
                    let window = driver.ram.window(addr, len as usize).expect("inside the region");
                    window.fill(0, len as usize, 0xa5);
                }
            }
            if outcome.is_ok() {
                let mut header = [0; HEADER];
                header[10..].copy_from_slice(&(used.len() as u16).to_le_bytes());
                prop_assert_eq!(&written[..HEADER], &header[..]);
                prop_assert_eq!(&written[HEADER..], &frame[..]);
            }
            let called = counters.rx.calls.get() - calls;
            prop_assert_eq!(
                called,
                u64::from(oracle.wants_call(!used.is_empty(), round.event, case.event_idx)),
                "calls"
            );
        }
        driver.reclaim()?;
    }
    prop_assert_eq!(queue.fault(), None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn transmit_rings_agree_with_virtio_queue(case in cases()) {
        transmit(&case)?;
    }

    #[test]
    fn receive_rings_agree_with_virtio_queue(case in cases()) {
        receive(&case)?;
    }
}

#[test]
fn a_long_life_agrees_past_the_index_wrap() {
    let chain = |parts: &[u32], direct| ChainSpec { parts: parts.to_vec(), direct, noise: 0, damage: None };
    let rounds = (0..9000u32).map(|n| Round {
        chains: vec![chain(&[12, 60 + n % 50], 2), chain(&[80], 0), chain(&[6, 6, 14, 1], 1), chain(&[100], 1)],
        event: (n % 7) as i16 - 1,
        frames: vec![14 + n as usize % 20; 4],
    });
    let rounds: Vec<_> = rounds.flat_map(|round| [round.clone(), round]).collect();
    assert!(rounds.len() * 4 > 70_000);
    for event_idx in [false, true] {
        let case = Case { size: 16, base: 0xfff0, event_idx, mergeable: false, rounds: rounds.clone() };
        transmit(&case).expect("agreement");
        receive(&case).expect("agreement");
    }
}

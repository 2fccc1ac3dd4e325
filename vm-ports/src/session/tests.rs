//! The session's state without a socket: requests as method calls, a host that only keeps what it is given.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::backend::Backend;
use super::error::Refusal;
use super::event::{SessionCounters, SessionEvent};
use super::offer::PROTOCOL_FEATURES;
use super::rings::Addresses;
use super::{PortSettings, QueueHost};
use crate::address::FrontendAddr;
use crate::counters::QueueCounters;
use crate::features::Features;
use crate::queue::QueuePair;

const MEMORY_BYTES: u64 = 1 << 20;
const FRONTEND: u64 = 0x7f00_0000_0000;
const SPLIT: u64 = Features::VERSION_1.0 | PROTOCOL_FEATURES;
const PACKED: u64 = SPLIT | Features::RING_PACKED.0;

/// Keeps pairs as a core would, and notes the order of things.
#[derive(Default)]
struct FakeHost {
    pairs: Mutex<BTreeMap<usize, QueuePair>>,
    counters: Mutex<BTreeMap<usize, Arc<QueueCounters>>>,
    events: Mutex<Vec<SessionEvent>>,
    moves: Mutex<Vec<(&'static str, usize)>>,
    reads_kicks: AtomicBool,
}

impl QueueHost for FakeHost {
    fn attach(&self, index: usize, pair: QueuePair) {
        self.moves.lock().unwrap().push(("attach", index));
        let before = self.pairs.lock().unwrap().insert(index, pair);
        assert!(before.is_none(), "pair {index} handed out twice");
    }

    fn take_back(&self, index: usize) -> Option<QueuePair> {
        self.moves.lock().unwrap().push(("take back", index));
        self.pairs.lock().unwrap().remove(&index)
    }

    fn reads_kicks(&self) -> bool {
        self.reads_kicks.load(Ordering::Relaxed)
    }

    fn event(&self, event: SessionEvent) {
        self.events.lock().unwrap().push(event);
    }

    fn counters(&self, index: usize) -> Arc<QueueCounters> {
        Arc::clone(self.counters.lock().unwrap().entry(index).or_default())
    }
}

impl FakeHost {
    /// Which pairs are out, and which of their rings are there.
    fn out(&self) -> Vec<(usize, bool, bool)> {
        let pairs = self.pairs.lock().unwrap();
        pairs.iter().map(|(&index, pair)| (index, pair.rx.is_some(), pair.tx.is_some())).collect()
    }

    fn moves(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut self.moves.lock().unwrap())
    }

    fn negotiations(&self) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| matches!(event, SessionEvent::Negotiated(_))).count()
    }
}

fn backend(queue_pairs: usize) -> (Arc<FakeHost>, Backend) {
    let host = Arc::new(FakeHost::default());
    let mut settings = PortSettings::new("test", "/unused");
    settings.queue_pairs = queue_pairs;
    let counters = Arc::new(SessionCounters::default());
    (Arc::clone(&host), Backend::new(Arc::new(settings), host, counters))
}

fn memfd(bytes: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes).unwrap();
    file
}

fn event_file() -> File {
    File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn kick_times(file: &File, times: u64) {
    for _ in 0..times {
        rustix::io::write(file, &1u64.to_ne_bytes()).unwrap();
    }
}

fn region(guest: u64) -> VhostUserMemoryRegion {
    VhostUserMemoryRegion::new(guest, MEMORY_BYTES, FRONTEND + guest, 0)
}

/// Rings of up to 256 entries, 16 KiB apart.
fn addresses(index: u32) -> Addresses {
    let at = |offset: u64| FrontendAddr(FRONTEND + u64::from(index) * 0x4000 + offset);
    Addresses { descriptors: at(0), driver: at(0x1000), device: at(0x2000) }
}

fn set_up(backend: &mut Backend, index: u32, base: u32) {
    backend.set_vring_num(index, 256).unwrap();
    backend.set_vring_base(index, base).unwrap();
    backend.set_vring_addr(index, addresses(index)).unwrap();
    backend.set_vring_call(index, Some(event_file())).unwrap();
    backend.set_vring_kick(index, Some(event_file())).unwrap();
}

/// Memory in which the first pair's split rings have seen a device complete `used` buffers.
fn used_memory(used: u16) -> File {
    let file = memfd(MEMORY_BYTES);
    for index in 0..2 {
        file.write_all_at(&used.to_le_bytes(), addresses(index).device.0 - FRONTEND + 2).unwrap();
    }
    file
}

/// A backend whose first pair runs.
fn running(features: u64, base: u32) -> (Arc<FakeHost>, Backend) {
    let (host, mut backend) = backend(1);
    backend.set_features(features).unwrap();
    backend.set_mem_table(&[region(0)], vec![used_memory(base as u16)]).unwrap();
    for index in 0..2 {
        set_up(&mut backend, index, base);
        backend.set_vring_enable(index, 1).unwrap();
    }
    assert_eq!(host.out(), [(0, true, true)]);
    (host, backend)
}

#[test]
fn a_ring_starts_without_a_kick_and_enable_may_come_first() {
    let (host, mut backend) = backend(1);
    backend.set_vring_enable(0, 1).unwrap();
    backend.set_vring_enable(1, 1).unwrap();
    backend.set_features(SPLIT).unwrap();
    backend.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap();
    set_up(&mut backend, 0, 0);
    assert_eq!(host.out(), [(0, true, false)]);
    assert_eq!(host.negotiations(), 0);
    set_up(&mut backend, 1, 0);
    assert_eq!(host.out(), [(0, true, true)]);
    assert_eq!(host.negotiations(), 1);
}

#[test]
fn without_protocol_features_rings_are_enabled_and_enable_is_refused() {
    let (host, mut backend) = backend(1);
    backend.set_features(Features::VERSION_1.0).unwrap();
    assert!(matches!(backend.set_vring_enable(0, 0), Err(Refusal::EnableNotNegotiated)));
    backend.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap();
    set_up(&mut backend, 0, 0);
    set_up(&mut backend, 1, 0);
    assert_eq!(host.negotiations(), 1);
}

#[test]
fn no_descriptor_for_the_kick_starts_a_ring_too() {
    let (host, mut backend) = backend(1);
    backend.set_features(SPLIT).unwrap();
    backend.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap();
    backend.set_vring_num(0, 256).unwrap();
    backend.set_vring_addr(0, addresses(0)).unwrap();
    assert_eq!(host.out(), []);
    backend.set_vring_kick(0, None).unwrap();
    assert_eq!(host.out(), [(0, true, false)]);
}

#[test]
fn every_change_takes_back_first_and_hands_out_again() {
    let (host, mut backend) = running(SPLIT, 0);
    type Change = fn(&mut Backend);
    let changes: [(&str, Change); 8] = [
        ("call", |b| b.set_vring_call(0, Some(event_file())).unwrap()),
        ("kick", |b| b.set_vring_kick(1, Some(event_file())).unwrap()),
        ("enable", |b| b.set_vring_enable(0, 0).unwrap()),
        ("base", |b| b.set_vring_base(0, 7).unwrap()),
        ("num", |b| b.set_vring_num(1, 128).unwrap()),
        ("features", |b| b.set_features(SPLIT | Features::MRG_RXBUF.0).unwrap()),
        ("table", |b| b.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap()),
        ("region", |b| b.add_mem_region(&region(MEMORY_BYTES), memfd(MEMORY_BYTES)).unwrap()),
    ];
    for (name, change) in changes {
        host.moves();
        change(&mut backend);
        assert_eq!(host.moves(), [("take back", 0), ("attach", 0)], "{name}");
        assert_eq!(host.out(), [(0, true, true)], "{name}");
    }
}

#[test]
fn the_same_features_again_disturb_nothing() {
    let (host, mut backend) = running(SPLIT, 0);
    host.moves();
    backend.set_features(SPLIT).unwrap();
    backend.set_vring_enable(0, 1).unwrap();
    backend.set_vring_addr(0, addresses(0)).unwrap();
    assert_eq!(host.moves(), []);
}

#[test]
fn get_vring_base_stops_a_ring_until_the_next_kick_descriptor() {
    let (host, mut backend) = running(SPLIT, 5);
    assert_eq!(backend.get_vring_base(0).unwrap(), 5);
    assert_eq!(host.out(), [(0, false, true)]);
    backend.set_vring_addr(0, addresses(0)).unwrap();
    backend.set_vring_base(0, 6).unwrap();
    assert_eq!(host.out(), [(0, false, true)]);
    assert_eq!(backend.get_vring_base(0).unwrap(), 6);
    backend.set_vring_kick(0, Some(event_file())).unwrap();
    assert_eq!(host.out(), [(0, true, true)]);
    assert_eq!(backend.get_vring_base(0).unwrap(), 5, "the ring knows better than its frontend");
    assert_eq!(backend.get_vring_base(1).unwrap(), 5);
    assert_eq!(host.out(), []);
}

#[test]
fn a_packed_base_is_read_from_its_lower_half_and_given_in_both() {
    for (given, answer) in [(0x8000, 0x8000_8000), (0x8003_8003, 0x8003_8003), (0x1234_0003, 0x0003_0003)] {
        let (_host, mut backend) = running(PACKED, given);
        assert_eq!(backend.get_vring_base(0).unwrap(), answer, "{given:#x}");
        assert_eq!(backend.get_vring_base(0).unwrap(), answer, "{given:#x}, stopped");
    }
}

#[test]
fn ring_sizes_are_checked_by_format() {
    for (features, good, bad) in [
        (SPLIT, &[1, 2, 256, 32_768][..], &[0, 3, 255, 65_536, u32::MAX][..]),
        (PACKED, &[1, 3, 255, 32_767, 32_768], &[0, 32_769, u32::MAX]),
    ] {
        let (_host, mut backend) = backend(1);
        backend.set_features(features).unwrap();
        assert!(good.iter().all(|&size| backend.set_vring_num(0, size).is_ok()));
        assert!(bad.iter().all(|&size| matches!(backend.set_vring_num(0, size), Err(Refusal::RingSize(_)))));
    }
}

#[test]
fn rings_stop_with_their_memory_and_come_back_with_it() {
    let (host, mut backend) = running(SPLIT, 9);
    backend.remove_mem_region(&region(0)).unwrap();
    assert_eq!(host.out(), []);
    backend.remove_mem_region(&region(0)).unwrap();
    backend.add_mem_region(&region(0), used_memory(9)).unwrap();
    assert_eq!(host.out(), [(0, true, true)]);
    assert_eq!(backend.get_vring_base(1).unwrap(), 9);
    assert!(matches!(backend.remove_mem_region(&region(1)), Err(Refusal::Memory(_))));
}

#[test]
fn memory_slots_are_bounded_and_do_not_overlap() {
    let (_host, mut backend) = backend(1);
    let file = memfd(MEMORY_BYTES);
    for n in 0..super::slots::MAX_SLOTS as u64 {
        backend.add_mem_region(&region(n * MEMORY_BYTES), file.try_clone().unwrap()).unwrap();
    }
    let one_more = region(super::slots::MAX_SLOTS as u64 * MEMORY_BYTES);
    assert!(matches!(backend.add_mem_region(&one_more, file.try_clone().unwrap()), Err(Refusal::TooManySlots(_))));
    backend.remove_mem_region(&region(0)).unwrap();
    assert!(matches!(backend.add_mem_region(&region(MEMORY_BYTES / 2), file), Err(Refusal::Memory(_))));
}

#[test]
fn a_ring_outside_of_memory_is_told_of_once_and_counted_always() {
    let (host, mut backend) = backend(1);
    backend.set_features(SPLIT).unwrap();
    backend.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap();
    let lost = Addresses { device: FrontendAddr(FRONTEND + MEMORY_BYTES - 4), ..addresses(0) };
    for index in 0..2 {
        backend.set_vring_num(index, 256).unwrap();
        backend.set_vring_addr(index, lost).unwrap();
        backend.set_vring_kick(index, None).unwrap();
    }
    assert_eq!(host.out(), []);
    let events = host.events.lock().unwrap();
    assert_eq!(events.iter().filter(|event| matches!(event, SessionEvent::RingRefused { .. })).count(), 1);
}

#[test]
fn reset_forgets_rings_and_a_new_start_is_told_of() {
    let (host, mut backend) = running(SPLIT, 3);
    backend.reset_device();
    assert_eq!(host.out(), []);
    backend.set_features(PACKED).unwrap();
    for index in 0..2 {
        set_up(&mut backend, index, 0x8000);
        backend.set_vring_enable(index, 1).unwrap();
    }
    assert_eq!(host.out(), [(0, true, true)]);
    assert_eq!(host.negotiations(), 2);
}

#[test]
fn a_session_that_goes_leaves_nothing_on_a_core() {
    let (host, backend) = running(SPLIT, 0);
    drop(backend);
    assert_eq!(host.out(), []);
}

#[test]
fn kicks_count_from_the_first_suppression() {
    let (host, mut backend) = backend(1);
    let kick = event_file();
    kick_times(&kick, 3);
    backend.set_features(SPLIT).unwrap();
    backend.set_vring_kick(1, Some(kick.try_clone().unwrap())).unwrap();
    backend.rings().count_kicks(1);
    kick_times(&kick, 4);
    backend.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap();
    backend.set_vring_num(1, 256).unwrap();
    backend.set_vring_addr(1, addresses(1)).unwrap();
    assert_eq!(host.out(), [(0, false, true)]);
    kick_times(&kick, 1000);
    backend.rings().count_kicks(1);
    // A memory change stops and starts the ring: the driver has been told all along, so it still counts.
    kick_times(&kick, 5);
    backend.add_mem_region(&region(MEMORY_BYTES), memfd(MEMORY_BYTES)).unwrap();
    backend.rings().count_kicks(1);
    assert_eq!(host.counters(0).kicks.get(), 1005);
}

#[test]
fn what_the_host_reads_the_session_leaves_alone() {
    let (host, mut backend) = backend(1);
    host.reads_kicks.store(true, Ordering::Relaxed);
    let reads = |backend: &Backend| backend.rings().kicks().map(|(ring, _)| ring).collect::<Vec<_>>();
    set_up(&mut backend, 0, 0);
    set_up(&mut backend, 1, 0);
    let kick = event_file();
    backend.set_vring_kick(1, Some(kick.try_clone().unwrap())).unwrap();
    assert_eq!(reads(&backend), [0, 1], "the host has nothing yet");
    backend.set_features(SPLIT).unwrap();
    backend.set_mem_table(&[region(0)], vec![memfd(MEMORY_BYTES)]).unwrap();
    assert_eq!(reads(&backend), [0]);
    kick_times(&kick, 3);
    let read = || host.pairs.lock().unwrap()[&0].tx.as_ref().unwrap().kick().unwrap().read();
    assert_eq!((read(), read(), host.counters(0).kicks.get()), (3, 0, 0));
}

#[test]
fn only_what_was_offered_can_be_taken() {
    let (_host, mut backend) = backend(1);
    assert!(matches!(backend.set_features(SPLIT | 1 << 26), Err(Refusal::FeaturesNotOffered(_))));
    assert!(matches!(backend.set_features(SPLIT | Features::MQ.0), Err(Refusal::FeaturesNotOffered(_))));
    assert!(matches!(backend.set_protocol_features(1 << 1), Err(Refusal::ProtocolNotOffered(_))));
    assert!(matches!(backend.set_vring_num(2, 256), Err(Refusal::NoSuchRing(2))));
    assert!(matches!(backend.get_vring_base(u32::MAX), Err(Refusal::NoSuchRing(_))));
}

#[test]
fn mtu_and_announcement_are_checked_and_passed_on() {
    let (host, mut backend) = backend(1);
    for bad in [0, 67, 65_536, u64::MAX] {
        assert!(matches!(backend.net_set_mtu(bad), Err(Refusal::Mtu(_))));
    }
    backend.net_set_mtu(9000).unwrap();
    backend.net_set_mtu(9000).unwrap();
    assert!(backend.send_rarp([0; 6]).is_err());
    assert!(backend.send_rarp([0xff; 6]).is_err());
    backend.send_rarp([0x52, 0x54, 0, 1, 2, 3]).unwrap();
    let events = host.events.lock().unwrap();
    assert_eq!(*events, [SessionEvent::Mtu(9000), SessionEvent::Announce([0x52, 0x54, 0, 1, 2, 3])]);
}

#[derive(Clone, Debug)]
enum Request {
    Features(u64),
    Table(Vec<(u64, u64, u64)>),
    Add(u64, u64, u64),
    Remove(u64),
    Num(u32, u32),
    Base(u32, u32),
    Addr(u32, [u64; 3]),
    GetBase(u32),
    Kick(u32, bool),
    Call(u32, bool),
    Enable(u32, u32),
    Reset,
}

fn request() -> impl Strategy<Value = Request> {
    let ring = prop_oneof![8 => 0..4u32, 1 => any::<u32>()];
    let place = prop_oneof![Just(0), Just(MEMORY_BYTES), Just(MEMORY_BYTES / 2), any::<u64>()];
    let size = prop_oneof![6 => Just(MEMORY_BYTES), 1 => any::<u64>(), 1 => Just(4096)];
    let address = prop_oneof![6 => (0..MEMORY_BYTES).prop_map(|o| FRONTEND + (o & !0xfff)), 1 => any::<u64>()];
    let features = prop_oneof![Just(SPLIT), Just(PACKED), Just(Features::VERSION_1.0), any::<u64>()];
    let number = prop_oneof![Just(1), Just(256), Just(255), any::<u32>()];
    prop_oneof![
        features.prop_map(Request::Features),
        prop::collection::vec((place.clone(), size.clone(), place.clone()), 1..3).prop_map(Request::Table),
        (place.clone(), size, place.clone()).prop_map(|(a, b, c)| Request::Add(a, b, c)),
        place.prop_map(Request::Remove),
        (ring.clone(), number.clone()).prop_map(|(r, n)| Request::Num(r, n)),
        (ring.clone(), number).prop_map(|(r, n)| Request::Base(r, n)),
        (ring.clone(), prop::array::uniform3(address)).prop_map(|(r, a)| Request::Addr(r, a)),
        ring.clone().prop_map(Request::GetBase),
        (ring.clone(), any::<bool>()).prop_map(|(r, fd)| Request::Kick(r, fd)),
        (ring.clone(), any::<bool>()).prop_map(|(r, fd)| Request::Call(r, fd)),
        (ring, 0..3u32).prop_map(|(r, v)| Request::Enable(r, v)),
        Just(Request::Reset),
    ]
}

fn apply(backend: &mut Backend, request: Request) {
    let slot = |(guest, size, offset): (u64, u64, u64)| {
        VhostUserMemoryRegion::new(guest, size, FRONTEND.wrapping_add(guest), offset)
    };
    // Every outcome is allowed; that there is one is the property.
    let _ = match request {
        Request::Features(bits) => backend.set_features(bits),
        Request::Table(slots) => {
            let files = slots.iter().map(|_| memfd(MEMORY_BYTES)).collect();
            backend.set_mem_table(&slots.into_iter().map(slot).collect::<Vec<_>>(), files)
        }
        Request::Add(guest, size, offset) => backend.add_mem_region(&slot((guest, size, offset)), memfd(MEMORY_BYTES)),
        Request::Remove(guest) => backend.remove_mem_region(&slot((guest, MEMORY_BYTES, 0))),
        Request::Num(ring, number) => backend.set_vring_num(ring, number),
        Request::Base(ring, base) => backend.set_vring_base(ring, base),
        Request::Addr(ring, [a, b, c]) => {
            let (descriptors, driver, device) = (FrontendAddr(a), FrontendAddr(b), FrontendAddr(c));
            backend.set_vring_addr(ring, Addresses { descriptors, driver, device })
        }
        Request::GetBase(ring) => backend.get_vring_base(ring).map(|_| ()),
        Request::Kick(ring, fd) => backend.set_vring_kick(ring, fd.then(event_file)),
        Request::Call(ring, fd) => backend.set_vring_call(ring, fd.then(event_file)),
        Request::Enable(ring, value) => backend.set_vring_enable(ring, value),
        Request::Reset => {
            backend.reset_device();
            Ok(())
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any requests in any order: no panic, a pair is never handed out twice (the host checks), a pair that is out has a ring,
    /// and nothing is out in the end.
    #[test]
    fn any_order_of_requests_is_survived(requests in prop::collection::vec(request(), 1..60)) {
        let (host, mut backend) = backend(2);
        for request in requests {
            apply(&mut backend, request);
            prop_assert!(host.out().iter().all(|(_, rx, tx)| *rx || *tx));
        }
        drop(backend);
        prop_assert_eq!(host.out(), []);
    }
}

//! The protocol under loom: every interleaving of three cores (and control) that move one queue pair while packets are under way. The cores
//! are small, and what decides is the real thing: [`Progress`], [`Token`], [`Move`].

use std::sync::PoisonError;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{Cell, Move, Progress, Token};
use crate::dataplane::loom_finding::finding;
use crate::forwarding::PortId;

const A: usize = 0;
const B: usize = 1;
const X: usize = 2;
const CORES: usize = 3;

/// What is wrong where something is left out.
const OUT_OF_ORDER: &str = "what left the guest arrived in another order";
const NOT_ALL: &str = "the guest has not received what was sent to it, in order";

const OLD: u32 = 7;
const MOVING: Move = Move { port: PortId(1), queue: 0, from: A as u16, to: B as u16, since: OLD + 1 };

impl Cell for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
}

/// A ring from one core to another, as the core-to-core rings are ordered: what was put in is seen once the index is.
struct Ring {
    packets: [AtomicU64; 2],
    /// Packets put in, ever.
    sent: AtomicU64,
}

impl Ring {
    fn new() -> Self {
        Self { packets: [AtomicU64::new(0), AtomicU64::new(0)], sent: AtomicU64::new(0) }
    }

    /// Puts a packet in as the `place`-th; returns the place after it.
    fn push(&self, place: u64, packet: u64) -> u64 {
        self.packets[place as usize].store(packet, Ordering::Relaxed);
        self.sent.store(place + 1, Ordering::Release);
        place + 1
    }

    /// The packet after the first `taken`.
    fn next(&self, taken: u64) -> Option<u64> {
        (self.sent.load(Ordering::Acquire) > taken).then(|| self.packets[taken as usize].load(Ordering::Relaxed))
    }
}

/// The queue pair on its way: what its guest has received, and the ordering token.
type Handed = Mutex<Option<(Vec<u64>, Token)>>;

fn put(handed: &Handed, pair: (Vec<u64>, Token)) {
    *handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(pair);
}

fn take(handed: &Handed) -> Option<(Vec<u64>, Token)> {
    handed.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Two packets leave the guest, for one on core X: the first is pulled by A, the second by B.
fn out_of_the_guest(heeds_token: bool) {
    let progress = Arc::new(Progress::<AtomicU64>::new(CORES, CORES));
    let rings = Arc::new([Ring::new(), Ring::new()]);
    let handed = Arc::new(Handed::new(None));
    let giver = {
        let (rings, handed) = (Arc::clone(&rings), Arc::clone(&handed));
        thread::spawn(move || {
            let place = rings[A].push(0, 1);
            let mut token = Token::for_cores(CORES);
            token.note(A, [0, 0, place].into_iter());
            put(&handed, (Vec::new(), token));
        })
    };
    let taker = {
        let (rings, progress) = (Arc::clone(&rings), Arc::clone(&progress));
        thread::spawn(move || {
            let token = loop {
                if let Some((_, token)) = take(&handed) {
                    break token;
                }
                thread::yield_now();
            };
            while heeds_token && !token.is_passed(&progress) {
                thread::yield_now();
            }
            rings[B].push(0, 2);
        })
    };
    let mut received = Vec::new();
    let mut taken = [0, 0];
    while received.len() < 2 {
        let before = received.len();
        for core in [A, B] {
            if let Some(packet) = rings[core].next(taken[core]) {
                received.push(packet);
                taken[core] += 1;
                progress.delivered(core, X, taken[core]);
            }
        }
        if received.len() == before {
            thread::yield_now();
        }
    }
    giver.join().unwrap();
    taker.join().unwrap();
    assert_eq!(received, [1, 2], "{OUT_OF_ORDER}");
}

/// Two packets from core X go to the guest; X takes over the table in which its queue pair is B's when it has sent `by_old` of them. A and B
/// have taken it over already.
fn into_the_guest(by_old: usize, waits_for_marks: bool) {
    let progress = Arc::new(Progress::<AtomicU64>::new(CORES, CORES));
    let rings = Arc::new([Ring::new(), Ring::new()]);
    let handed = Arc::new(Handed::new(None));
    // B sends nothing.
    progress.mark(B, A, MOVING.since, 0);
    let giver = {
        let (progress, rings, handed) = (Arc::clone(&progress), Arc::clone(&rings), Arc::clone(&handed));
        thread::spawn(move || {
            let mut guest = Vec::new();
            while waits_for_marks && !MOVING.is_drained(MOVING.from, &progress) {
                match rings[A].next(guest.len() as u64) {
                    Some(packet) => {
                        guest.push(packet);
                        progress.delivered(X, A, guest.len() as u64);
                    }
                    None => thread::yield_now(),
                }
            }
            put(&handed, (guest, Token::for_cores(CORES)));
        })
    };
    let taker = {
        let rings = Arc::clone(&rings);
        thread::spawn(move || {
            let mut parked = Vec::new();
            let mut guest = None;
            while parked.len() < 2 - by_old || guest.is_none() {
                let taken = parked.len();
                parked.extend(rings[B].next(taken as u64));
                if guest.is_none() {
                    guest = take(&handed);
                }
                if parked.len() == taken {
                    thread::yield_now();
                }
            }
            let (mut received, _) = guest.unwrap_or_default();
            received.append(&mut parked);
            received
        })
    };
    let mut version = OLD;
    let mut places = [0, 0];
    for (nth, packet) in [1, 2].into_iter().enumerate() {
        if nth == by_old {
            version = MOVING.since;
            progress.mark(X, A, MOVING.since, places[A]);
        }
        let to = usize::from(MOVING.owner(version));
        places[to] = rings[to].push(places[to], packet);
    }
    if by_old == 2 {
        progress.mark(X, A, MOVING.since, places[A]);
    }
    giver.join().unwrap();
    assert_eq!(taker.join().unwrap(), [1, 2], "{NOT_ALL}");
}

/// Whether loom finds this wrong in some interleaving.
fn fails(check: impl Fn() + Sync + Send + std::panic::UnwindSafe + 'static, words: &str) -> bool {
    finding(|| loom::model(check)).contains(words)
}

#[test]
fn what_leaves_the_guest_keeps_its_order() {
    loom::model(|| out_of_the_guest(true));
}

#[test]
fn without_the_ordering_token_what_leaves_the_guest_is_reordered() {
    assert!(fails(|| out_of_the_guest(false), OUT_OF_ORDER));
}

#[test]
fn what_goes_to_the_guest_arrives_once_and_in_order() {
    (0..=2).for_each(|by_old| loom::model(move || into_the_guest(by_old, true)));
}

#[test]
fn without_the_marks_what_goes_to_the_guest_is_lost() {
    assert!(fails(|| into_the_guest(1, false), NOT_ALL));
}

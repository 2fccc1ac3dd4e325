//! Sleeping under loom: a core that goes to sleep, those who wake it, and a session that reads kicks, in every interleaving in which threads are
//! interrupted at most three times (twice where there are two kicks). [`Bell`] is the real one; ring, eventfds and epoll are models. A core that
//! waits when all others have ended has lost a wake-up.

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Alarm, Bell, Flag};
use crate::dataplane::loom_finding::finding;

/// What is wrong where something is left out.
const UNHEARD: &str = "the core sleeps for ever";

/// What is left out, for tests that have to see it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The core does not look again before it sleeps.
    NoSecondLook,
    /// Whoever reads kicks does not ring.
    NoBell,
    /// Whoever wakes does not fence.
    NoFence,
    /// The core does not fence after it has lain down.
    NoFenceOfCore,
}

/// A [`Flag`], with its fence or without.
struct Asleep<const FENCED: bool>(AtomicBool);

impl<const FENCED: bool> Flag for Asleep<FENCED> {
    fn set(&self, asleep: bool) {
        self.0.store(asleep, Ordering::Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }

    fn fence() {
        if FENCED {
            fence(Ordering::SeqCst);
        }
    }
}

/// The eventfds that a core's epoll waits for, edge-triggered: kicks, which a session or another thread reads, and the bell, which
/// nobody reads.
#[derive(Default)]
struct Events {
    /// Kicks that were not read.
    kicks: u64,
    /// Whether there was one since epoll last said so. It does not where they have been read.
    kicked: bool,
    rung: bool,
    /// Threads beside the core that have not ended.
    others: u64,
}

struct Epoll {
    events: Mutex<Events>,
    changed: Condvar,
}

impl Epoll {
    fn new(others: u64) -> Arc<Self> {
        Arc::new(Self { events: Mutex::new(Events { others, ..Events::default() }), changed: Condvar::new() })
    }

    /// A thread beside the core ends.
    fn end(&self) {
        self.events.lock().unwrap().others -= 1;
        self.changed.notify_all();
    }

    fn kick(&self) {
        let mut events = self.events.lock().unwrap();
        (events.kicks, events.kicked) = (events.kicks + 1, true);
        drop(events);
        self.changed.notify_all();
    }

    /// Reads the kick eventfd: whatever epoll has not reported by then it never will.
    fn read_kicks(&self) -> u64 {
        std::mem::take(&mut self.events.lock().unwrap().kicks)
    }

    /// Whether anybody woke the core before all others ended.
    fn wait(&self) -> bool {
        let mut events = self.events.lock().unwrap();
        loop {
            let kicked = std::mem::take(&mut events.kicked) && events.kicks > 0;
            if std::mem::take(&mut events.rung) || kicked {
                return true;
            }
            if events.others == 0 {
                return false;
            }
            events = self.changed.wait(events).unwrap();
        }
    }
}

impl Alarm for Arc<Epoll> {
    fn raise(&self) {
        self.events.lock().unwrap().rung = true;
        self.changed.notify_all();
    }
}

/// A core, with one ring of a guest and one ring from another core.
struct World<const FENCED: bool = true> {
    /// Packets that the guest made available, ever; and whether it is asked to kick.
    available: AtomicU64,
    asked: AtomicBool,
    /// Packets that another core handed over, ever.
    handed: AtomicU64,
    /// Whether somebody has read a kick since the core last looked.
    kicked: AtomicBool,
    bell: Bell<Asleep<FENCED>, Arc<Epoll>>,
    epoll: Arc<Epoll>,
    fault: Fault,
}

impl<const FENCED: bool> World<FENCED> {
    fn new(fault: Fault, others: u64) -> Arc<Self> {
        let epoll = Epoll::new(others);
        Arc::new(Self {
            available: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            handed: AtomicU64::new(0),
            kicked: AtomicBool::new(false),
            bell: Bell::new(Asleep(AtomicBool::new(false)), Arc::clone(&epoll)),
            epoll,
            fault,
        })
    }

    fn fence(&self) {
        if self.fault != Fault::NoFence {
            fence(Ordering::SeqCst);
        }
    }

    /// The guest's driver makes the `nth` packet available.
    fn send(&self, nth: u64) {
        self.available.store(nth, Ordering::Release);
        self.fence();
        if self.asked.load(Ordering::Relaxed) {
            self.epoll.kick();
        }
    }

    /// A session, or whoever wants to know their number, looks once for kicks.
    fn reader(&self) {
        if self.epoll.read_kicks() > 0 {
            self.kicked.store(true, Ordering::Release);
            match self.fault {
                Fault::NoBell => {}
                Fault::NoFenceOfCore => {
                    fence(Ordering::SeqCst);
                    self.bell.ring_after_fence();
                }
                _ => self.bell.ring(),
            }
        }
    }

    /// Another core hands a packet over. It has to fence for its receivers' sake anyway.
    fn hand_over(&self) {
        self.handed.store(1, Ordering::Release);
        self.fence();
        self.bell.ring_after_fence();
    }

    /// The core: sleeps whenever it finds nothing, until it has seen so many packets of the guest and of the other core. False: it sleeps for ever.
    fn core(&self, packets: u64, handed: u64) -> bool {
        let all = |order| self.available.load(order) >= packets && self.handed.load(order) >= handed;
        let mut seen = (0, 0);
        while !all(Ordering::Acquire) {
            let there = || (self.available.load(Ordering::Acquire), self.handed.load(Ordering::Acquire));
            if there() != seen {
                seen = there();
                continue;
            }
            self.asked.store(true, Ordering::Relaxed);
            self.bell.lie_down();
            let found = there() != seen || self.kicked.load(Ordering::Relaxed);
            if (!found || self.fault == Fault::NoSecondLook) && !self.epoll.wait() {
                return false;
            }
            self.bell.get_up();
            self.kicked.swap(false, Ordering::Acquire);
            self.asked.store(false, Ordering::Relaxed);
        }
        true
    }

    /// Runs `what` beside the core.
    fn beside(world: &Arc<Self>, what: impl FnOnce(&Self) + 'static) -> thread::JoinHandle<()> {
        let world = Arc::clone(world);
        thread::spawn(move || {
            what(&world);
            world.epoll.end();
        })
    }
}

/// A guest sends so many packets; somebody reads kicks at any time, once.
fn kicks(packets: u64, fault: Fault) {
    if fault == Fault::NoFenceOfCore {
        kicks_in(World::<false>::new(fault, 2), packets)
    } else {
        kicks_in(World::<true>::new(fault, 2), packets)
    }
}

fn kicks_in<const FENCED: bool>(world: Arc<World<FENCED>>, packets: u64) {
    let guest = World::beside(&world, move |world| (1..=packets).for_each(|nth| world.send(nth)));
    let reader = World::beside(&world, World::reader);
    let heard = world.core(packets, 0);
    guest.join().unwrap();
    reader.join().unwrap();
    assert!(heard, "{UNHEARD}");
}

/// Another core hands a packet over.
fn packets(fault: Fault) {
    if fault == Fault::NoFenceOfCore {
        packets_in(World::<false>::new(fault, 1))
    } else {
        packets_in(World::<true>::new(fault, 1))
    }
}

fn packets_in<const FENCED: bool>(world: Arc<World<FENCED>>) {
    let other = World::beside(&world, World::hand_over);
    let heard = world.core(0, 1);
    other.join().unwrap();
    assert!(heard, "{UNHEARD}");
}

/// A guest and another core at the same time.
fn both(fault: Fault) {
    let world = World::<true>::new(fault, 2);
    let guest = World::beside(&world, |world| world.send(1));
    let other = World::beside(&world, World::hand_over);
    let heard = world.core(1, 1);
    guest.join().unwrap();
    other.join().unwrap();
    assert!(heard, "{UNHEARD}");
}

/// Every interleaving in which threads are interrupted so often.
fn check_within(interruptions: usize, what: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(interruptions);
    model.check(what);
}

fn check(what: impl Fn() + Sync + Send + 'static) {
    check_within(3, what);
}

/// Whether a wake-up is lost in some interleaving.
fn fails(what: impl Fn() + Sync + Send + std::panic::UnwindSafe + 'static) -> bool {
    finding(|| check(what)) == UNHEARD
}

#[test]
fn whoever_kicks_is_heard_whatever_somebody_reads() {
    check(|| kicks(1, Fault::None));
    check_within(2, || kicks(2, Fault::None));
}

#[test]
fn whoever_hands_over_is_heard() {
    check(|| packets(Fault::None));
    check(|| both(Fault::None));
}

#[test]
fn without_the_second_look_a_wake_up_is_lost() {
    assert!(fails(|| kicks(1, Fault::NoSecondLook)));
    assert!(fails(|| packets(Fault::NoSecondLook)));
}

#[test]
fn a_reader_that_does_not_ring_loses_kicks() {
    assert!(fails(|| kicks(1, Fault::NoBell)));
}

#[test]
fn without_a_fence_a_wake_up_is_lost() {
    assert!(fails(|| kicks(1, Fault::NoFence)));
    assert!(fails(|| packets(Fault::NoFence)));
    assert!(fails(|| kicks(1, Fault::NoFenceOfCore)));
    assert!(fails(|| packets(Fault::NoFenceOfCore)));
}

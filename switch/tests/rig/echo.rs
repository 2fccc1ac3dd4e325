//! Guests behind an uplink that gives back what it is sent, whose queue pairs move from core to core.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

use pmd_bindings::ThreadRegistration;
use sidecore::rig::{Rig, RigMove, RigPort};
use synthetic_guest::packet::{FrameSpec, Stamp, Template};
use synthetic_guest::verify::Verifier;

use super::{CYCLES_PER_US, SPLIT, eal, guest::Guest};

/// Nobody's address: a guest that is alone in its VLAN with the uplink hears its own echo.
const NOBODY: u32 = 77;
/// Frames of a guest that may be under way: those of all fit into every ring.
const WINDOW: u64 = 200;

pub(crate) struct Echo {
    // Dropped in this order.
    rig: Rig,
    _device: Plugged,
    uplink: RigPort,
    members: Vec<Member>,
    /// What moves, and the move.
    moving: Option<(Mover, RigMove)>,
    /// The core that each queue pair of the uplink is on.
    queues: Vec<usize>,
    cores: usize,
    moves: usize,
    _turn: MutexGuard<'static, ()>,
}

/// One at a time: devices and their pools of packets have names, and the number of threads says how many queues there are.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy)]
enum Mover {
    Guest(usize, usize),
    Queue(usize, usize),
}

struct Member {
    guest: Guest,
    port: RigPort,
    core: usize,
    sent: u64,
    verifier: Verifier,
}

impl Echo {
    /// So many guests, spread over so many cores, and an uplink with so many queue pairs.
    pub(crate) fn new(guests: usize, cores: usize, queues: usize) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rig = Rig::new(cores, CYCLES_PER_US * 1_000_000);
        let device = Plugged::next();
        let uplink = with_lcores(queues, || rig.add_uplink(eal(), &device.0, Some(queues as u16), &[]));
        let uplink = uplink.expect("net_ring is part of DPDK");
        rig.set_vlan(uplink, None);
        let members = (0..guests).map(|number| {
            let (guest, device) = Guest::new(SPLIT);
            let port = rig.add_guest(number % cores, [device]);
            rig.set_vlan(port, Some(number as u16 + 2));
            Member { guest, port, core: number % cores, sent: 0, verifier: Verifier::new() }
        });
        let members = members.collect();
        Self {
            rig,
            _device: device,
            uplink,
            members,
            moving: None,
            queues: (0..queues).collect(),
            cores,
            moves: 0,
            _turn: turn,
        }
    }

    /// Moves that have ended.
    pub(crate) fn moves(&self) -> usize {
        self.moves
    }

    /// The core that a queue pair of the uplink is on, or was on before its move.
    pub(crate) fn core_of(&self, queue: usize) -> usize {
        self.queues[queue]
    }

    /// Frames of a guest's: fewer where too many are under way.
    pub(crate) fn send(&mut self, from: usize, frames: usize) {
        let member = &mut self.members[from];
        member.guest.reclaim();
        let under_way = member.sent - member.verifier.report().received;
        let frames = frames.min((WINDOW - under_way) as usize);
        if frames > 0 {
            let mut template = Template::new(FrameSpec::udp4(from as u32, NOBODY, from as u16, 60));
            let first = member.sent;
            let stamp = |number| Stamp { flow: from as u16, sequence: first + number, ..Stamp::default() };
            member.guest.send(&mut template, frames, stamp);
            member.sent += frames as u64;
        }
    }

    /// One round of a core; then the guests take what they received.
    pub(crate) fn poll(&mut self, core: usize) {
        self.rig.poll(core);
        for member in &mut self.members {
            let verifier = &mut member.verifier;
            member.guest.receive(|frame| {
                verifier.check_received(frame);
            });
        }
    }

    /// Begins to move a queue pair of the uplink, unless something moves already or it is there.
    pub(crate) fn move_queue(&mut self, queue: usize, to: usize) {
        let queue = queue % self.queues.len();
        self.end_move();
        if self.moving.is_none() && self.queues[queue] != to {
            self.moving = Some((Mover::Queue(queue, to), self.rig.begin_move(self.uplink, queue, to)));
        }
    }

    /// The same for a guest. Its packets leave by another queue then, so that their order is the NIC's affair; unless there is but one.
    pub(crate) fn move_guest(&mut self, guest: usize, to: usize) {
        self.end_move();
        if self.moving.is_none() && self.members[guest].core != to && self.queues.len() == 1 {
            self.moving = Some((Mover::Guest(guest, to), self.rig.begin_move(self.members[guest].port, 0, to)));
        }
    }

    /// Makes one more core know of the move.
    pub(crate) fn publish_move(&mut self, nth: usize) {
        if let Some((_, moving)) = &mut self.moving
            && !moving.behind().is_empty()
        {
            let nth = nth % moving.behind().len();
            self.rig.publish_move(moving, nth);
        }
    }

    fn end_move(&mut self) {
        let Some((mover, moving)) = self.moving.take() else { return };
        match (self.rig.end_move(moving), mover) {
            (Err(moving), _) => return self.moving = Some((mover, moving)),
            (Ok(()), Mover::Guest(guest, to)) => self.members[guest].core = to,
            (Ok(()), Mover::Queue(queue, to)) => self.queues[queue] = to,
        }
        self.moves += 1;
    }

    /// Lets all cores know, and polls until everything has arrived.
    pub(crate) fn settle(&mut self) {
        (0..self.cores).for_each(|_| self.publish_move(0));
        for _ in 0..200 {
            (0..self.cores).for_each(|core| self.poll(core));
        }
        self.end_move();
        assert!(self.moving.is_none(), "the move ends");
    }

    /// Everything came back once, whole and in order, and was counted as that.
    pub(crate) fn check(&self) {
        for (number, member) in self.members.iter().enumerate() {
            let report = member.verifier.report();
            assert!(report.is_perfect(member.sent), "guest {number}, {} sent: {report:?}", member.sent);
        }
        let totals = self.rig.totals();
        assert_eq!((totals.dropped, totals.in_flight), (0, 0));
    }
}

/// The name of a device that is unplugged at the end.
struct Plugged(String);

impl Plugged {
    fn next() -> Self {
        static DEVICES: AtomicU32 = AtomicU32::new(0);
        Self(format!("net_ring{}", DEVICES.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        // A failed test says why by itself.
        let unplugged = eal().unplug(&self.0);
        assert!(unplugged.is_ok() || std::thread::panicking(), "{unplugged:?}");
    }
}

/// Runs this while EAL knows at least so many threads: net_ring has a queue for each.
fn with_lcores<T>(lcores: usize, run: impl FnOnce() -> T) -> T {
    let (ready, done) = (Barrier::new(lcores), Barrier::new(lcores));
    std::thread::scope(|scope| {
        let eal = eal();
        for _ in 1..lcores {
            scope.spawn(|| {
                let _known = ThreadRegistration::new(eal).expect("EAL has room for more threads");
                ready.wait();
                done.wait();
            });
        }
        ready.wait();
        let outcome = run();
        done.wait();
        outcome
    })
}

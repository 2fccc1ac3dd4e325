//! Guests of which each sends to each, on several cores, with queue pairs that move.

use sidecore::rig::{Rig, RigMove, RigPort};
use synthetic_guest::Features;
use synthetic_guest::packet::{FrameSpec, Stamp, Template, mac};
use synthetic_guest::verify::Verifier;

use super::{CYCLES_PER_US, RING, guest::Guest};

/// Nobody's address.
const NOBODY: u32 = 77;

pub(crate) struct Circle {
    rig: Rig,
    members: Vec<Member>,
    /// The guest that moves, where it goes, and the move.
    moving: Option<(usize, usize, RigMove)>,
    cores: usize,
}

struct Member {
    guest: Guest,
    port: RigPort,
    core: usize,
    /// Frames in its transmit ring.
    waiting: usize,
    verifier: Verifier,
    /// Frames sent to this one by each guest, then those each of them flooded.
    expected: Vec<u64>,
}

impl Circle {
    /// So many guests, spread over so many cores, whose addresses are known.
    pub(crate) fn new(features: Features, guests: usize, cores: usize) -> Self {
        let mut rig = Rig::new(cores, CYCLES_PER_US * 1_000_000);
        let members = (0..guests).map(|number| {
            let (guest, device) = Guest::new(features);
            let port = rig.add_guest(number % cores, [device]);
            rig.fix_station(mac(number as u32), port);
            let expected = vec![0; 2 * guests];
            Member { guest, port, core: number % cores, waiting: 0, verifier: Verifier::new(), expected }
        });
        let members = members.collect();
        Self { rig, members, moving: None, cores }
    }

    /// The core a guest is on, or was on before its move.
    pub(crate) fn core_of(&self, guest: usize) -> usize {
        self.members[guest].core
    }

    /// Frames from one guest to another: fewer where there is no room.
    pub(crate) fn send(&mut self, from: usize, to: usize, frames: usize) {
        let frames = frames.min(self.room(to));
        let sent = self.transmit(from, to as u32, from, self.members[to].expected[from], frames);
        self.members[to].expected[from] += sent;
    }

    /// A frame to everybody else, where all have room for it.
    pub(crate) fn flood(&mut self, from: usize) {
        let others = (0..self.members.len()).filter(|number| *number != from);
        let frames = others.map(|number| self.room(number)).fold(1, usize::min);
        let flow = self.members.len() + from;
        let other = (from + 1) % self.members.len();
        let sent = self.transmit(from, NOBODY, flow, self.members[other].expected[flow], frames);
        let others = self.members.iter_mut().enumerate().filter(|(number, _)| *number != from);
        others.for_each(|(_, member)| member.expected[flow] += sent);
    }

    /// Frames that a receive ring has room for beside all that are under way to it: a core may deliver these at once, when a queue pair comes for
    /// which they waited.
    fn room(&self, to: usize) -> usize {
        let member = &self.members[to];
        let under_way = member.expected.iter().sum::<u64>() - member.verifier.report().received;
        RING - under_way as usize
    }

    fn transmit(&mut self, from: usize, to: u32, flow: usize, first: u64, frames: usize) -> u64 {
        let member = &mut self.members[from];
        member.waiting -= member.guest.reclaim();
        let frames = frames.min(RING - member.waiting);
        if frames > 0 {
            let mut template = Template::new(FrameSpec::udp4(from as u32, to, flow as u16, 60));
            let stamp = |number| Stamp { flow: flow as u16, sequence: first + number, ..Stamp::default() };
            member.guest.send(&mut template, frames, stamp);
            member.waiting += frames;
        }
        frames as u64
    }

    /// One round of a core; then the guests take what they received, so that there is always room.
    pub(crate) fn poll(&mut self, core: usize) {
        self.rig.poll(core);
        for member in &mut self.members {
            let verifier = &mut member.verifier;
            member.guest.receive(|frame| {
                verifier.check_received(frame);
            });
        }
    }

    /// Begins to move a guest, unless one moves already or it is there.
    pub(crate) fn begin_move(&mut self, guest: usize, to: usize) {
        self.end_move();
        if self.moving.is_none() && self.members[guest].core != to {
            self.moving = Some((guest, to, self.rig.begin_move(self.members[guest].port, 0, to)));
        }
    }

    /// Makes one more core know of the move.
    pub(crate) fn publish_move(&mut self, nth: usize) {
        if let Some((_, _, moving)) = &mut self.moving
            && !moving.behind().is_empty()
        {
            let nth = nth % moving.behind().len();
            self.rig.publish_move(moving, nth);
        }
    }

    fn end_move(&mut self) {
        if let Some((guest, to, moving)) = self.moving.take() {
            match self.rig.end_move(moving) {
                Ok(()) => self.members[guest].core = to,
                Err(moving) => self.moving = Some((guest, to, moving)),
            }
        }
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

    /// Everything arrived once, whole and in order, and was counted as that.
    pub(crate) fn check(self) {
        let totals = self.rig.totals();
        for (number, member) in self.members.iter().enumerate() {
            let report = member.verifier.report_against(&member.expected);
            let expected = member.expected.iter().sum();
            assert!(report.is_perfect(expected), "guest {number}, {expected} expected: {report:?}; {totals:?}");
        }
        assert_eq!((totals.dropped, totals.copy_drops, totals.in_flight), (0, 0, 0));
    }
}

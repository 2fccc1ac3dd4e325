//! Guests that look at their rings when they are called, and one that sends to them.

use std::cell::{Cell, RefCell};

use sidecore::rig::{Rig, RigPort, Share};
use synthetic_guest::Features;
use synthetic_guest::packet::{FrameSpec, Stamp, Template, mac};
use vm_ports::Moderation;

use super::{BURST, CYCLES_PER_US, RING, guest::Guest};

/// The sender's address, and that of a guest that polls.
const SENDER: u32 = 1000;
const SINK: u32 = 1001;
/// Bursts that the sender may have in a round.
const BURSTS: usize = RING / BURST;

pub(crate) struct Interrupts {
    rig: Rig,
    sender: Guest,
    sink: Guest,
    template_to_sink: Template,
    guests: RefCell<Vec<Called>>,
    pub(crate) now: Cell<u64>,
}

struct Called {
    guest: Guest,
    port: RigPort,
    template: Template,
    /// When the oldest of what it has not looked at was sent to it.
    since: Option<u64>,
    calls: u64,
    /// The longest that something waited for its call.
    longest: u64,
}

impl Called {
    /// Looks at the receive ring if there was a call.
    fn answer(&mut self, now: u64) {
        let [calls, _] = self.guest.calls();
        self.calls += calls;
        if calls > 0 {
            self.guest.receive(|_| ());
            self.longest = self.longest.max(self.since.take().map_or(0, |since| now - since));
        }
    }
}

impl Interrupts {
    /// So many guests on core 0 of so many; a guest that sends and one that polls with them.
    pub(crate) fn new(features: Features, cores: usize, guests: usize, moderation: Moderation) -> Self {
        let mut rig = Rig::new(cores, CYCLES_PER_US * 1_000_000);
        // The sender may have several bursts in a round.
        let mut add = |number: u32, device| {
            let weight = if number == SENDER { BURSTS as u32 } else { 1 };
            let port = rig.add_guest_with(0, Share { weight, ..Share::default() }, [device]);
            rig.fix_station(mac(number), port);
            port
        };
        let (sender, device) = Guest::new(features);
        add(SENDER, device);
        let (sink, device) = Guest::new(features);
        add(SINK, device);
        let guests = (0..guests as u32).map(|number| {
            let (guest, device) = Guest::called(features, moderation);
            let port = add(number, device);
            let template = Template::new(FrameSpec::udp4(SENDER, number, 0, 60));
            Called { guest, port, template, since: None, calls: 0, longest: 0 }
        });
        let guests = RefCell::new(guests.collect());
        let template_to_sink = Template::new(FrameSpec::udp4(SENDER, SINK, 0, 60));
        Self { rig, sender, sink, template_to_sink, guests, now: Cell::new(0) }
    }

    /// So many frames for a guest are under way.
    pub(crate) fn send(&mut self, to: usize, frames: usize) {
        self.sender.reclaim();
        let guest = &mut self.guests.get_mut()[to];
        self.sender.send(&mut guest.template, frames, |_| Stamp::default());
        guest.since.get_or_insert(self.now.get());
    }

    /// The sender's ring is full of frames for the guest that polls.
    pub(crate) fn fill_sink(&mut self) {
        self.sender.reclaim();
        self.sender.send(&mut self.template_to_sink, RING, |_| Stamp::default());
    }

    /// A turn of a core's thread. The clock moves on by `burst` with each burst, and guests look at their rings when they were called,
    /// while the round is still under way.
    pub(crate) fn turn(&mut self, core: usize, burst: u64) {
        let Self { rig, guests, now, .. } = self;
        let answer = || guests.borrow_mut().iter_mut().for_each(|guest| guest.answer(now.get()));
        rig.turn(core, || {
            answer();
            now.set(now.get() + burst);
            now.get()
        });
        answer();
        self.sink.receive(|_| ());
    }

    /// The same, with nothing but the core at work.
    pub(crate) fn turn_alone(&mut self, core: usize) {
        self.rig.turn(core, || self.now.get());
    }

    /// The guests look at their rings if they were called.
    pub(crate) fn answer(&mut self) {
        self.sink.receive(|_| ());
        let now = self.now.get();
        self.guests.get_mut().iter_mut().for_each(|guest| guest.answer(now));
    }

    pub(crate) fn pass(&mut self, cycles: u64) {
        self.now.set(self.now.get() + cycles);
    }

    pub(crate) fn release_calls(&mut self, core: usize) {
        self.rig.release_calls(core);
    }

    /// Moves a guest from core 0 to core 1 while the clock stands still.
    pub(crate) fn move_away(&mut self, guest: usize) {
        let mut moving = self.rig.begin_move(self.guests.get_mut()[guest].port, 0, 1);
        while !moving.behind().is_empty() {
            self.rig.publish_move(&mut moving, 0);
        }
        for _ in 0..10 {
            (0..2).for_each(|core| self.turn_alone(core));
        }
        assert!(self.rig.end_move(moving).is_ok(), "the move ends");
    }

    /// Calls of a guest up to now.
    pub(crate) fn calls(&self, guest: usize) -> u64 {
        self.guests.borrow()[guest].calls
    }

    pub(crate) fn all_calls(&self) -> u64 {
        self.guests.borrow().iter().map(|guest| guest.calls).sum()
    }

    /// The longest that anything waited for its call, or waits.
    pub(crate) fn longest(&self) -> u64 {
        let now = self.now.get();
        let waits = |guest: &Called| guest.longest.max(guest.since.map_or(0, |since| now - since));
        self.guests.borrow().iter().map(waits).max().unwrap_or_default()
    }
}

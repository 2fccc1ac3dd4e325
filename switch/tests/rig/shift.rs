//! Pairs of guests, one of which sends to the other at a rate, on cores whose clocks count what they do; and the scheduler, which moves the guests.
//! All of it is the switch's own but the threads and the time: that is bursts.

use std::cell::Cell;

use scheduler::{Config, IoCore, Load, Move, Order, Outcome, Scheduler, Topology};
use sidecore::rig::{Rig, RigPort};
use synthetic_guest::packet::{FrameSpec, Stamp, Template, mac};
use synthetic_guest::verify::Verifier;

use super::{BURST, CYCLES_PER_US, RING, SPLIT, guest::Guest};

/// What a burst takes, and a look at all rings that finds nothing.
const BURST_CYCLES: u64 = 20 * CYCLES_PER_US;
/// Bursts that a core can forward between two looks of the scheduler's.
const TICK_BURSTS: u64 = 250;

pub(crate) struct Shift {
    rig: Rig,
    /// Each core's.
    clocks: Vec<Cell<u64>>,
    pairs: Vec<Pair>,
    scheduler: Option<Scheduler>,
    /// What it moved.
    moves: Vec<Move>,
    /// The end of the tick before.
    now: u64,
}

struct Pair {
    from: Guest,
    to: Guest,
    /// The sender's, and the receiver's.
    ports: [RigPort; 2],
    template: Template,
    /// Cycles from one burst to the next, and when that is due.
    interval: u64,
    due: u64,
    /// Frames that were due, those of them that were sent, and those that have not been pulled.
    asked: u64,
    sent: u64,
    waiting: usize,
    verifier: Verifier,
}

/// Frames that were to be delivered in a while, and those that were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Service {
    pub(crate) asked: u64,
    pub(crate) delivered: u64,
}

impl Service {
    /// What was delivered of what was asked for.
    pub(crate) fn part(self) -> f64 {
        self.delivered as f64 / self.asked as f64
    }
}

impl Shift {
    /// So many pairs on each core, which ask for this part of what it can do.
    pub(crate) fn new(loads: &[f64], pairs: usize, watched: bool) -> Self {
        let mut rig = Rig::new(loads.len(), CYCLES_PER_US * 1_000_000);
        let all = loads.iter().enumerate().flat_map(|(core, load)| (0..pairs).map(move |_| (core, *load)));
        let add =
            |(number, (core, load)): (usize, (usize, f64))| Pair::new(&mut rig, number, core, load / pairs as f64);
        let pairs = all.enumerate().map(add).collect();
        let config = Config { tick_ns: TICK_BURSTS * BURST_CYCLES * 1000 / CYCLES_PER_US, ..Config::default() };
        let scheduler = watched.then(|| Scheduler::new(config, Topology::flat(loads.len())));
        let clocks = loads.iter().map(|_| Cell::new(0)).collect();
        rig.load(0);
        Self { rig, clocks, pairs, scheduler, moves: Vec::new(), now: 0 }
    }

    /// What the scheduler moved.
    pub(crate) fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// So many ticks: what was delivered in them, and the load of the last one.
    pub(crate) fn ticks(&mut self, count: usize) -> (Service, Load) {
        let sum = |pairs: &[Pair], of: fn(&Pair) -> u64| pairs.iter().map(of).sum::<u64>();
        let both = |pairs: &[Pair]| [sum(pairs, |pair| pair.asked), sum(pairs, |pair| pair.verifier.report().received)];
        let before = both(&self.pairs);
        let load = (0..count).map(|_| self.tick()).last().unwrap_or_default();
        let [asked, delivered] = both(&self.pairs);
        (Service { asked: asked - before[0], delivered: delivered - before[1] }, load)
    }

    fn tick(&mut self) -> Load {
        self.now += TICK_BURSTS * BURST_CYCLES;
        // Always the core that is behind.
        while let Some(core) = (0..self.clocks.len()).min_by_key(|core| self.clocks[*core].get())
            && self.clocks[core].get() < self.now
        {
            self.turn(core);
        }
        let load = self.rig.load(self.now);
        if let Some(mut scheduler) = self.scheduler.take() {
            scheduler.tick(&load);
            while let Some(order) = scheduler.next_order() {
                let Order::Move(step) = order else { panic!("cores are not to be parked: {order:?}") };
                self.carry_out(step);
                scheduler.finished(Outcome::Done { pause_ns: 0 });
            }
            self.scheduler = Some(scheduler);
        }
        load
    }

    /// A turn of a core's thread, before which guests send what is due, and after which they take what they received.
    fn turn(&mut self, core: usize) {
        let clock = &self.clocks[core];
        self.pairs.iter_mut().for_each(|pair| pair.send(clock.get()));
        self.rig.turn(core, || {
            clock.set(clock.get() + BURST_CYCLES);
            clock.get()
        });
        self.pairs.iter_mut().for_each(Pair::receive);
    }

    fn carry_out(&mut self, step: Move) {
        let is_it = |port: &RigPort| port.queue(0) == step.queue;
        let port = self.pairs.iter().flat_map(|pair| pair.ports).find(is_it).expect("the guest is there");
        let IoCore(to) = step.to;
        let mut moving = self.rig.begin_move(port, 0, to);
        (0..self.clocks.len()).for_each(|_| self.rig.publish_move(&mut moving, 0));
        while let Err(still) = self.rig.end_move(moving) {
            moving = still;
            (0..self.clocks.len()).for_each(|core| self.turn(core));
        }
        self.moves.push(step);
    }

    /// Lets everything arrive. Whether it did once, whole and in order.
    pub(crate) fn finish(mut self) -> bool {
        self.pairs.iter_mut().for_each(|pair| pair.due = u64::MAX);
        for _ in 0..2 * self.pairs.len() * RING / BURST {
            (0..self.clocks.len()).for_each(|core| self.turn(core));
        }
        self.rig.totals().dropped == 0 && self.pairs.iter().all(|pair| pair.verifier.report().is_perfect(pair.sent))
    }
}

impl Pair {
    fn new(rig: &mut Rig, number: usize, core: usize, load: f64) -> Self {
        let [((from, sender), here), ((to, receiver), there)] =
            [2 * number, 2 * number + 1].map(|guest| (Guest::new(SPLIT), guest as u32));
        let ports = [(here, sender), (there, receiver)].map(|(guest, device)| {
            let port = rig.add_guest(core, [device]);
            rig.fix_station(mac(guest), port);
            port
        });
        let interval = (BURST_CYCLES as f64 / load) as u64;
        Self {
            from,
            to,
            ports,
            template: Template::new(FrameSpec::udp4(here, there, 0, 60)),
            interval,
            // Not all at once.
            due: interval * number as u64 / 8,
            asked: 0,
            sent: 0,
            waiting: 0,
            verifier: Verifier::new(),
        }
    }

    /// Sends what is due, but for what the ring has no room for.
    fn send(&mut self, now: u64) {
        while self.due <= now {
            self.due += self.interval;
            self.asked += BURST as u64;
            self.waiting -= self.from.reclaim();
            if self.waiting + BURST <= RING {
                let first = self.sent;
                let stamp = |number| Stamp { sequence: first + number, ..Stamp::default() };
                self.from.send(&mut self.template, BURST, stamp);
                self.sent += BURST as u64;
                self.waiting += BURST;
            }
        }
    }

    fn receive(&mut self) {
        let verifier = &mut self.verifier;
        self.to.receive(|frame| {
            verifier.check_received(frame);
        });
    }
}

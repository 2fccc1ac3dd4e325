//! The modelled switch: queue pairs on cores, a tick at a time. Work is fluid: packets and nanoseconds are divided at will.

use hdrhistogram::Histogram;
use scheduler::{CoreLoad, IoCore, Load, Move, Order, Outcome, PortId, QueueId, QueueLoad, Talk};

use crate::model::Model;
use crate::serving::share;

/// Longest delay that is told apart, in nanoseconds.
const LONGEST_DELAY_NS: u64 = 60_000_000_000;
/// Above this a core that keeps up counts as so busy, when it is computed how long packets wait: the wait would be endless at 1.
const FULLEST: f64 = 0.99;

pub(crate) struct Machine<'m> {
    model: &'m Model,
    partners: Vec<Option<usize>>,
    place: Vec<usize>,
    /// The queue pairs of each core.
    on: Vec<Vec<usize>>,
    pub(crate) parked: Vec<bool>,
    /// Packets waiting, by queue pair.
    backlog: Vec<f64>,
    /// How long each is unserved in the next tick, in nanoseconds.
    paused: Vec<f64>,
    /// Nanoseconds of the next tick that moves take, by core.
    spent: Vec<f64>,
    /// Nanoseconds of the next tick that packets from other cores take, by core.
    receiving: Vec<f64>,
    pub(crate) served: f64,
    pub(crate) lost: f64,
    /// Queueing delay of packets, in nanoseconds.
    pub(crate) delays: Histogram<u64>,
    /// What guests ask of each core in a tick, in parts of it.
    pub(crate) offered: Vec<f64>,
    load: Load,
    /// Whether each guest is there.
    there: Vec<bool>,
    /// The load without guests that are away, where some are.
    shown: Load,
    /// Nanoseconds of a packet of each queue pair on its core in this tick.
    costs: Vec<f64>,
    wanted: Vec<f64>,
    shares: Vec<f64>,
}

pub(crate) fn id(guest: usize) -> QueueId {
    QueueId { port: PortId(guest as u32), queue: 0 }
}

impl<'m> Machine<'m> {
    pub(crate) fn new(model: &'m Model, cores: usize, place: Vec<usize>, partners: Vec<Option<usize>>) -> Self {
        let guests = place.len();
        let mut on = vec![Vec::new(); cores];
        for (guest, core) in place.iter().enumerate() {
            on[*core].push(guest);
        }
        let capacity = model.cycles(model.tick_ns());
        let queue = |guest: usize| QueueLoad { queue: id(guest), core: IoCore(place[guest]), ..QueueLoad::default() };
        let talk = |(from, to): (usize, &Option<usize>)| Some(Talk { from: id(from), to: id((*to)?), packets: 0 });
        let load = Load {
            cores: vec![CoreLoad { capacity, ..CoreLoad::default() }; cores],
            queues: (0..guests).map(queue).collect(),
            talks: partners.iter().enumerate().filter_map(talk).collect(),
        };
        Self {
            model,
            on,
            parked: vec![false; cores],
            backlog: vec![0.0; guests],
            paused: vec![0.0; guests],
            spent: vec![0.0; cores],
            receiving: vec![0.0; cores],
            served: 0.0,
            lost: 0.0,
            delays: Histogram::new_with_max(LONGEST_DELAY_NS, 2).expect("two digits up to a minute are a valid range"),
            offered: vec![0.0; cores],
            load,
            there: vec![true; guests],
            shown: Load::default(),
            costs: vec![0.0; guests],
            wanted: Vec::new(),
            shares: Vec::new(),
            partners,
            place,
        }
    }

    /// Packets that wait.
    #[cfg(test)]
    fn waiting(&self) -> f64 {
        self.backlog.iter().sum()
    }

    /// The core of the guest that this one sends to, if it is another.
    fn crosses(&self, guest: usize) -> Option<usize> {
        let partner = self.partners[guest].filter(|partner| self.there[*partner])?;
        let core = self.place[partner];
        (core != self.place[guest]).then_some(core)
    }

    /// Lets a tick pass in which guests send `packets`; returns what the switch would measure.
    pub(crate) fn tick(&mut self, packets: &[f64]) -> &Load {
        self.note_offered(packets);
        let receiving = std::mem::replace(&mut self.receiving, vec![0.0; self.on.len()]);
        for (core, received) in receiving.into_iter().enumerate() {
            self.serve(core, packets, received);
        }
        self.paused.fill(0.0);
        let mut talks = self.load.talks.iter_mut();
        for (guest, partner) in self.partners.iter().enumerate() {
            if partner.is_some()
                && let Some(talk) = talks.next()
            {
                talk.packets = self.load.queues[guest].packets;
            }
        }
        self.shown()
    }

    /// The load of those that are there.
    fn shown(&mut self) -> &Load {
        let Self { load, shown, there, .. } = self;
        if there.iter().all(|there| *there) {
            return load;
        }
        let is_there = |queue: QueueId| there[queue.port.0 as usize];
        shown.cores.clone_from(&load.cores);
        shown.queues.clear();
        shown.queues.extend(load.queues.iter().filter(|queue| is_there(queue.queue)));
        shown.talks.clear();
        shown.talks.extend(load.talks.iter().filter(|talk| is_there(talk.from) && is_there(talk.to)));
        shown
    }

    /// How many there are, those that are away too.
    pub(crate) fn guests(&self) -> usize {
        self.place.len()
    }

    pub(crate) fn is_there(&self, guest: usize) -> bool {
        self.there[guest]
    }

    /// Where those are that are there.
    pub(crate) fn placed(&self) -> Vec<(QueueId, IoCore)> {
        let there = (0..self.place.len()).filter(|guest| self.there[*guest]);
        there.map(|guest| (id(guest), IoCore(self.place[guest]))).collect()
    }

    /// A guest goes. What waits in its ring is never served.
    pub(crate) fn leave(&mut self, guest: usize) {
        self.there[guest] = false;
        self.on[self.place[guest]].retain(|other| *other != guest);
        self.lost += std::mem::take(&mut self.backlog[guest]);
        (self.load.queues[guest].cycles, self.load.queues[guest].packets) = (0, 0);
    }

    /// A guest comes, to a core.
    pub(crate) fn arrive(&mut self, guest: usize, core: IoCore) {
        self.there[guest] = true;
        self.on[core.0].push(guest);
        self.place[guest] = core.0;
        self.load.queues[guest].core = core;
    }

    fn note_offered(&mut self, packets: &[f64]) {
        let tick = self.model.tick_ns();
        self.offered.fill(0.0);
        for (guest, packets) in packets.iter().enumerate() {
            let other = self.crosses(guest);
            self.costs[guest] = self.model.packet_ns + if other.is_some() { self.model.send_ns } else { 0.0 };
            self.offered[self.place[guest]] += packets * self.costs[guest] / tick;
            if let Some(other) = other {
                self.offered[other] += packets * self.model.receive_ns / tick;
            }
        }
    }

    fn serve(&mut self, core: usize, packets: &[f64], received: f64) {
        let tick = self.model.tick_ns();
        let besides = (received + std::mem::take(&mut self.spent[core])).min(tick);
        let queues = std::mem::take(&mut self.on[core]);
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.clear();
        for &guest in &queues {
            // What does not fit while it is unserved is lost.
            let meanwhile = packets[guest] * (self.paused[guest] / tick).min(1.0);
            let lost = (self.backlog[guest] + meanwhile - self.model.ring).clamp(0.0, meanwhile);
            self.lost += lost;
            self.delay(self.paused[guest], meanwhile - lost);
            wanted.push((self.backlog[guest] + packets[guest] - lost) * self.costs[guest]);
        }
        let mut shares = std::mem::take(&mut self.shares);
        share(tick - besides, &wanted, &mut shares);
        let busy = (besides + shares.iter().sum::<f64>()).min(tick);
        let ratio = (busy / tick).min(FULLEST);
        let usual = self.model.burst * self.model.packet_ns * ratio / (1.0 - ratio) / 2.0;
        let (mut oldest, mut in_time) = (0.0_f64, 0.0);
        for ((&guest, wanted), share) in queues.iter().zip(&wanted).zip(&shares) {
            let cost = self.costs[guest];
            let (served, left) = (share / cost, (wanted - share) / cost);
            let before = self.backlog[guest];
            self.backlog[guest] = left.min(self.model.ring);
            self.lost += left - self.backlog[guest];
            self.served += served;
            if left > 0.0 {
                let a_packet = if served > 0.0 { tick / served } else { tick };
                oldest = oldest.max(self.backlog[guest] * a_packet);
                self.delay(usual + (before + self.backlog[guest]) / 2.0 * a_packet, served);
            } else {
                in_time += served;
            }
            if let Some(other) = self.crosses(guest) {
                self.receiving[other] += served * self.model.receive_ns;
            }
            self.load.queues[guest].cycles = self.model.cycles(*share);
            self.load.queues[guest].packets = served as u64;
        }
        self.delay(usual, in_time);
        let of = &mut self.load.cores[core];
        (of.busy, of.oldest_ns, of.parked) = (self.model.cycles(busy), oldest as u64, self.parked[core]);
        (self.on[core], self.wanted, self.shares) = (queues, wanted, shares);
    }

    fn delay(&mut self, ns: f64, packets: f64) {
        if packets >= 1.0 {
            self.delays.saturating_record_n(ns as u64, packets as u64);
        }
    }

    /// Carries out an order.
    pub(crate) fn carry_out(&mut self, order: Order) -> Outcome {
        match order {
            Order::Move(step) => return self.hand_over(step),
            Order::Park(core) if !self.on[core.0].is_empty() => {
                return Outcome::Failed { reason: format!("{core} has queue pairs") };
            }
            Order::Park(core) => self.parked[core.0] = true,
            Order::Wake(core) => self.parked[core.0] = false,
        }
        Outcome::Done { pause_ns: 0 }
    }

    fn hand_over(&mut self, Move { queue, from, to }: Move) -> Outcome {
        let guest = queue.port.0 as usize;
        let here = self.there.get(guest) == Some(&true) && self.place[guest] == from.0;
        let known = here && self.parked.get(to.0) == Some(&false);
        if !known {
            return Outcome::Failed { reason: format!("{queue} is not on {from}, or {to} sleeps") };
        }
        self.on[from.0].retain(|other| *other != guest);
        self.on[to.0].push(guest);
        self.place[guest] = to.0;
        self.load.queues[guest].core = to;
        self.paused[guest] += self.model.pause_ns;
        self.spent[from.0] += self.model.move_ns;
        self.spent[to.0] += self.model.move_ns;
        Outcome::Done { pause_ns: self.model.pause_ns as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: f64 = 40_000.0;

    fn machine(model: &Model) -> Machine<'_> {
        Machine::new(model, 2, vec![0, 0, 1], vec![Some(2), None, None])
    }

    #[test]
    fn every_packet_is_served_waits_or_is_lost() {
        let model = Model::default();
        let mut machine = machine(&model);
        for _ in 0..10 {
            machine.tick(&[PLENTY, 1000.0, 0.0]);
        }
        let total = machine.served + machine.lost + machine.waiting();
        assert!((total - 10.0 * (PLENTY + 1000.0)).abs() < 1e-3, "{total}");
        assert!(machine.lost > 0.0 && (machine.waiting() - model.ring).abs() < 1e-6, "the small one has all it wants");
    }

    #[test]
    fn who_crosses_costs_both_cores() {
        let model = Model::default();
        let mut machine = machine(&model);
        machine.tick(&[1000.0, 0.0, 0.0]);
        let load = machine.tick(&[1000.0, 0.0, 0.0]).clone();
        let crossing = 1000.0 * (model.packet_ns + model.send_ns);
        assert_eq!(load.cores[0].busy, model.cycles(crossing));
        assert_eq!(load.cores[1].busy, model.cycles(1000.0 * model.receive_ns));
        assert_eq!(load.talks, [Talk { from: id(0), to: id(2), packets: 1000 }]);
        machine.carry_out(Order::Move(Move { queue: id(2), from: IoCore(1), to: IoCore(0) }));
        machine.tick(&[0.0; 3]);
        machine.tick(&[0.0; 3]);
        let load = machine.tick(&[1000.0, 0.0, 0.0]);
        assert_eq!(load.cores[0].busy, model.cycles(1000.0 * model.packet_ns));
    }

    #[test]
    fn a_move_costs_its_pause_and_its_work() {
        let model = Model { pause_ns: 50_000.0, ..Model::default() };
        let mut machine = machine(&model);
        let step = Move { queue: id(1), from: IoCore(0), to: IoCore(1) };
        assert_eq!(machine.carry_out(Order::Move(step)), Outcome::Done { pause_ns: model.pause_ns as u64 });
        let load = machine.tick(&[0.0; 3]);
        assert_eq!(load.cores.iter().map(|core| core.busy).collect::<Vec<_>>(), [model.cycles(model.move_ns); 2]);
        assert!(matches!(machine.carry_out(Order::Move(step)), Outcome::Failed { .. }));
        // 35 packets in a microsecond are more than the ring holds in 50.
        machine.carry_out(Order::Move(Move { queue: id(1), from: IoCore(1), to: IoCore(0) }));
        machine.tick(&[0.0, 34_000.0, 0.0]);
        assert!((machine.lost - (340.0 - model.ring)).abs() < 1e-6, "{}", machine.lost);
    }

    #[test]
    fn who_is_away_is_not_shown_and_costs_nothing() {
        let model = Model::default();
        let mut machine = machine(&model);
        machine.tick(&[PLENTY, 0.0, 0.0]);
        machine.leave(0);
        let before = machine.served + machine.lost;
        assert!((before - PLENTY).abs() < 1e-3 && machine.waiting() == 0.0, "{before}");
        machine.tick(&[0.0; 3]);
        let load = machine.tick(&[0.0; 3]).clone();
        assert_eq!(load.queues.iter().map(|queue| queue.queue).collect::<Vec<_>>(), [id(1), id(2)]);
        assert!(load.talks.is_empty() && load.cores.iter().all(|core| core.busy == 0), "{load:?}");
        let gone = Order::Move(Move { queue: id(0), from: IoCore(0), to: IoCore(1) });
        assert!(matches!(machine.carry_out(gone), Outcome::Failed { .. }));
        machine.arrive(0, IoCore(1));
        assert_eq!(machine.placed(), [(id(0), IoCore(1)), (id(1), IoCore(0)), (id(2), IoCore(1))]);
        let load = machine.tick(&[1000.0, 0.0, 0.0]);
        assert_eq!(load.cores[1].busy, model.cycles(1000.0 * model.packet_ns), "its partner is on its core");
        assert_eq!(load.queues.len(), 3);
    }

    #[test]
    fn a_core_is_parked_when_it_is_empty() {
        let model = Model::default();
        let mut machine = machine(&model);
        assert!(matches!(machine.carry_out(Order::Park(IoCore(1))), Outcome::Failed { .. }));
        machine.carry_out(Order::Move(Move { queue: id(2), from: IoCore(1), to: IoCore(0) }));
        machine.carry_out(Order::Park(IoCore(1)));
        assert!(machine.tick(&[0.0; 3]).cores[1].parked);
        let back = Order::Move(Move { queue: id(2), from: IoCore(0), to: IoCore(1) });
        assert!(matches!(machine.carry_out(back), Outcome::Failed { .. }));
        machine.carry_out(Order::Wake(IoCore(1)));
        assert!(matches!(machine.carry_out(back), Outcome::Done { .. }));
    }
}

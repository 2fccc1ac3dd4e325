//! A machine that does what it is told: queue pairs with a demand, on cores that serve it as far as they can.

use scheduler::{
    Brought, Config, CoreLoad, IoCore, Load, Order, Outcome, QueueId, QueueLoad, Scheduler, Talk, Topology,
};

use super::{CAPACITY, id};

/// Packets a tick of a guest for each percent of a core: a packet has 1,000 cycles.
const PACKETS: u64 = 100;

pub(crate) struct Guest {
    pub(crate) core: usize,
    /// Percent of a core.
    pub(crate) demand: u64,
    /// What it keeps of earlier ticks, in percent of a core's tick.
    pub(crate) waiting: u64,
    pub(crate) pinned: bool,
    pub(crate) node: Option<u16>,
    /// What comes for it from NICs, in percent of a core; what a core has no time for is lost.
    pub(crate) receives: u64,
    /// Whom it sends to.
    pub(crate) talks: Option<usize>,
    /// How much more it costs on this core, in percent: what no model knows.
    pub(crate) dislikes: Option<(usize, u64)>,
}

pub(crate) struct Machine {
    pub(crate) guests: Vec<Guest>,
    pub(crate) parked: Vec<bool>,
    /// What each core does for uplinks, in percent of it. A core that parks leaves that to the first that is awake.
    pub(crate) besides: Vec<u64>,
    /// Where what comes for a guest from NICs is received: on this core, or on the guest's own, by a rule.
    pub(crate) unsteered: Option<usize>,
    /// What each core does not get of its CPU's time, in percent: in even and in odd ticks.
    pub(crate) lacks: Vec<[u64; 2]>,
    /// How much a guest keeps that it could not send, in percent of a core's tick.
    pub(crate) keeps: u64,
    /// Cycles of a packet that crosses, on the sending core and on the receiving one, more than on one core.
    pub(crate) crossing: u64,
    pub(crate) scheduler: Scheduler,
    /// Every order, with the tick before which it was given.
    pub(crate) orders: Vec<(u64, Order)>,
    /// Orders that fail.
    pub(crate) fails: fn(&Order) -> bool,
    pub(crate) ticks: u64,
    /// What a move is said to have taken.
    pub(crate) pause_ns: u64,
}

impl Guest {
    fn wants(&self) -> u64 {
        self.demand + self.waiting
    }
}

impl Machine {
    /// Guests as (core, percent of a core).
    pub(crate) fn new(cores: usize, guests: &[(usize, u64)], config: Config) -> Self {
        Self::on(Topology::flat(cores), guests, config)
    }

    pub(crate) fn on(topology: Topology, guests: &[(usize, u64)], config: Config) -> Self {
        let guest = |&(core, demand): &(usize, u64)| Guest {
            core,
            demand,
            waiting: 0,
            pinned: false,
            node: None,
            receives: 0,
            talks: None,
            dislikes: None,
        };
        Self {
            guests: guests.iter().map(guest).collect(),
            parked: vec![false; topology.cpus.len()],
            besides: vec![0; topology.cpus.len()],
            unsteered: None,
            lacks: vec![[0; 2]; topology.cpus.len()],
            keeps: 0,
            crossing: 150,
            scheduler: Scheduler::new(config, topology),
            orders: Vec::new(),
            fails: |_| false,
            ticks: 0,
            pause_ns: 20_000,
        }
    }

    /// The core that a guest's packets cross to, if they do.
    fn crosses(&self, guest: &Guest) -> Option<usize> {
        guest.talks.map(|to| self.guests[to].core).filter(|core| *core != guest.core)
    }

    fn demands(&self) -> Vec<u64> {
        let demand = |guest: &Guest| {
            let more = guest.dislikes.filter(|(core, _)| *core == guest.core).map_or(0, |(_, percent)| percent);
            let crossing = self.crosses(guest).map_or(0, |_| guest.wants() * PACKETS * self.crossing);
            CAPACITY / 10_000 * guest.wants() * (100 + more) + crossing
        };
        self.guests.iter().map(demand).collect()
    }

    /// Each queue pair of a core that has too much to do gets the same part of what it wants.
    pub(crate) fn load(&mut self) -> Load {
        let demands = self.demands();
        let cores = self.parked.len();
        let mut wanted: Vec<u64> = self.besides.iter().map(|percent| CAPACITY / 100 * percent).collect();
        for (index, guest) in self.guests.iter().enumerate() {
            wanted[guest.core] += demands[index];
            wanted[self.unsteered.unwrap_or(guest.core)] += CAPACITY / 100 * guest.receives;
            if let Some(core) = self.crosses(guest) {
                wanted[core] += guest.wants() * PACKETS * self.crossing;
            }
        }
        let capacity = |core: usize| CAPACITY / 100 * (100 - self.lacks[core][(self.ticks % 2) as usize]);
        let share = |core: usize| (capacity(core) as f64 / wanted[core].max(1) as f64).min(1.0);
        let packets = |guest: &Guest| ((guest.wants() * PACKETS) as f64 * share(guest.core)) as u64;
        let brought = |guest: &Guest| match self.unsteered {
            Some(_) => Brought::default(),
            None => {
                let part = guest.receives as f64 * share(guest.core);
                Brought { cycles: (CAPACITY as f64 / 100.0 * part) as u64, packets: (PACKETS as f64 * part) as u64 }
            }
        };
        let queue = |(index, guest): (usize, &Guest)| QueueLoad {
            queue: id(index as u32),
            core: IoCore(guest.core),
            pinned: guest.pinned,
            cycles: (demands[index] as f64 * share(guest.core)) as u64 + brought(guest).cycles,
            packets: packets(guest) + brought(guest).packets,
            brought: brought(guest),
            node: guest.node,
            ..QueueLoad::default()
        };
        let core = |core: usize| CoreLoad {
            busy: wanted[core].min(capacity(core)),
            capacity: capacity(core),
            oldest_ns: if wanted[core] > capacity(core) { 1_000_000 } else { 0 },
            parked: self.parked[core],
        };
        let talk = |(index, guest): (usize, &Guest)| {
            Some(Talk { from: id(index as u32), to: id(guest.talks? as u32), packets: packets(guest) })
        };
        let load = Load {
            cores: (0..cores).map(core).collect(),
            queues: self.guests.iter().enumerate().map(queue).collect(),
            talks: self.guests.iter().enumerate().filter_map(talk).collect(),
        };
        let waits = |guest: &Guest| ((guest.wants() as f64 * (1.0 - share(guest.core))) as u64).min(self.keeps);
        let waiting: Vec<u64> = self.guests.iter().map(waits).collect();
        self.guests.iter_mut().zip(waiting).for_each(|(guest, waiting)| guest.waiting = waiting);
        load
    }

    /// Lets so many ticks pass; returns the orders of them.
    pub(crate) fn run(&mut self, ticks: u64) -> Vec<Order> {
        let first = self.orders.len();
        for _ in 0..ticks {
            self.ticks += 1;
            let load = self.load();
            self.scheduler.tick(&load);
            self.carry_out_all();
        }
        self.orders[first..].iter().map(|(_, order)| *order).collect()
    }

    /// Lets up to so many ticks pass that are all like the first, until there is something to do, and does it: told of them at once or one by one.
    pub(crate) fn run_alike(&mut self, ticks: u32, at_once: bool) {
        self.ticks += 1;
        let load = self.load();
        if at_once {
            self.scheduler.ticks(&load, ticks);
        } else {
            for _ in 0..ticks {
                self.scheduler.tick(&load);
                if self.scheduler.has_orders() {
                    break;
                }
            }
        }
        self.carry_out_all();
    }

    fn carry_out_all(&mut self) {
        while let Some(order) = self.scheduler.next_order() {
            assert_eq!(self.scheduler.next_order(), None, "one at a time");
            self.orders.push((self.ticks, order));
            let outcome = self.carry_out(order);
            self.scheduler.finished(outcome);
        }
    }

    fn carry_out(&mut self, order: Order) -> Outcome {
        if (self.fails)(&order) {
            return Outcome::Failed { reason: "it would not".to_owned() };
        }
        match order {
            Order::Move(step) => {
                let guest = &mut self.guests[step.queue.port.0 as usize];
                assert!(!guest.pinned && guest.core == step.from.0 && !self.parked[step.to.0], "{step:?}");
                guest.core = step.to.0;
            }
            Order::Park(core) => {
                assert!(self.guests.iter().all(|guest| guest.core != core.0), "{core} is not empty");
                self.parked[core.0] = true;
                let first = self.parked.iter().position(|parked| !parked).expect("one is awake");
                self.besides[first] += std::mem::take(&mut self.besides[core.0]);
            }
            Order::Wake(core) => self.parked[core.0] = false,
        }
        Outcome::Done { pause_ns: self.pause_ns }
    }

    /// What each core would have to do, in percent.
    pub(crate) fn wanted(&self) -> Vec<u64> {
        let on = |core| {
            self.guests.iter().filter(move |guest| guest.core == core).map(|guest| guest.demand + guest.receives)
        };
        (0..self.parked.len()).map(|core| on(core).sum()).collect()
    }

    pub(crate) fn core_of(&self, queue: QueueId) -> usize {
        self.guests[queue.port.0 as usize].core
    }
}

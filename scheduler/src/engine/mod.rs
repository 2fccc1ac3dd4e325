//! The scheduler: fed one [`Load`] a tick, it gives orders, one at a time, and is told what came of each.
//!
//! ```text
//! tick(load)        what the last tick was like; after all orders of the tick before were carried out
//! next_order()      until there is none: carry it out, then
//! finished(outcome) say what came of it
//! ```
//!
//! It counts ticks and knows no other time.

mod config;
mod elastic;
mod history;
mod holds;
mod log;
mod planning;
mod price;
mod settings;
mod steps;
mod watch;

pub use config::{Config, Elastic, Patience};
pub use log::{Decision, What, Why};
pub use watch::Gains;

use std::collections::VecDeque;

use crate::ovs::AutoLoadBalance;
use crate::placement::{Demand, PlaceError, Plan, Reason, Rule, Site, place_by};
use crate::{Detector, Hopeless, IoCore, Load, Move, Policy, QueueId, Topology};
use history::{Changes, History, Over};
use holds::Holds;
use log::Log;
use steps::Step;
use watch::Watch;

/// A new queue pair counts as so many millionths of a core where no other says what is usual.
const UNKNOWN_LOAD: u64 = 1000;
/// Over how long OVS looks back.
const OVS_WINDOW_NS: u64 = 60_000_000_000;

/// What the switch has to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// Hand a queue pair over.
    Move(Move),
    /// Put a core to sleep that has no queue pairs left; its uplink queues go to others first.
    Park(IoCore),
    /// Wake a core.
    Wake(IoCore),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done {
        /// How long the queue pair was unserved, in nanoseconds; 0 for cores.
        pause_ns: u64,
    },
    /// It was not: everything is as before.
    Failed {
        /// Why.
        reason: String,
    },
}

/// How things stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Who decides.
    pub policy: Policy,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Ticks seen.
    pub tick: u64,
    /// Cores that are saturated.
    pub saturated: Vec<IoCore>,
    /// Cores that sleep.
    pub parked: Vec<IoCore>,
    /// Steps whose effect has not been judged yet.
    pub settling: usize,
    /// Queue pairs moved by order, those moved back included.
    pub moves: u64,
    /// Orders that failed.
    pub failed: u64,
    /// Moves back.
    pub rolled_back: u64,
    /// What its steps gained.
    pub gains: Gains,
    /// What cannot be fixed, as of now.
    pub hopeless: Option<Hopeless>,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Scheduler {
    config: Config,
    topology: Topology,
    tick: u64,
    paused: bool,
    detector: Detector,
    history: History,
    holds: Holds,
    log: Log,
    /// What is to be done, in this order.
    steps: VecDeque<Step>,
    /// Cores to be parked or woken, before that.
    power: VecDeque<(Order, Why)>,
    /// The order that is being carried out, and its decision's number.
    outstanding: Option<(Order, u64)>,
    watches: Vec<Watch>,
    planning: planning::State,
    price: price::Price,
    elastic: elastic::State,
    auto: Option<AutoLoadBalance>,
    /// Whose turn it is to get a new queue pair.
    turn: usize,
    moves: u64,
    failed: u64,
    rolled_back: u64,
    gains: Gains,
}

impl Scheduler {
    /// For the I/O cores of a machine, all of them awake.
    #[must_use]
    pub fn new(config: Config, topology: Topology) -> Self {
        let config = config.checked();
        let (auto, window) = (settings::auto_of(&config), settings::window_of(&config));
        Self {
            tick: 0,
            paused: false,
            detector: Detector::new(topology.cpus.len(), config.thresholds),
            history: History::new(config.ticks(window)),
            holds: Holds::default(),
            log: Log::new(config.decisions),
            steps: VecDeque::new(),
            power: VecDeque::new(),
            outstanding: None,
            watches: Vec::new(),
            planning: planning::State::default(),
            price: price::Price::default(),
            elastic: elastic::State::default(),
            auto,
            turn: 0,
            moves: 0,
            failed: 0,
            rolled_back: 0,
            gains: Gains::default(),
            config,
            topology,
        }
    }

    /// Takes what a tick was like. Has to be called once a tick, after the orders of the tick before were carried out.
    pub fn tick(&mut self, load: &Load) {
        let changes = self.history.update(load);
        self.decide(load, changes);
    }

    /// Takes so many ticks that were all like this, as [`tick`](Self::tick) would one after the other, up to the first after which there is something
    /// to do. Of queue pairs that are silent only the first costs anything.
    pub fn ticks(&mut self, load: &Load, count: u32) {
        self.tick(load);
        for _ in 1..count {
            if self.has_orders() {
                return;
            }
            self.history.repeat(load);
            self.decide(load, Changes::default());
        }
    }

    /// Decides what has to be done, as of a tick that the history has.
    fn decide(&mut self, load: &Load, Changes { set, moved }: Changes) {
        self.tick += 1;
        self.detector.tick(&load.cores);
        if set || !moved.is_empty() {
            self.planning.changed();
        }
        if set {
            let queues = &self.history.queues;
            self.holds.keep(|queue| queues.iter().any(|known| known.last.queue == queue));
        }
        for queue in moved {
            self.holds.hold(queue, self.tick + self.config.ticks(self.config.patience.operator_hold_ns));
        }
        if self.holds.look(self.tick, self.config.ticks(planning::SOON_NS), &self.history) {
            self.planning.changed();
        }
        self.judge();
        if self.paused || self.outstanding.is_some() {
            return;
        }
        if self.config.policy.reacts() {
            self.react();
        } else if self.config.policy.as_ovs().is_some() {
            self.as_ovs_would(set && self.tick > 1);
        }
    }

    /// Whether there is something to do, as far as is known before it is asked for. Also what is left of a step while it is paused.
    #[must_use]
    pub fn has_orders(&self) -> bool {
        !self.power.is_empty() || !self.steps.is_empty()
    }

    /// The next thing to do, if there is any. `None` until the last one is [`finished`](Self::finished).
    pub fn next_order(&mut self) -> Option<Order> {
        if self.outstanding.is_some() {
            return None;
        }
        let (order, number) = self.next_power().or_else(|| self.next_move())?;
        self.outstanding = Some((order, number));
        Some(order)
    }

    /// Says what came of the last order.
    pub fn finished(&mut self, outcome: Outcome) {
        let Some((order, number)) = self.outstanding.take() else { return };
        if let Some(decision) = self.log.get_mut(number) {
            match &outcome {
                Outcome::Done { pause_ns } => decision.pause_ns = matches!(order, Order::Move(_)).then_some(*pause_ns),
                Outcome::Failed { reason } => decision.failed = Some(reason.clone()),
            }
        }
        if let (Order::Move(_), Outcome::Done { pause_ns }) = (order, &outcome) {
            self.note_pause(*pause_ns);
        }
        let done = matches!(outcome, Outcome::Done { .. });
        self.failed += u64::from(!done);
        match order {
            Order::Move(step) => self.move_finished(step, number, done),
            Order::Park(core) | Order::Wake(core) => self.power_finished(core.0, done),
        }
        self.planning.changed();
    }

    /// Stops deciding. What was planned and not begun is forgotten; what was begun is still ended.
    pub fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            self.forget_plans();
            self.log.add(self.tick, What::Pause, Why::Operator, None);
        }
    }

    /// Goes on deciding.
    pub fn resume(&mut self) {
        if self.paused {
            self.paused = false;
            self.log.add(self.tick, What::Resume, Why::Operator, None);
        }
    }

    /// Where new queue pairs go, `present` being where all others are. They are the caller's to put there.
    ///
    /// # Errors
    /// As for [`crate::place`]; a core that sleeps is none.
    pub fn place(&mut self, present: &[(QueueId, IoCore)], demands: &[Demand]) -> Result<Plan, PlaceError> {
        let loads = self.history.loads(Over::Short);
        let site = |core: usize| Site {
            closed: self.history.is_parked(core) || self.elastic.is_closing(core),
            load: loads.get(core).map_or(0, |load| (load * 1e6) as u64),
        };
        let sites: Vec<Site> = (0..self.topology.cpus.len()).map(site).collect();
        let rule = match self.config.policy {
            Policy::Static => Rule::Fewest,
            Policy::LeastLoaded | Policy::Balance => Rule::LeastLoaded(self.usual_load()),
            _ => Rule::InTurn(self.turn),
        };
        let plan = place_by(&sites, rule, present, demands)?;
        let turns = plan.placements.iter().rev().find(|placement| placement.reason == Reason::Turn);
        self.turn = turns.map_or(self.turn, |placement| placement.core.0 + 1);
        Ok(plan)
    }

    /// What a queue pair costs on average, in millionths of a core.
    fn usual_load(&self) -> u64 {
        let queues = self.history.queues.len() as f64;
        let total: f64 = self.history.queues.iter().map(|queue| queue.short.cycles / self.history.capacity(0)).sum();
        if queues > 0.0 { UNKNOWN_LOAD.max((total / queues * 1e6) as u64) } else { UNKNOWN_LOAD }
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        let cores = || (0..self.history.cores()).map(IoCore);
        Status {
            policy: self.config.policy,
            paused: self.paused,
            tick: self.tick,
            saturated: cores().filter(|core| self.detector.is_saturated(*core)).collect(),
            parked: cores().filter(|core| self.history.is_parked(core.0)).collect(),
            settling: self.watches.len(),
            moves: self.moves,
            failed: self.failed,
            rolled_back: self.rolled_back,
            gains: self.gains,
            hopeless: self.planning.reported(),
        }
    }

    /// The last decisions, the oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.log.all()
    }

    /// Forgets what was planned and not begun. Of a step that was, the rest is still to come, or what is done of it is undone: half an exchange
    /// may be worse than none.
    fn forget_plans(&mut self) {
        let moves = matches!(self.outstanding, Some((Order::Move(_), _)));
        let begun = self.steps.front().is_some_and(|step| moves || step.has_begun());
        self.steps.truncate(usize::from(begun));
        self.power.clear();
        self.elastic.forget();
        self.planning.forget();
    }

    /// Cores that take part in no further step for now: those with a step to come or settling, given time, asleep, or to be parked.
    fn closed(&self) -> Vec<bool> {
        let mut closed: Vec<bool> = (0..self.history.cores())
            .map(|core| {
                let is_off = self.history.is_parked(core) || self.elastic.is_closing(core);
                is_off || self.planning.is_eased(core, self.tick)
            })
            .collect();
        let busy = self.steps.iter().flat_map(Step::cores).chain(self.watches.iter().flat_map(Watch::cores));
        for core in busy {
            if let Some(closed) = closed.get_mut(core) {
                *closed = true;
            }
        }
        closed
    }
}

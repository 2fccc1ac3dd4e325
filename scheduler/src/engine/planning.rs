//! When to plan, and what becomes of a plan.

use std::collections::BTreeMap;

use super::history::{Over, Queue};
use super::steps::{Kind, Step};
use super::watch::Before;
use super::{Scheduler, What, Why};
use crate::balance::{self, Balance, Planned, Settings};
use crate::ovs::{self, INTERVAL_S, Outcome as OvsOutcome};
use crate::{Hopeless, IoCore, Load, Move, Policy};

/// Once something was moved for a reason, more is moved for it if that gains this part of the gain it took to begin.
const GO_ON: f64 = 0.4;
/// Loads are evened out only by this many times as much as they vary: what comes and goes is not evened out by moving it.
const STEADY: f64 = 3.0;
/// A situation is another one if a core's load differs by this.
pub(super) const DIFFERENT: f64 = 0.1;
/// Even where nothing changes, it is planned again after so long.
const RETRY_NS: u64 = 1_000_000_000;
/// The same where there is nothing to do and no reason why: averages may not have caught up. So long is a situation another one before it is
/// taken for that.
pub(super) const SOON_NS: u64 = 100_000_000;
/// What could not be fixed is resolved once it was not so for this long.
const RESOLVED_NS: u64 = 10_000_000_000;

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Counts what changes a plan: queue pairs that come, go, or move; cores that park or wake.
    epoch: u64,
    /// There was nothing to do in this situation.
    in_vain: Option<Situation>,
    /// What cannot be fixed, as of now.
    hopeless: Option<Hopeless>,
    /// What was said that it cannot be, and in which tick it was last so.
    said: Vec<(Hopeless, u64)>,
    /// Queue pairs were moved off saturated cores, and there still are such.
    relieving: bool,
    /// Cores of steps that should have calmed the saturated one, and until when they are given time to work off what has piled up. Those that
    /// are full all the same are not given time again.
    eased: BTreeMap<usize, u64>,
    /// Loads are being evened out.
    evening: bool,
    next_look: u64,
}

#[derive(Debug, Clone)]
struct Situation {
    epoch: u64,
    saturated: Vec<usize>,
    loads: Vec<f64>,
    retry: u64,
}

impl State {
    pub(super) fn changed(&mut self) {
        self.epoch += 1;
    }

    /// Nothing is planned any more: what cannot be fixed is found out anew.
    pub(super) fn forget(&mut self) {
        self.hopeless = None;
        self.in_vain = None;
        self.relieving = false;
        self.eased.clear();
        self.evening = false;
        self.changed();
    }

    /// The cores of a step are given time until then, if they were not before.
    pub(super) fn ease(&mut self, cores: impl Iterator<Item = usize>, until: u64) {
        for core in cores {
            self.eased.entry(core).or_insert(until);
        }
    }

    /// The step did not help: they are not.
    pub(super) fn press(&mut self, cores: impl Iterator<Item = usize>) {
        for core in cores {
            self.eased.entry(core).and_modify(|until| *until = 0);
        }
    }

    /// Whether a core is given time.
    pub(super) fn is_eased(&self, core: usize, tick: u64) -> bool {
        self.eased.get(&core).is_some_and(|until| tick < *until)
    }

    pub(super) fn reported(&self) -> Option<Hopeless> {
        self.hopeless
    }
}

/// Whether two reasons say the same: figures aside.
fn same(one: &Hopeless, other: &Hopeless) -> bool {
    match (one, other) {
        (Hopeless::Queue { queue, .. }, Hopeless::Queue { queue: other, .. }) => queue == other,
        (Hopeless::Pinned { core }, Hopeless::Pinned { core: other })
        | (Hopeless::Held { core }, Hopeless::Held { core: other })
        | (Hopeless::Stuck { core, .. }, Hopeless::Stuck { core: other, .. }) => core == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

impl Scheduler {
    /// What the policies do that react to saturation.
    pub(super) fn react(&mut self) {
        let saturated: Vec<usize> =
            (0..self.history.cores()).filter(|core| self.detector.is_saturated(IoCore(*core))).collect();
        if saturated.is_empty() {
            self.planning.relieving = false;
            self.planning.eased.retain(|_, until| self.tick < *until);
            self.planning.in_vain = None;
            self.planning.hopeless = None;
            self.even_out();
            self.park();
        } else {
            self.cancel_parking();
            self.relieve(saturated);
        }
    }

    fn relieve(&mut self, saturated: Vec<usize>) {
        let closed = self.closed();
        let loads = self.history.loads(Over::Short);
        let pressing = self.pressing();
        self.planning.eased.retain(|core, until| self.tick < *until || loads[*core] >= pressing);
        let presses = |core: &usize| !closed[*core] && loads[*core] >= pressing;
        let pressed: Vec<usize> = saturated.iter().copied().filter(presses).collect();
        if pressed.is_empty() || self.is_in_vain(&saturated, &loads) {
            return;
        }
        let begin = self.config.balance.gain;
        let gain = if self.planning.relieving { begin * GO_ON } else { begin };
        let (core, plan) = self.plan_first(gain, &closed, &pressed);
        let in_flight = !self.steps.is_empty() || !self.watches.is_empty();
        let too_full = self.config.elastic.is_some_and(|elastic| plan.after > elastic.wake_above);
        let wakes = (too_full || plan.moves.is_empty()) && self.wake(core);
        if !plan.moves.is_empty() {
            self.planning.relieving = true;
            self.planning.hopeless = None;
            self.queue_disjoint(&plan, Why::Saturated, |core| loads[core] >= pressing);
        } else if !wakes && !in_flight {
            self.give_up(saturated, loads, plan.hopeless);
        }
    }

    /// The load from which on a saturated core is relieved. It stays saturated for a while after it has got less to do.
    pub(super) fn pressing(&self) -> f64 {
        (self.config.thresholds.busy + self.config.thresholds.calm) / 2.0
    }

    fn is_in_vain(&self, saturated: &[usize], loads: &[f64]) -> bool {
        self.planning.in_vain.as_ref().is_some_and(|known| {
            known.epoch == self.planning.epoch
                && known.saturated == saturated
                && self.tick < known.retry
                && known.loads.iter().zip(loads).all(|(then, now)| (then - now).abs() < DIFFERENT)
        })
    }

    /// Remembers that nothing helps here, and says why, once.
    fn give_up(&mut self, saturated: Vec<usize>, loads: Vec<f64>, why: Option<Hopeless>) {
        if let Some(hopeless) = why {
            self.planning.hopeless = Some(hopeless);
            if self.is_news(hopeless, &loads) {
                let core = IoCore(saturated[0]);
                self.log.add(self.tick, What::CannotFix(hopeless), Why::Saturated(core), None);
            }
        }
        let retry = self.tick + self.config.ticks(if why.is_some() { RETRY_NS } else { SOON_NS });
        let retry = self.holds.next_end(self.tick).map_or(retry, |end| retry.min(end));
        self.planning.in_vain = Some(Situation { epoch: self.planning.epoch, saturated, loads, retry });
    }

    /// Notes that this cannot be fixed. Whether that has to be said: it is not known, or was resolved meanwhile.
    fn is_news(&mut self, why: Hopeless, loads: &[f64]) -> bool {
        let (full, tick) = (self.config.balance.full, self.tick);
        let Self { history, planning, .. } = self;
        // Also of what is not the worst just now, and so not named.
        let stands = |said: &Hopeless| match *said {
            Hopeless::Queue { queue, .. } => history.queues.iter().any(|known| {
                known.last.queue == queue && known.short.cycles > full * history.capacity(known.last.core.0)
            }),
            Hopeless::Pinned { core } | Hopeless::Held { core } | Hopeless::Stuck { core, .. } => loads[core.0] > full,
            Hopeless::Cores { .. } => false,
        };
        let resolved = self.config.ticks(RESOLVED_NS);
        planning.said.retain(|(_, last)| tick - last < resolved);
        for (said, last) in &mut planning.said {
            if same(said, &why) || stands(said) {
                *last = tick;
            }
        }
        let known = planning.said.iter().any(|(said, _)| same(said, &why));
        if !known {
            planning.said.push((why, tick));
        }
        !known
    }

    /// Evens out loads that hold still, at leisure.
    fn even_out(&mut self) {
        let patience = self.config.patience;
        let every = self.config.ticks(patience.even_every_ns);
        let waits = self.tick < self.planning.next_look.max(every);
        if self.config.policy != Policy::Balance || waits || !self.steps.is_empty() || !self.watches.is_empty() {
            return;
        }
        let closed = self.closed();
        let loads = self.history.loads(Over::Long);
        let open = (0..loads.len()).filter(|core| !closed[*core]);
        let Some(fullest) = open.max_by(|a, b| loads[*a].total_cmp(&loads[*b])) else { return };
        let begin = if self.planning.evening { patience.even_gain * GO_ON } else { patience.even_gain };
        let gain = begin.max(STEADY * self.history.varies(fullest));
        let plan = if loads[fullest] < patience.even_above {
            None
        } else {
            Some(self.plan_over(Over::Long, gain, &closed, fullest)).filter(|plan| !plan.moves.is_empty())
        };
        self.planning.evening = plan.is_some();
        match plan {
            Some(plan) => self.queue_disjoint(&plan, Why::Uneven, |_| true),
            None => self.planning.next_look = self.tick + every,
        }
    }

    /// What the policy would do about the averages.
    fn plan_over(&self, over: Over, gain: f64, closed: &[bool], core: usize) -> Balance {
        let load = self.history.average(over, closed, |queue| self.holds.is_held(queue, self.tick));
        // With time, small steps are worth it; in a hurry, moves are better kept for those that gain much, and one that calms the core is enough.
        let priced = self.priced();
        let settings = match over {
            Over::Short => {
                let step = priced.step.max(gain / 2.0);
                Settings { gain, step, enough: self.config.thresholds.calm, ..priced }
            }
            Over::Long => Settings { gain, ..priced },
        };
        let plan = if self.config.policy == Policy::LeastLoaded {
            balance::one_move(&load, &self.topology, &settings, IoCore(core))
        } else {
            balance::balance(&load, &self.topology, &settings)
        };
        Balance { hopeless: plan.hopeless.map(|why| self.or_held(why, over)), ..plan }
    }

    /// The first of these cores, of which there is at least one, that a step relieves, and the plan; the first one where there is none.
    fn plan_first(&self, gain: f64, closed: &[bool], cores: &[usize]) -> (usize, Balance) {
        // Others look at all cores at once.
        let tried = if self.config.policy == Policy::LeastLoaded { cores.len() } else { 1 };
        let mut plans = cores[..tried].iter().map(|core| (*core, self.plan_over(Over::Short, gain, closed, *core)));
        let (core, plan) = plans.next().expect("one core, at least");
        let relieves = |plan: &Balance| !plan.moves.is_empty();
        if relieves(&plan) { (core, plan) } else { plans.find(|(_, plan)| relieves(plan)).unwrap_or((core, plan)) }
    }

    /// The same reason, or that it is only for a while: without the queue pairs that are held the core would not be full.
    fn or_held(&self, why: Hopeless, over: Over) -> Hopeless {
        let (Hopeless::Pinned { core } | Hopeless::Stuck { core, .. }) = why else { return why };
        let held = |queue: &&Queue| !queue.last.pinned && self.holds.is_held(queue.last.queue, self.tick);
        let held: f64 = self.history.on(core.0).filter(held).map(|queue| queue.rate(over).cycles).sum();
        let rest = self.history.loads(over)[core.0] - held / self.history.capacity(core.0);
        if held > 0.0 && rest <= self.config.balance.full { Hopeless::Held { core } } else { why }
    }

    /// What it would do now, were all cores free to take part, without doing it. For policies that do not react to load, what assigning anew
    /// would change.
    #[must_use]
    pub fn plan(&self) -> Balance {
        let closed: Vec<bool> = (0..self.history.cores()).map(|core| self.history.is_parked(core)).collect();
        let loads = self.history.loads(Over::Short);
        let fullest = (0..loads.len()).max_by(|a, b| loads[*a].total_cmp(&loads[*b])).unwrap_or(0);
        let saturated: Vec<usize> = (0..loads.len()).filter(|core| self.detector.is_saturated(IoCore(*core))).collect();
        match self.config.policy {
            Policy::Static | Policy::RoundRobin => self.as_it_is(&loads, Vec::new()),
            Policy::Balance if saturated.is_empty() => {
                self.plan_over(Over::Long, self.config.patience.even_gain, &closed, fullest)
            }
            Policy::LeastLoaded if saturated.is_empty() => self.as_it_is(&loads, Vec::new()),
            Policy::LeastLoaded | Policy::Balance => self.plan_first(self.config.balance.gain, &closed, &saturated).1,
            _ => self.as_it_is(&loads, self.assigned(&self.history.average(Over::Long, &closed, |_| false))),
        }
    }

    /// A plan of moves that nobody asked whether they gain anything.
    fn as_it_is(&self, loads: &[f64], moves: Vec<Move>) -> Balance {
        let before = loads.iter().copied().fold(0.0, f64::max);
        let mut after = loads.to_vec();
        for step in &moves {
            let queue = self.history.queues.iter().find(|queue| queue.last.queue == step.queue);
            let cycles = queue.map_or(0.0, |queue| queue.short.cycles);
            after[step.from.0] -= cycles / self.history.capacity(step.from.0);
            after[step.to.0] += cycles / self.history.capacity(step.to.0);
        }
        let steps = vec![Planned { moves: 1, gain: 0.0 }; moves.len()];
        Balance { moves, steps, before, after: after.into_iter().fold(0.0, f64::max), hopeless: None, weighed: 0 }
    }

    /// Queues those steps of a plan that `relieve` a core worth it and share no core with an earlier one: the others are planned again when these have settled.
    fn queue_disjoint(&mut self, plan: &Balance, why: fn(IoCore) -> Why, relieve: impl Fn(usize) -> bool) {
        // A core that an earlier step of the plan changes is another when its turn comes.
        let mut taken = vec![false; self.history.cores()];
        let mut rest = plan.moves.as_slice();
        for planned in &plan.steps {
            let (moves, later) = rest.split_at(planned.moves);
            rest = later;
            let cores: Vec<usize> = moves.iter().flat_map(|step| [step.from.0, step.to.0]).collect();
            if relieve(moves[0].from.0) && !cores.iter().any(|core| taken[*core]) {
                let before = Before::new(&self.history, cores.clone());
                let why = why(moves[0].from);
                self.steps.push_back(Step::new(moves.to_vec(), why, Some(planned.gain), Kind::Judged(before)));
            }
            cores.into_iter().for_each(|core| taken[core] = true);
        }
    }

    /// What OVS would do: assign anew when the queue pairs change, and balance by itself where it is asked to.
    pub(super) fn as_ovs_would(&mut self, changed: bool) {
        let mut moves = Vec::new();
        if self.auto.is_some() && self.tick.is_multiple_of(self.config.ticks(u64::from(INTERVAL_S) * 1_000_000_000)) {
            let load = self.history.take_sums();
            if let Some(OvsOutcome::Moves(balanced)) =
                self.auto.as_mut().map(|auto| auto.interval(&load, &self.topology))
            {
                moves = balanced;
            }
        }
        if changed {
            moves = self.assigned(&self.history.average(Over::Long, &[], |_| false));
        }
        let step = |step| Step::new(vec![step], Why::Assigned, None, Kind::Unconditional);
        self.steps.extend(moves.into_iter().map(step));
    }

    /// What assigning everything anew would move.
    fn assigned(&self, load: &Load) -> Vec<Move> {
        let Some((assignment, _)) = self.config.policy.as_ovs() else { return Vec::new() };
        let assigned = ovs::assign(load, &self.topology, assignment).into_iter();
        let moves = assigned.filter_map(|(queue, to)| Some(Move { queue, from: self.history.place(queue)?, to }));
        moves.filter(|step| step.from != step.to).collect()
    }
}

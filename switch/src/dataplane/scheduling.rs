//! The scheduler at work: a thread that reads the loads once a tick and carries out what [`scheduler::Scheduler`] orders.

mod decisions;
mod standing;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use scheduler::{
    Cpu, Decision, Demand, Elastic, Move, Order, Outcome, PlaceError, Plan, Policy, QueueId, Scheduler, Settings,
    Thresholds, Topology, What,
};

pub(crate) use self::decisions::DECISIONS;
use self::decisions::{kind, reason};
use self::standing::{Standing, name};
use super::fabric::Fabric;
use super::load::{LoadReader, Loads, ns};
use super::uplink_queues::Uplinks;
use crate::control::protocol::PlanReport;
use crate::snapshot::SchedulerSnapshot;

/// Decisions that are remembered.
const REMEMBERED: usize = 256;

/// How long loads are not looked at while all I/O cores sleep: so late is it seen that one which was woken is saturated.
const REST: Duration = Duration::from_millis(100);

/// The scheduler, from outside of its thread.
pub(crate) struct Scheduling {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    loads: Arc<Loads>,
    fabric: Arc<Fabric>,
    uplinks: Arc<Uplinks>,
    state: Mutex<State>,
    /// Told of an end, and of a new length of ticks.
    changed: Condvar,
}

struct State {
    scheduler: Scheduler,
    settings: config::SchedulerConfig,
    cores: config::IoCores,
    ends: bool,
    /// When decisions were made: number and time. As many as the scheduler remembers.
    times: VecDeque<(u64, SystemTime)>,
    /// How many there were, by kind and reason.
    decided: BTreeMap<(&'static str, &'static str), u64>,
}

impl Scheduling {
    /// Starts the thread.
    pub(super) fn start(
        fabric: &Arc<Fabric>,
        loads: &Arc<Loads>,
        uplinks: &Arc<Uplinks>,
        cores: &config::IoCores,
        settings: &config::SchedulerConfig,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            loads: Arc::clone(loads),
            fabric: Arc::clone(fabric),
            uplinks: Arc::clone(uplinks),
            state: Mutex::new(State::new(cores, settings)),
            changed: Condvar::new(),
        });
        let runs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("scheduler".to_owned()).spawn(move || runs.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Goes by other settings from now on.
    pub(crate) fn set(&self, settings: &config::SchedulerConfig) {
        self.shared.lock().set(settings);
        self.shared.changed.notify_all();
    }

    /// Stops moving queue pairs by itself, or goes on. Whether that changed anything.
    pub(crate) fn set_paused(&self, paused: bool) -> bool {
        let mut state = self.shared.lock();
        let before = state.scheduler.status().paused;
        state.set_paused(paused);
        before != paused
    }

    /// Where new queue pairs go.
    pub(super) fn place(&self, demands: &[Demand]) -> Result<Plan, PlaceError> {
        let present = self.shared.loads.homes();
        self.shared.lock().scheduler.place(&present, demands)
    }

    /// What it would do now, in words.
    pub(crate) fn plan(&self) -> PlanReport {
        let plan = self.shared.lock().scheduler.plan();
        let told = |step: &Move| format!("{} from {} to {}", self.shared.name(step.queue), step.from, step.to);
        PlanReport {
            moves: plan.moves.iter().map(told).collect(),
            before: plan.before,
            after: plan.after,
            cannot_fix: plan.hopeless.map(|why| why.told(|queue| self.shared.name(queue))),
        }
    }

    /// How things stand.
    pub(super) fn snapshot(&self) -> SchedulerSnapshot {
        let standing = self.shared.lock().standing();
        standing.told(&self.shared.loads.names())
    }

    /// Ends the thread; no move is under way then.
    pub(super) fn stop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(vm_ports::join(thread));
        }
    }
}

impl Drop for Scheduling {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut reader = LoadReader::new(Arc::clone(&self.loads));
        let mut next = Instant::now();
        let mut ticks = 1;
        loop {
            let mut state = self.lock();
            loop {
                if state.ends {
                    return;
                }
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            let tick = state.tick();
            // The scheduler's time is ticks: those that it slept through were all like their mean.
            state.scheduler.ticks(reader.tick(tick), ticks);
            let decided = state.note_decisions();
            drop(state);
            self.log(&decided);
            while let Some(order) = self.next_order() {
                let outcome = self.carry_out(order);
                let mut state = self.lock();
                state.scheduler.finished(outcome);
                let decided = state.note_decisions();
                drop(state);
                self.log(&decided);
            }
            self.uplinks.come_home();
            ticks = if self.fabric.sleeps() { (REST.as_micros() / tick.as_micros().max(1)).max(1) as u32 } else { 1 };
            // A tick that came late is not made up for.
            next = (next + tick * ticks).max(Instant::now() + tick / 2);
        }
    }

    fn next_order(&self) -> Option<Order> {
        let mut state = self.lock();
        let order = if state.ends { None } else { state.scheduler.next_order() };
        let decided = state.note_decisions();
        drop(state);
        self.log(&decided);
        order
    }

    fn carry_out(&self, order: Order) -> Outcome {
        match order {
            Order::Move(step) => self.carry_out_move(step),
            Order::Park(core) => {
                let parked = self.uplinks.leave(core.0) && self.fabric.park(core.0);
                done_or(parked, "the I/O core serves a queue pair or an uplink")
            }
            Order::Wake(core) => done_or(self.fabric.wake(core.0), "there is no such I/O core"),
        }
    }

    fn carry_out_move(&self, step: Move) -> Outcome {
        let queue = usize::from(step.queue.queue);
        let gone = || Outcome::Failed { reason: "the queue pair is no longer there".to_owned() };
        let Some(guest) = self.loads.guest(step.queue.port) else { return gone() };
        match guest.move_queue_from(queue, step.from.0, step.to.0) {
            Some(moved) => {
                let pause_ns = moved.pause.map_or(0, |cycles| ns(cycles, pmd_bindings::tsc_hz()));
                let name = self.name(step.queue);
                let (guest, us) = (guest.name(), pause_ns / 1000);
                tracing::info!(guest, "{name} moved from {} to {}, unserved for {us} us", step.from, step.to);
                Outcome::Done { pause_ns }
            }
            None => gone(),
        }
    }

    /// What operators call a queue pair.
    fn name(&self, queue: QueueId) -> String {
        name(queue, self.loads.guest(queue.port).as_ref().map(|guest| guest.name()))
    }

    /// Logs decisions. Not to be called with the state locked: every tick needs it, and so does the next move.
    fn log(&self, decisions: &[Decision]) {
        for decision in decisions {
            let (what, why) = (decision.what.told(|queue| self.name(queue)), decision.why);
            let guest = match decision.what {
                What::Move(step) | What::RollBack(step) => self.loads.guest(step.queue.port),
                _ => None,
            };
            // Each guest's moves are limited by themselves.
            match guest {
                Some(guest) => tracing::info!(guest = guest.name(), "scheduler: {what}: {why}"),
                None => tracing::info!("scheduler: {what}: {why}"),
            }
        }
    }
}

impl State {
    fn new(cores: &config::IoCores, settings: &config::SchedulerConfig) -> Self {
        let mut state = Self {
            scheduler: Scheduler::new(made_of(settings, cores), topology(cores)),
            settings: *settings,
            cores: cores.clone(),
            ends: false,
            times: VecDeque::new(),
            decided: BTreeMap::new(),
        };
        state.set_paused(!settings.rebalance);
        state
    }

    fn tick(&self) -> Duration {
        Duration::from_millis(self.settings.tick_ms.into())
    }

    /// Goes by other settings. Who paused it by hand has it paused until they say otherwise, or `rebalance` does.
    fn set(&mut self, settings: &config::SchedulerConfig) {
        let before = std::mem::replace(&mut self.settings, *settings);
        self.scheduler.configure(made_of(settings, &self.cores));
        if settings.rebalance != before.rebalance {
            self.set_paused(!settings.rebalance);
        }
    }

    fn set_paused(&mut self, paused: bool) {
        match paused {
            true => self.scheduler.pause(),
            false => self.scheduler.resume(),
        }
    }

    /// Notes the time of decisions that are new, and counts them; returns them, for the log.
    fn note_decisions(&mut self) -> Vec<Decision> {
        let known = self.times.back().map(|(number, _)| *number);
        let is_new = |decision: &&Decision| known.is_none_or(|known| decision.number > known);
        let mut new: Vec<Decision> = self.scheduler.decisions().rev().take_while(is_new).cloned().collect();
        new.reverse();
        let now = SystemTime::now();
        for decision in &new {
            *self.decided.entry((kind(decision), reason(decision))).or_default() += 1;
            self.times.push_back((decision.number, now));
        }
        let more = self.times.len().saturating_sub(REMEMBERED);
        self.times.drain(..more);
        new
    }

    fn standing(&self) -> Standing {
        Standing {
            status: self.scheduler.status(),
            tick_ms: self.settings.tick_ms,
            decided: by_kind(&self.decided),
            decisions: self.scheduler.decisions().cloned().collect(),
            times: self.times.iter().copied().collect(),
        }
    }
}

/// Counts of kinds and reasons, by kind and then by reason.
fn by_kind(decided: &BTreeMap<(&str, &str), u64>) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut kinds: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for ((kind, reason), count) in decided {
        kinds.entry((*kind).to_owned()).or_default().insert((*reason).to_owned(), *count);
    }
    kinds
}

fn done_or(done: bool, reason: &str) -> Outcome {
    if done { Outcome::Done { pause_ns: 0 } } else { Outcome::Failed { reason: reason.to_owned() } }
}

/// The settings in the scheduler's terms.
fn made_of(settings: &config::SchedulerConfig, cores: &config::IoCores) -> scheduler::Config {
    scheduler::Config {
        policy: policy(settings.policy),
        tick_ns: u64::from(settings.tick_ms) * 1_000_000,
        thresholds: Thresholds {
            busy: settings.busy,
            wait_ns: u64::from(settings.wait_us) * 1000,
            ..Thresholds::default()
        },
        balance: Settings { gain: settings.gain, ..Settings::default() },
        elastic: (cores.min < cores.cpus.len()).then(|| Elastic { min: cores.min, ..Elastic::default() }),
        decisions: REMEMBERED,
        ..scheduler::Config::default()
    }
}

fn policy(policy: config::Policy) -> Policy {
    match policy {
        config::Policy::Static => Policy::Static,
        config::Policy::RoundRobin => Policy::RoundRobin,
        config::Policy::LeastLoaded => Policy::LeastLoaded,
        config::Policy::Balance => Policy::Balance,
        config::Policy::OvsCycles => Policy::OvsCycles,
        config::Policy::OvsGroup => Policy::OvsGroup,
        config::Policy::OvsAutoLb => Policy::OvsAutoLb,
        config::Policy::OvsAutoLbGroup => Policy::OvsAutoLbGroup,
    }
}

/// The CPUs of the I/O cores, as Linux describes them. One of which nothing is said is on node 0 and nobody's sibling.
fn topology(cores: &config::IoCores) -> Topology {
    let cpu = |cpu: &config::CpuId| {
        let folder = format!("/sys/devices/system/cpu/cpu{}", cpu.0);
        let read = |file: &str| std::fs::read_to_string(format!("{folder}/topology/{file}")).ok()?.trim().parse().ok();
        let package: Option<u32> = read("physical_package_id");
        let core: Option<u32> = read("core_id");
        let physical = package.zip(core).map_or(u32::MAX - cpu.0, |(package, core)| package << 16 | core);
        Cpu { node: node_of(&folder), physical }
    };
    Topology { cpus: cores.cpus.iter().map(cpu).collect() }
}

/// A CPU's folder has a link to its NUMA node, called `node` and its number.
fn node_of(folder: &str) -> u16 {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("node")?.parse().ok()).next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_paused_by_hand_stays_so_until_rebalance_is_changed() {
        let cores = config::IoCores { cpus: vec![config::CpuId(0), config::CpuId(1)], min: 2 };
        let mut settings = config::SchedulerConfig::default();
        let mut state = State::new(&cores, &settings);
        let is_paused = |state: &State| state.scheduler.status().paused;
        state.set_paused(true);
        settings.tick_ms = 10;
        state.set(&settings);
        assert!(is_paused(&state), "another key changed");
        settings.rebalance = false;
        state.set(&settings);
        assert!(is_paused(&state));
        settings.rebalance = true;
        state.set(&settings);
        assert!(!is_paused(&state), "it was changed");
        settings.rebalance = false;
        state.set(&settings);
        state.set_paused(false);
        settings.gain = 0.1;
        state.set(&settings);
        assert!(!is_paused(&state), "resumed by hand");
    }
}

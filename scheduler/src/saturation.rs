//! When an I/O core is saturated: it is busy nearly all of the time, *and* work waits for it.
//!
//! Neither alone says so. A core that is busy in every round may be serving each ring in time, one small burst after the other; work that waits in
//! a tick in which the core had time to spare was only bad luck, unless the core is busy in all of the next one, with work that waits: then
//! saturation began within it. So an onset is seen within two ticks, wherever in a tick it is.

use crate::IoCore;
use crate::load::CoreLoad;

/// What it takes to call a core saturated, and to stop calling it so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Busy at least this part of a tick, from 0 to 1, …
    pub busy: f64,
    /// … with work that has waited for so many nanoseconds at its end, …
    pub wait_ns: u64,
    /// … in so many ticks in a row: saturated. The first of several need not be busy all the time: work only has to wait at its end, and not before.
    pub onset_ticks: u32,
    /// Busy less than this part of a tick, which is taken to be a tenth below `busy` at most, …
    pub calm: f64,
    /// … in so many ticks in a row: no longer.
    pub calm_ticks: u32,
}

impl Default for Thresholds {
    /// Two ticks in, twenty out.
    fn default() -> Self {
        Self { busy: 0.95, wait_ns: 50_000, onset_ticks: 2, calm: 0.85, calm_ticks: 20 }
    }
}

/// How far below `busy` a core has to come for being calm, at least: between the two nothing changes.
const APART: f64 = 0.1;

impl Thresholds {
    /// The same, with `calm` below `busy`.
    #[must_use]
    pub(crate) fn apart(self) -> Self {
        Self { calm: self.calm.min(self.busy - APART), ..self }
    }
}

/// A core that became saturated, or stopped being so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The core.
    pub core: IoCore,
    /// Whether it is saturated now.
    pub saturated: bool,
}

/// Follows every core from tick to tick.
#[derive(Debug, Clone)]
pub struct Detector {
    thresholds: Thresholds,
    cores: Vec<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    saturated: bool,
    /// Ticks in a row that speak against `saturated`.
    against: u32,
    /// Whether work waited at the end of the last one.
    waited: bool,
}

impl Detector {
    /// For so many cores, none of them saturated.
    #[must_use]
    pub fn new(cores: usize, thresholds: Thresholds) -> Self {
        Self { thresholds: thresholds.apart(), cores: vec![State::default(); cores] }
    }

    /// Whether a core is saturated, as of the last tick.
    #[must_use]
    pub fn is_saturated(&self, core: IoCore) -> bool {
        self.cores.get(core.0).is_some_and(|state| state.saturated)
    }

    /// Takes one tick of every core, in the order of their indices; says which changed.
    pub fn tick(&mut self, cores: &[CoreLoad]) -> Vec<Change> {
        let thresholds = self.thresholds;
        let states = self.cores.iter_mut().zip(cores).enumerate();
        states
            .filter_map(|(index, (state, load))| state.tick(load, &thresholds).then_some((index, *state)))
            .map(|(index, state)| Change { core: IoCore(index), saturated: state.saturated })
            .collect()
    }
}

impl State {
    /// Whether it changed.
    fn tick(&mut self, load: &CoreLoad, thresholds: &Thresholds) -> bool {
        let busy = load.busy_ratio();
        let waits = load.oldest_ns >= thresholds.wait_ns;
        let waited = std::mem::replace(&mut self.waited, waits);
        let begins = waits && !waited;
        let (against, enough) = if self.saturated {
            (busy < thresholds.calm, thresholds.calm_ticks.max(1))
        } else {
            (busy >= thresholds.busy && waits, thresholds.onset_ticks.max(1))
        };
        self.against = match against {
            true => self.against + 1,
            // It may have begun within this tick, which is one of several then, but never the last.
            false if begins && !self.saturated => (enough - 1).min(1),
            false => 0,
        };
        let changes = self.against >= enough;
        if changes {
            *self = Self { saturated: !self.saturated, against: 0, ..*self };
        }
        changes
    }
}

//! What can be set, with defaults.

use crate::{Policy, Settings, Thresholds};

/// What a scheduler goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who decides.
    pub policy: Policy,
    /// Length of a tick, in nanoseconds.
    pub tick_ns: u64,
    /// When a core is saturated.
    pub thresholds: Thresholds,
    /// What moving costs and has to gain.
    pub balance: Settings,
    /// How long things are left alone.
    pub patience: Patience,
    /// Whether cores are parked.
    pub elastic: Option<Elastic>,
    /// Decisions that are remembered.
    pub decisions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            tick_ns: 5_000_000,
            thresholds: Thresholds::default(),
            balance: Settings::default(),
            patience: Patience::default(),
            elastic: None,
            decisions: 256,
        }
    }
}

impl Config {
    /// The same, with thresholds that are apart.
    pub(super) fn checked(self) -> Self {
        Self { thresholds: self.thresholds.apart(), ..self }
    }

    /// So many nanoseconds in ticks, at least one.
    pub(super) fn ticks(&self, ns: u64) -> u64 {
        ns.div_ceil(self.tick_ns.max(1)).max(1)
    }
}

/// How long things are left alone. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// From a step to when its effect is judged. Until then the cores that it touched take part in no other.
    pub settle_ns: u64,
    /// How long the cores of a step that should have calmed the saturated one are left alone: they work off what has piled up in guests, and look
    /// full meanwhile. One that is full all the same is not left alone again until it is calm.
    pub drain_ns: u64,
    /// A step is undone if it leaves the fullest core that it touched fuller than before by this part of a core, at equal packet rates.
    pub worse: f64,
    /// How long a queue pair that was moved stays. Twice as long with every further move soon after, …
    pub hold_ns: u64,
    /// … up to this.
    pub longest_hold_ns: u64,
    /// How long one stays whose move was undone. Twice as long with every further time soon after, …
    pub back_hold_ns: u64,
    /// … up to this; no longer than until its load, or that of a core of the step that was undone, is another one.
    pub longest_back_hold_ns: u64,
    /// How long one stays that an operator moved, or whose move failed.
    pub operator_hold_ns: u64,
    /// Loads are averaged over so long before uneven ones are evened out where no core is saturated, …
    pub even_window_ns: u64,
    /// … which is looked at so often, …
    pub even_every_ns: u64,
    /// … and done if it lowers the fullest core by this part of a core, and by much more than loads vary, …
    pub even_gain: f64,
    /// … and that core does at least this part of what it can.
    pub even_above: f64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            settle_ns: 10_000_000,
            drain_ns: 50_000_000,
            worse: 0.05,
            hold_ns: 1_000_000_000,
            longest_hold_ns: 300_000_000_000,
            back_hold_ns: 1_000_000_000,
            longest_back_hold_ns: 60_000_000_000,
            operator_hold_ns: 60_000_000_000,
            even_window_ns: 30_000_000_000,
            even_every_ns: 5_000_000_000,
            even_gain: 0.02,
            even_above: 0.3,
        }
    }
}

/// When cores are parked and woken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elastic {
    /// Cores that stay awake, at least; 0 is 1.
    pub min: usize,
    /// A core is parked when the others would be no busier than this on average, and none of them busier than `most`, …
    pub mean: f64,
    /// (see `mean`)
    pub most: f64,
    /// … for so long, in nanoseconds. It is woken when another saturates.
    pub after_ns: u64,
    /// A core is woken if moving queue pairs between those that are awake would leave one busier than this.
    pub wake_above: f64,
}

impl Default for Elastic {
    fn default() -> Self {
        Self { min: 1, mean: 0.6, most: 0.75, after_ns: 5_000_000_000, wake_above: 0.85 }
    }
}

//! The scheduler, and what it decided.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The scheduler.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SchedulerSnapshot {
    /// The policy's name.
    pub(crate) policy: String,
    /// Whether it does nothing by itself.
    pub(crate) paused: bool,
    /// Length of a tick, in milliseconds.
    pub(crate) tick_ms: u64,
    /// Ticks since the start.
    pub(crate) ticks: u64,
    /// I/O cores that are saturated.
    pub(crate) saturated: Vec<usize>,
    /// I/O cores that sleep.
    pub(crate) parked: Vec<usize>,
    /// Queue pairs it moved, those moved back included.
    pub(crate) moves: u64,
    /// Orders that could not be carried out.
    pub(crate) failed: u64,
    /// Queue pairs it moved back.
    pub(crate) rolled_back: u64,
    /// What its moves gained.
    #[serde(default)]
    pub(crate) gains: GainsSnapshot,
    /// Why a saturated core cannot be helped.
    pub(crate) cannot_fix: Option<String>,
    /// Decisions by [`DecisionSnapshot::kind`] and [`DecisionSnapshot::reason`], since the start.
    pub(crate) decided: BTreeMap<String, BTreeMap<String, u64>>,
    /// The last decisions, the oldest first.
    pub(crate) decisions: Vec<DecisionSnapshot>,
}

/// What moves gained, in all; those that belong together count once. Parts of an I/O core by which the fullest of those concerned is less full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GainsSnapshot {
    /// What those should have gained that have settled.
    pub(crate) expected: f64,
    /// What those of them gained that did.
    pub(crate) gained: f64,
    /// By how much the others made the fullest core fuller.
    pub(crate) lost: f64,
}

/// Something the scheduler decided. Gains are parts of an I/O core by which the fullest of those concerned is less full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DecisionSnapshot {
    /// Its number, from 0.
    pub(crate) number: u64,
    /// When it was made: milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// `move`, `roll_back`, `park`, `wake`, `cannot_fix`, `pause` or `resume`.
    pub(crate) kind: String,
    /// Why, in one word: there are few for each kind.
    #[serde(default)]
    pub(crate) reason: String,
    /// What was decided, in words.
    pub(crate) what: String,
    /// `move` and `roll_back`, while the guest is there: the same for programs.
    #[serde(default)]
    pub(crate) step: Option<StepSnapshot>,
    /// Why.
    pub(crate) why: String,
    /// What it should gain.
    pub(crate) expected_gain: Option<f64>,
    /// What it gained, once it had settled.
    pub(crate) measured_gain: Option<f64>,
    /// Microseconds in which no core served the queue pair.
    pub(crate) pause_us: Option<f64>,
    /// Why it could not be carried out.
    pub(crate) failed: Option<String>,
}

/// A queue pair that goes from one I/O core to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepSnapshot {
    /// Whose it is.
    pub(crate) guest: String,
    /// Its number in the guest.
    pub(crate) queue: u16,
    /// The I/O core it was on.
    pub(crate) from: usize,
    /// The I/O core it goes to.
    pub(crate) to: usize,
}

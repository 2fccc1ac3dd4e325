//! What `balance` is held to, against OVS's automatic load balancing in the same scenario.

use scheduler::Policy;
use serde::{Serialize, Serializer};

use crate::model::Model;
use crate::run::Measured;
use crate::scenario::Scenario;
use crate::standing;
use crate::traffic::Traffic;

/// OVS's under-served cycles divided by ours, at least: beyond those that no policy could serve.
pub const FEWER: f64 = 10.0;
/// Our moves in an hour divided by OVS's, at most.
pub const MORE_MOVES: f64 = 2.0;
/// Largest core load divided by its lower bound under steady load, at most.
pub const EVEN: f64 = 1.05;

/// What a policy came to in a scenario, over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The policy.
    #[serde(serialize_with = "name")]
    pub policy: Policy,
    /// Its runs, by seed.
    pub runs: Vec<Measured>,
}

/// A scenario with all that was tried in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Block {
    /// The scenario.
    pub scenario: Scenario,
    /// By policy.
    pub cells: Vec<Cell>,
    /// On/off: so many cycles are left unserved by any policy that moves nothing once converged, in expectation: at least.
    pub standing_cycles: Option<f64>,
    /// How `balance` did.
    pub verdict: Option<Verdict>,
}

/// How `balance` did against `ovs-auto-lb`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    /// OVS's under-served cycles divided by ours, both beyond what no policy could serve. `None`: neither has any, or only OVS has, as
    /// `only_ovs_under_serves` says.
    pub fewer: Option<f64>,
    /// The same of all of them, where there are some that no policy could serve.
    pub fewer_of_all: Option<f64>,
    /// We serve everything that can be served, and OVS does not.
    pub only_ovs_under_serves: bool,
    /// Whether under-served cycles are few enough. Reached too where neither has any.
    pub fewer_reached: bool,
    /// Whether our moves are at most twice OVS's. Where OVS makes none, only none is.
    pub moves_reached: bool,
    /// No policy can be expected to reach both: OVS moves nothing, and whoever does the same once converged leaves too much unserved. Known of on/off
    /// load alone.
    pub shown_unreachable: bool,
    /// Whether the largest core load is near its bound; `None` where the load is not steady.
    pub even_reached: Option<bool>,
}

fn name<S: Serializer>(policy: &Policy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(policy.name())
}

impl Cell {
    /// The mean over the seeds.
    #[must_use]
    pub fn mean(&self, of: impl Fn(&Measured) -> f64) -> f64 {
        self.runs.iter().map(of).sum::<f64>() / self.runs.len().max(1) as f64
    }
}

impl Block {
    /// With its verdict.
    #[must_use]
    pub fn new(scenario: Scenario, model: &Model, cells: Vec<Cell>) -> Self {
        let standing_cycles = cells.first().and_then(|cell| standing(&scenario, model, cell));
        let find = |policy| cells.iter().find(|cell: &&Cell| cell.policy == policy);
        let verdict = match (find(Policy::Balance), find(Policy::OvsAutoLb)) {
            (Some(ours), Some(theirs)) => Some(judge(&scenario, standing_cycles, ours, theirs)),
            _ => None,
        };
        Self { scenario, cells, standing_cycles, verdict }
    }
}

/// The mean over the seeds.
fn standing(scenario: &Scenario, model: &Model, cell: &Cell) -> Option<f64> {
    let of = |run: &Measured| standing::unserved(scenario, model, &Traffic::new(scenario, model, run.seed).while_on());
    let seconds: Option<Vec<f64>> = cell.runs.iter().map(of).collect();
    seconds.map(|seconds| seconds.iter().sum::<f64>() / seconds.len().max(1) as f64 * model.core_hz)
}

fn judge(scenario: &Scenario, standing: Option<f64>, ours: &Cell, theirs: &Cell) -> Verdict {
    let under = |cell: &Cell| cell.mean(|run| run.under_served_beyond_cycles).round();
    let all = |cell: &Cell| cell.mean(|run| run.under_served_cycles);
    let moves = |cell: &Cell| cell.mean(|run| run.moves_per_hour_converged);
    let (mine, other) = (under(ours), under(theirs));
    let fewer = (mine > 0.0).then(|| other / mine);
    let unservable = ours.mean(|run| run.unservable_cycles);
    let standing = standing.map_or(0.0, |cycles| cycles - unservable);
    Verdict {
        fewer,
        fewer_of_all: (unservable > 0.0).then(|| all(theirs) / all(ours)),
        only_ovs_under_serves: mine == 0.0 && other > 0.0,
        fewer_reached: fewer.is_none_or(|fewer| fewer >= FEWER),
        moves_reached: moves(ours) <= MORE_MOVES * moves(theirs),
        shown_unreachable: moves(theirs) == 0.0 && FEWER * standing > other,
        even_reached: scenario.shape.is_steady().then(|| ours.mean(|run| run.largest_to_bound) <= EVEN),
    }
}

//! What no policy can serve of a load that comes and goes, if it moves nothing.
//!
//! Guests are on with the same probability, each by itself, and ask for p while they are. Of what those on a core ask for, E[(Σ p·B − 1)⁺] is not
//! served, B being 1 for a guest that is on, and 0 for others. That is convex in the p's, and the same in whatever order they come, so that it is least
//! where all are the same: n guests that ask for m together leave at least h(n, m) = E[(m/n·K − 1)⁺], K of the n being on.
//!
//! Where a·n + b·m − u ≤ h(n, m) for all n and m that a core can have, all cores together leave at least a·(guests) + b·(what all ask for) − u·(cores),
//! whoever is where. Any a and b give a bound, and the largest is taken.

use std::iter;

use crate::model::Model;
use crate::scenario::{OFF, Scenario, Shape};

/// After so many time constants a guest is on with nearly the same probability, whatever was known of it: e⁻¹² less at most.
const FORGOTTEN: f64 = 12.0;
/// Each step leaves two thirds of where the largest bound can be.
const STEPS: usize = 50;

/// What guests leave unserved in expectation, at least, once a policy that knows all but the future stops moving them: in seconds of a core, of a whole
/// run in which they ask for so many parts of a core while they are on. `None` where load does not come and go by itself.
pub(crate) fn unserved(scenario: &Scenario, model: &Model, while_on: &[f64]) -> Option<f64> {
    if scenario.shape != Shape::OnOff {
        return None;
    }
    let constant = scenario.on_s * OFF / (1.0 + OFF);
    let seconds = scenario.seconds - scenario.converged_s - FORGOTTEN * constant;
    let on = (1.0 - (-FORGOTTEN).exp()) / (1.0 + OFF);
    let left = at_least(while_on, on, scenario.cores) - late(scenario, model);
    Some(left.max(0.0) * seconds.max(0.0))
}

/// What waits in rings while a core has too much to do, and is served when it has less, which begins when one of its guests goes off: no more than
/// full rings of all guests each time, in parts of a core.
fn late(scenario: &Scenario, model: &Model) -> f64 {
    let guests = scenario.guests as f64;
    let ends_a_second = guests / (scenario.on_s * (1.0 + OFF));
    ends_a_second * guests * model.ring * model.packet_ns / 1e9
}

/// The same of any time of guests that are on with this probability: in parts of a core.
fn at_least(while_on: &[f64], on: f64, cores: usize) -> f64 {
    let corners = corners(while_on, on);
    let (guests, all) = (while_on.len() as f64, while_on.iter().sum::<f64>());
    let bound = |a: f64, b: f64| {
        let u = corners.iter().map(|[n, m, h]| a * n + b * m - h).fold(0.0, f64::max);
        a * guests + b * all - u * cores as f64
    };
    // What a guest more would spare, and what more load would leave: h has no steeper slopes.
    largest(0.0, on, |b| largest(-1.0, 0.0, |a| bound(a, b))).max(0.0)
}

/// The n, m and h between which h is a straight line in m. With n guests m is no less than what the n smallest ask for, and no more than what the n
/// largest do; between, the slope changes where another number of guests becomes more than the core can do.
fn corners(while_on: &[f64], on: f64) -> Vec<[f64; 3]> {
    let mut sorted = while_on.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (mut least, mut most, mut corners) = (0.0, 0.0, Vec::new());
    for (n, (small, large)) in (1..).zip(iter::zip(&sorted, sorted.iter().rev())) {
        least += small;
        most += large;
        let n = f64::from(n);
        let changes = (1..=while_on.len()).map(|k| n / k as f64).filter(|m| (least..most).contains(m));
        corners.extend(changes.chain([least, most]).map(|m| [n, m, unserved_of(n, m, on)]));
    }
    corners
}

/// h(n, m).
fn unserved_of(n: f64, m: f64, on: f64) -> f64 {
    // The probability that k are on, k after k.
    let (mut chance, mut sum) = ((1.0 - on).powf(n), 0.0);
    for k in 0..=n as usize {
        let k = k as f64;
        sum += chance * (m / n * k - 1.0).max(0.0);
        chance *= (n - k) / (k + 1.0) * on / (1.0 - on);
    }
    sum
}

/// The largest value of a concave function between these.
fn largest(mut from: f64, mut to: f64, of: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..STEPS {
        let third = (to - from) / 3.0;
        if of(from + third) < of(to - third) {
            from += third;
        } else {
            to -= third;
        }
    }
    of(from.midpoint(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::run::{Measured, run};
    use crate::traffic::Traffic;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use scheduler::Policy;

    /// What a core leaves that has the guests of this mask: over all of them that can be on.
    fn exactly(while_on: &[f64], on: f64, here: usize) -> f64 {
        (0..1_usize << while_on.len())
            .map(|state| {
                let mut chance = 1.0;
                let mut asked = 0.0;
                for (guest, while_on) in while_on.iter().enumerate() {
                    let is_on = state >> guest & 1 == 1;
                    chance *= if is_on { on } else { 1.0 - on };
                    asked += if is_on && here >> guest & 1 == 1 { *while_on } else { 0.0 };
                }
                chance * (asked - 1.0_f64).max(0.0)
            })
            .sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Of two and three cores, whoever is where.
        #[test]
        fn no_placement_leaves_less(while_on in vec(0.05..1.5, 1..7), on in 0.05..0.95) {
            let guests = while_on.len();
            let cores: Vec<f64> = (0..1 << guests).map(|here| exactly(&while_on, on, here)).collect();
            let all = (1 << guests) - 1;
            let mut least = [f64::MAX; 2];
            for first in 0..=all {
                least[0] = least[0].min(cores[first] + cores[all & !first]);
                for second in (0..=all).filter(|second| second & first == 0) {
                    least[1] = least[1].min(cores[first] + cores[second] + cores[all & !first & !second]);
                }
            }
            for (least, cores) in least.into_iter().zip([2, 3]) {
                let bound = at_least(&while_on, on, cores);
                prop_assert!(bound <= least + 1e-9, "{bound} of {least} on {cores} cores");
            }
        }
    }

    #[test]
    fn it_is_what_equal_guests_leave() {
        // Eight on each core, of which four and more are too much: so many of them are on with these probabilities, beginning with none.
        let chances = [0.1001, 0.2670, 0.3115, 0.2076, 0.0865, 0.0231, 0.0038, 0.0004];
        let left: f64 = chances.iter().zip(0..).map(|(chance, on)| chance * (0.3 * f64::from(on) - 1.0).max(0.0)).sum();
        let bound = at_least(&[0.3; 64], 0.25, 8);
        assert!((bound / (8.0 * left) - 1.0).abs() < 0.005, "{bound} and {}", 8.0 * left);
    }

    #[test]
    fn what_has_a_core_for_each_guest_leaves_nothing() {
        assert!(at_least(&[0.9, 0.5, 1.0], 0.25, 3) < 1e-9);
    }

    /// Who never moves anything leaves more, in the mean over seeds; who moves leaves less than any placement, of what any policy could serve.
    #[test]
    fn simulated_policies_are_on_either_side() {
        let model = Model { tick_ms: 20.0, ..Model::default() };
        let scenario = Scenario { converged_s: 0.0, ..Scenario::on_off(10.0, 8, 64) };
        let seeds = 1..=4;
        let mean = |of: &dyn Fn(u64) -> f64| seeds.clone().map(of).sum::<f64>() / 4.0;
        let left = |policy, of: fn(&Measured) -> f64| {
            mean(&|seed| of(&run(&scenario, &model, policy, seed).unwrap()) / model.core_hz)
        };
        let bound =
            mean(&|seed| unserved(&scenario, &model, &Traffic::new(&scenario, &model, seed).while_on()).unwrap());
        let stays = left(Policy::Static, |run| run.under_served_cycles);
        let moves = left(Policy::Balance, |run| run.under_served_beyond_cycles);
        assert!(moves < bound / 3.0 && bound < stays && stays < 3.0 * bound, "{moves}, {bound}, {stays}");
    }

    #[test]
    fn only_load_that_comes_and_goes_has_a_bound() {
        let model = Model::default();
        assert_eq!(unserved(&Scenario::new(Shape::Poisson, 2, 4), &model, &[0.5; 4]), None);
        // Too short to forget anything.
        let short = Scenario { on_s: 100.0, ..Scenario::new(Shape::OnOff, 2, 4) };
        assert_eq!(unserved(&short, &model, &[0.9; 4]), Some(0.0));
        // Rings that take all of a burst.
        let deep = Model { ring: 1e8, ..model };
        assert_eq!(unserved(&Scenario::on_off(10.0, 2, 4), &deep, &[0.9; 4]), Some(0.0));
    }
}

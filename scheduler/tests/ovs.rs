//! OVS's policies do here what they do there. What its own tests of automatic load balancing (tests/alb.at) check is checked here too.

mod common;

use common::load;
use scheduler::ovs::{Assignment, AutoLoadBalance, Outcome, assign};
use scheduler::{Cpu, Load, Topology};

fn cores(load: &Load, topology: &Topology, assignment: Assignment) -> Vec<usize> {
    assign(load, topology, assignment).into_iter().map(|(_, core)| core.0).collect()
}

/// What comes of a minute of the same load.
fn minute(auto: &mut AutoLoadBalance, load: &Load) -> Outcome {
    let topology = Topology::flat(load.cores.len());
    for _ in 0..5 {
        assert_eq!(auto.interval(load, &topology), Outcome::Waiting);
    }
    auto.interval(load, &topology)
}

#[test]
fn queue_pairs_go_round_in_order() {
    let load = load(3, &[(0, 1), (0, 9), (0, 5), (0, 7), (0, 3)]);
    assert_eq!(cores(&load, &Topology::flat(3), Assignment::RoundRobin), [0, 1, 2, 0, 1]);
}

#[test]
fn by_cycles_they_go_there_and_back() {
    let load = load(3, &[(0, 80), (0, 80), (0, 80), (0, 40), (0, 30), (0, 20), (0, 10)]);
    assert_eq!(cores(&load, &Topology::flat(3), Assignment::Cycles), [0, 1, 2, 2, 1, 0, 0]);
}

#[test]
fn in_groups_each_goes_where_least_is() {
    let load = load(3, &[(0, 10), (0, 80), (0, 20), (0, 30), (0, 15)]);
    // In the order 80, 30, 20, 15, 10.
    assert_eq!(cores(&load, &Topology::flat(3), Assignment::Group), [1, 0, 2, 1, 2]);
}

#[test]
fn in_groups_those_without_cycles_are_counted() {
    let load = load(2, &[(0, 0), (0, 0), (0, 0), (0, 0)]);
    assert_eq!(cores(&load, &Topology::flat(2), Assignment::Group), [0, 1, 0, 1]);
}

#[test]
fn a_core_with_a_pinned_queue_pair_is_isolated() {
    let mut load = load(3, &[(1, 50), (0, 10), (0, 10)]);
    load.queues[0].pinned = true;
    for assignment in [Assignment::Cycles, Assignment::Group, Assignment::RoundRobin] {
        assert_eq!(cores(&load, &Topology::flat(3), assignment), [0, 2]);
    }
    load.queues.iter_mut().for_each(|queue| queue.pinned = true);
    assert!(assign(&load, &Topology::flat(3), Assignment::Group).is_empty());
}

#[test]
fn cores_of_the_own_node_come_first() {
    let cpu = |node, physical| Cpu { node, physical };
    let topology = Topology { cpus: vec![cpu(0, 0), cpu(1, 1), cpu(0, 2), cpu(1, 3)] };
    let mut load = load(4, &[(0, 40), (0, 30), (0, 20), (0, 10)]);
    load.queues.iter_mut().for_each(|queue| queue.node = Some(1));
    for assignment in [Assignment::Group, Assignment::Cycles] {
        assert_eq!(cores(&load, &topology, assignment), [1, 3, 3, 1], "{assignment:?}");
    }
    // Of a node without cores: anywhere.
    load.queues.iter_mut().for_each(|queue| queue.node = Some(7));
    assert_eq!(cores(&load, &topology, Assignment::RoundRobin), [0, 1, 2, 3]);
}

#[test]
fn it_needs_two_cores_and_two_queue_pairs_on_one() {
    let eager = |assignment| AutoLoadBalance::new(assignment, Some(0), None, None);
    for (load, enough) in [
        (load(1, &[(0, 50), (0, 50)]), false),
        (load(2, &[(0, 50), (1, 50)]), false),
        (load(2, &[(0, 50), (1, 50), (0, 50)]), true),
        (load(1, &[(0, 50), (0, 50), (0, 50)]), false),
    ] {
        let outcome = minute(&mut eager(Assignment::Cycles), &load);
        assert_eq!(outcome == Outcome::NotEnough, !enough, "{outcome:?}");
    }
    let load = load(2, &[(0, 90), (0, 90), (1, 1)]);
    assert!(matches!(minute(&mut eager(Assignment::Group), &load), Outcome::Moves(_)));
    assert!(matches!(minute(&mut eager(Assignment::Cycles), &load), Outcome::Moves(_)));
    assert_eq!(minute(&mut eager(Assignment::RoundRobin), &load), Outcome::NotByLoad);
}

#[test]
fn thresholds_are_inclusive_and_last_a_minute() {
    let mut auto = AutoLoadBalance::new(Assignment::Group, None, None, None);
    let high = load(2, &[(0, 48), (0, 47), (1, 1)]);
    let low = load(2, &[(0, 47), (0, 47), (1, 1)]);
    assert_eq!(minute(&mut auto, &low), Outcome::NotOverloaded);
    // Five of six intervals are not enough.
    let topology = Topology::flat(2);
    assert_eq!(auto.interval(&low, &topology), Outcome::Waiting);
    for _ in 0..4 {
        assert_eq!(auto.interval(&high, &topology), Outcome::Waiting);
    }
    assert_eq!(auto.interval(&high, &topology), Outcome::NotOverloaded);
    let Outcome::Moves(moves) = minute(&mut auto, &high) else { panic!("overloaded for a minute") };
    assert_eq!(moves.iter().map(|step| (step.queue.port.0, step.to.0)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn the_variance_has_to_fall_by_a_quarter() {
    let load = load(2, &[(0, 96), (0, 4), (1, 96)]);
    // 100 and 96 become 96 and 100.
    assert_eq!(minute(&mut AutoLoadBalance::new(Assignment::Group, None, None, None), &load), Outcome::TooLittle(0));
    let load = common::load(2, &[(0, 50), (0, 50), (1, 60)]);
    // 100 and 60 become 60 and 100: no better. In groups: 60, 50 + 50.
    assert_eq!(minute(&mut AutoLoadBalance::new(Assignment::Group, None, None, None), &load), Outcome::TooLittle(0));
}

#[test]
fn values_out_of_bounds_are_the_defaults() {
    let high = load(2, &[(0, 48), (0, 46), (1, 1)]);
    // 94 %: below the default of 95, above 70.
    for (percent, acts) in [(None, false), (Some(70), true), (Some(0), true), (Some(100), false), (Some(101), false)] {
        let outcome = minute(&mut AutoLoadBalance::new(Assignment::Group, percent, None, None), &high);
        assert_eq!(matches!(outcome, Outcome::Moves(_)), acts, "{percent:?}: {outcome:?}");
    }
    let mut slow = AutoLoadBalance::new(Assignment::Group, Some(70), None, Some(10));
    for _ in 0..59 {
        assert_eq!(slow.interval(&high, &Topology::flat(2)), Outcome::Waiting);
    }
    assert!(matches!(slow.interval(&high, &Topology::flat(2)), Outcome::Moves(_)));
    // Less than a minute is a minute.
    let mut soon = AutoLoadBalance::new(Assignment::Group, Some(70), None, Some(0));
    assert!(matches!(minute(&mut soon, &high), Outcome::Moves(_)));
}

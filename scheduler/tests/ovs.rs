//! OVS's policies do here what they do there: the examples of its documentation (pmd.rst), and the cases of its own tests of assignment (tests/pmd.at)
//! and of automatic load balancing (tests/alb.at). A case of theirs is named where it is reproduced.

mod common;

use common::load;
use scheduler::ovs::{Assignment, AutoLoadBalance, Keys, Outcome, assign};
use scheduler::{Cpu, IoCore, Load, Topology};

const ALL: [Assignment; 3] = [Assignment::Cycles, Assignment::Group, Assignment::RoundRobin];

fn cores(load: &Load, topology: &Topology, assignment: Assignment) -> Vec<usize> {
    assign(load, topology, assignment).into_iter().map(|(_, core)| core.0).collect()
}

/// Cores on these NUMA nodes.
fn on_nodes<const N: usize>(nodes: [u16; N]) -> Topology {
    Topology { cpus: (0..).zip(nodes).map(|(physical, node)| Cpu { node, physical }).collect() }
}

/// The same load of guests that are all on a node.
fn of_node(node: u16, mut load: Load) -> Load {
    load.queues.iter_mut().for_each(|queue| queue.node = Some(node));
    load
}

/// The same load with these queue pairs pinned.
fn pinned(pinned: &[usize], mut load: Load) -> Load {
    pinned.iter().for_each(|queue| load.queues[*queue].pinned = true);
    load
}

/// What comes of a minute of the same load.
fn minute_on(auto: &mut AutoLoadBalance, load: &Load, topology: &Topology) -> Outcome {
    for _ in 0..5 {
        assert_eq!(auto.interval(load, topology), Outcome::Waiting);
    }
    auto.interval(load, topology)
}

fn minute(auto: &mut AutoLoadBalance, load: &Load) -> Outcome {
    minute_on(auto, load, &Topology::flat(load.cores.len()))
}

/// As soon as there is any load.
fn eager(assignment: Assignment) -> AutoLoadBalance {
    AutoLoadBalance::new(assignment, &Keys { load_threshold: 0, ..Keys::default() })
}

/// Loads of two cores, and by how many percent their variance falls when they are assigned in groups.
fn improvements() -> [(u64, Load); 7] {
    let loads = [
        (0, [96, 4, 96]),
        (24, [89, 6, 5]),
        (25, [89, 6, 6]),
        (59, [78, 17, 2]),
        (60, [78, 17, 3]),
        (99, [49, 46, 1]),
        (100, [49, 46, 2]),
    ];
    loads.map(|(improvement, [one, two, other])| (improvement, load(2, &[(0, one), (0, two), (1, other)])))
}

fn acts(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Moves(_))
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
fn the_documentations_examples_come_out() {
    let cycles = load(3, &[(0, 30), (0, 80), (0, 60), (0, 70), (0, 10)]);
    assert_eq!(cores(&cycles, &Topology::flat(3), Assignment::Cycles), [2, 0, 2, 1, 1]);
    let group = load(3, &[(0, 10), (0, 80), (0, 50), (0, 70), (0, 10)]);
    assert_eq!(cores(&group, &Topology::flat(3), Assignment::Group), [2, 0, 2, 1, 2]);
    assert_eq!(cores(&group, &Topology::flat(3), Assignment::Cycles), [2, 0, 2, 1, 1], "the two are told apart");
    let in_turn = load(3, &[(0, 0); 5]);
    assert_eq!(cores(&in_turn, &Topology::flat(3), Assignment::RoundRobin), [0, 1, 2, 0, 1]);
}

#[test]
fn in_groups_each_goes_where_least_is() {
    let load = load(3, &[(0, 10), (0, 80), (0, 20), (0, 30), (0, 15)]);
    // In the order 80, 30, 20, 15, 10.
    assert_eq!(cores(&load, &Topology::flat(3), Assignment::Group), [1, 0, 2, 1, 2]);
}

/// "pmd-cpu-mask/distribution of rx queues" and, with the queues of a node without cores, "pmd-cpu-mask - dual NUMA".
#[test]
fn queue_pairs_without_cycles_are_spread_as_in_ovs() {
    let load = load(2, &[(0, 0); 8]);
    let [in_turn, there_and_back] = [[0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 0, 0, 1, 1, 0]];
    for load in [of_node(0, load.clone()), of_node(1, load)] {
        for (assignment, expected) in ALL.into_iter().zip([there_and_back, in_turn, in_turn]) {
            assert_eq!(cores(&load, &Topology::flat(2), assignment), expected, "{assignment:?}");
        }
    }
}

/// "pmd-cpu-mask - dual NUMA": a local core is the only one used. "pmd-cpu-mask - multi NUMA": where there is none, those of all nodes are.
#[test]
fn far_nodes_are_for_those_without_a_core_of_their_own() {
    let load = load(4, &[(0, 0); 4]);
    for assignment in ALL {
        assert_eq!(cores(&of_node(1, load.clone()), &on_nodes([1, 0, 0, 0]), assignment), [0; 4], "{assignment:?}");
        let far = cores(&of_node(0, load.clone()), &on_nodes([1, 2, 1, 2]), assignment);
        assert_eq!(far, [0, 1, 2, 3], "{assignment:?}");
    }
}

/// Nodes in turn, not cores: the only core of a node gets every second one.
#[test]
fn far_nodes_take_turns() {
    let load = of_node(0, load(4, &[(0, 0); 6]));
    for assignment in [Assignment::Group, Assignment::RoundRobin] {
        assert_eq!(cores(&load, &on_nodes([1, 2, 2, 2]), assignment), [0, 1, 0, 2, 0, 3], "{assignment:?}");
    }
}

/// "rxq affinity": cores that queues are pinned to are not there, and are again; one is pinned, and all others share the other core.
#[test]
fn who_is_pinned_to_a_core_that_is_not_there_goes_elsewhere() {
    let mut load = pinned(&[0, 1, 2, 3], load(8, &[(2, 0), (6, 0), (1, 0), (7, 0)]));
    for assignment in ALL {
        assert!(assign(&load, &Topology::flat(8), assignment).is_empty(), "all are where they have to be");
    }
    load.cores[2..].iter_mut().for_each(|core| core.parked = true);
    // Queue 2 isolates core 1: the others go to core 0.
    for assignment in ALL {
        assert_eq!(cores(&load, &Topology::flat(8), assignment), [0, 0, 0], "{assignment:?}");
    }
    // The first of four.
    let one = pinned(&[0], common::load(2, &[(0, 0); 4]));
    for assignment in ALL {
        assert_eq!(cores(&one, &Topology::flat(2), assignment), [1, 1, 1], "{assignment:?}");
    }
}

/// "rxq affinity - non-isolate".
#[test]
fn a_core_with_a_pinned_queue_pair_may_be_left_open() {
    let load = pinned(&[0], load(2, &[(0, 0); 4]));
    assert_eq!(cores(&load, &Topology::flat(2), Assignment::GroupNonIsolated), [1, 0, 1]);
    // What is pinned counts.
    let busy = pinned(&[0], common::load(2, &[(0, 50), (0, 30), (0, 15), (0, 10)]));
    assert_eq!(cores(&busy, &Topology::flat(2), Assignment::GroupNonIsolated), [1, 1, 1]);
    assert_eq!(cores(&busy, &Topology::flat(2), Assignment::Cycles), [1, 1, 1], "which isolates it all the same");
    let all = pinned(&[0, 1, 2, 3], load);
    assert!(assign(&all, &Topology::flat(2), Assignment::GroupNonIsolated).is_empty());
}

/// "rxq affinity - NUMA": a queue pinned to another node stays there, and the next one goes to its own.
#[test]
fn who_is_pinned_to_another_node_stays_there() {
    let load = of_node(0, pinned(&[0], load(6, &[(2, 0), (0, 0)])));
    for assignment in ALL {
        let assigned = assign(&load, &on_nodes([0, 0, 1, 1, 8, 8]), assignment);
        assert_eq!(assigned, [(common::id(1), IoCore(0))], "{assignment:?}");
    }
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
    let topology = on_nodes([0, 1, 0, 1]);
    let load = of_node(1, load(4, &[(0, 40), (0, 30), (0, 20), (0, 10)]));
    for assignment in [Assignment::Group, Assignment::Cycles] {
        assert_eq!(cores(&load, &topology, assignment), [1, 3, 3, 1], "{assignment:?}");
    }
    // Of a node without cores: anywhere.
    assert_eq!(cores(&of_node(7, load), &topology, Assignment::RoundRobin), [0, 1, 2, 3]);
}

/// "ALB - min num PMD/RxQ", with its last look: the same configuration as last time.
#[test]
fn it_needs_two_cores_and_two_queue_pairs_on_one() {
    let mut auto = eager(Assignment::Cycles);
    let three = [(0, 90), (1, 10), (1, 30)];
    for (load, outcome) in [
        (load(1, &[(0, 50), (0, 50)]), Outcome::NotEnough),
        (load(2, &[(0, 50), (1, 50)]), Outcome::NotEnough),
        (load(2, &[(0, 50), (1, 50), (0, 50)]), Outcome::TooLittle(0)),
        (load(1, &[(0, 50), (0, 50), (0, 50)]), Outcome::NotEnough),
        (load(1, &[(0, 50), (0, 50), (0, 50)]), Outcome::Unchanged),
        (load(1, &[(0, 90), (0, 10), (0, 30)]), Outcome::Unchanged),
        // What is pinned belongs to the configuration, and isolates a core.
        (pinned(&[0], load(2, &three)), Outcome::NotEnough),
        (pinned(&[0], load(2, &three)), Outcome::Unchanged),
        (load(2, &three), Outcome::TooLittle(0)),
        (load(2, &three), Outcome::TooLittle(0)),
    ] {
        assert_eq!(minute(&mut auto, &load), outcome, "{load:?}");
    }
}

/// "ALB - PMD/RxQ assignment type".
#[test]
fn it_acts_by_cycles_and_in_groups_but_not_in_turn() {
    let load = load(2, &[(0, 90), (0, 90), (1, 1)]);
    for assignment in [Assignment::Cycles, Assignment::Group, Assignment::GroupNonIsolated] {
        assert!(acts(&minute(&mut eager(assignment), &load)), "{assignment:?}");
    }
    let mut in_turn = eager(Assignment::RoundRobin);
    assert_eq!(minute(&mut in_turn, &load), Outcome::NotByLoad);
    assert_eq!(minute(&mut in_turn, &load), Outcome::Unchanged);
}

#[test]
fn thresholds_are_inclusive_and_last_a_minute() {
    let mut auto = AutoLoadBalance::new(Assignment::Group, &Keys::default());
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
    for (improvement, load) in improvements() {
        let outcome = minute(&mut AutoLoadBalance::new(Assignment::Group, &Keys::default()), &load);
        let expected = improvement >= 25;
        assert!(if expected { acts(&outcome) } else { outcome == Outcome::TooLittle(improvement) }, "{outcome:?}");
    }
}

/// "ALB - improvement param".
#[test]
fn the_improvement_that_is_asked_for_is_a_percentage() {
    for (written, counts) in [(25, 25), (60, 60), (0, 0), (-1, 25), (100, 100), (101, 25)] {
        for (improvement, load) in improvements() {
            let keys = Keys { improvement_threshold: written, ..Keys::default() };
            let outcome = minute(&mut AutoLoadBalance::new(Assignment::Group, &keys), &load);
            assert_eq!(acts(&outcome), improvement >= counts, "{written}, {improvement}: {outcome:?}");
        }
    }
}

/// "ALB - load param".
#[test]
fn the_load_that_is_too_much_is_a_percentage() {
    let keys = |load_threshold| Keys { load_threshold, ..Keys::default() };
    for (written, counts) in [(95, 95), (70, 70), (0, 0), (-1, 95), (100, 100), (101, 95)] {
        for percent in [1, 69, 70, 94, 95, 99, 100] {
            // In two halves, so that there is something to assign.
            let mut load = load(2, &[(0, percent), (0, percent), (1, 1)]);
            load.queues[..2].iter_mut().for_each(|queue| queue.cycles /= 2);
            let outcome = minute(&mut AutoLoadBalance::new(Assignment::Group, &keys(written)), &load);
            let overloaded = outcome != Outcome::NotOverloaded;
            assert_eq!(overloaded, percent >= counts, "{written}, {percent}: {outcome:?}");
        }
    }
}

/// "ALB - interval param".
#[test]
fn the_interval_is_in_minutes() {
    let high = load(2, &[(0, 48), (0, 47), (1, 1)]);
    let topology = Topology::flat(2);
    for (written, counts) in [(1, 1), (10, 10), (20_000, 20_000), (0, 1), (20_001, 1), (-1, 1)] {
        let mut auto = AutoLoadBalance::new(Assignment::Group, &Keys { rebal_interval: written, ..Keys::default() });
        for interval in 1..counts * 6 {
            assert_eq!(auto.interval(&high, &topology), Outcome::Waiting, "{written}: {interval}");
        }
        assert!(acts(&auto.interval(&high, &topology)), "{written}");
    }
}

#[test]
fn one_node_that_gets_better_is_enough() {
    let topology = on_nodes([0, 0, 1, 1]);
    let at_home = |mut load: Load| {
        load.queues.iter_mut().for_each(|queue| queue.node = Some(topology.cpus[queue.core.0].node));
        load
    };
    // 96 and 88 become 90 and 94. Next to the idle node that is nothing.
    let idle = at_home(load(4, &[(0, 50), (0, 46), (1, 40), (1, 48), (2, 1), (3, 1)]));
    let Outcome::Moves(moves) = minute_on(&mut eager(Assignment::Group), &idle, &topology) else { panic!("node 0") };
    assert_eq!(moves.iter().map(|step| step.queue.port.0).collect::<Vec<_>>(), [1, 2]);
    // 95 and 1 become 48 and 48; the other node's 70 and 70 become 90 and 50, which is no reason against it.
    let worse = [(2, 70), (3, 30), (3, 20), (3, 20)];
    let both = at_home(load(4, &[[(0, 48), (0, 47), (1, 1)].as_slice(), &worse].concat()));
    assert!(acts(&minute_on(&mut eager(Assignment::Cycles), &both, &topology)));
    let alone = at_home(load(4, &worse));
    assert_eq!(minute_on(&mut eager(Assignment::Cycles), &alone, &topology), Outcome::TooLittle(0));
}

/// "ALB - cross-numa": on several nodes nothing is done for queue pairs that would be far from their own, unless all are pinned; on one node, far or not.
#[test]
fn across_nodes_it_does_not_operate() {
    let load = of_node(0, load(2, &[(0, 50), (0, 45), (0, 1), (1, 1)]));
    let non_isolated = || eager(Assignment::GroupNonIsolated);
    let two = on_nodes([1, 2]);
    assert_eq!(minute_on(&mut non_isolated(), &load, &two), Outcome::AcrossNodes);
    assert_eq!(minute_on(&mut non_isolated(), &pinned(&[0, 1, 2, 3], load.clone()), &two), Outcome::TooLittle(0));
    assert_eq!(minute_on(&mut non_isolated(), &pinned(&[0, 1, 3], load.clone()), &two), Outcome::AcrossNodes);
    assert!(acts(&minute_on(&mut non_isolated(), &load, &on_nodes([1, 1]))), "all cores are on one node");
    assert!(acts(&minute_on(&mut non_isolated(), &load, &Topology::flat(2))));
    // Two cores isolated, on two nodes.
    let mut wide = common::load(4, &[(0, 20), (0, 20), (1, 20), (1, 20), (2, 90), (2, 5), (3, 1)]);
    wide.queues.iter_mut().for_each(|queue| queue.node = Some(0));
    let wide = pinned(&[0, 1, 2, 3], wide);
    assert_eq!(minute_on(&mut eager(Assignment::Group), &wide, &on_nodes([1, 2, 1, 2])), Outcome::AcrossNodes);
    // Of a node that is not known: it may be near.
    let mut unknown = load;
    unknown.queues.iter_mut().for_each(|queue| queue.node = None);
    assert!(!matches!(minute_on(&mut non_isolated(), &unknown, &two), Outcome::AcrossNodes));
}

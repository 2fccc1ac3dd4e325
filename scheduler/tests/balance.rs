//! Plans make the fullest core less full, and say so where they cannot.

mod common;

use common::{CAPACITY, id, load, sums};
use proptest::collection::vec;
use proptest::prelude::*;
use scheduler::{Balance, Cpu, Hopeless, IoCore, Load, Move, PortId, QueueId, Settings, Talk, Topology, balance};

fn plan(load: &Load) -> Balance {
    balance(load, &Topology::flat(load.cores.len()), &Settings::default())
}

/// The load after its moves.
fn moved(load: &Load, plan: &Balance) -> Load {
    let mut after = load.clone();
    for step in &plan.moves {
        let queue = after.queues.iter_mut().find(|queue| queue.queue == step.queue).unwrap();
        assert_eq!(queue.core, step.from);
        queue.core = step.to;
    }
    after
}

#[test]
fn a_full_core_gives_to_an_empty_one() {
    let load = load(2, &[(0, 50), (0, 50)]);
    let plan = plan(&load);
    assert_eq!(plan.moves, [Move { queue: id(0), from: IoCore(0), to: IoCore(1) }]);
    assert!((plan.before - 1.0).abs() < 1e-9 && (plan.after - 0.5).abs() < 1e-9 && plan.hopeless.is_none());
}

#[test]
fn two_full_cores_are_both_relieved() {
    let load = load(4, &[(0, 50), (0, 50), (1, 50), (1, 50)]);
    assert_eq!(sums(&moved(&load, &plan(&load))), [50, 50, 50, 50]);
}

#[test]
fn queue_pairs_are_exchanged_where_no_move_helps() {
    // 110 and 70: moving 50 or 60 only turns it round.
    let load = load(2, &[(0, 50), (0, 60), (1, 40), (1, 30)]);
    let plan = plan(&load);
    assert_eq!(plan.moves.len(), 2);
    assert_eq!(sums(&moved(&load, &plan)), [90, 90]);
}

#[test]
fn what_gains_too_little_is_left() {
    let load = load(2, &[(0, 50), (0, 3), (1, 50)]);
    assert!(plan(&load).moves.is_empty());
}

#[test]
fn a_move_has_to_pay_for_itself() {
    let load = load(2, &[(0, 40), (0, 20), (1, 30)]);
    let dear = Settings { move_cycles: CAPACITY / 4, ..Settings::default() };
    assert_eq!(plan(&load).moves.len(), 1);
    assert!(balance(&load, &Topology::flat(2), &dear).moves.is_empty());
}

#[test]
fn queue_pairs_of_one_guest_are_spread() {
    let mut load = load(4, &[(0, 40), (0, 35), (0, 30), (0, 25), (1, 10)]);
    for (queue, of) in (0..).zip(&mut load.queues[..4]) {
        of.queue = QueueId { port: PortId(7), queue };
    }
    let plan = plan(&load);
    assert!(plan.moves.iter().all(|step| step.queue.port == PortId(7)), "{plan:?}");
    let mut spread = sums(&moved(&load, &plan));
    spread.sort_unstable();
    assert_eq!(spread, [30, 35, 35, 40]);
    // One is pinned, by its own number: not the others.
    load.queues[1].pinned = true;
    let plan = balance(&load, &Topology::flat(4), &Settings::default());
    assert!(!plan.moves.is_empty() && plan.moves.iter().all(|step| step.queue != load.queues[1].queue), "{plan:?}");
    // Two of its queue pairs that talk to each other stay together, and the others go.
    load.queues[1].pinned = false;
    let [one, other] = [load.queues[0].queue, load.queues[3].queue];
    load.talks = [(one, other), (other, one)].map(|(from, to)| Talk { from, to, packets: 2500 }).to_vec();
    let after = moved(&load, &balance(&load, &Topology::flat(4), &Settings::default()));
    assert_eq!(after.queues[0].core, after.queues[3].core);
}

#[test]
fn pinned_queue_pairs_stay() {
    let mut load = load(2, &[(0, 60), (0, 60)]);
    load.queues[0].pinned = true;
    assert_eq!(plan(&load).moves, [Move { queue: id(1), from: IoCore(0), to: IoCore(1) }]);
    load.queues[1].pinned = true;
    let plan = plan(&load);
    assert!(plan.moves.is_empty());
    assert_eq!(plan.hopeless, Some(Hopeless::Pinned { core: IoCore(0) }));
}

#[test]
fn what_cannot_be_helped_is_said() {
    let one = plan(&load(2, &[(0, 99), (1, 10)]));
    assert!(matches!(one.hopeless, Some(Hopeless::Queue { queue, .. }) if queue == id(0)), "{one:?}");
    let all = plan(&load(2, &[(0, 49), (0, 49), (1, 49), (1, 49)]));
    assert!(matches!(all.hopeless, Some(Hopeless::Cores { .. })), "{all:?}");
    assert_eq!(plan(&load(2, &[(0, 50), (1, 50)])).hopeless, None);
}

#[test]
fn guests_that_talk_come_together() {
    // Two pairs, each split over both cores: what they hand over costs a fifth of a core.
    let mut load = load(2, &[(0, 30), (1, 30), (0, 30), (1, 30)]);
    for (from, to) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        load.talks.push(Talk { from: id(from), to: id(to), packets: 3000 });
    }
    let plan = plan(&load);
    let after = moved(&load, &plan);
    assert_eq!(after.queues[0].core, after.queues[1].core, "{plan:?}");
    assert_eq!(after.queues[2].core, after.queues[3].core, "{plan:?}");
    assert!(plan.after < plan.before - 0.1, "{plan:?}");
}

#[test]
fn those_who_talk_are_not_parted_where_one_move_would_do() {
    let mut load = load(2, &[(0, 45), (0, 0), (0, 45), (0, 0)]);
    load.talks = [(0, 1), (2, 3)].map(|(from, to)| Talk { from: id(from), to: id(to), packets: 4500 }).to_vec();
    // One of them alone would make it 84 %.
    let plan = balance(&load, &Topology::flat(2), &Settings { enough: 0.85, ..Settings::default() });
    assert_eq!((plan.moves.len(), plan.steps.len()), (2, 1), "{plan:?}");
    assert_eq!(plan.moves[0].queue.port.0 / 2, plan.moves[1].queue.port.0 / 2, "{plan:?}");
}

#[test]
fn those_who_talk_are_exchanged_for_others_who_do() {
    let pairs = [(0, 30), (0, 30), (0, 25), (0, 25), (1, 20), (1, 20), (1, 15), (1, 15)];
    let mut load = load(2, &pairs);
    load.talks = (0..4).map(|pair| Talk { from: id(2 * pair), to: id(2 * pair + 1), packets: 5000 }).collect();
    let plan = plan(&load);
    assert_eq!((plan.moves.len(), plan.steps.len()), (4, 1));
    let after = moved(&load, &plan);
    assert_eq!(sums(&after), [90, 90]);
    assert!(after.queues.chunks(2).all(|pair| pair[0].core == pair[1].core), "nobody was parted");
}

#[test]
fn a_sibling_is_taken_last() {
    let load = load(3, &[(0, 50), (0, 50)]);
    let cpu = |physical| Cpu { node: 0, physical };
    let topology = Topology { cpus: vec![cpu(0), cpu(0), cpu(1)] };
    let plan = balance(&load, &topology, &Settings::default());
    assert_eq!(plan.moves, [Move { queue: id(0), from: IoCore(0), to: IoCore(2) }]);
}

#[test]
fn the_guests_own_node_comes_first() {
    let mut load = load(3, &[(0, 50), (0, 50)]);
    load.queues.iter_mut().for_each(|queue| queue.node = Some(1));
    let cpu = |node, physical| Cpu { node, physical };
    let topology = Topology { cpus: vec![cpu(1, 0), cpu(0, 1), cpu(1, 2)] };
    let plan = balance(&load, &topology, &Settings::default());
    assert_eq!(plan.moves, [Move { queue: id(0), from: IoCore(0), to: IoCore(2) }]);
}

#[test]
fn what_does_not_exist_does_no_harm() {
    assert!(plan(&Load::default()).moves.is_empty());
    let mut load = load(2, &[(0, 50), (7, 50), (0, 50)]);
    load.talks.push(Talk { from: id(0), to: id(99), packets: 5 });
    let plan = plan(&load);
    assert_eq!(plan.moves.len(), 1);
    assert!(plan.moves.iter().all(|step| step.queue != id(1) && step.to.0 < 2));
}

#[test]
fn what_uplinks_cost_a_core_stays_there() {
    let mut load = load(2, &[(0, 30), (1, 30)]);
    load.cores[0].busy = CAPACITY / 100 * 90;
    load.cores[1].busy = CAPACITY / 100 * 30;
    let plan = plan(&load);
    assert!((plan.before - 0.9).abs() < 1e-9, "{plan:?}");
    assert_eq!(plan.moves, [Move { queue: id(0), from: IoCore(0), to: IoCore(1) }]);
}

#[test]
fn many_small_gains_are_one() {
    // No queue pair alone gains 5 %; all of them gain a fifth of a core.
    let load = load(2, &[vec![(0, 4); 25], vec![(1, 4); 15]].concat());
    assert_eq!(sums(&moved(&load, &plan(&load))), [80, 80]);
}

#[test]
fn a_core_that_was_stuck_gets_another_chance() {
    // Nothing helps the fullest core before another has made room.
    let queues = [(0, 53), (0, 53), (1, 14), (0, 20), (0, 30), (0, 3), (0, 30), (3, 46), (2, 14), (3, 42), (3, 40)];
    let load = load(4, &queues);
    let settings = Settings { moves: 1000, ..Settings::default() };
    let after = moved(&load, &balance(&load, &Topology::flat(4), &settings));
    assert!(balance(&after, &Topology::flat(4), &settings).moves.is_empty());
}

#[test]
fn parked_cores_get_nothing() {
    let mut load = load(3, &[(0, 50), (0, 50), (1, 40)]);
    load.cores[2].parked = true;
    assert!(plan(&load).moves.iter().all(|step| step.to != IoCore(2)));
    load.cores[2].parked = false;
    assert_eq!(plan(&load).moves[0].to, IoCore(2));
}

/// The largest switch there may be: few of its millions of steps are weighed, and the plan is as good.
#[test]
fn planning_scales() {
    let percents = (0..1024u64).map(|index| 1 + index * 7919 % 9);
    for spread in [1, 4, 16, 64] {
        let queues: Vec<_> = percents.clone().enumerate().map(|(index, percent)| (index % spread, percent)).collect();
        let load = load(64, &queues);
        let one = plan(&load);
        assert!(one.moves.len() <= 16 && one.weighed < 1_000, "{} weighed on {spread} cores", one.weighed);
        let all = balance(&load, &Topology::flat(64), &Settings { moves: 4096, ..Settings::default() });
        let mean = percents.clone().sum::<u64>() as f64 / 64.0;
        let most = *sums(&moved(&load, &all)).iter().max().unwrap() as f64;
        assert!(most <= mean * 1.02, "{most} over a mean of {mean} on {spread} cores");
    }
}

/// Where everybody talks bounds are weaker, and the moves of pairs are weighed too: still far fewer than the million there are.
#[test]
fn planning_scales_where_guests_talk() {
    let queues: Vec<_> = (0..1024u64).map(|index| (index as usize * 31 % 64, 1 + index * 7919 % 5)).collect();
    let mut load = load(64, &queues);
    for guest in 0..1024u32 {
        load.talks.push(Talk { from: id(guest), to: id(guest ^ 1), packets: 200 });
    }
    let plan = plan(&load);
    assert!(plan.weighed < 40_000, "{}", plan.weighed);
}

proptest! {
    /// Whatever the loads: no core becomes fuller than the fullest was, what is planned comes about, and a plan's result needs no plan.
    #[test]
    fn plans_hold_what_they_promise(
        cores in 1usize..8,
        queues in vec((0usize..8, 0u64..60), 0..24),
    ) {
        let queues: Vec<_> = queues.into_iter().map(|(core, percent)| (core % cores, percent)).collect();
        let load = load(cores, &queues);
        let settings = Settings { moves: 1000, ..Settings::default() };
        let topology = Topology::flat(cores);
        let plan = balance(&load, &topology, &settings);
        let after = moved(&load, &plan);
        prop_assert!(plan.after <= plan.before);
        let most = sums(&after).into_iter().max().unwrap_or(0) as f64 / 100.0;
        prop_assert!((most - plan.after).abs() < 0.02, "{most} {plan:?}");
        prop_assert!(balance(&after, &topology, &settings).moves.is_empty());
        // The same input, the same plan.
        prop_assert_eq!(plan, balance(&load, &topology, &settings));
    }

    /// Many small queue pairs come within a step's gain of the mean.
    #[test]
    fn small_queue_pairs_are_spread_evenly(cores in 2usize..8, small in vec(1u64..5, 30..60)) {
        let queues: Vec<_> = small.iter().map(|percent| (0, *percent)).collect();
        let load = load(cores, &queues);
        let settings = Settings { moves: 1000, gain: 0.005, ..Settings::default() };
        let after = moved(&load, &balance(&load, &Topology::flat(cores), &settings));
        let mean = small.iter().sum::<u64>() as f64 / cores as f64;
        let most = sums(&after).into_iter().max().unwrap_or(0) as f64;
        prop_assert!(most <= mean + 2.0, "{most} over a mean of {mean}");
    }
}

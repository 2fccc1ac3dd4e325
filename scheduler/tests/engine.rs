//! The scheduler in a closed loop: what it orders is done, and it sees what comes of it.

mod common;

use common::id;
use common::machine::{Guest, Machine};
use proptest::collection::vec;
use proptest::prelude::*;
use scheduler::{
    Config, Cpu, Demand, Elastic, Hopeless, IoCore, Move, Order, Outcome, Policy, PortId, QueueId, Reason, Scheduler,
    Topology, What, Why,
};

/// A tick is 5 ms.
const SECOND: u64 = 200;

fn by(policy: Policy) -> Config {
    Config { policy, ..Config::default() }
}

fn balance() -> Config {
    by(Policy::Balance)
}

fn elastic(min: usize) -> Config {
    Config { elastic: Some(Elastic { min, ..Elastic::default() }), ..balance() }
}

fn hopeless(machine: &Machine) -> Vec<Hopeless> {
    let reported = machine.scheduler.decisions().filter_map(|decision| match decision.what {
        What::CannotFix(hopeless) => Some(hopeless),
        _ => None,
    });
    reported.collect()
}

/// The queue pairs that are too much for a core.
fn queues(reasons: &[Hopeless]) -> Vec<QueueId> {
    let queue = |why: &Hopeless| match *why {
        Hopeless::Queue { queue, .. } => Some(queue),
        _ => None,
    };
    reasons.iter().filter_map(queue).collect()
}

#[test]
fn a_saturated_core_is_relieved_in_the_second_tick() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60)], balance());
    assert!(machine.run(1).is_empty());
    assert_eq!(machine.run(1), [Order::Move(Move { queue: id(0), from: IoCore(0), to: IoCore(1) })]);
    assert!(machine.run(60 * SECOND).is_empty());
    let decision = machine.scheduler.decisions().next().unwrap();
    assert_eq!((decision.tick, decision.why), (2, Why::Saturated(IoCore(0))));
    assert_eq!(decision.pause_ns, Some(20_000));
    assert!((decision.expected.unwrap() - 0.5).abs() < 0.01 && (decision.measured.unwrap() - 0.4).abs() < 0.1);
    assert_eq!(machine.scheduler.status().moves, 1);
}

/// Queue pairs are told apart, moved, held and given up by both of their numbers.
#[test]
fn queue_pairs_of_one_guest_go_by_themselves() {
    let of = |queue| QueueId { port: PortId(0), queue };
    // Three queue pairs of a guest, of 40 % each, on these cores.
    let load = |places: [usize; 3]| {
        let mut load = common::load(2, &places.map(|core| (core, 40)));
        for (queue, load) in (0..).zip(&mut load.queues) {
            load.queue = of(queue);
        }
        for (core, load) in load.cores.iter_mut().enumerate() {
            let here = places.iter().filter(|place| **place == core).count() as u64;
            load.busy = (here * common::CAPACITY / 100 * 40).min(common::CAPACITY);
            load.oldest_ns = if here > 2 { 1_000_000 } else { 0 };
        }
        load
    };
    let mut scheduler = Scheduler::new(balance(), Topology::flat(2));
    scheduler.tick(&load([0; 3]));
    assert_eq!(scheduler.next_order(), None);
    scheduler.tick(&load([0; 3]));
    let step = Move { queue: of(0), from: IoCore(0), to: IoCore(1) };
    assert_eq!(scheduler.next_order(), Some(Order::Move(step)), "one of them");
    scheduler.finished(Outcome::Failed { reason: "it would not".to_owned() });
    // That one is left alone for a minute; the next goes.
    let mut orders = Vec::new();
    let mut places = [0; 3];
    for _ in 0..2 * SECOND {
        scheduler.tick(&load(places));
        while let Some(order) = scheduler.next_order() {
            let Order::Move(step) = order else { panic!("{order:?}") };
            places[usize::from(step.queue.queue)] = step.to.0;
            orders.push(order);
            scheduler.finished(Outcome::Done { pause_ns: 20_000 });
        }
    }
    assert_eq!(orders, [Order::Move(Move { queue: of(1), from: IoCore(0), to: IoCore(1) })]);
    assert_eq!(places, [0, 1, 0]);
}

#[test]
fn each_policy_does_what_its_name_says() {
    let moves = |policy| Machine::new(2, &[(0, 60), (0, 60), (0, 30)], by(policy)).run(300 * SECOND).len();
    for policy in [Policy::Static, Policy::RoundRobin, Policy::OvsCycles, Policy::OvsGroup] {
        assert_eq!(moves(policy), 0, "{policy}");
    }
    for policy in [Policy::LeastLoaded, Policy::Balance, Policy::OvsAutoLb, Policy::OvsAutoLbGroup] {
        assert!(moves(policy) > 0, "{policy}");
    }
}

#[test]
fn ovs_takes_its_minute() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60)], by(Policy::OvsAutoLb));
    assert!(machine.run(60 * SECOND - 1).is_empty());
    assert_eq!(machine.run(1).len(), 1);
}

#[test]
fn ovs_assigns_anew_when_queue_pairs_come() {
    let mut machine = Machine::new(2, &[(0, 40), (0, 40)], by(Policy::OvsGroup));
    assert!(machine.run(10 * SECOND).is_empty());
    machine.guests.extend(Machine::new(2, &[(1, 10)], by(Policy::OvsGroup)).guests);
    // By what they cost, 40, 40 and 10: to cores 0, 1 and 0.
    assert_eq!(machine.run(1).len(), 2);
}

#[test]
fn what_cannot_be_fixed_is_said_once() {
    let mut machine = Machine::new(2, &[(0, 120), (1, 10)], balance());
    assert!(machine.run(60 * SECOND).is_empty());
    assert!(matches!(hopeless(&machine)[..], [Hopeless::Queue { queue, .. }] if queue == id(0)));
    assert!(matches!(machine.scheduler.status().hopeless, Some(Hopeless::Queue { .. })));
    // It goes away, and comes again.
    machine.guests[0].demand = 20;
    machine.run(SECOND);
    assert_eq!(machine.scheduler.status().hopeless, None);
    machine.run(10 * SECOND);
    machine.guests[0].demand = 120;
    machine.run(SECOND);
    assert_eq!(hopeless(&machine).len(), 2);
    // Two that alternate are said once each, also where neither is for a moment.
    let mut machine = Machine::new(3, &[(0, 120), (1, 20), (2, 10)], balance());
    for round in 0..60 {
        for demands in [[120, 20], [130, 125], [20, 120], [20, 20]] {
            (machine.guests[0].demand, machine.guests[1].demand) = (demands[0] + round % 7, demands[1] + round % 5);
            machine.run(SECOND);
        }
    }
    let mut said: Vec<QueueId> = queues(&hopeless(&machine));
    said.sort_unstable();
    assert_eq!(said, [id(0), id(1)]);
    let mut full = Machine::new(2, &[(0, 60), (0, 60), (1, 60), (1, 60)], balance());
    full.run(60 * SECOND);
    assert!(matches!(hopeless(&full)[..], [Hopeless::Cores { .. }]), "{:?}", hopeless(&full));
}

#[test]
fn what_cannot_be_fixed_is_not_claimed_by_who_no_longer_looks() {
    let claims = |machine: &Machine| machine.scheduler.status().hopeless.is_some();
    let mut machine = Machine::new(2, &[(0, 120), (1, 10)], balance());
    machine.run(SECOND);
    assert!(claims(&machine));
    machine.scheduler.pause();
    assert!(!claims(&machine));
    machine.run(SECOND);
    assert!(!claims(&machine), "it is paused");
    machine.scheduler.resume();
    machine.run(SECOND);
    assert!(claims(&machine), "it is still so");
    machine.scheduler.configure(by(Policy::Static));
    machine.run(SECOND);
    assert!(!claims(&machine), "its policy does not look");
    machine.scheduler.configure(balance());
    machine.run(SECOND);
    assert!(claims(&machine));
    assert_eq!(hopeless(&machine).len(), 1, "and it was news once");
}

#[test]
fn least_loaded_says_why_too() {
    let mut machine = Machine::new(2, &[(0, 120), (1, 10)], by(Policy::LeastLoaded));
    assert!(machine.run(60 * SECOND).is_empty());
    assert_eq!(hopeless(&machine).len(), 1);
}

#[test]
fn least_loaded_relieves_a_core_that_comes_after_one_that_cannot_be() {
    let mut machine = Machine::new(3, &[(0, 120), (1, 60), (1, 60), (2, 10)], by(Policy::LeastLoaded));
    machine.scheduler.pause();
    machine.run(2);
    assert_eq!(machine.scheduler.plan().moves.len(), 1, "it says so");
    machine.scheduler.resume();
    machine.run(SECOND);
    assert_eq!(machine.orders, [(3, Order::Move(Move { queue: id(1), from: IoCore(1), to: IoCore(2) }))]);
    assert_eq!(queues(&hopeless(&machine)), [id(0)], "it is said of the first when nothing is left to do");
}

/// One of two guests has moved, and again each time an operator put it back, with these pauses; then a tenth of a core could be gained by a move.
fn after_pauses(pauses: &[u64]) -> Machine {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60), (1, 20)], balance());
    for (nth, pause_ns) in pauses.iter().enumerate() {
        machine.guests[..2].iter_mut().for_each(|guest| guest.core = 0);
        machine.pause_ns = *pause_ns;
        // What an operator moved stays for a minute; the other one goes.
        let seconds = if nth + 1 < pauses.len() { 61 } else { 10 };
        assert_eq!(machine.run(seconds * SECOND).len(), 1, "pause {nth}");
    }
    machine.pause_ns = 20_000;
    let moved = machine.guests[..2].iter().position(|guest| guest.core == 1).expect("one of them has moved");
    machine.guests[moved].demand = 30;
    machine.guests[2].demand = 75;
    machine
}

#[test]
fn a_move_has_to_pay_for_the_pauses_that_were_measured() {
    for pause_ns in [0, 20_000, 1_000_000, 50_000_000] {
        assert_eq!(after_pauses(&[pause_ns]).run(SECOND).len(), 1, "{pause_ns} ns of the second for which it stays");
    }
    let mut dear = after_pauses(&[200_000_000]);
    assert!(dear.run(20 * SECOND).is_empty(), "what it costs is twice what it gains");
    assert!(matches!(hopeless(&dear)[..], [Hopeless::Stuck { core: IoCore(1), .. }]), "{:?}", hopeless(&dear));
    assert_eq!(dear.run(1000 * SECOND).len(), 1, "it is not believed for ever: nothing would be measured again");
    let pauses = [20_000, 20_000, 20_000, 20_000, 20_000, 200_000_000];
    assert_eq!(after_pauses(&pauses).run(SECOND).len(), 1, "one bad pause of six");
    assert!(after_pauses(&[200_000_000; 6]).run(SECOND).is_empty(), "six of six");
}

#[test]
fn a_move_that_makes_it_worse_is_undone_and_not_tried_again_soon() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 50), (1, 20)], balance());
    // On core 1 both cost three times as much: nobody could know.
    machine.guests[0].dislikes = Some((1, 200));
    machine.guests[1].dislikes = Some((1, 200));
    let orders = machine.run(SECOND);
    let back = machine.scheduler.decisions().filter(|decision| matches!(decision.what, What::RollBack(_))).count();
    assert!(back >= 1 && orders.len() == 2 * back, "{:?}", machine.scheduler.decisions().collect::<Vec<_>>());
    assert_eq!(machine.wanted(), [110, 20]);
    // Each of the two again after a second, then after two more, four, …, up to a minute.
    let mut tries = |seconds: u64| {
        let before = machine.scheduler.status().rolled_back;
        machine.run(seconds * SECOND);
        machine.scheduler.status().rolled_back - before
    };
    let soon = tries(50);
    assert!((8..=12).contains(&soon), "{soon}");
    tries(1000);
    let later = tries(600);
    assert!((18..=20).contains(&later), "{later}");
}

#[test]
fn what_was_undone_is_tried_again_when_the_load_is_another_one() {
    // What moves to core 1 costs three times as much there, until the load shifts.
    let mut machine = Machine::new(2, &[(0, 60), (0, 50), (1, 20)], balance());
    machine.guests[..2].iter_mut().for_each(|guest| guest.dislikes = Some((1, 200)));
    machine.run(40 * SECOND);
    let back = machine.scheduler.status().rolled_back;
    assert!(back > 4 && machine.wanted() == [110, 20], "{:?}", machine.orders);
    assert_eq!(machine.scheduler.status().hopeless, Some(Hopeless::Held { core: IoCore(0) }));
    machine.guests[..2].iter_mut().for_each(|guest| guest.dislikes = None);
    machine.guests[2].demand = 5;
    assert!(!machine.run(SECOND).is_empty(), "{:?}", machine.scheduler.decisions().last());
    assert!(machine.wanted().iter().all(|wanted| *wanted < 95), "{:?}", machine.wanted());
    assert_eq!((machine.scheduler.status().rolled_back, machine.scheduler.status().hopeless), (back, None));
}

#[test]
fn a_load_that_swings_is_no_other_one() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 50), (1, 20)], balance());
    machine.guests[..2].iter_mut().for_each(|guest| guest.dislikes = Some((1, 200)));
    for tick in 0..50 * SECOND {
        machine.guests[2].demand = if tick / 10 % 2 == 0 { 5 } else { 35 };
        machine.run(1);
    }
    let back = machine.scheduler.status().rolled_back;
    assert!(back <= 20, "{back} in 50 s");
}

#[test]
fn a_core_that_shares_its_cpu_gets_what_it_can_do_on_average() {
    let guests: Vec<(usize, u64)> = vec![(0, 10); 12];
    let mut machine = Machine::new(2, &guests, balance());
    machine.lacks[1] = [35, 65];
    machine.run(60 * SECOND);
    assert!(machine.wanted()[0] <= 90 && machine.wanted()[1] <= 40, "{:?}", machine.wanted());
    let decisions: Vec<_> = machine.scheduler.decisions().collect();
    assert!(machine.orders.len() <= 6 && machine.scheduler.status().rolled_back == 0, "{decisions:?}");
}

#[test]
fn a_guest_that_wants_more_is_not_the_moves_fault() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60)], balance());
    machine.run(2);
    assert_eq!(machine.core_of(id(0)), 1);
    machine.guests[0].demand = 95;
    machine.run(10);
    assert_eq!(machine.scheduler.status().rolled_back, 0);
}

#[test]
fn an_order_that_fails_is_not_repeated_at_once() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60)], balance());
    machine.fails = |order| matches!(order, Order::Move(step) if step.queue == id(0));
    let orders = machine.run(10);
    assert_eq!(orders.len(), 2);
    let failed = machine.scheduler.decisions().next().unwrap();
    assert_eq!(failed.failed.as_deref(), Some("it would not"));
    assert_eq!((machine.core_of(id(0)), machine.core_of(id(1))), (0, 1));
    assert_eq!(machine.scheduler.status().failed, 1);
}

#[test]
fn half_an_exchange_is_undone() {
    let mut machine = Machine::new(2, &[(0, 50), (0, 60), (1, 40), (1, 30)], balance());
    machine.fails = |order| matches!(order, Order::Move(step) if step.from == IoCore(1) && step.queue.port.0 > 1);
    machine.run(4);
    assert_eq!(machine.wanted(), [110, 70]);
    let back = machine.scheduler.decisions().find(|decision| matches!(decision.what, What::RollBack(_)));
    assert_eq!(back.unwrap().why, Why::HalfDone);
}

/// An exchange of which the first move was ordered.
fn exchanging() -> (Machine, Move) {
    let mut machine = Machine::new(2, &[(0, 50), (0, 60), (1, 40), (1, 30)], balance());
    loop {
        machine.ticks += 1;
        let load = machine.load();
        machine.scheduler.tick(&load);
        match machine.scheduler.next_order() {
            Some(Order::Move(first)) => return (machine, first),
            order => assert_eq!(order, None),
        }
    }
}

#[test]
fn an_exchange_that_has_begun_is_ended_before_a_pause() {
    let pause: fn(&mut Scheduler) = Scheduler::pause;
    let configure: fn(&mut Scheduler) = |scheduler| scheduler.configure(by(Policy::Static));
    for (stop, early) in [(pause, true), (pause, false), (configure, true), (configure, false)] {
        let (mut machine, first) = exchanging();
        if early {
            stop(&mut machine.scheduler);
        }
        machine.guests[first.queue.port.0 as usize].core = first.to.0;
        machine.scheduler.finished(Outcome::Done { pause_ns: 20_000 });
        if !early {
            stop(&mut machine.scheduler);
        }
        assert!(machine.scheduler.has_orders());
        let Some(Order::Move(second)) = machine.scheduler.next_order() else { panic!("half an exchange is left") };
        assert_eq!((second.from, second.to), (first.to, first.from));
        machine.guests[second.queue.port.0 as usize].core = second.to.0;
        machine.scheduler.finished(Outcome::Done { pause_ns: 20_000 });
        assert_eq!(machine.scheduler.status().settling, 1, "and is judged");
        assert!(machine.run(SECOND).is_empty());
        let judged = machine.scheduler.decisions().filter(|decision| decision.measured.is_some()).count();
        assert_eq!((machine.scheduler.status().settling, judged), (0, 2));
    }
}

#[test]
fn half_an_exchange_is_undone_before_a_pause() {
    for early in [true, false] {
        let (mut machine, first) = exchanging();
        machine.scheduler.finished(Outcome::Done { pause_ns: 20_000 });
        if early {
            machine.scheduler.pause();
        }
        assert!(machine.scheduler.next_order().is_some());
        machine.scheduler.finished(Outcome::Failed { reason: "it would not".to_owned() });
        machine.scheduler.pause();
        let back = Move { from: first.to, to: first.from, ..first };
        assert_eq!(machine.scheduler.next_order(), Some(Order::Move(back)));
        machine.scheduler.finished(Outcome::Done { pause_ns: 20_000 });
        assert_eq!(machine.scheduler.next_order(), None);
        assert_eq!(machine.scheduler.status().rolled_back, 1);
    }
}

#[test]
fn an_operators_move_is_left_alone_for_a_while() {
    let mut machine = Machine::new(2, &[(0, 45), (1, 40), (1, 20), (0, 5)], balance());
    assert!(machine.run(SECOND).is_empty());
    machine.guests[0].core = 1;
    let orders = machine.run(SECOND);
    assert!(!orders.is_empty() && machine.core_of(id(0)) == 1, "others make room: {orders:?}");
}

#[test]
fn pinned_queue_pairs_stay() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60), (0, 10)], balance());
    machine.guests[0].pinned = true;
    machine.run(10 * SECOND);
    assert_eq!(machine.core_of(id(0)), 0);
    assert_eq!(machine.core_of(id(1)), 1);
}

#[test]
fn guests_that_talk_come_together() {
    let mut machine = Machine::new(2, &[(0, 35), (1, 35), (0, 35), (1, 35)], balance());
    for (from, to) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        machine.guests[from].talks = Some(to);
    }
    machine.run(20 * SECOND);
    let core = |port| machine.core_of(id(port));
    assert!(core(0) == core(1) && core(2) == core(3) && core(0) != core(2));
    assert!(machine.run(600 * SECOND).is_empty());
}

/// Guests of which each even one sends to the next: `pairs` of them on each of two cores. A packet that crosses costs nearly twice as much on
/// either.
fn talkers(pairs: usize) -> Machine {
    let guests: Vec<_> = (0..2).flat_map(|core| vec![(core, 0); 2 * pairs]).collect();
    let mut machine = Machine::new(2, &guests, balance());
    machine.guests.iter_mut().enumerate().step_by(2).for_each(|(index, guest)| guest.talks = Some(index + 1));
    machine.crossing = 870;
    machine
}

/// Lets their pairs ask for so many percent of a core, by the core that they began on.
fn ask(machine: &mut Machine, demands: [u64; 2]) {
    let half = machine.guests.len() / 2;
    for (index, guest) in machine.guests.iter_mut().enumerate().step_by(2) {
        guest.demand = demands[index / half];
    }
}

fn parted(machine: &Machine) -> bool {
    machine.guests.chunks(2).any(|pair| pair[0].core != pair[1].core)
}

#[test]
fn those_who_talk_move_together_when_load_comes_suddenly() {
    let mut machine = talkers(4);
    ask(&mut machine, [15, 15]);
    assert!(machine.run(SECOND).is_empty());
    ask(&mut machine, [30, 2]);
    assert!(machine.run(3).len() >= 2);
    for _ in 0..SECOND {
        assert!(!parted(&machine), "{:?}", machine.orders);
        machine.run(1);
    }
    assert!(machine.wanted().iter().all(|wanted| *wanted < 95), "{:?}", machine.wanted());
    assert_eq!(machine.scheduler.status().rolled_back, 0);
}

#[test]
fn what_has_piled_up_is_no_reason_to_move_more() {
    let mut machine = talkers(4);
    machine.keeps = 50;
    ask(&mut machine, [15, 15]);
    machine.run(SECOND);
    ask(&mut machine, [28, 2]);
    machine.scheduler.pause();
    machine.run(10);
    machine.scheduler.resume();
    assert_eq!(machine.run(SECOND).len(), 2, "{:?}", machine.orders);
    // Where more is needed there is more, as soon.
    ask(&mut machine, [42, 2]);
    machine.run(SECOND / 10);
    assert!(machine.wanted().iter().all(|wanted| *wanted < 95), "{:?}", machine.wanted());
}

#[test]
fn what_is_held_is_moved_as_soon_as_it_may() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60), (1, 20)], balance());
    machine.guests[2].pinned = true;
    machine.run(SECOND / 2);
    assert_eq!(machine.core_of(id(0)), 1);
    (machine.guests[1].demand, machine.guests[2].demand) = (20, 60);
    assert!(machine.run(SECOND / 2).is_empty());
    assert_eq!(machine.run(5), [Order::Move(Move { queue: id(0), from: IoCore(1), to: IoCore(0) })]);
}

#[test]
fn near_cores_and_whole_cores_come_first() {
    let cpu = |node, physical| Cpu { node, physical };
    // 0 and 1 are threads of one core; 3 is on another node.
    let topology = Topology { cpus: vec![cpu(0, 0), cpu(0, 0), cpu(0, 1), cpu(1, 2)] };
    let mut machine = Machine::on(topology, &[(0, 60), (0, 60)], balance());
    machine.guests.iter_mut().for_each(|guest| guest.node = Some(0));
    let orders = machine.run(10 * SECOND);
    assert_eq!(orders, [Order::Move(Move { queue: id(0), from: IoCore(0), to: IoCore(2) })]);
}

#[test]
fn uneven_loads_are_evened_out_at_leisure() {
    let mut machine = Machine::new(2, &[(0, 30), (0, 30), (1, 10)], balance());
    assert!(machine.run(4 * SECOND).is_empty());
    machine.run(10 * SECOND);
    assert_eq!(*machine.wanted().iter().max().unwrap(), 40);
    let decision = machine.scheduler.decisions().next().unwrap();
    assert_eq!(decision.why, Why::Uneven(IoCore(0)));
}

#[test]
fn a_load_that_swings_is_not_chased() {
    // Each wants much for 7 s in turn: whatever is even now is not in a moment.
    let mut machine = Machine::new(2, &[(0, 20), (0, 20), (1, 20), (1, 20)], balance());
    for turn in 0..200 {
        for guest in 0..4 {
            machine.guests[guest].demand = if turn % 4 == guest { 50 } else { 15 };
        }
        machine.run(7 * SECOND);
    }
    assert!(machine.orders.len() <= 2, "{:?}", machine.orders);
}

#[test]
fn a_queue_pair_does_not_go_to_and_fro() {
    // Two of three large ones are busy at a time, never the same for long: each change saturates a core.
    let mut machine = Machine::new(2, &[(0, 60), (0, 60), (1, 60)], balance());
    for turn in 0..600 {
        for guest in 0..3 {
            machine.guests[guest].demand = if turn % 3 == guest { 1 } else { 60 };
        }
        machine.run(2 * SECOND);
    }
    // Twenty minutes; without holds there would be one for every other change.
    assert!(machine.orders.len() < 60, "{}", machine.orders.len());
}

#[test]
fn paused_it_does_nothing_and_resumed_it_goes_on() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60)], balance());
    machine.scheduler.pause();
    assert!(machine.run(SECOND).is_empty());
    assert!(machine.scheduler.status().paused);
    assert_eq!(machine.scheduler.plan().moves.len(), 1, "it still says what it would do");
    machine.scheduler.resume();
    assert_eq!(machine.run(2).len(), 1);
    let what: Vec<_> = machine.scheduler.decisions().map(|decision| decision.what).collect();
    assert_eq!(what[..2], [What::Pause, What::Resume]);
}

#[test]
fn a_plan_changes_nothing() {
    let mut machine = Machine::new(2, &[(0, 60), (0, 60)], balance());
    machine.run(1);
    let before = machine.scheduler.clone();
    let _ = machine.scheduler.plan();
    assert_eq!(format!("{before:?}"), format!("{:?}", machine.scheduler));
}

#[test]
fn the_log_is_bounded() {
    let mut machine = Machine::new(2, &[(0, 60)], Config { decisions: 3, ..balance() });
    for _ in 0..5 {
        machine.scheduler.pause();
        machine.scheduler.resume();
    }
    let numbers: Vec<_> = machine.scheduler.decisions().map(|decision| decision.number).collect();
    assert_eq!(numbers, [7, 8, 9]);
}

#[test]
fn cores_are_parked_when_load_allows_and_woken_when_one_saturates() {
    let mut machine = Machine::new(4, &[(0, 15), (1, 15), (2, 15), (3, 15)], elastic(1));
    machine.run(60 * SECOND);
    assert_eq!(machine.parked, [false, false, true, true], "60 % on one core would be too much");
    assert!(machine.run(600 * SECOND).is_empty(), "and it stays so");
    machine.guests.iter_mut().for_each(|guest| guest.demand = 60);
    let orders = machine.run(SECOND);
    assert!(matches!(orders[0], Order::Wake(_)), "{orders:?}");
    machine.run(10 * SECOND);
    assert_eq!((machine.parked.clone(), machine.wanted()), (vec![false; 4], vec![60; 4]));
    machine.guests.iter_mut().for_each(|guest| guest.demand = 1);
    machine.run(120 * SECOND);
    assert_eq!(machine.parked, [false, true, true, true]);
    assert_eq!(machine.wanted()[0], 4);
}

#[test]
fn no_fewer_than_min_stay_awake_nor_those_with_pinned_queue_pairs() {
    let mut machine = Machine::new(4, &[(3, 1)], elastic(2));
    machine.guests[0].pinned = true;
    machine.run(60 * SECOND);
    assert_eq!(machine.parked.iter().filter(|parked| **parked).count(), 2);
    assert!(!machine.parked[3]);
}

#[test]
fn a_core_is_not_parked_whose_uplinks_would_be_too_much_for_the_others() {
    let parked = |uplinks: [u64; 3]| {
        let mut machine = Machine::new(3, &[(0, 40), (1, 40)], elastic(2));
        machine.besides = uplinks.to_vec();
        machine.run(60 * SECOND);
        machine.parked
    };
    assert_eq!(parked([0, 0, 30]), [false, false, true]);
    assert_eq!(parked([0, 0, 39]), [false; 3], "79 % on one core would be too much");
}

/// Guests on the first of two cores, each with so much to send and to receive from NICs, in percent of a core.
fn receivers(guests: usize, sends: u64, receives: u64, config: Config) -> Machine {
    let mut machine = Machine::new(2, &vec![(0, sends); guests], config);
    machine.guests.iter_mut().for_each(|guest| guest.receives = receives);
    machine
}

#[test]
fn a_core_that_nics_fill_is_relieved_where_rules_bring_it_its_packets() {
    let mut machine = receivers(6, 2, 20, balance());
    assert!(machine.run(1).is_empty());
    assert!(matches!(machine.run(1)[..], [Order::Move(_), ..]), "in the second tick");
    machine.run(10 * SECOND);
    assert!(machine.wanted().iter().all(|wanted| *wanted < 95), "{:?}", machine.wanted());
    assert!(machine.load().cores.iter().all(|core| core.oldest_ns == 0));
    assert_eq!(machine.scheduler.status().rolled_back, 0);
}

#[test]
fn a_core_that_nics_fill_without_rules_is_said_not_to_be_fixed_once() {
    for sends in [0, 1] {
        let mut machine = receivers(6, sends, 20, balance());
        machine.unsteered = Some(0);
        machine.run(60 * SECOND);
        let reasons = hopeless(&machine);
        assert!(matches!(reasons[..], [Hopeless::Stuck { core: IoCore(0), .. }]), "{reasons:?}");
        assert!(machine.scheduler.status().moves <= 6, "{:?}", machine.orders);
    }
}

#[test]
fn a_core_is_woken_for_what_nics_bring() {
    let mut machine = receivers(4, 2, 5, elastic(1));
    machine.run(20 * SECOND);
    assert_eq!(machine.parked, [false, true]);
    machine.guests.iter_mut().for_each(|guest| guest.receives = 30);
    assert!(matches!(machine.run(3)[..], [Order::Wake(IoCore(1)), ..]));
    machine.run(10 * SECOND);
    assert_eq!((machine.parked.clone(), machine.wanted()), (vec![false; 2], vec![64, 64]));
}

#[test]
fn a_core_that_does_not_wake_is_tried_again() {
    let mut machine = Machine::new(2, &[(0, 10), (1, 10)], elastic(1));
    machine.run(20 * SECOND);
    assert_eq!(machine.parked, [false, true]);
    machine.fails = |order| matches!(order, Order::Wake(_));
    machine.guests.iter_mut().for_each(|guest| guest.demand = 60);
    let tries = machine.run(3 * SECOND).len();
    assert!((2..=4).contains(&tries), "{tries}");
    machine.fails = |_| false;
    machine.run(3 * SECOND);
    assert_eq!(machine.wanted(), [60, 60]);
}

#[test]
fn new_queue_pairs_go_where_the_policy_says() {
    let ask = |policy, parked: bool| {
        let mut machine = Machine::new(3, &[(0, 10), (0, 10), (1, 50)], by(policy));
        machine.parked[2] = parked;
        machine.run(10);
        let present: Vec<_> = (0..3).map(|port| (id(port), IoCore(machine.core_of(id(port))))).collect();
        let demands = [Demand { queue: id(7), pinned: None }, Demand { queue: id(8), pinned: None }];
        machine.scheduler.place(&present, &demands).unwrap()
    };
    let cores = |policy, parked| ask(policy, parked).placements.iter().map(|place| place.core.0).collect::<Vec<_>>();
    assert_eq!(cores(Policy::Static, false), [2, 1]);
    assert_eq!(cores(Policy::RoundRobin, false), [0, 1]);
    assert_eq!(cores(Policy::Balance, false), [2, 0]);
    assert_eq!(cores(Policy::Balance, true), [0, 0]);
    assert_eq!(ask(Policy::Balance, true).placements[0].reason, Reason::LeastLoaded { percent: 20 });
}

#[test]
fn names_are_told_apart() {
    for policy in Policy::ALL {
        assert_eq!(policy.name().parse(), Ok(policy));
    }
    let error = "best".parse::<Policy>().unwrap_err().to_string();
    assert!(error.contains("\"best\"") && error.contains("balance, ovs-cycles"), "{error}");
}

/// Each case is minutes of ticks.
fn fewer() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(2), ..usual }
}

/// Ticks of 50 ms, and how many there are in a second: minutes pass sooner.
fn slow(config: Config) -> Config {
    Config { tick_ns: 50_000_000, ..config }
}
const SLOW_SECOND: u64 = 20;
/// Twenty times as long as the average that loads are evened out by: what is left of the beginning is less than half a cycle.
const LONG: u64 = 600 * SLOW_SECOND;

proptest! {
    #![proptest_config(fewer())]

    /// Whatever the constant load: some moves, and then none for as long as one looks; and no core fuller than the fullest was.
    #[test]
    fn a_constant_load_converges(cores in 1usize..9, guests in vec((0usize..8, 0u64..80), 1..40)) {
        let guests: Vec<_> = guests.into_iter().map(|(core, percent)| (core % cores, percent)).collect();
        for policy in [Policy::Balance, Policy::LeastLoaded] {
            let mut machine = Machine::new(cores, &guests, slow(by(policy)));
            let before = *machine.wanted().iter().max().unwrap();
            machine.run(LONG);
            prop_assert!(machine.orders.len() <= 3 * guests.len(), "{} moves", machine.orders.len());
            prop_assert!(machine.run(LONG).is_empty());
            prop_assert!(*machine.wanted().iter().max().unwrap() <= before.max(100));
            prop_assert_eq!(machine.scheduler.status().rolled_back, 0);
        }
    }

    /// However much more pairs ask for, and whenever in a tick they begin to: none is parted, and no move made things worse.
    #[test]
    fn a_rise_parts_nobody(pairs in 1usize..7, before in 0u64..90, after in 0u64..200, begun in 0u64..100, other in 0u64..40) {
        let of = |percent: u64| percent / pairs as u64;
        let mut machine = talkers(pairs);
        ask(&mut machine, [of(before), of(other)]);
        machine.run(SECOND);
        ask(&mut machine, [of((before * (100 - begun) + after * begun) / 100), of(other)]);
        machine.run(1);
        ask(&mut machine, [of(after), of(other)]);
        for _ in 0..2 * SECOND {
            machine.run(1);
            prop_assert!(!parted(&machine), "{:?}", machine.orders);
        }
        prop_assert_eq!(machine.scheduler.status().rolled_back, 0);
    }

    /// Cores park and wake, whatever the load does; no order is ever impossible (the machine checks). When the load holds still, so do they.
    #[test]
    fn elastic_cores_come_to_rest(guests in vec((0usize..4, 0u64..60), 1..16), later in vec(0u64..60, 16)) {
        let mut machine = Machine::new(4, &guests, slow(elastic(1)));
        machine.run(30 * SLOW_SECOND);
        for (guest, demand) in machine.guests.iter_mut().zip(later) {
            guest.demand = demand;
        }
        machine.run(LONG);
        let orders = machine.run(LONG);
        prop_assert!(orders.is_empty(), "{orders:?}");
    }

    /// Ticks that are told at once do what the same ticks do one by one: the same decisions, in the same ticks, and the same averages to the last
    /// digit, whatever queue pairs do, come, go and are moved by others in between.
    #[test]
    fn many_ticks_at_once_are_as_many_ticks(
        which in 0usize..4,
        guests in vec((0usize..3, 0u64..80), 1..12),
        phases in vec((1u32..400, vec(0u64..90, 12), vec(any::<bool>(), 12), 0usize..12, 0usize..6), 1..20),
    ) {
        let config = [balance(), elastic(1), by(Policy::LeastLoaded), by(Policy::OvsAutoLb)][which].clone();
        let [mut one_by_one, mut at_once] = [0, 1].map(|_| Machine::new(3, &guests, slow(config.clone())));
        for (ticks, demands, silent, talker, event) in phases {
            for (machine, at_once) in [(&mut one_by_one, false), (&mut at_once, true)] {
                match event {
                    0 if machine.guests.len() > 1 => drop(machine.guests.pop()),
                    1 => machine.guests.push(Guest { core: 0, talks: None, ..machine.guests[0] }),
                    2 => machine.guests[0].core = (0..3).find(|core| !machine.parked[*core]).unwrap(),
                    _ => {}
                }
                let count = machine.guests.len();
                for (index, guest) in machine.guests.iter_mut().enumerate().take(demands.len()) {
                    guest.demand = if silent[index] { 0 } else { demands[index] };
                    guest.talks = Some((index + 1) % count).filter(|to| *to != index && index == talker);
                }
                machine.run_alike(ticks, at_once);
            }
            prop_assert_eq!(&one_by_one.orders, &at_once.orders);
            let [this, that] = [&one_by_one, &at_once].map(|machine| {
                let decisions: Vec<_> = machine.scheduler.decisions().cloned().collect();
                (machine.scheduler.status(), machine.scheduler.plan(), decisions)
            });
            prop_assert_eq!(this, that);
        }
    }
}

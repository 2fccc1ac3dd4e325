//! Static placement does what an operator would do by hand.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use scheduler::{Demand, IoCore, PlaceError, PortId, QueueId, Reason, place};

fn queue(port: u32, queue: u16) -> QueueId {
    QueueId { port: PortId(port), queue }
}

fn free(port: u32, index: u16) -> Demand {
    Demand { queue: queue(port, index), pinned: None }
}

fn pinned(port: u32, index: u16, core: usize) -> Demand {
    Demand { queue: queue(port, index), pinned: Some(IoCore(core)) }
}

fn cores(cores: usize, present: &[(QueueId, IoCore)], demands: &[Demand]) -> Vec<usize> {
    let plan = place(cores, present, demands).unwrap();
    plan.placements.iter().map(|placement| placement.core.0).collect()
}

#[test]
fn guests_of_one_queue_pair_go_round() {
    let demands: Vec<_> = (0..5).map(|port| free(port, 0)).collect();
    assert_eq!(cores(2, &[], &demands), [0, 1, 0, 1, 0]);
}

#[test]
fn the_gap_a_guest_left_is_filled_first() {
    let present = [(queue(0, 0), IoCore(0)), (queue(2, 0), IoCore(0)), (queue(3, 0), IoCore(1))];
    assert_eq!(cores(2, &present, &[free(4, 0), free(5, 0)]), [1, 0]);
}

#[test]
fn pinned_queue_pairs_count_before_the_others_are_placed() {
    assert_eq!(cores(2, &[], &[free(0, 0), free(1, 0), pinned(2, 0, 0), pinned(2, 1, 0)]), [1, 1, 0, 0]);
}

#[test]
fn queue_pairs_of_a_port_spread_over_cores_of_equal_load() {
    let present = [(queue(1, 0), IoCore(0)), (queue(2, 0), IoCore(1))];
    assert_eq!(cores(2, &present, &[free(1, 1)]), [1]);
}

#[test]
fn reasons_name_what_decided() {
    let plan = place(2, &[(queue(9, 0), IoCore(0))], &[pinned(0, 0, 0), free(1, 3)]).unwrap();
    assert_eq!(plan.placements[0].reason, Reason::Pinned);
    assert_eq!(plan.placements[1].reason, Reason::Fewest { queues: 0 });
    let shown = "queue pair 3 of port 1 goes to I/O core 1: it had the fewest queue pairs: 0";
    assert_eq!(plan.placements[1].to_string(), shown);
    assert_eq!(plan.core_of(queue(1, 3)), Some(IoCore(1)));
    assert_eq!(plan.core_of(queue(1, 4)), None);
}

#[test]
fn what_cannot_be_placed() {
    assert_eq!(place(0, &[], &[]), Err(PlaceError::NoCores));
    let no_such = PlaceError::NoSuchCore { queue: queue(0, 0), core: IoCore(2), cores: 2 };
    assert_eq!(place(2, &[], &[pinned(0, 0, 2)]), Err(no_such));
    let twice = Err(PlaceError::Twice { queue: queue(0, 0) });
    assert_eq!(place(2, &[], &[free(0, 0), pinned(0, 0, 1)]), twice);
    assert_eq!(place(2, &[(queue(0, 0), IoCore(1))], &[free(0, 0)]), twice);
}

proptest! {
    #[test]
    fn every_plan_is_whole_obedient_and_even(
        count in 1usize..9,
        ports in vec((1u16..5, option::of(any::<prop::sample::Index>())), 0..20),
    ) {
        let mut demands = Vec::new();
        for (port, (pairs, pin)) in ports.iter().enumerate() {
            let pinned = pin.map(|pin| IoCore(pin.index(count)));
            demands.extend((0..*pairs).map(|index| Demand { queue: queue(port as u32, index), pinned }));
        }
        let plan = place(count, &[], &demands).unwrap();
        prop_assert_eq!(&plan, &place(count, &[], &demands).unwrap());

        let order: Vec<_> = plan.placements.iter().map(|placement| placement.queue).collect();
        prop_assert_eq!(order, demands.iter().map(|demand| demand.queue).collect::<Vec<_>>());
        let mut loads = vec![0usize; count];
        let mut pins = vec![0usize; count];
        for (placement, demand) in plan.placements.iter().zip(&demands) {
            prop_assert!(demand.pinned.is_none_or(|core| core == placement.core));
            loads[placement.core.0] += 1;
            pins[placement.core.0] += usize::from(demand.pinned.is_some());
        }
        // A core may stand out only by what is pinned to it.
        let least = *loads.iter().min().unwrap();
        for (load, pins) in loads.iter().zip(&pins) {
            prop_assert!(*load <= least + 1 || load == pins, "{loads:?}, pinned {pins:?}");
        }
    }
}

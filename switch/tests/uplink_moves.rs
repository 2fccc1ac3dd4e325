//! Queue pairs of an uplink that move between the cores of a rig while packets are under way, out of the uplink and back in: whatever the order
//! in which cores are polled and told of the move, nothing is lost, duplicated or reordered.
#![forbid(unsafe_code)]

mod rig;

use proptest::prelude::*;
use rig::echo::Echo;

/// Cores of a rig, and guests: more than cores, so that some share one.
const CORES: usize = 3;
const GUESTS: usize = 4;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A guest sends so many frames.
    Send { from: usize, frames: usize },
    /// A core has its round.
    Poll { core: usize },
    /// A queue pair of the uplink is moved, where nothing else is.
    MoveQueue { queue: usize, to: usize },
    /// A guest is.
    MoveGuest { guest: usize, to: usize },
    /// One more core takes over the table of the move.
    Publish { nth: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..GUESTS, 1usize..50).prop_map(|(from, frames)| Step::Send { from, frames }),
        6 => (0..CORES).prop_map(|core| Step::Poll { core }),
        3 => (0..CORES, 0..CORES).prop_map(|(queue, to)| Step::MoveQueue { queue, to }),
        1 => (0..GUESTS, 0..CORES).prop_map(|(guest, to)| Step::MoveGuest { guest, to }),
        4 => (0..CORES).prop_map(|nth| Step::Publish { nth }),
    ]
}

/// With a queue pair for each core, or one for all.
fn play(steps: &[Step], queues: usize) -> Echo {
    let mut echo = Echo::new(GUESTS, CORES, queues);
    for step in steps {
        match *step {
            Step::Send { from, frames } => echo.send(from, frames),
            Step::Poll { core } => echo.poll(core),
            Step::MoveQueue { queue, to } => echo.move_queue(queue, to),
            Step::MoveGuest { guest, to } => echo.move_guest(guest, to),
            Step::Publish { nth } => echo.publish_move(nth),
        }
    }
    echo.settle();
    echo
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_the_order_nothing_is_lost_duplicated_or_reordered(
        steps in prop::collection::vec(step(), 1..300),
        queues in prop::sample::select(vec![1, CORES]),
    ) {
        play(&steps, queues).check();
    }
}

/// All queue pairs gather on each core in turn, under load.
#[test]
fn a_core_serves_all_queue_pairs_of_an_uplink() {
    for queues in [1, CORES] {
        let mut echo = Echo::new(GUESTS, CORES, queues);
        for round in 0..60 {
            for queue in 0..queues {
                (0..GUESTS).for_each(|guest| echo.send(guest, 100));
                (0..CORES).for_each(|core| echo.poll(core));
                echo.move_queue(queue, round % CORES);
                echo.settle();
                assert_eq!(echo.core_of(queue), round % CORES);
            }
        }
        assert!(echo.moves() >= 59 * queues, "{}", echo.moves());
        echo.check();
    }
}

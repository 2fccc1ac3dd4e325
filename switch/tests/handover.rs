//! Queue pairs that move between the cores of a rig while packets are under way: whatever the order in which cores are polled and told of the
//! move, nothing is lost, duplicated or reordered, unicast or flooded.
#![forbid(unsafe_code)]

mod rig;

use proptest::prelude::*;
use rig::circle::Circle;
use rig::{PACKED, SPLIT};

/// Cores of a rig, and guests: more than cores, so that some share one.
const CORES: usize = 3;
const GUESTS: usize = 4;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A guest sends so many frames to another, or floods one.
    Send {
        from: usize,
        to: usize,
        frames: usize,
    },
    Flood {
        from: usize,
    },
    /// A core has its round.
    Poll {
        core: usize,
    },
    /// A guest is moved, where no other is.
    Move {
        guest: usize,
        to: usize,
    },
    /// One more core takes over the table of the move.
    Publish {
        nth: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..GUESTS, 0..GUESTS, 1usize..50).prop_map(|(from, to, frames)| Step::Send { from, to, frames }),
        1 => (0..GUESTS).prop_map(|from| Step::Flood { from }),
        6 => (0..CORES).prop_map(|core| Step::Poll { core }),
        3 => (0..GUESTS, 0..CORES).prop_map(|(guest, to)| Step::Move { guest, to }),
        4 => (0..CORES).prop_map(|nth| Step::Publish { nth }),
    ]
}

fn play(steps: &[Step], packed: bool) -> Circle {
    let mut circle = Circle::new(if packed { PACKED } else { SPLIT }, GUESTS, CORES);
    for step in steps {
        match *step {
            Step::Send { from, to, frames } if from != to => circle.send(from, to, frames),
            Step::Send { .. } => {}
            Step::Flood { from } => circle.flood(from),
            Step::Poll { core } => circle.poll(core),
            Step::Move { guest, to } => circle.begin_move(guest, to),
            Step::Publish { nth } => circle.publish_move(nth),
        }
    }
    circle.settle();
    circle
}

proptest! {
    #[test]
    fn whatever_the_order_nothing_is_lost_duplicated_or_reordered(
        steps in prop::collection::vec(step(), 1..400),
        packed: bool,
    ) {
        play(&steps, packed).check();
    }
}

/// Moves with a hundred packets under way to and from the queue pair, in all directions.
#[test]
fn moves_under_load_lose_nothing() {
    let mut circle = Circle::new(SPLIT, GUESTS, CORES);
    let mut moves = 0;
    for round in 0..200 {
        let guest = round % GUESTS;
        for other in (0..GUESTS).filter(|other| *other != guest) {
            circle.send(guest, other, 40);
            circle.send(other, guest, 40);
        }
        // What is under way is in the rings between the cores, and in those of the guests.
        (0..CORES).for_each(|core| circle.poll(core));
        let to = (circle.core_of(guest) + 1 + round % (CORES - 1)) % CORES;
        circle.begin_move(guest, to);
        circle.settle();
        moves += usize::from(circle.core_of(guest) == to);
    }
    assert_eq!(moves, 200);
    circle.check();
}

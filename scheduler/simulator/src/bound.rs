//! What no policy could serve, even one that knows all of the future.
//!
//! A queue pair is on one core at a time, and a core serves it no faster than packets that stay there, so that no more of it is served in a tick than
//! a core can do; nor of all together than all cores can. What is left waits in rings, as far as it fits, or is lost.

use crate::model::Model;

/// Something of which so many packets are served in a tick, at most.
#[derive(Debug, Clone, Copy)]
struct Server {
    /// Packets.
    most: f64,
    /// Packets that can wait.
    room: f64,
    /// At least so many were lost so far.
    lost: f64,
    /// At least so many were not served so far: they are lost, or wait.
    unserved: f64,
}

impl Server {
    fn new(most: f64, room: f64) -> Self {
        Self { most, room, lost: 0.0, unserved: 0.0 }
    }

    /// Takes the packets that come in a tick.
    ///
    /// Let U be what was not served by any policy, and L what of it is lost; U ≥ `unserved` and L ≥ `lost` before the tick. At most `most` are served
    /// in it, so that U' ≥ U + `packets` − `most`; and what is lost stays so, so that U' ≥ L' ≥ L. No more than `room` of U' wait, so that L' ≥ U' − `room`.
    /// So both hold after it too, whatever waits, goes with its guest, or is not served because of a move.
    fn tick(&mut self, packets: f64) {
        self.unserved = (self.unserved + packets - self.most).max(self.lost);
        self.lost = self.lost.max(self.unserved - self.room);
    }
}

/// Follows a load, tick by tick.
pub(crate) struct Bound {
    queues: Vec<Server>,
    all: Server,
}

impl Bound {
    pub(crate) fn new(model: &Model, cores: usize, guests: usize) -> Self {
        let queue = Server::new(model.packets_a_tick(), model.ring);
        let all = Server::new(queue.most * cores as f64, queue.room * guests as f64);
        Self { queues: vec![queue; guests], all }
    }

    pub(crate) fn tick(&mut self, packets: &[f64]) {
        self.all.tick(packets.iter().sum());
        self.queues.iter_mut().zip(packets).for_each(|(queue, packets)| queue.tick(*packets));
    }

    /// At least so many packets are not served so far. What each queue pair has too much and what all together have may be the same packets, so that the
    /// larger is the bound, not the sum.
    pub(crate) fn packets(&self) -> f64 {
        self.queues.iter().map(|queue| queue.unserved).sum::<f64>().max(self.all.unserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Machine, id};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use scheduler::{IoCore, Move, Order};

    const CORES: usize = 3;
    const GUESTS: usize = 5;

    /// In parts of a core. Few enough levels that a guest alone, and all together, are often too much and often not.
    fn parts() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), Just(1.002), 0.0..2.5]
    }

    proptest! {
        /// Whatever is moved, and whoever crosses.
        #[test]
        fn nothing_serves_more(
            ticks in vec((vec(parts(), GUESTS), 0..GUESTS, 0..CORES), 1..60),
            place in vec(0..CORES, GUESTS),
            partners in vec(proptest::option::of(0..GUESTS), GUESTS),
        ) {
            let model = Model::default();
            let mut machine = Machine::new(&model, CORES, place.clone(), partners);
            let mut bound = Bound::new(&model, CORES, GUESTS);
            let (mut place, mut demanded) = (place, 0.0);
            for (parts, guest, to) in ticks {
                let packets: Vec<f64> = parts.iter().map(|part| part * model.packets_a_tick()).collect();
                demanded += packets.iter().sum::<f64>();
                bound.tick(&packets);
                machine.tick(&packets);
                prop_assert!(demanded - machine.served >= bound.packets() - 1e-6 * demanded);
                if place[guest] != to {
                    let step = Move { queue: id(guest), from: IoCore(place[guest]), to: IoCore(to) };
                    machine.carry_out(Order::Move(step));
                    place[guest] = to;
                }
            }
        }

        /// It is no lower than it has to be: who has a core alone is left with just that; and so are all, where guests ask for the same.
        #[test]
        fn it_is_reached_where_nothing_is_in_the_way(ticks in vec(parts(), 1..60), shared in any::<bool>()) {
            let model = Model::default();
            let (cores, guests) = if shared { (1, 4) } else { (2, 2) };
            let mut machine = Machine::new(&model, cores, (0..guests).map(|guest| guest % cores).collect(), vec![None; guests]);
            let mut bound = Bound::new(&model, cores, guests);
            let mut demanded = 0.0;
            for part in ticks {
                let packets = vec![part * model.packets_a_tick() * cores as f64 / guests as f64; guests];
                demanded += packets.iter().sum::<f64>();
                bound.tick(&packets);
                machine.tick(&packets);
                prop_assert!((demanded - machine.served - bound.packets()).abs() <= 1e-6 * demanded.max(1.0));
            }
        }
    }
}

//! What a move costs, as measured: the pause in which nobody serves the queue pair.

use super::Scheduler;
use crate::Settings;

/// Moves over whose pauses the mean goes.
const MOVES: u32 = 16;
/// The mean halves for every so long without a move. A price at which nothing is moved would never be measured again.
const HALVES_NS: u64 = 300_000_000_000;

/// A running mean of pauses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Price {
    pause_ns: f64,
    moves: u32,
    /// The tick of the last move.
    last: u64,
}

impl Scheduler {
    /// Takes the pause of a move into the mean. A queue pair that was not in use had none, which says nothing.
    pub(super) fn note_pause(&mut self, pause_ns: u64) {
        if pause_ns == 0 {
            return;
        }
        let faded = self.faded_price();
        let (mean, moves) = (faded.pause_ns, (faded.moves + 1).min(MOVES));
        let pause_ns = mean + (pause_ns as f64 - mean) / f64::from(moves);
        self.price = Price { pause_ns, moves, last: self.tick };
    }

    /// The mean as of now, and for how many moves it stands.
    fn faded_price(&self) -> Price {
        let halvings = ((self.tick - self.price.last) / self.config.ticks(HALVES_NS)).min(31) as u32;
        let pause_ns = self.price.pause_ns / f64::from(1_u32 << halvings);
        Price { pause_ns, moves: self.price.moves >> halvings, ..self.price }
    }

    /// The settings with what a move costs. As if a core did nothing in a pause, which has to pay in the time for which what was moved stays.
    pub(super) fn priced(&self) -> Settings {
        let pause_ns = self.faded_price().pause_ns;
        let capacity = (0..self.history.cores()).map(|core| self.history.capacity(core)).fold(0.0, f64::max);
        let measured = pause_ns / self.config.patience.hold_ns.max(1) as f64 * capacity;
        let balance = self.config.balance;
        Settings { move_cycles: balance.move_cycles + measured as u64, ..balance }
    }
}

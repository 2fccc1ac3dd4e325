//! Which queue pair goes where next.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sidecore_tests::switch::{Moved, SwitchProcess};

use crate::CORES;
use crate::phases::{GUESTS, Phase, name};
use crate::traffic::Traffic;

/// Turns in which they go through the directions: after three moves each core has as many queue pairs as before.
const TURNS: [(usize, usize); 6] = [(0, 1), (1, 2), (2, 0), (1, 0), (0, 2), (2, 1)];

/// Packets that arrive before every second move, and the longest wait for them.
const BETWEEN: u64 = 200;
const PATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_micros(200);

/// Random numbers (xorshift64*): the same ones for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

/// A queue pair's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    guest: usize,
    queue: usize,
    core: usize,
}

/// What was seen of a move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Its direction.
    pub(crate) turn: usize,
    /// Packets that were under way when it began.
    pub(crate) in_flight: u64,
    /// Microseconds in which the queue pair was not served.
    pub(crate) pause_us: f64,
}

/// Moves the queue pairs of a phase.
pub(crate) struct Mover<'a> {
    switch: &'a SwitchProcess,
    dice: &'a mut Dice,
    places: Vec<Place>,
    moves: usize,
    /// Packets that had arrived when the last move began.
    received: u64,
}

impl<'a> Mover<'a> {
    /// Spreads the queue pairs over all cores. Their rings are started.
    pub(crate) fn new(switch: &'a SwitchProcess, phase: &Phase, dice: &'a mut Dice) -> Result<Self> {
        let pairs = (0..GUESTS).flat_map(|guest| (0..phase.queue_pairs).map(move |queue| (guest, queue)));
        let mut places = Vec::new();
        for (number, (guest, queue)) in pairs.enumerate() {
            let core = number % CORES;
            let moved = switch.move_guest(&name(guest), Some(queue), core)?;
            ensure!(moved.len() == 1 && moved[0].to == core, "asked for core {core}, got {moved:?}");
            places.push(Place { guest, queue, core });
        }
        Ok(Self { switch, dice, places, moves: 0, received: 0 })
    }

    /// Makes the next move.
    pub(crate) fn next(&mut self, traffic: &Traffic) -> Result<Seen> {
        let turn = self.moves % TURNS.len();
        self.moves += 1;
        let (from, to) = TURNS[turn];
        let there: Vec<usize> = (0..self.places.len()).filter(|n| self.places[*n].core == from).collect();
        let chosen = there[self.dice.below(there.len())];
        let Place { guest, queue, .. } = self.places[chosen];
        if self.dice.below(2) == 0 {
            self.wait_for_packets(traffic)?;
        }
        let live = traffic.live().context("the generator's counts are gone")?;
        self.received = live.received();
        let moved = self.switch.move_guest(&name(guest), Some(queue), to)?;
        let done = match &moved[..] {
            [Moved { guest: g, queue: q, from: f, to: t, pause_us: Some(pause_us) }]
                if (g.as_str(), *q, *f, *t) == (name(guest).as_str(), queue, from, to) =>
            {
                *pause_us
            }
            other => {
                let asked = format!("queue pair {queue} of {} from core {from} to {to}", name(guest));
                anyhow::bail!("asked to move {asked}, the switch says that it has done {other:?}")
            }
        };
        self.places[chosen].core = to;
        Ok(Seen { turn, in_flight: live.in_flight(guest, queue), pause_us: done })
    }

    /// Moves as quick as the switch makes them would find the generator waiting for its turn, where CPUs are shared.
    fn wait_for_packets(&self, traffic: &Traffic) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let live = traffic.live().context("the generator's counts are gone")?;
            if live.received() >= self.received + BETWEEN {
                break;
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_all_directions_and_lead_back() {
        let mut turns = TURNS.to_vec();
        turns.sort_unstable();
        turns.dedup();
        assert_eq!(turns.len(), CORES * (CORES - 1));
        let mut on = [1i32; CORES];
        for (from, to) in TURNS {
            assert!(on[from] > 0, "no queue pair on core {from}");
            (on[from], on[to]) = (on[from] - 1, on[to] + 1);
        }
        assert_eq!(on, [1; CORES]);
    }

    #[test]
    fn dice_are_fair_enough_and_repeat() {
        let mut counts = [0; 6];
        let mut dice = Dice::new(7);
        (0..6000).for_each(|_| counts[dice.below(6)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.below(100)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(3), rolls(3));
        assert_ne!(rolls(3), rolls(4));
    }
}

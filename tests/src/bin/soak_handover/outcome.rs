//! What all of it comes to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sidecore_tests::switch::Status;

use crate::Cpus;
use crate::moves::Seen;
use crate::traffic::Counts;

/// Packets that make a move one with packets in flight.
const IN_FLIGHT: u64 = 100;
/// Share of the moves that have to be such ones.
const IN_FLIGHT_SHARE: f64 = 0.9;

/// What one phase has shown.
#[derive(Debug, Default)]
pub(crate) struct PhaseOutcome {
    moves: Vec<Seen>,
    pub(crate) traffic: Counts,
    /// All that the switch has dropped up to now, by reason.
    pub(crate) switch_drops: BTreeMap<String, u64>,
}

impl PhaseOutcome {
    pub(crate) fn add_move(&mut self, seen: Seen) {
        self.moves.push(seen);
    }

    fn in_flight_moves(&self) -> u64 {
        self.moves.iter().filter(|seen| seen.in_flight >= IN_FLIGHT).count() as u64
    }
}

impl fmt::Display for PhaseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { sent, lost, duplicated, reordered, corrupted, late, misdelivered, ring_faults, .. } = self.traffic;
        write!(f, "{} moves, {} with packets in flight, {sent} packets, ", self.moves.len(), self.in_flight_moves())?;
        write!(f, "{lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupted} corrupted")?;
        for (count, what) in [(late, "late"), (misdelivered, "misdelivered"), (ring_faults, "ring faults")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if self.switch_drops.is_empty() { Ok(()) } else { write!(f, ", dropped up to now {:?}", self.switch_drops) }
    }
}

/// The line of JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outcome {
    moves: u64,
    packets: u64,
    /// Moves at whose beginning 100 packets or more were under way from the queue pair or to its guest.
    in_flight_moves: u64,
    /// Packets in the rings between I/O cores that had to wait there until the queue pair they were for had come.
    parked: u64,
    /// CPUs of the I/O cores.
    cpus: Vec<usize>,
    /// Whether I/O cores and the generator had to share CPUs: then pauses say little.
    shared_cpu: bool,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupted: u64,
    pause_p99_us: f64,
    pause_p50_us: f64,
    pause_max_us: f64,
    /// By direction: 0 to 1, 1 to 2, 2 to 0, 1 to 0, 0 to 2, 2 to 1.
    directions: [u64; 6],
    late: u64,
    misdelivered: u64,
    ring_faults: u64,
    /// Packets that the switch says it dropped, by reason.
    drops: BTreeMap<String, u64>,
    /// Packets that the switch's accounting cannot explain.
    unaccounted: u64,
    kicks: u64,
    seconds: f64,
    seed: u64,
    #[serde(skip)]
    pauses_us: Vec<f64>,
}

impl Outcome {
    pub(crate) fn new(seed: u64, machine: &Cpus) -> Self {
        Self { seed, cpus: machine.io_cores.to_vec(), shared_cpu: machine.is_shared, ..Self::default() }
    }

    pub(crate) fn add(&mut self, phase: &PhaseOutcome) {
        self.moves += phase.moves.len() as u64;
        self.in_flight_moves += phase.in_flight_moves();
        phase.moves.iter().for_each(|seen| self.directions[seen.turn] += 1);
        self.pauses_us.extend(phase.moves.iter().map(|seen| seen.pause_us));
        let Counts { sent, received: _, lost, duplicated, reordered, corrupted, late, misdelivered, ring_faults } =
            phase.traffic;
        self.packets += sent;
        self.lost += lost;
        self.duplicated += duplicated;
        self.reordered += reordered;
        self.corrupted += corrupted;
        self.late += late;
        self.misdelivered += misdelivered;
        self.ring_faults += ring_faults;
    }

    /// Adds what the switch says when all is over.
    pub(crate) fn close(&mut self, status: &Status, took: Duration) {
        self.drops = status.drops();
        self.parked = status.cores.iter().map(|core| core.parked_packets).sum();
        self.unaccounted = status.accounting.unaccounted() + status.accounting.in_flight;
        self.kicks = status.ports.iter().map(|port| port.kicks_polling).sum();
        self.seconds = took.as_secs_f64();
        self.pauses_us.sort_by(f64::total_cmp);
        [self.pause_p50_us, self.pause_p99_us, self.pause_max_us] =
            [0.5, 0.99, 1.0].map(|share| quantile(&self.pauses_us, share));
    }

    /// What is wrong, in words.
    pub(crate) fn faults(&self, asked: u64) -> Vec<String> {
        let mut faults = Vec::new();
        let mut none = |count: u64, what: &str| {
            if count > 0 {
                faults.push(format!(
                    "{count} {what}; the lines above say in which phases, and with --seed {} it can be tried again",
                    self.seed
                ));
            }
        };
        none(self.lost, "packets were lost");
        none(self.duplicated, "packets were duplicated");
        none(self.reordered, "packets were reordered");
        none(self.corrupted, "packets were corrupted");
        none(self.late, "packets came too late to say what they are");
        none(self.misdelivered, "packets came to another guest");
        none(self.ring_faults, "times a ring held what no driver accepts");
        none(self.drops.values().sum(), &format!("packets were dropped by the switch ({:?})", self.drops));
        none(self.unaccounted, "packets are missing in the switch's accounting (sidecore status)");
        none(self.kicks, "kicks were counted while I/O cores polled");
        if self.parked == 0 {
            faults.push("no packet had to wait in a ring between I/O cores for a queue pair on its way".to_owned());
        }
        if self.moves < asked {
            faults.push(format!("{} moves of {asked} were made", self.moves));
        }
        let share = self.in_flight_moves as f64 / self.moves.max(1) as f64;
        if share < IN_FLIGHT_SHARE {
            faults.push(format!(
                "only {:.0} % of the moves had {IN_FLIGHT} packets in flight, {:.0} % are needed: does something else use the CPUs?",
                share * 100.0,
                IN_FLIGHT_SHARE * 100.0
            ));
        }
        faults
    }

    /// The same for a switch without the ordering token, whose errors have to be seen.
    pub(crate) fn faults_of_broken_switch(&self) -> Vec<String> {
        let seen = self.lost + self.duplicated + self.reordered + self.corrupted + self.late;
        let text = "the ordering token was left out, and no error was seen: was sidecore-faulty built with --features \
                    fault-injection? Were there enough --moves?";
        if seen > 0 { Vec::new() } else { vec![text.to_owned()] }
    }
}

/// The value that this share of the sorted values does not exceed; 0 where there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Outcome {
        Outcome { moves: 100, in_flight_moves: 95, parked: 3, packets: 5, seed: 9, ..Outcome::default() }
    }

    #[test]
    fn every_fault_is_said() {
        assert_eq!(good().faults(100), Vec::<String>::new());
        type Change = fn(&mut Outcome);
        let cases: [(Change, &str); 10] = [
            (|o| o.lost = 1, "lost"),
            (|o| o.duplicated = 1, "duplicated"),
            (|o| o.reordered = 1, "reordered"),
            (|o| o.corrupted = 1, "corrupted"),
            (|o| o.unaccounted = 1, "accounting"),
            (|o| o.kicks = 1, "kicks"),
            (|o| _ = o.drops.insert("rx_full".into(), 3), "rx_full"),
            (|o| o.in_flight_moves = 89, "89 %"),
            (|o| o.parked = 0, "between I/O cores"),
            (|o| (o.moves, o.in_flight_moves) = (99, 99), "99 moves of 100"),
        ];
        for (change, words) in cases {
            let mut outcome = good();
            change(&mut outcome);
            let faults = outcome.faults(100);
            assert!(faults.len() == 1 && faults[0].contains(words), "{words}: {faults:?}");
        }
    }

    #[test]
    fn a_broken_switch_has_to_be_seen() {
        assert_eq!(good().faults_of_broken_switch().len(), 1);
        assert!(Outcome { reordered: 3, ..good() }.faults_of_broken_switch().is_empty());
    }

    #[test]
    fn quantiles_are_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [100.0, 198.0, 200.0]);
        assert_eq!((quantile(&[], 0.5), quantile(&[4.0], 0.01)), (0.0, 4.0));
    }
}

//! The function callgrind counts in, and how often it is called.

use crate::rig::{BURST, RING};

/// Refills that are counted, after one that is not.
const FILLS: usize = 8;
/// Packets that are counted in bursts of one, after one that is not.
const SINGLES: usize = 1000;
/// Rounds that are counted where there is nothing to do.
const EMPTY_ROUNDS: usize = 1000;

/// What a round takes, about, when it moves a burst: idle rings are looked at by time.
const ROUND_US: u64 = 2;
/// What passes in the rounds that are not counted: long enough for idle rings to be known as such.
const WARM_US: u64 = 500;

/// Something that has rounds to count.
pub(crate) trait Rounds {
    /// Before the rounds that empty the rings: not counted.
    fn fill(&mut self) {}
    /// Before a round with a burst of one packet: not counted.
    fn send_one(&mut self) {}
    /// Before each round: not counted.
    fn pass_time(&mut self, _us: u64) {}
    /// What is counted. Whether there was anything to do.
    fn round(&mut self) -> bool;
    /// After them: not counted.
    fn drain(&mut self) {}
    /// After a round with a burst of one packet: not counted.
    fn receive_one(&mut self) {}
}

/// Callgrind counts while this function runs, and knows it by its name (`callgrind.rs`).
#[inline(never)]
pub(crate) fn counted_round<R: Rounds>(rounds: &mut R) -> bool {
    std::hint::black_box(rounds.round())
}

/// Rounds with a full burst each, the rings refilled between them.
pub(crate) fn busy<R: Rounds>(rounds: &mut R) {
    for fill in 0..=FILLS {
        rounds.fill();
        for _ in 0..RING / BURST {
            rounds.pass_time(if fill == 0 { WARM_US } else { ROUND_US });
            let worked = if fill == 0 { rounds.round() } else { counted_round(rounds) };
            assert!(worked, "there is a burst for every round");
        }
        rounds.drain();
    }
}

/// Rounds with a burst of one packet each.
pub(crate) fn single<R: Rounds>(rounds: &mut R) {
    for packet in 0..=SINGLES {
        rounds.send_one();
        rounds.pass_time(ROUND_US);
        let worked = if packet == 0 { rounds.round() } else { counted_round(rounds) };
        assert!(worked, "there is a packet for every round");
        rounds.receive_one();
    }
}

/// Packets in the rounds that [`single`] counts.
pub(crate) const SINGLE_PACKETS: u64 = SINGLES as u64;

/// Packets in the rounds that [`busy`] counts.
pub(crate) const BUSY_PACKETS: u64 = (FILLS * RING) as u64;

/// Rounds with nothing to do.
pub(crate) fn empty<R: Rounds>(rounds: &mut R) {
    for _ in 0..RING / BURST {
        rounds.pass_time(WARM_US);
        rounds.round();
    }
    for _ in 0..EMPTY_ROUNDS {
        rounds.pass_time(ROUND_US);
        assert!(!counted_round(rounds), "there is nothing to do");
    }
}

/// Rounds that [`empty`] counts.
pub(crate) const EMPTY: u64 = EMPTY_ROUNDS as u64;

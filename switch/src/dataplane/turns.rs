//! How much a queue pair may be served before it is the others' turn: deficit round robin (Shreedhar and Varghese, 1995), by what packets cost
//! rather than by their number.
//!
//! In every round each queue pair is given credit, a [`QUANTUM`] for each unit of its weight. A burst begins only with credit, and then costs
//! what it turns out to cost: it may overdraw, by less than one burst, and the debt is paid back from the credit of later rounds. Credit of an
//! earlier round is lost where nothing was there to spend it on, but for class latency, which keeps that of [`SAVED`] rounds: bursts of others
//! may overdraw all in the same round, which is long then, and those after it are short. So no queue pair ever has more credit than for
//! that, none is more than one burst in debt, and over any time in which two of them always have work, their costs are as their weights
//! but for these two bounds.

use config::Mode;
use vm_ports::BURST_PACKETS;

/// What a packet costs beside its bytes, in bytes copied. Chosen on 2 CPUs of an Intel Xeon, where a short packet took some 135 ns from guest to guest and a
/// byte of a long one 0.11 ns (`make bench-peers` at commit 2109831: 64 KiB at 74 Gbit/s; `ringgen stream`: 64 B at 7.1 Mpps and more, ARCHITECTURE,
/// "Speed"). With README's figures for an AMD EPYC it would be 1,900 at most: half a CPU forwards 64 B at 8.77 Mpps, a whole one 64 KiB at 268 Gbit/s.
pub(super) const PACKET_COST: i64 = 1200;
/// What a descriptor of a chain of several costs: a look at it, a translation, and a copy from another place, which is seldom in the cache.
/// Chosen, not measured.
pub(super) const DESCRIPTOR_COST: i64 = PACKET_COST / 4;
/// Credit of a round for each unit of weight: a full burst of short packets. Longer ones overdraw, and wait for it.
pub(super) const QUANTUM: i64 = BURST_PACKETS as i64 * (PACKET_COST + 60);

/// Rounds of which a queue pair of class latency keeps the credit.
const SAVED: i64 = 4;

/// What copying packets costs, in bytes.
#[inline]
pub(super) fn cost(packets: usize, bytes: usize) -> i64 {
    packets as i64 * PACKET_COST + bytes as i64
}

/// Class, weight and mode of a queue pair; they go with it from core to core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whether it is looked at after every burst of others, and in the middle of them.
    pub latency: bool,
    /// Its part of a core that has too much to do, beside others', from 1.
    pub weight: u32,
    /// Whether its driver may be asked to kick when it has been idle.
    pub mode: Mode,
}

impl Default for Share {
    fn default() -> Self {
        Self { latency: false, weight: 1, mode: Mode::Poll }
    }
}

impl Share {
    /// Of a guest in a switch of this mode.
    pub(super) fn of(guest: &config::GuestConfig, mode: Mode) -> Self {
        let latency = guest.class == config::Class::Latency;
        Self { latency, weight: guest.weight, mode: guest.mode.unwrap_or(mode) }
    }
}

/// The rounds of a core.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Rounds up to now, those that would have served nobody included.
    round: u64,
    /// Rounds from now until the first of those that wait has credit.
    until: u64,
}

/// What one queue pair may be served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    /// Credit of one round.
    share: i64,
    /// The most that is kept.
    most: i64,
    /// What is left of it; negative: a debt.
    left: i64,
    /// The round up to which credit was given.
    round: u64,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self { round: 0, until: u64::MAX }
    }

    /// Begins a round. Where everybody who waited was in debt, rounds are left out until one of them is not.
    #[inline]
    pub(super) fn begin(&mut self) {
        let step = if self.until == u64::MAX { 1 } else { self.until };
        self.round = self.round.wrapping_add(step);
        self.until = u64::MAX;
    }
}

impl Credit {
    /// For a queue pair that has just come: it has credit from the next round on.
    pub(super) fn new(share: Share, rounds: &Rounds) -> Self {
        let (share, kept) = (QUANTUM * i64::from(share.weight.max(1)), if share.latency { SAVED } else { 1 });
        Self { share, most: kept * share, left: 0, round: rounds.round }
    }

    /// Whether a burst may begin. Asked of a queue pair that has work; one that has to wait is not forgotten.
    #[inline]
    pub(super) fn may_pull(&mut self, rounds: &mut Rounds) -> bool {
        let passed = rounds.round.wrapping_sub(self.round);
        if passed > 0 {
            self.round = rounds.round;
            let given = i64::try_from(passed).unwrap_or(i64::MAX).saturating_mul(self.share);
            self.left = self.left.saturating_add(given).min(self.most);
        }
        if self.left > 0 {
            return true;
        }
        self.wait(rounds);
        false
    }

    /// Pays for a burst. Whether another one may follow in this round, if there is `more`.
    #[inline]
    pub(super) fn pay(&mut self, cost: i64, more: bool, rounds: &mut Rounds) -> bool {
        self.left -= cost;
        if !more {
            return false;
        }
        if self.left > 0 {
            return true;
        }
        self.wait(rounds);
        false
    }

    #[inline]
    fn wait(&self, rounds: &mut Rounds) {
        // Nearly always one round is enough, and nothing has to be divided.
        let until = if self.left + self.share > 0 { 1 } else { (-self.left / self.share) as u64 + 1 };
        rounds.until = rounds.until.min(until);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    /// The most that a burst of a test costs.
    const BURST_MAX: i64 = 4 * QUANTUM;

    /// Queue pairs that are served as an I/O core serves them.
    struct Core {
        rounds: Rounds,
        credits: Vec<Credit>,
        /// What each was charged.
        served: Vec<i64>,
    }

    impl Core {
        fn new(weights: &[u32]) -> Self {
            let rounds = Rounds::new();
            let share = |weight| Share { weight, ..Share::default() };
            let credits = weights.iter().map(|weight| Credit::new(share(*weight), &rounds)).collect();
            Self { rounds, credits, served: vec![0; weights.len()] }
        }

        /// One round, in which `burst` says what a queue pair's next burst costs; `None`: it has no work. How many bursts there were.
        fn round(&mut self, mut burst: impl FnMut(usize) -> Option<i64>) -> usize {
            self.rounds.begin();
            let mut turns: VecDeque<usize> = (0..self.credits.len()).collect();
            let mut bursts = 0;
            while let Some(index) = turns.pop_front() {
                let credit = &mut self.credits[index];
                if let Some(cost) = burst(index)
                    && credit.may_pull(&mut self.rounds)
                {
                    bursts += 1;
                    self.served[index] += cost;
                    if credit.pay(cost, true, &mut self.rounds) {
                        turns.push_back(index);
                    }
                }
                assert!(self.credits[index].left <= self.credits[index].share, "more credit than for a round");
                assert!(self.credits[index].left > -BURST_MAX, "more debt than a burst");
            }
            bursts
        }
    }

    #[test]
    fn a_single_queue_pair_is_served_in_every_round_whatever_its_bursts_cost() {
        let mut core = Core::new(&[1]);
        for cost in [1, QUANTUM, 3 * QUANTUM + 1, BURST_MAX, 17] {
            let mut left = Some(cost);
            assert_eq!(core.round(|_| left.take()), 1, "{cost}");
            core.credits[0].wait(&mut core.rounds);
        }
    }

    #[test]
    fn a_heavier_one_has_its_bursts_between_those_of_others() {
        let mut core = Core::new(&[3, 1, 1]);
        let mut order = Vec::new();
        core.round(|index| {
            order.push(index);
            Some(QUANTUM)
        });
        assert_eq!(order, [0, 1, 2, 0, 0]);
    }

    #[test]
    fn whoever_was_away_comes_back_with_credit_for_one_round_and_with_its_debt() {
        let mut core = Core::new(&[1, 1]);
        core.round(|index| (index == 0).then_some(QUANTUM));
        for _ in 0..1000 {
            core.round(|index| (index == 0).then_some(QUANTUM));
        }
        let before = core.served[0];
        // It was away for a thousand rounds: it gets as much as the other now.
        for _ in 0..10 {
            core.round(|_| Some(QUANTUM));
        }
        assert_eq!((core.served[0] - before, core.served[1]), (10 * QUANTUM, 10 * QUANTUM));
        // Four quanta at once, then away for one round: three rounds are still to be waited for.
        core.round(|index| Some(if index == 1 { BURST_MAX } else { QUANTUM }));
        core.round(|index| (index == 0).then_some(QUANTUM));
        let served = core.served[1];
        core.round(|_| Some(QUANTUM));
        core.round(|_| Some(QUANTUM));
        assert_eq!(core.served[1], served);
        core.round(|_| Some(QUANTUM));
        assert_eq!(core.served[1], served + QUANTUM);
    }

    #[test]
    fn a_long_absence_does_not_overflow() {
        let mut core = Core::new(&[100]);
        core.rounds.round = u64::MAX - 1;
        assert_eq!(core.round(|_| Some(QUANTUM)), 100);
        assert_eq!(core.round(|_| Some(QUANTUM)), 100);
    }

    proptest! {
        /// Over any stretch of time, two that always have work differ, weight for weight, by less than a burst of each: both begin and end it
        /// with less than a burst of debt and no credit. And in every round somebody is served.
        #[test]
        fn shares_are_as_weights(
            weights in prop::collection::vec(1u32..=100, 1..8),
            costs in prop::collection::vec(1..BURST_MAX, 1..60),
            rounds in 1usize..200,
            from in 0usize..200,
        ) {
            let mut core = Core::new(&weights);
            let mut next = 0;
            let mut begin = vec![0; weights.len()];
            for round in 0..from + rounds {
                if round == from {
                    begin.clone_from(&core.served);
                }
                let bursts = core.round(|_| { next += 1; Some(costs[next % costs.len()]) });
                prop_assert!(bursts > 0, "nobody was served in round {round}");
            }
            let served: Vec<(i64, i64)> =
                (0..weights.len()).map(|i| (core.served[i] - begin[i], i64::from(weights[i]))).collect();
            for ((a, weight), (b, other)) in served.iter().flat_map(|one| served.iter().map(move |two| (*one, *two))) {
                // Both sides times both weights.
                prop_assert!((a * other - b * weight).abs() < BURST_MAX * (weight + other), "{served:?}");
            }
        }

        /// Whatever others do, one that has work waits for no more rounds than its debt makes it.
        #[test]
        fn nobody_starves(
            steps in prop::collection::vec(prop::collection::vec((any::<bool>(), 1..BURST_MAX), 4), 1..200),
        ) {
            let mut core = Core::new(&[1, 7, 100, 1]);
            let mut waiting = [0u64; 4];
            for step in &steps {
                let before = core.served.clone();
                // The first one always has work.
                core.round(|index| (step[index].0 || index == 0).then_some(step[index].1));
                for index in 0..4 {
                    let waits = (step[index].0 || index == 0) && core.served[index] == before[index];
                    waiting[index] = if waits { waiting[index] + 1 } else { 0 };
                    prop_assert!(waiting[index] <= (BURST_MAX / QUANTUM) as u64, "{index} waits");
                }
            }
        }
    }
}

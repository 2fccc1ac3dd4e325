//! What a core notes of a source from one reading of the loads to the next: the longest wait, and who received from it.
//!
//! Readings are numbered. A core writes what belongs to the number that is published ([`super::accounting::CoreCounters::tick`]); there are two places, for even
//! and odd numbers. The reader publishes the next number and then reads what was noted under the last, which the core leaves alone
//! until the number after next. So the core sets a maximum back by itself, each place has one writer, and nobody waits. A burst that was
//! under way when the number changed may be missed.

use vm_ports::Counter;

use super::accounting::SourceId;

/// Receivers noted for a source.
const RECEIVERS: usize = 8;
/// Bits of a slot that hold the packets; the receiver is above them.
const PACKETS_BITS: u32 = 48;

/// The notes of two intervals in a row.
#[derive(Debug, Default)]
pub(super) struct Intervals([Interval; 2]);

/// The notes of one interval.
#[derive(Debug, Default)]
pub(super) struct Interval {
    number: Counter,
    /// In cycles.
    longest_wait: Counter,
    /// Receiver and packets in one word, so that a reader never sees the one without the other. 0: free.
    talks: [Counter; RECEIVERS],
}

impl Intervals {
    /// The place for interval `number`, emptied if it was another's.
    #[inline]
    fn at(&self, number: u64) -> &Interval {
        let interval = &self.0[(number & 1) as usize];
        if interval.number.get() != number {
            interval.begin(number);
        }
        interval
    }

    /// Notes that work had waited for so many cycles.
    #[inline]
    pub(super) fn waited(&self, number: u64, cycles: u64) {
        let longest = &self.at(number).longest_wait;
        longest.set(longest.get().max(cycles));
    }

    /// Notes that `to` received so many packets.
    #[inline]
    pub(super) fn talked(&self, number: u64, to: SourceId, packets: usize) {
        self.at(number).talked(to, packets as u64);
    }

    /// What was noted in interval `number`, if anything was.
    pub(super) fn of(&self, number: u64) -> Option<&Interval> {
        Some(&self.0[(number & 1) as usize]).filter(|interval| interval.number.get() == number)
    }
}

impl Interval {
    #[cold]
    fn begin(&self, number: u64) {
        self.longest_wait.set(0);
        self.talks.iter().for_each(|slot| slot.set(0));
        self.number.set(number);
    }

    #[inline]
    fn talked(&self, to: SourceId, packets: u64) {
        let receiver = word(to, 0) >> PACKETS_BITS;
        for slot in &self.talks {
            let held = slot.get();
            if held >> PACKETS_BITS == receiver {
                return slot.set(held + packets);
            }
            if held == 0 {
                return slot.set(word(to, packets));
            }
        }
        self.replace(to, packets);
    }

    /// Takes the slot of whoever received least, and what it received with it: so every receiver of more than an eighth of all packets has a
    /// slot, with no less than its own ("Space-Saving", Metwally et al. 2005).
    #[cold]
    fn replace(&self, to: SourceId, packets: u64) {
        let least = self.talks.iter().min_by_key(|slot| packets_of(slot.get()));
        if let Some(slot) = least {
            slot.set(word(to, packets_of(slot.get()) + packets));
        }
    }

    /// The longest wait that ended in the interval, in cycles.
    pub(super) fn longest_wait(&self) -> u64 {
        self.longest_wait.get()
    }

    /// Who received how many packets. Exact for up to eight receivers; of more, the largest, each with up to an eighth of all packets too many.
    pub(super) fn talks(&self) -> impl Iterator<Item = (SourceId, u64)> + '_ {
        let held = self.talks.iter().map(Counter::get).filter(|held| *held > 0);
        held.map(|held| (SourceId(((held >> PACKETS_BITS) - 1) as u16), packets_of(held)))
    }
}

#[inline]
fn word(to: SourceId, packets: u64) -> u64 {
    // 0 is a free slot's.
    (u64::from(to.0) + 1) << PACKETS_BITS | packets
}

fn packets_of(held: u64) -> u64 {
    held & ((1 << PACKETS_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::dataplane::accounting::SOURCES_MAX;
    use proptest::prelude::*;

    fn talks(intervals: &Intervals, number: u64) -> HashMap<u16, u64> {
        intervals.of(number).map(|interval| interval.talks().map(|(to, n)| (to.0, n)).collect()).unwrap_or_default()
    }

    proptest! {
        #[test]
        fn up_to_eight_receivers_are_counted_exactly(runs in prop::collection::vec((0_u16..8, 1_usize..=32), 0..500)) {
            let (intervals, mut model) = (Intervals::default(), HashMap::new());
            for (to, packets) in runs {
                // Both ends of the range of sources.
                let to = if to % 2 == 0 { to } else { SOURCES_MAX as u16 - to };
                intervals.talked(0, SourceId(to), packets);
                *model.entry(to).or_default() += packets as u64;
            }
            prop_assert_eq!(talks(&intervals, 0), model);
        }

        #[test]
        fn of_more_the_largest_are_there(runs in prop::collection::vec((0_u16..40, 1_usize..=32), 0..2000)) {
            let (intervals, mut model) = (Intervals::default(), HashMap::new());
            for (to, packets) in &runs {
                intervals.talked(4, SourceId(*to), *packets);
                *model.entry(*to).or_default() += *packets as u64;
            }
            let (found, all) = (talks(&intervals, 4), model.values().sum::<u64>());
            prop_assert_eq!(found.values().sum::<u64>(), all, "no packet is left out");
            for (to, packets) in model {
                let counted = found.get(&to).copied();
                prop_assert!(counted.is_some() || packets * 8 <= all, "{} has no slot for {} of {}", to, packets, all);
                prop_assert!(counted.is_none_or(|n| n >= packets && n <= packets + all / 8));
            }
        }

        #[test]
        fn each_interval_has_its_own_maximum(waits in prop::collection::vec((0_u64..3, 1_u64..1000), 0..200)) {
            let (intervals, mut model, mut number) = (Intervals::default(), HashMap::new(), 0);
            for (steps, cycles) in waits {
                number += steps;
                intervals.waited(number, cycles);
                let longest: &mut u64 = model.entry(number).or_default();
                *longest = cycles.max(*longest);
                // The one that is read: that before, whatever was noted since.
                for number in [number, number.saturating_sub(1)] {
                    let found = intervals.of(number).map_or(0, Interval::longest_wait);
                    prop_assert_eq!(found, model.get(&number).copied().unwrap_or(0));
                }
            }
        }
    }

    #[test]
    fn a_new_interval_begins_with_nobody() {
        let intervals = Intervals::default();
        intervals.talked(6, SourceId(1), 5);
        intervals.talked(7, SourceId(2), 5);
        assert_eq!((talks(&intervals, 6), talks(&intervals, 7)), (HashMap::from([(1, 5)]), HashMap::from([(2, 5)])));
        intervals.talked(8, SourceId(3), 1);
        assert_eq!((talks(&intervals, 6), talks(&intervals, 8)), (HashMap::new(), HashMap::from([(3, 1)])));
    }
}

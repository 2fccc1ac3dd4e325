//! A token bucket that counts in cycles.

use std::num::NonZeroU32;

/// Lets through a steady rate and a burst above it.
///
/// Instead of tokens it keeps the time at which the bucket will be full again (the generic cell rate algorithm): one
/// comparison, one store, no multiplication and no fractions to lose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Cycles that one token takes to come back; 0 for no limit.
    interval: u64,
    /// How far `full_at` may be ahead of now for one more token to be there.
    slack: u64,
    full_at: u64,
}

impl TokenBucket {
    /// Lets everything through.
    pub(crate) const UNLIMITED: Self = Self { interval: 0, slack: u64::MAX, full_at: 0 };

    /// `rate` tokens a second and `burst` at once, on a counter of `cycles_per_s`. The bucket begins full. Rates are
    /// exact to one part in `cycles_per_s / rate`, rounded to the faster side.
    pub(crate) fn new(rate: NonZeroU32, burst: NonZeroU32, cycles_per_s: u64) -> Self {
        let interval = (cycles_per_s / u64::from(rate.get())).max(1);
        Self { interval, slack: interval.saturating_mul(u64::from(burst.get()) - 1), full_at: 0 }
    }

    /// Takes one token at `now`, if there is one. A `now` before an earlier one (counters of two cores may differ by
    /// some cycles) is no error: it sees the bucket a little emptier.
    #[inline]
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let there = self.has(now);
        if there {
            self.full_at = self.full_at.max(now).saturating_add(self.interval);
        }
        there
    }

    /// Whether there is one at `now`.
    #[inline]
    pub(crate) fn has(&self, now: u64) -> bool {
        self.full_at <= now.saturating_add(self.slack)
    }

    /// How many there are at `now`; `None` where there is no limit.
    pub(crate) fn tokens(&self, now: u64) -> Option<u64> {
        let ahead = now.saturating_add(self.slack).checked_sub(self.full_at.max(now));
        (self.interval > 0).then(|| ahead.map_or(0, |ahead| 1 + ahead / self.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HZ: u64 = 1_000_000_000;

    fn bucket(rate: u32, burst: u32) -> TokenBucket {
        TokenBucket::new(rate.try_into().expect("not zero"), burst.try_into().expect("not zero"), HZ)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = bucket(1000, 5);
        let start = 7 * HZ;
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 5);
        let passed = (0..HZ).step_by(100_000).filter(|after| bucket.take(start + after)).count();
        assert_eq!(passed, 999);
        assert_eq!((0..20).filter(|_| bucket.take(start + 9 * HZ)).count(), 5);
    }

    #[test]
    fn no_limit_and_time_that_goes_back() {
        let mut unlimited = TokenBucket::UNLIMITED;
        assert!((0..100_000).all(|i| unlimited.take(i % 7)));
        assert_eq!(unlimited.tokens(0), None);
        let mut one = bucket(1, 1);
        assert!(one.take(10 * HZ));
        assert!(!one.take(HZ));
        assert!(one.take(11 * HZ));
        let mut end = bucket(1, u32::MAX);
        assert!(end.take(u64::MAX) && end.take(u64::MAX));
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst(rate in 1u32..2_000_000, burst in 1u32..100, gaps in prop::collection::vec(0u64..3_000_000, 1..300)) {
            let mut bucket = bucket(rate, burst);
            let (mut now, mut passed) = (HZ, 0u64);
            let start = now;
            for gap in gaps {
                now += gap;
                let tokens = bucket.tokens(now).expect("a limit");
                prop_assert!(tokens <= u64::from(burst) && bucket.has(now) == (tokens > 0));
                let took = bucket.take(now);
                prop_assert_eq!(bucket.tokens(now), Some(tokens.saturating_sub(1)));
                prop_assert_eq!(took, tokens > 0);
                passed += u64::from(took);
                let interval = HZ / u64::from(rate);
                prop_assert!(passed <= u64::from(burst) + (now - start) / interval);
            }
        }
    }
}

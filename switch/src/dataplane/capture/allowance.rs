//! How much of its time a core may spend on a capture: a share of all that passes, of which little can be saved up.

/// A core that spent less time on a capture than it might have may make up for so many hundredths of a second.
const CARRIED: u64 = 1;
/// The packets between two looks at the clock take less than this part of a second, whatever is in them. What took longer was not spent here: the core had
/// lost its CPU.
const LONGEST: u64 = 2000;

/// How much of its time a core may still spend on a capture.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Hundredths.
    share: u64,
    /// Cycles, and how many can be carried over. Less than none after packets that took more than was left.
    left: i64,
    most: i64,
    /// Cycles that can be spent at once.
    longest: u64,
    earned_until: u64,
    /// When there will be some left, where there are none.
    blind_until: u64,
}

impl Allowance {
    /// 100 hundredths: no bound.
    pub(super) fn new(share: u32, cycles_per_s: u64) -> Self {
        let share = u64::from(share);
        let most = if share < 100 { (cycles_per_s / 100 * CARRIED * share / 100) as i64 } else { i64::MAX };
        Self { share, left: most, most, longest: cycles_per_s / LONGEST, earned_until: 0, blind_until: 0 }
    }

    /// Time has passed. A clock that is another CPU's may be a little behind.
    pub(super) fn earn(&mut self, now: u64) {
        let passed = now.saturating_sub(self.earned_until);
        self.earned_until = self.earned_until.max(now);
        let earned = passed.saturating_mul(self.share) / 100;
        self.left = self.left.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(self.most);
    }

    #[inline]
    pub(super) fn is_blind(&self, now: u64) -> bool {
        now < self.blind_until
    }

    /// Cycles have been spent since time was earned last.
    pub(super) fn pay(&mut self, cycles: u64) {
        self.left = self.left.saturating_sub_unsigned(cycles.min(self.longest));
        if self.left <= 0 {
            let lacking = self.left.unsigned_abs() + 1;
            self.blind_until = self.earned_until.saturating_add((100 * lacking).div_ceil(self.share.max(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_core_that_loses_its_cpu_is_not_blind_for_long() {
        let hz = 1_000_000_000;
        let mut allowance = Allowance::new(5, hz);
        allowance.earn(hz);
        // A second.
        allowance.pay(hz);
        assert!(allowance.is_blind(hz) && !allowance.is_blind(hz + hz / 1000));
        let mut unbounded = Allowance::new(100, hz);
        unbounded.pay(hz);
        assert!(!unbounded.is_blind(0));
    }

    proptest! {
        /// Over any time, no more is spent than the share of it, what is carried over and what is spent between two looks at the clock. Who is not
        /// blind has something left.
        #[test]
        fn no_more_than_its_share(share in 1u32..=50, bursts in prop::collection::vec((0u64..200_000, 0u64..50_000), 1..400)) {
            let hz = 1_000_000_000;
            let mut allowance = Allowance::new(share, hz);
            let start = 5 * hz;
            allowance.earn(start);
            let (mut now, mut spent, mut longest) = (start, 0, 0);
            for (pause, length) in bursts {
                now += pause;
                if !allowance.is_blind(now) {
                    allowance.earn(now);
                    prop_assert!(allowance.left > 0);
                    now += length;
                    spent += length;
                    longest = longest.max(length);
                    allowance.pay(length);
                }
                let bound = (now - start) * u64::from(share) / 100 + hz / 100 * u64::from(share) / 100 + longest;
                prop_assert!(spent <= bound, "{spent} of {}", now - start);
            }
        }
    }
}

//! Medians and ratios of medians, with intervals that make no assumption about how the figures are distributed.
//!
//! Figures of one round share the state the machine was in, so rounds are drawn as pairs: what slows both systems down in a
//! round cancels out in their ratio.

use serde::{Deserialize, Serialize};

/// Resamples that an interval is made from.
const RESAMPLES: usize = 10_000;

/// Rounds of which an interval has all: one that leaves out the outermost two of eight covers 93 %.
const FEW: usize = 8;

/// The bootstrap's seed: the same figures always give the same interval.
const SEED: u64 = 0x51de_c04e;

/// A ratio of medians with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Ratio of the medians over all rounds.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The median; for an even count the mean of the two in the middle. None: no figures, or one that is not a number.
#[must_use]
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sort(&mut sorted)?;
    middle(&sorted)
}

/// The ratio of the median of `ours` to that of `theirs`, with a 95 % interval. The figures at one index are of one round.
///
/// With more rounds than [`FEW`] that is a bootstrap's over rounds. One of fewer rounds leaves out the outermost, and without these covers too
/// little (87.5 % of seven, where only one side is noisy). So theirs is from the smallest ratio of a round to the largest: the ratio of medians, and
/// that of every bootstrap's draw, lies between these, and where a round's ratio is as likely above the true one as below it, both ends miss that
/// as seldom as those of [`estimate`].
///
/// None when the two are not of the same rounds, when there is none, or when a figure of `theirs` is not positive.
#[must_use]
pub fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
    if ours.len() != theirs.len() || theirs.iter().any(|&figure| figure <= 0.0) {
        return None;
    }
    let value = median(ours)? / median(theirs)?;
    if ours.len() <= FEW {
        let ratios = || ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        let (low, high) = (ratios().fold(value, f64::min), ratios().fold(value, f64::max));
        return Some(Ratio { value, low, high });
    }
    let mut ratios = Vec::with_capacity(RESAMPLES);
    let mut random = SplitMix(SEED);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..RESAMPLES {
        left.clear();
        right.clear();
        for _ in 0..ours.len() {
            let round = random.below(ours.len());
            left.push(ours[round]);
            right.push(theirs[round]);
        }
        sort(&mut left)?;
        sort(&mut right)?;
        ratios.push(middle(&left)? / middle(&right)?);
    }
    sort(&mut ratios)?;
    Some(Ratio { value, low: quantile(&ratios, 0.025)?, high: quantile(&ratios, 0.975)? })
}

/// The median with a 95 % interval between two order statistics, whatever the distribution: a figure is as likely below the median as above it. Of
/// up to [`FEW`] figures it has all, which covers 1 − 2^(1−n): 98 % with seven, 94 % with five. Figures may be infinite. None: no figures, or one
/// that is not a number.
#[must_use]
pub fn estimate(figures: &[f64]) -> Option<Ratio> {
    let mut sorted = figures.to_vec();
    sort(&mut sorted)?;
    let outside = outside(sorted.len());
    Some(Ratio { value: middle(&sorted)?, low: sorted[outside], high: sorted[sorted.len() - 1 - outside] })
}

/// How many figures of so many an interval of their median can do without at each end, and still cover 95 %.
fn outside(count: usize) -> usize {
    // The logarithm of the chance that so many figures are below the median, and the chance that no more are.
    let mut chance = count as f64 * 0.5_f64.ln();
    let (mut at_most, mut outside) = (chance.exp(), 0);
    loop {
        chance += ((count - outside) as f64 / (outside + 1) as f64).ln();
        at_most += chance.exp();
        if 2.0 * at_most > 0.05 {
            return outside;
        }
        outside += 1;
    }
}

/// The order statistic at `share` (0 to 1) of sorted figures: the smallest figure that at least that share does not exceed.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    Some(sorted[rank.saturating_sub(1).min(last)])
}

fn sort(figures: &mut [f64]) -> Option<()> {
    if figures.iter().any(|figure| figure.is_nan()) {
        return None;
    }
    figures.sort_by(f64::total_cmp);
    Some(())
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    Some(if sorted.len().is_multiple_of(2) { (sorted[half - 1] + upper) / 2.0 } else { upper })
}

/// The SplitMix64 generator: small, and good enough to draw rounds with.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`. The bias of the multiplication is below 2^-50 for counts of rounds.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_figures() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[4.0]), Some(4.0));
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn order_statistics_at_the_ends() {
        let sorted: Vec<f64> = (1..=40).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile(&sorted, 0.025), Some(1.0));
        assert_eq!(quantile(&sorted, 0.026), Some(2.0));
        assert_eq!(quantile(&sorted, 0.975), Some(39.0));
        assert_eq!(quantile(&sorted, 1.0), Some(40.0));
        assert_eq!(quantile(&sorted, 2.0), Some(40.0));
        assert_eq!(quantile(&[7.0], 0.975), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn one_round_has_an_interval_of_no_width() {
        let only = ratio(&[6.0], &[3.0]).unwrap();
        assert_eq!((only.value, only.low, only.high), (2.0, 2.0, 2.0));
    }

    #[test]
    fn rounds_are_drawn_in_pairs() {
        // The machine is twice as fast in every other round, for both: the ratio is exact all the same.
        let theirs: Vec<f64> = (0..12).map(|round| if round % 2 == 0 { 1.0 } else { 2.0 }).collect();
        let ours: Vec<f64> = theirs.iter().map(|figure| figure * 3.0).collect();
        let paired = ratio(&ours, &theirs).unwrap();
        assert_eq!((paired.low, paired.value, paired.high), (3.0, 3.0, 3.0));
    }

    #[test]
    fn noise_widens_the_interval_around_the_ratio() {
        let ours = [10.0, 12.0, 11.0, 9.0, 10.5, 11.5, 9.5, 10.0, 12.5, 11.0, 10.0, 9.0];
        let theirs = [5.0, 4.0, 5.5, 6.0, 5.0, 4.5, 5.0, 5.2, 4.8, 5.0, 6.1, 5.3];
        let noisy = ratio(&ours, &theirs).unwrap();
        assert!(noisy.low < noisy.value && noisy.value < noisy.high, "{noisy:?}");
        assert!(noisy.low > 1.5 && noisy.high < 3.0, "{noisy:?}");
        assert_eq!(ratio(&ours, &theirs), Some(noisy), "the seed is fixed");
    }

    #[test]
    fn what_cannot_be_compared_has_no_ratio() {
        assert_eq!(ratio(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(ratio(&[], &[]), None);
        assert_eq!(ratio(&[1.0, 2.0], &[1.0, 0.0]), None);
        assert_eq!(ratio(&[f64::NAN, 2.0], &[1.0, 1.0]), None);
    }

    #[test]
    fn draws_cover_the_range_evenly() {
        let mut random = SplitMix(SEED);
        let mut counts = [0_u32; 12];
        for _ in 0..12_000 {
            counts[random.below(12)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    /// Of many samples of so many rounds, the part whose interval has the true value. Noise is lopsided, and has 1 as its median.
    fn coverage(rounds: usize, interval: impl Fn(&mut dyn FnMut() -> f64) -> Ratio) -> f64 {
        const SAMPLES: usize = 2000;
        let mut random = SplitMix(rounds as u64);
        let mut noise = || {
            let even = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
            if even < 0.5 { 0.5 + even } else { 1.0 + 10.0 * (even - 0.5) }
        };
        let covers = (0..SAMPLES).filter(|_| {
            let found = interval(&mut noise);
            found.low <= 1.0 && 1.0 <= found.high
        });
        covers.count() as f64 / SAMPLES as f64
    }

    #[test]
    fn intervals_cover_what_they_say() {
        for rounds in [6, 7, 8, 9, 10, 12, 14, 35] {
            let medians =
                coverage(rounds, |noise| estimate(&(0..rounds).map(|_| noise()).collect::<Vec<_>>()).unwrap());
            assert!((0.94..1.0).contains(&medians), "medians of {rounds} rounds: {medians}");
        }
        for rounds in [6, 7, 8] {
            // The machine's speed is both sides', and one of them varies besides.
            let ratios = coverage(rounds, |noise| {
                let theirs: Vec<f64> = (0..rounds).map(|_| noise()).collect();
                ratio(&theirs.iter().map(|speed| speed * noise()).collect::<Vec<_>>(), &theirs).unwrap()
            });
            assert!((0.94..1.0).contains(&ratios), "ratios of {rounds} rounds: {ratios}");
        }
    }

    #[test]
    fn few_rounds_leave_nothing_out() {
        let all = |count: usize| (1..=count).map(|figure| figure as f64).collect::<Vec<_>>();
        let ends = |count| estimate(&all(count)).map(|found| (found.low, found.value, found.high)).unwrap();
        assert_eq!((ends(1), ends(2), ends(5)), ((1.0, 1.0, 1.0), (1.0, 1.5, 2.0), (1.0, 3.0, 5.0)));
        assert_eq!((ends(7), ends(8)), ((1.0, 4.0, 7.0), (1.0, 4.5, 8.0)));
        assert_eq!((ends(9), ends(12)), ((2.0, 5.0, 8.0), (3.0, 6.5, 10.0)));
        assert_eq!(ends(5000).0, 2431.0, "some 1.96 standard deviations of a binomial distribution");
        let seven = ratio(&all(7), &[1.0; 7]).unwrap();
        assert_eq!((seven.low, seven.value, seven.high), (1.0, 4.0, 7.0));
    }

    #[test]
    fn what_never_happens_is_infinitely_late() {
        let found = estimate(&[3.0, f64::INFINITY, 1.0, 2.0, 4.0]).unwrap();
        assert_eq!((found.low, found.value, found.high), (1.0, 3.0, f64::INFINITY));
        assert_eq!(estimate(&[1.0, f64::INFINITY]).unwrap().value, f64::INFINITY);
        assert_eq!(estimate(&[f64::NAN, 1.0]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn the_interval_holds_only_possible_ratios(
            pairs in proptest::collection::vec((0.1_f64..100.0, 0.1_f64..100.0), 1..20),
        ) {
            let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let found = ratio(&ours, &theirs).unwrap();
            let largest = |figures: &[f64]| figures.iter().copied().fold(f64::MIN, f64::max);
            let smallest = |figures: &[f64]| figures.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(found.low <= found.high);
            prop_assert!(found.low >= smallest(&ours) / largest(&theirs));
            prop_assert!(found.high <= largest(&ours) / smallest(&theirs));
        }
    }
}

//! How a core shares a tick among its queue pairs.

/// Shares `capacity` so that nobody gets more than it wants, and nobody less than another that wants more: what deficit round robin
/// comes to. `shares` gets one share for each of `wanted`.
pub(crate) fn share(capacity: f64, wanted: &[f64], shares: &mut Vec<f64>) {
    shares.clear();
    if wanted.iter().sum::<f64>() <= capacity {
        shares.extend_from_slice(wanted);
        return;
    }
    let mut level = capacity.max(0.0) / wanted.len() as f64;
    // Each round lifts the level by what those who want less leave; it ends when none of them is left out.
    loop {
        let content: f64 = wanted.iter().filter(|wanted| **wanted <= level).sum();
        let greedy = wanted.iter().filter(|wanted| **wanted > level).count();
        let next = (capacity.max(0.0) - content) / greedy.max(1) as f64;
        if next <= level * (1.0 + 1e-12) {
            break;
        }
        level = next;
    }
    shares.extend(wanted.iter().map(|wanted| wanted.min(level)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nobody_gets_less_than_one_who_wants_more(
            capacity in 0.0..100.0,
            wanted in proptest::collection::vec(0.0..30.0, 1..20),
        ) {
            let mut shares = Vec::new();
            share(capacity, &wanted, &mut shares);
            let total: f64 = wanted.iter().sum();
            prop_assert!((shares.iter().sum::<f64>() - total.min(capacity)).abs() < 1e-6);
            let most = shares.iter().copied().fold(0.0, f64::max);
            for (share, wanted) in shares.iter().zip(&wanted) {
                prop_assert!(*share <= *wanted && (share >= wanted || *share > most - 1e-9));
            }
        }
    }
}

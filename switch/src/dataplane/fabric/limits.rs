//! The limits of a configuration, as cores go by them.

use std::num::NonZeroU32;

use pmd_bindings::tsc_hz;

use super::super::mailbox::Limits;
use super::super::ports::PORTS_MAX;
use crate::forwarding::{FdbSettings, TokenBucket};

fn at_least_one(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)
}

pub(super) fn fdb_settings(config: &config::SwitchConfig) -> FdbSettings {
    FdbSettings {
        capacity: config.fdb_entries as usize,
        ports: PORTS_MAX,
        ageing_s: at_least_one(config.fdb_ageing_s),
        learn_rate: at_least_one(config.learn_rate_per_s),
        learn_burst: at_least_one(config.learn_rate_per_s),
        cycles_per_s: tsc_hz(),
        seed: random_seed(),
    }
}

/// The limits of a configuration, in cycles.
pub(in super::super) fn limits(config: &config::SwitchConfig) -> Limits {
    let rate = at_least_one(config.learn_rate_per_s);
    let flood = config.flood_rate_pps.and_then(NonZeroU32::new);
    Limits {
        ageing_s: at_least_one(config.fdb_ageing_s),
        learn: TokenBucket::new(rate, rate, tsc_hz()),
        learn_max: config.learn_limit_per_port,
        // At once, a tenth of a second's worth.
        flood: flood
            .map_or(TokenBucket::UNLIMITED, |rate| TokenBucket::new(rate, at_least_one(rate.get() / 10), tsc_hz())),
    }
}

/// Nothing that a guest could know: the standard library's hash keys come from the system's random numbers.
fn random_seed() -> [u64; 4] {
    use std::hash::{BuildHasher, RandomState};
    std::array::from_fn(|index| RandomState::new().hash_one(index))
}

//! The `[scheduler]` section.

use crate::check::Section;
use crate::model::SchedulerConfig;
use crate::raw::RawScheduler;
use crate::report::{Key, Report};

/// None if anything in it is wrong; that is reported.
pub(crate) fn scheduler(raw: &RawScheduler, key: Key, report: &mut Report<'_>) -> Option<SchedulerConfig> {
    let mut section = Section::new(key, report);
    let default = SchedulerConfig::default();
    let tick_ms = section.number("tick_ms", raw.tick_ms, 1..=1000).unwrap_or(default.tick_ms);
    let busy = section.real("busy", raw.busy, 0.5..=1.0).unwrap_or(default.busy);
    let wait_us = section.number("wait_us", raw.wait_us, 1..=1_000_000).unwrap_or(default.wait_us);
    let gain = section.real("gain", raw.gain, 0.001..=1.0).unwrap_or(default.gain);
    section.finish(SchedulerConfig {
        policy: raw.policy.unwrap_or_default(),
        rebalance: raw.rebalance.unwrap_or(default.rebalance),
        tick_ms,
        busy,
        wait_us,
        gain,
    })
}

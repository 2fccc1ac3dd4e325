//! Other settings while it runs.

use super::{Config, OVS_WINDOW_NS, Scheduler};
use crate::Detector;
use crate::ovs::{AutoLoadBalance, Keys};

impl Scheduler {
    /// Goes by another configuration from the next tick on. What it knows of the loads, and what it decided, stays; what was planned and not
    /// begun is forgotten.
    pub fn configure(&mut self, config: Config) {
        let config = config.checked();
        self.forget_plans();
        if config.thresholds != self.config.thresholds {
            self.detector = Detector::new(self.topology.cpus.len(), config.thresholds);
        }
        if config.policy != self.config.policy {
            self.auto = auto_of(&config);
        }
        self.history.set_window(config.ticks(window_of(&config)));
        self.config = config;
    }
}

/// OVS's auto load balance, where the policy has it.
pub(super) fn auto_of(config: &Config) -> Option<AutoLoadBalance> {
    match config.policy.as_ovs() {
        Some((assignment, true)) => Some(AutoLoadBalance::new(assignment, &Keys::default())),
        _ => None,
    }
}

/// Over how long the policy looks back, in nanoseconds.
pub(super) fn window_of(config: &Config) -> u64 {
    if config.policy.as_ovs().is_some() { OVS_WINDOW_NS } else { config.patience.even_window_ns }
}

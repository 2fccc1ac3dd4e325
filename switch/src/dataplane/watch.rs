//! What the control thread looks after while nothing is asked of it: faults of guests become log lines.

use super::Dataplane;

impl Dataplane {
    /// Called now and then: says once for each ring that was stopped why it was.
    pub(crate) fn housekeep(&mut self) {
        self.captures.reap();
        for guest in &mut self.guests {
            if let Some(fault) = guest.new_fault() {
                tracing::warn!(
                    guest = guest.config.name.as_str(),
                    "ring stopped: {fault}; the guest has to reset its device"
                );
            }
        }
    }
}

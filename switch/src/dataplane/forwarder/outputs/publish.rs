//! The end of a burst: receivers are shown what was put out to them, and those that wait for it are called or woken.

use super::super::super::held::HeldCall;
use super::Outputs;

impl Outputs {
    /// Notes how many buffers are left to the receivers of this burst, before it is shown to them.
    #[cold]
    pub(in super::super::super) fn note_buffers(&self) {
        self.touched.iter().filter_map(|at| self.rx.get(usize::from(*at))).for_each(|slot| slot.rx.note_buffers());
    }

    /// Shows every receiver what it got.
    #[inline]
    pub(in super::super) fn publish(&mut self) {
        for at in &self.touched {
            if let Some(slot) = self.rx.get_mut(usize::from(*at)) {
                slot.rx.publish();
            }
        }
        for uplink in &mut self.uplinks {
            uplink.flush(&self.counters);
        }
        self.to_wake = self.to_touched;
        while self.to_touched != 0 {
            let core = self.to_touched.trailing_zeros();
            self.to_touched &= self.to_touched - 1;
            if let Some(Some(to)) = self.to.get_mut(core as usize) {
                to.flush();
            }
        }
    }

    /// Has the CPU fetch what the next packets for the same receivers will need.
    #[inline]
    pub(in super::super) fn look_ahead(&mut self) {
        for at in &self.touched {
            if let Some(slot) = self.rx.get_mut(usize::from(*at)) {
                slot.rx.look_ahead();
            }
        }
    }

    /// Wakes the cores that sleep, and calls the receivers that want it and whose calls are not held back.
    #[inline]
    pub(in super::super) fn notify(&mut self, now: u64) {
        while self.to_wake != 0 {
            let core = self.to_wake.trailing_zeros();
            self.to_wake &= self.to_wake - 1;
            if let Some(bell) = self.bells.of(core as usize) {
                bell.ring_after_fence();
            }
        }
        let Self { touched, rx, held, .. } = self;
        for at in touched.drain(..) {
            if let Some(slot) = rx.get_mut(usize::from(at)) {
                slot.touched = false;
                if let Some(until) = slot.rx.notify(now) {
                    held.hold(HeldCall::Rx(at), until);
                }
            }
        }
    }

    /// Lets those calls go, at the time `now`, that are held back until `time` at the latest; `senders` does it for a transmit ring, by its place.
    pub(in super::super::super) fn release_calls(
        &mut self,
        time: u64,
        now: u64,
        mut senders: impl FnMut(usize) -> Option<u64>,
    ) {
        let Self { rx, held, .. } = self;
        held.release(time, |call, time| match call {
            HeldCall::Rx(at) => rx.get_mut(usize::from(at)).and_then(|slot| slot.rx.release_by(time, now)),
            HeldCall::Tx(place) => senders(place.into()),
        });
    }
}

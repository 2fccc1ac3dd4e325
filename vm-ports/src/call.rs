//! The call: how a guest is interrupted, and when.

use std::fs::File;

use rustix::io::Errno;

use crate::counters::Counter;
use crate::moderation::{Moderation, Moderator};
use crate::ring::Ring;

/// A ring's way to interrupt its guest.
///
/// A call that is held back is one that the ring was not asked about: what was published stays unjudged, and whoever asks later learns whether the
/// driver, as it is then, wants to hear of any of it. So nothing has to be remembered of an event that was passed, and a driver that has seen
/// everything meanwhile is left alone.
#[derive(Debug)]
pub(crate) struct Call {
    /// The eventfd, if the frontend gave one (a guest that polls has none). The session has made sure that it is an eventfd and, at that
    /// time, did not block.
    eventfd: Option<File>,
    moderator: Moderator,
    /// Slots that a call which is held back is for; 0: none is.
    held: u16,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The guest was interrupted.
    Sent,
    /// It did not want to be, cannot be, or has an interrupt pending.
    Suppressed,
    /// The frontend made the eventfd block, and somebody had to interrupt us. It is given up.
    Blocked,
    /// The call is held back.
    Held,
}

impl Call {
    /// For a ring of so many descriptors.
    pub(crate) fn new(moderation: Moderation, size: u16) -> Self {
        Self { eventfd: None, moderator: Moderator::new(moderation, size), held: 0 }
    }

    /// Holds calls back in this way from now on.
    pub(crate) fn moderate(&mut self, moderation: Moderation, size: u16) {
        self.moderator = Moderator::new(moderation, size);
    }

    /// After something was published, at the time `now`, and a fence: interrupts the guest if it wants that, and the call is not held back. `more`:
    /// whether the guest itself has more under way that will be published. `saved` counts calls that became unnecessary. `None` where there is
    /// nothing to tell.
    #[inline]
    pub(crate) fn notify(
        &mut self,
        ring: &mut Ring,
        now: u64,
        more: impl FnOnce(&mut Ring) -> bool,
        saved: &Counter,
    ) -> Option<Signal> {
        let wanted = ring.wants_call()?;
        let slots = ring.unjudged();
        if slots == self.held {
            // Nothing new.
            return None;
        }
        // Where a call was held back, either the driver has seen what for, or hears of this publication together with that.
        let held = std::mem::take(&mut self.held) > 0;
        if held {
            saved.add(1);
        }
        if !wanted || self.eventfd.is_none() {
            ring.judge();
            return Some(Signal::Suppressed);
        }
        if self.moderator.holds(slots, || more(ring), held, now) {
            self.held = slots;
            return Some(Signal::Held);
        }
        ring.judge();
        Some(self.signal())
    }

    /// After something was published, and a fence: interrupts the guest if it wants that. No call is held back at this time. `None` where there
    /// is nothing to tell.
    #[inline]
    pub(crate) fn judge(&mut self, ring: &mut Ring) -> Option<Signal> {
        let wanted = ring.wants_call()?;
        ring.judge();
        Some(if wanted { self.signal() } else { Signal::Suppressed })
    }

    /// Until when a call is held back, if one is.
    #[inline]
    pub(crate) fn held_until(&self) -> Option<u64> {
        (self.held > 0).then(|| self.moderator.until())
    }

    /// Lets a call go that is held back; because its time has come, where it is said which time that is. Not where the driver has seen everything
    /// meanwhile.
    pub(crate) fn release(&mut self, ring: &mut Ring, expired: Option<u64>, saved: &Counter) -> Option<Signal> {
        if std::mem::take(&mut self.held) == 0 {
            return None;
        }
        let slots = ring.unjudged();
        let signal = self.judge(ring)?;
        if signal == Signal::Suppressed {
            // So this is not the last call, nor a batch that did not fill up.
            saved.add(1);
            return None;
        }
        if let Some(now) = expired {
            self.moderator.expired(slots, now);
        }
        Some(signal)
    }

    /// Interrupts the guest, if it can be.
    #[inline]
    fn signal(&mut self) -> Signal {
        let Some(eventfd) = &self.eventfd else { return Signal::Suppressed };
        match rustix::io::write(eventfd, &1u64.to_ne_bytes()) {
            Ok(_) => Signal::Sent,
            Err(Errno::INTR) => {
                self.eventfd = None;
                Signal::Blocked
            }
            // A full counter means that an interrupt is pending anyway.
            Err(_) => Signal::Suppressed,
        }
    }

    /// Swaps the eventfd and signals the new one once, so that nothing published meanwhile is missed.
    pub(crate) fn replace(&mut self, call: Option<File>) -> (Option<File>, Signal) {
        let old = std::mem::replace(&mut self.eventfd, call);
        (old, self.signal())
    }

    pub(crate) fn take(&mut self) -> Option<File> {
        self.eventfd.take()
    }
}

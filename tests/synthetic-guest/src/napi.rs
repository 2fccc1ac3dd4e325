//! A queue that is left to its interrupts, as drivers do that do not poll (in Linux it is called NAPI): a call has the queue looked at until nothing
//! is left, without further calls meanwhile; then the next one is asked for, the ring is looked at once more, and left alone until it comes.

use crate::notify::Bell;
use crate::ring::{CallMode, Ring};

/// Whether a queue is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Whenever its owner likes: no call is asked for by this.
    #[default]
    Polled,
    /// Until nothing is left.
    Called,
    /// Not before the next call.
    Asleep,
}

/// A queue's interrupts.
pub struct Interrupts<'a> {
    pub(crate) attention: &'a mut Attention,
    pub(crate) ring: &'a mut Ring,
    pub(crate) bell: &'a mut Bell,
}

impl Interrupts<'_> {
    /// From now on the queue is left alone whenever nothing is left in it, until it is called.
    pub fn turn_on(&mut self) {
        if *self.attention == Attention::Polled {
            *self.attention = Attention::Called;
        }
    }

    /// Whether it waits for a call.
    #[inline]
    pub fn is_asleep(&self) -> bool {
        *self.attention == Attention::Asleep
    }

    /// A call may have come: takes note of it, and has the queue looked at.
    pub fn called(&mut self) {
        self.bell.drain_calls();
        if self.is_asleep() {
            *self.attention = Attention::Called;
            self.ring.set_calls(CallMode::Never);
        }
    }

    /// Nothing was left: asks for a call, and goes to sleep if nothing has come meanwhile.
    #[inline]
    pub fn rest(&mut self) {
        if *self.attention == Attention::Called {
            self.ring.set_calls(CallMode::Event);
            // What came before the device could see the wish comes without a call.
            if self.ring.has_used() {
                self.ring.set_calls(CallMode::Never);
            } else {
                *self.attention = Attention::Asleep;
            }
        }
    }
}

//! The call: how a guest is interrupted.

use std::fs::File;

use rustix::io::Errno;

/// A ring's call eventfd, if the frontend gave one (a guest that polls has none). The session has made sure that it is an eventfd and,
/// at that time, did not block.
#[derive(Debug, Default)]
pub(crate) struct Call(Option<File>);

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The guest was interrupted.
    Sent,
    /// It did not want to be, cannot be, or has an interrupt pending.
    Suppressed,
    /// The frontend made the eventfd block, and somebody had to interrupt us. It is given up.
    Blocked,
}

impl Call {
    /// Interrupts the guest if it `wanted` it and can be.
    #[inline]
    pub(crate) fn signal(&mut self, wanted: bool) -> Signal {
        match &self.0 {
            Some(eventfd) if wanted => match rustix::io::write(eventfd, &1u64.to_ne_bytes()) {
                Ok(_) => Signal::Sent,
                Err(Errno::INTR) => {
                    self.0 = None;
                    Signal::Blocked
                }
                // A full counter means that an interrupt is pending anyway.
                Err(_) => Signal::Suppressed,
            },
            _ => Signal::Suppressed,
        }
    }

    /// Swaps the eventfd and signals the new one once, so that nothing published meanwhile is missed.
    pub(crate) fn replace(&mut self, call: Option<File>) -> (Option<File>, Signal) {
        let old = std::mem::replace(&mut self.0, call);
        (old, self.signal(true))
    }

    pub(crate) fn take(&mut self) -> Option<File> {
        self.0.take()
    }
}

//! The call: how a guest is interrupted.

use vmm_sys_util::eventfd::EventFd;

/// A ring's call eventfd, if the frontend gave one (a guest that polls has none).
#[derive(Debug, Default)]
pub(crate) struct Call(Option<EventFd>);

impl Call {
    /// Interrupts the guest if it `wanted` it and can be; tells whether it was done.
    #[inline]
    pub(crate) fn signal(&self, wanted: bool) -> bool {
        match &self.0 {
            // A full counter (the only error a valid eventfd has) means that an interrupt is pending anyway.
            Some(eventfd) if wanted => eventfd.write(1).is_ok(),
            _ => false,
        }
    }

    /// Swaps the eventfd and signals the new one once, so that nothing published meanwhile is missed.
    pub(crate) fn replace(&mut self, call: Option<EventFd>) -> Option<EventFd> {
        let old = std::mem::replace(&mut self.0, call);
        self.signal(true);
        old
    }

    pub(crate) fn take(&mut self) -> Option<EventFd> {
        self.0.take()
    }
}

//! The call: how a guest is interrupted.

use std::fs::File;

/// A ring's call eventfd, if the frontend gave one (a guest that polls has none). The session has made sure that it is an eventfd and
/// does not block.
#[derive(Debug, Default)]
pub(crate) struct Call(Option<File>);

impl Call {
    /// Interrupts the guest if it `wanted` it and can be; tells whether it was done.
    #[inline]
    pub(crate) fn signal(&self, wanted: bool) -> bool {
        match &self.0 {
            // A full counter (the only error a valid eventfd has) means that an interrupt is pending anyway.
            Some(eventfd) if wanted => rustix::io::write(eventfd, &1u64.to_ne_bytes()).is_ok(),
            _ => false,
        }
    }

    /// Swaps the eventfd and signals the new one once, so that nothing published meanwhile is missed.
    pub(crate) fn replace(&mut self, call: Option<File>) -> Option<File> {
        let old = std::mem::replace(&mut self.0, call);
        self.signal(true);
        old
    }

    pub(crate) fn take(&mut self) -> Option<File> {
        self.0.take()
    }
}

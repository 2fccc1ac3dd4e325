//! Changes that a thread follows.

use std::sync::{Condvar, Mutex, PoisonError};

/// How often something changed, for a thread that follows.
#[derive(Default)]
pub(in super::super) struct News {
    /// The number, and whether there will be no more.
    count: Mutex<(u64, bool)>,
    more: Condvar,
}

impl News {
    /// Something has changed.
    pub(in super::super) fn tell(&self) {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        self.more.notify_all();
    }

    /// Ends every wait.
    pub(in super::super) fn end(&self) {
        self.count.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.more.notify_all();
    }

    /// Waits until something has changed since the number was `seen`; the new number, or `None` at the end.
    pub(in super::super) fn wait(&self, seen: u64) -> Option<u64> {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = |(count, ends): &mut (u64, bool)| *count == seen && !*ends;
        let count = self.more.wait_while(count, nothing).unwrap_or_else(PoisonError::into_inner);
        (!count.1).then_some(count.0)
    }
}

//! Kicks of a queue pair, counted. A session reads them as they come; those that only a guest's own thread waits for are read when somebody
//! wants to know how many there were.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pmd_bindings::tsc;
use vm_ports::{Counter, KickFd};

/// What is counted beside [`QueueCounters::kicks`](vm_ports::QueueCounters::kicks).
#[derive(Default)]
pub(in crate::dataplane) struct Kicks {
    /// Held while the counters are written.
    unread: Mutex<Unread>,
    /// Kicks that were read here, and not by the session.
    read: Counter,
    /// Kicks that the guest was asked for, or was shortly before.
    asked: Counter,
    /// All others, which came while the switch polled. Counted by itself: a difference of two counters that are read one after the other can fall.
    polling: Counter,
}

/// What nobody reads but [`Kicks::count_unread`].
#[derive(Default)]
struct Unread {
    kick: Option<KickFd>,
    /// When that was last done, in cycles.
    since: u64,
}

impl Kicks {
    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only the guest's own thread waits for this; nothing: for none.
    pub(super) fn leave_unread(&self, kick: Option<KickFd>) {
        *self.unread() = Unread { kick, since: tsc() };
    }

    /// Counts the kicks up to now that nobody else reads. `tell` has to tell their thread, which may not have seen them yet, and says whether one
    /// that came at this time or later was asked for.
    pub(super) fn count_unread(&self, tell: impl FnOnce(u64) -> bool) {
        let mut unread = self.unread();
        let Some(kick) = &unread.kick else { return };
        let (kicks, since) = (kick.read(), std::mem::replace(&mut unread.since, tsc()));
        if kicks > 0 {
            self.read.add(kicks);
            self.of_kind(tell(since)).add(kicks);
        }
    }

    /// Counts kicks that the session has read.
    pub(super) fn note(&self, asked: bool, kicks: u64) {
        let _unread = self.unread();
        self.of_kind(asked).add(kicks);
    }

    fn of_kind(&self, asked: bool) -> &Counter {
        if asked { &self.asked } else { &self.polling }
    }

    /// Those that were read here.
    pub(in crate::dataplane) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Those that the guest was asked for, whoever read them.
    pub(in crate::dataplane) fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// All others.
    pub(in crate::dataplane) fn polling(&self) -> u64 {
        self.polling.get()
    }
}

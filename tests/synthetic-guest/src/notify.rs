//! Kicks (guest to host) and calls (host to guest) of one ring, and their counts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::Error;

/// When a ring kicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KickPolicy {
    /// When the device asks for it, as a driver must.
    #[default]
    WhenAsked,
    /// After every publication.
    Always,
    /// Never; wanted kicks are still counted.
    Never,
}

/// One ring's eventfds.
pub struct Bell {
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    policy: KickPolicy,
    kicks_wanted: u64,
    kicks_sent: u64,
    calls: u64,
    call_reads: u64,
}

impl Bell {
    /// Eventfds where wanted; without one the ring is polled in that direction.
    pub fn new(kick: bool, call: bool, policy: KickPolicy) -> Result<Bell, Error> {
        let eventfd = || {
            let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
            fd.map_err(|e| Error::io("creating an eventfd")(e.into()))
        };
        Ok(Bell {
            kick: kick.then(eventfd).transpose()?,
            call: call.then(eventfd).transpose()?,
            policy,
            kicks_wanted: 0,
            kicks_sent: 0,
            calls: 0,
            call_reads: 0,
        })
    }

    /// The eventfd that the backend reads.
    pub fn kick_fd(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }

    /// The eventfd that the backend writes.
    pub fn call_fd(&self) -> Option<BorrowedFd<'_>> {
        self.call.as_ref().map(AsFd::as_fd)
    }

    /// Changes when kicks are sent.
    pub fn set_policy(&mut self, policy: KickPolicy) {
        self.policy = policy;
    }

    /// Kicks that the device asked for, sent or not.
    pub fn kicks_wanted(&self) -> u64 {
        self.kicks_wanted
    }

    /// Kicks written to the eventfd.
    pub fn kicks_sent(&self) -> u64 {
        self.kicks_sent
    }

    /// Calls seen so far by [`Bell::drain_calls`] and [`Bell::wait_call`].
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Reads of the call eventfd that found at least one call.
    pub fn call_reads(&self) -> u64 {
        self.call_reads
    }

    /// Counts what the device wanted and kicks as the policy says.
    #[inline]
    pub(crate) fn published(&mut self, wanted: bool) {
        self.kicks_wanted += u64::from(wanted);
        let send = match self.policy {
            KickPolicy::WhenAsked => wanted,
            KickPolicy::Always => true,
            KickPolicy::Never => false,
        };
        if send {
            self.kick(1);
        }
    }

    /// Adds `count` kicks at once, whatever the device wants. Without an eventfd nothing happens.
    pub fn kick(&mut self, count: u64) {
        // A full counter (EAGAIN) cannot come about: it holds 2^64 - 2 kicks.
        if self.kick.as_ref().is_some_and(|fd| rustix::io::write(fd, &count.to_ne_bytes()).is_ok()) {
            self.kicks_sent += count;
        }
    }

    /// Reads the call eventfd and returns the number of calls since the last time.
    pub fn drain_calls(&mut self) -> u64 {
        let mut count = [0; 8];
        let calls = match &self.call {
            Some(fd) if rustix::io::read(fd, &mut count) == Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        };
        self.calls += calls;
        self.call_reads += u64::from(calls > 0);
        calls
    }

    /// Waits for a call, as an interrupt-driven guest does; returns the number of calls, 0 on time-out.
    pub fn wait_call(&mut self, timeout: Duration) -> u64 {
        let Some(call) = &self.call else { return 0 };
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // An interrupted wait is a short one: the caller looks at its ring and waits again.
        let _ = rustix::event::poll(&mut [PollFd::new(call, PollFlags::IN)], Some(&timeout));
        self.drain_calls()
    }
}

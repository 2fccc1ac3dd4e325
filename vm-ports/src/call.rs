//! The call: how a guest is interrupted, and when.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use crate::counters::Counter;
use crate::memory::{cpu_ns, cycles};
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
    /// Whether the frontend has made a call of any of its rings block or take long: then this one is given up, too.
    forfeited: Forfeit,
    moderator: Moderator,
    /// Slots that a call which is held back is for; 0: none is.
    held: u16,
}

/// What a port's frontends have made of its calls: 0 for nothing, [`FORFEITED`] where there are none any more, and what
/// they are suspected of in between. Shared by its rings, some of which may be on other cores, and by one connection
/// after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forfeit(Arc<AtomicU32>);

/// Cycles of a write by which its eventfd is suspected of having others waiting for it without number, all of which the
/// write tells of: 200 us on a CPU of 2 GHz. The thread may just as well have lost its CPU, so the next writes are
/// measured by the time that it has one.
const LONG_CYCLES: u64 = 400_000;
/// CPU time of a write that is held against its eventfd, in nanoseconds: some hundred times what an ordinary one takes.
const LONG_CPU_NS: i64 = 200_000;
/// What each such write weighs, in others that are not: so many of them it takes to have it forgotten.
const STRIKE: u32 = 256;
/// The third one of them, if not too many others are in between.
const FORFEITED: u32 = 2 * STRIKE + STRIKE / 2;

impl Forfeit {
    /// Relaxed, as all accesses: a core that learns of it late may have to be interrupted as well.
    #[inline]
    fn suspicion(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether there are no calls any more.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.suspicion() >= FORFEITED
    }

    fn set(&self) {
        self.0.store(FORFEITED, Ordering::Relaxed);
    }

    /// A write took so many cycles.
    #[inline]
    fn note_cycles(&self, cycles: u64) {
        if cycles > LONG_CYCLES {
            self.change(|suspicion| suspicion.max(1));
        }
    }

    /// A write, while there was a suspicion, took so many nanoseconds of CPU time. Whether that was one too many.
    #[cold]
    fn note_cpu_ns(&self, ns: i64) -> bool {
        let long = ns > LONG_CPU_NS;
        self.change(|suspicion| if long { suspicion + STRIKE } else { suspicion.saturating_sub(1) });
        long && self.is_set()
    }

    /// What is forfeited stays so.
    fn change(&self, by: impl Fn(u32) -> u32) {
        let changed = |suspicion| (suspicion < FORFEITED).then(|| by(suspicion));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

/// What a queue counts of its calls.
#[derive(Clone, Copy)]
pub(crate) struct Tally<'c> {
    pub(crate) sent: &'c Counter,
    pub(crate) suppressed: &'c Counter,
    pub(crate) saved: &'c Counter,
}

/// The frontend made the eventfd block, or take long to be written: the ring is to be stopped.
pub(crate) struct Blocked;

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// The guest was interrupted.
    Sent,
    /// It did not want to be, cannot be, or has an interrupt pending.
    Suppressed,
    /// The frontend made the eventfd block, and somebody had to interrupt us; or made it take long, again and again. It
    /// is given up.
    Blocked,
    /// The call is held back.
    Held,
}

impl Call {
    /// For a ring of so many descriptors.
    pub(crate) fn new(moderation: Moderation, size: u16) -> Self {
        Self { eventfd: None, forfeited: Forfeit::default(), moderator: Moderator::new(moderation, size), held: 0 }
    }

    /// Holds calls back in this way from now on.
    pub(crate) fn moderate(&mut self, moderation: Moderation, size: u16) {
        self.moderator = Moderator::new(moderation, size);
    }

    /// Shares what becomes of calls with the port's other rings.
    pub(crate) fn share(&mut self, forfeited: Forfeit) {
        self.forfeited = forfeited;
    }

    /// After something was published, at the time `now`, and a fence: interrupts the guest if it wants that, and the call is not held back; until when
    /// it is, where it is. `more`: whether the guest itself has more under way that will be published.
    #[inline]
    pub(crate) fn notify(
        &mut self,
        ring: &mut Ring,
        now: u64,
        more: impl FnOnce(&mut Ring) -> bool,
        tally: Tally<'_>,
    ) -> Result<Option<u64>, Blocked> {
        let Some(signal) = self.decide(ring, now, more, tally.saved) else { return Ok(None) };
        count(signal, tally)?;
        Ok(self.held_until())
    }

    /// `None` where there is nothing to tell.
    #[inline]
    fn decide(
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

    /// After something was published, and a fence: interrupts the guest if it wants that. No call is held back at this time.
    #[inline]
    pub(crate) fn judge(&mut self, ring: &mut Ring, tally: Tally<'_>) -> Result<(), Blocked> {
        self.ask(ring).map_or(Ok(()), |signal| count(signal, tally))
    }

    /// The same, not counted. `None` where there is nothing to tell.
    #[inline]
    fn ask(&mut self, ring: &mut Ring) -> Option<Signal> {
        let wanted = ring.wants_call()?;
        ring.judge();
        Some(if wanted { self.signal() } else { Signal::Suppressed })
    }

    /// Until when a call is held back, if one is.
    #[inline]
    fn held_until(&self) -> Option<u64> {
        (self.held > 0).then(|| self.moderator.until())
    }

    /// Interrupts the guest, at the time `now`, if its call is held back until `time` at the latest, be that later than `now`; until when it is, if
    /// for longer.
    pub(crate) fn release_by(
        &mut self,
        ring: &mut Ring,
        (time, now): (u64, u64),
        tally: Tally<'_>,
    ) -> Result<Option<u64>, Blocked> {
        match self.held_until() {
            Some(until) if until > time => Ok(Some(until)),
            Some(until) => self.let_go(ring, Some(until.min(now)), tally).map(|()| None),
            None => Ok(None),
        }
    }

    /// Interrupts the guest now, if its call is held back.
    #[inline]
    pub(crate) fn release(&mut self, ring: &mut Ring, tally: Tally<'_>) -> Result<(), Blocked> {
        if self.held == 0 { Ok(()) } else { self.let_go(ring, None, tally) }
    }

    /// Lets a call go that is held back; because its time has come, where it is said which time that is. Not where the driver has seen everything
    /// meanwhile.
    fn let_go(&mut self, ring: &mut Ring, expired: Option<u64>, tally: Tally<'_>) -> Result<(), Blocked> {
        self.held = 0;
        let slots = ring.unjudged();
        match self.ask(ring) {
            // So this is not the last call, nor a batch that did not fill up.
            Some(Signal::Suppressed) => tally.saved.add(1),
            Some(signal) => {
                if let Some(now) = expired {
                    self.moderator.expired(slots, now);
                }
                count(signal, tally)?;
            }
            None => {}
        }
        Ok(())
    }

    /// Interrupts the guest, if it can be.
    #[inline]
    fn signal(&mut self) -> Signal {
        let Some(eventfd) = &self.eventfd else { return Signal::Suppressed };
        if self.forfeited.is_set() {
            self.eventfd = None;
            return Signal::Suppressed;
        }
        let write = || rustix::io::write(eventfd, &1u64.to_ne_bytes());
        let (written, long) = if self.forfeited.suspicion() == 0 {
            let start = cycles();
            let written = write();
            self.forfeited.note_cycles(cycles().wrapping_sub(start));
            (written, false)
        } else {
            let start = cpu_ns();
            let written = write();
            (written, self.forfeited.note_cpu_ns(cpu_ns() - start))
        };
        if long || written == Err(Errno::INTR) {
            self.eventfd = None;
            self.forfeited.set();
            return Signal::Blocked;
        }
        // A full counter, the only error there is otherwise, means that an interrupt is pending anyway.
        if written.is_ok() { Signal::Sent } else { Signal::Suppressed }
    }

    /// Swaps the eventfd and signals the new one once, so that nothing published meanwhile is missed; not where the driver polls.
    pub(crate) fn replace(&mut self, ring: &Ring, call: Option<File>) -> (Option<File>, Result<(), Blocked>) {
        let old = std::mem::replace(&mut self.eventfd, call);
        let is_blocked = !ring.wants_no_call() && self.signal() == Signal::Blocked;
        (old, if is_blocked { Err(Blocked) } else { Ok(()) })
    }

    pub(crate) fn take(&mut self) -> Option<File> {
        self.eventfd.take()
    }
}

#[inline]
fn count(signal: Signal, tally: Tally<'_>) -> Result<(), Blocked> {
    match signal {
        Signal::Sent => tally.sent.add(1),
        Signal::Suppressed => tally.suppressed.add(1),
        Signal::Held => {}
        Signal::Blocked => return Err(Blocked),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, epoll, eventfd};

    use super::*;

    #[test]
    fn what_one_ring_forfeits_all_of_its_port_lose() {
        let forfeited = Forfeit::default();
        let mut calls: [Call; 2] = std::array::from_fn(|_| {
            let mut call = Call::new(Moderation::default(), 256);
            call.share(forfeited.clone());
            call.eventfd = Some(eventfd(0, EventfdFlags::NONBLOCK).unwrap().into());
            call
        });
        assert_eq!(calls.each_mut().map(Call::signal), [Signal::Sent; 2]);
        calls[0].forfeited.set();
        assert_eq!(calls[1].signal(), Signal::Suppressed);
        assert!(calls[1].take().is_none(), "it is not written to again");
    }

    /// Times of writes, as (cycles, CPU nanoseconds): whether calls are forfeited after them.
    fn forfeits(writes: impl IntoIterator<Item = (u64, i64)>) -> bool {
        let forfeit = Forfeit::default();
        for (cycles, ns) in writes {
            if forfeit.suspicion() == 0 {
                forfeit.note_cycles(cycles);
            } else {
                forfeit.note_cpu_ns(ns);
            }
        }
        forfeit.is_set()
    }

    #[test]
    fn a_thread_that_loses_its_cpu_does_not_lose_its_calls() {
        let (quick, preempted, long) = ((3_000, 1_000), (20_000_000, 1_500), (20_000_000, 9_000_000));
        assert!(!forfeits([preempted; 1000]));
        assert!(!forfeits([[preempted, quick], [long, quick]].concat()));
        // The first is only the reason to look more closely.
        assert!(!forfeits([long; 3]));
        assert!(forfeits([long; 4]));
        // A quick one in between does not make it good.
        assert!(forfeits([long, long, quick, long, quick, long]));
        // A few hundred do.
        let rarely = [vec![long], vec![quick; 300]].concat();
        assert!(!forfeits(rarely.into_iter().cycle().take(10_000)));
    }

    /// Whoever gave an eventfd can have any number of others wait for it, and a write tells each of them.
    #[test]
    fn a_call_that_wakes_without_end_is_given_up() {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let copies: Vec<_> = (0..500).map(|_| event.try_clone().unwrap()).collect();
        let mut epolls = Vec::new();
        let took_ns = || {
            let start = cpu_ns();
            rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
            cpu_ns() - start
        };
        while took_ns() < 5 * LONG_CPU_NS {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            for copy in &copies {
                epoll::add(&epoll, copy, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
            }
            epolls.push(epoll);
        }
        let mut call = Call::new(Moderation::default(), 256);
        call.eventfd = Some(event.try_clone().unwrap().into());
        let writes = (1..).find(|_| call.signal() == Signal::Blocked);
        assert_eq!(writes, Some(4));
        assert!(call.take().is_none() && call.forfeited.is_set());
    }
}

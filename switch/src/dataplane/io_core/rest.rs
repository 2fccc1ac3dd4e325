//! What a core does when there is nothing to do: it looks again, pauses, and sleeps (see [`sleep`](super::super::sleep)). And which rings it looks
//! at: one that has been idle for a while, and whose driver kicks, is left to its kick.

use std::hint::spin_loop;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use config::Mode;
use pmd_bindings::tsc;
use ringbuf::traits::Observer;

use super::super::accounting::SourceId;
use super::super::sleep::{Bells, WakeCause};
use super::{GuestTx, IoCore};

/// How long a core that has uplinks, or guests that cannot kick, sleeps at most: nothing else wakes it for them.
const BLIND_SLEEP: Duration = Duration::from_millis(1);
/// How long any other sleeps at most: stations age all the time. One of mode `trap` sleeps until it is woken, or its next [`Sweep`] is due.
const SLEEP: Duration = Duration::from_millis(100);
/// Sweeps in the time in which a station ages.
const SWEEPS: u32 = 8;
/// What its timer finds that nobody has rung for was lost, if nobody does within this time: whoever made it may be just about to.
const GRACE: Duration = Duration::from_millis(200);
/// Buckets of the FDB that are aged after a sleep, and at a time in a sweep.
const AGEING_BUCKETS: usize = 64;
/// Pauses between two looks of a core that will sleep soon.
const PAUSES: usize = 16;
/// How often rings that are idle are thought of, in microseconds.
const CLEAR_US: u64 = 1000;
/// How often a core that is awake listens for kicks itself, in microseconds: as late as an idle ring that is polled. The session, on another
/// CPU, reads them less often.
const LISTEN_US: u64 = 100;
/// Less often where that takes long: for a three-hundredth of its time, but every so many microseconds at least.
const LISTEN_PART: u64 = 300;
const LISTEN_MOST_US: u64 = 500;
/// With so many queue pairs or fewer it looks at their rings instead: that takes less time than a system call.
const FEW: usize = 16;

/// How many transmit rings of a core want what.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// To be looked at all the time.
    looks: usize,
    /// To be looked at now and then: nothing says when their drivers have something.
    timer: usize,
    /// Neither, for a while: their drivers kick when they are asked to.
    kicks: usize,
    /// Of those, how many were asked.
    armed: usize,
}

/// How a core of mode `trap` ages what it has learnt: all of it every now and then, so that it can sleep in between. The time is told by the clock
/// of [`Now`](crate::forwarding::Now).
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Buckets that are left of the sweep under way.
    left: usize,
    /// When the last one ended.
    ended_s: u32,
}

impl Needs {
    fn of(&mut self, guest: &GuestTx) -> &mut usize {
        match guest.share.mode {
            Mode::Poll => &mut self.looks,
            _ if guest.tx.kick().is_some() => &mut self.kicks,
            _ => &mut self.timer,
        }
    }
}

impl IoCore {
    /// A transmit ring comes.
    pub(super) fn hear(&mut self, guest: &mut GuestTx) {
        // Before anybody is asked for a kick.
        self.bells.set_owner(guest.origin.source, self.forwarder.out.me());
        if guest.share.mode != Mode::Poll
            && let (Some(bed), Some(kick)) = (&self.bed, guest.tx.kick())
            && !bed.watch(guest.origin.source, kick.as_fd())
        {
            // It is looked at now and then, as one without a kick.
            guest.tx.set_kick(None);
        }
        *self.needs.of(guest) += 1;
    }

    /// A transmit ring goes, as it came: without kicks.
    pub(super) fn hear_no_more(&mut self, guest: &mut GuestTx) {
        *self.needs.of(guest) -= 1;
        if std::mem::take(&mut guest.armed) {
            guest.tx.suppress_kicks();
            self.bells.set_asked(guest.origin.source, false, self.now.cycles);
            self.needs.armed -= 1;
            self.counters.armed.set(self.needs.armed as u64);
        }
        if guest.share.mode != Mode::Poll
            && let (Some(bed), Some(kick)) = (&self.bed, guest.tx.kick())
        {
            bed.forget(kick.as_fd());
        }
    }

    /// Looks at the ring at `place` from now on.
    pub(super) fn look_at(&mut self, place: usize) {
        let Some(guest) = self.guests.get(place) else { return };
        if guest.share.latency {
            self.rota.add_urgent(place);
        } else {
            self.rota.add(place, self.now.cycles);
        }
    }

    pub(super) fn note_chores(&mut self) {
        self.has_chores = self.part.is_some() || self.needs.kicks > 0;
    }

    /// What a round begins with, beside looks.
    #[cold]
    pub(super) fn do_chores(&mut self) {
        if self.part.is_some() {
            self.advance_move();
            self.note_chores();
        }
        if self.needs.kicks > 0 {
            self.read_kicks();
            let (now, cycles_per_us) = (self.now.cycles, self.cycles_per_s / 1_000_000);
            if self.needs.armed > 0 && now.wrapping_sub(self.listened_at) >= self.listen_after {
                self.listened_at = now;
                let took = if self.guests.len() > FEW {
                    self.listen()
                } else {
                    self.peek();
                    0
                };
                self.listen_after = listen_after(took, cycles_per_us);
            }
            if now.wrapping_sub(self.cleared_at) >= cycles_per_us * CLEAR_US {
                self.cleared_at = now;
                self.clear();
            }
        }
    }

    /// Looks again at the rings whose kicks somebody has read.
    fn read_kicks(&mut self) {
        let me = self.forwarder.out.me();
        if self.bells.any_kicked(me) {
            let bells = Arc::clone(&self.bells);
            bells.take_kicked(me, |source| self.kicked(source));
        }
    }

    /// Looks at the rings that are left to their kicks, which takes next to no time. A kick that comes after this is one too many.
    fn peek(&mut self) {
        for place in 0..self.guests.len() {
            if self.guests.get_mut(place).is_some_and(|guest| guest.armed && guest.tx.has_work()) {
                self.wake(place);
            }
        }
    }

    /// Hears of kicks that nobody has read yet. Returns how many cycles that took.
    fn listen(&mut self) -> u64 {
        let start = tsc();
        let Some(bed) = &self.bed else { return 0 };
        bed.sleep(Some(Duration::ZERO)).kicked.into_iter().for_each(|source| self.kicked(source));
        tsc().wrapping_sub(start)
    }

    /// A driver has kicked: its ring is looked at again.
    fn kicked(&mut self, source: SourceId) {
        let place = usize::from(self.place_of[source.index()]);
        // The kick may be one of a source that has gone.
        if self.guests.get(place).is_some_and(|guest| guest.origin.source == source && guest.armed) {
            self.wake(place);
        }
    }

    fn wake(&mut self, place: usize) {
        let Some(guest) = self.guests.get_mut(place) else { return };
        guest.armed = false;
        guest.tx.suppress_kicks();
        self.bells.set_asked(guest.origin.source, false, self.now.cycles);
        self.needs.armed -= 1;
        self.counters.armed.set(self.needs.armed as u64);
        self.look_at(place);
    }

    /// Leaves rings that have been idle for a while to their kicks.
    fn clear(&mut self) {
        let Self { rota, guests, bells, asked, now, .. } = self;
        rota.take_out_idle(now.cycles, |place| ask(guests.get_mut(place), place, bells, asked));
        if !self.asked.is_empty() {
            vm_ports::fence();
            self.look_again();
        }
    }

    /// Looks once more at rings whose drivers were asked to kick: what came before they could see it comes without a kick. Whether there was
    /// anything.
    fn look_again(&mut self) -> bool {
        let mut found = false;
        let mut asked = std::mem::take(&mut self.asked);
        for place in asked.drain(..).map(usize::from) {
            let Some(guest) = self.guests.get_mut(place) else { continue };
            guest.armed = true;
            self.needs.armed += 1;
            if guest.share.latency {
                self.urgent_armed.push(place as u16);
            }
            if guest.tx.has_work() {
                found = true;
                self.wake(place);
            }
        }
        self.asked = asked;
        self.counters.armed.set(self.needs.armed as u64);
        found
    }

    /// There was nothing to do in a round.
    #[inline]
    pub(super) fn rest(&mut self) {
        if self.may_sleep() {
            let idle = self.done_at.wrapping_sub(self.worked_at);
            if idle >= self.patience.stay {
                if !self.sweep() {
                    self.sleep();
                }
                return;
            }
            if idle >= self.patience.spin {
                (0..PAUSES).for_each(|_| spin_loop());
            }
        }
        if self.shares_cpu {
            std::thread::yield_now();
            self.was_away();
        }
    }

    /// Goes on with a sweep, if one is due. Whether it is.
    fn sweep(&mut self) -> bool {
        if self.sweep.left == 0 {
            if self.mode != Mode::Trap || self.sweep_in_s() != Some(0) {
                return false;
            }
            self.sweep.left = self.forwarder.fdb.buckets();
        }
        self.forwarder.fdb.age(self.now.seconds, AGEING_BUCKETS);
        self.counters.fdb_entries.set(self.forwarder.fdb.len() as u64);
        self.sweep.left = self.sweep.left.saturating_sub(AGEING_BUCKETS);
        self.sweep.ended_s = self.now.seconds;
        true
    }

    /// Seconds until a sweep is due; nothing where there is nothing that ages.
    fn sweep_in_s(&self) -> Option<u32> {
        let fdb = &self.forwarder.fdb;
        let since = self.now.seconds.wrapping_sub(self.sweep.ended_s);
        fdb.has_learnt().then(|| (fdb.ageing_s() / SWEEPS).max(1).saturating_sub(since))
    }

    /// Accounts for time in which others had the CPU, or nobody: it is not what the next round took. Returns how many cycles it was.
    fn was_away(&mut self) -> u64 {
        let now = tsc();
        let away = now.wrapping_sub(std::mem::replace(&mut self.done_at, now));
        self.counters.idle_cycles.add(away);
        away
    }

    /// Whether it may sleep once it is idle: nobody would have to wait for it, or it is parked and serves nothing.
    #[inline]
    fn may_sleep(&self) -> bool {
        let idle = self.attached.is_empty() && self.uplinks.is_empty();
        let sleeps = (self.mode != Mode::Poll && self.needs.looks == 0) || (self.counters.parked.get() != 0 && idle);
        sleeps && self.part.is_none()
    }

    /// Has every driver kick, and sleeps until there is something to do, or for a while. The time is idle time.
    fn sleep(&mut self) {
        self.release_calls();
        let (bells, me) = (Arc::clone(&self.bells), self.forwarder.out.me());
        let (Some(bell), Some(bed)) = (bells.of(me), self.bed.take()) else { return };
        let Self { rota, guests, asked, .. } = self;
        rota.take_out(|place| ask(guests.get_mut(place), place, &bells, asked));
        bell.lie_down();
        // Both: a ring in which something is found is looked at again.
        let woken = (!(self.look_again() | self.is_wanted())).then(|| {
            let blind = !self.uplinks.is_empty() || self.needs.timer > 0;
            let longest = match self.mode {
                _ if blind => Some(BLIND_SLEEP),
                Mode::Trap => self.sweep_in_s().map(|seconds| Duration::from_secs(seconds.max(1).into())),
                Mode::Poll | Mode::Adaptive => Some(SLEEP),
            };
            self.counters.lies_down(self.done_at);
            let woken = bed.sleep(longest);
            if blind || woken.by_anybody() {
                return woken;
            }
            let wanted = self.is_wanted();
            if !wanted && !self.has_unkicked_work() {
                return woken;
            }
            let late = bed.sleep(Some(GRACE));
            if !late.by_anybody() {
                let missed = if wanted { &self.counters.missed_wakeups } else { &self.counters.missed_kicks };
                missed.add(1);
            }
            late
        });
        bell.get_up();
        self.bed = Some(bed);
        self.counters.gets_up();
        let slept = self.was_away();
        self.tick(self.done_at);
        let Some(woken) = woken else { return self.wake_urgent() };
        self.counters.slept_cycles.add(slept);
        let kicked = !woken.kicked.is_empty() || self.has_kicks();
        let cause = if kicked {
            WakeCause::Kick
        } else if !self.mailbox.is_empty() {
            WakeCause::Message
        } else if woken.rung {
            WakeCause::Packets
        } else {
            WakeCause::Timer
        };
        self.counters.wakes[cause as usize].add(1);
        woken.kicked.into_iter().for_each(|source| self.kicked(source));
        if cause == WakeCause::Timer {
            self.forwarder.fdb.age(self.now.seconds, AGEING_BUCKETS);
            self.counters.fdb_entries.set(self.forwarder.fdb.len() as u64);
        }
        self.wake_urgent();
    }

    /// Whether there is anything to do that no ring of a guest says.
    fn is_wanted(&self) -> bool {
        !self.mailbox.is_empty()
            || self.has_kicks()
            || self.from.iter().flatten().any(|link| link.has_anything())
            // It was parked and is not any more.
            || !self.may_sleep()
    }

    /// Whether there is work in a ring whose driver was asked to kick, and has not been heard to. Only few are looked at, as in [`Self::peek`], which
    /// then sees to it.
    fn has_unkicked_work(&mut self) -> bool {
        let few = if self.guests.len() <= FEW { self.guests.len() } else { 0 };
        (0..few).any(|place| self.guests.get_mut(place).is_some_and(|guest| guest.armed && guest.tx.has_work()))
    }

    /// Whether kicks were read of a ring that waits for them. Of others, or of some that have gone, they say nothing, and nobody takes note.
    fn has_kicks(&self) -> bool {
        self.needs.kicks > 0 && self.bells.any_kicked(self.forwarder.out.me())
    }

    /// Guests of class latency do not wait for a kick while their core is awake. Only they are looked for: the first packet waits meanwhile.
    fn wake_urgent(&mut self) {
        let mut urgent = std::mem::take(&mut self.urgent_armed);
        for place in urgent.drain(..).map(usize::from) {
            if self.guests.get(place).is_some_and(|guest| guest.armed) {
                self.wake(place);
            }
        }
        self.urgent_armed = urgent;
    }
}

/// How long it is from one time that kicks are listened for to the next one, where that took so many cycles.
pub(super) fn listen_after(took: u64, cycles_per_us: u64) -> u64 {
    // What took much longer than a call does is a thread without its CPU.
    took.saturating_mul(LISTEN_PART).clamp(cycles_per_us * LISTEN_US, cycles_per_us * LISTEN_MOST_US)
}

/// Asks the driver of the ring at `place` for a kick, if it can; notes it in `asked`.
fn ask(guest: Option<&mut GuestTx>, place: usize, bells: &Bells, asked: &mut Vec<u16>) -> bool {
    let Some(guest) = guest.filter(|guest| guest.share.mode != Mode::Poll && guest.tx.kick().is_some()) else {
        return false;
    };
    bells.set_asked(guest.origin.source, true, 0);
    guest.tx.ask_for_kick();
    asked.push(place as u16);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_takes_little_of_the_time_and_goes_on_whatever_it_took() {
        let after = |took| listen_after(took, 2000);
        // Nothing, a microsecond, three, and a thread that had lost its CPU.
        assert_eq!([0, 2_000, 6_000, 20_000_000].map(after), [200_000, 600_000, 1_000_000, 1_000_000]);
    }
}

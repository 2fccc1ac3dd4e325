//! What guests of class latency send while another burst is under way, all of which would keep them waiting.

use vm_ports::{Burst, BurstBuffer, Counter, RingWatch};

use super::super::accounting::CoreCounters;
use super::super::forwarder::{Between, Forwarder};
use super::super::rota::Rota;
use super::super::turns::Rounds;
use super::{GuestTx, Spent};
use crate::forwarding::Now;

/// Packets of such a guest that go out in one of its turns: another may wait as well.
const MOST: usize = 4;

/// What they need of a core, but for what the burst itself has. Their own bursts are forwarded whole.
pub(super) struct Aside<'c, C> {
    /// The core's guests, but for one between the two whose burst it is.
    pub(super) guests: (&'c mut [GuestTx], &'c mut [GuestTx]),
    pub(super) rota: &'c mut Rota<RingWatch>,
    pub(super) rounds: &'c mut Rounds,
    pub(super) buffer: &'c mut BurstBuffer,
    pub(super) counters: &'c CoreCounters,
    /// To which the burst's cycles are charged.
    pub(super) account: &'c Counter,
    pub(super) now: Now,
    pub(super) done_at: &'c mut u64,
    pub(super) clock: &'c C,
    /// The place of one that was found to have something.
    pub(super) wanted: Option<usize>,
}

impl<C: Fn() -> u64> Between for Aside<'_, C> {
    #[inline]
    fn is_wanted(&mut self) -> bool {
        self.wanted = (0..self.rota.urgent_looks()).find_map(|_| {
            let place = self.rota.next_urgent()?;
            let guest = at(&mut self.guests, place)?;
            (guest.tx.has_work() && guest.credit.may_pull(self.rounds)).then_some(place)
        });
        self.wanted.is_some()
    }

    #[cold]
    fn take_turn(&mut self, forwarder: &mut Forwarder) {
        // What went out of the burst is shown to its receivers together with what goes out now, which so is there sooner.
        let now = (self.clock)();
        self.account.add(now.wrapping_sub(std::mem::replace(self.done_at, now)));
        let since = forwarder.out.since;
        let mut next = self.wanted.take();
        for _ in 0..self.rota.urgent_looks() {
            let Some(place) = next.take().or_else(|| self.rota.next_urgent()) else { break };
            self.look(place, forwarder);
        }
        forwarder.out.since = since;
        forwarder.out.taps.begin_burst(*self.done_at);
    }
}

impl<C: Fn() -> u64> Aside<'_, C> {
    /// A burst from the guest at this place, if it has something and credit.
    fn look(&mut self, place: usize, forwarder: &mut Forwarder) {
        let Self { guests, rounds, buffer, counters, now, done_at, clock, .. } = self;
        let Some(guest) = at(guests, place) else { return };
        if !guest.tx.has_work() || !guest.credit.may_pull(rounds) {
            return;
        }
        forwarder.out.since = guest.waiting.since().unwrap_or(**done_at);
        let mut burst = Burst::up_to(MOST, buffer);
        let pulled = guest.tx.pull(&mut burst);
        forwarder.out.taps.see_burst(guest.origin.port, &burst, **done_at);
        let flooded = forwarder.forward(&mut burst, &mut guest.origin, *now, None);
        drop(burst);
        forwarder.finish(Some((place, &mut guest.tx)), **done_at);
        let end = clock();
        let spent = Spent { pulled, most: MOST, flooded, from: std::mem::replace(*done_at, end), to: end };
        guest.account(&spent, rounds, counters);
    }
}

/// The guest at this place of the core, but for the one whose burst is under way.
#[inline]
fn at<'g>((before, after): &'g mut (&mut [GuestTx], &mut [GuestTx]), place: usize) -> Option<&'g mut GuestTx> {
    match place.checked_sub(before.len()) {
        None => before.get_mut(place),
        Some(0) => None,
        Some(nth) => after.get_mut(nth - 1),
    }
}

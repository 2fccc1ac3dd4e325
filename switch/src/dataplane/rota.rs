//! Which transmit rings a core looks at in a round: those in use always, those that have been idle for a while in turn. What a thousand idle
//! guests cost the one that is not is a fixed share of the time, not a thousand looks in every round.

use vm_ports::RingWatch;

/// A ring in which nothing was found for so long is idle, in microseconds. Longer than a guest that waits for answers is silent.
const IDLE_AFTER_US: u64 = 1000;
/// Every idle ring is looked at once in this time, in microseconds: that, a part of it and the round then under way are how late a first packet
/// can be seen.
const SWEEP_US: u64 = 84;
/// So often in a sweep, beside other work, idle rings are looked at, that part of them at a time: each look by itself would wait for its
/// cache lines, and what decides whether there is one is not to be foreseen.
const PARTS: u64 = 16;
/// A ring in which nothing was found for so long need not be looked at, if its driver kicks, in microseconds.
const LEAVE_AFTER_US: u64 = 10_000;
/// Idle rings looked at, at least, in a round in which there was nothing to do: time that nobody misses.
const SPARE_LOOKS: usize = 8;
/// So many idle rings ahead of the one that is looked at: nothing of them is in the cache.
const LOOK_AHEAD: usize = 8;
/// So many urgent rings are looked at, at most, after every burst of others; where there are more, in turn.
const URGENT_LOOKS: usize = 16;
/// Looks are counted in fractions of one, with this many bits.
const FRACTION: u32 = 32;

/// A ring in use.
#[derive(Clone, Copy, Debug)]
struct Awake {
    place: u16,
    /// When something was last found in it.
    worked: u64,
}

/// An idle ring, with what there is to look at.
#[derive(Clone, Copy, Debug)]
struct Asleep<W> {
    watch: W,
    place: u16,
    /// When something was last found in it.
    worked: u64,
}

/// The rings of a core by their places in its list, each idle one with a watch `W` on it. Times are in cycles.
#[derive(Debug)]
pub(super) struct Rota<W> {
    awake: Vec<Awake>,
    /// None moves when it is looked at: a thousand looks that write would leave little else in the nearest cache.
    asleep: Vec<Asleep<W>>,
    /// The idle ring whose turn it is; after the last one the first.
    turn: usize,
    /// Those that are never idle, and whose turn it is.
    urgent: Vec<u16>,
    next_urgent: usize,
    idle_after: u64,
    leave_after: u64,
    sweep: u64,
    /// The part of a sweep that one cycle is.
    pace: u64,
    /// Looks at idle rings that are due.
    due: u64,
    /// When that was worked out.
    at: u64,
}

impl<W: Watch> Rota<W> {
    /// For up to `rings` rings, on a counter of `cycles_per_s`.
    pub(super) fn new(rings: usize, cycles_per_s: u64) -> Self {
        let cycles = |us: u64| (cycles_per_s.saturating_mul(us) / 1_000_000).max(1);
        let sweep = cycles(SWEEP_US);
        Self {
            awake: Vec::with_capacity(rings),
            asleep: Vec::with_capacity(rings),
            turn: 0,
            urgent: Vec::with_capacity(rings),
            next_urgent: 0,
            idle_after: cycles(IDLE_AFTER_US),
            leave_after: cycles(LEAVE_AFTER_US),
            sweep,
            pace: (1 << FRACTION) / sweep + 1,
            due: 0,
            at: 0,
        }
    }

    /// A ring came, at the end of the list. It is in use until it shows otherwise.
    pub(super) fn add(&mut self, place: usize, now: u64) {
        self.awake.push(Awake { place: place as u16, worked: now });
    }

    /// A ring came, at the end of the list, that is to be looked at again and again.
    pub(super) fn add_urgent(&mut self, place: usize) {
        self.urgent.push(place as u16);
    }

    /// Whether there are urgent rings.
    #[inline]
    pub(super) fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// How many urgent rings are to be looked at after a burst.
    #[inline]
    pub(super) fn urgent_looks(&self) -> usize {
        self.urgent.len().min(URGENT_LOOKS)
    }

    /// The urgent ring whose turn it is.
    #[inline]
    pub(super) fn next_urgent(&mut self) -> Option<usize> {
        let next = if self.next_urgent < self.urgent.len() { self.next_urgent } else { 0 };
        self.next_urgent = next + 1;
        self.urgent.get(next).map(|place| usize::from(*place))
    }

    /// The ring at `place` went, and the one that was `last` in the list has taken its place.
    pub(super) fn swap_remove(&mut self, place: usize, last: usize) {
        let (place, last) = (place as u16, last as u16);
        self.awake.retain(|ring| ring.place != place);
        self.keep_asleep(|ring| ring.place != place);
        self.urgent.retain(|ring| *ring != place);
        let awake = self.awake.iter_mut().map(|ring| &mut ring.place);
        let asleep = self.asleep.iter_mut().map(|ring| &mut ring.place);
        awake.chain(asleep).chain(&mut self.urgent).filter(|ring| **ring == last).for_each(|ring| *ring = place);
    }

    /// Takes every ring out that `leaves`, until it is added again.
    pub(super) fn take_out(&mut self, mut leaves: impl FnMut(usize) -> bool) {
        self.awake.retain(|ring| !leaves(ring.place.into()));
        self.keep_asleep(|ring| !leaves(ring.place.into()));
        self.urgent.retain(|place| !leaves((*place).into()));
    }

    /// The same, but only those in which nothing was found for a long time.
    pub(super) fn take_out_idle(&mut self, now: u64, mut leaves: impl FnMut(usize) -> bool) {
        let leave_after = self.leave_after;
        self.keep_asleep(|ring| now.wrapping_sub(ring.worked) <= leave_after || !leaves(ring.place.into()));
    }

    /// Takes the other idle rings out. Whoever's turn it was, has it.
    fn keep_asleep(&mut self, mut keep: impl FnMut(&Asleep<W>) -> bool) {
        let (mut nth, mut gone) = (0, 0);
        self.asleep.retain(|ring| {
            let kept = keep(ring);
            gone += usize::from(!kept && nth < self.turn);
            nth += 1;
            kept
        });
        self.turn -= gone;
    }

    /// The `nth` ring in use.
    #[inline]
    pub(super) fn awake(&self, nth: usize) -> Option<usize> {
        self.awake.get(nth).map(|ring| usize::from(ring.place))
    }

    /// Notes whether something was found in the `nth` ring in use. False when it is idle now, with the watch that `watch` makes of its
    /// place, and another has taken its number.
    #[inline]
    pub(super) fn note(&mut self, nth: usize, worked: bool, now: u64, watch: impl FnOnce(usize) -> Option<W>) -> bool {
        let Some(ring) = self.awake.get_mut(nth) else { return true };
        if worked {
            ring.worked = now;
        } else if now.wrapping_sub(ring.worked) > self.idle_after {
            let Awake { place, worked } = *ring;
            if let Some(watch) = watch(place.into()) {
                self.awake.swap_remove(nth);
                self.asleep.push(Asleep { watch, place, worked });
                return false;
            }
        }
        true
    }

    /// How many idle rings are to be looked at in this round, in which there was other work or not.
    #[inline]
    pub(super) fn looks(&mut self, worked: bool, now: u64) -> usize {
        if self.asleep.is_empty() {
            self.at = now;
            return 0;
        }
        let passed = now.wrapping_sub(self.at);
        if worked && passed < self.sweep / PARTS {
            return 0;
        }
        self.at = now;
        // After a round that took longer than a sweep all of them are due, once.
        let passed = passed.min(self.sweep);
        self.due += self.asleep.len() as u64 * passed * self.pace;
        let whole = (self.due >> FRACTION) as usize;
        self.due &= (1 << FRACTION) - 1;
        let spare = if worked { 0 } else { SPARE_LOOKS };
        whole.max(spare).min(self.asleep.len())
    }

    /// Looks at idle rings in turn, at most as often as `looks` says, which is counted down: the place of the first in which there is
    /// something. [`Rota::wake`] or [`Rota::pass`] comes next.
    #[inline]
    pub(super) fn find(&mut self, looks: &mut usize) -> Option<usize> {
        while *looks > 0 && !self.asleep.is_empty() {
            if self.turn >= self.asleep.len() {
                self.turn = 0;
            }
            let rest = self.asleep.get(self.turn..)?;
            let lap = rest.get(..*looks).unwrap_or(rest);
            let ahead = rest.iter().skip(LOOK_AHEAD).chain(&self.asleep);
            let found = lap.iter().zip(ahead).position(|(ring, ahead)| {
                ahead.watch.prefetch();
                !ring.watch.is_quiet()
            });
            let quiet = found.unwrap_or(lap.len());
            self.turn += quiet;
            *looks -= quiet;
            if found.is_some() {
                *looks -= 1;
                return self.asleep.get(self.turn).map(|ring| ring.place.into());
            }
        }
        None
    }

    /// Something was in the ring that [`Rota::find`] gave last: it is in use.
    pub(super) fn wake(&mut self, now: u64) {
        if self.turn < self.asleep.len() {
            let place = self.asleep.swap_remove(self.turn).place;
            self.awake.push(Awake { place, worked: now });
        }
    }

    /// There was nothing in it after all: it is the others' turn.
    #[inline]
    pub(super) fn pass(&mut self) {
        self.turn += 1;
    }
}

/// What there is to look at of an idle ring.
pub(super) trait Watch {
    /// Whether nothing was put into the ring since the watch was made. False may be a mistake; true is none.
    fn is_quiet(&self) -> bool;
    /// Brings what that reads into the cache.
    fn prefetch(&self);
}

impl Watch for RingWatch {
    #[inline]
    fn is_quiet(&self) -> bool {
        Self::is_quiet(self)
    }

    #[inline]
    fn prefetch(&self) {
        Self::prefetch(self);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use proptest::prelude::*;

    const MHZ: u64 = 1_000;
    const HZ: u64 = MHZ * 1_000_000;

    /// A ring in which there is something or not, and whether it was looked at.
    #[derive(Clone, Debug, Default)]
    struct Ring {
        place: usize,
        state: Rc<RefCell<State>>,
    }

    /// What all rings of a test share.
    #[derive(Debug, Default)]
    struct State {
        busy: Vec<usize>,
        looked: Vec<usize>,
    }

    impl Watch for Ring {
        fn is_quiet(&self) -> bool {
            let mut state = self.state.borrow_mut();
            state.looked.push(self.place);
            !state.busy.contains(&self.place)
        }

        fn prefetch(&self) {}
    }

    /// A rota, and the state of the rings in it.
    struct Rig {
        rota: Rota<Ring>,
        state: Rc<RefCell<State>>,
    }

    impl Rig {
        fn new(rings: usize) -> Self {
            let mut rota = Rota::new(rings, HZ);
            (0..rings).for_each(|place| rota.add(place, 0));
            Self { rota, state: Rc::default() }
        }

        /// One round in which these rings have something; gives those that were looked at.
        fn round(&mut self, now: u64, busy: &[usize]) -> Vec<usize> {
            *self.state.borrow_mut() = State { busy: busy.to_vec(), looked: Vec::new() };
            let Self { rota, state } = self;
            let (mut nth, mut worked) = (0, false);
            while let Some(place) = rota.awake(nth) {
                state.borrow_mut().looked.push(place);
                let found = busy.contains(&place);
                worked |= found;
                let watch = |place| Some(Ring { place, state: Rc::clone(state) });
                nth += usize::from(rota.note(nth, found, now, watch));
            }
            let mut looks = rota.looks(worked, now);
            while rota.find(&mut looks).is_some() {
                rota.wake(now);
            }
            state.borrow().looked.clone()
        }

        fn awake(&self) -> Vec<u16> {
            self.rota.awake.iter().map(|ring| ring.place).collect()
        }

        fn asleep(&self) -> Vec<u16> {
            self.rota.asleep.iter().map(|ring| ring.place).collect()
        }
    }

    #[test]
    fn a_ring_in_use_is_looked_at_in_every_round_and_a_new_one_too() {
        let mut rig = Rig::new(3);
        for time in (0..5 * IDLE_AFTER_US).step_by(10) {
            let looked = rig.round(time * MHZ, &[1]);
            assert!(looked.contains(&1));
            assert!(looked.len() == 3 || time > IDLE_AFTER_US, "{looked:?} at {time} us");
        }
        assert_eq!((rig.awake().len(), rig.asleep().len()), (1, 2));
        rig.rota.add(3, 5 * IDLE_AFTER_US * MHZ);
        assert!(rig.round(5 * IDLE_AFTER_US * MHZ, &[]).contains(&3));
    }

    #[test]
    fn an_idle_ring_that_has_something_is_in_use_at_once() {
        let mut rig = Rig::new(100);
        let mut now = 2 * IDLE_AFTER_US * MHZ;
        rig.round(now, &[0]);
        assert_eq!((rig.awake().len(), rig.asleep().len()), (1, 99));
        for _ in 0..2 * SWEEP_US {
            now += MHZ;
            rig.round(now, &[0, 50]);
        }
        assert_eq!(rig.awake(), [0, 50]);
        assert!(!rig.asleep().contains(&50) && rig.asleep().len() == 98);
    }

    #[test]
    fn a_core_without_work_looks_at_some_idle_rings_in_every_round() {
        let mut rig = Rig::new(100);
        let now = 2 * IDLE_AFTER_US * MHZ;
        rig.round(now, &[]);
        assert_eq!(rig.round(now, &[]).len(), SPARE_LOOKS);
    }

    #[test]
    fn a_busy_core_looks_at_a_part_of_the_idle_rings_at_a_time() {
        let mut rig = Rig::new(1 + 10 * PARTS as usize);
        let begin = 2 * IDLE_AFTER_US * MHZ;
        rig.round(begin, &[0]);
        let (part, mut looks) = (SWEEP_US * MHZ / PARTS, Vec::new());
        for tenth in 1..=10 * PARTS {
            looks.push(rig.round(begin + tenth * part / 10, &[0]).len() - 1);
        }
        let parts: Vec<usize> = looks.chunks(10).map(|tenths| tenths.iter().sum()).collect();
        assert!(looks.chunks(10).all(|tenths| tenths[..9].iter().all(|looks| *looks == 0)), "{looks:?}");
        assert!(parts.iter().all(|looks| (10..=11).contains(looks)), "{parts:?}");
    }

    #[test]
    fn whoever_goes_takes_nobody_s_turn() {
        // Idle: 0 to 5, in this order.
        let mut rig = Rig::new(6);
        rig.round(2 * IDLE_AFTER_US * MHZ, &[]);
        let order = rig.asleep();
        let turn = |rig: &mut Rig| {
            rig.state.borrow_mut().looked.clear();
            rig.rota.find(&mut 1);
            rig.state.borrow().looked[0]
        };
        while turn(&mut rig) != usize::from(order[3]) {}
        // One that has had its turn, then the one whose turn it is.
        rig.rota.take_out(|place| place == usize::from(order[1]));
        assert_eq!(turn(&mut rig), usize::from(order[4]));
        rig.rota.take_out(|place| place == usize::from(order[5]));
        assert_eq!(turn(&mut rig), usize::from(order[0]));
    }

    #[test]
    fn places_move_as_the_list_does() {
        let mut rig = Rig::new(6);
        rig.round(2 * IDLE_AFTER_US * MHZ, &[0, 1, 2]);
        // In use: 0, 1, 2; idle: 3, 4, 5. Ring 5 takes the place of 1, then ring 4 that of 4 itself.
        rig.rota.swap_remove(1, 5);
        rig.rota.swap_remove(4, 4);
        let mut places = [rig.awake(), rig.asleep()].concat();
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3]);
        assert!(rig.asleep().contains(&1) && !rig.awake().contains(&1));
    }

    #[test]
    fn urgent_rings_take_turns_and_move_with_the_list() {
        let mut rota = Rota::<Ring>::new(64, HZ);
        assert_eq!((rota.urgent_looks(), rota.next_urgent()), (0, None));
        (0..40).for_each(|place| rota.add_urgent(place));
        assert_eq!(rota.urgent_looks(), URGENT_LOOKS);
        let mut seen: Vec<_> = (0..40).map(|_| rota.next_urgent().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        for (place, last) in (2..40).rev().map(|last| (1, last)) {
            rota.swap_remove(place, last);
        }
        let mut left = [rota.next_urgent(), rota.next_urgent()];
        left.sort_unstable();
        assert_eq!((rota.urgent_looks(), left), (2, [Some(0), Some(1)]));
    }

    #[test]
    fn what_only_seemed_to_be_there_keeps_its_place() {
        let mut rig = Rig::new(3);
        let now = 2 * IDLE_AFTER_US * MHZ;
        rig.round(now, &[]);
        rig.state.borrow_mut().busy = vec![0, 1, 2];
        let mut looks = 7;
        let mut found = Vec::new();
        while let Some(place) = rig.rota.find(&mut looks) {
            found.push(place);
            rig.rota.pass();
        }
        assert_eq!(found.len(), 7);
        assert!((0..3).all(|place| found.iter().filter(|found| **found == place).count() >= 2), "{found:?}");
    }

    proptest! {
        /// Whatever the rounds' lengths, whoever wakes and whoever goes, no ring waits for longer than a sweep, a part of one and two rounds.
        #[test]
        fn no_ring_is_forgotten(
            rings in 1usize..300,
            rounds in prop::collection::vec((1u64..30 * MHZ, 0usize..600, 0usize..600), 1..400),
        ) {
            let mut rig = Rig::new(rings);
            let mut now = 2 * IDLE_AFTER_US * MHZ;
            rig.round(now, &[0]);
            let mut seen = vec![now; rings];
            let (sweep, mut longest) = (SWEEP_US * MHZ, 0);
            for (length, busy, gone) in rounds {
                now += length;
                longest = length.max(longest);
                let most = sweep + sweep / PARTS + 2 * longest;
                for place in rig.round(now, &[0, busy]) {
                    prop_assert!(now - seen[place] <= most, "ring {place}");
                    seen[place] = now;
                }
                for (place, seen) in seen.iter().enumerate() {
                    prop_assert!(now - seen <= most, "ring {place} waits");
                }
                if gone > 0 && gone < seen.len() {
                    rig.rota.swap_remove(gone, seen.len() - 1);
                    seen.swap_remove(gone);
                    // Watches know their rings by place here.
                    rig.rota.asleep.iter_mut().for_each(|ring| ring.watch.place = ring.place.into());
                }
            }
        }
    }
}

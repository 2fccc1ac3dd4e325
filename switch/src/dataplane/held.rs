//! Calls that a core holds back (see `vm_ports::Moderation`), and when each has to go out. The core compares its clock with the earliest of those
//! times after every burst and every round; that is all there is of a timer.

/// Calls that have to go out within so many microseconds of each other go out together, so that a core looks at the list no more often than that.
const TOGETHER_US: u64 = 4;

/// A call that is held back: which ring's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldCall {
    /// That of a receive ring, by its place with the core.
    Rx(u16),
    /// That of a transmit ring.
    Tx(u16),
}

/// The calls that a core holds back: each ring's once, so no guest makes more of them than it has rings.
#[derive(Debug)]
pub(super) struct HeldCalls {
    calls: Vec<(HeldCall, u64)>,
    /// Which rings are in there, by place; receive and transmit rings.
    listed: [Box<[bool]>; 2],
    /// The earliest time in there.
    next: u64,
    together: u64,
}

impl HeldCalls {
    /// For up to `rings` rings each way, on a clock of `cycles_per_s`.
    pub(super) fn new(rings: usize, cycles_per_s: u64) -> Self {
        let none = || vec![false; rings].into_boxed_slice();
        Self {
            calls: Vec::with_capacity(2 * rings),
            listed: [none(), none()],
            next: u64::MAX,
            together: cycles_per_s.saturating_mul(TOGETHER_US) / 1_000_000,
        }
    }

    fn listed(&mut self, call: HeldCall) -> Option<&mut bool> {
        let [rx, tx] = &mut self.listed;
        match call {
            HeldCall::Rx(at) => rx.get_mut(usize::from(at)),
            HeldCall::Tx(place) => tx.get_mut(usize::from(place)),
        }
    }

    /// A call is held back until then. One that is known may have gone out meanwhile, and another of its ring be held back for longer: that is found out
    /// when its time has come.
    pub(super) fn hold(&mut self, call: HeldCall, until: u64) {
        if let Some(listed @ false) = self.listed(call) {
            *listed = true;
            self.calls.push((call, until));
            self.next = self.next.min(until);
        }
    }

    /// Where some have to go out at the time `now`: those until this time do.
    #[inline]
    pub(super) fn due(&self, now: u64) -> Option<u64> {
        (now >= self.next).then(|| now.saturating_add(self.together))
    }

    /// Gives each call that is held back until `time` at the latest to `release`, which returns until when it is, if for longer.
    pub(super) fn release(&mut self, time: u64, mut release: impl FnMut(HeldCall, u64) -> Option<u64>) {
        let Self { calls, listed: [rx, tx], next, .. } = self;
        *next = u64::MAX;
        calls.retain_mut(|(call, until)| {
            if *until <= time {
                let Some(later) = release(*call, time) else {
                    match *call {
                        HeldCall::Rx(at) => rx[usize::from(at)] = false,
                        HeldCall::Tx(place) => tx[usize::from(place)] = false,
                    }
                    return false;
                };
                *until = later;
            }
            *next = (*next).min(*until);
            true
        });
    }

    /// The ring at a place went, its call with it, and the `last` in the list of its kind has taken its place.
    pub(super) fn swap_remove(&mut self, place: HeldCall, last: HeldCall) {
        self.calls.retain(|(call, _)| *call != place);
        self.calls.iter_mut().filter(|(call, _)| *call == last).for_each(|(call, _)| *call = place);
        let moved = self.listed(last).is_some_and(std::mem::take);
        if let Some(listed) = self.listed(place) {
            *listed = moved && place != last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HZ: u64 = 1_000_000_000;
    const TOGETHER: u64 = TOGETHER_US * 1000;

    #[derive(Clone, Debug)]
    enum Step {
        /// So much time passes, and the core looks.
        Pass(u64),
        /// This ring has a call to hold back for so long.
        Hold(u16, u64),
        /// Its call goes out early.
        Send(u16),
        /// It goes.
        Remove(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..20_000).prop_map(Step::Pass),
            (any::<u16>(), 1u64..50_000).prop_map(|(ring, delay)| Step::Hold(ring, delay)),
            any::<u16>().prop_map(Step::Send),
            any::<u16>().prop_map(Step::Remove),
        ]
    }

    /// A ring, with its call if that is held back.
    #[derive(Clone, Copy, Debug, Default)]
    struct Ring {
        until: Option<u64>,
        /// When its last call had to go out: the next one never has to earlier.
        last: u64,
    }

    proptest! {
        /// Whatever is held back goes out at the first look at or after its time, however rings come and go meanwhile. The list is never longer
        /// than there are rings, and is not gone through again before the calls that were released together would have been due.
        #[test]
        fn no_call_is_forgotten(steps in prop::collection::vec(step(), 1..400)) {
            let mut held = HeldCalls::new(64, HZ);
            let mut rings = [Ring::default(); 40].to_vec();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Pass(cycles) => {
                        now += cycles;
                        if let Some(time) = held.due(now) {
                            prop_assert!(time == now + TOGETHER);
                            held.release(time, |call, time| {
                                let HeldCall::Tx(place) = call else { panic!("{call:?}") };
                                let ring = &mut rings[usize::from(place)];
                                ring.until = ring.until.filter(|until| *until > time);
                                ring.until
                            });
                            prop_assert_eq!(held.due(time), None);
                        }
                        let late = rings.iter().find(|ring| ring.until.is_some_and(|until| until <= now));
                        prop_assert!(late.is_none(), "{late:?} at {now}");
                    }
                    Step::Hold(place, delay) => {
                        let place = usize::from(place) % rings.len();
                        let ring = &mut rings[place];
                        if ring.until.is_none() {
                            ring.last = ring.last.max(now + delay);
                            ring.until = Some(ring.last);
                        }
                        held.hold(HeldCall::Tx(place as u16), ring.last);
                    }
                    Step::Send(place) => {
                        let place = usize::from(place) % rings.len();
                        rings[place].until = None;
                    }
                    Step::Remove(place) if rings.len() > 1 => {
                        let (place, last) = (usize::from(place) % rings.len(), rings.len() - 1);
                        rings.swap_remove(place);
                        held.swap_remove(HeldCall::Tx(place as u16), HeldCall::Tx(last as u16));
                    }
                    Step::Remove(_) => {}
                }
                let calls: Vec<_> = held.calls.iter().map(|(call, _)| *call).collect();
                let twice = calls.iter().enumerate().any(|(nth, call)| calls[..nth].contains(call));
                prop_assert!(calls.len() <= rings.len() && !twice, "{calls:?}");
            }
        }
    }

    #[test]
    fn calls_that_are_due_within_a_short_time_go_out_together() {
        let mut held = HeldCalls::new(8, HZ);
        for ring in 0..4 {
            held.hold(HeldCall::Rx(ring), 1000 + u64::from(ring) * TOGETHER / 2);
        }
        held.hold(HeldCall::Tx(0), 100 * TOGETHER);
        assert_eq!(held.due(999), None);
        let mut out = Vec::new();
        held.release(held.due(1000).unwrap(), |call, _| {
            out.push(call);
            None
        });
        assert_eq!(out, [0, 1, 2].map(HeldCall::Rx));
        assert_eq!(held.due(1000 + TOGETHER), None);
        held.release(u64::MAX, |_, _| None);
        assert!(held.calls.is_empty() && held.due(u64::MAX - 1).is_none());
        held.hold(HeldCall::Rx(0), 5);
        assert_eq!(held.calls.len(), 1, "it can be held back again");
    }
}

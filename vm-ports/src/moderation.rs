//! Interrupt moderation: whether a guest that wants a call gets it at once, or one for this and for what comes next.
//!
//! After vIC (Ahmad et al., ATC'11): by rate and by work in flight, decided when something is published. There is no timer: who polls the ring
//! looks at its clock anyway, and lets a call go that nothing has come for.
//!
//! - *By rate*: a call at least `delay` after the last one goes out at once, so a lone packet never waits. Only within `delay` of the last one
//!   is a call held back, and no longer than until then: that is all the latency that is ever added.
//! - *By work in flight*: what the guest has not looked at since it last asked to be called. A call goes out as soon as that is a batch. How
//!   much is a batch is found out: it doubles while batches fill up in time, and is halved when that fails. So a guest that waits for each answer
//!   before it asks again has batches of one, which is no moderation; the next trial comes after twice as many calls. While the guest itself has
//!   more under way in a transmit ring, another completion is sure to follow, and the batch is the largest there is.
//!
//! No batch is more than a quarter of the ring: the guest has to be called before it runs out of buffers.

/// How calls to a guest are held back. Times are in cycles of the clock that [`RxQueue::notify`](crate::RxQueue::notify) is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// A call is held back for at most this long after the last one; 0: never.
    pub delay: u64,
    /// Whether a batch is as large as it turns out to be useful, instead of [`FIXED_BATCH`] buffers.
    pub adaptive: bool,
}

/// Buffers that are worth a call where that is not found out: a full burst.
pub const FIXED_BATCH: u16 = 32;
/// The largest batch, in buffers, where the ring has room for four of them.
const BATCH_MAX: u16 = 256;
/// Batches that have to fill up before a larger one is tried, at first, and before one is good; and when trials have failed again and again.
const PATIENCE: u16 = 8;
const PATIENCE_MAX: u16 = 1024;
/// A call that could be held back for less than this part of the delay goes out instead: it would hardly be joined by another.
const NOT_WORTH: u64 = 8;

/// What one ring knows about its calls.
#[derive(Debug)]
pub(crate) struct Moderator {
    delay: u64,
    adaptive: bool,
    /// When the guest was last called.
    called_at: u64,
    batch: u16,
    most: u16,
    /// Batches that have to fill up before a larger one is tried, …
    patience: u16,
    /// … those that did since the batch has its size, …
    progress: u16,
    /// … and since the last one that did not.
    filled: u16,
    /// Whether the batch has become larger, and has not proved to be good.
    on_trial: bool,
}

impl Moderator {
    /// For a ring of so many descriptors.
    pub(crate) fn new(moderation: Moderation, size: u16) -> Self {
        let most = (size / 4).clamp(1, BATCH_MAX);
        let batch = if moderation.adaptive { 1 } else { FIXED_BATCH.min(most) };
        Self {
            delay: moderation.delay,
            adaptive: moderation.adaptive,
            // As long ago as can be, whatever the clock says now.
            called_at: 1 << 63,
            batch,
            most: if moderation.adaptive { most } else { batch },
            patience: PATIENCE,
            progress: 0,
            filled: 0,
            on_trial: false,
        }
    }

    /// Whether a call that the guest wants is held back, at the time `now`: for `buffers` that it has not looked at, with more sure to come or
    /// not. `held`: whether one was held back already. False: the guest is called now.
    #[inline]
    pub(crate) fn holds(&mut self, buffers: u16, more: impl FnOnce() -> bool, held: bool, now: u64) -> bool {
        // A clock that went back, from one CPU to another, counts as a long time.
        let since = now.wrapping_sub(self.called_at);
        if since >= self.delay - self.delay / NOT_WORTH {
            if held {
                self.missed(buffers);
            }
        } else if buffers >= self.batch && (buffers >= self.most || !more()) {
            self.filled();
        } else {
            return true;
        }
        self.called_at = now;
        false
    }

    /// Until when a call is held back.
    #[inline]
    pub(crate) fn until(&self) -> u64 {
        self.called_at.wrapping_add(self.delay)
    }

    /// A call that was held back for so many buffers goes out because its time has come.
    pub(crate) fn expired(&mut self, buffers: u16, now: u64) {
        self.missed(buffers);
        self.called_at = now;
    }

    /// A batch filled up in time.
    fn filled(&mut self) {
        self.filled = self.filled.saturating_add(1);
        self.progress = self.progress.saturating_add(1);
        if self.on_trial && self.filled >= PATIENCE {
            self.on_trial = false;
            self.patience = (self.patience / 2).max(PATIENCE);
        }
        if self.adaptive && self.batch < self.most && self.progress >= self.patience {
            self.batch = (self.batch * 2).min(self.most);
            (self.progress, self.filled, self.on_trial) = (0, 0, true);
        }
    }

    /// What came in time was no more than `buffers`. The last packets before a pause do no harm: a batch that fills up time and again keeps its size.
    fn missed(&mut self, buffers: u16) {
        if buffers >= self.batch || !self.adaptive {
            return;
        }
        if self.filled < PATIENCE {
            self.batch = (self.batch / 2).max(1);
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
            (self.progress, self.on_trial) = (0, false);
        }
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DELAY: u64 = 50_000;

    fn adaptive(size: u16) -> Moderator {
        Moderator::new(Moderation { delay: DELAY, adaptive: true }, size)
    }

    /// Packets that come one by one, `every` cycles, to a guest that takes all it is called for at once. Calls, and the longest that a packet
    /// waited, over the last `count` of twice as many.
    fn stream(moderator: &mut Moderator, every: u64, count: u64) -> (u64, u64) {
        let (mut waiting, mut since, mut calls, mut longest) = (0u16, 0, 0, 0);
        let mut now = 1_000_000;
        for packet in 0..2 * count {
            now += every;
            // The core looks at its clock all the time.
            if waiting > 0 && moderator.until() <= now {
                let until = moderator.until();
                moderator.expired(waiting, until);
                longest = longest.max(until - since);
                waiting = 0;
                calls += u64::from(packet >= count);
            }
            waiting += 1;
            if waiting == 1 {
                since = now;
            }
            if !moderator.holds(waiting, || false, waiting > 1, now) {
                longest = longest.max(now - since);
                waiting = 0;
                calls += u64::from(packet >= count);
            }
        }
        (calls, longest)
    }

    #[test]
    fn a_lone_packet_is_called_for_at_once_also_by_a_fixed_rule() {
        for adaptive in [true, false] {
            let mut moderator = Moderator::new(Moderation { delay: DELAY, adaptive }, 256);
            assert!(!moderator.holds(1, || false, false, 0), "the first, at time 0");
            assert_eq!(stream(&mut moderator, DELAY, 100), (100, 0));
            assert_eq!(stream(&mut moderator, 10 * DELAY, 100), (100, 0));
        }
    }

    #[test]
    fn without_a_delay_nothing_is_held_back() {
        let mut moderator = Moderator::new(Moderation::default(), 256);
        assert_eq!(stream(&mut moderator, 1, 1000), (1000, 0));
    }

    #[test]
    fn a_stream_has_few_calls_and_no_packet_waits_for_longer_than_the_delay() {
        for (every, most) in [(50, 0.02), (500, 0.03), (5_000, 0.35)] {
            let (calls, longest) = stream(&mut adaptive(1024), every, 10_000);
            assert!(calls as f64 <= 10_000.0 * most, "{calls} calls at {every}");
            assert!(longest <= DELAY, "{longest} at {every}");
        }
        let mut fixed = Moderator::new(Moderation { delay: DELAY, adaptive: false }, 1024);
        let (calls, _) = stream(&mut fixed, 50, 3200);
        assert_eq!(calls, 100);
    }

    /// A number of requests under way, each answered `trip` cycles after the guest is called for the last answer.
    fn ask(moderator: &mut Moderator, under_way: u16, trip: u64, answers: u64) -> (u64, u64) {
        let mut now = 1_000_000;
        let mut due: std::collections::VecDeque<u64> = (0..under_way).map(|n| now + u64::from(n) * trip / 8).collect();
        let (mut waiting, mut calls, mut done) = (0u16, 0, 0);
        let begin = now;
        while done < answers {
            let next = due.front().copied().unwrap_or(u64::MAX);
            let called = if waiting > 0 && moderator.until() < next {
                now = moderator.until();
                moderator.expired(waiting, now);
                true
            } else {
                now = now.max(next);
                due.pop_front();
                waiting += 1;
                !moderator.holds(waiting, || false, waiting > 1, now)
            };
            if called {
                calls += 1;
                done += u64::from(waiting);
                due.extend((0..u64::from(std::mem::take(&mut waiting))).map(|n| now + trip + n * trip / 8));
            }
        }
        (calls, (now - begin) / answers)
    }

    #[test]
    fn a_guest_that_waits_for_answers_is_hardly_slowed_down() {
        for under_way in [1, 2, 5, 9] {
            let mut none = Moderator::new(Moderation::default(), 256);
            let (_, alone) = ask(&mut none, under_way, 5_000, 100_000);
            let (_, moderated) = ask(&mut adaptive(256), under_way, 5_000, 100_000);
            let part = moderated as f64 / alone as f64;
            // With several answers under way it is called when most are there, so that at worst it waits for all of them.
            assert!(part < if under_way == 1 { 1.05 } else { 2.0 }, "{under_way}: {part}");
        }
    }

    #[test]
    fn pauses_do_not_end_moderation() {
        let mut moderator = adaptive(1024);
        let mut calls = 0;
        for pause in 0..200 {
            // A hundred packets a microsecond apart, then nothing for a long time.
            let begin = 10_000_000 * (pause + 1);
            let mut waiting = 0;
            for packet in 0..100 {
                waiting += 1;
                if !moderator.holds(waiting, || false, waiting > 1, begin + packet * 1000) {
                    waiting = 0;
                    calls += u64::from(pause >= 100);
                }
            }
            if waiting > 0 {
                moderator.expired(waiting, moderator.until());
                calls += u64::from(pause >= 100);
            }
        }
        assert!(calls <= 100 * 30, "{calls} calls for 100 times 100 packets");
    }

    #[test]
    fn completions_wait_for_those_that_are_sure_to_come_up_to_a_quarter_of_the_ring() {
        let mut moderator = adaptive(256);
        assert!(!moderator.holds(32, || true, false, DELAY));
        assert!(moderator.holds(32, || true, false, DELAY + 1));
        assert!(!moderator.holds(64, || true, true, DELAY + 2));
        assert!(!moderator.holds(32, || false, false, DELAY + 3));
    }

    proptest! {
        /// Whatever comes, and however it is told: a call is held back only within the delay of the last one, only below a quarter
        /// of the ring, and the batch stays within its bounds.
        #[test]
        fn the_bounds_hold(
            is_adaptive: bool,
            size in 1u16..=32_768,
            steps in prop::collection::vec((0u64..2 * DELAY, any::<u16>(), any::<bool>(), 0u8..4), 1..500),
        ) {
            let mut moderator = Moderator::new(Moderation { delay: DELAY, adaptive: is_adaptive }, size);
            let (mut now, mut last, mut held) = (0, None::<u64>, false);
            for (passed, buffers, more, kind) in steps {
                now += passed;
                if kind == 0 && held {
                    moderator.expired(buffers, now);
                    (last, held) = (Some(now), false);
                    continue;
                }
                held = moderator.holds(buffers.max(1), || more, held, now);
                if held {
                    prop_assert!(last.is_some_and(|last| now < last + DELAY && moderator.until() == last + DELAY));
                    prop_assert!(buffers < (size / 4).clamp(1, BATCH_MAX));
                } else {
                    last = Some(now);
                }
                prop_assert!(moderator.batch >= 1 && moderator.batch <= moderator.most);
                prop_assert!(moderator.patience >= PATIENCE && moderator.patience <= PATIENCE_MAX);
            }
        }
    }
}

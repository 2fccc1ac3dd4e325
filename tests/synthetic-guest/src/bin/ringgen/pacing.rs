//! How many packets may be sent now.

use crate::clock::Clock;

/// When a sender sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Whenever there is room.
    Full,
    /// This many packets a second.
    Rate(f64),
    /// At full speed for so many seconds, then not at all for so many.
    Bursts { on: f64, off: f64 },
}

/// One sender's pace under way.
pub(crate) enum Pacer {
    Full,
    Rate { per_tick: f64, start: u64, granted: u64 },
    Bursts { on: u64, period: u64, start: u64 },
}

impl Pacer {
    pub(crate) fn new(pace: Pace, clock: &Clock) -> Self {
        let start = clock.now();
        match pace {
            Pace::Full => Pacer::Full,
            Pace::Rate(rate) => Pacer::Rate { per_tick: rate / clock.ticks_per_second(), start, granted: 0 },
            Pace::Bursts { on, off } => {
                let on = clock.ticks(on).max(1);
                Pacer::Bursts { on, period: on + clock.ticks(off), start }
            }
        }
    }

    /// Packets that are due at `now`, `most` at a time; not more than `backlog` are ever owed: what more a stall has left is not made up for.
    #[inline]
    pub(crate) fn due(&mut self, now: u64, most: usize, backlog: usize) -> usize {
        match self {
            Pacer::Full => most,
            Pacer::Rate { per_tick, start, granted } => {
                let total = (now.saturating_sub(*start) as f64 * *per_tick) as u64;
                let due = total.saturating_sub(*granted).min(backlog as u64);
                *granted = total - due;
                (due as usize).min(most)
            }
            Pacer::Bursts { on, period, start } => {
                if now.saturating_sub(*start) % *period < *on {
                    most
                } else {
                    0
                }
            }
        }
    }

    /// When the next packet is due, as far as that is known.
    pub(crate) fn due_at(&self, now: u64) -> u64 {
        match self {
            Pacer::Full => now,
            Pacer::Rate { per_tick, start, granted } => {
                start.saturating_add(((granted + 1) as f64 / per_tick).ceil() as u64)
            }
            Pacer::Bursts { on, period, start } => {
                let into = now.saturating_sub(*start) % period;
                if into < *on { now } else { now + (period - into) }
            }
        }
    }

    /// Takes note of packets sent.
    #[inline]
    pub(crate) fn sent(&mut self, count: usize) {
        if let Pacer::Rate { granted, .. } = self {
            *granted += count as u64;
        }
    }

    /// Whether packets may go out one by one: a paced sender does not wait until a burst is due.
    pub(crate) fn is_paced(&self) -> bool {
        matches!(self, Pacer::Rate { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_a_stall_is_not_made_up_for() {
        let mut pacer = Pacer::Rate { per_tick: 0.5, start: 100, granted: 0 };
        assert_eq!(pacer.due(100, 32, 32), 0);
        assert_eq!(pacer.due(108, 32, 32), 4);
        pacer.sent(3);
        assert_eq!(pacer.due(108, 32, 32), 1);
        assert_eq!(pacer.due(10_100, 32, 32), 32);
        pacer.sent(32);
        assert_eq!(pacer.due(10_102, 32, 32), 1);
        assert_eq!(pacer.due(20_102, 32, 100), 32);
        pacer.sent(32);
        assert_eq!(pacer.due(20_102, 100, 100), 68, "a longer queue holds more");
    }

    #[test]
    fn bursts_have_pauses() {
        let mut pacer = Pacer::Bursts { on: 10, period: 30, start: 0 };
        assert_eq!([0, 9, 10, 29, 30].map(|now| pacer.due(now, 7, 7)), [7, 7, 0, 0, 7]);
    }

    #[test]
    fn nothing_is_due_before_the_time_that_is_said() {
        let mut rate = Pacer::Rate { per_tick: 0.3, start: 100, granted: 0 };
        for _ in 0..20 {
            let at = rate.due_at(100);
            assert_eq!((rate.due(at - 1, 32, 32), rate.due(at, 32, 32)), (0, 1));
            rate.sent(1);
        }
        assert_eq!(Pacer::Rate { per_tick: 0.0, start: 100, granted: 0 }.due_at(200), u64::MAX, "silent");
        let bursts = Pacer::Bursts { on: 10, period: 30, start: 0 };
        assert_eq!([0, 9, 10, 29, 30].map(|now| bursts.due_at(now)), [0, 9, 30, 30, 30]);
    }
}

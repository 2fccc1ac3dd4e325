//! What counts: packets and time of the measured stretches, and nothing of what was before and after them.

use hdrhistogram::Histogram;

use crate::receiver::histogram;

/// Sums over all guests at one moment, or from one to another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) bytes: u64,
    pub(crate) completed: u64,
    /// Frames made available, and their bytes.
    pub(crate) posted: u64,
    pub(crate) posted_bytes: u64,
    pub(crate) echoed: u64,
    pub(crate) round_trips: u64,
    /// Received beside pings.
    pub(crate) background: u64,
    /// Calls of the switch, and how often a guest found some.
    pub(crate) calls: u64,
    pub(crate) call_reads: u64,
    /// Received, or what counts in its place, by guest.
    pub(crate) by_guest: Vec<u64>,
}

impl Totals {
    /// Every count of two together.
    fn with(&self, other: &Totals, of: fn(u64, u64) -> u64) -> Totals {
        Totals {
            sent: of(self.sent, other.sent),
            received: of(self.received, other.received),
            bytes: of(self.bytes, other.bytes),
            completed: of(self.completed, other.completed),
            posted: of(self.posted, other.posted),
            posted_bytes: of(self.posted_bytes, other.posted_bytes),
            echoed: of(self.echoed, other.echoed),
            round_trips: of(self.round_trips, other.round_trips),
            background: of(self.background, other.background),
            calls: of(self.calls, other.calls),
            call_reads: of(self.call_reads, other.call_reads),
            by_guest: self.by_guest.iter().zip(&other.by_guest).map(|(one, other)| of(*one, *other)).collect(),
        }
    }

    /// From an earlier moment to this one.
    pub(crate) fn since(&self, before: &Totals) -> Totals {
        self.with(before, |after, before| after - before)
    }

    /// Bytes of so many frames that were sent, by the mean of those made available: which of a mix are back, nobody counts.
    pub(crate) fn bytes_of(&self, frames: u64) -> u64 {
        (self.posted_bytes as f64 * frames as f64 / self.posted.max(1) as f64) as u64
    }
}

/// How a stretch of time was spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) ticks: u64,
    /// In rounds that found nothing to do, and asleep.
    pub(crate) idle: u64,
    /// What this thread had of a CPU, in seconds.
    pub(crate) cpu_s: f64,
    /// In a forwarder of this thread.
    pub(crate) backend: u64,
}

/// A measured stretch, or several of them together.
pub(crate) struct Measured {
    pub(crate) counts: Totals,
    pub(crate) spent: Spent,
    /// Of every packet that was timed.
    pub(crate) latencies: Histogram<u64>,
}

impl Measured {
    /// Of so many guests, nothing yet.
    pub(crate) fn nothing(guests: usize) -> Self {
        let counts = Totals { by_guest: vec![0; guests], ..Totals::default() };
        Measured { counts, spent: Spent::default(), latencies: histogram() }
    }

    /// Adds another stretch.
    pub(crate) fn add(&mut self, other: &Measured) {
        self.counts = self.counts.with(&other.counts, |one, other| one + other);
        let Spent { ticks, idle, cpu_s, backend } = other.spent;
        self.spent.ticks += ticks;
        self.spent.idle += idle;
        self.spent.cpu_s += cpu_s;
        self.spent.backend += backend;
        self.latencies.add(&other.latencies).expect("histograms of the same bounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_that_falls_takes_nothing_back() {
        // One long frame and its completion, then many short ones of which none is back.
        let before = Totals { posted: 1, posted_bytes: 1518, completed: 1, ..Totals::default() };
        let after = Totals { posted: 100, posted_bytes: 1518 + 99 * 64, completed: 1, ..Totals::default() };
        let stretch = after.since(&before);
        assert_eq!((stretch.completed, stretch.bytes_of(stretch.completed)), (0, 0));
        assert_eq!((stretch.posted, stretch.bytes_of(50)), (99, 50 * 64));
    }

    #[test]
    fn a_stretch_in_which_nothing_was_made_available_has_no_bytes() {
        assert_eq!(Totals { completed: 3, ..Totals::default() }.bytes_of(3), 0);
    }
}

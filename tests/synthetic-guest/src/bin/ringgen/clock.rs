//! Time from the processor's counter: some ten nanoseconds a look, without a system call.

/// A clock whose readings are ticks.
pub(crate) struct Clock {
    clock: quanta::Clock,
    ticks_per_second: f64,
}

impl Clock {
    /// A clock; finding out how fast it ticks takes up to 200 ms.
    pub(crate) fn new() -> Self {
        let clock = quanta::Clock::new();
        let ticks = 1u64 << 40;
        let ticks_per_second = ticks as f64 * 1e9 / clock.delta_as_nanos(0, ticks) as f64;
        Clock { clock, ticks_per_second }
    }

    #[inline(always)]
    pub(crate) fn now(&self) -> u64 {
        self.clock.raw()
    }

    /// Nanoseconds from one reading to a later one.
    #[inline]
    pub(crate) fn ns(&self, from: u64, to: u64) -> u64 {
        self.clock.delta_as_nanos(from, to)
    }

    pub(crate) fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 / self.ticks_per_second
    }

    /// Ticks in a number of seconds.
    pub(crate) fn ticks(&self, seconds: f64) -> u64 {
        (seconds * self.ticks_per_second) as u64
    }

    pub(crate) fn ticks_per_second(&self) -> f64 {
        self.ticks_per_second
    }
}

//! What things cost: the parameters of the model, and where their defaults come from.

use serde::Serialize;

/// Costs. Cycles are those of an I/O core.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Model {
    /// Length of a tick, in milliseconds.
    pub tick_ms: f64,
    /// Cycles of an I/O core in a second. Only ratios matter: 2 GHz makes a nanosecond two cycles.
    pub core_hz: f64,
    /// Nanoseconds of a packet that stays on one core: 1518 B, split rings, 7.02 Mpps from guest to guest (`make bench-peers` on 2 CPUs of an Intel Xeon,
    /// commit 2109831: experiments/README.md, "Sidecore beside others"). On the machine of README's table it would be 88 (11.38 Mpps).
    pub packet_ns: f64,
    /// Nanoseconds more on the sending core for a packet to a guest of another core: across cores 1518 B take 2.0 times as long (`make bench-timing`:
    /// the work of both cores in one thread), the difference in equal parts on both cores.
    pub send_ns: f64,
    /// The same on the receiving core.
    pub receive_ns: f64,
    /// Nanoseconds for which a queue pair is unserved while it moves: 22 µs in the median, under load with 64 KiB segments (`make experiments QUICK=1
    /// ONLY=answer`; README, "When an I/O core saturates"). Without them it is 5.3 (`make soak-handover` prints `pause_p50_us`).
    pub pause_ns: f64,
    /// Nanoseconds of work that a move costs each of its two cores: 2 to 5 µs for both and who has it moved, with no packets under way (`make
    /// bench-timing`). What it costs that the ring's lines are in the other core's cache is not in it.
    pub move_ns: f64,
    /// Packets that fit into a guest's TX ring: what comes while it is full is never served. QEMU's default.
    pub ring: f64,
    /// Packets that arrive at once. They decide how long packets wait on a core that is not saturated.
    pub burst: f64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            tick_ms: 5.0,
            core_hz: 2e9,
            packet_ns: 142.0,
            send_ns: 71.0,
            receive_ns: 71.0,
            pause_ns: 22_000.0,
            move_ns: 5_000.0,
            ring: 256.0,
            burst: 32.0,
        }
    }
}

impl Model {
    /// Nanoseconds in a tick.
    #[must_use]
    pub fn tick_ns(&self) -> f64 {
        self.tick_ms * 1e6
    }

    /// Ticks in so many seconds.
    #[must_use]
    pub fn ticks(&self, seconds: f64) -> u64 {
        (seconds * 1000.0 / self.tick_ms).round() as u64
    }

    /// Nanoseconds of a core in cycles.
    #[must_use]
    pub fn cycles(&self, ns: f64) -> u64 {
        (ns * self.core_hz / 1e9).round() as u64
    }

    /// Packets that a core can serve in a tick, if none crosses to another.
    #[must_use]
    pub fn packets_a_tick(&self) -> f64 {
        self.tick_ns() / self.packet_ns
    }
}

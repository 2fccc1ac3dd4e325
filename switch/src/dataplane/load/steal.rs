//! The time that a hypervisor underneath took from the CPUs of the I/O cores.

use std::time::{Duration, Instant};

/// Between readings. The kernel counts in steps of several milliseconds, and showing all its counters takes it a while.
const INTERVAL: Duration = Duration::from_secs(1);
/// The field of a CPU's line that is stolen time, and the number of those that make up its time: what it gave to its own guests, behind them, is in user
/// time already (proc(5)).
const STOLEN: usize = 7;
const FIELDS: usize = 8;

/// Follows some CPUs.
#[derive(Debug)]
pub(super) struct Steal {
    cpus: Vec<usize>,
    read_at: Option<Instant>,
    before: Vec<Time>,
    shares: Vec<f64>,
}

/// What a CPU's time was, in the kernel's steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Time {
    stolen: u64,
    all: u64,
}

impl Steal {
    /// The I/O cores' CPUs, in order.
    pub(super) fn new(cpus: Vec<usize>) -> Self {
        Self { read_at: None, before: vec![Time::default(); cpus.len()], shares: vec![0.0; cpus.len()], cpus }
    }

    /// The part of the last second, from 0 to 1, that was taken from each CPU; 0 where the kernel does not say.
    pub(super) fn shares(&mut self) -> &[f64] {
        if self.read_at.is_none_or(|at| at.elapsed() >= INTERVAL) {
            let first = self.read_at.replace(Instant::now()).is_none();
            let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
            self.update(&text);
            if first {
                // Since the machine started: that says nothing of now.
                self.shares.fill(0.0);
            }
        }
        &self.shares
    }

    fn update(&mut self, text: &str) {
        for ((cpu, before), share) in self.cpus.iter().zip(&mut self.before).zip(&mut self.shares) {
            let now = time(text, *cpu).unwrap_or_default();
            let all = now.all.saturating_sub(before.all);
            let stolen = now.stolen.saturating_sub(before.stolen);
            *share = if all == 0 { 0.0 } else { stolen as f64 / all as f64 };
            *before = now;
        }
    }
}

/// A CPU's line of `/proc/stat`.
fn time(text: &str, cpu: usize) -> Option<Time> {
    let name = format!("cpu{cpu}");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '))?;
    let fields: Vec<u64> = line.split_whitespace().take(FIELDS).map_while(|field| field.parse().ok()).collect();
    Some(Time { stolen: *fields.get(STOLEN)?, all: fields.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(stolen: [u64; 2], idle: [u64; 2]) -> String {
        let line = |cpu: usize| format!("cpu{cpu} 10 0 0 {} 0 0 0 {} 5 0\n", idle[cpu], stolen[cpu]);
        format!("cpu  1 2 3 4 5 6 7 8 9 0\n{}{}intr 5 5\n", line(0), line(1))
    }

    #[test]
    fn the_share_is_of_the_time_since_the_last_reading() {
        let mut steal = Steal::new(vec![1, 0, 1]);
        steal.update(&stat([100, 200], [1000, 1000]));
        steal.update(&stat([100, 225], [1100, 1075]));
        assert_eq!(steal.shares, [0.25, 0.0, 0.25]);
    }

    #[test]
    fn a_kernel_that_does_not_say_steals_nothing() {
        let mut steal = Steal::new(vec![0, 7]);
        steal.update("cpu0 1 2 3 4\n");
        steal.update("cpu0 1 2 3 4\n");
        assert_eq!(steal.shares, [0.0, 0.0]);
    }

    #[test]
    fn this_machine_has_a_line_for_its_first_cpu() {
        let text = std::fs::read_to_string("/proc/stat").unwrap();
        let time = time(&text, 0).unwrap();
        assert!(time.all > 0 && time.stolen <= time.all);
    }
}

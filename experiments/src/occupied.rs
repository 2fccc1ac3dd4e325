//! A share of a CPU for whoever runs there: another thread has it in between, for microseconds at a time.
//!
//! A control group's quota is too coarse to look at a limit with. The kernel charges for it when its clock ticks, so that a thread with half a CPU runs
//! for 3 ms, then rests for as long, and some turns of a few tens of milliseconds get a tenth more of it than others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::threads::Preferred;

/// How long the CPU is left to others at a time, but for what a timer is late by: longer by far than switching from thread to thread takes.
pub const SLICE: Duration = Duration::from_micros(50);
/// A longer time was nobody's: the machine was somewhere else.
const MOST: Duration = Duration::from_micros(500);

/// A thread that takes a CPU from ordinary threads for a part of the time, until it is dropped.
#[derive(Debug)]
pub struct Occupier {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Occupier {
    /// Leaves so much of a CPU: more than nothing, and less than all of it.
    pub fn leave(share: f64, cpu: usize) -> Result<Self> {
        ensure!(share > 0.0 && share < 1.0, "{share} is no part of a CPU");
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new().name("occupier".to_owned()).spawn(move || {
            let placed = place(cpu);
            // Whoever asked waits for this.
            let _ = tell.send(placed.as_ref().map(|_| ()).map_err(|error| format!("{error:#}")));
            if placed.is_ok() {
                occupy(1.0 / share - 1.0, &ended);
            }
        })?;
        let occupier = Self { end, thread: Some(thread) };
        told.recv().context("nobody occupies the CPU")?.map_err(Error::msg)?;
        Ok(occupier)
    }
}

impl Drop for Occupier {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // A panic of its own was shown when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Puts this thread on a CPU, before all ordinary ones.
fn place(cpu: usize) -> Result<Preferred> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu}"))?;
    Preferred::this_thread()
}

/// Takes `part` times as long as it leaves each time, however late it wakes up.
fn occupy(part: f64, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let left = Instant::now();
        std::thread::sleep(SLICE);
        let taken = Instant::now();
        let until = taken + (taken - left).min(MOST).mul_f64(part);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use sidecore_tests::rules;

    use super::*;

    #[test]
    fn no_more_is_left_than_there_is() {
        assert!(Occupier::leave(1.0, 0).is_err() && Occupier::leave(0.0, 0).is_err());
    }

    #[test]
    fn the_cpu_is_shared_in_short_slices() {
        let mut set = CpuSet::new();
        set.set(0);
        sched_setaffinity(None, &set).unwrap();
        let Ok(occupier) = Occupier::leave(0.5, 0) else {
            return rules::skip("the_cpu_is_shared_in_short_slices", "first place on a CPU needs root");
        };
        // Times without the CPU that are as long as a slice: others may make them longer, or come on top.
        let (end, mut last, mut away) = (Instant::now() + Duration::from_millis(300), Instant::now(), 0);
        while last < end {
            let now = Instant::now();
            away += usize::from(now - last >= SLICE / 2);
            last = now;
        }
        drop(occupier);
        assert!(away >= 100, "{away} times in 300 ms, of 3000");
    }
}

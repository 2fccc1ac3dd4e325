//! First packets after a silence and, each right after one, bare wake-ups of a thread in the place of the I/O core's.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_setaffinity};
use synthetic_guest::packet::{FrameSpec, Template};
use synthetic_guest::{Backing, Frame, Guest, GuestConfig};

use super::super::Cpus;
use super::crowd::Crowd;
use crate::stats::quantile;
use crate::threads::Preferred;

/// Before each packet and each bare wake-up: a core has long been asleep by then.
pub(super) const SILENCE: Duration = Duration::from_micros(1500);
/// What one of them may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Length of the frames.
const FRAME: usize = 60;

/// Guests of this process at the first two ports of a stage, or one at its only port. They poll; the first sends to the second, or to nobody.
pub(super) struct Pair {
    sender: Guest,
    receiver: Option<Guest>,
    frame: Vec<u8>,
}

/// What was measured, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// From before a packet was written until the other guest had it, one way; where there is none, until the switch had taken it.
    pub(super) packets: Vec<f64>,
    /// From before an eventfd was written until the thread that waited for it had come back from epoll.
    pub(super) bare: Vec<f64>,
}

impl Pair {
    /// Connects those that come for a switch's turns, and has the switch learn where they are.
    pub(super) fn connect(crowd: &Crowd) -> Result<Self> {
        let guest = |port| {
            let mut config = GuestConfig::new(crowd.stage.socket(port));
            config.ram.backing = Backing::Pages;
            Guest::start(config).with_context(|| format!("guest {port}"))
        };
        let frame = |from, to| Template::new(FrameSpec::udp4(from, to, 0, FRAME)).bytes().to_vec();
        let receiver = (crowd.visitors > 1).then(|| guest(1)).transpose()?;
        let mut me = Self { sender: guest(0)?, receiver, frame: frame(0, 1) };
        if let Some(receiver) = &mut me.receiver {
            send(receiver, Some(&mut me.sender), &frame(1, 0))?;
        }
        me.packet()?;
        Ok(me)
    }

    /// Sends so many packets, one at a time, each after a silence of this length; with `beside`, each followed by another silence and a bare
    /// wake-up on the CPU of the I/O core. Whoever sends comes first on its CPU, as a guest does that has one of its own.
    pub(super) fn measure(&mut self, cpus: &Cpus, count: usize, silence: Duration, beside: bool) -> Result<Late> {
        let sleeper = Sleeper::new()?;
        let core = *cpus.io_cores(1).first().context("no CPU")?;
        std::thread::scope(|scope| {
            // Before the sender is preferred: the sleeper is an ordinary thread, as an I/O core is.
            let sleeps = beside.then(|| scope.spawn(|| sleeper.run(core)));
            let measured = scope.spawn(|| {
                pin(cpus.generator)?;
                // Without root its turn may come after that of others.
                let _first = Preferred::this_thread().ok();
                let mut late = Late::default();
                for _ in 0..count {
                    std::thread::sleep(silence);
                    late.packets.push(self.packet()?);
                    if beside {
                        std::thread::sleep(silence);
                        late.bare.push(sleeper.wake()?);
                    }
                }
                Ok(late)
            });
            let measured = measured.join().map_err(|_| anyhow!("the sender has panicked"))?;
            sleeper.end()?;
            sleeps.map_or(Ok(()), |sleeps| sleeps.join().map_err(|_| anyhow!("the sleeper has panicked"))?)?;
            measured
        })
    }

    fn packet(&mut self) -> Result<f64> {
        send(&mut self.sender, self.receiver.as_mut(), &self.frame)
    }
}

impl Late {
    /// Median and 99th percentile of packets, and of bare wake-ups.
    pub(super) fn quantiles(mut self) -> Result<[[f64; 2]; 2]> {
        self.packets.sort_by(f64::total_cmp);
        self.bare.sort_by(f64::total_cmp);
        let of = |late: &[f64]| [0.5, 0.99].map(|share| quantile(late, share).unwrap_or(f64::NAN));
        ensure!(!self.packets.is_empty(), "no packet was timed");
        Ok([of(&self.packets), of(&self.bare)])
    }
}

/// How many microseconds a packet takes from one guest to the other; without another, until the switch has taken it.
fn send(from: &mut Guest, to: Option<&mut Guest>, frame: &[u8]) -> Result<f64> {
    let tx = &mut from.pair(0).tx;
    tx.reclaim();
    let start = Instant::now();
    ensure!(tx.send_burst(&[Frame::from(frame)]) == 1, "no room for a packet");
    match to.map(|to| &mut to.pair(0).rx) {
        Some(rx) => until(start, || rx.recv_burst(1, |_| ()) == 1).context("a packet that did not arrive"),
        None => until(start, || tx.reclaim() == 1).context("a packet that was not taken"),
    }
}

/// Looks until something is so. How many microseconds that is after `start`.
fn until(start: Instant, mut is_so: impl FnMut() -> bool) -> Result<f64> {
    while !is_so() {
        ensure!(start.elapsed() < LIMIT, "waited for {LIMIT:?}");
        std::hint::spin_loop();
    }
    Ok(start.elapsed().as_nanos() as f64 / 1e3)
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu}"))
}

/// A thread that sleeps as an I/O core does, in an edge-triggered epoll, and does nothing else.
struct Sleeper {
    epoll: OwnedFd,
    bell: OwnedFd,
    /// How often it has come back.
    awake: AtomicU64,
    ends: AtomicBool,
}

impl Sleeper {
    fn new() -> Result<Self> {
        let (epoll, bell) = (epoll::create(CreateFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?);
        epoll::add(&epoll, &bell, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, bell, awake: AtomicU64::new(0), ends: AtomicBool::new(false) })
    }

    fn run(&self, cpu: usize) -> Result<()> {
        pin(cpu)?;
        let mut events = [const { std::mem::MaybeUninit::<Event>::uninit() }; 1];
        while !self.ends.load(Ordering::Acquire) {
            if epoll::wait(&self.epoll, &mut events, None).is_ok_and(|(ready, _)| !ready.is_empty()) {
                self.awake.fetch_add(1, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Wakes it. How many microseconds later it is awake, as another thread sees it.
    fn wake(&self) -> Result<f64> {
        let before = self.awake.load(Ordering::Acquire);
        let start = Instant::now();
        rustix::io::write(&self.bell, &1u64.to_ne_bytes())?;
        until(start, || self.awake.load(Ordering::Acquire) != before).context("a thread that did not wake up")
    }

    fn end(&self) -> Result<()> {
        self.ends.store(true, Ordering::Release);
        rustix::io::write(&self.bell, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sleeps_is_woken_each_time_and_at_the_end() {
        let sleeper = Sleeper::new().unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| sleeper.run(0));
            let late: Vec<f64> = (0..100).map(|_| sleeper.wake().unwrap()).collect();
            assert!(late.iter().all(|late| *late > 0.0));
            assert_eq!(sleeper.awake.load(Ordering::Relaxed), 100, "a wake-up was counted that was none");
            sleeper.end().unwrap();
            thread.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_median_and_one_in_a_hundred() {
        let packets = (1..=200).rev().map(f64::from).collect();
        let [packets, bare] = Late { packets, bare: Vec::new() }.quantiles().unwrap();
        assert_eq!(packets, [100.0, 198.0]);
        assert!(bare[0].is_nan(), "none was measured");
        assert!(Late::default().quantiles().is_err());
    }
}

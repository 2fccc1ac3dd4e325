//! What takes time rather than instructions: idle neighbours, whose rings have to be looked at although nothing is in them, and a second
//! core on a packet's way. Rounds of each set-up take turns, because the speed of a shared machine changes all the time; what is reported
//! are the medians of the rounds and of their ratios.
//!
//! Drivers and cores run on this one thread, and the cores' clock stands still while it is the drivers' turn. So a ring's cache lines never
//! have to come from another CPU: what an idle ring costs is seen beside the cheapest packet there is, and what a second core costs is its
//! work alone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pmd_bindings::tsc;
use serde_json::json;
use sidecore::rig::Mode;

use crate::callgrind;
use crate::rig::{BURST, RING, SPLIT, Workload, prefer_hugepages};

/// Bytes of a frame of 64 on the wire.
pub(crate) const SHORT: usize = 60;
/// How often each set-up is made anew, elsewhere in memory; its rounds there, and refills of the rings in a round.
const PLACES: usize = 10;
const ROUNDS: usize = 40;
const FILLS: usize = 50;
/// Those before them that do not count: a thousand idle rings are looked at some three times meanwhile.
const WARM_UP: usize = 20;
/// First packets of idle rings that are timed.
const FIRSTS: usize = 5000;
/// How long the cycle counter is held against the clock.
const CALIBRATION: Duration = Duration::from_millis(50);
/// Fractions of a nanosecond in the scale.
const SHIFT: u32 = 20;

/// Nanoseconds while it is not stopped.
pub(crate) struct Stopwatch {
    scale: u64,
    /// Cycles that do not count.
    off: u64,
    stopped: u64,
}

impl Stopwatch {
    pub(crate) fn stopped(scale: u64) -> Self {
        let now = tsc();
        Self { scale, off: now, stopped: now }
    }

    pub(crate) fn now(&self) -> u64 {
        ((tsc() - self.off) * self.scale) >> SHIFT
    }

    pub(crate) fn resume(&mut self) {
        self.off += tsc() - self.stopped;
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = tsc();
    }
}

/// Nanoseconds per cycle, in fractions.
pub(crate) fn calibrate() -> u64 {
    let (begin, cycles) = (Instant::now(), tsc());
    std::thread::sleep(CALIBRATION);
    ((begin.elapsed().as_nanos() as u64) << SHIFT) / (tsc() - cycles)
}

struct Setup {
    name: &'static str,
    idle: usize,
    workload: Workload,
    watch: Stopwatch,
    /// Nanoseconds per packet, for each round.
    rounds: Vec<f64>,
}

impl Setup {
    fn new(name: &'static str, workload: Workload, idle: usize, scale: u64) -> Self {
        let workload = workload.beside_idle(idle);
        Self { name, idle, workload, watch: Stopwatch::stopped(scale), rounds: Vec::new() }
    }

    /// Empties the rings once; nanoseconds.
    fn fill(&mut self) -> u64 {
        let Self { workload, watch, .. } = self;
        workload.fill();
        watch.resume();
        let begin = watch.now();
        (0..RING / BURST).for_each(|_| assert!(workload.turn(|| watch.now()), "there is a burst for every turn"));
        let took = watch.now() - begin;
        watch.stop();
        workload.drain();
        took
    }

    fn round(&mut self) {
        // Until the caches hold what they do where nothing else took its turn.
        (0..WARM_UP).for_each(|_| _ = self.fill());
        let took: u64 = (0..FILLS).map(|_| self.fill()).sum();
        self.rounds.push(took as f64 / (FILLS * RING) as f64);
    }

    /// Sends from one idle ring after the other while the others stream, each at another point of a sweep; nanoseconds until each frame was
    /// taken.
    fn first_packets(&mut self) -> Vec<f64> {
        let mut times = Vec::with_capacity(FIRSTS);
        for number in 0..FIRSTS {
            // The next ring by a step that comes by all of them.
            let nth = number * 7919 % self.idle;
            let Self { workload, watch, .. } = self;
            workload.fill();
            watch.resume();
            let mut sent = None;
            for turn in 0.. {
                if turn % (RING / BURST) == 0 && turn > 0 {
                    finish_fill(workload, watch);
                    workload.fill();
                    watch.resume();
                }
                if turn == number % (RING / BURST) {
                    workload.send_from_idle(nth);
                    sent = Some(watch.now());
                }
                workload.turn(|| watch.now());
                if let Some(sent) = sent
                    && workload.was_taken(nth)
                {
                    times.push((watch.now() - sent) as f64);
                    break;
                }
            }
            finish_fill(workload, watch);
        }
        times
    }
}

/// Lets what is left of a fill arrive, and stops the clock.
fn finish_fill(workload: &mut Workload, watch: &mut Stopwatch) {
    // It may take more turns than bursts: where this program was without a CPU the ring has become an idle one.
    watch.stop();
    while !workload.is_through() {
        watch.resume();
        workload.turn(|| watch.now());
        watch.stop();
    }
    workload.drain();
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios round by round, and the interval that holds the true one in 95 of 100 cases (by order statistics).
pub(crate) fn ratio(of: &[f64], to: &[f64]) -> [f64; 3] {
    let ratios = sorted(of.iter().zip(to).map(|(of, to)| of / to).collect());
    let spread = 0.98 / (ratios.len() as f64).sqrt();
    [0.5, 0.5 - spread, 0.5 + spread].map(|part| quantile(&ratios, part))
}

/// Measures, shows and writes everything.
pub(crate) fn run() -> Result<()> {
    prefer_hugepages();
    let scale = calibrate();
    let setups_anew = || {
        let v2v = |cores| Workload::v2v(SPLIT, SHORT, cores);
        [
            Setup::new("one core", v2v(1), 0, scale),
            Setup::new("beside 64 idle queue pairs", v2v(1), 64, scale),
            Setup::new("beside 1000 idle queue pairs", v2v(1), 1000, scale),
            Setup::new("across two cores", v2v(2), 0, scale),
            Setup::new("mode adaptive", Workload::v2v_in(Mode::Adaptive, SPLIT, SHORT, 1), 0, scale),
        ]
    };
    let mut setups = setups_anew();
    for place in 0..PLACES {
        if place > 0 {
            // Those before are there until then, so that these are elsewhere.
            let rounds = setups.each_mut().map(|setup| std::mem::take(&mut setup.rounds));
            setups = setups_anew();
            setups.iter_mut().zip(rounds).for_each(|(setup, rounds)| setup.rounds = rounds);
        }
        // One round more, the first, that does not count.
        for round in 0..=ROUNDS {
            for setup in &mut setups {
                setup.round();
                if round == 0 {
                    setup.rounds.pop();
                }
            }
        }
    }
    let hugepages = setups.iter().all(|setup| setup.workload.has_hugepages());
    println!("guests' memory: {}", if hugepages { "2 MiB pages" } else { "4 KiB pages, for want of free hugepages" });
    let mut rows = Vec::new();
    println!("{:<32}{:>12}{:>10}{:>18}", "64 B, split, guest to guest", "ns/packet", "ratio", "95 %");
    for setup in &setups {
        let ns = quantile(&sorted(setup.rounds.clone()), 0.5);
        let [ratio, low, high] = ratio(&setup.rounds, &setups[0].rounds);
        println!("{:<32}{ns:>12.1}{ratio:>10.3}{:>18}", setup.name, format!("{low:.3} to {high:.3}"));
        rows.push(json!({ "name": setup.name, "ns_per_packet": ns, "ratio": ratio, "low": low, "high": high, "rounds": setup.rounds }));
    }
    let mut firsts = Vec::new();
    println!("{:<32}{:>12}{:>10}{:>10}{:>8}", "first packet of an idle ring", "p50 µs", "p99", "p99.9", "max");
    for setup in setups.iter_mut().filter(|setup| setup.idle > 0) {
        let times = sorted(setup.first_packets());
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| quantile(&times, part) / 1000.0);
        println!("{:<32}{p50:>12.1}{p99:>10.1}{p999:>10.1}{max:>8.1}", setup.name);
        firsts.push(json!({ "name": setup.name, "p50_us": p50, "p99_us": p99, "p999_us": p999, "max_us": max }));
    }
    let path: PathBuf = callgrind::folder()?.join("timing.json");
    let text =
        serde_json::to_string_pretty(&json!({ "hugepages": hugepages, "packets": rows, "first_packets": firsts }))?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

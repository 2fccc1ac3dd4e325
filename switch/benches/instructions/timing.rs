//! What takes time rather than instructions: idle neighbours, whose rings have to be looked at although nothing is in them, a second core on
//! a packet's way, and moving a queue pair to it. Rounds of each set-up take turns, because the speed of a shared machine changes all the
//! time; what is reported are the medians of the rounds and of their ratios.
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

/// Bytes of a frame of 64 on the wire, and of one of 1518.
pub(crate) const SHORT: usize = 60;
const LONG: usize = 1514;
/// How often each set-up is made anew, elsewhere in memory; its rounds there, and refills of the rings in a round.
const PLACES: usize = 120;
const ROUNDS: usize = 7;
const FILLS: usize = 50;
/// Those before them that do not count: a thousand idle rings are looked at some three times meanwhile.
const WARM_UP: usize = 20;
/// As many as it takes until rings that are idle have been left to their kicks: 20 ms.
const LEFT: usize = 2000;
/// First packets of idle rings that are timed.
const FIRSTS: usize = 5000;
/// Moves that are timed.
const MOVES: usize = 5000;
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

/// What is timed: frames of so many bytes, from guest to guest.
struct Spec {
    len: usize,
    name: &'static str,
    idle: usize,
    mode: Mode,
    cores: usize,
}

const fn spec(len: usize, name: &'static str, idle: usize, mode: Mode, cores: usize) -> Spec {
    Spec { len, name, idle, mode, cores }
}

/// The first of a length is what the others are held against.
const SPECS: [Spec; 8] = [
    spec(SHORT, "one core", 0, Mode::Poll, 1),
    spec(SHORT, "beside 64 idle queue pairs", 64, Mode::Poll, 1),
    spec(SHORT, "beside 1000 idle queue pairs", 1000, Mode::Poll, 1),
    spec(SHORT, "across two cores", 0, Mode::Poll, 2),
    spec(SHORT, "mode adaptive", 0, Mode::Adaptive, 1),
    spec(SHORT, "the same, beside 64 idle ones", 64, Mode::Adaptive, 1),
    spec(LONG, "one core", 0, Mode::Poll, 1),
    spec(LONG, "across two cores", 0, Mode::Poll, 2),
];

struct Setup {
    /// Its number among [`SPECS`].
    number: usize,
    spec: &'static Spec,
    workload: Workload,
    watch: Stopwatch,
    /// Nanoseconds per packet, for each round.
    rounds: Vec<f64>,
}

impl Setup {
    fn new(number: usize, scale: u64) -> Self {
        let spec = &SPECS[number];
        let workload = Workload::v2v_in(spec.mode, SPLIT, spec.len, spec.cores).beside_idle(spec.idle);
        let mut me = Self { number, spec, workload, watch: Stopwatch::stopped(scale), rounds: Vec::new() };
        if spec.mode == Mode::Adaptive && spec.idle > 0 {
            (0..LEFT).for_each(|_| _ = me.fill());
        }
        me
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
            let nth = number * 7919 % self.spec.idle;
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

/// Nanoseconds that moving a queue pair takes both cores and whoever has it moved, in order, with no packets under way.
fn moves(scale: u64) -> Vec<f64> {
    let mut workload = Workload::v2v(SPLIT, LONG, 2);
    let mut watch = Stopwatch::stopped(scale);
    let mut times = Vec::with_capacity(MOVES);
    for number in 0..MOVES {
        watch.resume();
        let begin = watch.now();
        workload.move_receiver(number % 2);
        times.push((watch.now() - begin) as f64);
        watch.stop();
        // Both find it where it is now.
        workload.fill();
        finish_fill(&mut workload, &mut watch);
    }
    workload.finish();
    sorted(times)
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

/// The median of the ratios round by round, and the interval that holds the true one in 95 of 100 cases.
pub(crate) fn ratio(of: &[f64], to: &[f64]) -> [f64; 3] {
    estimate(of.iter().zip(to).map(|(of, to)| of / to).collect())
}

/// The same of the medians of each place: where something happens to be makes all of its rounds faster or slower.
fn ratio_by_place(of: &[f64], to: &[f64]) -> [f64; 3] {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    estimate(ratios.chunks(ROUNDS).map(|place| quantile(&sorted(place.to_vec()), 0.5)).collect())
}

/// The median, and its interval by order statistics.
fn estimate(values: Vec<f64>) -> [f64; 3] {
    let values = sorted(values);
    let spread = 0.98 / (values.len() as f64).sqrt();
    [0.5, 0.5 - spread, 0.5 + spread].map(|part| quantile(&values, part))
}

/// All set-ups in an order that is another one at each of several places.
fn order(place: usize) -> impl Iterator<Item = usize> {
    let count = SPECS.len();
    // By such a step one comes by all of them.
    let has_no_factor_of_it =
        |step: &usize| !(2..=*step).any(|factor| step.is_multiple_of(factor) && count.is_multiple_of(factor));
    let steps: Vec<usize> = (1..count).filter(has_no_factor_of_it).collect();
    let step = steps[place % steps.len()];
    (0..count).map(move |nth| (place + nth * step) % count)
}

/// Measures, shows and writes everything.
pub(crate) fn run() -> Result<()> {
    prefer_hugepages();
    let scale = calibrate();
    let mut setups: Vec<Setup> = Vec::new();
    for place in 0..PLACES {
        // Those before are there until then, so that these are elsewhere. And each comes after another one than there, in memory and in time.
        let mut anew: Vec<Setup> = order(place).map(|number| Setup::new(number, scale)).collect();
        for before in setups {
            anew.iter_mut()
                .filter(|setup| setup.number == before.number)
                .for_each(|it| it.rounds.clone_from(&before.rounds));
        }
        setups = anew;
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
    setups.sort_by_key(|setup| setup.number);
    let hugepages = setups.iter().all(|setup| setup.workload.has_hugepages());
    println!("guests' memory: {}", if hugepages { "2 MiB pages" } else { "4 KiB pages, for want of free hugepages" });
    let mut rows = Vec::new();
    for same in setups.chunk_by(|one, next| one.spec.len == next.spec.len) {
        let size = same[0].spec.len + 4;
        println!("{:<32}{:>12}{:>10}{:>18}", format!("{size} B, split, guest to guest"), "ns/packet", "ratio", "95 %");
        for setup in same {
            let ns = quantile(&sorted(setup.rounds.clone()), 0.5);
            let [ratio, low, high] = ratio_by_place(&setup.rounds, &same[0].rounds);
            let name = setup.spec.name;
            println!("{name:<32}{ns:>12.1}{ratio:>10.3}{:>18}", format!("{low:.3} to {high:.3}"));
            rows.push(json!({ "size": size, "name": name, "ns_per_packet": ns, "ratio": ratio, "low": low, "high": high, "rounds": setup.rounds }));
        }
    }
    let mut firsts = Vec::new();
    println!("{:<32}{:>12}{:>10}{:>10}{:>8}", "first packet of an idle ring", "p50 µs", "p99", "p99.9", "max");
    for setup in setups.iter_mut().filter(|setup| setup.spec.idle > 0) {
        let times = sorted(setup.first_packets());
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| quantile(&times, part) / 1000.0);
        let name = setup.spec.name;
        println!("{name:<32}{p50:>12.1}{p99:>10.1}{p999:>10.1}{max:>8.1}");
        firsts.push(json!({ "name": name, "p50_us": p50, "p99_us": p99, "p999_us": p999, "max_us": max }));
    }
    let moves = moves(scale);
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(&moves, part) / 1000.0);
    println!("{:<32}{:>12}{:>10}", "work of a move, µs", "p50", "p99");
    println!("{:<32}{p50:>12.2}{p99:>10.2}", "both cores and control");
    let path: PathBuf = callgrind::folder()?.join("timing.json");
    let text = serde_json::to_string_pretty(&json!({
        "hugepages": hugepages, "packets": rows, "first_packets": firsts, "moves": { "p50_us": p50, "p99_us": p99 },
    }))?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

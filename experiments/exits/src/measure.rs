//! Rows of the table: a switch in one of its modes, a guest, and what a packet costs them. Their rounds take turns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use sidecore_experiments::stats;
use sidecore_tests::interrupt::Interrupt;

use crate::linux::{StockGuests, Tcp};
use crate::program::{Job, Totals};
use crate::scene::Scene;
use crate::vmm::{Counters, cycles};

/// How the switch waits for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It never sleeps.
    Poll,
    /// It sleeps when there is nothing to do for a while.
    Adaptive,
    /// It always sleeps until it is kicked: the traditional model.
    Trap,
}

impl Mode {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Poll => "poll",
            Mode::Adaptive => "adaptive",
            Mode::Trap => "trap",
        }
    }
}

/// What the guest's rings look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RingFormat {
    /// virtio 1.2 §2.7.
    Split,
    /// virtio 1.2 §2.8.
    Packed,
}

impl RingFormat {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RingFormat::Split => "split",
            RingFormat::Packed => "packed",
        }
    }
}

/// What `exits.json` calls a load with such a pause before each round trip.
pub(crate) fn load(pause: Duration) -> &'static str {
    if pause.is_zero() { "busy" } else { "idle" }
}

/// What is measured, and how much of it in each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// How the switch waits.
    pub mode: Mode,
    /// Time from an answer to the next packet: the switch is idle in between.
    pub pause: Duration,
    /// Ring format.
    pub ring: RingFormat,
    /// Whether the guest waits for interrupts, or polls.
    pub interrupts: bool,
    /// Round trips, of two packets each.
    pub round_trips: u64,
    /// Packets of the stream; 0 for none.
    pub stream: u64,
}

/// What some packets have cost.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// Packets: each has gone through the switch once.
    pub packets: u64,
    /// Exits in that time, as KVM counts them; none where there is no KVM.
    pub exits_raw: Option<u64>,
    /// Exits of the same guest in as much time without packets.
    pub exits_baseline: Option<u64>,
    /// Exits above the baseline, for each packet.
    pub exits_per_packet: Option<f64>,
    /// The same by KVM's causes, where they are not 0.00.
    pub exits_by_cause: BTreeMap<String, f64>,
    /// Kicks, for each packet.
    pub kicks_per_packet: f64,
    /// Interrupts taken, for each packet.
    pub interrupts_per_packet: f64,
    /// Time.
    pub seconds: f64,
}

/// What was counted while packets went, and in as much time without packets.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Kicks.
    pub kicks: u64,
    /// Interrupts.
    pub calls: u64,
    /// KVM's counters; empty where there is no KVM.
    pub busy: Counters,
    /// The same without packets.
    pub idle: Counters,
    /// How long the packets took.
    pub time: Duration,
}

impl Counted {
    /// Adds what was counted in another round.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.kicks += other.kicks;
        self.calls += other.calls;
        self.time += other.time;
        for (sums, counters) in [(&mut self.busy, &other.busy), (&mut self.idle, &other.idle)] {
            counters.iter().for_each(|(name, count)| *sums.entry(name.clone()).or_default() += count);
        }
    }

    /// What a packet has cost.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let per_packet = |count: f64| count / self.packets as f64;
        let above = |name: &String| per_packet(self.busy[name] as f64 - self.idle[name] as f64);
        let exits = "exits".to_owned();
        let causes = self.busy.keys().filter(|name| **name != exits).map(|name| (name.clone(), above(name)));
        Cost {
            packets: self.packets,
            exits_raw: self.busy.get(&exits).copied(),
            exits_baseline: self.idle.get(&exits).copied(),
            exits_per_packet: self.busy.contains_key(&exits).then(|| above(&exits)),
            exits_by_cause: causes.filter(|(_, count)| count.abs() >= 0.005).collect(),
            kicks_per_packet: per_packet(self.kicks as f64),
            interrupts_per_packet: per_packet(self.calls as f64),
            seconds: self.time.as_secs_f64(),
        }
    }
}

/// The times of every round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rounds {
    /// Median round trips.
    pub rtt_p50_us: Vec<f64>,
    /// Their 99th percentiles.
    pub rtt_p99_us: Vec<f64>,
    /// Packets a second, of the stream; empty where there is none.
    pub stream_pps: Vec<f64>,
}

/// What all rounds of a row have counted, and the times of each.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// The round trips' packets.
    pub asked: Counted,
    /// The stream's.
    pub streamed: Option<Counted>,
    /// The times.
    pub rounds: Rounds,
}

impl Sum {
    /// Adds a round: its round trips, their median and 99th percentile in microseconds, and its stream.
    pub fn add(&mut self, asked: &Counted, [p50, p99]: [f64; 2], streamed: Option<&Counted>) {
        self.asked.add(asked);
        self.rounds.rtt_p50_us.push(p50);
        self.rounds.rtt_p99_us.push(p99);
        if let Some(streamed) = streamed {
            self.rounds.stream_pps.push(streamed.packets as f64 / streamed.time.as_secs_f64());
            self.streamed.get_or_insert_default().add(streamed);
        }
    }
}

/// What the rounds of a row come to.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The round trips' packets, one at a time.
    #[serde(flatten)]
    pub cost: Cost,
    /// Round trips through the switch and back, half of the packets: the median of the rounds' medians.
    pub rtt_p50_us: f64,
    /// The median of the rounds' 99th percentiles.
    pub rtt_p99_us: f64,
    /// Packets a second, of the stream: the median of the rounds.
    pub stream_pps: Option<f64>,
    /// The same of every round.
    pub rounds: Rounds,
    /// The stream's packets, up to 128 of them under way.
    pub stream: Option<Cost>,
}

impl From<Sum> for Measured {
    fn from(Sum { asked, streamed, rounds }: Sum) -> Self {
        Self {
            cost: asked.cost(),
            rtt_p50_us: stats::median(&rounds.rtt_p50_us).unwrap_or_default(),
            rtt_p99_us: stats::median(&rounds.rtt_p99_us).unwrap_or_default(),
            stream_pps: stats::median(&rounds.stream_pps),
            rounds,
            stream: streamed.map(|streamed| streamed.cost()),
        }
    }
}

/// A row's results.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// How the switch waited.
    pub mode: Mode,
    /// `busy`, or `idle`: with a pause before each round trip.
    pub load: &'static str,
    /// Ring format.
    pub ring: RingFormat,
    /// Whether the guest waited for interrupts.
    pub interrupts: bool,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// Kicks and calls as the switch counted them, from its start to its end.
    pub switch_kicks: u64,
    /// As above.
    pub switch_calls: u64,
    /// The guest's program in ring 3: `kvm`, or `thread` where there is no KVM. A Linux guest: `linux`.
    pub guest: &'static str,
    /// Whether hardware virtualisation is behind /dev/kvm.
    pub hardware_virtualisation: bool,
    /// TCP, in a Linux guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// Whether there are rows of Linux guests, and why not.
    pub stock_guests: StockGuests,
}

/// How long the guest waits for a packet before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Round trips, and packets of a stream, before anything is counted: more than a ring has entries, so that every buffer and every page has
/// been used.
const WARM_UP: u64 = 300;

/// Cycles of the processor's counter in a microsecond.
pub struct Clock(f64);

impl Clock {
    /// Compares it with the kernel's.
    #[must_use]
    pub fn calibrate() -> Self {
        let (start, first) = (Instant::now(), cycles());
        std::thread::sleep(Duration::from_millis(50));
        Clock((cycles() - first) as f64 / start.elapsed().as_secs_f64() / 1e6)
    }

    fn cycles(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * 1e6 * self.0) as u64
    }

    fn micros(&self, cycles: u64) -> f64 {
        cycles as f64 / self.0
    }
}

/// This thread on one CPU, until dropped: not for long, since processes that are started meanwhile would be there, too.
struct Pinned(CpuSet);

impl Pinned {
    fn to(cpu: usize) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu}"))?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What was allowed before is allowed again.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Where and how rows are measured.
pub struct Bench<'a> {
    /// The CPU of the switch's I/O core.
    pub switch_cpu: usize,
    /// The CPU of the guest's processor.
    pub guest_cpu: usize,
    /// Whether the guest is a virtual machine.
    pub with_kvm: bool,
    /// Whether hardware virtualisation is behind it.
    pub hardware: bool,
    /// What is known of Linux guests.
    pub stock_guests: StockGuests,
    /// The clock.
    pub clock: Clock,
    /// Whether the user has had enough.
    pub interrupt: &'a Interrupt,
}

/// A row whose rounds are under way.
struct Case {
    row: Row,
    scene: Scene,
    sum: Sum,
}

impl Bench<'_> {
    /// Measures rows side by side: in every round each has its turn, so that a machine which is slower for a while is so for all of
    /// them. Each has a switch and a guest of its own, and a switch is halted when it is not its turn. The calling thread becomes the
    /// guests' processor.
    pub fn rows(&self, rows: &[Row], rounds: usize) -> Result<Vec<Outcome>> {
        let mut cases = Vec::with_capacity(rows.len());
        for row in rows {
            self.interrupt.check()?;
            cases.push(self.start(row).with_context(|| format!("{row:?}"))?);
        }
        let pinned = Pinned::to(self.guest_cpu)?;
        for _ in 0..rounds {
            for case in &mut cases {
                self.interrupt.check()?;
                self.turn(case).with_context(|| format!("{:?}", case.row))?;
            }
        }
        drop(pinned);
        cases.into_iter().map(|case| self.end(case)).collect()
    }

    fn start(&self, row: &Row) -> Result<Case> {
        let scene = Scene::start(row, self.switch_cpu, self.with_kvm, self.clock.cycles(PATIENCE))?;
        scene.halt(true)?;
        Ok(Case { row: *row, scene, sum: Sum::default() })
    }

    fn turn(&self, Case { row, scene, sum }: &mut Case) -> Result<()> {
        scene.halt(false)?;
        self.run(scene, Job::RoundTrips { count: WARM_UP.min(row.round_trips), pause: 0 })?;
        if row.stream > 0 {
            self.run(scene, Job::Stream { count: WARM_UP })?;
        }
        scene.guest.times.reset();
        let pause = self.clock.cycles(row.pause);
        let asked = self.count(scene, Job::RoundTrips { count: row.round_trips, pause })?;
        let times = [0.5, 0.99].map(|quantile| self.clock.micros(scene.guest.times.value_at_quantile(quantile)));
        let streamed = match row.stream {
            0 => None,
            count => Some(self.count(scene, Job::Stream { count })?),
        };
        scene.halt(true)?;
        sum.add(&asked, times, streamed.as_ref());
        Ok(())
    }

    fn end(&self, Case { row, scene, sum }: Case) -> Result<Outcome> {
        let wrong = scene.guest.totals().wrong;
        ensure!(wrong == 0, "{row:?}: {wrong} packets were not the expected ones");
        scene.halt(false)?;
        let (switch_kicks, switch_calls) = scene.switch_counts()?;
        scene.stop()?;
        Ok(Outcome {
            mode: row.mode,
            load: load(row.pause),
            ring: row.ring,
            interrupts: row.interrupts,
            measured: sum.into(),
            switch_kicks,
            switch_calls,
            guest: if self.with_kvm { "kvm" } else { "thread" },
            hardware_virtualisation: self.with_kvm && self.hardware,
            tcp: None,
            stock_guests: self.stock_guests.clone(),
        })
    }

    /// What the packets of a job cost, beside as much time without packets.
    fn count(&self, scene: &mut Scene, job: Job) -> Result<Counted> {
        let (busy, totals, time) = self.run(scene, job)?;
        let (idle, _, _) = self.run(scene, Job::Idle { cycles: self.clock.cycles(time) })?;
        let (packets, kicks, calls) = (totals.packets, totals.kicks, totals.calls);
        Ok(Counted { packets, kicks, calls, busy, idle, time })
    }

    /// Runs a job; returns what KVM and the guest have counted meanwhile, and the time.
    fn run(&self, scene: &mut Scene, job: Job) -> Result<(Counters, Totals, Duration)> {
        let counters = scene.machine.counters()?.unwrap_or_default();
        let totals = scene.guest.totals();
        scene.guest.job = job;
        let start = Instant::now();
        scene.machine.run(&mut scene.guest, || self.interrupt.is_set())?;
        let time = start.elapsed();
        let mut counted = scene.machine.counters()?.unwrap_or_default();
        counted.iter_mut().for_each(|(name, count)| *count -= counters[name]);
        let now = scene.guest.totals();
        ensure!(now.stalled == 0, "no packet came for {PATIENCE:?} in {job:?}: {now:?}");
        let totals = Totals {
            packets: now.packets - totals.packets,
            kicks: now.kicks - totals.kicks,
            calls: now.calls - totals.calls,
            ..now
        };
        Ok((counted, totals, time))
    }
}

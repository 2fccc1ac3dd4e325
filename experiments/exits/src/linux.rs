//! Linux guests under KVM: what a packet costs a guest whose own virtio-net driver kicks, and takes interrupts, as the device asks.
//!
//! Two guests at one switch, TCP between them: requests and answers one at a time, then a stream. Exits are those of all virtual
//! CPUs of both, since a packet has a sender and a receiver, and the packets are those that the switch took from both.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use sidecore_tests::guest::{Accel, Counters, GuestImage, VcpuStats};
use sidecore_tests::lab::{Family, Lab, LabPlan};
use sidecore_tests::paths;
use sidecore_tests::process::eventually;
use sidecore_tests::rules::Machine;
use sidecore_tests::tcp::{self, RoundTrips, Stream, Underway};

use crate::measure::{Counted, Mode, Outcome, RingFormat, Sum, load};

/// Whether stock guests run under KVM on this machine. Only then have they exits to be counted, and rows.
#[derive(Debug, Clone, Serialize)]
pub struct StockGuests {
    /// Whether one has booted; nothing where that was not tried.
    pub run_under_kvm: Option<bool>,
    /// What was tried, and what happened; or why not.
    pub found: String,
}

impl StockGuests {
    /// Boots one, within seconds.
    #[must_use]
    pub fn try_out() -> Self {
        match GuestImage::get().and_then(|image| Accel::try_out(&image)) {
            Ok(tried) => Self { run_under_kvm: Some(tried.accel == Accel::Kvm), found: tried.found },
            Err(error) => Self::untried(&format!("{error:#}")),
        }
    }

    /// They were not tried, for this reason.
    #[must_use]
    pub fn untried(why: &str) -> Self {
        Self { run_under_kvm: None, found: why.to_owned() }
    }
}

impl fmt::Display for StockGuests {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let found = &self.found;
        match self.run_under_kvm {
            Some(true) => write!(f, "Stock guests run under KVM here ({found})."),
            Some(false) => write!(f, "No stock guest runs under KVM here ({found}): Linux guests are left out."),
            None => write!(f, "Whether stock guests run under KVM was not tried ({found}): Linux guests are left out."),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// How the switch waits.
    pub mode: Mode,
    /// Ring format.
    pub ring: RingFormat,
    /// Time from an answer to the next request. Where there is one, there is no stream.
    pub pause: Duration,
}

/// What TCP came to, a figure for each round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tcp {
    /// The stream, as its receiver saw it.
    pub stream_mbit_s: Vec<f64>,
}

/// A row measured once.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Requests and answers, one at a time.
    pub asked: (RoundTrips, Counted),
    /// The stream.
    pub streamed: Option<(Stream, Counted)>,
    /// Packets in the time without traffic.
    pub idle_packets: u64,
    /// Kicks and calls as the switch counted them, from its start to its end.
    pub switch_counts: (u64, u64),
}

/// Where and for how long rows are measured.
pub struct Bench<'a> {
    /// The right to this machine.
    pub machine: &'a Machine,
    /// The CPU of the switch's I/O core. Guests keep off it.
    pub switch_cpu: usize,
    /// How long packets are counted, and how long there are none.
    pub window: Duration,
}

/// Time in which traffic begins.
const PATIENCE: Duration = Duration::from_secs(20);

/// Packets that show that it has.
const BEGUN: u64 = 20;

impl Bench<'_> {
    /// Measures a row once, with a switch and guests of its own.
    pub fn turn(&self, row: &Row) -> Result<Turn> {
        let mut scene = Scene::start(self, row)?;
        let address = scene.lab.address(1, Family::V4);
        let ask = format!("ask {address} {}", row.pause.as_micros());
        let (trips, asked) = scene.measure::<RoundTrips>(&ask, self.window)?;
        let streamed = match row.pause.is_zero() {
            true => Some(scene.measure::<Stream>(&format!("stream {address}"), self.window)?),
            false => None,
        };
        let idle = scene.idle(self.window)?;
        let switch_counts = scene.stop()?;
        let beside = |window: Window| window.beside(&idle);
        Ok(Turn {
            asked: (trips, beside(asked)),
            streamed: streamed.map(|(stream, window)| (stream, beside(window))),
            idle_packets: idle.packets,
            switch_counts,
        })
    }
}

/// A row of the table, of all its rounds.
#[must_use]
pub fn outcome(row: &Row, turns: &[Turn], stock_guests: &StockGuests) -> Outcome {
    let mut sum = Sum::default();
    let mut tcp = Tcp::default();
    let (mut switch_kicks, mut switch_calls) = (0, 0);
    for turn in turns {
        let (trips, asked) = &turn.asked;
        sum.add(asked, [trips.p50_us, trips.p99_us], turn.streamed.as_ref().map(|(_, counted)| counted));
        tcp.stream_mbit_s.extend(turn.streamed.as_ref().map(|(stream, _)| stream.mbit_s()));
        switch_kicks += turn.switch_counts.0;
        switch_calls += turn.switch_counts.1;
    }
    Outcome {
        mode: row.mode,
        load: load(row.pause),
        ring: row.ring,
        interrupts: true,
        measured: sum.into(),
        switch_kicks,
        switch_calls,
        guest: "linux",
        hardware_virtualisation: stock_guests.run_under_kvm == Some(true),
        tcp: Some(tcp),
        stock_guests: stock_guests.clone(),
    }
}

/// All counters at one moment.
struct Sample {
    at: Instant,
    packets: u64,
    kicks: u64,
    calls: u64,
    exits: Counters,
}

/// What was counted from one moment to another.
struct Window {
    time: Duration,
    packets: u64,
    kicks: u64,
    calls: u64,
    exits: Counters,
}

impl Window {
    fn between(before: &Sample, after: Sample) -> Result<Self> {
        let mut exits = after.exits;
        for (name, count) in &mut exits {
            let earlier = before.exits.get(name).with_context(|| format!("{name} was not counted before"))?;
            *count = count.checked_sub(*earlier).with_context(|| format!("KVM's count {name} went down"))?;
        }
        Ok(Self {
            time: after.at - before.at,
            packets: after.packets - before.packets,
            kicks: after.kicks - before.kicks,
            calls: after.calls - before.calls,
            exits,
        })
    }

    fn beside(self, idle: &Window) -> Counted {
        let Self { time, packets, kicks, calls, exits } = self;
        Counted { packets, kicks, calls, busy: exits, idle: idle.exits.clone(), time }
    }
}

/// Two guests at a switch, and their counters.
struct Scene {
    lab: Lab,
    stats: Vec<VcpuStats>,
}

impl Scene {
    fn start(bench: &Bench, row: &Row) -> Result<Self> {
        let program = paths::guest_traffic()?;
        let cpus = std::thread::available_parallelism()?.get();
        let mut plan = LabPlan::on(bench.machine)?.configure(|config| {
            config.on_cpus(vec![bench.switch_cpu]).without_rebalancing().key(&format!("mode = \"{}\"", row.mode.name()))
        });
        for _ in 0..2 {
            plan = plan.guest(|guest| {
                guest.virtio.packed = row.ring == RingFormat::Packed;
                guest.programs = vec![program.clone()];
                guest.host_cpus = (0..cpus).filter(|cpu| *cpu != bench.switch_cpu).collect();
            });
        }
        let lab = plan.start()?;
        for port in lab.switch().status()?.ports {
            let ring = port.negotiated.map(|negotiated| negotiated.ring).unwrap_or_default();
            ensure!(ring == row.ring.name(), "{} has {ring} rings", port.name);
        }
        tcp::serve(lab.guest(1))?;
        lab.ping(0, 1, Family::V4)?;
        let stats = (0..2).map(|number| VcpuStats::open(lab.guest(number))).collect::<Result<_>>()?;
        Ok(Self { lab, stats })
    }

    /// Traffic of one kind, and what was counted in the middle of it: not what starting a program costs a guest, nor its console.
    fn measure<T: serde::de::DeserializeOwned>(&mut self, arguments: &str, window: Duration) -> Result<(T, Window)> {
        let before = self.packets()?;
        let Self { lab, stats } = self;
        let traffic = Underway::start(lab.guest(0), arguments)?;
        let begun = eventually("traffic", PATIENCE, || Ok((packets(lab)? >= before + BEGUN).then_some(())));
        let counted = begun.and_then(|()| count(lab, stats, window));
        // A program that has failed says why.
        let result = traffic.end()?;
        Ok((result, counted?))
    }

    /// What is counted without traffic.
    fn idle(&mut self, window: Duration) -> Result<Window> {
        self.lab.switch().quiet_status()?;
        count(&self.lab, &mut self.stats, window)
    }

    fn packets(&self) -> Result<u64> {
        packets(&self.lab)
    }

    /// Ends everything. Every packet must be accounted for; returns all kicks and calls.
    fn stop(self) -> Result<(u64, u64)> {
        let status = self.lab.switch().quiet_status()?;
        self.lab.stop()?;
        Ok(status.ports.iter().fold((0, 0), |(kicks, calls), port| (kicks + port.kicks, calls + port.calls)))
    }
}

fn packets(lab: &Lab) -> Result<u64> {
    Ok(lab.switch().status()?.accounting.pulled)
}

fn count(lab: &Lab, stats: &mut [VcpuStats], window: Duration) -> Result<Window> {
    let before = sample(lab, stats)?;
    std::thread::sleep((before.at + window).saturating_duration_since(Instant::now()));
    Window::between(&before, sample(lab, stats)?)
}

/// Reads all counters, always in the same order: what passes in between is the same at both ends of a window.
fn sample(lab: &Lab, stats: &mut [VcpuStats]) -> Result<Sample> {
    let at = Instant::now();
    let status = lab.switch().status()?;
    let mut exits = Counters::new();
    for guest in stats {
        guest.read()?.into_iter().for_each(|(name, count)| *exits.entry(name).or_default() += count);
    }
    let sum = |of: fn(&sidecore_tests::switch::Port) -> u64| status.ports.iter().map(of).sum();
    Ok(Sample {
        at,
        packets: status.accounting.pulled,
        kicks: sum(|port| port.kicks),
        calls: sum(|port| port.calls),
        exits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(millis: u64, start: Instant, packets: u64, exits: u64) -> Sample {
        let exits = [("exits", exits), ("halt_exits", exits / 2)].map(|(name, count)| (name.to_owned(), count)).into();
        Sample { at: start + Duration::from_millis(millis), packets, kicks: packets / 4, calls: packets / 2, exits }
    }

    fn turn(first: u64) -> Turn {
        let start = Instant::now();
        let window = |from: (u64, u64), to: (u64, u64)| {
            Window::between(&sample(0, start, from.0, from.1), sample(1000, start, to.0, to.1)).unwrap()
        };
        let idle = window((9000, 9000), (9000, 9100));
        let trips = RoundTrips { requests: 500, p50_us: first as f64, p99_us: 90.0 };
        let stream = Stream { bytes: 125_000_000, seconds: 1.0 };
        Turn {
            asked: (trips, window((first, 1000), (first + 1000, 3100)).beside(&idle)),
            streamed: Some((stream, window((0, 0), (4000, 500)).beside(&idle))),
            idle_packets: idle.packets,
            switch_counts: (3, 4),
        }
    }

    #[test]
    fn a_row_is_what_all_its_rounds_counted() {
        let stock_guests = StockGuests { run_under_kvm: Some(true), found: "a test".to_owned() };
        let row = Row { mode: Mode::Trap, ring: RingFormat::Split, pause: Duration::ZERO };
        let outcome = outcome(&row, &[turn(40), turn(80), turn(60)], &stock_guests);
        let json = serde_json::to_value(&outcome).unwrap();
        let expected = serde_json::json!({
            "mode": "trap", "load": "busy", "ring": "split", "interrupts": true, "guest": "linux", "packets": 3000, "exits_raw": 6300,
            "exits_baseline": 300, "exits_per_packet": 2.0, "kicks_per_packet": 0.25, "interrupts_per_packet": 0.5, "rtt_p50_us": 60.0,
            "stream_pps": 4000.0, "switch_kicks": 9, "hardware_virtualisation": true,
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(json[key], *value, "{key}");
        }
        assert_eq!(json["exits_by_cause"]["halt_exits"], 1.0);
        assert_eq!(json["stream"]["exits_per_packet"], 0.1);
        assert_eq!(json["tcp"]["stream_mbit_s"], serde_json::json!([1000.0, 1000.0, 1000.0]));
        assert_eq!(json["rounds"]["rtt_p50_us"], serde_json::json!([40.0, 80.0, 60.0]));
        assert_eq!(json["rounds"]["stream_pps"], serde_json::json!([4000.0, 4000.0, 4000.0]));
    }

    #[test]
    fn a_count_that_goes_down_or_comes_and_goes_is_an_error() {
        let start = Instant::now();
        assert!(Window::between(&sample(0, start, 0, 10), sample(1, start, 0, 9)).is_err());
        let nothing = Sample { exits: Counters::new(), ..sample(0, start, 0, 0) };
        assert!(Window::between(&nothing, sample(1, start, 0, 9)).is_err());
    }
}

//! What a run comes to: one JSON object, or a table for people.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;
use synthetic_guest::{QueuePair, verify};

use crate::engine::{Backend, Engine, Task};
use crate::error::Error;
use crate::measured::{Measured, Totals};
use crate::node::Node;
use crate::options::{GuestMode, Options, RingFormat, Verify, Workload};
use crate::plan::Plan;
use crate::run::faults;

/// What a report is made of.
pub(crate) struct Facts<'a, B> {
    pub(crate) options: &'a Options,
    pub(crate) plan: &'a Plan,
    pub(crate) engine: &'a mut Engine<B>,
    pub(crate) measured: &'a Measured,
}

/// Nanoseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
    min: u64,
}

/// What was negotiated with a guest.
#[derive(Debug, Serialize)]
struct NegotiatedRow {
    guest: usize,
    features: String,
    feature_names: Vec<&'static str>,
    ring: RingFormat,
    ring_size: u16,
    queue_pairs: usize,
}

/// A guest's share.
#[derive(Debug, Serialize)]
struct GuestRow {
    guest: usize,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pps: f64,
}

/// Packets beside the pings.
#[derive(Debug, Serialize)]
struct Background {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Packets received a second, in the measured time.
    pub(crate) pps: f64,
}

/// The forwarder of `ceiling`.
#[derive(Debug, Serialize)]
struct CeilingRow {
    /// How it forwards.
    forwarder: &'static str,
    /// Share of the measured time it took in the generator's thread; 0 with --peer-cpu.
    forwarder_share: f64,
    /// Packets a second that the generator alone could send and receive: `pps` without the forwarder's time.
    generator_pps: f64,
}

/// A report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tool: &'static str,
    version: &'static str,
    workload: Workload,
    size: usize,
    size_name: String,
    ring: RingFormat,
    ring_size: u16,
    guests: usize,
    queue_pairs: usize,
    flows: usize,
    macs: usize,
    verify: Verify,
    duration_s: f64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Packets that the switch has given back to their senders.
    completed: u64,
    pub(crate) duplicated: Option<u64>,
    pub(crate) reordered: Option<u64>,
    pub(crate) corrupted: Option<u64>,
    /// Too far behind to say whether they are duplicates.
    pub(crate) late: Option<u64>,
    pub(crate) misdelivered: Option<u64>,
    pub(crate) foreign: Option<u64>,
    pub(crate) source_rewritten: Option<u64>,
    ring_faults: u64,
    pps: f64,
    gbps: f64,
    generator_idle: f64,
    /// What the generator's thread had of a CPU in the measured time, from 0 to 1.
    generator_cpu: f64,
    guest_mode: GuestMode,
    /// Calls in the measured time over packets received in it (source: packets taken).
    pub(crate) calls_per_packet: f64,
    /// The same for calls as guests saw them: those that come before a guest has looked are one.
    call_reads_per_packet: f64,
    kicks: u64,
    calls: u64,
    pub(crate) latency_ns: Option<Latency>,
    background: Option<Background>,
    ceiling: Option<CeilingRow>,
    negotiated: Vec<NegotiatedRow>,
    per_guest: Vec<GuestRow>,
    cpu: Option<usize>,
    hugepages: bool,
}

/// What became of the packets, summed over all receivers.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    sequences: verify::Report,
    corrupted: u64,
    misdelivered: u64,
    foreign: u64,
    rewritten: u64,
}

impl Report {
    /// Puts the facts in order.
    pub(crate) fn new<B: Backend>(facts: &mut Facts<'_, B>) -> Report {
        let Facts { options, measured, .. } = *facts;
        let Measured { counts, spent, latencies } = measured;
        let end = facts.engine.totals(options.workload);
        let seconds = facts.engine.clock.seconds(spent.ticks);
        let (pps, gbps) = rates(options, counts, seconds);
        let share = |ticks: u64| ticks as f64 / spent.ticks.max(1) as f64;
        let busy = 1.0 - share(spent.backend);
        let outcome = Outcome::of(facts.engine, options, &end);
        let checked = |count: u64| (options.verify != Verify::None).then_some(count);
        let guest = |g: usize| GuestRow {
            guest: g,
            sent: facts.engine.senders.iter().filter(|s| s.guest == g).map(|s| s.sent()).sum(),
            received: end.by_guest[g],
            pps: counts.by_guest[g] as f64 / seconds,
        };
        let guests = facts.engine.nodes.len();
        Report {
            tool: "ringgen",
            version: env!("CARGO_PKG_VERSION"),
            workload: options.workload,
            size: options.size.bytes(),
            size_name: options.size.name(),
            ring: options.ring,
            ring_size: options.ring_size,
            guests,
            queue_pairs: options.queue_pairs,
            flows: facts.plan.flows.len(),
            macs: options.macs,
            verify: options.verify,
            duration_s: seconds,
            sent: outcome.sent,
            received: outcome.received,
            lost: outcome.lost,
            completed: end.completed,
            duplicated: checked(outcome.sequences.duplicated),
            reordered: checked(outcome.sequences.reordered),
            corrupted: checked(outcome.corrupted),
            late: checked(outcome.sequences.late),
            misdelivered: checked(outcome.misdelivered),
            foreign: checked(outcome.foreign),
            source_rewritten: (options.verify == Verify::Full).then_some(outcome.rewritten),
            ring_faults: faults(&mut facts.engine.nodes),
            pps,
            gbps,
            generator_idle: share(spent.idle) / busy.max(f64::MIN_POSITIVE),
            generator_cpu: spent.cpu_s / seconds,
            guest_mode: options.guest_mode,
            calls_per_packet: per_packet(options, counts, counts.calls),
            call_reads_per_packet: per_packet(options, counts, counts.call_reads),
            kicks: sum_pairs(&mut facts.engine.nodes, |p| p.rx.bell().kicks_sent() + p.tx.bell().kicks_sent()),
            calls: sum_pairs(&mut facts.engine.nodes, |p| {
                p.rx.bell().drain_calls();
                p.tx.bell().drain_calls();
                p.rx.bell().calls() + p.tx.bell().calls()
            }),
            latency_ns: latency(latencies),
            background: background(facts.engine, counts.background as f64 / seconds),
            ceiling: (options.workload == Workload::Ceiling).then(|| CeilingRow {
                forwarder: "one copy, from the buffers of guest 0 into those of guest 1",
                forwarder_share: share(spent.backend),
                generator_pps: pps / (1.0 - share(spent.backend) - share(spent.idle)).max(f64::MIN_POSITIVE),
            }),
            negotiated: facts.engine.nodes.iter().enumerate().map(|(n, node)| negotiated(options, n, node)).collect(),
            per_guest: (0..guests).map(guest).collect(),
            cpu: options.cpu,
            hugepages: facts.engine.nodes.iter().all(Node::hugepages),
        }
    }

    /// Whether nothing was duplicated, reordered or corrupted.
    pub(crate) fn is_clean(&self) -> bool {
        let counts = [self.duplicated, self.reordered, self.corrupted, self.late, Some(self.ring_faults)];
        counts.iter().all(|count| count.unwrap_or(0) == 0)
    }

    /// Writes JSON where it is wanted, and the table to standard output unless the JSON is there.
    pub(crate) fn write(&self, json: Option<&Path>) -> Result<(), Error> {
        let object = || serde_json::to_string(self).expect("a report is plain data") + "\n";
        let stdout = |text: &str| {
            let failed = |source| Error::Output { path: "standard output".into(), source };
            std::io::stdout().write_all(text.as_bytes()).map_err(failed)
        };
        match json {
            Some(path) if path == Path::new("-") => return stdout(&object()),
            Some(path) => {
                std::fs::write(path, object()).map_err(|source| Error::Output { path: path.to_owned(), source })?;
            }
            None => {}
        }
        stdout(&self.table())
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<18} {value}");
        };
        let ring = format!("{:?}", self.ring).to_lowercase();
        row("workload", format!("{:?}, size {}", self.workload, self.size_name).to_lowercase());
        row("guests", format!("{} with {} queue pairs, {} flows", self.guests, self.queue_pairs, self.flows));
        row("rings", format!("{ring}, {} entries, hugepages {}", self.ring_size, self.hugepages));
        row("rate", format!("{:.3} Mpps, {:.3} Gbit/s, over {:.2} s", self.pps / 1e6, self.gbps, self.duration_s));
        row("sent", self.sent.to_string());
        row("received", self.received.to_string());
        row("lost", self.lost.to_string());
        let count = |count: Option<u64>| count.map_or("not looked for".into(), |count| count.to_string());
        row("duplicated", count(self.duplicated));
        row("reordered", count(self.reordered));
        row("corrupted", count(self.corrupted));
        let odd = [("late", self.late), ("misdelivered", self.misdelivered), ("foreign", self.foreign)];
        for (name, value) in odd.iter().filter(|(_, value)| value.is_some_and(|value| value > 0)) {
            row(name, count(*value));
        }
        if let Some(l) = &self.latency_ns {
            let us = |ns: u64| ns as f64 / 1e3;
            let what = if self.workload == Workload::Pingpong { "round trip, µs" } else { "latency, µs" };
            let [p50, p99, p999, max] = [l.p50, l.p99, l.p999, l.max].map(us);
            row(what, format!("p50 {p50:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1} ({} timed)", l.count));
        }
        if let Some(b) = &self.background {
            row(
                "background",
                format!("{} sent, {} received, {} lost, {:.3} Mpps", b.sent, b.received, b.lost, b.pps / 1e6),
            );
        }
        if let Some(c) = &self.ceiling {
            row("generator alone", format!("{:.3} Mpps", c.generator_pps / 1e6));
            row("forwarder", format!("{:.1} % of the time: {}", c.forwarder_share * 100.0, c.forwarder));
        }
        row("generator idle", format!("{:.1} %", self.generator_idle * 100.0));
        if self.guest_mode == GuestMode::Interrupt {
            row("generator's CPU", format!("{:.1} %", self.generator_cpu * 100.0));
            row("calls a packet", format!("{:.3}", self.calls_per_packet));
        }
        row("kicks, calls", format!("{}, {}", self.kicks, self.calls));
        if let Some(n) = self.negotiated.first() {
            row("negotiated", format!("{} {}", n.features, n.feature_names.join(" ")));
        }
        text
    }
}

impl Outcome {
    fn of<B: Backend>(engine: &Engine<B>, options: &Options, end: &Totals) -> Outcome {
        let mut sent: Vec<Vec<u64>> = engine.receivers.iter().map(|_| Vec::new()).collect();
        let pinging = match &engine.task {
            Task::Pingpong(pingpong) => Some(pingpong),
            _ => None,
        };
        let senders = engine.senders.iter().chain(pinging.iter().flat_map(|p| p.senders()));
        for (to, id, count) in senders.flat_map(|s| s.flows()).filter_map(|(to, id, n)| Some((to?, id, n))) {
            let flows = &mut sent[to];
            flows.resize(flows.len().max(usize::from(id) + 1), 0);
            flows[usize::from(id)] = count;
        }
        let mut outcome = Outcome { sent: end.sent, received: end.received, ..Outcome::default() };
        for (receiver, sent) in engine.receivers.iter().zip(&sent) {
            let (report, counts) = (receiver.sequences(sent), receiver.counts());
            outcome.sequences.duplicated += report.duplicated;
            outcome.sequences.reordered += report.reordered;
            outcome.sequences.late += report.late;
            outcome.corrupted += counts.corrupted;
            outcome.misdelivered += counts.misdelivered;
            outcome.foreign += counts.foreign;
            outcome.rewritten += counts.rewritten;
        }
        match options.workload {
            Workload::Source | Workload::Sink => {}
            Workload::Echo => outcome.sent = end.echoed,
            Workload::Pingpong => {
                outcome.received = end.round_trips;
                outcome.lost = end.sent.saturating_sub(end.round_trips);
            }
            _ => outcome.lost = end.sent.saturating_sub(end.received),
        }
        outcome
    }
}

fn rates(options: &Options, counts: &Totals, seconds: f64) -> (f64, f64) {
    let (packets, bytes) = match options.workload {
        Workload::Source => (counts.completed, counts.bytes_of(counts.completed)),
        Workload::Echo => (counts.echoed, counts.bytes_of(counts.echoed)),
        Workload::Pingpong => (counts.round_trips, counts.bytes),
        _ => (counts.received, counts.bytes),
    };
    (packets as f64 / seconds, bytes as f64 * 8.0 / seconds / 1e9)
}

/// So many for each packet.
fn per_packet(options: &Options, counts: &Totals, of: u64) -> f64 {
    let packets = if options.workload == Workload::Source { counts.completed } else { counts.received };
    of as f64 / packets.max(1) as f64
}

fn latency(all: &Histogram<u64>) -> Option<Latency> {
    let at = |quantile| all.value_at_quantile(quantile);
    (!all.is_empty()).then(|| Latency {
        count: all.len(),
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: all.max(),
        min: all.min(),
    })
}

fn background<B>(engine: &Engine<B>, pps: f64) -> Option<Background> {
    let Task::Pingpong(pingpong) = &engine.task else { return None };
    let (sent, received) = pingpong.background();
    (sent > 0).then(|| Background { sent, received, lost: sent.saturating_sub(received), pps })
}

fn negotiated(options: &Options, guest: usize, node: &Node) -> NegotiatedRow {
    NegotiatedRow {
        guest,
        features: format!("{:#x}", node.features.0),
        feature_names: node.features.names().collect(),
        ring: options.ring,
        ring_size: options.ring_size,
        queue_pairs: node.pairs.len(),
    }
}

fn sum_pairs(nodes: &mut [Node], of: impl Fn(&mut QueuePair) -> u64) -> u64 {
    nodes.iter_mut().flat_map(|node| &mut node.pairs).map(of).sum()
}

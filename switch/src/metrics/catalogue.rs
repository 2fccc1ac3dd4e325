//! Every metric: its name, its type, what it means, and where it is in a snapshot. Names are stable from 0.1 on.
//!
//! Series of a queue carry no label for the core, since moving the queue would then break them;
//! `sidecore_queue_io_core` says where it is.

use std::collections::{BTreeMap, BTreeSet};

use vm_ports::{RingFault, RxDrop, TxDrop};

use crate::forwarding::{DropReason, LearnRefusal};
use crate::snapshot::{
    CoreSnapshot, NegotiatedSnapshot, PausesSnapshot, PortKind, PortSnapshot, PortState, QueueSnapshot, Snapshot,
};
use crate::words;

/// One metric.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) read: Read,
}

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only up, until its port is removed.
    Counter,
    /// Up and down.
    Gauge,
    /// How many of what was counted were not above each bound.
    Histogram,
}

/// The values of the labels, and the value.
pub(super) type Sample = (Vec<String>, f64);

type Counts<T> = fn(&T) -> &BTreeMap<String, u64>;

/// Where the values are, and so what the labels are.
#[derive(Clone, Copy)]
pub(super) enum Read {
    /// One value.
    Switch(fn(&Snapshot) -> f64),
    /// `core`.
    Cores(fn(&CoreSnapshot) -> f64),
    /// `core`, `reason`.
    CoreReasons(Counts<CoreSnapshot>, fn() -> Vec<&'static str>),
    /// `port`; ports without a value are left out.
    Ports(fn(&PortSnapshot) -> Option<f64>),
    /// `port`, `reason`.
    PortReasons(Counts<PortSnapshot>, fn(PortKind) -> Vec<&'static str>),
    /// `port`, `queue`; queues without a value are left out.
    Queues(fn(&QueueSnapshot) -> Option<f64>),
    /// `port`, `queue`, `reason`.
    QueueReasons(Counts<QueueSnapshot>, fn(PortKind) -> Vec<&'static str>),
    /// No label.
    Pauses(fn(&Snapshot) -> &PausesSnapshot),
    /// Labels of its own.
    Info(&'static [&'static str], fn(&Snapshot) -> Vec<Sample>),
}

impl Entry {
    /// The names of the labels.
    pub(super) fn labels(&self) -> &'static [&'static str] {
        match self.read {
            Read::Switch(_) | Read::Pauses(_) => &[],
            Read::Cores(_) => &["core"],
            Read::CoreReasons(..) => &["core", "reason"],
            Read::Ports(_) => &["port"],
            Read::PortReasons(..) => &["port", "reason"],
            Read::Queues(_) => &["port", "queue"],
            Read::QueueReasons(..) => &["port", "queue", "reason"],
            Read::Info(labels, _) => labels,
        }
    }
}

const fn counter(name: &'static str, read: Read, help: &'static str) -> Entry {
    Entry { name, kind: Kind::Counter, help, read }
}

/// 1 for each core of the list, 0 for the others.
fn of_cores(snapshot: &Snapshot, list: &[usize]) -> Vec<Sample> {
    let value = |core: usize| f64::from(u8::from(list.contains(&core)));
    snapshot.cores.iter().map(|core| (vec![core.core.to_string()], value(core.core))).collect()
}

const fn histogram(name: &'static str, read: Read, help: &'static str) -> Entry {
    Entry { name, kind: Kind::Histogram, help, read }
}

const fn gauge(name: &'static str, read: Read, help: &'static str) -> Entry {
    Entry { name, kind: Kind::Gauge, help, read }
}

/// All of them, in the order they are shown.
#[rustfmt::skip]
pub(super) const CATALOGUE: &[Entry] = &[
    gauge("sidecore_info", Read::Info(&["version"], |s| vec![(vec![s.version.clone()], 1.0)]),
        "1, with the switch's version."),
    gauge("sidecore_uptime_seconds", Read::Switch(|s| s.uptime_ms as f64 / 1000.0),
        "Time since the switch started."),
    gauge("sidecore_tsc_hertz", Read::Switch(|s| s.tsc_hz as f64),
        "Cycles of the time stamp counter in a second, for reading the cycle counters as time."),
    gauge("sidecore_fdb_entries", Read::Switch(|s| s.fdb_entries as f64),
        "Stations in the MAC table, in the replica that knows most."),
    gauge("sidecore_scheduler_paused", Read::Switch(|s| f64::from(u8::from(s.scheduler.paused))),
        "1 while the scheduler moves nothing by itself."),
    counter("sidecore_scheduler_moves_total", Read::Switch(|s| s.scheduler.moves as f64),
        "Queue pairs that the scheduler moved, those moved back included."),
    counter("sidecore_scheduler_rolled_back_total", Read::Switch(|s| s.scheduler.rolled_back as f64),
        "Queue pairs that the scheduler moved back because the move had made things worse."),
    counter("sidecore_scheduler_failed_total", Read::Switch(|s| s.scheduler.failed as f64),
        "Orders of the scheduler that could not be carried out."),
    gauge("sidecore_scheduler_cannot_fix", Read::Switch(|s| f64::from(u8::from(s.scheduler.cannot_fix.is_some()))),
        "1 while an I/O core is saturated and no move would help; `sidecore scheduler status` says why."),
    gauge("sidecore_core_saturated", Read::Info(&["core"], |s| of_cores(s, &s.scheduler.saturated)),
        "1 while an I/O core is busy nearly all of the time and work waits for it."),
    gauge("sidecore_core_parked", Read::Info(&["core"], |s| of_cores(s, &s.scheduler.parked)),
        "1 while an I/O core sleeps between its rounds."),
    histogram("sidecore_move_pause_seconds", Read::Pauses(|s| &s.pauses),
        "Time in which no I/O core served a queue pair while it moved from one to another."),

    counter("sidecore_core_busy_cycles_total", Read::Cores(|c| c.busy_cycles as f64),
        "Cycles an I/O core spent in rounds that moved packets."),
    counter("sidecore_core_idle_cycles_total", Read::Cores(|c| c.idle_cycles as f64),
        "Cycles an I/O core spent in rounds that found nothing to do."),
    counter("sidecore_core_polls_total", Read::Cores(|c| c.polls as f64),
        "Rounds of polling."),
    counter("sidecore_core_handed_over_packets_total", Read::Cores(|c| c.handed_over as f64),
        "Packets an I/O core handed to other cores."),
    counter("sidecore_core_received_packets_total", Read::Cores(|c| c.received as f64),
        "Packets that other cores handed to an I/O core."),
    counter("sidecore_core_received_cycles_total", Read::Cores(|c| c.received_cycles as f64),
        "Cycles an I/O core spent on delivering packets from other cores."),
    gauge("sidecore_core_oldest_wait_seconds", Read::Cores(|c| seconds(c.oldest_wait_ns)),
        "How long the oldest work in any transmit ring of an I/O core waited, in the last tick."),
    counter("sidecore_core_learn_refusals_total", Read::CoreReasons(|c| &c.learn_refusals, learn_refusals),
        "Source addresses an I/O core did not learn, by reason."),
    counter("sidecore_core_learn_messages_lost_total", Read::Cores(|c| c.learn_lost as f64),
        "Learnt addresses that another I/O core had no room to be told of; the next packet repairs it."),
    gauge("sidecore_core_queue_pairs", Read::Cores(|c| c.queue_pairs as f64),
        "Guests' queue pairs an I/O core polls."),
    gauge("sidecore_core_cpu", Read::Cores(|c| c.cpu as f64),
        "The CPU an I/O core is pinned to."),

    gauge("sidecore_port_info", Read::Info(&["port", "kind", "socket", "device", "driver", "mac"], port_info),
        "1 for each port, with what identifies it."),
    gauge("sidecore_port_state", Read::Info(&["port", "state"], port_states),
        "1 for the state a port is in, 0 for those it could be in."),
    gauge("sidecore_port_mtu_bytes", Read::Ports(|p| p.mtu.map(f64::from)),
        "The MTU configured, or the device's."),
    counter("sidecore_port_connections_total", Read::Ports(|p| guest(p).map(|p| p.connections as f64)),
        "Frontends that connected to a guest's port."),
    counter("sidecore_port_ring_faults_total", Read::PortReasons(|p| &p.faults, ring_faults),
        "Rings stopped because of what the guest wrote there, by reason."),
    gauge("sidecore_guest_info", Read::Info(&["port", "ring", "features"], guest_info),
        "1 for each guest that negotiated, with its ring format and its virtio feature bits."),
    gauge("sidecore_guest_ring_entries", Read::Ports(|p| negotiated(p).map(|n| n.ring_size.into())),
        "Descriptors in a guest's first transmit ring."),
    gauge("sidecore_guest_queue_pairs", Read::Ports(|p| negotiated(p).map(|n| n.queue_pairs as f64)),
        "Queue pairs a guest has started."),
    gauge("sidecore_guest_memory_bytes", Read::Ports(|p| negotiated(p).map(|n| n.memory_bytes as f64)),
        "Memory a guest shares with the switch."),
    gauge("sidecore_uplink_device_stat", Read::Info(&["port", "stat"], xstats),
        "The statistics of an uplink's driver under the driver's names; most only go up."),

    gauge("sidecore_queue_io_core", Read::Queues(|q| q.io_core.map(|core| core as f64)),
        "The I/O core that serves a queue; absent while none does."),
    counter("sidecore_queue_rx_packets_total", Read::Queues(|q| count(q.rx.packets)),
        "Packets delivered to a guest, or received from an uplink's wire."),
    counter("sidecore_queue_rx_bytes_total", Read::Queues(|q| count(q.rx.bytes)),
        "Bytes of those packets, Ethernet header included, FCS not."),
    counter("sidecore_queue_tx_packets_total", Read::Queues(|q| count(q.tx.packets)),
        "Packets taken from a guest, or sent to an uplink's wire."),
    counter("sidecore_queue_tx_bytes_total", Read::Queues(|q| count(q.tx.bytes)),
        "Bytes of those packets, Ethernet header included, FCS not."),
    counter("sidecore_queue_dropped_packets_total", Read::QueueReasons(|q| &q.drops, drop_reasons),
        "Packets that came from a queue and were dropped, and copies of its floods that were, by reason."),
    counter("sidecore_queue_refused_packets_total", Read::QueueReasons(|q| &q.refused, refusals),
        "Packets that a guest's ring could not take, by reason; their sources count them as dropped, too."),
    counter("sidecore_queue_busy_cycles_total", Read::Queues(|q| count(q.busy_cycles)),
        "Cycles that I/O cores spent on what came from a queue."),
    gauge("sidecore_queue_backlog_slots", Read::Queues(|q| q.backlog.and_then(count)),
        "Slots of a guest's transmit ring with work that was left over when it was last looked how much there is."),
    gauge("sidecore_queue_oldest_wait_seconds", Read::Queues(|q| q.oldest_wait_ns.map(seconds)),
        "How long the oldest work in a guest's transmit ring waited, in the last tick."),
    counter("sidecore_queue_kicks_total", Read::Queues(|q| count(q.kicks)),
        "Kicks of a guest since it was first told that none are needed."),
    counter("sidecore_queue_calls_total", Read::Queues(|q| count(q.calls)),
        "Interrupts sent to a guest."),
    counter("sidecore_queue_calls_suppressed_total", Read::Queues(|q| count(q.calls_suppressed)),
        "Publications for which a guest wanted no interrupt."),
    counter("sidecore_queue_pulled_packets_total", Read::Queues(|q| count(q.accounting.pulled)),
        "Accounting: packets taken from a source. pulled = forwarded + unforwarded + in flight."),
    counter("sidecore_queue_forwarded_packets_total", Read::Queues(|q| count(q.accounting.forwarded)),
        "Accounting: packets of a source that were delivered, or flooded."),
    counter("sidecore_queue_unforwarded_packets_total", Read::Queues(|q| count(q.accounting.dropped)),
        "Accounting: packets of a source that were dropped, copies not counted."),
    gauge("sidecore_queue_in_flight_packets", Read::Queues(|q| count(q.accounting.in_flight)),
        "Accounting: packets of a source that are under way between two I/O cores."),
    counter("sidecore_queue_flood_copies_total", Read::Queues(|q| count(q.accounting.copies)),
        "Accounting: copies made of a source's floods. copies = delivered + dropped copies."),
    counter("sidecore_queue_flood_copies_delivered_total", Read::Queues(|q| count(q.accounting.delivered)),
        "Accounting: copies of a source's floods that were delivered."),
    counter("sidecore_queue_flood_copies_dropped_total", Read::Queues(|q| count(q.accounting.copy_drops)),
        "Accounting: copies of a source's floods that were dropped."),
];

fn count(value: u64) -> Option<f64> {
    Some(value as f64)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn guest(port: &PortSnapshot) -> Option<&PortSnapshot> {
    Some(port).filter(|port| port.kind == PortKind::Guest)
}

fn negotiated(port: &PortSnapshot) -> Option<&NegotiatedSnapshot> {
    port.negotiated.as_ref()
}

fn learn_refusals() -> Vec<&'static str> {
    LearnRefusal::ALL.iter().map(|reason| reason.as_str()).collect()
}

fn drop_reasons(kind: PortKind) -> Vec<&'static str> {
    // An uplink has no ring of ours to be wrong; `bad_offload` is a reason of both.
    let at_ring = TxDrop::ALL.iter().filter(|_| kind == PortKind::Guest).map(|reason| reason.as_str());
    let names: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.as_str()).chain(at_ring).collect();
    names.into_iter().collect()
}

fn refusals(kind: PortKind) -> Vec<&'static str> {
    RxDrop::ALL.iter().filter(|_| kind == PortKind::Guest).map(|reason| reason.as_str()).collect()
}

fn ring_faults(kind: PortKind) -> Vec<&'static str> {
    RingFault::ALL.iter().filter(|_| kind == PortKind::Guest).map(|reason| reason.as_str()).collect()
}

fn port_info(snapshot: &Snapshot) -> Vec<Sample> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let labels = |port: &PortSnapshot| {
        let device = [text(&port.socket), text(&port.device), text(&port.driver), text(&port.mac)];
        [port.name.clone(), words::kind(port.kind).to_owned()].into_iter().chain(device).collect()
    };
    snapshot.ports.iter().map(|port| (labels(port), 1.0)).collect()
}

fn port_states(snapshot: &Snapshot) -> Vec<Sample> {
    const GUEST: &[PortState] = &[PortState::Waiting, PortState::Connected, PortState::Running, PortState::Stopped];
    const UPLINK: &[PortState] = &[PortState::Up, PortState::Down];
    let states = |port: &PortSnapshot| {
        let states = if port.kind == PortKind::Guest { GUEST } else { UPLINK };
        let (name, now) = (port.name.clone(), port.state);
        states.iter().map(move |state| (vec![name.clone(), words::state(*state).to_owned()], f64::from(*state == now)))
    };
    snapshot.ports.iter().flat_map(states).collect()
}

fn guest_info(snapshot: &Snapshot) -> Vec<Sample> {
    let labels = |port: &PortSnapshot| {
        negotiated(port).map(|n| (vec![port.name.clone(), n.ring.clone(), n.features.clone()], 1.0))
    };
    snapshot.ports.iter().filter_map(labels).collect()
}

fn xstats(snapshot: &Snapshot) -> Vec<Sample> {
    let of_port = |port: &PortSnapshot| {
        let name = port.name.clone();
        let stats: Vec<_> =
            port.xstats.iter().map(|(stat, value)| (vec![name.clone(), stat.clone()], *value as f64)).collect();
        stats
    };
    snapshot.ports.iter().flat_map(of_port).collect()
}

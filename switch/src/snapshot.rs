//! What the switch knows about itself at one moment: read by `sidecore status`, `/metrics` and the demo. Plain data.
//!
//! All counters are totals since the switch started. RX and TX of a guest port are named from the guest's side (TX came from the
//! guest), those of an uplink from the NIC's (RX came from the wire). Bytes are frame bytes, without virtio-net header or FCS.

mod scheduler;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::scheduler::{DecisionSnapshot, GainsSnapshot, SchedulerSnapshot, StepSnapshot};
use crate::control::protocol::CaptureDirection;

/// Everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// The switch's version.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// Milliseconds since it started.
    pub(crate) uptime_ms: u64,
    /// Cycles of the time stamp counter in a second.
    pub(crate) tsc_hz: u64,
    /// Guests and uplinks, by name.
    pub(crate) ports: Vec<PortSnapshot>,
    /// I/O cores, by number.
    pub(crate) cores: Vec<CoreSnapshot>,
    /// What the configuration has the I/O cores' CPUs take at most to wake up, in microseconds; none: anything.
    #[serde(default)]
    pub(crate) wake_latency_us: Option<u32>,
    /// Sums over all sources.
    pub(crate) accounting: Accounting,
    /// Stations in the fullest core's replica of the FDB.
    pub(crate) fdb_entries: u64,
    /// Stations there is room for.
    pub(crate) fdb_capacity: u64,
    /// How long queue pairs were not served while they moved.
    pub(crate) pauses: HistogramSnapshot,
    /// Requests of guests' frontends that came while one of the guest's queue pairs was on its way.
    #[serde(default)]
    pub(crate) move_waits: u64,
    /// Who decides on them.
    pub(crate) scheduler: SchedulerSnapshot,
    /// Who talks to whom.
    pub(crate) talks: TalksSnapshot,
    /// What is captured.
    #[serde(default)]
    pub(crate) captures: CapturesSnapshot,
}

/// Captures. Packets, bytes and what was missed are those of all captures since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CapturesSnapshot {
    /// Those that run.
    pub(crate) running: Vec<CaptureSnapshot>,
    /// Captures since the start.
    pub(crate) begun: u64,
    /// Packets written.
    pub(crate) packets: u64,
    /// Their bytes, as far as they were kept.
    pub(crate) bytes: u64,
    /// Packets missed, by reason.
    pub(crate) missed: BTreeMap<String, u64>,
}

/// A capture that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CaptureSnapshot {
    /// Its number, from 0.
    pub(crate) number: u64,
    /// Ports, by name.
    pub(crate) ports: Vec<String>,
    /// Which way packets go that are captured.
    pub(crate) direction: CaptureDirection,
    /// Which of them, as it was written.
    pub(crate) filter: Option<String>,
    /// Milliseconds since it began.
    pub(crate) running_ms: u64,
    /// Packets written.
    pub(crate) packets: u64,
    /// Their bytes, as far as they were kept.
    pub(crate) bytes: u64,
    /// Packets that the filter did not match.
    pub(crate) unmatched: u64,
    /// Packets missed, by reason.
    pub(crate) missed: BTreeMap<String, u64>,
}

/// Unicast packets between guests' queue pairs in the last interval of load accounting.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TalksSnapshot {
    /// How long it was, in milliseconds.
    pub(crate) interval_ms: f64,
    /// Who received from whom: of each sender, the eight that received most.
    pub(crate) talks: Vec<TalkSnapshot>,
}

/// Packets from one queue pair to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TalkSnapshot {
    /// The sender's port.
    pub(crate) from: String,
    /// Its queue pair.
    pub(crate) from_queue: u16,
    /// The receiver's port.
    pub(crate) to: String,
    /// Its queue pair.
    pub(crate) to_queue: u16,
    /// How many.
    pub(crate) packets: u64,
}

/// How long something took, each time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HistogramSnapshot {
    /// How often.
    pub(crate) count: u64,
    /// Seconds that it took together.
    pub(crate) seconds: f64,
    /// Of those, how many took at most so many seconds: (seconds, count), both rising.
    pub(crate) within_s: Vec<(f64, u64)>,
}

/// A guest or an uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PortSnapshot {
    /// Its name.
    pub(crate) name: String,
    /// Which of the two.
    pub(crate) kind: PortKind,
    /// How it is.
    pub(crate) state: PortState,
    /// What stopped it, or went wrong last.
    pub(crate) error: Option<String>,
    /// Guests: the vhost-user socket.
    pub(crate) socket: Option<String>,
    /// Uplinks: the DPDK device.
    pub(crate) device: Option<String>,
    /// Uplinks: the DPDK driver.
    pub(crate) driver: Option<String>,
    /// Guests: the virtual machine's name, where it is configured.
    pub(crate) vm_name: Option<String>,
    /// Guests: the virtual machine's UUID, where it is configured.
    pub(crate) vm_uuid: Option<String>,
    /// The address configured, or the NIC's.
    pub(crate) mac: Option<String>,
    /// The MTU configured, or the device's.
    pub(crate) mtu: Option<u16>,
    /// Guests: what was agreed on with the frontend.
    pub(crate) negotiated: Option<NegotiatedSnapshot>,
    /// Sum over the queues.
    pub(crate) rx: Traffic,
    /// Sum over the queues.
    pub(crate) tx: Traffic,
    /// Packets from this port that were dropped, by reason; copies of its floods that were, too. No zeros.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Guests: packets for this port that its rings turned away, by reason. The same drops are charged to their sources in `drops`.
    pub(crate) refused: BTreeMap<String, u64>,
    /// How the switch waits for its packets: `poll`, `adaptive` or `trap`; of an uplink, how its I/O cores wait for anything.
    pub(crate) mode: String,
    /// Guests: kicks counted since their suppression was first published.
    pub(crate) kicks: u64,
    /// Guests: those of them that were asked for, or came shortly after.
    pub(crate) kicks_asked: u64,
    /// Guests: all others, which came while the switch polled.
    pub(crate) kicks_polling: u64,
    /// Guests: interrupts sent.
    pub(crate) calls: u64,
    /// Guests: publications for which the guest wanted no interrupt.
    pub(crate) calls_suppressed: u64,
    /// Guests: publications that it heard of together with others, or saw before its interrupt was sent, because of moderation.
    pub(crate) calls_saved: u64,
    /// Guests: what the vhost-user session counted since the port was added.
    pub(crate) session: SessionSnapshot,
    /// Uplinks: what there is to say of the device.
    pub(crate) uplink: Option<UplinkSnapshot>,
    /// Rings stopped because of what the guest wrote there, by reason. No zeros.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Uplinks: how packets are steered to the cores that have their guests.
    pub(crate) steering: Option<SteeringSnapshot>,
    /// Uplinks: the device's own statistics, by name.
    pub(crate) xstats: BTreeMap<String, u64>,
    /// Queue pairs of a guest, queues of an uplink.
    pub(crate) queues: Vec<QueueSnapshot>,
    /// The identity of this source.
    pub(crate) accounting: Accounting,
}

/// What a vhost-user session counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionSnapshot {
    /// Frontends that connected.
    pub(crate) connections: u64,
    /// Requests, refused ones included.
    pub(crate) requests: u64,
    /// Requests refused, and connections closed over one.
    pub(crate) refused: u64,
    /// Times a ring that was set up could not be started.
    pub(crate) ring_refusals: u64,
}

/// An uplink's device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UplinkSnapshot {
    /// The link's speed in Mbit/s, where the device knows it.
    pub(crate) link_mbps: Option<u32>,
    /// Packet buffers of the pool.
    pub(crate) mbufs: u64,
    /// Those of them that are free.
    pub(crate) mbufs_free: u64,
    /// Packets that the device lost.
    pub(crate) errors: UplinkErrors,
}

/// Packets that an uplink's device lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UplinkErrors {
    /// No receive queue had room.
    pub(crate) rx_missed: u64,
    /// They were broken.
    pub(crate) rx_errors: u64,
    /// There was no buffer for them.
    pub(crate) rx_no_mbuf: u64,
    /// They could not be sent.
    pub(crate) tx_errors: u64,
}

/// Rules of an uplink's device, and what they do not catch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SteeringSnapshot {
    /// For each guest's address that has a rule, the RX queue.
    pub(crate) rules: BTreeMap<String, u16>,
    /// Rules that the driver did not take.
    pub(crate) refusals: u64,
    /// Packets that were received on another core than that of the one port they were for.
    pub(crate) handed_over: u64,
}

/// Guest or uplink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PortKind {
    /// A vhost-user port.
    #[default]
    Guest,
    /// A DPDK port.
    Uplink,
}

/// How a port is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PortState {
    /// Guest: no frontend is connected.
    #[default]
    Waiting,
    /// Guest: a frontend is connected, its driver has not started a ring.
    Connected,
    /// Guest: at least one queue pair is served.
    Running,
    /// Guest: a ring was stopped because of what the guest wrote there.
    Stopped,
    /// Uplink: link up.
    Up,
    /// Uplink: link down.
    Down,
}

/// What was agreed on with a frontend.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NegotiatedSnapshot {
    /// All virtio feature bits in force, hexadecimal.
    pub(crate) features: String,
    /// Their names.
    pub(crate) feature_names: Vec<String>,
    /// `split` or `packed`.
    pub(crate) ring: String,
    /// Descriptors in the first TX ring.
    pub(crate) ring_size: u32,
    /// Queue pairs started.
    pub(crate) queue_pairs: usize,
    /// Guest memory mapped.
    pub(crate) memory_bytes: u64,
}

/// Packets and bytes in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Packets.
    pub(crate) packets: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl Traffic {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// One queue pair of a guest or one queue of an uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct QueueSnapshot {
    /// Its index in the port.
    pub(crate) index: usize,
    /// The I/O core that serves it; none while its rings are not started.
    pub(crate) io_core: Option<usize>,
    /// Guests: how often it moved from one I/O core to another.
    pub(crate) moves: u64,
    /// Guests: when it moved last, in milliseconds since 1970.
    pub(crate) moved_ms: Option<u64>,
    /// Guests: descriptors in the receive ring, once it is started.
    pub(crate) rx_entries: Option<u32>,
    /// Guests: descriptors in the transmit ring, once it is started.
    pub(crate) tx_entries: Option<u32>,
    /// See [`PortSnapshot::rx`].
    pub(crate) rx: Traffic,
    /// See [`PortSnapshot::tx`].
    pub(crate) tx: Traffic,
    /// See [`PortSnapshot::drops`].
    pub(crate) drops: BTreeMap<String, u64>,
    /// See [`PortSnapshot::refused`].
    pub(crate) refused: BTreeMap<String, u64>,
    /// See [`PortSnapshot::kicks`].
    pub(crate) kicks: u64,
    /// See [`PortSnapshot::kicks_asked`].
    pub(crate) kicks_asked: u64,
    /// See [`PortSnapshot::kicks_polling`].
    pub(crate) kicks_polling: u64,
    /// See [`PortSnapshot::calls`].
    pub(crate) calls: u64,
    /// See [`PortSnapshot::calls_suppressed`].
    pub(crate) calls_suppressed: u64,
    /// See [`PortSnapshot::calls_saved`].
    pub(crate) calls_saved: u64,
    /// Cycles that I/O cores spent on what came from it.
    pub(crate) busy_cycles: u64,
    /// Guests: ring slots with work that was left over when a core last looked how much there is; 0 where each pull empties the ring.
    pub(crate) backlog: Option<u64>,
    /// Guests: buffers posted in the receive ring and not used, when a core last looked (at some bursts only).
    pub(crate) posted: Option<u64>,
    /// How long the oldest work waited, in the last interval of load accounting or since, in nanoseconds. Of an uplink's queue, whose driver drops
    /// what it has no room for: for how long no burst had emptied it.
    pub(crate) oldest_wait_ns: Option<u64>,
    /// Guests: what the scheduler was told of the last interval of load accounting, while a core serves it.
    pub(crate) tick: Option<TickSnapshot>,
    /// The identity of this source.
    pub(crate) accounting: Accounting,
}

/// One queue pair in one interval of load accounting, which [`TalksSnapshot::interval_ms`] says the length of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TickSnapshot {
    /// Cycles that its core spent on what was pulled from it.
    pub(crate) cycles: u64,
    /// Packets pulled.
    pub(crate) packets: u64,
    /// Bytes pulled.
    pub(crate) bytes: u64,
    /// Slots of its transmit ring with work that was left over when it was last looked how much there is.
    pub(crate) backlog: u64,
    /// How long the oldest work in it waited, in nanoseconds.
    pub(crate) oldest_wait_ns: u64,
    /// Cycles that its core spent on what a NIC brings to it by a rule: they move with it, too.
    pub(crate) brought_cycles: u64,
    /// Packets that this was.
    pub(crate) brought_packets: u64,
}

/// The accounting identity: `pulled = forwarded + dropped + in_flight`, and for floods `copies = delivered + copy_drops + copies_in_flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accounting {
    /// Packets taken from the source.
    pub(crate) pulled: u64,
    /// Packets delivered to one port, or flooded.
    pub(crate) forwarded: u64,
    /// Packets dropped.
    pub(crate) dropped: u64,
    /// Packets under way between two I/O cores.
    pub(crate) in_flight: u64,
    /// Copies made of flooded packets.
    pub(crate) copies: u64,
    /// Copies delivered.
    pub(crate) delivered: u64,
    /// Copies dropped.
    pub(crate) copy_drops: u64,
}

impl Accounting {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.pulled += other.pulled;
        self.forwarded += other.forwarded;
        self.dropped += other.dropped;
        self.in_flight += other.in_flight;
        self.copies += other.copies;
        self.delivered += other.delivered;
        self.copy_drops += other.copy_drops;
    }
}

/// One I/O core.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CoreSnapshot {
    /// Its number.
    pub(crate) core: usize,
    /// The CPU it is pinned to; none: a guest's own thread is not.
    pub(crate) cpu: Option<usize>,
    /// Where the configuration limits it: what the kernel now has that CPU take at most to wake up, in microseconds; none: anything.
    #[serde(default)]
    pub(crate) wake_latency_us: Option<u32>,
    /// Cycles spent in rounds that moved packets.
    pub(crate) busy_cycles: u64,
    /// Cycles spent in rounds that found nothing.
    pub(crate) idle_cycles: u64,
    /// How it waits for work: `poll`, `adaptive` or `trap`.
    pub(crate) mode: String,
    /// Rounds of polling.
    pub(crate) polls: u64,
    /// Messages of other threads that it read.
    pub(crate) messages: u64,
    /// Busy nearly all of the time, while work waits.
    pub(crate) saturated: bool,
    /// It has no queue pairs, and sleeps until the scheduler wakes it.
    pub(crate) parked: bool,
    /// It sleeps at this moment, whatever its mode.
    #[serde(default)]
    pub(crate) asleep: bool,
    /// Sleeps, by what ended them.
    pub(crate) wakes: BTreeMap<String, u64>,
    /// Cycles of those sleeps, which are idle cycles too.
    pub(crate) slept_cycles: u64,
    /// Sleeps that only a timer ended although something was to be done: a wake-up that was lost.
    pub(crate) missed_wakeups: u64,
    /// The same where a guest's packets waited whose driver had been asked to kick: it did not, or its kick was lost.
    #[serde(default)]
    pub(crate) missed_kicks: u64,
    /// Nanoseconds in which it was ready to run and something else had its CPU: part of its cycles, busy or idle.
    pub(crate) cpu_wait_ns: u64,
    /// Transmit rings that it does not look at because their drivers were asked to kick.
    pub(crate) armed_rings: u64,
    /// Queue pairs attached.
    pub(crate) queue_pairs: usize,
    /// Packets it handed to other cores.
    pub(crate) handed_over: u64,
    /// Packets that waited here for a queue pair on its way, copies of floods included.
    #[serde(default)]
    pub(crate) parked_packets: u64,
    /// Packets that other cores handed to it.
    pub(crate) received: u64,
    /// Cycles spent on delivering those.
    pub(crate) received_cycles: u64,
    /// How long packets were in the switch that left it here, of some bursts.
    pub(crate) latency: HistogramSnapshot,
    /// Stations learnt from packets that came in here.
    pub(crate) fdb_learned: u64,
    /// Stations found here to be behind another port than before.
    pub(crate) fdb_moves: u64,
    /// The longest [`QueueSnapshot::oldest_wait_ns`] of what it serves, or of what other cores have handed to it.
    pub(crate) oldest_wait_ns: u64,
    /// Addresses not learnt, by reason. No zeros.
    pub(crate) learn_refusals: BTreeMap<String, u64>,
    /// Learn messages that another core had no room for; the next refresh of the address repairs it.
    pub(crate) learn_lost: u64,
}

/// One station of the FDB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FdbSnapshot {
    /// VLAN id.
    pub(crate) vlan: u16,
    /// Address.
    pub(crate) mac: String,
    /// The port it is behind.
    pub(crate) port: String,
    /// Configured, not learnt.
    pub(crate) fixed: bool,
    /// Seconds since it was last heard; 0 for a configured one.
    pub(crate) age_s: u64,
}

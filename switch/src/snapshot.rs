//! What the switch knows about itself at one moment: read by `sidecore status`, `/metrics` and the demo. Plain data.
//!
//! All counters are totals since the switch started. RX and TX of a guest port are named from the guest's side (TX came from the
//! guest), those of an uplink from the NIC's (RX came from the wire). Bytes are frame bytes, without virtio-net header or FCS.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// The switch's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Cycles of the time stamp counter in a second.
    pub tsc_hz: u64,
    /// Guests and uplinks, by name.
    pub ports: Vec<PortSnapshot>,
    /// I/O cores, by number.
    pub cores: Vec<CoreSnapshot>,
    /// Sums over all sources.
    pub accounting: Accounting,
    /// Stations in the fullest core's replica of the FDB.
    pub fdb_entries: u64,
}

/// A guest or an uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortSnapshot {
    /// Its name.
    pub name: String,
    /// Which of the two.
    pub kind: PortKind,
    /// How it is.
    pub state: PortState,
    /// What stopped it, or went wrong last.
    pub error: Option<String>,
    /// Guests: the vhost-user socket.
    pub socket: Option<String>,
    /// Uplinks: the DPDK device.
    pub device: Option<String>,
    /// Uplinks: the DPDK driver.
    pub driver: Option<String>,
    /// The address configured, or the NIC's.
    pub mac: Option<String>,
    /// The MTU configured, or the device's.
    pub mtu: Option<u16>,
    /// Guests: what was agreed on with the frontend.
    pub negotiated: Option<NegotiatedSnapshot>,
    /// Sum over the queues.
    pub rx: Traffic,
    /// Sum over the queues.
    pub tx: Traffic,
    /// Packets from this port that were dropped, by reason; copies of its floods that were, too. No zeros.
    pub drops: BTreeMap<String, u64>,
    /// Guests: packets for this port that its rings turned away, by reason. The same drops are charged to their sources in `drops`.
    pub refused: BTreeMap<String, u64>,
    /// Guests: kicks counted since their suppression was first published.
    pub kicks: u64,
    /// Guests: interrupts sent.
    pub calls: u64,
    /// Guests: publications for which the guest wanted no interrupt.
    pub calls_suppressed: u64,
    /// Guests: frontends that connected since the port was added.
    pub connections: u64,
    /// Rings stopped because of what the guest wrote there, by reason. No zeros.
    pub faults: BTreeMap<String, u64>,
    /// Uplinks: the device's own statistics, by name.
    pub xstats: BTreeMap<String, u64>,
    /// Queue pairs of a guest, queues of an uplink.
    pub queues: Vec<QueueSnapshot>,
    /// The identity of this source.
    pub accounting: Accounting,
}

/// Guest or uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// A vhost-user port.
    Guest,
    /// A DPDK port.
    Uplink,
}

/// How a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// Guest: no frontend is connected.
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NegotiatedSnapshot {
    /// All virtio feature bits in force, hexadecimal.
    pub features: String,
    /// Their names.
    pub feature_names: Vec<String>,
    /// `split` or `packed`.
    pub ring: String,
    /// Descriptors in the first TX ring.
    pub ring_size: u32,
    /// Queue pairs started.
    pub queue_pairs: usize,
    /// Guest memory mapped.
    pub memory_bytes: u64,
}

/// Packets and bytes in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One queue pair of a guest or one queue of an uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueSnapshot {
    /// Its index in the port.
    pub index: usize,
    /// The I/O core that serves it; none while its rings are not started.
    pub io_core: Option<usize>,
    /// See [`PortSnapshot::rx`].
    pub rx: Traffic,
    /// See [`PortSnapshot::tx`].
    pub tx: Traffic,
    /// See [`PortSnapshot::drops`].
    pub drops: BTreeMap<String, u64>,
    /// See [`PortSnapshot::refused`].
    pub refused: BTreeMap<String, u64>,
    /// See [`PortSnapshot::kicks`].
    pub kicks: u64,
    /// See [`PortSnapshot::calls`].
    pub calls: u64,
    /// See [`PortSnapshot::calls_suppressed`].
    pub calls_suppressed: u64,
    /// The identity of this source.
    pub accounting: Accounting,
}

/// The accounting identity: `pulled = forwarded + dropped + in_flight`, and for floods `copies = delivered + copy_drops + copies_in_flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Packets taken from the source.
    pub pulled: u64,
    /// Packets delivered to one port, or flooded.
    pub forwarded: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Packets under way between two I/O cores.
    pub in_flight: u64,
    /// Copies made of flooded packets.
    pub copies: u64,
    /// Copies delivered.
    pub delivered: u64,
    /// Copies dropped.
    pub copy_drops: u64,
}

/// One I/O core.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoreSnapshot {
    /// Its number.
    pub core: usize,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Cycles spent in rounds that moved packets.
    pub busy_cycles: u64,
    /// Cycles spent in rounds that found nothing.
    pub idle_cycles: u64,
    /// Rounds of polling.
    pub polls: u64,
    /// Queue pairs attached.
    pub queue_pairs: usize,
    /// Packets it handed to other cores.
    pub handed_over: u64,
}

/// One station of the FDB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FdbSnapshot {
    /// VLAN id.
    pub vlan: u16,
    /// Address.
    pub mac: String,
    /// The port it is behind.
    pub port: String,
    /// Configured, not learnt.
    pub fixed: bool,
    /// Seconds since it was last heard; 0 for a configured one.
    pub age_s: u64,
}

//! What the switch would do with a packet: the question, and the answer, as they go over the control socket. Plain data.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::snapshot::FdbSnapshot;

/// A packet to be asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceQuery {
    /// The port that it comes from.
    pub(crate) from: String,
    /// Its destination address.
    pub(crate) mac: String,
    /// Its source address; where it is not given: the port's.
    #[serde(default)]
    pub(crate) src: Option<String>,
    /// The VLAN of its tag, 0 for a priority tag; where it is not given it has none.
    #[serde(default)]
    pub(crate) vlan: Option<u16>,
    /// The queue pair that it comes in on.
    #[serde(default)]
    pub(crate) queue: Option<u16>,
    /// Its bytes, without checksum.
    #[serde(default)]
    pub(crate) size: Option<u32>,
    /// The flow that it belongs to; where that is not given it is no IP packet.
    #[serde(default)]
    pub(crate) flow: Option<Flow>,
}

/// Addresses and ports, which choose among the queue pairs of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flow {
    /// Source and destination, of one family.
    pub(crate) ip: (IpAddr, IpAddr),
    /// What is in it.
    pub(crate) transport: Option<TransportPorts>,
}

/// Source and destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TransportPorts {
    Tcp(u16, u16),
    Udp(u16, u16),
}

/// What would become of it. Where it is not looked at ([`Intake`]), nothing is said of what would be found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TraceReport {
    pub(crate) packet: TracedPacket,
    /// The I/O core that looks at it.
    pub(crate) io_core: usize,
    /// Whether that takes packets from the queue it comes in on.
    pub(crate) intake: Intake,
    /// The only source address that the port may send from, if there is one.
    pub(crate) only_source: Option<String>,
    /// The VLAN that it is in; none where it is not let in.
    pub(crate) vlan: Option<u16>,
    /// What becomes of its source address; none where it is not let in.
    pub(crate) learning: Option<LearningReport>,
    /// What is found for its destination; none where that is not looked up.
    pub(crate) lookup: Option<LookupReport>,
    /// Tokens of the port's policer when it is flooded; none where it is not.
    pub(crate) policing: Option<PolicingReport>,
    /// What becomes of the packet.
    pub(crate) verdict: Verdict,
    /// Why it is dropped, where it is.
    pub(crate) drop: Option<String>,
    /// Where it goes: to one port, or to each that it is flooded to.
    pub(crate) copies: Vec<CopyReport>,
}

/// The packet that was asked about, with all that was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TracedPacket {
    pub(crate) port: String,
    pub(crate) queue: u16,
    pub(crate) source: String,
    /// Where the source address was taken from.
    pub(crate) source_is: SourceIs,
    pub(crate) destination: String,
    /// The VLAN of its tag.
    pub(crate) tag: Option<u16>,
    pub(crate) bytes: u32,
}

/// Why a packet has the source address it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SourceIs {
    /// It was asked about.
    Given,
    /// It is the port's configured one.
    Configured,
    /// It was learnt there.
    Learnt,
    /// Nothing is known of the port: it is an address that nobody has.
    MadeUp,
}

/// Whether packets are taken from a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Intake {
    /// They are.
    Served,
    /// They are taken and discarded: the driver has not enabled the ring.
    Disabled,
    /// Nobody takes any: the ring was stopped, for this reason.
    Stopped(String),
    /// Nobody takes any: the ring is not started.
    NotStarted,
}

/// What becomes of a source address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LearningReport {
    pub(crate) outcome: LearningIs,
    /// Why it is not learnt, where it is not.
    pub(crate) refusal: Option<String>,
    /// What is known of it now.
    pub(crate) entry: Option<FdbSnapshot>,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LearningIs {
    /// It is where it was.
    Known,
    /// It is where it was, and its age begins anew.
    Refreshed,
    /// It is learnt.
    New,
    /// It is taken from another port.
    Moved,
    /// It is not learnt.
    Refused,
}

/// What is found for a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LookupReport {
    /// The entry there is now; none for a station that is not known, or will be known by this packet.
    pub(crate) entry: Option<FdbSnapshot>,
}

/// What a port may flood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicingReport {
    /// Packets it may flood at once now; none: without a limit.
    pub(crate) tokens: Option<u64>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It goes to one port.
    Forwarded,
    /// It is copied to several.
    Flooded,
    /// It goes nowhere.
    Dropped,
    /// It stays in the sender's ring.
    NotPulled,
}

/// A packet on its way out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CopyReport {
    pub(crate) port: String,
    /// The receive queue, or the uplink's TX queue; none where the port has none.
    pub(crate) queue: Option<u16>,
    /// The I/O core that has it.
    pub(crate) io_core: Option<usize>,
    /// Whether it goes from core to core.
    pub(crate) handed_over: bool,
    /// The VLAN of the tag that it leaves with.
    pub(crate) tag: Option<u16>,
    /// Bytes it leaves with.
    pub(crate) bytes: u32,
    pub(crate) outcome: CopyIs,
    /// Why it is dropped, where it is.
    pub(crate) drop: Option<String>,
    /// What the receiver has room in: buffers that the guest has posted, mbufs of the uplink's pool.
    pub(crate) buffers: Option<u32>,
}

/// What becomes of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CopyIs {
    /// It arrives.
    Delivered,
    /// It waits for the queue pair, which is on its way from core to core, and arrives.
    Waits,
    /// It goes nowhere.
    Dropped,
}

//! What the switch would do with a packet (`sidecore trace`): the cores are asked, between two bursts, and answer by the same code and the same
//! replicas by which they forward. Nothing is learnt, counted, taken or sent for it.
//!
//! First the core that the packet would come in on is asked (`forwarder/foresee`), then those that have its receivers, [`STEP`] of these at a time, so that
//! nobody is held up longer than by a burst. Questions and answers are boxes of the asking thread's that go there and back.

mod frame;
mod report;

use vm_ports::RingFault;

use super::Dataplane;
use super::error::DataplaneError;
use super::fabric::Fabric;
use super::guest::GuestQueue;
use super::mailbox::Message;
use super::ports::{PORTS_MAX, Receiver};
use super::uplink_queues::UplinkQueue;
use crate::forwarding::{DropReason, Egress, Entry, Ingress, Learning, MacAddr, PortId, Target, VlanId};
use crate::trace::{SourceIs, TraceQuery, TraceReport};

/// Receivers that a core is asked about at a time.
const STEP: usize = 32;

/// A packet, and what its core says of it.
pub(super) struct Question {
    pub(super) port: PortId,
    pub(super) queue: u16,
    pub(super) frame: Vec<u8>,
    /// Nothing where the queue is not on the core that was asked.
    pub(super) ring: Option<Ring>,
    /// Seconds of the core's clock.
    pub(super) seconds: u32,
    pub(super) seen: Seen,
}

/// The queue that the packet comes in on.
#[derive(Clone, Copy)]
pub(super) enum Ring {
    Served,
    /// What is pulled is discarded.
    Disabled,
    Stopped(RingFault),
}

/// What was looked at, and what was found: nothing, where packets are not taken from the ring, or are discarded.
pub(super) struct Seen {
    /// The only source address that the port may send from.
    pub(super) only_source: Option<MacAddr>,
    /// The VLAN it is in, if it is let in.
    pub(super) vlan: Option<VlanId>,
    /// What would become of the source address, and what is known of it.
    pub(super) learning: Option<(Learning, Option<Entry>)>,
    /// What was found for the destination: nothing, or the entry, if that is not made by this packet.
    pub(super) lookup: Option<Option<Entry>>,
    /// What the port may flood; nothing: it has no limit.
    pub(super) tokens: Option<Option<u64>>,
    pub(super) outcome: Result<(Ingress, Target), DropReason>,
    /// Where it would go. There is room for all ports.
    pub(super) egress_ports: Vec<EgressPort>,
}

/// A port, where a packet is to leave.
#[derive(Clone, Copy)]
pub(super) struct EgressPort {
    pub(super) port: PortId,
    /// How it leaves; nothing where the port is no member of the VLAN.
    pub(super) egress: Option<Egress>,
    /// Bytes it leaves with.
    pub(super) len: usize,
    /// Whose ring or queue it is, or why it goes nowhere.
    pub(super) receiver: Result<Receiver, DropReason>,
    /// What is there; the core that has the receiver says it.
    pub(super) outlook: Option<Outlook>,
}

/// What a packet would meet at its receiver.
#[derive(Clone, Copy)]
pub(super) enum Outlook {
    /// So many buffers.
    Room(u32),
    /// The queue pair is not there yet, but will be.
    Waits,
    Drop(DropReason),
}

impl Seen {
    fn new() -> Self {
        Self {
            only_source: None,
            vlan: None,
            learning: None,
            lookup: None,
            tokens: None,
            outcome: Err(DropReason::PortGone),
            egress_ports: Vec::with_capacity(PORTS_MAX),
        }
    }
}

/// A port, where a packet is to come in.
struct IngressPort<'d> {
    port: PortId,
    queue: u16,
    pair: IngressPair<'d>,
    mac: Option<MacAddr>,
}

/// Whose queue it comes in on.
enum IngressPair<'d> {
    Guest(&'d GuestQueue),
    Uplink(&'d UplinkQueue),
}

impl IngressPair<'_> {
    /// The core that serves it, or would.
    fn core(&self) -> usize {
        match self {
            Self::Guest(queue) => queue.io_core().unwrap_or(queue.home()),
            Self::Uplink(queue) => queue.io_core(),
        }
    }
}

impl Dataplane {
    /// What would become of a packet.
    pub(crate) fn trace(&self, query: &TraceQuery) -> Result<TraceReport, DataplaneError> {
        let destination = address(&query.mac)?;
        let from = self.ingress_port(query, destination)?;
        let (source, source_is) = match &query.src {
            Some(mac) => (address(mac)?, SourceIs::Given),
            None => self.source_of(&from, query.vlan),
        };
        let frame = frame::build(query, source, destination).map_err(DataplaneError::Trace)?;
        let question =
            Question { port: from.port, queue: from.queue, frame, ring: None, seconds: 0, seen: Seen::new() };
        let (core, question) = {
            // A queue pair that moved would be on no core, or not on the one that is asked.
            let _still = self.fabric.moves();
            let core = from.pair.core();
            (core, ask(&self.fabric, core, question).ok_or(DataplaneError::Stopping)?)
        };
        let (addresses, from) = ((source, destination), &from);
        let traced = report::Traced { query, from, core, addresses, source_is, question };
        Ok(traced.report(|port| self.port_name(port)))
    }

    /// Where the packet comes in.
    fn ingress_port(&self, query: &TraceQuery, destination: MacAddr) -> Result<IngressPort<'_>, DataplaneError> {
        let name = query.from.as_str();
        let no_queue = |queue: u16, queues: usize| DataplaneError::NoSuchQueue {
            name: name.to_owned(),
            queue: queue.into(),
            queues,
        };
        if let Some(guest) = self.guests.iter().find(|guest| guest.config.name.as_str() == name) {
            let queue = query.queue.unwrap_or(0);
            let queues = &guest.host.queues;
            let pair = queues.get(usize::from(queue)).ok_or_else(|| no_queue(queue, queues.len()))?;
            let mac = guest.config.mac.map(|mac| MacAddr(mac.octets()));
            return Ok(IngressPort { port: guest.host.port, queue, pair: IngressPair::Guest(pair), mac });
        }
        let uplink = self.uplinks.iter().find(|uplink| uplink.config.name.as_str() == name);
        let uplink = uplink.ok_or_else(|| DataplaneError::NoSuchPort { kind: "port", name: name.to_owned() })?;
        // A rule in the NIC says which queue it is; where there is none, RSS does.
        let rule = uplink.steered.rules().find(|(mac, _)| *mac == destination.0).map(|(_, queue)| queue);
        let queue = query.queue.or(rule).unwrap_or(0);
        let queues = &uplink.host.queues;
        let pair = queues.get(usize::from(queue)).ok_or_else(|| no_queue(queue, queues.len()))?;
        Ok(IngressPort { port: uplink.host.port, queue, pair: IngressPair::Uplink(pair), mac: None })
    }

    /// An address that packets of this port come from.
    fn source_of(&self, from: &IngressPort<'_>, tag: Option<u16>) -> (MacAddr, SourceIs) {
        if let Some(mac) = from.mac {
            return (mac, SourceIs::Configured);
        }
        let mut stations: Vec<Entry> = self.fabric.stations();
        stations.retain(|entry| entry.port == from.port && tag.is_none_or(|tag| tag == 0 || tag == entry.vlan.get()));
        // What is configured first, then what was heard last.
        stations.sort_by_key(|entry| (!entry.fixed, std::cmp::Reverse(entry.seen)));
        match stations.iter().find(|entry| entry.mac.is_station()) {
            Some(entry) if entry.fixed => (entry.mac, SourceIs::Configured),
            Some(entry) => (entry.mac, SourceIs::Learnt),
            None => (MacAddr([2, 0, 0, 0, 0, 1]), SourceIs::MadeUp),
        }
    }
}

fn address(text: &str) -> Result<MacAddr, DataplaneError> {
    config::MacAddr::octets_of(text).map(MacAddr).map_err(DataplaneError::Trace)
}

/// Asks all cores concerned, one after the other. `None`: the switch ends.
fn ask(fabric: &Fabric, core: usize, question: Question) -> Option<Question> {
    let mut question = *fabric.ask(core, |reply| Message::Foresee { question: Box::new(question), reply })?;
    let ports = std::mem::take(&mut question.seen.egress_ports);
    for some in ports.chunks(STEP) {
        let mut some = some.to_vec();
        let mut cores: Vec<u16> = some.iter().filter_map(|port| port.receiver.ok()).map(|it| it.core).collect();
        cores.sort_unstable();
        cores.dedup();
        for core in cores {
            some = fabric.ask(core.into(), |reply| Message::Look { ports: some, reply })?;
        }
        question.seen.egress_ports.append(&mut some);
    }
    Some(question)
}

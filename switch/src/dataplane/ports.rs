//! The port table: what every I/O core knows of every port. A snapshot that is replaced whole, never changed.

use std::sync::Arc;

use vm_ports::View;
use vm_ports::offload::{flow_hash, parse};

use super::handover::TableVersion;
use crate::forwarding::{Entrance, PortId, PortVlans, SourceCheck};

/// Ports there can be.
pub(super) const PORTS_MAX: usize = 1024;
/// Queue pairs of a port, at most.
pub(super) const PORT_QUEUES_MAX: usize = config::MAX_QUEUE_PAIRS as usize;

/// One port, as a core forwards to and from it.
#[derive(Debug, Clone)]
pub(super) struct PortEntry {
    pub(super) id: PortId,
    pub(super) vlans: PortVlans,
    pub(super) check: SourceCheck,
    pub(super) way: Way,
}

/// How a port is reached.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Through the receive rings that are started and enabled.
    Guest(Vec<Receiver>),
    /// Through a TX queue: for each core, always the same one, and the core that has it.
    Uplink(Vec<Receiver>),
}

/// A guest's receive ring, or an uplink's TX queue, and who owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Receiver {
    pub(super) queue: u16,
    pub(super) core: u16,
}

impl PortEntry {
    /// What it says of the packets that come in through it.
    #[inline]
    pub(super) fn entrance(&self) -> Entrance<'_> {
        Entrance { port: self.id, check: self.check, vlans: &self.vlans }
    }

    /// Whether this receive ring of a guest is among those that packets are sent to.
    pub(super) fn has_receiver(&self, queue: u16) -> bool {
        matches!(&self.way, Way::Guest(receivers) if receivers.iter().any(|receiver| receiver.queue == queue))
    }

    /// Whose ring or queue a packet that came in on `core` leaves by. `None` where the port has none.
    #[inline]
    pub(super) fn receiver(&self, core: usize, view: View<'_>) -> Option<Receiver> {
        match &self.way {
            Way::Guest(receivers) => match receivers.as_slice() {
                [only] => Some(*only),
                [] => None,
                many => {
                    // One flow, one queue: order holds per flow while the number of queues is constant.
                    let head = view.packet().head();
                    let hash = flow_hash(head, parse(head).ok().as_ref());
                    many.get(hash as usize % many.len()).copied()
                }
            },
            Way::Uplink(ways) => ways.get(core).copied(),
        }
    }
}

/// All ports.
#[derive(Debug, Clone, Default)]
pub(super) struct PortTable {
    version: TableVersion,
    entries: Vec<Option<Arc<PortEntry>>>,
}

impl PortTable {
    /// Its number.
    #[inline]
    pub(super) fn version(&self) -> TableVersion {
        self.version
    }

    /// Numbers it anew: it is to be published.
    pub(super) fn next_version(&mut self) -> TableVersion {
        self.version = self.version.wrapping_add(1);
        self.version
    }

    /// The port, if it is there.
    #[inline]
    pub(super) fn get(&self, port: PortId) -> Option<&PortEntry> {
        self.entries.get(port.index())?.as_deref()
    }

    /// Every port.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &PortEntry> {
        self.iter_from(0)
    }

    /// Every port whose number is not below `first`.
    #[inline]
    pub(super) fn iter_from(&self, first: usize) -> impl Iterator<Item = &PortEntry> {
        self.entries.get(first..).unwrap_or_default().iter().flatten().map(Arc::as_ref)
    }

    /// Puts a port in, or replaces it.
    pub(super) fn set(&mut self, entry: PortEntry) {
        let index = entry.id.index();
        if self.entries.len() <= index {
            self.entries.resize(index + 1, None);
        }
        self.entries[index] = Some(Arc::new(entry));
    }

    /// Takes a port out.
    pub(super) fn remove(&mut self, port: PortId) {
        if let Some(entry) = self.entries.get_mut(port.index()) {
            *entry = None;
        }
    }

    /// Changes what is known of a port, if it is there.
    pub(super) fn change(&mut self, port: PortId, change: impl FnOnce(&mut PortEntry)) {
        if let Some(Some(entry)) = self.entries.get_mut(port.index()) {
            change(Arc::make_mut(entry));
        }
    }
}

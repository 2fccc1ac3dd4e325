//! What `sidecore status --json` answers. Keys that the tests do not look at are left out.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The switch at one moment. All counters run from its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Guests and uplinks.
    pub ports: Vec<Port>,
    /// I/O cores.
    pub cores: Vec<Core>,
    /// The accounting identity over all sources.
    pub accounting: Accounting,
}

/// A port's kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A vhost-user frontend.
    #[default]
    Guest,
    /// A DPDK device.
    Uplink,
}

/// Packets and bytes in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames, without virtio header and FCS.
    pub bytes: u64,
}

/// A guest or an uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the configuration.
    pub name: String,
    /// Guest or uplink.
    pub kind: PortKind,
    /// `waiting`, `connected`, `running` or `stopped` for guests, `up` or `down` for uplinks.
    #[serde(default)]
    pub state: String,
    /// What stopped it.
    #[serde(default)]
    pub error: Option<String>,
    /// What the frontend agreed to.
    #[serde(default)]
    pub negotiated: Option<Negotiated>,
    /// Guests: delivered to the guest. Uplinks: came from the wire.
    pub rx: Traffic,
    /// Guests: pulled from the guest. Uplinks: sent to the wire.
    pub tx: Traffic,
    /// Dropped packets by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Notifications from the guest.
    #[serde(default)]
    pub kicks: u64,
    /// Those of them that it was asked for.
    #[serde(default)]
    pub kicks_asked: u64,
    /// All others: those from the guest while a core polled.
    #[serde(default)]
    pub kicks_polling: u64,
    /// Notifications to the guest.
    #[serde(default)]
    pub calls: u64,
    /// Those that moderation made unnecessary.
    #[serde(default)]
    pub calls_saved: u64,
    /// Queue pairs.
    #[serde(default)]
    pub queues: Vec<Queue>,
    /// The accounting identity with this port as the source.
    #[serde(default)]
    pub accounting: Accounting,
}

/// What was negotiated with a guest.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Negotiated {
    /// All acknowledged virtio feature bits, in hexadecimal.
    pub features: String,
    /// `split` or `packed`.
    pub ring: String,
    /// Entries of the largest ring.
    pub ring_size: u32,
    /// Enabled queue pairs.
    pub queue_pairs: u32,
    /// Guest memory.
    pub memory_bytes: u64,
}

impl Negotiated {
    /// Whether a virtio feature bit was acknowledged.
    #[must_use]
    pub fn has(&self, bit: u32) -> bool {
        let digits = self.features.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).is_ok_and(|features| features >> bit & 1 == 1)
    }
}

/// A queue pair of a guest, or a queue of an uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Queue {
    /// Its number in the port.
    pub index: u32,
    /// The I/O core that owns it, if one does.
    #[serde(default)]
    pub io_core: Option<u32>,
    /// As in [`Port`].
    pub rx: Traffic,
    /// As in [`Port`].
    pub tx: Traffic,
    /// Notifications from the guest.
    #[serde(default)]
    pub kicks: u64,
    /// Notifications to the guest.
    #[serde(default)]
    pub calls: u64,
}

/// An I/O core.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Core {
    /// Its number in `io_cores`.
    pub core: u32,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<u32>,
    /// Cycles in bursts that moved something.
    pub busy_cycles: u64,
    /// Cycles in empty polls.
    pub idle_cycles: u64,
    /// Packets that waited there for a queue pair on its way.
    #[serde(default)]
    pub parked_packets: u64,
}

/// pulled = forwarded + dropped + in flight; copies = delivered + copy drops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounting {
    /// Packets taken from sources.
    pub pulled: u64,
    /// Packets that went somewhere.
    pub forwarded: u64,
    /// Packets that went nowhere.
    pub dropped: u64,
    /// Packets between the two.
    pub in_flight: u64,
    /// Copies made for floods.
    pub copies: u64,
    /// Copies that arrived.
    pub delivered: u64,
    /// Copies that did not.
    pub copy_drops: u64,
}

impl Accounting {
    /// Packets that the identity leaves unexplained. Zero at every quiet moment.
    #[must_use]
    pub fn unaccounted(&self) -> u64 {
        self.pulled.abs_diff(self.forwarded + self.dropped + self.in_flight)
            + self.copies.abs_diff(self.delivered + self.copy_drops)
    }
}

impl Status {
    /// Reads what `sidecore status --json` printed.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("unexpected status: {text}"))
    }

    /// A port by name.
    pub fn port(&self, name: &str) -> Result<&Port> {
        self.ports.iter().find(|port| port.name == name).with_context(|| format!("the switch has no port {name}"))
    }

    /// Sum of all drops of all ports, by reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in self.ports.iter().flat_map(|port| &port.drops) {
            *sums.entry(reason.clone()).or_default() += count;
        }
        sums
    }
}

impl Port {
    /// What the switch took from this port.
    #[must_use]
    pub fn taken(&self) -> Traffic {
        match self.kind {
            PortKind::Guest => self.tx,
            PortKind::Uplink => self.rx,
        }
    }

    /// What the switch gave to this port.
    #[must_use]
    pub fn given(&self) -> Traffic {
        match self.kind {
            PortKind::Guest => self.rx,
            PortKind::Uplink => self.tx,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_counts_what_it_cannot_explain() {
        let quiet = Accounting { pulled: 10, forwarded: 7, dropped: 3, ..Accounting::default() };
        assert_eq!(quiet.unaccounted(), 0);
        assert_eq!(Accounting { dropped: 2, ..quiet }.unaccounted(), 1);
        assert_eq!(Accounting { copies: 4, delivered: 1, copy_drops: 1, ..quiet }.unaccounted(), 2);
    }

    #[test]
    fn feature_bits_are_read_from_hexadecimal() {
        let negotiated = Negotiated { features: "0x400008000".to_owned(), ..Negotiated::default() };
        assert!(negotiated.has(15) && negotiated.has(34) && !negotiated.has(32));
    }
}

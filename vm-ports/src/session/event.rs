//! What a session tells the switch.

use std::fmt;
use std::time::Duration;

use crate::call::Forfeit;
use crate::counters::Counter;
use crate::features::Features;

/// Something happened in a session. Handed to [`super::QueueHost::event`] on the session's thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// A frontend is connected.
    Connected,
    /// Client mode: the frontend's socket cannot be connected to. Sent once per kind of failure, not per attempt.
    ConnectFailed {
        /// What the system said.
        error: String,
    },
    /// The first queue pair carries traffic from now on. Sent again when the guest has stopped its rings and starts them anew.
    Negotiated(Negotiated),
    /// The guest's MTU is known (`NET_SET_MTU`).
    Mtu(u16),
    /// The guest moved here: flood a RARP with this source address from its port (`SEND_RARP`).
    Announce([u8; 6]),
    /// A ring is set up in a way it cannot run with; it stays stopped. Sent once per connection; [`SessionCounters`] has them all.
    RingRefused {
        /// The ring's index: 2n is the guest's receive ring of queue pair n, 2n + 1 its transmit ring.
        ring: usize,
        /// Why.
        error: String,
    },
    /// A request was refused. Sent once per connection; [`SessionCounters`] has them all.
    RequestRefused {
        /// Why.
        error: String,
    },
    /// The frontend is gone; its queue pairs have been taken back and its memory is unmapped.
    Disconnected {
        /// Why.
        reason: Disconnect,
        /// How long it was connected.
        after: Duration,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnect {
    /// The frontend closed it.
    Frontend,
    /// The frontend broke the protocol.
    Protocol(String),
    /// This process could not serve it.
    Failed(String),
    /// The port was taken down.
    LinkDown,
    /// The session was stopped.
    Stopped,
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend => f.write_str("the frontend closed the connection"),
            Self::Protocol(error) => write!(f, "the frontend broke the protocol: {error}"),
            Self::Failed(error) => write!(f, "it cannot be served: {error}; are file descriptors short (ulimit -n)?"),
            Self::LinkDown => f.write_str("the port was taken down"),
            Self::Stopped => f.write_str("the port was stopped"),
        }
    }
}

/// What was agreed on with a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The virtio features in force.
    pub features: Features,
    /// The names of the vhost-user protocol features in force.
    pub protocol: Vec<&'static str>,
    /// Entries of each ring that has been started, by ring index.
    pub rings: Vec<(usize, u32)>,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// Memory regions.
    pub memory_slots: usize,
    /// The guest's MTU, where the frontend told it.
    pub mtu: Option<u16>,
}

impl Negotiated {
    /// `packed` or `split`.
    pub fn ring_format(&self) -> &'static str {
        if self.features.has(Features::RING_PACKED) { "packed" } else { "split" }
    }
}

impl fmt::Display for Negotiated {
    /// One line for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rings", self.ring_format())?;
        for (index, size) in &self.rings {
            let side = if index % 2 == 0 { "rx" } else { "tx" };
            write!(f, " {side}{}={size}", index / 2)?;
        }
        write!(f, ", {} MiB in {} regions", self.memory_bytes >> 20, self.memory_slots)?;
        if let Some(mtu) = self.mtu {
            write!(f, ", mtu {mtu}")?;
        }
        write!(f, ", features [{}], protocol [{}]", self.features.names().join(" "), self.protocol.join(" "))
    }
}

/// What a session counts. The session's thread writes, anyone reads; it outlives reconnects.
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Frontends that connected.
    pub connections: Counter,
    /// vhost-user requests handled, refused ones included.
    pub requests: Counter,
    /// Requests refused, and connections closed over one.
    pub refused: Counter,
    /// Times a ring that was set up could not be started.
    pub ring_refusals: Counter,
    /// What frontends have made of their call eventfds.
    pub(crate) forfeited: Forfeit,
}

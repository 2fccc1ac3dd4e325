//! What a port is told when it is made.

use std::path::PathBuf;

use crate::features::Features;
use crate::moderation::Moderation;

/// Everything a session has to know about its port.
#[derive(Debug, Clone)]
pub struct PortSettings {
    /// The port's name: names the thread and appears in errors.
    pub name: String,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Which end of the socket this is.
    pub role: SocketRole,
    /// Who may connect (server only).
    pub access: SocketAccess,
    /// How many queue pairs the guest may use: 1 to [`PortSettings::MAX_QUEUE_PAIRS`].
    pub queue_pairs: usize,
    /// The largest MTU a frontend may announce with `NET_SET_MTU`; anything virtio allows when `None`.
    pub mtu: Option<u16>,
    /// What may be negotiated.
    pub allow: FeatureSwitches,
    /// How calls to the guest are held back.
    pub moderation: Moderation,
}

impl PortSettings {
    /// `SET_VRING_KICK` and `SET_VRING_CALL` have 8 bits for a ring's index, so there are at most 256 rings.
    pub const MAX_QUEUE_PAIRS: usize = 128;

    /// A server port with one queue pair, everything allowed and no call held back.
    pub fn new(name: impl Into<String>, socket: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            socket: socket.into(),
            role: SocketRole::Server,
            access: SocketAccess::default(),
            queue_pairs: 1,
            mtu: None,
            allow: FeatureSwitches::default(),
            moderation: Moderation::default(),
        }
    }
}

/// Which end of the vhost-user socket the switch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketRole {
    /// The switch listens, the frontend connects (QEMU: `-chardev socket,...,reconnect=1`).
    Server,
    /// The frontend listens, the switch connects, and connects again (QEMU: `-chardev socket,...,server=on`).
    Client,
}

/// Mode, owner and group of a listening socket's file. What is `None` stays as the system made it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// Permission bits, such as `0o660`.
    pub mode: Option<u32>,
    /// User id.
    pub owner: Option<u32>,
    /// Group id.
    pub group: Option<u32>,
}

/// Features that can be kept from being offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureSwitches {
    /// Packed rings.
    pub packed: bool,
    /// Checksum offload, both directions. Without it there is no segmentation offload either (virtio 1.2 §5.1.3.1).
    pub checksum: bool,
    /// TCP segmentation offload, both directions.
    pub tso: bool,
    /// Mergeable receive buffers.
    pub mergeable: bool,
    /// Event index.
    pub event_idx: bool,
    /// Indirect descriptors.
    pub indirect: bool,
    /// In-order use of buffers.
    pub in_order: bool,
}

impl Default for FeatureSwitches {
    fn default() -> Self {
        Self {
            packed: true,
            checksum: true,
            tso: true,
            mergeable: true,
            event_idx: true,
            indirect: true,
            in_order: true,
        }
    }
}

impl FeatureSwitches {
    /// The virtio bits that are switched off.
    pub(super) fn masked(self) -> Features {
        [
            (self.packed, Features::RING_PACKED),
            (self.checksum, Features::OFFLOADS),
            (self.tso, Features::SEGMENTATION),
            (self.mergeable, Features::MRG_RXBUF),
            (self.event_idx, Features::EVENT_IDX),
            (self.indirect, Features::INDIRECT_DESC),
            (self.in_order, Features::IN_ORDER),
        ]
        .into_iter()
        .filter(|(allowed, _)| !allowed)
        .fold(Features::NONE, |off, (_, bits)| off.with(bits))
    }
}

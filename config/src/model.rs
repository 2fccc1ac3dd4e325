//! The validated configuration. Every value here is one that has been checked.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::raw::{
    Class, Hugepages, InterruptModeration, LogFormat, LogLevel, Mode, Policy, RawConfig, RawGuest, RawScheduler,
    RawSwitch, RawUplink, SocketRole,
};
use crate::types::{CpuId, MacAddr, PortName, SocketAccess, Station, VmName, VmUuid};
use crate::vlan::Vlan;

/// A whole configuration: no two ports share a name, a socket or a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "RawConfig", try_from = "RawConfig")]
pub struct Config {
    /// The switch itself.
    pub switch: SwitchConfig,
    /// The scheduler.
    pub scheduler: SchedulerConfig,
    /// Guests, in the order of the file.
    pub guests: Vec<GuestConfig>,
    /// Uplinks, in the order of the file.
    pub uplinks: Vec<UplinkConfig>,
}

/// The `[switch]` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "RawSwitch", try_from = "RawSwitch")]
pub struct SwitchConfig {
    /// The I/O cores.
    pub io_cores: IoCores,
    /// A CPU may be listed twice.
    pub allow_shared_cpu: bool,
    /// How it waits for packets.
    pub mode: Mode,
    /// The longest that the I/O cores' CPUs may take to wake up, in microseconds, 0 to 10,000; none: that is left as it is.
    pub wake_latency_us: Option<u32>,
    /// What to do about hugepages.
    pub hugepages: Hugepages,
    /// Memory for packet buffers, in MiB; none: as much as the configuration needs.
    pub memory_mib: Option<u32>,
    /// The control socket's path: absolute, fits a `sockaddr_un`.
    pub control_socket: PathBuf,
    /// Who may connect to it.
    pub control_socket_access: SocketAccess,
    /// Where HTTP is served; none: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// Where ports added at run time are kept; none: they are not. Absolute.
    pub state_file: Option<PathBuf>,
    /// Stations remembered.
    pub fdb_entries: u32,
    /// Seconds until a silent station is forgotten.
    pub fdb_ageing_s: u32,
    /// Stations remembered behind one port.
    pub learn_limit_per_port: u32,
    /// New or moved stations accepted from one port per second.
    pub learn_rate_per_s: u32,
    /// Flooded packets accepted from one port per second; none: no limit.
    pub flood_rate_pps: Option<u32>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// The I/O cores, and how many of them may be parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoCores {
    /// The CPU of each I/O core; the index is the I/O core's number. 1 to 64 of them.
    pub cpus: Vec<CpuId>,
    /// I/O cores that run at all times, 1 to all of them; all: none is ever parked.
    pub min: usize,
}

/// The `[scheduler]` section. All of it can change while the switch runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "RawScheduler", try_from = "RawScheduler")]
pub struct SchedulerConfig {
    /// Who decides.
    pub policy: Policy,
    /// Whether it acts by itself.
    pub rebalance: bool,
    /// How often it looks, in milliseconds, 1 to 1000.
    pub tick_ms: u32,
    /// The part of a tick from which on a core is busy enough to be saturated, 0.5 to 1.
    pub busy: f64,
    /// Age of work from which on it waits, in microseconds, 1 to 1,000,000.
    pub wait_us: u32,
    /// What a move has to gain, as a part of a core, 0.001 to 1.
    pub gain: f64,
}

/// A `[[guest]]` section, or a guest added at run time: both have the schema of [`RawGuest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "RawGuest", try_from = "RawGuest")]
pub struct GuestConfig {
    /// The port's name.
    pub name: PortName,
    /// The vhost-user socket's path: absolute, fits a `sockaddr_un`.
    pub socket: PathBuf,
    /// Who makes the socket.
    pub socket_role: SocketRole,
    /// Who may connect to it, when Sidecore makes it.
    pub socket_access: SocketAccess,
    /// Queue pairs offered, 1 to 16.
    pub queue_pairs: u16,
    /// The I/O core that serves every queue pair; none: placed by the scheduler.
    pub io_core: Option<usize>,
    /// What it minds most.
    pub class: Class,
    /// Its share of a saturated I/O core beside others', for each queue pair, 1 to 100.
    pub weight: u32,
    /// The virtual machine's name.
    pub vm_name: Option<VmName>,
    /// The virtual machine's UUID.
    pub vm_uuid: Option<VmUuid>,
    /// How the switch waits for its packets; none: as for all.
    pub mode: Option<Mode>,
    /// How interrupts to it are moderated; never, where `class` is latency.
    pub interrupt_moderation: InterruptModeration,
    /// How long after an interrupt another one may be held back, in microseconds, 1 to 10,000.
    pub interrupt_delay_us: u32,
    /// The guest's address; always there when `anti_spoof` is set.
    pub mac: Option<MacAddr>,
    /// Drop what the guest sends from another address.
    pub anti_spoof: bool,
    /// Addresses that are always behind this port, besides `mac`.
    pub stations: Vec<Station>,
    /// The MTU the guest is told, 68 to 65535; none: none.
    pub mtu: Option<u16>,
    /// VLANs of the port.
    pub vlan: Vlan,
    /// What may be negotiated.
    pub features: GuestFeatures,
}

/// What may be negotiated with a guest. Everything is allowed by default; whatever is not here is not configurable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestFeatures {
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub mergeable: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// VIRTIO_NET_F_CSUM and VIRTIO_NET_F_GUEST_CSUM.
    pub checksum: bool,
    /// VIRTIO_NET_F_HOST_TSO4/6 and VIRTIO_NET_F_GUEST_TSO4/6. Never without `checksum` (virtio 1.2 §5.1.3.1).
    pub tso: bool,
}

/// An `[[uplink]]` section, or an uplink added at run time: both have the schema of [`RawUplink`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "RawUplink", try_from = "RawUplink")]
pub struct UplinkConfig {
    /// The port's name.
    pub name: PortName,
    /// The DPDK device.
    pub device: Device,
    /// Receive and transmit queues, 1 to 64; none: one per I/O core, or as many as the device has.
    pub queues: Option<u16>,
    /// Addresses that are always behind this port.
    pub stations: Vec<Station>,
    /// The MTU, 68 to 65535; none: the device's own.
    pub mtu: Option<u16>,
    /// VLANs of the port.
    pub vlan: Vlan,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { policy: Policy::Balance, rebalance: true, tick_ms: 5, busy: 0.95, wait_us: 50, gain: 0.05 }
    }
}

impl Default for GuestFeatures {
    fn default() -> Self {
        Self {
            packed: true,
            mergeable: true,
            event_idx: true,
            indirect: true,
            in_order: true,
            checksum: true,
            tso: true,
        }
    }
}

/// Largest number of queue pairs of a guest.
pub const MAX_QUEUE_PAIRS: u16 = 16;
/// Largest weight of a guest.
pub const MAX_WEIGHT: u32 = 100;
/// Largest number of I/O cores, and so of queues of an uplink.
pub const MAX_IO_CORES: usize = 64;

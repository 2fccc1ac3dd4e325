//! The schema: what may be written, key by key. The descriptions here are those of `sidecore config schema`.
//!
//! Nothing is judged here beyond the shape of a value; [`check`](crate::check) does that. A key that is absent is
//! `None`, so that a fragment sent to the control socket holds only what its author wrote.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The configuration of Sidecore.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Sidecore configuration")]
pub struct RawConfig {
    /// The switch itself. Required.
    pub switch: RawSwitch,
    /// The scheduler: which I/O core serves which queue pair. May be left out; then every key has its default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<RawScheduler>,
    /// Guests: one `[[guest]]` section each. More can be added at run time with `sidecore guest add`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guest: Vec<RawGuest>,
    /// Uplinks: one `[[uplink]]` section each. More can be added at run time with `sidecore uplink add`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplink: Vec<RawUplink>,
}

/// The switch itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Switch")]
pub struct RawSwitch {
    /// The CPUs that poll and forward, one I/O core each, by the kernel's numbers: a list such as [2, 3], all of which
    /// always run, or a table such as { cpus = [2, 3, 4, 5], min = 1 }, of which the scheduler parks those that the load
    /// does not need. The position in the list, from 0, is the number of the I/O core. Keep guests' vCPUs off these
    /// CPUs. Required.
    pub io_cores: RawIoCores,
    /// Whether a CPU may stand in io_cores more than once: true or false. For tests on small machines; polling I/O
    /// cores that share a CPU wait for each other. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub allow_shared_cpu: Option<bool>,
    /// How the switch waits for packets. "poll": I/O cores never sleep, and no guest ever has to kick. "adaptive": guests
    /// that have been idle for a while are asked to kick, and an I/O core that has nothing to do sleeps until somebody does.
    /// "trap": every guest has an I/O thread of its own, on any CPU of io_cores, which sleeps until the guest kicks, as in a
    /// traditional switch; for comparison. Default: "poll".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "poll"))]
    pub mode: Option<Mode>,
    /// The longest that the CPUs of io_cores, parked ones included, may take to wake up, in microseconds, while the switch
    /// runs: it is most of what the first packet after a silence waits for with mode = "adaptive". The kernel then leaves out
    /// idle states that take longer. With 0 these CPUs never halt: when idle they poll in the kernel's idle loop, which
    /// needs no less power than mode = "poll", and in a virtual machine no less of the host's CPU. Needs root and a kernel
    /// with cpuidle. A number from 0 to 10000. Default: none, idle states are left as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub wake_latency_us: Option<i64>,
    /// Hugepages for packet buffers: "auto" uses them where they are reserved and goes on without, "require" does not
    /// start without, "off" never uses them. Default: "auto".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub hugepages: Option<Hugepages>,
    /// Memory for packet buffers, in MiB: a number from 64 to 1048576. Default: sized from the uplinks' queues and the
    /// I/O cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 1_048_576))]
    pub memory_mib: Option<i64>,
    /// The Unix socket that `sidecore status`, `sidecore guest` and `sidecore reload` talk to: an absolute path of at
    /// most 107 bytes. Default: "/run/sidecore/control.sock".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "/run/sidecore/control.sock"))]
    pub control_socket: Option<String>,
    /// Permission bits of the control socket, in octal and in quotes: whoever may connect controls the switch.
    /// Default: "0660".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "0660"))]
    pub control_socket_mode: Option<String>,
    /// Owner of the control socket: a user's name or number. Default: the user Sidecore runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_socket_owner: Option<RawAccount>,
    /// Group of the control socket: a group's name or number. Default: the group Sidecore runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_socket_group: Option<RawAccount>,
    /// Where metrics, health and read-only state are served over HTTP: an address and a port such as
    /// "127.0.0.1:9464". There is no authentication: keep it on a loopback or management address. Default: no HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "127.0.0.1:9464")]
    pub http_listen: Option<String>,
    /// The file that keeps guests and uplinks added at run time, so that they survive a restart: an absolute path such
    /// as "/var/lib/sidecore/state.json". Default: none, they are forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/var/lib/sidecore/state.json")]
    pub state_file: Option<String>,
    /// Stations the switch remembers, all VLANs together: a number from 64 to 1048576. Default: 16384.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 1_048_576), extend("default" = 16384))]
    pub fdb_entries: Option<i64>,
    /// Seconds after which a station that sends nothing is forgotten: a number from 1 to 86400. Default: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400), extend("default" = 300))]
    pub fdb_ageing_s: Option<i64>,
    /// Stations remembered behind one port, so that no guest can fill the table: a number from 1 to fdb_entries.
    /// Default: 1024, with a smaller fdb_entries that number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576), extend("default" = 1024))]
    pub learn_limit_per_port: Option<i64>,
    /// New or moved stations accepted from one port per second, on each I/O core that serves it: a number from 1 to
    /// 10000000. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 1000))]
    pub learn_rate_per_s: Option<i64>,
    /// Broadcast, multicast and unknown unicast packets accepted from one guest per second, on each I/O core that serves
    /// it; more are dropped and counted: a number from 0 to 100000000, where 0 is no limit. Default: 50000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000_000), extend("default" = 50_000))]
    pub flood_rate_pps: Option<i64>,
    /// How much is logged: "error", "warn", "info", "debug" or "trace". Default: "info".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "info"))]
    pub log_level: Option<LogLevel>,
    /// How log lines look: "text" or "json". Default: "text".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "text"))]
    pub log_format: Option<LogFormat>,
}

/// The CPUs of the I/O cores: a list, or { cpus = [2, 3, 4, 5], min = 1 }.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(rename = "IoCores", untagged)]
pub enum RawIoCores {
    /// All of them always run.
    All(#[schemars(length(min = 1, max = 64))] Vec<i64>),
    /// Some of them may be parked.
    Elastic(RawElastic),
}

/// I/O cores of which some may be parked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Elastic")]
pub struct RawElastic {
    /// The CPUs that may poll and forward, one I/O core each: a list such as [2, 3, 4, 5]. Required.
    #[schemars(required, length(min = 1, max = 64))]
    pub cpus: Option<Vec<i64>>,
    /// I/O cores that run at all times, whatever the load: a number from 1 to the length of cpus. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64), extend("default" = 1))]
    pub min: Option<i64>,
}

/// The scheduler: which I/O core serves which queue pair. Every key can be changed with `sidecore reload`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Scheduler")]
pub struct RawScheduler {
    /// Who decides. "balance": nothing is more loaded than it has to be, and guests that talk to each other share an I/O
    /// core. "least-loaded": from a saturated I/O core to the emptiest. "round-robin" and "static": new queue pairs go to
    /// the I/O cores in turn, or to the one with the fewest, and stay. "ovs-cycles", "ovs-group", "ovs-auto-lb" and
    /// "ovs-auto-lb-group": what Open vSwitch does, to compare with. Default: "balance".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "balance"))]
    pub policy: Option<Policy>,
    /// Whether the scheduler moves queue pairs, and parks and wakes I/O cores, by itself: true or false. With false it
    /// only plans; `sidecore scheduler plan` shows what it would do. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub rebalance: Option<bool>,
    /// How often the load is looked at, in milliseconds: a number from 1 to 1000. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("default" = 5))]
    pub tick_ms: Option<i64>,
    /// An I/O core that is busy at least this part of a tick, and lets work wait, is saturated: a number from 0.5 to 1,
    /// for "balance" and "least-loaded". Default: 0.95.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 1.0), extend("default" = 0.95))]
    pub busy: Option<f64>,
    /// Work that is older than so many microseconds waits: a number from 1 to 1000000, for "balance" and
    /// "least-loaded". Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 50))]
    pub wait_us: Option<i64>,
    /// What a move has to gain at least: by which part of an I/O core the fullest one becomes less full. A number from
    /// 0.001 to 1, for "balance" and "least-loaded". Default: 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1.0), extend("default" = 0.05))]
    pub gain: Option<f64>,
}

/// A guest: a VM, or any process that drives virtio rings over vhost-user.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Guest")]
pub struct RawGuest {
    /// The port's name, unique among guests and uplinks: 1 to 32 letters, digits, '_', '.' or '-'. Required.
    #[schemars(regex(pattern = "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}$"))]
    pub name: String,
    /// The vhost-user socket that the guest's frontend (such as QEMU's chardev) uses: an absolute path of at most 107
    /// bytes, unique. Required.
    #[schemars(example = "/run/sidecore/vm1.sock")]
    pub socket: String,
    /// Who makes the socket: "server" means Sidecore does and the frontend connects, "client" means the frontend does
    /// and Sidecore connects, again and again until it is there. Default: "server".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "server"))]
    pub socket_role: Option<SocketRole>,
    /// Permission bits of the socket, in octal and in quotes; for socket_role = "server". Default: "0660".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "0660"))]
    pub socket_mode: Option<String>,
    /// Owner of the socket: a user's name or number, such as "libvirt-qemu"; for socket_role = "server".
    /// Default: the user Sidecore runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_owner: Option<RawAccount>,
    /// Group of the socket: a group's name or number, such as "kvm"; for socket_role = "server".
    /// Default: the group Sidecore runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<RawAccount>,
    /// Queue pairs offered to the guest: a number from 1 to 16. Give the VM the same number (QEMU: queues=). Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16), extend("default" = 1))]
    pub queue_pairs: Option<i64>,
    /// The I/O core that serves all queue pairs of this guest: a position in switch.io_cores, from 0. Default: each
    /// queue pair goes to the I/O core that has the fewest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub io_core: Option<i64>,
    /// What the guest minds most: "latency" or "throughput". An I/O core that polls queue pairs of class "latency"
    /// takes bursts of at most 16 packets instead of 32 from guests, and interrupts all bursts after every 1518 bytes,
    /// three short packets or one segment of up to 64 KiB, to look at 16 such queue pairs at most, more in turn; of
    /// what is there, up to 4 packets each go at once, within the guest's share. Others pay for it: beside one guest in
    /// use, neighbours that fill the core forwarded 3.3 instead of 8.5 Mpps. "throughput" waits for its turn. Default:
    /// "throughput".
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "throughput"))]
    pub class: Option<Class>,
    /// The guest's share of a saturated I/O core beside those of others, for each queue pair: a number from 1 to 100.
    /// Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("default" = 1))]
    pub weight: Option<i64>,
    /// The name of the virtual machine behind the port, for metrics and dashboards: 1 to 128 characters. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub vm_name: Option<String>,
    /// The UUID of the virtual machine behind the port, such as "3e2f0c4e-8a51-4c0f-9d3b-6f2a54e0c1d7" (`virsh domuuid`
    /// says it), for metrics and dashboards. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "3e2f0c4e-8a51-4c0f-9d3b-6f2a54e0c1d7")]
    pub vm_uuid: Option<String>,
    /// How the switch waits for this guest's packets, as switch.mode says for all of them. With "poll" the I/O core that
    /// serves the guest does not sleep; with "adaptive" the guest is asked to kick when it has been idle for a while; with
    /// "trap" it has an I/O thread of its own, so that io_core is not for it. Default: what switch.mode is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How interrupts to the guest are moderated, where it asks for them: "adaptive" interrupts at once unless there was an
    /// interrupt less than interrupt_delay_us ago, and then once for as many packets as turn out to come in time; "fixed"
    /// does so for 32 packets; "none" interrupts whenever the guest asks for it, which class = "latency" always does. Default:
    /// "adaptive", with class = "latency" "none".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupt_moderation: Option<InterruptModeration>,
    /// How long after an interrupt another one may be held back, for each ring, in microseconds: the most that moderation
    /// adds to a packet's latency. A number from 1 to 10000. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000), extend("default" = 50))]
    pub interrupt_delay_us: Option<i64>,
    /// The guest's MAC address, such as "52:54:00:00:00:01". The VM's own configuration sets it. Here it says which
    /// address anti_spoof allows, fixes that address behind this port, so that no other can learn it, and has NICs that
    /// take rules receive what is for it on the guest's I/O core. Fixed in the access VLAN, the native VLAN and every
    /// VLAN listed in trunk; with trunk = "all" only in the native VLAN. Default: none, addresses are learnt from what
    /// the guest sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "52:54:00:00:00:01")]
    pub mac: Option<String>,
    /// Whether packets that the guest sends from another address than mac are dropped: true or false; true needs mac.
    /// Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub anti_spoof: Option<bool>,
    /// Addresses that are always behind this port, whatever other ports send: a list such as ["52:54:00:00:00:02"], of
    /// stations that a guest bridges to, for example. They never age out and cannot be learnt elsewhere. Fixed in the
    /// access VLAN, the native VLAN and every VLAN listed in trunk; with trunk = "all" only in the native VLAN.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [["52:54:00:00:00:02"]]))]
    pub stations: Option<Vec<String>>,
    /// The MTU the guest is told, in bytes: a number from 68 to 65535. Default: none is told, drivers take 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 68, max = 65_535))]
    pub mtu: Option<i64>,
    /// VLANs of the port: { access = 10 }, { trunk = [10, 20], native = 1 } or { trunk = "all" }.
    /// Default: { access = 1 }, that is untagged, in VLAN 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<RawVlan>,
    /// Whether packed rings are offered (VIRTIO_F_RING_PACKED): true or false. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub packed: Option<bool>,
    /// Whether receive buffers may be merged (VIRTIO_NET_F_MRG_RXBUF): true or false. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub mergeable: Option<bool>,
    /// Whether notifications are asked for by index (VIRTIO_F_EVENT_IDX): true or false. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub event_idx: Option<bool>,
    /// Whether indirect descriptors are offered (VIRTIO_F_INDIRECT_DESC): true or false. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub indirect: Option<bool>,
    /// Whether in-order completion is offered (VIRTIO_F_IN_ORDER): true or false. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub in_order: Option<bool>,
    /// Whether checksum offload is offered, in both directions: true or false. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub checksum_offload: Option<bool>,
    /// Whether TCP segmentation offload is offered, in both directions: true or false; true needs checksum_offload.
    /// Default: what checksum_offload is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tso: Option<bool>,
}

/// An uplink: a port on a DPDK device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Uplink")]
pub struct RawUplink {
    /// The port's name, unique among guests and uplinks: 1 to 32 letters, digits, '_', '.' or '-'. Required.
    #[schemars(regex(pattern = "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}$"))]
    pub name: String,
    /// The DPDK device: a PCI address such as "0000:03:00.0", or a virtual device such as "net_af_xdp0,iface=eth1",
    /// each with the driver's own arguments after a comma. Required.
    #[schemars(example = "net_af_xdp0,iface=eth1")]
    pub device: String,
    /// Receive and transmit queues of the device: a number from 1 to 64, at most one per I/O core. Default: one per I/O
    /// core, or as many as the device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub queues: Option<i64>,
    /// Addresses that are always behind this port, whatever other ports send: a list such as ["52:54:00:00:00:02"], of
    /// stations that guests rely on, a router for example. They never age out and cannot be learnt elsewhere. Fixed in
    /// the access VLAN, the native VLAN and every VLAN listed in trunk; with trunk = "all" only in the native VLAN.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [["52:54:00:00:00:02"]]))]
    pub stations: Option<Vec<String>>,
    /// The MTU of the device, in bytes: a number from 68 to 65535, at most 3520 on net_af_xdp. Default: what the
    /// device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 68, max = 65_535))]
    pub mtu: Option<i64>,
    /// VLANs of the port: { access = 10 }, { trunk = [10, 20], native = 1 } or { trunk = "all" }.
    /// Default: { trunk = "all", native = 1 }, that is VLAN 1 untagged and every other tagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<RawVlan>,
}

/// VLANs of a port: { access = 10 }, { trunk = [10, 20], native = 1 } or { trunk = "all" }.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Vlan")]
pub struct RawVlan {
    /// The one VLAN of an access port, whose packets carry no tag: a number from 1 to 4094. Not together with trunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub access: Option<i64>,
    /// The VLANs that carry a tag: a list of numbers from 1 to 4094, or "all". Not together with access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<RawTrunk>,
    /// The VLAN of a trunk's packets without a tag: a number from 1 to 4094, not in the list of trunk. Default: none,
    /// packets without a tag are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub native: Option<i64>,
}

/// The VLANs that carry a tag: a list of ids, or "all".
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(rename = "Trunk", untagged)]
pub enum RawTrunk {
    /// "all".
    All(All),
    /// A list of ids.
    Only(Vec<i64>),
}

/// The word "all".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// Every VLAN but the native one.
    All,
}

/// A user or a group: a name or a number.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Account")]
pub enum RawAccount {
    /// A number, as the kernel knows it.
    Id(i64),
    /// A name.
    Name(String),
}

/// What to do about hugepages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// Used where they are reserved, gone without where not.
    #[default]
    Auto,
    /// Sidecore does not start without.
    Require,
    /// Never used.
    Off,
}

/// What a guest minds most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// How soon a packet is forwarded.
    Latency,
    /// How many packets are.
    #[default]
    Throughput,
}

/// How the switch waits for packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It looks for them all the time.
    #[default]
    Poll,
    /// It looks for them, and is told of them after a while without any.
    Adaptive,
    /// It is told of them.
    Trap,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poll => "poll",
            Self::Adaptive => "adaptive",
            Self::Trap => "trap",
        })
    }
}

/// How interrupts to a guest are moderated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InterruptModeration {
    /// One for as many packets as turn out to come in time.
    #[default]
    Adaptive,
    /// One for 32 packets.
    Fixed,
    /// Whenever the guest asks for one.
    None,
}

/// Who decides where queue pairs go and when they move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// To the core with the fewest, for good.
    Static,
    /// In turn, for good.
    RoundRobin,
    /// From a saturated core to the emptiest.
    LeastLoaded,
    /// The largest core load is made as small as it can be.
    #[default]
    Balance,
    /// Open vSwitch, by cycles, when a queue pair comes or goes.
    OvsCycles,
    /// Open vSwitch, to the core with the fewest, when a queue pair comes or goes.
    OvsGroup,
    /// Open vSwitch's auto load balance, by cycles.
    OvsAutoLb,
    /// Open vSwitch's auto load balance, to the core with the fewest.
    OvsAutoLbGroup,
}

/// Who makes a vhost-user socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SocketRole {
    /// Sidecore makes it and listens.
    #[default]
    Server,
    /// The frontend does; Sidecore connects.
    Client,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What stops something from working.
    Error,
    /// What costs something.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
    /// Every step.
    Trace,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// The JSON schema of the configuration file, with a description and the default of every key.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(RawConfig).into();
    join_lines(&mut schema);
    schema
}

/// Takes the source's line breaks out of the descriptions.
fn join_lines(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(keys) => {
            if let Some(serde_json::Value::String(text)) = keys.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            keys.values_mut().for_each(join_lines);
        }
        serde_json::Value::Array(elements) => elements.iter_mut().for_each(join_lines),
        _ => {}
    }
}

impl Serialize for RawTrunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All(all) => all.serialize(serializer),
            Self::Only(ids) => ids.serialize(serializer),
        }
    }
}

impl RawIoCores {
    /// The CPUs, however they are written.
    pub fn cpus(&self) -> &[i64] {
        match self {
            Self::All(cpus) => cpus,
            Self::Elastic(elastic) => elastic.cpus.as_deref().unwrap_or_default(),
        }
    }
}

impl Default for RawIoCores {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl Serialize for RawIoCores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All(cpus) => cpus.serialize(serializer),
            Self::Elastic(elastic) => elastic.serialize(serializer),
        }
    }
}

// An untagged enum would say "did not match any variant"; these say what was expected.
impl<'de> Deserialize<'de> for RawIoCores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IoCores;

        impl<'de> Visitor<'de> for IoCores {
            type Value = RawIoCores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of CPUs or a table with cpus and min")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<RawIoCores, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(seq)).map(RawIoCores::All)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawIoCores, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(RawIoCores::Elastic)
            }
        }

        deserializer.deserialize_any(IoCores)
    }
}

impl<'de> Deserialize<'de> for RawTrunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Trunk;

        impl<'de> Visitor<'de> for Trunk {
            type Value = RawTrunk;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of VLAN ids or \"all\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawTrunk, E> {
                match text {
                    "all" => Ok(RawTrunk::All(All::All)),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawTrunk, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(RawTrunk::Only(ids))
            }
        }

        deserializer.deserialize_any(Trunk)
    }
}

impl<'de> Deserialize<'de> for RawAccount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Account;

        impl Visitor<'_> for Account {
            type Value = RawAccount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<RawAccount, E> {
                // No account is named by digits alone; whoever quotes a number means the number.
                Ok(name.parse().map_or_else(|_| RawAccount::Name(name.to_owned()), RawAccount::Id))
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<RawAccount, E> {
                Ok(RawAccount::Id(id))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<RawAccount, E> {
                // Out of range either way: the check of the value says so.
                Ok(RawAccount::Id(i64::try_from(id).unwrap_or(i64::MAX)))
            }
        }

        deserializer.deserialize_any(Account)
    }
}

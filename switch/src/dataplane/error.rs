//! What can go wrong with the data plane, in words for the operator.

use vm_ports::session::SessionError;

/// Why the data plane, or a port of it, could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataplaneError {
    /// `hugepages = "require"`, and EAL would not start with them.
    #[error(
        "no hugepages for DPDK: {0}; reserve some (echo 512 > /proc/sys/vm/nr_hugepages) or set hugepages = \"auto\""
    )]
    Hugepages(Box<pmd_bindings::Error>),
    /// More memory is asked for than there is.
    #[error("switch.memory_mib is {wanted_mib}, and {available_mib} MiB of {kind} are free: lower it, or free some")]
    Memory {
        /// What the configuration asks for.
        wanted_mib: u32,
        /// What there is.
        available_mib: u64,
        /// Of which kind.
        kind: &'static str,
    },
    /// EAL would not start.
    #[error("DPDK does not start: {0}; if it is memory that is missing, change switch.memory_mib")]
    Eal(Box<pmd_bindings::Error>),
    /// The I/O cores' CPUs cannot be held to what the configuration says.
    #[error(transparent)]
    WakeLatency(#[from] super::wake_latency::WakeLatencyError),
    /// An I/O core's thread cannot run where it should.
    #[error(
        "I/O core {core} cannot be pinned to CPU {cpu}: is it online, and allowed to this process (taskset -p $$)?"
    )]
    Pin {
        /// The core.
        core: usize,
        /// The CPU.
        cpu: usize,
    },
    /// An I/O core's thread cannot be started.
    #[error("I/O core {0} does not start: {1}")]
    CoreThread(usize, String),
    /// The thread that looks after the I/O cores cannot be started.
    #[error("the thread that looks after the I/O cores does not start: {0}; raise the limit on threads (ulimit -u)")]
    Rescue(std::io::Error),
    /// There is nothing for I/O cores to sleep in.
    #[error("I/O cores cannot be woken: {0}; raise the limit on open files (ulimit -n)")]
    Sleep(std::io::Error),
    /// No further guest can have an I/O thread of its own.
    #[error("{most} I/O cores and I/O threads of guests are all there can be: choose another mode for some guests")]
    TooManyThreads {
        /// All there can be.
        most: usize,
    },
    /// A guest's queue pairs are where they are because of its mode.
    #[error("guest {0:?} has mode \"trap\": its queue pairs stay with its own I/O thread")]
    OwnThread(String),
    /// The scheduler's thread cannot be started.
    #[error("the scheduler's thread does not start: {0}; raise the limit on threads (ulimit -u)")]
    Scheduler(std::io::Error),
    /// The thread that gives NICs their rules cannot be started.
    #[error("the thread that gives NICs their rules does not start: {0}; raise the limit on threads (ulimit -u)")]
    Steering(std::io::Error),
    /// A port of that name is there.
    #[error("there is a port named {0:?} already: choose another name, or remove that port first")]
    NameTaken(String),
    /// No port of that name and kind is there.
    #[error("there is no {kind} named {name:?}: `sidecore {kind} list` shows those there are")]
    NoSuchPort {
        /// `guest` or `uplink`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// All port numbers are taken.
    #[error("{0} ports are all there can be: take guests or uplinks out")]
    TooManyPorts(usize),
    /// All sources are taken.
    #[error(
        "{0} queue pairs and uplink queues are all there can be: lower queue_pairs of some guests, or take some out"
    )]
    TooManyQueues(usize),
    /// The scheduler knows no place for a queue pair.
    #[error("guest {name:?}: {source}")]
    Placement {
        /// The guest.
        name: String,
        /// Why.
        source: scheduler::PlaceError,
    },
    /// An I/O core that there is not.
    #[error("there is no I/O core {core}: switch.io_cores lists {cores}, numbered from 0")]
    NoSuchCore {
        /// The core.
        core: usize,
        /// How many there are.
        cores: usize,
    },
    /// A queue pair that there is not.
    #[error("guest {name:?} has no queue pair {queue}: it has {queues}, numbered from 0")]
    NoSuchQueue {
        /// The guest.
        name: String,
        /// The queue pair.
        queue: usize,
        /// How many there are.
        queues: usize,
    },
    /// The configuration says where a guest has to be.
    #[error("guest {name:?} is pinned to I/O core {core}: take io_core out of its section and reload, then move it")]
    Pinned {
        /// The guest.
        name: String,
        /// The core.
        core: usize,
    },
    /// A capture that cannot begin.
    #[error(transparent)]
    Capture(#[from] super::CaptureError),
    /// A packet that there cannot be.
    #[error("{0}")]
    Trace(config::ValueError),
    /// The switch ends.
    #[error("the switch is being stopped")]
    Stopping,
    /// A guest's session would not start.
    #[error("guest {name:?}: {source}")]
    Session {
        /// The guest.
        name: String,
        /// Why.
        source: SessionError,
    },
    /// DPDK would not let go of an uplink's device.
    #[error(
        "uplink {name:?} is removed, and DPDK keeps its device: {source}; adding one with that device may need a restart"
    )]
    Unplug {
        /// The uplink.
        name: String,
        /// Why.
        source: Box<pmd_bindings::Error>,
    },
    /// DPDK would not have an uplink.
    #[error(
        "uplink {name:?} cannot be started: {source}; is the device there (ip link, dpdk-devbind.py --status), and may this \
         user open it?"
    )]
    Uplink {
        /// The uplink.
        name: String,
        /// Why.
        source: Box<pmd_bindings::Error>,
    },
}

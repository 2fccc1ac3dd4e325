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
    /// EAL would not start.
    #[error("DPDK does not start: {0}")]
    Eal(Box<pmd_bindings::Error>),
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
    #[error("{0} ports are all there can be")]
    TooManyPorts(usize),
    /// All sources are taken.
    #[error("{0} queue pairs and uplink queues are all there can be")]
    TooManyQueues(usize),
    /// The scheduler knows no place for a queue pair.
    #[error("guest {name:?}: {source}")]
    Placement {
        /// The guest.
        name: String,
        /// Why.
        source: scheduler::PlaceError,
    },
    /// A guest's session would not start.
    #[error("guest {name:?}: {source}")]
    Session {
        /// The guest.
        name: String,
        /// Why.
        source: SessionError,
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

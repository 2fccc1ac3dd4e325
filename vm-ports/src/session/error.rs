//! What can go wrong: before a session is up ([`SessionError`]), and in what a frontend asks for ([`Refusal`]).

use std::io;
use std::path::PathBuf;

use crate::memory::MemoryError;

/// Why a session could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// `sun_path` has room for 107 bytes and a terminating zero.
    #[error("socket path {path:?} is {} bytes long, the system allows 107: choose a shorter one", path.as_os_str().len())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("socket {path:?} is in use by another process: stop it, or choose another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The path is taken by something that is not ours to remove.
    #[error("{path:?} exists and is not a socket: remove it, or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The folder of the socket does not exist.
    #[error("there is no folder for socket {path:?}: create it first")]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// No permission to bind, to remove a stale socket, or to set mode, owner or group.
    #[error("no permission to {action} socket {path:?}: {source}")]
    Permission {
        /// What was not allowed.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of the system.
    #[error("cannot {action} socket {path:?}: {source}")]
    Socket {
        /// What failed.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The number of queue pairs is out of range.
    #[error("a port has 1 to {max} queue pairs, not {asked}")]
    QueuePairs {
        /// What was asked for.
        asked: usize,
        /// The most there can be.
        max: usize,
    },
    /// No thread, or no eventfd to wake it with.
    #[error("cannot start the session's thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why a frontend's request was refused. The frontend hears a bare "no"; this is for our own log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no ring {0}")]
    NoSuchRing(u32),
    #[error("a ring of {0} entries")]
    RingSize(u32),
    #[error("virtio features {0:#x} that were not offered")]
    FeaturesNotOffered(u64),
    #[error("protocol features {0:#x} that were not offered")]
    ProtocolNotOffered(u64),
    #[error("SET_VRING_ENABLE without protocol features")]
    EnableNotNegotiated,
    #[error("SET_VRING_ENABLE to {0}")]
    EnableValue(u32),
    #[error("an MTU of {0}")]
    Mtu(u64),
    #[error("an announcement of an address that is no station's")]
    AnnounceAddress,
    #[error("a file descriptor that is not an eventfd")]
    NotAnEventFd,
    #[error(
        "a call eventfd, after one of this port's was made to block or to take long: remove the port and add \
         it again to have calls"
    )]
    CallsForfeited,
    #[error(
        "guest memory in {0}: use memory-backend-memfd, or memory-backend-file with its mem-path on \
         hugetlbfs or in /dev/shm, and share=on"
    )]
    MemoryBacking(String),
    #[error("the memory region at {0:#x}: its addresses, size and offset have to be multiples of 4096")]
    PartsOfPages(u64),
    #[error("a memory region past the end of its file of {length} bytes")]
    PastEndOfFile { length: u64 },
    #[error("more than {0} memory regions")]
    TooManySlots(usize),
    #[error("{0}: not offered")]
    Unsupported(&'static str),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<Refusal> for vhost::vhost_user::Error {
    /// `ReqHandlerError` marks what *we* refused, in contrast to what the crate found malformed.
    fn from(refusal: Refusal) -> Self {
        Self::ReqHandlerError(io::Error::other(refusal))
    }
}

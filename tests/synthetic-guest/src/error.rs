//! What can go wrong on the control plane. The data path counts instead.

use std::io;
use std::path::PathBuf;

/// Errors of setting up, talking to and tearing down a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket could not be reached or bound.
    #[error("socket {path}: {source}", path = path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer did not connect or did not answer in time.
    #[error("no answer in time: {0}")]
    Timeout(&'static str),
    /// The backend closed the connection.
    #[error("the backend closed the connection")]
    Disconnected,
    /// The backend's answer breaks the protocol.
    #[error("bad reply to vhost-user request {request}: {why}")]
    BadReply {
        /// Request number.
        request: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The backend acknowledged a request with an error (REPLY_ACK).
    #[error("the backend refused vhost-user request {request} with {code:#x}")]
    Refused {
        /// Request number.
        request: u32,
        /// The non-zero acknowledgement.
        code: u64,
    },
    /// The configuration asks for something impossible.
    #[error("configuration: {0}")]
    Config(String),
    /// The backend lacks something the configuration demands.
    #[error("the backend does not offer {0}")]
    NotOffered(String),
    /// Memory could not be created or mapped, or the rings do not fit into it.
    #[error("guest memory: {0}")]
    Memory(String),
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}

//! Why a run could not be made.

use std::path::PathBuf;

/// Reasons for exit status 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Options that do not go together.
    #[error("{0} (see ringgen --help)")]
    Options(String),
    /// A guest could not be set up.
    #[error("guest {guest} ({}): {source}", socket.display())]
    Guest {
        /// Number of the guest.
        guest: usize,
        /// Its socket.
        socket: PathBuf,
        /// What went wrong.
        source: synthetic_guest::Error,
    },
    /// Memory for `ceiling`.
    #[error("guest memory: {0}")]
    Memory(synthetic_guest::Error),
    /// The CPU cannot be used.
    #[error("cannot run on CPU {cpu}: {source}; choose another one with --cpu")]
    Pin {
        /// CPU number.
        cpu: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The switch does not carry packets where they should go.
    #[error("{0}")]
    Settle(String),
    /// The backend went away while packets were counted.
    #[error("guest {0}: the switch closed the connection during the run: its counts mean nothing")]
    Lost(usize),
    /// Signals cannot be taken over.
    #[error("cannot wait for SIGINT and SIGTERM: {0}")]
    Signals(std::io::Error),
    /// Guests cannot sleep.
    #[error("cannot wait for calls: {0}; --guest-mode poll needs no waiting")]
    Calls(std::io::Error),
    /// The file for counts cannot be made.
    #[error("cannot keep counts in {}: {source}; name another file with --live", path.display())]
    Live {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file with rates cannot be read.
    #[error("cannot read rates from {}: {source}; --rates names a file with a 64-bit word for each sending guest", path.display())]
    Rates {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Nobody said when to measure.
    #[error("standard input: {0} (--on-request measures once for every line of it)")]
    Input(std::io::Error),
    /// The report could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

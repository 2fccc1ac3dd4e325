//! Everything that can go wrong, with DPDK's own words for what DPDK refused.

use std::ffi::{CStr, CString, c_int};
use std::fmt;

use crate::{ffi, log};

const ENOSYS: i32 = 38;
const ENOTSUP: i32 = 95;

/// A call that DPDK turned down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DpdkError {
    /// The DPDK function.
    pub call: &'static str,
    /// What it was called for: a port's, a pool's or a device's name.
    pub subject: String,
    /// The error number, positive, as in `errno`.
    pub code: i32,
    /// `rte_strerror`'s text for that number.
    pub text: String,
    /// What DPDK logged at error level on this thread during the call; often names the real cause. May be empty.
    pub log: String,
}

impl DpdkError {
    fn new(call: &'static str, subject: &str, code: i32) -> Self {
        // SAFETY: any number is a valid argument. The result points to a constant or to a buffer of the calling
        // thread that stays as it is until the thread's next rte_strerror; it is copied before that.
        let text = unsafe { CStr::from_ptr(ffi::rte_strerror(code)) }.to_string_lossy().into_owned();
        Self { call, subject: subject.to_owned(), code, text, log: log::take_errors() }
    }
}

impl Error {
    /// Whether it says that a driver knows no such call at all.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        // rte_flow says ENOSYS where a driver has no rules at all.
        matches!(self, Self::Dpdk(error) if [ENOSYS, ENOTSUP].contains(&error.code))
    }
}

impl fmt::Display for DpdkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.call, self.text)?;
        if !self.log.is_empty() {
            write!(f, " ({})", self.log)?;
        }
        Ok(())
    }
}

impl std::error::Error for DpdkError {}

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// DPDK refused a call.
    #[error(transparent)]
    Dpdk(#[from] DpdkError),

    /// [`Eal::init`](crate::Eal::init) was called before in this process; EAL starts once, even if that failed.
    #[error("EAL was already initialised in this process, and can be only once")]
    AlreadyInitialised,

    /// The calling thread has an lcore id already.
    #[error("this thread is already registered with EAL")]
    AlreadyRegistered,

    /// The thread's CPU affinity could not be read, or not be put back after EAL changed it.
    #[error("CPU affinity of the thread that initialises EAL: {0}")]
    Affinity(#[source] std::io::Error),

    /// DPDK's log could not be redirected.
    #[error("redirecting DPDK's log: {0}")]
    Log(#[source] std::io::Error),

    /// A string meant for DPDK contains a NUL byte.
    #[error("{what} {value:?} contains a NUL byte")]
    NulByte {
        /// What the string was to be.
        what: &'static str,
        /// The string.
        value: String,
    },

    /// No port of that name: the device is missing, or its driver did not accept it.
    #[error("there is no DPDK port named {name:?}; {}", available(.known))]
    NoSuchPort {
        /// The name looked for.
        name: String,
        /// The names of the ports there are.
        known: Vec<String>,
    },

    /// The port is owned by an [`EthDev`](crate::EthDev) or a [`Port`](crate::Port) already.
    #[error("DPDK port {name:?} is in use")]
    PortInUse {
        /// The port's name.
        name: String,
    },

    /// A port needs at least one queue in each direction.
    #[error("port {name:?} was to be configured with {rx} RX and {tx} TX queues, but needs one of each")]
    NoQueues {
        /// The port's name.
        name: String,
        /// RX queues asked for.
        rx: u16,
        /// TX queues asked for.
        tx: u16,
    },

    /// The MTU is outside of what the device can do.
    #[error("MTU {mtu} is out of range for port {name:?}, whose driver {driver} takes {min} to {max}")]
    MtuOutOfRange {
        /// The port's name.
        name: String,
        /// The port's driver.
        driver: String,
        /// The MTU asked for.
        mtu: u16,
        /// The smallest MTU possible.
        min: u16,
        /// The largest MTU possible.
        max: u16,
    },

    /// A frame of the MTU does not fit into one mbuf, and the device cannot spread it over several.
    #[error("MTU {mtu} needs mbufs of {needed} bytes on port {name:?}, but the pool's have {data_room}")]
    DataRoom {
        /// The port's name.
        name: String,
        /// The MTU asked for.
        mtu: u16,
        /// Data room needed, in bytes.
        needed: u32,
        /// Data room there is, in bytes.
        data_room: u16,
    },
}

fn available(known: &[String]) -> String {
    if known.is_empty() { "there are no ports at all".into() } else { format!("there are: {}", known.join(", ")) }
}

/// Runs a DPDK call that reports failure as a negative error number.
pub(crate) fn check(call: &'static str, subject: &str, run: impl FnOnce() -> c_int) -> Result<c_int, Error> {
    log::forget_errors();
    let status = run();
    if status < 0 { Err(DpdkError::new(call, subject, -status).into()) } else { Ok(status) }
}

/// Runs a DPDK call that reports failure as `None` and leaves the number in `rte_errno`.
pub(crate) fn check_errno<T>(call: &'static str, subject: &str, run: impl FnOnce() -> Option<T>) -> Result<T, Error> {
    log::forget_errors();
    run().ok_or_else(|| {
        // SAFETY: reads a thread-local integer.
        let code = unsafe { ffi::pmd_errno() };
        DpdkError::new(call, subject, code).into()
    })
}

/// A string as C wants it.
pub(crate) fn c_string(what: &'static str, value: &str) -> Result<CString, Error> {
    CString::new(value).map_err(|_| Error::NulByte { what, value: value.to_owned() })
}

//! Where DPDK's log goes, and what it said while a call failed.

use std::cell::RefCell;
use std::ffi::c_char;
use std::io;
use std::sync::OnceLock;

use crate::error::Error;
use crate::ffi;

/// How grave a message of DPDK's is; the numbers are DPDK's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// The system is unusable.
    Emergency = 1,
    /// Action must be taken at once.
    Alert,
    /// A critical condition.
    Critical,
    /// Something failed.
    Error,
    /// Something may fail.
    Warning,
    /// Normal but worth knowing.
    Notice,
    /// What is going on.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    /// DPDK's number for a level; anything it does not know counts as information.
    fn from_dpdk(level: i32) -> Self {
        match level {
            1 => Self::Emergency,
            2 => Self::Alert,
            3 => Self::Critical,
            4 => Self::Error,
            5 => Self::Warning,
            6 => Self::Notice,
            8 => Self::Debug,
            _ => Self::Info,
        }
    }
}

/// What receives a log line: called on whichever thread DPDK logs from, without a line end. It must not panic,
/// nor call anything of this crate.
pub type LogCallback = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Where DPDK's log goes.
#[derive(Default)]
pub enum LogOutput {
    /// To standard error, as DPDK itself would.
    #[default]
    Stderr,
    /// Nowhere. Errors still carry what DPDK said about them.
    Discard,
    /// To a function.
    Callback(LogCallback),
}

impl std::fmt::Debug for LogOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stderr => "Stderr",
            Self::Discard => "Discard",
            Self::Callback(_) => "Callback",
        })
    }
}

static OUTPUT: OnceLock<LogOutput> = OnceLock::new();

/// An error keeps this much of the log: the first lines, which are the nearest to the cause.
const KEPT_BYTES: usize = 512;

thread_local! {
    static ERRORS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Directs the log. Called once, by the only `Eal::init` that gets that far.
pub(crate) fn open(output: LogOutput) -> Result<(), Error> {
    let _ = OUTPUT.set(output);
    // SAFETY: `receive` has the type pmd_open_log asks for and lives as long as the process.
    if unsafe { ffi::pmd_open_log(Some(receive)) } < 0 {
        return Err(Error::Log(io::Error::last_os_error()));
    }
    Ok(())
}

/// A line of this crate's own in DPDK's log.
pub(crate) fn emit(level: LogLevel, line: &str) {
    match OUTPUT.get() {
        Some(LogOutput::Callback(callback)) => callback(level, line),
        Some(LogOutput::Stderr) => eprintln!("{line}"),
        Some(LogOutput::Discard) | None => {}
    }
}

/// Forgets what was logged on this thread before a call whose failure might be explained by it.
pub(crate) fn forget_errors() {
    ERRORS.with_borrow_mut(String::clear);
}

/// What was logged at error level on this thread since [`forget_errors`].
pub(crate) fn take_errors() -> String {
    ERRORS.take()
}

/// The write function of the stream that DPDK logs to.
unsafe extern "C" fn receive(text: *const c_char, length: usize) {
    // SAFETY: stdio calls the stream's write function with its own buffer and the number of bytes in it, and the
    // buffer does not change before the function returns.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    // SAFETY: reads the calling thread's record of the message it is logging.
    let level = LogLevel::from_dpdk(unsafe { ffi::rte_log_cur_msg_loglevel() });
    for line in String::from_utf8_lossy(text).lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if level <= LogLevel::Error {
            remember(line);
        }
        emit(level, line);
    }
}

fn remember(line: &str) {
    // A thread that is being torn down has no thread-locals left; its message is logged all the same.
    let _ = ERRORS.try_with(|errors| {
        let mut errors = errors.borrow_mut();
        if errors.len() + line.len() <= KEPT_BYTES {
            if !errors.is_empty() {
                errors.push_str("; ");
            }
            errors.push_str(line);
        }
    });
}

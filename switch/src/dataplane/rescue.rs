//! Looks whether the I/O cores poll, and frees one that a frontend has made to wait.
//!
//! A thread of its own: whoever asks a core something waits for its answer, the control thread too.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::accounting::CoreCounters;
use super::io_core::IoCore;
use super::sleep::Bells;

/// Between looks. A round takes microseconds; a core that has not ended one from one look to the next waits, or has no CPU,
/// and then it does no harm to interrupt it.
const LOOK: Duration = Duration::from_millis(20);

/// A core's thread, for as long as it runs.
pub(super) type CoreThread = Arc<Mutex<Option<JoinHandle<IoCore>>>>;

/// The running watch. It ends when this is dropped.
pub(super) struct Rescue {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rescue {
    /// Starts to look after these cores. Those that sleep are left alone.
    pub(super) fn start(cores: Vec<(Arc<CoreCounters>, CoreThread)>, bells: Arc<Bells>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("rescue".to_owned()).spawn(move || {
            let mut seen: Vec<u64> = cores.iter().map(|(counters, _)| counters.polls.get()).collect();
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                for (core, ((counters, thread), seen)) in cores.iter().zip(&mut seen).enumerate() {
                    let polls = counters.polls.get();
                    if std::mem::replace(seen, polls) == polls
                        && !bells.sleeps(core)
                        && let Some(thread) = &*thread.lock().unwrap_or_else(PoisonError::into_inner)
                    {
                        vm_ports::interrupt(thread);
                    }
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Rescue {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has no way to panic; if it did, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}

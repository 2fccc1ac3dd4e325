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
/// The same while all cores sleep.
const REST: Duration = Duration::from_millis(100);

/// A core's thread, for as long as it runs.
pub(super) type CoreThread = Arc<Mutex<Option<JoinHandle<IoCore>>>>;

/// A core that is looked after.
struct Watched {
    core: usize,
    counters: Arc<CoreCounters>,
    thread: CoreThread,
    /// Rounds, at the last look.
    seen: u64,
}

/// The running watch. It ends when this is dropped.
pub(super) struct Rescue {
    watched: Arc<Mutex<Vec<Watched>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rescue {
    /// Starts to look after cores. Those that sleep are left alone.
    pub(super) fn start(bells: Arc<Bells>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let watched = Arc::<Mutex<Vec<Watched>>>::default();
        let cores = Arc::clone(&watched);
        let thread = std::thread::Builder::new().name("rescue".to_owned()).spawn(move || {
            let mut pause = LOOK;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = REST;
                for watched in cores.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                    let polls = watched.counters.polls.get();
                    let polled = std::mem::replace(&mut watched.seen, polls) != polls;
                    if bells.sleeps(watched.core) {
                        continue;
                    }
                    pause = LOOK;
                    if !polled && let Some(thread) = &*watched.thread.lock().unwrap_or_else(PoisonError::into_inner) {
                        vm_ports::interrupt(thread);
                    }
                }
            }
        })?;
        Ok(Self { watched, stop: Some(stop), thread: Some(thread) })
    }

    /// Looks after this core, too.
    pub(super) fn add(&self, core: usize, counters: Arc<CoreCounters>, thread: CoreThread) {
        let seen = counters.polls.get();
        let watched = Watched { core, counters, thread, seen };
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
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

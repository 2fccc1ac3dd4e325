//! The generator's own limit: guests whose rings are joined by a forwarder in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use synthetic_guest::forwarder::Forwarder;

use crate::engine::Backend;
use crate::error::Error;
use crate::node::Node;
use crate::run::pin;

/// Packets that a forwarder takes at a time, as many as switches do.
const BURST: usize = 32;

/// A forwarder for each queue pair, from guest 0 to guest 1.
pub(crate) struct Forwarders(Vec<Forwarder>);

impl Forwarders {
    pub(crate) fn new(nodes: &mut [Node]) -> Result<Self, Error> {
        let [from, to] = nodes else { return Err(Error::Options("ceiling has two guests".into())) };
        let header_len = from.features.header_len();
        let (Some(from_ram), Some(to_ram)) = (&from.ram, &to.ram) else {
            return Err(Error::Options("ceiling has no switch".into()));
        };
        let pairs = from.pairs.iter_mut().zip(&mut to.pairs);
        let forwarder = pairs.map(|(from, to)| Forwarder::new((from_ram, from), (to_ram, to), header_len));
        forwarder.collect::<Result<_, _>>().map(Forwarders).map_err(Error::Memory)
    }

    /// Goes on in a thread of its own, on its own CPU.
    pub(crate) fn start(mut self, cpu: usize) -> Result<Apart, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let pinned = pin(Some(cpu));
            let failed = pinned.is_err();
            // Nobody listens any more only if the run was given up.
            let _ = tell.send(pinned);
            while !failed && !seen.load(Ordering::Relaxed) {
                self.step();
            }
        });
        told.recv().unwrap_or(Ok(()))?;
        Ok(Apart { stop, thread: Some(thread) })
    }
}

impl Backend for Forwarders {
    #[inline]
    fn step(&mut self) -> usize {
        self.0.iter_mut().map(|forwarder| forwarder.step(BURST)).sum()
    }
}

/// Forwarders in another thread. They stop when this is dropped.
pub(crate) struct Apart {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Apart {
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic but for a bug, which then has shown itself on standard error.
            let _ = thread.join();
        }
    }
}

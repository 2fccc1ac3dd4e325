//! Which I/O core serves which queue pair of which uplink: each core its own, and that of a parked one another that is awake.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::accounting::{SourceId, UplinkCounters};
use super::fabric::Fabric;
use super::ports::{PortTable, Receiver, Way};
use super::turns::Share;
use crate::forwarding::PortId;

/// What of an uplink is on the I/O cores.
pub(super) struct UplinkHost {
    pub(super) port: PortId,
    pub(super) queues: Vec<UplinkQueue>,
    fabric: Arc<Fabric>,
    /// Held by whoever moves a queue pair, or takes all of them away for good: then it is true.
    gone: Mutex<bool>,
}

/// One of its queue pairs. The core with the same number serves it, unless that is parked.
pub(super) struct UplinkQueue {
    pub(super) source: SourceId,
    pub(super) counters: Arc<UplinkCounters>,
    at: AtomicUsize,
}

impl UplinkQueue {
    /// Of the core with this number.
    pub(super) fn new(source: SourceId, counters: Arc<UplinkCounters>, core: usize) -> Self {
        Self { source, counters, at: AtomicUsize::new(core) }
    }

    /// The core that serves it.
    pub(super) fn io_core(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }
}

impl UplinkHost {
    pub(super) fn new(port: PortId, fabric: Arc<Fabric>, queues: Vec<UplinkQueue>) -> Self {
        Self { port, queues, fabric, gone: Mutex::new(false) }
    }

    /// Takes all queues from the cores, for good, and closes them.
    pub(super) fn take_away(&self) {
        let mut gone = locked(&self.gone);
        *gone = true;
        drop(self.fabric.take_uplink(self.port));
        self.queues.iter().for_each(|queue| self.fabric.release_source(queue.source));
    }

    /// Has another core serve a queue pair, while traffic goes on. Whether it does.
    fn move_queue(&self, index: usize, to: usize) -> bool {
        let gone = locked(&self.gone);
        let Some(queue) = self.queues.get(index).filter(|_| !*gone) else { return false };
        let from = queue.io_core();
        let change = |table: &mut PortTable| {
            table.change(self.port, |entry| {
                if let Way::Uplink(ways) = &mut entry.way {
                    let moved = ways.iter_mut().filter(|way| usize::from(way.queue) == index);
                    moved.for_each(|way| way.core = to as u16);
                }
            });
        };
        let what = (queue.source, Share::default());
        let moves = self.fabric.moves();
        let pause = self.fabric.move_pair(&moves, (self.port, index), what, (from, to), change);
        if pause.is_some() {
            queue.at.store(to, Ordering::Relaxed);
        }
        pause.is_some()
    }
}

/// By core, the TX queue that it sends through and the core that has that: its own where there is one. So a core's packets leave by the same
/// queue wherever that is, and keep their order.
pub(super) fn ways(cores: usize, queues: usize) -> Way {
    let way = |core: usize| (core % queues.max(1)) as u16;
    Way::Uplink((0..cores).map(|core| Receiver { queue: way(core), core: way(core) }).collect())
}

/// All uplinks, for the scheduler.
pub(super) struct Uplinks {
    fabric: Arc<Fabric>,
    hosts: Mutex<Vec<Arc<UplinkHost>>>,
}

impl Uplinks {
    /// None yet.
    pub(super) fn new(fabric: Arc<Fabric>) -> Self {
        Self { fabric, hosts: Mutex::default() }
    }

    pub(super) fn add(&self, host: Arc<UplinkHost>) {
        locked(&self.hosts).push(host);
    }

    pub(super) fn remove(&self, port: PortId) {
        locked(&self.hosts).retain(|host| host.port != port);
    }

    fn all(&self) -> Vec<Arc<UplinkHost>> {
        locked(&self.hosts).clone()
    }

    /// Moves everything that this core serves to others that are awake, in turn to the one with the fewest queue pairs of uplinks. Whether none is left.
    pub(super) fn leave(&self, core: usize) -> bool {
        let hosts = self.all();
        let queues = || hosts.iter().flat_map(|host| host.queues.iter().enumerate().map(move |it| (host, it)));
        let served = |core: usize| queues().filter(|(_, (_, queue))| queue.io_core() == core).count();
        queues().filter(|(_, (_, queue))| queue.io_core() == core).all(|(host, (index, _))| {
            let others = (0..self.fabric.io_cores()).filter(|other| *other != core && !self.fabric.is_parked(*other));
            others.min_by_key(|other| served(*other)).is_some_and(|to| host.move_queue(index, to))
        })
    }

    /// Moves back what cores served that are awake again.
    pub(super) fn come_home(&self) {
        for host in self.all() {
            for (home, queue) in host.queues.iter().enumerate() {
                if queue.io_core() != home && !self.fabric.is_parked(home) {
                    host.move_queue(home, home);
                }
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

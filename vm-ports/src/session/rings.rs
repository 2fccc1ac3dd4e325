//! The rings of one session, as the frontend has set them up, and the one way in which they change:
//! **taken back** from the core, **changed**, **handed out** again.
//!
//! A ring is *started* when its size, its addresses and SET_VRING_KICK are in, and features and memory are known. It does
//! not wait for a kick. GET_VRING_BASE stops it, and only another SET_VRING_KICK arms it again.

use std::fs::File;
use std::sync::Arc;

use super::QueueHost;
use super::error::Refusal;
use crate::address::FrontendAddr;
use crate::call::Forfeit;
use crate::counters::QueueCounters;
use crate::features::Features;
use crate::kick::KickFd;
use crate::memory::GuestMemory;
use crate::moderation::Moderation;
use crate::queue::QueuePair;
use crate::ring::{RingError, RingSetup};
use crate::rx::RxQueue;
use crate::tx::TxQueue;

/// What all rings of a session run with. A change of it is a change of every ring.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    pub(super) features: Features,
    pub(super) memory: Arc<GuestMemory>,
}

/// Where a ring is, as SET_VRING_ADDR says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: FrontendAddr,
    pub(super) driver: FrontendAddr,
    pub(super) device: FrontendAddr,
}

/// What SET_VRING_KICK said.
#[derive(Debug, Default)]
pub(super) enum Kick {
    /// Nothing yet, or GET_VRING_BASE came later: the ring is stopped.
    #[default]
    Unset,
    /// The driver will not kick.
    NoFd,
    Fd {
        file: KickFd,
        /// Whether the driver has been told not to kick since this eventfd came. Kicks count from there on.
        suppressed: bool,
    },
}

/// One ring, as the frontend has set it up.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: u32,
    pub(super) addresses: Option<Addresses>,
    /// As SET_VRING_BASE gave it; while the ring is stopped after having run, where it stopped.
    pub(super) base: u32,
    pub(super) kick: Kick,
    /// The call eventfd while the ring is stopped; a started ring has it.
    call: Option<File>,
    pub(super) enabled: bool,
    started: bool,
}

impl Ring {
    fn setup(&self, index: usize) -> Option<RingSetup> {
        let addresses = self.addresses?;
        if self.size == 0 || matches!(self.kick, Kick::Unset) {
            return None;
        }
        Some(RingSetup {
            index: u32::try_from(index).ok()?,
            size: self.size,
            descriptors: addresses.descriptors,
            driver: addresses.driver,
            device: addresses.device,
            base: self.base,
        })
    }
}

/// All rings of a session, and the queue pairs they make.
pub(super) struct Rings {
    host: Arc<dyn QueueHost>,
    rings: Vec<Ring>,
    pairs: Vec<Pair>,
    environment: Option<Environment>,
    moderation: Moderation,
    /// Whether a call of one of them, or of those of an earlier connection, has blocked or taken long.
    forfeited: Forfeit,
    /// Rings that were set up but could not be started, since [`Rings::take_refusals`].
    refusals: Vec<(usize, RingError)>,
}

struct Pair {
    counters: Arc<QueueCounters>,
    attached: bool,
}

impl Rings {
    pub(super) fn new(
        host: Arc<dyn QueueHost>,
        queue_pairs: usize,
        moderation: Moderation,
        forfeited: Forfeit,
    ) -> Self {
        let pairs = (0..queue_pairs).map(|n| Pair { counters: host.counters(n), attached: false }).collect();
        let rings = (0..2 * queue_pairs).map(|_| Ring::default()).collect();
        Self { host, rings, pairs, environment: None, moderation, forfeited, refusals: Vec::new() }
    }

    fn check(&self, index: u32) -> Result<usize, Refusal> {
        usize::try_from(index).ok().filter(|&i| i < self.rings.len()).ok_or(Refusal::NoSuchRing(index))
    }

    /// The ring as it stands. Its `base` is not the running ring's: see [`Rings::stop`].
    pub(super) fn get(&self, index: u32) -> Result<&Ring, Refusal> {
        self.check(index).map(|i| &self.rings[i])
    }

    /// Changes what a ring is made from. A started ring is stopped for it, and started again from where it was.
    pub(super) fn rebuild(&mut self, index: u32, change: impl FnOnce(&mut Ring)) -> Result<(), Refusal> {
        let index = self.check(index)?;
        let mut pair = self.take(index / 2);
        self.stop_in(&mut pair, index);
        change(&mut self.rings[index]);
        self.give(index / 2, pair);
        Ok(())
    }

    /// Stops a ring until the next SET_VRING_KICK. Returns its base.
    pub(super) fn stop(&mut self, index: u32) -> Result<u32, Refusal> {
        self.rebuild(index, |ring| ring.kick = Kick::Unset)?;
        Ok(self.get(index)?.base)
    }

    /// Enables or disables a ring, started or not.
    pub(super) fn enable(&mut self, index: u32, enabled: bool) -> Result<(), Refusal> {
        let index = self.check(index)?;
        if self.rings[index].enabled == enabled {
            return Ok(());
        }
        let mut pair = self.take(index / 2);
        self.rings[index].enabled = enabled;
        match side_of(&mut pair, index) {
            Some(Side::Rx(queue)) => queue.set_enabled(enabled),
            Some(Side::Tx(queue)) => queue.set_enabled(enabled),
            None => {}
        }
        self.give(index / 2, pair);
        Ok(())
    }

    /// Sets where a ring's calls go: frontends change it while the ring runs.
    pub(super) fn set_call(&mut self, index: u32, call: Option<File>) -> Result<(), Refusal> {
        let index = self.check(index)?;
        let mut pair = self.take(index / 2);
        match side_of(&mut pair, index) {
            Some(Side::Rx(queue)) => drop(queue.set_call(call)),
            Some(Side::Tx(queue)) => drop(queue.set_call(call)),
            None => self.rings[index].call = call,
        }
        self.give(index / 2, pair);
        Ok(())
    }

    /// Whether a frontend of this port has ever made a call block, or calls take long: each that did would hold up a
    /// core for some milliseconds, so there are no more.
    pub(super) fn calls_forfeited(&self) -> bool {
        self.forfeited.is_set()
    }

    /// Changes what all rings run with. On return no core and no ring refers to the memory there was before, and every
    /// ring that can run with the new one does.
    pub(super) fn set_environment(&mut self, environment: Option<Environment>) {
        let taken = self.take_all();
        self.environment = environment;
        for (n, pair) in taken {
            self.give(n, pair);
        }
    }

    /// Stops every ring and forgets how it was set up.
    pub(super) fn reset(&mut self) {
        drop(self.take_all());
        self.rings.fill_with(Ring::default);
    }

    /// Enables every ring: what SET_FEATURES without protocol features means.
    pub(super) fn enable_all(&mut self) {
        for index in 0..self.rings.len() as u32 {
            // The index is in range by construction.
            let _ = self.enable(index, true);
        }
    }

    pub(super) fn is_running(&self, index: usize) -> bool {
        self.rings.get(index).is_some_and(|ring| ring.started && ring.enabled)
    }

    pub(super) fn any_started(&self) -> bool {
        self.rings.iter().any(|ring| ring.started)
    }

    /// Index and size of every started ring.
    pub(super) fn started(&self) -> Vec<(usize, u32)> {
        self.rings.iter().enumerate().filter(|(_, ring)| ring.started).map(|(i, ring)| (i, ring.size)).collect()
    }

    /// Rings that could not be started since the last time this was asked.
    pub(super) fn take_refusals(&mut self) -> Vec<(usize, RingError)> {
        std::mem::take(&mut self.refusals)
    }

    /// The eventfds to read, with their rings' indices: all but those that the host reads.
    pub(super) fn kicks(&self) -> impl Iterator<Item = (usize, &KickFd)> {
        let spared = self.host.reads_kicks();
        self.rings.iter().enumerate().filter_map(move |(index, ring)| match &ring.kick {
            Kick::Fd { .. } if spared && ring.started && !index.is_multiple_of(2) => None,
            Kick::Fd { file, .. } => Some((index, file)),
            Kick::Unset | Kick::NoFd => None,
        })
    }

    /// Reads a ring's kick eventfd and counts what was in it.
    pub(super) fn count_kicks(&self, index: usize) {
        let (Some(ring), Some(pair)) = (self.rings.get(index), self.pairs.get(index / 2)) else { return };
        if let Kick::Fd { file, suppressed } = &ring.kick {
            let kicks = file.read();
            if *suppressed && kicks > 0 {
                pair.counters.kicks.add(kicks);
                self.host.kicked(index, kicks);
            }
        }
    }

    fn take(&mut self, n: usize) -> QueuePair {
        let taken = if std::mem::take(&mut self.pairs[n].attached) { self.host.take_back(n) } else { None };
        taken.unwrap_or_else(|| {
            self.rings[2 * n].started = false;
            self.rings[2 * n + 1].started = false;
            QueuePair::new(Arc::clone(&self.pairs[n].counters))
        })
    }

    fn take_all(&mut self) -> Vec<(usize, QueuePair)> {
        (0..self.pairs.len())
            .map(|n| {
                let mut pair = self.take(n);
                self.stop_in(&mut pair, 2 * n);
                self.stop_in(&mut pair, 2 * n + 1);
                (n, pair)
            })
            .collect()
    }

    /// Stops a ring of a pair that was taken back, and keeps what it knew.
    fn stop_in(&mut self, pair: &mut QueuePair, index: usize) {
        let stopped =
            if index.is_multiple_of(2) { pair.rx.take().map(RxQueue::stop) } else { pair.tx.take().map(TxQueue::stop) };
        let Some((base, call)) = stopped else { return };
        let ring = &mut self.rings[index];
        // A packed ring says it twice; the lower half is what a start takes.
        ring.base = base & 0xffff;
        ring.call = call;
        ring.started = false;
    }

    /// Starts what can be started and hands the pair to its core, if it has a ring to serve.
    fn give(&mut self, n: usize, mut pair: QueuePair) {
        for index in [2 * n, 2 * n + 1] {
            if !self.rings[index].started
                && let Err(error) = self.start_in(&mut pair, index)
            {
                self.refusals.push((index, error));
            }
        }
        if pair.rx.is_some() || pair.tx.is_some() {
            self.pairs[n].attached = true;
            self.host.attach(n, pair);
        }
    }

    fn start_in(&mut self, pair: &mut QueuePair, index: usize) -> Result<(), RingError> {
        let forfeited = self.calls_forfeited();
        let ring = &mut self.rings[index];
        let (Some(Environment { features, memory }), Some(setup)) = (&self.environment, ring.setup(index)) else {
            return Ok(());
        };
        let counters = Arc::clone(&self.pairs[index / 2].counters);
        let memory = Arc::clone(memory);
        if forfeited {
            ring.call = None;
        }
        if index.is_multiple_of(2) {
            let mut queue = RxQueue::start(*features, memory, &setup, counters)?;
            queue.set_moderation(self.moderation);
            queue.set_enabled(ring.enabled);
            queue.share_forfeit(self.forfeited.clone());
            queue.set_call(ring.call.take());
            pair.rx = Some(queue);
        } else {
            let mut queue = TxQueue::start(*features, memory, &setup, counters)?;
            queue.set_moderation(self.moderation);
            queue.set_enabled(ring.enabled);
            queue.share_forfeit(self.forfeited.clone());
            queue.set_call(ring.call.take());
            queue.set_kick(match &ring.kick {
                Kick::Fd { file, .. } => Some(file.clone()),
                Kick::Unset | Kick::NoFd => None,
            });
            pair.tx = Some(queue);
        }
        ring.started = true;
        if let Kick::Fd { file, suppressed: suppressed @ false } = &mut ring.kick {
            // What the driver sent before it could see that kicks are not wanted. (virtio-user rings each doorbell once more when its
            // start is complete, whatever it was told: those are counted, being kicks.)
            file.read();
            *suppressed = true;
        }
        Ok(())
    }
}

enum Side<'a> {
    Rx(&'a mut RxQueue),
    Tx(&'a mut TxQueue),
}

fn side_of(pair: &mut QueuePair, index: usize) -> Option<Side<'_>> {
    if index.is_multiple_of(2) { pair.rx.as_mut().map(Side::Rx) } else { pair.tx.as_mut().map(Side::Tx) }
}

impl Drop for Rings {
    /// No queue pair stays on a core when its session is gone.
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

//! A guest's port: its session on one side, the I/O cores on the other.

mod kicks;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use config::Mode;
use pmd_bindings::{tsc, tsc_hz};
use vm_ports::session::{
    FeatureSwitches, Negotiated, PortSettings, QueueHost, SessionEvent, SessionHandle, SocketAccess, SocketRole, spawn,
};
use vm_ports::{Moderation, QueueCounters, QueuePair, RingFault};

use self::kicks::Kicks;
use super::accounting::SourceId;
use super::error::DataplaneError;
use super::fabric::Fabric;
use super::load::{Place, Traffic, queue_id};
use super::mailbox::Message;
use super::ports::{PortTable, Receiver, Way};
use super::turns::Share;
use crate::forwarding::{MacAddr, PortId};
use crate::snapshot::SessionSnapshot;

/// Not on any core.
const NOWHERE: usize = usize::MAX;

/// Ring stops by [`RingFault`].
pub(super) type Faults = [u64; RingFault::ALL.len()];

/// The first reason that was counted more often than before.
fn risen(now: &Faults, before: &Faults) -> Option<RingFault> {
    RingFault::ALL
        .into_iter()
        .zip(now.iter().zip(before))
        .find(|(_, (now, before))| now > before)
        .map(|(fault, _)| fault)
}

/// A running guest port.
pub(super) struct Guest {
    pub(super) config: config::GuestConfig,
    pub(super) host: Arc<GuestHost>,
    session: SessionHandle,
    /// Faults that have been reported.
    faults: Faults,
}

/// What the session hands queue pairs to.
pub(super) struct GuestHost {
    name: String,
    pub(super) port: PortId,
    /// Whether the configuration says which core it is to be on.
    pinned: bool,
    /// Those that NICs are asked to steer by.
    addresses: Vec<[u8; 6]>,
    /// Class, weight and mode, for each queue pair.
    pub(super) share: Share,
    fabric: Arc<Fabric>,
    pub(super) queues: Vec<GuestQueue>,
    state: Mutex<GuestState>,
    /// Held by whoever attaches, takes back or moves a queue pair: each of these ends before the next begins.
    changes: Mutex<()>,
    /// Whether one of its queue pairs is on its way from core to core.
    moving: AtomicBool,
    /// Whether the guest is gone, and the session is not.
    closed: AtomicBool,
    /// Whether a core has yet to announce it.
    announcing: Arc<AtomicBool>,
}

/// A queue pair's place, and what it counts.
pub(super) struct GuestQueue {
    pub(super) source: SourceId,
    pub(super) counters: Arc<QueueCounters>,
    pub(super) kicks: Kicks,
    /// Where it goes when its rings start.
    home: AtomicUsize,
    /// Where it is.
    at: AtomicUsize,
    /// How often it moved, and when last: milliseconds since 1970, 0 where it never did.
    moves: AtomicU64,
    moved_ms: AtomicU64,
}

/// A queue pair's new place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The I/O core that it was on, or was to go to.
    pub(crate) from: usize,
    /// The I/O core that it is on now, or will go to.
    pub(crate) to: usize,
    /// Cycles in which no core served it; nothing where its rings are not started, or where it was there already.
    pub(crate) pause: Option<u64>,
}

/// What the session said last.
#[derive(Debug, Default, Clone)]
pub(super) struct GuestState {
    pub(super) connected: bool,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) error: Option<String>,
    pub(super) mtu: Option<u16>,
    /// Ring faults before the frontend connected, or its driver started anew.
    faults_before: Faults,
}

impl GuestQueue {
    pub(super) fn new(source: SourceId, core: usize) -> Self {
        Self {
            source,
            counters: Arc::default(),
            kicks: Kicks::default(),
            home: AtomicUsize::new(core),
            at: AtomicUsize::new(NOWHERE),
            moves: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
        }
    }

    /// The core that serves it now.
    pub(super) fn io_core(&self) -> Option<usize> {
        Some(self.at.load(Ordering::Relaxed)).filter(|core| *core != NOWHERE)
    }

    /// How often it moved, and when last, in milliseconds since 1970.
    pub(super) fn moves(&self) -> (u64, Option<u64>) {
        let moved_ms = self.moved_ms.load(Ordering::Relaxed);
        (self.moves.load(Ordering::Relaxed), Some(moved_ms).filter(|ms| *ms > 0))
    }

    fn note_move(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.moved_ms.store(now.as_millis() as u64, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// The core it was placed on, or moved to.
    pub(super) fn home(&self) -> usize {
        self.home.load(Ordering::Relaxed)
    }
}

impl Guest {
    /// Starts the session; its socket is there when this returns.
    pub(super) fn start(
        config: &config::GuestConfig,
        port: PortId,
        fabric: Arc<Fabric>,
        queues: Vec<GuestQueue>,
    ) -> Result<Self, DataplaneError> {
        let name = config.name.as_str().to_owned();
        let host = Arc::new(GuestHost {
            name: name.clone(),
            port,
            pinned: config.io_core.is_some(),
            addresses: addresses(config),
            share: Share::of(config, fabric.mode()),
            fabric,
            queues,
            state: Mutex::default(),
            changes: Mutex::default(),
            moving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            announcing: Arc::default(),
        });
        let session = spawn(settings(config), Arc::<GuestHost>::clone(&host))
            .map_err(|source| DataplaneError::Session { name, source })?;
        Ok(Self { config: config.clone(), host, session, faults: Faults::default() })
    }

    /// What the session counted so far.
    pub(super) fn session(&self) -> SessionSnapshot {
        let counters = self.session.counters();
        SessionSnapshot {
            connections: counters.connections.get(),
            requests: counters.requests.get(),
            refused: counters.refused.get(),
            ring_refusals: counters.ring_refusals.get(),
        }
    }

    /// Why a ring was stopped since the last time this was asked.
    pub(super) fn new_fault(&mut self) -> Option<RingFault> {
        let faults = self.host.faults();
        let new = risen(&faults, &self.faults);
        self.faults = faults;
        new
    }

    /// Tells the session to end, without waiting for it.
    pub(super) fn begin_stop(&self) {
        self.session.begin_stop();
    }

    /// Ends the session, at `deadline` whether it does or not: every queue pair is back, the socket is gone.
    pub(super) fn stop(self, deadline: Instant) -> Arc<GuestHost> {
        if !self.session.stop(deadline) {
            tracing::warn!(
                guest = self.host.name(),
                "its session does not end in time, and is left alone; if a file that its frontend sent hangs in its close (on FUSE, say), this \
                 process cannot end before that file's server does"
            );
            self.host.close();
        }
        self.host
    }
}

impl GuestHost {
    /// The guest's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes every queue pair from its core, in the place of a session that does not. From now on that session is heard no more: port and
    /// sources may be another guest's.
    fn close(&self) {
        let change = self.change();
        self.closed.store(true, Ordering::Relaxed);
        drop(change);
        (0..self.queues.len()).for_each(|index| drop(self.take_back(index)));
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What the session said last.
    pub(super) fn state(&self) -> GuestState {
        self.lock().clone()
    }

    /// How often rings of this port were stopped, by reason.
    pub(super) fn faults(&self) -> Faults {
        std::array::from_fn(|index| {
            self.queues.iter().map(|q| q.counters.tx.faults[index].get() + q.counters.rx.faults[index].get()).sum()
        })
    }

    /// Why a ring is stopped, if one is: a fault since the driver started its rings.
    pub(super) fn stopped(&self) -> Option<RingFault> {
        let before = self.lock().faults_before;
        risen(&self.faults(), &before)
    }

    /// Whether it has an I/O thread of its own.
    pub(super) fn is_own(&self) -> bool {
        self.share.mode == Mode::Trap
    }

    /// Counts the kicks up to now that nobody reads otherwise.
    pub(super) fn count_kicks(&self) {
        self.queues.iter().for_each(|queue| queue.kicks.count_unread(|since| self.fabric.kicked(queue.source, since)));
    }

    /// Every queue pair that is on a core, and where. `rules`: which addresses NICs bring to which core.
    pub(super) fn places(&self, rules: &HashSet<([u8; 6], usize)>) -> impl Iterator<Item = Place> {
        // One of several can go without a rule going with it.
        let alone = self.queues.iter().filter(|queue| queue.io_core().is_some()).count() == 1;
        let is_brought = move |core: usize| alone && self.addresses.iter().any(|mac| rules.contains(&(*mac, core)));
        self.queues.iter().enumerate().filter_map(move |(index, queue)| {
            let core = queue.io_core()?;
            Some(Place {
                queue: queue_id(self.port, index),
                source: queue.source,
                core,
                pinned: self.pinned,
                steered: is_brought(core),
                traffic: Traffic::of(&queue.counters),
                node: queue.counters.node(),
            })
        })
    }

    /// Notes where a queue pair is.
    fn put(&self, queue: &GuestQueue, core: usize) {
        queue.at.store(core, Ordering::Relaxed);
        self.fabric.note_placement();
    }

    fn lock(&self) -> MutexGuard<'_, GuestState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every core send to these receive rings, or no longer.
    fn set_receiver(&self, index: usize, core: Option<usize>) {
        self.fabric.change_table(|table| self.change_receiver(table, index, core));
    }

    fn change_receiver(&self, table: &mut PortTable, index: usize, core: Option<usize>) {
        let queue = index as u16;
        table.change(self.port, |entry| {
            if let Way::Guest(receivers) = &mut entry.way {
                receivers.retain(|receiver| receiver.queue != queue);
                receivers.extend(core.map(|core| Receiver { queue, core: core as u16 }));
                receivers.sort_by_key(|receiver| receiver.queue);
            }
        });
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for the session, whose request waits for the end of a move that is under way.
    fn change_by_session(&self) -> MutexGuard<'_, ()> {
        if self.moving.load(Ordering::Relaxed) {
            self.fabric.move_waits.fetch_add(1, Ordering::Relaxed);
        }
        self.change()
    }

    /// Moves a queue pair to an I/O core that there is; one whose rings are not started will start there. `None` where there is no such
    /// queue pair, or where the switch ends.
    pub(super) fn move_queue(&self, index: usize, to: usize) -> Option<Moved> {
        let _change = self.change();
        self.move_locked(index, to)
    }

    /// The same for a queue pair that is served by I/O core `from`. `None` also where it is not.
    pub(super) fn move_queue_from(&self, index: usize, from: usize, to: usize) -> Option<Moved> {
        let _change = self.change();
        self.queues.get(index)?.io_core().filter(|core| *core == from)?;
        self.move_locked(index, to)
    }

    fn move_locked(&self, index: usize, to: usize) -> Option<Moved> {
        let queue = self.queues.get(index)?;
        let from = queue.io_core().unwrap_or(queue.home());
        let mut pause = None;
        if let Some(from) = queue.io_core().filter(|from| *from != to) {
            let receives =
                |table: &PortTable| table.get(self.port).is_some_and(|entry| entry.has_receiver(index as u16));
            let change = |table: &mut PortTable| {
                if receives(table) {
                    self.change_receiver(table, index, Some(to));
                }
            };
            let what = (queue.source, self.share);
            let moves = self.fabric.moves();
            self.moving.store(true, Ordering::Relaxed);
            let moved = self.fabric.move_pair(&moves, (self.port, index), what, (from, to), change);
            self.moving.store(false, Ordering::Relaxed);
            pause = Some(moved?);
            self.put(queue, to);
            queue.note_move();
        }
        queue.home.store(to, Ordering::Relaxed);
        Some(Moved { from, to, pause })
    }
}

impl QueueHost for GuestHost {
    fn attach(&self, index: usize, pair: QueuePair) {
        let Some(queue) = self.queues.get(index) else { return };
        let _change = self.change_by_session();
        if self.is_closed() {
            return;
        }
        let core = queue.home();
        let receives = pair.rx.as_ref().is_some_and(|rx| rx.is_ready());
        if self.is_own() {
            queue.kicks.leave_unread(pair.tx.as_ref().and_then(|tx| tx.kick().cloned()));
        }
        let (port, source, share) = (self.port, queue.source, self.share);
        let message = Message::Attach { port, queue: index, source, share, pair: Box::new(pair) };
        self.fabric.tell(core, message);
        self.put(queue, core);
        if receives {
            self.set_receiver(index, Some(core));
        }
    }

    fn take_back(&self, index: usize) -> Option<QueuePair> {
        let queue = self.queues.get(index)?;
        let _change = self.change_by_session();
        let core = queue.io_core()?;
        // First nobody sends to it any more, then it leaves its core.
        self.set_receiver(index, None);
        self.put(queue, NOWHERE);
        let pair = self.fabric.take_back(core, self.port, index);
        queue.kicks.count_unread(|since| self.fabric.kicked(queue.source, since));
        queue.kicks.leave_unread(None);
        pair
    }

    fn reads_kicks(&self) -> bool {
        self.is_own()
    }

    fn kicked(&self, ring: usize, kicks: u64) {
        let Some(queue) = self.queues.get(ring / 2).filter(|_| !self.is_closed()) else { return };
        let asked = ring % 2 == 1 && self.fabric.kicked(queue.source, tsc());
        if self.is_own() {
            // A frontend may have given this eventfd for transmit rings, too, and then their thread cannot see what was read.
            self.queues.iter().for_each(|queue| _ = self.fabric.kicked(queue.source, 0));
        }
        queue.kicks.note(asked, kicks);
    }

    fn event(&self, event: SessionEvent) {
        if self.is_closed() {
            return;
        }
        let guest = self.name.as_str();
        match event {
            SessionEvent::Connected => {
                tracing::info!(guest, "frontend connected");
                let faults_before = self.faults();
                *self.lock() = GuestState { connected: true, faults_before, ..GuestState::default() };
            }
            SessionEvent::ConnectFailed { error } => {
                tracing::warn!(guest, "cannot connect to the frontend yet: {error}; trying again");
                self.lock().error = Some(error);
            }
            SessionEvent::Negotiated(negotiated) => {
                tracing::info!(guest, "serving: {negotiated}");
                let faults_before = self.faults();
                let mut state = self.lock();
                state.negotiated = Some(negotiated);
                state.faults_before = faults_before;
            }
            SessionEvent::Mtu(mtu) => {
                tracing::info!(guest, mtu, "the guest's MTU");
                self.lock().mtu = Some(mtu);
            }
            SessionEvent::Announce(mac) => {
                tracing::info!(guest, mac = %MacAddr(mac), "announcing the guest by RARP");
                // One at a time: a frontend may ask for any number, and all that cores are told waits behind them.
                if let Some(queue) = self.queues.first()
                    && !self.announcing.swap(true, Ordering::Relaxed)
                {
                    let (port, source, pending) = (self.port, queue.source, Arc::clone(&self.announcing));
                    let message = Message::Announce { port, source, mac: MacAddr(mac), pending };
                    self.fabric.tell(queue.home(), message);
                }
            }
            SessionEvent::RingRefused { ring, error } => {
                tracing::warn!(guest, ring, "ring refused: {error}");
                self.lock().error = Some(error);
            }
            SessionEvent::RequestRefused { error } => {
                tracing::warn!(guest, "request refused: {error}");
                self.lock().error = Some(error);
            }
            SessionEvent::Disconnected { reason, after } => {
                tracing::info!(guest, after_s = after.as_secs(), "disconnected: {reason}");
                // Whoever sees that nobody is connected may count on the addresses being free.
                self.fabric.flush_port(self.port);
                let mut state = self.lock();
                let error = state.error.take();
                *state = GuestState { error, ..GuestState::default() };
            }
        }
    }

    fn counters(&self, index: usize) -> Arc<QueueCounters> {
        self.queues.get(index).map(|queue| Arc::clone(&queue.counters)).unwrap_or_default()
    }
}

/// The configured addresses of a guest.
pub(super) fn addresses(config: &config::GuestConfig) -> Vec<[u8; 6]> {
    let stations = config.stations.iter().map(|station| station.octets());
    config.mac.map(|mac| mac.octets()).into_iter().chain(stations).collect()
}

fn settings(config: &config::GuestConfig) -> PortSettings {
    let access = &config.socket_access;
    let features = &config.features;
    // The configuration has made sure that the accounts exist.
    let machine = config::Machine::detect();
    PortSettings {
        name: config.name.as_str().to_owned(),
        socket: config.socket.clone(),
        role: match config.socket_role {
            config::SocketRole::Server => SocketRole::Server,
            config::SocketRole::Client => SocketRole::Client,
        },
        access: SocketAccess {
            mode: Some(access.mode.bits()),
            owner: access.owner.as_ref().and_then(|owner| machine.uid(owner)),
            group: access.group.as_ref().and_then(|group| machine.gid(group)),
        },
        queue_pairs: usize::from(config.queue_pairs),
        mtu: config.mtu,
        allow: FeatureSwitches {
            packed: features.packed,
            checksum: features.checksum,
            tso: features.tso,
            mergeable: features.mergeable,
            event_idx: features.event_idx,
            indirect: features.indirect,
            in_order: features.in_order,
        },
        moderation: moderation(config),
    }
}

fn moderation(config: &config::GuestConfig) -> Moderation {
    let cycles = tsc_hz().saturating_mul(config.interrupt_delay_us.into()) / 1_000_000;
    match config.interrupt_moderation {
        config::InterruptModeration::None => Moderation::default(),
        how => Moderation { delay: cycles, adaptive: how == config::InterruptModeration::Adaptive },
    }
}

//! A guest: its memory, its session and its queue pairs, put together.

use std::os::fd::BorrowedFd;

use crate::memory::{Arena, Ram, RamConfig};
use crate::notify::{Bell, KickPolicy};
use crate::ring::{CallMode, Indirect, Ring, RingOptions};
use crate::session::{ListeningSocket, Notify, Order, Role, Session, SessionConfig, VringSetup};
use crate::{Error, Features, Negotiated, PackedRing, RxQueue, RxShape, SplitRing, TxQueue, TxShape};

/// Everything about a guest. [`GuestConfig::new`] gives what a plain guest has.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// The vhost-user side.
    pub session: SessionConfig,
    /// The memory.
    pub ram: RamConfig,
    /// Queue pairs.
    pub queue_pairs: usize,
    /// Entries of each receive ring.
    pub rx_ring: u16,
    /// Entries of each transmit ring.
    pub tx_ring: u16,
    /// Use of indirect tables where INDIRECT_DESC is negotiated.
    pub indirect: Indirect,
    /// Descriptor layout of transmitted frames.
    pub tx_shape: TxShape,
    /// Longest frame that can be transmitted.
    pub tx_frame_len: usize,
    /// Transmit buffers of a queue, if not one for each ring entry: few, hot ones are faster.
    pub tx_buffers: Option<usize>,
    /// Descriptor layout of receive buffers.
    pub rx_shape: RxShape,
    /// Bytes of a receive buffer, header included.
    pub rx_buffer_len: usize,
    /// Receive buffers of a queue, if not one for each ring entry.
    pub rx_buffers: Option<usize>,
    /// Whether the backend gets kick eventfds.
    pub kick: Notify,
    /// Whether the backend gets call eventfds.
    pub call: Notify,
    /// When the guest kicks.
    pub kick_policy: KickPolicy,
    /// When the guest wants calls.
    pub calls: CallMode,
}

impl GuestConfig {
    /// A polling guest in client mode with one queue pair, split rings of 256 entries and buffers for MTU 1500.
    pub fn new(socket: impl Into<std::path::PathBuf>) -> Self {
        GuestConfig {
            session: SessionConfig::new(socket),
            ram: RamConfig::default(),
            queue_pairs: 1,
            rx_ring: 256,
            tx_ring: 256,
            indirect: Indirect::default(),
            tx_shape: TxShape::default(),
            tx_frame_len: 1536,
            tx_buffers: None,
            rx_shape: RxShape::default(),
            rx_buffer_len: 1600,
            rx_buffers: None,
            kick: Notify::Fd,
            call: Notify::Fd,
            kick_policy: KickPolicy::default(),
            calls: CallMode::default(),
        }
    }

    /// Bytes that rings and buffers of all queue pairs take in one region: what [`RamConfig::region_size`] has to be at
    /// least, whatever is negotiated.
    pub fn memory_needed(&self) -> u64 {
        let ring = |size: u16, segments: u16| {
            let size = usize::from(size);
            let tables = if self.indirect == Indirect::Never { 0 } else { size * usize::from(segments) * 16 };
            // Descriptors, avail and used entries take at most 26 bytes each; every part starts on a page at most.
            32 * size + tables + 4 * 4096
        };
        let rx_buffers = self.rx_buffers.unwrap_or(usize::from(self.rx_ring));
        let tx_buffers = self.tx_buffers.unwrap_or(usize::from(self.tx_ring));
        let buffers = rx_buffers * RxQueue::stride(self) + tx_buffers * TxQueue::slot_size(self) + 128;
        let rings = ring(self.rx_ring, self.rx_shape.segments()) + ring(self.tx_ring, self.tx_shape.segments());
        (self.queue_pairs * (rings + buffers)) as u64
    }

    fn ring_options(&self, features: Features, segments: u16) -> RingOptions {
        RingOptions {
            event_idx: features.contains(Features::EVENT_IDX),
            in_order: features.contains(Features::IN_ORDER),
            indirect: if features.contains(Features::INDIRECT_DESC) { self.indirect } else { Indirect::Never },
            max_segments: segments,
            calls: self.calls,
        }
    }
}

/// One receive and one transmit queue. Owned by value and `Send`: it can be driven by any thread.
pub struct QueuePair {
    /// Host to guest.
    pub rx: RxQueue,
    /// Guest to host.
    pub tx: TxQueue,
}

impl QueuePair {
    /// Queue pairs in `ram` without a session, as many as `config` says: for a device in the same process.
    pub fn standalone(ram: &Ram, config: &GuestConfig, features: Features) -> Result<Vec<QueuePair>, Error> {
        let mut arena = Arena::new(ram);
        (0..config.queue_pairs).map(|index| QueuePair::new(&mut arena, index, config, features)).collect()
    }

    fn new(arena: &mut Arena<'_>, index: usize, config: &GuestConfig, features: Features) -> Result<Self, Error> {
        let ring = |arena: &mut Arena<'_>, size, options| {
            // Rings are in the first region, so that the others can be taken away from the backend by themselves.
            Ok::<_, Error>(if features.contains(Features::RING_PACKED) {
                Ring::Packed(PackedRing::new(arena, 0, size, options)?)
            } else {
                Ring::Split(SplitRing::new(arena, 0, size, options)?)
            })
        };
        let bell = || Bell::new(config.kick == Notify::Fd, config.call == Notify::Fd, config.kick_policy);
        let header = (features.header_len(), features.contains(Features::MRG_RXBUF));
        let regions = config.ram.regions;
        let region = |number: usize| if regions > 1 { 1 + number % (regions - 1) } else { 0 };
        let rx_ring = ring(arena, config.rx_ring, config.ring_options(features, config.rx_shape.segments()))?;
        let tx_ring = ring(arena, config.tx_ring, config.ring_options(features, config.tx_shape.segments()))?;
        Ok(QueuePair {
            rx: RxQueue::new(arena, region(2 * index), rx_ring, bell()?, header, config)?,
            tx: TxQueue::new(arena, region(2 * index + 1), tx_ring, bell()?, header.0, config)?,
        })
    }
}

/// Where rings start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// New rings at their beginning: the driver has reset its device. Queue pairs are rebuilt, what was in them is lost.
    Fresh,
    /// The rings as they are, from where the backend said it had stopped ([`Guest::stop`]).
    Stopped,
    /// The rings as they are, from what has been used: when the backend was lost. Whatever it had taken but not used is
    /// taken again. (QEMU can do so for split rings; for packed rings, used chains must have been polled first.)
    Used,
}

/// A guest connected to a backend.
pub struct Guest {
    config: GuestConfig,
    ram: Ram,
    listener: Option<ListeningSocket>,
    session: Session,
    pairs: Vec<QueuePair>,
    bases: Vec<u32>,
}

impl Guest {
    /// Reaches the backend, negotiates, shares memory, starts and enables all rings. Receive rings are full of buffers
    /// from the first moment.
    pub fn start(config: GuestConfig) -> Result<Guest, Error> {
        let mut guest = Guest::negotiate(config)?;
        guest.start_rings(Base::Fresh)?;
        Ok(guest)
    }

    /// Reaches the backend and negotiates, no more: for tests of what may come next. In server mode, waits for the
    /// backend.
    pub fn negotiate(config: GuestConfig) -> Result<Guest, Error> {
        let listener = match config.session.role {
            Role::Server => Some(ListeningSocket::bind(&config.session.socket)?),
            Role::Client => None,
        };
        let ram = Ram::new(&config.ram)?;
        let early = early_bells(&config)?;
        let session = Session::open(&config.session, listener.as_ref(), &call_fds(&early))?;
        let mut guest = Guest { config, ram, listener, session, pairs: Vec::new(), bases: Vec::new() };
        guest.rebuild()?;
        Ok(guest)
    }

    /// Sends features and memory, starts all rings from `base` and enables them.
    pub fn start_rings(&mut self, base: Base) -> Result<(), Error> {
        if base == Base::Fresh && !self.untouched() {
            self.rebuild()?;
        }
        let rings = self.bases_for(base)?;
        if self.config.session.order == Order::Qemu {
            self.enable_all(true)?;
        }
        self.session.set_features()?;
        self.session.set_memory(&self.ram)?;
        for (pair, bases) in rings.chunks(2).enumerate() {
            self.start_pair(pair, [bases[0], bases[1]])?;
        }
        if self.config.session.order == Order::Plain {
            self.enable_all(true)?;
        }
        Ok(())
    }

    /// Stops all rings (SET_VRING_ENABLE 0, GET_VRING_BASE), keeps where they stood and returns it: RX and TX of each
    /// pair.
    pub fn stop(&mut self) -> Result<Vec<u32>, Error> {
        self.enable_all(false)?;
        let rings = 2 * self.pairs.len() as u32;
        self.bases = (0..rings).map(|index| self.session.stop_ring(index)).collect::<Result<_, _>>()?;
        Ok(self.bases.clone())
    }

    /// Closes the socket, at any moment. The rings stay as they are.
    pub fn disconnect(&self) {
        self.session.channel().shutdown();
    }

    /// Closes the socket, connects again (or accepts the backend again), negotiates and starts the rings from `base`.
    ///
    /// # Errors
    /// As for [`Guest::start`]; with rings that are kept, a backend that offers less than before.
    pub fn reconnect(&mut self, base: Base) -> Result<(), Error> {
        self.disconnect();
        let before = self.negotiated().features;
        let fds: Vec<_> = self.pairs.iter().flat_map(QueuePair::call_fds).collect();
        let session = Session::open(&self.config.session, self.listener.as_ref(), &fds)?;
        let now = session.negotiated().features;
        if base != Base::Fresh && now != before {
            return Err(Error::NotOffered(format!("what the rings were built for: {before:?}, only {now:?}")));
        }
        self.session = session;
        if base == Base::Fresh {
            self.rebuild()?;
        }
        self.start_rings(base)
    }

    /// Like [`Guest::reconnect`] with new rings and, before it, a change of configuration (other features, sizes or
    /// shapes, not other memory).
    pub fn reconnect_as(&mut self, change: impl FnOnce(&mut GuestConfig)) -> Result<(), Error> {
        change(&mut self.config);
        self.reconnect(Base::Fresh)
    }

    /// SET_VRING_ENABLE of all rings.
    pub fn enable_all(&self, on: bool) -> Result<(), Error> {
        (0..2 * self.config.queue_pairs as u32).try_for_each(|index| self.session.enable(index, on))
    }

    /// What was negotiated.
    pub fn negotiated(&self) -> &Negotiated {
        self.session.negotiated()
    }

    /// The session, for single messages.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The configuration.
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// The memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Queue pair `index`.
    ///
    /// # Panics
    /// When there is none, or they were taken.
    pub fn pair(&mut self, index: usize) -> &mut QueuePair {
        &mut self.pairs[index]
    }

    /// All queue pairs.
    pub fn pairs(&mut self) -> &mut [QueuePair] {
        &mut self.pairs
    }

    /// Takes the queue pairs, for other threads. The guest must outlive their use, and needs them back
    /// ([`Guest::put_pairs`]) before rings are stopped or resumed.
    pub fn take_pairs(&mut self) -> Vec<QueuePair> {
        std::mem::take(&mut self.pairs)
    }

    /// Puts the queue pairs back.
    pub fn put_pairs(&mut self, pairs: Vec<QueuePair>) {
        self.pairs = pairs;
    }

    /// Sets up ring pair `index` with the given bases (RX, TX), without enabling it.
    pub fn start_pair(&self, index: usize, bases: [u32; 2]) -> Result<(), Error> {
        let pair = &self.pairs[index];
        for (number, ((ring, bell), base)) in [pair.rx.parts(), pair.tx.parts()].into_iter().zip(bases).enumerate() {
            let [descriptors, driver, device] = ring.parts();
            self.session.start_ring(&VringSetup {
                index: (2 * index + number) as u32,
                size: u32::from(ring.size()),
                descriptors: descriptors.frontend(),
                driver: driver.frontend(),
                device: device.frontend(),
                base,
                kick: bell.kick_fd(),
                call: bell.call_fd(),
            })?;
        }
        Ok(())
    }

    fn untouched(&self) -> bool {
        let fresh = |pair: &QueuePair| pair.tx.stats() == Default::default() && pair.rx.stats().buffers == 0;
        self.pairs.len() == self.config.queue_pairs && self.bases.is_empty() && self.pairs.iter().all(fresh)
    }

    fn rebuild(&mut self) -> Result<(), Error> {
        let features = self.session.negotiated().features;
        let most = self.session.negotiated().max_queue_pairs;
        if self.config.queue_pairs as u64 > most {
            return Err(Error::NotOffered(format!("{} queue pairs, only {most}", self.config.queue_pairs)));
        }
        self.bases.clear();
        self.pairs = QueuePair::standalone(&self.ram, &self.config, features)?;
        Ok(())
    }

    fn bases_for(&self, base: Base) -> Result<Vec<u32>, Error> {
        let rings = self.pairs.iter().flat_map(|p| [p.rx.parts().0, p.tx.parts().0]);
        match base {
            Base::Fresh => Ok(rings.map(Ring::fresh_base).collect()),
            Base::Used => Ok(rings.map(Ring::base_from_used).collect()),
            Base::Stopped if self.bases.len() == 2 * self.pairs.len() => Ok(self.bases.clone()),
            Base::Stopped => Err(Error::Config("the rings were not stopped".into())),
        }
    }
}

impl QueuePair {
    fn call_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.rx.parts().1.call_fd(), self.tx.parts().1.call_fd()].into_iter().flatten()
    }
}

/// Eventfds for the calls that QEMU sets before there are rings: nobody listens to them.
fn early_bells(config: &GuestConfig) -> Result<Vec<Bell>, Error> {
    let wanted = config.session.order == Order::Qemu && config.call == Notify::Fd;
    let count = if wanted { 2 * config.queue_pairs } else { 0 };
    (0..count).map(|_| Bell::new(false, true, KickPolicy::Never)).collect()
}

fn call_fds(bells: &[Bell]) -> Vec<BorrowedFd<'_>> {
    bells.iter().filter_map(Bell::call_fd).collect()
}

//! A guest's transmit queue: packets out of the ring, completions back into it.

use std::fs::File;
use std::sync::Arc;

use crate::call::{Blocked, Call, Forfeit};
use crate::counters::{QueueCounters, RingFault, TxCounters, TxDrop};
use crate::features::Features;
use crate::kick::KickFd;
use crate::memory::{GuestMemory, GuestSlice, RingWatch, Source, full_fence};
use crate::moderation::Moderation;
use crate::net_header::{NET_HEADER_MAX, Offload};
use crate::packet::{BURST_BYTES, BURST_PACKETS, Burst, BurstSegments, FRAME_MAX, FRAME_MIN, Packet};
use crate::ring::{ChainError, Direction, Ring, RingError, RingSetup, Singles, Sink, Translator};

/// Descriptors looked at in one pull after which it takes no further chain of several; short segments to be cut count as well. A burst of 64 KiB in pieces of a page, with headers
/// apart, stays far below it; a guest that sends descriptors without bytes, or nothing that is accepted, does not make its neighbours wait.
const PULL_DESCRIPTORS: usize = 1024;
/// What one [`TxQueue::pull`] took from the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Packets, those that were dropped included.
    pub packets: usize,
    /// Bytes of the frames that were not dropped.
    pub bytes: usize,
    /// Ring slots, those of packets that were dropped included.
    pub slots: usize,
    /// Descriptors of chains of several, and, for each frame more that a packet with [short segments](Offload::short_segments) is cut into, as many as
    /// that costs: what the packets' number and bytes do not say.
    pub descriptors: usize,
}

impl Pulled {
    /// Whether a burst of `most` packets had to end, so that there may be more in the ring.
    #[inline]
    pub fn is_full(&self, most: usize) -> bool {
        self.packets >= most || self.bytes >= BURST_BYTES || self.descriptors >= PULL_DESCRIPTORS
    }
}

/// The device side of one TX virtqueue. Owned by one I/O core at a time.
#[derive(Debug)]
pub struct TxQueue {
    ring: Ring,
    features: Features,
    enabled: bool,
    /// Set when the ring can no longer be worked with; it is not touched again until the session restarts it.
    fault: Option<RingFault>,
    region_hint: usize,
    /// Chains of the last pull: as many are looked for before the next one.
    last_pull: u16,
    call: Call,
    /// What the driver kicks with.
    kick: Option<KickFd>,
    memory: Arc<GuestMemory>,
    counters: Arc<QueueCounters>,
}

impl TxQueue {
    /// Starts the ring: from now on the guest is told not to kick.
    pub fn start(
        features: Features,
        memory: Arc<GuestMemory>,
        setup: &RingSetup,
        counters: Arc<QueueCounters>,
    ) -> Result<Self, RingError> {
        let ring = Ring::start(&memory, setup, features)?;
        counters.note_node(memory.node_of(setup.descriptors));
        let size = ring.size();
        Ok(Self {
            ring,
            features,
            enabled: false,
            fault: None,
            region_hint: 0,
            last_pull: 0,
            call: Call::new(Moderation::default(), size),
            kick: None,
            memory,
            counters,
        })
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Sets the eventfd that interrupts the guest, signals it once unless the driver polls (a completion may have been published to the
    /// old one) and returns the old one.
    pub fn set_call(&mut self, call: Option<File>) -> Option<File> {
        let (old, called) = self.call.replace(&self.ring, call);
        self.heed(called);
        old
    }

    /// Sets the eventfd that the driver kicks with. Whoever serves the queue may wait for it; it is read, and counted, by the session, or by its
    /// host.
    pub fn set_kick(&mut self, kick: Option<KickFd>) {
        self.kick = kick;
    }

    /// What the driver kicks with; nothing where it cannot.
    pub fn kick(&self) -> Option<&KickFd> {
        self.kick.as_ref()
    }

    /// Has the driver kick for the next packet. Before anybody relies on it a [`fence`](crate::fence) has to follow, and then
    /// [`TxQueue::has_work`]: what came before the driver could see the wish comes without a kick.
    pub fn ask_for_kick(&mut self) {
        if self.fault.is_none() {
            self.ring.ask_for_kick();
        }
    }

    /// Has it not kick, as from the start of the ring.
    pub fn suppress_kicks(&mut self) {
        if self.fault.is_none() {
            self.ring.suppress_kicks();
        }
    }

    /// A frontend that makes calls block loses the ring.
    #[inline]
    fn heed<T: Default>(&mut self, called: Result<T, Blocked>) -> T {
        called.unwrap_or_else(|Blocked| {
            self.fault = Some(stop(&self.counters.tx, RingFault::CallBlocked));
            T::default()
        })
    }

    /// A ring that is started but not enabled is drained and its packets discarded (vhost-user, "Ring states").
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Whether what is pulled is looked at.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Shares what becomes of calls with the port's other rings: one that a frontend makes block costs all of them theirs.
    pub(crate) fn share_forfeit(&mut self, forfeited: Forfeit) {
        self.call.share(forfeited);
    }

    /// How calls are held back from now on; at first they are not.
    pub fn set_moderation(&mut self, moderation: Moderation) {
        self.call.moderate(moderation, self.ring.size());
    }

    /// Why the ring was stopped, if it was.
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Stops the ring; returns where it stood, as `GET_VRING_BASE` wants it.
    pub fn stop(mut self) -> (u32, Option<File>) {
        self.complete();
        (self.ring.base(), self.call.take())
    }

    /// Whether there is something to pull.
    #[inline]
    pub fn has_work(&mut self) -> bool {
        self.fault.is_none() && self.ring.has_work()
    }

    /// A watch for the next packet, while nothing is pulled.
    pub fn watch(&self) -> RingWatch {
        self.ring.watch()
    }

    /// How many ring slots hold work that was not pulled, up to [`TxQueue::size`], whatever the guest wrote; 0 for a ring that was stopped. A
    /// split ring knows it since it last had to look for more; a packed one looks for it now, and may find up to [`BURST_PACKETS`] too few, but
    /// 0 only where nothing is there.
    #[inline]
    pub fn backlog(&self) -> u16 {
        if self.fault.is_some() { 0 } else { self.ring.backlog() }
    }

    /// Pulls packets into `burst` until the ring or the burst's room is exhausted; takes no more chains than the burst may have packets. They are the
    /// guest's again after [`TxQueue::complete`].
    // Always: where a switch has a second, rare caller the compiler would leave it a call in the first one, too.
    #[inline(always)]
    pub fn pull<'a>(&'a mut self, burst: &mut Burst<'a>) -> Pulled {
        let Self { ring, features, enabled, fault, region_hint, last_pull, memory, counters, .. } = self;
        let counters: &TxCounters = &counters.tx;
        if fault.is_some() {
            return Pulled::default();
        }
        if memory.is_truncated() {
            *fault = Some(stop(counters, RingFault::MemoryLost));
            return Pulled::default();
        }
        let (features, header_len) = (*features, features.net_header_len());
        let mut translator = Translator::new(memory, region_hint);
        ring.expect(BURST_PACKETS);
        let mut singles = Singles::new();
        let packets_max = burst.most();
        let (mut taken, mut bytes, mut visited) = (0, 0, 0);
        // Slots of chains beyond one for each.
        let mut more_slots = 0;
        while taken < packets_max && visited < PULL_DESCRIPTORS && burst.has_room() && ring.stageable() > 0 {
            // First all buffers, so that what they hold is on its way to this CPU at the same time; then the packets in them.
            let most = (packets_max - taken).min(ring.stageable());
            ring.singles(&mut translator, Direction::Read, most, &mut singles);
            singles.iter().for_each(|single| single.buffer.prefetch_read());
            let mut passed = 0;
            while let Some(single) = singles.get(passed).filter(|_| burst.has_room()) {
                if *enabled {
                    let buffers = singles[passed..].iter().map(|single| single.buffer.into());
                    let (count, len) = burst.seal_run(buffers, header_len);
                    passed += count;
                    bytes += len;
                    if count > 0 {
                        continue;
                    }
                }
                let accepted = if *enabled {
                    accept_one(burst, single.buffer, features, header_len)
                } else {
                    Err(TxDrop::RingDisabled)
                };
                passed += 1;
                match accepted {
                    Ok(len) => {
                        bytes += len;
                        visited += segment_work(burst);
                    }
                    Err(reason) => counters.drops[reason as usize].add(1),
                }
                if visited >= PULL_DESCRIPTORS {
                    break;
                }
            }
            ring.pass(&singles[..passed], std::iter::repeat(0));
            taken += passed;
            if ring.is_drained() {
                break;
            }
            if passed > 0 {
                continue;
            }
            // A chain of several parts, or a bad one.
            let first = burst.segments_mut().len();
            let (mark, before) = (ring.mark(), visited);
            let mut parts = Parts { segments: burst.segments_mut(), visited: &mut visited };
            let walked = match ring.take(&mut translator, Direction::Read, &mut parts) {
                Ok(Some((chain, walked))) => {
                    ring.stage(chain, 0);
                    taken += 1;
                    more_slots += usize::from(chain.slots) - 1;
                    // A bad chain of a packed ring was followed to its end.
                    visited = visited.max(before + usize::from(chain.slots));
                    walked
                }
                Ok(None) => break,
                Err(reason) => {
                    ring.rewind(mark);
                    burst.segments_mut().truncate(first);
                    *fault = Some(stop(counters, reason));
                    break;
                }
            };
            let accepted = match walked {
                Ok(()) if *enabled => accept(burst, first, features, header_len),
                Ok(()) => Err(TxDrop::RingDisabled),
                Err(ChainError::Malformed) => Err(TxDrop::MalformedChain),
                Err(ChainError::BadAddress) => Err(TxDrop::BadAddress),
            };
            match accepted {
                Ok(len) => {
                    bytes += len;
                    visited += segment_work(burst);
                }
                Err(reason) => {
                    burst.segments_mut().truncate(first);
                    counters.drops[reason as usize].add(1);
                }
            }
        }
        *last_pull = taken as u16;
        if taken > 0 {
            counters.packets.add(taken as u64);
            counters.bytes.add(bytes as u64);
        }
        Pulled { packets: taken, bytes, slots: taken + more_slots, descriptors: visited }
    }

    /// Gives everything pulled back to the guest, with one publication. [`TxQueue::notify`] comes next, after a [`fence`](crate::fence).
    #[inline]
    pub fn publish(&mut self) {
        self.ring.publish();
    }

    /// Has the CPU fetch what the next pull will need, as far as it is known to be there: while the [`fence`](crate::fence) waits.
    #[inline]
    pub fn look_ahead(&mut self) {
        if self.fault.is_none() && self.last_pull > 0 {
            self.ring.look_ahead(self.memory.window(self.region_hint), Direction::Read, self.last_pull);
        }
    }

    /// Calls the guest if it wants to hear of what was published, at the time `now`. Where the call is held back: until when. By then at the
    /// latest [`TxQueue::release_by`] has to be called, and [`TxQueue::release`] before nobody does that any more.
    #[inline]
    pub fn notify(&mut self, now: u64) -> Option<u64> {
        let called = self.call.notify(&mut self.ring, now, |ring| !ring.is_drained(), self.counters.tx.tally());
        self.heed(called)
    }

    /// Calls the guest, at the time `now`, if its call is held back until `time` at the latest, be that later than `now`; until when it is, if
    /// for longer.
    pub fn release_by(&mut self, time: u64, now: u64) -> Option<u64> {
        let called = self.call.release_by(&mut self.ring, (time, now), self.counters.tx.tally());
        self.heed(called)
    }

    /// Calls the guest now, if its call is held back.
    #[inline]
    pub fn release(&mut self) {
        let called = self.call.release(&mut self.ring, self.counters.tx.tally());
        self.heed(called);
    }

    /// Gives everything pulled back to the guest: one publication, and a call if the guest wants one.
    #[inline]
    pub fn complete(&mut self) {
        self.release();
        self.publish();
        full_fence();
        let called = self.call.judge(&mut self.ring, self.counters.tx.tally());
        self.heed(called);
    }
}

/// Where a walk puts the parts of a chain.
struct Parts<'s, 'a> {
    segments: &'s mut BurstSegments<'a>,
    visited: &'s mut usize,
}

impl<'a> Sink<'a> for Parts<'_, 'a> {
    #[inline]
    fn visit(&mut self) -> bool {
        *self.visited += 1;
        true
    }

    #[inline]
    fn put(&mut self, slice: GuestSlice<'a>) -> bool {
        self.segments.try_push(slice.into()).is_ok()
    }
}

fn stop(counters: &TxCounters, reason: RingFault) -> RingFault {
    counters.faults[reason as usize].add(1);
    reason
}

/// What the frames take that the last packet is cut into, in descriptors.
fn segment_work(burst: &Burst<'_>) -> usize {
    burst.last().map_or(0, Packet::segment_work)
}

/// Makes a packet of a buffer, whatever its virtio-net header asks for. Returns the frame's length.
fn accept_one<'a>(
    burst: &mut Burst<'a>,
    buffer: GuestSlice<'a>,
    features: Features,
    header_len: usize,
) -> Result<usize, TxDrop> {
    // Be it 10 or 12 bytes long, 12 bytes are there: those and the shortest frame.
    let (header, frame) = Source::from(buffer).split_array(header_len, FRAME_MIN).ok_or(TxDrop::BadLength)?;
    let offload = Offload::parse(&header, features, frame.len()).ok_or(TxDrop::BadOffload)?;
    burst.seal_one(frame, offload)?;
    Ok(frame.len())
}

/// Makes a packet of the chain whose parts are the burst's segments from `first` on: virtio-net header, then the frame. Returns the
/// frame's length.
fn accept(burst: &mut Burst<'_>, first: usize, features: Features, header_len: usize) -> Result<usize, TxDrop> {
    let parts = &mut burst.segments_mut()[first..];
    let end = first + parts.len();
    let len = parts.iter().map(Source::len).sum::<usize>().checked_sub(header_len).ok_or(TxDrop::BadLength)?;
    if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
        return Err(TxDrop::BadLength);
    }
    let header = match parts.first().and_then(Source::read_array) {
        // 12 bytes are there at least, so the first part holds all of the header, be it 10 or 12 bytes long.
        Some(header) => {
            parts[0] = parts[0].suffix(header_len);
            header
        }
        None => scattered_header(parts, header_len),
    };
    let offload = Offload::parse(&header, features, len).ok_or(TxDrop::BadOffload)?;
    burst.seal(first..end, len, offload)?;
    Ok(len)
}

/// A header in any layout: it may share its buffer with the frame or be spread over several (§2.7.4).
#[cold]
fn scattered_header(parts: &mut [Source<'_>], len: usize) -> [u8; NET_HEADER_MAX] {
    let mut header = [0; NET_HEADER_MAX];
    let mut filled = 0;
    for part in parts {
        let n = part.read(&mut header[filled..len]);
        *part = part.suffix(n);
        filled += n;
        if filled == len {
            break;
        }
    }
    header
}

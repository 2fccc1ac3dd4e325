//! A guest's transmit queue: packets out of the ring, completions back into it.

use std::fs::File;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::call::{Call, Signal};
use crate::counters::{QueueCounters, RingFault, TxCounters, TxDrop};
use crate::features::Features;
use crate::memory::{GuestMemory, Source, full_fence};
use crate::net_header::{NET_HEADER_MAX, Offload};
use crate::packet::{BURST_PACKETS, Burst, FRAME_MAX, FRAME_MIN};
use crate::ring::{ChainError, Direction, Ring, RingError, RingSetup, Translator};

/// Bytes at the beginning of each buffer that are brought into the cache before they are read: headers. What follows is a sequence, which
/// the CPU's own prefetchers recognise.
const READ_AHEAD: usize = 128;

/// The device side of one TX virtqueue. Owned by one I/O core at a time.
#[derive(Debug)]
pub struct TxQueue {
    ring: Ring,
    features: Features,
    enabled: bool,
    /// Set when the ring can no longer be worked with; it is not touched again until the session restarts it.
    fault: Option<RingFault>,
    region_hint: usize,
    call: Call,
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
        Ok(Self {
            ring,
            features,
            enabled: false,
            fault: None,
            region_hint: 0,
            call: Call::default(),
            memory,
            counters,
        })
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Sets the eventfd that interrupts the guest, signals it once (a completion may have been published to the old one) and
    /// returns the old one.
    pub fn set_call(&mut self, call: Option<File>) -> Option<File> {
        let (old, signal) = self.call.replace(call);
        if signal == Signal::Blocked {
            self.called(signal);
        }
        old
    }

    #[inline]
    fn called(&mut self, signal: Signal) {
        let counters = &self.counters.tx;
        match signal {
            Signal::Sent => counters.calls.add(1),
            Signal::Suppressed => counters.calls_suppressed.add(1),
            Signal::Blocked => self.fault = Some(stop(counters, RingFault::CallBlocked)),
        }
    }

    /// A ring that is started but not enabled is drained and its packets discarded (vhost-user, "Ring states").
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
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

    /// Brings what [`TxQueue::has_work`] will read into the cache: for whoever looks at many queues, ahead of its turn.
    #[inline]
    pub fn prefetch_work(&self) {
        self.ring.prefetch_work();
    }

    /// Pulls packets into `burst` until the ring or the burst's room is exhausted; takes at most [`BURST_PACKETS`] chains. They are the
    /// guest's again after [`TxQueue::complete`].
    #[inline]
    pub fn pull<'a>(&'a mut self, burst: &mut Burst<'a>) {
        let Self { ring, features, enabled, fault, region_hint, memory, counters, .. } = self;
        let mut translator = Translator { memory, hint: region_hint };
        let counters: &TxCounters = &counters.tx;
        if fault.is_some() {
            return;
        }
        if translator.memory.is_truncated() {
            *fault = Some(stop(counters, RingFault::MemoryLost));
            return;
        }
        ring.expect(BURST_PACKETS);
        // First all chains, so that what they hold is on its way to this CPU at the same time; then the packets in them.
        let mut chains = ArrayVec::<Found, BURST_PACKETS>::new();
        let mut room = burst.room();
        while !chains.is_full() && room > 0 && burst.has_segments() && ring.can_stage(1) {
            let first = burst.segments_mut().len();
            if let Some((chain, buffer)) = ring.single(&mut translator, Direction::Read) {
                ring.advance(chain);
                ring.stage(chain, 0);
                let part = Source::from(buffer);
                part.prefetch(READ_AHEAD);
                room = room.saturating_sub(part.len());
                chains.push(Found { first, count: 1, len: part.len(), walked: Ok(()) });
                burst.segments_mut().push(part);
                continue;
            }
            let (chain, walked) = match ring.take(&mut translator, Direction::Read, burst.segments_mut()) {
                Ok(Some(taken)) => taken,
                Ok(None) => break,
                Err(reason) => {
                    burst.segments_mut().truncate(first);
                    *fault = Some(stop(counters, reason));
                    break;
                }
            };
            ring.stage(chain, 0);
            if walked.is_err() {
                burst.segments_mut().truncate(first);
            }
            let parts = &burst.segments_mut()[first..];
            let (count, len) = (parts.len(), parts.iter().map(Source::len).sum::<usize>());
            parts.iter().take(2).for_each(|part| part.prefetch(READ_AHEAD));
            room = room.saturating_sub(len);
            let walked = walked.map_err(|error| match error {
                ChainError::Malformed => TxDrop::MalformedChain,
                ChainError::BadAddress => TxDrop::BadAddress,
            });
            chains.push(Found { first, count, len, walked });
        }
        let (packets, mut bytes) = (chains.len(), 0);
        for chain in chains {
            let accepted = match chain.walked {
                Ok(()) if !*enabled => Err(TxDrop::RingDisabled),
                Ok(()) => accept(burst, &chain, *features),
                Err(reason) => Err(reason),
            };
            match accepted {
                Ok(len) => bytes += len,
                Err(reason) => counters.drops[reason as usize].add(1),
            }
        }
        if packets > 0 {
            counters.packets.add(packets as u64);
            counters.bytes.add(bytes as u64);
        }
    }

    /// Gives everything pulled back to the guest, with one publication. [`TxQueue::notify`] comes next, after a [`fence`](crate::fence).
    #[inline]
    pub fn publish(&mut self) {
        self.ring.publish();
    }

    /// Calls the guest if it wants to hear of what was published.
    #[inline]
    pub fn notify(&mut self) {
        if let Some(wanted) = self.ring.wants_call() {
            let signal = self.call.signal(wanted);
            self.called(signal);
        }
    }

    /// Gives everything pulled back to the guest: one publication, and a call if the guest wants one.
    #[inline]
    pub fn complete(&mut self) {
        self.publish();
        full_fence();
        self.notify();
    }
}

/// A chain that was taken: its parts are `count` segments of the burst from `first` on, of `len` bytes in all.
struct Found {
    first: usize,
    count: usize,
    len: usize,
    walked: Result<(), TxDrop>,
}

fn stop(counters: &TxCounters, reason: RingFault) -> RingFault {
    counters.faults[reason as usize].add(1);
    reason
}

/// Makes a packet of a chain: virtio-net header, then the frame. Returns the frame's length.
#[inline]
fn accept(burst: &mut Burst<'_>, chain: &Found, features: Features) -> Result<usize, TxDrop> {
    let header_len = features.net_header_len();
    let len = chain.len.checked_sub(header_len).ok_or(TxDrop::BadLength)?;
    if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
        return Err(TxDrop::BadLength);
    }
    let parts = &mut burst.segments_mut()[chain.first..chain.first + chain.count];
    let header = match parts.first().and_then(Source::read_array) {
        // 12 bytes are there at least, so the first part holds all of the header, be it 10 or 12 bytes long.
        Some(header) => {
            parts[0] = parts[0].suffix(header_len);
            header
        }
        None => scattered_header(parts, header_len),
    };
    let offload = Offload::parse(&header, features, len).ok_or(TxDrop::BadOffload)?;
    burst.seal(chain.first..chain.first + chain.count, len, offload)?;
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

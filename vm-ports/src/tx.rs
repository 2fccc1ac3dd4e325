//! A guest's transmit queue: packets out of the ring, completions back into it.

use std::fs::File;
use std::sync::Arc;

use crate::call::{Call, Signal};
use crate::counters::{QueueCounters, RingFault, TxCounters, TxDrop};
use crate::features::Features;
use crate::memory::{GuestMemory, Source};
use crate::net_header::{NET_HEADER_MAX, Offload};
use crate::packet::{BURST_PACKETS, Burst, FRAME_MAX, FRAME_MIN};
use crate::ring::{ChainError, Direction, Ring, RingError, RingSetup, Translator};

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
        let (mut packets, mut bytes) = (0, 0);
        while packets < BURST_PACKETS && burst.has_room() && ring.can_stage(1) {
            let first = burst.segments_mut().len();
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
            packets += 1;
            let accepted = match walked {
                Ok(()) if !*enabled => Err(TxDrop::RingDisabled),
                Ok(()) => accept(burst, first, *features),
                Err(ChainError::Malformed) => Err(TxDrop::MalformedChain),
                Err(ChainError::BadAddress) => Err(TxDrop::BadAddress),
            };
            match accepted {
                Ok(len) => bytes += len,
                Err(reason) => {
                    burst.segments_mut().truncate(first);
                    counters.drops[reason as usize].add(1);
                }
            }
        }
        if packets > 0 {
            counters.packets.add(packets as u64);
            counters.bytes.add(bytes as u64);
        }
    }

    /// Gives everything pulled back to the guest: one publication, and a call if the guest wants one.
    #[inline]
    pub fn complete(&mut self) {
        if let Some(wanted) = self.ring.publish() {
            let signal = self.call.signal(wanted);
            self.called(signal);
        }
    }
}

fn stop(counters: &TxCounters, reason: RingFault) -> RingFault {
    counters.faults[reason as usize].add(1);
    reason
}

/// Makes a packet of the segments from `first` on: virtio-net header, then the frame. Returns the frame's length.
#[inline]
fn accept<'a>(burst: &mut Burst<'a>, first: usize, features: Features) -> Result<usize, TxDrop> {
    let header_len = features.net_header_len();
    let parts: &mut [Source<'a>] = &mut burst.segments_mut()[first..];
    // A chain has at most CHAIN_SEGMENTS parts of less than 4 GiB, so this cannot overflow.
    let total: usize = parts.iter().map(Source::len).sum();
    let len = total.checked_sub(header_len).ok_or(TxDrop::BadLength)?;
    if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
        return Err(TxDrop::BadLength);
    }
    let mut header = [0; NET_HEADER_MAX];
    let mut filled = 0;
    // Any layout: the header may share its buffer with the frame or be spread over several (§2.7.4).
    for part in parts {
        let n = part.read(&mut header[filled..header_len]);
        *part = part.suffix(n);
        filled += n;
        if filled == header_len {
            break;
        }
    }
    let offload = Offload::parse(&header, features, len).ok_or(TxDrop::BadOffload)?;
    burst.seal(first, len, offload)?;
    Ok(len)
}

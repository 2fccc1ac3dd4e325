//! An uplink's queues, as one I/O core owns them: frames into mbufs, mbufs out.

use std::sync::Arc;

use arrayvec::ArrayVec;
use pmd_bindings::{Mbuf, Mempool};
use vm_ports::offload::OffloadError;
use vm_ports::{Features, FrameSink, Gso, Offload, Source, View, deliver};

use super::accounting::{Charge, CoreCounters, SourceId, UplinkCounters};
use crate::forwarding::{DropReason, PortId};

/// Frames that wait for the end of the burst, or until there are this many.
const STAGED: usize = 64;
/// Frames one packet can become.
const FRAMES_MAX: usize = vm_ports::offload::MAX_SEGMENTS;
const STAGED_MAX: usize = STAGED + FRAMES_MAX;
/// How often a full TX queue is offered the rest of a burst before that is dropped. A queue drains at the NIC's speed: there is no use in
/// waiting for long.
const TX_TRIES: usize = 4;

/// The TX queue of an uplink.
pub(super) struct UplinkTx {
    pub(super) port: PortId,
    queue: pmd_bindings::TxQueue,
    pool: Mempool,
    frame_max: usize,
    counters: Arc<UplinkCounters>,
    /// The frames of the packet being written.
    frames: ArrayVec<Mbuf, FRAMES_MAX>,
    staged: ArrayVec<Mbuf, STAGED_MAX>,
    /// For each staged mbuf, whose packet ends with it.
    owners: ArrayVec<Option<(SourceId, Charge)>, STAGED_MAX>,
}

impl UplinkTx {
    pub(super) fn new(
        port: PortId,
        queue: pmd_bindings::TxQueue,
        pool: Mempool,
        frame_max: usize,
        counters: Arc<UplinkCounters>,
    ) -> Self {
        Self {
            port,
            queue,
            pool,
            frame_max,
            counters,
            frames: ArrayVec::new(),
            staged: ArrayVec::new(),
            owners: ArrayVec::new(),
        }
    }

    /// Copies a packet into mbufs, whole or not at all. What becomes of it is charged when they are sent.
    pub(super) fn push(
        &mut self,
        view: View<'_>,
        source: SourceId,
        charge: Charge,
        core: &CoreCounters,
    ) -> Result<(), DropReason> {
        if view.packet().len() > self.frame_max && view.packet().offload().gso == Gso::None {
            return Err(DropReason::TooLong);
        }
        let mut sink = MbufSink { pool: &self.pool, frames: &mut self.frames };
        // Checksums and segmentation are done here: no uplink is asked to.
        if let Err(Refused(reason)) = deliver(view, Features::NONE, &mut sink) {
            self.frames.clear();
            return Err(reason);
        }
        // The packet is sent when its last frame is.
        let last = self.frames.len().saturating_sub(1);
        self.owners.extend((0..self.frames.len()).map(|index| (index == last).then_some((source, charge))));
        self.staged.extend(self.frames.drain(..));
        if self.staged.len() >= STAGED {
            self.flush(core);
        }
        Ok(())
    }

    /// The queue, for whoever closes it.
    pub(super) fn into_queue(self) -> pmd_bindings::TxQueue {
        self.queue
    }

    /// Sends what is staged. What the queue will not take is dropped.
    pub(super) fn flush(&mut self, core: &CoreCounters) {
        for _ in 0..TX_TRIES {
            if self.staged.is_empty() {
                return;
            }
            let before = self.staged.len();
            let bytes: ArrayVec<usize, STAGED_MAX> = self.staged.iter().map(Mbuf::len).collect();
            let sent = self.queue.burst(&mut self.staged);
            self.counters.tx_packets.add(sent as u64);
            self.counters.tx_bytes.add(bytes[..sent].iter().sum::<usize>() as u64);
            // Between what was sent and what is left may be one packet that the device could not have sent right.
            let gone = before - self.staged.len();
            for (index, owner) in self.owners.drain(..gone).enumerate() {
                let outcome = if index < sent { Ok(()) } else { Err(DropReason::UplinkFull) };
                settle(core, owner, outcome);
            }
        }
        Mbuf::free_bulk(&mut self.staged);
        for owner in self.owners.drain(..) {
            settle(core, owner, Err(DropReason::UplinkFull));
        }
    }
}

fn settle(core: &CoreCounters, owner: Option<(SourceId, Charge)>, outcome: Result<(), DropReason>) {
    if let Some((source, charge)) = owner {
        core.source(source).settle(charge, outcome);
    }
}

/// Why a packet did not become mbufs.
struct Refused(DropReason);

impl From<OffloadError> for Refused {
    fn from(_: OffloadError) -> Self {
        Self(DropReason::BadOffload)
    }
}

/// Mbufs as a place to write frames to, one frame each.
struct MbufSink<'u> {
    pool: &'u Mempool,
    frames: &'u mut ArrayVec<Mbuf, FRAMES_MAX>,
}

impl FrameSink for MbufSink<'_> {
    type Error = Refused;

    fn begin(&mut self, len: usize, _offload: &Offload) -> Result<(), Refused> {
        let mut mbuf = self.pool.alloc().ok_or(Refused(DropReason::NoMbuf))?;
        mbuf.append(len).ok_or(Refused(DropReason::TooLong))?;
        self.frames.try_push(mbuf).map_err(|_| Refused(DropReason::BadOffload))
    }

    fn write(&mut self, offset: usize, from: Source<'_>) {
        let frame = self.frames.last_mut().and_then(|mbuf| mbuf.data_mut().get_mut(offset..));
        if let Some(frame) = frame {
            from.read(frame);
        }
    }
}

//! Queues: where the packets come in and go out. DPDK has these calls as inline functions over a table of function
//! pointers, so they are written here over the same table.
//!
//! Callbacks (`rte_eth_add_rx_callback` and its like) are not run: this crate adds none, and the processes that
//! could, packet dumpers, cannot attach to an EAL without shared configuration.

use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::ffi;
use crate::mbuf::Mbuf;
use crate::offload::TxOffloads;
use crate::port::PortInner;

type Ops = NonNull<ffi::rte_eth_fp_ops>;

/// The port's line in DPDK's table of fast-path functions.
fn ops_of(port: u16) -> Ops {
    // SAFETY: the id is a port's, hence below RTE_MAX_ETHPORTS, the table's length; the table is static.
    let line = unsafe { (&raw mut ffi::rte_eth_fp_ops).cast::<ffi::rte_eth_fp_ops>().add(usize::from(port)) };
    NonNull::new(line).expect("a static has an address")
}

/// Receives up to `room` packets.
///
/// # Safety
/// The port is configured and has RX queue `queue`, nobody else uses that queue meanwhile, and there is room for
/// `room` pointers at `into`.
#[inline(always)]
unsafe fn receive(ops: Ops, queue: u16, into: *mut *mut ffi::rte_mbuf, room: u16) -> u16 {
    let ops = ops.as_ptr();
    // The line is read anew every time: a driver may exchange its functions while the port runs.
    // SAFETY: ethdev fills the line of a configured port; its array of queues has one entry for each.
    let (function, data) = unsafe { ((*ops).rx_pkt_burst, *(*ops).rxq.data.add(usize::from(queue))) };
    match function {
        // SAFETY: what the caller promises is what a driver's receive function needs.
        Some(function) => unsafe { function(data, into, room) },
        None => 0,
    }
}

/// An RX queue. It can move to another thread, but not be in use by two:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<pmd_bindings::RxQueue>();
/// ```
/// ```compile_fail
/// fn copied<T: Clone>() {}
/// copied::<pmd_bindings::RxQueue>();
/// ```
/// ```
/// fn moved<T: Send>() {}
/// moved::<pmd_bindings::RxQueue>();
/// ```
pub struct RxQueue {
    ops: Ops,
    id: u16,
    port: Arc<PortInner>,
}

// SAFETY: a queue may be used by any thread, one at a time, which ownership sees to. `ops` points to a static.
unsafe impl Send for RxQueue {}

impl std::fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RxQueue").field("port", &self.port.name()).field("id", &self.id).finish()
    }
}

impl RxQueue {
    /// `id` is below the port's number of RX queues, and no other RxQueue has it.
    pub(crate) fn new(port: Arc<PortInner>, id: u16) -> Self {
        Self { ops: ops_of(port.id()), id, port }
    }

    /// The queue's number on its port.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The name of the port.
    pub fn port_name(&self) -> &str {
        self.port.name()
    }

    /// Receives as many packets as there are, or as `into` has room for, and says how many. Some drivers receive
    /// nothing into less room than 4, others 8: give it an empty vector.
    #[inline]
    pub fn burst<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) -> usize {
        let length = into.len();
        let room = u16::try_from(into.remaining_capacity()).unwrap_or(u16::MAX);
        // SAFETY: `length` is within the vector's capacity. Mbuf is a transparent pointer, so that its slots are
        // slots for pointers.
        let slots = unsafe { into.as_mut_ptr().add(length) }.cast();
        // SAFETY: the port runs and has this queue as long as `port` lives; `&mut self` keeps others away; there is
        // room for `room` pointers.
        let received = usize::from(unsafe { receive(self.ops, self.id, slots, room) });
        debug_assert!(received <= usize::from(room));
        // SAFETY: the driver wrote `received` pointers to packets that are now ours behind the first `length`.
        unsafe { into.set_len(length + received) };
        received
    }
}

/// Receives and frees what waits in an RX queue, as far as a full ring can be.
///
/// # Safety
/// The port is started and has that RX queue, and nobody else uses the queue meanwhile.
pub(crate) unsafe fn drain(port: u16, queue: u16) {
    const BURST: usize = 32;
    let ops = ops_of(port);
    for _ in 0..=usize::from(u16::MAX) / BURST {
        let mut packets = [std::ptr::null_mut(); BURST];
        // SAFETY: as the caller promises, with room for BURST pointers.
        let received = unsafe { receive(ops, queue, packets.as_mut_ptr(), BURST as u16) };
        if received == 0 {
            return;
        }
        // SAFETY: the driver wrote that many pointers, to packets of which nobody else knows.
        unsafe { ffi::rte_pktmbuf_free_bulk(packets.as_mut_ptr(), received.into()) };
    }
}

/// A TX queue. It can move to another thread, but not be in use by two:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<pmd_bindings::TxQueue>();
/// ```
/// ```compile_fail
/// fn copied<T: Clone>() {}
/// copied::<pmd_bindings::TxQueue>();
/// ```
/// ```
/// fn moved<T: Send>() {}
/// moved::<pmd_bindings::TxQueue>();
/// ```
pub struct TxQueue {
    ops: Ops,
    id: u16,
    /// The most segments a packet may have.
    max_segments: usize,
    /// Requests in a packet that this queue cannot serve.
    refused_flags: u64,
    /// Whether packets may have requests that the driver has to see first.
    prepares: bool,
    sent_bytes: u64,
    refused: u64,
    port: Arc<PortInner>,
}

// SAFETY: as for RxQueue.
unsafe impl Send for TxQueue {}

impl std::fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxQueue").field("port", &self.port.name()).field("id", &self.id).finish_non_exhaustive()
    }
}

impl TxQueue {
    /// `id` is below the port's number of TX queues, and no other TxQueue has it.
    pub(crate) fn new(port: Arc<PortInner>, id: u16, offloads: TxOffloads, max_segments: u16) -> Self {
        let chained = offloads.contains(TxOffloads::MULTI_SEGMENT);
        Self {
            ops: ops_of(port.id()),
            id,
            max_segments: if chained { usize::from(max_segments) } else { 1 },
            refused_flags: offloads.refused_flags(),
            prepares: !(offloads - TxOffloads::MULTI_SEGMENT).is_empty(),
            sent_bytes: 0,
            refused: 0,
            port,
        }
    }

    /// The queue's number on its port.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The name of the port.
    pub fn port_name(&self) -> &str {
        self.port.name()
    }

    /// Bytes of all packets that [`TxQueue::burst`] has sent since the queue was made.
    #[inline]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Packets that [`TxQueue::burst`] dropped since the queue was made because the device could not have sent them
    /// right: they asked for an offload that was not negotiated, or had too many segments.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Sends packets from the front of the vector and says how many were sent. Those are taken out; what the ring
    /// has no room for stays. A packet that cannot be sent right is taken out, dropped and counted as
    /// [`TxQueue::refused`]; those behind it stay for the next burst.
    #[inline]
    pub fn burst<const N: usize>(&mut self, packets: &mut ArrayVec<Mbuf, N>) -> usize {
        let offered = u16::try_from(packets.len()).unwrap_or(u16::MAX);
        let sendable = self.sendable(packets, offered);
        // Looked at before: what was sent may be gone.
        let bytes = |packets: &[Mbuf]| packets.iter().map(|packet| packet.len() as u64).sum::<u64>();
        self.sent_bytes += bytes(&packets[..sendable.into()]);
        // SAFETY: `sendable` is at most the vector's length, and Mbuf is a transparent pointer.
        let sent = unsafe { self.send(packets.as_mut_ptr().cast(), sendable) };
        if sent < sendable {
            self.sent_bytes -= bytes(&packets[sent.into()..sendable.into()]);
        }
        // SAFETY: the first `sent` packets are the driver's now.
        unsafe { forget_front(packets, sent) };
        if sent == sendable && sendable < offered {
            packets.remove(0);
            self.refused += 1;
        }
        sent.into()
    }

    /// Gives mbufs of packets that are out on the wire back to their pools. Drivers do so by themselves when a ring
    /// fills up; this is for a ring that has gone quiet. Returns how many, or `None` if the driver cannot.
    pub fn reclaim(&mut self) -> Option<usize> {
        // SAFETY: the port runs and has this queue as long as `port` lives; `&mut self` keeps others away.
        let count = unsafe { ffi::rte_eth_tx_done_cleanup(self.port.id(), self.id, 0) };
        usize::try_from(count).ok()
    }

    /// How many of the first `offered` packets can be sent: all up to the first that must be refused.
    #[inline]
    fn sendable(&self, packets: &mut [Mbuf], offered: u16) -> u16 {
        let refused =
            |packet: &Mbuf| packet.flags() & self.refused_flags != 0 || packet.segment_count() > self.max_segments;
        // At most `offered`, hence a u16.
        let count = packets[..offered.into()].iter().position(refused).map_or(offered, |at| at as u16);
        if !self.prepares {
            return count;
        }
        let ops = self.ops.as_ptr();
        // SAFETY: as in `receive`, for this queue, which the port has as long as `port` lives.
        let (function, data) = unsafe { ((*ops).tx_pkt_prepare, *(*ops).txq.data.add(usize::from(self.id))) };
        match function {
            // Writes the pseudo-header checksums this device wants and checks what it cannot do.
            // SAFETY: the first `count` pointers are packets of ours; `&mut self` keeps others from the queue.
            Some(function) => unsafe { function(data, packets.as_mut_ptr().cast(), count) },
            None => count,
        }
    }

    /// # Safety
    /// `packets` points to `count` owned packets; as many as are returned belong to the driver afterwards.
    #[inline(always)]
    unsafe fn send(&mut self, packets: *mut *mut ffi::rte_mbuf, count: u16) -> u16 {
        let ops = self.ops.as_ptr();
        // SAFETY: as in `receive`, for this queue, which the port has as long as `port` lives.
        let (function, data) = unsafe { ((*ops).tx_pkt_burst, *(*ops).txq.data.add(usize::from(self.id))) };
        match function {
            // SAFETY: what the caller promises is what a driver's send function needs; `&mut self` keeps others away.
            Some(function) => unsafe { function(data, packets, count) },
            None => 0,
        }
    }
}

/// Takes the first `count` packets out of the vector without dropping them.
///
/// # Safety
/// `count` is at most the vector's length, and the packets have another owner.
#[inline]
unsafe fn forget_front<const N: usize>(packets: &mut ArrayVec<Mbuf, N>, count: u16) {
    let left = packets.len() - usize::from(count);
    let start = packets.as_mut_ptr();
    // SAFETY: both ranges are within the vector's initialised part. What is overwritten was given away.
    unsafe {
        std::ptr::copy(start.add(usize::from(count)), start, left);
        packets.set_len(left);
    }
}

//! Counters with one writer each: the hot path pays a load and a store, never an atomic read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::call::Tally;

/// A number that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it. Only its one writer may call this: two would lose counts (nothing worse).
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Its value, as of some recent moment.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Overwrites it: for gauges.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Why a packet that a guest sent went no further than its own ring. Each is a counter of [`QueueCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxDrop {
    /// The descriptor chain breaks virtio's rules: a loop, an index out of range, an indirect table in an indirect table, a
    /// device-writable buffer, too many parts.
    MalformedChain,
    /// A buffer is not in guest memory.
    BadAddress,
    /// Shorter than a virtio-net and an Ethernet header, or longer than the largest segment.
    BadLength,
    /// The virtio-net header asks for something impossible or not negotiated.
    BadOffload,
    /// The ring is started but not enabled: it is drained and discarded.
    RingDisabled,
}

impl TxDrop {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::MalformedChain, Self::BadAddress, Self::BadLength, Self::BadOffload, Self::RingDisabled];

    /// The value of the `reason` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedChain => "malformed_chain",
            Self::BadAddress => "bad_address",
            Self::BadLength => "bad_length",
            Self::BadOffload => "bad_offload",
            Self::RingDisabled => "ring_disabled",
        }
    }
}

/// Why a packet could not be put into a guest's receive ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxDrop {
    /// The ring is not started, not enabled, or stopped after an error.
    NotReady,
    /// The guest has no (or not enough) buffers posted.
    Full,
    /// Without mergeable buffers: the next buffer is smaller than the packet.
    BufferTooSmall,
    /// The guest posted a buffer that is not usable; it was given back empty.
    BadBuffer,
    /// The receiver lacks the offload the packet needs and software cannot supply it.
    BadOffload,
}

impl RxDrop {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::NotReady, Self::Full, Self::BufferTooSmall, Self::BadBuffer, Self::BadOffload];

    /// The value of the `reason` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "rx_not_ready",
            Self::Full => "rx_full",
            Self::BufferTooSmall => "rx_buffer_too_small",
            Self::BadBuffer => "rx_bad_buffer",
            Self::BadOffload => "rx_bad_offload",
        }
    }
}

/// Why a ring was stopped: what the guest wrote there cannot be worked with or safely skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The available index is further ahead than the ring is long.
    #[error("the available index jumped further than the ring is long")]
    IndexJump,
    /// The available ring names a descriptor that does not exist.
    #[error("the available ring names a descriptor outside of the table")]
    BadHead,
    /// A packed chain has no end within the ring, or within the 256 descriptors a packet may have.
    #[error("a packed descriptor chain has no end within the ring or 256 descriptors")]
    EndlessChain,
    /// The frontend truncated the memory the ring or its buffers are in.
    #[error("the frontend took guest memory away")]
    MemoryLost,
    /// The frontend made the ring's call eventfd block its writer, or keep it busy.
    #[error("the frontend made the ring's call eventfd block, or take long to be written")]
    CallBlocked,
}

impl RingFault {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::IndexJump, Self::BadHead, Self::EndlessChain, Self::MemoryLost, Self::CallBlocked];

    /// The value of the `reason` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IndexJump => "index_jump",
            Self::BadHead => "bad_head",
            Self::EndlessChain => "endless_chain",
            Self::MemoryLost => "memory_lost",
            Self::CallBlocked => "call_blocked",
        }
    }
}

/// What one queue pair counts, named from the guest's side. The I/O core that owns the pair writes `tx` and `rx`; the session thread writes
/// `kicks`. The value outlives reconnects, so counters never go back.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Guest to switch.
    pub tx: CachePadded<TxCounters>,
    /// Switch to guest.
    pub rx: CachePadded<RxCounters>,
    /// Kicks read from the rings' eventfds since their suppression was first published.
    pub kicks: CachePadded<Counter>,
    /// The NUMA node of the ring that started last, and one more; 0 where it is not known.
    node: Counter,
}

impl QueueCounters {
    /// The NUMA node of the guest's memory, as far as its rings are there; where that is known.
    #[must_use]
    pub fn node(&self) -> Option<u16> {
        self.node.get().checked_sub(1).map(|node| node as u16)
    }

    /// Notes it, when a ring starts.
    pub(crate) fn note_node(&self, node: Option<u16>) {
        self.node.set(node.map_or(0, |node| u64::from(node) + 1));
    }
}

/// Guest to switch.
#[derive(Debug, Default)]
pub struct TxCounters {
    /// Packets pulled off the ring: all of them, the dropped ones too.
    pub packets: Counter,
    /// Bytes of those that were not dropped at the ring, without virtio-net headers.
    pub bytes: Counter,
    /// Packets pulled and dropped at the ring, by [`TxDrop`].
    pub drops: [Counter; TxDrop::ALL.len()],
    /// Ring stops by [`RingFault`].
    pub faults: [Counter; RingFault::ALL.len()],
    /// Interrupts sent to the guest.
    pub calls: Counter,
    /// Completions published for which the guest wanted no interrupt.
    pub calls_suppressed: Counter,
    /// Completions published for which it would have been sent one, but for moderation: it heard of them together with others, or had seen them
    /// before its call went out.
    pub calls_saved: Counter,
}

impl TxCounters {
    /// Of the calls.
    #[inline]
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { sent: &self.calls, suppressed: &self.calls_suppressed, saved: &self.calls_saved }
    }
}

/// Switch to guest.
#[derive(Debug, Default)]
pub struct RxCounters {
    /// Packets delivered, as the guest sees them (after software segmentation).
    pub packets: Counter,
    /// Bytes of those packets, without virtio-net headers.
    pub bytes: Counter,
    /// Buffers that the guest had posted and that were not used, when it was last looked how many there are. Goes up and down.
    pub posted: Counter,
    /// Packets turned away, by [`RxDrop`]. A receiver's view of drops that the sender's accounting holds, too.
    pub refused: [Counter; RxDrop::ALL.len()],
    /// Ring stops by [`RingFault`].
    pub faults: [Counter; RingFault::ALL.len()],
    /// Interrupts sent to the guest.
    pub calls: Counter,
    /// Deliveries published for which the guest wanted no interrupt.
    pub calls_suppressed: Counter,
    /// Deliveries published for which it would have been sent one, but for moderation: it heard of them together with others, or had seen them
    /// before its call went out.
    pub calls_saved: Counter,
}

impl RxCounters {
    /// Of the calls.
    #[inline]
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { sent: &self.calls, suppressed: &self.calls_suppressed, saved: &self.calls_saved }
    }
}

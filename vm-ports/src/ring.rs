//! What split and packed rings have in common, seen from the device: chains taken, chains given back, one publication a burst.

use arrayvec::ArrayVec;

use crate::address::{FrontendAddr, GuestPhysAddr};
use crate::counters::RingFault;
use crate::features::Features;
use crate::memory::{GuestMemory, GuestSlice, RingWatch, Window};
use crate::packed::PackedRing;
use crate::packet::BURST_PACKETS;
use crate::split::SplitRing;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a descriptor, split (virtio 1.2 §2.7.5) and packed (§2.8.13).
pub(crate) const DESCRIPTOR_BYTES: usize = 16;
pub(crate) const DESC_F_NEXT: u16 = 1;
pub(crate) const DESC_F_WRITE: u16 = 2;
pub(crate) const DESC_F_INDIRECT: u16 = 4;
/// Whose a packed descriptor is. Reserved in a split ring: a chain that has one of them set is not worth being quick about.
const DESC_F_LAP: u16 = 1 << 7 | 1 << 15;

/// Everything a frontend has to say before a ring can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSetup {
    /// Number of the virtqueue: 2n is RX, 2n + 1 is TX of queue pair n.
    pub index: u32,
    /// Descriptors in the ring.
    pub size: u32,
    /// The descriptor area.
    pub descriptors: FrontendAddr,
    /// The driver area: split's available ring, packed's driver event suppression.
    pub driver: FrontendAddr,
    /// The device area: split's used ring, packed's device event suppression.
    pub device: FrontendAddr,
    /// Where to begin, as `SET_VRING_BASE` gives it: packed's index with the wrap counter in bit 15. A split ring begins at the used
    /// index in its memory, which is the same for every frontend that knows where its device stopped.
    pub base: u32,
}

/// Why a ring cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A size the ring's format does not allow.
    #[error("ring {index}: size {size} is not allowed ({rule})")]
    Size {
        /// Number of the virtqueue.
        index: u32,
        /// Descriptors asked for.
        size: u32,
        /// What is allowed.
        rule: &'static str,
    },
    /// An area is not in guest memory, or misaligned.
    #[error("ring {index}: its {area} at {addr} is not {len} aligned bytes inside one memory region")]
    Area {
        /// Number of the virtqueue.
        index: u32,
        /// Which of the three.
        area: &'static str,
        /// Where it was said to be.
        addr: FrontendAddr,
        /// How long it has to be, in bytes.
        len: usize,
    },
    /// A base that is not an index of the ring.
    #[error("ring {index}: base {base:#x} is not an index of a ring of {size}")]
    Base {
        /// Number of the virtqueue.
        index: u32,
        /// The base asked for.
        base: u32,
        /// Descriptors in the ring.
        size: u32,
    },
}

/// Which way the buffers of a ring go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The device reads them (TX).
    Read,
    /// The device writes them (RX).
    Write,
}

/// A chain the device holds: what is needed to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Split: index of the head descriptor. Packed: buffer id.
    pub(crate) id: u16,
    /// Ring slots it takes up. Split: always 1.
    pub(crate) slots: u16,
}

/// Why a chain, which can be given back, holds no usable buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainError {
    /// It breaks the rules.
    Malformed,
    /// It points outside of guest memory.
    BadAddress,
}

/// What [`Ring::take`] found.
pub(crate) type Taken = (Chain, Result<(), ChainError>);

/// Where a walk puts the buffers of a chain, in order.
pub(crate) trait Sink<'m> {
    /// A descriptor was read, whether it has bytes or not, or its buffer goes on in another region. False where the
    /// walk has gone on for long enough.
    fn visit(&mut self) -> bool;

    /// False where there is no more room.
    fn put(&mut self, slice: GuestSlice<'m>) -> bool;
}

/// A chain that is one buffer in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Single<'m> {
    /// As [`Chain::id`].
    pub(crate) id: u16,
    pub(crate) buffer: GuestSlice<'m>,
}

/// The single chains found by one look at a ring.
pub(crate) type Singles<'m> = ArrayVec<Single<'m>, BURST_PACKETS>;

/// Guest memory as a walk uses it: with the region of the last hit remembered.
pub(crate) struct Translator<'a, 'm> {
    memory: &'m GuestMemory,
    hint: &'a mut usize,
    /// Where [`Translator::single`] looks first: the region that `hint` said at the beginning, or that it found last. Others find theirs by `hint`,
    /// and leave this as it is.
    window: Window<'m>,
}

impl<'a, 'm> Translator<'a, 'm> {
    /// `hint` is the caller's cache of the last region hit.
    #[inline]
    pub(crate) fn new(memory: &'m GuestMemory, hint: &'a mut usize) -> Self {
        let window = memory.window(*hint);
        Self { memory, hint, window }
    }

    /// Puts the host memory behind one buffer into `sink`, in as many parts as it crosses regions.
    #[inline]
    pub(crate) fn put(&mut self, addr: u64, len: u32, sink: &mut impl Sink<'m>) -> Result<(), ChainError> {
        let slice = self.memory.translate(self.hint, GuestPhysAddr(addr), len).ok_or(ChainError::BadAddress)?;
        if !sink.put(slice) {
            return Err(ChainError::Malformed);
        }
        if slice.len() == len as usize { Ok(()) } else { self.put_rest(addr, len, slice.len(), sink) }
    }

    /// The host memory behind a descriptor that is a chain by itself, goes the right way and lies in one region; `None` for any other.
    #[inline]
    pub(crate) fn single(
        &mut self,
        descriptor: RawDescriptor,
        flags: u16,
        direction: Direction,
    ) -> Option<GuestSlice<'m>> {
        let wanted = if direction == Direction::Write { DESC_F_WRITE } else { 0 };
        let len = descriptor.len();
        if flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT | DESC_F_LAP) != wanted || len == 0 {
            return None;
        }
        match self.window.slice(GuestPhysAddr(descriptor.addr), len) {
            Some(slice) => Some(slice),
            None => self.in_another_region(GuestPhysAddr(descriptor.addr), len),
        }
    }

    #[cold]
    fn in_another_region(&mut self, addr: GuestPhysAddr, len: u32) -> Option<GuestSlice<'m>> {
        self.memory.translate(self.hint, addr, len)?;
        self.window = self.memory.window(*self.hint);
        self.window.slice(addr, len)
    }

    #[cold]
    fn put_rest(&mut self, addr: u64, len: u32, done: usize, sink: &mut impl Sink<'m>) -> Result<(), ChainError> {
        let mut done = done as u32;
        // Each round ends at the end of a region, so there are at most as many as regions.
        while done < len {
            let at = GuestPhysAddr(addr).checked_add(u64::from(done)).ok_or(ChainError::BadAddress)?;
            let slice = self.memory.translate(self.hint, at, len - done).ok_or(ChainError::BadAddress)?;
            if !sink.visit() || !sink.put(slice) {
                return Err(ChainError::Malformed);
            }
            done += slice.len() as u32;
        }
        Ok(())
    }

    /// Reads one descriptor of an indirect table: address, length, flags, next (or, packed, id).
    #[inline]
    pub(crate) fn indirect(&mut self, table: u64, index: u32) -> Result<RawDescriptor, ChainError> {
        let offset = u64::from(index) * DESCRIPTOR_BYTES as u64;
        let addr = GuestPhysAddr(table).checked_add(offset).ok_or(ChainError::BadAddress)?;
        let slice = self.memory.translate(self.hint, addr, DESCRIPTOR_BYTES as u32).ok_or(ChainError::BadAddress)?;
        let mut bytes = [0; DESCRIPTOR_BYTES];
        if slice.read(&mut bytes) < DESCRIPTOR_BYTES {
            // A descriptor that straddles two regions: no allocator of a driver makes one.
            return Err(ChainError::BadAddress);
        }
        let (low, high) = bytes.split_at(8);
        Ok(RawDescriptor {
            addr: u64::from_le_bytes(low.try_into().unwrap_or_default()),
            rest: u64::from_le_bytes(high.try_into().unwrap_or_default()),
        })
    }
}

/// A descriptor in the ring.
pub(crate) type SharedDescriptor = [AtomicU64; 2];

/// A descriptor as read from the ring, once: 8 bytes of address, then length, and two 16-bit fields whose order the format decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawDescriptor {
    pub(crate) addr: u64,
    pub(crate) rest: u64,
}

impl RawDescriptor {
    /// Reads it, the second half first and with `order`.
    #[inline]
    pub(crate) fn load([addr, rest]: &SharedDescriptor, order: Ordering) -> Self {
        let rest = rest.load(order);
        Self { addr: addr.load(Ordering::Relaxed), rest }
    }

    #[inline]
    pub(crate) fn len(self) -> u32 {
        self.rest as u32
    }

    /// Split: flags. Packed: buffer id.
    #[inline]
    pub(crate) fn third(self) -> u16 {
        (self.rest >> 32) as u16
    }

    /// Split: next. Packed: flags.
    #[inline]
    pub(crate) fn fourth(self) -> u16 {
        (self.rest >> 48) as u16
    }
}

/// Puts a direct buffer into `sink`, if it goes the right way.
#[inline]
pub(crate) fn put_buffer<'m>(
    translator: &mut Translator<'_, 'm>,
    addr: u64,
    len: u32,
    flags: u16,
    direction: Direction,
    sink: &mut impl Sink<'m>,
) -> Result<(), ChainError> {
    if !sink.visit() || (flags & DESC_F_WRITE != 0) != (direction == Direction::Write) {
        return Err(ChainError::Malformed);
    }
    if len == 0 {
        return Ok(());
    }
    translator.put(addr, len, sink)
}

/// Descriptors in an indirect table of `len` bytes: a whole number of them, at least one and no more than a split ring can have.
#[inline]
pub(crate) fn indirect_entries(len: u32) -> Result<u32, ChainError> {
    let entries = len / DESCRIPTOR_BYTES as u32;
    let whole = len.is_multiple_of(DESCRIPTOR_BYTES as u32);
    if whole && (1..=32_768).contains(&entries) { Ok(entries) } else { Err(ChainError::Malformed) }
}

/// Whether an event at `event` lies in what was published between `old` and `new` (virtio 1.2 §2.7.10, `vring_need_event`).
#[inline]
pub(crate) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A virtqueue of either format.
#[derive(Debug)]
pub(crate) enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// A place in a ring to go back to, before anything after it was published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
    pub(crate) avail_wrap: bool,
    pub(crate) used_wrap: bool,
    pub(crate) staged: u16,
}

macro_rules! either {
    ($self:ident, $ring:ident => $body:expr) => {
        match $self {
            Ring::Split($ring) => $body,
            Ring::Packed($ring) => $body,
        }
    };
}

impl Ring {
    pub(crate) fn start(memory: &Arc<GuestMemory>, setup: &RingSetup, features: Features) -> Result<Self, RingError> {
        let event_idx = features.has(Features::EVENT_IDX);
        if features.has(Features::RING_PACKED) {
            PackedRing::start(memory, setup, event_idx).map(Self::Packed)
        } else {
            SplitRing::start(memory, setup, event_idx).map(Self::Split)
        }
    }

    /// Has the driver kick when it makes the next chain available. A fence and a look have to follow: see [`SplitRing::ask_for_kick`].
    pub(crate) fn ask_for_kick(&mut self) {
        either!(self, ring => ring.ask_for_kick());
    }

    /// Has it not kick, whatever it makes available.
    pub(crate) fn suppress_kicks(&mut self) {
        either!(self, ring => ring.suppress_kicks());
    }

    /// Takes the next chain the driver made available and puts its buffers into `sink`; `None` where there is none.
    #[inline]
    pub(crate) fn take<'m>(
        &mut self,
        translator: &mut Translator<'_, 'm>,
        direction: Direction,
        sink: &mut impl Sink<'m>,
    ) -> Result<Option<Taken>, RingFault> {
        either!(self, ring => ring.take(translator, direction, sink))
    }

    /// Finds out what the driver has made available, where fewer than `chains` of it are known.
    #[inline]
    pub(crate) fn expect(&mut self, chains: usize) {
        if let Self::Split(ring) = self {
            ring.expect(chains);
        }
    }

    /// Whether nothing is left of what was known to be available.
    #[inline]
    pub(crate) fn is_drained(&mut self) -> bool {
        match self {
            Self::Split(ring) => ring.is_drained(),
            Self::Packed(ring) => !ring.has_work(),
        }
    }

    /// Puts the next chains that are known, up to `most` of them, into `found`, as far as each is one buffer in one piece, as nearly every
    /// chain is. They are not taken before [`Ring::pass`]. None where the next is another, or there is none: that is for [`Ring::take`] to
    /// find out.
    #[inline]
    pub(crate) fn singles<'m>(
        &mut self,
        translator: &mut Translator<'_, 'm>,
        direction: Direction,
        most: usize,
        found: &mut Singles<'m>,
    ) {
        found.clear();
        either!(self, ring => ring.singles(translator, direction, most, found));
    }

    /// Takes the first of what [`Ring::singles`] found, and gives them back, at the next publication, with as many bytes written in each as
    /// `written` says, which is no shorter.
    #[inline]
    pub(crate) fn pass(&mut self, singles: &[Single<'_>], written: impl Iterator<Item = u32>) {
        either!(self, ring => ring.pass(singles, written));
    }

    /// Takes the first `count` of what [`Ring::singles`] found. Each is given back by itself, with [`Ring::stage`].
    #[inline]
    pub(crate) fn skip(&mut self, count: usize) {
        either!(self, ring => ring.skip(count as u16));
    }

    /// Has the CPU fetch what the next `count` chains, as far as they are known to be there, will need: they come from the guest's CPU while
    /// something else is being done. A hint: nothing is taken, and what is read is used for nothing else.
    #[inline]
    pub(crate) fn look_ahead(&mut self, window: Window<'_>, direction: Direction, count: u16) {
        either!(self, ring => ring.look_ahead(window, direction, count));
    }

    /// Whether the driver has made anything available that was not taken yet. A hint: a fault is left for [`Ring::take`] to find.
    #[inline]
    pub(crate) fn has_work(&mut self) -> bool {
        either!(self, ring => ring.has_work())
    }

    /// How many ring slots the driver has made available that were not taken: no more than there are, whatever it wrote. Split: as of the
    /// last look at its index. Packed: what is there now, short of it by a burst at most.
    #[inline]
    pub(crate) fn backlog(&self) -> u16 {
        either!(self, ring => ring.backlog())
    }

    /// The same of what is there now, in a split ring too; nothing is remembered of the look.
    pub(crate) fn posted(&self) -> u16 {
        match self {
            Self::Split(ring) => ring.posted(),
            Self::Packed(ring) => ring.backlog(),
        }
    }

    /// A watch for the next chain that is made available.
    pub(crate) fn watch(&self) -> RingWatch {
        either!(self, ring => ring.watch())
    }

    /// Gives a chain back, `written` bytes in it, at the next publication. Chains go back in the order in which they were taken.
    #[inline]
    pub(crate) fn stage(&mut self, chain: Chain, written: u32) {
        either!(self, ring => ring.stage(chain, written));
    }

    /// How many chains more can be staged before a publication.
    #[inline]
    pub(crate) fn stageable(&self) -> usize {
        match self {
            Self::Split(_) => usize::MAX,
            Self::Packed(ring) => ring.stageable(),
        }
    }

    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        either!(self, ring => ring.mark())
    }

    /// Undoes every take and stage since `mark`, which must not have been published.
    #[inline]
    pub(crate) fn rewind(&mut self, mark: Mark) {
        either!(self, ring => ring.rewind(mark));
    }

    /// Shows the driver all that was staged. False where there was nothing. [`Ring::wants_call`] comes next, after a [`full_fence`] that
    /// any number of rings can share.
    ///
    /// [`full_fence`]: crate::memory::full_fence
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// Whether the driver wants a call for what was published since [`Ring::judge`]; `None` where nothing was.
    #[inline]
    pub(crate) fn wants_call(&self) -> Option<bool> {
        either!(self, ring => ring.wants_call())
    }

    /// Whether the driver says that it wants no calls, whatever is published.
    pub(crate) fn wants_no_call(&self) -> bool {
        either!(self, ring => ring.wants_no_call())
    }

    /// How many slots were published since [`Ring::judge`].
    #[inline]
    pub(crate) fn unjudged(&self) -> u16 {
        either!(self, ring => ring.unjudged())
    }

    /// The driver has been called for what was published, or is not to be.
    #[inline]
    pub(crate) fn judge(&mut self) {
        either!(self, ring => ring.judge());
    }

    /// The base for `GET_VRING_BASE`.
    pub(crate) fn base(&self) -> u32 {
        either!(self, ring => ring.base())
    }

    pub(crate) fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemorySlot;

    #[test]
    fn an_event_is_needed_exactly_between_old_and_new() {
        for (event, old, new, want) in [
            (5, 5, 6, true),
            (5, 6, 7, false),
            (4, 5, 6, false),
            (7, 5, 9, true),
            (9, 5, 9, false),
            (0xffff, 0xfffe, 1, true),
            (3, 3, 3, false),
        ] {
            assert_eq!(need_event(event, new, old), want, "event {event} old {old} new {new}");
        }
    }

    /// Counts, and takes all.
    #[derive(Default)]
    struct Count {
        visited: usize,
        bytes: usize,
    }

    impl<'m> Sink<'m> for Count {
        fn visit(&mut self) -> bool {
            self.visited += 1;
            true
        }

        fn put(&mut self, slice: GuestSlice<'m>) -> bool {
            self.bytes += slice.len();
            true
        }
    }

    #[test]
    fn each_region_that_a_buffer_crosses_counts() {
        const PAGE: u64 = 4096;
        let file = std::fs::File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(4 * PAGE).unwrap();
        let slot = |nth| MemorySlot {
            guest: GuestPhysAddr(nth * PAGE),
            frontend: FrontendAddr(nth * PAGE),
            size: PAGE,
            mmap_offset: nth * PAGE,
            file: file.try_clone().unwrap(),
        };
        let memory = GuestMemory::map((0..4).map(slot).collect()).unwrap();
        for (addr, len, parts) in [(0, 4096, 1), (4095, 2, 2), (1, 3 * 4096, 4), (0, 4 * 4096, 4)] {
            let mut count = Count::default();
            let mut hint = 0;
            let mut translator = Translator::new(&memory, &mut hint);
            put_buffer(&mut translator, addr, len, 0, Direction::Read, &mut count).unwrap();
            assert_eq!((count.visited, count.bytes), (parts, len as usize), "{len} bytes at {addr}");
        }
    }
}

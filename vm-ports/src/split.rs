//! The split virtqueue, device side (virtio 1.2 §2.7).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::address::GuestPhysAddr;
use crate::counters::RingFault;
use crate::memory::{GuestMemory, RingArea, RingArray, RingWatch, Window};
use crate::packet::CHAIN_SEGMENTS;
use crate::ring::{
    Chain, ChainError, DESC_F_INDIRECT, DESC_F_NEXT, DESCRIPTOR_BYTES, Direction, Mark, RawDescriptor, RingError,
    RingSetup, SharedDescriptor, Single, Singles, Sink, Taken, Translator, indirect_entries, need_event, put_buffer,
};

const SIZE_RULE: &str = "a split ring has a power of two up to 32768";
const USED_F_NO_NOTIFY: u16 = 1;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Offset of the index in both rings; the entries follow it.
const IDX: usize = 2;
const ENTRIES: usize = 4;
/// An entry of the used ring: head of the chain, bytes written.
type UsedEntry = [AtomicU32; 2];
const USED_BYTES: usize = size_of::<UsedEntry>();

/// How far ahead of the ring `avail_event` is kept, in entries, at least: half the index space, as far from every index the driver can
/// publish next as it can be. An event just *behind* the ring would do for a driver that is idle, but one that has published an index
/// and not yet looked at the event would find it inside its batch, and kick.
const EVENT_DISTANCE: u16 = 1 << 15;
/// The event is moved along every so many entries, before a driver that fills the ring to the last entry reaches it.
const EVENT_STEP: u16 = 1 << 12;

#[derive(Debug)]
pub(crate) struct SplitRing {
    size: u16,
    event_idx: bool,
    /// The driver's index, as last read.
    avail_idx: u16,
    next_avail: u16,
    next_used: u16,
    /// What the driver has been shown of `next_used`.
    published: u16,
    /// What of that it has been judged for a call.
    called: u16,
    /// `next_avail` when the event was last moved.
    event_moved_at: u16,
    descriptors: RingArray<SharedDescriptor>,
    avail: RingArea,
    /// What is in `avail`: head descriptors of chains. Not checked.
    heads: RingArray<AtomicU16>,
    used: RingArea,
    /// What is in `used`.
    used_entries: RingArray<UsedEntry>,
}

impl SplitRing {
    pub(crate) fn start(memory: &Arc<GuestMemory>, setup: &RingSetup, event_idx: bool) -> Result<Self, RingError> {
        let index = setup.index;
        let size = u16::try_from(setup.size)
            .ok()
            .filter(|s| s.is_power_of_two() && *s <= 1 << 15)
            .ok_or(RingError::Size { index, size: setup.size, rule: SIZE_RULE })?;
        let entries = usize::from(size);
        let event = if event_idx { 2 } else { 0 };
        let area = |area, addr, len, align| {
            memory.ring_area(addr, len, align).ok_or(RingError::Area { index, area, addr, len })
        };
        let descriptors = area("descriptor table", setup.descriptors, entries * DESCRIPTOR_BYTES, 16)?;
        let avail = area("available ring", setup.driver, ENTRIES + entries * 2 + event, 2)?;
        let used = area("used ring", setup.device, ENTRIES + entries * USED_BYTES + event, 4)?;
        // Buffers complete in order, so the used index is also where to take the next one. It is `setup.base` for every frontend that knows
        // where its device stopped; DPDK's virtio-user says 0 to a device that comes back, whatever the ring in its memory has seen.
        let base = used.load_u16(IDX, Ordering::Relaxed);
        let mut ring = Self {
            size,
            event_idx,
            avail_idx: base,
            next_avail: base,
            next_used: base,
            published: base,
            called: base,
            event_moved_at: base,
            descriptors: descriptors.array(0, entries),
            heads: avail.array(ENTRIES, entries),
            avail,
            used_entries: used.array(ENTRIES, entries),
            used,
        };
        ring.suppress_kicks();
        Ok(ring)
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn base(&self) -> u32 {
        u32::from(self.next_avail)
    }

    /// Tells the driver not to kick (§2.7.10: with event index the flag must stay 0 and the event decides).
    pub(crate) fn suppress_kicks(&mut self) {
        if self.event_idx {
            self.used.store_u16(0, 0, Ordering::Relaxed);
            self.move_event();
        } else {
            self.used.store_u16(0, USED_F_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Has the driver kick when it makes the next buffer available. What it made available meanwhile is for a look after a
    /// [`full_fence`](crate::memory::full_fence): the driver has one too, between its index and its look at our wish (§2.7.13.4.1), so that
    /// at least one of the two sees the other.
    pub(crate) fn ask_for_kick(&mut self) {
        if self.event_idx {
            self.used.store_u16(self.used_end(), self.next_avail, Ordering::Relaxed);
            self.event_moved_at = self.next_avail;
        } else {
            self.used.store_u16(0, 0, Ordering::Relaxed);
        }
    }

    fn move_event(&mut self) {
        // The driver kicks when it publishes past `event`, that is from index event + 1 on. It can be a whole ring ahead of us, and we
        // another step ahead of where the event was moved last: for the largest ring, that is more than half the index space.
        let distance = EVENT_DISTANCE.max(self.size.saturating_add(EVENT_STEP));
        let event = self.next_avail.wrapping_add(distance);
        // Relaxed: a driver that reads the old value finds it just as far away.
        self.used.store_u16(self.used_end(), event, Ordering::Relaxed);
        self.event_moved_at = self.next_avail;
    }

    #[inline]
    fn slot(&self, index: u16) -> u16 {
        index & (self.size - 1)
    }

    #[inline]
    fn used_end(&self) -> usize {
        ENTRIES + usize::from(self.size) * USED_BYTES
    }

    #[inline]
    fn avail_end(&self) -> usize {
        ENTRIES + usize::from(self.size) * 2
    }

    #[inline]
    pub(crate) fn has_work(&mut self) -> bool {
        if self.is_drained() {
            self.look();
        }
        !self.is_drained()
    }

    /// See [`Ring::watch`](crate::ring::Ring::watch).
    pub(crate) fn watch(&self) -> RingWatch {
        self.avail.watch(IDX, u16::MAX, self.next_avail)
    }

    /// Reads the driver's index anew where fewer than `chains` are known to be there.
    #[inline]
    pub(crate) fn expect(&mut self, chains: usize) {
        if usize::from(self.avail_idx.wrapping_sub(self.next_avail)) < chains {
            self.look();
        }
    }

    /// Whether nothing is left of what the driver's index said when it was read last.
    #[inline]
    pub(crate) fn is_drained(&self) -> bool {
        self.avail_idx == self.next_avail
    }

    /// See [`Ring::backlog`](crate::ring::Ring::backlog).
    #[inline]
    pub(crate) fn backlog(&self) -> u16 {
        self.avail_idx.wrapping_sub(self.next_avail).min(self.size)
    }

    /// See [`Ring::posted`](crate::ring::Ring::posted).
    pub(crate) fn posted(&self) -> u16 {
        // Relaxed: nothing behind the index is read here.
        self.avail.load_u16(IDX, Ordering::Relaxed).wrapping_sub(self.next_avail).min(self.size)
    }

    #[inline]
    fn look(&mut self) {
        // Acquire: pairs with the driver's release of its index, so that entries and descriptors before it are seen.
        self.avail_idx = self.avail.load_u16(IDX, Ordering::Acquire);
    }

    #[inline]
    pub(crate) fn take<'m>(
        &mut self,
        translator: &mut Translator<'_, 'm>,
        direction: Direction,
        sink: &mut impl Sink<'m>,
    ) -> Result<Option<Taken>, RingFault> {
        if !self.has_work() {
            return Ok(None);
        }
        if self.avail_idx.wrapping_sub(self.next_avail) > self.size {
            return Err(RingFault::IndexJump);
        }
        let head = self.heads.get(usize::from(self.slot(self.next_avail)));
        let head = head.map(|head| head.load(Ordering::Relaxed)).filter(|head| *head < self.size);
        let head = head.ok_or(RingFault::BadHead)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        let walked = self.walk(head, translator, direction, sink);
        Ok(Some((Chain { id: head, slots: 1 }, walked)))
    }

    /// See [`Ring::singles`](crate::ring::Ring::singles).
    #[inline]
    pub(crate) fn singles<'m>(
        &mut self,
        translator: &mut Translator<'_, 'm>,
        direction: Direction,
        most: usize,
        found: &mut Singles<'m>,
    ) {
        let known = self.avail_idx.wrapping_sub(self.next_avail);
        if known > self.size {
            return;
        }
        for heads in self.heads.laps(self.slot(self.next_avail), usize::from(known).min(most).min(found.capacity())) {
            for head in heads {
                let id = head.load(Ordering::Relaxed);
                let Some(descriptor) = self.descriptors.get(usize::from(id)) else { return };
                let descriptor = RawDescriptor::load(descriptor, Ordering::Relaxed);
                let Some(buffer) = translator.single(descriptor, descriptor.third(), direction) else { return };
                found.push(Single { id, buffer });
            }
        }
    }

    /// See [`Ring::pass`](crate::ring::Ring::pass).
    #[inline]
    pub(crate) fn pass(&mut self, singles: &[Single<'_>], written: impl Iterator<Item = u32>) {
        let count = singles.len() as u16;
        let mut next = singles.iter().zip(written);
        for entries in self.used_entries.laps(self.slot(self.next_used), singles.len()) {
            for (entry, (single, written)) in entries.iter().zip(next.by_ref()) {
                store_used(entry, single.id, written);
            }
        }
        self.next_used = self.next_used.wrapping_add(count);
        self.next_avail = self.next_avail.wrapping_add(count);
    }

    /// See [`Ring::skip`](crate::ring::Ring::skip).
    #[inline]
    pub(crate) fn skip(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_add(count);
    }

    /// See [`Ring::look_ahead`](crate::ring::Ring::look_ahead).
    #[inline]
    pub(crate) fn look_ahead(&mut self, window: Window<'_>, direction: Direction, count: u16) {
        let first = ENTRIES + usize::from(self.slot(self.next_used)) * USED_BYTES;
        self.used.claim(first..first + usize::from(count) * USED_BYTES);
        let known = self.avail_idx.wrapping_sub(self.next_avail);
        if known > self.size {
            return;
        }
        for heads in self.heads.laps(self.slot(self.next_avail), known.min(count).into()) {
            for head in heads {
                let Some([addr, _]) = self.descriptors.get(usize::from(head.load(Ordering::Relaxed))) else { return };
                window.prefetch(GuestPhysAddr(addr.load(Ordering::Relaxed)), direction);
            }
        }
    }

    /// Follows a chain from `head`: no longer than the ring (§2.7.5.1: longer is a loop) and never more than [`CHAIN_SEGMENTS`], so that
    /// a guest cannot make one packet expensive for its neighbours.
    #[inline]
    fn walk<'m>(
        &self,
        head: u16,
        translator: &mut Translator<'_, 'm>,
        direction: Direction,
        sink: &mut impl Sink<'m>,
    ) -> Result<(), ChainError> {
        let mut index = head;
        for _ in 0..usize::from(self.size).min(CHAIN_SEGMENTS) {
            let descriptor = self.descriptors.get(usize::from(index)).ok_or(ChainError::Malformed)?;
            let descriptor = RawDescriptor::load(descriptor, Ordering::Relaxed);
            let (flags, next) = (descriptor.third(), descriptor.fourth());
            if flags & DESC_F_INDIRECT != 0 {
                // §2.7.5.3.1: an indirect descriptor ends the chain.
                if flags & DESC_F_NEXT != 0 {
                    return Err(ChainError::Malformed);
                }
                return walk_indirect(descriptor, translator, direction, sink);
            }
            put_buffer(translator, descriptor.addr, descriptor.len(), flags, direction, sink)?;
            if flags & DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(ChainError::Malformed)
    }

    #[inline]
    pub(crate) fn stage(&mut self, chain: Chain, written: u32) {
        if let Some(entry) = self.used_entries.get(usize::from(self.slot(self.next_used))) {
            store_used(entry, chain.id, written);
        }
        self.next_used = self.next_used.wrapping_add(1);
    }

    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark { next_avail: self.next_avail, next_used: self.next_used, avail_wrap: false, used_wrap: false, staged: 0 }
    }

    #[inline]
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.next_avail = mark.next_avail;
        self.next_used = mark.next_used;
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.published == self.next_used {
            return false;
        }
        // Before the index: a driver that sees the room it can fill now sees the event that goes with it.
        if self.event_idx && self.next_avail.wrapping_sub(self.event_moved_at) >= EVENT_STEP {
            self.move_event();
        }
        // Release: pairs with the driver's acquire of the used index; entries and buffer contents come before it.
        self.used.store_u16(IDX, self.next_used, Ordering::Release);
        self.published = self.next_used;
        // For `wants_call`, after the fence.
        self.avail.prefetch(if self.event_idx { self.avail_end() } else { 0 });
        true
    }

    /// See [`Ring::wants_call`](crate::ring::Ring::wants_call). (§2.7.7.2: the fence before this orders our index before our read of the
    /// driver's wish; the driver has the same between its wish and its read of our index, so that at least one of the two sees the other.)
    #[inline]
    pub(crate) fn wants_call(&self) -> Option<bool> {
        (self.called != self.published).then(|| {
            if self.event_idx {
                need_event(self.avail.load_u16(self.avail_end(), Ordering::Relaxed), self.published, self.called)
            } else {
                !self.wants_no_call()
            }
        })
    }

    /// See [`Ring::wants_no_call`](crate::ring::Ring::wants_no_call). With event index a driver cannot say so.
    #[inline]
    pub(crate) fn wants_no_call(&self) -> bool {
        !self.event_idx && self.avail.load_u16(0, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT != 0
    }

    #[inline]
    pub(crate) fn unjudged(&self) -> u16 {
        self.published.wrapping_sub(self.called)
    }

    #[inline]
    pub(crate) fn judge(&mut self) {
        self.called = self.published;
    }
}

/// Relaxed: the index publishes it.
#[inline]
fn store_used([id, len]: &UsedEntry, head: u16, written: u32) {
    id.store(head.into(), Ordering::Relaxed);
    len.store(written, Ordering::Relaxed);
}

/// Follows an indirect table (§2.7.5.3): chained by `next` inside it, never into another.
fn walk_indirect<'m>(
    table: RawDescriptor,
    translator: &mut Translator<'_, 'm>,
    direction: Direction,
    sink: &mut impl Sink<'m>,
) -> Result<(), ChainError> {
    let entries = indirect_entries(table.len())?;
    let mut index = 0;
    for _ in 0..(entries as usize).min(CHAIN_SEGMENTS) {
        let descriptor = translator.indirect(table.addr, index)?;
        let flags = descriptor.third();
        if flags & DESC_F_INDIRECT != 0 {
            return Err(ChainError::Malformed);
        }
        put_buffer(translator, descriptor.addr, descriptor.len(), flags, direction, sink)?;
        if flags & DESC_F_NEXT == 0 {
            return Ok(());
        }
        index = u32::from(descriptor.fourth());
        if index >= entries {
            return Err(ChainError::Malformed);
        }
    }
    Err(ChainError::Malformed)
}

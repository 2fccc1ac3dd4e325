//! The packed virtqueue, device side (virtio 1.2 §2.8).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::address::GuestPhysAddr;
use crate::counters::RingFault;
use crate::memory::{GuestMemory, RingArea, RingArray, RingWatch, Window};
use crate::packet::{BURST_PACKETS, CHAIN_SEGMENTS};
use crate::ring::{
    Chain, ChainError, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR_BYTES, Direction, Mark, RawDescriptor,
    RingError, RingSetup, SharedDescriptor, Single, Singles, Sink, Taken, Translator, indirect_entries, need_event,
    put_buffer,
};

const SIZE_RULE: &str = "a packed ring has 1 to 32768";
const DESC_F_AVAIL: u16 = 1 << 7;
const DESC_F_USED: u16 = 1 << 15;
/// Offset in a descriptor: address, length and buffer id come before it.
const FLAGS: usize = 14;
/// Event suppression structure (§2.8.14): offset and wrap, then flags.
const EVENT_BYTES: usize = 4;
const EVENT_FLAGS: usize = 2;
const EVENT_F_ENABLE: u16 = 0;
const EVENT_F_DISABLE: u16 = 1;
const EVENT_F_DESC: u16 = 2;
/// Chains that can be staged between two publications.
const STAGED_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct PackedRing {
    size: u16,
    next_avail: u16,
    next_used: u16,
    avail_wrap: bool,
    used_wrap: bool,
    /// Slots that were published and not yet judged for a call.
    unjudged: u16,
    /// Used descriptors that the driver has not been shown.
    staged: Vec<Staged>,
    descriptors: RingArray<SharedDescriptor>,
    /// The same, by offset.
    ring: RingArea,
    driver_event: RingArea,
    device_event: RingArea,
    event_idx: bool,
}

/// A used descriptor: where it goes, and its second half, which is length, buffer id and flags.
#[derive(Clone, Copy, Debug)]
struct Staged {
    slot: u16,
    half: u64,
}

impl Staged {
    #[inline]
    fn new(slot: u16, wrap: bool, id: u16, written: u32) -> Self {
        let flags = if wrap { DESC_F_AVAIL | DESC_F_USED } else { 0 } | if written > 0 { DESC_F_WRITE } else { 0 };
        Self { slot, half: u64::from(written) | u64::from(id) << 32 | u64::from(flags) << 48 }
    }

    /// Writes length, buffer id and flags at once.
    #[inline]
    fn store(self, descriptors: &[SharedDescriptor], order: Ordering) {
        if let Some([_, half]) = descriptors.get(usize::from(self.slot)) {
            half.store(self.half, order);
        }
    }
}

impl PackedRing {
    pub(crate) fn start(memory: &Arc<GuestMemory>, setup: &RingSetup, event_idx: bool) -> Result<Self, RingError> {
        let index = setup.index;
        let size = u16::try_from(setup.size).ok().filter(|s| (1..=1 << 15).contains(s)).ok_or(RingError::Size {
            index,
            size: setup.size,
            rule: SIZE_RULE,
        })?;
        // Bit 15 is the wrap counter; frontends put it in the upper half as well, and that half means nothing on the way in.
        let base = setup.base as u16;
        let (next, wrap) = (base & 0x7fff, base >> 15 != 0);
        if next >= size {
            return Err(RingError::Base { index, base: setup.base, size: setup.size });
        }
        let area = |area, addr, len, align| {
            memory.ring_area(addr, len, align).ok_or(RingError::Area { index, area, addr, len })
        };
        let ring = area("descriptor ring", setup.descriptors, usize::from(size) * DESCRIPTOR_BYTES, 16)?;
        let device_event = area("device event suppression", setup.device, EVENT_BYTES, 4)?;
        device_event.store_u16(0, 0, Ordering::Relaxed);
        let mut packed = Self {
            size,
            next_avail: next,
            next_used: next,
            avail_wrap: wrap,
            used_wrap: wrap,
            unjudged: 0,
            staged: Vec::with_capacity(STAGED_MAX),
            descriptors: ring.array(0, size.into()),
            ring,
            driver_event: area("driver event suppression", setup.driver, EVENT_BYTES, 4)?,
            device_event,
            event_idx,
        };
        packed.suppress_kicks();
        Ok(packed)
    }

    /// No kicks, from now on: this needs no upkeep, whether event index was negotiated or not (§2.8.14).
    pub(crate) fn suppress_kicks(&mut self) {
        self.device_event.store_u16(EVENT_FLAGS, EVENT_F_DISABLE, Ordering::Relaxed);
    }

    /// Has the driver kick when it makes the next buffer available, or all of them where it knows no event index. As for the split ring, a
    /// fence and a look have to follow.
    pub(crate) fn ask_for_kick(&mut self) {
        if self.event_idx {
            let off_wrap = self.next_avail | u16::from(self.avail_wrap) << 15;
            self.device_event.store_u16(0, off_wrap, Ordering::Relaxed);
            // Release: a driver that reads these flags reads the offset and wrap that go with them.
            self.device_event.store_u16(EVENT_FLAGS, EVENT_F_DESC, Ordering::Release);
        } else {
            self.device_event.store_u16(EVENT_FLAGS, EVENT_F_ENABLE, Ordering::Relaxed);
        }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn base(&self) -> u32 {
        let half = |index: u16, wrap: bool| u32::from(index) | u32::from(wrap) << 15;
        half(self.next_avail, self.avail_wrap) | half(self.next_used, self.used_wrap) << 16
    }

    #[inline]
    fn at(slot: u16) -> usize {
        usize::from(slot) * DESCRIPTOR_BYTES
    }

    #[inline]
    pub(crate) fn has_work(&mut self) -> bool {
        // Acquire: pairs with the driver's release of the first descriptor's flags, which it writes last (§2.8.6).
        let flags = self.ring.load_u16(Self::at(self.next_avail) + FLAGS, Ordering::Acquire);
        is_available(flags, self.avail_wrap)
    }

    /// See [`Ring::backlog`](crate::ring::Ring::backlog). The driver makes descriptors available in order, so a few of them say how far it got:
    /// twice as far at each step, then back by halves. Whatever they say, it is no more than the ring has, found in as many steps as its size
    /// has bits, twice at most.
    pub(crate) fn backlog(&self) -> u16 {
        const STEP: u16 = BURST_PACKETS as u16;
        // The last of so many descriptors, from the next one on.
        let are_available = |count: u16| {
            let (slot, lap) = (u32::from(self.next_avail) + u32::from(count) - 1, u32::from(self.size));
            let (slot, wrap) = if slot < lap { (slot, self.avail_wrap) } else { (slot - lap, !self.avail_wrap) };
            // Relaxed: nothing behind it is read here.
            is_available(self.ring.load_u16(Self::at(slot as u16) + FLAGS, Ordering::Relaxed), wrap)
        };
        if !are_available(1) {
            return 0;
        }
        let (mut there, mut beyond) = (1, self.size);
        while there < self.size {
            let further = there.saturating_mul(2).max(STEP).min(self.size);
            if !are_available(further) {
                beyond = further;
                break;
            }
            there = further;
        }
        while beyond - there > STEP {
            let middle = there + (beyond - there) / 2;
            if are_available(middle) { there = middle } else { beyond = middle }
        }
        there
    }

    /// See [`Ring::watch`](crate::ring::Ring::watch).
    pub(crate) fn watch(&self) -> RingWatch {
        let (offset, mask) = (Self::at(self.next_avail) + FLAGS, DESC_F_AVAIL | DESC_F_USED);
        let flags = self.ring.load_u16(offset, Ordering::Relaxed);
        // What is available already is taken for a change, too.
        let seen = if is_available(flags, self.avail_wrap) { !flags } else { flags };
        self.ring.watch(offset, mask, seen & mask)
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
        let mut walked = Ok(());
        // The chain's slots follow each other. Its id is in the last one (§2.8.6), so even a bad chain is followed to its end: it is what
        // we need to give it back. How far is bounded: a driver could point at old descriptors again and again, at no cost to itself.
        for slots in 1..=self.size.min(CHAIN_SEGMENTS as u16) {
            let descriptor = self.descriptors.get(usize::from(self.next_avail)).ok_or(RingFault::EndlessChain)?;
            let descriptor = read(descriptor);
            let (id, flags) = (descriptor.third(), descriptor.fourth());
            self.advance_avail();
            if walked.is_ok() {
                walked = if flags & DESC_F_INDIRECT == 0 {
                    put_buffer(translator, descriptor.addr, descriptor.len(), flags, direction, sink)
                } else if slots > 1 || flags & DESC_F_NEXT != 0 {
                    // §2.8.8: NEXT and INDIRECT exclude each other.
                    Err(ChainError::Malformed)
                } else {
                    walk_indirect(descriptor, translator, direction, sink)
                };
            }
            if flags & DESC_F_NEXT == 0 {
                return Ok(Some((Chain { id, slots }, walked)));
            }
        }
        Err(RingFault::EndlessChain)
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
        let most = most.min(found.capacity()).min(usize::from(self.size));
        self.claim(0, most);
        for (descriptors, wrap) in self.next(most) {
            for descriptor in descriptors {
                let descriptor = read(descriptor);
                // Both bits are 0 where it is available, as in every descriptor of a split ring: one comparison is enough for all flags.
                let flags = descriptor.fourth() ^ lap(wrap);
                let Some(buffer) = translator.single(descriptor, flags, direction) else { return };
                found.push(Single { id: descriptor.third(), buffer });
            }
        }
    }

    /// See [`Ring::look_ahead`](crate::ring::Ring::look_ahead).
    #[inline]
    pub(crate) fn look_ahead(&mut self, window: Window<'_>, direction: Direction, count: u16) {
        let count = count.min(self.size);
        self.claim(0, count.into());
        for (descriptors, wrap) in self.next(count.into()) {
            for descriptor in descriptors {
                let descriptor = read(descriptor);
                if !is_available(descriptor.fourth(), wrap) {
                    return;
                }
                window.prefetch(GuestPhysAddr(descriptor.addr), direction);
            }
        }
        // Those after them: to read what they say the next time will not take long then.
        self.claim(count.into(), count.into());
    }

    /// Takes over the lines of `count` descriptors, from the one `ahead` of the next one on, for writing, if all of them are available: the
    /// driver has done with them, they are read soon and written soon. But for the first line, which the driver may be looking at all the time.
    #[inline]
    fn claim(&self, ahead: usize, count: usize) {
        let size = usize::from(self.size);
        let first = usize::from(self.next_avail) + ahead;
        let last = first + count.max(1) - 1;
        if last >= 2 * size {
            return;
        }
        let (at, wrap) = if last < size { (last, self.avail_wrap) } else { (last - size, !self.avail_wrap) };
        // Relaxed: a hint.
        let flags = self.ring.load_u16(at * DESCRIPTOR_BYTES + FLAGS, Ordering::Relaxed);
        if is_available(flags, wrap) {
            let first = if first < size { first } else { first - size };
            self.ring.claim(first * DESCRIPTOR_BYTES..(first + count) * DESCRIPTOR_BYTES);
        }
    }

    /// See [`Ring::pass`](crate::ring::Ring::pass).
    #[inline]
    pub(crate) fn pass(&mut self, singles: &[Single<'_>], written: impl Iterator<Item = u32>) {
        debug_assert!(singles.len() <= self.stageable(), "the queue publishes before the list is full");
        let (mut slot, mut wrap, size) = (self.next_used, self.used_wrap, self.size);
        self.staged.extend(singles.iter().zip(written).map(|(single, written)| {
            let staged = Staged::new(slot, wrap, single.id, written);
            slot += 1;
            if slot == size {
                (slot, wrap) = (0, !wrap);
            }
            staged
        }));
        (self.next_used, self.used_wrap) = (slot, wrap);
        self.skip(singles.len() as u16);
    }

    /// See [`Ring::skip`](crate::ring::Ring::skip).
    #[inline]
    pub(crate) fn skip(&mut self, count: u16) {
        self.next_avail += count;
        if self.next_avail >= self.size {
            (self.next_avail, self.avail_wrap) = (self.next_avail - self.size, !self.avail_wrap);
        }
    }

    /// The next `count` descriptors, no more than there are: those of this lap, then those of the one after it.
    #[inline]
    fn next(&self, count: usize) -> impl Iterator<Item = (&[SharedDescriptor], bool)> {
        self.descriptors.laps(self.next_avail, count).zip([self.avail_wrap, !self.avail_wrap])
    }

    /// The slot after this one, and its lap.
    #[inline]
    fn after(&self, slot: u16, wrap: bool) -> (u16, bool) {
        let next = slot + 1;
        if next == self.size { (0, !wrap) } else { (next, wrap) }
    }

    #[inline]
    fn advance_avail(&mut self) {
        (self.next_avail, self.avail_wrap) = self.after(self.next_avail, self.avail_wrap);
    }

    #[inline]
    pub(crate) fn stageable(&self) -> usize {
        STAGED_MAX.saturating_sub(self.staged.len())
    }

    #[inline]
    pub(crate) fn stage(&mut self, chain: Chain, written: u32) {
        debug_assert!(self.staged.len() < STAGED_MAX, "the queue publishes before the list is full");
        self.staged.push(Staged::new(self.next_used, self.used_wrap, chain.id, written));
        self.next_used += chain.slots;
        if self.next_used >= self.size {
            self.next_used -= self.size;
            self.used_wrap = !self.used_wrap;
        }
    }

    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            next_avail: self.next_avail,
            next_used: self.next_used,
            avail_wrap: self.avail_wrap,
            used_wrap: self.used_wrap,
            staged: self.staged.len() as u16,
        }
    }

    #[inline]
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.next_avail = mark.next_avail;
        self.next_used = mark.next_used;
        self.avail_wrap = mark.avail_wrap;
        self.used_wrap = mark.used_wrap;
        self.staged.truncate(usize::from(mark.staged));
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let Some(&first) = self.staged.first() else { return false };
        // All but the first become used before the first does, and the driver looks at them in order: it sees the burst whole, with the
        // one release below.
        self.staged[1..].iter().for_each(|used| used.store(&self.descriptors, Ordering::Relaxed));
        // Release: pairs with the driver's acquire of these flags; buffer contents and the rest of the burst come before it.
        first.store(&self.descriptors, Ordering::Release);
        self.staged.clear();
        // All slots where it begins and ends at the same one.
        let slots = if self.next_used > first.slot { 0 } else { self.size } + self.next_used - first.slot;
        self.unjudged = self.unjudged.saturating_add(slots);
        // For `wants_call`, after the fence.
        self.driver_event.prefetch(0);
        true
    }

    /// See [`Ring::wants_call`](crate::ring::Ring::wants_call) (§2.8.10, §2.8.14). The fence before this is as for the split ring.
    #[inline]
    pub(crate) fn wants_call(&self) -> Option<bool> {
        if self.unjudged == 0 {
            return None;
        }
        Some(match self.driver_event.load_u16(EVENT_FLAGS, Ordering::Acquire) & 3 {
            EVENT_F_ENABLE => true,
            EVENT_F_DISABLE => false,
            EVENT_F_DESC => {
                let off_wrap = self.driver_event.load_u16(0, Ordering::Relaxed);
                // The event is put on the lap of `next_used`: what lies a lap behind it becomes negative, modulo 2^16, as the start of what is
                // judged does.
                let mut event = off_wrap & 0x7fff;
                if (off_wrap >> 15 != 0) != self.used_wrap {
                    event = event.wrapping_sub(self.size);
                }
                need_event(event, self.next_used, self.next_used.wrapping_sub(self.unjudged))
            }
            // Reserved: a call too many does no harm.
            _ => true,
        })
    }

    /// See [`Ring::wants_no_call`](crate::ring::Ring::wants_no_call).
    pub(crate) fn wants_no_call(&self) -> bool {
        self.driver_event.load_u16(EVENT_FLAGS, Ordering::Relaxed) & 3 == EVENT_F_DISABLE
    }

    #[inline]
    pub(crate) fn unjudged(&self) -> u16 {
        self.unjudged
    }

    #[inline]
    pub(crate) fn judge(&mut self) {
        self.unjudged = 0;
    }
}

/// Acquire: as for `has_work`, since the flags are in the half that is read first.
#[inline]
fn read(descriptor: &SharedDescriptor) -> RawDescriptor {
    RawDescriptor::load(descriptor, Ordering::Acquire)
}

/// Whether a descriptor with these flags is available on a lap with this wrap counter (§2.8.1).
#[inline]
fn is_available(flags: u16, wrap: bool) -> bool {
    flags & (DESC_F_AVAIL | DESC_F_USED) == lap(wrap)
}

/// What AVAIL and USED are in an available descriptor of a lap with this wrap counter.
#[inline]
fn lap(wrap: bool) -> u16 {
    if wrap { DESC_F_AVAIL } else { DESC_F_USED }
}

/// Goes through an indirect table (§2.8.7): all of it is the chain, in order.
fn walk_indirect<'m>(
    table: RawDescriptor,
    translator: &mut Translator<'_, 'm>,
    direction: Direction,
    sink: &mut impl Sink<'m>,
) -> Result<(), ChainError> {
    let entries = indirect_entries(table.len())?;
    if entries as usize > CHAIN_SEGMENTS {
        return Err(ChainError::Malformed);
    }
    for index in 0..entries {
        let descriptor = translator.indirect(table.addr, index)?;
        let flags = descriptor.fourth();
        if flags & DESC_F_INDIRECT != 0 {
            return Err(ChainError::Malformed);
        }
        put_buffer(translator, descriptor.addr, descriptor.len(), flags, direction, sink)?;
    }
    Ok(())
}

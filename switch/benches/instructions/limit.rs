//! The limit: what is left of a burst when nothing is checked, learnt, looked up or accounted for. Bytes are copied from where the sender's
//! descriptor says to where the receiver's says, and both rings are given back as the specification wants it. Nobody can switch packets
//! with fewer instructions; how far above it the switch is shows what switching costs.
//!
//! The rings are in this process's own memory and laid out as virtio 1.2 §2.7 and §2.8 have them. There is no driver: whoever refills them
//! makes everything available again.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use crate::count::Rounds;
use crate::rig::{BURST, RING};

/// Bytes of the virtio-net header in front of each frame.
const HEADER: usize = 12;
/// Bytes of each buffer.
const BUFFER: usize = 2048;
const MASK: usize = RING - 1;
/// Split: what the driver sets when it wants no calls. Packed: the flags by which a descriptor is whose.
const NO_INTERRUPT: u16 = 1;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A place in a ring and the buffer there.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    id: u16,
    addr: usize,
    len: usize,
}

/// One end of a copy: buffers, and a ring (or none) that says which is next.
pub(crate) trait End {
    /// How many buffers can be taken now, up to a burst.
    fn waiting(&mut self) -> usize;
    fn take(&mut self, nth: usize) -> Taken;
    fn give_back(&mut self, nth: usize, taken: Taken, written: usize);
    fn publish(&mut self, count: usize);
    /// Makes so many buffers more available.
    fn refill(&mut self, count: usize);
}

/// A split ring (§2.7).
pub(crate) struct Split {
    descriptors: Box<[(u64, u32, u16, u16); RING]>,
    avail_flags: AtomicU16,
    avail_idx: AtomicU16,
    avail: Box<[u16; RING]>,
    used_idx: AtomicU16,
    used: Box<[(u32, u32); RING]>,
    next: u16,
}

impl Split {
    /// A ring of buffers with `len` bytes in each.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            descriptors: Box::new(std::array::from_fn(|index| ((index * BUFFER) as u64, len as u32, 0, 0))),
            avail_flags: AtomicU16::new(NO_INTERRUPT),
            avail_idx: AtomicU16::new(0),
            avail: Box::new(std::array::from_fn(|index| index as u16)),
            used_idx: AtomicU16::new(0),
            used: Box::new([(0, 0); RING]),
            next: 0,
        }
    }
}

impl End for Split {
    #[inline]
    fn waiting(&mut self) -> usize {
        usize::from(self.avail_idx.load(Ordering::Acquire).wrapping_sub(self.next)).min(BURST)
    }

    #[inline]
    fn take(&mut self, nth: usize) -> Taken {
        let id = self.avail[(usize::from(self.next) + nth) & MASK];
        let (addr, len, ..) = self.descriptors[usize::from(id) & MASK];
        Taken { id, addr: addr as usize, len: len as usize }
    }

    #[inline]
    fn give_back(&mut self, nth: usize, taken: Taken, written: usize) {
        self.used[(usize::from(self.next) + nth) & MASK] = (u32::from(taken.id), written as u32);
    }

    #[inline]
    fn publish(&mut self, count: usize) {
        self.next = self.next.wrapping_add(count as u16);
        self.used_idx.store(self.next, Ordering::Release);
        // §2.7.7.2: the index before the driver's wish.
        fence(Ordering::SeqCst);
        assert!(self.avail_flags.load(Ordering::Relaxed) == NO_INTERRUPT);
    }

    fn refill(&mut self, count: usize) {
        self.avail_idx.fetch_add(count as u16, Ordering::Release);
    }
}

/// A packed ring (§2.8).
pub(crate) struct Packed {
    descriptors: Box<[(u64, u32, u16, AtomicU16); RING]>,
    driver_event: AtomicU16,
    next: usize,
    wrap: bool,
    len: usize,
}

impl Packed {
    /// A ring of buffers with `len` bytes in each.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            descriptors: Box::new(std::array::from_fn(|index| {
                ((index * BUFFER) as u64, len as u32, index as u16, AtomicU16::new(0))
            })),
            driver_event: AtomicU16::new(NO_INTERRUPT),
            next: 0,
            wrap: true,
            len,
        }
    }

    /// The flags of a descriptor that is used, at this wrap counter.
    fn used(wrap: bool) -> u16 {
        if wrap { AVAIL | USED } else { 0 }
    }

    fn available(wrap: bool) -> u16 {
        if wrap { AVAIL } else { USED }
    }
}

impl End for Packed {
    #[inline]
    fn waiting(&mut self) -> usize {
        // Nothing but the descriptors themselves says how many there are: as long as one is available the next is looked at.
        let there = |nth: usize| {
            let flags = self.descriptors[(self.next + nth) & MASK].3.load(Ordering::Acquire);
            flags & (AVAIL | USED) == Self::available(self.wrap)
        };
        (0..BURST).take_while(|nth| there(*nth)).count()
    }

    #[inline]
    fn take(&mut self, nth: usize) -> Taken {
        let (addr, len, id, _) = &self.descriptors[(self.next + nth) & MASK];
        Taken { id: *id, addr: *addr as usize, len: *len as usize }
    }

    #[inline]
    fn give_back(&mut self, nth: usize, taken: Taken, written: usize) {
        let (_, len, id, flags) = &mut self.descriptors[(self.next + nth) & MASK];
        (*len, *id) = (written as u32, taken.id);
        // The first one's flags are written last (§2.8.21): with them the driver sees all.
        if nth > 0 {
            *flags.get_mut() = Self::used(self.wrap);
        }
    }

    #[inline]
    fn publish(&mut self, count: usize) {
        self.descriptors[self.next & MASK].3.store(Self::used(self.wrap), Ordering::Release);
        self.next += count;
        if self.next == RING {
            (self.next, self.wrap) = (0, !self.wrap);
        }
        fence(Ordering::SeqCst);
        assert!(self.driver_event.load(Ordering::Relaxed) == NO_INTERRUPT);
    }

    fn refill(&mut self, count: usize) {
        let flags = Self::available(self.wrap);
        for (_, len, _, at) in self.descriptors[self.next..].iter_mut().take(count) {
            *len = self.len as u32;
            *at.get_mut() = flags;
        }
    }
}

/// A NIC: buffers that need no ring of virtio's.
pub(crate) struct Device {
    next: usize,
    len: usize,
}

impl Device {
    pub(crate) fn new(len: usize) -> Self {
        Self { next: 0, len }
    }
}

impl End for Device {
    #[inline]
    fn waiting(&mut self) -> usize {
        BURST
    }

    #[inline]
    fn take(&mut self, nth: usize) -> Taken {
        Taken { id: 0, addr: ((self.next + nth) & MASK) * BUFFER, len: self.len }
    }

    #[inline]
    fn give_back(&mut self, _: usize, _: Taken, _: usize) {}

    #[inline]
    fn publish(&mut self, count: usize) {
        self.next += count;
    }

    fn refill(&mut self, _: usize) {}
}

/// Copies bursts from one end to the other.
pub(crate) struct Copy<F, T> {
    from: F,
    to: T,
    source: Box<[u8]>,
    target: Box<[u8]>,
    len: usize,
}

impl<F: End, T: End> Copy<F, T> {
    /// Between rings, or a ring and a NIC, that `from` and `to` make for so many bytes in a buffer: a frame of `frame_len` and the header in front of it.
    pub(crate) fn new(from: impl Fn(usize) -> F, to: impl Fn(usize) -> T, frame_len: usize) -> Self {
        let memory = |byte: u8| vec![byte; RING * BUFFER].into_boxed_slice();
        let len = HEADER + frame_len;
        Self { from: from(len), to: to(len), source: memory(1), target: memory(0), len }
    }
}

impl<F: End, T: End> Rounds for Copy<F, T> {
    fn fill(&mut self) {
        self.from.refill(RING);
        self.to.refill(RING);
        self.target.fill(0);
    }

    fn send_one(&mut self) {
        self.from.refill(1);
        self.to.refill(1);
    }

    #[inline]
    fn round(&mut self) -> bool {
        let Self { from, to, source, target, .. } = self;
        let count = from.waiting().min(to.waiting());
        for nth in 0..count {
            let (read, write) = (from.take(nth), to.take(nth));
            target[write.addr..][..read.len].copy_from_slice(&source[read.addr..][..read.len]);
            from.give_back(nth, read, 0);
            to.give_back(nth, write, read.len);
        }
        to.publish(count);
        from.publish(count);
        count > 0
    }

    fn drain(&mut self) {
        let copied = self.target.chunks(BUFFER).all(|buffer| buffer[..self.len].iter().all(|byte| *byte == 1));
        assert!(copied, "every buffer holds its frame");
    }
}

/// Looks whether there is something in the rings of two guests, and there is not.
pub(crate) struct Look([Split; 2]);

impl Look {
    pub(crate) fn new() -> Self {
        Self([Split::new(0), Split::new(0)])
    }
}

impl Rounds for Look {
    #[inline]
    fn round(&mut self) -> bool {
        self.0.iter_mut().any(|ring| ring.waiting() > 0)
    }
}

//! A ring's fields, which a driver writes at the same time.

use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::hints::{CACHE_LINE, prefetch, prefetch_write};
use super::{GuestMemory, HostPtr};

/// A ring's memory: a fixed range of one mapping, accessed by offset with atomics, since a driver writes it at the same time.
#[derive(Debug)]
pub(crate) struct RingArea {
    base: HostPtr,
    len: usize,
    // Keeps the range mapped.
    memory: Arc<GuestMemory>,
}

/// What a ring is an array of: read and written in pieces that are atomic each.
///
/// # Safety
/// Any bytes are a value, and only atomics are in it.
pub(crate) unsafe trait Record {}

/// An entry of the available ring.
// SAFETY: an atomic integer.
unsafe impl Record for AtomicU16 {}
/// An entry of the used ring.
// SAFETY: two of them.
unsafe impl Record for [AtomicU32; 2] {}
/// A descriptor.
// SAFETY: two of them.
unsafe impl Record for [AtomicU64; 2] {}

impl RingArea {
    /// `len` bytes that are inside one mapping of this memory.
    pub(super) fn new(base: HostPtr, len: usize, memory: &Arc<GuestMemory>) -> Self {
        Self { base, len, memory: Arc::clone(memory) }
    }

    /// The `count` records from `offset` bytes on. They have to be inside the area and aligned: what is not is our own defect.
    pub(crate) fn array<T: Record>(&self, offset: usize, count: usize) -> RingArray<T> {
        let first = self.field::<T>(offset, count);
        assert!(first.is_aligned(), "records that are not aligned");
        RingArray { first: HostPtr(first.cast()), count, records: PhantomData, _memory: Arc::clone(&self.memory) }
    }

    /// Loads the field at `offset` bytes, which the ring's own arithmetic keeps inside the area.
    #[inline]
    pub(crate) fn load_u16(&self, offset: usize, order: Ordering) -> u16 {
        self.u16_at(offset).load(order)
    }

    /// Stores to the field at `offset` bytes.
    #[inline]
    pub(crate) fn store_u16(&self, offset: usize, value: u16, order: Ordering) {
        self.u16_at(offset).store(value, order);
    }

    #[inline]
    fn u16_at(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: `field` returns a pointer into the mapping with room for it, aligned as the ring's areas and offsets are; an atomic makes a
        // driver's concurrent access defined.
        unsafe { &*self.field(offset, 1) }
    }

    /// The first of `count` fields from `offset` bytes on. Offsets come from masked or bounded indices, never from a guest's bytes: a failing check
    /// here is our own defect.
    #[inline]
    fn field<T>(&self, offset: usize, count: usize) -> *mut T {
        assert!(offset + count * size_of::<T>() <= self.len, "ring access outside of its area");
        let field = self.base.0.wrapping_add(offset);
        debug_assert!(field.addr().is_multiple_of(align_of::<T>()), "a field that is not aligned");
        field.cast()
    }

    /// Tells the CPU that the line of this offset will be read soon.
    #[inline]
    pub(crate) fn prefetch(&self, offset: usize) {
        prefetch(self.base.0.wrapping_add(offset));
    }

    /// Tells the CPU that these bytes will be written soon, but for those in the first one's cache line, and for what is beyond the end.
    #[inline]
    pub(crate) fn claim(&self, bytes: Range<usize>) {
        let end = bytes.end.min(self.len);
        for at in ((bytes.start / CACHE_LINE + 1) * CACHE_LINE..end).step_by(CACHE_LINE) {
            prefetch_write(self.base.0.wrapping_add(at));
        }
    }

    /// A watch on the 16-bit field at `offset`, whose bits in `mask` are `seen` as long as nothing happens.
    pub(crate) fn watch(&self, offset: usize, mask: u16, seen: u16) -> RingWatch {
        let field = HostPtr(self.field::<u16>(offset, 1).cast());
        RingWatch { field, mask, seen, _memory: Arc::clone(&self.memory) }
    }
}

/// Records of a ring in a row.
#[derive(Debug)]
pub(crate) struct RingArray<T> {
    first: HostPtr,
    count: usize,
    records: PhantomData<T>,
    // Keeps them mapped.
    _memory: Arc<GuestMemory>,
}

impl<T: Record> Deref for RingArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `RingArea::array` checked that so many are inside the mapping, and aligned; all of them are atomics, which make a driver's
        // concurrent access defined.
        unsafe { std::slice::from_raw_parts(self.first.0.cast(), self.count) }
    }
}

impl<T: Record> RingArray<T> {
    /// `count` records from the one at `first` on: up to the ring's end, and on from its beginning.
    #[inline]
    pub(crate) fn laps(&self, first: u16, count: usize) -> impl Iterator<Item = &[T]> {
        let (mut first, mut left) = (usize::from(first), count.min(self.count));
        std::iter::from_fn(move || {
            let lap = self.get(first..)?;
            let lap = lap.get(..left).unwrap_or(lap);
            (first, left) = (0, left - lap.len());
            (!lap.is_empty()).then_some(lap)
        })
    }
}

/// One 16-bit field of a ring that a driver changes when it makes something available: for whoever looks at many rings that are idle, it is
/// all there is to touch.
#[derive(Debug)]
pub struct RingWatch {
    field: HostPtr,
    mask: u16,
    seen: u16,
    // Keeps the field mapped.
    _memory: Arc<GuestMemory>,
}

impl RingWatch {
    /// Whether the driver has made nothing available since the watch was made. False may be a mistake; true is none.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        // SAFETY: `RingArea::watch` checked that the field is inside its area; an atomic makes a driver's concurrent store defined.
        let now = unsafe { AtomicU16::from_ptr(self.field.0.cast()) }.load(Ordering::Relaxed);
        now & self.mask == self.seen
    }

    /// Brings the field into the cache.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.field.0);
    }
}

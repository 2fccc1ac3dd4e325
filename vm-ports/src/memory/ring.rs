//! A ring's fields, which a driver writes at the same time.

use std::ops::Range;
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

macro_rules! ring_access {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        /// Loads the field at `offset` bytes, which the ring's own arithmetic keeps inside the area.
        #[inline]
        pub(crate) fn $load(&self, offset: usize, order: Ordering) -> $int {
            // SAFETY: `field` returns a pointer into the mapping with room for the type and its alignment; atomics make
            // a driver's concurrent access defined.
            unsafe { <$atomic>::from_ptr(self.field::<$int>(offset, 1)) }.load(order)
        }

        /// Stores to the field at `offset` bytes.
        #[inline]
        pub(crate) fn $store(&self, offset: usize, value: $int, order: Ordering) {
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(self.field::<$int>(offset, 1)) }.store(value, order);
        }
    };
}

impl RingArea {
    /// `len` bytes that are inside one mapping of this memory.
    pub(super) fn new(base: HostPtr, len: usize, memory: &Arc<GuestMemory>) -> Self {
        Self { base, len, memory: Arc::clone(memory) }
    }

    ring_access!(load_u16, store_u16, u16, AtomicU16);
    ring_access!(load_u64, store_u64, u64, AtomicU64);

    /// Loads the two fields of 8 bytes at `offset`, the second one first and with `order`.
    #[inline]
    pub(crate) fn load_u64_pair(&self, offset: usize, order: Ordering) -> (u64, u64) {
        let field = self.field::<u64>(offset, 2);
        // SAFETY: as for the single loads; `field` has room for both.
        let (first, second) = unsafe { (AtomicU64::from_ptr(field), AtomicU64::from_ptr(field.add(1))) };
        let second = second.load(order);
        (first.load(Ordering::Relaxed), second)
    }

    /// Stores to two fields of 4 bytes at each of these offsets, in no particular order.
    #[inline]
    pub(crate) fn store_u32_pairs(&self, pairs: impl Iterator<Item = (usize, (u32, u32))>) {
        // Kept here: for all that the compiler knows, a store may change what is kept elsewhere.
        let (base, len) = (self.base, self.len);
        for (offset, (first, second)) in pairs {
            let field = field::<u32>(base, len, offset, 2);
            // SAFETY: as for the single stores; `field` has room for both.
            unsafe {
                AtomicU32::from_ptr(field).store(first, Ordering::Relaxed);
                AtomicU32::from_ptr(field.add(1)).store(second, Ordering::Relaxed);
            }
        }
    }

    /// Stores to the field of 8 bytes at each of these offsets, in no particular order.
    #[inline]
    pub(crate) fn store_u64s(&self, values: impl Iterator<Item = (usize, u64)>) {
        let (base, len) = (self.base, self.len);
        for (offset, value) in values {
            // SAFETY: as for the single stores.
            unsafe { AtomicU64::from_ptr(field::<u64>(base, len, offset, 1)) }.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    fn field<T>(&self, offset: usize, count: usize) -> *mut T {
        field(self.base, self.len, offset, count)
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

/// `count` fields from `offset` bytes on in an area. Offsets come from masked or bounded indices, never from a guest's bytes: a failing check
/// here is our own defect.
#[inline]
fn field<T>(base: HostPtr, len: usize, offset: usize, count: usize) -> *mut T {
    assert!(offset + count * size_of::<T>() <= len, "ring access outside of its area");
    debug_assert!(offset.is_multiple_of(align_of::<T>()), "a field that is not aligned");
    base.0.wrapping_add(offset).cast()
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

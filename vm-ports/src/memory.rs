//! Guest memory: mapping it, translating into it, and the only code that touches it.
//!
//! This is the one file of the crate with `unsafe` in it. What it promises to the rest:
//!
//! * a [`GuestSlice`] or [`RingArea`] lies wholly inside one mapping that stays mapped while the value lives;
//! * no Rust reference to guest memory is ever formed, but for atomics on aligned ring fields: bytes are copied
//!   through raw pointers, because the guest may write them at any moment;
//! * a frontend that truncates its memory file cannot kill the process: `SIGBUS` inside a mapping puts zeros there and marks
//!   the mapping, and the rings in it stop (see [`GuestMemory::is_truncated`]).

use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use vm_memory::{FileOffset, MmapRegion};

use crate::address::{FrontendAddr, GuestPhysAddr};
use crate::ring::Direction;

/// One memory region as a frontend describes it (`SET_MEM_TABLE`, `ADD_MEM_REG`).
#[derive(Debug)]
pub struct MemorySlot {
    /// Where the guest sees it.
    pub guest: GuestPhysAddr,
    /// Where the frontend sees it.
    pub frontend: FrontendAddr,
    /// Its length in bytes.
    pub size: u64,
    /// Where it begins in `file`, in bytes.
    pub mmap_offset: u64,
    /// The file to map.
    pub file: File,
}

/// Why a memory table was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A region of no bytes.
    #[error("memory region at {0} has no bytes")]
    Empty(GuestPhysAddr),
    /// A region whose end is past the end of an address space.
    #[error("memory region at {0} of {1} bytes runs past the end of the address space")]
    Overflow(GuestPhysAddr, u64),
    /// Two regions share guest addresses.
    #[error("memory regions at {0} and {1} overlap")]
    Overlap(GuestPhysAddr, GuestPhysAddr),
    /// Two regions share frontend addresses.
    #[error("memory regions at {0} and {1} overlap in the frontend's address space")]
    FrontendOverlap(FrontendAddr, FrontendAddr),
    /// The kernel would not map the file.
    #[error("cannot map the memory region at {guest} ({size} bytes from offset {offset}): {source}")]
    Map {
        /// Which region.
        guest: GuestPhysAddr,
        /// Its length in bytes.
        size: u64,
        /// Its offset in the file, in bytes.
        offset: u64,
        /// What the mapping library said.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// `REM_MEM_REG` for a part of a region, or for more than one.
    #[error("no memory region begins at {0} and has the size and the frontend's address that were given")]
    NoSuchSlot(GuestPhysAddr),
    /// More mappings than the process keeps a `SIGBUS` record of.
    #[error("more than {0} guest memory regions are mapped by this process")]
    TooManyMappings(usize),
}

/// All of one guest's memory. Immutable: a changed memory table is a new value, made while no core holds a queue.
#[derive(Debug)]
pub struct GuestMemory {
    /// Sorted by guest address, none overlapping.
    regions: Vec<Region>,
}

#[derive(Debug, Clone)]
struct Region {
    guest: u64,
    frontend: u64,
    size: u64,
    host: HostPtr,
    mapping: Arc<Mapping>,
}

/// A pointer into this process's view of a guest's memory. It never leaves this file without a length.
#[derive(Debug, Clone, Copy)]
struct HostPtr(*mut u8);

// SAFETY: a HostPtr is an address in a shared mapping, not tied to a thread. Whoever holds one also holds, or borrows
// from, the Arc<Mapping> that keeps it mapped; concurrent access is through atomics or raw copies only.
unsafe impl Send for HostPtr {}
// SAFETY: as above; a HostPtr offers no interior mutability of its own.
unsafe impl Sync for HostPtr {}

/// A mapping and its place in the SIGBUS table.
#[derive(Debug)]
struct Mapping {
    // Dropped last: the watch must be gone before the address range can be reused by another mapping.
    watch: &'static Watch,
    _mmap: MmapRegion,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch.release();
    }
}

impl GuestMemory {
    /// Maps every slot.
    pub fn map(slots: Vec<MemorySlot>) -> Result<Arc<Self>, MemoryError> {
        let regions = slots.into_iter().map(Region::map).collect::<Result<Vec<_>, _>>()?;
        Self::from_regions(regions)
    }

    /// The same memory with one slot more (`ADD_MEM_REG`); the mappings that were there are shared, not remade.
    pub fn with_slot(&self, slot: MemorySlot) -> Result<Arc<Self>, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(slot)?);
        Self::from_regions(regions)
    }

    /// The same memory with one slot less (`REM_MEM_REG`). All three values must match, as vhost-user asks; where there is no memory
    /// at all, nothing has to be removed.
    pub fn without_slot(
        &self,
        guest: GuestPhysAddr,
        frontend: FrontendAddr,
        size: u64,
    ) -> Result<Arc<Self>, MemoryError> {
        let mut regions = self.regions.clone();
        regions.retain(|r| !(r.guest == guest.0 && r.frontend == frontend.0 && r.size == size));
        let end = guest.0.saturating_add(size);
        if regions.len() == self.regions.len() && regions.iter().any(|r| guest.0 < r.guest + r.size && r.guest < end) {
            return Err(MemoryError::NoSuchSlot(guest));
        }
        Self::from_regions(regions)
    }

    /// Whether this very region is there.
    pub(crate) fn has_slot(&self, guest: GuestPhysAddr, frontend: FrontendAddr, size: u64) -> bool {
        self.regions.iter().any(|r| r.guest == guest.0 && r.frontend == frontend.0 && r.size == size)
    }

    fn from_regions(mut regions: Vec<Region>) -> Result<Arc<Self>, MemoryError> {
        regions.sort_by_key(|r| r.frontend);
        for pair in regions.windows(2) {
            if pair[0].frontend + pair[0].size > pair[1].frontend {
                return Err(MemoryError::FrontendOverlap(
                    FrontendAddr(pair[0].frontend),
                    FrontendAddr(pair[1].frontend),
                ));
            }
        }
        regions.sort_by_key(|r| r.guest);
        for pair in regions.windows(2) {
            if pair[0].guest + pair[0].size > pair[1].guest {
                return Err(MemoryError::Overlap(GuestPhysAddr(pair[0].guest), GuestPhysAddr(pair[1].guest)));
            }
        }
        Ok(Arc::new(Self { regions }))
    }

    /// Bytes of guest memory mapped.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|r| r.size).sum()
    }

    /// Regions mapped.
    pub fn slots(&self) -> usize {
        self.regions.len()
    }

    /// Whether the frontend took memory away under us: a mapping has been replaced by zeros, and what it holds means nothing.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        // Relaxed: the flags only have to be seen eventually; the zeros themselves are harmless. The first one spares every burst of an
        // honest process the look at each region.
        ANY_HIT.load(Ordering::Relaxed) && self.regions.iter().any(|r| r.mapping.watch.hit.load(Ordering::Relaxed))
    }

    /// The longest run of host memory that backs `[addr, addr + len)` from its start: all of it, unless it crosses into the next
    /// region. `None` when `addr` is not guest memory. `hint` is the caller's cache of the last region hit.
    #[inline]
    pub fn translate(&self, hint: &mut usize, addr: GuestPhysAddr, len: u32) -> Option<GuestSlice<'_>> {
        let region = match self.regions.get(*hint) {
            Some(r) if addr.0.wrapping_sub(r.guest) < r.size => r,
            _ => {
                *hint = self.find(addr)?;
                self.regions.get(*hint)?
            }
        };
        let offset = addr.0 - region.guest;
        // In bounds: offset < size, so what is left is at least 1 and the result lies in [0, size).
        let len = u64::from(len).min(region.size - offset) as u32;
        let ptr = region.host.0.wrapping_add(offset as usize);
        Some(GuestSlice { ptr: HostPtr(ptr), len, memory: PhantomData })
    }

    /// The region of the last hit, for many buffers in a row.
    #[inline]
    pub(crate) fn window(&self, hint: usize) -> Window<'_> {
        let (guest, size, host) = self.regions.get(hint).map_or((0, 0, HostPtr(std::ptr::null_mut())), Region::range);
        Window { guest, size, host, memory: PhantomData }
    }

    #[cold]
    fn find(&self, addr: GuestPhysAddr) -> Option<usize> {
        // By bisection: a guest with many slots can make every descriptor a miss.
        let index = self.regions.partition_point(|r| r.guest <= addr.0).checked_sub(1)?;
        let region = &self.regions[index];
        (addr.0 - region.guest < region.size).then_some(index)
    }

    /// The NUMA node of the page at a frontend address, if the kernel says so. It is there afterwards: for what a guest uses anyway.
    pub(crate) fn node_of(&self, addr: FrontendAddr) -> Option<u16> {
        /// The node, and of the page at an address: flags of get_mempolicy(2).
        const NODE_OF_ADDR: libc::c_ulong = 1 | 2;
        let region = self.regions.iter().find(|r| addr.0.wrapping_sub(r.frontend) < r.size)?;
        let page = region.host.0.wrapping_add((addr.0 - region.frontend) as usize);
        let mut node: libc::c_int = -1;
        // SAFETY: the kernel writes one integer to `node`, and looks at the page, which stays mapped as long as `self` lives, by itself: where a
        // frontend has taken it away, the call fails.
        let status = unsafe {
            let nodes: *mut libc::c_ulong = std::ptr::null_mut();
            libc::syscall(libc::SYS_get_mempolicy, &raw mut node, nodes, 0 as libc::c_ulong, page, NODE_OF_ADDR)
        };
        if status == 0 { u16::try_from(node).ok() } else { None }
    }

    /// `len` bytes of ring at a frontend address, which must lie in one region and be aligned to `align`.
    pub(crate) fn ring_area(self: &Arc<Self>, addr: FrontendAddr, len: usize, align: u64) -> Option<RingArea> {
        let region = self.regions.iter().find(|r| addr.0.wrapping_sub(r.frontend) < r.size)?;
        let offset = addr.0 - region.frontend;
        if len as u64 > region.size - offset {
            return None;
        }
        let base = region.host.0.wrapping_add(offset as usize);
        // Both must be aligned: the frontend's address by the specification, ours because atomics need it.
        if !addr.0.is_multiple_of(align) || !(base as u64).is_multiple_of(align) {
            return None;
        }
        Some(RingArea { base: HostPtr(base), len, memory: Arc::clone(self) })
    }
}

impl Region {
    #[inline]
    fn range(&self) -> (u64, u64, HostPtr) {
        (self.guest, self.size, self.host)
    }

    fn map(slot: MemorySlot) -> Result<Self, MemoryError> {
        let MemorySlot { guest, frontend, size, mmap_offset, file } = slot;
        if size == 0 {
            return Err(MemoryError::Empty(guest));
        }
        let overflow = || MemoryError::Overflow(guest, size);
        guest.checked_add(size).ok_or_else(overflow)?;
        frontend.checked_add(size).ok_or_else(overflow)?;
        // From offset 0: a hugetlb file cannot be mapped from an offset that is not a multiple of its page size, and frontends send such
        // offsets (QEMU merges adjacent regions).
        let end = size.checked_add(mmap_offset).ok_or_else(overflow)?;
        let total = mapped_length(&file, end).and_then(|total| usize::try_from(total).ok()).ok_or_else(overflow)?;
        let mmap = MmapRegion::from_file(FileOffset::new(file, 0), total).map_err(|source| MemoryError::Map {
            guest,
            size,
            offset: mmap_offset,
            source,
        })?;
        let start = mmap.as_ptr();
        let watch = Watch::claim(start as usize, total).ok_or(MemoryError::TooManyMappings(WATCHES))?;
        // mmap_offset < total, so this stays inside the mapping.
        let host = HostPtr(start.wrapping_add(mmap_offset as usize));
        let mapping = Arc::new(Mapping { watch, _mmap: mmap });
        Ok(Self { guest: guest.0, frontend: frontend.0, size, host, mapping })
    }
}

/// How much to map of a file so that its first `end` bytes are there: whole pages of a hugetlb file, which says its page size where others
/// say their block size. tmpfs with transparent huge pages does the same and may end within one: nothing is behind a file's end.
fn mapped_length(file: &File, end: u64) -> Option<u64> {
    const SMALLEST_HUGE_PAGE: u64 = 64 << 10;
    match file.metadata() {
        Ok(meta) if meta.blksize() >= SMALLEST_HUGE_PAGE => {
            Some(end.checked_next_multiple_of(meta.blksize())?.min(meta.len()).max(end))
        }
        _ => Some(end),
    }
}

/// One region by value, borrowed from its [`GuestMemory`]: a loop over buffers keeps it in registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'m> {
    guest: u64,
    size: u64,
    host: HostPtr,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> Window<'m> {
    /// `len` bytes at `addr`; `None` where they are not all in this region.
    #[inline]
    pub(crate) fn slice(&self, addr: GuestPhysAddr, len: u32) -> Option<GuestSlice<'m>> {
        let offset = addr.0.wrapping_sub(self.guest);
        // In bounds: the second comparison is made where the difference is positive.
        (offset < self.size && u64::from(len) <= self.size - offset).then(|| GuestSlice {
            ptr: HostPtr(self.host.0.wrapping_add(offset as usize)),
            len,
            memory: PhantomData,
        })
    }
}

impl Window<'_> {
    /// Has the CPU fetch the beginning of the buffer at `addr`, if that is in this region.
    #[inline]
    pub(crate) fn prefetch(&self, addr: GuestPhysAddr, direction: Direction) {
        let offset = addr.0.wrapping_sub(self.guest);
        if offset < self.size {
            let line = self.host.0.wrapping_add(offset as usize);
            for line in [line, line.wrapping_add(CACHE_LINE)] {
                match direction {
                    Direction::Read => prefetch(line),
                    Direction::Write => prefetch_write(line),
                }
            }
        }
    }
}

/// Writable guest memory inside one mapping; borrowed from the [`GuestMemory`] that keeps it mapped.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'m> {
    ptr: HostPtr,
    len: u32,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> GuestSlice<'m> {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` bytes (all, where there are fewer).
    #[inline]
    pub fn prefix(self, len: usize) -> Self {
        Self { len: len.min(self.len()) as u32, ..self }
    }

    /// What is left after the first `skip` bytes (nothing, where there are fewer).
    #[inline]
    pub fn suffix(self, skip: usize) -> Self {
        let skip = skip.min(self.len());
        Self { ptr: HostPtr(self.ptr.0.wrapping_add(skip)), len: self.len - skip as u32, memory: PhantomData }
    }

    /// Reads as many bytes as fit in both into `to`; returns how many.
    #[inline]
    pub fn read(&self, to: &mut [u8]) -> usize {
        Source::from(*self).read(to)
    }

    /// Writes as many bytes as fit in both; returns how many.
    #[inline]
    pub fn write(&self, from: &[u8]) -> usize {
        self.write_source(Source::from(from))
    }

    /// Writes as many bytes of `from` as fit; returns how many. This is the one copy between two guests.
    #[inline]
    pub fn write_source(&self, from: Source<'_>) -> usize {
        let n = self.len().min(from.len());
        // SAFETY: `n` bytes are inside `self`'s mapping and inside `from` (both types' invariant). They may overlap when a
        // frontend maps one file twice, and the guest may write either meanwhile: `copy` allows the first, and no reference exists
        // to make the second anything but stale bytes.
        unsafe { copy(from.ptr, self.ptr.0, n) };
        n
    }

    /// Writes `bytes` with as few stores as there can be; nothing where there is no room for all of them.
    #[inline]
    pub(crate) fn write_array<const N: usize>(&self, bytes: &[u8; N]) {
        if self.len() >= N {
            // SAFETY: as for `write_source`; `N` bytes are inside `self`'s mapping.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.ptr.0, N) };
        }
    }

    /// Tells the CPU that the beginning will be written soon, and the beginning only: a copy's later lines are a sequence, which the CPU
    /// recognises by itself.
    #[inline]
    pub(crate) fn prefetch_write(&self) {
        prefetch_write(self.ptr.0);
        prefetch_write(self.ptr.0.wrapping_add(CACHE_LINE));
    }

    /// The same for the `len` bytes after the beginning.
    #[inline]
    pub(crate) fn prefetch_write_body(&self, len: usize) {
        let end = (2 * CACHE_LINE + len.min(BODY_AHEAD)).min(self.len());
        for at in (2 * CACHE_LINE..end).step_by(CACHE_LINE) {
            prefetch_write(self.ptr.0.wrapping_add(at));
        }
    }

    /// The same for reading.
    #[inline]
    pub(crate) fn prefetch_read(&self) {
        prefetch(self.ptr.0);
        prefetch(self.ptr.0.wrapping_add(CACHE_LINE));
    }
}

/// Bytes to be copied from: guest memory, or memory of this process (an mbuf, a core-to-core ring).
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    ptr: *const u8,
    len: u32,
    bytes: PhantomData<&'a [u8]>,
}

impl<'m> From<GuestSlice<'m>> for Source<'m> {
    #[inline]
    fn from(slice: GuestSlice<'m>) -> Self {
        Self { ptr: slice.ptr.0, len: slice.len, bytes: PhantomData }
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    /// The first 4 GiB of it; packets are never that long.
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), bytes: PhantomData }
    }
}

impl Source<'_> {
    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` bytes (all, where there are fewer).
    #[inline]
    pub fn prefix(self, len: usize) -> Self {
        Self { len: len.min(self.len()) as u32, ..self }
    }

    /// What is left after the first `skip` bytes (nothing, where there are fewer).
    #[inline]
    pub fn suffix(self, skip: usize) -> Self {
        let skip = skip.min(self.len());
        Self { ptr: self.ptr.wrapping_add(skip), len: self.len - skip as u32, bytes: PhantomData }
    }

    /// Tells the CPU that it will be read soon.
    #[inline]
    pub(crate) fn prefetch(&self) {
        for at in (0..self.len().min(BODY_AHEAD)).step_by(CACHE_LINE) {
            prefetch(self.ptr.wrapping_add(at));
        }
    }

    /// Reads as many bytes as fit in both into `to`; returns how many.
    #[inline]
    pub fn read(&self, to: &mut [u8]) -> usize {
        let n = self.len().min(to.len());
        // SAFETY: `n` bytes are inside the source (type invariant: mapped or borrowed for 'a) and inside `to`, which is
        // exclusively ours.
        unsafe { copy(self.ptr, to.as_mut_ptr(), n) };
        n
    }

    /// The first `N` bytes, if there are as many.
    #[inline]
    pub(crate) fn read_array<const N: usize>(&self) -> Option<[u8; N]> {
        // SAFETY: `N` bytes are inside the source; they are copied, not referred to, and any bytes make an array of bytes.
        (self.len() >= N).then(|| unsafe { self.ptr.cast::<[u8; N]>().read_unaligned() })
    }
}

/// Copies `n` bytes that may overlap. Between half a cache line and a whole one, which is what headers and the shortest packets are, it is
/// two moves of 32 bytes that meet or overlap in the middle; for the rest the C library knows best.
///
/// # Safety
/// `n` bytes can be read at `from` and written at `to`.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
    type Half = [u8; 32];
    if (size_of::<Half>()..=2 * size_of::<Half>()).contains(&n) {
        let last = n - size_of::<Half>();
        // SAFETY: both halves lie in the `n` bytes, whatever their alignment. Both are read before either is written.
        unsafe {
            let first_half = from.cast::<Half>().read_unaligned();
            let last_half = from.add(last).cast::<Half>().read_unaligned();
            to.cast::<Half>().write_unaligned(first_half);
            to.add(last).cast::<Half>().write_unaligned(last_half);
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy(from, to, n) };
    }
}

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

#[allow(dead_code, reason = "the macro makes a pair for each width; not every ring uses each")]
impl RingArea {
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

    /// Stores to the two fields of 4 bytes at `offset`, in no particular order.
    #[inline]
    pub(crate) fn store_u32_pair(&self, offset: usize, (first, second): (u32, u32)) {
        let field = self.field::<u32>(offset, 2);
        // SAFETY: as for the single stores; `field` has room for both.
        unsafe {
            AtomicU32::from_ptr(field).store(first, Ordering::Relaxed);
            AtomicU32::from_ptr(field.add(1)).store(second, Ordering::Relaxed);
        }
    }

    /// `count` fields from `offset` bytes on. Offsets come from masked or bounded indices, never from a guest's bytes: a failing check
    /// here is our own defect.
    #[inline]
    fn field<T>(&self, offset: usize, count: usize) -> *mut T {
        assert!(offset + count * size_of::<T>() <= self.len, "ring access outside of its area");
        debug_assert!(offset.is_multiple_of(align_of::<T>()), "a field that is not aligned");
        self.base.0.wrapping_add(offset).cast()
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

#[inline]
fn prefetch(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it does not fault whatever the address is.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// The same for a line that is to be written: it is taken from the other CPU at once, not when the store is made.
#[inline]
fn prefetch_write(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as for `prefetch`; a CPU of this architecture that does not know the instruction takes it for a NOP. Written out, because the
    // compiler makes a prefetch for reading of it where it is not told that the CPU has PREFETCHW: the line would come shared, and
    // the store would fetch it again.
    unsafe {
        std::arch::asm!("prefetchw byte ptr [{}]", in(reg) ptr.addr(), options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// Orders every store before it ahead of every load after it, as seen by any other CPU: what a ring's publication needs before the driver's
/// wish for a call is read. One serves all rings that were published before it.
#[inline]
pub fn full_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a word of this thread's stack is ORed with 0: nothing changes. A locked instruction orders stores before loads (Intel SDM,
    // volume 3, "Memory Ordering") and costs less than MFENCE; the compiler moves no memory access across it.
    unsafe {
        std::arch::asm!("lock or dword ptr [rsp - 128], 0", options(nostack));
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(Ordering::SeqCst);
}

const CACHE_LINE: usize = 64;

/// Bytes of a packet's body that are fetched ahead: a standard frame. What is longer is a sequence that the CPU recognises.
const BODY_AHEAD: usize = 1536;

/// Whether any mapping of this process was ever hit.
static ANY_HIT: AtomicBool = AtomicBool::new(false);

/// How many mappings the SIGBUS handler can know of.
const WATCHES: usize = 8192;

/// One mapping the SIGBUS handler knows of. `start` is 0 for a free place and 1 for one being filled.
#[derive(Debug)]
struct Watch {
    start: AtomicUsize,
    len: AtomicUsize,
    hit: AtomicBool,
}

static WATCH_TABLE: [Watch; WATCHES] =
    [const { Watch { start: AtomicUsize::new(0), len: AtomicUsize::new(0), hit: AtomicBool::new(false) } }; WATCHES];

impl Watch {
    fn claim(start: usize, len: usize) -> Option<&'static Self> {
        static HANDLER: OnceLock<()> = OnceLock::new();
        HANDLER.get_or_init(install_sigbus_handler);
        let watch =
            WATCH_TABLE.iter().find(|w| w.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
        watch.hit.store(false, Ordering::Relaxed);
        // Release: pairs with the handler's Acquire, so that a handler that sees this length no longer sees the start of an earlier mapping.
        watch.len.store(len, Ordering::Release);
        // Release: pairs with the handler's Acquire, so that it sees the length of this mapping, not of an earlier one.
        watch.start.store(start, Ordering::Release);
        Some(watch)
    }

    /// The range from its start, where `addr` is in it. Another thread may release this watch and claim it again while we read: a start that
    /// is still the same has the length that was read. (The watch that is looked for stays put: the faulting thread holds its mapping.)
    fn range_with(&self, addr: usize) -> Option<(usize, usize)> {
        let start = self.start.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Acquire);
        (start > 1 && addr.wrapping_sub(start) < len && self.start.load(Ordering::Relaxed) == start)
            .then_some((start, len))
    }

    fn release(&self) {
        self.start.store(0, Ordering::Release);
    }
}

fn install_sigbus_handler() {
    // SAFETY: an all-zero sigaction is a valid value (no flags, empty mask, default handler); the handler has the signature SA_SIGINFO asks
    // for and does only what is async-signal-safe (atomics and mmap).
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// A frontend truncated its memory file and a core touched what is gone: put zeros over that whole mapping, so that the access goes on and
/// the next one does not trap again, and say so in the mapping's watch. Any other SIGBUS is fatal, as it was.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and SIGBUS carries an address.
    let addr = unsafe { (*info).si_addr() } as usize;
    for watch in &WATCH_TABLE {
        if let Some((start, len)) = watch.range_with(addr) {
            watch.hit.store(true, Ordering::Relaxed);
            ANY_HIT.store(true, Ordering::Relaxed);
            // SAFETY: [start, start + len) is one mapping of guest memory that its owner keeps until the watch is released;
            // replacing its pages leaves every pointer into it valid.
            let mapped = unsafe {
                libc::mmap(
                    start as *mut libc::c_void,
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if mapped != libc::MAP_FAILED {
                return;
            }
        }
    }
    // SAFETY: resetting a signal to its default is async-signal-safe; the faulting instruction runs again and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

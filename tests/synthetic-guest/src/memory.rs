//! Guest memory: shared files mapped here and by the backend. The only file with `unsafe`.
//!
//! No reference to shared memory is ever formed: the backend writes to it at the same time. Ring fields are accessed as
//! atomics through raw pointers, buffers are copied in and out.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;

use crate::Error;

/// Size of the hugepages asked for.
const HUGEPAGE: u64 = 2 << 20;

/// Which pages back the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backing {
    /// Ordinary pages.
    Pages,
    /// 2 MiB hugepages where enough are free, else ordinary ones.
    #[default]
    Auto,
    /// 2 MiB hugepages or an error.
    Hugepages,
}

/// Shape of the guest's memory.
#[derive(Clone, Debug)]
pub struct RamConfig {
    /// Number of regions, each a slot of the memory table.
    pub regions: usize,
    /// Bytes of one region; rounded up to whole (huge)pages.
    pub region_size: u64,
    /// Which pages.
    pub backing: Backing,
    /// All regions lie in one file, at rising offsets, as QEMU lays out memory around its PCI hole.
    pub one_file: bool,
    /// Seal the files against shrinking; [`Ram::truncate`] then fails.
    pub seal: bool,
    /// Guest-physical address of the first region; regions are a hole of the same size apart.
    pub guest_base: u64,
}

impl Default for RamConfig {
    fn default() -> Self {
        RamConfig {
            regions: 1,
            region_size: 16 << 20,
            backing: Backing::default(),
            one_file: false,
            seal: false,
            guest_base: 0x1_0000_0000,
        }
    }
}

/// One mapped piece of guest memory.
pub struct Region {
    /// Guest-physical address of the first byte.
    pub guest: u64,
    /// Frontend address of the first byte, deliberately not where it is mapped here, so that a backend that confuses
    /// address spaces is found out.
    pub frontend: u64,
    /// Bytes.
    pub size: u64,
    /// Offset in the file.
    pub offset: u64,
    file: Arc<File>,
    map: Arc<MmapRegion>,
}

impl Region {
    /// The memory file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where it is mapped here: for a monitor that gives it to a virtual machine.
    pub fn host(&self) -> u64 {
        self.map.as_ptr().addr() as u64
    }
}

/// A guest's memory: one or several regions.
pub struct Ram {
    regions: Vec<Region>,
    hugepages: bool,
}

impl Ram {
    /// Frontend addresses start here.
    const FRONTEND_BASE: u64 = 0x7f00_0000_0000;

    /// Creates and maps the memory.
    ///
    /// # Errors
    /// No memory, no hugepages where they are required, or a configuration without regions.
    pub fn new(config: &RamConfig) -> Result<Ram, Error> {
        if config.regions == 0 || config.region_size == 0 {
            return Err(Error::Config("guest memory needs at least one region of at least one byte".into()));
        }
        match config.backing {
            Backing::Pages => Self::with_pages(config, false),
            Backing::Hugepages => Self::with_pages(config, true),
            Backing::Auto => Self::with_pages(config, true).or_else(|_| Self::with_pages(config, false)),
        }
    }

    fn with_pages(config: &RamConfig, hugepages: bool) -> Result<Ram, Error> {
        let page = if hugepages { HUGEPAGE } else { 4096 };
        let size = config.region_size.next_multiple_of(page);
        let files = if config.one_file { 1 } else { config.regions };
        let file_size = size * (config.regions / files) as u64;
        let files: Vec<_> =
            (0..files).map(|_| create_file(file_size, hugepages, config.seal)).collect::<Result<_, _>>()?;
        let mut regions = Vec::with_capacity(config.regions);
        for index in 0..config.regions {
            let (file, offset) = if config.one_file { (&files[0], size * index as u64) } else { (&files[index], 0) };
            let clone = file.try_clone().map_err(Error::io("duplicating a memory file"))?;
            let map = MmapRegion::from_file(FileOffset::new(clone, offset), size as usize)
                .map_err(|e| Error::Memory(format!("mapping {size} bytes: {e}")))?;
            regions.push(Region {
                guest: config.guest_base + 2 * size * index as u64,
                frontend: Self::FRONTEND_BASE + 3 * size * index as u64,
                size,
                offset,
                file: file.clone(),
                map: Arc::new(map),
            });
        }
        Ok(Ram { regions, hugepages })
    }

    /// The regions, in the order of the memory table.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether hugepages back this memory.
    pub fn hugepages(&self) -> bool {
        self.hugepages
    }

    /// Access to `len` bytes at guest-physical `guest`, which must lie in one region.
    pub fn window(&self, guest: u64, len: usize) -> Result<Window, Error> {
        let outside = || Error::Memory(format!("{len} bytes at {guest:#x} are not in one region"));
        let region = self.region_of(guest).ok_or_else(outside)?;
        let offset = guest - region.guest;
        if offset.checked_add(len as u64).is_none_or(|end| end > region.size) {
            return Err(outside());
        }
        let base = NonNull::new(region.map.as_ptr()).ok_or_else(outside)?;
        // SAFETY: offset + len <= region.size, the size of the mapping that `region.map` owns and the window keeps alive.
        let base = unsafe { base.add(offset as usize) };
        Ok(Window { base, len, guest, frontend: region.frontend + offset, _map: region.map.clone() })
    }

    /// The frontend address of a guest-physical one.
    pub fn frontend(&self, guest: u64) -> Option<u64> {
        self.region_of(guest).map(|r| r.frontend + (guest - r.guest))
    }

    /// Cuts the memory file of region `index` to `size` bytes of that region (rounded up to a page). What the backend
    /// still maps beyond it raises SIGBUS there; here it is replaced by private zeros, so that this process lives on.
    ///
    /// # Errors
    /// A sealed file, or no such region.
    pub fn truncate(&self, index: usize, size: u64) -> Result<(), Error> {
        let no_region = || Error::Config(format!("no memory region {index}"));
        let cut = self.regions.get(index).ok_or_else(no_region)?;
        let page = if self.hugepages { HUGEPAGE } else { 4096 };
        let end = cut.offset + size.next_multiple_of(page).min(cut.size);
        let seals = rustix::fs::fcntl_get_seals(&cut.file).map_err(|e| Error::io("reading seals")(e.into()))?;
        if seals.contains(SealFlags::SHRINK) {
            return Err(Error::Memory("the memory file is sealed against shrinking".into()));
        }
        for region in self.regions.iter().filter(|r| Arc::ptr_eq(&r.file, &cut.file)) {
            let keep = end.saturating_sub(region.offset).min(region.size) as usize;
            let rest = region.size as usize - keep;
            if rest == 0 {
                continue;
            }
            // SAFETY: [keep, keep + rest) is the page-aligned tail of the mapping owned by `region.map`; MAP_FIXED
            // replaces exactly these pages by fresh ones that stay readable and writable, and `region.map` unmaps them
            // like the old ones. Windows hold raw pointers and atomics only, so no reference sees its memory replaced.
            unsafe {
                let tail = region.map.as_ptr().add(keep);
                let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
                rustix::mm::mmap_anonymous(tail.cast(), rest, ProtFlags::READ | ProtFlags::WRITE, flags)
                    .map_err(|e| Error::io("replacing the truncated pages")(e.into()))?;
            }
        }
        cut.file.set_len(end).map_err(Error::io("truncating guest memory"))
    }

    fn region_of(&self, guest: u64) -> Option<&Region> {
        self.regions.iter().find(|r| guest >= r.guest && guest - r.guest < r.size)
    }
}

fn create_file(size: u64, hugepages: bool, seal: bool) -> Result<Arc<File>, Error> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if hugepages {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let fd =
        rustix::fs::memfd_create("synthetic-guest", flags).map_err(|e| Error::Memory(format!("memfd_create: {e}")))?;
    let file = File::from(fd);
    file.set_len(size).map_err(Error::io("sizing guest memory"))?;
    if hugepages {
        // The mapping is MAP_NORESERVE: without pages taken now, a missing one would be a SIGBUS later.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)
            .map_err(|e| Error::Memory(format!("{} hugepages: {e}", size / HUGEPAGE)))?;
    }
    if seal {
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|e| Error::Memory(format!("sealing: {e}")))?;
    }
    Ok(Arc::new(file))
}

/// Hands out pieces of guest memory, never taking one back: rings and buffers live as long as a negotiation.
pub(crate) struct Arena<'a> {
    ram: &'a Ram,
    used: Vec<u64>,
}

impl<'a> Arena<'a> {
    pub(crate) fn new(ram: &'a Ram) -> Self {
        Arena { ram, used: vec![0; ram.regions.len()] }
    }

    /// `len` zeroed bytes in region `index` modulo the number of regions, aligned to `align` (a power of two).
    pub(crate) fn take(&mut self, index: usize, len: usize, align: u64) -> Result<Window, Error> {
        let index = index % self.used.len();
        let region = &self.ram.regions[index];
        let start = self.used[index].next_multiple_of(align);
        let end = start + len as u64;
        if end > region.size {
            return Err(Error::Memory(format!("region {index} of {} bytes is too small: {end} needed", region.size)));
        }
        self.used[index] = end;
        let window = self.ram.window(region.guest + start, len)?;
        window.fill(0, len, 0);
        Ok(window)
    }
}

/// Records of `SIZE` bytes, one after the other in guest memory, aligned to `ALIGN`: only an index is left to be checked at
/// an access. One that is out of range panics, like an access outside of a [`Window`].
#[derive(Clone)]
pub(crate) struct Table<const SIZE: usize, const ALIGN: usize> {
    base: NonNull<u8>,
    count: usize,
    _map: Arc<MmapRegion>,
}

// SAFETY: as for `Window`.
unsafe impl<const SIZE: usize, const ALIGN: usize> Send for Table<SIZE, ALIGN> {}

macro_rules! record_accessors {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        /// Reads a field at byte `AT` of record `index`.
        #[inline(always)]
        pub(crate) fn $load<const AT: usize>(&self, index: usize, order: Ordering) -> $int {
            let pointer = self.field::<AT, { size_of::<$int>() }>(index).cast::<$int>().as_ptr();
            // SAFETY: `field` gives a pointer to that many mapped bytes, aligned to their size; `_map` keeps them mapped.
            <$int>::from_le(unsafe { <$atomic>::from_ptr(pointer) }.load(order))
        }

        /// Writes a field at byte `AT` of record `index`.
        #[inline(always)]
        pub(crate) fn $store<const AT: usize>(&self, index: usize, value: $int, order: Ordering) {
            let pointer = self.field::<AT, { size_of::<$int>() }>(index).cast::<$int>().as_ptr();
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(pointer) }.store(value.to_le(), order);
        }
    };
}

impl<const SIZE: usize, const ALIGN: usize> Table<SIZE, ALIGN> {
    record_accessors!(load_u16, store_u16, u16, AtomicU16);
    record_accessors!(load_u32, store_u32, u32, AtomicU32);
    record_accessors!(load_u64, store_u64, u64, AtomicU64);

    #[inline(always)]
    fn field<const AT: usize, const LEN: usize>(&self, index: usize) -> NonNull<u8> {
        const { assert!(AT + LEN <= SIZE && AT.is_multiple_of(LEN) && LEN <= ALIGN && SIZE.is_multiple_of(ALIGN)) };
        assert!(index < self.count, "access outside of a table in guest memory");
        // SAFETY: index < count, and `Window::table` has checked that count records are in one mapping; AT is in a record.
        unsafe { self.base.add(index * SIZE + AT) }
    }
}

/// A checked view of a piece of guest memory. Offsets are bytes from its start; an access outside of it or a misaligned
/// one panics: it is this library's mistake or its user's, never the backend's.
#[derive(Clone)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
    guest: u64,
    frontend: u64,
    _map: Arc<MmapRegion>,
}

// SAFETY: the pointer is into a mapping kept alive by `_map`, which is Send and Sync; all accesses are atomic or copies of
// bytes that the other side may change at any time anyway.
unsafe impl Send for Window {}

macro_rules! accessors {
    ($load:ident, $store:ident, $int:ty, $atomic:ty, $name:literal) => {
        #[doc = concat!("Reads the little-endian ", $name, " at `offset`.")]
        #[inline(always)]
        pub fn $load(&self, offset: usize, order: Ordering) -> $int {
            let pointer = self.at(offset, size_of::<$int>()).cast::<$int>().as_ptr();
            assert!(pointer.is_aligned());
            // SAFETY: `at` checked the range, the line above the alignment; `_map` keeps it mapped for the whole access.
            <$int>::from_le(unsafe { <$atomic>::from_ptr(pointer) }.load(order))
        }

        #[doc = concat!("Writes the little-endian ", $name, " at `offset`.")]
        #[inline(always)]
        pub fn $store(&self, offset: usize, value: $int, order: Ordering) {
            let pointer = self.at(offset, size_of::<$int>()).cast::<$int>().as_ptr();
            assert!(pointer.is_aligned());
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(pointer) }.store(value.to_le(), order);
        }
    };
}

impl Window {
    /// The first `len` bytes of an ordinary file, mapped here: what is written there others see who read the file. It is no guest's
    /// memory: its addresses are 0.
    ///
    /// # Errors
    /// A file that cannot be mapped, or that is shorter.
    pub fn of_file(file: File, len: usize) -> Result<Window, Error> {
        let there = file.metadata().map_err(Error::io("looking at a file"))?.len();
        if there < len as u64 {
            return Err(Error::Memory(format!("{len} bytes of a file that has {there}")));
        }
        let map = MmapRegion::from_file(FileOffset::new(file, 0), len)
            .map_err(|e| Error::Memory(format!("mapping {len} bytes of a file: {e}")))?;
        let base = NonNull::new(map.as_ptr()).ok_or_else(|| Error::Memory("a mapping at address 0".into()))?;
        Ok(Window { base, len, guest: 0, frontend: 0, _map: Arc::new(map) })
    }

    /// Guest-physical address of the first byte.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// Frontend address of the first byte.
    pub fn frontend(&self) -> u64 {
        self.frontend
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The window as `count` records from `offset` on.
    pub(crate) fn table<const SIZE: usize, const ALIGN: usize>(
        &self,
        offset: usize,
        count: usize,
    ) -> Table<SIZE, ALIGN> {
        let base = self.at(offset, count.checked_mul(SIZE).expect("a table of sound size"));
        assert!(base.as_ptr().addr().is_multiple_of(ALIGN), "a table that is not aligned");
        Table { base, count, _map: self._map.clone() }
    }

    accessors!(load_u16, store_u16, u16, AtomicU16, "u16");
    accessors!(load_u32, store_u32, u32, AtomicU32, "u32");
    accessors!(load_u64, store_u64, u64, AtomicU64, "u64");

    /// Copies `bytes` to `offset`.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: `at` checked the destination range; `bytes` is ordinary memory of this process and cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) }
    }

    /// Copies from `offset` into `bytes`.
    #[inline]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.at(offset, bytes.len());
        // SAFETY: `at` checked the source range; `bytes` is ordinary memory of this process and cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies `len` bytes from `offset` to `to_offset` of another window.
    #[inline]
    pub fn copy_to(&self, offset: usize, to: &Window, to_offset: usize, len: usize) {
        let (from, to) = (self.at(offset, len), to.at(to_offset, len));
        // SAFETY: `at` checked both ranges. They may overlap, which `copy` allows for.
        unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), len) }
    }

    /// Asks the processor to fetch the cache line at `offset`.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        let pointer = self.at(offset, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch is a hint, which reads nothing that the program sees and faults nowhere; SSE is part of
        // x86-64.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(pointer.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = pointer;
    }

    /// The same for a line that is to be written: it is taken from the other processors at once.
    #[inline(always)]
    pub fn prefetch_write(&self, offset: usize) {
        let pointer = self.at(offset, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; a processor that does not know the instruction takes it for a NOP. Written out, because the compiler makes a
        // prefetch for reading of it where it is not told that the processor has it.
        unsafe {
            std::arch::asm!("prefetchw byte ptr [{}]", in(reg) pointer.as_ptr().addr(), options(nomem, nostack, preserves_flags));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = pointer;
    }

    /// Sets `len` bytes at `offset` to `value`.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let to = self.at(offset, len);
        // SAFETY: `at` checked the range.
        unsafe { std::ptr::write_bytes(to.as_ptr(), value, len) }
    }

    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(len <= self.len && offset <= self.len - len, "access outside of a window of guest memory");
        // SAFETY: offset + len <= self.len, checked above; the window's bytes are all in one mapping.
        unsafe { self.base.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(regions: usize, one_file: bool) -> Ram {
        let config =
            RamConfig { regions, region_size: 8192, backing: Backing::Pages, one_file, ..RamConfig::default() };
        Ram::new(&config).unwrap()
    }

    #[test]
    fn windows_stay_inside_a_region() {
        let ram = small(2, false);
        let first = ram.regions()[0].guest;
        assert!(ram.window(first, 8192).is_ok());
        assert!(ram.window(first + 1, 8192).is_err());
        assert!(ram.window(first, usize::MAX).is_err());
        assert!(ram.window(first - 1, 1).is_err());
    }

    #[test]
    #[should_panic(expected = "outside of a window")]
    fn access_outside_panics() {
        let ram = small(1, false);
        ram.window(ram.regions()[0].guest, 16).unwrap().load_u32(13, Ordering::Relaxed);
    }

    #[test]
    fn truncated_memory_reads_as_zero_here() {
        for one_file in [false, true] {
            let ram = small(2, one_file);
            let windows: Vec<_> = ram.regions().iter().map(|r| ram.window(r.guest, 8192).unwrap()).collect();
            windows.iter().for_each(|w| w.fill(0, 8192, 7));
            ram.truncate(1, 4096).unwrap();
            let mut byte = [1];
            windows[1].read(4096, &mut byte);
            assert_eq!(byte, [0]);
            windows[1].read(4095, &mut byte);
            assert_eq!(byte, [7]);
            windows[0].read(8191, &mut byte);
            assert_eq!(byte, [7]);
        }
    }

    #[test]
    fn what_is_written_to_a_mapped_file_is_read_from_it() {
        use std::os::unix::fs::FileExt as _;
        let file = tempfile::tempfile().unwrap();
        assert!(Window::of_file(file.try_clone().unwrap(), 64).is_err(), "there is nothing in it yet");
        file.set_len(64).unwrap();
        let window = Window::of_file(file.try_clone().unwrap(), 64).unwrap();
        window.store_u64(8, 0x0102_0304, Ordering::Release);
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn sealed_memory_cannot_be_truncated() {
        let config =
            RamConfig { regions: 1, region_size: 8192, backing: Backing::Pages, seal: true, ..RamConfig::default() };
        assert!(Ram::new(&config).unwrap().truncate(0, 0).is_err());
    }
}

//! One region of guest memory, mapped.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

use super::HostPtr;
use super::truncated::{WATCHES, Watch};
use crate::address::{FrontendAddr, GuestPhysAddr};

/// Bytes of files that one guest's memory may be mapped from, and those of all guests together. A file can be longer than all memory there is, at no
/// cost to its owner; mapped, it takes up addresses, and a process that has none left cannot allocate. Half of those that x86-64 has are left.
pub(super) const GUEST_MAX: u64 = 4 << 40;
const PROCESS_MAX: u64 = 64 << 40;
/// Bytes mapped by this process.
static MAPPED: AtomicU64 = AtomicU64::new(0);

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
        source: MmapRegionError,
    },
    /// `REM_MEM_REG` for a part of a region, or for more than one.
    #[error("no memory region begins at {0} and has the size and the frontend's address that were given")]
    NoSuchSlot(GuestPhysAddr),
    /// More of the process's address space than there is for it.
    #[error(
        "{0} TiB of guest memory, counted from the beginning of each region's file, are the most that is mapped for {1}"
    )]
    TooLarge(u64, &'static str),
    /// More mappings than the process keeps a `SIGBUS` record of.
    #[error("more than {0} guest memory regions are mapped by this process")]
    TooManyMappings(usize),
}

impl MemoryError {
    pub(super) fn too_large_for_guest() -> Self {
        Self::TooLarge(GUEST_MAX >> 40, "a guest")
    }
}

#[derive(Debug, Clone)]
pub(super) struct Region {
    pub(super) guest: u64,
    pub(super) frontend: u64,
    pub(super) size: u64,
    pub(super) host: HostPtr,
    mapping: Arc<Mapping>,
}

/// A mapping and its place in the SIGBUS table.
#[derive(Debug)]
struct Mapping {
    watch: &'static Watch,
    // Dropped after the watch was released: another mapping may be where this one was at once.
    _mmap: MmapRegion,
    room: Room,
}

/// A part of the process's address space, given back when it is dropped.
#[derive(Debug)]
struct Room(u64);

impl Room {
    fn claim(bytes: u64) -> Result<Self, MemoryError> {
        if bytes > GUEST_MAX {
            return Err(MemoryError::too_large_for_guest());
        }
        let room = Self(bytes);
        // Relaxed: a number, and nothing behind it.
        if MAPPED.fetch_add(bytes, Ordering::Relaxed) + bytes > PROCESS_MAX {
            return Err(MemoryError::TooLarge(PROCESS_MAX >> 40, "all guests"));
        }
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        MAPPED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch.release();
    }
}

impl Region {
    /// Whether its frontend has taken some of it away.
    #[inline]
    pub(super) fn is_truncated(&self) -> bool {
        self.mapping.watch.is_hit()
    }

    /// Bytes mapped for it.
    pub(super) fn mapped(&self) -> u64 {
        self.mapping.room.0
    }

    #[inline]
    pub(super) fn range(&self) -> (u64, u64, HostPtr) {
        (self.guest, self.size, self.host)
    }

    /// Maps a slot.
    pub(super) fn map(slot: MemorySlot) -> Result<Self, MemoryError> {
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
        let failed = |source| MemoryError::Map { guest, size, offset: mmap_offset, source };
        let page = page_size(&file).map_err(|error| failed(MmapRegionError::Mmap(error)))?;
        // Whole pages: of a hugetlb file no less can be unmapped or replaced, whatever length the file says it has.
        let total = end.checked_next_multiple_of(page as u64).ok_or_else(overflow)?;
        let room = Room::claim(total)?;
        let total = usize::try_from(total).map_err(|_| overflow())?;
        let mmap = MmapRegion::from_file(FileOffset::new(file, 0), total).map_err(failed)?;
        let start = mmap.as_ptr();
        let watch = Watch::claim(start as usize, total, page).ok_or(MemoryError::TooManyMappings(WATCHES))?;
        // mmap_offset < total, so this stays inside the mapping.
        let host = HostPtr(start.wrapping_add(mmap_offset as usize));
        let mapping = Arc::new(Mapping { watch, _mmap: mmap, room });
        Ok(Self { guest: guest.0, frontend: frontend.0, size, host, mapping })
    }
}

/// Bytes of a page of a mapping of this file: a hugetlb file says so where others say the size of their blocks, or of
/// the huge pages that they may have or not.
fn page_size(file: &File) -> io::Result<usize> {
    let of = rustix::fs::fstatfs(file)?;
    let is_hugetlb = of.f_type == libc::HUGETLBFS_MAGIC;
    if is_hugetlb {
        return Ok(of.f_bsize as usize);
    }
    // By libc and not rustix, which ends programs under valgrind here (`make bench-instr`).
    // SAFETY: it reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(page).map_err(|_| io::Error::last_os_error())
}

//! All of a guest's memory, and translation into it.

use std::marker::PhantomData;
use std::sync::Arc;

use super::hints::{CACHE_LINE, prefetch, prefetch_write};
use super::region::{GUEST_MAX, Region};
use super::{GuestSlice, HostPtr, MemoryError, MemorySlot, RingArea, truncated};
use crate::address::{FrontendAddr, GuestPhysAddr};
use crate::ring::Direction;

/// All of one guest's memory. Immutable: a changed memory table is a new value, made while no core holds a queue.
#[derive(Debug)]
pub struct GuestMemory {
    /// Sorted by guest address, none overlapping.
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Maps every slot.
    pub fn map(slots: Vec<MemorySlot>) -> Result<Arc<Self>, MemoryError> {
        let mut regions = Vec::with_capacity(slots.len());
        for slot in slots {
            regions.push(Region::map(slot)?);
            check_room(&regions)?;
        }
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
        check_room(&regions)?;
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
        // The first look spares every burst of an honest process that at each region.
        truncated::any_hit() && self.regions.iter().any(Region::is_truncated)
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
        Some(GuestSlice::new(HostPtr(ptr), len))
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
        Some(RingArea::new(HostPtr(base), len, self))
    }
}

/// Whether a guest may have all of these mapped.
fn check_room(regions: &[Region]) -> Result<(), MemoryError> {
    let mapped: u64 = regions.iter().map(Region::mapped).sum();
    if mapped <= GUEST_MAX { Ok(()) } else { Err(MemoryError::too_large_for_guest()) }
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
        let ptr = HostPtr(self.host.0.wrapping_add(offset as usize));
        (offset < self.size && u64::from(len) <= self.size - offset).then(|| GuestSlice::new(ptr, len))
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

//! Pools of mbufs.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;

use crate::eal::{Eal, Runtime};
use crate::error::{Error, c_string, check_errno};
use crate::ffi;
use crate::log::{self, LogLevel};
use crate::mbuf::Mbuf;

/// The largest cache a pool can have per thread.
pub const MAX_CACHE: u32 = ffi::PMD_MAX_CACHE;

/// A pool of mbufs; cloning gives another handle to the same one.
///
/// The pool is freed with the last handle, provided all its mbufs are back. If some are not (still in a vector, or
/// kept by a driver that does not return them when its port is closed, as net_af_xdp does), the pool stays for the
/// rest of the process's life, with EAL under it, and a line in the log says so: an mbuf never dangles.
#[derive(Clone)]
pub struct Mempool {
    pool: Arc<Pool>,
}

struct Pool {
    raw: NonNull<ffi::rte_mempool>,
    name: String,
    data_room: u16,
    /// Dropped only together with the pool itself.
    runtime: ManuallyDrop<Arc<Runtime>>,
}

// SAFETY: a pool made by rte_pktmbuf_pool_create may be used by any thread at any time: its ring is multi-producer
// and multi-consumer, its caches belong to one thread each. Nothing in here changes after `new`.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool").field("name", &self.pool.name).field("size", &self.size()).finish_non_exhaustive()
    }
}

impl Mempool {
    /// Makes a pool of `count` mbufs ([`pool_size`](crate::pool_size) says how many are needed), each with
    /// `data_room` bytes for packet data on top of the headroom, and with a cache of `cache` mbufs for each
    /// registered thread. `socket` is the NUMA node to take the memory from.
    ///
    /// # Errors
    /// No memory, a name that is taken or longer than 25 bytes, a cache larger than [`MAX_CACHE`] or than two
    /// thirds of the pool.
    pub fn new(
        eal: &Eal,
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: Option<u32>,
    ) -> Result<Self, Error> {
        let c_name = c_string("pool name", name)?;
        let room = data_room.saturating_add(ffi::PMD_HEADROOM as u16);
        let socket = socket.and_then(|socket| i32::try_from(socket).ok()).unwrap_or(ffi::PMD_ANY_SOCKET);
        let raw = check_errno("rte_pktmbuf_pool_create", name, || {
            // SAFETY: EAL runs, as `eal` shows; DPDK checks the arguments and copies the name.
            NonNull::new(unsafe { ffi::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, room, socket) })
        })?;
        let runtime = ManuallyDrop::new(Arc::clone(&eal.runtime));
        let data_room = room - ffi::PMD_HEADROOM as u16;
        Ok(Self { pool: Arc::new(Pool { raw, name: name.to_owned(), data_room, runtime }) })
    }

    /// Gives back to the pool what the calling thread keeps in its cache. A pool whose last handle goes while another
    /// thread's cache still has mbufs stays in memory: a thread that has done with a pool calls this.
    pub fn flush_cache(&self) {
        // SAFETY: the pool lives as long as this handle, and the cache is the calling thread's own.
        unsafe { ffi::pmd_flush_cache(self.raw()) };
    }

    /// One empty mbuf, or `None` when the pool has none left.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as this handle.
        let raw = unsafe { ffi::rte_pktmbuf_alloc(self.raw()) };
        // SAFETY: a fresh mbuf that nobody else has.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Fills `into` up to its capacity with empty mbufs, or leaves it alone and returns false when the pool has too
    /// few.
    #[inline]
    pub fn alloc_bulk<const N: usize>(&self, into: &mut ArrayVec<Mbuf, N>) -> bool {
        self.alloc_many(into, into.remaining_capacity())
    }

    /// Adds `count` empty mbufs to `into`, or none, and returns false, when the pool has too few or `into` no room.
    #[inline]
    pub fn alloc_many<const N: usize>(&self, into: &mut ArrayVec<Mbuf, N>, count: usize) -> bool {
        if count > into.remaining_capacity() {
            return false;
        }
        let length = into.len();
        // SAFETY: `length` is within the vector's capacity. Mbuf is a transparent pointer, so that its slots are
        // slots for pointers.
        let slots = unsafe { into.as_mut_ptr().add(length) }.cast::<*mut ffi::rte_mbuf>();
        // SAFETY: there is room for `count` pointers at `slots`; the pool lives as long as this handle.
        if unsafe { ffi::rte_pktmbuf_alloc_bulk(self.raw(), slots, count as u32) } != 0 {
            return false;
        }
        // SAFETY: DPDK wrote `count` pointers to fresh mbufs behind the first `length`.
        unsafe { into.set_len(length + count) };
        true
    }

    /// Adds a packet of each of these lengths to `into`, in one mbuf each, or none, and returns false: when the pool has
    /// too few mbufs, `into` no room, or one is longer than [`Mempool::data_room`]. They hold whatever was there before
    /// and must be overwritten. Cheaper than [`Mempool::alloc_many`] and [`Mbuf::append`]: each mbuf's first cache line
    /// is all that is touched, and no field is written twice.
    #[inline]
    pub fn alloc_frames<const N: usize>(&self, into: &mut ArrayVec<Mbuf, N>, lens: &[u16]) -> bool {
        let (length, room) = (into.len(), self.data_room());
        if lens.len() > into.remaining_capacity() || lens.iter().any(|len| *len > room) {
            return false;
        }
        if lens.is_empty() {
            // DPDK would call that a failure.
            return true;
        }
        // SAFETY: as in `alloc_many`.
        let slots = unsafe { into.as_mut_ptr().add(length) }.cast::<*mut ffi::rte_mbuf>();
        // SAFETY: there is room for as many pointers at `slots`; the pool lives as long as this handle.
        if unsafe { ffi::pmd_alloc_raw(self.raw(), slots, lens.len() as u32) } != 0 {
            return false;
        }
        for (nth, len) in lens.iter().enumerate() {
            // SAFETY: the pool wrote that many pointers; they are to mbufs of its own that nobody else has, and `len` bytes fit.
            unsafe { Mbuf::start(NonNull::new_unchecked(*slots.add(nth)), *len) };
        }
        // SAFETY: that many pointers to packets are behind the first `length`.
        unsafe { into.set_len(length + lens.len()) };
        true
    }

    /// How many mbufs the pool was made with.
    pub fn size(&self) -> u32 {
        // SAFETY: the pool lives as long as this handle, and its size never changes.
        unsafe { ffi::pmd_pool_size(self.raw()) }
    }

    /// How many mbufs are in the pool and its caches now; other threads may change it at any moment.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as this handle; DPDK allows this count at any time.
        unsafe { ffi::rte_mempool_avail_count(self.raw()) }
    }

    /// Packet bytes that fit into one mbuf.
    pub fn data_room(&self) -> u16 {
        self.pool.data_room
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.pool.name
    }

    pub(crate) fn raw(&self) -> *mut ffi::rte_mempool {
        self.pool.raw.as_ptr()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Only the pool's ring counts. What is in another thread's cache may still be on its way there; in the ring
        // it is once its last user is done with it: DPDK moves the ring's tail with release order, to which this
        // fence is the other side.
        // SAFETY: the last handle, so the pool is alive and nobody allocates from it any more.
        let (inside, size) = unsafe {
            ffi::pmd_flush_cache(self.raw.as_ptr());
            (ffi::pmd_pool_returned(self.raw.as_ptr()), ffi::pmd_pool_size(self.raw.as_ptr()))
        };
        fence(Ordering::Acquire);
        if inside < size {
            let out = size - inside;
            let name = &self.name;
            log::emit(LogLevel::Warning, &format!("pool {name}: {out} mbufs are still out, so it stays in memory"));
            return;
        }
        // SAFETY: all mbufs are back and no handle is left: nothing points into the pool.
        unsafe { ffi::rte_mempool_free(self.raw.as_ptr()) };
        // SAFETY: done once, here, and the field is not used again.
        unsafe { ManuallyDrop::drop(&mut self.runtime) };
    }
}

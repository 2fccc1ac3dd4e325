//! Threads that EAL did not start.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::eal::{Eal, Runtime};
use crate::error::{Error, check_errno};
use crate::ffi;

/// Makes the calling thread known to EAL for as long as this lives: only then do pools have a cache for it. EAL has
/// room for a limited number of threads (128, less the one that initialised it).
///
/// It stays on its thread. When it goes, what the thread has in caches returns to the pools.
pub struct ThreadRegistration {
    _runtime: Arc<Runtime>,
    _this_thread: PhantomData<*const ()>,
}

impl std::fmt::Debug for ThreadRegistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadRegistration").finish_non_exhaustive()
    }
}

impl ThreadRegistration {
    /// Registers the calling thread.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`], also on the thread that initialised EAL; too many threads.
    pub fn new(eal: &Eal) -> Result<Self, Error> {
        // SAFETY: reads a thread-local integer.
        if unsafe { ffi::pmd_thread_is_lcore() } != 0 {
            return Err(Error::AlreadyRegistered);
        }
        check_errno("rte_thread_register", "this thread", || {
            // SAFETY: EAL runs, as `eal` shows, and the thread is not registered yet.
            (unsafe { ffi::rte_thread_register() } >= 0).then_some(())
        })?;
        Ok(Self { _runtime: Arc::clone(&eal.runtime), _this_thread: PhantomData })
    }
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        // SAFETY: this is the thread that was registered, since the type is not Send, and EAL still runs. The caches
        // flushed are the thread's own, and DPDK's lock keeps the list of pools as it is meanwhile.
        unsafe {
            ffi::pmd_flush_caches();
            ffi::rte_thread_unregister();
        }
    }
}

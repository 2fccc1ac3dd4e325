//! Frontends that truncate their memory file: touching what is gone raises SIGBUS, and its handler puts zeros there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether any mapping of this process was ever hit.
static ANY_HIT: AtomicBool = AtomicBool::new(false);

/// Whether one was.
#[inline]
pub(super) fn any_hit() -> bool {
    // Relaxed: as for each.
    ANY_HIT.load(Ordering::Relaxed)
}

/// How many mappings the SIGBUS handler can know of.
pub(super) const WATCHES: usize = 8192;

/// One mapping the SIGBUS handler knows of. `start` is 0 for a free place and 1 for one being filled.
#[derive(Debug)]
pub(super) struct Watch {
    start: AtomicUsize,
    len: AtomicUsize,
    hit: AtomicBool,
}

static WATCH_TABLE: [Watch; WATCHES] =
    [const { Watch { start: AtomicUsize::new(0), len: AtomicUsize::new(0), hit: AtomicBool::new(false) } }; WATCHES];

impl Watch {
    /// Whether zeros were put over it.
    #[inline]
    pub(super) fn is_hit(&self) -> bool {
        // Relaxed: it only has to be seen eventually; the zeros themselves are harmless.
        self.hit.load(Ordering::Relaxed)
    }

    /// A place for a mapping; nothing where all are taken.
    pub(super) fn claim(start: usize, len: usize) -> Option<&'static Self> {
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

    /// The mapping goes.
    pub(super) fn release(&self) {
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

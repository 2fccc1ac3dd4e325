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
    page: AtomicUsize,
    hit: AtomicBool,
}

static WATCH_TABLE: [Watch; WATCHES] = [const {
    Watch {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        hit: AtomicBool::new(false),
    }
}; WATCHES];

impl Watch {
    /// Whether zeros were put over it.
    #[inline]
    pub(super) fn is_hit(&self) -> bool {
        // Relaxed: it only has to be seen eventually; the zeros themselves are harmless.
        self.hit.load(Ordering::Relaxed)
    }

    /// A place for a mapping of whole pages of `page` bytes; nothing where all are taken.
    pub(super) fn claim(start: usize, len: usize, page: usize) -> Option<&'static Self> {
        static HANDLER: OnceLock<()> = OnceLock::new();
        HANDLER.get_or_init(install_sigbus_handler);
        let watch =
            WATCH_TABLE.iter().find(|w| w.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok())?;
        watch.hit.store(false, Ordering::Relaxed);
        // Release: pairs with the handler's Acquire, so that a handler that sees this length no longer sees the start of an earlier mapping.
        watch.len.store(len, Ordering::Release);
        // Release: as for the length.
        watch.page.store(page, Ordering::Release);
        // Release: pairs with the handler's Acquire, so that it sees the length of this mapping, not of an earlier one.
        watch.start.store(start, Ordering::Release);
        Some(watch)
    }

    /// Where `addr` is in it: the page that is there, and all from this on, as (start, length). Another thread may
    /// release this watch and claim it again while we read: a start that is still the same has the lengths that were
    /// read. (The watch that is looked for stays put: the faulting thread holds its mapping.)
    fn range_from(&self, addr: usize) -> Option<[(usize, usize); 2]> {
        let start = self.start.load(Ordering::Acquire);
        let len = self.len.load(Ordering::Acquire);
        let page = self.page.load(Ordering::Acquire);
        let offset = addr.wrapping_sub(start);
        if start <= 1 || offset >= len || self.start.load(Ordering::Relaxed) != start {
            return None;
        }
        let before = offset - offset.checked_rem(page)?;
        Some([(start + before, page), (start + before, len - before)])
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

/// A frontend truncated its memory file and a core touched what is gone: put zeros over that mapping from there on, so
/// that the access goes on and the next one does not trap again, and say so in the mapping's watch. Any other SIGBUS is
/// fatal, as it was.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and SIGBUS carries an address.
    let addr = unsafe { (*info).si_addr() } as usize;
    for watch in &WATCH_TABLE {
        if let Some([page, rest]) = watch.range_from(addr) {
            watch.hit.store(true, Ordering::Relaxed);
            ANY_HIT.store(true, Ordering::Relaxed);
            // All of the rest, so that a mapping is never in more than two pieces: a process may not have many. A
            // system that has to have memory for all that is mapped (vm.overcommit_memory=2) may not have as much; a
            // page it has.
            if put_zeros(rest) || put_zeros(page) {
                return;
            }
        }
    }
    // SAFETY: resetting a signal to its default is async-signal-safe; the faulting instruction runs again and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Puts zeros over whole pages of a mapping of guest memory that the faulting thread holds. False where there is no
/// memory for them.
fn put_zeros((start, len): (usize, usize)) -> bool {
    // SAFETY: [start, start + len) is in one mapping of guest memory that its owner keeps until the watch is released;
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
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use rustix::fs::MemfdFlags;

    use super::Watch;
    use crate::address::{FrontendAddr, GuestPhysAddr};
    use crate::memory::{GuestMemory, MemorySlot};

    const PAGE: u64 = 4096;

    fn map(file: &File, size: u64) -> Arc<GuestMemory> {
        let slot = MemorySlot {
            guest: GuestPhysAddr(0),
            frontend: FrontendAddr(0),
            size,
            mmap_offset: 0,
            file: file.try_clone().unwrap(),
        };
        GuestMemory::map(vec![slot]).unwrap()
    }

    fn byte(memory: &GuestMemory, at: u64) -> u8 {
        let mut byte = [0xff];
        assert_eq!(memory.translate(&mut 0, GuestPhysAddr(at), 1).unwrap().read(&mut byte), 1);
        byte[0]
    }

    fn write(memory: &GuestMemory, at: u64) {
        memory.translate(&mut 0, GuestPhysAddr(at), 1).unwrap().write(&[7]);
    }

    #[test]
    fn what_is_gone_is_zeros_and_what_is_before_it_stays() {
        let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(4 * PAGE).unwrap();
        let memory = map(&file, 4 * PAGE);
        (0..4).for_each(|page| write(&memory, page * PAGE));
        assert!(!memory.is_truncated());
        file.set_len(PAGE).unwrap();
        assert_eq!(byte(&memory, 2 * PAGE + 9), 0);
        assert!(memory.is_truncated());
        write(&memory, 3 * PAGE);
        write(&memory, PAGE + 9);
        assert_eq!([0, 1, 2].map(|page| byte(&memory, page * PAGE)), [7, 0, 0]);
    }

    /// What is replaced of a file of huge pages is whole ones, and the one that was touched can be replaced by itself.
    #[test]
    fn what_is_replaced_is_whole_pages_within_the_mapping() {
        const HUGE: usize = 2 << 20;
        // No memory of a process is there.
        let start = 1 << 62;
        let watch = Watch::claim(start, 3 * HUGE, HUGE).unwrap();
        for (offset, page) in [(0, 0), (HUGE - 1, 0), (HUGE + 4096, 1), (3 * HUGE - 1, 2)] {
            let at = start + page * HUGE;
            assert_eq!(watch.range_from(start + offset), Some([(at, HUGE), (at, (3 - page) * HUGE)]));
        }
        assert_eq!([start - 1, start + 3 * HUGE, 0].map(|addr| watch.range_from(addr)), [None; 3]);
        watch.release();
        assert_eq!(watch.range_from(start), None);
    }
}

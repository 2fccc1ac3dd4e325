//! What the CPU is told beforehand, in which order others see what it does, and its clock.

/// Has the CPU fetch a line that is to be read.
#[inline]
pub(super) fn prefetch(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it does not fault whatever the address is.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// Has the CPU fetch every line of these bytes, which another CPU wrote, for reading.
#[inline]
pub fn fetch(bytes: &[u8]) {
    each_line(bytes, prefetch);
}

/// The same for writing: another CPU has read them.
#[inline]
pub fn fetch_to_write(bytes: &mut [u8]) {
    each_line(bytes, prefetch_write);
}

/// Four in a row: such a loop costs a third of one that looks for its end at each.
#[inline]
fn each_line(bytes: &[u8], fetch: impl Fn(*const u8)) {
    let (fours, rest) = bytes.as_chunks::<{ 4 * CACHE_LINE }>();
    for four in fours {
        (0..4).for_each(|nth| fetch(&four[nth * CACHE_LINE]));
    }
    rest.iter().step_by(CACHE_LINE).for_each(|byte| fetch(byte));
}

/// The same for a line that is to be written: it is taken from the other CPU at once, not when the store is made.
#[inline]
pub(super) fn prefetch_write(ptr: *const u8) {
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
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Nanoseconds for which this thread had a CPU. By libc and not by rustix, which looks for the vDSO in a way that ends programs under valgrind.
#[cold]
pub(crate) fn cpu_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` alone. The clock is there on every Linux; were it not, this would be 0.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The CPU's clock: for differences that are to be told from much larger ones. What comes before may not be over yet.
#[inline]
pub(crate) fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register that every CPU of this architecture has; Linux lets its processes read it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed().as_nanos() as u64
    }
}

/// Bytes of a line of the CPU's caches.
pub(super) const CACHE_LINE: usize = 64;

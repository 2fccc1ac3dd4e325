//! Bytes of guest memory: copied, never referred to.

use std::marker::PhantomData;

use super::hints::{CACHE_LINE, prefetch, prefetch_write};
use super::{GuestMemory, HostPtr};

/// Writable guest memory inside one mapping; borrowed from the [`GuestMemory`] that keeps it mapped.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'m> {
    ptr: HostPtr,
    len: u32,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> GuestSlice<'m> {
    /// `len` bytes that are inside one mapping of the memory that is borrowed from.
    #[inline]
    pub(super) fn new(ptr: HostPtr, len: u32) -> Self {
        Self { ptr, len, memory: PhantomData }
    }

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

    /// [`GuestSlice::write_source`] for a packet's body. While it is copied, what another copy will need comes from the caches further out, line
    /// for line: `next` are the bytes that are to be read then, and where they are to be written.
    #[inline]
    pub(crate) fn write_body(&self, from: Source<'_>, next: Option<(Source<'_>, Self)>) -> usize {
        let n = self.len().min(from.len());
        let Some((next_from, next_to)) = next.filter(|_| n >= CACHE_LINE) else { return self.write_source(from) };
        let fetch = |at: usize| {
            if at < next_from.len() {
                prefetch(next_from.ptr.wrapping_add(at));
                prefetch_write(next_to.ptr.0.wrapping_add(at));
            }
        };
        // SAFETY: as for `write_source`, and it is a line at least.
        unsafe { copy_lines(from.ptr, self.ptr.0, n, fetch) };
        n
    }

    /// Writes one after the other; nothing, and false, where there is no room for both.
    #[inline]
    pub(crate) fn write_both<const N: usize>(&self, first: &[u8; N], second: &[u8]) -> bool {
        if self.len() < N + second.len() {
            return false;
        }
        // SAFETY: as for `write_source`; both are inside `self`'s mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(first.as_ptr(), self.ptr.0, N);
            copy(second.as_ptr(), self.ptr.0.add(N), second.len());
        }
        true
    }

    /// Tells the CPU that the beginning will be written soon, and the beginning only: a copy's later lines are a sequence, which the CPU
    /// recognises by itself.
    #[inline]
    pub(crate) fn prefetch_write(&self) {
        prefetch_write(self.ptr.0);
        prefetch_write(self.ptr.0.wrapping_add(CACHE_LINE));
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

    /// Reads as many bytes as fit in both into `to`; returns how many.
    #[inline]
    pub fn read(&self, to: &mut [u8]) -> usize {
        let n = self.len().min(to.len());
        // SAFETY: `n` bytes are inside the source (type invariant: mapped or borrowed for 'a) and inside `to`, which is
        // exclusively ours.
        unsafe { copy(self.ptr, to.as_mut_ptr(), n) };
        n
    }

    /// The first `N` bytes, and what follows the first `skip`, which are no fewer than `least`; `None` where there is less than all that.
    #[inline]
    pub(crate) fn split_array<const N: usize>(&self, skip: usize, least: usize) -> Option<([u8; N], Self)> {
        if self.len() < N.max(skip + least) {
            return None;
        }
        Some((self.read_array()?, self.suffix(skip)))
    }

    /// The first `N` bytes, if there are as many.
    #[inline]
    pub(crate) fn read_array<const N: usize>(&self) -> Option<[u8; N]> {
        // SAFETY: `N` bytes are inside the source; they are copied, not referred to, and any bytes make an array of bytes.
        (self.len() >= N).then(|| unsafe { self.ptr.cast::<[u8; N]>().read_unaligned() })
    }
}

/// 16 bytes as the CPU moves them. Where it has registers for so many, they are of a type that stays in one: an array would be put down
/// on the stack between a load and a store that may overlap.
#[cfg(target_arch = "x86_64")]
type Quarter = std::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Quarter = u128;

/// Copies `n` bytes that may overlap. Between half a cache line and a whole one, which is what headers and the shortest packets are, it is
/// four moves of 16 bytes that meet or overlap in the middle; for the rest the C library knows best.
///
/// # Safety
/// `n` bytes can be read at `from` and written at `to`.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
    const QUARTER: usize = size_of::<Quarter>();
    if (2 * QUARTER..=4 * QUARTER).contains(&n) {
        // SAFETY: all of them lie in the `n` bytes, whatever their alignment. They are read before any is written.
        unsafe {
            let read = |at| from.add(at).cast::<Quarter>().read_unaligned();
            let (first, second) = (read(0), read(QUARTER));
            let (third, fourth) = (read(n - 2 * QUARTER), read(n - QUARTER));
            let write = |at, bytes| to.add(at).cast::<Quarter>().write_unaligned(bytes);
            write(0, first);
            write(QUARTER, second);
            write(n - 2 * QUARTER, third);
            write(n - QUARTER, fourth);
        }
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy(from, to, n) };
    }
}

/// Copies `n` bytes, a line at least, and calls `between` before each line, aligned where it is written, with its offset. Bytes that overlap come
/// out as they come: for two guests' memory that is nothing but their own affair.
///
/// # Safety
/// `n` bytes can be read at `from` and written at `to`, and `n` is no less than [`CACHE_LINE`].
#[inline]
unsafe fn copy_lines(from: *const u8, to: *mut u8, n: usize, between: impl Fn(usize)) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the caller's promise, and the CPU has what it takes.
        return unsafe { copy_lines_avx2(from, to, n, between) };
    }
    // SAFETY: the caller's promise.
    unsafe { copy_each_line(from, to, n, between) }
}

/// The same in registers of half a line.
///
/// # Safety
/// As for [`copy_lines`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn copy_lines_avx2(from: *const u8, to: *mut u8, n: usize, between: impl Fn(usize)) {
    // SAFETY: the caller's promise.
    unsafe { copy_each_line(from, to, n, between) }
}

/// The same in whatever registers the code it becomes a part of has.
///
/// # Safety
/// As for [`copy_lines`].
#[inline(always)]
unsafe fn copy_each_line(from: *const u8, to: *mut u8, n: usize, between: impl Fn(usize)) {
    type Line = [u8; CACHE_LINE];
    // SAFETY: a line from each of these offsets on lies in the `n` bytes.
    let line =
        |at: usize| unsafe { to.add(at).cast::<Line>().write_unaligned(from.add(at).cast::<Line>().read_unaligned()) };
    line(0);
    let mut at = CACHE_LINE - to.addr() % CACHE_LINE;
    while at + CACHE_LINE <= n {
        between(at);
        line(at);
        at += CACHE_LINE;
    }
    if at < n {
        line(n - CACHE_LINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length, and every place in a line to read from and to write to, with and without wide registers.
    #[test]
    fn lines_are_copied_whole_and_nothing_beside_them() {
        let from: Vec<u8> = (0..8 * CACHE_LINE).map(|at| at as u8 | 1).collect();
        for n in CACHE_LINE..=4 * CACHE_LINE {
            for skip in 0..CACHE_LINE {
                let source = &from[CACHE_LINE - skip..][..n];
                for wide in [true, false] {
                    let mut to = vec![0; 6 * CACHE_LINE];
                    let target = &mut to[skip..][..n];
                    let (read, write) = (source.as_ptr(), target.as_mut_ptr());
                    // SAFETY: both are of `n` bytes.
                    unsafe {
                        if wide { copy_lines(read, write, n, |_| ()) } else { copy_each_line(read, write, n, |_| ()) }
                    };
                    assert_eq!(target, source, "{n} bytes at {skip}");
                    let written = to.iter().filter(|byte| **byte != 0).count();
                    assert_eq!(written, n, "{n} bytes at {skip}");
                }
            }
        }
    }
}

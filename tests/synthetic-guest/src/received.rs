//! A frame as a guest finds it: in buffers that are its own again only once it was looked at.

use crate::Offload;
use crate::memory::Window;

/// A received frame, still in its buffers.
pub struct Received<'a> {
    pub(crate) memory: &'a Window,
    /// (offset in `memory`, bytes) of each piece.
    pub(crate) pieces: &'a [(usize, usize)],
    pub(crate) len: usize,
    /// Where in `memory` the header is, and its length: 0 when nobody looks at it.
    pub(crate) header: (usize, usize),
}

impl Received<'_> {
    /// Bytes of the frame.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The virtio-net header; `num_buffers` is 0 with a 10-byte header.
    pub fn header(&self) -> Offload {
        let (at, len) = self.header;
        let mut bytes = [0; 12];
        self.memory.read(at, &mut bytes[..len]);
        Offload::from_bytes(bytes)
    }

    /// Number of ring buffers the frame spans.
    pub fn buffers(&self) -> usize {
        self.pieces.len()
    }

    /// Copies from `offset` of the frame until `to` is full or the frame ends; returns the bytes copied.
    #[inline]
    pub fn read(&self, mut offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for &(at, len) in self.pieces {
            if offset >= len {
                offset -= len;
                continue;
            }
            let count = (len - offset).min(to.len() - done);
            self.memory.read(at + offset, &mut to[done..done + count]);
            done += count;
            offset = 0;
            if done == to.len() {
                break;
            }
        }
        done
    }

    /// The `N` bytes at `offset`; `None` when they are not all in the first buffer.
    #[inline(always)]
    pub fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let &(at, len) = self.pieces.first()?;
        if offset + N > len {
            return None;
        }
        let mut bytes = [0; N];
        self.memory.read(at + offset, &mut bytes);
        Some(bytes)
    }

    /// Replaces the contents of `to` by the whole frame.
    pub fn copy_to(&self, to: &mut Vec<u8>) {
        to.resize(self.len, 0);
        self.read(0, to);
    }
}

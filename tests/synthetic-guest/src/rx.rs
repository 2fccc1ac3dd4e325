//! Reception: buffers into the ring, frames out of used buffers, buffers back.

use crate::memory::{Arena, Window};
use crate::notify::Bell;
use crate::ring::{Ring, Segment};
use crate::{Error, Offload};

/// Descriptor layout of a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RxShape {
    /// One segment.
    #[default]
    OneBuffer,
    /// The header in a segment of its own.
    HeaderSeparate,
    /// This many segments.
    Pieces(u16),
}

impl RxShape {
    /// Segments of a chain.
    pub const fn segments(self) -> u16 {
        match self {
            RxShape::OneBuffer => 1,
            RxShape::HeaderSeparate => 2,
            RxShape::Pieces(n) => {
                if n == 0 {
                    1
                } else {
                    n
                }
            }
        }
    }
}

/// Counters of a receive queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxStats {
    /// Frames received.
    pub frames: u64,
    /// Bytes of them, without headers.
    pub bytes: u64,
    /// Buffers taken from the ring: more than frames when frames span buffers.
    pub buffers: u64,
    /// Used lengths shorter than the header or longer than the buffer, or, with MRG_RXBUF, a num_buffers of 0: the frame
    /// was dropped.
    pub bad_frames: u64,
    /// Frames, taken all the same, whose num_buffers is not 1 without MRG_RXBUF.
    pub bad_num_buffers: u64,
    /// Frames whose num_buffers promises buffers that were not there.
    pub incomplete: u64,
    /// Publications.
    pub publications: u64,
}

/// A received frame, still in its buffers.
pub struct Received<'a> {
    memory: &'a Window,
    /// (offset in `memory`, bytes) of each piece.
    pieces: &'a [(usize, usize)],
    len: usize,
    header: Offload,
}

impl Received<'_> {
    /// Bytes of the frame.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The virtio-net header; `num_buffers` is 0 with a 10-byte header.
    pub fn header(&self) -> Offload {
        self.header
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

    /// Replaces the contents of `to` by the whole frame.
    pub fn copy_to(&self, to: &mut Vec<u8>) {
        to.resize(self.len, 0);
        self.read(0, to);
    }
}

/// The receive queue of a queue pair.
pub struct RxQueue {
    ring: Ring,
    bell: Bell,
    memory: Window,
    buffer_len: usize,
    stride: usize,
    header_len: usize,
    mergeable: bool,
    shape: RxShape,
    /// Buffers not in the ring.
    free: Vec<u32>,
    auto_refill: bool,
    pieces: Vec<(usize, usize)>,
    segments: Vec<Segment>,
    stats: RxStats,
}

impl RxQueue {
    pub(crate) fn new(
        arena: &mut Arena<'_>,
        region: usize,
        ring: Ring,
        bell: Bell,
        (header_len, mergeable): (usize, bool),
        config: &crate::GuestConfig,
    ) -> Result<Self, Error> {
        let stride = config.rx_buffer_len.next_multiple_of(64);
        if config.rx_buffer_len <= header_len {
            return Err(Error::Config(format!("receive buffers of {} bytes: too short", config.rx_buffer_len)));
        }
        let count = config.rx_buffers.unwrap_or(usize::from(ring.size()));
        let mut queue = RxQueue {
            memory: arena.take(region, stride * count, 64)?,
            buffer_len: config.rx_buffer_len,
            stride,
            header_len,
            mergeable,
            shape: config.rx_shape,
            free: (0..count as u32).rev().collect(),
            auto_refill: true,
            pieces: Vec::with_capacity(count),
            segments: Vec::with_capacity(usize::from(config.rx_shape.segments())),
            stats: RxStats::default(),
            ring,
            bell,
        };
        queue.fill(usize::MAX);
        Ok(queue)
    }

    /// Puts up to `count` free buffers into the ring, with one publication; returns how many.
    pub fn fill(&mut self, count: usize) -> usize {
        let mut filled = 0;
        while filled < count {
            let Some(index) = self.free.pop() else { break };
            let at = index as usize * self.stride;
            layout(&mut self.segments, self.shape, self.memory.guest() + at as u64, self.header_len, self.buffer_len);
            if !self.ring.add(index, &self.segments) {
                self.free.push(index);
                break;
            }
            filled += 1;
        }
        if filled > 0 {
            self.ring.publish();
            self.stats.publications += 1;
            let wanted = self.ring.kick_wanted();
            self.bell.published(wanted);
        }
        filled
    }

    /// Whether [`RxQueue::recv_burst`] puts buffers back at its end (it does by default). Without it, a guest short of
    /// buffers is played with [`RxQueue::fill`].
    pub fn set_auto_refill(&mut self, on: bool) {
        self.auto_refill = on;
    }

    /// Hands up to `max` frames to `take`, puts their buffers back and returns how many there were.
    #[inline]
    pub fn recv_burst(&mut self, max: usize, mut take: impl FnMut(&Received<'_>)) -> usize {
        let mut count = 0;
        let mut polled = 0;
        while count < max {
            let Some(used) = self.ring.pop_used() else { break };
            polled += 1;
            let Some(header) = self.gather(used.token, used.len as usize) else { continue };
            let len = self.pieces.iter().map(|p| p.1).sum();
            take(&Received { memory: &self.memory, pieces: &self.pieces, len, header });
            self.stats.frames += 1;
            self.stats.bytes += len as u64;
            count += 1;
        }
        if polled > 0 {
            if self.auto_refill {
                self.fill(usize::MAX);
            }
            self.ring.arm_calls();
        }
        count
    }

    /// Collects the pieces of the frame that starts in buffer `first`; `None` when the device got it wrong.
    #[inline]
    fn gather(&mut self, first: u32, len: usize) -> Option<Offload> {
        self.pieces.clear();
        self.take_back(first);
        if len < self.header_len || len > self.buffer_len {
            self.stats.bad_frames += 1;
            return None;
        }
        let at = first as usize * self.stride;
        let mut bytes = [0; 12];
        self.memory.read(at, &mut bytes[..self.header_len]);
        let header = Offload::from_bytes(bytes);
        self.pieces.push((at + self.header_len, len - self.header_len));
        if !self.mergeable {
            // virtio 1.2 §5.1.6.4.1 wants num_buffers to be 1 where it exists. Drivers do not care, and DPDK leaves what
            // was there.
            self.stats.bad_num_buffers += u64::from(self.header_len == 12 && header.num_buffers != 1);
            return Some(header);
        }
        let mut good = header.num_buffers > 0;
        for _ in 1..header.num_buffers {
            let Some(used) = self.ring.pop_used() else {
                self.stats.incomplete += 1;
                return None;
            };
            self.take_back(used.token);
            good &= used.len > 0 && used.len as usize <= self.buffer_len;
            self.pieces.push((used.token as usize * self.stride, (used.len as usize).min(self.buffer_len)));
        }
        self.stats.bad_frames += u64::from(!good);
        good.then_some(header)
    }

    fn take_back(&mut self, index: u32) {
        self.free.push(index);
        self.stats.buffers += 1;
    }

    /// Whether a used buffer waits.
    pub fn has_frames(&mut self) -> bool {
        self.ring.has_used()
    }

    /// Buffers in the ring.
    pub fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    /// Counters.
    pub fn stats(&self) -> RxStats {
        self.stats
    }

    /// The ring, for its positions, its notification mode and hostile tests.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Notifications and their counts.
    pub fn bell(&mut self) -> &mut Bell {
        &mut self.bell
    }

    /// The memory of the buffers.
    pub fn memory(&self) -> &Window {
        &self.memory
    }

    pub(crate) fn parts(&self) -> (&Ring, &Bell) {
        (&self.ring, &self.bell)
    }
}

#[inline]
fn layout(segments: &mut Vec<Segment>, shape: RxShape, addr: u64, header_len: usize, len: usize) {
    segments.clear();
    let mut push = |from: usize, to: usize| {
        segments.push(Segment { addr: addr + from as u64, len: (to - from) as u32, writable: true });
    };
    match shape {
        RxShape::OneBuffer => push(0, len),
        RxShape::HeaderSeparate => {
            push(0, header_len);
            push(header_len, len);
        }
        RxShape::Pieces(pieces) => {
            let pieces = usize::from(pieces).clamp(1, len);
            (0..pieces).for_each(|p| push(len * p / pieces, len * (p + 1) / pieces));
        }
    }
}

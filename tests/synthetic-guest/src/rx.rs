//! Reception: buffers into the ring, frames out of used buffers, buffers back.

use crate::Error;
use crate::fifo::Fifo;
use crate::memory::{Arena, Window};
use crate::napi::{Attention, Interrupts};
use crate::notify::Bell;
use crate::received::Received;
use crate::ring::{Ring, Segment, Used};

/// Used buffers taken from the ring together, so that the frames' first cache lines arrive together too.
const BATCH: usize = 32;
const NOTHING: Used = Used { token: 0, len: 0 };

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

/// The receive queue of a queue pair.
pub struct RxQueue {
    ring: Ring,
    bell: Bell,
    attention: Attention,
    memory: Window,
    buffer_len: usize,
    stride: usize,
    header_len: usize,
    mergeable: bool,
    shape: RxShape,
    /// Buffers not in the ring. They come round in order, so that in a steady stream each stays with its descriptor.
    free: Fifo<u32>,
    auto_refill: bool,
    refill_at: usize,
    /// Frames are counted without a look at them.
    blind: bool,
    /// The last buffer out of the ring was full, so that the next one most likely goes on with its frame, and nobody looks at it.
    is_inside: bool,
    /// Used buffers that are out of the ring and were not handed out: those from `waiting_at` on, up to `waiting_end`.
    waiting: [Used; BATCH],
    waiting_at: usize,
    waiting_end: usize,
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
        let stride = Self::stride(config);
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
            free: Fifo::shuffled(count as u32),
            auto_refill: true,
            refill_at: 1,
            blind: false,
            is_inside: false,
            waiting: [NOTHING; BATCH],
            waiting_at: 0,
            waiting_end: 0,
            pieces: Vec::with_capacity(count),
            segments: Vec::with_capacity(usize::from(config.rx_shape.segments())),
            stats: RxStats::default(),
            attention: Attention::default(),
            ring,
            bell,
        };
        queue.fill(usize::MAX);
        Ok(queue)
    }

    /// Bytes from one buffer to the next in memory.
    pub(crate) fn stride(config: &crate::GuestConfig) -> usize {
        config.rx_buffer_len.next_multiple_of(64)
    }

    /// Puts up to `count` free buffers into the ring, with one publication; returns how many.
    pub fn fill(&mut self, count: usize) -> usize {
        let filled = self.fill_ring(count.min(self.free.len()));
        if filled > 0 {
            self.ring.publish();
            self.stats.publications += 1;
            let wanted = self.ring.kick_wanted();
            self.bell.published(wanted);
        }
        filled
    }

    #[inline]
    fn fill_ring(&mut self, count: usize) -> usize {
        let (base, stride, len) = (self.memory.guest(), self.stride, self.buffer_len);
        if self.shape == RxShape::OneBuffer {
            let free = &self.free;
            let filled = self.ring.add_ones(count, |n| {
                let index = free.peek(n);
                (index, Segment { addr: base + (index as usize * stride) as u64, len: len as u32, writable: true })
            });
            self.free.remove(filled);
            return filled;
        }
        let mut filled = 0;
        while filled < count {
            let index = self.free.peek(0);
            layout(&mut self.segments, self.shape, base + (index as usize * stride) as u64, self.header_len, len);
            if !self.ring.add(index, &self.segments) {
                break;
            }
            self.free.remove(1);
            filled += 1;
        }
        filled
    }

    /// Whether [`RxQueue::recv_burst`] puts buffers back at its end (it does by default). Without it, a guest short of
    /// buffers is played with [`RxQueue::fill`].
    pub fn set_auto_refill(&mut self, on: bool) {
        self.auto_refill = on;
    }

    /// From how many free buffers on [`RxQueue::recv_burst`] puts them back: 1, unless set here. More of them share a
    /// publication; fewer are in the ring.
    pub fn set_refill_at(&mut self, buffers: usize) {
        self.refill_at = buffers.max(1);
    }

    /// Takes every used buffer for a frame and reads nothing of it, not even its header, which [`Received::header`] then
    /// shows as empty. For frames that are known to fit into one buffer.
    pub fn set_blind(&mut self, on: bool) {
        self.blind = on;
    }

    /// Hands up to `max` frames to `take`, puts their buffers back and returns how many there were.
    #[inline]
    pub fn recv_burst(&mut self, max: usize, mut take: impl FnMut(&Received<'_>)) -> usize {
        let (mut count, mut bytes) = (0, 0);
        let mut polled = 0;
        if self.attention == Attention::Asleep {
            return 0;
        }
        while count < max {
            if self.waiting_at == self.waiting_end {
                self.pop(max - count);
            }
            let found = self.waiting_end - self.waiting_at;
            polled += found;
            while count < max
                && let Some(used) = self.next_waiting()
            {
                if let Some(len) = self.hand_out(used, &mut take) {
                    count += 1;
                    bytes += len;
                }
            }
            if found < BATCH {
                break;
            }
        }
        self.stats.frames += count as u64;
        self.stats.bytes += bytes as u64;
        if polled > 0 {
            if self.auto_refill && self.free.len() >= self.refill_at {
                self.fill(usize::MAX);
            }
            self.ring.arm_calls();
        }
        if count < max {
            self.interrupts().rest();
        }
        count
    }

    /// Takes used buffers out of the ring, for the next [`RxQueue::recv_burst`], and has the processor fetch what was written to them while
    /// the caller does something else.
    #[inline]
    pub fn look(&mut self) {
        if self.waiting_at == self.waiting_end && self.attention != Attention::Asleep {
            self.pop(BATCH);
        }
    }

    /// Takes up to `most` used buffers, a batch at most, out of the ring: they wait, where nothing else does.
    #[inline]
    fn pop(&mut self, most: usize) {
        let found = self.ring.pop_burst(&mut self.waiting[..most.min(BATCH)]);
        for used in &self.waiting[..found] {
            if !self.is_inside {
                self.memory.prefetch(used.token as usize * self.stride);
            }
            self.is_inside = self.mergeable && used.len as usize == self.buffer_len;
        }
        (self.waiting_at, self.waiting_end) = (0, found);
        self.stats.buffers += found as u64;
    }

    /// The next buffer that waits. It is free again, once what is in it was looked at.
    #[inline]
    fn next_waiting(&mut self) -> Option<Used> {
        if self.waiting_at == self.waiting_end {
            return None;
        }
        let used = self.waiting[self.waiting_at];
        self.waiting_at += 1;
        self.free.push_back(used.token);
        Some(used)
    }

    /// Hands the frame that starts in buffer `first` to `take`; its length, or `None` when the device got it wrong.
    #[inline]
    fn hand_out(&mut self, first: Used, take: &mut impl FnMut(&Received<'_>)) -> Option<usize> {
        let (at, len) = (first.token as usize * self.stride, first.len as usize);
        if len < self.header_len || len > self.buffer_len {
            self.stats.bad_frames += 1;
            return None;
        }
        let single = [(at + self.header_len, len - self.header_len)];
        let (mut pieces, mut len, mut header_len) = (single.as_slice(), single[0].1, self.header_len);
        if self.blind {
            header_len = 0;
        } else {
            let buffers = self.num_buffers(at);
            if self.mergeable && buffers != 1 {
                len = self.gather(single[0], buffers)?;
                pieces = &self.pieces;
            } else {
                // virtio 1.2 §5.1.6.4.1 wants num_buffers to be 1 where it exists. Drivers do not care, and DPDK leaves what
                // was there.
                self.stats.bad_num_buffers += u64::from(header_len == 12 && buffers != 1);
            }
        }
        take(&Received { memory: &self.memory, pieces, len, header: (at, header_len) });
        Some(len)
    }

    /// What the header at `at` says of the buffers that its frame is in; 0 where headers do not say it.
    #[inline(always)]
    fn num_buffers(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        if self.header_len == 12 {
            self.memory.read(at + 10, &mut bytes);
        }
        u16::from_le_bytes(bytes)
    }

    /// Takes up to `max` frames of one buffer each and lends the buffers to `lend`, which gets the buffer's number, its
    /// offset in memory and its used length and says whether it takes it. Longer frames are dropped and counted as
    /// incomplete. Returns the frames found.
    #[inline]
    pub(crate) fn lend_burst(&mut self, max: usize, mut lend: impl FnMut(&Window, u32, usize, usize) -> bool) -> usize {
        debug_assert!(self.waiting_at == self.waiting_end, "buffers that wait come first");
        if self.attention == Attention::Asleep {
            return 0;
        }
        let max = max.min(BATCH);
        self.pop(max);
        let found = self.waiting_end;
        let mut skip = 0;
        for n in 0..found {
            let used = self.waiting[n];
            let (at, len) = (used.token as usize * self.stride, used.len as usize);
            let sound = (self.header_len..=self.buffer_len).contains(&len);
            let buffers = if sound && self.mergeable { self.num_buffers(at) } else { 1 };
            let kept = if skip > 0 {
                skip -= 1;
                false
            } else if !sound {
                self.stats.bad_frames += 1;
                false
            } else if buffers != 1 {
                self.stats.incomplete += 1;
                skip = buffers.saturating_sub(1);
                false
            } else {
                self.stats.frames += 1;
                self.stats.bytes += (len - self.header_len) as u64;
                lend(&self.memory, used.token, at, len)
            };
            if !kept {
                self.free.push_back(used.token);
            }
        }
        self.waiting_at = found;
        if found < max {
            self.interrupts().rest();
        }
        found
    }

    /// Takes a lent buffer back. [`RxQueue::refill`] puts it into the ring.
    #[inline]
    pub(crate) fn take_back(&mut self, index: u32) {
        self.free.push_back(index);
    }

    /// Puts free buffers into the ring when there are enough of them ([`RxQueue::set_refill_at`]).
    #[inline]
    pub(crate) fn refill(&mut self) {
        if self.free.len() >= self.refill_at {
            self.fill(usize::MAX);
        }
    }

    /// Bytes of the virtio-net header.
    pub(crate) fn header_len(&self) -> usize {
        self.header_len
    }

    /// Takes the other buffers of a frame that is in several, which begins with the piece `first`: its length.
    #[inline(never)]
    fn gather(&mut self, first: (usize, usize), buffers: u16) -> Option<usize> {
        self.pieces.clear();
        self.pieces.push(first);
        let mut good = buffers > 0;
        for _ in 1..buffers {
            let Some(used) = self.take_another() else {
                self.stats.incomplete += 1;
                return None;
            };
            good &= used.len > 0 && used.len as usize <= self.buffer_len;
            self.pieces.push((used.token as usize * self.stride, (used.len as usize).min(self.buffer_len)));
        }
        if !good {
            self.stats.bad_frames += 1;
            return None;
        }
        Some(self.pieces.iter().map(|p| p.1).sum())
    }

    fn take_another(&mut self) -> Option<Used> {
        if self.waiting_at == self.waiting_end {
            self.pop(BATCH);
        }
        self.next_waiting()
    }

    /// Whether a used buffer waits.
    pub fn has_frames(&mut self) -> bool {
        self.waiting_at < self.waiting_end || self.ring.has_used()
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

    /// Its interrupts: turned on, it is left alone when it is empty, until it is called.
    #[inline]
    pub fn interrupts(&mut self) -> Interrupts<'_> {
        Interrupts { attention: &mut self.attention, ring: &mut self.ring, bell: &mut self.bell }
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

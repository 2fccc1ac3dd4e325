//! Transmission: frames into buffers, buffers into the ring, used buffers back.

use crate::fifo::Fifo;
use crate::memory::{Arena, Window};
use crate::napi::{Attention, Interrupts};
use crate::notify::Bell;
use crate::ring::{Ring, Segment, Used};
use crate::{Error, Offload};

/// Where a frame starts in its buffer; the header ends there, so that both can go in one segment, and the frame is
/// aligned to a cache line.
pub(crate) const FRAME_AT: usize = 64;

/// Set in the token of a buffer that is not one of the transmit queue's own.
const BORROWED: u32 = 1 << 31;

/// Descriptor layout of a transmitted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TxShape {
    /// Header and frame in one segment.
    #[default]
    OneBuffer,
    /// The header in a segment of its own.
    HeaderSeparate,
    /// The header in a segment of its own, the frame in this many (fewer when it is shorter than that).
    Pieces(u16),
    /// The header itself cut in two, then the frame: legal since virtio 1.0 (§2.7.4.2), and rarely seen.
    SplitHeader,
}

impl TxShape {
    /// Most segments of a chain.
    pub const fn segments(self) -> u16 {
        match self {
            TxShape::OneBuffer => 1,
            TxShape::HeaderSeparate => 2,
            TxShape::Pieces(n) => 1 + if n == 0 { 1 } else { n },
            TxShape::SplitHeader => 3,
        }
    }
}

/// A frame and its offload metadata.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Ethernet frame without FCS.
    pub bytes: &'a [u8],
    /// Metadata for the header.
    pub offload: Offload,
}

impl<'a> From<&'a [u8]> for Frame<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Frame { bytes, offload: Offload::default() }
    }
}

/// A transmit buffer about to be sent.
pub struct Slot<'a> {
    buffers: &'a Window,
    at: usize,
    capacity: usize,
    header_len: usize,
    index: u32,
}

impl Slot<'_> {
    /// Writes the virtio-net header.
    #[inline]
    pub fn header(&mut self, offload: Offload) {
        self.buffers.write(self.at + FRAME_AT - self.header_len, &offload.to_bytes()[..self.header_len]);
    }

    /// Writes `bytes` at `offset` of the frame.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.capacity, "a frame does not fit into its transmit buffer");
        self.buffers.write(self.at + FRAME_AT + offset, bytes);
    }

    /// Longest frame.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of the buffer, 0 to [`TxQueue::buffers`].
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// Counters of a transmit queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxStats {
    /// Frames made available.
    pub frames: u64,
    /// Bytes of them, without headers.
    pub bytes: u64,
    /// Frames that the device has given back.
    pub completed: u64,
    /// Publications.
    pub publications: u64,
}

/// Buffers at the beginning of a burst whose first lines are fetched before any is filled.
const PREFETCH: usize = 32;
/// Frames that are written before their descriptors are.
const BATCH: usize = 32;

/// The transmit queue of a queue pair.
pub struct TxQueue {
    ring: Ring,
    bell: Bell,
    attention: Attention,
    buffers: Window,
    slot_size: usize,
    /// Free buffers. They come round in order, so that in a steady stream each stays with its descriptor.
    free: Fifo<u32>,
    slots: u32,
    header_len: usize,
    shape: TxShape,
    segments: Vec<Segment>,
    /// Receive buffers that were sent with [`TxQueue::queue_borrowed`] and are back.
    returned: Fifo<u32>,
    stats: TxStats,
}

impl TxQueue {
    pub(crate) fn new(
        arena: &mut Arena<'_>,
        region: usize,
        ring: Ring,
        bell: Bell,
        header_len: usize,
        config: &crate::GuestConfig,
    ) -> Result<Self, Error> {
        let shape = config.tx_shape;
        let slot_size = Self::slot_size(config);
        let slots = config.tx_buffers.unwrap_or(usize::from(ring.size()));
        Ok(TxQueue {
            buffers: arena.take(region, slot_size * slots, 64)?,
            slot_size,
            free: Fifo::shuffled(slots as u32),
            slots: slots as u32,
            header_len,
            shape,
            segments: Vec::with_capacity(usize::from(shape.segments())),
            returned: Fifo::with_capacity(usize::from(ring.size())),
            stats: TxStats::default(),
            attention: Attention::default(),
            ring,
            bell,
        })
    }

    /// Bytes of a buffer in memory.
    pub(crate) fn slot_size(config: &crate::GuestConfig) -> usize {
        (FRAME_AT + config.tx_frame_len).next_multiple_of(64)
    }

    /// Sends as many of `frames` as there is room for, with one publication; returns how many.
    ///
    /// # Panics
    /// When a frame is longer than the configured buffers.
    pub fn send_burst(&mut self, frames: &[Frame<'_>]) -> usize {
        self.send_with(frames.len(), |number, slot| {
            let frame = &frames[number];
            slot.header(frame.offload);
            slot.write(0, frame.bytes);
            frame.bytes.len()
        })
    }

    /// Sends up to `count` frames with one publication; returns how many. `fill` gets the number of the frame in the
    /// burst and its buffer, which still holds what was in it, and returns the frame's length: a prefilled buffer
    /// ([`TxQueue::prefill`]) needs only what changes.
    #[inline]
    pub fn send_with(&mut self, count: usize, fill: impl FnMut(usize, &mut Slot<'_>) -> usize) -> usize {
        let sent = self.queue_with(count, fill);
        if sent > 0 {
            self.publish();
        }
        sent
    }

    /// [`TxQueue::send_with`] without the publication: the device sees nothing yet.
    #[inline]
    pub fn queue_with(&mut self, count: usize, mut fill: impl FnMut(usize, &mut Slot<'_>) -> usize) -> usize {
        if self.free.len() < count || self.ring.free_descriptors() < count * usize::from(self.shape.segments()) {
            self.reclaim();
        }
        let (most, descriptors) = match self.shape {
            TxShape::OneBuffer => (BATCH, self.ring.free_descriptors()),
            // Whether it has room for another one, the ring says.
            _ => (1, usize::MAX),
        };
        let count = count.min(self.free.len()).min(descriptors);
        self.fetch(count);
        let mut queued = 0;
        while queued < count {
            let added = self.queue_some(queued, (count - queued).min(most), &mut fill);
            if added == 0 {
                break;
            }
            queued += added;
        }
        self.free.remove(queued);
        self.stats.frames += queued as u64;
        queued
    }

    /// Queues `count` frames in the free buffers from the `first`th on: first all frames, then all descriptors. At most [`BATCH`] of one segment, or
    /// one of several. Returns how many there was room for.
    #[inline(always)]
    fn queue_some(
        &mut self,
        first: usize,
        count: usize,
        fill: &mut impl FnMut(usize, &mut Slot<'_>) -> usize,
    ) -> usize {
        let (free, buffers, header_len, slot_size) = (&self.free, &self.buffers, self.header_len, self.slot_size);
        let (mut lens, mut bytes) = ([0; BATCH], 0);
        for (number, place) in (first..).zip(&mut lens[..count]) {
            let index = free.peek(number);
            let at = index as usize * slot_size;
            let mut slot = Slot { buffers, at, capacity: slot_size - FRAME_AT, header_len, index };
            let len = fill(number, &mut slot);
            assert!(len <= slot.capacity, "a frame does not fit into its transmit buffer");
            *place = len as u32;
            bytes += len as u64;
        }
        let added = if self.shape == TxShape::OneBuffer {
            let base = buffers.guest() + (FRAME_AT - header_len) as u64;
            self.ring.add_ones(count, |number| {
                let index = free.peek(first + number);
                let addr = base + (index as usize * slot_size) as u64;
                (index, Segment { addr, len: header_len as u32 + lens[number], writable: false })
            })
        } else {
            usize::from(self.add_shaped(free.peek(first), lens[0] as usize))
        };
        self.stats.bytes += if added > 0 { bytes } else { 0 };
        added
    }

    /// Adds a frame of `len` bytes in a buffer, in several segments; `false` when the ring is full.
    #[inline(never)]
    fn add_shaped(&mut self, index: u32, len: usize) -> bool {
        let addr = self.buffers.guest() + (index as usize * self.slot_size) as u64;
        layout(&mut self.segments, self.shape, addr, self.header_len, len);
        self.ring.add(index, &self.segments)
    }

    /// Queues `len` bytes, header included, at `addr`: receive buffer `index`, which is the device's until
    /// [`TxQueue::next_returned`] names it. `false` when the ring is full.
    #[inline]
    pub(crate) fn queue_borrowed(&mut self, index: u32, addr: u64, len: usize) -> bool {
        let added = self.ring.add_one(index | BORROWED, Segment { addr, len: len as u32, writable: false });
        if added {
            self.stats.frames += 1;
            self.stats.bytes += (len - self.header_len) as u64;
        }
        added
    }

    /// A receive buffer that [`TxQueue::reclaim`] got back.
    #[inline]
    pub(crate) fn next_returned(&mut self) -> Option<u32> {
        self.returned.pop_front()
    }

    /// Shows what was queued to the device and kicks if it wants that.
    #[inline]
    pub fn publish(&mut self) {
        self.ring.publish();
        self.stats.publications += 1;
        let wanted = self.ring.kick_wanted();
        self.bell.published(wanted);
    }

    /// Lets `fill` write into every free buffer, for later use by [`TxQueue::send_with`]. Nothing is sent.
    pub fn prefill(&mut self, mut fill: impl FnMut(&mut Slot<'_>)) {
        for index in self.free.iter() {
            fill(&mut Slot {
                buffers: &self.buffers,
                at: index as usize * self.slot_size,
                capacity: self.slot_size - FRAME_AT,
                header_len: self.header_len,
                index,
            });
        }
    }

    /// Takes back what the device has used; returns the number of frames.
    #[inline]
    pub fn reclaim(&mut self) -> usize {
        let mut count = 0;
        if self.attention == Attention::Asleep {
            return 0;
        }
        loop {
            let mut batch = [Used { token: 0, len: 0 }; 32];
            let found = self.ring.pop_burst(&mut batch);
            for used in &batch[..found] {
                match used.token & BORROWED {
                    0 => self.free.push_back(used.token),
                    _ => self.returned.push_back(used.token & !BORROWED),
                }
            }
            count += found;
            if found < batch.len() {
                break;
            }
        }
        if count > 0 {
            self.stats.completed += count as u64;
            self.ring.arm_calls();
        }
        count
    }

    /// Gets ready to send `count` frames: takes back what the device has used, if there is no room for them, and has the processor fetch their
    /// buffers while the caller does something else.
    #[inline]
    pub fn prepare(&mut self, count: usize) {
        if self.room() < count {
            self.reclaim();
        }
        if self.room() >= count {
            self.fetch(count);
        }
    }

    /// The device's processor has read what the next buffers' lines held: they come back together, not one store after the other.
    #[inline(always)]
    fn fetch(&self, count: usize) {
        (0..count.min(PREFETCH))
            .for_each(|n| self.buffers.prefetch_write(self.free.peek(n) as usize * self.slot_size + FRAME_AT));
    }

    /// Frames that can be sent without a look at the ring, as of the last reclaim.
    #[inline]
    pub fn room(&self) -> usize {
        let descriptors = self.ring.free_descriptors();
        match self.shape.segments() {
            1 => self.free.len().min(descriptors),
            segments => self.free.len().min(descriptors / usize::from(segments)),
        }
    }

    /// Frames that the device has not given back, as of the last reclaim.
    pub fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    /// Number of buffers.
    pub fn buffers(&self) -> u32 {
        self.slots
    }

    /// Counters.
    pub fn stats(&self) -> TxStats {
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

    /// Its interrupts: turned on, and left to [`Interrupts::rest`] for want of room, nothing is taken back until it is called.
    #[inline]
    pub fn interrupts(&mut self) -> Interrupts<'_> {
        Interrupts { attention: &mut self.attention, ring: &mut self.ring, bell: &mut self.bell }
    }

    /// The memory of the buffers.
    pub fn memory(&self) -> &Window {
        &self.buffers
    }

    pub(crate) fn parts(&self) -> (&Ring, &Bell) {
        (&self.ring, &self.bell)
    }
}

/// Segments of the frame of `len` bytes in the buffer at `addr`.
#[inline]
fn layout(segments: &mut Vec<Segment>, shape: TxShape, addr: u64, header_len: usize, len: usize) {
    segments.clear();
    let mut push = |addr: u64, len: usize| segments.push(Segment { addr, len: len as u32, writable: false });
    let frame = addr + FRAME_AT as u64;
    let header = frame - header_len as u64;
    match shape {
        TxShape::OneBuffer => push(header, header_len + len),
        TxShape::HeaderSeparate => {
            push(header, header_len);
            push(frame, len);
        }
        TxShape::SplitHeader => {
            push(header, 4);
            push(header + 4, header_len - 4);
            push(frame, len);
        }
        TxShape::Pieces(pieces) => {
            push(header, header_len);
            let pieces = usize::from(pieces).clamp(1, len.max(1));
            for piece in 0..pieces {
                let (from, to) = (len * piece / pieces, len * (piece + 1) / pieces);
                push(frame + from as u64, to - from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_frame() {
        for shape in [
            TxShape::OneBuffer,
            TxShape::HeaderSeparate,
            TxShape::SplitHeader,
            TxShape::Pieces(7),
            TxShape::Pieces(100),
        ] {
            let mut segments = Vec::new();
            layout(&mut segments, shape, 0x1000, 12, 61);
            assert!(segments.len() <= usize::from(shape.segments()));
            assert_eq!(segments[0].addr, 0x1000 + 64 - 12);
            assert_eq!(segments.iter().map(|s| s.len).sum::<u32>(), 12 + 61);
            assert!(segments.iter().all(|s| s.len > 0));
            assert!(segments.windows(2).all(|w| w[0].addr + u64::from(w[0].len) == w[1].addr));
        }
    }
}

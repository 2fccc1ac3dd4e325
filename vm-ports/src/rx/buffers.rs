//! The buffers that a guest posted as a place to write frames to, for packets that are more than one buffer each, or cut, or have a
//! header to be written.

use arrayvec::ArrayVec;

use super::BURST_DESCRIPTORS;
use crate::counters::{RingFault, RxDrop};
use crate::egress::FrameSink;
use crate::features::Features;
use crate::memory::{GuestSlice, Source};
use crate::net_header::Offload;
use crate::offload::OffloadError;
use crate::packet::CHAIN_SEGMENTS;
use crate::ring::{Chain, ChainError, Direction, Ring, Single, Singles, Sink, Translator};

/// Buffers one frame may be spread over (mergeable receive buffers), at most.
const FRAME_CHAINS: usize = 256;

/// While a buffer is filled, the one so many after it is fetched.
const BUFFERS_AHEAD: usize = 2;

/// What a packet became: one frame, or several segments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Placed {
    pub(super) frames: u64,
    /// Without virtio-net headers.
    pub(super) bytes: u64,
}

/// Why a packet was not placed.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    Drop(RxDrop),
    /// There are buffers, but no room to stage them before the next publication.
    Unstaged,
    BadBuffer,
    Fault(RingFault),
}

impl Refusal {
    /// As it is counted.
    pub(super) fn reason(self) -> RxDrop {
        match self {
            Self::Drop(reason) => reason,
            Self::Unstaged => RxDrop::Full,
            Self::BadBuffer => RxDrop::BadBuffer,
            Self::Fault(_) => RxDrop::NotReady,
        }
    }
}

impl From<OffloadError> for Refusal {
    fn from(_: OffloadError) -> Self {
        Self::Drop(RxDrop::BadOffload)
    }
}

/// The guest's buffers as a place to write frames to. Whatever is begun is staged at once: staging is not visible before publication.
pub(super) struct Buffers<'q, 'm> {
    ring: &'q mut Ring,
    translator: Translator<'q, 'm>,
    features: Features,
    pub(super) parts: Parts<'m>,
    /// What the frame begun last is in, and how many bytes of it each is for.
    chains: ArrayVec<(Chain, u32), FRAME_CHAINS>,
    cursor: Cursor,
    /// Chains taken for the whole packet.
    pub(super) taken: usize,
    /// Whether the packet has all of [`BURST_DESCRIPTORS`] to itself.
    has_all: bool,
    pub(super) placed: Placed,
}

/// The buffers of the frame begun last, and what may still be read.
pub(super) struct Parts<'m> {
    slices: ArrayVec<GuestSlice<'m>, CHAIN_SEGMENTS>,
    pub(super) descriptors_left: usize,
}

impl<'m> Sink<'m> for Parts<'m> {
    #[inline]
    fn visit(&mut self) -> bool {
        self.descriptors_left = self.descriptors_left.saturating_sub(1);
        self.descriptors_left > 0
    }

    #[inline]
    fn put(&mut self, slice: GuestSlice<'m>) -> bool {
        self.slices.try_push(slice).is_ok()
    }
}

/// For chains that only have to be found, to be given back.
pub(super) struct Unread;

impl<'m> Sink<'m> for Unread {
    fn visit(&mut self) -> bool {
        false
    }

    fn put(&mut self, _: GuestSlice<'m>) -> bool {
        false
    }
}

/// A position in a frame's buffers.
#[derive(Default)]
struct Cursor {
    slice: usize,
    /// Offset, from the start of the first buffer, of that slice.
    base: usize,
}

impl<'q, 'm> Buffers<'q, 'm> {
    #[inline]
    pub(super) fn new(
        ring: &'q mut Ring,
        translator: Translator<'q, 'm>,
        features: Features,
        descriptors_left: usize,
    ) -> Self {
        Self {
            ring,
            translator,
            features,
            parts: Parts { slices: ArrayVec::new(), descriptors_left },
            chains: ArrayVec::new(),
            cursor: Cursor::default(),
            taken: 0,
            has_all: descriptors_left == BURST_DESCRIPTORS,
            placed: Placed::default(),
        }
    }

    /// Takes buffers for `total` bytes. All but the last are filled to the end (virtio 1.2 §5.1.6.4).
    #[inline]
    pub(super) fn gather(&mut self, total: usize) -> Result<(), Refusal> {
        let mut found = Singles::new();
        // If the next buffers are as long as the last one, so many of them are needed.
        let (mut left, mut last) = (total, total);
        while left > 0 {
            let most = left.div_ceil(last).min(self.ring.stageable().saturating_sub(self.chains.len()));
            if most == 0 {
                return Err(Refusal::Unstaged);
            }
            self.find_singles(most, &mut found);
            if found.is_empty() {
                let (chain, len) = self.take_one()?;
                left -= self.add(chain, len, left)?;
                last = len;
                continue;
            }
            let before = self.chains.len();
            for Single { id, buffer } in &found {
                left -= self.add(Chain { id: *id, slots: 1 }, buffer.len(), left)?;
                last = buffer.len();
                self.parts.slices.push(*buffer);
                if left == 0 {
                    break;
                }
            }
            let taken = self.chains.len() - before;
            self.ring.skip(taken);
            self.taken += taken;
        }
        Ok(())
    }

    /// The next buffers, up to `most` of them, as far as each is in one piece, as nearly all are.
    #[inline]
    fn find_singles(&mut self, most: usize, found: &mut Singles<'m>) {
        let parts = &mut self.parts;
        // The one that uses up what may be looked at, or the list, is for `take_one`, which says so.
        let most = most.min(parts.descriptors_left.saturating_sub(1)).min(parts.slices.remaining_capacity());
        self.ring.expect(most);
        self.ring.singles(&mut self.translator, Direction::Write, most, found);
        parts.descriptors_left -= found.len();
        found.iter().for_each(|single| single.buffer.prefetch_write());
    }

    /// Takes the next buffer, whatever it is. How many bytes it has.
    fn take_one(&mut self) -> Result<(Chain, usize), Refusal> {
        let (first, before) = (self.parts.slices.len(), self.parts.descriptors_left);
        let taken = self.ring.take(&mut self.translator, Direction::Write, &mut self.parts);
        let (chain, walked) = taken.map_err(Refusal::Fault)?.ok_or(Refusal::Drop(RxDrop::Full))?;
        self.taken += 1;
        if let Err(error) = walked {
            return Err(self.judge(error, chain, (first, before)));
        }
        let len = self.parts.slices[first..].iter().map(GuestSlice::len).sum();
        if len == 0 { Err(Refusal::BadBuffer) } else { Ok((chain, len)) }
    }

    /// Adds a buffer of `len` bytes to those of a frame of which `left` bytes have none yet. How many it is for.
    #[inline]
    fn add(&mut self, chain: Chain, len: usize, left: usize) -> Result<usize, Refusal> {
        if len < left && !self.features.has(Features::MRG_RXBUF) {
            return Err(Refusal::Drop(RxDrop::BufferTooSmall));
        }
        let used = len.min(left);
        self.chains.try_push((chain, used as u32)).map_err(|_| Refusal::Drop(RxDrop::Full))?;
        Ok(used)
    }

    /// A chain that could not be walked is bad, unless it is our own list that other chains had filled, or other
    /// packets, or segments of this one, that had used up what this burst may look at: a sender can see to that, with
    /// packets of many segments, whatever the buffers are. They stay where they are. If they are bad, a burst that
    /// begins with them says so; until then each packet that is turned away is counted, and no burst looks at more
    /// descriptors for it. A guest gains nothing: with tiny buffers that are none too bad it can have as many looked
    /// at.
    #[cold]
    fn judge(&mut self, error: ChainError, chain: Chain, (first, before): (usize, usize)) -> Refusal {
        let left = &mut self.parts.descriptors_left;
        let is_spent = *left == 0;
        let had_all = self.has_all && self.placed.frames == 0;
        // A bad chain of a packed ring was followed to its end.
        *left = (*left).min(before.saturating_sub(chain.slots.into()));
        match error {
            ChainError::Malformed if first > 0 && self.parts.slices.is_full() => Refusal::Drop(RxDrop::Full),
            ChainError::Malformed if is_spent && !had_all => Refusal::Drop(RxDrop::Full),
            ChainError::Malformed | ChainError::BadAddress => Refusal::BadBuffer,
        }
    }
}

impl FrameSink for Buffers<'_, '_> {
    type Error = Refusal;

    #[inline]
    fn begin(&mut self, len: usize, offload: &Offload) -> Result<(), Refusal> {
        let header_len = self.features.net_header_len();
        self.parts.slices.clear();
        self.chains.clear();
        self.cursor = Cursor::default();
        self.gather(header_len + len)?;
        let header = offload.write(self.features, self.chains.len() as u16);
        for (chain, written) in &self.chains {
            self.ring.stage(*chain, *written);
        }
        self.placed.frames += 1;
        self.placed.bytes += len as u64;
        self.write_at(0, Source::from(&header[..header_len]));
        Ok(())
    }

    #[inline]
    fn write(&mut self, offset: usize, from: Source<'_>) {
        self.write_at(self.features.net_header_len() + offset, from);
    }
}

impl Buffers<'_, '_> {
    /// The buffer [`BUFFERS_AHEAD`] of the present one, which is written after `here` bytes and those between: after how many.
    #[inline]
    fn later(&self, here: usize) -> Option<(usize, GuestSlice<'_>)> {
        let (between, after) = self.parts.slices.get(self.cursor.slice + 1..)?.split_at_checked(BUFFERS_AHEAD - 1)?;
        Some((here + between.iter().map(GuestSlice::len).sum::<usize>(), *after.first()?))
    }

    /// Writes at an offset that counts from the virtio-net header.
    #[inline]
    fn write_at(&mut self, offset: usize, from: Source<'_>) {
        if offset < self.cursor.base {
            self.cursor = Cursor::default();
        }
        let mut at = offset - self.cursor.base;
        let mut from = from;
        while let Some(slice) = self.parts.slices.get(self.cursor.slice) {
            if at >= slice.len() {
                at -= slice.len();
                self.cursor.base += slice.len();
                self.cursor.slice += 1;
                continue;
            }
            let into = slice.suffix(at);
            let n = into.write_body(from, self.later(into.len()).map(|(skip, later)| (from.suffix(skip), later)));
            from = from.suffix(n);
            if from.is_empty() {
                break;
            }
            at += n;
        }
    }
}

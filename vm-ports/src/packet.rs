//! Packets on their way through: a snapshot of the headers in local memory, and the places where the rest still lies.
//!
//! What is checked is the snapshot and what is delivered is the snapshot: a guest that rewrites its headers in between changes nothing.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::counters::TxDrop;
use crate::memory::Source;
use crate::net_header::Offload;

/// Packets in one burst, at most.
pub const BURST_PACKETS: usize = 32;
/// Bytes after which a burst takes no further packet.
pub const BURST_BYTES: usize = 64 << 10;
/// The longest frame there is: a full IP packet with an Ethernet header and one VLAN tag.
pub const FRAME_MAX: usize = 65_535 + 14 + 4;
/// The shortest frame that has a header to look at.
pub const FRAME_MIN: usize = ETHERNET_BYTES;
/// Bytes of an Ethernet header without a tag.
pub const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
/// Parts a packet may be in: enough for any network stack (Linux uses 19), few enough to bound the work.
pub(crate) const CHAIN_SEGMENTS: usize = 256;
/// Header bytes kept of a packet with offload work to do: Ethernet, VLAN, IP with options or extensions, TCP with options.
pub(crate) const SNAPSHOT_MAX: usize = 192;
/// Header bytes kept of any other packet: enough to classify it and to hash its flow.
const SNAPSHOT_PLAIN: usize = 64;
/// Bytes of the longest packet that [`Packet::short`] gives as it is: one of which the snapshot is all, and a line of the CPU's caches.
pub const SHORT_MAX: usize = SNAPSHOT_PLAIN;
/// Room before the snapshot to push one VLAN tag into.
const HEADROOM: usize = VLAN_BYTES;
/// A snapshot begins before this: room to take a few tags off.
const START_END: usize = 32;
const BURST_SEGMENTS: usize = 2 * CHAIN_SEGMENTS;
const VLAN_ETHERTYPE: [u8; 2] = [0x81, 0x00];
/// What one frame more that a packet is cut into takes, in descriptors.
const SEGMENT_WORK: usize = 4;

/// The parts of a burst's packets that were left where they are.
pub(crate) type BurstSegments<'a> = ArrayVec<Source<'a>, BURST_SEGMENTS>;

/// The local part of one packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// What is still to be done to it.
    offload: Offload,
    /// Bytes of the whole frame.
    len: u32,
    /// Where its tail is in the burst's segments.
    first_segment: u16,
    segments: u16,
    /// The snapshot is so many bytes of `head`, from here on.
    start: u8,
    head_len: u8,
    /// Whether the snapshot is all there is of it: no tail, nothing to be done and nothing to be said.
    short: bool,
    head: [u8; HEADROOM + SNAPSHOT_MAX],
}

impl Packet {
    const EMPTY: Self = Self {
        offload: Offload::NONE,
        len: 0,
        first_segment: 0,
        segments: 0,
        start: 0,
        head_len: 0,
        short: true,
        head: [0; HEADROOM + SNAPSHOT_MAX],
    };

    /// Becomes the packet whose frame this is: reads its beginning into the snapshot. What is left is its tail, and will be the segment
    /// `first_segment`, if there is any.
    #[inline(always)]
    fn take<'a>(&mut self, frame: Source<'a>, offload: Offload, first_segment: usize) -> Source<'a> {
        let filled = frame.read(&mut self.head[HEADROOM..][..snapshot_len(&offload)]);
        let tail = frame.suffix(filled);
        self.describe(frame.len(), filled, offload);
        self.first_segment = first_segment as u16;
        self.segments = u16::from(!tail.is_empty());
        self.short = tail.is_empty() && offload.is_plain();
        tail
    }

    /// A frame of `len` bytes, the first `filled` of which are in the snapshot.
    #[inline(always)]
    fn describe(&mut self, len: usize, filled: usize, offload: Offload) {
        self.start = HEADROOM as u8;
        self.head_len = filled as u8;
        self.len = len as u32;
        self.offload = offload;
    }

    /// Bytes of the whole frame.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a packet is never empty: FRAME_MIN")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the snapshot is all there is of it: no tail, nothing to be done and nothing to be said.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// The whole frame and, after it, whatever lies behind it there, where it [is short](Packet::is_short) and has no more than
    /// [`SHORT_MAX`] bytes: what is always as long takes four moves to copy.
    #[inline]
    pub fn short(&self) -> Option<&[u8; SHORT_MAX]> {
        if !self.short || self.len() > SHORT_MAX {
            return None;
        }
        self.head[self.start()..].first_chunk()
    }

    /// The snapshot: the first bytes of the frame, at least its Ethernet header.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[self.start()..][..usize::from(self.head_len)]
    }

    /// Where the snapshot begins: in the first few bytes, as the compiler is told here so that it looks only once.
    #[inline]
    fn start(&self) -> usize {
        usize::from(self.start) % START_END
    }

    /// The metadata, consistent with the frame as it is now.
    #[inline]
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// What the frames take that a receiver may need it cut into, beyond what their bytes say, in descriptors.
    pub(crate) fn segment_work(&self) -> usize {
        SEGMENT_WORK * self.offload.short_segments(self.len())
    }

    /// The destination address.
    #[inline]
    pub fn destination(&self) -> [u8; 6] {
        self.bytes(0)
    }

    /// The source address.
    #[inline]
    pub fn source(&self) -> [u8; 6] {
        self.bytes(6)
    }

    /// The Ethernet header: destination, source, type.
    #[inline]
    pub fn ethernet(&self) -> [u8; ETHERNET_BYTES] {
        self.bytes(0)
    }

    /// The tag control information, where the outermost EtherType is 802.1Q's.
    #[inline]
    pub fn vlan_tag(&self) -> Option<u16> {
        let tagged = self.bytes::<2>(12) == VLAN_ETHERTYPE && self.head().len() >= 18;
        tagged.then(|| u16::from_be_bytes(self.bytes(14)))
    }

    /// Takes the outermost tag off, if there is one, and returns its tag control information.
    pub fn pop_vlan(&mut self) -> Option<u16> {
        let (tag, start) = (self.vlan_tag()?, self.start());
        if start + VLAN_BYTES >= START_END {
            return None;
        }
        self.head.copy_within(start..start + 12, start + VLAN_BYTES);
        self.start = (start + VLAN_BYTES) as u8;
        self.head_len -= VLAN_BYTES as u8;
        self.len -= VLAN_BYTES as u32;
        self.offload.shift(-(VLAN_BYTES as i16));
        Some(tag)
    }

    /// Puts a tag on. There is room for one more than the packet came with.
    pub fn push_vlan(&mut self, tag: u16) {
        let Some(start) = self.start().checked_sub(VLAN_BYTES) else { return };
        self.head.copy_within(start + 4..start + 16, start);
        self.head[start + 12..start + 14].copy_from_slice(&VLAN_ETHERTYPE);
        self.head[start + 14..start + 16].copy_from_slice(&tag.to_be_bytes());
        self.start = start as u8;
        self.head_len += VLAN_BYTES as u8;
        self.len += VLAN_BYTES as u32;
        self.offload.shift(VLAN_BYTES as i16);
    }

    /// Whether the checksum to be completed leaves the link layer's header alone. Somebody downstream will complete it, after that
    /// header was judged: a checksum stored in it would be a forged address or VLAN tag.
    #[inline]
    fn checksum_is_inside(&self) -> bool {
        if !self.offload.needs_csum {
            return true;
        }
        let link_layer = ETHERNET_BYTES + if self.vlan_tag().is_some() { VLAN_BYTES } else { 0 };
        usize::from(self.offload.csum_start) >= link_layer
    }

    /// Bytes `at` and following, which are in the snapshot.
    #[inline]
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        debug_assert!(at + N <= usize::from(self.head_len), "beyond the snapshot");
        self.head[self.start()..].get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }
}

/// Bytes of a packet's beginning that are kept.
#[inline(always)]
fn snapshot_len(offload: &Offload) -> usize {
    if offload.needs_csum { SNAPSHOT_MAX } else { SNAPSHOT_PLAIN }
}

/// Memory for the local parts of a burst: one for each I/O core, used over and over.
#[derive(Debug)]
pub struct BurstBuffer(Box<[Packet; BURST_PACKETS]>);

impl Default for BurstBuffer {
    fn default() -> Self {
        Self(Box::new([const { Packet::EMPTY }; BURST_PACKETS]))
    }
}

/// Packets handled together, in the order in which they came. It borrows what they lie in: a queue cannot complete them,
/// nor its memory go away, while the burst is there.
#[derive(Debug)]
pub struct Burst<'a> {
    packets: &'a mut [Packet; BURST_PACKETS],
    /// Packets it takes, at most.
    most: usize,
    count: usize,
    bytes: usize,
    segments: BurstSegments<'a>,
}

impl<'a> Burst<'a> {
    /// An empty burst of [`BURST_PACKETS`] at most.
    pub fn new(buffer: &'a mut BurstBuffer) -> Self {
        Self::up_to(BURST_PACKETS, buffer)
    }

    /// An empty burst of so many packets at most, and never more than [`BURST_PACKETS`].
    pub fn up_to(most: usize, buffer: &'a mut BurstBuffer) -> Self {
        Self { packets: &mut buffer.0, most: most.min(BURST_PACKETS), count: 0, bytes: 0, segments: ArrayVec::new() }
    }

    /// Packets it takes, at most.
    #[inline]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Packets in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The local part of the packet that came last.
    #[inline]
    pub(crate) fn last(&self) -> Option<&Packet> {
        self.packets[..self.count].last()
    }

    /// Bytes of all its frames.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more packet of any legal shape fits.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.count < self.most && self.room() > 0 && self.has_segments()
    }

    /// Bytes that are left of [`BURST_BYTES`].
    #[inline]
    pub(crate) fn room(&self) -> usize {
        BURST_BYTES.saturating_sub(self.bytes)
    }

    /// Whether the parts of any legal packet can be appended.
    #[inline]
    pub(crate) fn has_segments(&self) -> bool {
        self.segments.remaining_capacity() >= CHAIN_SEGMENTS
    }

    /// How many packets from `index` on have this Ethernet header, one after the other. Not inlined: the loop over a burst's packets is as short as
    /// it can be where nothing else is around it.
    #[inline(never)]
    pub fn alike(&self, index: usize, ethernet: &[u8; ETHERNET_BYTES]) -> usize {
        let packets = self.packets[..self.count].get(index..).unwrap_or_default();
        packets.iter().take_while(|packet| packet.ethernet() == *ethernet).count()
    }

    /// Packet `index` with its tail. `index` is below [`Burst::len`].
    #[inline]
    pub fn view(&self, index: usize) -> View<'_> {
        View { packet: &self.packets[index], segments: &self.segments }
    }

    /// Some packets that follow each other, all of them below [`Burst::len`].
    #[inline]
    pub fn run(&self, indices: Range<usize>) -> Run<'_> {
        Run { packets: &self.packets[indices], segments: &self.segments }
    }

    /// The local part of packet `index`, which is below [`Burst::len`].
    #[inline]
    pub fn packet_mut(&mut self, index: usize) -> &mut Packet {
        &mut self.packets[index]
    }

    /// Appends a frame that lies in this process's own memory. False, and nothing changed, where there is no room, the frame is
    /// shorter than [`FRAME_MIN`] or longer than [`FRAME_MAX`], or a checksum is to be stored in its link layer's header.
    pub fn push_frame(&mut self, parts: impl IntoIterator<Item = &'a [u8]>, offload: Offload) -> bool {
        if !self.has_room() {
            return false;
        }
        let mut parts = parts.into_iter().filter(|part| !part.is_empty());
        let Some(one) = parts.next() else { return false };
        let Some(two) = parts.next() else { return self.seal_one(Source::from(one), offload).is_ok() };
        let first = self.segments.len();
        let mut len = 0;
        for part in [one, two].into_iter().chain(parts) {
            if self.segments.try_push(Source::from(part)).is_err() {
                self.segments.truncate(first);
                return false;
            }
            len += part.len();
        }
        let sealed = self.seal(first..self.segments.len(), len, offload).is_ok();
        if !sealed {
            self.segments.truncate(first);
        }
        sealed
    }

    /// Appends frames that lie in this process's own memory, in one piece each, and of which the same is to be said; up to the first that
    /// [`Burst::push_frame`] would refuse. Returns how many.
    #[inline]
    pub fn push_frames(&mut self, frames: impl Iterator<Item = &'a [u8]>, offload: Offload) -> usize {
        if !self.has_segments() {
            return 0;
        }
        // A loop of its own where there is nothing to be said: it does not look at what.
        if offload == Offload::NONE {
            self.seal_frames(frames, Offload::NONE)
        } else {
            self.seal_frames(frames, offload)
        }
    }

    #[inline(always)]
    fn seal_frames(&mut self, frames: impl Iterator<Item = &'a [u8]>, offload: Offload) -> usize {
        let (mut count, mut bytes) = (0, self.bytes);
        for (packet, frame) in self.packets[self.count..self.most].iter_mut().zip(frames) {
            if bytes >= BURST_BYTES || !(FRAME_MIN..=FRAME_MAX).contains(&frame.len()) {
                break;
            }
            let tail = packet.take(frame.into(), offload, self.segments.len());
            if !packet.checksum_is_inside() {
                break;
            }
            if !tail.is_empty() {
                self.segments.push(tail);
            }
            count += 1;
            bytes += frame.len();
        }
        self.count += count;
        self.bytes = bytes;
        count
    }

    /// Where a source appends the parts of the next packet, before it calls [`Burst::seal`].
    #[inline]
    pub(crate) fn segments_mut(&mut self) -> &mut BurstSegments<'a> {
        &mut self.segments
    }

    /// Makes a packet of some of the segments, `len` bytes in all: reads its headers into the snapshot and leaves the rest as its tail. An
    /// error where the length is out of bounds or the metadata not about what follows the link layer's header; the segments are left.
    #[inline]
    pub(crate) fn seal(&mut self, parts: Range<usize>, len: usize, offload: Offload) -> Result<(), TxDrop> {
        if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
            return Err(TxDrop::BadLength);
        }
        let packet = &mut self.packets[self.count];
        let head = &mut packet.head[HEADROOM..][..snapshot_len(&offload)];
        let mut filled = 0;
        let mut at = parts.start;
        for segment in &mut self.segments[parts.clone()] {
            let n = segment.read(&mut head[filled..]);
            filled += n;
            *segment = segment.suffix(n);
            if !segment.is_empty() {
                break;
            }
            at += 1;
        }
        packet.describe(len, filled, offload);
        packet.first_segment = at as u16;
        packet.segments = (parts.end - at) as u16;
        packet.short = packet.segments == 0 && offload.is_plain();
        if !packet.checksum_is_inside() {
            return Err(TxDrop::BadOffload);
        }
        self.count += 1;
        self.bytes += len;
        Ok(())
    }

    /// The same for a frame in one part. There must be [room](Burst::has_room).
    #[inline]
    pub(crate) fn seal_one(&mut self, frame: Source<'a>, offload: Offload) -> Result<(), TxDrop> {
        let len = frame.len();
        if !(FRAME_MIN..=FRAME_MAX).contains(&len) {
            return Err(TxDrop::BadLength);
        }
        let packet = &mut self.packets[self.count];
        let tail = packet.take(frame, offload, self.segments.len());
        if !packet.checksum_is_inside() {
            return Err(TxDrop::BadOffload);
        }
        if !tail.is_empty() {
            self.segments.push(tail);
        }
        self.count += 1;
        self.bytes += len;
        Ok(())
    }

    /// Makes packets of buffers, which are what nearly all packets come in: a virtio-net header of `header_len` bytes that asks for nothing, and a
    /// frame. Returns how many, and the bytes of their frames: up to the first buffer that is something else, or to the end of the room; no more
    /// than [`BURST_PACKETS`], for which there must be [segments](Burst::has_segments).
    #[inline]
    pub(crate) fn seal_run(&mut self, buffers: impl Iterator<Item = Source<'a>>, header_len: usize) -> (usize, usize) {
        let (mut count, before) = (0, self.bytes);
        let mut bytes = before;
        for (packet, buffer) in self.packets[self.count..self.most].iter_mut().zip(buffers) {
            let Some((header, frame)) = buffer.split_array(header_len, FRAME_MIN) else { break };
            if bytes >= BURST_BYTES || !Offload::is_absent(&header) || frame.len() > FRAME_MAX {
                break;
            }
            let tail = packet.take(frame, Offload::NONE, self.segments.len());
            if !tail.is_empty() {
                self.segments.push(tail);
            }
            count += 1;
            bytes += frame.len();
        }
        self.count += count;
        self.bytes = bytes;
        (count, bytes - before)
    }
}

/// Packets of a burst that follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Run<'b> {
    packets: &'b [Packet],
    /// All of the burst's.
    segments: &'b [Source<'b>],
}

impl<'b> Run<'b> {
    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Their local parts.
    #[inline]
    pub fn packets(&self) -> &'b [Packet] {
        self.packets
    }

    /// Each of them with its tail.
    #[inline]
    pub fn views(self) -> impl ExactSizeIterator<Item = View<'b>> + Clone {
        let segments = self.segments;
        self.packets.iter().map(move |packet| View { packet, segments })
    }

    /// The first `count` (all, where there are fewer).
    #[inline]
    pub fn first(self, count: usize) -> Self {
        Self { packets: self.packets.get(..count).unwrap_or(self.packets), ..self }
    }

    /// What is left after the first `count` (nothing, where there are fewer).
    #[inline]
    pub fn after(self, count: usize) -> Self {
        Self { packets: self.packets.get(count..).unwrap_or_default(), ..self }
    }
}

impl<'b> From<View<'b>> for Run<'b> {
    #[inline]
    fn from(View { packet, segments }: View<'b>) -> Self {
        Self { packets: std::slice::from_ref(packet), segments }
    }
}

/// One packet of a burst: its snapshot and its tail.
#[derive(Debug, Clone, Copy)]
pub struct View<'b> {
    packet: &'b Packet,
    /// All of the burst's.
    segments: &'b [Source<'b>],
}

impl<'b> View<'b> {
    /// The local part.
    #[inline]
    pub fn packet(&self) -> &'b Packet {
        self.packet
    }

    /// What follows the snapshot.
    #[inline]
    pub fn tail(&self) -> &'b [Source<'b>] {
        match usize::from(self.packet.segments) {
            0 => &[],
            count => &self.segments[usize::from(self.packet.first_segment)..][..count],
        }
    }

    /// What a copy of it takes beyond what its length says, in descriptors: [`Pulled::descriptors`](crate::Pulled::descriptors) has that of
    /// the first one.
    pub fn descriptors(&self) -> usize {
        self.tail().len() + self.packet.segment_work()
    }

    /// Copies the frame from its beginning into `to`; returns how many bytes there were.
    #[inline]
    pub fn read(&self, to: &mut [u8]) -> usize {
        let mut done = Source::from(self.packet.head()).read(to);
        for part in self.tail() {
            done += part.read(&mut to[done..]);
        }
        done
    }

    /// Copies the frame's bytes from `offset` on into `to`; returns how many there were.
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> usize {
        let head = self.packet.head();
        let from = head.get(offset..).unwrap_or_default();
        let mut done = from.len().min(to.len());
        to[..done].copy_from_slice(&from[..done]);
        let mut skip = offset.saturating_sub(head.len());
        for segment in self.tail() {
            if done == to.len() {
                break;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            done += segment.suffix(skip).read(&mut to[done..]);
            skip = 0;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Vec<u8> {
        let mut f: Vec<u8> = (0..len).map(|i| i as u8).collect();
        f[12..14].copy_from_slice(&[0x08, 0x00]);
        f
    }

    fn contents(view: View<'_>) -> Vec<u8> {
        let mut out = vec![0; view.packet().len()];
        assert_eq!(view.copy_to(0, &mut out), out.len());
        out
    }

    #[test]
    fn parts_of_any_size_make_the_same_packet() {
        let bytes = frame(300);
        for cut in [1, 13, 14, 63, 64, 65, 299] {
            let mut buffer = BurstBuffer::default();
            let mut burst = Burst::new(&mut buffer);
            assert!(burst.push_frame([&bytes[..cut], &bytes[cut..]], Offload::NONE));
            assert_eq!(contents(burst.view(0)), bytes, "cut at {cut}");
            let mut part = [0; 10];
            assert_eq!(burst.view(0).copy_to(295, &mut part), 5);
            assert_eq!(part[..5], bytes[295..]);
        }
    }

    #[test]
    fn any_bytes_of_a_packet_can_be_copied() {
        let bytes = frame(300);
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        assert!(burst.push_frame([&bytes[..100], &bytes[100..101], &bytes[101..250], &bytes[250..]], Offload::NONE));
        for (offset, room) in (0..=301).step_by(7).flat_map(|offset| [0, 1, 64, 190, 400].map(|room| (offset, room))) {
            let mut to = vec![0; room];
            let wanted = bytes.get(offset..).unwrap_or_default();
            let count = burst.view(0).copy_to(offset, &mut to);
            assert_eq!((count, &to[..count]), (room.min(wanted.len()), &wanted[..count]), "{room} from {offset}");
        }
    }

    #[test]
    fn frames_out_of_bounds_are_refused_and_leave_nothing() {
        let bytes = vec![0; FRAME_MAX + 1];
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        assert!(!burst.push_frame([&bytes[..]], Offload::NONE));
        assert!(!burst.push_frame([&bytes[..FRAME_MIN - 1]], Offload::NONE));
        assert!(burst.is_empty() && burst.segments.is_empty());
        assert!(burst.push_frame([&bytes[..FRAME_MAX]], Offload::NONE));
        assert!(!burst.has_room(), "64 KiB fill a burst");
    }

    #[test]
    fn a_tag_goes_on_and_comes_off() {
        let bytes = frame(100);
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        let offload = Offload { needs_csum: true, csum_start: 34, csum_offset: 16, ..Offload::NONE };
        assert!(burst.push_frame([&bytes[..]], offload));
        let packet = burst.packet_mut(0);
        assert_eq!(packet.pop_vlan(), None);
        packet.push_vlan(0x2005);
        assert_eq!((packet.len(), packet.vlan_tag(), packet.offload().csum_start), (104, Some(0x2005), 38));
        assert_eq!(packet.head()[16..18], [0x08, 0x00]);
        assert_eq!(packet.pop_vlan(), Some(0x2005));
        assert_eq!(packet.offload().csum_start, 34);
        assert_eq!(contents(burst.view(0)), bytes);
    }
}

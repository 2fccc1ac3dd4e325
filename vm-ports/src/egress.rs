//! From a packet to frames its receiver can take: as it is, with its checksum completed, or cut into segments.

use crate::features::Features;
use crate::memory::Source;
use crate::net_header::Offload;
use crate::offload::{self, MAX_HEADERS, OffloadError, Segmenter, Sum};
use crate::packet::View;

/// Payload is checksummed in pieces of this many bytes, which stay in the first-level cache between summing and copying.
const PIECE: usize = 2048;

/// Where frames are written to: a guest's receive buffers, mbufs.
pub trait FrameSink {
    /// Why there is no room.
    type Error: From<OffloadError>;

    /// Begins a frame of `len` bytes that still needs `offload` done. What was begun before is complete.
    fn begin(&mut self, len: usize, offload: &Offload) -> Result<(), Self::Error>;

    /// Writes a part of the frame begun last, all of it inside that frame's length.
    fn write(&mut self, offset: usize, from: Source<'_>);
}

/// Writes `view` to `sink` for a receiver that takes what the `GUEST_*` bits of `accepts` say. An error may leave frames begun: the caller
/// takes all of them back, so that a receiver never sees half a packet.
#[inline]
pub fn deliver<S: FrameSink>(view: View<'_>, accepts: Features, sink: &mut S) -> Result<(), S::Error> {
    let packet = view.packet();
    let offload = packet.offload();
    if offload.accepted_by(accepts) {
        sink.begin(packet.len(), offload)?;
        sink.write(0, Source::from(packet.head()));
        let mut offset = packet.head().len();
        for part in view.tail() {
            sink.write(offset, *part);
            offset += part.len();
        }
        Ok(())
    } else if let Some(gso) = offload.segmentation() {
        segment(view, &gso, accepts, sink)
    } else {
        checksum(view, sink)
    }
}

/// One frame, its checksum completed. The sum is over the bytes that are written, read once.
fn checksum<S: FrameSink>(view: View<'_>, sink: &mut S) -> Result<(), S::Error> {
    let packet = view.packet();
    let offload = packet.offload();
    sink.begin(packet.len(), &Offload::NONE)?;
    let head = packet.head();
    let mut local = [0; MAX_HEADERS + 4];
    let local = &mut local[..head.len()];
    local.copy_from_slice(head);
    let mut sum = Sum::new();
    copy_summed(view, head.len(), packet.len() - head.len(), head.len(), &mut sum, sink);
    offload::finish_checksum(local, offload.csum_start, offload.csum_offset, sum)?;
    sink.write(0, Source::from(&*local));
    Ok(())
}

/// TCP segments, each with headers of its own.
fn segment<S: FrameSink>(view: View<'_>, gso: &offload::Gso, accepts: Features, sink: &mut S) -> Result<(), S::Error> {
    let packet = view.packet();
    let segmenter = Segmenter::new(packet.head(), packet.len(), gso)?;
    let mut header = [0; MAX_HEADERS];
    for index in 0..segmenter.segments() {
        let Some(segment) = segmenter.segment(index, &mut header) else { break };
        let (start, len, header_len) = (segment.payload_start, segment.payload_len, segment.header_len);
        if accepts.has(Features::GUEST_CSUM) {
            let (csum_start, csum_offset) = segment.finish_partial(&mut header);
            let offload = Offload { needs_csum: true, csum_start, csum_offset, ..Offload::NONE };
            sink.begin(header_len + len, &offload)?;
            let mut at = header_len;
            parts(view, start, len, |part| {
                sink.write(at, part);
                at += part.len();
            });
        } else {
            sink.begin(header_len + len, &Offload::NONE)?;
            let mut sum = Sum::new();
            copy_summed(view, start, len, header_len, &mut sum, sink);
            segment.finish(&mut header, sum);
        }
        sink.write(0, Source::from(&header[..header_len]));
    }
    Ok(())
}

/// Copies `len` bytes of the packet from `start` on to `to` in the frame, and sums what was copied.
fn copy_summed<S: FrameSink>(view: View<'_>, start: usize, len: usize, to: usize, sum: &mut Sum, sink: &mut S) {
    let mut piece = [0; PIECE];
    let mut at = to;
    parts(view, start, len, |mut part| {
        while !part.is_empty() {
            let n = part.read(&mut piece);
            sum.add_bytes(&piece[..n]);
            sink.write(at, Source::from(&piece[..n]));
            at += n;
            part = part.suffix(n);
        }
    });
}

/// The places where `len` bytes of the packet from `start` on lie, in order.
fn parts<'b>(view: View<'b>, start: usize, len: usize, mut each: impl FnMut(Source<'b>)) {
    let head = Source::from(view.packet().head());
    let (mut skip, mut left) = (start, len);
    for part in std::iter::once(&head).chain(view.tail()) {
        let here = part.suffix(skip).prefix(left);
        skip = skip.saturating_sub(part.len());
        left -= here.len();
        if !here.is_empty() {
            each(here);
        }
        if left == 0 {
            break;
        }
    }
}

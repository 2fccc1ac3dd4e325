//! What goes round between two cores: as many short packets as fit, or a piece of a long one.
//!
//! Packets that go the same way share a chunk, and one label. Each begins on a cache line of its own, behind what is said of all of them: so a
//! burst of the shortest packets is one chunk, and each of them one line that the other CPU has to fetch.

use vm_ports::{BURST_PACKETS, Offload, Packet, Run, SHORT_MAX, View, fetch, fetch_to_write};

use super::Label;

/// Where packets begin: at multiples of what a CPU's caches hold as one, which is as much as the shortest packets are long.
const LINE: usize = SHORT_MAX;
/// Lines of a chunk: as many as a burst has packets, so that one of the shortest packets fills one. A standard frame fits, too.
const LINES: usize = BURST_PACKETS;
/// Bytes of one chunk.
pub(super) const CHUNK_BYTES: usize = LINES * LINE;

#[repr(C, align(64))]
struct Lines([[u8; LINE]; LINES]);

/// Some packets with one label, or a piece of a longer packet. What is said of the packets comes first, so that it shares a line.
#[repr(C)]
pub(super) struct Chunk {
    /// None where the packet began in a chunk before this one.
    pub(super) label: Option<Label>,
    /// What is to be done to each of the packets.
    pub(super) offload: Offload,
    /// Packets that begin here.
    count: u8,
    /// Lines that are in use.
    used: u8,
    /// Whether there is one packet, which goes on in the next chunk.
    pub(super) more: bool,
    lens: [u16; BURST_PACKETS],
    lines: Lines,
}

impl Chunk {
    pub(super) fn boxed() -> Box<Self> {
        Box::new(Self {
            label: None,
            offload: Offload::NONE,
            count: 0,
            used: 0,
            more: false,
            lens: [0; BURST_PACKETS],
            lines: Lines([[0; LINE]; LINES]),
        })
    }

    /// Becomes the `piece`-th chunk of this packet.
    #[inline]
    pub(super) fn begin(&mut self, view: View<'_>, label: &Label, piece: usize) {
        let bytes = self.lines.0.as_flattened_mut();
        let len = view.packet().len().saturating_sub(piece * CHUNK_BYTES).min(CHUNK_BYTES);
        fetch_to_write(&mut bytes[..len]);
        let (copied, label) = match piece {
            0 => (view.read(bytes), Some(*label)),
            _ => (view.copy_to(piece * CHUNK_BYTES, bytes), None),
        };
        self.count = u8::from(label.is_some());
        self.label = label;
        self.offload = view.packet().offload().essence();
        self.used = lines(copied) as u8;
        self.more = piece * CHUNK_BYTES + copied < view.packet().len();
        self.lens[0] = copied as u16;
    }

    /// Takes as many of these packets, from the first on, as have the label and the metadata of those that are in it and find room. How many.
    #[inline]
    pub(super) fn append(&mut self, run: Run<'_>, label: &Label) -> usize {
        let fits = |packet: &Packet| usize::from(self.used) + lines(packet.len()) <= LINES;
        if !run.packets().first().is_some_and(fits) || self.more || self.label.as_ref() != Some(label) {
            return 0;
        }
        let short = if self.offload == Offload::NONE { self.append_short(run.packets()) } else { 0 };
        short + run.after(short).views().take_while(|view| self.append_one(*view)).count()
    }

    /// The same for packets of a line, up to the first that is another.
    #[inline]
    fn append_short(&mut self, packets: &[Packet]) -> usize {
        let (count, used) = (usize::from(self.count), usize::from(self.used));
        let (Some(lens), Some(lines)) = (self.lens.get_mut(count..), self.lines.0.get_mut(used..)) else { return 0 };
        let mut appended = 0;
        for ((packet, line), len) in packets.iter().zip(lines).zip(lens) {
            let Some(short) = packet.short() else { break };
            *line = *short;
            *len = packet.len() as u16;
            appended += 1;
        }
        self.count += appended;
        self.used += appended;
        appended.into()
    }

    #[inline]
    fn append_one(&mut self, view: View<'_>) -> bool {
        let (used, packet) = (usize::from(self.used), view.packet());
        let after = used + lines(packet.len());
        let (Some(lines), Some(len)) = (self.lines.0.get_mut(used..after), self.lens.get_mut(usize::from(self.count)))
        else {
            return false;
        };
        if packet.offload().essence() != self.offload {
            return false;
        }
        *len = view.read(lines.as_flattened_mut()) as u16;
        self.used = after as u8;
        self.count += 1;
        true
    }

    /// How many packets begin here.
    #[inline]
    pub(super) fn packets(&self) -> usize {
        self.count.into()
    }

    /// Their bytes, where none has more than a line.
    #[inline]
    pub(super) fn short_frames(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let frames = self.lens.iter().zip(&self.lines.0).map(|(len, line)| &line[..usize::from(*len).min(LINE)]);
        (self.used == self.count).then(|| frames.take(self.count.into()))
    }

    /// Their bytes.
    #[inline]
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.lines.0.as_slice();
        self.lens.iter().take(self.count.into()).map(move |len| {
            let (frame, after) = rest.split_at_checked(lines((*len).into())).unwrap_or_default();
            rest = after;
            &frame.as_flattened()[..usize::from(*len)]
        })
    }

    /// Has the CPU fetch all packets at once.
    #[inline]
    pub(super) fn fetch(&self) {
        fetch(self.lines.0[..usize::from(self.used).min(LINES)].as_flattened());
    }

    /// The bytes of the only packet.
    #[inline]
    pub(super) fn only(&self) -> Option<&[u8]> {
        (self.count == 1).then(|| self.piece())
    }

    /// The bytes of a piece.
    #[inline]
    pub(super) fn piece(&self) -> &[u8] {
        &self.lines.0.as_flattened()[..usize::from(self.lens[0])]
    }

    /// Keeps these packets only, as if no other had been in it.
    #[cold]
    pub(super) fn keep(&mut self, is_kept: impl Fn(usize) -> bool) {
        let (mut kept, mut used, mut from) = (0, 0, 0);
        for nth in 0..usize::from(self.count) {
            let len = self.lens[nth];
            let end = from + lines(len.into());
            if is_kept(nth) {
                self.lines.0.copy_within(from..end, used);
                self.lens[kept] = len;
                kept += 1;
                used += end - from;
            }
            from = end;
        }
        (self.count, self.used) = (kept as u8, used as u8);
    }
}

/// Lines of so many bytes.
#[inline]
fn lines(len: usize) -> usize {
    len.div_ceil(LINE)
}

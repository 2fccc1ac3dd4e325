//! From one I/O core to another: an arena of fixed chunks that go round between the two, full one way and empty the other.
//!
//! The sending core copies packets into chunks and is done with them; no guest pointer crosses. A chunk comes back when its
//! packets have been delivered. When none is left the packet is dropped and counted: no core ever waits for another.
//!
//! While a queue pair moves, what comes for it to its new core is *parked* there until the pair has arrived: the chunks wait beside the ring,
//! in their order, and what is behind them goes on. A core has a ring to itself too, for what it forwards to such a queue pair.

mod chunk;

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use vm_ports::{BURST_BYTES, BURST_PACKETS, Burst, FRAME_MAX, Run, View};

use self::chunk::{CHUNK_BYTES, Chunk};
use super::accounting::SourceId;
use super::handover::{Progress, TableVersion};
use super::mailbox::Handed;
use super::waiting::{Change, Waiting};
use crate::forwarding::{Ingress, LearnMessage, PortId};

/// Chunks between all pairs of cores together, about.
const CHUNKS_TOTAL: usize = 16 << 10;
/// Chunks between two cores, at the least (two of the largest packets) and at the most.
const CHUNKS_MIN: usize = 2 * FRAME_MAX.div_ceil(CHUNK_BYTES);
const CHUNKS_MAX: usize = 2048;
/// Chunks between an I/O thread of a guest and another core, at the most, and all of these together, about, in a switch of as many cores as
/// there are then. Where most cores are such threads all of them together have more, up to 900 MiB for 63 of them: each was made for those before it.
const TRAP_CHUNKS_MAX: usize = 256;
const TRAP_CHUNKS_TOTAL: usize = 128 << 10;
/// Learn messages that can be under way between two cores.
const LEARN_MESSAGES: usize = 1024;

/// What a handed-over packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// One port.
    Deliver(PortId),
    /// Every port of its VLAN that the receiving core is to serve: so many, as the sending core sees it.
    Flood { copies: u16 },
    /// One port, of all those that a flood goes to.
    Copy(PortId),
}

/// Everything about a packet but its bytes and what is to be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) errand: Errand,
    pub(super) source: SourceId,
    /// Where it came in.
    pub(super) port: PortId,
    /// When it was first seen, in cycles.
    pub(super) since: u64,
    /// The port table it was sent by.
    pub(super) table: TableVersion,
    pub(super) ingress: Ingress,
}

impl Label {
    /// Whether the packet takes the same way and is charged alike.
    #[inline]
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        self.errand == other.errand
            && self.source == other.source
            && self.ingress == other.ingress
            && self.table == other.table
    }
}

/// Packets of a burst with one label.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    pub(super) label: &'a Label,
    /// How many: one at least.
    pub(super) packets: usize,
}

/// The groups of a burst, in its order.
pub(super) type Groups<'a> = ArrayVec<Group<'a>, BURST_PACKETS>;

/// The sending end towards one core. Chunks are boxed because it is their pointers that go round.
#[allow(clippy::vec_box, reason = "a chunk keeps its place in memory for good; only its pointer moves")]
pub(super) struct ToCore {
    /// Chunks at hand.
    empty: Vec<Box<Chunk>>,
    /// Filled, to be shown to the other core at the end of the burst.
    filled: Vec<Box<Chunk>>,
    full_ring: HeapProd<Box<Chunk>>,
    empty_ring: HeapCons<Box<Chunk>>,
    /// Chunks that the other core was shown, ever.
    sent: u64,
    learn: HeapProd<LearnMessage>,
    pairs: HeapProd<Box<Handed>>,
}

/// The receiving end from one core.
pub(super) struct FromCore {
    full_ring: HeapCons<Box<Chunk>>,
    empty_ring: HeapProd<Box<Chunk>>,
    /// Chunks that were delivered or parked, ever.
    delivered: u64,
    /// Its mark, in chunks, and how many had been delivered when that was looked at last.
    waiting: Waiting,
    looked_at: u64,
    /// What waits for a queue pair.
    parked: VecDeque<Box<Chunk>>,
    learn: HeapCons<LearnMessage>,
    pairs: HeapCons<Box<Handed>>,
}

/// Connects two cores that come and go while others run, the `cores`-th being the last one.
pub(super) fn late_channel(cores: usize) -> (ToCore, FromCore) {
    channel_of((TRAP_CHUNKS_TOTAL / (cores * cores).max(1)).clamp(CHUNKS_MIN, TRAP_CHUNKS_MAX))
}

/// Connects one core to another, for `cores` cores in all.
fn channel(cores: usize) -> (ToCore, FromCore) {
    channel_of((CHUNKS_TOTAL / (cores * cores).max(1)).clamp(CHUNKS_MIN, CHUNKS_MAX))
}

fn channel_of(chunks: usize) -> (ToCore, FromCore) {
    let (full_in, full_out) = HeapRb::new(chunks).split();
    let (empty_in, empty_out) = HeapRb::new(chunks).split();
    let (learn_in, learn_out) = HeapRb::new(LEARN_MESSAGES).split();
    // One move is under way at a time.
    let (pairs_in, pairs_out) = HeapRb::new(1).split();
    let to = ToCore {
        empty: (0..chunks).map(|_| Chunk::boxed()).collect(),
        filled: Vec::with_capacity(chunks),
        full_ring: full_in,
        empty_ring: empty_out,
        sent: 0,
        learn: learn_in,
        pairs: pairs_in,
    };
    let from = FromCore {
        full_ring: full_out,
        empty_ring: empty_in,
        delivered: 0,
        waiting: Waiting::default(),
        looked_at: 0,
        parked: VecDeque::with_capacity(chunks),
        learn: learn_out,
        pairs: pairs_out,
    };
    (to, from)
}

/// A core's ends of the rings to and from every core, indexed by core. The only core of a switch has no ring to itself.
pub(super) struct Links {
    pub(super) to: Vec<Option<ToCore>>,
    pub(super) from: Vec<Option<FromCore>>,
    /// How far all of them have been emptied.
    pub(super) progress: Arc<Progress>,
}

impl Links {
    /// None yet.
    pub(super) fn none(progress: &Arc<Progress>) -> Self {
        let most = config::MAX_IO_CORES;
        Self { to: (0..most).map(|_| None).collect(), from: Vec::with_capacity(most), progress: Arc::clone(progress) }
    }

    /// The end from a core.
    pub(super) fn set_from(&mut self, core: usize, from: FromCore) {
        set_from(&mut self.from, core, from);
    }
}

/// Puts the end from a core into a list that has room for all there can be.
pub(super) fn set_from(list: &mut Vec<Option<FromCore>>, core: usize, from: FromCore) {
    while list.len() <= core {
        list.push(None);
    }
    list[core] = Some(from);
}

/// The links of `cores` cores, and how far they have been emptied.
pub(super) fn connect(cores: usize) -> (Vec<Links>, Arc<Progress>) {
    let progress = Arc::new(Progress::new(cores, config::MAX_IO_CORES));
    let mut links: Vec<Links> = (0..cores).map(|_| Links::none(&progress)).collect();
    for a in 0..cores {
        for b in (0..cores).filter(|_| cores > 1) {
            let (to, from) = channel(cores);
            links[a].to[b] = Some(to);
            links[b].set_from(a, from);
        }
    }
    (links, progress)
}

impl ToCore {
    /// Copies packets that go the same way for the other core, which sees them after [`ToCore::flush`]. Returns for how many there was room.
    #[inline]
    pub(super) fn push_run(&mut self, run: Run<'_>, label: &Label) -> usize {
        let (mut rest, mut pushed) = (run, 0);
        loop {
            let appended = self.filled.last_mut().map_or(0, |chunk| chunk.append(rest, label));
            pushed += appended;
            rest = rest.after(appended);
            let Some(view) = rest.views().next() else { return pushed };
            pushed += usize::from(self.push(view, label));
            rest = rest.after(1);
        }
    }

    /// Copies a packet into chunks that nothing is in. False, and nothing done, where there are too few.
    #[inline]
    fn push(&mut self, view: View<'_>, label: &Label) -> bool {
        let needed = chunks(view.packet().len());
        if self.filled.is_empty() || self.empty.len() < needed {
            // At the beginning of each burst, so that the chunks used last are used next: few of them go round, and stay in the caches.
            self.empty.extend(self.empty_ring.pop_iter());
            if self.empty.len() < needed {
                return false;
            }
        }
        for piece in 0..needed {
            let Some(mut chunk) = self.empty.pop() else { return false };
            chunk.begin(view, label, piece);
            self.filled.push(chunk);
        }
        true
    }

    /// Whether there is room for a packet of `len` bytes.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.empty.len() + self.empty_ring.occupied_len() >= chunks(len)
    }

    /// Shows the other core all that was pushed, with one publication.
    #[inline]
    pub(super) fn flush(&mut self) {
        if !self.filled.is_empty() {
            self.sent += self.filled.len() as u64;
            // The ring holds as many chunks as there are, so all of them fit.
            self.full_ring.push_iter(self.filled.drain(..));
        }
    }

    /// Where the ring stands: chunks that the other core was shown, ever.
    pub(super) fn place(&self) -> u64 {
        self.sent
    }

    /// Sends a queue pair. It comes back where there is no room, which is where another one is under way.
    pub(super) fn hand(&mut self, pair: Box<Handed>) -> Result<(), Box<Handed>> {
        self.pairs.try_push(pair)
    }

    /// Tells the other core of a station. False where the ring is full.
    pub(super) fn tell(&mut self, message: LearnMessage) -> bool {
        self.learn.try_push(message).is_ok()
    }
}

impl FromCore {
    /// The next learn message.
    #[inline]
    pub(super) fn next_learnt(&mut self) -> Option<LearnMessage> {
        self.learn.try_pop()
    }

    /// Whether anything waits: packets, stations or a queue pair.
    pub(super) fn has_anything(&self) -> bool {
        self.has_work() || !self.learn.is_empty() || !self.pairs.is_empty()
    }

    /// Whether packets are waiting.
    #[inline]
    pub(super) fn has_work(&self) -> bool {
        !self.full_ring.is_empty()
    }

    /// A queue pair that the other core gave up.
    pub(super) fn next_pair(&mut self) -> Option<Box<Handed>> {
        self.pairs.try_pop()
    }

    /// Makes a burst of what is waiting. Returns of how many chunks, for [`FromCore::release`].
    pub(super) fn pull<'a>(&'a self, burst: &mut Burst<'a>, groups: &mut Groups<'a>) -> usize {
        let (first, second) = self.full_ring.as_slices();
        gather(first.iter().chain(second), burst, groups)
    }

    /// Sends chunks back whose packets have been delivered. Returns the ring's place: chunks delivered or parked, ever.
    pub(super) fn release(&mut self, chunks: usize) -> u64 {
        let Self { full_ring, empty_ring, .. } = self;
        empty_ring.push_iter(full_ring.pop_iter().take(chunks));
        self.delivered += chunks as u64;
        self.delivered
    }

    /// The same, but for packets that are to be parked: their numbers in the burst, rising, and what they are for.
    pub(super) fn release_or_park(&mut self, chunks: usize, parked: &[(usize, Errand)]) -> u64 {
        let mut parked = parked.iter().peekable();
        let (mut first, mut parks) = (0, false);
        for mut chunk in self.full_ring.pop_iter().take(chunks) {
            // A piece that goes on with a packet goes where the packet went.
            let end = first + chunk.packets();
            if let Some(label) = &mut chunk.label {
                let mut kept = 0u32;
                while let Some((index, errand)) = parked.next_if(|(index, _)| *index < end) {
                    kept |= 1 << (index - first);
                    label.errand = *errand;
                }
                parks = kept != 0;
                if parks {
                    chunk.keep(|nth| kept & 1 << nth != 0);
                }
                first = end;
            }
            if parks {
                self.parked.push_back(chunk);
            } else {
                // There is a place for every chunk.
                let _ = self.empty_ring.try_push(chunk);
            }
        }
        self.delivered += chunks as u64;
        self.delivered
    }

    /// What is left at the time `now`, after a burst: whether that changed the mark, and how.
    #[inline]
    pub(super) fn look_at_rest(&mut self, now: u64) -> Option<Change> {
        let Self { full_ring, waiting, delivered, looked_at, .. } = self;
        let pulled = *delivered - std::mem::replace(looked_at, *delivered);
        waiting.pulled(pulled as usize, || full_ring.occupied_len() as u16, now)
    }

    /// When its mark was set, if there is one.
    pub(super) fn waits_since(&self) -> Option<u64> {
        self.waiting.since()
    }

    /// The same as [`FromCore::pull`], of what was parked; [`FromCore::release_parked`] comes next.
    pub(super) fn pull_parked<'a>(&'a self, burst: &mut Burst<'a>, groups: &mut Groups<'a>) -> usize {
        gather(self.parked.iter(), burst, groups)
    }

    /// Sends parked chunks back.
    pub(super) fn release_parked(&mut self, chunks: usize) {
        self.empty_ring.push_iter(self.parked.drain(..chunks));
    }
}

/// Chunks of a packet of `len` bytes.
#[inline]
fn chunks(len: usize) -> usize {
    len.div_ceil(CHUNK_BYTES)
}

/// Makes a burst of whole chunks, with their labels; returns of how many. One chunk at least fits into a burst of [`BURST_PACKETS`].
#[inline]
fn gather<'a>(
    mut waiting: impl Iterator<Item = &'a Box<Chunk>>,
    burst: &mut Burst<'a>,
    groups: &mut Groups<'a>,
) -> usize {
    let mut taken = 0;
    while burst.has_room() && !groups.is_full() {
        let Some(chunk) = waiting.next() else { break };
        let before = burst.len();
        let chunks = if chunk.more {
            push_pieces(chunk, &mut waiting, burst)
        } else {
            if chunk.packets() <= burst.most() - before && burst.bytes() <= BURST_BYTES - CHUNK_BYTES {
                push_chunk(chunk, burst);
            }
            1
        };
        let packets = burst.len() - before;
        if packets == 0 && !groups.is_empty() {
            // There is room in the next burst.
            break;
        }
        if packets > 0
            && let Some(label) = &chunk.label
        {
            groups.push(Group { label, packets });
        }
        // What was pushed were packets, so they are here, too. If they were not, they would not have to stay for that.
        taken += chunks;
    }
    taken
}

/// Appends the packets of a chunk.
#[inline]
fn push_chunk<'a>(chunk: &'a Chunk, burst: &mut Burst<'a>) {
    if let Some(only) = chunk.only() {
        burst.push_frame([only], chunk.offload);
        return;
    }
    chunk.fetch();
    match chunk.short_frames() {
        Some(frames) => burst.push_frames(frames, chunk.offload),
        None => burst.push_frames(chunk.frames(), chunk.offload),
    };
}

/// Appends a packet that is in several chunks. Returns in how many.
fn push_pieces<'a>(
    first: &'a Chunk,
    others: &mut impl Iterator<Item = &'a Box<Chunk>>,
    burst: &mut Burst<'a>,
) -> usize {
    let mut parts = ArrayVec::<&'a [u8], { FRAME_MAX.div_ceil(CHUNK_BYTES) }>::new();
    let mut chunk = first;
    while parts.try_push(chunk.piece()).is_ok() && chunk.more {
        // Packets are shown whole, so the rest is there.
        let Some(next) = others.next() else { break };
        chunk = next;
    }
    let pieces = parts.len();
    burst.push_frame(parts, first.offload);
    pieces
}

#[cfg(test)]
mod tests;

//! From one I/O core to another: an arena of fixed chunks that go round between the two, full one way and empty the other.
//!
//! The sending core copies a packet into chunks and is done with it; no guest pointer crosses. The chunks come back when the
//! packet has been delivered. When none is left the packet is dropped and counted: no core ever waits for another.
//!
//! While a queue pair moves, what comes for it to its new core is *parked* there until the pair has arrived: the chunks wait beside the ring,
//! in their order, and what is behind them goes on. A core has a ring to itself too, for what it forwards to such a queue pair.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use vm_ports::{BURST_PACKETS, Burst, FRAME_MAX, Offload, View};

use super::accounting::SourceId;
use super::handover::{Progress, TableVersion};
use super::mailbox::Handed;
use crate::forwarding::{Ingress, LearnMessage, PortId};

/// Bytes of one chunk: a standard frame fits into one.
const CHUNK_BYTES: usize = 2048;
/// Chunks between all pairs of cores together, about.
const CHUNKS_TOTAL: usize = 16 << 10;
/// Chunks between two cores, at the least (two of the largest packets) and at the most.
const CHUNKS_MIN: usize = 2 * FRAME_MAX.div_ceil(CHUNK_BYTES);
const CHUNKS_MAX: usize = 2048;
/// Chunks between an I/O thread of a guest and another core, at the most, and all of these together, about, in a switch of as many cores as
/// there are then. Where most cores are such threads all of them together have more, up to 850 MiB for 63 of them: each was made for those before it.
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

/// Everything about a packet but its bytes.
#[derive(Clone, Copy, Debug)]
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
    pub(super) offload: Offload,
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

/// A piece of a packet. The label of its first piece is the packet's.
struct Chunk {
    label: Option<Label>,
    /// Whether the packet ends here.
    last: bool,
    len: u16,
    bytes: [u8; CHUNK_BYTES],
}

impl Chunk {
    fn boxed() -> Box<Self> {
        Box::new(Self { label: None, last: true, len: 0, bytes: [0; CHUNK_BYTES] })
    }
}

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
    /// Copies a packet for the other core, which sees it after [`ToCore::flush`]. False, and nothing done, where there is no room.
    pub(super) fn push(&mut self, view: View<'_>, label: Label) -> bool {
        let len = view.packet().len();
        let needed = chunks(len);
        if self.filled.is_empty() || self.empty.len() < needed {
            // At the beginning of each burst, so that the chunks used last are used next: few of them go round, and stay in the caches.
            self.empty.extend(self.empty_ring.pop_iter());
            if self.empty.len() < needed {
                return false;
            }
        }
        for piece in 0..needed {
            let Some(mut chunk) = self.empty.pop() else { return false };
            let copied = match piece {
                0 => view.read(&mut chunk.bytes),
                _ => view.copy_to(piece * CHUNK_BYTES, &mut chunk.bytes),
            };
            chunk.len = copied as u16;
            chunk.last = piece + 1 == needed;
            chunk.label = (piece == 0).then_some(label);
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

    /// Makes a burst of what is waiting. Returns how many chunks it is in, for [`FromCore::release`].
    pub(super) fn pull<'a>(&'a self, burst: &mut Burst<'a>, labels: &mut ArrayVec<Label, BURST_PACKETS>) -> usize {
        let (first, second) = self.full_ring.as_slices();
        gather(first.iter().chain(second), burst, labels)
    }

    /// Sends the first `chunks` chunks back: their packets have been delivered. Returns the ring's place: chunks delivered or parked, ever.
    pub(super) fn release(&mut self, chunks: usize) -> u64 {
        let Self { full_ring, empty_ring, .. } = self;
        empty_ring.push_iter(full_ring.pop_iter().take(chunks));
        self.delivered += chunks as u64;
        self.delivered
    }

    /// The same, but for packets that are to be parked: their numbers in the burst, rising, and what they are for.
    pub(super) fn release_or_park(&mut self, chunks: usize, parked: &[(usize, Errand)]) -> u64 {
        let mut parked = parked.iter().peekable();
        let mut packet = 0;
        for mut chunk in self.full_ring.pop_iter().take(chunks) {
            let last = chunk.last;
            match parked.peek().filter(|(index, _)| *index == packet) {
                Some((_, errand)) => {
                    if let Some(label) = &mut chunk.label {
                        label.errand = *errand;
                    }
                    self.parked.push_back(chunk);
                    parked.next_if(|_| last);
                }
                None => {
                    // There is a place for every chunk.
                    let _ = self.empty_ring.try_push(chunk);
                }
            }
            packet += usize::from(last);
        }
        self.delivered += chunks as u64;
        self.delivered
    }

    /// The same as [`FromCore::pull`], of what was parked; [`FromCore::release_parked`] comes next.
    pub(super) fn pull_parked<'a>(
        &'a self,
        burst: &mut Burst<'a>,
        labels: &mut ArrayVec<Label, BURST_PACKETS>,
    ) -> usize {
        gather(self.parked.iter(), burst, labels)
    }

    /// Sends the first `chunks` parked chunks back.
    pub(super) fn release_parked(&mut self, chunks: usize) {
        self.empty_ring.push_iter(self.parked.drain(..chunks));
    }
}

/// Chunks of a packet of `len` bytes.
#[inline]
fn chunks(len: usize) -> usize {
    len.div_ceil(CHUNK_BYTES)
}

/// Makes a burst of whole packets, with their labels; returns in how many chunks they are.
fn gather<'a>(
    mut waiting: impl Iterator<Item = &'a Box<Chunk>>,
    burst: &mut Burst<'a>,
    labels: &mut ArrayVec<Label, BURST_PACKETS>,
) -> usize {
    let mut consumed = 0;
    while burst.has_room() && !labels.is_full() {
        let mut parts = ArrayVec::<&'a [u8], { FRAME_MAX.div_ceil(CHUNK_BYTES) }>::new();
        let mut label = None;
        let mut complete = false;
        for chunk in waiting.by_ref() {
            label = label.or(chunk.label);
            if parts.try_push(&chunk.bytes[..usize::from(chunk.len)]).is_err() {
                break;
            }
            if chunk.last {
                complete = true;
                break;
            }
        }
        // Packets are published whole, so an incomplete one is the end of what is there.
        let (true, Some(label)) = (complete, label) else { break };
        let pieces = parts.len();
        let taken = burst.push_frame(parts, label.offload);
        if taken {
            labels.push(label);
        } else if !labels.is_empty() {
            break;
        }
        // What was pushed was a packet, so it is one here, too. If it were not, it would not have to stay for that.
        consumed += pieces;
        if !taken {
            break;
        }
    }
    consumed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forwarding::{PortVlans, VlanId};
    use vm_ports::BurstBuffer;

    fn label() -> Label {
        let vlans = PortVlans::access(VlanId::DEFAULT);
        Label {
            since: 0,
            errand: Errand::Deliver(PortId(1)),
            source: SourceId(0),
            port: PortId(0),
            table: 0,
            ingress: vlans.ingress(None).expect("untagged is let in"),
            offload: Offload::NONE,
        }
    }

    fn send(to: &mut ToCore, frame: &[u8]) -> bool {
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        assert!(burst.push_frame([frame], Offload::NONE));
        to.push(burst.view(0), label())
    }

    fn receive(from: &mut FromCore) -> Vec<Vec<u8>> {
        let mut buffer = BurstBuffer::default();
        let mut burst = Burst::new(&mut buffer);
        let mut labels = ArrayVec::new();
        let chunks = from.pull(&mut burst, &mut labels);
        assert_eq!(labels.len(), burst.len());
        let frames = (0..burst.len())
            .map(|i| {
                let mut bytes = vec![0; burst.view(i).packet().len()];
                burst.view(i).copy_to(0, &mut bytes);
                bytes
            })
            .collect();
        drop(burst);
        from.release(chunks);
        frames
    }

    #[test]
    fn packets_of_every_size_arrive_whole_and_in_order() {
        let (mut to, mut from) = channel(2);
        for len in [14, 64, 2047, 2048, 2049, 9000, 65_535, FRAME_MAX] {
            let frame: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            assert!(send(&mut to, &frame));
            assert!(!from.has_work(), "nothing is shown before the flush");
            to.flush();
            assert_eq!(receive(&mut from), [frame]);
        }
    }

    #[test]
    fn a_full_arena_refuses_and_recovers_without_losing_a_chunk() {
        let (mut to, mut from) = channel(2);
        for round in 0..3 {
            let mut sent = 0;
            while send(&mut to, &[round; 64]) {
                sent += 1;
            }
            assert_eq!(sent, CHUNKS_MAX, "round {round}");
            to.flush();
            let mut received = 0;
            while from.has_work() {
                received += receive(&mut from).len();
            }
            assert_eq!(received, sent);
        }
    }

    #[test]
    fn a_burst_takes_no_more_than_its_room() {
        let (mut to, mut from) = channel(2);
        for _ in 0..BURST_PACKETS + 5 {
            assert!(send(&mut to, &[1; 60]));
        }
        to.flush();
        assert_eq!(receive(&mut from).len(), BURST_PACKETS);
        assert_eq!(receive(&mut from).len(), 5);
        assert_eq!(receive(&mut from).len(), 0);
    }
}

//! What one transmit queue sends: a fixed round of frames, prefilled in the buffers.

use synthetic_guest::packet::{FrameSpec, Template};
use synthetic_guest::{ShortStamp, TxQueue};

use crate::clock::Clock;
use crate::options::Verify;
use crate::pacing::{Pace, Pacer};
use crate::plan::Flow;
use crate::receiver::Receiver;

/// No frame is as many as that: the buffer holds something else.
const NOTHING: u32 = u32::MAX;

/// A frame of the round.
struct Kind {
    template: Template,
    /// Place among the sender's flows.
    flow: usize,
    len: usize,
}

/// A flow under way.
struct Stream {
    id: u16,
    to: Option<usize>,
    key: u64,
    next: u64,
}

/// Sends on one queue pair of one guest.
pub(crate) struct Sender {
    /// The guest.
    pub(crate) guest: usize,
    /// Its queue pair.
    pub(crate) pair: usize,
    kinds: Vec<Kind>,
    cursor: usize,
    streams: Vec<Stream>,
    /// Which kind each buffer holds: in a steady round it is always the one that is due, and nothing is written but the
    /// stamp.
    filled: Vec<u32>,
    stamp_at: usize,
    verify: Verify,
    pacer: Pacer,
    burst: usize,
    least: usize,
    sent: u64,
    bytes: u64,
}

impl Sender {
    /// A sender of `flows`, all of the same guest and queue pair, each in all of the lengths.
    pub(crate) fn new(flows: &[&Flow], lens: &[usize], tx: &TxQueue, verify: Verify, burst: usize) -> Self {
        let kind = |n: usize| {
            let flow = n % flows.len();
            let template =
                Template::new(FrameSpec { len: lens[n / flows.len() % lens.len()], ..flows[flow].frame });
            Kind { len: template.bytes().len(), template, flow }
        };
        let kinds: Vec<Kind> = (0..round_len(flows.len(), lens)).map(kind).collect();
        let stream = |f: &&Flow| Stream { id: f.id, to: f.to, key: f.key(), next: 0 };
        // With a quarter of the buffers on their way at least, the switch never waits for a burst to become full.
        let burst = burst.min((tx.buffers() as usize / 4).max(1));
        Sender {
            guest: flows[0].from,
            pair: flows[0].pair,
            stamp_at: kinds[0].template.stamp_at(),
            kinds,
            cursor: 0,
            streams: flows.iter().map(stream).collect(),
            filled: vec![NOTHING; tx.buffers() as usize],
            verify,
            pacer: Pacer::Full,
            burst,
            least: burst,
            sent: 0,
            bytes: 0,
        }
    }

    /// Starts the pace anew.
    pub(crate) fn set_pace(&mut self, pace: Pace, clock: &Clock) {
        self.pacer = Pacer::new(pace, clock);
        self.least = if self.pacer.is_paced() { 1 } else { self.burst };
    }

    /// Sends what is due and what there is room for; returns the number of packets. `receivers` get to know what to
    /// expect when.
    #[inline]
    pub(crate) fn step(&mut self, tx: &mut TxQueue, receivers: &mut [Receiver], clock: &Clock, now: u64) -> usize {
        let due = self.pacer.due(now, self.burst);
        if due == 0 {
            return 0;
        }
        if tx.room() < due {
            tx.reclaim();
        }
        let count = due.min(tx.room());
        if count < self.least.min(due) {
            return 0;
        }
        if self.verify == Verify::Order {
            self.announce_probe(receivers, now);
        }
        let time_ns = if self.verify == Verify::Full { clock.ns(0, now) } else { 0 };
        let sent = tx.send_with(count, |_, slot| self.fill(slot, time_ns));
        self.pacer.sent(sent);
        self.sent += sent as u64;
        sent
    }

    /// Sends one packet of the first flow with this sequence number; `false` when there is no room.
    pub(crate) fn send_one(&mut self, tx: &mut TxQueue, sequence: u64, time_ns: u64) -> bool {
        if tx.room() == 0 {
            tx.reclaim();
        }
        if tx.room() == 0 {
            return false;
        }
        (self.cursor, self.streams[0].next) = (0, sequence);
        let sent = tx.queue_with(1, |_, slot| self.fill(slot, time_ns));
        self.sent += sent as u64;
        sent == 1
    }

    /// Writes what is due next into a buffer; returns its length.
    #[inline(always)]
    fn fill(&mut self, slot: &mut synthetic_guest::Slot<'_>, time_ns: u64) -> usize {
        let number = self.cursor;
        let kind = &self.kinds[number];
        self.cursor = if number + 1 == self.kinds.len() { 0 } else { number + 1 };
        let filled = &mut self.filled[slot.index() as usize];
        if *filled != number as u32 {
            slot.header(kind.template.offload());
            slot.write(0, kind.template.bytes());
            *filled = number as u32;
        }
        let stream = &mut self.streams[kind.flow];
        let sequence = stream.next;
        stream.next += 1;
        match self.verify {
            Verify::None => {}
            Verify::Order => {
                slot.write(self.stamp_at, &ShortStamp { flow: stream.id, sequence }.to_bytes(stream.key));
            }
            Verify::Full => slot.write(self.stamp_at, &kind.template.stamp_bytes(sequence, time_ns)),
        }
        self.bytes += kind.len as u64;
        kind.len
    }

    /// The receiver measures the time of the first packet of a burst.
    #[inline]
    fn announce_probe(&mut self, receivers: &mut [Receiver], now: u64) {
        let stream = &self.streams[self.kinds[self.cursor].flow];
        if let Some(to) = stream.to {
            receivers[to].expect(stream.id, stream.next, now);
        }
    }

    /// Packets made available.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// (receiver, flow number there, packets sent) of each flow.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (Option<usize>, u16, u64)> + '_ {
        self.streams.iter().map(|s| (s.to, s.id, s.next))
    }
}

/// Frames in the round of a sender of so many flows.
pub(crate) fn round_len(flows: usize, lens: &[usize]) -> usize {
    flows * lens.len()
}

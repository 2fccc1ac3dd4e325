//! What one transmit queue sends: a fixed round of frames, prefilled in the buffers.

use synthetic_guest::packet::{FrameSpec, Template};
use synthetic_guest::{ShortStamp, Slot, TxQueue};

use crate::clock::Clock;
use crate::options::Verify;
use crate::pacing::{Pace, Pacer};
use crate::plan::Flow;
use crate::receiver::Receiver;

/// Which frame of a round each buffer of a transmit queue holds: in a steady round it is always the one that is due, and
/// nothing is written but the stamp.
pub(crate) struct Filled {
    kinds: Vec<u32>,
    /// Kinds are numbered over all senders of the queue.
    known: u32,
}

impl Filled {
    /// Nothing is in any of so many buffers.
    pub(crate) fn new(buffers: u32) -> Self {
        Filled { kinds: vec![u32::MAX; buffers as usize], known: 0 }
    }

    /// Has a buffer hold the frame of this kind, but for the stamp.
    #[inline(always)]
    fn hold(&mut self, slot: &mut Slot<'_>, kind: u32, template: &Template) {
        let holds = &mut self.kinds[slot.index() as usize];
        if *holds != kind {
            slot.header(template.offload());
            slot.write(0, template.bytes());
            *holds = kind;
        }
    }
}

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
    /// Number of the first kind among those of all senders of the queue.
    first_kind: u32,
    stamp_at: usize,
    verify: Verify,
    pacer: Pacer,
    credit: Option<Credit>,
    burst: usize,
    /// No more may be under way: what arrives is what it waits for.
    out_of_credit: bool,
    /// Packets that it may owe after a stall.
    backlog: usize,
    /// With a rate: packets that are sent together.
    batch: usize,
    least: usize,
    sent: u64,
}

/// How many packets may be under way at a time.
struct Credit {
    limit: u64,
    /// Packets that nobody waits for any more.
    written_off: u64,
    /// Packets that had arrived when last there was news, and when that was.
    arrived: u64,
    news: u64,
    patience: u64,
}

impl Credit {
    /// Packets that may be sent, when so many are sent and so many have arrived.
    fn left(&mut self, sent: u64, arrived: u64, now: u64) -> usize {
        let under_way = sent.saturating_sub(self.written_off).saturating_sub(arrived);
        if arrived != self.arrived || under_way < self.limit {
            (self.arrived, self.news) = (arrived, now);
        } else if now.saturating_sub(self.news) > self.patience {
            // What has not come by now is lost; without it there would be no credit any more.
            self.written_off += under_way;
            self.news = now;
            return self.limit as usize;
        }
        self.limit.saturating_sub(under_way) as usize
    }
}

impl Sender {
    /// A sender of `flows`, all of the same guest and queue pair, each in all of the lengths.
    pub(crate) fn new(flows: &[&Flow], lens: &[usize], filled: &mut Filled, verify: Verify, burst: usize) -> Self {
        let kind = |n: usize| {
            let flow = n % flows.len();
            let template = Template::new(FrameSpec { len: lens[n / flows.len() % lens.len()], ..flows[flow].frame });
            Kind { len: template.bytes().len(), template, flow }
        };
        let kinds: Vec<Kind> = (0..round_len(flows.len(), lens)).map(kind).collect();
        let stream = |f: &&Flow| Stream { id: f.id, to: f.to, key: f.key(), next: 0 };
        // With a quarter of the buffers on their way at least, the switch never waits for a burst to become full.
        let burst = burst.min((filled.kinds.len() / 4).max(1));
        let first_kind = filled.known;
        filled.known += kinds.len() as u32;
        Sender {
            guest: flows[0].from,
            pair: flows[0].pair,
            stamp_at: kinds[0].template.stamp_at(),
            kinds,
            cursor: 0,
            streams: flows.iter().map(stream).collect(),
            first_kind,
            verify,
            pacer: Pacer::Full,
            credit: None,
            out_of_credit: false,
            burst,
            backlog: burst,
            batch: 1,
            least: burst,
            sent: 0,
        }
    }

    /// Lets so many packets be under way at a time; what has not arrived after `patience` ticks without news is taken
    /// for lost. `u64::MAX`: nothing is.
    pub(crate) fn set_in_flight(&mut self, limit: usize, patience: u64) {
        self.credit = Some(Credit { limit: limit as u64, written_off: 0, arrived: 0, news: 0, patience });
    }

    /// Lets it owe so many packets after a stall, and never less than a burst.
    pub(crate) fn set_backlog(&mut self, packets: usize) {
        self.backlog = packets.max(self.burst);
    }

    /// Lets it wait, with a rate, until so many packets are due, at most a burst.
    pub(crate) fn set_batch(&mut self, packets: usize) {
        self.batch = packets.min(self.burst);
        // A look that comes a little late loses nothing.
        self.backlog = self.backlog.max(8 * self.batch);
    }

    /// Starts the pace anew.
    pub(crate) fn set_pace(&mut self, pace: Pace, clock: &Clock) {
        self.pacer = Pacer::new(pace, clock);
        self.least = if self.pacer.is_paced() { 1 } else { self.burst };
    }

    /// Has fetched what the next [`Sender::step`] is going to write, where it is known that it will.
    #[inline]
    pub(crate) fn prepare(&self, tx: &mut TxQueue) {
        if !self.pacer.is_paced() {
            tx.prepare(self.burst);
        }
    }

    /// Sends what is due and what there is room for; returns the number of packets. `receivers` get to know what to
    /// expect when.
    #[inline]
    pub(crate) fn step(
        &mut self,
        (tx, filled): (&mut TxQueue, &mut Filled),
        receivers: &mut [Receiver],
        clock: &Clock,
        now: u64,
    ) -> usize {
        let mut due = self.pacer.due(now, self.burst, self.backlog);
        if due < self.batch {
            due = 0;
        }
        if self.credit.is_some() {
            let left = self.credit_left(receivers, now);
            self.out_of_credit = left == 0;
            due = due.min(left);
        }
        if due == 0 {
            return 0;
        }
        if tx.room() < due {
            tx.reclaim();
        }
        let count = due.min(tx.room());
        if count < self.least.min(due) {
            tx.interrupts().rest();
            return 0;
        }
        if self.verify == Verify::Order {
            self.announce_probe(receivers, now);
        }
        let time_ns = if self.verify == Verify::Full { clock.ns(0, now) } else { 0 };
        let sent = match (&self.kinds[..], &mut self.streams[..], self.verify) {
            ([kind], [stream], Verify::Order) => {
                send_alike(tx, filled, count, (kind, self.first_kind), stream, self.stamp_at)
            }
            _ => tx.send_with(count, |_, slot| self.fill(slot, filled, time_ns)),
        };
        self.pacer.sent(sent);
        self.sent += sent as u64;
        sent
    }

    /// When it has something to send next, after it has sent what it could; never, where it waits for what others do.
    pub(crate) fn due_at(&self, tx: &mut TxQueue, now: u64) -> u64 {
        if self.out_of_credit || tx.interrupts().is_asleep() { u64::MAX } else { self.pacer.due_at(now) }
    }

    fn credit_left(&mut self, receivers: &[Receiver], now: u64) -> usize {
        let of = |s: &Stream| s.to.map_or(0, |to| receivers[to].received_of(s.id));
        let arrived = self.streams.iter().map(of).sum();
        self.credit.as_mut().map_or(usize::MAX, |credit| credit.left(self.sent, arrived, now))
    }

    /// Sends one packet of the first flow with this sequence number; `false` when there is no room.
    pub(crate) fn send_one(&mut self, (tx, filled): (&mut TxQueue, &mut Filled), sequence: u64, time_ns: u64) -> bool {
        if tx.room() == 0 {
            tx.reclaim();
        }
        if tx.room() == 0 {
            tx.interrupts().rest();
            return false;
        }
        (self.cursor, self.streams[0].next) = (0, sequence);
        let sent = tx.queue_with(1, |_, slot| self.fill(slot, filled, time_ns));
        self.sent += sent as u64;
        sent == 1
    }

    /// Writes what is due next into a buffer; returns its length.
    #[inline(always)]
    fn fill(&mut self, slot: &mut Slot<'_>, filled: &mut Filled, time_ns: u64) -> usize {
        let number = self.cursor;
        let kind = &self.kinds[number];
        self.cursor = if number + 1 == self.kinds.len() { 0 } else { number + 1 };
        filled.hold(slot, self.first_kind + number as u32, &kind.template);
        let stream = &mut self.streams[kind.flow];
        let sequence = stream.next;
        stream.next += 1;
        match self.verify {
            Verify::None => {}
            Verify::Order => {
                write_short_stamp(slot, self.stamp_at, ShortStamp { flow: stream.id, sequence }, stream.key)
            }
            Verify::Full => slot.write(self.stamp_at, &kind.template.stamp_bytes(sequence, time_ns)),
        }
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

/// Sends up to `count` frames of a sender that has only one, which is `kind`: nothing of the sender is looked up for each of them.
#[inline]
fn send_alike(
    tx: &mut TxQueue,
    filled: &mut Filled,
    count: usize,
    (kind, number): (&Kind, u32),
    stream: &mut Stream,
    stamp_at: usize,
) -> usize {
    let (flow, key, first) = (stream.id, stream.key, stream.next);
    let sent = tx.send_with(count, |nth, slot| {
        filled.hold(slot, number, &kind.template);
        write_short_stamp(slot, stamp_at, ShortStamp { flow, sequence: first + nth as u64 }, key);
        kind.len
    });
    stream.next += sent as u64;
    sent
}

#[inline(always)]
fn write_short_stamp(slot: &mut Slot<'_>, at: usize, stamp: ShortStamp, key: u64) {
    let (word, sum) = stamp.to_words(key);
    slot.write(at, &word.to_le_bytes());
    slot.write(at + 8, &sum.to_le_bytes());
}

/// Frames in the round of a sender of so many flows.
pub(crate) fn round_len(flows: usize, lens: &[usize]) -> usize {
    flows * lens.len()
}

#[cfg(test)]
mod tests {
    use super::Credit;

    #[test]
    fn lost_packets_are_written_off_after_a_while() {
        let mut credit = Credit { limit: 4, written_off: 0, arrived: 0, news: 0, patience: 10 };
        assert_eq!(credit.left(0, 0, 0), 4);
        assert_eq!(credit.left(3, 0, 1), 1);
        assert_eq!(credit.left(4, 0, 5), 0);
        assert_eq!(credit.left(5, 1, 8), 0);
        assert_eq!(credit.left(5, 1, 19), 4);
        assert_eq!(credit.left(9, 1, 20), 0);
        assert_eq!(credit.left(9, 3, 21), 2);
    }

    #[test]
    fn endless_patience_writes_nothing_off() {
        let mut credit = Credit { limit: 4, written_off: 0, arrived: 0, news: 0, patience: u64::MAX };
        assert_eq!(credit.left(4, 0, 5), 0);
        assert_eq!(credit.left(4, 0, u64::MAX), 0);
        assert_eq!(credit.left(4, 1, u64::MAX), 1);
    }
}

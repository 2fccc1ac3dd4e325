//! Round trips: guest 0 sends, guest 1 answers with the same sequence number, guest 0 takes the time.

use hdrhistogram::Histogram;
use synthetic_guest::QueuePair;

use crate::clock::Clock;
use crate::node::Node;
use crate::options::Options;
use crate::pacing::Pace;
use crate::receiver::{Receiver, histogram};
use crate::sender::Sender;

/// Pings that have not come back by then are lost.
const PATIENCE_S: f64 = 0.1;
/// The flow of pings among the flows to guest 1, and of answers among those to guest 0.
const PING: u16 = 0;
/// Guests that take part; further ones are neighbours, which send to each other.
pub(crate) const PINGING: usize = 2;

/// Both ends.
pub(crate) struct Pingpong {
    pinger: Sender,
    ponger: Sender,
    background: Vec<Sender>,
    window: usize,
    outstanding: usize,
    next: u64,
    /// Pings before this one are not waited for any more.
    given_up: u64,
    /// Time of sending, by sequence number modulo its length.
    sent_at: Vec<u64>,
    /// Sequence numbers to answer.
    to_answer: Vec<u64>,
    /// Packets that guest 1 received beside the pings.
    background_received: u64,
    last_progress: u64,
    patience: u64,
    round_trips: u64,
    /// Nanoseconds there and back.
    pub(crate) rtt: Histogram<u64>,
}

impl Pingpong {
    /// `background` is paced at once.
    pub(crate) fn new(
        pinger: Sender,
        ponger: Sender,
        mut background: Vec<Sender>,
        options: &Options,
        clock: &Clock,
    ) -> Self {
        let window = options.window;
        let share = options.background_pps / background.len().max(1) as f64;
        for sender in &mut background {
            sender.set_pace(Pace::Rate(share), clock);
            sender.set_batch(options.background_burst);
        }
        Pingpong {
            pinger,
            ponger,
            background,
            window,
            outstanding: 0,
            next: 0,
            given_up: 0,
            sent_at: vec![0; (4 * window).next_power_of_two()],
            // A receive ring full of pings, and as many again from a switch that duplicates them.
            to_answer: Vec::with_capacity(1 << 16),
            background_received: 0,
            last_progress: clock.now(),
            patience: clock.ticks(PATIENCE_S),
            round_trips: 0,
            rtt: histogram(),
        }
    }

    /// One round; returns the number of packets moved.
    #[inline]
    pub(crate) fn step(
        &mut self,
        nodes: &mut [Node],
        receivers: &mut [Receiver],
        clock: &Clock,
        now: u64,
        sending: bool,
    ) -> usize {
        let [left, right, ..] = nodes else { return 0 };
        let mut moved = 0;
        for QueuePair { rx, .. } in &mut left.pairs {
            moved += rx.recv_burst(64, |frame| {
                if let Some(stamp) = receivers[0].take(frame, clock, now) {
                    self.returned(stamp.sequence, clock);
                }
            });
        }
        for QueuePair { rx, .. } in &mut right.pairs {
            moved += rx.recv_burst(64, |frame| match receivers[1].take(frame, clock, now) {
                Some(stamp) if stamp.flow == PING => self.to_answer.push(stamp.sequence),
                Some(_) => self.background_received += 1,
                None => {}
            });
        }
        moved += self.answer(right, clock);
        if sending {
            moved += self.ping(left, clock, now);
            for sender in &mut self.background {
                moved += sender.step(left.tx(sender.pair), receivers, clock, now);
            }
        }
        moved
    }

    fn returned(&mut self, sequence: u64, clock: &Clock) {
        let at = sequence as usize & (self.sent_at.len() - 1);
        // An answer that is older than what its place holds now has no time any more.
        if sequence + self.sent_at.len() as u64 >= self.next {
            let now = clock.now();
            self.rtt.saturating_record(clock.ns(self.sent_at[at], now));
            self.last_progress = now;
        }
        self.round_trips += 1;
        if sequence >= self.given_up {
            self.outstanding -= 1;
        }
    }

    fn answer(&mut self, node: &mut Node, clock: &Clock) -> usize {
        if self.to_answer.is_empty() {
            return 0;
        }
        let time_ns = clock.ns(0, clock.now());
        let mut sent = 0;
        for sequence in &self.to_answer {
            if !self.ponger.send_one(node.tx(0), *sequence, time_ns) {
                break;
            }
            sent += 1;
        }
        if sent > 0 {
            node.pairs[0].tx.publish();
            self.to_answer.drain(..sent);
        }
        sent
    }

    fn ping(&mut self, node: &mut Node, clock: &Clock, now: u64) -> usize {
        if self.outstanding > 0 && now.saturating_sub(self.last_progress) > self.patience {
            (self.outstanding, self.given_up) = (0, self.next);
        }
        if self.outstanding >= self.window {
            return 0;
        }
        let mut sent = 0;
        let time = clock.now();
        if self.outstanding == 0 {
            self.last_progress = time;
        }
        while self.outstanding < self.window && self.pinger.send_one(node.tx(0), self.next, clock.ns(0, time)) {
            let at = self.next as usize & (self.sent_at.len() - 1);
            self.sent_at[at] = time;
            self.next += 1;
            self.outstanding += 1;
            sent += 1;
        }
        if sent > 0 {
            node.pairs[0].tx.publish();
        }
        sent
    }

    /// When there is something to send next, answers apart.
    pub(crate) fn due_at(&self, node: &mut Node, now: u64) -> u64 {
        let tx = &mut node.pairs[0].tx;
        let ping = if self.outstanding < self.window && !tx.interrupts().is_asleep() { now } else { u64::MAX };
        self.background.iter().map(|sender| sender.due_at(node.tx(sender.pair).0, now)).fold(ping, u64::min)
    }

    pub(crate) fn pings_sent(&self) -> u64 {
        self.next
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips
    }

    /// All senders: pings, answers, background.
    pub(crate) fn senders(&self) -> impl Iterator<Item = &Sender> {
        [&self.pinger, &self.ponger].into_iter().chain(&self.background)
    }

    /// Packets sent and received beside the pings.
    pub(crate) fn background(&self) -> (u64, u64) {
        (self.background.iter().map(Sender::sent).sum(), self.background_received)
    }
}

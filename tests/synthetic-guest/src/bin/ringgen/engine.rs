//! The loop: all guests, one thread, no allocation; where guests poll, no sleep and no other system call either, unless naps were asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use synthetic_guest::{QueuePair, Window};

use crate::calls::Calls;
use crate::clock::Clock;
use crate::live::Live;
use crate::measured::{Spent, Totals};
use crate::node::Node;
use crate::options::Workload;
use crate::pacing::Pace;
use crate::pingpong::{PINGING, Pingpong};
use crate::rates::Rates;
use crate::receiver::Receiver;
use crate::sender::Sender;

/// Most packets to take from a queue at a time.
const RECEIVE: usize = 64;
/// Most packets of neighbours that are sent or taken between two looks at the pings.
pub(crate) const NEIGHBOURS: usize = 4;
/// Guests that are called do not sleep if there is something to send within so many seconds: waking up takes as long.
const SHORT_S: f64 = 10e-6;
/// They sleep for so many seconds at most: others may set rates meanwhile.
const LONG_S: f64 = 50e-3;
/// Looks at all guests between two naps: so many bursts fill a ring (a sender's burst is a quarter of its buffers at most).
const LOOKS_A_NAP: usize = 4;

/// A switch in this thread, or none.
pub(crate) trait Backend {
    /// Moves what there is to move; returns the number of packets.
    fn step(&mut self) -> usize;
}

/// The switch is another process.
pub(crate) struct Elsewhere;

impl Backend for Elsewhere {
    #[inline(always)]
    fn step(&mut self) -> usize {
        0
    }
}

/// What the guests do beside sending and receiving.
pub(crate) enum Task {
    /// Nothing.
    Streams,
    /// They send back.
    Echo(Echoes),
    /// Guest 1 answers guest 0; the others are neighbours.
    Pingpong(Box<Pingpong>),
}

/// What was sent back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Echoes {
    received: u64,
    sent: u64,
}

/// Everything that runs.
pub(crate) struct Engine<B> {
    pub(crate) clock: Clock,
    pub(crate) nodes: Vec<Node>,
    pub(crate) senders: Vec<Sender>,
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) task: Task,
    pub(crate) backend: B,
    pub(crate) pace: Pace,
    /// Slept after every few rounds.
    pub(crate) nap: Option<Duration>,
    /// Somebody has had enough: nothing more is sent.
    pub(crate) stop: Arc<AtomicBool>,
    /// Counts for others.
    pub(crate) live: Option<Live>,
    /// Rates that others set.
    pub(crate) rates: Option<Rates>,
    /// Calls that guests sleep for; `None`: they poll.
    pub(crate) calls: Option<Calls>,
}

impl<B: Backend> Engine<B> {
    /// Runs for `seconds`, or until nothing has come for `quiet` seconds; while sending, until somebody has had enough.
    pub(crate) fn run(&mut self, seconds: f64, sending: bool, quiet: Option<f64>) -> Spent {
        let mut now = self.clock.now();
        let (start, end) = (now, now + self.clock.ticks(seconds));
        let quiet = quiet.map_or(u64::MAX, |seconds| self.clock.ticks(seconds));
        let mut last = now;
        let mut spent = Spent::default();
        let cpu = cpu_s();
        if sending {
            self.senders.iter_mut().for_each(|sender| sender.set_pace(self.pace, &self.clock));
            self.rates.iter_mut().for_each(Rates::forget);
        }
        while now < end {
            if let Some(rates) = &mut self.rates {
                rates.apply(&mut self.senders, &self.clock);
            }
            let mut worked = self.step(now, sending);
            if self.nap.is_some() {
                worked +=
                    (1..LOOKS_A_NAP).map(|_| self.step(now, sending)).take_while(|moved| *moved > 0).sum::<usize>();
            }
            let middle = self.clock.now();
            let moved = self.backend.step();
            let after = if moved > 0 { self.clock.now() } else { middle };
            spent.backend += after - middle;
            if worked == 0 {
                spent.idle += middle - now;
            }
            now = after;
            if let Some(nap) = self.nap {
                std::thread::sleep(nap);
                now = self.clock.now();
                spent.idle += now - after;
            }
            if let Some(live) = &self.live {
                live.update(&self.senders, &self.receivers);
            }
            if sending && self.stop.load(Ordering::Relaxed) {
                break;
            }
            if worked + moved > 0 {
                last = now;
            } else if now - last > quiet {
                break;
            }
            if self.calls.is_some() {
                now = self.take_calls(worked + moved > 0, sending, (now, end));
                spent.idle += if worked + moved > 0 { 0 } else { now - after };
            }
        }
        spent.ticks = now - start;
        spent.cpu_s = cpu_s() - cpu;
        spent
    }

    /// Takes calls, and sleeps until there are some where nothing else is to be done before `end`; returns the time.
    fn take_calls(&mut self, worked: bool, sending: bool, (now, end): (u64, u64)) -> u64 {
        let until = if worked { now } else { self.due_at(now, sending).min(end) };
        let left = until.saturating_sub(now).min(self.clock.ticks(LONG_S));
        let long = left >= self.clock.ticks(SHORT_S);
        let time = if long { Duration::from_nanos(self.clock.ns(0, left)) } else { Duration::ZERO };
        if let Some(calls) = &self.calls {
            calls.take(&mut self.nodes, time);
        }
        self.clock.now()
    }

    /// When somebody has something to send next.
    fn due_at(&mut self, now: u64, sending: bool) -> u64 {
        if !sending {
            return u64::MAX;
        }
        let Self { nodes, senders, task, .. } = self;
        let pings = match task {
            Task::Pingpong(pingpong) => pingpong.due_at(&mut nodes[0], now),
            Task::Streams | Task::Echo(_) => u64::MAX,
        };
        senders.iter().map(|sender| sender.due_at(nodes[sender.guest].tx(sender.pair).0, now)).fold(pings, u64::min)
    }

    /// One round over all guests; returns the number of packets moved.
    #[inline]
    fn step(&mut self, now: u64, sending: bool) -> usize {
        match &mut self.task {
            Task::Streams => {}
            Task::Echo(echoes) => return echo(&mut self.nodes, echoes),
            Task::Pingpong(_) => return self.step_pingpong(now, sending),
        }
        // First a look at everything, so that it comes from the switch's CPU at the same time.
        self.nodes.iter_mut().flat_map(|node| &mut node.pairs).for_each(|pair| pair.rx.look());
        if sending {
            self.senders.iter().for_each(|sender| sender.prepare(self.nodes[sender.guest].tx(sender.pair).0));
        }
        let mut moved = 0;
        for guest in 0..self.nodes.len() {
            moved += self.receive(guest, RECEIVE, now);
        }
        if sending {
            for sender in &mut self.senders {
                let tx = self.nodes[sender.guest].tx(sender.pair);
                moved += sender.step(tx, &mut self.receivers, &self.clock, now);
            }
        }
        moved
    }

    #[inline]
    fn receive(&mut self, guest: usize, most: usize, now: u64) -> usize {
        let receiver = &mut self.receivers[guest];
        let mut moved = 0;
        for QueuePair { rx, .. } in &mut self.nodes[guest].pairs {
            moved += rx.recv_burst(most, |frame| {
                receiver.take(frame, &self.clock, now);
            });
        }
        moved
    }

    /// Pings are looked at between any two short bursts of neighbours, so that what this thread does for those makes none late.
    fn step_pingpong(&mut self, now: u64, sending: bool) -> usize {
        let mut moved = self.ping(now, sending);
        for guest in PINGING..self.nodes.len() {
            moved += self.receive(guest, NEIGHBOURS, now);
            moved += self.ping(now, sending);
        }
        for number in 0..if sending { self.senders.len() } else { 0 } {
            let sender = &mut self.senders[number];
            let tx = self.nodes[sender.guest].tx(sender.pair);
            moved += sender.step(tx, &mut self.receivers, &self.clock, now);
            moved += self.ping(now, sending);
        }
        moved
    }

    #[inline]
    fn ping(&mut self, now: u64, sending: bool) -> usize {
        let Task::Pingpong(pingpong) = &mut self.task else { return 0 };
        pingpong.step(&mut self.nodes, &mut self.receivers, &self.clock, now, sending)
    }

    /// Sums up. `workload` says what counts as a guest's share.
    pub(crate) fn totals(&mut self, workload: Workload) -> Totals {
        let mut totals = Totals { by_guest: vec![0; self.nodes.len()], ..Totals::default() };
        for (guest, node) in self.nodes.iter_mut().enumerate() {
            for QueuePair { rx, tx } in &mut node.pairs {
                // What was given back counts, also where a ring waits for a call; and a call that is read here is one for the ring.
                tx.interrupts().called();
                rx.interrupts().called();
                totals.calls += tx.bell().calls() + rx.bell().calls();
                totals.call_reads += tx.bell().call_reads() + rx.bell().call_reads();
                tx.reclaim();
                let stats = tx.stats();
                totals.completed += stats.completed;
                totals.posted += stats.frames;
                totals.posted_bytes += stats.bytes;
                if workload == Workload::Source {
                    totals.by_guest[guest] += stats.completed;
                }
                if workload == Workload::Echo {
                    totals.by_guest[guest] += stats.frames;
                }
            }
        }
        for (guest, receiver) in self.receivers.iter().enumerate() {
            let counts = receiver.counts();
            totals.received += counts.received;
            totals.bytes += counts.bytes;
            if !matches!(workload, Workload::Source | Workload::Echo) {
                totals.by_guest[guest] += counts.received;
            }
        }
        totals.sent = self.senders.iter().map(Sender::sent).sum();
        match &self.task {
            Task::Streams => {}
            Task::Echo(echoes) => (totals.received, totals.echoed) = (echoes.received, echoes.sent),
            Task::Pingpong(pingpong) => {
                totals.sent = pingpong.pings_sent();
                totals.round_trips = pingpong.round_trips();
                totals.background = pingpong.background().1;
            }
        }
        totals
    }
}

/// What this thread has had of a CPU, in seconds.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn echo(nodes: &mut [Node], echoes: &mut Echoes) -> usize {
    let mut moved = 0;
    for pair in nodes.iter_mut().flat_map(|node| &mut node.pairs) {
        let burst = pair.echo_burst(swap_addresses);
        echoes.received += burst.received as u64;
        echoes.sent += burst.sent as u64;
        moved += burst.received;
    }
    moved
}

#[inline(always)]
fn swap_addresses(memory: &Window, at: usize, len: usize) {
    if len < 12 {
        return;
    }
    let mut addresses = [0; 12];
    memory.read(at, &mut addresses);
    addresses.rotate_left(6);
    memory.write(at, &addresses);
}

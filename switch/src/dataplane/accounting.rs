//! The counters behind the accounting identity. Each table has one writer: the I/O core it belongs to.
//!
//! A *source* is a queue that packets are pulled from: a guest's queue pair or an uplink's receive queue. Whatever becomes of a packet is
//! charged to its source, on whichever core it happens, so that for every source, summed over the cores,
//!
//! ```text
//! pulled = forwarded + dropped + (handed − arrived)
//! copies = delivered + copy_drops
//! ```
//!
//! at every moment at which nothing moves.
//!
//! Beside that stands what a source costs and how it fares: cycles, what waits in its ring, and who receives from it (see
//! [`load`](super::load), which reads it).

use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_utils::CachePadded;
use vm_ports::Counter;

use super::histogram::Latency;
use super::interval::{Interval, Intervals};
use super::sleep::WakeCause;
use super::waiting::Change;
use crate::forwarding::{DropReason, LearnRefusal};

/// Whether load is accounted for, where somebody measures what that costs.
static ACCOUNTS: AtomicBool = AtomicBool::new(true);

/// Whether load is accounted for: always, but with the feature `optional-accounting`.
#[inline(always)]
pub(super) fn accounts() -> bool {
    !cfg!(feature = "optional-accounting") || ACCOUNTS.load(Ordering::Relaxed)
}

/// From now on load is accounted for, or not. False: in this build it always is.
pub(super) fn set_accounting(on: bool) -> bool {
    ACCOUNTS.store(on, Ordering::Relaxed);
    cfg!(feature = "optional-accounting")
}

/// Sources there can be: queue pairs and uplink queues.
pub(super) const SOURCES_MAX: usize = 4096;

/// A source's place in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceId(pub(super) u16);

impl SourceId {
    #[inline]
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Which places have an owner.
#[derive(Debug)]
pub(super) struct Sources {
    taken: Box<[bool]>,
    /// Where the search for the next one begins.
    next: usize,
}

impl Default for Sources {
    fn default() -> Self {
        Self { taken: vec![false; SOURCES_MAX].into_boxed_slice(), next: 0 }
    }
}

impl Sources {
    /// A place that nobody has. They go round: packets of the last owner may still be under way between two cores, and would be charged to the next one.
    pub(super) fn take(&mut self) -> Option<SourceId> {
        let free = (self.next..SOURCES_MAX).chain(0..self.next).find(|place| !self.taken[*place])?;
        self.taken[free] = true;
        self.next = (free + 1) % SOURCES_MAX;
        Some(SourceId(free as u16))
    }

    /// Gives a place back.
    pub(super) fn give_back(&mut self, source: SourceId) {
        self.taken[source.index()] = false;
    }
}

/// What one I/O core did with the packets of one source.
#[derive(Debug, Default)]
pub(super) struct SourceCounters {
    /// Cycles spent on what was pulled from the source here, from the end of the burst before to the end of each of its bursts.
    pub(super) cycles: Counter,
    /// What waits in its ring or queue.
    pub(super) waits: WaitCounters,
    /// Packets this core made on behalf of the source (announcements): pulled from nowhere, accounted like the rest.
    pub(super) injected: Counter,
    /// Packets delivered to the one port they were for, or flooded.
    pub(super) forwarded: Counter,
    /// Packets dropped, by reason.
    pub(super) dropped: [Counter; DropReason::ALL.len()],
    /// Unicast packets handed to another core.
    pub(super) handed: Counter,
    /// Unicast packets that came from another core and were then forwarded or dropped here.
    pub(super) arrived: Counter,
    /// Copies of flooded packets made here.
    pub(super) copies: Counter,
    /// Copies delivered.
    pub(super) delivered: Counter,
    /// Copies dropped, by reason.
    pub(super) copy_drops: [Counter; DropReason::ALL.len()],
}

/// What a core notes of the work that waits at an input.
#[derive(Debug, Default)]
pub(super) struct WaitCounters {
    /// What is before the mark, now (see [`Waiting`](super::waiting::Waiting)); 0 where nothing waits.
    pub(super) backlog: Counter,
    /// When that mark was set, in cycles.
    since: Counter,
    /// What is noted from one reading to the next.
    pub(super) intervals: Intervals,
}

impl WaitCounters {
    fn note(&self, tick: u64, change: Change) {
        self.backlog.set(change.backlog as u64);
        self.since.set(change.since);
        if let Some(cycles) = change.waited {
            self.intervals.waited(tick, cycles);
        }
    }

    /// How long the oldest work had waited, at the most, in the intervals `from` to `to` (next to each other, or the same) or up to `now` if it
    /// still waits. In cycles.
    pub(super) fn oldest(&self, (from, to): (u64, u64), now: u64) -> u64 {
        let noted = [from, to].map(|number| self.intervals.of(number).map_or(0, Interval::longest_wait));
        let waits = match self.backlog.get() {
            0 => 0,
            _ => now.saturating_sub(self.since.get()),
        };
        noted.into_iter().fold(waits, u64::max)
    }
}

/// What one I/O core counts.
#[derive(Debug)]
pub(super) struct CoreCounters {
    /// Cycles of rounds in which there was something to do.
    pub(super) busy_cycles: Counter,
    /// Cycles of rounds in which there was nothing.
    pub(super) idle_cycles: Counter,
    /// Rounds.
    pub(super) polls: Counter,
    /// Messages read.
    pub(super) messages: Counter,
    /// Sleeps, by what ended them.
    pub(super) wakes: [Counter; WakeCause::ALL.len()],
    /// Cycles of that, which are idle ones too.
    pub(super) slept_cycles: Counter,
    /// When the sleep under way began, in cycles, up to when all are accounted for; 0: it is awake.
    asleep_since: Counter,
    /// Sleeps that ended in time only because a timer did, with something to do that nobody had rung for.
    pub(super) missed_wakeups: Counter,
    /// The same where the work was in a ring whose driver was to kick.
    pub(super) missed_kicks: Counter,
    /// Transmit rings that are not looked at because their drivers kick, now.
    pub(super) armed: Counter,
    /// Cycles spent on delivering what other cores handed over.
    pub(super) received_cycles: Counter,
    /// Packets that was, copies to be made for a flood being one.
    pub(super) received_packets: Counter,
    /// What waits of that: rings with a mark, since the oldest of these.
    pub(super) received_waits: WaitCounters,
    /// The number of the interval that is noted now. Not the core but the reader writes it.
    pub(super) tick: CachePadded<Counter>,
    /// Queue pairs attached, now.
    pub(super) queue_pairs: Counter,
    /// Uplink queues attached, now.
    pub(super) uplinks: Counter,
    /// Not 0: it sleeps between rounds. Written by whoever has it parked and woken.
    pub(super) parked: Counter,
    /// Packets handed to other cores, copies of floods included.
    pub(super) handed_over: Counter,
    /// Packets that waited here for a queue pair on its way, copies of floods included.
    pub(super) parked_packets: Counter,
    /// Stations in this core's replica of the FDB, now.
    pub(super) fdb_entries: Counter,
    /// Stations learnt from packets that came in here.
    pub(super) fdb_learned: Counter,
    /// Stations found here to be behind another port than before.
    pub(super) fdb_moves: Counter,
    /// How long packets were in the switch that left it here.
    pub(super) latency: Latency,
    /// Addresses not learnt, by reason.
    pub(super) learn_refusals: [Counter; LearnRefusal::ALL.len()],
    /// Learn messages that found the ring to another core full. The entry's next refresh repairs it.
    pub(super) learn_lost: Counter,
    sources: Box<[SourceCounters]>,
}

impl CoreCounters {
    pub(super) fn new() -> Self {
        Self {
            busy_cycles: Counter::default(),
            idle_cycles: Counter::default(),
            polls: Counter::default(),
            messages: Counter::default(),
            wakes: Default::default(),
            slept_cycles: Counter::default(),
            asleep_since: Counter::default(),
            missed_wakeups: Counter::default(),
            missed_kicks: Counter::default(),
            armed: Counter::default(),
            received_cycles: Counter::default(),
            received_packets: Counter::default(),
            received_waits: WaitCounters::default(),
            tick: CachePadded::default(),
            queue_pairs: Counter::default(),
            uplinks: Counter::default(),
            parked: Counter::default(),
            handed_over: Counter::default(),
            parked_packets: Counter::default(),
            fdb_entries: Counter::default(),
            fdb_learned: Counter::default(),
            fdb_moves: Counter::default(),
            latency: Latency::default(),
            learn_refusals: Default::default(),
            learn_lost: Counter::default(),
            sources: (0..SOURCES_MAX).map(|_| SourceCounters::default()).collect(),
        }
    }

    /// Idle cycles and, of these, those asleep, with those of a sleep that has not ended at the time that `clock` says: it may be long.
    pub(super) fn idle_and_slept(&self, clock: impl Fn() -> u64) -> [u64; 2] {
        let ended = || [self.idle_cycles.get(), self.slept_cycles.get()];
        let since = self.asleep_since.get();
        let (before, asleep) = (ended(), clock().saturating_sub(since));
        // Pairs with the fence in `gets_up`: a sleep that is in `before` has ended for this second look, too.
        fence(Ordering::Acquire);
        if since != 0 && self.asleep_since.get() == since {
            before.map(|cycles| cycles.wrapping_add(asleep))
        } else {
            ended()
        }
    }

    /// The core is about to sleep; all cycles up to `now` are accounted for.
    pub(super) fn lies_down(&self, now: u64) {
        self.asleep_since.set(now);
    }

    /// It is awake, and accounts for its sleep next.
    pub(super) fn gets_up(&self) {
        self.asleep_since.set(0);
        fence(Ordering::Release);
    }

    /// Whether it sleeps.
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep_since.get() != 0
    }

    /// The row of a source.
    #[inline]
    pub(super) fn source(&self, source: SourceId) -> &SourceCounters {
        &self.sources[source.index()]
    }

    /// Notes what a pull changed in the ring or queue of a source.
    pub(super) fn note_waiting(&self, source: SourceId, change: Change) {
        self.source(source).waits.note(self.tick.get(), change);
    }

    /// Notes that nothing of a source waits here.
    #[cold]
    pub(super) fn note_nothing_waiting(&self, source: SourceId) {
        self.source(source).waits.backlog.set(0);
    }

    /// The same for the rings from other cores.
    pub(super) fn note_received_waiting(&self, change: Change) {
        self.received_waits.note(self.tick.get(), change);
    }

    /// Notes that the queue pair `to` received so many packets of a source.
    #[inline]
    pub(super) fn note_talk(&self, source: SourceId, to: SourceId, packets: usize) {
        if accounts() {
            self.source(source).waits.intervals.talked(self.tick.get(), to, packets);
        }
    }
}

/// How a packet, or one copy of it, is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    /// A packet for one port, pulled on this core.
    Unicast,
    /// A packet for one port that came from another core.
    Arrived,
    /// One copy of a flooded packet.
    Copy,
}

impl SourceCounters {
    /// Charges the end of a packet's way.
    #[inline]
    pub(super) fn settle(&self, charge: Charge, outcome: Result<(), DropReason>) {
        self.settle_many(charge, outcome, 1);
    }

    /// Charges the end of the way of `packets` packets that went the same one.
    #[inline]
    pub(super) fn settle_many(&self, charge: Charge, outcome: Result<(), DropReason>, packets: usize) {
        let n = packets as u64;
        match charge {
            Charge::Unicast | Charge::Arrived => {
                match outcome {
                    Ok(()) => self.forwarded.add(n),
                    Err(reason) => self.dropped[reason.index()].add(n),
                }
                if charge == Charge::Arrived {
                    self.arrived.add(n);
                }
            }
            Charge::Copy => {
                self.copies.add(n);
                match outcome {
                    Ok(()) => self.delivered.add(n),
                    Err(reason) => self.copy_drops[reason.index()].add(n),
                }
            }
        }
    }
}

/// What an uplink's queue counts: written by the core that owns it. Directions are the NIC's.
#[derive(Debug, Default)]
pub(super) struct UplinkCounters {
    pub(super) rx_packets: Counter,
    pub(super) rx_bytes: Counter,
    pub(super) tx_packets: Counter,
    pub(super) tx_bytes: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_given_back_is_the_last_to_be_taken_again() {
        let mut sources = Sources::default();
        let first = sources.take().unwrap();
        sources.give_back(first);
        let others: Vec<SourceId> = (1..SOURCES_MAX).map_while(|_| sources.take()).collect();
        assert!(others.len() == SOURCES_MAX - 1 && !others.contains(&first));
        assert_eq!(sources.take(), Some(first));
        assert_eq!(sources.take(), None);
        sources.give_back(others[7]);
        assert_eq!(sources.take(), Some(others[7]));
    }

    #[test]
    fn a_sleep_is_counted_once_while_it_lasts_and_after_it() {
        let counters = CoreCounters::new();
        counters.idle_cycles.add(100);
        assert_eq!(counters.idle_and_slept(|| 1000), [100, 0]);
        counters.lies_down(1000);
        assert_eq!(counters.idle_and_slept(|| 1500), [600, 500]);
        assert!(counters.is_asleep());
        counters.gets_up();
        assert!(!counters.is_asleep());
        counters.idle_cycles.add(700);
        counters.slept_cycles.add(700);
        assert_eq!(counters.idle_and_slept(|| 1800), [800, 700]);
    }
}

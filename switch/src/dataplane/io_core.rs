//! An I/O core: a pinned thread that polls, forwards and accounts, one burst at a time, to completion.

mod aside;
mod handed;
mod moves;
mod orders;
mod rest;
mod trace;
mod uplinks;

use std::collections::VecDeque;
use std::sync::Arc;

use config::Mode;
use pmd_bindings::tsc;
use ringbuf::HeapCons;
use vm_ports::{BURST_PACKETS, Burst, BurstBuffer, Pulled, QueueCounters, RingWatch, TxQueue};

use self::aside::Aside;
use self::moves::Part;
use self::rest::{Needs, Sweep, listen_after};
use super::accounting::{CoreCounters, SOURCES_MAX, UplinkCounters, accounts};
use super::forwarder::{Between, Forwarder, Origin, Outputs};
use super::handover::{Progress, Token};
use super::histogram::Sampler;
use super::mailbox::Message;
use super::ports::{PORTS_MAX, PortTable};
use super::reply::Reply;
use super::rota::Rota;
use super::sleep::{Bed, Bells, Patience};
use super::turns::{Credit, DESCRIPTOR_COST, Rounds, Share, cost};
use super::waiting::Waiting;
use super::xcore::{FromCore, Links};
use crate::forwarding::{Fdb, Now, PortId, TokenBucket};

/// Every so many rounds a few buckets of the FDB are aged, so that its cost is spread thin.
const AGEING_ROUNDS: u64 = 64;
const AGEING_BUCKETS: usize = 8;

/// Packets of a guest's burst where there is one of class latency: nobody is looked at while they are pulled.
const BESIDE_URGENT: usize = 16;

/// A guest's transmit queue on this core.
struct GuestTx {
    queue: usize,
    origin: Origin,
    tx: TxQueue,
    waiting: Waiting,
    credit: Credit,
    share: Share,
    /// Whether it is in [`IoCore::again`].
    again: bool,
    /// Whether it is not looked at because its driver was asked to kick.
    armed: bool,
}

/// What a burst from a guest was, and took.
struct Spent {
    pulled: Pulled,
    /// Packets that it might have had.
    most: usize,
    /// What copies beyond one of each packet cost.
    flooded: i64,
    /// When it began and ended, in cycles.
    from: u64,
    to: u64,
}

impl GuestTx {
    /// Charges the guest for a burst. Whether another one may follow in this round.
    // Always, as it would be if there were no turns in the middle of bursts: with two callers the compiler leaves it a call.
    #[inline(always)]
    fn account(&mut self, spent: &Spent, rounds: &mut Rounds, counters: &CoreCounters) -> bool {
        let Spent { pulled, most, flooded, from, to } = spent;
        if accounts() {
            let source = self.origin.source;
            counters.source(source).cycles.add(to.wrapping_sub(*from));
            if let Some(change) = self.waiting.pulled(pulled.slots, || self.tx.backlog(), *to) {
                counters.note_waiting(source, change);
            }
        }
        let cost = cost(pulled.packets, pulled.bytes) + pulled.descriptors as i64 * DESCRIPTOR_COST + flooded;
        self.credit.pay(cost, pulled.is_full(*most), rounds)
    }
}

/// A queue pair on this core: what is needed to put its halves together again.
struct Attached {
    port: PortId,
    queue: usize,
    counters: Arc<QueueCounters>,
}

/// An uplink's receive queue on this core.
struct UplinkRx {
    origin: Origin,
    rx: pmd_bindings::RxQueue,
    counters: Arc<UplinkCounters>,
    /// Its mark: set when a burst was full, it stays until one is not. What is before it is not known, but that there may be something.
    waiting: Waiting,
    /// It is not polled before the cycle counter is there. 0: it is.
    held_until: u64,
    /// Who wants to know when it is empty.
    asked: Option<(Token, Reply<Token>)>,
}

/// What a core is made with.
pub(super) struct CoreSetup {
    pub(super) index: usize,
    /// How it waits for work.
    pub(super) mode: Mode,
    pub(super) bells: Arc<Bells>,
    /// What it sleeps in, if it can.
    pub(super) bed: Option<Bed>,
    pub(super) mailbox: HeapCons<Message>,
    pub(super) links: Links,
    pub(super) counters: Arc<CoreCounters>,
    pub(super) fdb: Fdb,
    /// What a guest's port may flood.
    pub(super) flood: TokenBucket,
    /// Cycle counter at the switch's start, and its speed.
    pub(super) epoch: u64,
    pub(super) cycles_per_s: u64,
    /// Whether the CPU is another I/O core's too, so that one with nothing to do has to let the other run.
    pub(super) shares_cpu: bool,
}

/// One I/O core.
pub(super) struct IoCore {
    mailbox: HeapCons<Message>,
    from: Vec<Option<FromCore>>,
    progress: Arc<Progress>,
    /// The move that this core has a part in.
    part: Option<Part>,
    /// False: queue pairs are pulled from as soon as they arrive, whatever their last core still has under way. For tests that have to see
    /// that tests see it.
    heeds_token: bool,
    guests: Vec<GuestTx>,
    /// Their places by source.
    place_of: Box<[u16]>,
    /// When to look at which of them.
    rota: Rota<RingWatch>,
    rounds: Rounds,
    /// Those that may have another burst in this round, in this order.
    again: VecDeque<u16>,
    attached: Vec<Attached>,
    uplinks: Vec<UplinkRx>,
    forwarder: Forwarder,
    buffer: BurstBuffer,
    /// For bursts between the copies of another one's flood.
    spare: BurstBuffer,
    counters: Arc<CoreCounters>,
    /// Which bursts tell how long they took.
    sampler: Sampler,
    flood: TokenBucket,
    /// Ports whose floods are policed.
    policed: Vec<PortId>,
    cycles_per_s: u64,
    next_second: u64,
    /// Cycle counter when the last burst ended, or the last round after it: when what is done next began.
    done_at: u64,
    now: Now,
    shares_cpu: bool,
    mode: Mode,
    bells: Arc<Bells>,
    bed: Option<Bed>,
    patience: Patience,
    /// Whether a round begins with more than looks: a move to go on with, or drivers that may be asked to kick.
    has_chores: bool,
    needs: Needs,
    sweep: Sweep,
    /// Drivers that were just asked to kick, by place, and are to be looked at once more.
    asked: Vec<u16>,
    /// Those of class latency among them, while the core sleeps.
    urgent_armed: Vec<u16>,
    /// When there was last something to do, when idle rings were last thought of, and when kicks were last listened for, in cycles.
    worked_at: u64,
    cleared_at: u64,
    listened_at: u64,
    /// How long after that they are listened for again, in cycles.
    listen_after: u64,
}

impl IoCore {
    pub(super) fn new(setup: CoreSetup) -> Self {
        let CoreSetup {
            index,
            mode,
            bells,
            bed,
            mailbox,
            links,
            counters,
            fdb,
            flood,
            epoch,
            cycles_per_s,
            shares_cpu,
        } = setup;
        Self {
            mailbox,
            from: links.from,
            progress: links.progress,
            part: None,
            heeds_token: !super::handover::ignores_token(),
            guests: Vec::with_capacity(64),
            place_of: vec![0; SOURCES_MAX].into_boxed_slice(),
            rota: Rota::new(SOURCES_MAX, cycles_per_s),
            rounds: Rounds::new(),
            again: VecDeque::with_capacity(SOURCES_MAX),
            attached: Vec::with_capacity(64),
            uplinks: Vec::with_capacity(8),
            forwarder: Forwarder {
                table: Arc::new(PortTable::default()),
                fdb,
                out: Outputs::new(index, links.to, Arc::clone(&bells), Arc::clone(&counters), cycles_per_s),
                floods: vec![TokenBucket::UNLIMITED; PORTS_MAX].into_boxed_slice(),
            },
            buffer: BurstBuffer::default(),
            spare: BurstBuffer::default(),
            counters,
            sampler: Sampler::new(),
            flood,
            policed: Vec::with_capacity(PORTS_MAX),
            cycles_per_s,
            next_second: epoch + cycles_per_s,
            done_at: epoch,
            now: Now { seconds: 0, cycles: epoch },
            shares_cpu,
            mode,
            bells,
            bed,
            patience: Patience::new(mode, cycles_per_s),
            has_chores: false,
            needs: Needs::default(),
            sweep: Sweep::default(),
            asked: Vec::with_capacity(SOURCES_MAX),
            urgent_armed: Vec::with_capacity(SOURCES_MAX),
            worked_at: epoch,
            cleared_at: epoch,
            listened_at: epoch,
            listen_after: listen_after(0, cycles_per_s / 1_000_000),
        }
    }

    /// Polls until it is told to stop. What it owned is dropped by whoever takes the thread's result.
    pub(super) fn run(mut self) -> Self {
        self.done_at = tsc();
        self.worked_at = self.done_at;
        while let Some(worked) = self.turn(tsc) {
            if worked {
                self.worked_at = self.done_at;
            } else {
                self.rest();
            }
        }
        self
    }

    /// Does what it was told, then one round, and accounts for the time that `clock` says it took. Whether there was anything to do; `None`: stop.
    #[inline]
    pub(super) fn turn(&mut self, clock: impl Fn() -> u64) -> Option<bool> {
        if !self.read_mailbox() {
            return None;
        }
        let start = self.done_at;
        let worked = self.poll(&clock);
        // A round with bursts ends with its last one: the looks after that are the next one's, and so the clock is read once for a burst.
        let end = if worked && accounts() { self.done_at } else { clock() };
        self.tick(end);
        if accounts() {
            let Self { counters, .. } = &*self;
            let time = if worked { &counters.busy_cycles } else { &counters.idle_cycles };
            time.add(end.wrapping_sub(start));
        }
        self.counters.polls.add(1);
        Some(worked)
    }

    /// One round over everything this core owns, at the time that `clock` says. Whether there was anything to do.
    #[inline]
    pub(super) fn poll(&mut self, clock: &impl Fn() -> u64) -> bool {
        if self.has_chores {
            self.do_chores();
        }
        self.rounds.begin();
        let mut worked = self.poll_cores(clock);
        for index in 0..self.uplinks.len() {
            worked |= self.poll_uplink(index, clock);
        }
        self.poll_guests(worked, clock)
    }

    /// Notes the end of a burst. Returns how many cycles it took.
    #[inline]
    fn end_burst(&mut self, clock: &impl Fn() -> u64) -> u64 {
        let end = clock();
        let cycles = end.wrapping_sub(std::mem::replace(&mut self.done_at, end));
        self.release_due_calls();
        cycles
    }

    /// Lets every call go that is held back. Whoever stops looking at the clock, to sleep for example, does this first.
    pub(super) fn release_calls(&mut self) {
        self.release_calls_by(u64::MAX);
    }

    /// Lets those calls go whose time has come, as of the end of the last burst.
    #[inline]
    fn release_due_calls(&mut self) {
        if let Some(time) = self.forwarder.out.held.due(self.done_at) {
            self.release_calls_by(time);
        }
    }

    #[cold]
    fn release_calls_by(&mut self, time: u64) {
        let Self { forwarder, guests, done_at, .. } = self;
        let now = *done_at;
        forwarder.out.release_calls(time, now, |place| guests.get_mut(place).and_then(|g| g.tx.release_by(time, now)));
    }

    /// Looks at the guests that are not to wait: after every burst, so that it is the only one they wait for, as long as they have credit.
    /// Whether there was anything to do.
    #[inline]
    fn poll_urgent(&mut self, clock: &impl Fn() -> u64) -> bool {
        let mut worked = false;
        for _ in 0..self.rota.urgent_looks() {
            let Some(place) = self.rota.next_urgent() else { break };
            worked |= self.poll_guest(place, clock);
        }
        worked
    }

    /// Guests that are in use, and some of those that are idle. Whether there was anything to do in this round, which `worked` may say already.
    fn poll_guests(&mut self, mut worked: bool, clock: &impl Fn() -> u64) -> bool {
        let now = self.now.cycles;
        worked |= self.poll_urgent(clock);
        let mut nth = 0;
        while let Some(place) = self.rota.awake(nth) {
            let found = self.poll_guest(place, clock);
            if found {
                worked = true;
                self.poll_urgent(clock);
            }
            let watch = |place: usize| self.guests.get(place).map(|guest| guest.tx.watch());
            nth += usize::from(self.rota.note(nth, found, now, watch));
        }
        let mut looks = self.rota.looks(worked, now);
        while let Some(place) = self.rota.find(&mut looks) {
            if self.poll_guest(place, clock) {
                self.rota.wake(now);
                worked = true;
                self.poll_urgent(clock);
            } else {
                self.rota.pass();
            }
        }
        // Whoever has credit for several bursts has the others' in between.
        while let Some(place) = self.again.pop_front() {
            if let Some(guest) = self.guests.get_mut(usize::from(place)) {
                guest.again = false;
            }
            self.poll_guest(place.into(), clock);
            self.poll_urgent(clock);
        }
        worked
    }

    /// Keeps the time, and the FDB young.
    pub(super) fn tick(&mut self, cycles: u64) {
        self.now.cycles = cycles;
        self.done_at = cycles;
        self.release_due_calls();
        while cycles.wrapping_sub(self.next_second) < 1 << 63 {
            self.next_second += self.cycles_per_s;
            self.now.seconds = self.now.seconds.wrapping_add(1);
        }
        if self.counters.polls.get().is_multiple_of(AGEING_ROUNDS) {
            self.forwarder.fdb.age(self.now.seconds, AGEING_BUCKETS);
            self.counters.fdb_entries.set(self.forwarder.fdb.len() as u64);
        }
    }

    /// A burst from a guest, if it has credit. Whether there was anything to do.
    fn poll_guest(&mut self, index: usize, clock: &impl Fn() -> u64) -> bool {
        let Self { guests, rota, rounds, again, forwarder, buffer, spare, counters, sampler, now, done_at, .. } = self;
        let Some((before, [guest, after @ ..])) = guests.split_at_mut_checked(index) else { return false };
        let source = guest.origin.source;
        if !guest.tx.has_work() {
            if guest.waiting.is_set() {
                // What was there is gone: the ring has a fault, or its driver is not to be trusted.
                guest.waiting.clear();
                counters.note_nothing_waiting(source);
            }
            return false;
        }
        if !guest.credit.may_pull(rounds) {
            return true;
        }
        let since = guest.waiting.since().unwrap_or(*done_at);
        forwarder.out.since = since;
        let sample = sampler.is_due().then(|| counters.handed_over.get());
        let most = if rota.has_urgent() { BESIDE_URGENT } else { BURST_PACKETS };
        let mut burst = Burst::up_to(most, buffer);
        let pulled = guest.tx.pull(&mut burst);
        forwarder.out.taps.see_burst(guest.origin.port, &burst, *done_at);
        let now = *now;
        let mut aside = rota.has_urgent().then(|| Aside {
            guests: (before, after),
            rota,
            rounds,
            buffer: spare,
            counters,
            account: &counters.source(source).cycles,
            now,
            done_at,
            clock,
            wanted: None,
        });
        let between = aside.as_mut().map(|aside| aside as &mut dyn Between);
        let flooded = forwarder.forward(&mut burst, &mut guest.origin, now, between);
        drop(burst);
        if sample.is_some() {
            forwarder.out.note_buffers();
        }
        forwarder.finish(Some((index, &mut guest.tx)), *done_at);
        let end = if accounts() { clock() } else { *done_at };
        let spent = Spent { pulled, most, flooded, from: std::mem::replace(done_at, end), to: end };
        let goes_on = guest.account(&spent, rounds, counters);
        if goes_on && !guest.again {
            guest.again = true;
            again.push_back(index as u16);
        }
        if let Some(handed) = sample {
            self.note_latency((since, end), pulled.packets, handed);
        }
        self.release_due_calls();
        true
    }

    /// Notes how long `packets` were here that were first seen, and then shown to their receivers, at these times. Those that were handed to
    /// other cores, since these had got `handed`, are counted there.
    #[cold]
    fn note_latency(&mut self, (since, end): (u64, u64), packets: usize, handed: u64) {
        let handed = self.counters.handed_over.get().wrapping_sub(handed);
        // A clock that is another CPU's may be a little behind.
        self.counters.latency.add(
            end.saturating_sub(since),
            (packets as u64).saturating_sub(handed),
            self.cycles_per_s,
        );
        self.sampler.rearm(end);
    }
}

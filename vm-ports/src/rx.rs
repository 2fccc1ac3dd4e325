//! A guest's receive queue: packets into the buffers the guest posted.

mod buffers;

use std::fs::File;
use std::sync::Arc;

use self::buffers::{Buffers, Placed, Refusal, Unread};
use crate::call::{Blocked, Call, Forfeit};
use crate::counters::{QueueCounters, RingFault, RxDrop};
use crate::egress;
use crate::features::Features;
use crate::memory::{GuestMemory, full_fence};
use crate::moderation::Moderation;
use crate::net_header::{NET_HEADER_MAX, PLAIN_HEADER};
use crate::packet::{BURST_PACKETS, Packet, Run, View};
use crate::ring::{Direction, Ring, RingError, RingSetup, Single, Singles, Translator};

/// Descriptors looked at for one burst, at most, for packets that are not one buffer each: those of 32 of the longest
/// packets in buffers of 1,526 bytes (1,408), of 32 packets in buffers of 19 parts each (Linux without mergeable
/// buffers, 608), and of a packet in 107 segments in such ones. A guest that posts tiny buffers, or descriptors without
/// bytes, does not make its neighbours wait.
const BURST_DESCRIPTORS: usize = 2048;

/// While a packet's body is copied, the one so many packets after it is fetched.
const BODIES_AHEAD: usize = 2;

/// The device side of one RX virtqueue. Owned by one I/O core at a time.
#[derive(Debug)]
pub struct RxQueue {
    ring: Ring,
    features: Features,
    enabled: bool,
    /// Set when the ring can no longer be worked with; it is not touched again until the session restarts it.
    fault: Option<RingFault>,
    region_hint: usize,
    /// Buffers used since the last publication: as many more are looked for after it.
    placed: u16,
    /// Of [`BURST_DESCRIPTORS`].
    descriptors_left: usize,
    call: Call,
    memory: Arc<GuestMemory>,
    counters: Arc<QueueCounters>,
}

impl RxQueue {
    /// Starts the ring: from now on the guest is told not to kick.
    pub fn start(
        features: Features,
        memory: Arc<GuestMemory>,
        setup: &RingSetup,
        counters: Arc<QueueCounters>,
    ) -> Result<Self, RingError> {
        let ring = Ring::start(&memory, setup, features)?;
        counters.note_node(memory.node_of(setup.descriptors));
        let size = ring.size();
        Ok(Self {
            ring,
            features,
            enabled: false,
            fault: None,
            region_hint: 0,
            placed: 0,
            descriptors_left: BURST_DESCRIPTORS,
            call: Call::new(Moderation::default(), size),
            memory,
            counters,
        })
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Sets the eventfd that interrupts the guest, signals it once unless the driver polls (a delivery may have been published to the old
    /// one) and returns the old one.
    pub fn set_call(&mut self, call: Option<File>) -> Option<File> {
        let (old, called) = self.call.replace(&self.ring, call);
        self.heed(called);
        old
    }

    /// A frontend that makes calls block loses the ring.
    #[inline]
    fn heed<T: Default>(&mut self, called: Result<T, Blocked>) -> T {
        called.unwrap_or_else(|Blocked| {
            self.stop_with(RingFault::CallBlocked);
            T::default()
        })
    }

    /// A ring that is started but not enabled is not touched.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Whether packets can be pushed.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.enabled && self.fault.is_none()
    }

    /// What a packet of `len` bytes that asks for nothing would meet now: so many buffers, one at least, or why they would not take it. Between two
    /// bursts; everything is as it was afterwards: bad buffers are still there, and a ring that would be stopped goes on.
    pub fn outlook(&mut self, len: usize) -> Result<u16, RxDrop> {
        if !self.is_ready() || self.memory.is_truncated() {
            return Err(RxDrop::NotReady);
        }
        let (mark, mut region_hint) = (self.ring.mark(), self.region_hint);
        let translator = Translator::new(&self.memory, &mut region_hint);
        let total = self.features.net_header_len() + len;
        let gathered = Buffers::new(&mut self.ring, translator, self.features, self.descriptors_left).gather(total);
        self.ring.rewind(mark);
        // What was gathered is there, whatever the guest says of it by now.
        gathered.map(|()| self.ring.posted().max(1)).map_err(|refusal| refusal.reason())
    }

    /// Shares what becomes of calls with the port's other rings: one that a frontend makes block costs all of them theirs.
    pub(crate) fn share_forfeit(&mut self, forfeited: Forfeit) {
        self.call.share(forfeited);
    }

    /// How calls are held back from now on; at first they are not.
    pub fn set_moderation(&mut self, moderation: Moderation) {
        self.call.moderate(moderation, self.ring.size());
    }

    /// Why the ring was stopped, if it was.
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Stops the ring; returns where it stood, as `GET_VRING_BASE` wants it.
    pub fn stop(mut self) -> (u32, Option<File>) {
        self.flush();
        (self.ring.base(), self.call.take())
    }

    /// Puts one packet into the guest's buffers, whole or not at all: cut into segments and checksummed if the guest did not negotiate to
    /// take it as it is. The guest sees it after [`RxQueue::flush`].
    #[inline]
    pub fn push(&mut self, view: View<'_>) -> Result<(), RxDrop> {
        let mut outcome = Ok(());
        self.push_run(view.into(), |_, reason| outcome = Err(reason));
        outcome
    }

    /// [`RxQueue::push`] for each of these packets, in order. Returns how many were put there, and tells `refused` which others were not, counted
    /// from 0, and why.
    #[inline]
    pub fn push_run(&mut self, run: Run<'_>, mut refused: impl FnMut(usize, RxDrop)) -> usize {
        let mut pushed = 0;
        let mut rest = run;
        // So many at once. One, after a packet that had to be looked at by itself, and more again as they go: neither the packets nor what
        // the guest does with its buffers make anybody look at all of them for each packet.
        let mut most = BURST_PACKETS;
        loop {
            let placed = if self.is_ready() { self.place_run(rest.first(most)) } else { 0 };
            pushed += placed;
            rest = rest.after(placed);
            if placed == most && !rest.is_empty() {
                most = BURST_PACKETS.min(2 * most);
                continue;
            }
            // The run ends here, or at a packet that is to be looked at by itself.
            let Some(view) = rest.views().next() else { return pushed };
            rest = rest.after(1);
            most = 1;
            match self.push_by_itself(view) {
                Ok(()) => pushed += 1,
                Err(reason) => {
                    let next = run.len() - rest.len();
                    refused(next - 1, reason);
                    if reason == RxDrop::Full && self.ring.is_drained() {
                        self.counters.rx.refused[reason as usize].add(rest.len() as u64);
                        (next..run.len()).for_each(|nth| refused(nth, reason));
                        return pushed;
                    }
                }
            }
        }
    }

    fn push_by_itself(&mut self, view: View<'_>) -> Result<(), RxDrop> {
        let pushed = if self.is_ready() { self.place(view) } else { Err(RxDrop::NotReady) };
        let counters = &self.counters.rx;
        match pushed {
            Ok(Placed { frames, bytes }) => {
                counters.packets.add(frames);
                counters.bytes.add(bytes);
                Ok(())
            }
            Err(reason) => {
                counters.refused[reason as usize].add(1);
                Err(reason)
            }
        }
    }

    /// Counts the buffers that are left: in a split ring, of those that were known of; in a packed one, a burst less at most.
    pub fn note_buffers(&self) {
        self.counters.rx.posted.set(if self.fault.is_some() { 0 } else { self.ring.backlog().into() });
    }

    /// Shows the guest all that was pushed, with one publication. [`RxQueue::notify`] comes next, after a [`fence`](crate::fence).
    #[inline]
    pub fn publish(&mut self) {
        self.descriptors_left = BURST_DESCRIPTORS;
        self.ring.publish();
    }

    /// Has the CPU fetch as many buffers more as were used since the last time: for the next packets, while the [`fence`](crate::fence) waits.
    #[inline]
    pub fn look_ahead(&mut self) {
        let count = std::mem::take(&mut self.placed).min(BURST_PACKETS as u16);
        if self.fault.is_none() && count > 0 {
            self.ring.look_ahead(self.memory.window(self.region_hint), Direction::Write, count);
        }
    }

    /// Calls the guest if it wants to hear of what was published, at the time `now`. Where the call is held back: until when. By then at the
    /// latest [`RxQueue::release_by`] has to be called, and [`RxQueue::release`] before nobody does that any more.
    #[inline]
    pub fn notify(&mut self, now: u64) -> Option<u64> {
        let called = self.call.notify(&mut self.ring, now, |_| false, self.counters.rx.tally());
        self.heed(called)
    }

    /// Calls the guest, at the time `now`, if its call is held back until `time` at the latest, be that later than `now`; until when it is, if
    /// for longer.
    pub fn release_by(&mut self, time: u64, now: u64) -> Option<u64> {
        let called = self.call.release_by(&mut self.ring, (time, now), self.counters.rx.tally());
        self.heed(called)
    }

    /// Calls the guest now, if its call is held back.
    #[inline]
    pub fn release(&mut self) {
        let called = self.call.release(&mut self.ring, self.counters.rx.tally());
        self.heed(called);
    }

    /// Shows the guest all that was pushed: one publication, and a call if the guest wants one.
    #[inline]
    pub fn flush(&mut self) {
        self.release();
        self.publish();
        full_fence();
        let called = self.call.judge(&mut self.ring, self.counters.rx.tally());
        self.heed(called);
    }

    /// Delivers the packet and returns what it became.
    #[inline]
    fn place(&mut self, view: View<'_>) -> Result<Placed, RxDrop> {
        if self.memory.is_truncated() {
            return Err(self.stop_with(RingFault::MemoryLost));
        }
        let placed = match self.try_place(view) {
            // What was pushed before takes up the list; once published, it does not.
            Err(Refusal::Unstaged) if self.ring.mark().staged > 0 => {
                // The burst goes on: what it may look at stays what it was.
                let left = self.descriptors_left;
                self.flush();
                self.descriptors_left = left;
                if self.fault.is_some() {
                    return Err(RxDrop::NotReady);
                }
                self.try_place(view)
            }
            placed => placed,
        };
        placed.map_err(|refusal| match refusal {
            Refusal::Fault(fault) => self.stop_with(fault),
            refusal => refusal.reason(),
        })
    }

    /// Delivers as many of these packets, from the first on, as the guest takes as they are and into one buffer in one piece each: what
    /// nearly all packets and buffers are. Returns how many that were.
    #[inline]
    fn place_run(&mut self, run: Run<'_>) -> usize {
        let Self { ring, features, region_hint, placed, memory, counters, .. } = self;
        if memory.is_truncated() {
            return 0;
        }
        let header_len = features.net_header_len();
        let mut translator = Translator::new(memory, region_hint);
        ring.expect(run.len());
        // First all buffers, so that their lines come from the guest's CPU at the same time; then the packets.
        let mut singles = Singles::new();
        let most = run.len().min(ring.stageable());
        ring.singles(&mut translator, Direction::Write, most, &mut singles);
        singles.iter().for_each(|single| single.buffer.prefetch_write());
        let packets = run.packets();
        let mut count = 0;
        while let (Some(buffers), Some(rest)) = (singles.get(count..), packets.get(count..)) {
            if header_len == NET_HEADER_MAX {
                count += place_short(buffers, rest);
            }
            if count >= singles.len() || !place_one(&singles[count..], run.after(count), *features) {
                break;
            }
            count += 1;
        }
        if count > 0 {
            let mut bytes = 0;
            let written = packets.iter().map(|packet| {
                bytes += packet.len();
                (header_len + packet.len()) as u32
            });
            ring.pass(&singles[..count], written);
            counters.rx.packets.add(count as u64);
            counters.rx.bytes.add(bytes as u64);
            *placed = placed.saturating_add(count as u16);
        }
        count
    }

    /// Delivers the packet or leaves the ring as it was, but for bad buffers, which are given back empty.
    #[inline]
    fn try_place(&mut self, view: View<'_>) -> Result<Placed, Refusal> {
        if self.descriptors_left == 0 {
            // Nothing is known of the next buffers, and nothing will be before the next burst.
            return Err(Refusal::Drop(RxDrop::Full));
        }
        let mark = self.ring.mark();
        let translator = Translator::new(&self.memory, &mut self.region_hint);
        let mut buffers = Buffers::new(&mut self.ring, translator, self.features, self.descriptors_left);
        let delivered = egress::deliver(view, self.features, &mut buffers);
        let (taken, placed, descriptors_left) = (buffers.taken, buffers.placed, buffers.parts.descriptors_left);
        drop(buffers);
        self.descriptors_left = descriptors_left;
        let Err(refusal) = delivered else {
            self.placed = self.placed.saturating_add(taken as u16);
            return Ok(placed);
        };
        self.ring.rewind(mark);
        if let Refusal::BadBuffer = refusal {
            // The bad buffer would be met again and again: give back, empty, all that was taken up to and with it.
            self.give_back_empty(taken);
        }
        Err(refusal)
    }

    #[cold]
    fn give_back_empty(&mut self, chains: usize) {
        let mut translator = Translator::new(&self.memory, &mut self.region_hint);
        // `chains` were taken since the mark, with room to stage each of them. What is in them no longer matters.
        // A guest that makes them longer meanwhile does not have more of them followed than were walked.
        let mut slots = 0;
        for _ in 0..chains {
            if slots >= BURST_DESCRIPTORS {
                break;
            }
            let mark = self.ring.mark();
            match self.ring.take(&mut translator, Direction::Write, &mut Unread) {
                Ok(Some((chain, _))) => {
                    slots += usize::from(chain.slots);
                    self.ring.stage(chain, 0);
                }
                Ok(None) => break,
                // The guest has changed it meanwhile.
                Err(fault) => {
                    self.ring.rewind(mark);
                    self.stop_with(fault);
                    break;
                }
            }
        }
        self.descriptors_left = self.descriptors_left.saturating_sub(slots);
    }

    #[cold]
    fn stop_with(&mut self, fault: RingFault) -> RxDrop {
        self.fault = Some(fault);
        self.counters.rx.faults[fault as usize].add(1);
        RxDrop::NotReady
    }
}

/// Writes packets whose snapshot is all there is of them into these buffers; as many as fit before the first that is another.
#[inline]
fn place_short(buffers: &[Single<'_>], packets: &[Packet]) -> usize {
    let place = |(Single { buffer, .. }, packet): &(&Single<'_>, &Packet)| {
        packet.is_short() && buffer.write_both(&PLAIN_HEADER, packet.head())
    };
    buffers.iter().zip(packets).take_while(place).count()
}

/// Writes the first of these packets, whatever it is, into the first of these buffers. False where it does not fit, or the guest does not
/// take it as it is.
#[inline(never)]
fn place_one(buffers: &[Single<'_>], run: Run<'_>, features: Features) -> bool {
    let mut views = run.views();
    let ([Single { buffer, .. }, others @ ..], Some(view)) = (buffers, views.next()) else { return false };
    let (packet, tail) = (view.packet(), view.tail());
    let header_len = features.net_header_len();
    if buffer.len() < header_len + packet.len() || !packet.offload().accepted_by(features) {
        return false;
    }
    let head = packet.head();
    if packet.offload().is_plain() && header_len == NET_HEADER_MAX {
        buffer.write_both(&PLAIN_HEADER, head);
    } else {
        buffer.write(&packet.offload().write(features, 1)[..header_len]);
        buffer.suffix(header_len).write(head);
    }
    let mut at = header_len + head.len();
    if let [body] = tail {
        let later = others.get(BODIES_AHEAD - 1).zip(views.nth(BODIES_AHEAD - 1));
        let next = later.and_then(|(single, view)| {
            let [body] = view.tail() else { return None };
            Some((*body, single.buffer.suffix(header_len + view.packet().head().len())))
        });
        buffer.suffix(at).write_body(*body, next);
        return true;
    }
    for part in tail {
        at += buffer.suffix(at).write_source(*part);
    }
    true
}

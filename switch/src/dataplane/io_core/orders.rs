//! What an I/O core is told by other threads, between two rounds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringbuf::traits::Consumer;
use vm_ports::{Burst, Offload, QueuePair, TxQueue};

use super::super::accounting::SourceId;
use super::super::forwarder::Origin;
use super::super::handover::Token;
use super::super::held::HeldCall;
use super::super::mailbox::{Limits, Message, UplinkShare};
use super::super::reply::Reply;
use super::super::turns::{Credit, Share, cost};
use super::super::uplink::UplinkTx;
use super::super::waiting::Waiting;
use super::super::xcore::set_from;
use super::moves::Part;
use super::{Attached, GuestTx, IoCore, UplinkRx};
use crate::forwarding::{Entry, MacAddr, PortId, PortKind, TokenBucket, VlanId};

impl IoCore {
    /// Does what it was told since the last round. False: stop.
    #[inline]
    pub(in super::super) fn read_mailbox(&mut self) -> bool {
        while let Some(message) = self.mailbox.try_pop() {
            self.counters.messages.add(1);
            // A flood, and a frontend may ask for thousands at once: all others have a round before the next.
            let is_last = matches!(message, Message::Announce { .. });
            let goes_on = self.obey(message);
            self.note_chores();
            if !goes_on || is_last {
                return goes_on;
            }
        }
        true
    }

    /// Does what it was told. False: stop.
    fn obey(&mut self, message: Message) -> bool {
        match message {
            Message::Attach { port, queue, source, share, pair } => self.attach(port, queue, source, share, *pair),
            Message::TakeBack { port, queue, reply } => {
                reply.give(self.take_back(port, queue).map(|(pair, _)| Box::new(pair)));
            }
            Message::AttachUplink(share) => self.attach_uplink(*share),
            Message::TakeUplink { port, reply } => reply.give(self.take_uplink(port)),
            Message::HoldUplink { port, queue, until, reply } => {
                if let Some(uplink) = self.uplink_rx(port, queue) {
                    uplink.held_until = until.unwrap_or(0);
                }
                reply.iter().for_each(|reply| reply.give(()));
            }
            Message::EmptyUplink { port, queue, token, reply } => self.note_asked(port, queue, token, reply),
            Message::Table { table, moving, reply } => {
                let old = std::mem::replace(&mut self.forwarder.table, table);
                moving.iter().for_each(|moving| self.mark(moving));
                reply.give(old);
            }
            Message::Give { handed, reply } => {
                self.forwarder.out.set_move(Some(handed.moving));
                self.part = Some(Part::Gives(handed));
                reply.give(());
            }
            Message::Expect { moving, reply } => {
                self.forwarder.out.set_move(Some(moving));
                self.part = Some(Part::Awaits(moving));
                reply.give(());
            }
            Message::Connect { core, to, from, reply } => {
                self.forwarder.out.connect(core, *to);
                set_from(&mut self.from, core, *from);
                reply.give(());
            }
            Message::OpenPort { port, kind, limit } => self.open_port(port, kind, limit),
            Message::FlushPort(port) => self.forwarder.fdb.flush_port(port),
            Message::Generation { port, generation } => self.forwarder.fdb.resume(port, generation),
            Message::Learn(message) => _ = self.forwarder.fdb.apply(&message),
            Message::ClosePort(port) => self.close_port(port),
            Message::FixStation { vlan, mac, port } => self.fix_station(vlan, mac, port),
            Message::Announce { port, source, mac, pending } => {
                self.announce(port, source, mac);
                pending.store(false, Ordering::Relaxed);
            }
            Message::Stations { from, count, reply } => reply.give(self.stations(from, count)),
            Message::Foresee { mut question, reply } => {
                self.foresee(&mut question);
                reply.give(question);
            }
            Message::Look { mut ports, reply } => {
                self.look(&mut ports);
                reply.give(ports);
            }
            Message::Tune(limits) => self.tune(limits),
            Message::Tap { tap, reply } => {
                self.forwarder.out.taps.add(tap);
                reply.give(());
            }
            Message::Untap { capture, reply } => reply.give(self.forwarder.out.taps.remove(capture)),
            Message::Stop => {
                self.release_calls();
                return false;
            }
        }
        true
    }

    /// Guests are policed; an uplink brings what a whole network floods.
    fn open_port(&mut self, port: PortId, kind: PortKind, limit: u32) {
        self.forwarder.fdb.open_port(port, kind, limit);
        let policer = if kind == PortKind::Guest { self.flood } else { TokenBucket::UNLIMITED };
        if let Some(bucket) = self.forwarder.floods.get_mut(port.index()) {
            *bucket = policer;
            self.policed.extend((kind == PortKind::Guest).then_some(port));
        }
    }

    fn close_port(&mut self, port: PortId) {
        self.policed.retain(|policed| *policed != port);
        self.forwarder.fdb.close_port(port);
    }

    fn fix_station(&mut self, vlan: VlanId, mac: MacAddr, port: PortId) {
        if let Err(refusal) = self.forwarder.fdb.insert_fixed(vlan, mac, port) {
            self.counters.learn_refusals[refusal.index()].add(1);
        }
    }

    fn tune(&mut self, limits: Limits) {
        self.flood = limits.flood;
        self.policed.iter().for_each(|port| self.forwarder.floods[port.index()] = limits.flood);
        self.forwarder.fdb.tune(limits.ageing_s, limits.learn, limits.learn_max);
    }

    fn attach(&mut self, port: PortId, queue: usize, source: SourceId, share: Share, pair: QueuePair) {
        if let Some(tx) = self.attach_receiver(port, queue, source, pair) {
            self.attach_sender((port, queue), source, share, tx, Waiting::default());
        }
    }

    /// Serves the receive ring of a queue pair; gives its transmit ring back.
    pub(super) fn attach_receiver(
        &mut self,
        port: PortId,
        queue: usize,
        source: SourceId,
        mut pair: QueuePair,
    ) -> Option<TxQueue> {
        if let Some(rx) = pair.rx.take() {
            self.forwarder.out.add_rx(port, queue, source, rx);
        }
        self.attached.push(Attached { port, queue, counters: Arc::clone(pair.counters()) });
        self.counters.queue_pairs.set(self.attached.len() as u64);
        self.is_given_work();
        pair.tx.take()
    }

    /// Serves the transmit ring of a queue pair that is attached already, in which work is `waiting`.
    pub(super) fn attach_sender(
        &mut self,
        (port, queue): (PortId, usize),
        source: SourceId,
        share: Share,
        tx: TxQueue,
        waiting: Waiting,
    ) {
        let place = self.guests.len();
        let (origin, credit) = (Origin::new(port, source), Credit::new(share, &self.rounds));
        if let Some(change) = waiting.as_set() {
            self.counters.note_waiting(source, change);
        }
        let mut guest = GuestTx { queue, origin, tx, waiting, credit, share, again: false, armed: false };
        self.hear(&mut guest);
        self.guests.push(guest);
        self.place_of[source.index()] = place as u16;
        self.look_at(place);
    }

    /// Between bursts everything pulled is completed and everything pushed is shown, so the halves can go as they are; a call that is held back goes
    /// out first.
    pub(super) fn take_back(&mut self, port: PortId, queue: usize) -> Option<(QueuePair, Waiting)> {
        let index = self.attached.iter().position(|a| a.port == port && a.queue == queue)?;
        let attached = self.attached.swap_remove(index);
        self.counters.queue_pairs.set(self.attached.len() as u64);
        let mut pair = QueuePair::new(attached.counters);
        pair.rx = self.forwarder.out.remove_rx(port, queue);
        let tx = self.guests.iter().position(|g| g.origin.port == port && g.queue == queue);
        let mut waiting = Waiting::default();
        pair.tx = tx.map(|index| {
            let last = self.guests.len() - 1;
            self.rota.swap_remove(index, last);
            self.forwarder.out.held.swap_remove(HeldCall::Tx(index as u16), HeldCall::Tx(last as u16));
            let mut guest = self.guests.swap_remove(index);
            if let Some(moved) = self.guests.get(index) {
                self.place_of[moved.origin.source.index()] = index as u16;
            }
            self.hear_no_more(&mut guest);
            guest.tx.release();
            self.counters.note_nothing_waiting(guest.origin.source);
            waiting = guest.waiting;
            guest.tx
        });
        Some((pair, waiting))
    }

    fn attach_uplink(&mut self, share: UplinkShare) {
        let rx = self.attach_uplink_tx(share);
        self.uplinks.push(rx);
    }

    /// Sends through the TX queue of an uplink's queue pair; its other half is to be served, too.
    pub(super) fn attach_uplink_tx(&mut self, share: UplinkShare) -> UplinkRx {
        let UplinkShare { port, source, queues, pool, limits, counters } = share;
        let tx = UplinkTx::new(port, queues.tx, pool, limits, Arc::clone(&counters));
        self.forwarder.out.uplinks.push(tx);
        self.counters.uplinks.set(self.forwarder.out.uplinks.len() as u64);
        self.is_given_work();
        UplinkRx {
            origin: Origin::new(port, source),
            rx: queues.rx,
            counters,
            waiting: Waiting::default(),
            held_until: 0,
            asked: None,
        }
    }

    /// Whoever serves something is not parked, also where somebody was about to park it.
    fn is_given_work(&self) {
        vm_ports::fence();
        self.counters.parked.set(0);
    }

    fn uplink_rx(&mut self, port: PortId, queue: u16) -> Option<&mut UplinkRx> {
        self.uplinks.iter_mut().find(|uplink| uplink.origin.port == port && uplink.rx.id() == queue)
    }

    /// Somebody wants to know when an uplink's RX queue is empty.
    fn note_asked(&mut self, port: PortId, queue: u16, token: Token, reply: Reply<Token>) {
        let unanswered = match self.uplink_rx(port, queue) {
            // Whoever asked before has given up; the token is not freed here.
            Some(uplink) => uplink.asked.replace((token, reply)),
            None => Some((token, reply)),
        };
        if let Some((token, reply)) = unanswered {
            reply.give(token);
        }
    }

    /// Gives an uplink's queue pair up. Between bursts everything that was staged has been sent.
    pub(super) fn take_uplink_pair(&mut self, port: PortId, queue: u16) -> Option<UplinkShare> {
        let rx = self.uplinks.iter().position(|rx| rx.origin.port == port && rx.rx.id() == queue)?;
        let tx = self.forwarder.out.uplinks.iter().position(|tx| tx.is(port, queue))?;
        let UplinkRx { origin, rx, asked, .. } = self.uplinks.swap_remove(rx);
        if let Some((token, reply)) = asked {
            reply.give(token);
        }
        self.counters.note_nothing_waiting(origin.source);
        let share = self.forwarder.out.uplinks.swap_remove(tx).into_share(origin.source, rx);
        self.counters.uplinks.set(self.forwarder.out.uplinks.len() as u64);
        Some(share)
    }

    fn take_uplink(&mut self, port: PortId) -> Vec<UplinkShare> {
        let here = self.uplinks.iter().filter(|rx| rx.origin.port == port);
        let queues: Vec<u16> = here.map(|rx| rx.rx.id()).collect();
        queues.into_iter().filter_map(|queue| self.take_uplink_pair(port, queue)).collect()
    }

    /// Floods a reverse ARP request (RFC 903), as a guest that moved would, so that switches learn where it is now. The guest pays for it.
    fn announce(&mut self, port: PortId, source: SourceId, mac: MacAddr) {
        let frame = rarp(mac);
        self.counters.source(source).injected.add(1);
        let Self { forwarder, buffer, now, done_at, .. } = self;
        let mut burst = Burst::new(buffer);
        burst.push_frame([&frame[..]], Offload::NONE);
        let mut origin = Origin::new(port, source);
        forwarder.out.since = *done_at;
        forwarder.out.taps.begin_burst(*done_at);
        let flooded = forwarder.forward(&mut burst, &mut origin, *now, None);
        drop(burst);
        forwarder.finish(None, *done_at);
        let guest = self.guests.get_mut(usize::from(self.place_of[source.index()]));
        if let Some(guest) = guest.filter(|guest| guest.origin.source == source) {
            guest.credit.pay(cost(1, frame.len()) + flooded, false, &mut self.rounds);
        }
    }

    fn stations(&self, from: usize, count: usize) -> Option<Vec<Entry>> {
        let fdb = &self.forwarder.fdb;
        (from < fdb.buckets()).then(|| fdb.entries(from, count).collect())
    }
}

fn rarp(mac: MacAddr) -> [u8; 60] {
    const HEAD: [u8; 10] = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..22].copy_from_slice(&HEAD);
    frame[22..28].copy_from_slice(&mac.0);
    frame[32..38].copy_from_slice(&mac.0);
    frame
}

//! One I/O core's share of the switch: where a packet goes, and putting it there.

mod flood;
mod foresee;
mod outputs;
mod pace;

use std::sync::Arc;

use arrayvec::ArrayVec;
use vm_ports::{BURST_PACKETS, Burst, ETHERNET_BYTES, Packet, TxQueue};

pub(super) use self::outputs::Outputs;
use self::outputs::{Exit, reason, shape};
pub(super) use self::pace::Between;
use self::pace::{Pacing, Parts, Whole};
use super::accounting::{Charge, SourceId};
use super::handover::TableVersion;
use super::held::HeldCall;
use super::ports::PortTable;
use super::xcore::{Errand, Group, Groups, Label};
use crate::forwarding::{
    DropReason, Fdb, Frame, Ingress, Learned, MacAddr, Now, PortId, Tables, Target, TokenBucket, VlanId, decide,
};

/// Where packets of a burst came from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) port: PortId,
    pub(super) source: SourceId,
    /// Where the last of them went: most bursts begin with a packet for the same station.
    last: Option<LastRoute>,
}

impl Origin {
    pub(super) fn new(port: PortId, source: SourceId) -> Self {
        Self { port, source, last: None }
    }
}

/// Where packets with this Ethernet header go, as long as what that was found by is the same.
#[derive(Clone, Copy, Debug)]
struct LastRoute {
    ethernet: [u8; ETHERNET_BYTES],
    basis: Basis,
    ingress: Ingress,
    port: PortId,
}

/// What a lasting route was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    fdb: u32,
    table: TableVersion,
    /// A source is noted again when it was not for so many seconds.
    seconds: u32,
}

/// Everything a core needs to forward.
pub(super) struct Forwarder {
    pub(super) table: Arc<PortTable>,
    pub(super) fdb: Fdb,
    pub(super) out: Outputs,
    /// What each port may flood from this core, by port: all its queues here together.
    pub(super) floods: Box<[TokenBucket]>,
}

/// What was found out about a packet.
struct Route {
    ingress: Ingress,
    target: Target,
    /// Whether all of it holds for the next packet too, if that has the same Ethernet header.
    lasting: bool,
}

/// The tables of a core that forwards.
struct Live<'f> {
    fdb: &'f mut Fdb,
    out: &'f mut Outputs,
    floods: &'f mut [TokenBucket],
    port: PortId,
    now: Now,
    /// Whether the source was known, so that nothing was noted.
    known: bool,
}

impl Tables for Live<'_> {
    #[inline]
    fn learn(&mut self, vlan: VlanId, source: MacAddr) {
        match self.fdb.learn(vlan, source, self.port, self.now) {
            Learned::Known => self.known = true,
            Learned::Refreshed(message) => self.out.tell(message),
            Learned::New(message) => {
                self.out.counters.fdb_learned.add(1);
                self.out.tell(message);
            }
            Learned::Moved(message) => {
                self.out.counters.fdb_moves.add(1);
                self.out.tell(message);
            }
            Learned::Refused(refusal) => self.out.counters.learn_refusals[refusal.index()].add(1),
        }
    }

    #[inline]
    fn lookup(&mut self, vlan: VlanId, destination: MacAddr) -> Option<PortId> {
        self.fdb.lookup(vlan, destination)
    }

    #[inline]
    fn may_flood(&mut self) -> bool {
        self.floods.get_mut(self.port.index()).is_none_or(|bucket| bucket.take(self.now.cycles))
    }
}

impl Forwarder {
    /// Forwards every packet of a burst that came in on this core, in order. [`Forwarder::finish`] comes next. Returns what copies beyond one
    /// of each packet cost. Where that is much, `between` has its turn now and then.
    pub(super) fn forward(
        &mut self,
        burst: &mut Burst<'_>,
        origin: &mut Origin,
        now: Now,
        between: Option<&mut dyn Between>,
    ) -> i64 {
        match between {
            None => self.forward_at(&mut Whole, burst, origin, now),
            Some(between) => self.forward_at(&mut Parts::new(between), burst, origin, now),
        }
    }

    #[inline]
    fn forward_at(&mut self, pace: &mut impl Pacing, burst: &mut Burst<'_>, origin: &mut Origin, now: Now) -> i64 {
        let mut copied = 0;
        let mut next = 0;
        while next < burst.len() {
            let index = next;
            next += 1;
            let Route { ingress, target, lasting } = match self.route(burst.view(index).packet(), origin, now) {
                Ok(route) => route,
                Err(reason) => {
                    self.out.counters.source(origin.source).settle(Charge::Unicast, Err(reason));
                    continue;
                }
            };
            let port = match target {
                Target::One(port) => port,
                Target::Flood => {
                    copied += self.flood((&mut *burst, index), origin, ingress, pace);
                    continue;
                }
            };
            if lasting && next < burst.len() {
                next += burst.alike(next, &burst.view(index).packet().ethernet());
            }
            let exit = self.table.get(port).and_then(|entry| self.out.exit(entry, ingress, self.out.me));
            let mut first = index;
            while first < next {
                let part = pace.part(burst, first..next);
                first = part.end;
                match exit {
                    Some(Exit::Core(core, port)) => {
                        let version = self.table.version();
                        self.out.hand_over_run((core, port), version, burst, part.clone(), origin, ingress)
                    }
                    Some(exit) => self.out.leave(exit, burst, part.clone(), origin.source, Charge::Unicast),
                    None => part.clone().for_each(|index| self.unicast(burst, index, origin, ingress, port)),
                }
                pace.count(burst, part, self);
            }
        }
        copied
    }

    /// Ends a burst: all receivers see what they got and the sender, if it is a guest, gets its buffers back, each by one publication; then
    /// come the calls that are not held back. One fence between the two serves all of them. A sender comes with its place; `now` is some time
    /// after the burst before.
    #[inline]
    pub(super) fn finish(&mut self, sender: Option<(usize, &mut TxQueue)>, now: u64) {
        self.out.publish();
        match sender {
            Some((place, tx)) => {
                tx.publish();
                self.out.look_ahead();
                tx.look_ahead();
                vm_ports::fence();
                self.out.notify(now);
                if let Some(until) = tx.notify(now) {
                    self.out.held.hold(HeldCall::Tx(place as u16), until);
                }
            }
            None => {
                self.out.look_ahead();
                vm_ports::fence();
                self.out.notify(now);
            }
        }
    }

    /// Source check, VLAN, learning, look-up: all on the snapshot. None of them where the last lasting route holds.
    // Always, as it would be if there were no bursts in parts: with two callers the compiler leaves it a call.
    #[inline(always)]
    fn route(&mut self, packet: &Packet, origin: &mut Origin, now: Now) -> Result<Route, DropReason> {
        let ethernet = packet.ethernet();
        let basis = Basis { fdb: self.fdb.edition(), table: self.table.version(), seconds: now.seconds };
        if let Some(last) = &origin.last
            && last.ethernet == ethernet
            && last.basis == basis
        {
            return Ok(Route { ingress: last.ingress, target: Target::One(last.port), lasting: true });
        }
        let route = self.find_route(packet, origin.port, now)?;
        if let Route { ingress, target: Target::One(port), lasting: true } = route {
            origin.last = Some(LastRoute { ethernet, basis, ingress, port });
        }
        Ok(route)
    }

    fn find_route(&mut self, packet: &Packet, from: PortId, now: Now) -> Result<Route, DropReason> {
        let Self { table, fdb, out, floods } = self;
        let entry = table.get(from).ok_or(DropReason::PortGone)?;
        let mut tables = Live { fdb, out, floods, port: from, now, known: false };
        let (ingress, target) = decide(entry.entrance(), frame(packet), &mut tables)?;
        Ok(Route { ingress, target, lasting: tables.known && !ingress.tagged })
    }

    fn unicast(&mut self, burst: &mut Burst<'_>, index: usize, origin: &Origin, ingress: Ingress, port: PortId) {
        let Self { table, out, .. } = self;
        let source = out.counters.source(origin.source);
        let found = match table.get(port) {
            Some(entry) => out.receiver(entry, burst.view(index), out.me).map(|receiver| (entry, receiver)),
            None => Err(DropReason::PortGone),
        };
        let (entry, receiver) = match found {
            Ok(found) => found,
            Err(reason) => return source.settle(Charge::Unicast, Err(reason)),
        };
        if usize::from(receiver.core) == out.me && !out.awaits(port, receiver.queue) {
            let mut ingress = ingress;
            out.deliver(entry, receiver, burst, index, &mut ingress, (origin.source, Charge::Unicast));
            return;
        }
        let way = (usize::from(receiver.core), port);
        out.hand_over_run(way, table.version(), burst, index..index + 1, origin, ingress);
    }

    /// Delivers a burst that core `from` handed over. [`Forwarder::finish`] comes next. Returns what has to wait for a queue pair: numbers in
    /// the burst, and what to do then. `between` is as in [`Forwarder::forward`].
    pub(super) fn receive(
        &mut self,
        burst: &mut Burst<'_>,
        groups: &Groups<'_>,
        from: usize,
        between: Option<&mut dyn Between>,
    ) -> ArrayVec<(usize, Errand), BURST_PACKETS> {
        match between {
            None => self.receive_at(&mut Whole, burst, groups, from),
            Some(between) => self.receive_at(&mut Parts::new(between), burst, groups, from),
        }
    }

    #[inline]
    fn receive_at(
        &mut self,
        pace: &mut impl Pacing,
        burst: &mut Burst<'_>,
        groups: &Groups<'_>,
        from: usize,
    ) -> ArrayVec<(usize, Errand), BURST_PACKETS> {
        let mut parked = ArrayVec::new();
        let mut groups = groups.iter().peekable();
        let mut next = 0;
        while let Some(&Group { label, packets }) = groups.next() {
            let Self { table, out, .. } = &mut *self;
            let first = next;
            next += packets;
            let (port, charge) = match label.errand {
                Errand::Deliver(port) => (port, Charge::Arrived),
                Errand::Copy(port) => (port, Charge::Copy),
                Errand::Flood { copies } => {
                    for index in first..next {
                        let awaited = self.receive_flood((&mut *burst, index), (label, copies), from, pace);
                        parked.extend(awaited.map(|port| (index, Errand::Copy(port))));
                    }
                    continue;
                }
            };
            if let Some(exit @ (Exit::Guest(_) | Exit::Uplink(_))) =
                table.get(port).and_then(|entry| out.exit(entry, label.ingress, from))
            {
                while let Some(other) = groups.next_if(|other| other.label.goes_with(label)) {
                    next += other.packets;
                }
                let mut first = first;
                while first < next {
                    let part = pace.part(burst, first..next);
                    first = part.end;
                    self.out.leave(exit, burst, part.clone(), label.source, charge);
                    pace.count(burst, part, self);
                }
                continue;
            }
            for index in first..next {
                if self.receive_one(burst, index, label, (port, charge), from) {
                    parked.push((index, label.errand));
                }
                pace.count(burst, index..index + 1, self);
            }
        }
        parked
    }

    /// Delivers one packet of it through one port. Whether it has to wait instead.
    fn receive_one(
        &mut self,
        burst: &mut Burst<'_>,
        index: usize,
        label: &Label,
        (port, charge): (PortId, Charge),
        from: usize,
    ) -> bool {
        let Self { table, out, .. } = self;
        let found = match table.get(port) {
            Some(entry) => out.receiver(entry, burst.view(index), from).map(|receiver| (entry, receiver)),
            None => Err(DropReason::PortGone),
        };
        match found {
            Ok((entry, receiver)) if out.owner(entry.id, receiver, label.table) == out.me => {
                if out.awaits(entry.id, receiver.queue) {
                    return true;
                }
                let mut ingress = label.ingress;
                out.deliver(entry, receiver, burst, index, &mut ingress, (label.source, charge));
            }
            // The receiver left this core while the packet was under way.
            Ok(_) => out.counters.source(label.source).settle(charge, Err(DropReason::ReceiverNotReady)),
            Err(reason) => out.counters.source(label.source).settle(charge, Err(reason)),
        }
        false
    }
}

/// What is looked at in a packet.
#[inline]
fn frame(packet: &Packet) -> Frame<'_> {
    let (destination, source) = (MacAddr(packet.destination()), MacAddr(packet.source()));
    Frame { destination, source, head: packet.head() }
}

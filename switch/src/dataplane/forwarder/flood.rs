//! Floods: a copy of a packet for every other port of its VLAN. That may be a thousand copies of 64 KiB, so others have their turn in between.

use vm_ports::{BURST_BYTES, BURST_PACKETS, Burst, Packet};

use super::super::accounting::Charge;
use super::super::ports::{PortEntry, PortTable};
use super::super::turns::cost;
use super::super::xcore::{Errand, Label};
use super::{Forwarder, Origin};
use crate::forwarding::{DropReason, Ingress, PortId, VlanId};

/// Whoever has a turn while a long burst is forwarded.
pub(in super::super) trait Between {
    /// What was forwarded of the burst may be shown to its receivers, and other bursts be forwarded.
    fn take_turn(&mut self, forwarder: &mut Forwarder);
}

/// What was done of a burst since others had their turn: no more than a burst of unicast packets is.
pub(super) struct Pace<'b> {
    between: Option<&'b mut dyn Between>,
    packets: usize,
    bytes: usize,
    /// So many packets of the burst are counted.
    counted: usize,
}

impl<'b> Pace<'b> {
    #[inline]
    pub(super) fn new(between: Option<&'b mut dyn Between>) -> Self {
        Self { between, packets: 0, bytes: 0, counted: 0 }
    }

    /// Counts packets of the burst that went out once, up to this one, which is flooded.
    fn count_to(&mut self, burst: &Burst<'_>, index: usize) {
        let run = burst.run(self.counted.min(index)..index);
        self.packets += run.len();
        self.bytes += bytes(run.packets());
        self.counted = index + 1;
    }

    fn count(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len;
    }

    /// Whether it is others' turn.
    fn is_over(&self) -> bool {
        self.packets >= BURST_PACKETS || self.bytes >= BURST_BYTES
    }

    /// Whether it will be before these packets have gone out, too.
    fn ends_within(&self, packets: &[Packet]) -> bool {
        self.packets + packets.len() > BURST_PACKETS || self.bytes + bytes(packets) > BURST_BYTES
    }
}

fn bytes(packets: &[Packet]) -> usize {
    packets.iter().map(Packet::len).sum()
}

impl Forwarder {
    /// Copies to every other port of the VLAN: here for the ports this core serves, through one copy to each other core for the rest.
    /// Returns what the copies made here, beyond one, cost.
    pub(super) fn flood(
        &mut self,
        (burst, index): (&mut Burst<'_>, usize),
        origin: &Origin,
        ingress: Ingress,
        pace: &mut Pace<'_>,
    ) -> i64 {
        pace.count_to(burst, index);
        self.pause(pace);
        let Self { table, out, .. } = &mut *self;
        let mut copies = 0;
        // Copies that each other core is to make.
        let mut others = [0; config::MAX_IO_CORES];
        // A port here whose queue pair has not arrived yet.
        let mut awaited = None;
        for entry in flood_ports(table, origin.port, ingress.vlan) {
            match out.receiver(entry, burst.view(index), out.me) {
                Ok(receiver) if usize::from(receiver.core) != out.me => others[usize::from(receiver.core)] += 1,
                Ok(receiver) if out.awaits(entry.id, receiver.queue) => awaited = Some(entry.id),
                _ => {}
            }
            copies += 1;
        }
        // Before the packet's tag is put on or taken off for a port here: the other cores get it as it came.
        let floods = others.into_iter().enumerate().filter(|(_, copies)| *copies > 0);
        let floods = floods.map(|(core, copies)| (core, copies, Errand::Flood { copies }));
        for (core, copies, errand) in floods.chain(awaited.map(|port| (out.me, 1, Errand::Copy(port)))) {
            let Self { table, out, .. } = &mut *self;
            let label = out.label(errand, table.version(), origin, ingress);
            if out.hand_over(core, burst.view(index).into(), &label) == 0 {
                out.drop_copies(origin.source, copies, DropReason::XcoreFull);
            }
            self.has_copied(burst, index, pace);
        }
        let mut tagged = ingress;
        let mut copied = others.iter().filter(|copies| **copies > 0).count();
        let mut next = 0;
        loop {
            let Self { table, out, .. } = &mut *self;
            let Some(entry) = next_port(table, &mut next, origin.port, ingress.vlan) else { break };
            match out.receiver(entry, burst.view(index), out.me) {
                Ok(receiver) if usize::from(receiver.core) != out.me || awaited == Some(entry.id) => {}
                Ok(receiver) => {
                    out.deliver(entry, receiver, burst, index, &mut tagged, (origin.source, Charge::Copy));
                    copied += 1;
                    self.has_copied(burst, index, pace);
                }
                // A port without a receiver costs a copy, too: one that is dropped and counted.
                Err(reason) => out.counters.source(origin.source).settle(Charge::Copy, Err(reason)),
            }
        }
        let outcome = if copies > 0 { Ok(()) } else { Err(DropReason::NoDestination) };
        self.out.counters.source(origin.source).settle(Charge::Unicast, outcome);
        self.pause_before_rest(burst, index, pace);
        copied.saturating_sub(1) as i64 * cost(1, burst.view(index).packet().len())
    }

    /// Makes the `expected` copies that this core was asked for. Receivers that went away meanwhile cost theirs. Returns the port whose copy has to
    /// wait for its queue pair.
    pub(super) fn receive_flood(
        &mut self,
        (burst, index): (&mut Burst<'_>, usize),
        (label, expected): (&Label, u16),
        from: usize,
        pace: &mut Pace<'_>,
    ) -> Option<PortId> {
        pace.count_to(burst, index);
        self.pause(pace);
        let mut ingress = label.ingress;
        let mut made = 0;
        let mut awaited = None;
        let mut next = 0;
        loop {
            let Self { table, out, .. } = &mut *self;
            let Some(entry) = next_port(table, &mut next, label.port, ingress.vlan) else { break };
            // Ports without a receiver were counted by the core that flooded.
            let Ok(receiver) = out.receiver(entry, burst.view(index), from) else { continue };
            if out.owner(entry.id, receiver, label.table) != out.me {
                continue;
            }
            made += 1;
            if out.awaits(entry.id, receiver.queue) {
                awaited = Some(entry.id);
            } else {
                out.deliver(entry, receiver, burst, index, &mut ingress, (label.source, Charge::Copy));
                self.has_copied(burst, index, pace);
            }
        }
        self.out.drop_copies(label.source, expected.saturating_sub(made), DropReason::ReceiverNotReady);
        self.pause_before_rest(burst, index, pace);
        awaited
    }

    /// One more copy of a packet was made.
    fn has_copied(&mut self, burst: &Burst<'_>, index: usize, pace: &mut Pace<'_>) {
        pace.count(burst.view(index).packet().len());
        self.pause(pace);
    }

    fn pause(&mut self, pace: &mut Pace<'_>) {
        if pace.is_over() {
            self.give_way(pace);
        }
    }

    /// After a flood: the rest of the burst may go out without another.
    fn pause_before_rest(&mut self, burst: &Burst<'_>, index: usize, pace: &mut Pace<'_>) {
        if pace.ends_within(burst.run(index + 1..burst.len()).packets()) {
            self.give_way(pace);
        }
    }

    fn give_way(&mut self, pace: &mut Pace<'_>) {
        (pace.packets, pace.bytes) = (0, 0);
        if let Some(between) = &mut pace.between {
            between.take_turn(self);
        }
    }
}

/// The next of the ports that a packet is flooded to, from number `next` on, which becomes the one after it.
fn next_port<'t>(table: &'t PortTable, next: &mut usize, from: PortId, vlan: VlanId) -> Option<&'t PortEntry> {
    let entry = table.iter_from(*next).find(|entry| takes(entry, from, vlan))?;
    *next = entry.id.index() + 1;
    Some(entry)
}

/// Every other port of a VLAN.
pub(super) fn flood_ports(table: &PortTable, from: PortId, vlan: VlanId) -> impl Iterator<Item = &PortEntry> {
    table.iter().filter(move |entry| takes(entry, from, vlan))
}

fn takes(entry: &PortEntry, from: PortId, vlan: VlanId) -> bool {
    entry.id != from && entry.vlans.egress(vlan).is_some()
}

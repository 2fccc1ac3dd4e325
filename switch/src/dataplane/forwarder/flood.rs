//! Floods: a copy of a packet for every other port of its VLAN. That may be a thousand copies of 64 KiB, so others have their turn in between.

use vm_ports::Burst;

use super::super::accounting::Charge;
use super::super::ports::{PortEntry, PortTable};
use super::super::turns::{DESCRIPTOR_COST, cost};
use super::super::xcore::{Errand, Label};
use super::pace::Pacing;
use super::{Forwarder, Origin};
use crate::forwarding::{DropReason, Ingress, PortId, VlanId};

impl Forwarder {
    /// Copies to every other port of the VLAN: here for the ports this core serves, through one copy to each other core for the rest.
    /// Returns what the copies made here, beyond one, cost.
    pub(super) fn flood(
        &mut self,
        (burst, index): (&mut Burst<'_>, usize),
        origin: &Origin,
        ingress: Ingress,
        pace: &mut dyn Pacing,
    ) -> i64 {
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
            pace.count(burst, index..index + 1, self);
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
                    pace.count(burst, index..index + 1, self);
                }
                // A port without a receiver costs a copy, too: one that is dropped and counted.
                Err(reason) => out.counters.source(origin.source).settle(Charge::Copy, Err(reason)),
            }
        }
        let outcome = if copies > 0 { Ok(()) } else { Err(DropReason::NoDestination) };
        self.out.counters.source(origin.source).settle(Charge::Unicast, outcome);
        let packet = burst.view(index);
        let copy = cost(1, packet.packet().len()) + packet.descriptors() as i64 * DESCRIPTOR_COST;
        copied.saturating_sub(1) as i64 * copy
    }

    /// Makes the `expected` copies that this core was asked for. Receivers that went away meanwhile cost theirs. Returns the port whose copy has to
    /// wait for its queue pair.
    pub(super) fn receive_flood(
        &mut self,
        (burst, index): (&mut Burst<'_>, usize),
        (label, expected): (&Label, u16),
        from: usize,
        pace: &mut dyn Pacing,
    ) -> Option<PortId> {
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
                pace.count(burst, index..index + 1, self);
            }
        }
        self.out.drop_copies(label.source, expected.saturating_sub(made), DropReason::ReceiverNotReady);
        awaited
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

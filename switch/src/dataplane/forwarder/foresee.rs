//! What the forwarder would do with a packet: decided as for one that is forwarded, with nothing left behind (see [`trace`](super::super::trace)).

use vm_ports::Burst;

use super::super::ports::{PortEntry, PortTable, Way};
use super::super::trace::{EgressPort, Outlook, Seen};
use super::flood::flood_ports;
use super::{Forwarder, Outputs, frame, reason, shape};
use crate::forwarding::{
    DropReason, Fdb, Foreseen, Ingress, MacAddr, Now, PortId, Tables, Target, TokenBucket, VlanId, decide,
};

/// The tables, which are only read, and what was found in them.
struct Glance<'f> {
    fdb: &'f Fdb,
    /// What the port may flood.
    flood: Option<&'f TokenBucket>,
    port: PortId,
    now: Now,
    learnt: Option<Foreseen>,
    seen: &'f mut Seen,
}

impl Tables for Glance<'_> {
    fn learn(&mut self, vlan: VlanId, source: MacAddr) {
        let foreseen = self.fdb.foresee(vlan, source, self.port, self.now);
        self.seen.vlan = Some(vlan);
        self.seen.learning = Some((foreseen.learning, self.fdb.entry(vlan, source)));
        self.learnt = Some(foreseen);
    }

    fn lookup(&mut self, vlan: VlanId, destination: MacAddr) -> Option<PortId> {
        let port = match &self.learnt {
            Some(learnt) => self.fdb.lookup_after(learnt, vlan, destination),
            None => self.fdb.lookup(vlan, destination),
        };
        let entry = self.fdb.entry(vlan, destination);
        self.seen.lookup = Some(entry.filter(|entry| Some(entry.port) == port));
        port
    }

    fn may_flood(&mut self) -> bool {
        let Some(bucket) = self.flood else { return true };
        self.seen.tokens = Some(bucket.tokens(self.now.cycles));
        bucket.has(self.now.cycles)
    }
}

impl Forwarder {
    /// What would become of the first packet of a burst that came in on this core from `port`.
    pub(in super::super) fn foresee(&self, burst: &mut Burst<'_>, port: PortId, now: Now, seen: &mut Seen) {
        let Self { table, fdb, out, floods } = self;
        let Some(entry) = table.get(port) else { return };
        seen.only_source = entry.check.address();
        let flood = floods.get(port.index());
        let mut tables = Glance { fdb, flood, port, now, learnt: None, seen };
        let outcome = decide(entry.entrance(), frame(burst.view(0).packet()), &mut tables);
        seen.outcome = outcome;
        let Ok((mut ingress, target)) = outcome else { return };
        // Other cores get it as it came.
        let came = burst.view(0).packet().len();
        match target {
            Target::One(to) => match table.get(to) {
                Some(entry) => seen.egress_ports.push(out.foresee(entry, burst, came, &mut ingress)),
                None => seen.outcome = Err(DropReason::PortGone),
            },
            Target::Flood => {
                let ports = flood_ports(table, port, ingress.vlan);
                seen.egress_ports.extend(ports.map(|entry| out.foresee(entry, burst, came, &mut ingress)));
                if seen.egress_ports.is_empty() {
                    seen.outcome = Err(DropReason::NoDestination);
                }
            }
        }
    }
}

impl Outputs {
    /// How the first packet of a burst would leave through a port. `ingress.tagged` says, and is made to say, whether it carries its tag.
    fn foresee(&self, entry: &PortEntry, burst: &mut Burst<'_>, came: usize, ingress: &mut Ingress) -> EgressPort {
        let receiver = self.receiver(entry, burst.view(0), self.me);
        let egress = entry.vlans.egress(ingress.vlan);
        let other = receiver.ok().map(|receiver| usize::from(receiver.core)).filter(|core| *core != self.me);
        let is_full = other.is_some_and(|core| !self.has_room(core, came));
        let shaped = shape(burst.packet_mut(0), ingress, &entry.vlans);
        let outlook = match (shaped, is_full) {
            (_, true) => Some(Outlook::Drop(DropReason::XcoreFull)),
            (Err(reason), _) => Some(Outlook::Drop(reason)),
            _ => None,
        };
        EgressPort { port: entry.id, egress, len: burst.view(0).packet().len(), receiver, outlook }
    }

    /// Whether a packet of `len` bytes can be handed to another core.
    fn has_room(&self, core: usize, len: usize) -> bool {
        self.to.get(core).and_then(Option::as_ref).is_some_and(|to| to.has_room(len))
    }

    /// What a packet would meet at a receiver that is on this core.
    pub(in super::super) fn look(&mut self, table: &PortTable, to: &mut EgressPort) {
        let Ok(receiver) = to.receiver else { return };
        if usize::from(receiver.core) != self.me || to.outlook.is_some() {
            return;
        }
        if self.awaits(to.port, receiver.queue) {
            to.outlook = Some(Outlook::Waits);
            return;
        }
        let outlook = match table.get(to.port).map(|entry| &entry.way) {
            Some(Way::Guest(_)) => {
                let at = self.place_of(to.port, usize::from(receiver.queue));
                let slot = self.rx.get_mut(usize::from(at)).ok_or(DropReason::ReceiverNotReady);
                slot.and_then(|slot| slot.rx.outlook(to.len).map(u32::from).map_err(reason))
            }
            Some(Way::Uplink(_)) => match self.uplinks.iter().find(|uplink| uplink.is(to.port, receiver.queue)) {
                Some(uplink) => uplink.outlook(to.len),
                None => Err(DropReason::PortGone),
            },
            None => Err(DropReason::PortGone),
        };
        to.outlook = Some(outlook.map_or_else(Outlook::Drop, Outlook::Room));
    }
}

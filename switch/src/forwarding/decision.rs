//! What becomes of a packet, up to where it goes. There is one way through this for packets that are forwarded and for those that somebody only
//! asks about: they differ in the [`Tables`] that they bring.

use super::{Destination, DropReason, Ingress, MacAddr, PortId, PortVlans, SourceCheck, Tag, VlanId};

/// What a port says of the packets that come in through it.
#[derive(Clone, Copy)]
pub(crate) struct Entrance<'p> {
    pub(crate) port: PortId,
    pub(crate) check: SourceCheck,
    pub(crate) vlans: &'p PortVlans,
}

/// What is looked at in a packet.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'f> {
    pub(crate) destination: MacAddr,
    pub(crate) source: MacAddr,
    /// Its first bytes.
    pub(crate) head: &'f [u8],
}

/// Where a packet is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    One(PortId),
    Flood,
}

/// What a decision is made by, and what it leaves there.
pub(crate) trait Tables {
    /// Notes where the packet came from.
    fn learn(&mut self, vlan: VlanId, source: MacAddr);

    /// The port behind which a station is.
    fn lookup(&mut self, vlan: VlanId, destination: MacAddr) -> Option<PortId>;

    /// Takes a token for a flood. Whether there was one.
    fn may_flood(&mut self) -> bool;
}

/// Source check, VLAN, learning, look-up, policing.
#[inline]
pub(crate) fn decide(
    entrance: Entrance<'_>,
    frame: Frame<'_>,
    tables: &mut impl Tables,
) -> Result<(Ingress, Target), DropReason> {
    entrance.check.check(frame.source)?;
    let ingress = entrance.vlans.ingress(Tag::read(frame.head)?)?;
    tables.learn(ingress.vlan, frame.source);
    let target = match frame.destination.destination() {
        Destination::Reserved => return Err(DropReason::ReservedMulticast),
        Destination::Flood => Target::Flood,
        Destination::Unicast => match tables.lookup(ingress.vlan, frame.destination) {
            Some(port) if port == entrance.port => return Err(DropReason::Hairpin),
            Some(port) => Target::One(port),
            None => Target::Flood,
        },
    };
    if target == Target::Flood && !tables.may_flood() {
        return Err(DropReason::FloodPoliced);
    }
    Ok((ingress, target))
}

//! Which rules an uplink should have, and what to change: owners in, operations out.

use std::collections::BTreeMap;

use crate::dataplane::ports::{PortTable, Way};
use crate::forwarding::PortId;

/// The addresses that are configured for each guest's port.
pub(super) type Addresses = BTreeMap<PortId, Vec<[u8; 6]>>;
/// For an address, the RX queue that receives what is for it.
pub(super) type Rules = BTreeMap<[u8; 6], u16>;

/// One rule that is to be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) mac: [u8; 6],
    /// The queue of the rule there is, …
    pub(super) from: Option<u16>,
    /// … and of the one there should be.
    pub(super) to: Option<u16>,
}

/// A rule for each address of a guest all of whose queue pairs are on one core, if that core serves the uplink's queue of its own. What several
/// cores serve is better spread by RSS, and so is what has one queue anyway. An address of two guests, in different VLANs, gets none.
pub(super) fn wanted(table: &PortTable, uplink: PortId, addresses: &Addresses) -> Rules {
    let Some(Way::Uplink(ways)) = table.get(uplink).map(|entry| &entry.way) else { return Rules::new() };
    if ways.iter().all(|way| way.queue == ways[0].queue) {
        return Rules::new();
    }
    let owner = |port: PortId| match table.get(port).map(|entry| &entry.way) {
        Some(Way::Guest(receivers)) => {
            let core = receivers.first()?.core;
            receivers.iter().all(|receiver| receiver.core == core).then_some(core)
        }
        _ => None,
    };
    let mut claims = BTreeMap::<[u8; 6], usize>::new();
    addresses.values().flatten().for_each(|mac| *claims.entry(*mac).or_default() += 1);
    let mut rules = Rules::new();
    for (port, macs) in addresses {
        let Some(core) = owner(*port) else { continue };
        let Some(way) = ways.get(usize::from(core)).filter(|way| way.core == core) else { continue };
        rules.extend(macs.iter().filter(|mac| claims[*mac] == 1).map(|mac| (*mac, way.queue)));
    }
    rules
}

/// What makes the rules those that are wanted. Removals come first, so that there is room.
pub(super) fn changes(have: &Rules, want: &Rules) -> Vec<Change> {
    let gone = have.iter().filter(|(mac, _)| !want.contains_key(*mac));
    let gone = gone.map(|(mac, queue)| Change { mac: *mac, from: Some(*queue), to: None });
    let other = want.iter().filter(|(mac, queue)| have.get(*mac) != Some(*queue));
    let other = other.map(|(mac, queue)| Change { mac: *mac, from: have.get(mac).copied(), to: Some(*queue) });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ports::{PortEntry, Receiver};
    use crate::dataplane::uplink_queues::ways;
    use crate::forwarding::{PortVlans, SourceCheck, VlanId};

    const UPLINK: PortId = PortId(9);

    fn mac(number: u8) -> [u8; 6] {
        [0x52, 0x54, 0, 0, 0, number]
    }

    fn set(table: &mut PortTable, id: PortId, way: Way) {
        table.set(PortEntry { id, vlans: PortVlans::access(VlanId::DEFAULT), check: SourceCheck::ANY, way });
    }

    /// Guests by the cores of their queue pairs, and an uplink.
    fn table(guests: &[&[u16]], uplink: Way) -> (PortTable, Addresses) {
        let (mut table, mut addresses) = (PortTable::default(), Addresses::new());
        for (number, cores) in guests.iter().enumerate() {
            let receivers = cores.iter().enumerate().map(|(queue, core)| Receiver { queue: queue as u16, core: *core });
            set(&mut table, PortId(number as u16), Way::Guest(receivers.collect()));
            addresses.insert(PortId(number as u16), vec![mac(number as u8)]);
        }
        set(&mut table, UPLINK, uplink);
        (table, addresses)
    }

    fn rules(guests: &[&[u16]], uplink: Way) -> Vec<(u8, u16)> {
        let (table, addresses) = table(guests, uplink);
        wanted(&table, UPLINK, &addresses).into_iter().map(|(mac, queue)| (mac[5], queue)).collect()
    }

    #[test]
    fn a_guest_is_steered_to_its_core() {
        assert_eq!(rules(&[&[0], &[2], &[1, 1]], ways(3, 3)), [(0, 0), (1, 2), (2, 1)]);
    }

    #[test]
    fn a_guest_on_several_cores_or_on_none_is_not() {
        assert_eq!(rules(&[&[0, 1], &[], &[1]], ways(2, 2)), [(2, 1)]);
    }

    #[test]
    fn there_is_no_rule_where_it_leads_to_another_core() {
        // The third core has no queue of its own.
        assert_eq!(rules(&[&[2], &[1]], ways(3, 2)), [(1, 1)]);
        // That of the second is served by the first.
        let mut away = ways(2, 2);
        let Way::Uplink(queues) = &mut away else { unreachable!("it is an uplink's") };
        queues[1].core = 0;
        assert_eq!(rules(&[&[1], &[0]], away), [(1, 0)]);
        assert_eq!(rules(&[&[0]], ways(3, 1)), [], "there is but one queue");
    }

    #[test]
    fn an_address_of_two_guests_has_no_rule() {
        let (table, mut addresses) = table(&[&[0], &[1], &[1]], ways(2, 2));
        addresses.insert(PortId(1), vec![mac(0), mac(7)]);
        assert_eq!(wanted(&table, UPLINK, &addresses), Rules::from([(mac(7), 1), (mac(2), 1)]));
    }

    #[test]
    fn only_what_is_different_is_changed() {
        let have = Rules::from([(mac(1), 0), (mac(2), 1), (mac(3), 2)]);
        let want = Rules::from([(mac(1), 0), (mac(2), 2), (mac(4), 1)]);
        let change = |number, from, to| Change { mac: mac(number), from, to };
        let expected = [change(3, Some(2), None), change(2, Some(1), Some(2)), change(4, None, Some(1))];
        assert_eq!(changes(&have, &want), expected);
        assert_eq!(changes(&want, &want), []);
    }

    #[test]
    fn changes_lead_to_what_is_wanted() {
        // Guests move, come and go, many times over: the rules follow.
        let mut have = Rules::new();
        for round in 0..200_u16 {
            let places: Vec<Vec<u16>> =
                (0..6).map(|guest| vec![(round / (guest + 1)) % 3; usize::from((round + guest) % 5 > 0)]).collect();
            let guests: Vec<&[u16]> = places.iter().map(Vec::as_slice).collect();
            let (table, addresses) = table(&guests, ways(3, 3));
            let want = wanted(&table, UPLINK, &addresses);
            for Change { mac, from, to } in changes(&have, &want) {
                assert_eq!(have.remove(&mac), from);
                have.extend(to.map(|queue| (mac, queue)));
            }
            assert_eq!(have, want);
        }
    }
}

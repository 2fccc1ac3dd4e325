//! Where packets go is what tables say now, whatever they said of the packet before.
#![forbid(unsafe_code)]

mod rig;

use rig::{PACKED, SPLIT, Workload};
use synthetic_guest::packet::mac;

/// The receiver's number.
const THERE: u32 = 2;

/// Frames of the same flow, one in a burst: they arrive, or none of them does.
fn one_after_the_other(world: &mut Workload, arrive: bool) {
    for _ in 0..3 {
        world.send(1);
        world.round();
        world.receive(usize::from(arrive));
    }
}

#[test]
fn a_flow_follows_what_tables_say_in_its_next_burst() {
    for features in [SPLIT, PACKED] {
        let mut world = Workload::v2v(features, 60, 1);
        let [sender, receiver] = world.ports[..] else { panic!("two guests") };
        one_after_the_other(&mut world, true);
        for port in [receiver, sender] {
            world.rig().set_vlan(port, Some(7));
            one_after_the_other(&mut world, false);
            world.rig().set_vlan(port, Some(1));
            one_after_the_other(&mut world, true);
        }
        // Where it was heard itself, it is no longer looked for.
        world.rig().fix_station(mac(THERE), sender);
        one_after_the_other(&mut world, false);
    }
}

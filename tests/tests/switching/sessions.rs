//! What a frontend may do while traffic flows: memory, resets, announcements, and coming back as somebody else.

use std::time::Duration;

use synthetic_guest::packet::mac;
use synthetic_guest::{Base, Features, Order, Role};
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use crate::frames::{addressed, bytes, one, udp};
use crate::rig::{LIMIT, Node, Plan};

const BROADCAST: [u8; 6] = [0xff; 6];

/// Both directions between two guests, whatever state they are in.
fn talk(a: &mut Node, b: &mut Node) {
    for round in 0..4 {
        let (there, back) = (udp(1, 2, 200 + round, 100), udp(2, 1, 300 + round, 100));
        a.send(&there);
        assert_eq!(b.frames(), bytes(&there));
        b.send(&back);
        assert_eq!(a.frames(), bytes(&back));
    }
}

#[test]
fn memory_slots_are_added_and_removed_while_packets_flow() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    // Rings in the first region, buffers in the next two, nothing in the others.
    let mut a = rig.guest_with("a", |config| {
        config.session.add_regions = true;
        config.ram.regions = 6;
        config.ram.region_size = 4 << 20;
        config.ram.backing = synthetic_guest::Backing::Pages;
    });
    let mut b = rig.guest_with("b", |_| ());
    talk(&mut a, &mut b);
    assert_eq!(rig.port("a").negotiated.unwrap().memory_bytes, 24 << 20);
    for _ in 0..10 {
        for region in 3..6 {
            a.guest.session().remove_region(&a.guest.ram().regions()[region]).unwrap();
            talk(&mut a, &mut b);
        }
        for region in [5, 3, 4] {
            a.guest.session().add_region(&a.guest.ram().regions()[region]).unwrap();
            talk(&mut a, &mut b);
        }
    }
    // QEMU 7.2 asks once for each of a guest's queue pairs: the repetition changes nothing.
    for (add, bytes) in [(true, 24 << 20), (false, 20 << 20), (false, 20 << 20), (true, 24 << 20)] {
        let region = &a.guest.ram().regions()[4];
        let session = a.guest.session();
        if add { session.add_region(region) } else { session.remove_region(region) }.unwrap();
        assert_eq!(rig.port("a").negotiated.unwrap().memory_bytes, bytes);
        talk(&mut a, &mut b);
    }
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn the_memory_shown_is_what_is_mapped() {
    let rig = Plan::new().guests(&["a"]).start();
    let mut a = rig.guest_with("a", |config| {
        config.session.add_regions = true;
        config.ram.regions = 4;
        config.ram.region_size = 4 << 20;
        config.ram.backing = synthetic_guest::Backing::Pages;
    });
    let shown = || rig.port("a").negotiated.unwrap().memory_bytes;
    assert_eq!(shown(), 16 << 20);
    a.guest.session().remove_region(&a.guest.ram().regions()[3]).unwrap();
    assert_eq!(shown(), 12 << 20);
    a.guest.session().add_region(&a.guest.ram().regions()[3]).unwrap();
    assert_eq!(shown(), 16 << 20);
    rig.finish(&mut [&mut a]);
}

#[test]
fn a_device_is_reset_and_started_again() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    let [mut a, mut b] = rig.guests(["a", "b"]);
    for _ in 0..5 {
        talk(&mut a, &mut b);
        a.guest.session().reset_device().unwrap();
        // Nothing is served any more.
        b.send(&[one(2, 1)]);
        assert!(a.frames().is_empty());
        a.guest.start_rings(Base::Fresh).unwrap();
        a = Node::new(a.guest);
    }
    talk(&mut a, &mut b);
    assert_eq!(rig.drops("b"), [("receiver_not_ready".to_owned(), 5)].into());
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn rings_are_stopped_and_go_on_where_they_stood() {
    let rig = Plan::new().guests(&["a", "b"]).start();
    for packed in [Features::NONE, Features::RING_PACKED] {
        let [mut a, mut b] = ["a", "b"]
            .map(|name| rig.guest_with(name, |config| config.session.features = Features::VERSION_1 | packed));
        for _ in 0..5 {
            talk(&mut a, &mut b);
            a.guest.stop().unwrap();
            a.guest.start_rings(Base::Stopped).unwrap();
        }
        talk(&mut a, &mut b);
        let waits = |name| rig.switch.wait_for_port(name, "an end of the connection", |port| port.state == "waiting");
        drop((a, b));
        waits("a").unwrap();
        waits("b").unwrap();
    }
    rig.finish(&mut []);
}

#[test]
fn a_guest_that_moved_is_announced() {
    let rig = Plan::new()
        .guest("a", &["vlan = { access = 10 }"])
        .guest("b", &["vlan = { access = 10 }"])
        .guest("t", &["vlan = { trunk = [10] }"])
        .guest("c", &["vlan = { access = 20 }"])
        .start();
    let mut a = rig.guest_with("a", |config| {
        config.session.protocol = config.session.protocol.map(|protocol| protocol | Protocol::RARP);
    });
    let [mut b, mut t, mut c] = rig.guests(["b", "t", "c"]);
    a.guest.session().send_rarp(mac(1)).unwrap();
    let [rarp] = &b.receive(1)[..] else { panic!("one frame") };
    let source = mac(1);
    let expected =
        [&[0xff; 6], &source[..], &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], &source, &[0; 4], &source, &[0; 22]];
    let expected = expected.concat();
    assert_eq!((rarp.bytes.len(), &rarp.bytes), (60, &expected));
    assert_eq!(t.receive(1)[0].bytes, crate::frames::tagged(&expected, 10));
    // And the switch itself knows by then.
    b.send(&[one(2, 1)]);
    assert_eq!((a.frames().len(), t.frames().len(), c.frames().len()), (1, 0, 0));
    let accounting = rig.port("a").accounting;
    assert_eq!((accounting.pulled, accounting.forwarded, accounting.copies), (1, 1, 2));
    rig.finish(&mut [&mut a, &mut b, &mut t, &mut c]);
}

#[test]
fn the_mtu_that_a_frontend_sets_is_shown() {
    let rig = Plan::new().guest("a", &["mtu = 9000"]).start();
    let mut a = rig.guest_with("a", |config| {
        config.session.protocol = config.session.protocol.map(|protocol| protocol | Protocol::MTU);
    });
    let mtu = || rig.json()["ports"][0]["mtu"].clone();
    assert_eq!(mtu(), 9000);
    a.guest.session().set_mtu(1500).unwrap();
    assert_eq!(mtu(), 1500);
    // More than the configuration allows.
    assert!(a.guest.session().set_mtu(9001).is_err());
    assert_eq!(mtu(), 1500);
    rig.finish_but(&mut [&mut a], &["request refused"]);
}

#[test]
fn a_guest_comes_back_as_somebody_else() {
    let rig = Plan::new().guest("a", &["queue_pairs = 4"]).guests(&["b"]).start();
    let mut a = rig.guest_with("a", |config| config.ram.region_size = 32 << 20);
    let mut b = rig.guest_with("b", |_| ());
    let modern = Features::VERSION_1;
    let lives = [
        (modern | Features::RING_PACKED, 1, 100),
        (Features::NONE, 1, 64),
        (modern | Features::MRG_RXBUF | Features::MQ, 4, 128),
        (modern | Features::RING_PACKED | Features::EVENT_IDX | Features::MQ, 2, 333),
        (modern | Features::OFFLOADS | Features::INDIRECT_DESC, 1, 512),
        (modern | Features::IN_ORDER, 1, 256),
    ];
    talk(&mut a, &mut b);
    for (number, (features, pairs, size)) in lives.into_iter().enumerate() {
        a.reconnect_as(|config| {
            config.session.features = features;
            config.session.order = if number % 2 == 0 { Order::Qemu } else { Order::Plain };
            config.queue_pairs = pairs;
            (config.rx_ring, config.tx_ring) = (size.max(128), size);
        });
        // Its station was forgotten with the connection; now all know where it is again.
        a.send(&[addressed(1, BROADCAST)]);
        assert_eq!(b.frames().len(), 1);
        for _ in 0..3 {
            let sent = udp(2, 1, 500, 100);
            b.send(&sent);
            let (mut arrived, mut expected) = (a.frames(), bytes(&sent));
            arrived.sort();
            expected.sort();
            assert!(arrived == expected, "life {number}: {} of 100 frames", arrived.len());
            a.send(&udp(1, 2, 500, 100));
            assert_eq!(b.frames(), bytes(&udp(1, 2, 500, 100)));
        }
        let port = rig.port("a");
        let negotiated = port.negotiated.unwrap();
        assert_eq!(negotiated.features, format!("{:#x}", features.0));
        assert_eq!((negotiated.ring_size, negotiated.queue_pairs), (u32::from(size), pairs as u32));
    }
    assert_eq!(rig.json()["ports"][0]["session"]["connections"], 7);
    rig.finish(&mut [&mut a, &mut b]);
}

#[test]
fn the_switch_connects_to_guests_that_listen() {
    let rig = Plan::new().guest("a", &["socket_role = \"client\""]).guests(&["b"]).start();
    let mut b = rig.guest_with("b", |_| ());
    // It tries again and again until somebody is there.
    for _ in 0..2 {
        let mut a = rig.guest_with("a", |config| config.session.role = Role::Server);
        talk(&mut a, &mut b);
        drop(a);
        rig.switch.wait_for_port("a", "an end of the connection", |port| port.state == "waiting").unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut a = rig.guest_with("a", |config| {
        config.session.role = Role::Server;
        config.session.connect_timeout = LIMIT;
    });
    talk(&mut a, &mut b);
    rig.finish_but(&mut [&mut a, &mut b], &["cannot connect to the frontend yet"]);
}

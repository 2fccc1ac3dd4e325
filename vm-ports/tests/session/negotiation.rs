//! What well-behaved frontends send.

use vhost::VhostBackend;
use vhost::vhost_user::message::{FrontendReq as Req, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostUserMemoryRegionInfo, VringConfigData};
use vm_ports::session::SessionEvent;
use vmm_sys_util::eventfd::EventFd;

use crate::peer::*;

#[test]
fn qemu_starts_stops_and_starts_again_with_other_features() {
    let port = Port::server();
    let mut peer = port.connect();
    let offered = peer.hello();
    let wanted = VERSION_1 | RING_PACKED | PROTOCOL_FEATURES;
    assert_eq!(offered & wanted, wanted);
    assert_eq!(peer.ask(Req::GET_QUEUE_NUM, &[]), 1);
    assert!(peer.ask(Req::GET_MAX_MEM_SLOTS, &[]) >= 32);
    // QEMU's masked notifiers, before anything else about the rings.
    for index in 0..2u64 {
        peer.send(Req::SET_VRING_CALL, &longs(&[index]), &[&event_file()]);
        peer.send(Req::SET_VRING_ERR, &longs(&[index]), &[&event_file()]);
    }
    for (n, (features, base, answer)) in
        [(VERSION_1, 0, 0), (VERSION_1 | RING_PACKED, 0x8000_8000, 0x8000_8000u32)].into_iter().enumerate()
    {
        peer.run_like_qemu(features | PROTOCOL_FEATURES, base);
        eventually("both rings run", || port.host.negotiations() == n + 1);
        assert_eq!(port.host.out(), [(0, true, true)]);
        for index in 0..2 {
            let reply = peer.ask(Req::GET_VRING_BASE, &words(&[index, 0]));
            assert_eq!((reply >> 32) as u32, answer);
        }
        assert_eq!(port.host.out(), []);
    }
    let events = port.host.events();
    let Some(SessionEvent::Negotiated(last)) = events.iter().rfind(|e| matches!(e, SessionEvent::Negotiated(_))) else {
        panic!("not negotiated: {events:?}");
    };
    assert_eq!(last.ring_format(), "packed");
    assert_eq!(last.rings, [(0, 256), (1, 256)]);
    assert_eq!((last.memory_bytes, last.memory_slots), (MEMORY_BYTES, 1));
    let line = last.to_string();
    assert!(line.contains("packed rings rx0=256 tx0=256, 1 MiB in 1 regions") && line.contains("version_1"), "{line}");
    port.stop();
}

#[test]
fn early_enable_is_acknowledged_when_asked_for() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.hello();
    assert_eq!(peer.acknowledged(Req::SET_VRING_ENABLE, &words(&[0, 1]), &[]), Some(true));
    assert_eq!(peer.acknowledged(Req::SET_VRING_ENABLE, &words(&[9, 1]), &[]), Some(false));
    assert_eq!(peer.acknowledged(Req::SET_VRING_ENABLE, &words(&[0, 2]), &[]), Some(false));
    port.stop();
}

#[test]
fn virtio_user_starts_packed_with_a_bare_wrap_counter() {
    let port = Port::with(|settings| settings.queue_pairs = 2);
    let mut peer = port.connect();
    peer.send(Req::SET_OWNER, &[], &[]);
    peer.ask(Req::GET_FEATURES, &[]);
    let protocol = peer.ask(Req::GET_PROTOCOL_FEATURES, &[]) & (1 | 1 << 3 | 1 << 16);
    assert_eq!(protocol, 1 | 1 << 3, "virtio-user would use STATUS if it were offered");
    peer.send(Req::SET_PROTOCOL_FEATURES, &longs(&[protocol]), &[]);
    // Calls for all queues first, then features, memory (acknowledged), the rings, the first pair's ENABLE.
    for index in 0..4u64 {
        peer.send(Req::SET_VRING_CALL, &longs(&[index]), &[&event_file()]);
    }
    let features = VERSION_1 | RING_PACKED | PROTOCOL_FEATURES;
    peer.send(Req::SET_FEATURES, &longs(&[features]), &[]);
    let memory = memfd(MEMORY_BYTES);
    let regions = table(&[[FRONTEND, MEMORY_BYTES, FRONTEND, 0]]);
    assert_eq!(peer.acknowledged(Req::SET_MEM_TABLE, &regions, &[&memory]), Some(true));
    for index in 0..4u32 {
        let at = FRONTEND + u64::from(index) * 0x4000;
        peer.send(Req::SET_VRING_NUM, &words(&[index, 255]), &[]);
        peer.send(Req::SET_VRING_BASE, &words(&[index, 0x8000]), &[]);
        peer.send(Req::SET_VRING_ADDR, &ring_address(index, at, at + 0x2000, at + 0x1000), &[]);
        peer.send(Req::SET_VRING_KICK, &longs(&[index.into()]), &[&event_file()]);
    }
    peer.enable(0, true);
    peer.enable(1, true);
    eventually("the first pair runs", || port.host.negotiations() == 1);
    assert_eq!(port.host.out(), [(0, true, true), (1, true, true)], "the second is started, not enabled");
    // It stops by ENABLE 0 for all and GET_VRING_BASE for all.
    for index in 0..4 {
        peer.enable(index, false);
    }
    for index in 0..4 {
        assert_eq!((peer.ask(Req::GET_VRING_BASE, &words(&[index, 0])) >> 32) as u32, 0x8000_8000);
    }
    port.stop();
}

#[test]
fn without_protocol_features_a_ring_runs_at_once() {
    let port = Port::server();
    let mut peer = port.connect();
    peer.ask(Req::GET_FEATURES, &[]);
    peer.send(Req::SET_OWNER, &[], &[]);
    peer.send(Req::SET_FEATURES, &longs(&[VERSION_1]), &[]);
    peer.set_memory();
    for index in 0..2 {
        peer.set_up_ring(index, 0, &event_file(), &event_file());
    }
    eventually("both rings run", || port.host.negotiations() == 1);
    port.stop();
}

#[test]
fn the_crates_own_frontend_agrees() {
    let port = Port::server();
    let mut frontend = Frontend::connect(&port.path, 2).unwrap();
    frontend.set_owner().unwrap();
    frontend.get_features().unwrap();
    let protocol = frontend.get_protocol_features().unwrap();
    assert!(protocol.contains(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS));
    frontend.set_protocol_features(protocol).unwrap();
    frontend.set_features(VERSION_1 | PROTOCOL_FEATURES).unwrap();
    frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    let memory = memfd(MEMORY_BYTES);
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES,
        userspace_addr: FRONTEND,
        mmap_offset: 0,
        mmap_handle: std::os::fd::AsRawFd::as_raw_fd(&memory),
    };
    frontend.add_mem_region(&region).unwrap();
    for index in 0..2 {
        let at = FRONTEND + index as u64 * 0x4000;
        frontend.set_vring_num(index, 128).unwrap();
        frontend.set_vring_base(index, 0).unwrap();
        let config = VringConfigData {
            queue_max_size: 128,
            queue_size: 128,
            flags: 0,
            desc_table_addr: at,
            used_ring_addr: at + 0x2000,
            avail_ring_addr: at + 0x1000,
            log_addr: None,
        };
        frontend.set_vring_addr(index, &config).unwrap();
        frontend.set_vring_call(index, &EventFd::new(0).unwrap()).unwrap();
        frontend.set_vring_kick(index, &EventFd::new(0).unwrap()).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }
    assert_eq!(port.host.out(), [(0, true, true)]);
    assert_eq!(port.host.negotiations(), 1);
    // A slot comes, the ring's own slot goes and comes back, all while the rings run.
    let more =
        VhostUserMemoryRegionInfo { guest_phys_addr: MEMORY_BYTES, userspace_addr: FRONTEND + MEMORY_BYTES, ..region };
    frontend.add_mem_region(&more).unwrap();
    frontend.remove_mem_region(&more).unwrap();
    frontend.remove_mem_region(&more).unwrap();
    frontend.remove_mem_region(&region).unwrap();
    assert_eq!(port.host.out(), []);
    frontend.add_mem_region(&region).unwrap();
    assert_eq!(port.host.out(), [(0, true, true)]);
    assert_eq!(frontend.get_vring_base(0).unwrap(), 0);
    frontend.reset_device().unwrap();
    assert_eq!(port.host.out(), []);
    port.stop();
}

#[test]
fn mtu_and_rarp_are_passed_on() {
    let port = Port::with(|settings| settings.mtu = Some(9000));
    let mut peer = port.connect();
    peer.hello();
    assert_eq!(peer.acknowledged(Req::NET_SET_MTU, &longs(&[9000]), &[]), Some(true));
    assert_eq!(peer.acknowledged(Req::NET_SET_MTU, &longs(&[9001]), &[]), Some(false));
    assert_eq!(peer.acknowledged(Req::SEND_RARP, &[0x52, 0x54, 0, 1, 2, 3, 0, 0], &[]), Some(true));
    let events = port.host.events();
    assert!(events.contains(&SessionEvent::Mtu(9000)));
    assert!(events.contains(&SessionEvent::Announce([0x52, 0x54, 0, 1, 2, 3])));
    port.stop();
}

#[test]
fn a_thousand_kicks_are_a_thousand_kicks() {
    let port = Port::server();
    let mut peer = port.connect();
    let kicks = peer.start_like_qemu(VERSION_1 | PROTOCOL_FEATURES);
    eventually("both rings run", || port.host.negotiations() == 1);
    let counters = vm_ports::session::QueueHost::counters(&*port.host, 0);
    for n in 0..1000 {
        kick(&kicks[n % 2]);
        if n % 100 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    eventually("all kicks are counted", || counters.kicks.get() >= 1000);
    assert_eq!(counters.kicks.get(), 1000);
    port.stop();
    assert_eq!(counters.kicks.get(), 1000);
}

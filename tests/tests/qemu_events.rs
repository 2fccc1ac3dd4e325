//! What a virtual machine's owner does to it while it runs: memory and links that come and go, drivers that start anew.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::json;
use sidecore_tests::guest::GUEST_INTERFACE;
use sidecore_tests::host::Host as _;
use sidecore_tests::lab::{Family, Lab, LabPlan};
use sidecore_tests::process::eventually;

const MIB: u64 = 1 << 20;

fn wait_for_memory(lab: &Lab, bytes: u64) {
    lab.switch()
        .wait_for_port("vm1", "change of memory", |port| {
            port.negotiated.as_ref().is_some_and(|negotiated| negotiated.memory_bytes == bytes)
        })
        .unwrap();
}

/// A guest that plugs memory in has no time for anything else: with one processor, emulated beside busy ones, it can be longer than the three seconds in which
/// its neighbour has to be found, or there is no route to it. So it is waited for until it answers. The switch has no such excuse: it has all
/// rings again, and must not turn anything away from then on.
fn transfer_both_ways(lab: &Lab) {
    let not_ready = || {
        let status = lab.switch().quiet_status().unwrap();
        status.ports.iter().map(|port| port.drops.get("receiver_not_ready").copied().unwrap_or(0)).sum::<u64>()
    };
    let before = not_ready();
    lab.ping(0, 1, Family::V4).unwrap();
    lab.transfer(0, 1, Family::V4, 4).unwrap();
    lab.ping(1, 0, Family::V6).unwrap();
    lab.transfer(1, 0, Family::V6, 4).unwrap();
    assert_eq!(not_ready(), before, "the switch has dropped what was for a guest whose rings it serves");
}

#[test]
fn memory_is_plugged_in_and_out() {
    let lab = LabPlan::new()
        .unwrap()
        .guest(|guest| guest.hotplug_mib = 128)
        .outside("net_af_packet0,iface={}")
        .start()
        .unwrap();
    wait_for_memory(&lab, 192 * MIB);
    transfer_both_ways(&lab);

    let mut qmp = lab.guest(0).qmp().unwrap();
    let memory = json!({ "qom-type": "memory-backend-memfd", "id": "more", "size": 128 * MIB, "share": true });
    qmp.execute("object-add", memory).unwrap();
    qmp.execute("device_add", json!({ "driver": "pc-dimm", "id": "dimm0", "memdev": "more" })).unwrap();
    wait_for_memory(&lab, 320 * MIB);
    transfer_both_ways(&lab);

    // The guest decides when it gives the memory back.
    qmp.execute("device_del", json!({ "id": "dimm0" })).unwrap();
    wait_for_memory(&lab, 192 * MIB);
    transfer_both_ways(&lab);
    lab.check().unwrap();
    lab.stop().unwrap();
}

fn wait_for_carrier(lab: &Lab, carrier: &str) {
    let file = format!("cat /sys/class/net/{GUEST_INTERFACE}/carrier");
    eventually("change of the carrier", Duration::from_secs(30), || {
        Ok((lab.guest(0).sh(&file)?.trim() == carrier).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_link_goes_down_and_up() {
    let lab = LabPlan::new().unwrap().guest(|_| {}).outside("net_af_packet0,iface={}").start().unwrap();
    lab.ping(0, 1, Family::V4).unwrap();
    let mut qmp = lab.guest(0).qmp().unwrap();
    for _ in 0..2 {
        qmp.execute("set_link", json!({ "name": "net0", "up": false })).unwrap();
        wait_for_carrier(&lab, "0");
        qmp.execute("set_link", json!({ "name": "net0", "up": true })).unwrap();
        wait_for_carrier(&lab, "1");
        lab.ping(0, 1, Family::V4).unwrap();
        lab.ping(1, 0, Family::V4).unwrap();
    }
    lab.check().unwrap();
    lab.stop().unwrap();
}

#[test]
fn a_driver_starts_anew() {
    let lab = LabPlan::new().unwrap().guest(|_| {}).outside("net_af_packet0,iface={}").start().unwrap();
    lab.ping(0, 1, Family::V4).unwrap();
    let guest = lab.guest(0);
    for _ in 0..3 {
        guest.restart_driver().unwrap();
        let [v4, v6] = [Family::V4, Family::V6].map(|family| lab.address(0, family));
        guest.configure(&format!("{v4}/24"), &format!("{v6}/64"), 1500).unwrap();
        lab.ping(0, 1, Family::V4).unwrap();
        lab.transfer(1, 0, Family::V4, 1).unwrap();
    }
    lab.check().unwrap();
    lab.stop().unwrap();
}

/// Cores that sleep whenever nobody sends, and guests whose drivers are asked to kick then: Linux' split and packed rings, with event index.
#[test]
fn guests_wake_a_switch_that_sleeps() {
    let lab = LabPlan::new()
        .unwrap()
        .configure(|config| config.key("mode = \"adaptive\""))
        .guest(|guest| (guest.virtio.packed, guest.virtio.event_idx) = (true, true))
        .guest(|guest| (guest.virtio.packed, guest.virtio.event_idx) = (false, true))
        .outside("net_af_packet0,iface={}")
        .start()
        .unwrap();
    for _ in 0..3 {
        // Long enough to sleep in between.
        std::thread::sleep(Duration::from_millis(50));
        [(0, 1), (1, 0), (2, 0), (1, 2)].into_iter().for_each(|(from, to)| lab.ping(from, to, Family::V4).unwrap());
    }
    lab.transfer(0, 1, Family::V4, 4).unwrap();
    lab.transfer(2, 1, Family::V6, 4).unwrap();
    let status = lab.check().unwrap();
    for name in ["vm1", "vm2"] {
        assert!(status.port(name).unwrap().kicks_asked >= 3, "{name} was not asked to kick");
    }
    lab.stop().unwrap();
}

/// Interrupts for each packet that guest `number` receives in a stream of single packets, and what of those moderation saved.
fn interrupts(lab: &Lab, number: usize) -> (f64, u64) {
    let counts = || {
        let status = lab.switch().quiet_status().unwrap();
        let port = &status.ports[number];
        (port.rx.packets, port.calls, port.calls_saved)
    };
    let before = counts();
    // Some 2,000 a second: Linux takes what is there before more comes, and wants to be told of that.
    let stream =
        format!("iperf3 -u -l 100 -b 1600K -t 3 --connect-timeout 5000 -c {}", lab.address(number, Family::V4));
    lab.host(2).sh_within(&stream, Duration::from_secs(30)).unwrap();
    let after = counts();
    let packets = after.0 - before.0;
    assert!(packets > 3000, "{packets} packets");
    ((after.1 - before.1) as f64 / packets as f64, after.2 - before.2)
}

#[test]
fn moderation_saves_interrupts_of_a_stream() {
    let lab = LabPlan::new()
        .unwrap()
        .guest(|_| {})
        .configure(|config| config.lines(&["interrupt_moderation = \"none\""]))
        .guest(|_| {})
        .configure(|config| config.lines(&["interrupt_moderation = \"adaptive\"", "interrupt_delay_us = 10000"]))
        .outside("net_af_packet0,iface={}")
        .start()
        .unwrap();
    for guest in [0, 1] {
        lab.ping(2, guest, Family::V4).unwrap();
        lab.ping(guest, 2, Family::V6).unwrap();
    }
    let (without, none) = interrupts(&lab, 0);
    let (moderated, saved) = interrupts(&lab, 1);
    assert_eq!(none, 0);
    assert!(saved > 1000, "{saved}");
    assert!(moderated < 0.7 * without, "{moderated} interrupts for each packet with moderation, {without} without");
    lab.transfer(2, 1, Family::V4, 1).unwrap();
    lab.check().unwrap();
    lab.stop().unwrap();
}

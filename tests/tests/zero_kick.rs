//! No guest kicks while a core polls its rings, and the counter that says so counts.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sidecore_tests::guest::{GUEST_INTERFACE, QemuGuest};
use sidecore_tests::host::Host as _;
use sidecore_tests::lab::{Lab, LabPlan};
use sidecore_tests::process::eventually;
use synthetic_guest::{Features, Guest, GuestConfig, KickPolicy};

/// Packets in every ring.
const PACKETS: u64 = 200_000;

/// Kicks written by hand.
const KICKS: u64 = 1_000;

/// Starts the kernel's packet generator in a guest: small packets to another guest, until it is told to stop.
fn generate(guest: &QemuGuest, to: &str) -> Result<()> {
    guest.sh(&format!(
        "test -d /proc/net/pktgen || insmod /modules/pktgen.ko
         echo rem_device_all >/proc/net/pktgen/kpktgend_0
         echo add_device {GUEST_INTERFACE} >/proc/net/pktgen/kpktgend_0
         for setting in 'count 0' 'pkt_size 60' 'clone_skb 0' 'dst 10.9.0.200' 'dst_mac {to}'; do
             echo \"$setting\" >/proc/net/pktgen/{GUEST_INTERFACE}
         done
         echo start >/proc/net/pktgen/pgctrl &"
    ))?;
    Ok(())
}

fn stop_generating(guest: &QemuGuest) -> Result<()> {
    guest.sh("echo stop >/proc/net/pktgen/pgctrl")?;
    Ok(())
}

/// Lets both guests send until all four rings have carried enough.
fn fill_rings(lab: &Lab) -> Result<()> {
    generate(lab.guest(0), "52:54:00:5c:00:02")?;
    generate(lab.guest(1), "52:54:00:5c:00:01")?;
    eventually("enough packets in every ring", Duration::from_secs(120), || {
        let status = lab.switch().status()?;
        let carried = |name: &str| -> Result<bool> {
            let port = status.port(name)?;
            Ok(port.rx.packets >= PACKETS && port.tx.packets >= PACKETS)
        };
        Ok((carried("vm1")? && carried("vm2")?).then_some(()))
    })
    .with_context(|| lab.switch().must(&["status"]).unwrap_or_default())?;
    stop_generating(lab.guest(0))?;
    stop_generating(lab.guest(1))
}

/// A guest of our own kicks without being asked: every kick is counted, and does no harm.
fn kick_by_hand(lab: &Lab, features: Features) -> Result<()> {
    lab.switch().must(&["guest", "add", "bell", "--socket", &lab.config().socket("bell").display().to_string()])?;
    let mut config = GuestConfig::new(lab.config().socket("bell"));
    config.session.features = features;
    config.kick_policy = KickPolicy::WhenAsked;
    let mut guest = Guest::start(config)?;
    lab.switch().wait_for_port("bell", "served rings", |port| port.state == "running")?;
    let before = lab.switch().status()?.port("bell")?.kicks;
    for _ in 0..KICKS {
        guest.pair(0).tx.bell().kick(1);
    }
    let port = lab.switch().wait_for_port("bell", "kicks", |port| port.kicks >= before + KICKS)?;
    ensure!(port.kicks == before + KICKS, "{KICKS} kicks were counted as {}", port.kicks - before);
    lab.switch().must(&["guest", "remove", "bell"])?;
    Ok(())
}

fn zero_kicks(packed: bool, event_idx: bool) {
    let lab = LabPlan::new()
        .unwrap()
        .guest(|guest| (guest.virtio.packed, guest.virtio.event_idx) = (packed, event_idx))
        .guest(|guest| (guest.virtio.packed, guest.virtio.event_idx) = (packed, event_idx))
        .start()
        .unwrap();
    fill_rings(&lab).unwrap();
    lab.check().unwrap();

    let mut features = Features::VERSION_1;
    if packed {
        features = features | Features::RING_PACKED;
    }
    if event_idx {
        features = features | Features::EVENT_IDX;
    }
    kick_by_hand(&lab, features).unwrap();
    // Nobody else's kicks were counted with them.
    lab.check().unwrap();
    lab.stop().unwrap();
}

#[test]
fn split_by_flags() {
    zero_kicks(false, false);
}

#[test]
fn split_by_event_index() {
    zero_kicks(false, true);
}

#[test]
fn packed_by_flags() {
    zero_kicks(true, false);
}

#[test]
fn packed_by_event_index() {
    zero_kicks(true, true);
}

//! A switch that is killed with SIGKILL and started again serves its running guests again, without their help.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use sidecore_tests::guest::SocketMode;
use sidecore_tests::lab::{Family, Lab, LabPlan, RECONNECT_LIMIT};
use sidecore_tests::switch::SwitchProcess;

/// The transfer under way when the switch is killed.
const MIB: u32 = 64;

/// Kills the switch and starts another one on the same configuration.
fn replace_switch(lab: &Lab) -> Result<SwitchProcess> {
    lab.switch().signal(Signal::KILL)?;
    // For a second nobody is there, as after a crash that somebody has to notice.
    std::thread::sleep(Duration::from_secs(1));
    SwitchProcess::start(lab.config())
}

fn kill_during_a_transfer(mode: SocketMode) -> Result<()> {
    let mut lab = LabPlan::new()?
        .guest(|guest| guest.socket_mode = mode)
        .guest(|guest| guest.socket_mode = mode)
        .outside("net_af_xdp0,iface={}")
        .start()?;
    lab.ping(0, 1, Family::V4)?;
    // Made beforehand, so that the transfer starts at once.
    lab.host(0)
        .sh_within(&format!("dd if=/dev/urandom of=/tmp/random-{MIB}M bs=1M count={MIB}"), Duration::from_secs(60))?;

    let before = lab.switch().status()?.port("vm1")?.tx.bytes;
    let second = std::thread::scope(|scope| {
        let transfer = scope.spawn(|| sidecore_tests::traffic::transfer(lab.host(0), &lab.address(1, Family::V4), MIB));
        let under_way = |bytes: u64| bytes > before + (8 << 20);
        lab.switch().wait_for_port("vm1", "transfer under way", |port| under_way(port.tx.bytes))?;
        ensure!(!transfer.is_finished(), "the transfer was over before the switch was killed");
        let second = replace_switch(&lab)?;
        transfer.join().map_err(|_| anyhow::anyhow!("the transfer panicked"))??;
        anyhow::Ok(second)
    })?;
    lab.take_over(second);
    for (from, to) in [(1, 0), (0, 2), (2, 1)] {
        lab.ping(from, to, Family::V6)?;
    }
    lab.check()?;
    lab.stop()
}

#[test]
fn killed_during_a_transfer_with_the_switch_as_server() {
    kill_during_a_transfer(SocketMode::Client).unwrap();
}

#[test]
fn killed_during_a_transfer_with_qemu_as_server() {
    kill_during_a_transfer(SocketMode::Server).unwrap();
}

#[test]
fn guests_with_packed_rings_are_served_again_once_they_reset() {
    // QEMU cannot tell a new backend where a packed ring stood, so its guest has to start the device anew.
    let mut lab = LabPlan::new()
        .unwrap()
        .guest(|guest| guest.virtio.packed = true)
        .guest(|guest| guest.virtio.packed = true)
        .start()
        .unwrap();
    lab.ping(0, 1, Family::V4).unwrap();
    let second = replace_switch(&lab).unwrap();
    lab.take_over(second);
    for number in 0..2 {
        let guest = lab.guest(number);
        guest.restart_driver().unwrap();
        let [v4, v6] = [Family::V4, Family::V6].map(|family| lab.address(number, family));
        guest.configure(&format!("{v4}/24"), &format!("{v6}/64"), 1500).unwrap();
    }
    lab.ping(0, 1, Family::V4).unwrap();
    lab.transfer(1, 0, Family::V6, 4).unwrap();
    lab.check().unwrap();
    lab.stop().unwrap();
}

#[test]
fn a_guest_is_served_again_within_seconds() {
    let mut lab = LabPlan::new().unwrap().guest(|_| {}).outside("net_af_packet0,iface={}").start().unwrap();
    lab.ping(0, 1, Family::V4).unwrap();
    let second = replace_switch(&lab).unwrap();
    lab.take_over(second);
    let begin = Instant::now();
    lab.ping(1, 0, Family::V4).unwrap();
    assert!(begin.elapsed() < RECONNECT_LIMIT, "{:?}", begin.elapsed());
    lab.stop().unwrap();
}

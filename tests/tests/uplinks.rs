//! Uplinks on the drivers that need no special hardware.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use sidecore_tests::host::Host as _;
use sidecore_tests::net::Outside;
use sidecore_tests::process::eventually;
use sidecore_tests::rules::Machine;
use sidecore_tests::switch::{SwitchConfig, SwitchProcess};
use sidecore_tests::testpmd::{Testpmd, TestpmdOptions};
use sidecore_tests::traffic::{self, OutsideServers, Stream};

const MIB: u32 = 16;

fn outside(number: usize, dir: &Path) -> (Outside, OutsideServers) {
    let host = Outside::new(1500).unwrap();
    host.configure(&format!("10.9.0.{number}/24"), &format!("fd09::{number}/64")).unwrap();
    let logs = dir.join(number.to_string());
    std::fs::create_dir(&logs).unwrap();
    let servers = OutsideServers::start(&host, &logs).unwrap();
    (host, servers)
}

/// Two hosts outside, each behind an uplink of its own.
fn two_outsides(drivers: [&str; 2], io_cores: usize) {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let (first, _first_servers) = outside(1, dir.path());
    let (second, _second_servers) = outside(2, dir.path());
    let device = |driver: &str, host: &Outside| format!("{driver},iface={}", host.uplink_interface());
    let config = SwitchConfig::new(dir.path())
        .io_cores(io_cores)
        .uplink("left", &device(drivers[0], &first), &[])
        .uplink("right", &device(drivers[1], &second), &[]);
    let switch = SwitchProcess::start(&config).unwrap();

    for (from, address) in [(&first, "10.9.0.2"), (&second, "10.9.0.1"), (&first, "fd09::2"), (&second, "fd09::1")] {
        traffic::ping(from, address, 3).unwrap();
        traffic::transfer(from, address, MIB).unwrap();
    }
    let status = switch.quiet_status().unwrap();
    for name in ["left", "right"] {
        let port = status.port(name).unwrap();
        let expected = u64::from(2 * MIB) << 20;
        assert!(port.rx.bytes > expected && port.tx.bytes > expected, "{name}: {:?} {:?}", port.rx, port.tx);
    }
    switch.stop().unwrap();
}

#[test]
fn af_packet_and_af_xdp() {
    two_outsides(["net_af_packet0", "net_af_xdp0"], 1);
}

#[test]
fn two_of_a_driver() {
    two_outsides(["net_af_xdp0", "net_af_xdp1"], 1);
    two_outsides(["net_af_packet0", "net_af_packet1"], 1);
}

#[test]
fn fewer_queues_than_cores() {
    // A veth has one queue for AF_XDP: the second core reaches the uplinks through their owner.
    two_outsides(["net_af_xdp0", "net_af_packet1"], 2);
}

#[test]
fn a_guest_of_dpdk_answers_the_outside() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let (host, _servers) = outside(1, dir.path());
    let device = format!("net_af_xdp0,iface={}", host.uplink_interface());
    let config = SwitchConfig::new(dir.path()).guest("a", &[]).uplink("wan", &device, &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    let guest = format!("net_virtio_user0,path={},mac=52:54:00:5c:01:01", config.socket("a").display());
    // Its icmpecho answers every ARP request and every ping, whatever the address.
    let options = TestpmdOptions::new(&[&guest]).with(&["--forward-mode=icmpecho", "--auto-start"]);
    let testpmd = Testpmd::start("guest", &options).unwrap();
    traffic::ping(&host, "10.9.0.7", 20).unwrap();
    testpmd.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn jumbo_frames_on_pcap() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let hosts = [Outside::new(9000).unwrap(), Outside::new(9000).unwrap()];
    let mut config = SwitchConfig::new(dir.path());
    for (index, host) in hosts.iter().enumerate() {
        host.configure(&format!("10.9.0.{}/24", index + 1), &format!("fd09::{}/64", index + 1)).unwrap();
        let interface = host.uplink_interface();
        let device = format!("net_pcap{index},rx_iface_in={interface},tx_iface={interface}");
        config = config.uplink(&format!("port{index}"), &device, &["mtu = 9000"]);
    }
    let switch = SwitchProcess::start(&config).unwrap();
    hosts[0].sh("busybox ping -c 3 -W 3 -s 8900 10.9.0.2").unwrap();
    hosts[1].sh("busybox ping -c 3 -W 3 -s 8900 fd09::1").unwrap();
    switch.quiet_status().unwrap();
    switch.stop().unwrap();
}

/// A guest that sends packets to an address nobody has.
fn sender(config: &SwitchConfig) -> Testpmd {
    let device = format!("net_virtio_user0,path={},mac=52:54:00:5c:01:01", config.socket("a").display());
    let peer = "--eth-peer=0,52:54:00:5c:01:02";
    Testpmd::start("sender", &TestpmdOptions::new(&[&device]).with(&["--forward-mode=txonly", peer])).unwrap()
}

#[test]
fn net_ring() {
    // A net_ring device gives back what it is given: the uplink receives all that it sends, and the switch must not send
    // that out of the uplink once more.
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let config = SwitchConfig::new(dir.path()).guest("a", &[]).uplink("loop", "net_ring0", &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    let mut testpmd = sender(&config);
    testpmd.command("start").unwrap();
    switch.wait_for_port("loop", "10,000 packets back", |port| port.rx.packets >= 10_000).unwrap();
    testpmd.command("stop").unwrap();
    let status = eventually("all packets back", Duration::from_secs(30), || {
        let status = switch.quiet_status()?;
        let port = status.port("loop")?;
        Ok((port.rx.packets == port.tx.packets).then_some(status))
    })
    .unwrap();
    assert_eq!(status.accounting.unaccounted(), 0);
    testpmd.quit().unwrap();
    switch.stop().unwrap();
}

#[test]
fn net_null() {
    // It takes everything, and without no-rx it also receives without end.
    let _machine = Machine::exclusive().unwrap();
    for (device, receives) in [("net_null0,no-rx=1", false), ("net_null0", true)] {
        let dir = SwitchProcess::folder().unwrap();
        let config = SwitchConfig::new(dir.path()).guest("a", &[]).uplink("null", device, &[]);
        let switch = SwitchProcess::start(&config).unwrap();
        let mut testpmd = sender(&config);
        testpmd.command("start").unwrap();
        let port = switch.wait_for_port("null", "10,000 packets", |port| port.tx.packets >= 10_000).unwrap();
        assert_eq!(port.rx.packets > 0, receives, "{device}");
        testpmd.command("stop").unwrap();
        if !receives {
            switch.quiet_status().unwrap();
        }
        testpmd.quit().unwrap();
        switch.stop().unwrap();
    }
}

#[test]
fn iperf3_between_two_uplinks() {
    let _machine = Machine::exclusive().unwrap();
    let dir = SwitchProcess::folder().unwrap();
    let (first, _first_servers) = outside(1, dir.path());
    let (second, _second_servers) = outside(2, dir.path());
    let config = SwitchConfig::new(dir.path())
        .uplink("left", &format!("net_af_packet0,iface={}", first.uplink_interface()), &[])
        .uplink("right", &format!("net_af_packet1,iface={}", second.uplink_interface()), &[]);
    let switch = SwitchProcess::start(&config).unwrap();
    traffic::ping(&first, "10.9.0.2", 1).unwrap();
    let result = Stream { from: &first, to: &second, address: "10.9.0.2" }.run_for(2).unwrap();
    assert!(result.bytes > 8 << 20, "{result:?}");
    switch.quiet_status().unwrap();
    switch.stop().unwrap();
}

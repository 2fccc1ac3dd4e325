//! The harness against backends that exist without the switch: what fails here is the harness, not Sidecore.

use std::time::Duration;

use sidecore_tests::guest::{GuestOptions, QemuGuest};
use sidecore_tests::host::Host as _;
use sidecore_tests::net::Outside;
use sidecore_tests::rules::Machine;
use sidecore_tests::testpmd::{Testpmd, TestpmdOptions};
use sidecore_tests::traffic::{self, OutsideServers, Stream};

#[test]
fn two_guests_talk_through_testpmd() {
    let _machine = Machine::exclusive().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sockets = [dir.path().join("vm1.sock"), dir.path().join("vm2.sock")];
    let vdevs: Vec<String> = sockets
        .iter()
        .enumerate()
        .map(|(index, path)| format!("net_vhost{index},iface={},tso=1,legacy-ol-flags=1", path.display()))
        .collect();
    let vdevs: Vec<&str> = vdevs.iter().map(String::as_str).collect();
    let backend = TestpmdOptions::new(&vdevs).with(&["--auto-start", "--forward-mode=io"]);
    let mut testpmd = Testpmd::start("backend", &backend).unwrap();
    let guests = QemuGuest::start_all(&[
        GuestOptions::new("vm1", &sockets[0], "52:54:00:5c:00:01"),
        GuestOptions::new("vm2", &sockets[1], "52:54:00:5c:00:02"),
    ])
    .unwrap();
    guests[0].configure("10.9.0.1/24", "fd09::1/64", 1500).unwrap();
    guests[1].configure("10.9.0.2/24", "fd09::2/64", 1500).unwrap();
    assert_eq!(guests[0].exec("echo hello; exit 7", Duration::from_secs(30)).unwrap().status, 7);
    traffic::ping(&guests[0], "10.9.0.2", 3).unwrap();
    traffic::ping(&guests[1], "fd09::1", 3).unwrap();
    traffic::transfer(&guests[0], "10.9.0.2", 4).unwrap();
    traffic::transfer(&guests[1], "fd09::1", 4).unwrap();
    let stream = Stream { from: &guests[1], to: &guests[0], address: "10.9.0.1" };
    assert!(stream.run_for(1).unwrap().bytes > 1 << 20);
    assert!(testpmd.stats(0).unwrap().rx_bytes > 4 << 20);
}

#[test]
fn two_namespaces_talk_through_testpmd() {
    for driver in ["net_af_packet", "net_af_xdp"] {
        let _machine = Machine::exclusive().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let hosts = [Outside::new(1500).unwrap(), Outside::new(1500).unwrap()];
        let vdevs: Vec<String> = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| format!("{driver}{index},iface={}", host.uplink_interface()))
            .collect();
        let vdevs: Vec<&str> = vdevs.iter().map(String::as_str).collect();
        let options = TestpmdOptions::new(&vdevs).with(&["--auto-start", "--forward-mode=io"]);
        let testpmd = Testpmd::start("wire", &options).unwrap();
        let _servers: Vec<OutsideServers> =
            hosts.iter().map(|host| OutsideServers::start(host, dir.path()).unwrap()).collect();
        for (index, host) in hosts.iter().enumerate() {
            host.configure(&format!("10.9.0.{}/24", index + 1), &format!("fd09::{}/64", index + 1)).unwrap();
        }
        traffic::ping(&hosts[0], "10.9.0.2", 3).unwrap();
        traffic::ping(&hosts[1], "fd09::1", 3).unwrap();
        traffic::transfer(&hosts[0], "10.9.0.2", 4).unwrap();
        traffic::transfer(&hosts[1], "fd09::1", 4).unwrap();
        let stream = Stream { from: &hosts[0], to: &hosts[1], address: "10.9.0.2" };
        assert!(stream.run_bytes(9 << 20).unwrap().bytes >= 8 << 20);
        testpmd.quit().unwrap();
    }
}

#[test]
fn testpmd_serves_testpmd() {
    let _machine = Machine::exclusive().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vm1.sock");
    let backend_vdev = format!("net_vhost0,iface={}", socket.display());
    let mut backend =
        Testpmd::start("backend", &TestpmdOptions::new(&[&backend_vdev]).with(&["--forward-mode=rxonly"])).unwrap();
    backend.command("start").unwrap();
    let guest_vdev = format!("net_virtio_user0,path={},queue_size=256", socket.display());
    let mut guest =
        Testpmd::start("guest", &TestpmdOptions::new(&[&guest_vdev]).with(&["--forward-mode=txonly"])).unwrap();
    guest.command("start").unwrap();
    backend.wait_for_stats(0, Duration::from_secs(30), |stats| stats.rx_packets > 10_000).unwrap();
    guest.command("stop").unwrap();
    assert!(guest.xstats(0).unwrap()["tx_good_packets"] > 10_000);
    guest.quit().unwrap();
    backend.quit().unwrap();
}
